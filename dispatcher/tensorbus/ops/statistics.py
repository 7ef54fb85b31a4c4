"""Extremes, their positions, mean, variance and log-sum-exp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorbus_backends import dtypes as dt, ir, mathlib, scalar
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import MONOIDS, Stage

from .. import ops
from .._autograd import Context
from .._op import Op, apply, function
from .._plan import Value
from .._planner import Planner
from .._recent import kept
from .._spec import Shape, Spec
from .._tensor import Tensor
from ._common import normalize_axes, normalize_axis, tensor_of
from ._moves import filled
from ._rows import Body, Fused
from .reduction import (
    Reduction,
    expand,
    need_floating,
    need_numeric,
    reduce_into,
    reduced_shape,
    sum as sum_,
    widened,
)

__all__ = ["argmax", "argmin", "logsumexp", "max", "mean", "min", "std", "var"]

Axis = int | Sequence[int] | None


# -- extremes -------------------------------------------------------------------------------------


def _ties(c: Context) -> tuple[Tensor, Tensor]:
    """1 where an element equals its extreme, in compute dtype, and how many such there are."""
    x, axes = c.input(0).detach(), c.options["axes"]
    tied = ops.equal(x, expand(c.output().detach(), x.shape, axes))
    mask = ops.astype(tied, x.dtype.compute)
    return mask, sum_(mask, axis=axes, keepdims=True)


def _extreme_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    spec = c.input_spec(0)
    mask, count = _ties(c)
    share = ops.divide(ops.reshape(widened(g), count.shape), count)
    return [ops.astype(ops.multiply(mask, share), spec.dtype, copy=False)]


def _extreme_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    (t,) = tangents
    mask, count = _ties(c)
    total = sum_(ops.multiply(widened(t), mask), axis=c.options["axes"], keepdims=True)
    d = ops.reshape(ops.divide(total, count), c.output().shape)
    return ops.astype(d, t.dtype, copy=False)


def _own(source: DType, result: DType) -> DType:
    return source.compute


_max = Reduction("max", "max", _own, None, vjp=_extreme_vjp, jvp=_extreme_jvp)
_min = Reduction("min", "min", _own, None, vjp=_extreme_vjp, jvp=_extreme_jvp)


def _extreme(op: Reduction, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    tensor_of(op.name, x)
    need_numeric(op.name, x)
    axes = normalize_axes(op.name, axis, x.ndim)
    options = {"axes": axes, "keepdims": bool(keepdims), "dtype": x.dtype}
    return apply(op, [x], options)  # type: ignore[no-any-return]


@function("statistics", differentiable=True)
def max(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Greatest element over axes; NaN if there is one, and +0 counts as greater than -0.

    Args:
        x: Numeric tensor.
        axis: Axis or axes; None means all.
        keepdims: Keep reduced axes with size 1.

    Returns:
        Tensor of the dtype of `x`.  Elements that equal the extreme share its gradient evenly.

    Raises:
        TypeError: `x` is bool.
        ValueError: There are no elements to compare.
    """
    return _extreme(_max, x, axis, keepdims)


