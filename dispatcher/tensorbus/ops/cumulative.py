"""Running sums and products: scans in blocks, so that their order is fixed (docs/order.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends import ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.kernels import DIMS, MONOIDS, Monoid, Operand, Scan, Strided
from tensorbus_backends.kernels.scan import BLOCK

from .. import ops
from .._autograd import Context
from .._devices import Device
from .._op import Op, apply, function
from .._plan import Launch, Plan, map_launch, step_of
from .._spec import Shape, Spec, collapse
from .._tensor import Tensor
from ._common import normalize_axis, tensor_of
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

    def plan(self, device: Device, specs: Sequence[Spec], options: dict[str, Any]) -> Plan:
        (spec,) = specs
        ((dtype, shape),) = self.infer(specs, options)
        axis, initial = options["axis"], options["initial"]
        out = Spec.of(device, dtype, shape)
        inside = _without(shape, axis)
        n = spec.shape[axis]
        neutral = self._identity(dtype) if options.get("identity") else self.neutral
        if out.size == 0 or n == 0:

            def nothing(x: Tensor) -> Tensor:
                return ops.full(shape, neutral, dtype=dtype, device=device)

            return Plan(nothing)
        acc = dtype.compute
        scan = self._blocks(device, spec, axis, acc)
        steps = out.strides
        place = steps[axis] if initial else 0
        # Where the elements of local results [rows, n] go, C order over the other dimensions.
        outer = _without(steps, axis)
        pieces = [
            self._combine(device, inside, outer, steps[axis], n, acc, dtype, first, count)
            for first, count in ((0, n // BLOCK * BLOCK), (n // BLOCK * BLOCK, n % BLOCK))
            if count
        ]
        head = map_launch(
            device,
            "fill",
            [ir.param(0, dtype)],
            inside,
            [],
            [(dtype, outer)],
            [(dtype, neutral)],
        )
        allocate = device.backend.allocate

        def run(x: Tensor) -> Tensor:
            local, before = scan(x)
            buffer = allocate(out.nbytes)
            if initial:
                head((buffer, 0))
            for combine, first in pieces:
                combine(
                    (local._buffer, first),
                    (before._buffer, first // BLOCK),
                    (buffer, place + first * steps[axis]),
                )
            return Tensor(buffer, out)

        return Plan(run)

    def _combine(
        self,
        device: Device,
        inside: Shape,
        outer: Shape,
        step: int,
        n: int,
        acc: DType,
        dtype: DType,
        first: int,
        count: int,
    ) -> tuple[Launch, int]:
        """A launch for `count` elements of each row from `first` on, and `first`."""
        width = BLOCK if first == 0 and count >= BLOCK else count
        parts = count // width
        shape = (*inside, parts, width)
        row = _contiguous(inside)
        blocks = -(-n // BLOCK) + 1
        local = (*(r * n for r in row), width, 1)
        before = (*(r * blocks for r in row), 1, 0)
        target = (*outer, step * width, step)
        expr = self.monoid.combine(ir.input_(1, acc), ir.input_(0, acc))
        if dtype.compute is not acc:
            expr = ir.cast(expr, dtype.compute)
        launch = map_launch(
            device,
            self.name,
            [expr],
            shape,
            [(acc, shape, local), (acc, shape, before)],
            [(dtype, target)],
        )
        return launch, first

    def _blocks(
        self, device: Device, spec: Spec, axis: int, acc: DType
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """From the operand to local results [rows, n] and sums before blocks [rows, blocks + 1]."""
        n = spec.shape[axis]
        dims, (walk,) = collapse(_without(spec.shape, axis), [_without(spec.strides, axis)])
        if len(dims) > DIMS:
            raise ValueError(f"{self.name}: too many dimensions that cannot be merged")
        rows, blocks = math.prod(dims), -(-n // BLOCK)
        step = spec.strides[axis]
        kernel = Scan(
            self.name,
            Operand(spec.dtype, step_of(step, n)),
            ir.cast(ir.input_(0, spec.dtype), acc),
            self.monoid,
        )
        meta = kernel.meta(n, dims, Strided.words(0, step, walk))
        places = [3 + DIMS, 3 + DIMS + Strided.WORDS, 4 + DIMS + Strided.WORDS]
        launch = Launch(
            device, kernel, meta, places, kernel.groups(device.backend.dialect, n, rows)
        )
        local, totals = Spec.of(device, acc, (rows, n)), Spec.of(device, acc, (rows, blocks))
        allocate = device.backend.allocate

        def run(x: Tensor) -> tuple[Tensor, Tensor]:
            partial, last = allocate(local.nbytes), allocate(totals.nbytes)
            launch((x._buffer, x._offset), (partial, 0), (last, 0))
            before = self._before(Tensor(last, totals))
            return Tensor(partial, local), before

        return run

    def _before(self, totals: Tensor) -> Tensor:
        """Totals of all blocks before each: [rows, blocks + 1], the identity first."""
        rows, blocks = totals.shape
        acc = totals.dtype
        if blocks == 1:
            return ops.full((rows, 2), self._identity(acc), dtype=acc, device=totals.device)
        options = {"axis": 1, "initial": True, "dtype": acc, "identity": True}
        return apply(self, [totals], options)  # type: ignore[no-any-return]

    def _identity(self, dtype: DType) -> float | int:
        return -0.0 if dtype.is_float and self.neutral == 0 else self.neutral


def _without(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], *shape[axis + 1 :])


def _contiguous(shape: Shape) -> Shape:
    steps, step = [], 1
    for n in reversed(shape):
        steps.append(step)
        step *= n
    return tuple(reversed(steps))


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
