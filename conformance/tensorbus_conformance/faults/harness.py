"""Faults for tests of the runner: a crash and a hang.  The self-test leaves them out."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

from tensorbus_backends.contract import Buffer, Device

from .base import FAULTS, Fault, FaultyDevice, Planted

__all__: list[str] = []


def _crash(real: Device, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
    ctypes.string_at(8)


def _hang(real: Device, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
    while True:
        time.sleep(3600)


def _install(launch: Any) -> Any:
    def install(planted: Planted) -> None:
        planted.wrap = lambda real: FaultyDevice(real, planted, "add", launch=launch)

    return install


for _name, _what, _launch in (
    ("test-crash", "the process dies in a launch", _crash),
    ("test-hang", "a launch never returns", _hang),
):
    FAULTS[_name] = Fault(
        _name, _what, "device", ("add",), ("int32",), "harness", _install(_launch)
    )
