"""exp, exp2, expm1 and the logistic sigmoid in float32.

``x = n ln 2 + r`` with an integer n and ``abs(r) <= ln(2) / 2``, so exp(x) = 2**n exp(r).  The
power of two is applied as two exact factors of half its size: one multiplication is exact and the
other rounds once, also into the subnormal range.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import dtypes as dt, ir
from ..ir import Expr
from .f32_common import INF, LN2_HI, LN2_LO, c, fast_two_sum, polynomial

__all__ = [
    "Reduced",
    "exp",
    "exp2",
    "exp_reduced",
    "exp_two",
    "expm1",
    "expm1_reduced",
    "reduce",
    "sigmoid",
]

_LOG2_E = 1.442695
# 1.5 * 2**23 rounds a sum to an integer; 254 biases the bits for `Reduced.scale`.
_ROUNDER = 1.5 * 2.0**23 + 254.0

# exp(r) = 1 + r + r^2 q(r), abs(r) <= ln(2)/2 (1 + 2^-12): degree 6, relative error 2^-28.18.
_EXP = (1.0, 1.0, 0.4999999, 0.16666521, 0.041668963, 0.008368673, 0.001378249)
# The same to degree 7, relative error 2^-32.85.
_EXP7 = (0.5, 0.16666664, 0.041666456, 0.008333887, 0.0013935758, 0.00019577846)
# expm1(r) = r + r^2 q(r) on the same interval: degree 7, relative error 2^-30.97.
_EXPM1 = (0.5, 0.16666666, 0.041666478, 0.008333567, 0.0013933693, 0.00019743307)
# 2^r, abs(r) <= 1/2: degree 6, relative error 2^-28.03.
_EXP2 = (1.0, 0.6931472, 0.24022645, 0.05550359, 0.009618834, 0.0013391302, 0.00015241285)


@dataclass(frozen=True)
class Reduced:
    """The argument of an exponential after reduction.

    Attributes:
        bits: int32, the bits of ``n + _ROUNDER``.
        n: The integer n, as float32.
        r: The reduced argument.
        lo: What `r` lost by rounding.
    """

    bits: Expr
    n: Expr
    r: Expr
    lo: Expr

    def halves(self) -> tuple[Expr, Expr]:
        """Two powers of two whose product is 2**n, for n in -252 .. 254."""
        # Bits shifted out at the top are those of the rounder's own exponent.
        half = self.bits >> 1
        return (
            ir.bitcast(half << 23, dt.float32),
            ir.bitcast((self.bits - half) << 23, dt.float32),
        )

    def scale(self, p: Expr) -> Expr:
        """``p * 2**n``, rounded once, for `p` near 1."""
        first, second = self.halves()
        return p * first * second

    def power(self) -> Expr:
        """2**n for n in -126 .. 127."""
        return ir.bitcast((self.bits - 127) << 23, dt.float32)


def at_most(x: Expr, high: float) -> Expr:
    """`x` limited to `high`; NaN stays."""
    return ir.select(x > high, c(high), x)


def reduce(x: Expr) -> Reduced:
    """Split ``x = n ln 2 + r + lo``, for abs(x) < 256.

    ``x - n * LN2_HI`` is exact: it is a multiple of 2**-25 below 1/2 in size.
    """
    t = ir.fma(x, c(_LOG2_E), c(_ROUNDER))
    n = t - c(_ROUNDER)
    exact = ir.fma(n, c(-LN2_HI), x)
    r = ir.fma(n, c(-LN2_LO), exact)
    return Reduced(ir.bitcast(t, dt.int32), n, r, ir.fma(n, c(-LN2_LO), exact - r))


def exp_reduced(k: Reduced) -> Expr:
    """exp(r) in [0.7, 1.42], within 0.9 ulp."""
    return polynomial(k.r, _EXP)


def expm1_reduced(k: Reduced) -> Expr:
    """exp(r) - 1, absolute error below 2**-24.5."""
    return k.r * polynomial(k.r, _EXP[1:])


def exp_two(k: Reduced) -> tuple[Expr, Expr]:
    """exp(r + lo) as a two-float, relative error below 2**-25.8."""
    hi, rest = fast_two_sum(c(1.0), k.r)
    return fast_two_sum(hi, ir.fma(k.r * k.r, polynomial(k.r, _EXP7), k.lo + rest))


def exp(x: Expr) -> Expr:
    """e**x; overflows to +inf above 88.72, underflows gradually, +0 at -inf."""
    k = reduce(x)
    y = k.scale(exp_reduced(k))
    # Far outside, y is meaningless; selecting afterwards costs less than limiting x before.
    return ir.select(x > 89.0, INF, ir.select(x < -104.0, c(0.0), y))


def exp2(x: Expr) -> Expr:
    """2**x; exact for integers down to the least subnormal, 2**-149."""
    t = x + c(_ROUNDER)
    n = t - c(_ROUNDER)
    r = x - n
    y = Reduced(ir.bitcast(t, dt.int32), n, r, c(0.0)).scale(polynomial(r, _EXP2))
    return ir.select(x > 129.0, INF, ir.select(x < -151.0, c(0.0), y))


def expm1(x: Expr) -> Expr:
    """e**x - 1; expm1(-0) is -0.

    2**n expm1(r) + (2**n - 1), where the two leading terms are summed as a two-float: they cancel
    for n = 1.  Half the result is computed and doubled, so that 2**128 is in reach.
    """
    k = reduce(x)
    half = ir.bitcast((k.bits - 128) << 23, dt.float32)
    whole = half - c(0.5)
    lead, rest = fast_two_sum(whole, half * k.r)
    rest = rest + ((half - whole) - c(0.5))
    small = ir.fma(half, ir.fma(k.r * k.r, polynomial(k.r, _EXPM1), k.lo), rest)
    result = lead + small
    y = ir.select(ir.fabs(x) < c(2.0**-25), x, result + result)
    return ir.select(x > 89.0, INF, ir.select(x < -20.0, c(-1.0), y))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e**-x), full relative accuracy and gradual underflow for negative x.

    With e = exp(-abs(x)) = 2**n p: p 2**n / (1 + e) or 1 / (1 + e); the quotient is corrected by
    its remainder, in which the low parts of p and of 1 + e enter.
    """
    k = reduce(-at_most(ir.fabs(x), 104.0))
    hi, lo = exp_two(k)
    # Below 2**-30 the term e does not reach the sum; the limit keeps the power normal.
    power = ir.select(k.n < -100.0, c(0.0), k.power())
    d, rest = fast_two_sum(c(1.0), hi * power)
    d_lo = ir.fma(lo, power, rest)
    negative = x < 0.0
    top = ir.select(negative, hi, c(1.0))
    top_lo = ir.select(negative, lo, c(0.0))
    inverse = c(1.0) / d
    q = top * inverse
    remainder = ir.fma(-q, d, top) + ir.fma(-q, d_lo, top_lo)
    q = ir.fma(remainder, inverse, q)
    return ir.select(negative, k.scale(q), q)
