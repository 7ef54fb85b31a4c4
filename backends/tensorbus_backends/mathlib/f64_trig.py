"""sin, cos and tan for float64 on all finite arguments, over `reduction`.

Kernels on |r| <= 0.7855 (Sollya, fpminimax, absolute error): ``(sin(r) - r) / r**3`` in r**2 of
degree 5, error 2**-55.4; ``(cos(r) - 1 + r**2 / 2) / r**4`` in r**2 of degree 5, error 2**-58.

Error, in ulps of the result: 0.5 for the last sum, 0.25 for three roundings of the sine's tail
(0.08 at pi/4), 0.1 for its polynomial: below 1.  tan: 0.5, 0.5 for the sine (relative to 0.7
instead of 1) and 0.15 for the cosine: below 1.25.
"""

from __future__ import annotations

from .. import dtypes as dt, ir
from ..ir import Expr
from ..scalar import f
from .exact import Pair, choose, fast_two_sum, floats, horner
from .reduction import by_half_pi

__all__ = ["cos", "sin", "tan"]

_SIN = floats(
    "-0x1.5555555555555p-3",
    "0x1.1111111110c83p-7",
    "-0x1.a01a019ea12efp-13",
    "0x1.71de37b1c6854p-19",
    "-0x1.ae6020fd65d66p-26",
    "0x1.5e118c867426cp-33",
)
_COS = floats(
    "0x1.5555555555555p-5",
    "-0x1.6c16c16c168ccp-10",
    "0x1.a01a019f38aeep-16",
    "-0x1.27e4fa036b9b5p-22",
    "0x1.1eeb584e7aa5bp-29",
    "-0x1.9073d27e1f38p-37",
)
_ONE, _HALF = f(1.0, dt.float64), f(0.5, dt.float64)


def _sin_cos(r: Expr, low: Expr) -> tuple[Pair, Pair]:
    """sin and cos of ``r + low`` as pairs whose low part may reach 0.1 of the high part."""
    z = r * r
    z_low = ir.fma(r, r, -z)
    half = z * _HALF
    sine = ir.fma(r * z, horner(z, _SIN), ir.fma(-low, half, low))
    w, rest = fast_two_sum(_ONE, -half)
    slope = ir.fma(z_low, _HALF, r * low)
    cosine = ir.fma(z * z, horner(z, _COS), rest - slope)
    return (r, sine), (w, cosine)


def _odd(q: Expr, bit: int) -> Expr:
    return (q & bit).ne(0)


def _with_sign(flip: Expr, x: Expr) -> Expr:
    return ir.select(flip, -x, x)


def sin(x: Expr) -> Expr:
    """Sine; keeps -0, NaN at infinities."""
    q, (r, low) = by_half_pi(x)
    s, c = _sin_cos(r, low)
    high, rest = choose(_odd(q, 1), c, s)
    # At a zero high + rest would turn -0 into +0.
    result = ir.select(x.eq(f(0.0, dt.float64)), x, high + rest)
    return _with_sign(_odd(q, 2), result)


def cos(x: Expr) -> Expr:
    """Cosine; NaN at infinities."""
    q, (r, low) = by_half_pi(x)
    s, c = _sin_cos(r, low)
    high, rest = choose(_odd(q, 1), s, c)
    return _with_sign(_odd(q + 1, 2), high + rest)


def tan(x: Expr) -> Expr:
    """Tangent; keeps -0, NaN at infinities: sin/cos or -cos/sin, the quotient corrected once."""
    q, (r, low) = by_half_pi(x)
    s, c = _sin_cos(r, low)
    odd = _odd(q, 1)
    top, top_low = fast_two_sum(*choose(odd, c, s))
    bottom, bottom_low = fast_two_sum(*choose(odd, s, c))
    quotient = top / bottom
    rest = ir.fma(-quotient, bottom, top) + (top_low - quotient * bottom_low)
    result = quotient + rest / bottom
    tiny = ir.fabs(x) < f(2.0**-28, dt.float64)
    return ir.select(tiny, x, _with_sign(odd, result))
