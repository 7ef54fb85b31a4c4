"""asin, acos and atan for float64.

asin on |x| <= 1/2: ``(asin(x) - x) / x**3`` in x**2 of degree 12 (Sollya, fpminimax, absolute error
2**-55.6); beyond, ``asin(x) = pi/2 - 2 asin(sqrt((1 - x) / 2))`` with the root as a pair.

Error, in ulps of the result: 0.5 for the last sum and 0.2 for the tail; for atan 0.45 where the
quotient is reduced (see `arctangent`).  All below 1.
"""

from __future__ import annotations

from .. import dtypes as dt, ir
from ..ir import Expr
from ..scalar import copysign, f, nan
from .arctangent import HALF_PI, atan_ratio
from .exact import Pair, choose, fast_two_sum, floats, horner

__all__ = ["acos", "asin", "atan"]

_ASIN = floats(
    "0x1.5555555555556p-3",
    "0x1.3333333332da2p-4",
    "0x1.6db6db6e48603p-5",
    "0x1.f1c71c11dee9fp-6",
    "0x1.6e8bb37521b4dp-6",
    "0x1.1c4d112cebec8p-6",
    "0x1.c9d30ac4170eep-7",
    "0x1.7801021c2f48ap-7",
    "0x1.532a916977991p-7",
    "0x1.5e29148ea6d95p-8",
    "0x1.220542fda9199p-6",
    "-0x1.f58c5b665eb04p-7",
    "0x1.dc181ec163abdp-6",
)
_ONE, _HALF, _ZERO = (f(v, dt.float64) for v in (1.0, 0.5, 0.0))
_PI_2, _PI_2_LOW = (f(v, dt.float64) for v in HALF_PI[dt.float64])


def _asin_half(a: Expr) -> tuple[Expr, Pair]:
    """For a = |x|: whether a > 1/2, and the pair asin(a), or asin(sqrt((1 - a) / 2))."""
    upper = a > _HALF
    square = ir.fma(a, -_HALF, _HALF)
    root = ir.sqrt(ir.select(upper, square, _ZERO))
    root_low = ir.select(root > _ZERO, ir.fma(-root, root, square) / (root + root), _ZERO)
    s, s_low = choose(upper, (root, root_low), (a, _ZERO))
    z = ir.select(upper, square, a * a)
    return upper, (s, ir.fma(s * z, horner(z, _ASIN), s_low))


def asin(x: Expr) -> Expr:
    """Arc sine; keeps -0, NaN beyond [-1, 1]."""
    a = ir.fabs(x)
    upper, (s, low) = _asin_half(a)
    high, rest = fast_two_sum(_PI_2, s * f(-2.0, dt.float64))
    complement = high + (rest + ir.fma(low, f(-2.0, dt.float64), _PI_2_LOW))
    result = copysign(ir.select(upper, complement, s + low), x)
    return ir.select(a <= _ONE, result, nan(dt.float64))


def acos(x: Expr) -> Expr:
    """Arc cosine, with full relative accuracy near 1; NaN beyond [-1, 1]."""
    a = ir.fabs(x)
    negative = x < _ZERO
    upper, (s, low) = _asin_half(a)
    # pi/2 -+ asin(|x|) inside, 2 asin(.) or pi - 2 asin(.) outside
    sign = ir.select(negative, _ONE, -_ONE)
    factor = ir.select(upper, f(-2.0, dt.float64) * sign, sign)
    factor = ir.select(upper & negative, f(-2.0, dt.float64), factor)
    base = ir.select(upper, ir.select(negative, _PI_2 + _PI_2, _ZERO), _PI_2)
    base_low = ir.select(upper, ir.select(negative, _PI_2_LOW + _PI_2_LOW, _ZERO), _PI_2_LOW)
    high, rest = fast_two_sum(base, s * factor)
    result = high + (rest + ir.fma(low, factor, base_low))
    return ir.select(a <= _ONE, result, nan(dt.float64))


def atan(x: Expr) -> Expr:
    """Arc tangent; keeps -0, pi/2 at infinity. Above 1 it is ``pi/2 - atan(1/x)``."""
    a = ir.fabs(x)
    inverted = a > _ONE
    # Beyond 2**60 the result is pi/2 in float64, and 1/a must not underflow.
    b = ir.select(a > f(2.0**60, dt.float64), f(2.0**60, dt.float64), a)
    high, low = atan_ratio(ir.select(inverted, _ONE, b), ir.select(inverted, b, _ONE))
    total, rest = fast_two_sum(_PI_2, -high)
    complement = total + (rest + (_PI_2_LOW - low))
    result = ir.select(inverted, complement, high)
    result = ir.select(a < f(2.0**-28, dt.float64), a, result)
    return ir.select(x.eq(x), copysign(result, x), x)
