"""Shared by the tests of the metal plugin: the simulated Metal, here and in other processes."""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tensorbus_backends import clike, dtypes as dt
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import DeviceInfo, DeviceUnavailableError, Evidence
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.simulator import Control, control
from tensorbus_metal.device import MetalDevice
from tensorbus_metal.objc import ObjC
from tensorbus_metal.simulator import library


def run_simulated(script: str, *, code: int = 0, faults: str = "", **settings: object) -> str:
    """What a script prints over the simulated driver, in a fresh process.

    Args:
        script: Python text.
        code: Exit status that is expected; -6 is an abort, whose message is returned instead.
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


@functools.cache
def build() -> tuple[Path | None, str]:
    """The simulated Metal, or why there is none."""
    try:
        return library(), ""
    except DeviceUnavailableError as error:
        return None, error.cause


@pytest.fixture
def path() -> Path:
    """The simulated Metal's library."""
    built, cause = build()
    if built is None:
        pytest.skip(f"the simulated Metal cannot be built: {cause}")
    return built


@pytest.fixture
def simulated(path: Path) -> Callable[..., str]:
    """`run_simulated`."""
    return run_simulated


@functools.cache
def open_runtime(path: Path) -> ObjC:
    return ObjC(str(path), str(path))


@pytest.fixture
def objc(path: Path) -> ObjC:
    """The simulated runtime, in this process."""
    return open_runtime(path)


@pytest.fixture
def faults(path: Path) -> Iterator[Control]:
    """Failures on demand; all are taken back afterwards."""
    handle = control(path)
    handle.disarm()
    yield handle
    handle.disarm()


@pytest.fixture
def census(path: Path) -> Callable[[], str]:
    """``census()``: the simulated runtime's live objects by class."""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef("const char *tbs_metal_census(void);")
    lib = ffi.dlopen(str(path))

    def count() -> str:
        gc.collect()
        return str(ffi.string(lib.tbs_metal_census()).decode())

    return count


INFO = DeviceInfo("metal:0", "metal", 0, evidence=Evidence.UNSTATED)


@pytest.fixture
def make(objc: ObjC, faults: Control, tmp_path: Path) -> Iterator[Callable[..., MetalDevice]]:
    """``make(group=None)``: a device of its own; its cache is ``tmp_path / "cache"``."""

    made: weakref.WeakSet[MetalDevice] = weakref.WeakSet()

    def build_one(group: int | None = None) -> MetalDevice:
        handle = objc.own(objc.metal.MTLCreateSystemDefaultDevice())
        device = MetalDevice(objc, handle, INFO, DiskCache(tmp_path / "cache"), group)
        made.add(device)
        return device

    yield build_one
    gc.collect()
    for device in made:
        device.driver.close()
        device.empty_cache()


@pytest.fixture
def device(make: Callable[..., MetalDevice]) -> MetalDevice:
    """An open simulated device."""
    return make()


@dataclass(frozen=True)
class AddTo:
    """y[i] = x[i] + M(2) for 64 elements of each group; `words` may be more than needed."""

    name: str = "add_to"
    words: int = 3
    local: int = 0
    body: str = "LANES(l, 64) y[64 * g + l] = x[64 * g + l] + (i32)M(2);"
    buffers: int = 2

    def source(self, dialect: Dialect) -> str:
        arguments = [clike.Argument("x", dt.int32), clike.Argument("y", dt.int32, True)]
        return clike.assemble(dialect, self.name, arguments, self.words, self.body, offsets=[0, 1])

    def local_bytes(self, dialect: Dialect) -> int:
        return self.local

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        raise NotImplementedError


@pytest.fixture
def add_to() -> type[AddTo]:
    """The class of a small kernel."""
    return AddTo
