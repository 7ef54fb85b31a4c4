"""sin, cos, tan and their inverses in float32.

Range reduction is that of Payne and Hanek (1983) for every argument, without a branch: with
``abs(x) = M 2**(e - 31)``, M an integer below 2**32, the fraction of ``abs(x) (2/pi) / 4`` is M
times 96 bits of 2/pi that begin where whole periods end, modulo 1, which integer arithmetic gives
exactly.  The first 64 bits of the product are right to 2 units, that is abs(r) is right to 2**-60;
no float32 comes closer than 2**-30 to a multiple of pi/2 (Muller et al., Handbook of
Floating-Point Arithmetic, 2nd ed., 11.3), so at least 29 bits of r are right.
"""

from __future__ import annotations

import itertools

from .. import dtypes as dt, ir, scalar
from ..ir import Expr
from .f32_common import INF, NAN, c, fast_two_sum, polynomial, root_two, two_product

__all__ = ["acos", "asin", "atan", "cos", "sin", "tan"]

# sin(r) = r + r^3 s(r^2), abs(r) <= pi/4 (1 + 2^-10): relative error 2^-27.89.
_SIN = (-0.16666655, 0.008332188, -0.00019518074)
# cos(r) = 1 - r^2/2 + r^4 c(r^2) on the same interval: relative error 2^-32.98.
_COS = (0.041666646, -0.001388731, 2.4432338e-05)
# tan(r) = r + r^3 t(r^2) on the same interval: relative error 2^-29.52.
_TAN = (
    0.3333335,
    0.13332674,
    0.054059204,
    0.021284217,
    0.010833653,
    8.9239606e-05,
    0.004377631,
)
# asin(x) = x + x^3 a(x^2), abs(x) <= 1/2: relative error 2^-27.62.
_ASIN = (0.16666752, 0.0749531, 0.04546902, 0.024185503, 0.042157013)
# atan(x) = x + x^3 a(x^2), abs(x) <= 1: relative error 2^-28.31; right at 1, for the sake of pi/4.
_ATAN = (
    -0.33333296,
    0.19998413,
    -0.1426255,
    0.109421685,
    -0.08371127,
    0.057356115,
    -0.030533751,
    0.010546119,
    -0.0017064178,
)
_PI_4 = 0.7853982
_PI_2_HI, _PI_2_LO = 1.5707964, -4.371139e-08
# 2 pi / 2**51, the unit of the reduced fraction below.
_UNIT_HI, _UNIT_LO = 2.7902949e-15, -7.7647024e-23

# 2/pi: 32 zero bits, the units bit, and 191 bits after the binary point.
_TWO_OVER_PI = (
    0x00000000,
    0x517CC1B7,
    0x27220A94,
    0xFE13ABE8,
    0xFA9A6EE0,
    0x6DB14ACC,
    0x9E21C820,
)


def _window(e: Expr) -> tuple[Expr, Expr, Expr]:
    """Bits e .. e + 95 of `_TWO_OVER_PI` as three uint32, for an int32 e in 0 .. 127.

    Selects and shifts: a table would need gather instructions, several times as slow.
    """
    words: list[Expr] = [ir.const(w, dt.uint32) for w in _TWO_OVER_PI]
    for step in (2, 1):
        stay = (e & (32 * step)).eq(0)
        words = [
            ir.select(stay, here, there) for here, there in zip(words, words[step:], strict=False)
        ]
    left = ir.bitcast(e & 31, dt.uint32)
    right = 31 - left
    w0, w1, w2 = (
        (here << left) | ((after >> 1) >> right) for here, after in itertools.pairwise(words)
    )
    return w0, w1, w2


