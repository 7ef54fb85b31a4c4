"""Reductions in the canonical order: see docs/order.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import (
    CHUNK,
    DIMS,
    MONOIDS,
    Monoid,
    Operand,
    Reduce,
    Strided,
)

from .. import ops
from .._autograd import Context
from .._layout import step_of, word
from .._op import Op, apply, function
from .._plan import Value
from .._planner import Planner
from .._recent import kept
from .._shown import shown
from .._spec import Shape, Spec, broadcast_strides, collapse
from .._tensor import Tensor
from ._common import normalize_axes, tensor_of
from ._moves import broadcast, filled, packed, permuted

__all__ = ["all", "any", "count_nonzero", "prod", "sum"]


def reduced_shape(shape: Shape, axes: tuple[int, ...], keepdims: bool) -> Shape:
    """Shape after reducing `axes`."""
    return tuple(1 if k in axes else n for k, n in enumerate(shape) if k not in axes or keepdims)


def reduce_into(
    p: Planner,
    label: str,
    values: Sequence[Value],
    axes: tuple[int, ...],
    expr: Expr,
    monoid: Monoid,
    out: Value,
    finish: Expr | None = None,
    params: Sequence[tuple[DType, float | int]] = (),
) -> None:
    """Add the steps of a reduction over `axes` of the broadcast operands.

    Args:
        p: Whose plan it is.
        label: Op name.
        values: Operands; the first has the full shape, others broadcast to it.
        axes: Sorted, reduced in logical C order.
        expr: What is reduced, in accumulation dtype; ``index`` counts along the reduction.
        finish: From the reduced value (``input 0``) to the stored one.
        out: Where the result goes, in C order.
        params: Launch scalars.
    """
    shape = values[0].shape
    kept = [k for k in range(len(shape)) if k not in axes]
    strides = [broadcast_strides(v.shape, v.strides, shape) for v in values]
    n = math.prod([shape[a] for a in axes])
    rows = math.prod([shape[k] for k in kept])
    reduced, along = collapse(
        tuple([shape[a] for a in axes]), [tuple([s[a] for a in axes]) for s in strides]
    )
    if len(reduced) > 1:
        # Reduced dimensions that do not merge: lay the operands out so that they do.
        order = (*kept, *axes)
        laid = [packed(p, permuted(p, broadcast(p, v, shape), order)) for v in values]
        last = tuple(range(len(kept), len(shape)))
        reduce_into(p, label, laid, last, expr, monoid, out, finish, params)
        return
    steps = [a[0] for a in along]
    outer, walks = collapse(
        tuple([shape[k] for k in kept]), [tuple([s[k] for k in kept]) for s in strides]
    )
    columns = outer[-1]
    by_column = columns > 1 and walks[0][-1] == 1 and steps[0] != 1 and n > 1
    if not by_column and outer == (1,):
        outer, walks = (), [() for _ in walks]
    if not by_column and len(outer) > DIMS:
        raise ValueError(f"{label}: too many dimensions that cannot be merged")
    partial = n > CHUNK
    kinds = tuple(
        [
            step_of(w[-1], columns) if by_column else step_of(step, n)
            for w, step in zip(walks, steps, strict=True)
        ]
    )
    kernel = _kernel(
        label,
        tuple([v.dtype for v in values]),
        kinds,
        expr,
        monoid,
        expr.dtype if partial else out.dtype,
        None if partial else finish,
        tuple([d for d, _ in params]),
        "col" if by_column else "row",
    )
    scalars = [word(v, d) for d, v in params]
    dialect = p.device.backend.dialect
    if by_column:
        words = [Strided.words(0, w[-1], w[:-1]) for w in walks]
        meta = kernel.meta(n, columns, outer[:-1], words, steps, 0, scalars)
        groups = kernel.groups(dialect, n, columns, rows // columns)
    else:
        words = [Strided.words(0, step, w) for step, w in zip(steps, walks, strict=True)]
        meta = kernel.meta(n, 1, outer, words, [0] * len(values), 0, scalars)
        groups = kernel.groups(dialect, n, 1, rows)
    base = 3 + DIMS
    places = [base + (Strided.WORDS + 1) * k for k in range(len(values) + 1)]
    target = out
    if partial:
        chunks = -(-n // CHUNK)
        wide = (math.prod(outer[:-1]), chunks, columns) if by_column else (rows, chunks, 1)
        target = p.new(expr.dtype, wide)
    p.launch(kernel, meta, places, groups if rows else 0, [*values, target])
    if partial:
        value = ir.input_(0, expr.dtype)
        reduce_into(p, label, [target], (1,), value, monoid, out, finish, params)


@kept(1024)
def _kernel(
    label: str,
    dtypes: tuple[DType, ...],
    kinds: tuple[str, ...],
    expr: Expr,
    monoid: Monoid,
    result: DType,
    finish: Expr | None,
    scalars: tuple[DType, ...],
    layout: str,
) -> Reduce:
    ir.validate_leaves([expr], dtypes, scalars)
    if finish is not None:
        ir.validate_leaves([finish], [expr.dtype], scalars, allow_index=False)
    operands = tuple(Operand(d, kind) for d, kind in zip(dtypes, kinds, strict=True))
    return Reduce(label, operands, expr, monoid, result, finish, scalars, layout)


class Reduction(Op):
    """An op that reduces axes with one monoid.

    Options of a call: ``axes`` (sorted tuple), ``keepdims``, ``dtype`` (of the result).

    Args:
        monoid: Name in `MONOIDS`.
        acc: From operand and result dtype to the dtype values are combined in.
        empty: Result over nothing; None raises ValueError.
        element: From an element's value and the accumulation dtype to what is combined.
        mean: Divide the reduced value by the number of elements.
    """

    def __init__(
        self,
        name: str,
        monoid: str,
        acc: Callable[[DType, DType], DType],
        empty: float | int | None,
        *,
        element: Callable[[Expr, DType], Expr] = ir.cast,
        mean: bool = False,
        **rules: Any,
    ) -> None:
        super().__init__(name, **rules)
        self.monoid: Monoid = MONOIDS[monoid]
        self.acc, self.empty = acc, empty
        self.element, self.mean = element, mean

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        shape = reduced_shape(specs[0].shape, options["axes"], options["keepdims"])
        return [(options["dtype"], shape)]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        (x,) = values
        ((dtype, shape),) = self.infer([x.spec], options)
        axes: tuple[int, ...] = options["axes"]
        n = math.prod([x.shape[a] for a in axes])
        if n == 0:
            if self.empty is None and 0 not in shape:
                raise ValueError(
                    f"{self.name} of no elements is undefined (shape {x.shape}); "
                    "check the size first"
                )
            return filled(p, dtype, shape, self.empty or 0)
        out = p.new(dtype, shape)
        acc = self.acc(x.dtype, dtype)
        expr, plain, finish = self._expressions(x.dtype, dtype, acc)
        if axes:
            params = [(acc, n)] if self.mean else []
            reduce_into(p, self.name, values, axes, expr, self.monoid, out, finish, params)
        else:
            p.map(self.name, [plain], shape, [x], [out])
        return out

    @kept(256)
    def _expressions(self, source: DType, dtype: DType, acc: DType) -> tuple[Expr, Expr, Any]:
        """What is combined, what an element alone gives, how a result is finished."""
        expr = self.element(ir.input_(0, source), acc)
        plain = expr if dtype.compute is acc or dtype.bits == 16 else ir.cast(expr, dtype)
        return expr, plain, ir.input_(0, acc) / ir.param(0, acc) if self.mean else None


# -- rules that reductions share ------------------------------------------------------------------


def accumulator(source: DType, result: DType) -> DType:
    """Sums and products combine in the result's compute dtype."""
    return result.compute


