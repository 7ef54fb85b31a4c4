"""Programs for the simulated cuBLAS, run in processes of their own: ``python FILE NAME``."""

from __future__ import annotations

import ctypes
import itertools
import sys
from ctypes import byref, c_float, c_void_p

import ml_dtypes
import numpy as np
from simulator_programs import (
    CONTROL,
    C,
    context,
    cuda,
    device_array,
    handle,
    host,
    new_stream,
)

TYPES = {0: np.float32, 1: np.float64, 2: np.float16, 14: ml_dtypes.bfloat16}
COMPUTE_32F, COMPUTE_64F, TF32 = 68, 70, 77


def column_major(matrix: np.ndarray, transposed: bool, extra: int) -> tuple[np.ndarray, int]:
    """Memory in which cuBLAS finds `matrix`, filled up with NaN, and its leading dimension.

    16-bit matrices take up whole groups of 16 bytes, as cublasGemmBatchedEx wants them.
    """
    stored = matrix.T if transposed else matrix
    leading = max(1, stored.shape[0]) + extra
    if matrix.itemsize == 2:
        leading += -leading % 8
    memory = np.full((stored.shape[1], leading), np.nan, matrix.dtype)
    memory[:, : stored.shape[0]] = stored.T
    return memory, leading


class Blas:
    """A handle, and one way to call each of the three functions."""

    def __init__(self) -> None:
        self.handle = c_void_p()
        assert C.cublasCreate_v2(byref(self.handle)) == 0

    def gemm(self, mode, ops, a, b, c, beta=0.5, compute=None, extra=2):
        """op(A) op(B) + beta C for stacks of matrices, through one of the three functions."""
        code = next(k for k, t in TYPES.items() if t == a.dtype)
        scalar = ctypes.c_double if a.dtype == np.float64 else c_float
        compute = compute or (COMPUTE_64F if a.dtype == np.float64 else COMPUTE_32F)
        (lefts, lda), (rights, ldb), (outs, ldc) = (
            self._stack(x, op, extra + n)
            for n, (x, op) in enumerate(((a, ops[0]), (b, ops[1]), (c, False)))
        )
        memory = [device_array(x) for x in (lefts, rights, outs)]
        batch = len(a)
        m, k, n = a.shape[1], a.shape[2], b.shape[2]
        one, more = scalar(1), scalar(beta)
        strides = [ctypes.c_longlong(x[0].size) for x in (lefts, rights, outs)]
        at = [handle(x) for x in memory]
        if mode == "pointers":
            first = [np.uint64(int(x)) for x in memory]
            steps = [np.uint64(x[0].nbytes) for x in (lefts, rights, outs)]
            each = np.arange(batch, dtype=np.uint64)
            lists = [device_array(f + each * s) for f, s in zip(first, steps, strict=True)]
            at = [handle(x) for x in lists]
        sizes = [int(ops[0]), int(ops[1]), m, n, k]
        if mode == "strided":
            status = C.cublasGemmStridedBatchedEx(
                self.handle, *sizes, byref(one), at[0], code, lda, strides[0], at[1], code, ldb,
                strides[1], byref(more), at[2], code, ldc, strides[2], batch, compute, -1,
            )  # fmt: skip
        else:
            call = C.cublasGemmEx if mode == "single" else C.cublasGemmBatchedEx
            count = [] if mode == "single" else [batch]
            status = call(
                self.handle, *sizes, byref(one), at[0], code, lda, at[1], code, ldb, byref(more),
                at[2], code, ldc, *count, compute, -1,
            )  # fmt: skip
        assert status == 0, status
        out = host(memory[2], outs.shape, c.dtype)
        return np.stack([x[:, :m].T for x in out])

    @staticmethod
    def _stack(matrices, transposed, extra):
        made = [column_major(matrix, transposed, extra) for matrix in matrices]
        return np.stack([memory for memory, _ in made]), made[0][1]


