"""Matrix products through MetalPerformanceShaders (MPS), where it can be loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from tensorbus_backends import dtypes as dt, gemm
from tensorbus_backends.contract import BackendError, Buffer, NativeCase, NativeTable
from tensorbus_backends.grid import GridBuffer

from .driver import MetalDriver, Place
from .objc import ObjC

__all__ = ["LIBRARY", "native_table", "supported"]

LIBRARY = "MetalPerformanceShaders"

# MPSDataTypeFloat32 and MPSDataTypeFloat16: the bits of the element, and the flag of a float.
_TYPES = {dt.float32: 0x10000000 | 32, dt.float16: 0x10000000 | 16}

# Each product of a batch is encoded by itself, so a long batch of small ones is the kernel's.
_LONGEST_BATCH = 256

_MULTIPLY = (
    "initWithDevice:transposeLeft:transposeRight:resultRows:resultColumns:interiorColumns:"
    "alpha:beta:"
)


def supported(case: NativeCase) -> bool:
    """Whether a product goes to MPS: float32 or float16, see `gemm.supported`."""
    if not gemm.supported(case, _TYPES):
        return False
    return gemm.plan(case.shapes, case.strides).batch <= _LONGEST_BATCH


def native_table(objc: ObjC, device: Any, driver: Callable[[], MetalDriver]) -> NativeTable | None:
    """The native kernels of a device: ``matmul``; None without MPS.

    Args:
        objc: The runtime.
        device: MTLDevice.
        driver: The device's driver at the time of a call.
    """
    names = ("MPSMatrix", "MPSMatrixDescriptor", "MPSMatrixMultiplication")
    matrices, descriptors, products = map(objc.find_class, names)
    if matrices is None or descriptors is None or products is None:
        return None
    # Older systems have matrices that start at the beginning of a buffer only.
    init = "initWithBuffer:offset:descriptor:"
    if not objc.send(matrices, "instancesRespondToSelector:", objc.selector(init)):
        return None
    table = NativeTable()

    def new(made: Any) -> Any:
        owned = objc.own(made)
        if owned is None:
            raise BackendError("MPS gives no matrix; use `with tb.reproducible()`")
        return owned

    def matrix(place: Place, offset: int, rows: int, columns: int, ld: int, dtype: Any) -> Any:
        described = objc.send(
            descriptors,
            "matrixDescriptorWithRows:columns:rowBytes:dataType:",
            rows,
            columns,
            ld * dtype.itemsize,
            _TYPES[dtype],
        )
        start = place.offset + offset * dtype.itemsize
        empty = objc.send(matrices, "alloc")
        return new(objc.send(empty, init, place.block.buffer, start, described))

    @table.implements("matmul", when=supported, library=LIBRARY)
    def matmul(case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
        p, dtype = gemm.plan(case.shapes, case.strides), case.dtypes[0]
        a, b, c = (cast(Place, buffer.at) for buffer in cast("Sequence[GridBuffer]", buffers))
        stored_a = (p.k, p.m) if p.trans_a else (p.m, p.k)
        stored_b = (p.n, p.k) if p.trans_b else (p.k, p.n)

        def record(commands: Any) -> None:
            empty = objc.send(products, "alloc")
            shape = (p.trans_a, p.trans_b, p.m, p.n, p.k)
            product = new(objc.send(empty, _MULTIPLY, device, *shape, 1.0, 0.0))
            for i, j, k in p.offsets + offsets:
                objc.send(
                    product,
                    "encodeToCommandBuffer:leftMatrix:rightMatrix:resultMatrix:",
                    commands,
                    matrix(a, int(i), *stored_a, p.lda, dtype),
                    matrix(b, int(j), *stored_b, p.ldb, dtype),
                    matrix(c, int(k), p.m, p.n, p.ldc, dtype),
                )

        driver().encode(record, (a, b, c))

    return table
