"""Stable argsort along the last axis, as maps: the kernels that sorting and scattering share.

Elements become unsigned keys whose integer order is the wanted one, so only two widths of merge
kernel exist.  Sorted runs of 1, 2, 4, ... keys are then merged pass by pass.  Every output position
of a pass finds its element by a binary search along its diagonal of the merge path (Odeh, Green,
Mwassi, Shmueli, Birk, "Merge Path - Parallel Merging Made Simple", IPDPS 2012), so no pass
scatters, and the result does not depend on the device.
"""

from __future__ import annotations

from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.contract import Buffer
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr

from .._devices import Device
from .._plan import Launch, map_launch
from .._spec import Spec, contiguous_strides
from .._tensor import Tensor

__all__ = ["stable_argsort_rows"]

_KEPT = 1024
_launches: dict[object, list[Launch]] = {}


def _key_dtype(dtype: DType) -> DType:
    return dt.uint64 if dtype.bits == 64 else dt.uint32


def _storage(dtype: DType) -> DType:
    """The dtype as which an element is read: floats by their bits, to keep subnormals apart."""
    return dt.by_name(f"uint{dtype.bits}") if dtype.is_float else dtype


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


def _merge(key: DType) -> list[Expr]:
    """Key and place at output position ``index``; launch scalars: row length, run width, steps."""
    n, width = ir.param(0, dt.int64), ir.param(1, dt.int64)
    steps = ir.param(2, dt.int32)
    index = ir.index()
    row = ir.idiv(index, n) * n
    position = index - row
    diagonal = position & (width * 2 - 1)
    left = row + position - diagonal
    end = row + n
    middle = _least(left + width, end)
    in_left, in_right = middle - left, _least(middle + width, end) - middle

    def before(right: Expr, other: Expr) -> Expr:
        """Whether the right run's element goes first: only if less, which makes the sort stable."""
        return ir.load(0, key, _least(right, end - 1)) < ir.load(0, key, _least(other, end - 1))

    def halve(_: Expr, low: Expr, high: Expr) -> list[Expr]:
        half = (low + high) >> 1
        right_first = before(_most(middle + diagonal - 1 - half, left), left + half)
        going = low < high
        return [
            ir.select(going & ~right_first, half + 1, low),
            ir.select(going & right_first, half, high),
        ]

    low = _most(diagonal - in_right, ir.const(0, dt.int64))
    taken, _ = ir.repeat(steps, [low, _least(diagonal, in_left)], halve)
    other = diagonal - taken
    from_right = (other < in_right) & ((taken >= in_left) | before(middle + other, left + taken))
    at = ir.select(from_right, middle + other, left + taken)
    return [ir.load(0, key, at), ir.load(1, dt.int64, at)]


def _least(a: Expr, b: Expr) -> Expr:
    return ir.select(b < a, b, a)


def _most(a: Expr, b: Expr) -> Expr:
    return ir.select(a < b, b, a)


def _plan(device: Device, spec: Spec, descending: bool) -> list[Launch]:
    """The launch that makes keys and places, then one for each merge pass."""
    size, n = spec.size, spec.shape[-1]
    key = _key_dtype(spec.dtype)
    flat = ((size,), (1,))
    place = ir.irem(ir.index(), ir.param(0, dt.int64))
    launches = [
        map_launch(
            device,
            "sort_keys",
            [_key(spec.dtype, descending), place],
            spec.shape,
            [(_storage(spec.dtype), spec.shape, spec.strides)],
            [(key, contiguous_strides(spec.shape)), (dt.int64, contiguous_strides(spec.shape))],
            [(dt.int64, n)],
        )
    ]
    width = 1
    while width < n:
        launches.append(
            map_launch(
                device,
                "sort_merge",
                _merge(key),
                flat[0],
                [key, dt.int64],
                [(key, flat[1]), (dt.int64, flat[1])],
                [(dt.int64, n), (dt.int64, width), (dt.int32, width.bit_length())],
            )
        )
        width *= 2
    return launches


def stable_argsort_rows(x: Tensor, *, descending: bool = False) -> Tensor:
    """Places in the last axis in sorted order.

    NaN comes last in both directions, -0 equals +0, and equal elements keep their order.

    Args:
        x: Any real dtype, at least one dimension, any strides; its history is ignored.
        descending: Greatest first (NaN last all the same).

    Returns:
        int64, shape of `x`, contiguous: the element for position p of a row is at ``out[..., p]``.
    """
    spec, device = x._spec, x.device
    out = Spec.of(device, dt.int64, spec.shape)
    allocate = device.backend.allocate
    places = allocate(out.nbytes)
    if not spec.size:
        return Tensor(places, out)
    cached = (spec, descending)
    launches = _launches.get(cached)
    if launches is None:
        if len(_launches) >= _KEPT:
            _launches.clear()
        launches = _launches[cached] = _plan(device, spec, descending)
    first, *passes = launches
    nbytes = spec.size * _key_dtype(spec.dtype).itemsize
    keys: Buffer = allocate(nbytes)
    first((x._buffer, x._offset), (keys, 0), (places, 0))
    if passes:
        other_keys, other_places = allocate(nbytes), allocate(out.nbytes)
        for launch in passes:
            launch((keys, 0), (places, 0), (other_keys, 0), (other_places, 0))
            keys, other_keys = other_keys, keys
            places, other_places = other_places, places
    return Tensor(places, out)
