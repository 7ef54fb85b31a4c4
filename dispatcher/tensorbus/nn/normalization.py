"""softmax, log_softmax, layer_norm and rms_norm, each one kernel that reads a row once.

Their gradients are kernels of the same kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorbus_backends import ir, mathlib
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import MONOIDS, Stage

from .. import ops
from .._history import Context
from .._op import apply, function
from .._promotion import promote
from .._tensor import Tensor
from ..ops._common import normalize_axes, normalize_axis, tensor_of
from ..ops._diagonal import unbroadcast
from ..ops._rows import Body, Fused
from ..ops.reduction import expand, need_floating, widened
from ..ops.statistics import _logsumexp
from ._composed import composed

__all__ = ["layer_norm", "log_softmax", "rms_norm", "softmax"]

Axes = tuple[int, ...]
_SUM, _MAX = MONOIDS["sum"], MONOIDS["max"]


def _tangent(tangents: Sequence[Tensor | None], k: int) -> Tensor | None:
    return tangents[k] if k < len(tangents) else None


def _total(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Sum of what is there, in order."""
    total: Tensor | None = None
    for part in parts:
        if part is not None:
            total = part if total is None else ops.add(total, part)
    return total


# -- softmax --------------------------------------------------------------------------------------


def _softmax_body(dtype: DType, count: int, **options: Any) -> Body:
    acc = dtype.compute
    x = ir.input_(0, dtype)
    power = mathlib.exp(x - ir.param(0, acc))
    return (Stage(x, _MAX), Stage(power, _SUM)), (power / ir.param(1, acc),), ()


def _softmax_gradient_body(dtype: DType, count: int, **options: Any) -> Body:
    g, y = ir.input_(0, dtype), ir.input_(1, dtype)
    return (Stage(g * y, _SUM),), (y * (g - ir.param(0, dtype.compute)),), ()


def _softmax_gradient_composed(g: Tensor, y: Tensor, *, axes: Axes) -> Tensor:
    a, b = widened(g), widened(y)
    total = ops.sum(ops.multiply(a, b), axis=axes, keepdims=True)
    return ops.astype(ops.multiply(b, ops.subtract(a, total)), y.dtype, copy=False)


_softmax_gradient = Fused(
    "softmax_gradient", _softmax_gradient_body, **composed(_softmax_gradient_composed)
)


def _softmax_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    return [apply(_softmax_gradient, [g, c.output()], c.options)]


def _softmax_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    # The Jacobian of softmax is symmetric.
    (t,) = tangents
    return apply(_softmax_gradient, [t, c.output()], c.options)  # type: ignore[no-any-return]


_softmax = Fused("softmax", _softmax_body, vjp=_softmax_vjp, jvp=_softmax_jvp)


def softmax_over(x: Tensor, axes: Axes) -> Tensor:
    """softmax over several axes together."""
    return apply(_softmax, [x], {"axes": axes})  # type: ignore[no-any-return]


@function("normalization", differentiable=True, namespace="nn")
def softmax(x: Tensor, /, *, axis: int = -1) -> Tensor:
    """exp(x - m) / sum(exp(x - m)) along an axis, m the greatest element.

    Error bound: relative (n + 4p + |x_i - m| + sum_j p_j |x_j - m|) u, from Blanchard, Higham and
    Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of Numerical
    Analysis 41(4), 2021.

    Args:
        x: Floating tensor.
        axis: Axis along which the results sum to 1.

    Returns:
        Tensor of shape and dtype of `x`.  A row that holds NaN or +inf, or only -inf, is NaN.

    Raises:
        TypeError: `x` is not floating.
        IndexError: The axis is out of range.
    """
    return softmax_over(*_row_arguments("softmax", x, axis))


def _row_arguments(name: str, x: Tensor, axis: int) -> tuple[Tensor, Axes]:
    tensor_of(name, x)
    need_floating(name, x)
    return x, (normalize_axis(name, axis, x.ndim),)


# -- log_softmax ----------------------------------------------------------------------------------


