"""index_add and scatter without scattering: every target finds what is meant for it.

The index of each row is sorted (stably), a binary search gives each target the segment of sources
that name it, and one map walks the segments: `index_add` adds a segment to the target's own value
one by one in the order of position, `scatter` takes the segment's last.  So each element is
computed once, from one place, and duplicates have one defined meaning on every device.

Shapes: target (P, N, R), index (P, B), source (P, B, R): P rows that do not mix, N places, R
elements that share a place.  An index outside [0, N) names no target, so its source is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr

from .._autograd import Context
from .._devices import Device
from .._op import Op, apply
from .._plan import Value
from .._planner import Planner
from .._recent import kept
from .._spec import Shape, Spec
from .._tensor import Tensor
from ._gather_kernel import iota
from ._moves import bits_dtype, copied, packed
from ._sort_kernel import argsorted_rows
from .manipulation import broadcast_to

__all__ = ["add_segments", "put_segments"]


def _segments(p: Planner, index: Value, places: int) -> tuple[Value, Value]:
    """Add the steps that sort an index (P, B): order (P, B), starts of segments (P, places + 1)."""
    rows, count = index.shape
    if count >= 1 << 31:
        raise ValueError(f"index of {count} elements: at most 2**31 - 1 are supported")
    order = argsorted_rows(p, index)
    ordered, starts = p.new(dt.int64, (rows, count)), p.new(dt.int64, (rows, places + 1))
    size = rows * count
    flat = ordered.read(strides=(1,))
    given = [index.whole(), order.whole()]
    p.map("sorted_index", [_in_order()], (size,), given, [flat], [(dt.int64, count)])
    p.map(
        "segment_starts",
        [_start()],
        (starts.size,),
        [ordered.whole()],
        [starts.read(strides=(1,))],
        [(dt.int64, places + 1), (dt.int64, count), (dt.int32, count.bit_length())],
    )
    return order, starts


@kept(1)
def _in_order() -> Expr:
    """The index at a place of the order; scalar: length of a row."""
    index, width = ir.index(), ir.param(0, dt.int64)
    row = ir.idiv(index, width) * width
    return ir.load(0, dt.int64, row + ir.load(1, dt.int64, index))


@kept(1)
def _start() -> Expr:
    """The first place of a row that is not below a target; scalars: targets + 1, length, rounds."""
    index, n, b = ir.index(), ir.param(0, dt.int64), ir.param(1, dt.int64)
    r = ir.idiv(index, n)
    wanted, base = index - r * n, r * b

    def halve(_: Expr, low: Expr, high: Expr) -> list[Expr]:
        half = (low + high) >> 1
        less = ir.load(0, dt.int64, base + ir.select(half < b, half, b - 1)) < wanted
        going = low < high
        return [ir.select(going & less, half + 1, low), ir.select(going & ~less, half, high)]

    return ir.repeat(ir.param(2, dt.int32), [ir.const(0, dt.int64), b], halve)[0]


def _add_body(dtype: DType, first: Expr, count: Expr, order: Expr, source: Expr) -> Expr:
    """The target's value, then the segment's sources one after the other."""

    def add(i: Expr, total: Expr) -> list[Expr]:
        at = ir.load(3, dt.int64, first + ir.cast(i, dt.int64))
        return [total + ir.load(4, dtype, source + at * ir.param(0, dt.int64))]

    (total,) = ir.repeat(ir.cast(count, dt.int32), [ir.input_(0, dtype)], add)
    return total


def _put_body(dtype: DType, first: Expr, count: Expr, order: Expr, source: Expr) -> Expr:
    """The segment's last source, or the target's own value where it is empty."""
    some = count > 0
    last = ir.select(some, first + count - 1, order)
    at = ir.load(3, dt.int64, last)
    value = ir.load(4, dtype, source + at * ir.param(0, dt.int64))
    return ir.select(some, value, ir.input_(0, dtype))


class _SegmentOp(Op):
    """Operands: target (P, N, R) of any strides, index (P, B) int64, source (P, B, R)."""

    def __init__(self, name: str, body: Callable[..., Expr], by_bits: bool, **rules: Any) -> None:
        super().__init__(name, **rules)
        self.body, self.by_bits = body, by_bits

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(specs[0].dtype, specs[0].shape)]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        target, index, source = values
        rows, places, inner = target.shape
        count = index.shape[1]
        if target.size == 0 or count == 0:
            return copied(p, target)
        dtype = bits_dtype(target.dtype) if self.by_bits else target.dtype
        order, starts = _segments(p, packed(p, index), places)
        out = p.new(target.dtype, target.shape)
        segments, steps = (rows, places, 1), (places + 1, 1, 0)
        p.map(
            self.name,
            [_over_segments(self.body, dtype)],
            target.shape,
            [
                target.read(dtype),
                starts.read(shape=segments, strides=steps),
                starts.read(shape=segments, strides=steps, offset=1),
                order.whole(),
                packed(p, source).whole(dtype),
                p.table((rows,), (count,)).read(shape=(rows, 1, 1), strides=(1, 1, 1)),
                p.table((rows, inner), (count * inner, 1)).read(
                    shape=(rows, 1, inner), strides=(inner, 1, 1)
                ),
            ],
            [out.read(dtype)],
            [(dt.int64, inner)],
        )
        return out


@kept(64)
def _over_segments(body: Callable[..., Expr], dtype: DType) -> Expr:
    """Operands: target, start, end, order, source, element offset in the order and the source."""
    start, end = ir.input_(1, dt.int64), ir.input_(2, dt.int64)
    row_order, at_source = ir.input_(5, dt.int64), ir.input_(6, dt.int64)
    return body(dtype, row_order + start, end - start, row_order, at_source)


class _Pick(Op):
    """What sources contributed to a scatter: ``g`` at their place if they won it, else 0.

    Operands: g (P, N, R), index (P, B), winner (P, N): the source that each place took.
    """

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        g, index, _ = specs
        return [(g.dtype, (*index.shape, g.shape[2]))]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        g, index, winner = values
        ((dtype, shape),) = self.infer([v.spec for v in values], options)
        rows, places, inner = g.shape
        count = index.shape[1]
        bits = bits_dtype(dtype)
        out = p.new(dtype, shape)
        p.map(
            self.name,
            [_picked(bits)],
            shape,
            [
                packed(p, g).whole(bits),
                packed(p, index).read(shape=(rows, count, 1), strides=(count, 1, 1)),
                p.table((rows,), (places,)).read(shape=(rows, 1, 1), strides=(1, 1, 1)),
                packed(p, winner).whole(),
                p.table((count,), (1,)).read(shape=(1, count, 1), strides=(1, 1, 1)),
                p.table((inner,), (1,)).read(shape=(1, 1, inner), strides=(1, 1, 1)),
            ],
            [out.read(bits)],
            [(dt.int64, inner), (dt.int64, places)],
        )
        return out


@kept(16)
def _picked(bits: DType) -> Expr:
    at = ir.input_(1, dt.int64)
    inside = (at >= 0) & (at < ir.param(1, dt.int64))
    place = ir.input_(2, dt.int64) + ir.select(inside, at, ir.const(0, dt.int64))
    won = inside & ir.load(3, dt.int64, place).eq(ir.input_(4, dt.int64))
    value = ir.load(0, bits, place * ir.param(0, dt.int64) + ir.input_(5, dt.int64))
    return ir.select(won, value, ir.const(0, bits))


def zeros_of(spec: Spec, shape: Shape) -> Tensor:
    """A broadcast zero: no memory of its own size."""
    from .creation import zeros

    return broadcast_to(zeros((), dtype=spec.dtype, device=spec.device), shape)


def _add_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    from .selection import rows_at

    return [g if c.needs[0] else None, None, rows_at(g, c.input(1)) if c.needs[2] else None]


def _add_jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    target, _, source = tangents
    if source is None:
        return target
    base = target if target is not None else zeros_of(source._spec, c.input_spec(0).shape)
    return add_segments(base, c.input(1), source)


def _put_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    index, source = c.input(1), c.input_spec(2)
    target = put_segments(g, index, zeros_of(source, source.shape)) if c.needs[0] else None
    if not c.needs[2]:
        return [target, None, None]
    rows, places, _ = g.shape
    count = index.shape[1]
    device = g.device
    numbers = broadcast_to(_column(iota(device, count)), (rows, count, 1))
    nobody = _minus_one(device, (rows, places, 1))
    winner = put_segments(nobody, index, numbers)
    flat = Tensor(winner._buffer, Spec.of(device, dt.int64, (rows, places)), winner._offset)
    return [target, None, apply(_pick, [g, index, flat])]


def _column(x: Tensor) -> Tensor:
    return Tensor(x._buffer, Spec.of(x.device, x.dtype, (1, math.prod(x.shape), 1)), x._offset)


def _minus_one(device: Device, shape: Shape) -> Tensor:
    from .creation import full

    return broadcast_to(full((), -1, dtype=dt.int64, device=device), shape)


def _put_jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    target, _, source = tangents
    given = target if target is not None else source
    if given is None:
        return None
    target = target if target is not None else zeros_of(given._spec, c.input_spec(0).shape)
    source = source if source is not None else zeros_of(given._spec, c.input_spec(2).shape)
    return put_segments(target, c.input(1), source)


def _pick_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    spec = c.input_spec(0)
    return [put_segments(zeros_of(spec, spec.shape), c.input(1), g), None, None]


def _pick_jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    t = tangents[0]
    return None if t is None else apply(_pick, [t, c.input(1), c.input(2)])


_add = _SegmentOp("index_add", _add_body, False, vjp=_add_vjp, jvp=_add_jvp)
_put = _SegmentOp("scatter", _put_body, True, vjp=_put_vjp, jvp=_put_jvp)
_pick = _Pick("scatter_source", vjp=_pick_vjp, jvp=_pick_jvp)


def add_segments(target: Tensor, index: Tensor, source: Tensor) -> Tensor:
    """`target` (P, N, R) with `source` (P, B, R) added at `index` (P, B), in order of position."""
    return apply(_add, [target, index, source])  # type: ignore[no-any-return]


def put_segments(target: Tensor, index: Tensor, source: Tensor) -> Tensor:
    """`target` with `source` put at `index`; the last of several in a row's order stays."""
    return apply(_put, [target, index, source])  # type: ignore[no-any-return]
