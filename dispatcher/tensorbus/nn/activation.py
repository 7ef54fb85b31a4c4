"""Activations: each one kernel forward and one backward.

Names and options are those of ``torch.nn.functional``; subgradients at kinks are PyTorch's.
float16 and bfloat16 are computed in float32 and rounded once.  Where a formula would give
``0 * inf`` at an infinity, the limit is returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from tensorbus_backends import dtypes as dt, ir, mathlib
from tensorbus_backends.ir import Expr
from tensorbus_backends.scalar import f

from .._history import Context
from .._op import function
from .._shown import shown
from .._tensor import Tensor
from ..ops import _dtype_rules as rules
from ..ops._elementwise import Elementwise, unary
from ..ops.elementwise_arithmetic import clip_body, masked, multiply, square
from ..ops.elementwise_comparison import greater, where
from ..ops.elementwise_transcendental import exp, sigmoid as _sigmoid, tanh
from . import _normal
from ._normal import limited

__all__ = [
    "elu",
    "gelu",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "mish",
    "relu",
    "sigmoid",
    "silu",
    "softplus",
]

_CUBE = 0.044715
_ROOT = math.sqrt(2 / math.pi)
_DENSITY = 1 / math.sqrt(2 * math.pi)


def _far(x: Expr) -> float:
    """A size beyond which exp(-size) rounds to 0."""
    return 104.0 if x.dtype is dt.float32 else 746.0


def _zero(x: Expr) -> Expr:
    return f(0.0, x.dtype)


def _left(x: Expr) -> tuple[Expr, Expr, Expr]:
    """Far to the left exp(x) is subnormal where x exp(x) is not: compute with a shifted x.

    Returns:
        x, limited to where x exp(x) does not round to 0; x moved right by a constant c where even
        exp(x + c) is far below u; exp(-c), by which the result has to be multiplied.
    """
    deep, move, last = (70.0, 44.0, 110.0) if x.dtype is dt.float32 else (120.0, 80.0, 754.0)
    t = ir.select(x < -last, f(-last, x.dtype), x)
    inside = t < -deep
    moved = t + ir.select(inside, f(move, x.dtype), _zero(x))
    return t, moved, ir.select(inside, f(math.exp(-move), x.dtype), f(1.0, x.dtype))


def _logistic(z: Expr) -> tuple[Expr, Expr]:
    """sigmoid(z) and sigmoid(-z), each with full relative accuracy: 5 u."""
    e = mathlib.exp(-ir.fabs(z))
    large = 1.0 / (1.0 + e)
    small = e * large
    negative = z < 0.0
    return ir.select(negative, small, large), ir.select(negative, large, small)


def _smooth(
    name: str,
    body: Callable[..., Expr],
    slope: Callable[..., Expr],
    curvature: Callable[[Context, Tensor], Tensor],
    params: tuple[str, ...] = (),
) -> Elementwise:
    """An activation with its derivative as a fused op.

    Args:
        name: Of the op.
        body: From x and options to the value.
        slope: From x and options to the derivative.
        curvature: The second derivative in terms of ops, from the context and x.
        params: Options that are launch scalars.
    """
    backward = Elementwise(
        f"{name}_backward",
        lambda v, x, **options: v * slope(x, **options),
        rules.floating,
        [
            lambda c: lambda v: backward(v, c.input(1), **c.options),
            lambda c: multiply(c.input(0), curvature(c, c.input(1))),
        ],
        params=params,
    )
    return Elementwise(
        name,
        body,
        rules.floating,
        [lambda c: lambda v: backward(v, c.input(0), **c.options)],
        params=params,
    )


# -- relu and what is linear in pieces ------------------------------------------------------------

_relu_backward = masked("relu_backward", lambda v, x: ir.select(x <= 0.0, _zero(v), v), 1)
_relu = Elementwise(
    "relu",
    lambda x: ir.select(x <= 0, ir.const(0, x.dtype), x),
    rules.numeric,
    [lambda c: lambda v: _relu_backward(v, c.input(0))],
)
_leaky_backward = masked(
    "leaky_relu_backward",
    lambda v, x, negative_slope: ir.select(x > 0.0, v, v * negative_slope),
    1,
    params=("negative_slope",),
)
_leaky_relu = Elementwise(
    "leaky_relu",
    lambda x, negative_slope: ir.select(x > 0.0, x, x * negative_slope),
    rules.floating,
    [lambda c: lambda v: _leaky_backward(v, c.input(0), **c.options)],
    params=("negative_slope",),
)
_hardtanh_backward = masked(
    "hardtanh_backward",
    lambda v, x, min_val, max_val: ir.select((x <= min_val) | (x >= max_val), _zero(v), v),
    1,
    params=("min_val", "max_val"),
)
_hardtanh = Elementwise(
    "hardtanh",
    lambda x, min_val, max_val: clip_body(x, min_val, max_val),
    rules.floating,
    [lambda c: lambda v: _hardtanh_backward(v, c.input(0), **c.options)],
    params=("min_val", "max_val"),
)


def _hardswish_body(x: Expr) -> Expr:
    middle = ir.select(x > -3.0, x * (x + 3.0) / 6.0, x * 0.0)
    return ir.select(x >= 3.0, x, ir.select(x <= -3.0, f(-0.0, x.dtype), middle))


def _hardswish_slope(x: Expr) -> Expr:
    inner = x / 3.0 + 0.5
    return ir.select(x <= -3.0, _zero(x), ir.select(x >= 3.0, f(1.0, x.dtype), inner))


def _hardswish_curvature(c: Context, x: Tensor) -> Tensor:
    inside = greater(x, -3) & greater(3, x)
    return where(inside, 1 / 3, x * 0)


_hardswish = _smooth("hardswish", _hardswish_body, _hardswish_slope, _hardswish_curvature)

# -- exponential ----------------------------------------------------------------------------------


def _elu_body(x: Expr, alpha: Expr) -> Expr:
    return ir.select(x > 0.0, x, alpha * mathlib.expm1(x))


def _elu_slope(x: Expr, alpha: Expr) -> Expr:
    return ir.select(x > 0.0, f(1.0, x.dtype), alpha * mathlib.exp(x))


def _elu_curvature(c: Context, x: Tensor) -> Tensor:
    return where(greater(x, 0), 0, exp(where(greater(x, 0), 0, x)) * c.options["alpha"])


def _softplus_body(x: Expr, beta: Expr, threshold: Expr) -> Expr:
    z = beta * x
    return ir.select(z > threshold, x, mathlib.softplus(z) / beta)


def _softplus_slope(x: Expr, beta: Expr, threshold: Expr) -> Expr:
    z = beta * x
    return ir.select(z > threshold, f(1.0, x.dtype), mathlib.sigmoid(z))


def _softplus_curvature(c: Context, x: Tensor) -> Tensor:
    beta = c.options["beta"]
    s = _sigmoid(x * beta)
    return where(greater(x * beta, c.options["threshold"]), 0, s * (1 - s) * beta)


def _silu_body(x: Expr) -> Expr:
    t, moved, scale = _left(x)
    return t * mathlib.sigmoid(moved) * scale


def _silu_slope(x: Expr) -> Expr:
    t, moved, scale = _left(x)
    near = ir.select(t > _far(x), f(_far(x), x.dtype), t)
    s, other = _logistic(moved)
    return s * ir.fma(near, other, 1.0) * scale


def _silu_curvature(c: Context, x: Tensor) -> Tensor:
    s = _sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def _mish_parts(t: Expr) -> tuple[Expr, Expr, Expr]:
    """e = exp(t), n = e (e + 2) and n + 2: tanh(log(1 + e)) = n / (n + 2)."""
    e = mathlib.exp(t)
    n = ir.fma(e, e, e + e)
    return e, n, n + 2.0


def _mish_body(x: Expr) -> Expr:
    # From 20 (40) on the factor rounds to 1, and n would overflow.
    high = 20.0 if x.dtype is dt.float32 else 40.0
    t, moved, scale = _left(x)
    _, n, d = _mish_parts(ir.select(moved > high, f(high, x.dtype), moved))
    return ir.select(x > high, x, t * (n / d) * scale)


def _mish_slope(x: Expr) -> Expr:
    """tanh(s) + x (1 - tanh(s)**2) sigmoid(x), whose product is 4 x e (1 + e) / (n + 2)**2."""
    high = 20.0 if x.dtype is dt.float32 else 40.0
    t, moved, scale = _left(x)
    e, n, d = _mish_parts(ir.select(moved > high, f(high, x.dtype), moved))
    slope = (n + 4.0 * t * (ir.fma(e, e, e) / d)) / d
    return ir.select(x > high, f(1.0, x.dtype), slope * scale)


def _mish_curvature(c: Context, x: Tensor) -> Tensor:
    s = _sigmoid(x)
    t = tanh(softplus(x))
    first = (1 - square(t)) * s
    second = first * (1 - s - 2 * t * s)
    return 2 * first + x * second


_elu = _smooth("elu", _elu_body, _elu_slope, _elu_curvature, ("alpha",))
_softplus = _smooth(
    "softplus", _softplus_body, _softplus_slope, _softplus_curvature, ("beta", "threshold")
)
_silu = _smooth("silu", _silu_body, _silu_slope, _silu_curvature)
_mish = _smooth("mish", _mish_body, _mish_slope, _mish_curvature)

# -- gelu -----------------------------------------------------------------------------------------


def _tanh_parts(x: Expr) -> tuple[Expr, Expr, Expr]:
    """x within where the result varies, 2 z and its derivative; (1 + tanh(z))/2 = sigmoid(2 z)."""
    far = 14.0 if x.dtype is dt.float32 else 24.0
    t = limited(x, -far, far)
    square_ = t * t
    two_z = f(2 * _ROOT, x.dtype) * t * ir.fma(square_, f(_CUBE, x.dtype), 1.0)
    slope = f(2 * _ROOT, x.dtype) * ir.fma(square_, f(3 * _CUBE, x.dtype), 1.0)
    return t, two_z, slope


def _gelu_body(x: Expr, approximate: str) -> Expr:
    if approximate == "none":
        return _normal.gelu(x)
    t, two_z, _ = _tanh_parts(x)
    s = mathlib.sigmoid(two_z)
    return ir.select(x > t, x, t * s)


def _gelu_slope(x: Expr, approximate: str) -> Expr:
    if approximate == "none":
        return _normal.gelu_slope(x)
    t, two_z, slope = _tanh_parts(x)
    s, other = _logistic(two_z)
    return s * ir.fma(t * slope, other, 1.0)


def _gelu_curvature(c: Context, x: Tensor) -> Tensor:
    if c.options["approximate"] == "none":
        return exp(square(x) * -0.5) * (2 - square(x)) * _DENSITY
    s = _sigmoid(x * (square(x) * _CUBE + 1) * (2 * _ROOT))
    slope = (square(x) * (3 * _CUBE) + 1) * (2 * _ROOT)
    bend = x * (12 * _CUBE * _ROOT)
    return s * (1 - s) * (2 * slope + x * ((1 - 2 * s) * square(slope) + bend))


_gelu = _smooth("gelu", _gelu_body, _gelu_slope, _gelu_curvature)


# -- public ---------------------------------------------------------------------------------------


@function("activation", differentiable=True, namespace="nn")
def relu(x: Tensor, /) -> Tensor:
    """``max(x, 0)`` of a numeric tensor; NaN stays NaN.  Its derivative at 0 is 0."""
    return unary(_relu, x)


@function("activation", differentiable=True, namespace="nn")
def sigmoid(x: Tensor, /) -> Tensor:
    """``1 / (1 + exp(-x))`` of a floating tensor, within 1 ulp."""
    return _sigmoid(x)


@function("activation", differentiable=True, namespace="nn")
def gelu(x: Tensor, /, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """Gaussian error linear unit (Hendrycks and Gimpel, 2016) of a floating tensor.

    Args:
        x: Any shape.
        approximate: ``"none"`` for ``x Phi(x)`` with the normal distribution function Phi;
            ``"tanh"`` for ``x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x**3)))``.

    Returns:
        Same shape and dtype.  ``"none"``: relative error below 10 u, u = 2**-p, also for negative
        x, where no difference cancels.  ``"tanh"``: below (10 + 10 abs(z)) u with z the argument
        of tanh, since its rounding moves the exponential.

    Raises:
        ValueError: `approximate` is something else.
        TypeError: `x` is not floating.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate={shown(approximate)}; choose 'none' or 'tanh'")
    return unary(_gelu, x, approximate=approximate)


