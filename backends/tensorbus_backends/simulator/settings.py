"""The settings of simulated drivers, checked before a driver reads them.

A test that misspells a setting must not pass because nothing happened, so whatever is not
understood makes the device unavailable, with the word in question and what could stand there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from ..contract import DeviceUnavailableError

__all__ = ["COUNT", "FAULTS", "SIZE", "SWITCH", "TEXT", "VERSION", "Form", "check"]

_FAULTS_VARIABLE = "TENSORBUS_SIMULATE_FAULTS"
_SEED_VARIABLE = "TENSORBUS_SIMULATE_SEED"
FAULTS = ("alloc", "compile", "load", "launch", "kernel", "illegal", "lost", "copy", "slow")
"""Kinds of failures on demand (executor.h)."""


class Form(NamedTuple):
    """How a value is written: a regular expression, and an example for messages."""

    pattern: str
    example: str


COUNT = Form(r"\d+", "2")
SIZE = Form(r"\d+(KiB|MiB|GiB)?", "2GiB")
SWITCH = Form(r"[01]", "0")
VERSION = Form(r"\d+(\.\d+)+", "12.4")
TEXT = Form(r"[^/]+", "Model 7")


def check(family: str, forms: Mapping[str, Form]) -> None:
    """Check every setting that a family's driver will read.

    Args:
        family: ``"cuda"``.
        forms: What may stand in ``TENSORBUS_SIMULATE_<FAMILY>``; each value is one, or a list by
            device with ``/`` between.  Empty: any settings.

    Raises:
        DeviceUnavailableError: A setting is not understood.
    """
    _check_faults(family)
    seed = os.environ.get(_SEED_VARIABLE, "")
    if seed and re.fullmatch(r"\d+|0[xX][0-9a-fA-F]+", seed) is None:
        raise DeviceUnavailableError(
            family,
            f"{_SEED_VARIABLE}={seed!r} is no seed",
            f"set {_SEED_VARIABLE} to a whole number, or unset it",
        )
    variable = f"TENSORBUS_SIMULATE_{family.upper()}"
    for item in filter(None, os.environ.get(variable, "").split(",") if forms else []):
        key, equals, value = item.partition("=")
        form = forms.get(key)
        if form is None or not equals:
            raise DeviceUnavailableError(
                family,
                f"{variable} has {item!r}, which is no setting of the simulated driver",
                f"write key=value,key=value with the keys {', '.join(sorted(forms))}",
            )
        if not all(re.fullmatch(form.pattern, one) for one in value.split("/")):
            raise DeviceUnavailableError(
                family,
                f"{variable} has {item!r}, whose value is not understood",
                f"write it like {key}={form.example}",
            )


def _check_faults(family: str) -> None:
    for item in filter(None, os.environ.get(_FAULTS_VARIABLE, "").split(",")):
        kind, _, nth = item.partition(":")
        if kind not in FAULTS or not (nth.isdecimal() and int(nth)):
            raise DeviceUnavailableError(
                family,
                f"{_FAULTS_VARIABLE} has {item!r}, which is no failure on demand",
                f"write kind:n with n from 1 and a kind of {', '.join(FAULTS)}",
            )
