"""Scripts in processes of their own, over the simulated driver.

A process has one libcuda, real or simulated, for good; so each script gets a process.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest
from tensorbus_backends.contract import DeviceUnavailableError
from tensorbus_backends.simulator import library
from tensorbus_cuda.simulator import SONAME, sources

_HEAD = """
import gc, os, sys, threading, time
import numpy as np
import tensorbus as tb
import tensorbus_cuda
from tensorbus_backends.contract import *
from tensorbus_backends.simulator import control
from tensorbus_cuda.simulator import load

def raises(kind, call, *words):
    try:
        call()
    except kind as error:
        assert type(error) is kind, type(error)
        for word in words:
            assert word in str(error), (word, str(error))
        return error
    raise AssertionError(f"{kind.__name__} was not raised")

def lines():
    return list(tensorbus_cuda.PLUGIN.probe())

driver = control(load())
"""


@functools.cache
def _missing() -> str:
    """Why there is no simulation here, or ""."""
    if importlib.util.find_spec("pycuda") is None:
        return "pycuda is not installed (python -m tensorbus_cuda.simulator.build_pycuda)"
    try:
        library("cuda", sources(), SONAME)
    except DeviceUnavailableError as error:
        return error.cause
    return ""


def run(script: str, cuda: str = "", **variables: str) -> str:
    """What a script prints; it must end well and say nothing on standard error.

    Args:
        script: Python, after imports and helpers that every script has.
        cuda: ``TENSORBUS_SIMULATE_CUDA``, the machine.
        variables: More of the environment.
    """
    if reason := _missing():
        pytest.skip(reason)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TENSORBUS_SIMULATE")}
    environment |= {"TENSORBUS_SIMULATE": "cuda", "TENSORBUS_SIMULATE_CUDA": cuda, **variables}
    done = subprocess.run(
        [sys.executable, "-c", _HEAD + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-4000:] or done.returncode
    return done.stdout
