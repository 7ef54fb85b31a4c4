"""Sorting, searching in sorted values, and finding nonzero elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tensorbus_backends import dtypes as dt, ir, scalar
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr

from .. import ops
from .._autograd import Context
from .._op import Op, apply, function
from .._plan import Value
from .._planner import Planner
from .._promotion import promote
from .._recent import kept
from .._spec import Shape, Spec
from .._tensor import Tensor
from ._common import normalize_axis, tensor_of
from ._moves import filled, permuted
from ._sort_kernel import argsorted_rows
from .selection import _gather

__all__ = ["argsort", "nonzero", "searchsorted", "sort"]


# -- sort -----------------------------------------------------------------------------------------


class _Sort(Op):
    """Outputs: the sorted elements and where they were.  Options: ``axis``, ``descending``."""

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(specs[0].dtype, specs[0].shape), (dt.int64, specs[0].shape)]

    def build(
        self, p: Planner, values: Sequence[Value], options: dict[str, Any]
    ) -> tuple[Value, Value]:
        (x,) = values
        order = _order(p, x, options["axis"], options["descending"])
        return p.call(_gather, x, order, axis=options["axis"]), order


def _order(p: Planner, x: Value, axis: int, descending: bool) -> Value:
    """Where the sorted elements are, along any axis."""
    rank = len(x.shape)
    last = (*(k for k in range(rank) if k != axis), axis)
    found = argsorted_rows(p, permuted(p, x, last), descending)
    return permuted(p, found, tuple(last.index(k) for k in range(rank)))


def _sort_vjp(c: Context, g: Tensor, _: Tensor | None = None) -> list[Tensor | None]:
    # The inverse of a permutation sorts it, so this is a gather like the sort itself.
    axis = c.options["axis"]
    inverse = argsort(c.output(1), axis=axis)
    return [ops.take_along_axis(g, inverse, axis=axis)]


def _sort_jvp(c: Context, tangents: Sequence[Tensor]) -> list[Tensor | None]:
    (t,) = tangents
    axis = c.options["axis"]
    return [ops.take_along_axis(t, c.output(1), axis=axis), None]


_sort = _Sort("sort", vjp=_sort_vjp, jvp=_sort_jvp)


class _Argsort(Op):
    """Where the sorted elements are.  Options: ``axis``, ``descending``."""

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(dt.int64, specs[0].shape)]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        return _order(p, values[0], options["axis"], options["descending"])


_argsort = _Argsort("argsort")


@function("sorting", differentiable=True)
def sort(x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The elements in order along an axis.

    Args:
        x: Tensor of at least one dimension, any dtype.
        axis: Axis to sort along.
        descending: Greatest first.
        stable: Equal elements keep their order; they always do here, so both values are the same.

    Returns:
        Tensor of shape and dtype of `x`.  NaN comes last in both directions; -0 and +0 are equal.

    Raises:
        IndexError: The axis is out of range (a 0-dimensional tensor has none).
    """
    tensor_of("sort", x)
    along = normalize_axis("sort", axis, x.ndim)
    options = {"axis": along, "descending": bool(descending)}
    return apply(_sort, [x], options)[0]  # type: ignore[no-any-return]


@function("sorting")
def argsort(
    x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True
) -> Tensor:
    """Indices that sort along an axis: int64.  Arguments and order are those of `sort`."""
    tensor_of("argsort", x)
    along = normalize_axis("argsort", axis, x.ndim)
    options = {"axis": along, "descending": bool(descending)}
    return apply(_argsort, [x], options)  # type: ignore[no-any-return]


# -- searchsorted ---------------------------------------------------------------------------------


def _before(a: Expr, b: Expr) -> Expr:
    """Whether `a` comes before `b` where NaN is last."""
    return (a < b) | (~scalar.is_nan(a) & scalar.is_nan(b))


class _SearchSorted(Op):
    """Operands: sorted values, values to place, and optionally the order that sorts the first."""

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(dt.int64, specs[1].shape)]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        sorted_, wanted, *order = values
        n = sorted_.size
        if n == 0:
            return filled(p, dt.int64, wanted.shape, 0)
        out = p.new(dt.int64, wanted.shape)
        p.map(
            self.name,
            [_found(sorted_.dtype, options["side"], bool(order))],
            wanted.shape,
            [sorted_.whole(), wanted, *(o.whole() for o in order)],
            [out],
            [
                (dt.int64, n),
                (dt.int64, sorted_.strides[0]),
                (dt.int32, n.bit_length()),
                (dt.int64, order[0].strides[0] if order else 0),
            ],
        )
        return out


@kept(64)
def _found(dtype: DType, side: str, ordered: bool) -> Expr:
    """Where ``input 1`` belongs, by halving; scalars: size, step, rounds, step of the order."""
    size, step = ir.param(0, dt.int64), ir.param(1, dt.int64)
    rounds, order_step = ir.param(2, dt.int32), ir.param(3, dt.int64)
    value = ir.input_(1, dtype)
    none = ir.const(0, dt.int64)

    def halve(_: Expr, low: Expr, high: Expr) -> list[Expr]:
        going = low < high
        half = (low + high) >> 1
        at = ir.select(going, half, none)
        if ordered:
            found = ir.load(2, dt.int64, at * order_step)
            at = ir.select((found >= none) & (found < size), found, none)
        here = ir.load(0, dtype, at * step)
        up = _before(here, value) if side == "left" else ~_before(value, here)
        return [ir.select(going & up, half + 1, low), ir.select(going & ~up, half, high)]

    return ir.repeat(rounds, [none, size], halve)[0]


