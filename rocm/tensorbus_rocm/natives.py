"""Native matrix products through rocBLAS, if it is installed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from tensorbus_backends import dtypes as dt, gemm
from tensorbus_backends.contract import (
    Buffer,
    LaunchError,
    NativeCase,
    NativeTable,
    OutOfMemoryError,
)

from .driver import HipDriver
from .library import Hip, attempts, ffi, find

__all__ = ["RocBlas", "load_rocblas", "native_table"]

_NONE, _TRANSPOSE = 111, 112  # rocblas_operation
_NO_ATOMICS = 0  # rocblas_atomics_not_allowed: the same bits at each run
_STANDARD = 0  # rocblas_gemm_algo_standard

# rocblas_status: _memory_error; _perf_degraded, where it computed in a way that needs less memory.
_MEMORY_ERROR, _SLOWER = 5, 7

# rocblas_datatype
_TYPES = {dt.float16: 150, dt.float32: 151, dt.float64: 152, dt.bfloat16: 168}


class HipBuffer(Protocol):
    """What every buffer of a rocm device has."""

    at: int


@dataclass(frozen=True)
class RocBlas:
    """A loaded rocBLAS; `lib` has its functions."""

    version: str
    lib: Any

    def __str__(self) -> str:
        return f"rocBLAS {self.version}"


def load_rocblas(hip: Hip) -> RocBlas | None:
    """The rocBLAS that comes with a runtime, or None."""
    inside = [hip.path] if hip.stand_in else []
    names = inside or attempts("librocblas", hip.path, (5, 4, 3, 0))
    with contextlib.suppress(OSError):
        _, lib = find(names, "rocblas_gemm_strided_batched_ex")
        text = ffi().new("char[]", 256)
        lib.rocblas_get_version_string(text, 256)
        return RocBlas(ffi().string(text).decode(errors="replace") or "?", lib)
    return None


class _Products:
    """rocBLAS on one device: one handle, one call at a time."""

    def __init__(self, driver: HipDriver, blas: RocBlas) -> None:
        self._driver, self._lib = driver, blas.lib
        self._lock = threading.Lock()
        self._handle: Any = None
        made = ffi()
        # Scalars in the type that the library computes in, and addresses of them.
        self._scalars = {
            dt.float32: made.new("float[2]", [1.0, 0.0]),
            dt.float64: made.new("double[2]", [1.0, 0.0]),
        }

    def handle(self) -> Any:
        """rocBLAS's handle, made at the first product: that takes it a while."""
        if self._handle is None:
            place = ffi().new("void **")
            self._expect(self._lib.rocblas_create_handle(place))
            self._expect(self._lib.rocblas_set_stream(place[0], self._driver.stream))
            self._expect(self._lib.rocblas_set_atomics_mode(place[0], _NO_ATOMICS))
            self._handle = place[0]
        return self._handle

    def _expect(self, status: int) -> None:
        if status not in (0, _SLOWER):
            words = ffi().string(self._lib.rocblas_status_to_string(status)).decode()
            kind = OutOfMemoryError if status == _MEMORY_ERROR else LaunchError
            raise kind(f"{self._driver.device} failed in a matrix product of rocBLAS ({words})")

    def run(self, product: gemm.Product, dtype: dt.DType, a: int, b: int, c: int) -> None:
        """One batch; addresses of the operands in column-major order, then the output's."""
        self._driver.hip.check_process()
        p, size = product, dtype.bits >> 3
        compute = dt.float64 if dtype is dt.float64 else dt.float32
        scalars, kind, computed = self._scalars[compute], _TYPES[dtype], _TYPES[compute]
        ops = [_TRANSPOSE if t else _NONE for t in (p.trans_a, p.trans_b)]

        def address(base: int, offset: int) -> Any:
            return ffi().cast("void *", base + int(offset) * size)

        with self._lock, self._driver.current:
            head = (self.handle(), *ops, p.m, p.n, p.k, scalars)
            tail = (computed, _STANDARD, 0, 0)
            if p.batch > 1 and p.strides is not None:
                sa, sb, sc = p.strides
                out = address(c, 0)
                self._expect(
                    self._lib.rocblas_gemm_strided_batched_ex(
                        *head,
                        address(a, 0),
                        kind,
                        p.lda,
                        sa,
                        address(b, 0),
                        kind,
                        p.ldb,
                        sb,
                        scalars + 1,
                        out,
                        kind,
                        p.ldc,
                        sc,
                        out,
                        kind,
                        p.ldc,
                        sc,
                        p.batch,
                        *tail,
                    )
                )
                return
            for i, j, k in p.offsets:
                out = address(c, k)
                self._expect(
                    self._lib.rocblas_gemm_ex(
                        *head,
                        address(a, i),
                        kind,
                        p.lda,
                        address(b, j),
                        kind,
                        p.ldb,
                        scalars + 1,
                        out,
                        kind,
                        p.ldc,
                        out,
                        kind,
                        p.ldc,
                        *tail,
                    )
                )


def _supported(case: NativeCase) -> bool:
    return gemm.supported(case, _TYPES, gemm.INT32)


def native_table(driver: HipDriver, blas: RocBlas) -> NativeTable:
    """The native kernels of a rocm device: ``matmul``."""
    table, products = NativeTable(), _Products(driver, blas)

    @table.implements("matmul", when=_supported, library=str(blas))
    def matmul(case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
        dtype = case.dtypes[0]
        first, second, out = (
            buffer.at + offset * (dtype.bits >> 3)
            for buffer, offset in zip(cast("Sequence[HipBuffer]", buffers), offsets, strict=True)
        )
        product = gemm.plan(case.shapes, case.strides).column_major()
        products.run(product, dtype, second, first, out)

    return table
