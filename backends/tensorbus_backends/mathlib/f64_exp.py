"""exp, exp2, expm1, sinh, cosh, tanh and sigmoid for float64, over `exponential`.

All bodies are free of branches and loops.  Error budgets, in ulps of the result:

* exp, exp2: 0.5 for the last sum, 0.25 for ``r + s`` where the result's significand comes from
  [0.7, 1), 0.15 for s and its polynomial; below 1.  Of a subnormal result, the error before the
  rounding to it counts at most half: below 1 again.
* expm1: 0.5, and 0.5 for the roundings of s, which k = 1 doubles at x = ln(2)/2; 0.1 for the rest.
* sigmoid, sinh, cosh: 0.5, and 0.25 for the pair of the exponential; below 1 where subnormal.
  sinh below 1: 0.5, and 0.3 for ``x**3``'s polynomial.
* tanh: 0.5, and 0.35 for the pair of expm1.
"""

from __future__ import annotations

from .. import dtypes as dt, ir
from ..ir import Expr
from ..scalar import copysign, f
from .exact import fast_two_sum, floats, horner, power_of_two, scale, two_sum
from .exponential import clamp, exp2_parts, exp_parts, expm1_pair

__all__ = ["cosh", "exp", "exp2", "expm1", "sigmoid", "sinh", "tanh"]

_ONE = f(1.0, dt.float64)

# (sinh(x) - x) / x**3 in x**2 on [0, 1]: degree 6, absolute error 2**-56.6.
_SINH = floats(
    "0x1.5555555555555p-3",
    "0x1.1111111111198p-7",
    "0x1.a01a01a00b9c2p-13",
    "0x1.71de3a5e9b752p-19",
    "0x1.ae645336ffbc5p-26",
    "0x1.612234504ed55p-33",
    "0x1.b260b8b04cdffp-41",
)


def exp(x: Expr) -> Expr:
    """e to the power x; +inf above 709.78, and subnormal results are rounded once more."""
    parts = exp_parts(clamp(x, -1000.0, 1000.0))
    return scale(parts.near_one, parts.k)


def exp2(x: Expr) -> Expr:
    """2 to the power x; exact for integers."""
    parts = exp2_parts(clamp(x, -1100.0, 1100.0))
    return scale(parts.near_one, parts.k)


def expm1(x: Expr) -> Expr:
    """``exp(x) - 1`` without cancellation; keeps -0.

    ``2**k (1 + r + s) - 1`` with the sum ``(2**k - 1) + 2**k r`` exact, all of it scaled by 1/2 so
    that k = 1024 does not overflow before the result does.
    """
    parts = exp_parts(clamp(x, -60.0, 1000.0))
    k = ir.select(parts.k < 1024, parts.k, ir.const(1024, dt.int64))
    half = power_of_two(k - 1, dt.float64)
    high, low = two_sum(half - f(0.5, dt.float64), half * parts.r)
    result = (high + ir.fma(half, parts.s, low)) * f(2.0, dt.float64)
    # Above 709.79 the clamped k makes the scaled value wrong, but the result is infinite there.
    result = ir.select(x > f(709.79, dt.float64), f(float("inf"), dt.float64), result)
    return ir.select(ir.fabs(x) < f(2.0**-54, dt.float64), x, result)


def sigmoid(x: Expr) -> Expr:
    """``1 / (1 + exp(-x))``, accurate in relative terms down to the least subnormal.

    With ``e = exp(-|x|)`` the result is ``1 / (1 + e)`` or ``e / (1 + e)``.  Numerator and
    denominator are pairs; one division gives a quotient that a residual then corrects.
    """
    parts = exp_parts(-clamp(ir.fabs(x), 0.0, 1000.0))
    v, v_low = parts.pair
    negative = x < f(0.0, dt.float64)
    small = ir.select(parts.k < -100, ir.const(-100, dt.int64), parts.k)
    two_k = power_of_two(small, dt.float64)
    high, low = fast_two_sum(_ONE, v * two_k)
    low = ir.fma(v_low, two_k, low)
    top = ir.select(negative, v, _ONE)
    top_low = ir.select(negative, v_low, f(0.0, dt.float64))
    inverse = _ONE / high
    q = top * inverse
    rest = ir.fma(-q, high, top) + (top_low - q * low)
    result = scale(ir.fma(rest, inverse, q), ir.select(negative, parts.k, ir.const(0, dt.int64)))
    return ir.select(x.eq(x), result, x)


def _half_exponentials(a: Expr, sign: float) -> Expr:
    """``(exp(a) + sign exp(-a)) / 2`` for a >= 0, as ``2**(k-1) (v + sign 2**(-2k) / v)``."""
    parts = exp_parts(clamp(a, 0.0, 1000.0))
    v, v_low = parts.pair
    y = _ONE / v
    y_low = y * (ir.fma(-y, v, _ONE) - y * v_low)
    k = ir.select(parts.k < 60, parts.k, ir.const(60, dt.int64))
    other = power_of_two(k * -2, dt.float64) * f(sign, dt.float64)
    high, low = fast_two_sum(v, y * other)
    low = low + ir.fma(y_low, other, v_low)
    return scale(high + low, parts.k - 1)


def sinh(x: Expr) -> Expr:
    """Hyperbolic sine; below 1 by a polynomial, so that nothing cancels."""
    a = ir.fabs(x)
    z = a * a
    small = ir.fma(a * z, horner(z, _SINH), a)
    result = ir.select(a < _ONE, small, _half_exponentials(a, -1.0))
    return copysign(result, x)


def cosh(x: Expr) -> Expr:
    """Hyperbolic cosine."""
    return _half_exponentials(ir.fabs(x), 1.0)


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent: ``E / (E + 2)`` with ``E = expm1(2|x|)``, both as pairs.

    Beyond 22 the result rounds to 1, below 2**-28 to x.
    """
    a = clamp(ir.fabs(x), 0.0, 22.0)
    top, top_low = expm1_pair(exp_parts(a + a))
    high, low = two_sum(f(2.0, dt.float64), top)
    low = low + top_low
    inverse = _ONE / high
    q = top * inverse
    rest = ir.fma(-q, high, top) + (top_low - q * low)
    result = ir.fma(rest, inverse, q)
    result = ir.select(a < f(2.0**-28, dt.float64), a, result)
    return copysign(result, x)
