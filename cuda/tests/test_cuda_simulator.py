"""Unmodified pycuda, NVRTC's and cuBLAS's functions over the simulated driver."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorbus_backends import simulator
from tensorbus_backends.contract import DeviceUnavailableError

PROGRAMS = Path(__file__).with_name("simulator_programs.py")
PRODUCTS = Path(__file__).with_name("cublas_programs.py")


def _missing() -> str | None:
    if not sys.platform.startswith("linux"):
        return "the simulated NVIDIA driver is for Linux"
    if importlib.util.find_spec("pycuda") is None:
        return "pycuda is not installed: python -m tensorbus_cuda.simulator.build_pycuda says why"
    try:
        simulator.compiler("cuda")
    except DeviceUnavailableError as error:
        return str(error)
    return None


pytestmark = pytest.mark.skipif(_missing() is not None, reason=_missing() or "")


def run(program: str, *arguments: str, file: Path = PROGRAMS, **settings: str) -> None:
    """Run one of the programs with settings of the simulated driver."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TENSORBUS_SIMULATE")}
    environment["TENSORBUS_SIMULATE_CUDA"] = ",".join(f"{k}={v}" for k, v in settings.items())
    done = subprocess.run(
        [sys.executable, str(file), program, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "finished"


@pytest.mark.parametrize(
    "program",
    [
        "vector_add",
        "kernel_params",
        "reduction",
        "struct_parameter",
        "dynamic_memory",
        "no_lockstep",
        "contraction",
        "missing_synchronization",
        "blocking_waits_for_legacy",
        "free_waits",
        "late_copies",
        "events",
        "images",
        "compile_errors",
        "bad_arguments",
        "out_of_bounds",
        "host_memory",
        "lookups",
        "old_launch",
        "kernel_traps",
        "threads",
        "fork",
        "other_user",
        "own_context",
        "left_open",
        "arrays",
        "compiler_fault",
        "allocation_fault",
    ],
)
def test_program(program: str) -> None:
    run(program)


@pytest.mark.parametrize("program", ["products", "rounding", "blas_errors", "late_product"])
def test_program_of_cublas(program: str) -> None:
    run(program, file=PRODUCTS)


@pytest.mark.parametrize("kind", ["load", "launch", "copy", "kernel", "illegal", "lost"])
def test_failure_on_demand(kind: str) -> None:
    run("fault", kind)


def test_memory_runs_out() -> None:
    run("out_of_memory", memory="1MiB")


def test_an_old_driver_refuses_what_a_newer_nvrtc_made() -> None:
    run("old_driver", driver="12.4")


def test_no_device() -> None:
    run("start_refused", "100", devices="0")


def test_a_driver_that_does_not_start() -> None:
    run("start_refused", "803", init="803")


@pytest.mark.parametrize("peer", ["0", "1"])
def test_two_devices(peer: str) -> None:
    run(
        "two_devices",
        devices="2",
        capability="9.0/7.5",
        memory="2MiB/1MiB",
        name="Big/Small",
        peer=peer,
    )
