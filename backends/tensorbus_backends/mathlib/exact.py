"""Building blocks of the float64 and two-argument functions: exact sums, products and scalings.

Everything works for float32 and float64 alike.  A *pair* ``(hi, lo)`` is an unevaluated sum of two
floats.  The error-free transformations are Dekker's and Knuth's; see Muller et al., "Handbook of
Floating-Point Arithmetic", 2nd ed., chapter 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from .. import ir
from ..dtypes import DType
from ..ir import Expr
from ..scalar import f, integer_type, unsigned_type

__all__ = [
    "Pair",
    "choose",
    "exponent_field",
    "fast_two_sum",
    "floats",
    "horner",
    "nearest_integer",
    "power_of_two",
    "scale",
    "split",
    "times_pair",
    "two_product",
    "two_sum",
]

Pair = tuple[Expr, Expr]


def floats(*texts: str) -> tuple[float, ...]:
    """Constants from C hexadecimal literals."""
    return tuple(float.fromhex(t) for t in texts)


def split(value: Fraction, dtype: DType, *bits: int) -> tuple[float, ...]:
    """`value` as a sum of floats of `dtype`, part ``i`` cut to ``bits[i]`` significant bits."""
    parts = []
    for width in bits:
        if value == 0:
            parts.append(0.0)
            continue
        size = abs(value)
        exponent = size.numerator.bit_length() - size.denominator.bit_length()
        exponent -= size < Fraction(2) ** exponent
        unit = Fraction(2) ** (exponent - min(width, dtype.precision) + 1)
        part = round(value / unit) * unit
        parts.append(float(part))
        value -= part
    return tuple(parts)


def horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """``c[0] + c[1] x + c[2] x^2 + ...`` from the highest term down, one fma each."""
    result = f(coefficients[-1], x.dtype)
    for c in coefficients[-2::-1]:
        result = ir.fma(result, x, f(c, x.dtype))
    return result


def two_sum(a: Expr, b: Expr) -> Pair:
    """``a + b`` rounded, and the rounding error (Knuth); exact unless the sum overflows."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def fast_two_sum(a: Expr, b: Expr) -> Pair:
    """`two_sum` where ``|a| >= |b|`` or ``a == 0`` (Dekker)."""
    s = a + b
    return s, b - (s - a)


def two_product(a: Expr, b: Expr) -> Pair:
    """``a * b`` rounded, and the rounding error; exact unless the error underflows."""
    p = a * b
    return p, ir.fma(a, b, -p)


def times_pair(a: Pair, b: tuple[float, float]) -> Pair:
    """A pair times a constant pair, to about twice the working precision."""
    high = f(b[0], a[0].dtype)
    p, e = two_product(a[0], high)
    return p, ir.fma(a[0], f(b[1], a[0].dtype), ir.fma(a[1], high, e))


def choose(condition: Expr, a: Pair, b: Pair) -> Pair:
    """`select` on both parts."""
    return ir.select(condition, a[0], b[0]), ir.select(condition, a[1], b[1])


def nearest_integer(x: Expr) -> Pair:
    """The integer nearest to `x` as a float, and as a signed integer of the same width.

    Needs ``|x| < 2**(p-2)``.  Adding ``1.5 * 2**(p-1)`` leaves the integer in the low bits of the
    sum, which spares a float-to-int conversion that AVX2 lacks for 64 bits.
    """
    magic = f(1.5 * 2.0 ** (x.dtype.precision - 1), x.dtype)
    t = x + magic
    integer = integer_type(x.dtype)
    return t - magic, ir.bitcast(t, integer) - ir.bitcast(magic, integer)


def power_of_two(k: Expr, dtype: DType) -> Expr:
    """``2**k`` for a signed integer in ``[emin, emax]`` of the width of `dtype`."""
    return ir.bitcast((k + dtype.emax) << (dtype.precision - 1), dtype)


def scale(x: Expr, k: Expr) -> Expr:
    """``x * 2**k`` for ``|k| <= 2 * emax`` and `x` in ``[1/4, 4]`` or 0: one rounding at most.

    The first factor keeps `x` normal, so that only the second product can round.
    """
    unsigned = unsigned_type(x.dtype)
    lift = 4 * (x.dtype.emax + 1)
    half = ir.bitcast(k + lift, unsigned) >> 1
    first = ir.bitcast(half, k.dtype) - lift // 2
    return (x * power_of_two(first, x.dtype)) * power_of_two(k - first, x.dtype)


def exponent_field(x: Expr) -> Expr:
    """The biased exponent of ``|x|``, as a signed integer of the same width."""
    unsigned = unsigned_type(x.dtype)
    bits = ir.bitcast(ir.fabs(x), unsigned) >> (x.dtype.precision - 1)
    return ir.bitcast(bits, integer_type(x.dtype))
