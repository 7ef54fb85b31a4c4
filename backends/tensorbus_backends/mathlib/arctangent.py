"""The shared core of atan and atan2, for float32 and float64.

For ``0 <= a <= b`` the quotient a/b is compared with 0.2556, 1/2 and 3/4, which chooses the
centre c = 0, 3/8, 5/8 or 1::

    atan(a / b) = atan(c) + atan(t),   t = (a - c b) / (b + c a),   |t| <= 0.2556

The polynomial approximates ``(atan(t) - t) / t**3`` in t**2 on |t| <= 0.2558 (Sollya, fpminimax,
absolute error): degree 8 with error 2**-55.6 for float64, degree 3 with error 2**-25.6 for float32.
"""

from __future__ import annotations

from fractions import Fraction

from .. import dtypes as dt, ir
from ..dtypes import DType
from ..ir import Expr
from ..scalar import f
from .constants import PI
from .exact import Pair, fast_two_sum, floats, horner, split

__all__ = ["HALF_PI", "atan_ratio"]

_POLYNOMIAL = {
    dt.float64: floats(
        "-0x1.5555555555555p-2",
        "0x1.9999999999636p-3",
        "-0x1.249249244b43dp-3",
        "0x1.c71c7177c9fb3p-4",
        "-0x1.745d002370dbap-4",
        "0x1.3b0fd0860ea14p-4",
        "-0x1.10adae33d0be9p-4",
        "0x1.d6138ebbd06a5p-5",
        "-0x1.4b4ab86ad359ep-5",
    ),
    dt.float32: floats(
        "-0x1.555554p-2",
        "0x1.99961ap-3",
        "-0x1.239c1ep-3",
        "0x1.98df8p-4",
    ),
}


def _atan(value: Fraction) -> Fraction:
    """atan of a positive fraction below 1, by its power series in fixed point, to 2**-200."""
    power = (value.numerator << 220) // value.denominator
    square = power * power >> 220
    total, n = 0, 1
    while power:
        total += (power // n) * (1 if n % 4 == 1 else -1)
        power, n = power * square >> 220, n + 2
    return Fraction(total, 1 << 220)


_CENTRES: tuple[tuple[float, Fraction], ...] = (
    (0.375, _atan(Fraction(3, 8))),
    (0.625, _atan(Fraction(5, 8))),
    (1.0, PI / 4),
)

# Above tan(1/4): so where roundings of t are added to atan(c), the result's ulp is that of 1/4.
_FIRST_LIMIT = 0.2556

HALF_PI: dict[DType, tuple[float, ...]] = {
    d: split(PI / 2, d, d.precision, d.precision) for d in (dt.float32, dt.float64)
}
"""pi/2 as two floats."""


def atan_ratio(a: Expr, b: Expr, *, refine: bool = False) -> Pair:
    """``atan(a / b)`` as a pair for ``0 <= a <= b``, b > 0, far from overflow and underflow.

    Args:
        a: Numerator.
        b: Denominator.
        refine: Add the quotient's remainder, by a second division.  Where c = 0 the relative error
            then is below 2**-(p+3), without it 2**-p.  Elsewhere the roundings of ``a - c b`` and
            ``b + c a`` remain: below ``2 |t| 2**-p``, at most 0.45 ulp of the result; the
            former is absent if a or b is 1.
    """
    dtype = a.dtype
    zero = f(0.0, dtype)
    c, base, base_low = zero, zero, zero
    for limit, (centre, angle) in zip((_FIRST_LIMIT, 0.5, 0.75), _CENTRES, strict=True):
        beyond = a > b * f(limit, dtype)
        angle_high, angle_low = split(angle, dtype, dtype.precision, dtype.precision)
        c = ir.select(beyond, f(centre, dtype), c)
        base = ir.select(beyond, f(angle_high, dtype), base)
        base_low = ir.select(beyond, f(angle_low, dtype), base_low)
    top = ir.fma(-c, b, a)
    bottom = ir.fma(c, a, b)
    t = top / bottom
    z = t * t
    if refine:
        base_low = base_low + ir.fma(-t, bottom, top) / bottom
    tail = ir.fma(t * z, horner(z, _POLYNOMIAL[dtype]), base_low)
    high, low = fast_two_sum(base, t)
    return fast_two_sum(high, low + tail)
