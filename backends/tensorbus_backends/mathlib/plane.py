"""atan2, hypot and logaddexp for float32 and float64."""

from __future__ import annotations

from .. import ir
from ..dtypes import DType
from ..ir import Expr
from ..scalar import copysign, f, inf, is_nan, nan, sign_bit
from .arctangent import HALF_PI, atan_ratio
from .exact import choose, fast_two_sum, power_of_two, scale, two_product, two_sum
from .exponential import clamp, exp_parts
from .logarithm import log1p_pair

__all__ = ["atan2", "hypot", "logaddexp"]


def _ordered(x: Expr, y: Expr) -> tuple[Expr, Expr, Expr]:
    """The smaller and the larger of ``|x|`` and ``|y|``, and whether ``|y|`` is the larger."""
    a, b = ir.fabs(x), ir.fabs(y)
    swap = b > a
    return ir.select(swap, a, b), ir.select(swap, b, a), swap


def _balance(large: Expr) -> tuple[Expr, Expr]:
    """A power of two that brings `large` away from overflow and underflow, and its inverse.

    The product of `large` and the factor lies within ``2**(+-0.47 emax)``, so that squares and the
    errors of their products are normal numbers.
    """
    dtype = large.dtype
    high, low = (2.0**450, 2.0**-450) if dtype.bits == 64 else (2.0**58, 2.0**-48)
    step = 600 if dtype.bits == 64 else 96
    one = f(1.0, dtype)
    up, down = f(2.0**step, dtype), f(2.0**-step, dtype)
    big, small = large > f(high, dtype), large < f(low, dtype)
    return ir.select(big, down, ir.select(small, up, one)), ir.select(
        big, up, ir.select(small, down, one)
    )


def hypot(x: Expr, y: Expr) -> Expr:
    """``sqrt(x**2 + y**2)`` without undue overflow or underflow; inf if either is infinite.

    The sum of squares is a pair and the root is corrected by its residual: the error is below
    0.5 + 2**-10 ulp, and below 1 ulp where the result is subnormal and rounded once more.
    """
    dtype = x.dtype
    zero = f(0.0, dtype)
    small, large, _ = _ordered(x, y)
    factor, inverse = _balance(large)
    a, b = large * factor, small * factor
    aa, aa_low = two_product(a, a)
    bb, bb_low = two_product(b, b)
    total, rest = fast_two_sum(aa, bb)
    root = ir.sqrt(total)
    residual = ir.fma(-root, root, total) + (rest + (aa_low + bb_low))
    result = (root + residual / (root + root)) * inverse
    result = ir.select(small.eq(zero), large, result)
    result = ir.select(is_nan(x) | is_nan(y), nan(dtype), result)
    infinite = ir.fabs(x).eq(inf(dtype)) | ir.fabs(y).eq(inf(dtype))
    return ir.select(infinite, inf(dtype), result)


def atan2(y: Expr, x: Expr) -> Expr:
    """The angle of the point (x, y) in [-pi, pi], with the special cases of the array API standard.

    Error: half an ulp of the last sum, at most 0.45 ulp from `atan_ratio`, and 0.1 from its
    polynomial and from the tails: below 1.1 ulp.
    """
    dtype = x.dtype
    zero, one, infinite = f(0.0, dtype), f(1.0, dtype), inf(dtype)
    small, large, swap = _ordered(x, y)
    both = small.eq(infinite)
    only = large.eq(infinite) & ~both
    numerator = ir.select(both, one, ir.select(only, zero, small))
    denominator = ir.select(large.eq(infinite) | large.eq(zero), one, large)
    factor, _ = _balance(denominator)
    angle, low = atan_ratio(numerator * factor, denominator * factor, refine=True)
    # A small quotient is its own arc tangent, and may be subnormal.
    quotient = numerator / denominator
    angle, low = choose(quotient < f(2.0**-30, dtype), (quotient, zero), (angle, low))

    left = sign_bit(x)
    half_pi, half_pi_low = (f(v, dtype) for v in HALF_PI[dtype])
    base = ir.select(swap, half_pi, ir.select(left, half_pi + half_pi, zero))
    base_low = ir.select(swap, half_pi_low, ir.select(left, half_pi_low + half_pi_low, zero))
    turn = swap ^ left
    angle, low = choose(turn, (-angle, -low), (angle, low))
    total, rest = fast_two_sum(base, angle)
    result = copysign(total + (rest + (base_low + low)), y)
    return ir.select(is_nan(x) | is_nan(y), nan(dtype), result)


def logaddexp(x: Expr, y: Expr) -> Expr:
    """``log(exp(x) + exp(y)) = max + log1p(exp(-|x - y|))``, the last term as a pair.

    Error: half an ulp of the result and ``1.1 2**-(p+2)`` of the last term (the pairs of the
    exponential and of the logarithm).  Near the curve ``exp(x) + exp(y) = 1`` the two terms cancel
    and that absolute error remains.  So ulps are counted as those of the larger of ``|result|`` and
    ``|max(x, y)| / 4``, and the error is below 1.75 of them.  Where subnormals are flushed, a last
    term below the least normal number is lost beside.
    """
    dtype: DType = x.dtype
    zero = f(0.0, dtype)
    above = x > y
    large, small = ir.select(above, x, y), ir.select(above, y, x)
    d, d_low = two_sum(small, -large)
    limit, cut, least = (1000.0, -40.0, -64) if dtype.bits == 64 else (150.0, -20.0, -32)
    limited = clamp(d, -limit, 0.0)
    parts = exp_parts(limited, ir.select(d < f(-limit, dtype), zero, d_low))
    v, v_low = parts.pair
    k = ir.select(parts.k < least, ir.const(least, parts.k.dtype), parts.k)
    two_k = power_of_two(k, dtype)
    high, low = log1p_pair(v * two_k, v_low * two_k)
    far = d < f(cut, dtype)
    high, low = choose(far, (scale(v, parts.k), scale(v_low, parts.k)), (high, low))
    total, rest = two_sum(large, high)
    result = total + (rest + low)
    result = ir.select(ir.fabs(large) < inf(dtype), result, large)
    return ir.select(is_nan(x) | is_nan(y), nan(dtype), result)
