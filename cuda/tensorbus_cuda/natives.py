"""Matrix products through cuBLAS, from its wheel, the toolkit or the system.

float16 and bfloat16 accumulate in float32; float32 is multiplied as float32, and as TF32 only where
``TENSORBUS_CUDA_TF32=1`` asks for it.
"""

from __future__ import annotations

import contextlib
import re
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cffi
import numpy as np
from tensorbus_backends import dtypes as dt, gemm
from tensorbus_backends.contract import (
    BackendError,
    Buffer,
    LaunchError,
    NativeCase,
    NativeTable,
    OutOfMemoryError,
)
from tensorbus_backends.environment import switch

from .libraries import candidates, major

if TYPE_CHECKING:
    from .device import CudaDevice

__all__ = ["TF32", "Blas", "native_table"]

TF32 = "TENSORBUS_CUDA_TF32"

_DECLARATIONS = """
typedef void *cublasHandle_t;
int cublasCreate_v2(cublasHandle_t *handle);
int cublasDestroy_v2(cublasHandle_t handle);
int cublasGetVersion_v2(cublasHandle_t handle, int *version);
int cublasSetStream_v2(cublasHandle_t handle, uintptr_t stream);
int cublasSetWorkspace_v2(cublasHandle_t handle, uintptr_t workspace, size_t nbytes);
int cublasSetMathMode(cublasHandle_t handle, int mode);
int cublasGemmEx(cublasHandle_t handle, int transa, int transb, int m, int n, int k,
    const void *alpha, uintptr_t a, int atype, int lda, uintptr_t b, int btype, int ldb,
    const void *beta, uintptr_t c, int ctype, int ldc, int compute, int algo);
int cublasGemmStridedBatchedEx(cublasHandle_t handle, int transa, int transb, int m, int n, int k,
    const void *alpha, uintptr_t a, int atype, int lda, long long stridea,
    uintptr_t b, int btype, int ldb, long long strideb, const void *beta,
    uintptr_t c, int ctype, int ldc, long long stridec, int batch, int compute, int algo);
int cublasGemmBatchedEx(cublasHandle_t handle, int transa, int transb, int m, int n, int k,
    const void *alpha, uintptr_t a, int atype, int lda, uintptr_t b, int btype, int ldb,
    const void *beta, uintptr_t c, int ctype, int ldc, int batch, int compute, int algo);
"""

# library_types.h, cudaDataType.
_TYPES = {dt.float32: 0, dt.float64: 1, dt.float16: 2, dt.bfloat16: 14}
# cublas_api.h, cublasComputeType_t and cublasMath_t.
_COMPUTE_32F, _COMPUTE_32F_FAST_TF32, _COMPUTE_64F = 68, 77, 70
# Sums of 16-bit products stay in float32 all the way, also where a sum is split in parts.
_NO_REDUCED_PRECISION = 16
_ALGO_DEFAULT = -1
# cuBLAS, cublasGemmBatchedEx(): for 16-bit types and fast modes the pointers in the arrays "must be
# properly aligned to avoid misaligned memory access errors", ideally to so many bytes.  The other
# functions see addresses and choose a kernel that can read there.
_WIDE = 16
_NO_TRANSPOSE, _TRANSPOSE = 0, 1
# What cuBLAS takes for itself by default, from Hopper on and before.  One that is fixed makes
# repeated products equal.
_WORKSPACE, _WORKSPACE_BEFORE = 32 << 20, 4 << 20

_STATUS = {
    1: "CUBLAS_STATUS_NOT_INITIALIZED",
    3: "CUBLAS_STATUS_ALLOC_FAILED",
    7: "CUBLAS_STATUS_INVALID_VALUE",
    8: "CUBLAS_STATUS_ARCH_MISMATCH",
    11: "CUBLAS_STATUS_MAPPING_ERROR",
    13: "CUBLAS_STATUS_EXECUTION_FAILED",
    14: "CUBLAS_STATUS_INTERNAL_ERROR",
    15: "CUBLAS_STATUS_NOT_SUPPORTED",
    16: "CUBLAS_STATUS_LICENSE_ERROR",
}
_ALLOC_FAILED = 3


