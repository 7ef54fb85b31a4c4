"""Running sums and products: scans in blocks, so that their order is fixed (docs/order.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorbus_backends import ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import DIMS, MONOIDS, Monoid, Operand, Scan, Strided
from tensorbus_backends.kernels.scan import BLOCK

from .. import ops
from .._autograd import Context
from .._layout import step_of
from .._op import Op, apply, function
from .._plan import Value
from .._planner import Planner
from .._recent import kept
from .._spec import Shape, Spec, collapse, contiguous_strides
from .._tensor import Tensor
from ._common import normalize_axis, tensor_of
from ._moves import filled
from .reduction import as_summand, sum_dtype, widened

__all__ = ["cumulative_prod", "cumulative_sum"]


class _Cumulative(Op):
    """Options of a call: ``axis``, ``initial`` (one element more, the neutral one), ``dtype``.

    With ``identity`` the first element is the monoid's identity, which for a sum is -0.

    Blocks are scanned one by one; the same op scans their totals; a map combines each element with
    the total of all earlier blocks.
    """

    def __init__(self, name: str, monoid: str, neutral: int, **rules: Any) -> None:
        super().__init__(name, **rules)
        self.monoid: Monoid = MONOIDS[monoid]
        self.neutral = neutral

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        shape, axis = specs[0].shape, options["axis"]
        n = shape[axis] + options["initial"]
        return [(options["dtype"], (*shape[:axis], n, *shape[axis + 1 :]))]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        (x,) = values
        ((dtype, shape),) = self.infer([x.spec], options)
        axis, initial = options["axis"], options["initial"]
        inside = _without(shape, axis)
        n = x.shape[axis]
        neutral = self._identity(dtype) if options.get("identity") else self.neutral
        if 0 in shape or n == 0:
            return filled(p, dtype, shape, neutral)
        acc = dtype.compute
        local, before = self._blocks(p, x, axis, acc)
        out = p.new(dtype, shape)
        step = out.strides[axis]
        place = step if initial else 0
        outer = _without(out.strides, axis)
        if initial:
            head = out.read(shape=inside, strides=outer)
            p.map("fill", [ir.param(0, dtype)], inside, [], [head], [(dtype, neutral)])
        whole = n // BLOCK * BLOCK
        for first, count in ((0, whole), (whole, n % BLOCK)):
            if count:
                where, part = (inside, outer, step), (first, count)
                self._combine(p, local, before, out, where, n, part, place)
        return out

    def _combine(
        self,
        p: Planner,
        local: Value,
        before: Value,
        out: Value,
        where: tuple[Shape, Shape, int],
        n: int,
        part: tuple[int, int],
        place: int,
    ) -> None:
        """A launch for `count` elements of each row from `first` on.

        Args:
            local: Results inside blocks, [rows, n], C order over the other dimensions.
            before: Of all earlier blocks, [rows, blocks + 1].
            where: Shape and strides of the other dimensions of `out`, and the axis' stride.
            part: `first` and `count`.
            place: Where the first element of the operand goes in `out`.
        """
        (inside, outer, step), (first, count) = where, part
        acc, dtype = local.dtype, out.dtype
        width = BLOCK if first == 0 and count >= BLOCK else count
        parts = count // width
        shape = (*inside, parts, width)
        row = contiguous_strides(inside)
        blocks = -(-n // BLOCK) + 1
        p.map(
            self.name,
            [_combined(self.monoid, acc, dtype)],
            shape,
            [
                local.read(acc, shape, (*(r * n for r in row), width, 1), first),
                before.read(acc, shape, (*(r * blocks for r in row), 1, 0), first // BLOCK),
            ],
            [out.read(dtype, shape, (*outer, step * width, step), place + first * step)],
        )

    def _blocks(self, p: Planner, x: Value, axis: int, acc: DType) -> tuple[Value, Value]:
        """Local results [rows, n] and sums before blocks [rows, blocks + 1]."""
        n = x.shape[axis]
        dims, (walk,) = collapse(_without(x.shape, axis), [_without(x.strides, axis)])
        if len(dims) > DIMS:
            raise ValueError(f"{self.name}: too many dimensions that cannot be merged")
        rows, blocks = math.prod(dims), -(-n // BLOCK)
        step = x.strides[axis]
        kernel = _scan(self.name, x.dtype, step_of(step, n), acc, self.monoid)
        meta = kernel.meta(n, dims, Strided.words(0, step, walk))
        places = [3 + DIMS, 3 + DIMS + Strided.WORDS, 4 + DIMS + Strided.WORDS]
        groups = kernel.groups(p.device.backend.dialect, n, rows)
        local, totals = p.new(acc, (rows, n)), p.new(acc, (rows, blocks))
        p.launch(kernel, meta, places, groups, [x, local, totals])
        return local, self._before(p, totals)

    def _before(self, p: Planner, totals: Value) -> Value:
        """Totals of all blocks before each: [rows, blocks + 1], the identity first."""
        rows, blocks = totals.shape
        acc = totals.dtype
        if blocks == 1:
            return filled(p, acc, (rows, 2), self._identity(acc))
        options = {"axis": 1, "initial": True, "dtype": acc, "identity": True}
        return self.build(p, [totals], options)

    def _identity(self, dtype: DType) -> float | int:
        return -0.0 if dtype.is_float and self.neutral == 0 else self.neutral


def _without(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], *shape[axis + 1 :])


@kept(256)
def _combined(monoid: Monoid, acc: DType, dtype: DType) -> Expr:
    expr = monoid.combine(ir.input_(1, acc), ir.input_(0, acc))
    return expr if dtype.compute is acc else ir.cast(expr, dtype.compute)


@kept(256)
def _scan(label: str, dtype: DType, step: str, acc: DType, monoid: Monoid) -> Scan:
    return Scan(label, Operand(dtype, step), ir.cast(ir.input_(0, dtype), acc), monoid)


# -- gradients ------------------------------------------------------------------------------------


def _part(x: Tensor, axis: int, part: slice) -> Tensor:
    return x[(slice(None),) * axis + (part,)]


def _skip(g: Tensor, c: Context) -> Tensor:
    """The cotangent without that of the neutral element."""
    return _part(g, c.options["axis"], slice(1, None)) if c.options["initial"] else g


def _sum_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    axis, spec = c.options["axis"], c.input_spec(0)
    turned = ops.flip(_skip(g, c), axis=axis)
    d = ops.flip(cumulative_sum(turned, axis=axis), axis=axis)
    return [ops.astype(d, spec.dtype, copy=False)]


def _sum_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    (t,) = tangents
    return apply(_sum, [t], c.options)  # type: ignore[no-any-return]


def _recurrence(factor: Tensor, term: Tensor, axis: int) -> Tensor:
    """y with ``y[k] = factor[k] y[k-1] + term[k]`` along an axis, ``y[-1] = 0``.

    By recursive doubling (Kogge and Stone, "A parallel algorithm for the efficient solution of a
    general class of recurrence equations", IEEE Trans. Computers C-22(8), 1973): no division, so
    zeros are no special case, and ops only, so it differentiates again.
    """
    n, step = term.shape[axis], 1
    while step < n:
        earlier = _delayed(term, axis, step, 0.0)
        term = ops.add(term, ops.multiply(factor, earlier))
        step *= 2
        if step < n:
            factor = ops.multiply(factor, _delayed(factor, axis, step // 2, 0.0))
    return term


def _delayed(x: Tensor, axis: int, step: int, fill: float) -> Tensor:
    """`x` moved `step` places up along an axis."""
    shape = (*x.shape[:axis], step, *x.shape[axis + 1 :])
    start = ops.full(shape, fill, dtype=x.dtype, device=x.device)
    return ops.concat([start, _part(x, axis, slice(0, x.shape[axis] - step))], axis=axis)


def _product_before(c: Context, x: Tensor) -> Tensor:
    """Product of all elements before each."""
    axis = c.options["axis"]
    products = cumulative_prod(x, axis=axis, include_initial=True)
    return _part(products, axis, slice(0, x.shape[axis]))


def _prod_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    # With a[k] = g[k] + x[k+1] a[k+1], the gradient of x[k] is a[k] times the product before k.
    axis, x = c.options["axis"], widened(c.input(0))
    if x.size == 0:
        return [ops.zeros_like(c.input(0))]
    turned = ops.flip(x, axis=axis)
    back = _recurrence(
        _delayed(turned, axis, 1, 0.0), ops.flip(widened(_skip(g, c)), axis=axis), axis
    )
    d = ops.multiply(ops.flip(back, axis=axis), _product_before(c, x))
    return [ops.astype(d, c.input_spec(0).dtype, copy=False)]


def _prod_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    # y[k] = y[k-1] x[k] gives y'[k] = x[k] y'[k-1] + y[k-1] x'[k].
    (t,) = tangents
    axis, x = c.options["axis"], widened(c.input(0))
    if x.size == 0:
        return ops.zeros_like(c.output())
    d = _recurrence(x, ops.multiply(_product_before(c, x), widened(t)), axis)
    d = ops.astype(d, t.dtype, copy=False)
    return _delayed_by_one(d, axis) if c.options["initial"] else d


def _delayed_by_one(d: Tensor, axis: int) -> Tensor:
    shape = (*d.shape[:axis], 1, *d.shape[axis + 1 :])
    return ops.concat([ops.zeros(shape, dtype=d.dtype, device=d.device), d], axis=axis)


_sum = _Cumulative("cumulative_sum", "sum", 0, vjp=_sum_vjp, jvp=_sum_jvp)
_prod = _Cumulative("cumulative_prod", "prod", 1, vjp=_prod_vjp, jvp=_prod_jvp)


# -- public ---------------------------------------------------------------------------------------


def _cumulative(
    op: _Cumulative, x: Tensor, axis: int | None, dtype: DType | None, initial: bool
) -> Tensor:
    tensor_of(op.name, x)
    if x.ndim == 0:
        raise ValueError(f"{op.name} needs at least one dimension")
    if axis is None:
        if x.ndim != 1:
            raise ValueError(
                f"{op.name}: a tensor of {x.ndim} dimensions needs an axis to run along"
            )
        axis = 0
    along = normalize_axis(op.name, axis, x.ndim)
    out = sum_dtype(op.name, x.dtype, dtype)
    options = {"axis": along, "initial": bool(initial), "dtype": out}
    return apply(op, [as_summand(x, out)], options)  # type: ignore[no-any-return]


@function("cumulative", differentiable=True)
def cumulative_sum(
    x: Tensor,
    /,
    *,
    axis: int | None = None,
    dtype: DType | None = None,
    include_initial: bool = False,
) -> Tensor:
    """Sum of each element and all before it along an axis.

    Args:
        x: Numeric (or bool) tensor of at least one dimension.
        axis: Axis; may be None for one dimension only.
        dtype: Of the result, and elements are converted to it first; by default that of `x`,
            widened to 64 bits for integers and bool.
        include_initial: Put the sum of no elements, 0, before the others.

    Returns:
        Tensor of the shape of `x`, one longer along the axis with `include_initial`.

    Raises:
        ValueError: No axis for several dimensions, or no dimension at all.
        IndexError: The axis is out of range.
    """
    return _cumulative(_sum, x, axis, dtype, include_initial)


@function("cumulative", differentiable=True)
def cumulative_prod(
    x: Tensor,
    /,
    *,
    axis: int | None = None,
    dtype: DType | None = None,
    include_initial: bool = False,
) -> Tensor:
    """Product of each element and all before it along an axis; see `cumulative_sum`.

    The gradient does not divide, so zeros are no special case.
    """
    return _cumulative(_prod, x, axis, dtype, include_initial)
