"""Fixtures of the cpu device's tests: hand-written kernels and private devices."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorbus_backends import clike, dtypes as dt
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import Buffer, Device, DeviceInfo, Evidence
from tensorbus_backends.dialect import Dialect
from tensorbus_cpu import PLUGIN
from tensorbus_cpu.device import CpuDevice
from tensorbus_cpu.runtime import Runtime
from tensorbus_cpu.toolchain import find_toolchain


@dataclass(frozen=True)
class HandKernel:
    """A kernel whose body is given as text; the last argument is written."""

    name: str
    body: str
    dtypes: tuple[str, ...] = ("float32", "float32")
    extra: int = 0
    raw: str = ""

    @property
    def buffers(self) -> int:
        return len(self.dtypes)

    @property
    def words(self) -> int:
        return self.buffers + self.extra

    def source(self, dialect: Dialect) -> str:
        if self.raw:
            return self.raw
        last = self.buffers - 1
        arguments = [
            clike.Argument(f"x{k}" if k < last else "y0", dt.by_name(name), k == last)
            for k, name in enumerate(self.dtypes)
        ]
        offsets = list(range(self.buffers))
        return clike.assemble(dialect, self.name, arguments, self.words, self.body, offsets=offsets)

    def local_bytes(self, dialect: Dialect) -> int:
        return 0

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        raise NotImplementedError

    def meta(self, *extra: int) -> bytes:
        """Metadata with zero offsets."""
        return np.array([0] * self.buffers + list(extra), np.int64).tobytes()


@pytest.fixture
def hand_kernel() -> type[HandKernel]:
    return HandKernel


@pytest.fixture(scope="session")
def device() -> Device:
    return PLUGIN.open(0)


@pytest.fixture(scope="session")
def runtime_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the runtime and no kernel, which saves each test compiling it."""
    directory = tmp_path_factory.mktemp("runtime")
    cache = DiskCache(directory)
    Runtime(find_toolchain(cache), cache)
    return directory


@pytest.fixture
def fresh_device(tmp_path: Path, runtime_only: Path) -> Callable[..., CpuDevice]:
    """Open a device of its own over a cache directory, by default one without kernels."""

    def make(directory: Path = tmp_path / "cache") -> CpuDevice:
        if not directory.exists() and directory.parent.is_dir():
            shutil.copytree(runtime_only, directory)
        cache = DiskCache(directory)
        toolchain = find_toolchain(cache)
        return CpuDevice(
            DeviceInfo("cpu", "cpu", 0, evidence=Evidence.UNSTATED),
            toolchain,
            Runtime(toolchain, cache),
            cache,
        )

    return make


@pytest.fixture
def put() -> Callable[[Device, Any], Buffer]:
    """Copy an array into a new buffer."""

    def copy(device: Device, array: Any) -> Buffer:
        array = np.ascontiguousarray(array)
        buffer = device.allocate(array.nbytes)
        device.copy_in(buffer, 0, memoryview(array.reshape(-1).view(np.uint8)))
        return buffer

    return copy


@pytest.fixture
def get() -> Callable[[Device, Buffer, Any, int], Any]:
    """Copy the first `count` elements of a buffer into a new array."""

    def copy(device: Device, buffer: Buffer, dtype: Any, count: int) -> Any:
        array = np.empty(count, dtype)
        device.copy_out(buffer, 0, memoryview(array.view(np.uint8)))
        return array

    return copy