_searchsorted = _SearchSorted("searchsorted")


@function("searching")
def searchsorted(
    x1: Tensor,
    x2: Tensor,
    /,
    *,
    side: Literal["left", "right"] = "left",
    sorter: Tensor | None = None,
) -> Tensor:
    """Where to insert values into a sorted tensor so that it stays sorted, by binary search.

    Args:
        x1: One-dimensional, ascending (NaN last).
        x2: Values, any shape; both are promoted to a common numeric dtype.
        side: ``"left"`` gives the first such place, ``"right"`` the last.
        sorter: Integer indices that sort `x1`, if it is not sorted itself.

    Returns:
        int64 tensor of the shape of `x2`.

    Raises:
        ValueError: `x1` is not one-dimensional, `side` is unknown, or `sorter` has another shape.
        TypeError: An operand is bool, the dtypes do not promote, or `sorter` is not integer.
    """
    tensor_of("searchsorted", x1, "x1")
    tensor_of("searchsorted", x2, "x2")
    if x1.ndim != 1:
        raise ValueError(f"searchsorted: x1 has {x1.ndim} dimensions, it needs exactly 1")
    if side not in ("left", "right"):
        raise ValueError(f"searchsorted: side is 'left' or 'right', not {side!r}")
    dtype = promote(x1.dtype, x2.dtype)
    if dtype.kind == "b":
        raise TypeError("searchsorted needs numeric operands, not bool; convert with astype")
    tensors = [ops.astype(x1, dtype, copy=False), ops.astype(x2, dtype, copy=False)]
    if sorter is not None:
        tensor_of("searchsorted", sorter, "sorter")
        if not sorter.dtype.is_integer:
            raise TypeError(f"searchsorted: sorter holds indices, not {sorter.dtype.name}")
        if sorter.shape != x1.shape:
            raise ValueError(
                f"searchsorted: sorter has shape {sorter.shape}, x1 has shape {x1.shape}"
            )
        tensors.append(ops.astype(sorter, dt.int64, copy=False))
    return apply(_searchsorted, tensors, {"side": side})  # type: ignore[no-any-return]


# -- nonzero --------------------------------------------------------------------------------------


class _Nonzero(Op):
    """From running counts of nonzero elements to the coordinates of each.

    Options: ``shape`` of the tensor, ``found`` elements.  Output k finds its element by a binary
    search for the first place with k + 1 counted, so nothing is scattered.
    """

    sizes = ("shape", "found")

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(dt.int64, (options["found"],)) for _ in options["shape"]]

    def build(
        self, p: Planner, values: Sequence[Value], options: dict[str, Any]
    ) -> tuple[Value, ...]:
        (counts,) = values
        shape, found = options["shape"], options["found"]
        outs = tuple(p.new(dt.int64, (found,)) for _ in shape)
        total = counts.size
        p.map(
            self.name,
            _coordinates(len(shape)),
            (found,),
            [counts.whole()],
            outs,
            [(dt.int64, total), (dt.int32, total.bit_length()), *((dt.int64, n) for n in shape)],
        )
        return outs


@kept(16)
def _coordinates(rank: int) -> list[Expr]:
    """Of element ``index`` that counts: the first place where so many are reached.

    Scalars: number of counts, rounds, sizes.
    """
    size, rounds = ir.param(0, dt.int64), ir.param(1, dt.int32)

    def halve(_: Expr, low: Expr, high: Expr) -> list[Expr]:
        going = low < high
        half = (low + high) >> 1
        count = ir.load(0, dt.int64, ir.select(going, half, ir.const(0, dt.int64)))
        up = count <= ir.index()
        return [ir.select(going & up, half + 1, low), ir.select(going & ~up, half, high)]

    rest, _ = ir.repeat(rounds, [ir.const(0, dt.int64), size], halve)
    coordinates: list[Expr] = []
    for k in range(rank - 1, 0, -1):
        n = ir.param(2 + k, dt.int64)
        coordinates.append(ir.irem(rest, n))
        rest = ir.idiv(rest, n)
    coordinates.append(rest)
    return coordinates[::-1]


_nonzero = _Nonzero("nonzero")


@function("searching")
def nonzero(x: Tensor, /) -> tuple[Tensor, ...]:
    """Coordinates of the nonzero elements (NaN is one) in C order.

    Waits for the device, since the size of the result depends on the data.

    Args:
        x: Tensor of at least one dimension.

    Returns:
        One int64 tensor for each dimension, as long as there are nonzero elements.

    Raises:
        ValueError: `x` has no dimension.
    """
    tensor_of("nonzero", x)
    if x.ndim == 0:
        raise ValueError("nonzero needs at least one dimension; use reshape(x, (1,)) first")
    mask = ops.reshape(ops.astype(x.detach(), dt.bool_, copy=False), (-1,))
    counts = ops.cumulative_sum(mask, axis=0)
    found = int(counts[-1].item()) if x.size else 0
    return apply(_nonzero, [counts], {"shape": x.shape, "found": found})  # type: ignore[no-any-return]
