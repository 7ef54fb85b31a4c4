"""index_add and scatter without scattering: every target finds what is meant for it.

The index of each row is sorted (stably), a binary search gives each target the segment of sources
that name it, and one map walks the segments: `index_add` adds a segment to the target's own value
one by one in the order of position, `scatter` takes the segment's last.  So each element is
computed once, from one place, and duplicates have one defined meaning on every device.

Shapes: target (P, N, R), index (P, B) with values in [0, N), source (P, B, R): P rows that do not
mix, N places, R elements that share a place.
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
from .._plan import Launch, Plan, map_launch
from .._spec import Shape, Spec
from .._tensor import Tensor
from ._gather_kernel import iota
from ._sort_kernel import stable_argsort_rows
from .manipulation import bits_dtype, broadcast_to, contiguous

__all__ = ["add_segments", "put_segments"]


class _Segments:
    """Launches that give order and segment starts of sorted indices, for one index spec and N."""

    def __init__(self, device: Device, rows: int, count: int, places: int) -> None:
        if count >= 1 << 31:
            raise ValueError(f"index of {count} elements: at most 2**31 - 1 are supported")
        size = rows * count
        index, width = ir.index(), ir.param(0, dt.int64)
        row = ir.idiv(index, width) * width
        flat: list[tuple[DType, Shape]] = [(dt.int64, (1,))]
        self.device = device
        self.shape = (rows, places + 1)
        self.sort = map_launch(
            device,
            "sorted_index",
            [ir.load(0, dt.int64, row + ir.load(1, dt.int64, index))],
            (size,),
            [dt.int64, dt.int64],
            flat,
            [(dt.int64, count)],
        )
        n, b = ir.param(0, dt.int64), ir.param(1, dt.int64)
        r = ir.idiv(index, n)
        wanted, base = index - r * n, r * b

        def halve(_: Expr, low: Expr, high: Expr) -> list[Expr]:
            half = (low + high) >> 1
            less = ir.load(0, dt.int64, base + ir.select(half < b, half, b - 1)) < wanted
            going = low < high
            return [ir.select(going & less, half + 1, low), ir.select(going & ~less, half, high)]

        zero = ir.const(0, dt.int64)
        start, _ = ir.repeat(ir.param(2, dt.int32), [zero, b], halve)
        self.search = map_launch(
            device,
            "segment_starts",
            [start],
            (rows * (places + 1),),
            [dt.int64],
            flat,
            [(dt.int64, places + 1), (dt.int64, count), (dt.int32, count.bit_length())],
        )

    def __call__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Order (P, B) and starts (P, N + 1)."""
        allocate = self.device.backend.allocate
        order = stable_argsort_rows(index)
        ordered = allocate(index.nbytes)
        self.sort((index._buffer, index._offset), (order._buffer, 0), (ordered, 0))
        spec = Spec.of(self.device, dt.int64, self.shape)
        starts = allocate(spec.nbytes)
        self.search((ordered, 0), (starts, 0))
        return order, Tensor(starts, spec)


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

    def plan(self, device: Device, specs: Sequence[Spec], options: dict[str, Any]) -> Plan:
        target, index, _ = specs
        rows, places, inner = target.shape
        count = index.shape[1]
        out = Spec.of(device, target.dtype, target.shape)
        if out.size == 0 or count == 0:
            return Plan(lambda x, i, s: _fresh(x))
        dtype = bits_dtype(target.dtype) if self.by_bits else target.dtype
        # Operands: target, start, end, order, source, element offset in the order and the source.
        start, end = ir.input_(1, dt.int64), ir.input_(2, dt.int64)
        row_order, at_source = ir.input_(5, dt.int64), ir.input_(6, dt.int64)
        expr = self.body(dtype, row_order + start, end - start, row_order, at_source)
        segments = (rows, places, 1)
        steps = (places + 1, 1, 0)
        launch: Launch = map_launch(
            device,
            self.name,
            [expr],
            target.shape,
            [
                (dtype, target.shape, target.strides),
                (dt.int64, segments, steps),
                (dt.int64, segments, steps),
                dt.int64,
                dtype,
                (dt.int64, (rows, 1, 1), (1, 1, 1)),
                (dt.int64, (rows, 1, inner), (inner, 1, 1)),
            ],
            [(dtype, out.strides)],
            [(dt.int64, inner)],
        )
        find = _Segments(device, rows, count, places)
        allocate = device.backend.allocate

        def run(x: Tensor, i: Tensor, s: Tensor) -> Tensor:
            from ._gather_kernel import offsets

            order, starts = find(contiguous(i.detach()))
            packed = contiguous(s.detach())
            in_order = offsets(device, (rows,), (count,))
            in_source = offsets(device, (rows, inner), (count * inner, 1))
            buffer = allocate(out.nbytes)
            launch(
                (x._buffer, x._offset),
                (starts._buffer, 0),
                (starts._buffer, 1),
                (order._buffer, 0),
                (packed._buffer, packed._offset),
                (in_order._buffer, 0),
                (in_source._buffer, 0),
                (buffer, 0),
            )
            return Tensor(buffer, out)

        return Plan(run)


def _fresh(x: Tensor) -> Tensor:
    from .manipulation import astype

    return astype(x.detach(), x.dtype, copy=True)


class _Pick(Op):
    """What sources contributed to a scatter: ``g`` at their place if they won it, else 0.

    Operands: g (P, N, R), index (P, B), winner (P, N): the source that each place took.
    """

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        g, index, _ = specs
        return [(g.dtype, (*index.shape, g.shape[2]))]

    def plan(self, device: Device, specs: Sequence[Spec], options: dict[str, Any]) -> Plan:
        g, index, _ = specs
        ((dtype, shape),) = self.infer(specs, options)
        rows, places, inner = g.shape
        count = index.shape[1]
        out = Spec.of(device, dtype, shape)
        bits = bits_dtype(dtype)
        place = ir.input_(1, dt.int64) + ir.input_(2, dt.int64)
        won = ir.load(3, dt.int64, place).eq(ir.input_(4, dt.int64))
        value = ir.load(0, bits, place * ir.param(0, dt.int64) + ir.input_(5, dt.int64))
        wide = (rows, count, 1)
        launch = map_launch(
            device,
            self.name,
            [ir.select(won, value, ir.const(0, bits))],
            shape,
            [
                bits,
                (dt.int64, wide, (count, 1, 1)),
                (dt.int64, (rows, 1, 1), (1, 1, 1)),
                dt.int64,
                (dt.int64, (1, count, 1), (1, 1, 1)),
                (dt.int64, (1, 1, inner), (1, 1, 1)),
            ],
            [(bits, out.strides)],
            [(dt.int64, inner)],
        )
        allocate = device.backend.allocate

        def run(x: Tensor, i: Tensor, w: Tensor) -> Tensor:
            from ._gather_kernel import offsets

            packed, at, winner = (contiguous(t.detach()) for t in (x, i, w))
            given = [
                packed,
                at,
                offsets(device, (rows,), (places,)),
                winner,
                iota(device, count),
                iota(device, inner),
            ]
            buffer = allocate(out.nbytes)
            launch(*((t._buffer, t._offset) for t in given), (buffer, 0))
            return Tensor(buffer, out)

        return Plan(run)


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
