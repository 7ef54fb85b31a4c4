"""The shared core of log and its relatives, for float32 and float64.

``y = 2**k m`` with m in [sqrt(1/2), sqrt(2)), ``f = m - 1`` and ``s = f / (2 + f)``::

    log(1 + f) = 2 atanh(s) = f - f**2/2 + s (f**2/2 + s**2 P(s**2))

`P` is a minimax polynomial (Sollya, fpminimax, absolute error) of
``(log((1 + s) / (1 - s)) - 2 s) / s**3`` in ``s**2`` on [0, 0.1718]: degree 6 with error 2**-51.5
for float64 (2**-59 after the factor ``s**3``), degree 3 with error 2**-25.6 for float32.
"""

from __future__ import annotations

from .. import dtypes as dt, ir
from ..dtypes import DType
from ..ir import Expr
from ..scalar import f, integer_type, unsigned_type
from .constants import LN2
from .exact import Pair, choose, fast_two_sum, floats, horner, split, two_sum

__all__ = ["log1p_near_zero", "log_pair", "reduce_positive", "scaled_positive"]

_P = {
    dt.float64: floats(
        "0x1.5555555555558p-1",
        "0x1.9999999995212p-2",
        "0x1.2492492e11b02p-2",
        "0x1.c71c62b83da51p-3",
        "0x1.7462c1fc52d3bp-3",
        "0x1.39fca03fc8002p-3",
        "0x1.2b6dff4675272p-3",
    ),
    dt.float32: floats(
        "0x1.555556p-1",
        "0x1.99986ep-2",
        "0x1.24c112p-2",
        "0x1.ce94ep-3",
    ),
}

# k * ln2_high must be exact: |k| <= 1075 in float64 and 150 in float32.
_LN2 = {
    dt.float64: split(LN2, dt.float64, 42, 53),
    dt.float32: split(LN2, dt.float32, 16, 24),
}

_SQRT_HALF = {dt.float64: 0x3FE6A09E667F3BCD, dt.float32: 0x3F3504F3}


def reduce_positive(y: Expr) -> tuple[Expr, Expr, Expr]:
    """``y = 2**k m`` for a positive normal `y`: k as float, k as integer, and m.

    m lies in [sqrt(1/2), sqrt(2)).
    """
    dtype = y.dtype
    unsigned, integer = unsigned_type(dtype), integer_type(dtype)
    bits = ir.bitcast(y, unsigned)
    one = dtype.emax << (dtype.precision - 1)
    # Adding 1 - sqrt(1/2) in bits carries into the exponent exactly where m >= sqrt(1/2).
    biased = (bits + (one - _SQRT_HALF[dtype])) >> (dtype.precision - 1)
    k = ir.bitcast(biased, integer) - dtype.emax
    m = ir.bitcast(bits - (ir.bitcast(k, unsigned) << (dtype.precision - 1)), dtype)
    # An integer below 2**(p-1) in the low bits of 2**(p-1) is a float without a conversion.
    base = f(2.0 ** (dtype.precision - 1), dtype)
    kf = ir.bitcast(biased | ir.bitcast(base, unsigned), dtype) - (base + f(dtype.emax, dtype))
    return kf, k, m


def scaled_positive(y: Expr) -> tuple[Expr, Expr]:
    """`y` times a power of two that makes positive subnormals normal, and -log2 of the factor."""
    dtype = y.dtype
    shift = dtype.precision + 1
    tiny = y < f(2.0**dtype.emin, dtype)
    scaled = ir.select(tiny, y * f(2.0**shift, dtype), y)
    return scaled, ir.select(tiny, f(-float(shift), dtype), f(0.0, dtype))


def log1p_near_zero(x: Expr, low: Expr | None = None) -> Pair:
    """``log(1 + x + low)`` as a pair for x in [-0.293, 0.4143], relative error below 2**-(p+2).

    Args:
        x: The argument.
        low: A correction of at most an ulp of 1.
    """
    dtype = x.dtype
    s = x / (f(2.0, dtype) + x)
    z = s * s
    half = x * f(0.5, dtype)
    square = half * x
    square_low = ir.fma(half, x, -square)
    high, rest = fast_two_sum(x, -square)
    tail = ir.fma(s, ir.fma(z, horner(z, _P[dtype]), square), rest - square_low)
    if low is not None:
        # low / (1 + x) with 1 / (1 + x) = (1 - s) / (1 + s) to about 1%
        two_s = s + s
        tail = tail + low * (f(1.0, dtype) + two_s * (s * (f(1.0, dtype) - s) - f(1.0, dtype)))
    return high, tail


def log_pair(
    u: Expr, low: Expr | None = None, near: Pair | None = None, add: Expr | None = None
) -> Pair:
    """Natural logarithm of a positive normal number as a pair, relative error below 2**-(p+2).

    Args:
        u: The argument.
        low: A correction of at most half an ulp of `u`.
        near: A pair equal to ``u + low - 1``, used where u is in [sqrt(1/2), sqrt(2)).
        add: A power of two by which the argument is to be multiplied, as a float exponent.
    """
    dtype: DType = u.dtype
    kf, k, m = reduce_positive(u)
    x = m - f(1.0, dtype)
    correction: Expr | None = None
    if low is not None:
        unsigned = unsigned_type(dtype)
        exponent = ir.bitcast(k, unsigned) << (dtype.precision - 1)
        inverse = ir.bitcast(dtype.emax * (1 << (dtype.precision - 1)) - exponent, dtype)
        # Beyond 2**(p+2) the correction is lost anyway, and 2**-k might not exist.
        correction = ir.select(u < f(2.0 ** (dtype.precision + 2), dtype), low * inverse, 0.0)
    if near is not None:
        zero = f(0.0, dtype)
        x, correction = choose(kf.eq(zero), near, (x, zero if correction is None else correction))
    high, tail = log1p_near_zero(x, correction)
    if add is not None:
        kf = kf + add
    first, second = _LN2[dtype]
    total, rest = fast_two_sum(kf * f(first, dtype), high)
    return fast_two_sum(total, rest + ir.fma(kf, f(second, dtype), tail))


def log1p_pair(x: Expr, low: Expr) -> Pair:
    """``log(1 + x + low)`` as a pair for a pair with ``x + low > -1``, not subnormal."""
    u, rest = two_sum(f(1.0, x.dtype), x)
    return log_pair(u, rest + low, near=(x, low))
