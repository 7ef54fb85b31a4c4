"""pow for float32 and float64, with the logarithm as a pair of floats.

``x = 2**k m`` with m in [sqrt(1/2), sqrt(2)); a table gives ``c``, a multiple of 1/128 near 1/m,
so that ``z = m c - 1`` is exact (``|z| < 2**-7.1``, and m c has only 8 bits more than m), and
``-log2(c)`` as a pair.  Then ``log2(x) = k - log2(c) + log2(1 + z)``, where
``log(1 + z) = z - z**2 / 2 + z**3 P(z)`` with the first two terms as a pair and P a minimax
polynomial (Sollya, fpminimax, absolute error) on [-0.0071, 0.0071]: degree 6 with error 2**-55.6
for float64, degree 3 with error 2**-26.6 for float32.

Error: the relative error of log2(x) stays below 2**-66 in float64 and 2**-38 in float32 (dominated
by the rounding and the approximation of ``z**3 P(z)``, both below 2**-14 of z).  Multiplied by
``|y log2(x)| <= 1100`` (float64) or 200 (float32) that is an absolute error of the exponent below
2**-55.9 and 2**-30.3, so 0.10 and 0.02 ulp of the result; with 0.25 ulp for the pair ``2**r`` and
half an ulp for its rounding the error is below 1 ulp.  A subnormal result is rounded once more, by
half of its ulp, and the first error then counts at most half.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

from .. import dtypes as dt, ir
from ..dtypes import DType
from ..ir import Expr
from ..scalar import f, inf, is_nan, nan, sign_bit
from .constants import LN2
from .exact import (
    Pair,
    fast_two_sum,
    floats,
    horner,
    nearest_integer,
    scale,
    split,
    times_pair,
    two_sum,
)
from .exponential import clamp, exp2_parts
from .logarithm import reduce_positive, scaled_positive

__all__ = ["log2_pair", "pow"]

_P = {
    dt.float64: floats(
        "0x1.5555555555555p-2",
        "-0x1.0000000000019p-2",
        "0x1.99999999b3751p-3",
        "-0x1.5555554db8dc9p-3",
        "0x1.2492397684d3ap-3",
        "-0x1.00049e7a484b9p-3",
        "0x1.cc8f66df81a39p-4",
    ),
    dt.float32: floats("0x1.555556p-2", "-0x1p-2", "0x1.9912fcp-3", "-0x1.555b56p-3"),
}

_FIRST, _LAST = 181, 362


@cache
def _log2(value: Fraction) -> Fraction:
    """log2 of a fraction in [0.7, 1.5] to 2**-200: 2 atanh(s) / ln 2 in fixed point."""
    s = (value - 1) / (value + 1)
    power = (s.numerator << 220) // s.denominator
    square = power * power >> 220
    total, n = 0, 1
    while power not in (0, -1):
        total += power // n
        power, n = power * square >> 220, n + 2
    return Fraction(2 * total, 1 << 220) / LN2


@cache
def _tables(dtype: DType) -> tuple[tuple[float, ...], ...]:
    """c, and -log2(c) in two parts, for m near i/256, i from 181 to 362.

    Around m = 1, c is 1, so that the logarithm there is that of 1 + z alone.
    """
    rows = []
    for i in range(_FIRST, _LAST + 1):
        c = Fraction(128 if abs(i - 256) <= 1 else round(Fraction(128 * 256, i)), 128)
        rows.append((float(c), *split(-_log2(c), dtype, dtype.precision, dtype.precision)))
    return tuple(zip(*rows, strict=True))


def log2_pair(x: Expr) -> Pair:
    """log2 of a positive float as a pair; any finite value where x is not positive and finite."""
    dtype = x.dtype
    y, shift = scaled_positive(x)
    k, _, m = reduce_positive(y)
    _, i = nearest_integer(m * f(256.0, dtype))
    at = ir.cast(i - _FIRST, dt.int32)
    c, base, base_low = (ir.table(t, dtype, at) for t in _tables(dtype))
    z = ir.fma(m, c, f(-1.0, dtype))
    square = z * z
    square_low = ir.fma(z, z, -square)
    half = f(0.5, dtype)
    high, low = fast_two_sum(z, square * -half)
    low = low + ir.fma(z * square, horner(z, _P[dtype]), square_low * -half)
    log2e = split(1 / LN2, dtype, dtype.precision, dtype.precision)
    near, near_low = times_pair((high, low), (log2e[0], log2e[1]))
    total, e1 = fast_two_sum(k + shift, base)
    total, e2 = two_sum(total, near)
    return fast_two_sum(total, e1 + (e2 + (near_low + base_low)))


def pow(x: Expr, y: Expr) -> Expr:
    """x to the power y, with the special cases of the array API standard (those of C99 Annex F).

    Args:
        x: The base, float32 or float64.
        y: The exponent, of the same dtype.
    """
    dtype = x.dtype
    zero, one, infinite = f(0.0, dtype), f(1.0, dtype), inf(dtype)
    a = ir.fabs(x)
    high, low = log2_pair(a)
    # |log2(x)| is 0 or at least 2**-p, so that this changes no result.
    limit = 2.0 ** (dtype.precision + 13)
    e = clamp(y, -limit, limit)
    t = e * high
    t_low = ir.fma(e, low, ir.fma(e, high, -t))
    most = f(1100.0 if dtype is dt.float64 else 200.0, dtype)
    far = ir.fabs(t) > most
    t = ir.select(far, ir.select(t < zero, -most, most), t)
    parts = exp2_parts(t, ir.select(far, zero, t_low))
    result = scale(parts.pair[0], parts.k)

    result = ir.select(a.eq(zero), ir.select(y < zero, infinite, zero), result)
    result = ir.select(a.eq(infinite), ir.select(y < zero, zero, infinite), result)
    half = y * f(0.5, dtype)
    integral = ir.rint(y).eq(y)
    odd = integral & ir.rint(half).ne(half)
    negative = sign_bit(x)
    result = ir.select(negative & odd, -result, result)
    undefined = (x < zero) & (a < infinite) & ~integral
    result = ir.select(undefined | is_nan(x) | is_nan(y), nan(dtype), result)
    return ir.select(y.eq(zero) | x.eq(one), one, result)
