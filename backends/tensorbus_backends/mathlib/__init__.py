"""The math library: elementary functions written once over the scalar IR.

Every function takes and returns a float32 or float64 expression.  The implementations lie in
``f32_*`` and ``f64*`` (one argument) and ``two`` (two arguments); they are imported when a function
is first used.  ``bounds`` states the greatest error of each, in ulps.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from .. import dtypes as dt
from ..ir import Expr, IRError

__all__ = [
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cos",
    "cosh",
    "erf",
    "exp",
    "exp2",
    "expm1",
    "floor_divide",
    "hypot",
    "log",
    "log10",
    "log1p",
    "log2",
    "logaddexp",
    "pow",
    "remainder",
    "sigmoid",
    "sin",
    "sinh",
    "softplus",
    "tan",
    "tanh",
]

_F32 = {
    "exponential": ("exp", "exp2", "expm1", "sigmoid"),
    "logarithm": ("log", "log2", "log10", "log1p", "softplus"),
    "trigonometric": ("sin", "cos", "tan", "asin", "acos", "atan"),
    "hyperbolic": ("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
    "error": ("erf",),
}
_MODULE_F32 = {name: f"f32_{module}" for module, names in _F32.items() for name in names}


def _one(name: str, x: Expr) -> Expr:
    if x.dtype is dt.float32:
        module = _MODULE_F32[name]
    elif x.dtype is dt.float64:
        module = "f64"
    else:
        raise IRError(f"{name}({x.dtype.name}): the math library needs float32 or float64")
    function: Callable[[Expr], Expr] = getattr(import_module(f".{module}", __name__), name)
    return function(x)


def _two(name: str, a: Expr, b: Expr) -> Expr:
    function: Callable[[Expr, Expr], Expr] = getattr(import_module(".two", __name__), name)
    return function(a, b)


def exp(x: Expr) -> Expr:
    """e**x."""
    return _one("exp", x)


def exp2(x: Expr) -> Expr:
    """2**x."""
    return _one("exp2", x)


def expm1(x: Expr) -> Expr:
    """e**x - 1, accurate near 0."""
    return _one("expm1", x)


def log(x: Expr) -> Expr:
    """Natural logarithm."""
    return _one("log", x)


def log2(x: Expr) -> Expr:
    """Logarithm to base 2."""
    return _one("log2", x)


def log10(x: Expr) -> Expr:
    """Logarithm to base 10."""
    return _one("log10", x)


def log1p(x: Expr) -> Expr:
    """log(1 + x), accurate near 0."""
    return _one("log1p", x)


def sin(x: Expr) -> Expr:
    """Sine; radians."""
    return _one("sin", x)


def cos(x: Expr) -> Expr:
    """Cosine; radians."""
    return _one("cos", x)


def tan(x: Expr) -> Expr:
    """Tangent; radians."""
    return _one("tan", x)


def asin(x: Expr) -> Expr:
    """Inverse sine, in [-pi/2, pi/2]."""
    return _one("asin", x)


def acos(x: Expr) -> Expr:
    """Inverse cosine, in [0, pi]."""
    return _one("acos", x)


def atan(x: Expr) -> Expr:
    """Inverse tangent, in [-pi/2, pi/2]."""
    return _one("atan", x)


def sinh(x: Expr) -> Expr:
    """Hyperbolic sine."""
    return _one("sinh", x)


def cosh(x: Expr) -> Expr:
    """Hyperbolic cosine."""
    return _one("cosh", x)


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent."""
    return _one("tanh", x)


def asinh(x: Expr) -> Expr:
    """Inverse hyperbolic sine."""
    return _one("asinh", x)


def acosh(x: Expr) -> Expr:
    """Inverse hyperbolic cosine."""
    return _one("acosh", x)


def atanh(x: Expr) -> Expr:
    """Inverse hyperbolic tangent."""
    return _one("atanh", x)


def erf(x: Expr) -> Expr:
    """Error function."""
    return _one("erf", x)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e**-x), accurate for negative x."""
    return _one("sigmoid", x)


def softplus(x: Expr) -> Expr:
    """log(1 + e**x), accurate for negative x."""
    return _one("softplus", x)


def atan2(a: Expr, b: Expr) -> Expr:
    """Angle of the point (b, a), in [-pi, pi]."""
    return _two("atan2", a, b)


def pow(a: Expr, b: Expr) -> Expr:
    """a**b."""
    return _two("pow", a, b)


def hypot(a: Expr, b: Expr) -> Expr:
    """sqrt(a*a + b*b) without overflow on the way."""
    return _two("hypot", a, b)


def remainder(a: Expr, b: Expr) -> Expr:
    """a - floor(a / b) * b, with the sign of b; exact."""
    return _two("remainder", a, b)


def floor_divide(a: Expr, b: Expr) -> Expr:
    """floor(a / b) of the exact quotient."""
    return _two("floor_divide", a, b)


def logaddexp(a: Expr, b: Expr) -> Expr:
    """log(e**a + e**b)."""
    return _two("logaddexp", a, b)
