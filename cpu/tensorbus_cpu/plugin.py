"""Probing and opening the cpu device; imported at the first use of the plugin."""

from __future__ import annotations

import functools
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tensorbus_backends import clike, dtypes as dt
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import (
    BackendError,
    CompileError,
    DeviceInfo,
    DeviceUnavailableError,
    Evidence,
)
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.floating import in_default_arithmetic

from .device import CpuDevice
from .processor import processor
from .runtime import Runtime
from .toolchain import NoCompilerError, find_toolchain

__all__ = ["open_device", "probe"]

NAME = "cpu"

_VECTOR = re.compile(r"avx|sse|fma|f16c|bmi|amx|asimd|neon|sve|fp|sme")


@dataclass(frozen=True)
class _Check:
    """A kernel that shows whether the compiler and the processor do what kernels rely on."""

    name: str = "tb_check"
    buffers: int = 2
    words: int = 3

    def source(self, dialect: Dialect) -> str:
        body = (
            "LANES(l, 8) {\n    y0[8 * g + l] = fma_f32(x0[8 * g + l], 0.5f, (f32)(l + M(2)));\n}"
        )
        arguments = [
            clike.Argument("x0", dt.float32),
            clike.Argument("y0", dt.float32, written=True),
        ]
        return clike.assemble(dialect, self.name, arguments, self.words, body, offsets=[0, 1])

    def local_bytes(self, dialect: Dialect) -> int:
        raise NotImplementedError("the cpu device does not ask")

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        raise NotImplementedError("this kernel only checks the cpu device")


def _absent(cause: str, fix: str) -> DeviceInfo:
    return DeviceInfo(
        NAME, NAME, 0, available=False, cause=cause, fix=fix, evidence=Evidence.UNSTATED
    )


@functools.cache
@in_default_arithmetic
def _attempt() -> tuple[DeviceInfo, CpuDevice | None]:
    """Compile and run `_Check`; the device if its result is right."""
    cache = DiskCache()
    cache.sweep()
    try:
        toolchain = find_toolchain(cache)
        runtime = Runtime(toolchain, cache)
    except NoCompilerError as error:
        return _absent(error.cause, error.fix), None
    except CompileError as error:
        return _absent(
            f"the C runtime cannot be built: {' / '.join(str(error).splitlines()[:3])}",
            "set CC to another C compiler (gcc, clang), or pip install ziglang and unset CC",
        ), None
    machine = processor()
    info = DeviceInfo(
        NAME,
        NAME,
        0,
        evidence=Evidence.HARDWARE,
        description=f"{machine.name}, {machine.vectors}, {runtime.threads} threads, "
        f"{toolchain.version}",
        details={
            "compiler": toolchain.version,
            "command": " ".join(toolchain.command),
            "flags": " ".join(toolchain.flags),
            "processor": machine.name,
            "machine": machine.machine,
            "features": " ".join(sorted(f for f in machine.features if _VECTOR.match(f))),
            "vectors": machine.vectors,
            "threads": str(runtime.threads),
        },
    )
    try:
        device = CpuDevice(info, toolchain, runtime, cache)
        problem = _run_check(device)
    except BackendError as error:
        problem = " / ".join(str(error).splitlines()[:3])
    if problem:
        return _absent(
            f"a test kernel failed: {problem}",
            f"set CC to a compiler that knows this processor ({machine.name}), or empty the "
            f"compile cache at {cache.directory}",
        ), None
    return device.info, device


def _run_check(device: CpuDevice) -> str:
    """What is wrong with the test kernel's result; empty if nothing."""
    (kernel,) = device.compile([_Check()])
    groups, tiny = 5, 2.0**-149
    values = [float(k) for k in range(8 * groups - 1)] + [2.0 * tiny]
    source, target = device.allocate(32 * groups), device.allocate(32 * groups)
    device.copy_in(source, 0, memoryview(array("f", values)))
    device.launch(kernel, groups, [source, target], array("q", [0, 0, -7]).tobytes())
    got = array("f", bytes(32 * groups))
    device.copy_out(target, 0, memoryview(got))
    for k, (x, y) in enumerate(zip(values, got, strict=True)):
        expected = x * 0.5 + (k % 8 - 7)
        if y != expected:
            return f"element {k} is {y!r} instead of {expected!r}"
    return ""


def probe() -> list[DeviceInfo]:
    """The cpu device, available or with cause and fix; what is found is kept for the process."""
    return [_attempt()[0]]


def open_device(index: int) -> CpuDevice:
    """The cpu device.

    Raises:
        DeviceUnavailableError: `probe` says why; or `index` is not 0.
    """
    if index != 0:
        raise DeviceUnavailableError(f"{NAME}:{index}", "there is one cpu device", "use 'cpu'")
    info, device = _attempt()
    if device is None:
        raise DeviceUnavailableError(NAME, info.cause, info.fix)
    return device
