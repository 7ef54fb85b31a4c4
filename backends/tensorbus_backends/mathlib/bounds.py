"""The greatest error, in ulps, that the math library claims for each of its functions.

One ulp of an exact value r is ``2**(clamp(floor(log2(abs(r))), emin, emax) - (p - 1))``; infinity
stands for ``2**(emax + 1)``.  The measured figures are in ``docs/ulps-float32.md``.
"""

from __future__ import annotations

__all__ = ["BOUNDS_F32", "BOUNDS_F64", "BOUNDS_TWO"]

BOUNDS_F32: dict[str, float] = {
    "exp": 0.9375,
    "exp2": 0.9375,
    "expm1": 0.9375,
    "log": 0.6875,
    "log2": 0.75,
    "log10": 0.6875,
    "log1p": 0.6875,
    "sin": 0.8125,
    "cos": 0.8125,
    "tan": 0.9375,
    "asin": 0.75,
    "acos": 0.6875,
    "atan": 0.9375,
    "sinh": 0.8125,
    "cosh": 0.75,
    "tanh": 1.0,
    "asinh": 0.5625,
    "acosh": 0.6875,
    "atanh": 0.6875,
    "erf": 0.9375,
    "sigmoid": 0.8125,
    "softplus": 0.8125,
}
"""The measured maximum over all inputs, rounded up to a sixteenth."""

BOUNDS_F64: dict[str, float] = {
    "exp": 1.0,
    "exp2": 1.0,
    "expm1": 1.25,
    "log": 1.0,
    "log2": 1.0,
    "log10": 1.0,
    "log1p": 1.0,
    "sin": 1.0,
    "cos": 1.0,
    "tan": 1.25,
    "asin": 1.0,
    "acos": 1.0,
    "atan": 1.0,
    "sinh": 1.0,
    "cosh": 1.0,
    "tanh": 1.0,
    "asinh": 1.0,
    "acosh": 1.0,
    "atanh": 1.0,
    "erf": 1.5,
    "sigmoid": 1.0,
    "softplus": 1.0,
}
"""Error budgets are in the docstrings of ``f64_*``; sampled figures in ``docs/ulps-float64.md``."""

BOUNDS_TWO: dict[tuple[str, str], float] = {
    (name, dtype): bound
    for dtype in ("float32", "float64")
    for name, bound in {
        "pow": 1.0,
        "atan2": 1.25,
        "hypot": 1.0,
        "logaddexp": 1.75,
        "remainder": 0.5,
        "fmod": 0.0,
        "floor_divide": 0.5,
    }.items()
}
"""By (name, dtype).  remainder and floor_divide are correctly rounded: exact where the exact value
is representable.  For logaddexp the ulp is that of the larger of ``|result|`` and
``|max(x, y)| / 4``, because the two terms of the sum cancel where ``exp(x) + exp(y)`` is near 1."""
