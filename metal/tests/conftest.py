"""Shared by the tests of the metal plugin: scripts that run in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
from tensorbus_backends.contract import DeviceUnavailableError

Run = Callable[..., str]


def run_simulated(script: str, *, code: int = 0, faults: str = "", **settings: object) -> str:
    """What a script prints over the simulated driver, in a fresh process.

    Args:
        script: Python text.
        code: Exit status that is expected; -6 is an abort.
        faults: TENSORBUS_SIMULATE_FAULTS.
        settings: TENSORBUS_SIMULATE_METAL, by key.
    """
    environment = {
        **os.environ,
        "TENSORBUS_SIMULATE": "metal",
        "TENSORBUS_SIMULATE_METAL": ",".join(f"{k}={v}" for k, v in settings.items()),
        "TENSORBUS_SIMULATE_FAULTS": faults,
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="session")
def simulated() -> Run:
    """`run_simulated`, skipped where the simulated driver cannot be built."""
    from tensorbus_metal.simulator import library

    try:
        library()
    except DeviceUnavailableError as error:
        pytest.skip(f"the simulated Metal cannot be built: {error.cause}")
    return run_simulated
