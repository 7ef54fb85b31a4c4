"""sinh, cosh, tanh and their inverses in float32."""

from __future__ import annotations

from .. import dtypes as dt, ir, scalar
from ..ir import Expr
from .f32_common import (
    INF,
    NAN,
    c,
    fast_two_sum,
    polynomial,
    power_of_two,
    root_two,
    two_product,
    two_sum,
)
from .f32_exponential import at_most, expm1_reduced, reduce
from .f32_logarithm import log_two

__all__ = ["acosh", "asinh", "atanh", "cosh", "sinh", "tanh"]

# sinh(r) = r + r^3 s(r^2), abs(r) <= ln(2)/2 (1 + 2^-12): relative error 2^-34.13.
_SINH = (0.16666667, 0.008333192, 0.00019958477)
# cosh(r) = 1 + r^2 c(r^2) on the same interval: relative error 2^-33.21.
_COSH = (0.5, 0.041666456, 0.001393576)
# tanh(x) = x + x^3 t(x^2), abs(x) <= 1: relative error 2^-27.68.
_TANH = (
    -0.33333296,
    0.13332346,
    -0.053879853,
    0.021486724,
    -0.00794612,
    0.002301327,
    -0.00035843026,
)
# asinh(x) = x + x^3 a(x^2), abs(x) <= 1/2: relative error 2^-33.92.
_ASINH = (-0.16666666, 0.07499907, -0.044616096, 0.030033568, -0.020049568, 0.009256593)
# atanh(x) = x + x^3 a(x^2), abs(x) <= 1/2: relative error 2^-29.42.
_ATANH = (0.33333302, 0.20002452, 0.14223826, 0.11816006, 0.05161949, 0.17635684)


def _exponentials(x: Expr) -> tuple[Expr, Expr, Expr, Expr, Expr]:
    """What sinh and cosh of abs(x) are made of.

    With ``abs(x) = n ln 2 + r``, ``a = 2**(n-1)`` and ``b = 2**(-n-1)``:
    sinh = (a + b) sinh(r) + (a - b) cosh(r) and cosh = (a + b) cosh(r) + (a - b) sinh(r).

    Returns:
        a, b, r, and the tails sinh(r) - r and cosh(r) - 1, in which the low part of r is; a and
        b are halved, so that n = 129 stays in range.
    """
    k = reduce(at_most(ir.fabs(x), 89.5))
    n = k.bits - 0x4B4000FE
    down = ir.select(n > 124, ir.const(-127, dt.int32), -2 - n)
    square = k.r * k.r
    s = ir.fma(k.r * square, polynomial(square, _SINH), k.lo)
    t = ir.fma(square, polynomial(square, _COSH), k.r * k.lo)
    return power_of_two(n - 2), power_of_two(down), k.r, s, t


def _combine(one: Expr, slope: Expr, low: Expr, r: Expr, tails: Expr) -> Expr:
    """Twice ``one + slope * r + low + tails``, where ``abs(slope * r) <= one`` or `one` is 0."""
    lead = ir.fma(slope, r, one)
    rest = ir.fma(slope, r, one - lead)
    y = lead + (rest + (low + tails))
    return y + y


def sinh(x: Expr) -> Expr:
    """Hyperbolic sine; sinh(-0) is -0."""
    a, b, r, s, t = _exponentials(x)
    plus, minus = a + b, a - b
    low = ir.fma(r, b - (plus - a), (a - minus) - b)
    y = _combine(minus, plus, low, r, ir.fma(plus, s, minus * t))
    return scalar.copysign(ir.select(ir.fabs(x) < c(2.0**-12), ir.fabs(x), y), x)


def cosh(x: Expr) -> Expr:
    """Hyperbolic cosine."""
    a, b, r, s, t = _exponentials(x)
    plus, minus = a + b, a - b
    return _combine(plus, minus, b - (plus - a), r, ir.fma(minus, s, plus * t))


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent; tanh(-0) is -0.

    A polynomial up to 1, and 1 - 2 / (e**2x + 1) above, where the quotient is below 0.24, so that
    its relative error of at most 2**-22.9 counts half an ulp.
    """
    a = ir.fabs(x)
    square = a * a
    small = ir.fma(a * square, polynomial(square, _TANH), a)
    k = reduce(at_most(a + a, 19.0))
    power = k.power()
    large = c(1.0) - c(2.0) / ir.fma(power, expm1_reduced(k), power + c(1.0))
    return scalar.copysign(ir.select(a >= c(1.0), large, small), x)


def asinh(x: Expr) -> Expr:
    """Inverse hyperbolic sine; asinh(-0) is -0.

    A polynomial up to 1/2; log(x + sqrt(x^2 + 1)) in two-floats above; log(2 x) beyond 2**13,
    where the rest is below 2**-28.
    """
    a = ir.fabs(x)
    square = a * a
    small = ir.fma(a * square, polynomial(square, _ASINH), a)
    huge = a > c(2.0**13)
    b = ir.select(huge, c(1.0), a)
    p, p_lo = two_product(b, b)
    v, v_lo = two_sum(p, c(1.0))
    s, s_lo = root_two(v, v_lo + p_lo)
    w, w_lo = fast_two_sum(s, b)
    lead, low = log_two(
        ir.select(huge, a, w),
        ir.select(huge, c(0.0), w_lo + s_lo),
        ir.select(huge, c(1.0), c(0.0)),
    )
    y = ir.select(a < c(0.5), small, lead + low)
    return scalar.copysign(ir.select(a < INF, y, a), x)


def acosh(x: Expr) -> Expr:
    """Inverse hyperbolic cosine; NaN below 1.

    With t = x - 1, exact: log(1 + (t + sqrt(t (x + 1)))) in two-floats; log(2 x) beyond 2**13.
    """
    huge = x > c(2.0**13)
    b = ir.select(huge, c(1.0), x)
    t = b - c(1.0)
    u, u_lo = fast_two_sum(b, c(1.0))
    p, p_lo = two_product(t, u)
    s, s_lo = root_two(p, ir.fma(t, u_lo, p_lo))
    g, g_lo = fast_two_sum(s, t)
    w, w_lo = two_sum(g, c(1.0))
    lead, low = log_two(
        ir.select(huge, x, w),
        ir.select(huge, c(0.0), w_lo + (g_lo + s_lo)),
        ir.select(huge, c(1.0), c(0.0)),
    )
    special = ir.select(x < 1.0, NAN, x)
    return ir.select((x >= 1.0) & (x < INF), lead + low, special)


def atanh(x: Expr) -> Expr:
    """Inverse hyperbolic tangent; +-inf at +-1, NaN beyond, atanh(-0) is -0.

    A polynomial up to 1/2, log((1 + x) / (1 - x)) / 2 above, with 1 - x exact and the quotient
    as a two-float.
    """
    a = ir.fabs(x)
    square = a * a
    small = ir.fma(a * square, polynomial(square, _ATANH), a)
    d = c(1.0) - a
    top, top_lo = fast_two_sum(c(1.0), a)
    q = top / d
    q_lo = (ir.fma(-q, d, top) + top_lo) / d
    lead, low = log_two(q, q_lo)
    y = ir.select(a < c(0.5), small, c(0.5) * (lead + low))
    special = ir.select(a.eq(1.0), INF, NAN)
    return scalar.copysign(ir.select(a < 1.0, y, special), x)
