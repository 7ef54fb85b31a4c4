"""Partial derivatives of the elementwise functions, hand-derived, for every kind of number.

Each entry maps the arguments to the partial derivatives, one per argument, written with the
functions of `running` (so they carry error bounds, and can be differentiated again).  At kinks
the conventions of PyTorch and JAX hold: abs'(0) = 0, relu'(0) = 0, maximum and minimum share
half and half between equal arguments, clip passes the gradient on the closed interval.
Formulas: Abramowitz and Stegun, Handbook of Mathematical Functions, chapters 4 and 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from flint import arb

from . import running as r
from .running import Dual, constant, real

__all__ = ["PARTIALS"]


def _ln(x: Any, base: int) -> Any:
    return constant(x, math.log(base), lambda: arb(base).log())


def _zero(*xs: Any) -> list[Any]:
    return [np.zeros(real(x).shape) for x in xs]


def _abs(x: Any) -> list[Any]:
    return [np.sign(real(x))]


def _shared(first_wins: Callable[[Any, Any], Any]) -> Callable[..., list[Any]]:
    def partials(x: Any, y: Any) -> list[Any]:
        a, b = real(x), real(y)
        share = np.where(a == b, 0.5, np.where(first_wins(a, b), 1.0, 0.0))
        return [share, 1.0 - share]

    return partials


def _remainder(x: Any, y: Any) -> list[Any]:
    return [np.ones(real(x).shape), -np.floor(real(x) / real(y))]


def _copysign(x: Any, y: Any) -> list[Any]:
    a, b = real(x), real(y)
    return [np.where(a == 0, 0.0, np.copysign(1.0, a) * np.copysign(1.0, b)), np.zeros(b.shape)]


def _hypot(x: Any, y: Any) -> list[Any]:
    h = r.sqrt(x * x + y * y)
    zero = real(h) == 0
    safe = r.where(zero, h * 0 + 1, h)
    return [r.where(zero, x * 0, x / safe), r.where(zero, y * 0, y / safe)]


def _atan2(y: Any, x: Any) -> list[Any]:
    square = x * x + y * y
    return [x / square, -(y / square)]


def _pow(x: Any, y: Any) -> list[Any]:
    still = (real(x) == 0) & (real(y) >= 0)
    base = r.where(still, x * 0 + 1, x)
    by_base = r.where(real(y) == 0, y * 0, y * r.power(x, y - 1))
    return [by_base, r.where(still, x * 0, r.power(x, y) * r.log(base))]


def _logaddexp(x: Any, y: Any) -> list[Any]:
    return [r.sigmoid(x - y), r.sigmoid(y - x)]


def _gelu(x: Any) -> list[Any]:
    """Phi(x) + x phi(x); for x <= -1, where both terms vanish, exp(-x^2/2) (M(-x) + x phi(0)).

    M(t) = Phi(-t) exp(t^2/2) (`running.mills`), so nothing but the root at -0.75 cancels, and the
    bound is relative to the result: about x^2 / 2 u from the argument of exp, beside
    (M + t phi(0)) / (t phi(0) - M), 26 at -1 and t^2 far away, from the difference.  The sum in
    front would leave 1 - erf uncertain by u, which is more than all of it below -5.5.
    """
    half = constant(x, math.sqrt(0.5), lambda: (arb(1) / 2).sqrt())
    density = constant(x, 1 / math.sqrt(2 * math.pi), lambda: 1 / (2 * arb.pi()).sqrt())

    def slope(x: Any) -> Any:
        far = real(x) <= -1
        t = r.where(far, -x, np.ones(far.shape))
        tail = r.exp(-(t * t) * 0.5) * (r.mills(t) - t * density)
        middle = (1 + r.erf(x * half)) * 0.5 + x * (density * r.exp(-(x * x) * 0.5))
        return r.where(far, tail, middle)

    # A first derivative is one kernel, which stores its result alone.
    return _limited(x, slope if isinstance(x, Dual) else lambda x: r.chained(lambda: slope(x)))


def gelu_tanh_partial(x: Any) -> list[Any]:
    """(1 + t)/2 + x/2 (1 - t^2) s (1 + 3 a x^2), t = tanh(z), z = s (x + a x^3), a = 0.044715.

    The same with (1 + t)/2 = sigmoid(2 z).
    """
    scale = constant(x, math.sqrt(2 / math.pi), lambda: (2 / arb.pi()).sqrt())
    cube = constant(x, 0.044715)
    z = scale * (x + cube * (x * x * x))
    inner = scale * (1 + 3 * cube * (x * x))
    t, half = r.tanh(z), r.sigmoid(2 * z)
    return [
        r.either(
            (1 + t) * 0.5 + x * 0.5 * (1 - t * t) * inner,
            half * (1 + x * 2 * inner * (1 - half)),
        )
    ]


def _limited(x: Any, slope: Callable[[Any], Any]) -> list[Any]:
    """`slope` where x is finite, its limits 1 and 0 at the infinities."""
    at = real(x)
    inside = slope(r.where(np.isinf(at), x * 0 if isinstance(x, Dual) else np.zeros(at.shape), x))
    return [r.where(np.isinf(at), (at > 0).astype(np.float64), inside)]


def _acosh(x: Any) -> list[Any]:
    slope = 1 / r.sqrt(x * x - 1)
    return [r.where(real(x) < 1, np.full(real(x).shape, np.nan), slope)]


def _silu(x: Any) -> list[Any]:
    def slope(x: Any) -> Any:
        s = r.sigmoid(x)
        return s * (1 + x * (1 - s))

    return _limited(x, slope)


def _mish(x: Any) -> list[Any]:
    def slope(x: Any) -> Any:
        t = r.tanh(r.softplus(x))
        return t + x * (1 - t * t) * r.sigmoid(x)

    return _limited(x, slope)


def elu_partial(x: Any, alpha: float = 1.0) -> list[Any]:
    """1 where positive, else alpha exp(x)."""
    positive = real(x) > 0
    slope = r.exp(r.where(positive, x * 0, x))
    slope = slope if alpha == 1.0 else constant(x, alpha) * slope
    return [r.where(positive, np.ones(positive.shape), slope)]


def _hardswish(x: Any) -> list[Any]:
    """x/3 + 1/2 inside; the third may be a quotient or a rounded constant."""
    at = real(x)
    third = constant(x, 1 / 3, lambda: arb(1) / 3)
    middle = r.either(x / 3 + 0.5, x * third + 0.5)
    flat = np.where(at >= 3, 1.0, 0.0)
    return [r.where((at > -3) & (at < 3), middle, flat)]


def leaky_relu_partial(x: Any, negative_slope: float = 0.01) -> list[Any]:
    """1 where positive, else the slope (which is rounded to the dtype)."""
    positive = real(x) > 0
    return [r.where(positive, np.ones(positive.shape), constant(x, negative_slope))]


def softplus_partial(x: Any, beta: float = 1.0, threshold: float = 20.0) -> list[Any]:
    """sigmoid(beta x), 1 beyond the threshold."""
    scaled = x if beta == 1.0 else constant(x, beta) * x
    return [r.where(real(x) * beta > threshold, np.ones(real(x).shape), r.sigmoid(scaled))]


def hardtanh_partial(x: Any, min_val: float = -1.0, max_val: float = 1.0) -> list[Any]:
    """1 inside the open interval, as PyTorch has it."""
    return [((real(x) > min_val) & (real(x) < max_val)).astype(np.float64)]


def _tanh(x: Any) -> list[Any]:
    y = r.tanh(x)
    return [1 - y * y]


def _reciprocal(x: Any) -> list[Any]:
    y = 1 / x
    return [-r.either(y / x, y * y)]


def _rsqrt(x: Any) -> list[Any]:
    return [-1 / (r.sqrt(x) * x * 2)]


def _tan(x: Any) -> list[Any]:
    y = r.tan(x)
    return [1 + y * y]


def _sigmoid(x: Any) -> list[Any]:
    y = r.sigmoid(x)
    return [y * (1 - y)]


def _erf(x: Any) -> list[Any]:
    scale = constant(x, 2 / math.sqrt(math.pi), lambda: 2 / arb.pi().sqrt())
    return [scale * r.exp(-(x * x))]


PARTIALS: dict[str, Callable[..., list[Any]]] = {
    "abs": _abs,
    "acos": lambda x: [-1 / r.sqrt(1 - x * x)],
    "acosh": _acosh,
    "add": lambda x, y: [np.ones(real(x).shape), np.ones(real(y).shape)],
    "asin": lambda x: [1 / r.sqrt(1 - x * x)],
    "asinh": lambda x: [1 / r.sqrt(x * x + 1)],
    "atan": lambda x: [1 / (1 + x * x)],
    "atan2": _atan2,
    "atanh": lambda x: [1 / (1 - x * x)],
    "ceil": _zero,
    "copysign": _copysign,
    "cos": lambda x: [-r.sin(x)],
    "cosh": lambda x: [r.sinh(x)],
    "divide": lambda x, y: [1 / y, -(x / y / y)],
    "elu": elu_partial,
    "erf": _erf,
    "exp": lambda x: [r.exp(x)],
    "exp2": lambda x: [r.exp2(x) * _ln(x, 2)],
    "expm1": lambda x: [r.exp(x)],
    "floor": _zero,
    "floor_divide": _zero,
    "gelu": _gelu,
    "hardswish": _hardswish,
    "hardtanh": hardtanh_partial,
    "hypot": _hypot,
    "leaky_relu": leaky_relu_partial,
    "log": lambda x: [1 / x],
    "log10": lambda x: [1 / (x * _ln(x, 10))],
    "log1p": lambda x: [1 / (1 + x)],
    "log2": lambda x: [1 / (x * _ln(x, 2))],
    "logaddexp": _logaddexp,
    "maximum": _shared(lambda a, b: a > b),
    "minimum": _shared(lambda a, b: a < b),
    "mish": _mish,
    "multiply": lambda x, y: [y, x],
    "negative": lambda x: [-np.ones(real(x).shape)],
    "positive": lambda x: [np.ones(real(x).shape)],
    "pow": _pow,
    "real": lambda x: [np.ones(real(x).shape)],
    "reciprocal": _reciprocal,
    "relu": lambda x: [(real(x) > 0).astype(np.float64)],
    "remainder": _remainder,
    "rsqrt": _rsqrt,
    "round": _zero,
    "sigmoid": _sigmoid,
    "sign": _zero,
    "silu": _silu,
    "sin": lambda x: [r.cos(x)],
    "sinh": lambda x: [r.cosh(x)],
    "softplus": softplus_partial,
    "sqrt": lambda x: [1 / (r.sqrt(x) * 2)],
    "square": lambda x: [x * 2],
    "subtract": lambda x, y: [np.ones(real(x).shape), -np.ones(real(y).shape)],
    "tan": _tan,
    "tanh": _tanh,
    "trunc": _zero,
}