@function("statistics", differentiable=True)
def min(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Least element over axes; NaN if there is one, and -0 counts as less than +0.

    Arguments, gradient and errors are those of `max`.
    """
    return _extreme(_min, x, axis, keepdims)


# -- positions of extremes ------------------------------------------------------------------------


class _Position(Op):
    """First index of the extreme: a reduction finds it, a second one finds where it is."""

    def __init__(self, name: str, monoid: str) -> None:
        super().__init__(name)
        self.monoid = MONOIDS[monoid]

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        shape = reduced_shape(specs[0].shape, options["axes"], options["keepdims"])
        return [(dt.int64, shape)]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        (x,) = values
        ((_, shape),) = self.infer([x.spec], options)
        axes: tuple[int, ...] = options["axes"]
        if x.size == 0:
            if 0 not in shape:
                raise ValueError(
                    f"{self.name} of no elements is undefined (shape {x.shape}); "
                    "check the size first"
                )
            return p.new(dt.int64, shape)
        value, at = _locating(x.dtype)
        top = p.new(x.dtype, reduced_shape(x.shape, axes, True))
        reduce_into(p, self.name, [x], axes, value, self.monoid, top)
        out = p.new(dt.int64, shape)
        reduce_into(p, self.name, [x, top], axes, at, MONOIDS["min"], out)
        return out


@kept(64)
def _locating(dtype: DType) -> tuple[Expr, Expr]:
    """An element, and its place if it is the extreme."""
    value, best = ir.input_(0, dtype), ir.input_(1, dtype)
    here = value.eq(best) | (scalar.is_nan(value) & scalar.is_nan(best))
    return value, ir.select(here, ir.index(), ir.const(dt.int64.max, dt.int64))


_argmax = _Position("argmax", "max")
_argmin = _Position("argmin", "min")


def _position(op: _Position, x: Tensor, axis: int | None, keepdims: bool) -> Tensor:
    tensor_of(op.name, x)
    need_numeric(op.name, x)
    if axis is None:
        axes = tuple(range(x.ndim))
    else:
        axes = (normalize_axis(op.name, axis, x.ndim),)
    return apply(op, [x], {"axes": axes, "keepdims": bool(keepdims)})  # type: ignore[no-any-return]


@function("searching")
def argmax(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """First index of the greatest element; the first NaN counts as greatest.

    Args:
        x: Numeric tensor.
        axis: Axis to search along; None searches the elements in C order.
        keepdims: Keep the searched axis (with None all axes) with size 1.

    Returns:
        int64 indices.

    Raises:
        TypeError: `x` is bool.
        ValueError: There are no elements to compare.
    """
    return _position(_argmax, x, axis, keepdims)


@function("searching")
def argmin(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """First index of the least element; the first NaN counts as least.  See `argmax`."""
    return _position(_argmin, x, axis, keepdims)


# -- mean -----------------------------------------------------------------------------------------


def _count(c: Context) -> int:
    shape = c.input_spec(0).shape
    return math.prod(shape[a] for a in c.options["axes"])


def _mean_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    spec, n = c.input_spec(0), _count(c)
    # In compute dtype: float16 and bfloat16 do not hold every n.
    share = ops.astype(ops.divide(widened(g), n), spec.dtype, copy=False) if n else g
    return [expand(share, spec.shape, c.options["axes"])]


def _mean_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    (t,) = tangents
    return apply(_mean, [t], c.options)  # type: ignore[no-any-return]


_mean = Reduction("mean", "sum", _own, math.nan, mean=True, vjp=_mean_vjp, jvp=_mean_jvp)


@function("statistics", differentiable=True)
def mean(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Arithmetic mean over axes: the sum in canonical order, divided once.

    16-bit floats are summed and divided in float32 and rounded once.

    Args:
        x: Floating tensor.
        axis: Axis or axes; None means all.
        keepdims: Keep reduced axes with size 1.

    Returns:
        Tensor of the dtype of `x`; over no elements NaN.

    Raises:
        TypeError: `x` is not floating.
    """
    tensor_of("mean", x)
    need_floating("mean", x)
    axes = normalize_axes("mean", axis, x.ndim)
    options = {"axes": axes, "keepdims": bool(keepdims), "dtype": x.dtype}
    return apply(_mean, [x], options)  # type: ignore[no-any-return]


# -- variance -------------------------------------------------------------------------------------


class _Variance(Op):
    """Two passes: the mean, then the sum of squared distances from it, divided once.

    Two passes keep the error proportional to the variance itself: Chan, Golub and LeVeque,
    "Algorithms for computing the sample variance", The American Statistician 37(3), 1983.
    """

    def __init__(self, name: str, root: bool, **rules: Any) -> None:
        super().__init__(name, **rules)
        self.root = root

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        shape = reduced_shape(specs[0].shape, options["axes"], options["keepdims"])
        return [(specs[0].dtype, shape)]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        (x,) = values
        ((dtype, shape),) = self.infer([x.spec], options)
        axes: tuple[int, ...] = options["axes"]
        n = math.prod([x.shape[a] for a in axes])
        if n == 0 or 0 in shape:
            return filled(p, dtype, shape, math.nan)
        acc = dtype.compute
        value, squared, total, root = _spread(dtype)
        middle = p.new(acc, reduced_shape(x.shape, axes, True))
        reduce_into(p, "mean", [x], axes, value, MONOIDS["sum"], middle, total, [(acc, n)])
        out = p.new(dtype, shape)
        reduce_into(
            p,
            self.name,
            [x, middle],
            axes,
            squared,
            MONOIDS["sum"],
            out,
            root if self.root else total,
            [(acc, divisor(n, options["correction"]))],
        )
        return out


@kept(64)
def _spread(dtype: DType) -> tuple[Expr, Expr, Expr, Expr]:
    """An element, its squared distance from the mean, a sum divided, the root of that."""
    acc = dtype.compute
    x, total = ir.input_(0, dtype), ir.input_(0, acc) / ir.param(0, acc)
    distance = x - ir.input_(1, acc)
    return x, distance * distance, total, ir.sqrt(total)


def divisor(n: int, correction: float) -> float:
    """n - correction, at least 0."""
    d = n - correction
    return d if d > 0 else 0.0


def _centred(c: Context) -> tuple[Tensor, float]:
    """x - mean in compute dtype, and 1 / (n - correction)."""
    x, axes = widened(c.input(0)), c.options["axes"]
    d = divisor(math.prod(x.shape[a] for a in axes), c.options["correction"])
    return ops.subtract(x, mean(x, axis=axes, keepdims=True)), 1 / d if d else math.inf


def _root_share(c: Context, g: Tensor) -> Tensor:
    """g / (2 std), and 0 where the deviation is 0 (as PyTorch)."""
    s = widened(c.output())
    flat = ops.equal(s, 0)
    return ops.where(flat, 0.0, ops.divide(g, ops.multiply(ops.where(flat, 1.0, s), 2)))


def _variance_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    spec, axes = c.input_spec(0), c.options["axes"]
    centred, inverse = _centred(c)
    share = widened(g) if c.op == "var" else _root_share(c, widened(g))
    d = ops.multiply(expand(ops.multiply(share, 2 * inverse), spec.shape, axes), centred)
    return [ops.astype(d, spec.dtype, copy=False)]


def _variance_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    (t,) = tangents
    centred, inverse = _centred(c)
    total = sum_(
        ops.multiply(centred, widened(t)), axis=c.options["axes"], keepdims=c.options["keepdims"]
    )
    d = ops.multiply(total, 2 * inverse)
    return ops.astype(d if c.op == "var" else _root_share(c, d), t.dtype, copy=False)


_var = _Variance("var", False, vjp=_variance_vjp, jvp=_variance_jvp)
_std = _Variance("std", True, vjp=_variance_vjp, jvp=_variance_jvp)


def _variance(op: _Variance, x: Tensor, axis: Axis, correction: float, keepdims: bool) -> Tensor:
    tensor_of(op.name, x)
    need_floating(op.name, x)
    axes = normalize_axes(op.name, axis, x.ndim)
    options = {"axes": axes, "correction": float(correction), "keepdims": bool(keepdims)}
    return apply(op, [x], options)  # type: ignore[no-any-return]


@function("statistics", differentiable=True)
def var(
    x: Tensor, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False
) -> Tensor:
    """Variance over axes: sum of squared distances from the mean over ``n - correction``.

    Args:
        x: Floating tensor.
        axis: Axis or axes; None means all.
        correction: 0 for a population, 1 for a sample (Bessel's correction).
        keepdims: Keep reduced axes with size 1.

    Returns:
        Tensor of the dtype of `x`; NaN over no elements, and NaN or infinity where
        ``n <= correction``.

    Raises:
        TypeError: `x` is not floating.
    """
    return _variance(_var, x, axis, correction, keepdims)


@function("statistics", differentiable=True)
def std(
    x: Tensor, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False
) -> Tensor:
    """Standard deviation over axes: the square root of `var`, with its arguments and errors.

    Its gradient is 0 where the deviation is 0.
    """
    return _variance(_std, x, axis, correction, keepdims)


# -- log-sum-exp ----------------------------------------------------------------------------------


def _shift(greatest: Expr) -> Expr:
    """What to subtract before exp: the greatest element, 0 where it is infinite."""
    return ir.select(scalar.is_inf(greatest), scalar.f(0.0, greatest.dtype), greatest)


def _logsumexp_kernel(dtype: DType, count: int, **options: Any) -> Body:
    acc = dtype.compute
    x, m = ir.input_(0, dtype), ir.param(0, acc)
    stages = (
        Stage(x, MONOIDS["max"], _shift(ir.input_(0, acc))),
        Stage(mathlib.exp(x - m), MONOIDS["sum"]),
    )
    return stages, (mathlib.log(ir.param(1, acc)) + m,), ()


def _weights(c: Context) -> Tensor:
    from ..nn.normalization import softmax_over

    return softmax_over(widened(c.input(0)), c.options["axes"])


def _logsumexp_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    spec, axes = c.input_spec(0), c.options["axes"]
    d = ops.multiply(expand(widened(g), spec.shape, axes), _weights(c))
    return [ops.astype(d, spec.dtype, copy=False)]


def _logsumexp_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    (t,) = tangents
    d = sum_(
        ops.multiply(widened(t), _weights(c)),
        axis=c.options["axes"],
        keepdims=c.options["keepdims"],
    )
    return ops.astype(d, t.dtype, copy=False)


_logsumexp = Fused(
    "logsumexp",
    _logsumexp_kernel,
    reduces=True,
    vjp=_logsumexp_vjp,
    jvp=_logsumexp_jvp,
)


@function("statistics", differentiable=True)
def logsumexp(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over axes without overflow: m + log(sum(exp(x - m))), m the greatest.

    Method: Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax
    functions", IMA Journal of Numerical Analysis 41(4), 2021.

    Args:
        x: Floating tensor.
        axis: Axis or axes; None means all.
        keepdims: Keep reduced axes with size 1.

    Returns:
        Tensor of the dtype of `x`; over no elements, or only -inf, -inf.

    Raises:
        TypeError: `x` is not floating.
    """
    tensor_of("logsumexp", x)
    need_floating("logsumexp", x)
    axes = normalize_axes("logsumexp", axis, x.ndim)
    return apply(_logsumexp, [x], {"axes": axes, "keepdims": bool(keepdims)})  # type: ignore[no-any-return]