def sum_dtype(name: str, x: DType, dtype: DType | None) -> DType:
    """Result dtype of sum and prod: small integers and bool become 64 bits wide."""
    if dtype is not None:
        if not isinstance(dtype, DType) or dtype.kind == "b":
            raise TypeError(f"{name}: dtype is a numeric tensorbus dtype, not {shown(dtype)}")
        return dtype
    if x.is_float:
        return x
    return dt.uint64 if x.kind == "u" else dt.int64


def as_summand(x: Tensor, dtype: DType) -> Tensor:
    """`x` converted to the result's dtype first, unless the kernel converts it exactly."""
    exact = not x.dtype.is_float and dtype.bits != 16
    return x if exact or x.dtype is dtype else ops.astype(x, dtype)


def need_floating(name: str, x: Tensor) -> None:
    """Raise TypeError unless `x` is floating."""
    if not x.dtype.is_float:
        raise TypeError(
            f"{name} needs a floating tensor, not {x.dtype.name}; convert with tensorbus.astype"
        )


def need_numeric(name: str, x: Tensor) -> None:
    """Raise TypeError for bool."""
    if x.dtype.kind == "b":
        raise TypeError(f"{name} needs a numeric tensor, not bool; convert with tensorbus.astype")


def widened(x: Tensor) -> Tensor:
    """`x` in its compute dtype, so that a gradient of several ops is rounded once."""
    return ops.astype(x, x.dtype.compute, copy=False)


def expand(g: Tensor, shape: Shape, axes: tuple[int, ...]) -> Tensor:
    """A reduced tensor as a broadcast view of the shape before the reduction."""
    kept = tuple(1 if k in axes else n for k, n in enumerate(shape))
    return ops.broadcast_to(ops.reshape(g, kept), shape)


# -- sum ------------------------------------------------------------------------------------------


def _sum_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    spec = c.input_spec(0)
    return [ops.astype(expand(g, spec.shape, c.options["axes"]), spec.dtype, copy=False)]


def _sum_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    (t,) = tangents
    return apply(_sum, [t], c.options)  # type: ignore[no-any-return]


_sum = Reduction("sum", "sum", accumulator, 0, vjp=_sum_vjp, jvp=_sum_jvp)


