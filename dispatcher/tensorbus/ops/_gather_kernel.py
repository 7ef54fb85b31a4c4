"""Reading elements at computed places: the kernels behind take, gather and integer indexing.

An output element is ``x[offset + sum_j wrap(index_j) * stride_j]``.  The offset, which comes from
the dimensions that are not indexed, is read from a table that broadcasts over the indexed ones, so
the kernels are few and divide nothing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import TypeVar

from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import MONOIDS

from .._devices import Device
from .._plan import Launch, map_launch
from .._spec import Shape, Spec, broadcast_strides, collapse
from .._tensor import Tensor
from ._common import KEPT, make_room

__all__ = ["check_bounds", "gather_runner", "iota", "linear_index", "offsets"]

_K = TypeVar("_K")
_V = TypeVar("_V")
_SMALL = 1 << 16
_tables: dict[object, Tensor] = {}
_checks: dict[Spec, Callable[[Tensor], Tensor]] = {}
_linears: dict[object, Launch] = {}


def _remember(store: dict[_K, _V], key: _K, value: _V, limit: int = KEPT) -> _V:
    make_room(store, limit)
    store[key] = value
    return value


def wrap(index: Expr, size: Expr) -> Expr:
    """A negative index counts from the end."""
    return ir.select(index < 0, index + size, index)


# -- bounds -----------------------------------------------------------------------------------


def check_bounds(name: str, index: Tensor, size: int, axis: int) -> None:
    """Raise IndexError unless every element of an int64 tensor is in [-size, size)."""
    if not index.size:
        return
    spec = index._spec
    run = _checks.get(spec)
    if run is None:
        from .reduction import reduce_plan

        flat = spec if spec.shape else Spec.of(spec.device, dt.int64, (1,))
        x = ir.input_(0, dt.int64)
        axes = tuple(range(len(flat.shape)))
        least = reduce_plan(
            spec.device,
            "extremes",
            [flat],
            axes,
            ir.select(x < 0, ~x, x),
            MONOIDS["max"],
            Spec.of(spec.device, dt.int64, ()),
        )
        run = _remember(_checks, spec, least)
    # ~i is the distance of a negative index from -1, so one maximum bounds both ends but for the
    # sign, and -size - 1 maps to size.
    found = run(index if spec.shape else _as_vector(index))
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


def _as_vector(index: Tensor) -> Tensor:
    return Tensor(index._buffer, Spec.of(index.device, dt.int64, (1,)), index._offset)


# -- tables -----------------------------------------------------------------------------------


def offsets(device: Device, shape: Shape, strides: Shape) -> Tensor:
    """int64 tensor of `shape` with the memory offset ``sum_d i_d * strides[d]`` of each place."""
    key = (device, shape, strides)
    found = _tables.get(key)
    if found is not None:
        return found
    (dims, (steps,)) = collapse(shape, [strides])
    index = ir.index()
    params: list[tuple[DType, int]] = []
    total: Expr | None = None
    rest = index
    for k in range(len(dims) - 1, -1, -1):
        step = ir.param(len(params), dt.int64)
        params.append((dt.int64, steps[k]))
        at = rest
        if k:
            n = ir.param(len(params), dt.int64)
            params.append((dt.int64, dims[k]))
            above = ir.idiv(rest, n)
            at, rest = rest - above * n, above
        total = at * step if total is None else total + at * step
    assert total is not None
    spec = Spec.of(device, dt.int64, shape)
    out = Tensor(device.backend.allocate(spec.nbytes), spec)
    if spec.size:
        flat = [(dt.int64, (1,))]
        launch = map_launch(device, "offsets", [total], (spec.size,), [], flat, params)
        launch((out._buffer, 0))
    # A large table is built for each call: kept, it would outweigh the data.
    return _remember(_tables, key, out, 64) if spec.size <= _SMALL else out


def iota(device: Device, n: int) -> Tensor:
    """0, 1, ..., n - 1 as int64."""
    return offsets(device, (n,), (1,))


# -- gathering --------------------------------------------------------------------------------


def gather_runner(
    device: Device,
    x: Spec,
    shape: Shape,
    rest: Shape,
    indices: Sequence[tuple[Shape, Shape]],
    sizes: Sequence[int],
    strides: Sequence[int],
) -> Callable[..., Tensor]:
    """A function of x and int64 index tensors, whose values are known to be in range.

    Args:
        x: Operand, any strides.
        shape: Of the result.
        rest: For each dimension of the result its stride in `x`, where it is not indexed, else 0;
            such dimensions are those where the table does not broadcast.
        indices: Shape (broadcast to `shape`) and strides of each index.
        sizes: Of the indexed dimensions of `x`.
        strides: Of the indexed dimensions of `x`.
    """
    from .manipulation import bits_dtype

    bits = bits_dtype(x.dtype)
    kept = tuple(1 if s == 0 else n for n, s in zip(shape, rest, strict=True))
    tabled = math.prod(kept) > 1
    first = 1 + tabled
    at: Expr | None = ir.input_(1, dt.int64) if tabled else None
    params: list[tuple[DType, int]] = []
    for k, (size, step) in enumerate(zip(sizes, strides, strict=True)):
        n, s = ir.param(2 * k, dt.int64), ir.param(2 * k + 1, dt.int64)
        params += [(dt.int64, size), (dt.int64, step)]
        part = wrap(ir.input_(first + k, dt.int64), n) * s
        at = part if at is None else at + part
    assert at is not None
    out = Spec.of(device, x.dtype, shape)
    table_spec = Spec.of(device, dt.int64, kept)
    operands: list[tuple[DType, Shape, Shape] | DType] = [bits]
    if tabled:
        operands.append((dt.int64, kept, table_spec.strides))
    operands += [(dt.int64, sh, st) for sh, st in indices]
    launch = map_launch(
        device,
        "gather",
        [ir.load(0, bits, at)],
        shape,
        operands,
        [(bits, out.strides)],
        params,
    )
    allocate = device.backend.allocate

    def run(t: Tensor, *index: Tensor) -> Tensor:
        buffer = allocate(out.nbytes)
        given = [(t._buffer, t._offset)]
        if tabled:
            given.append((offsets(device, kept, rest)._buffer, 0))
        launch(*given, *((i._buffer, i._offset) for i in index), (buffer, 0))
        return Tensor(buffer, out)

    return run


def linear_index(indices: Sequence[Tensor], shape: Shape, sizes: Sequence[int]) -> Tensor:
    """C-order place in an array of `sizes` for index vectors broadcast to `shape`, wrapped."""
    device = indices[0].device
    specs = tuple(i._spec for i in indices)
    key = (specs, shape, tuple(sizes))
    launch = _linears.get(key)
    out = Spec.of(device, dt.int64, shape)
    if launch is None:
        total: Expr | None = None
        params: list[tuple[DType, int]] = []
        for k, size in enumerate(sizes):
            n = ir.param(k, dt.int64)
            params.append((dt.int64, size))
            at = wrap(ir.input_(k, dt.int64), n)
            total = at if total is None else total * n + at
        assert total is not None
        launch = map_launch(
            device,
            "linear_index",
            [total],
            shape,
            [(dt.int64, s.shape, s.strides) for s in specs],
            [(dt.int64, out.strides)],
            params,
        )
        _remember(_linears, key, launch)
    buffer = device.backend.allocate(out.nbytes)
    launch(*((i._buffer, i._offset) for i in indices), (buffer, 0))
    return Tensor(buffer, out)


def broadcast_index(index: Spec, shape: Shape, trailing: int) -> tuple[Shape, Shape]:
    """Shape and strides of an index broadcast to `shape`, followed by `trailing` dimensions."""
    strides = broadcast_strides(index.shape, index.strides, shape)
    return (*shape, *(1,) * trailing), (*strides, *(1,) * trailing)
