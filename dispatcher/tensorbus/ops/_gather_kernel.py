"""Reading elements at computed places: the kernels behind take, gather and integer indexing.

An output element is ``x[offset + sum_j wrap(index_j) * stride_j]``, or 0 where an index is out of
range.  The offset, which comes from
the dimensions that are not indexed, is read from a table that broadcasts over the indexed ones, so
the kernels are few and divide nothing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.contract import Feature
from tensorbus_backends.dtypes import DType
from tensorbus_backends.environment import switch
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import MONOIDS

from .._devices import Device
from .._late import Check
from .._op import Op, perform
from .._plan import Arg, Value
from .._planner import Planner
from .._recent import kept
from .._spec import Shape, Spec, broadcast_strides
from .._tensor import Tensor
from ._moves import bits_dtype, packed
from .reduction import reduce_into

__all__ = ["broadcast_index", "check_bounds", "gathered", "iota", "linear_index"]


def wrap(index: Expr, size: Expr) -> Expr:
    """A negative index counts from the end."""
    return ir.select(index < 0, index + size, index)


# -- bounds -----------------------------------------------------------------------------------


def _outside(index: Expr, size: Expr) -> Expr:
    return (index < -size) | (index >= size)


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


class _Checked(Op):
    """The number of the first check with a bad index, or 0, and that index: see `_late`.

    Operands: the index; these two words after the checks before it, if there were any.
    Options: ``size`` of the axis, ``number`` of the check.
    """

    sizes = ("size", "number")

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(dt.int64, (2,))]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        index, *before = values
        flat = packed(p, index if index.shape else p.view(index, (1,)))
        size, number = (dt.int64, options["size"]), (dt.int64, options["number"])
        first, out = p.new(dt.int64, (1,)), p.new(dt.int64, (2,))
        line = p.view(flat, (flat.size,))
        reduce_into(p, "bad_index", [line], (0,), _first_bad(), MONOIDS["min"], first, None, [size])
        words = [out.read(shape=(1,), strides=(1,), offset=k) for k in range(2)]
        known = [b.read(shape=(1,), strides=(1,), offset=k) for b in before for k in range(2)]
        exprs = _noted(bool(before))
        p.map("noted_index", exprs, (1,), [first, flat.whole(), *known], words, [number])
        return out


@kept(1)
def _first_bad() -> Expr:
    """The place of an index that is out of range; scalar: the size."""
    bad = _outside(ir.input_(0, dt.int64), ir.param(0, dt.int64))
    return ir.select(bad, ir.index(), ir.const(dt.int64.max, dt.int64))


@kept(2)
def _noted(before: bool) -> tuple[Expr, Expr]:
    """The two words; operands: first bad place, index, words before; scalar: the number."""
    place, none = ir.input_(0, dt.int64), ir.const(0, dt.int64)
    bad = place < dt.int64.max
    index = ir.select(bad, ir.load(1, dt.int64, ir.select(bad, place, none)), none)
    number = ir.select(bad, ir.param(0, dt.int64), none)
    if not before:
        return number, index
    known = ir.input_(2, dt.int64)
    free = known.eq(0)
    return ir.select(free, number, known), ir.select(free, index, ir.input_(3, dt.int64))


_extreme = _Extreme("_extreme_index")
_checked = _Checked("_checked_index")


def check_bounds(name: str, index: Tensor, size: int, axis: int, operand: str = "index") -> None:
    """Have every element of an int64 tensor checked to be in [-size, size).

    A synchronous device, and every one with ``TENSORBUS_CHECK_INDICES``, raises IndexError here;
    others at the next read-back or `synchronize`.  Kernels that read with an index out of range
    get 0 there, and write nothing, so that nothing else has to wait.
    """
    if not index.size:
        return
    device, check = index._spec.device, Check(name, operand, axis, size)
    # That an index into nothing is bad is known without a look, and kernels need one valid place.
    if (
        size
        and not device.backend.has(Feature.SYNCHRONOUS)
        and not switch("TENSORBUS_CHECK_INDICES")
    ):

        def run(words: Tensor | None, number: int) -> Tensor:
            given = (index,) if words is None else (index, words)
            return perform(_checked, given, {"size": size, "number": number})  # type: ignore[no-any-return]

        device.late.add(check, run)
        return
    found = perform(_extreme, (index,))
    raw = bytearray(8)
    device.backend.copy_out(found._buffer, 0, memoryview(raw))
    if struct.unpack("=q", raw)[0] >= size:
        values = index.detach().numpy().reshape(-1)
        raise check.error(next(int(i) for i in values if not -size <= i < size))


# -- tables -----------------------------------------------------------------------------------


class _Iota(Op):
    """Option: ``count``."""

    sizes = ("count",)

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
        indices: int64, broadcast to `shape`.
        sizes: Of the indexed dimensions of `x`.
        strides: Of the indexed dimensions of `x`.
    """
    bits = bits_dtype(x.dtype)
    kept = tuple(1 if s == 0 else n for n, s in zip(shape, rest, strict=True))
    tabled = math.prod(kept) > 1
    out = p.new(x.dtype, shape)
    tables = [p.table(kept, rest)] if tabled else []
    params = [(dt.int64, n) for pair in zip(sizes, strides, strict=True) for n in pair]
    value = _gathered(bits, tabled, len(sizes))
    p.map("gather", [value], shape, [x.whole(bits), *tables, *indices], [out.read(bits)], params)
    return out


@kept(256)
def _gathered(bits: DType, tabled: bool, count: int) -> Expr:
    """An element of `x`, 0 for a bad index; scalars: size and stride of each indexed dimension."""
    at: Expr | None = ir.input_(1, dt.int64) if tabled else None
    bad: Expr | None = None
    for k in range(count):
        n, s = ir.param(2 * k, dt.int64), ir.param(2 * k + 1, dt.int64)
        i = ir.input_(1 + tabled + k, dt.int64)
        part, out = wrap(i, n) * s, _outside(i, n)
        at = part if at is None else at + part
        bad = out if bad is None else bad | out
    assert at is not None
    assert bad is not None
    zero = ir.const(0, dt.int64)
    return ir.select(bad, ir.const(0, bits), ir.load(0, bits, ir.select(bad, zero, at)))


class _Linear(Op):
    """Options: ``shape``, ``sizes``."""

    sizes = ("shape", "sizes")

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
    bad: Expr | None = None
    for k in range(count):
        n = ir.param(k, dt.int64)
        i = ir.input_(k, dt.int64)
        at, out = wrap(i, n), _outside(i, n)
        total = at if total is None else total * n + at
        bad = out if bad is None else bad | out
    assert total is not None
    assert bad is not None
    return ir.select(bad, ir.const(dt.int64.min, dt.int64), total)


_linear = _Linear("_linear_index")


def linear_index(indices: Sequence[Tensor], shape: Shape, sizes: Sequence[int]) -> Tensor:
    """C-order place in an array of `sizes` for index vectors broadcast to `shape`, wrapped.

    Where an index is out of range it is the least int64, which is no place.
    """
    options = {"shape": tuple(shape), "sizes": tuple(sizes)}
    return perform(_linear, indices, options)  # type: ignore[no-any-return]


def broadcast_index(index: Value, shape: Shape, trailing: int) -> Arg:
    """An index broadcast to `shape`, followed by `trailing` dimensions."""
    strides = broadcast_strides(index.shape, index.strides, shape)
    return index.read(dt.int64, (*shape, *(1,) * trailing), (*strides, *(1,) * trailing))