@function("reduction", differentiable=True)
def sum(
    x: Tensor,
    /,
    *,
    axis: int | Sequence[int] | None = None,
    dtype: DType | None = None,
    keepdims: bool = False,
) -> Tensor:
    """Sum over axes, in the canonical order.

    Args:
        x: Numeric (or bool) tensor.
        axis: Axis or axes; None means all.
        dtype: Of the result, and elements are converted to it first; by default that of `x`,
            widened to 64 bits for integers and bool.
        keepdims: Keep reduced axes with size 1.

    Returns:
        The sums; over no elements +0.

    Raises:
        IndexError: An axis is out of range.
        ValueError: An axis is named twice.
    """
    tensor_of("sum", x)
    axes = normalize_axes("sum", axis, x.ndim)
    out = sum_dtype("sum", x.dtype, dtype)
    options = {"axes": axes, "keepdims": bool(keepdims), "dtype": out}
    return apply(_sum, [as_summand(x, out)], options)  # type: ignore[no-any-return]


# -- prod -----------------------------------------------------------------------------------------


def _others(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """For each element the product of all others along `axes`, without dividing."""
    from .cumulative import cumulative_prod

    kept = tuple(k for k in range(x.ndim) if k not in axes)
    order = (*kept, *axes)
    laid = ops.permute_dims(x, order)
    n = math.prod(x.shape[a] for a in axes)
    rows = ops.reshape(laid, (*(x.shape[k] for k in kept), n))
    before = cumulative_prod(rows, axis=-1, include_initial=True)[..., :-1]
    turned = cumulative_prod(ops.flip(rows, axis=-1), axis=-1, include_initial=True)[..., :-1]
    product = ops.reshape(ops.multiply(before, ops.flip(turned, axis=-1)), laid.shape)
    return ops.permute_dims(product, tuple(order.index(k) for k in range(x.ndim)))


def _prod_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    x, axes = c.input(0), c.options["axes"]
    if not axes or not x.size:
        return [g if not axes else ops.astype(x, x.dtype)]
    d = ops.multiply(expand(widened(g), x.shape, axes), _others(widened(x), axes))
    return [ops.astype(d, x.dtype, copy=False)]


def _prod_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    (t,) = tangents
    x, axes = c.input(0), c.options["axes"]
    if not axes or not x.size:
        return apply(_sum, [t], c.options)  # type: ignore[no-any-return]
    d = sum(
        ops.multiply(widened(t), _others(widened(x), axes)),
        axis=axes,
        keepdims=c.options["keepdims"],
    )
    return ops.astype(d, x.dtype, copy=False)


_prod = Reduction("prod", "prod", accumulator, 1, vjp=_prod_vjp, jvp=_prod_jvp)


@function("reduction", differentiable=True)
def prod(
    x: Tensor,
    /,
    *,
    axis: int | Sequence[int] | None = None,
    dtype: DType | None = None,
    keepdims: bool = False,
) -> Tensor:
    """Product over axes, in the canonical order; arguments as for `sum`.

    Returns:
        The products; over no elements 1.  The gradient is right for zeros too: it multiplies the
        products of the elements before and after each one.
    """
    tensor_of("prod", x)
    axes = normalize_axes("prod", axis, x.ndim)
    out = sum_dtype("prod", x.dtype, dtype)
    options = {"axes": axes, "keepdims": bool(keepdims), "dtype": out}
    return apply(_prod, [as_summand(x, out)], options)  # type: ignore[no-any-return]


# -- truth ----------------------------------------------------------------------------------------


def _of_bool(source: DType, result: DType) -> DType:
    return dt.bool_


_any = Reduction("any", "any", _of_bool, 0)
_all = Reduction("all", "all", _of_bool, 1)
_count = Reduction(
    "count_nonzero",
    "sum",
    accumulator,
    0,
    element=lambda x, acc: ir.cast(ir.cast(x, dt.bool_), acc),
)


def _truth(
    op: Reduction, x: Tensor, axis: int | Sequence[int] | None, keepdims: bool, dtype: DType
) -> Tensor:
    tensor_of(op.name, x)
    axes = normalize_axes(op.name, axis, x.ndim)
    options = {"axes": axes, "keepdims": bool(keepdims), "dtype": dtype}
    return apply(op, [x], options)  # type: ignore[no-any-return]


@function("reduction")
def any(x: Tensor, /, *, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """Whether some element is nonzero (NaN is): bool; over no elements False."""
    return _truth(_any, x, axis, keepdims, dt.bool_)


@function("reduction")
def all(x: Tensor, /, *, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """Whether every element is nonzero (NaN is): bool; over no elements True."""
    return _truth(_all, x, axis, keepdims, dt.bool_)


@function("reduction")
def count_nonzero(
    x: Tensor, /, *, axis: int | Sequence[int] | None = None, keepdims: bool = False
) -> Tensor:
    """Number of nonzero elements (NaN counts): int64."""
    return _truth(_count, x, axis, keepdims, dt.int64)
