"""log, log2, log10, log1p, asinh, acosh, atanh and softplus for float64, over `logarithm`.

All bodies are free of branches and loops.  The result is the last sum of a pair whose relative
error is below 2**-55: 0.5 and 0.25 ulp.  Arguments that are pairs themselves (asinh, acosh, atanh,
softplus) add less than 0.25 ulp, so that all stay below 1 ulp.
"""

from __future__ import annotations

from .. import dtypes as dt, ir
from ..ir import Expr
from ..scalar import copysign, f, inf, nan
from .constants import LN2, LN10
from .exact import choose, fast_two_sum, power_of_two, scale, split, times_pair, two_sum
from .exponential import clamp, exp_parts
from .logarithm import log1p_near_zero, log1p_pair, log_pair, reduce_positive, scaled_positive

__all__ = ["acosh", "asinh", "atanh", "log", "log10", "log1p", "log2", "softplus"]

_ZERO, _ONE = f(0.0, dt.float64), f(1.0, dt.float64)
_LOG2E = split(1 / LN2, dt.float64, 53, 53)
_LOG10E = split(1 / LN10, dt.float64, 53, 53)
# Short enough that its product with an exponent of 11 bits is exact.
_LOG10_2 = split(LN2 / LN10, dt.float64, 42, 53)


def _domain(x: Expr, result: Expr) -> Expr:
    """-inf at 0, NaN below, inf at inf."""
    edge = ir.select(x.eq(_ZERO), -inf(dt.float64), nan(dt.float64))
    return ir.select(x > _ZERO, ir.select(x.eq(inf(dt.float64)), x, result), edge)


def log(x: Expr) -> Expr:
    """Natural logarithm; -inf at either zero, NaN below."""
    y, shift = scaled_positive(x)
    return _domain(x, log_pair(y, add=shift)[0])


def log2(x: Expr) -> Expr:
    """Logarithm to base 2; exact for powers of two."""
    y, shift = scaled_positive(x)
    k, _, m = reduce_positive(y)
    high, low = times_pair(log1p_near_zero(m - _ONE), (_LOG2E[0], _LOG2E[1]))
    total, rest = fast_two_sum(k + shift, high)
    return _domain(x, total + (rest + low))


def log10(x: Expr) -> Expr:
    """Logarithm to base 10; exact for powers of ten."""
    y, shift = scaled_positive(x)
    k, _, m = reduce_positive(y)
    k = k + shift
    high, low = times_pair(log1p_near_zero(m - _ONE), (_LOG10E[0], _LOG10E[1]))
    total, rest = fast_two_sum(k * f(_LOG10_2[0], dt.float64), high)
    return _domain(x, total + (rest + ir.fma(k, f(_LOG10_2[1], dt.float64), low)))


def log1p(x: Expr) -> Expr:
    """``log(1 + x)`` without cancellation; keeps -0, -inf at -1, NaN below."""
    result = _domain(x + _ONE, log1p_pair(x, _ZERO)[0])
    result = ir.select(x.eq(inf(dt.float64)), x, result)
    return ir.select(ir.fabs(x) < f(2.0**-54, dt.float64), x, result)


def asinh(x: Expr) -> Expr:
    """Inverse hyperbolic sine: ``log1p(a + (sqrt(1 + a**2) - 1))`` with ``a = |x|``.

    The root is a pair, and ``root - 1`` is exact.  Above 2**28 the result is ``log(2a)``, below
    2**-28 it is x.
    """
    a = ir.fabs(x)
    big = a > f(2.0**28, dt.float64)
    b = ir.select(big, _ONE, a)
    square = b * b
    total, rest = two_sum(_ONE, square)
    root = ir.sqrt(total)
    residual = ir.fma(-root, root, total) + (rest + ir.fma(b, b, -square))
    y, low = fast_two_sum(b, root - _ONE)
    low = low + residual / (root + root)
    u, rest = two_sum(_ONE, y)
    argument = choose(big, (a, _ZERO), (u, rest + low))
    doubled = ir.select(big, _ONE, _ZERO)
    result = log_pair(argument[0], argument[1], near=(y, low), add=doubled)[0]
    result = ir.select(a < f(2.0**-28, dt.float64), a, result)
    return copysign(ir.select(a < inf(dt.float64), result, a), x)


def acosh(x: Expr) -> Expr:
    """Inverse hyperbolic cosine: ``log1p(t + sqrt(2t + t**2))`` with ``t = x - 1``; NaN below 1.

    The root is a pair, because near 1 the result is the root itself; above 2**28 it is ``log(2x)``.
    """
    big = x > f(2.0**28, dt.float64)
    t = ir.select(big, _ONE, x - _ONE)
    square = t * t
    square_low = ir.fma(t, t, -square)
    total, rest = two_sum(t + t, square)
    root = ir.sqrt(total)
    residual = ir.fma(-root, root, total) + (rest + square_low)
    root_low = ir.select(root > _ZERO, residual / (root + root), _ZERO)
    y, low = fast_two_sum(root, t)
    low = low + root_low
    u, rest = two_sum(_ONE, y)
    argument = choose(big, (x, _ZERO), (u, rest + low))
    doubled = ir.select(big, _ONE, _ZERO)
    result = log_pair(argument[0], argument[1], near=(y, low), add=doubled)[0]
    result = ir.select(x < inf(dt.float64), result, x)
    return ir.select(x >= _ONE, result, nan(dt.float64))


def atanh(x: Expr) -> Expr:
    """Inverse hyperbolic tangent: ``log1p(2a / (1 - a)) / 2``, the quotient as a pair.

    Infinite at 1 and -1, NaN beyond, x below 2**-28.
    """
    a = ir.fabs(x)
    high, low = fast_two_sum(_ONE, -a)
    inverse = _ONE / high
    q = (a + a) * inverse
    q_low = (ir.fma(-q, high, a + a) - q * low) * inverse
    result = log1p_pair(q, q_low)[0] * f(0.5, dt.float64)
    result = ir.select(a < f(2.0**-28, dt.float64), a, result)
    result = ir.select(a < _ONE, result, ir.select(a.eq(_ONE), inf(dt.float64), nan(dt.float64)))
    return copysign(result, x)


def softplus(x: Expr) -> Expr:
    """``log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))``, the last term as a pair.

    Below -40 the result is ``exp(x)``, scaled last so that subnormals are rounded once.
    """
    a = ir.fabs(x)
    parts = exp_parts(-clamp(a, 0.0, 1000.0))
    v, v_low = parts.pair
    two_k = power_of_two(ir.select(parts.k < -64, ir.const(-64, dt.int64), parts.k), dt.float64)
    high, low = log1p_pair(v * two_k, v_low * two_k)
    base = ir.select(x > _ZERO, x, _ZERO)
    total, rest = two_sum(base, high)
    result = total + (rest + low)
    result = ir.select(x < f(-40.0, dt.float64), scale(v, parts.k), result)
    return ir.select(a < inf(dt.float64), result, ir.select(x < _ZERO, _ZERO, x))