def _reduce(x: Expr) -> tuple[Expr, Expr, Expr]:
    """``abs(x) = q pi/2 + hi + lo`` modulo 2 pi, ``abs(hi) <= pi/4``.

    Returns:
        The uint32 quadrant q in 0 .. 3, and hi and lo; for infinity and NaN some finite values.
    """
    u32, i32 = dt.uint32, dt.int32
    magnitude = ir.bitcast(x, u32) & 0x7FFFFFFF
    exponent = ir.bitcast(magnitude >> 23, i32) - 127
    # Below 1 it is e = 0 with half the M; below 1/2 nothing of this is used.
    below = exponent < 0
    m = ((magnitude & 0x7FFFFF) | 0x800000) << 7
    m = ir.select(below, m, m + m)
    w0, w1, w2 = _window(ir.select(below, ir.const(0, i32), exponent & 127))
    middle = m * w1
    low = middle + ir.mulhi(m, w2)
    carry = ir.select(low < middle, ir.const(1, u32), ir.const(0, u32))
    high = m * w0 + ir.mulhi(m, w1) + carry
    quadrant = (high + 0x20000000) >> 30
    signed = ir.bitcast(high - (quadrant << 30), i32)
    # The signed fraction has 62 bits: 25, 24 and 13 of them are exact as floats.
    first = ir.cast(signed >> 5, dt.float32) * c(2.0**24)
    second = ir.cast(ir.bitcast(((high & 31) << 19) | (low >> 13), i32), dt.float32)
    third = ir.cast(ir.bitcast(low & 0x1FFF, i32), dt.float32) * c(2.0**-13)
    hi, lo = fast_two_sum(first, second)
    lo = lo + third
    product, rest = two_product(hi, c(_UNIT_HI))
    rest = ir.fma(hi, c(_UNIT_LO), ir.fma(lo, c(_UNIT_HI), rest))
    r, r_lo = fast_two_sum(product, rest)
    small = ir.fabs(x) < c(_PI_4)
    return (
        ir.select(small, ir.const(0, u32), quadrant),
        ir.select(small, ir.fabs(x), r),
        ir.select(small, c(0.0), r_lo),
    )


def _sin_kernel(r: Expr, lo: Expr, square: Expr) -> Expr:
    # The low part counts cos(r) times, near 1 - r^2 / 2.
    low = ir.fma(square * c(-0.5), lo, lo)
    return r + ir.fma(r * square, polynomial(square, _SIN), low)


def _cos_kernel(r: Expr, lo: Expr, square: Expr) -> Expr:
    lead = ir.fma(square, c(-0.5), c(1.0))
    rest = ir.fma(square, c(-0.5), c(1.0) - lead)
    return lead + (rest + ir.fma(square * square, polynomial(square, _COS), -(r * lo)))


def _flip(x: Expr, bit: Expr) -> Expr:
    """`x` with its sign changed where bit 31 of `bit` (uint32) is set."""
    return ir.bitcast(ir.bitcast(x, dt.uint32) ^ (bit & 0x80000000), dt.float32)


def _circular(x: Expr, quarter: int, sign: Expr | None) -> Expr:
    q, r, lo = _reduce(x)
    q = q + quarter
    square = r * r
    odd = (q & 1).ne(0)
    y = ir.select(odd, _cos_kernel(r, lo, square), _sin_kernel(r, lo, square))
    turn = q << 30
    y = _flip(y, turn if sign is None else turn ^ ir.bitcast(sign, dt.uint32))
    return ir.select(ir.fabs(x) < INF, y, NAN)


def sin(x: Expr) -> Expr:
    """Sine of an angle in radians, reduced exactly; NaN at infinity, sin(-0) is -0."""
    return _circular(x, 0, x)


def cos(x: Expr) -> Expr:
    """Cosine of an angle in radians, reduced exactly; NaN at infinity."""
    return _circular(x, 1, None)


