"""The shared core of exp and its relatives, for float32 and float64.

With ``k`` the integer nearest to ``x / ln 2`` and ``r = x - k ln 2``, ``|r| <= 0.3467``::

    exp(x) = 2**k (1 + r + r**2 Q(r))

`Q` is a minimax polynomial (Sollya, fpminimax, absolute error) of ``(exp(r) - 1 - r) / r**2`` on
[-0.3467, 0.3467]: degree 10 with error 2**-59.2 for float64, degree 5 with error 2**-28.8 for
float32.  For base 2, `Q` approximates ``(2**r - 1 - r ln 2) / r**2`` on [-0.5001, 0.5001]: degree
10 with error 2**-58 for float64, degree 5 with error 2**-30.1 for float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import dtypes as dt, ir
from ..dtypes import DType
from ..ir import Expr
from ..scalar import f
from .constants import LN2
from .exact import (
    Pair,
    fast_two_sum,
    floats,
    horner,
    nearest_integer,
    power_of_two,
    split,
    times_pair,
)

__all__ = ["Exponential", "clamp", "exp2_parts", "exp_parts", "expm1_pair"]

_Q = {
    dt.float64: floats(
        "0x1p-1",
        "0x1.5555555555557p-3",
        "0x1.5555555555557p-5",
        "0x1.111111111004dp-7",
        "0x1.6c16c16c156a2p-10",
        "0x1.a01a01ac20fc4p-13",
        "0x1.a01a01ab9a61p-16",
        "0x1.71de01a1ad724p-19",
        "0x1.27e4cfa93cc5cp-22",
        "0x1.af4ee43065757p-26",
        "0x1.1f86fc339ddbep-29",
    ),
    dt.float32: floats(
        "0x1p-1",
        "0x1.555556p-3",
        "0x1.5555p-5",
        "0x1.110fc2p-7",
        "0x1.6d3074p-10",
        "0x1.a2d982p-13",
    ),
}

_Q2 = {
    dt.float64: floats(
        "0x1.ebfbdff82c58fp-3",
        "0x1.c6b08d704a0c2p-5",
        "0x1.3b2ab6fba4cc3p-7",
        "0x1.5d87fe78a509cp-10",
        "0x1.430912f9046ccp-13",
        "0x1.ffcbfc67c0b5ep-17",
        "0x1.62c01f8854804p-20",
        "0x1.b524f93b372b2p-24",
        "0x1.e4d9f7e3bd60ap-28",
        "0x1.e9d6bd8839089p-32",
        "0x1.b4ca32951fd26p-36",
    ),
    dt.float32: floats(
        "0x1.ebfbep-3",
        "0x1.c6b08ep-5",
        "0x1.3b2a62p-7",
        "0x1.5d86d8p-10",
        "0x1.44076p-13",
        "0x1.01366ep-16",
    ),
}

# k * ln2_high must be exact: k needs 12 bits in float64 (the clamp at 1100) and 9 in float32.
_LN2 = {
    dt.float64: split(LN2, dt.float64, 41, 53),
    dt.float32: split(LN2, dt.float32, 15, 24),
}


@dataclass(frozen=True)
class Exponential:
    """``2**k (1 + r + s)``: `k` as an integer, ``|r| <= 0.3467`` and ``|s| < 0.07``."""

    k: Expr
    r: Expr
    s: Expr

    @property
    def near_one(self) -> Expr:
        """``1 + r + s`` rounded, in [0.70, 1.42]: at most 0.9 ulp, without the factor ``2**k``."""
        return f(1.0, self.r.dtype) + (self.r + self.s)

    @property
    def pair(self) -> Pair:
        """``1 + r + s`` as a pair; relative error below ``2**-(p+2)``, from the roundings of s."""
        high, low = fast_two_sum(f(1.0, self.r.dtype), self.r)
        return fast_two_sum(high, low + self.s)


def clamp(x: Expr, low: float, high: float) -> Expr:
    """`x` limited to [low, high]; NaN stays NaN."""
    at_least = ir.select(x < f(low, x.dtype), f(low, x.dtype), x)
    return ir.select(at_least > f(high, x.dtype), f(high, x.dtype), at_least)


def exp_parts(x: Expr, low: Expr | None = None) -> Exponential:
    """``exp(x + low)`` in parts, for ``|x| <= 1100`` (float64) or 280 (float32).

    Args:
        x: The argument.
        low: A correction of at most half an ulp of `x`.
    """
    dtype = x.dtype
    high_part, low_part = _LN2[dtype]
    kf, k = nearest_integer(x * f(float(1 / LN2), dtype))
    near = ir.fma(-kf, f(high_part, dtype), x)
    rest = kf * f(low_part, dtype)
    if low is not None:
        rest = rest - low
    r, e = fast_two_sum(near, -rest)
    return Exponential(k, r, ir.fma(r * r, horner(r, _Q[dtype]), e))


def exp2_parts(x: Expr, low: Expr | None = None) -> Exponential:
    """``2**(x + low)`` in parts, for ``|x| <= 2**(p-3)``; `low` as in `exp_parts`."""
    dtype = x.dtype
    kf, k = nearest_integer(x)
    r = x - kf
    e = None
    if low is not None:
        r, e = fast_two_sum(r, low)
    first = split(LN2, dtype, dtype.precision, dtype.precision)
    t, rest = times_pair((r, f(0.0, dtype) if e is None else e), (first[0], first[1]))
    return Exponential(k, t, ir.fma(r * r, horner(r, _Q2[dtype]), rest))


def expm1_pair(parts: Exponential) -> Pair:
    """``exp - 1`` as a pair, for ``0 <= k <= 100``.

    ``2**k (1 + r + s) - 1 = (2**k - 1) + 2**k r + 2**k s``, where the first sum is kept exactly.
    The relative error, from the roundings of s, is below ``2**-p`` (at ``k = 1``, r = -0.3466) and
    below ``2**-(p+2)`` for k = 0.
    """
    dtype: DType = parts.r.dtype
    two_k = power_of_two(parts.k, dtype)
    high, low = fast_two_sum(two_k - f(1.0, dtype), two_k * parts.r)
    return fast_two_sum(high, ir.fma(two_k, parts.s, low))
