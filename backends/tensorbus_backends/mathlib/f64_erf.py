"""The error function for float64.

Below 1: ``x (2/sqrt(pi) + x**2 P(x**2))``, P of degree 11 on [0, 1] with absolute error 2**-56
(Sollya, fpminimax).  From 1 to 5.96: ``1 - exp(G(x - 1))`` with G of degree 17 approximating
``log(erfc(x))`` so that the error of erfc is below 2**-55.9 (Sollya, remez with weight erfc).
erfc(1) = 0.157 and falls fast, so that the exponential need not be exact to its last bit.

Error, in ulps of the result: below 1, 0.5 for the last fma and, at worst as a nears 1, where the
correction ``a (a**2 P + low)`` is 0.29, 0.25 each for its last product, its sum and P, and 0.25 for
the rounding of a**2 and the approximation; above, 0.5, 0.3 for G and the exponential, 0.15 for G's
approximation.  All below 1.5.
"""

from __future__ import annotations

from .. import dtypes as dt, ir
from ..ir import Expr
from ..scalar import copysign, f
from .exact import fast_two_sum, floats, horner, power_of_two
from .exponential import exp_parts

__all__ = ["erf"]

_P = floats(
    "-0x1.812746b0379e7p-2",
    "0x1.ce2f21a042c2fp-4",
    "-0x1.b82ce3128a6fap-6",
    "0x1.565bcd0eaf7b2p-8",
    "-0x1.c02db40b05324p-11",
    "0x1.f9a327be3426fp-14",
    "-0x1.f4d25b3b65972p-17",
    "0x1.b9e56e2f79da2p-20",
    "-0x1.5f561fbbe8717p-23",
    "0x1.fa194ecfcfaddp-27",
    "-0x1.402ed169832f7p-30",
    "0x1.1adaa79e412dp-34",
)
_G = floats(
    "-0x1.d97fbf27aa2a1p0",
    "-0x1.51c9b0006c21ap1",
    "-0x1.afabc11a2afd9p-1",
    "-0x1.5477f099b6c88p-5",
    "0x1.48c9d37fc20b4p-7",
    "-0x1.033f5a12fc663p-9",
    "0x1.f1b04a8f378bep-13",
    "0x1.b92dd97899df2p-16",
    "-0x1.c852aa0c1271bp-16",
    "0x1.44846446ee745p-17",
    "-0x1.1e247370b1f28p-19",
    "0x1.b7cf2292cd00ap-23",
    "0x1.f25cbb02aa275p-25",
    "-0x1.1ed8cee88afa4p-25",
    "0x1.24b8fb98ffc1dp-27",
    "-0x1.6a9ee8346a43ap-30",
    "0x1.066cb52c7279fp-33",
    "-0x1.5661e28421cd7p-38",
)
# 2/sqrt(pi) as two floats
_SLOPE, _SLOPE_LOW = floats("0x1.20dd750429b6dp0", "0x1.1ae3a914fed8p-56")
_ONE = f(1.0, dt.float64)


def erf(x: Expr) -> Expr:
    """Error function; keeps -0, 1 from 5.93 on."""
    a = ir.fabs(x)
    z = a * a
    slope, slope_low = f(_SLOPE, dt.float64), f(_SLOPE_LOW, dt.float64)
    small = ir.fma(a, slope, a * ir.fma(z, horner(z, _P), slope_low))
    limited = ir.select(a > f(5.9375, dt.float64), f(5.9375, dt.float64), a)
    parts = exp_parts(horner(limited - _ONE, _G))
    two_k = power_of_two(parts.k, dt.float64)
    v, v_low = parts.pair
    high, low = fast_two_sum(_ONE, -(v * two_k))
    result = ir.select(a < _ONE, small, high + (low - v_low * two_k))
    return ir.select(x.eq(x), copysign(result, x), x)
