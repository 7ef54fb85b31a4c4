"""Stable argsort along the last axis, as maps: the kernels that sorting and scattering share.

Elements become unsigned keys whose integer order is the wanted one, so only two widths of merge
kernel exist.  Rows are padded to a multiple of `BLOCK` with the greatest key; blocks are sorted by
a network in registers, and runs of 4, 8, 16, ... keys are then merged pass by pass.  Every block of
output finds where it begins by a binary search along its diagonal of the merge path (Odeh, Green,
Mwassi, Shmueli, Birk, "Merge Path - Parallel Merging Made Simple", IPDPS 2012), so no pass
scatters, and the result does not depend on the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr

from .._op import Op, perform
from .._plan import Arg, Value
from .._planner import Planner
from .._recent import kept
from .._spec import Shape, Spec, contiguous_strides
from .._tensor import Tensor
from ._moves import copied, packed

__all__ = ["argsorted_rows", "stable_argsort_rows"]

BLOCK = 4


def _key_dtype(dtype: DType) -> DType:
    return dt.uint64 if dtype.bits == 64 else dt.uint32


def _storage(dtype: DType) -> DType:
    """The dtype as which an element is read: floats by their bits, to keep subnormals apart."""
    return dt.by_name(f"uint{dtype.bits}") if dtype.is_float else dtype


@kept(64)
def _key(dtype: DType, descending: bool) -> Expr:
    """Unsigned key of element ``input 0``: NaN greatest in both directions, -0 equal to +0."""
    key = _key_dtype(dtype)
    top = 1 << (key.bits - 1)
    x = ir.input_(0, _storage(dtype))
    if dtype.is_float:
        bits = ir.cast(x, key) << (key.bits - dtype.bits)
        magnitude = bits & (top - 1)
        infinity = (((1 << (dtype.bits - dtype.precision)) - 1) << (dtype.precision - 1)) << (
            key.bits - dtype.bits
        )
        ordered = ir.select((bits & top).eq(0), bits | top, ~bits)
        ordered = ir.select(magnitude.eq(0), ir.const(top, key), ordered)
        ordered = ~ordered if descending else ordered
        return ir.select(magnitude > infinity, ir.const(key.max, key), ordered)
    ordered = ir.cast(x, key)
    if dtype.kind == "i":
        ordered = ordered ^ top
    return ~ordered if descending else ordered


@kept(64)
def _sort_block(key: DType, place: DType) -> list[Expr]:
    """Keys and places of one sorted block; launch scalar: row length.

    A network is not stable, so equal keys are told apart by their place.
    """
    first = ir.index() * BLOCK
    begin = ir.irem(first, ir.param(0, dt.int64))
    pairs = [(ir.load(0, key, first + k), ir.cast(begin + k, place)) for k in range(BLOCK)]
    for low, high in ((0, 1), (2, 3), (0, 2), (1, 3), (1, 2)):
        (a, p), (b, q) = pairs[low], pairs[high]
        swap = (b < a) | (b.eq(a) & (q < p))
        pairs[low] = (ir.select(swap, b, a), ir.select(swap, q, p))
        pairs[high] = (ir.select(swap, a, b), ir.select(swap, p, q))
    return [k for k, _ in pairs] + [p for _, p in pairs]


@kept(64)
def _merge(key: DType, place: DType) -> list[Expr]:
    """Keys and places of one block of output; launch scalars: row length, run width, steps."""
    n, width = ir.param(0, dt.int64), ir.param(1, dt.int64)
    steps = ir.param(2, dt.int32)
    first = ir.index() * BLOCK
    row = ir.idiv(first, n) * n
    position = first - row
    diagonal = position & (width * 2 - 1)
    left = row + position - diagonal
    end = row + n
    middle = _least(left + width, end)
    in_left, in_right = middle - left, _least(middle + width, end) - middle

    def at(places: Expr) -> Expr:
        return ir.load(0, key, _least(places, end - 1))

    def halve(_: Expr, low: Expr, high: Expr) -> list[Expr]:
        half = (low + high) >> 1
        # The right run goes first only if it is less, which makes the sort stable.
        right_first = at(_most(middle + diagonal - 1 - half, left)) < at(left + half)
        going = low < high
        return [
            ir.select(going & ~right_first, half + 1, low),
            ir.select(going & right_first, half, high),
        ]

    low = _most(diagonal - in_right, ir.const(0, dt.int64))
    i, _ = ir.repeat(steps, [low, _least(diagonal, in_left)], halve)
    j = diagonal - i
    keys, places = [], []
    for _k in range(BLOCK):
        a, b = at(left + i), at(middle + j)
        right = (j < in_right) & ((i >= in_left) | (b < a))
        keys.append(ir.select(right, b, a))
        places.append(ir.load(1, place, ir.select(right, middle + j, left + i)))
        i, j = ir.select(right, i, i + 1), ir.select(right, j + 1, j)
    return keys + places


def _least(a: Expr, b: Expr) -> Expr:
    return ir.select(b < a, b, a)


def _most(a: Expr, b: Expr) -> Expr:
    return ir.select(a < b, b, a)


def argsorted_rows(p: Planner, x: Value, descending: bool = False) -> Value:
    """Add the steps that find the places in the last axis in sorted order.

    NaN comes last in both directions, -0 equals +0, and equal elements keep their order.

    Args:
        p: Whose plan it is.
        x: Any real dtype, at least one dimension, any strides.
        descending: Greatest first (NaN last all the same).

    Returns:
        int64, shape of `x`, in C order: the element for position p of a row is at ``out[..., p]``.
    """
    shape = x.shape
    if not x.size:
        return p.new(dt.int64, shape)
    n = shape[-1]
    padded = -(-n // BLOCK) * BLOCK
    wide = (*shape[:-1], padded)
    key, place = _key_dtype(x.dtype), dt.int32 if padded < 1 << 31 else dt.int64
    strides = contiguous_strides(wide)
    blocks = (math.prod(wide) // BLOCK,)
    storage = _storage(x.dtype)
    source, keys, places = p.new(key, wide), p.new(key, wide), p.new(place, wide)
    p.map(
        "sort_keys",
        [_key(x.dtype, descending)],
        shape,
        [x.read(storage)],
        [source.read(shape=shape, strides=strides)],
    )
    if padded > n:
        rest = source.read(shape=(*shape[:-1], padded - n), strides=strides, offset=n)
        p.map("sort_pad", [ir.const(key.max, key)], (*shape[:-1], padded - n), [], [rest])
    length = (dt.int64, padded)
    outputs = [*_blocks(keys), *_blocks(places)]
    p.map("sort_block", _sort_block(key, place), blocks, [source.whole()], outputs, [length])
    other_keys, other_places = source, p.new(place, wide)
    width = BLOCK
    while width < padded:
        outputs = [*_blocks(other_keys), *_blocks(other_places)]
        scalars = [length, (dt.int64, width), (dt.int32, width.bit_length())]
        given = [keys.whole(), places.whole()]
        p.map("sort_merge", _merge(key, place), blocks, given, outputs, scalars)
        keys, other_keys = other_keys, keys
        places, other_places = other_places, places
        width *= 2
    rows = p.view(places, shape, strides)
    return packed(p, rows if place is dt.int64 else copied(p, rows, dt.int64))


def _blocks(value: Value) -> list[Arg]:
    """The memory of rows of blocks as `BLOCK` operands, one for each place in a block."""
    return [value.read(strides=(BLOCK,), offset=k) for k in range(BLOCK)]


class _ArgsortRows(Op):
    """`argsorted_rows` alone.  Option: ``descending``."""

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(dt.int64, specs[0].shape)]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        return argsorted_rows(p, values[0], options["descending"])


_argsort_rows = _ArgsortRows("_argsort_rows")


def stable_argsort_rows(x: Tensor, *, descending: bool = False) -> Tensor:
    """`argsorted_rows` of a tensor; its history is ignored."""
    return perform(_argsort_rows, (x,), {"descending": descending})  # type: ignore[no-any-return]
