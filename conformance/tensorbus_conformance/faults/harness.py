"""Faults for tests of the runner: a crash, a hang, a lost device, and a device of another kind.

The self-test leaves them out.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tensorbus_backends.contract import (
    BackendError,
    Buffer,
    CompileError,
    Device,
    DeviceLostError,
    KernelSpec,
    LaunchError,
)
from tensorbus_backends.dialect import Dialect

from .base import FAULTS, Changed, Fault, FaultyDevice, Planted

__all__ = ["FlushingDevice"]

_FLUSH = """\
#if defined(__x86_64__)
    u32 tb_kept, tb_flush;
    __asm__ volatile("stmxcsr %0" : "=m"(tb_kept));
    tb_flush = tb_kept | 0x8040u;
    __asm__ volatile("ldmxcsr %0" : : "m"(tb_flush) : "memory");
#elif defined(__aarch64__)
    u64 tb_kept;
    __asm__ volatile("mrs %0, fpcr" : "=r"(tb_kept));
    __asm__ volatile("msr fpcr, %0" : : "r"(tb_kept | (1uL << 24)) : "memory");
#else
#error "no way is known to flush subnormals on this processor"
#endif
"""
_KEEP = """\
#if defined(__x86_64__)
    __asm__ volatile("ldmxcsr %0" : : "m"(tb_kept) : "memory");
#else
    __asm__ volatile("msr fpcr, %0" : : "r"(tb_kept) : "memory");
#endif
"""


class _Flushed(Changed):
    """A kernel that runs with flushed subnormals, rendered for a device without float64."""

    def source(self, dialect: Dialect) -> str:
        text = super().source(replace(dialect, fp64=False, hooks={"enter": _FLUSH, "leave": _KEEP}))
        if re.search("f64|double", text.replace(self.name, "")):
            raise CompileError(f"kernel {self.name} uses float64, which is absent", source=text)
        return text


class FlushingDevice(FaultyDevice):
    """A device with a C dialect, as if it had no float64 and flushed float32 subnormals."""

    def __init__(self, real: Device, planted: Planted) -> None:
        super().__init__(real, planted)
        assert real.dialect is not None
        self.dialect = replace(real.dialect, fp64=False)
        dtypes = frozenset(real.capabilities.dtypes - {"float64"})
        self.capabilities = replace(
            real.capabilities, dtypes=dtypes, fp64=False, subnormals="flush"
        )

    @property
    def natives(self) -> Any:  # type: ignore[override]
        return {}

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Any]:
        self.planted.hit()
        changed = [_Flushed(k, lambda text: text, self.planted, "flush") for k in kernels]
        return self.handles(kernels, self.real.compile(changed))


def _crash(real: Device, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
    ctypes.string_at(8)


def _hang(real: Device, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
    while True:
        time.sleep(3600)


def _install(launch: Any) -> Any:
    def install(planted: Planted) -> None:
        planted.wrap = lambda real: FaultyDevice(real, planted, "add", launch=launch)

    return install


class _Lost(FaultyDevice):
    """A device that fails for good at its first launch, in every process.

    Only ``ref`` is lost, so that a run with other devices shows that they go on.  With the
    environment variable TENSORBUS_TEST_LOST it is lost once, at the ninth launch: the file of that
    name, which the first loss makes, spares it in later processes.
    """

    def __init__(self, real: Device, planted: Planted, error: type[BackendError]) -> None:
        super().__init__(real, planted, launch=self.count)
        self.error, self.launches, self.gone = error, 0, False

    def count(
        self, real: Device, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes
    ) -> None:
        self.launches += 1
        once = os.environ.get("TENSORBUS_TEST_LOST")
        spared = self.info.name != "ref" or (once is not None and Path(once).exists())
        if self.launches == (1 if once is None else 9) and not spared:
            self.gone = True
            self.planted.hit()
            if once is not None:
                Path(once).touch()
        self.check()
        real.launch(kernel.real, groups, buffers, meta)

    def check(self) -> None:
        """Raise what every call raises once the device is gone."""
        if self.gone:
            raise self.error(f"{self.info.name} is gone (injected)")

    def copy_in(self, target: Buffer, offset: int, source: memoryview) -> None:
        self.check()
        super().copy_in(target, offset, source)

    def copy_out(self, source: Buffer, offset: int, target: memoryview) -> None:
        self.check()
        super().copy_out(source, offset, target)

    def synchronize(self) -> None:
        self.check()
        super().synchronize()


def _lost(error: type[BackendError]) -> Callable[[Planted], None]:
    kept: dict[str, Device] = {}

    def install(planted: Planted) -> None:
        # One device for the whole process: a lost one does not come back with the next item.
        planted.wrap = lambda real: kept.setdefault(real.info.name, _Lost(real, planted, error))

    return install


for _name, _what, _error in (
    ("test-lost", "the device is lost at the first launch", DeviceLostError),
    ("test-sticky", "from the first launch on every call reports a failed launch", LaunchError),
):
    FAULTS[_name] = Fault(_name, _what, "device", ("add",), ("int32",), "harness", _lost(_error))


def _flush(planted: Planted) -> None:
    planted.wrap = lambda real: FlushingDevice(real, planted)


FAULTS["test-flush"] = Fault(
    "test-flush",
    "subnormals are flushed, float64 is gone",
    "device",
    ("add",),
    ("float32",),
    "harness",
    _flush,
)

for _name, _what, _launch in (
    ("test-crash", "the process dies in a launch", _crash),
    ("test-hang", "a launch never returns", _hang),
):
    FAULTS[_name] = Fault(
        _name, _what, "device", ("add",), ("int32",), "harness", _install(_launch)
    )
