"""Float remainder, fmod and floor_divide: exact for every pair of inputs.

Both operands are brought to significands in [1, 2) and exponents.  One step of long division
multiplies the remainder by up to ``2**(p-3)``, takes the integral part of a rounded quotient, which
is right or 1 too many, and subtracts with one fma: that difference is a multiple of the divisor's
last bit and smaller than the divisor, hence exact; a negative one has the divisor added back.
"""

from __future__ import annotations

from .. import dtypes as dt, ir
from ..ir import Expr
from ..scalar import copysign, f, inf, is_nan, nan, sign_bit, unsigned_type
from .exact import exponent_field, power_of_two, scale
from .logarithm import scaled_positive

__all__ = ["floor_divide", "fmod", "remainder"]


def _significand(a: Expr) -> tuple[Expr, Expr]:
    """``a = m 2**e`` with m in [1, 2) and integer e, for a > 0 and finite; else some such pair."""
    dtype = a.dtype
    y, shift = scaled_positive(a)
    unsigned = unsigned_type(dtype)
    bits = ir.bitcast(y, unsigned) & ((1 << (dtype.precision - 1)) - 1)
    m = ir.bitcast(bits | ir.bitcast(f(1.0, dtype), unsigned), dtype)
    e = exponent_field(y) - dtype.emax
    lowered = e - (dtype.precision + 1)
    return m, ir.select(shift < f(0.0, dtype), lowered, e)


def _divide(r: Expr, b: Expr) -> tuple[Expr, Expr]:
    """Integral quotient and remainder of ``0 <= r < 2**(p-1) b``, both exact."""
    zero, one = f(0.0, r.dtype), f(1.0, r.dtype)
    q = ir.trunc(r / b)
    rest = ir.fma(-q, b, r)
    over = rest < zero
    return ir.select(over, q - one, q), ir.select(over, rest + b, rest)


def _least(a: Expr, limit: int) -> Expr:
    return ir.select(a < limit, a, ir.const(limit, a.dtype))


def fmod(x: Expr, y: Expr) -> Expr:
    """``x - y trunc(x / y)``, exact, with the sign of x (C's fmod).

    NaN if x is infinite or y zero; x if y is infinite.  The loop runs once for every `p - 3` bits
    by which the exponents differ: at most 42 times in float64, 14 in float32.
    """
    dtype = x.dtype
    a, b = ir.fabs(x), ir.fabs(y)
    zero = f(0.0, dtype)
    valid = (a < inf(dtype)) & (b > zero)
    ma, ea = _significand(a)
    mb, eb = _significand(b)
    width = dtype.precision - 3
    gap = ea - eb
    divides = valid & (gap >= 0) & (a > zero) & (b < inf(dtype))
    rounds = ir.cast(ir.select(divides, gap, ir.const(-width, gap.dtype)), dt.int32)
    count = ir.idiv(rounds + width, width)

    def step(_: Expr, rest: Expr, left: Expr) -> tuple[Expr, Expr]:
        bits = _least(left, width)
        return _divide(rest * power_of_two(bits, dtype), mb)[1], left - bits

    rest, _ = ir.repeat(count, (ma, gap), step)
    result = ir.select(divides, scale(rest, ir.select(divides, eb, ir.const(0, eb.dtype))), a)
    return ir.select(valid, copysign(result, x), nan(dtype))


def remainder(x: Expr, y: Expr) -> Expr:
    """``x - y floor(x / y)`` with the sign of y (Python's %, array API's remainder).

    The exact value is rounded once, and only where the signs differ; a zero has the sign of y.
    NaN if x is infinite or y zero.  For y infinite: x if the signs agree, else y.
    """
    dtype = x.dtype
    r = fmod(x, y)
    zero = f(0.0, dtype)
    differs = sign_bit(r) ^ sign_bit(y)
    result = ir.select(r.eq(zero), copysign(zero, y), ir.select(differs, r + y, r))
    return ir.select(is_nan(r) | is_nan(y), nan(dtype), result)


def floor_divide(x: Expr, y: Expr) -> Expr:
    """``floor(x / y)`` of the exact quotient, correctly rounded where it is not representable.

    Special cases follow the array API standard, which prefers ``floor(x / y)`` to Python's
    convention: NaN for 0/0 and inf/inf; ``x // 0`` and ``inf // y`` are infinite (NumPy: NaN for
    the latter); ``x // inf`` is a zero of the quotient's sign (NumPy: 0 or -1).

    Two division steps give the leading W+1 bits of the quotient as an integer (W is 61 in float64,
    29 in float32).  What follows them matters only to the rounding, and there only whether the
    integer below is zero, positive, or carries when the floor of a negative quotient is taken.
    """
    dtype = x.dtype
    a, b = ir.fabs(x), ir.fabs(y)
    zero = f(0.0, dtype)
    ma, ea = _significand(a)
    mb, eb = _significand(b)
    gap = ea - eb
    negative = sign_bit(x) ^ sign_bit(y)
    first, width = (30, 61) if dtype.bits == 64 else (14, 29)
    bits = _least(ir.select(gap < 0, ir.const(0, gap.dtype), gap), width)
    bits1 = _least(bits, first)
    bits2 = bits - bits1
    q1, rest = _divide(ma * power_of_two(bits1, dtype), mb)
    q2, rest = _divide(rest * power_of_two(bits2, dtype), mb)
    unsigned = unsigned_type(dtype)
    leading = (_whole(q1) << ir.bitcast(bits2, unsigned)) + _whole(q2)
    below = gap < 0
    leading = ir.select(below, ir.const(0, unsigned), leading)
    rest = ir.select(below, ma, rest)

    # The quotient is (leading + rest / mb) 2**more, with rest < mb unless leading is 0.
    more = ir.select(gap > width, gap - width, ir.const(0, gap.dtype))
    unit = power_of_two(_least(more, 60), dtype)
    inexact = rest > zero
    whole = more.eq(0)
    carry = negative & inexact & (whole | ((mb - rest) * unit < mb))
    sticky = ~whole & ~carry & ((negative & inexact) | (~negative & (rest * unit >= mb)))
    one, none = ir.const(1, unsigned), ir.const(0, unsigned)
    integer = (leading + ir.select(carry, one, none)) | ir.select(sticky, one, none)
    value = scale(ir.cast(integer, dtype), more)
    result = ir.select(negative, -value, value)

    signed_zero = ir.select(negative, -zero, zero)
    signed_infinity = ir.select(negative, -inf(dtype), inf(dtype))
    result = ir.select(a.eq(zero) | b.eq(inf(dtype)), signed_zero, result)
    result = ir.select(b.eq(zero) | a.eq(inf(dtype)), signed_infinity, result)
    invalid = (a.eq(zero) & b.eq(zero)) | (a.eq(inf(dtype)) & b.eq(inf(dtype)))
    return ir.select(invalid | is_nan(x) | is_nan(y), nan(dtype), result)


def _whole(q: Expr) -> Expr:
    """An integral float in [0, 2**(p-1)) as an unsigned integer, without a conversion."""
    unsigned = unsigned_type(q.dtype)
    base = f(2.0 ** (q.dtype.precision - 1), q.dtype)
    return ir.bitcast(q + base, unsigned) - ir.bitcast(base, unsigned)
