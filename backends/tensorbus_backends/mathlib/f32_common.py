"""What the float32 functions share: constants, polynomials and two-float arithmetic.

A two-float value is an unevaluated sum ``hi + lo`` with ``abs(lo) <= ulp(hi) / 2``: about 48 bits
out of float32 operations alone (Dekker 1971; Knuth, TAOCP 2, 4.2.2).  All functions here take and
return float32 expressions.

Every coefficient of the library is a float32, written with the shortest decimal that names it.
They are minimax: Sollya's ``fpminimax(f, powers, [|24...|], interval, relative, floating, fixed)``
with the interval and error that stand beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import dtypes as dt, ir, scalar
from ..ir import Expr, Operand

__all__ = [
    "INF",
    "LN2_HI",
    "LN2_LO",
    "NAN",
    "c",
    "fast_two_sum",
    "power_of_two",
    "polynomial",
    "root_two",
    "two_product",
    "two_sum",
]

# 24 bits of ln 2, and the rest rounded.
LN2_HI, LN2_LO = 0.6931472, -1.9046542e-09


def c(value: float) -> Expr:
    """`value` rounded to a float32 constant."""
    return scalar.f(value, dt.float32)


INF = c(float("inf"))
NAN = c(float("nan"))


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """``coefficients[0] + coefficients[1] * x + ...`` by Horner's rule, one fma for each power."""
    result = c(coefficients[-1])
    for a in reversed(coefficients[:-1]):
        result = ir.fma(result, x, c(a))
    return result


def fast_two_sum(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """``a + b`` as a two-float; exact if ``abs(a) >= abs(b)`` or `a` is 0."""
    s = a + b
    return s, b - (s - a)


def two_sum(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """``a + b`` as a two-float, exact whatever the magnitudes."""
    s = a + b
    b1 = s - a
    return s, (a - (s - b1)) + (b - b1)


def two_product(a: Expr, b: Operand) -> tuple[Expr, Expr]:
    """``a * b`` as a two-float, exact short of underflow."""
    p = a * b
    return p, ir.fma(a, b, -p)


def root_two(hi: Expr, lo: Expr) -> tuple[Expr, Expr]:
    """``sqrt(hi + lo)`` as a two-float by one Newton step; (0, 0) for a zero, NaN below it."""
    s = ir.sqrt(hi)
    twice = ir.select(s.eq(0.0), c(1.0), s + s)
    return s, (ir.fma(-s, s, hi) + lo) / twice


def power_of_two(n: Expr) -> Expr:
    """2.0**n for an int32 `n` in -126 .. 127; 0 for -127."""
    return ir.bitcast((n + 127) << 23, dt.float32)
