"""Matrix products as BLAS libraries want them: which they can take, and with what arguments.

Every BLAS computes ``C = op(A) op(B)`` from addresses, sizes, transpose flags and leading
dimensions.  `supported` tells whether a product of strided tensors can be put that way, and `plan`
puts it.  OpenBLAS takes a `Product` as it is, in row-major order; cuBLAS and rocBLAS know
column-major order only and take its `Product.column_major`.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from .contract import NativeCase
from .dtypes import DType

__all__ = ["INT32", "INT64", "Product", "plan", "supported"]

INT32, INT64 = (1 << 31) - 1, (1 << 63) - 1

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """A batch of products ``C = op(A) op(B)``, in row-major order.

    ``op(A)`` is (m, k), ``op(B)`` is (k, n), C is (m, n).  Element (i, j) of a matrix as it is
    stored lies at ``offset + i * ld + j``; if transposed, the stored matrix is the transpose.

    Attributes:
        m: Rows of C.
        n: Columns of C.
        k: Inner size.
        trans_a: A is stored as (k, m).
        lda: Leading dimension of A in elements, at least m if `trans_a`, else at least k.
        trans_b: B is stored as (n, k).
        ldb: Leading dimension of B, at least k if `trans_b`, else at least n.
        ldc: Leading dimension of C, at least n.
        shape: The batch's dimensions; () for one product.
        steps: Elements from one matrix to the next along each dimension of `shape`, of A, B, C;
            0 where an operand is broadcast.
    """

    m: int
    n: int
    k: int
    trans_a: bool
    lda: int
    trans_b: bool
    ldb: int
    ldc: int
    shape: Shape = ()
    steps: tuple[Shape, Shape, Shape] = ((), (), ())

    @functools.cached_property
    def batch(self) -> int:
        """Number of products, at least 1."""
        return int(np.prod(self.shape, dtype=np.int64))

    @functools.cached_property
    def strides(self) -> tuple[int, int, int] | None:
        """Elements from one matrix of the batch to the next, of A, B and C, none negative.

        None if an operand's matrices are not evenly spaced, or lie backwards (no library says that
        it takes a negative stride): then use `offsets`, with an array of pointers or one by one.
        """
        a, b, c = (_stride(self.shape, steps) for steps in self.steps)
        return None if a is None or b is None or c is None else (a, b, c)

    @functools.cached_property
    def offsets(self) -> Any:
        """Element offset of each matrix: read-only int64, (batch, 3), columns A, B, C."""
        table = np.zeros((1, 3), np.int64)
        for n, *steps in zip(self.shape, *self.steps, strict=True):
            along = np.arange(n, dtype=np.int64)[:, None] * np.array(steps, np.int64)
            table = (table[:, None] + along).reshape(-1, 3)
        table.flags.writeable = False
        return table

    def column_major(self) -> Product:
        """The same batch for a library that knows column-major order only.

        A row-major matrix is its transpose in column-major order, and ``C' = op(B)' op(A)'``: so
        the operands change places and nothing is transposed or moved.  In the result, "A" is the
        second operand and "B" the first, in `offsets` and `strides` too; element (i, j) of a
        stored matrix lies at ``offset + i + j * ld``.  So, for cuBLAS::

            p = plan(case.shapes, case.strides).column_major()
            sa, sb, sc = p.strides
            gemmStridedBatched(op(p.trans_a), op(p.trans_b), p.m, p.n, p.k, alpha,
                               second, p.lda, sa, first, p.ldb, sb, beta, out, p.ldc, sc, p.batch)
        """
        a, b, c = self.steps
        return replace(
            self,
            m=self.n,
            n=self.m,
            trans_a=self.trans_b,
            lda=self.ldb,
            trans_b=self.trans_a,
            ldb=self.lda,
            steps=(b, a, c),
        )

    def fits(self, largest: int) -> bool:
        """Whether sizes, leading dimensions and the batch are at most `largest`."""
        return max(self.m, self.n, self.k, self.lda, self.ldb, self.ldc, self.batch) <= largest


def supported(case: NativeCase, dtypes: Collection[DType], largest: int = INT64) -> bool:
    """Whether a product goes to BLAS: (..., M, K) x (..., K, N) -> (..., M, N).

    One dtype throughout, nothing empty, each operand with rows or columns of stride 1 that do not
    overlap (batch dimensions are free), and a contiguous output.

    Args:
        case: Operands, then the output.
        dtypes: What the library multiplies.
        largest: Its largest size, leading dimension and batch: `INT32` for cuBLAS and rocBLAS.
    """
    if len(case.shapes) != 3 or len({*case.dtypes}) != 1 or case.dtypes[0] not in dtypes:
        return False
    a, b, c = case.shapes
    if min(map(len, case.shapes)) < 2 or 0 in (*a, *b, *c):
        return False
    if a[-1] != b[-2] or (a[-2], b[-1]) != c[-2:]:
        return False
    if not (_broadcasts(a[:-2], c[:-2]) and _broadcasts(b[:-2], c[:-2])):
        return False
    ends = zip(case.shapes[:2], case.strides[:2], strict=True)
    if not all(_leading(*end) for end in ends) or not _contiguous(c, case.strides[2]):
        return False
    return plan(case.shapes, case.strides).fits(largest)


@functools.lru_cache(maxsize=1024)
def plan(shapes: tuple[Shape, ...], strides: tuple[Shape, ...]) -> Product:
    """The arguments of a product that is `supported`.

    Args:
        shapes: Of both operands and the output, as in `NativeCase`.
        strides: In elements, likewise.
    """
    a, b, c = shapes
    first, second = _leading(a, strides[0]), _leading(b, strides[1])
    if first is None or second is None:
        raise ValueError(f"no BLAS call for {shapes} with strides {strides}; ask `supported` first")
    batch = c[:-2]
    of_a, of_b, of_c = (_steps(s, t, batch) for s, t in zip(shapes, strides, strict=True))
    sizes = (a[-2], b[-1], a[-1])
    product = Product(*sizes, *first, *second, c[-1], batch, (of_a, of_b, of_c))
    return _folded(product)


def _folded(product: Product) -> Product:
    """One tall product in place of a batch with one B, where rows of A and C follow each other."""
    strides, m = product.strides, product.m
    if product.batch == 1:
        return replace(product, shape=(), steps=((), (), ()))
    if strides is None or product.trans_a or strides[1] != 0:
        return product
    lda = max(strides[0], product.k) if m == 1 else product.lda
    rows = m * product.batch
    if strides[0] != m * lda or strides[2] != m * product.ldc or rows > INT32:
        return product
    return replace(product, m=rows, lda=lda, shape=(), steps=((), (), ()))


def _leading(shape: Sequence[int], strides: Sequence[int]) -> tuple[bool, int] | None:
    """(transposed, leading dimension) of a matrix, or None if BLAS cannot address it.

    The leading dimension is at least the length of a stored row and at least 1, as every library
    wants it, also where it is never used.
    """
    (rows, columns), (down, across) = shape[-2:], strides[-2:]
    if across == 1 or columns == 1:
        if rows == 1:
            return False, columns
        if down >= columns:
            return False, down
    if (down == 1 or rows == 1) and across >= rows:
        return True, across
    return None


def _contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    step = 1
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and s != step:
            return False
        step *= n
    return True


def _broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    aligned = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(n in (1, m) for n, m in aligned)


def _steps(shape: Sequence[int], strides: Sequence[int], batch: Shape) -> Shape:
    """Strides of the batch dimensions of an operand that is broadcast to `batch`."""
    own = [s if n != 1 else 0 for n, s in zip(shape[:-2], strides[:-2], strict=True)]
    return (*(0,) * (len(batch) - len(own)), *own)


def _stride(shape: Shape, steps: Shape) -> int | None:
    """The one distance between neighbours of a batch in C order, None if there is none or < 0."""
    kept = [(n, s) for n, s in zip(shape, steps, strict=True) if n != 1]
    even = all(s == n * t for (_, s), (n, t) in pairwise(kept))
    last = kept[-1][1] if kept else 0
    return last if even and last >= 0 else None
