"""Contractions: C[b, i, j] = f(sum over k of A[b, i, k] B[b, k, j]), in a fixed order.

Batch, rows, columns and k are groups of dimensions in C order.  A is indexed by batch, rows and k,
B by batch, k and columns, C and what the epilogue reads by batch, rows and columns.  An element
lies at

    offset + start + sum over its dimensions d of index[d] * stride[d]

and all these numbers are words of the metadata: a kernel knows how many dimensions rows, columns
and k have, and nothing else of a shape.  The places of a tile, of its rows and of its columns are
found by division, once; along k addresses move by increments.

A and B may have limits: a coordinate ``start + sum of index[d] * step[d]`` that has to lie in
[0, size).  Beyond it the operand is +0 and its memory is not read.  So a convolution is a
contraction: k walks channels and window, rows and columns walk images, positions and filters, the
steps of window and positions are dilation and stride, and padding is the limit's negative start.

A prologue makes a factor of an element of A or B, an epilogue the result of a sum and of elements
of other operands at its place, as expressions of the scalar IR; both may use launch scalars.

The sum over k is cut into blocks of `KBLOCK`.  In a block, products are added by fma in the order
of k, starting from -0 (so the first product is just rounded); block sums are added in order.
A sum over no k is +0.  Integers wrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import interp, ir
from ..dialect import Dialect
from ..dtypes import DType
from ..ir import Expr
from .base import Argument, Kernel, param_value
from .contraction_layout import (
    BATCH,
    COLUMNS,
    INNER,
    KBLOCK,
    ROWS,
    SHAPE,
    SIZES,
    Affine,
    Layout,
    Walk,
)
from .contraction_text import HEIGHT, WIDTH, Text

__all__ = ["Contraction"]


@dataclass(frozen=True)
class Contraction(Kernel):
    """A batched sum of products.

    Attributes:
        label: Op name.
        left: Storage dtype of A.
        right: Storage dtype of B.
        out: Storage dtype of C.
        acc: Compute dtype in which products are added.
        dims: How many dimensions rows, columns and k have, each at least one.
        unit: Whether columns are one dimension along which B's stride is 1, so that lanes read
            neighbours.
        limits: How many coordinates of A and of B are checked.
        prologue: Factors made of elements of A and of B, each `input_(0)`; None: the element.
        epilogue: The result made of the sum, `input_(0)`, and elements of `extras`, `input_(1)`
            and so on; None: the sum.
        extras: Storage dtypes of what the epilogue reads.
        params: Dtypes of launch scalars.
    """

    __hash__ = Kernel.__hash__

    label: str
    left: DType
    right: DType
    out: DType
    acc: DType
    dims: tuple[int, int, int] = (1, 1, 1)
    unit: bool = True
    limits: tuple[int, int] = (0, 0)
    prologue: tuple[Expr | None, Expr | None] = (None, None)
    epilogue: Expr | None = None
    extras: tuple[DType, ...] = ()
    params: tuple[DType, ...] = ()

    def __post_init__(self) -> None:
        for storage, expr in zip((self.left, self.right), self.prologue, strict=True):
            factor = storage.compute if expr is None else expr.dtype
            if factor is not self.acc:
                raise ir.IRError(f"contraction: a factor is {factor.name}, not {self.acc.name}")
            if expr is not None:
                ir.validate([expr], [storage], self.params, allow_index=False)
        if self.epilogue is not None:
            given = (self.acc, *self.extras)
            ir.validate([self.epilogue], given, self.params, allow_index=False)
        if min(self.dims) < 1 or (self.unit and self.dims[1] != 1):
            raise ValueError(f"contraction: no kernel for dimensions {self.dims}")

    @classmethod
    @cache
    def product(cls, dtype: DType, unit: bool = True) -> Contraction:
        """The matrix product of one storage dtype."""
        return cls("matmul", dtype, dtype, dtype, dtype.compute, unit=unit)

    def expressions(self) -> Sequence[Expr]:
        return [e for e in (*self.prologue, self.epilogue) if e is not None]

    def shape_key(self) -> str:
        dtypes = [d.name for d in (self.left, self.right, self.out, self.acc, *self.extras)]
        slots = [e is not None for e in (*self.prologue, self.epilogue)]
        params = [p.name for p in self.params]
        return f"{dtypes}{self.dims}{self.unit}{self.limits}{slots}{params}"

    def arguments(self) -> list[Argument]:
        return [
            Argument("a", self.left),
            Argument("b", self.right),
            *(Argument(f"e{k}", d) for k, d in enumerate(self.extras)),
            Argument("c", self.out, True),
        ]

    @cached_property
    def layout(self) -> Layout:
        """Where its metadata has which number."""
        names = tuple(a.name for a in self.arguments())
        return Layout(self.dims, self.limits, names, len(self.params))

    @property
    def words(self) -> int:
        return self.layout.words

    @property
    def places(self) -> list[int]:
        """The word of the element offset of each argument."""
        return self.layout.places

    def meta(
        self,
        batch: Sequence[int],
        rows: Sequence[int],
        columns: Sequence[int],
        inner: Sequence[int],
        walks: Sequence[Walk],
        params: Sequence[int] = (),
        offsets: Sequence[int] = (),
    ) -> list[int]:
        """Metadata words: see `Layout.meta`."""
        return self.layout.meta(batch, rows, columns, inner, walks, params, offsets)

    def groups(self, dialect: Dialect | None, m: int, n: int, batch: int) -> int:
        """Number of groups to launch."""
        width = WIDTH if dialect else n
        return batch * -(-m // HEIGHT) * -(-n // width)

    def local_bytes(self, dialect: Dialect) -> int:
        if not dialect.loops:
            return 0
        tables = 8 * WIDTH * len(Text(self).tabled)
        return 2 * HEIGHT * WIDTH * self.acc.itemsize + tables

    def source(self, dialect: Dialect) -> str:
        return Text(self).source(dialect)

    def interpret(
        self, arrays: Sequence[NDArray[Any]], meta: NDArray[np.int64], groups: int
    ) -> None:
        m, n, k = (int(meta[w]) for w in (ROWS, COLUMNS, INNER))
        sizes = np.split(meta[SIZES : SIZES + sum(self.dims)], np.cumsum(self.dims)[:2])
        rows, columns, inner = map(_grid, sizes)
        batch = _grid(meta[SHAPE : SHAPE + int(meta[BATCH])])
        params = [
            param_value(int(meta[self.layout.first_param + k]), p)
            for k, p in enumerate(self.params)
        ]
        groups_of = [(rows, inner), (inner, columns), *[(rows, columns)] * (1 + len(self.extras))]
        a, b, *read, c = (
            _evaluated(meta, p, checks, batch, one, two)
            for (p, checks), (one, two) in zip(self.layout.operands, groups_of, strict=True)
        )

        def leaf_of(inputs: Sequence[NDArray[Any]]) -> Callable[[Expr], NDArray[Any]]:
            return lambda node: (inputs if node.op == "input" else params)[node.attr]

        def factor(which: int, where: NDArray[np.int64], inside: NDArray[np.bool_]) -> NDArray[Any]:
            storage, expr = (self.left, self.right)[which], self.prologue[which]
            if not where.size:
                return np.empty(where.shape, self.acc.numpy)
            first = meta[self.places[which]]
            value = interp.widen(arrays[which][np.where(inside, where, first)], storage)
            if expr is not None:
                (value,) = interp.evaluate([expr], leaf_of([value]))
            return np.where(inside, value, self.acc.numpy.type(0))

        left, right = factor(0, *a), factor(1, *b)
        minus = -0.0 if self.acc.is_float else 0
        total = np.full((left.shape[0], m, n), minus if k else 0, self.acc.numpy)
        for begin in range(0, k, KBLOCK):
            block = np.full_like(total, minus)
            for at in range(begin, min(begin + KBLOCK, k)):
                block = self._step(left[:, :, at : at + 1], right[:, at : at + 1, :], block)
            with np.errstate(all="ignore"):
                total = interp.add(total, block)
        if self.epilogue is not None:
            found = [
                interp.widen(arrays[2 + i][where], d)
                for i, ((where, _), d) in enumerate(zip(read, self.extras, strict=True))
            ]
            (total,) = interp.evaluate([self.epilogue], leaf_of([total, *found]))
        arrays[-1][c[0]] = interp.narrow(np.broadcast_to(total, c[0].shape), self.out)

    def _step(self, a: NDArray[Any], b: NDArray[Any], acc: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(all="ignore"):
            if not self.acc.is_float:
                return np.asarray(acc + a * b)
            left, right = np.broadcast_to(a, acc.shape), np.broadcast_to(b, acc.shape)
            exact = interp.fma64 if acc.dtype == np.float64 else interp.fma32
            return exact(left, right, acc).reshape(acc.shape)


def _grid(shape: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of all places in C order: (dimensions, places)."""
    sizes = tuple(int(n) for n in shape)
    return np.indices(sizes, np.int64).reshape(len(sizes), math.prod(sizes))


def _evaluated(
    meta: NDArray[np.int64],
    place: Affine,
    checks: Sequence[Affine],
    batch: NDArray[np.int64],
    one: NDArray[np.int64],
    two: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Places of an operand's elements, (batch, first, second), and which are within the limits."""

    def along(word: int, grid: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(meta[word : word + len(grid)] @ grid, np.int64)

    def plane(p: Affine) -> NDArray[np.int64]:
        both = along(p.first, one)[:, None] + along(p.second, two)[None, :]
        return np.asarray(both + meta[p.start])

    passes = along(place.batch, batch) + meta[place.start - 1]
    where = passes[:, None, None] + plane(place)
    inside = np.ones(where.shape, np.bool_)
    for p in checks:
        at = plane(p)
        inside &= (at >= 0) & (at < meta[p.size])
    return where, inside