def _log_softmax_body(dtype: DType, count: int, **options: Any) -> Body:
    acc = dtype.compute
    x = ir.input_(0, dtype)
    shifted = x - ir.param(0, acc)
    stages = (
        Stage(x, _MAX),
        Stage(mathlib.exp(shifted), _SUM, mathlib.log(ir.input_(0, acc))),
    )
    return stages, (shifted - ir.param(1, acc),), ()


def _log_softmax_gradient_body(dtype: DType, count: int, **options: Any) -> Body:
    g, y = ir.input_(0, dtype), ir.input_(1, dtype)
    return (Stage(g, _SUM),), (g - mathlib.exp(y) * ir.param(0, dtype.compute),), ()


def _log_softmax_gradient_composed(g: Tensor, y: Tensor, *, axes: Axes) -> Tensor:
    a, b = widened(g), widened(y)
    total = ops.sum(a, axis=axes, keepdims=True)
    out = ops.subtract(a, ops.multiply(ops.exp(b), total))
    return ops.astype(out, y.dtype, copy=False)


_log_softmax_gradient = Fused(
    "log_softmax_gradient", _log_softmax_gradient_body, **composed(_log_softmax_gradient_composed)
)


def _log_softmax_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    return [apply(_log_softmax_gradient, [g, c.output()], c.options)]


def _log_softmax_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    (t,) = tangents
    wide = widened(t)
    weights = softmax_over(widened(c.input(0)), c.options["axes"])
    mean = ops.sum(ops.multiply(wide, weights), axis=c.options["axes"], keepdims=True)
    return ops.astype(ops.subtract(wide, mean), t.dtype, copy=False)


_log_softmax = Fused(
    "log_softmax",
    _log_softmax_body,
    vjp=_log_softmax_vjp,
    jvp=_log_softmax_jvp,
)


@function("normalization", differentiable=True, namespace="nn")
def log_softmax(x: Tensor, /, *, axis: int = -1) -> Tensor:
    """(x - m) - log(sum(exp(x - m))) along an axis, m the greatest element.

    Arguments, special cases and errors are those of `softmax`.
    """
    x, axes = _row_arguments("log_softmax", x, axis)
    return apply(_log_softmax, [x], {"axes": axes})  # type: ignore[no-any-return]


# -- layer_norm and rms_norm ----------------------------------------------------------------------


def _normalized(
    dtype: DType, x: Expr, n: int, eps: float, centre: bool
) -> tuple[list[Stage], Expr, Expr, list[tuple[DType, float]]]:
    """Stages, normalized element, inverse deviation and launch scalars of a row."""
    acc = dtype.compute
    count, small, reduced = ir.param(0, acc), ir.param(1, acc), ir.input_(0, acc)
    params: list[tuple[DType, float]] = [(acc, n), (acc, eps)]
    stages = []
    if centre:
        stages.append(Stage(x, _SUM, reduced / count))
        x = x - ir.param(2, acc)
    inverse = ir.const(1.0, acc) / ir.sqrt(reduced / count + small)
    stages.append(Stage(x * x, _SUM, inverse))
    scale = ir.param(2 + centre, acc)
    return stages, x * scale, scale, params


def _norm_body(
    dtype: DType, count: int, *, axes: Axes, n: int, eps: float, centre: bool, bias: bool
) -> Body:
    stages, y, _, params = _normalized(dtype, ir.input_(0, dtype), n, eps, centre)
    scaled = count > 1 + bias
    if scaled and bias:
        y = ir.fma(y, ir.input_(1, dtype), ir.input_(2, dtype))
    elif scaled:
        y = y * ir.input_(1, dtype)
    elif bias:
        y = y + ir.input_(1, dtype)
    return tuple(stages), (y,), params


def _standardized(x: Tensor, axes: Axes, eps: float, centre: bool) -> tuple[Tensor, Tensor]:
    """(x - mean) r and r = 1 / sqrt(variance + eps); without `centre` the mean counts as 0."""
    n = math.prod(x.shape[a] for a in axes)
    if centre:
        x = ops.subtract(x, ops.divide(ops.sum(x, axis=axes, keepdims=True), n))
    square = ops.divide(ops.sum(ops.multiply(x, x), axis=axes, keepdims=True), n)
    inverse = ops.divide(1.0, ops.sqrt(ops.add(square, eps)))
    return ops.multiply(x, inverse), inverse