class Blas:
    """cuBLAS on one device; its handle is made at the first product.

    Args:
        path: The library.
        device: The device, which stays the owner.

    Raises:
        OSError, AttributeError: It is no cuBLAS, or cannot be loaded.
    """

    def __init__(self, path: str, device: CudaDevice, tf32: bool) -> None:
        ffi = self._ffi = cffi.FFI()
        ffi.cdef(_DECLARATIONS)
        self._lib = ffi.dlopen(path)
        for name in re.findall(r"cublas\w+(?=\()", _DECLARATIONS):
            getattr(self._lib, name)
        # The device holds this; without a cycle it is gone as soon as nobody uses it.
        self._device: CudaDevice = weakref.proxy(device)
        self._handle: Any = None
        self._workspace: Buffer | None = None
        # A handle is not made for use by several threads at a time.
        self._lock = threading.Lock()
        self._double = ffi.new("double *", 1.0), ffi.new("double *", 0.0)
        self._single = ffi.new("float *", 1.0), ffi.new("float *", 0.0)
        self.tf32 = tf32

    @property
    def name(self) -> str:
        """``"cuBLAS 13.1.0"``; with TF32 it says so."""
        number = self._ffi.new("int *")
        if self._lib.cublasGetVersion_v2(self._ffi.NULL, number) != 0:
            return "cuBLAS"
        first, rest = divmod(number[0], 10000)
        version = f"cuBLAS {first}.{rest // 100}.{rest % 100}"
        return f"{version} (TF32)" if self.tf32 else version

    def multiply(self, case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
        """A product that is supported: both operands, then the output."""
        dtype = case.dtypes[0]
        starts = zip(buffers, offsets, strict=True)
        # Before the lock: in a forked child, where it may be held for ever, this raises.
        a, b, c = (self._device.pointer(x) + k * dtype.itemsize for x, k in starts)
        self.run(dtype, gemm.plan(case.shapes, case.strides).column_major(), b, a, c)

    def run(
        self, dtype: dt.DType, product: gemm.Product, first: int, second: int, out: int
    ) -> None:
        """Multiply.

        Args:
            dtype: Of all three.
            product: In column-major order, so that `first` is its A.
            first: Address of A.
            second: Address of B.
            out: Address of C.
        """
        p, lib = product, self._lib
        ends: tuple[Any, ...]
        one, zero, compute = self._arithmetic(dtype)
        code = _TYPES[dtype]
        head = (int(p.trans_a), int(p.trans_b), p.m, p.n, p.k, one)
        tail = (compute, _ALGO_DEFAULT)
        call, strides = self._call, p.strides
        with self._lock:
            handle = self._opened()
            if p.batch > 1 and strides is not None:
                a, b, c = strides
                ends = (first, code, p.lda, a, second, code, p.ldb, b, zero, out, code, p.ldc, c)
                call(lib.cublasGemmStridedBatchedEx, handle, *head, *ends, p.batch, *tail)
                return
            table = p.offsets.T * dtype.itemsize + np.array((first, second, out), np.int64)[:, None]
            if p.batch > 1 and (not self._wide(dtype) or not (table % _WIDE).any()):
                # The addresses of every A, then of every B and every C, on the device.
                held = self._device.store(np.ascontiguousarray(table).tobytes())
                at, step = self._device.pointer(held), 8 * p.batch
                ends = (at, code, p.lda, at + step, code, p.ldb, zero, at + 2 * step, code, p.ldc)
                call(lib.cublasGemmBatchedEx, handle, *head, *ends, p.batch, *tail)
                return
            for a, b, c in table.T.tolist():
                ends = (a, code, p.lda, b, code, p.ldb, zero, c, code, p.ldc)
                call(lib.cublasGemmEx, handle, *head, *ends, *tail)

    def _arithmetic(self, dtype: dt.DType) -> tuple[Any, Any, int]:
        """One and zero in the type of sums, and how to multiply."""
        if dtype is dt.float64:
            return *self._double, _COMPUTE_64F
        if dtype is dt.float32 and self.tf32:
            return *self._single, _COMPUTE_32F_FAST_TF32
        return *self._single, _COMPUTE_32F

    def _wide(self, dtype: dt.DType) -> bool:
        """Whether cuBLAS reads many bytes at a time without a look at the addresses."""
        return dtype.itemsize == 2 or (dtype is dt.float32 and self.tf32)

    def _opened(self) -> Any:
        if self._handle is None:
            lib, driver = self._lib, self._device.driver
            slot = self._ffi.new("cublasHandle_t *")
            self._call(lib.cublasCreate_v2, slot)
            handle = slot[0]
            new = self._device.capability >= (9, 0)
            size = _WORKSPACE if new else _WORKSPACE_BEFORE
            self._workspace = self._device.allocate(size)
            self._call(lib.cublasSetMathMode, handle, _NO_REDUCED_PRECISION)
            # In this order: setting the stream takes the workspace away.
            self._call(lib.cublasSetStream_v2, handle, int(driver.stream.handle))
            address = self._device.pointer(self._workspace)
            self._call(lib.cublasSetWorkspace_v2, handle, address, size)
            driver.before_close(lambda: lib.cublasDestroy_v2(handle))
            self._handle = handle
        return self._handle

    def _call(self, function: Any, *arguments: Any) -> None:
        status = self._device.driver.call("multiplying matrices", function, *arguments)
        if status == 0:
            return
        name, what = self._device.info.name, _STATUS.get(status, f"status {status}")
        if status == _ALLOC_FAILED:
            raise OutOfMemoryError(
                f"{name}: out of memory while multiplying matrices ({what}); drop tensors that are "
                "no longer needed or work on smaller pieces"
            )
        raise LaunchError(
            f"{name} failed while multiplying matrices ({what}); use portable kernels "
            "(tensorbus.reproducible) if it stays so"
        )


def native_table(device: CudaDevice, path: str | None = None) -> NativeTable:
    """The native kernels of a device: ``matmul``; none without cuBLAS.

    Args:
        device: The device.
        path: The library; None searches wheels, toolkits and the system's loader.
    """
    table = NativeTable()
    blas = _found(device, path)
    if blas is None:
        return table

    @table.implements(
        "matmul",
        when=lambda case: gemm.supported(case, _TYPES, gemm.INT32),
        library=blas.name,
    )
    def matmul(case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
        blas.multiply(case, buffers, offsets)

    return table


def _found(device: CudaDevice, path: str | None) -> Blas | None:
    """cuBLAS of the compiler's version if there is one: of two in a process, one is enough.

    Raises:
        BackendError: ``TENSORBUS_CUDA_TF32`` is neither on nor off.
    """
    names = [path] if path is not None else candidates("cublas")
    wanted, tf32 = device.cuda_major, switch(TF32)
    names.sort(key=lambda name: (major(name) or wanted) > wanted)
    for name in names:
        with contextlib.suppress(OSError, AttributeError, BackendError):
            return Blas(name, device, tf32)
    return None