@function("activation", differentiable=True, namespace="nn")
def silu(x: Tensor, /) -> Tensor:
    """``x sigmoid(x)`` of a floating tensor."""
    return unary(_silu, x)


@function("activation", differentiable=True, namespace="nn")
def softplus(x: Tensor, /, *, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """``log(1 + exp(beta x)) / beta`` of a floating tensor, and `x` where beta x > threshold."""
    return unary(_softplus, x, beta=float(beta), threshold=float(threshold))


@function("activation", differentiable=True, namespace="nn")
def elu(x: Tensor, /, *, alpha: float = 1.0) -> Tensor:
    """`x` where it is positive, else ``alpha (exp(x) - 1)``; floating."""
    return unary(_elu, x, alpha=float(alpha))


@function("activation", differentiable=True, namespace="nn")
def leaky_relu(x: Tensor, /, *, negative_slope: float = 0.01) -> Tensor:
    """`x` where it is positive, else ``negative_slope x``; floating."""
    return unary(_leaky_relu, x, negative_slope=float(negative_slope))


@function("activation", differentiable=True, namespace="nn")
def hardtanh(x: Tensor, /, *, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """`x` limited to [min_val, max_val]; the gradient passes strictly inside.

    Raises:
        ValueError: `min_val` is greater than `max_val`.
        TypeError: `x` is not floating.
    """
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val {min_val} is greater than max_val {max_val}")
    return unary(_hardtanh, x, min_val=float(min_val), max_val=float(max_val))


@function("activation", differentiable=True, namespace="nn")
def hardswish(x: Tensor, /) -> Tensor:
    """0 up to -3, `x` from 3 on, ``x (x + 3) / 6`` between; floating."""
    return unary(_hardswish, x)


@function("activation", differentiable=True, namespace="nn")
def mish(x: Tensor, /) -> Tensor:
    """``x tanh(softplus(x))`` (Misra, 2019) of a floating tensor.

    With e = exp(x) and n = e (e + 2) it is ``x n / (n + 2)``, free of cancellation.
    """
    return unary(_mish, x)