def products():
    own = context()
    blas = Blas()
    random = np.random.default_rng(1)
    for dtype, left, right in itertools.product(TYPES.values(), (False, True), (False, True)):
        for mode, batch in (("single", 1), ("strided", 3), ("pointers", 3)):
            # Small integers: every sum is exact in every type.
            a, b, c = (
                random.integers(-3, 4, (batch, *shape)).astype(dtype)
                for shape in ((5, 4), (4, 7), (5, 7))
            )
            c *= dtype(2)
            wanted = a.astype(float) @ b.astype(float) + 0.5 * c.astype(float)
            found = blas.gemm(mode, (left, right), a, b, c).astype(float)
            assert (found == wanted).all(), (dtype, left, right, mode)
    nothing = np.full((1, 2, 2), np.nan, np.float32)
    ones = np.ones((1, 2, 2), np.float32)
    assert (blas.gemm("single", (False, False), ones, ones, nothing, beta=0) == 2).all()
    assert C.cublasDestroy_v2(blas.handle) == 0
    assert C.cublasDestroy_v2(blas.handle) == 1
    own.pop()


def rounding():
    """Sums are float32 and rounded once; TF32 only on request."""
    own = context()
    blas = Blas()
    for dtype in (np.float16, ml_dtypes.bfloat16):
        a = np.array([[[1, 2.0**-9, 2.0**-9, 2.0**-9]]]).astype(dtype)
        b, c = np.ones((1, 4, 1), dtype), np.zeros((1, 1, 1), dtype)
        found = blas.gemm("single", (False, False), a, b, c)
        assert found[0, 0, 0] == dtype(1 + 3 * 2.0**-9), dtype
    a = np.full((1, 1, 1), 1 + 2.0**-20, np.float32)
    one, c = np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32)
    assert blas.gemm("single", (False, False), a, one, c)[0, 0, 0] == a[0, 0, 0]
    assert blas.gemm("single", (False, False), a, one, c, compute=TF32)[0, 0, 0] == 1
    assert C.cublasSetMathMode(blas.handle, 3) == 0
    assert blas.gemm("single", (False, False), a, one, c)[0, 0, 0] == 1
    own.pop()


def blas_errors():
    cuda.init()
    bad = c_void_p()
    assert C.cublasCreate_v2(byref(bad)) == 1  # no context
    own = context()
    blas = Blas()
    x = handle(device_array(np.ones(64, np.float32)))
    one = c_float(1)

    given = byref(one)

    def gemm(lda=4, ldb=4, ldc=4, m=4, kind=0, compute=COMPUTE_32F, alpha=given):
        return C.cublasGemmEx(
            blas.handle, 0, 0, m, 4, 4, alpha, x, kind, lda, x, kind, ldb, byref(one), x, kind, ldc,
            compute, -1,
        )  # fmt: skip

    assert gemm() == 0
    assert gemm(m=0) == 0
    assert {gemm(lda=3), gemm(ldb=3), gemm(ldc=3), gemm(m=-1), gemm(alpha=None)} == {7}
    assert {gemm(compute=COMPUTE_64F), gemm(kind=3), gemm(compute=5)} == {15}
    CONTROL.arm("launch", 1)
    assert gemm() == 13
    assert gemm() == 0
    own.pop()


def late_product():
    own = context()
    blas = Blas()
    apart = new_stream(1)
    assert C.cublasSetStream_v2(blas.handle, apart) == 0
    x = device_array(np.full(1, 3, np.float32))
    out = device_array(np.zeros(1, np.float32))
    one, zero = c_float(1), c_float(0)
    head = (blas.handle, 0, 0, 1, 1, 1, byref(one), handle(x), 0, 1, handle(x), 0, 1)
    assert C.cublasGemmEx(*head, byref(zero), handle(out), 0, 1, COMPUTE_32F, -1) == 0
    assert host(out, 1)[0] == 0
    assert C.cuStreamSynchronize(apart) == 0
    assert host(out, 1)[0] == 9
    own.pop()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("finished")