def _norm_gradient_body(
    dtype: DType, count: int, *, axes: Axes, n: int, eps: float, centre: bool
) -> Body:
    """r (h - mean(h) - y mean(h y)) for h = g w and the normalized row y."""
    acc = dtype.compute
    g, x = ir.input_(0, dtype), ir.input_(1, dtype)
    h = g * ir.input_(2, dtype) if count > 2 else g
    stages, y, inverse, params = _normalized(dtype, x, n, eps, centre)
    first = len(params) + len(stages)
    part = ir.input_(0, acc) / ir.param(0, acc)
    result = h
    if centre:
        stages.append(Stage(h, _SUM, part))
        result = h - ir.param(first, acc)
        first += 1
    stages.append(Stage(h * y, _SUM, part))
    result = (result - y * ir.param(first, acc)) * inverse
    return tuple(stages), (result,), params


def _norm_gradient_composed(
    g: Tensor, x: Tensor, *weight: Tensor, axes: Axes, eps: float, centre: bool
) -> Tensor:
    y, inverse = _standardized(widened(x), axes, eps, centre)
    h = ops.multiply(widened(g), widened(weight[0])) if weight else widened(g)
    n = math.prod(x.shape[a] for a in axes)
    along = ops.divide(ops.sum(ops.multiply(h, y), axis=axes, keepdims=True), n)
    if centre:
        h = ops.subtract(h, ops.divide(ops.sum(h, axis=axes, keepdims=True), n))
    out = ops.multiply(ops.subtract(h, ops.multiply(y, along)), inverse)
    return ops.astype(out, x.dtype, copy=False)


_norm_gradient = Fused("norm_gradient", _norm_gradient_body, **composed(_norm_gradient_composed))


def _rules(c: Context) -> tuple[dict[str, Any], bool, bool]:
    """Options of the gradient kernel, and whether there are a weight and a bias."""
    options = {k: c.options[k] for k in ("axes", "eps", "centre")}
    bias = bool(c.options["bias"])
    return options, c.count() > 1 + bias, bias


def _norm_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    options, scaled, bias = _rules(c)
    result: list[Tensor | None] = [None] * c.count()
    x = c.input(0)
    if c.needs[0]:
        result[0] = apply(_norm_gradient, [g, x, *([c.input(1)] if scaled else [])], options)
    if scaled and c.needs[1]:
        y = apply(_NORMS[c.op], [widened(x)], {**options, "bias": False})
        result[1] = unbroadcast(ops.multiply(widened(g), y), c.input_spec(1))
    if bias and c.needs[-1]:
        result[-1] = unbroadcast(widened(g), c.input_spec(c.count() - 1))
    return result


def _norm_jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    # The Jacobian of normalization is symmetric.
    options, scaled, bias = _rules(c)
    x, t = c.input(0), tangents[0]
    parts: list[Tensor | None] = []
    if t is not None:
        moved = apply(_norm_gradient, [widened(t), widened(x)], options)
        parts.append(ops.multiply(moved, widened(c.input(1))) if scaled else moved)
    tw = tangents[1] if scaled else None
    if tw is not None:
        y = apply(_NORMS[c.op], [widened(x)], {**options, "bias": False})
        parts.append(ops.multiply(y, widened(tw)))
    tb = tangents[-1] if bias else None
    if tb is not None:
        parts.append(ops.broadcast_to(widened(tb), x.shape))
    total = _total(parts)
    return None if total is None else ops.astype(total, x.dtype, copy=False)


_NORMS = {
    name: Fused(name, _norm_body, vjp=_norm_vjp, jvp=_norm_jvp)
    for name in ("layer_norm", "rms_norm")
}


