"""log, log2, log10, log1p and softplus in float32.

``x = 2**k m`` with m in [sqrt(1/2), sqrt(2)), f = m - 1 is exact, and

    log(x) = k ln 2 + f - f^2 / 2 + f^3 q(f),

where all but the last term are summed as a two-float: k ln 2 and f cancel in part for k = -1.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import dtypes as dt, ir
from ..ir import Expr
from .f32_common import INF, NAN, c, fast_two_sum, polynomial, power_of_two, two_product, two_sum
from .f32_exponential import at_most, exp_two, reduce

__all__ = ["log", "log10", "log1p", "log2", "log_two", "softplus"]

# log1p(f) = f - f^2/2 + f^3 q(f), f in [sqrt(1/2) - 1, sqrt(2) - 1]: relative error 2^-26.91.
_LOG = (
    0.33333373,
    -0.2500084,
    0.1999899,
    -0.16621207,
    0.14238907,
    -0.13212356,
    0.1256589,
    -0.07286021,
)
# 1 / (1 + f) = 1 + f (a + b f) for the low part of m, same interval: absolute error 2^-6.45.
_INVERSE = (-1.0871152, 0.9838756)
_SQRT_HALF = 0x3F3504F3


@dataclass(frozen=True)
class _Base:
    """Constants of a base b, each a sum of two floats.

    Attributes:
        octave: log_b(2); its first part has 16 bits, so that a product with k is exact.
        unit: log_b(e).
    """

    octave: tuple[float, float]
    unit: tuple[float, float]


_E = _Base((0.69314575, 1.4286068e-06), (1.0, 0.0))
_TWO = _Base((1.0, 0.0), (1.442695, 1.925963e-08))
_TEN = _Base((0.30103302, -3.0243555e-06), (0.4342945, -1.010305e-08))


def _split(bits: Expr) -> tuple[Expr, Expr]:
    """The int32 exponent k and the float32 m of a positive normal float's bits."""
    k = (bits - _SQRT_HALF) >> 23
    return k, ir.bitcast(bits - (k << 23), dt.float32)


def _join(k: Expr, f: Expr, f_lo: Expr | None, base: _Base) -> tuple[Expr, Expr]:
    """``log_b(2**k (1 + f + f_lo))`` as an unnormalised two-float.

    `k` is a float32 integer, `f_lo` is below ulp(1).
    """
    square, square_lo = two_product(f, f)
    h, rest = fast_two_sum(f, c(-0.5) * square)
    rest = ir.fma(square_lo, c(-0.5), rest)
    if f_lo is not None:
        rest = rest + ir.fma(f * polynomial(f, _INVERSE), f_lo, f_lo)
    low = ir.fma(f * square, polynomial(f, _LOG), rest)
    if base.unit[1]:
        p, p_lo = two_product(h, c(base.unit[0]))
        h, low = p, ir.fma(low, c(base.unit[0]), ir.fma(h, c(base.unit[1]), p_lo))
    if base.octave[1]:
        low = ir.fma(k, c(base.octave[1]), low)
        k = k * c(base.octave[0])
    lead, rest = fast_two_sum(k, h)
    return lead, rest + low


def _logarithm(x: Expr, base: _Base) -> Expr:
    tiny = x < c(2.0**-126)
    bits = ir.bitcast(ir.select(tiny, x * c(2.0**23), x), dt.int32)
    k, m = _split(bits)
    exponent = ir.cast(k, dt.float32) - ir.select(tiny, c(23.0), c(0.0))
    lead, low = _join(exponent, m - 1.0, None, base)
    y = lead + low
    special = ir.select(x.eq(0.0), -INF, ir.select(x < 0.0, NAN, x))
    return ir.select((x > 0.0) & (x < INF), y, special)


def log(x: Expr) -> Expr:
    """Natural logarithm; -inf at both zeros, NaN below."""
    return _logarithm(x, _E)


def log2(x: Expr) -> Expr:
    """Logarithm to base 2, exact at powers of two; -inf at both zeros, NaN below."""
    return _logarithm(x, _TWO)


def log10(x: Expr) -> Expr:
    """Logarithm to base 10; -inf at both zeros, NaN below."""
    return _logarithm(x, _TEN)


def log_two(hi: Expr, lo: Expr, extra: Expr | None = None) -> tuple[Expr, Expr]:
    """``log(hi + lo)`` as an unnormalised two-float, for `hi` normal and positive.

    Near ``hi + lo = 1`` the relative error stays small, as long as ``(hi - 1) + lo`` is accurate.

    Args:
        hi: At least 2**-126.
        lo: Below ulp(hi).
        extra: float32 integer; this many times ln 2 is added.
    """
    k, m = _split(ir.bitcast(hi, dt.int32))
    # A low part beside 2**126 or more cannot matter, but its factor must stay a power of two.
    shift = ir.select(k > 126, ir.const(126, dt.int32), k)
    exponent = ir.cast(k, dt.float32)
    if extra is not None:
        exponent = exponent + extra
    return _join(exponent, m - 1.0, lo * power_of_two(-shift), _E)


def log1p(x: Expr) -> Expr:
    """log(1 + x); -inf at -1, NaN below, log1p(-0) is -0."""
    hi, lo = two_sum(c(1.0), x)
    lead, low = log_two(hi, lo)
    y = ir.select(ir.fabs(x) < c(2.0**-25), x, lead + low)
    special = ir.select(x.eq(-1.0), -INF, ir.select(x < -1.0, NAN, x))
    return ir.select((x > -1.0) & (x < INF), y, special)


def softplus(x: Expr) -> Expr:
    """log(1 + e**x) = max(x, 0) + log1p(exp(-abs(x))); gradual underflow for negative x."""
    k = reduce(-at_most(ir.fabs(x), 104.0))
    p, p_lo = exp_two(k)
    # Below -8 the result is e (1 - e / 2 + e^2 / 3), free of the sum 1 + e, within e^3 / 4.
    power = ir.select(k.n < -100.0, c(0.0), k.power())
    e, e_lo = p * power, p_lo * power
    hi, rest = fast_two_sum(c(1.0), e)
    lead, low = log_two(hi, rest + e_lo)
    total, lost = two_sum(ir.select(x > 0.0, x, c(0.0)), lead)
    small = k.scale(p + ir.fma(p * e, ir.fma(e, c(1.0 / 3.0), c(-0.5)), p_lo))
    y = ir.select(x < -8.0, small, total + (lost + low))
    return ir.select(x < INF, y, x)
