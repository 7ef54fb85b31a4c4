"""Argument reduction by pi/2 for float64, exact enough for every finite argument.

Payne and Hanek's idea with floating-point products only, so that compilers vectorize it.  Write
``x = y 2**(32 j)`` with j = 0 below 2**84 and y an integer in [2**52, 2**84) otherwise.  Then
``x 2/pi = y C_j`` modulo 4, with the constants ``C_j = 2**(32 j) 2/pi mod 4`` stored as four
float64 each, 31 x 4 in all.

Error: ``C_j`` is known to 2**-210, so y C_j to 2**-126; no float64 comes closer to a multiple of
pi/2 than 2**-62 in units of pi/2 (Muller, "Elementary Functions", 3rd ed., section 11.3.2), and
the sums below keep everything above 2**-120: the relative error of the reduced argument stays
under 2**-57.
"""

from __future__ import annotations

from fractions import Fraction

from .. import dtypes as dt, ir
from ..ir import Expr
from ..scalar import f
from .constants import PI, TWO_OVER_PI
from .exact import (
    Pair,
    exponent_field,
    fast_two_sum,
    nearest_integer,
    power_of_two,
    split,
    times_pair,
    two_product,
    two_sum,
)

__all__ = ["by_half_pi"]

_STEP = 32
_ROWS = 31


def _row(j: int) -> tuple[float, ...]:
    value = TWO_OVER_PI * Fraction(2) ** (_STEP * j)
    if j:
        value -= 4 * round(value / 4)
    return split(value, dt.float64, 53, 53, 53, 53)


_TABLES = tuple(zip(*(_row(j) for j in range(_ROWS)), strict=True))
_HALF_PI = split(PI / 2, dt.float64, 53, 53)


def _modulo_4(x: Expr) -> Expr:
    """`x` less the nearest multiple of 4: exact."""
    quarter = x * f(0.25, dt.float64)
    return (quarter - ir.rint(quarter)) * f(4.0, dt.float64)


def by_half_pi(x: Expr) -> tuple[Expr, Pair]:
    """``x = q pi/2 + r``: q modulo 4 as int64 (its low two bits count) and r as a pair.

    ``|r| <= pi/4 (1 + 2**-18)``; below pi/4 r is x itself.  NaN for infinities and NaN.
    """
    beyond = exponent_field(x) - (1023 + 52)
    j64 = ir.bitcast(
        ir.bitcast(ir.select(beyond > 0, beyond, ir.const(0, dt.int64)), dt.uint64) >> 5, dt.int64
    )
    j = ir.cast(j64, dt.int32)
    y = x * power_of_two(j64 * -_STEP, dt.float64)
    c0, c1, c2, c3 = (ir.table(t, dt.float64, j) for t in _TABLES)
    h0, l0 = two_product(y, c0)
    h1, l1 = two_product(y, c1)
    h2, l2 = two_product(y, c2)
    s, e1 = two_sum(_modulo_4(h0), _modulo_4(l0))
    s, e2 = two_sum(s, _modulo_4(h1))
    whole, q = nearest_integer(s)
    s, e3 = two_sum(s - whole, l1)
    s, e4 = two_sum(s, h2)
    t, g1 = two_sum(e1, e2)
    t, g2 = two_sum(t, e3)
    t, g3 = two_sum(t, e4)
    s, t = two_sum(s, t)
    high, low = fast_two_sum(s, t + (ir.fma(y, c3, l2) + (g1 + g2 + g3)))
    r, r_low = fast_two_sum(*times_pair((high, low), (_HALF_PI[0], _HALF_PI[1])))
    near = ir.fabs(x) < f(0.78125, dt.float64)
    zero = f(0.0, dt.float64)
    q = ir.select(near, ir.const(0, dt.int64), q)
    return q, (ir.select(near, x, r), ir.select(near, zero, r_low))