def tan(x: Expr) -> Expr:
    """Tangent of an angle in radians, reduced exactly; NaN at infinity, tan(-0) is -0.

    In odd quadrants -1 / tan(r), with tan(r) as a two-float and the quotient corrected by its
    remainder.
    """
    q, r, lo = _reduce(x)
    # The cube is a two-float, too: its term is a fifth of the result at pi/4.
    square, square_lo = two_product(r, r)
    cube, cube_lo = two_product(r, square)
    cube_lo = ir.fma(r, square_lo, cube_lo)
    # The low part of r counts 1 + tan(r)^2 times, near 1 + r^2 + 2/3 r^4.
    low = ir.fma(ir.fma(square, c(2.0 / 3.0), c(1.0)) * square, lo, lo)
    factor = polynomial(square, _TAN)
    tail = ir.fma(cube, factor, ir.fma(cube_lo, factor, low))
    t, t_lo = fast_two_sum(r, tail)
    odd = (q & 1).ne(0)
    inverse = c(-1.0) / ir.select(odd, t, c(1.0))
    remainder = ir.fma(inverse, t_lo, ir.fma(inverse, t, c(1.0)))
    y = ir.select(odd, ir.fma(inverse, remainder, inverse), t)
    return ir.select(ir.fabs(x) < INF, _flip(y, ir.bitcast(x, dt.uint32)), NAN)


def _inverse_sine_parts(x: Expr) -> tuple[Expr, Expr, Expr]:
    """``(small, s, tail)``: ``asin(abs(x)) = s + tail``, or pi/2 minus twice that if not small.

    Above 1/2, asin(x) = pi/2 - 2 asin(sqrt((1 - x) / 2)), where 1 - x is exact.
    """
    a = ir.fabs(x)
    small = a < c(0.5)
    z = (c(1.0) - a) * c(0.5)
    root, root_lo = root_two(z, c(0.0))
    s = ir.select(small, a, root)
    square = ir.select(small, a * a, z)
    low = ir.select(small, c(0.0), root_lo)
    return small, s, ir.fma(s * square, polynomial(square, _ASIN), low)


def asin(x: Expr) -> Expr:
    """Inverse sine in [-pi/2, pi/2]; NaN outside [-1, 1], asin(-0) is -0."""
    small, s, tail = _inverse_sine_parts(x)
    lead, rest = fast_two_sum(c(_PI_2_HI), c(-2.0) * s)
    large = lead + (rest + ir.fma(tail, c(-2.0), c(_PI_2_LO)))
    return scalar.copysign(ir.select(small, s + tail, large), x)


def acos(x: Expr) -> Expr:
    """Inverse cosine in [0, pi]; NaN outside [-1, 1]."""
    small, s, tail = _inverse_sine_parts(x)
    negative = x < 0.0
    # small: pi/2 -+ (s + tail); x <= -1/2: pi - 2 (s + tail); x >= 1/2: 2 (s + tail).
    factor = ir.select(small ^ negative, c(-1.0), c(1.0)) * ir.select(small, c(1.0), c(2.0))
    turns = ir.select(small, c(1.0), ir.select(negative, c(2.0), c(0.0)))
    lead, rest = fast_two_sum(turns * c(_PI_2_HI), factor * s)
    return lead + (rest + ir.fma(factor, tail, turns * c(_PI_2_LO)))


def atan(x: Expr) -> Expr:
    """Inverse tangent in [-pi/2, pi/2]; +-pi/2 at infinity, atan(-0) is -0."""
    a = ir.fabs(x)
    large = a > c(1.0)
    inverse = c(1.0) / a
    # Beyond 2**60 the low part is nothing, and infinity would make it NaN.
    near = large & (a < c(2.0**60))
    t = ir.select(large, inverse, a)
    t_lo = ir.select(near, ir.fma(-inverse, a, c(1.0)) * inverse, c(0.0))
    square, square_lo = two_product(t, t)
    cube, cube_lo = two_product(t, square)
    cube_lo = ir.fma(t, square_lo, cube_lo)
    # The low part counts 1 / (1 + t^2) times; 1 - t^2 / 2 is near enough where it matters.
    low = ir.fma(square * c(-0.5), t_lo, t_lo)
    factor = polynomial(square, _ATAN)
    tail = ir.fma(cube, factor, ir.fma(cube_lo, factor, low))
    lead, rest = fast_two_sum(ir.select(large, c(_PI_2_HI), c(0.0)), ir.select(large, -t, t))
    low = ir.select(large, c(_PI_2_LO) - tail, tail)
    return scalar.copysign(lead + (rest + low), x)
