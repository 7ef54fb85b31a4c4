"""Reading elements at computed places: the kernels behind take, gather and integer indexing.

An output element is ``x[offset + sum_j wrap(index_j) * stride_j]``.  The offset, which comes from
the dimensions that are not indexed, is read from a table that broadcasts over the indexed ones, so
the kernels are few and divide nothing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import MONOIDS

from .._devices import Device
from .._op import Op, perform
from .._plan import Arg, Planner, Value
from .._recent import kept
from .._spec import Shape, Spec, broadcast_strides
from .._tensor import Tensor
from ._moves import bits_dtype
from .reduction import reduce_into

__all__ = ["broadcast_index", "check_bounds", "gathered", "iota", "linear_index"]


def wrap(index: Expr, size: Expr) -> Expr:
    """A negative index counts from the end."""
    return ir.select(index < 0, index + size, index)


# -- bounds -----------------------------------------------------------------------------------


class _Extreme(Op):
    """The greatest distance of an index from 0 or, below it, from -1."""

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(dt.int64, ())]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        (index,) = values
        flat = index if index.shape else p.view(index, (1,))
        out = p.new(dt.int64, ())
        axes = tuple(range(len(flat.shape)))
        reduce_into(p, "extremes", [flat], axes, _distance(), MONOIDS["max"], out)
        return out


@kept(1)
def _distance() -> Expr:
    # ~i is the distance of a negative index from -1, so one maximum bounds both ends but for the
    # sign, and -size - 1 maps to size.
    x = ir.input_(0, dt.int64)
    return ir.select(x < 0, ~x, x)


_extreme = _Extreme("_extreme_index")


def check_bounds(name: str, index: Tensor, size: int, axis: int) -> None:
    """Raise IndexError unless every element of an int64 tensor is in [-size, size)."""
    if not index.size:
        return
    found = perform(_extreme, (index,))
    raw = bytearray(8)
    found.device.backend.copy_out(found._buffer, 0, memoryview(raw))
    if struct.unpack("=q", raw)[0] < size:
        return
    values = index.detach().numpy().reshape(-1)
    bad = next(int(i) for i in values if not -size <= i < size)
    raise IndexError(
        f"{name}: index {bad} is out of range for axis {axis} with size {size}; "
        f"indices run from {-size} to {size - 1}"
        if size
        else f"{name}: index {bad} is out of range for axis {axis}, which is empty"
    )


# -- tables -----------------------------------------------------------------------------------


class _Iota(Op):
    """Option: ``count``."""

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(dt.int64, (options["count"],))]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        return p.table((options["count"],), (1,))


_iota = _Iota("_iota")


def iota(device: Device, n: int) -> Tensor:
    """0, 1, ..., n - 1 as int64, in memory that nobody may change."""
    return perform(_iota, (), {"count": n}, device)  # type: ignore[no-any-return]


# -- gathering --------------------------------------------------------------------------------


def gathered(
    p: Planner,
    x: Value,
    shape: Shape,
    rest: Shape,
    indices: Sequence[Arg],
    sizes: Sequence[int],
    strides: Sequence[int],
) -> Value:
    """Add the steps that read `x` at computed places.

    Args:
        p: Whose plan it is.
        x: Operand, any strides.
        shape: Of the result.
        rest: For each dimension of the result its stride in `x`, where it is not indexed, else 0;
            such dimensions are those where the table does not broadcast.
        indices: int64, values known to be in range, broadcast to `shape`.
        sizes: Of the indexed dimensions of `x`.
        strides: Of the indexed dimensions of `x`.
    """
    bits = bits_dtype(x.dtype)
    kept = tuple(1 if s == 0 else n for n, s in zip(shape, rest, strict=True))
    tabled = math.prod(kept) > 1
    out = p.new(x.dtype, shape)
    tables = [p.table(kept, rest)] if tabled else []
    params = [(dt.int64, n) for pair in zip(sizes, strides, strict=True) for n in pair]
    value = ir.load(0, bits, _place(tabled, len(sizes)))
    p.map("gather", [value], shape, [x.whole(bits), *tables, *indices], [out.read(bits)], params)
    return out


@kept(64)
def _place(tabled: bool, count: int) -> Expr:
    """Where `x` is read; scalars: size and stride of each indexed dimension."""
    at: Expr | None = ir.input_(1, dt.int64) if tabled else None
    for k in range(count):
        n, s = ir.param(2 * k, dt.int64), ir.param(2 * k + 1, dt.int64)
        part = wrap(ir.input_(1 + tabled + k, dt.int64), n) * s
        at = part if at is None else at + part
    assert at is not None
    return at


class _Linear(Op):
    """Options: ``shape``, ``sizes``."""

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(dt.int64, options["shape"])]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        shape, sizes = options["shape"], options["sizes"]
        out = p.new(dt.int64, shape)
        params = [(dt.int64, n) for n in sizes]
        p.map("linear_index", [_linear_place(len(sizes))], shape, values, [out], params)
        return out


@kept(16)
def _linear_place(count: int) -> Expr:
    total: Expr | None = None
    for k in range(count):
        n = ir.param(k, dt.int64)
        at = wrap(ir.input_(k, dt.int64), n)
        total = at if total is None else total * n + at
    assert total is not None
    return total


_linear = _Linear("_linear_index")


def linear_index(indices: Sequence[Tensor], shape: Shape, sizes: Sequence[int]) -> Tensor:
    """C-order place in an array of `sizes` for index vectors broadcast to `shape`, wrapped."""
    options = {"shape": tuple(shape), "sizes": tuple(sizes)}
    return perform(_linear, indices, options)  # type: ignore[no-any-return]


def broadcast_index(index: Value, shape: Shape, trailing: int) -> Arg:
    """An index broadcast to `shape`, followed by `trailing` dimensions."""
    strides = broadcast_strides(index.shape, index.strides, shape)
    return index.read(dt.int64, (*shape, *(1,) * trailing), (*strides, *(1,) * trailing))
