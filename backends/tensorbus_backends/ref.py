"""Device ``ref``: the NumPy interpreter, always there, slow, the executable specification."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import dtypes as dt
from .contract import (
    BackendError,
    Buffer,
    Capabilities,
    Device,
    DeviceInfo,
    Event,
    Evidence,
    Feature,
    KernelSpec,
    LaunchError,
    MemoryFigures,
    OutOfMemoryError,
    UnsupportedError,
)

__all__ = ["PLUGIN", "RefDevice"]


class RefBuffer(Buffer):
    """NumPy memory; `keep` is whatever else owns it."""

    __slots__ = ("array", "keep")

    device: RefDevice

    def __init__(self, device: RefDevice, array: Any, keep: object = None) -> None:
        self.device, self.array, self.keep = device, array, keep
        self.nbytes = array.nbytes
        device.used += self.nbytes
        device.peak = max(device.peak, device.used)

    def __del__(self) -> None:
        self.device.used -= self.nbytes


class _Interpreted:
    def __init__(self, spec: KernelSpec) -> None:
        self.spec = spec


class _Done:
    def wait(self) -> None:
        """Nothing is asynchronous here."""

    def done(self) -> bool:
        return True


class RefDevice(Device):
    """Runs kernels with `KernelSpec.interpret`."""

    features = frozenset({Feature.ADDRESS, Feature.SYNCHRONOUS})

    def __init__(self, info: DeviceInfo) -> None:
        self.info = info
        self.used = self.peak = 0
        self.capabilities = Capabilities(
            dtypes=frozenset(d.name for d in dt.ALL),
            max_group=1,
            local_memory=0,
        )

    def allocate(self, nbytes: int) -> Buffer:
        if nbytes < 0 or nbytes > 1 << 46:
            raise OutOfMemoryError(f"ref: cannot allocate {nbytes:,} bytes")
        try:
            raw = np.empty(nbytes + 64, np.uint8)
        except MemoryError:
            raise OutOfMemoryError(
                f"ref: the system has no {nbytes:,} bytes left; free tensors or use smaller ones"
            ) from None
        start = -raw.ctypes.data % 64
        return RefBuffer(self, raw[start : start + nbytes])

    def copy_in(self, target: Buffer, offset: int, source: memoryview) -> None:
        view = np.frombuffer(source, np.uint8) if source.nbytes else np.empty(0, np.uint8)
        _span(target, offset, view.size)[:] = view

    def copy_out(self, source: Buffer, offset: int, target: memoryview) -> None:
        data = _span(source, offset, target.nbytes)
        if target.nbytes:
            np.frombuffer(target, np.uint8)[:] = data

    def copy(
        self, target: Buffer, target_offset: int, source: Buffer, source_offset: int, nbytes: int
    ) -> None:
        to = _span(target, target_offset, nbytes)
        to[:] = _span(source, source_offset, nbytes)

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Any]:
        return [_Interpreted(k) for k in kernels]

    def launch(self, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
        if _flushes():
            raise LaunchError(
                "ref: this thread flushes subnormal numbers, so results would be wrong; another "
                "library switched that on (torch.set_flush_denormal(False) switches it off)"
            )
        if not _rounds_to_nearest():
            raise LaunchError(
                "ref: this thread does not round to nearest, so results would be wrong; another "
                "library changed that (C's fesetround(FE_TONEAREST) switches back)"
            )
        spec = kernel.spec
        if len(buffers) != spec.buffers or len(meta) != 8 * spec.words or groups < 1:
            raise LaunchError(
                f"ref: kernel {spec.name!r} takes {spec.buffers} buffers, {8 * spec.words} bytes "
                f"of metadata and a group or more; {len(buffers)} buffers, {len(meta)} bytes and "
                f"{groups} groups were given"
            )
        arrays = []
        for argument, buffer in zip(kernel.spec.arguments(), buffers, strict=True):
            raw = _array(buffer)
            size = raw.size // argument.dtype.itemsize * argument.dtype.itemsize
            arrays.append(raw[:size].view(argument.dtype.numpy))
        try:
            kernel.spec.interpret(arrays, np.frombuffer(meta, np.int64), groups)
        except IndexError as error:
            raise LaunchError(
                f"ref: kernel {kernel.spec.name} reads outside a buffer: {error}"
            ) from error

    def synchronize(self) -> None:
        """Nothing is asynchronous here."""

    def record(self) -> Event:
        return _Done()

    def memory(self) -> MemoryFigures:
        return MemoryFigures(self.used, 0, self.peak)

    def empty_cache(self) -> None:
        """Nothing is kept."""

    def address(self, buffer: Buffer) -> int:
        return int(_array(buffer).ctypes.data)

    def import_pointer(self, address: int, nbytes: int, owner: object) -> Buffer:
        import ctypes

        block = (ctypes.c_uint8 * nbytes).from_address(address)
        return RefBuffer(self, np.ctypeslib.as_array(block), owner)


def _array(buffer: Buffer) -> Any:
    if not isinstance(buffer, RefBuffer):
        raise UnsupportedError(f"a buffer of {buffer.device.info.name} was given to ref")
    return buffer.array


def _span(buffer: Buffer, offset: int, nbytes: int) -> Any:
    """A range of a buffer's bytes; BackendError if it is not inside."""
    array = _array(buffer)
    if offset < 0 or nbytes < 0 or offset + nbytes > array.size:
        raise BackendError(
            f"ref: a copy of {nbytes} bytes at offset {offset} does not fit a buffer of "
            f"{array.size} bytes"
        )
    return array[offset : offset + nbytes]


def _flushes() -> bool:
    """Whether the processor flushes subnormals in this thread."""
    tiny = np.asarray([np.finfo(np.float32).tiny])
    return bool((tiny * np.float32(0.5))[0] == 0)


def _rounds_to_nearest() -> bool:
    """Whether the processor rounds to nearest in this thread."""
    little = np.asarray([2.0**-60, -(2.0**-60)])
    return bool((1.0 + little == 1.0).all() and (little - 1.0 == -1.0).all())


class _RefPlugin:
    name = "ref"
    api_version = 2, 0

    def probe(self) -> Sequence[DeviceInfo]:
        return [
            DeviceInfo(
                "ref",
                self.name,
                0,
                evidence=Evidence.HARDWARE,
                description=f"NumPy {np.__version__} interpreter (slow; the specification)",
                details={"numpy": np.__version__, "python": platform.python_version()},
            )
        ]

    def open(self, index: int) -> Device:
        if index != 0:
            raise BackendError(f"ref has one device, number 0; {index} was asked for")
        return RefDevice(self.probe()[0])


PLUGIN = _RefPlugin()