def _affine(name: str, what: str, x: Tensor, axes: Axes, value: Tensor) -> Tensor:
    """A weight or bias as a tensor of as many dimensions as `x` that broadcasts to it."""
    tensor_of(name, value, what)
    need_floating(name, value)
    sizes = tuple(x.shape[a] for a in axes)
    if value.shape == sizes:
        return ops.reshape(value, tuple(n if k in axes else 1 for k, n in enumerate(x.shape)))
    fits = value.ndim == x.ndim and all(
        m in (1, n) for m, n in zip(value.shape, x.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name}: {what} has shape {value.shape}; it needs the sizes {sizes} of the normalized "
            f"axes, or {x.ndim} dimensions that broadcast to {x.shape}"
        )
    return value


def _normalize(
    name: str,
    x: Tensor,
    axis: int | Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centre: bool,
) -> Tensor:
    axes = normalize_axes(name, axis, x.ndim)
    if not axes:
        raise ValueError(f"{name}: axis is empty; name at least one dimension to normalize")
    given = [("weight", weight), ("bias", bias)]
    tensors = [x] + [_affine(name, n, x, axes, v) for n, v in given if v is not None]
    dtype = x.dtype
    for t in tensors[1:]:
        dtype = promote(dtype, t.dtype)
    tensors = [ops.astype(t, dtype, copy=False) for t in tensors]
    options = {"axes": axes, "eps": float(eps), "centre": centre, "bias": bias is not None}
    return apply(_NORMS[name], tensors, options)  # type: ignore[no-any-return]


@function("normalization", differentiable=True, namespace="nn")
def layer_norm(
    x: Tensor,
    /,
    *,
    axis: int | Sequence[int] = -1,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias along axes: Ba, Kiros and Hinton, 2016.

    The variance is taken in two passes, over n elements (no correction).

    Args:
        x: Floating tensor.
        axis: Axis or axes over which mean and variance are taken.
        weight: Floating, of the sizes of the normalized axes (or broadcasting to `x` with as many
            dimensions).
        bias: Likewise.
        eps: Added to the variance.

    Returns:
        Tensor of the shape of `x`, of the common dtype.

    Raises:
        TypeError: An operand is not floating.
        ValueError: The shape of `weight` or `bias` does not fit.
        IndexError: An axis is out of range.
    """
    tensor_of("layer_norm", x)
    need_floating("layer_norm", x)
    return _normalize("layer_norm", x, axis, weight, bias, eps, True)


@function("normalization", differentiable=True, namespace="nn")
def rms_norm(
    x: Tensor,
    /,
    *,
    axis: int | Sequence[int] = -1,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """x / sqrt(mean(x * x) + eps) * weight along axes: Zhang and Sennrich, 2019.

    Args:
        x: Floating tensor.
        axis: Axis or axes over which the mean square is taken.
        weight: As for `layer_norm`.
        eps: Added to the mean square; by default the distance from 1 to the next number of the
            dtype of `x`.

    Returns:
        Tensor of the shape of `x`, of the common dtype.  Errors are those of `layer_norm`.
    """
    tensor_of("rms_norm", x)
    need_floating("rms_norm", x)
    small = 2.0 ** (1 - x.dtype.precision) if eps is None else eps
    return _normalize("rms_norm", x, axis, weight, None, small, False)


# -- log-sum-exp, whose gradient is a softmax ------------------------------------------------------


def _weights(c: Context) -> Tensor:
    return softmax_over(widened(c.input(0)), c.options["axes"])


def _logsumexp_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    spec, axes = c.input_spec(0), c.options["axes"]
    d = ops.multiply(expand(widened(g), spec.shape, axes), _weights(c))
    return [ops.astype(d, spec.dtype, copy=False)]


def _logsumexp_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    (t,) = tangents
    d = ops.sum(
        ops.multiply(widened(t), _weights(c)),
        axis=c.options["axes"],
        keepdims=c.options["keepdims"],
    )
    return ops.astype(d, t.dtype, copy=False)


_logsumexp.vjp, _logsumexp.jvp = _logsumexp_vjp, _logsumexp_jvp
