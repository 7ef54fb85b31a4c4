"""Elementary functions on many points at once, to a few units of a format beyond the judged one.

For float32 the host's float64 functions serve, for float64 those of the extended type of NumPy
where it has 64 bits or more; `wide_type` says where it has not.  C libraries state errors of one
or two ulp for them, compositions here add less than four: below 2**-61 relative for the extended
type of x86, 2**-8 ulp of float64; for float32 2**-26 ulp.  So `UNSURE` ulp around a boundary is
left undecided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ulp import FLOAT32, FLOAT64, Format

__all__ = ["FUNCTIONS", "UNSURE", "errors", "wide_type"]

Wide = NDArray[Any]

UNSURE = 2.0**-8
"""Ulps of the judged format that a reference may be off."""


def wide_type(fmt: Format) -> Any:
    """The NumPy type in which references of `fmt` are computed; None where the host has none."""
    if fmt is FLOAT32:
        return np.float64
    enough = fmt is FLOAT64 and np.finfo(np.longdouble).nmant >= 63
    return np.longdouble if enough else None


_erf64 = np.vectorize(math.erf, otypes=[np.float64])
_erfc64 = np.vectorize(math.erfc, otypes=[np.float64])

_TAIL = 2.5
"""Where erfc, 2^-11 and falling, may be known to float64 alone."""


def _erf(x: Wide) -> Wide:
    """``2 x / sqrt(pi) exp(-x^2) sum (2 x^2)^n / (2n+1)!!`` (A&S 7.1.6), 1 - erfc(x) in the tail.

    No term is negative; x^2 below 6.25 is known to 2^-64, and costs the sum that times 6.25.
    """
    if x.dtype == np.float64:
        return np.asarray(_erf64(x))
    wide = x.dtype.type
    size = np.abs(x)
    a = np.minimum(size, wide(_TAIL))
    square = a * a
    term = np.ones_like(a)
    total = np.ones_like(a)
    for n in range(1, 100):
        term = term * (2 * square / wide(2 * n + 1))
        total = total + term
        if not (term > total * wide(2.0) ** -70).any():
            break
    root = np.sqrt(4 * np.arctan(wide(1)))
    near = 2 * a / root * np.exp(-square) * total
    far = size > _TAIL
    near[far] = 1 - _erfc64(size[far].astype(np.float64)).astype(x.dtype) if far.any() else 0
    return np.asarray(np.copysign(near, x))


def _sigmoid(x: Wide) -> Wide:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, x.dtype.type(1), e) / (1 + e))


def _softplus(x: Wide) -> Wide:
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


def _logaddexp(x: Wide, y: Wide) -> Wide:
    """NaN where the terms cancel and the sum would lose more than a bit."""
    large = np.maximum(x, y)
    total = large + np.log1p(np.exp(np.minimum(x, y) - large))
    return np.asarray(np.where(np.abs(total) < np.abs(large) / 2, x.dtype.type(np.nan), total))


FUNCTIONS: dict[str, Callable[..., Wide]] = {
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "atanh": np.arctanh,
    "cos": np.cos,
    "cosh": np.cosh,
    "erf": _erf,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "hypot": np.hypot,
    "log": np.log,
    "log10": np.log10,
    "log1p": np.log1p,
    "log2": np.log2,
    "logaddexp": _logaddexp,
    "pow": np.power,
    "sigmoid": _sigmoid,
    "sin": np.sin,
    "sinh": np.sinh,
    "softplus": _softplus,
    "tan": np.tan,
    "tanh": np.tanh,
}


def errors(name: str, fmt: Format, got: NDArray[Any], *points: NDArray[Any]) -> NDArray[np.float64]:
    """Signed errors of results in ulps, where the exact value is a number of the format's range.

    Args:
        name: Of the function.
        fmt: Of points and results; `wide_type` must not be None.
        got: Results, of `fmt`.
        points: Arguments, of `fmt`.

    Returns:
        (got - exact) / ulp(exact); infinite for a result that is no number; NaN where the exact
        value is zero, beyond the greatest finite number, or not known well enough.
    """
    wide = wide_type(fmt)
    with np.errstate(all="ignore"):
        exact = np.asarray(FUNCTIONS[name](*(p.astype(wide) for p in points)))
        _, exponent = np.frexp(exact)
        unit = np.ldexp(wide(1), np.clip(exponent - 1, fmt.emin, fmt.emax) - (fmt.p - 1))
        found = ((got.astype(wide) - exact) / unit).astype(np.float64)
        judged = np.isfinite(exact) & (exact != 0) & (np.abs(exact) <= wide(fmt.max))
        found = np.where(np.isfinite(got), found, np.inf)
        return np.asarray(np.where(judged, found, np.nan))
