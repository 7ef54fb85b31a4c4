"""Floating-point formats: units in the last place, correct rounding and errors in ulps.

A reference value is a pair ``hi + lo`` of float64 arrays, ``|lo| <= ulp64(hi)/2`` (about 106 bits),
or an exact decision by Arb where the pair is not enough (see `ball`).  Nothing here rounds twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BFLOAT16",
    "FLOAT16",
    "FLOAT32",
    "FLOAT64",
    "FORMATS",
    "Format",
    "error_in_ulps",
    "format_of",
    "round_to",
    "two_product",
    "two_sum",
    "ulp",
]

F64 = NDArray[np.float64]
Array = NDArray[Any]


@dataclass(frozen=True)
class Format:
    """A binary interchange format (bfloat16 beside IEEE 754's).

    Attributes:
        p: Significand bits with the hidden one.
        emin: Least exponent of a normal number.
        emax: Greatest exponent.
    """

    name: str
    dtype: np.dtype[Any]
    p: int
    emin: int
    emax: int

    @property
    def u(self) -> float:
        """Unit roundoff 2^-p: the largest relative error of one rounding to nearest."""
        return 2.0**-self.p

    @property
    def tiny(self) -> float:
        """The least positive (subnormal) number, 2^(emin-p+1)."""
        return float(np.ldexp(1.0, self.emin - self.p + 1))

    @property
    def min_normal(self) -> float:
        return float(np.ldexp(1.0, self.emin))

    @property
    def max(self) -> float:
        """The greatest finite number, (2 - 2^(1-p)) 2^emax."""
        return float(np.ldexp(2.0 - 2.0 ** (1 - self.p), self.emax))

    @property
    def compute(self) -> Format:
        """The format in which the library calculates: float32 for the 16-bit ones, else itself."""
        return FLOAT32 if self.p < 24 else self


FLOAT16 = Format("float16", np.dtype(np.float16), 11, -14, 15)
BFLOAT16 = Format("bfloat16", np.dtype(ml_dtypes.bfloat16), 8, -126, 127)
FLOAT32 = Format("float32", np.dtype(np.float32), 24, -126, 127)
FLOAT64 = Format("float64", np.dtype(np.float64), 53, -1022, 1023)
FORMATS = {f.name: f for f in (FLOAT16, BFLOAT16, FLOAT32, FLOAT64)}
_BY_DTYPE = {f.dtype: f for f in FORMATS.values()}


def format_of(dtype: Any) -> Format | None:
    """The format of a NumPy (or ml_dtypes) dtype; None where it is not a floating one."""
    return _BY_DTYPE.get(np.dtype(dtype))


def _exponent(hi: F64, lo: F64 | None = None) -> NDArray[np.int64]:
    """floor(log2|hi + lo|), meaningless for 0, inf and NaN."""
    mantissa, exponent = np.frexp(np.abs(hi))
    result = exponent.astype(np.int64) - 1
    if lo is not None:
        # hi is a power of two and the exact value lies below it: one binade lower.
        result = result - ((mantissa == 0.5) & (lo * np.sign(hi) < 0))
    return result


def ulp(value: Any, fmt: Format, low: Any = None) -> F64:
    """ulp(r) = 2^(clamp(floor(log2|r|), emin, emax) - (p-1)), r = value + low, as float64.

    Zero has the ulp of the subnormals, infinity that of the greatest binade, NaN gives NaN.
    Source of the definition: the error model of the design, which follows the OpenCL C
    specification, section 7.4, with the binade clamped at both ends.
    """
    hi = np.asarray(value, np.float64)
    lo = None if low is None else np.asarray(low, np.float64)
    exponent = np.clip(_exponent(hi, lo), fmt.emin, fmt.emax)
    exponent = np.where(hi == 0, fmt.emin, exponent)
    exponent = np.where(np.isinf(hi), fmt.emax, exponent)
    unit = np.ldexp(1.0, (exponent - (fmt.p - 1)).astype(np.int32))
    return np.asarray(np.where(np.isnan(hi), np.nan, unit), np.float64)


def round_to(value: Any, fmt: Format, low: Any = None) -> Array:
    """`value` + `low` correctly rounded to `fmt`: to nearest, ties to even, one rounding.

    Overflows to infinity from the midpoint beyond the greatest finite number on, rounds into the
    subnormals, keeps the sign of zero and of what underflows.  Needs |low| <= ulp64(value)/2.
    """
    hi = np.asarray(value, np.float64)
    lo = (
        np.zeros_like(hi) if low is None else np.broadcast_to(np.asarray(low, np.float64), hi.shape)
    )
    if fmt is FLOAT64:
        return np.asarray(np.where(np.isfinite(hi) & (lo != 0), hi + lo, hi), np.float64)
    with np.errstate(all="ignore"):
        unit = ulp(hi, fmt, lo)
        scaled = hi / unit
        nearest = np.rint(scaled)
        rest = scaled - nearest
        # On a float64 tie the low part decides; elsewhere it is too small to matter.
        tie = (np.abs(rest) == 0.5) & (lo != 0)
        nearest = np.where(tie, np.where(lo > 0, np.ceil(scaled), np.floor(scaled)), nearest)
        result = nearest * unit
        limit = np.ldexp(1.0, fmt.emax + 1)
        result = np.where(np.abs(result) >= limit, np.copysign(np.inf, hi), result)
        result = np.where(np.isfinite(hi), np.copysign(result, hi), hi)
        return np.asarray(result.astype(fmt.dtype))


def error_in_ulps(got: Any, value: Any, fmt: Format, low: Any = None) -> F64:
    """|got - (value + low)| in ulps of the reference, float64.

    `got` holds numbers of `fmt` (any dtype that float64 contains).  Equal infinities and two NaNs
    give 0; NaN against a number, or infinity against anything else, gives inf.
    """
    ours = np.asarray(got).astype(np.float64)
    hi = np.asarray(value, np.float64)
    lo = np.zeros_like(hi) if low is None else np.asarray(low, np.float64)
    with np.errstate(all="ignore"):
        error = np.abs((ours - hi) - lo) / ulp(hi, fmt, lo)
    both_nan = np.isnan(ours) & np.isnan(hi)
    error = np.where((ours == hi) & np.isinf(hi) | both_nan, 0.0, error)
    return np.asarray(np.where(np.isnan(error), np.inf, error), np.float64)


def two_sum(a: F64, b: F64) -> tuple[F64, F64]:
    """(s, e) with s = fl(a + b) and s + e = a + b exactly (Knuth), unless a + b overflows."""
    with np.errstate(all="ignore"):
        s = a + b
        t = s - a
        e = (a - (s - t)) + (b - t)
    return s, np.where(np.isfinite(s), e, 0.0)


def two_product(a: F64, b: F64) -> tuple[F64, F64]:
    """(p, e) with p = fl(a b) and p + e = a b exactly (Dekker), barring over- and underflow."""
    with np.errstate(all="ignore"):
        p = a * b
        ah, al = _split(a)
        bh, bl = _split(b)
        e = ((ah * bh - p) + ah * bl + al * bh) + al * bl
    return p, np.where(np.isfinite(p) & np.isfinite(e), e, 0.0)


def _split(a: F64) -> tuple[F64, F64]:
    c = 134217729.0 * a
    high = c - (c - a)
    return high, a - high
