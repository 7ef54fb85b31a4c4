"""The one-argument functions of the math library for float64, gathered from the ``f64_*`` files."""

from .f64_arc import acos, asin, atan
from .f64_erf import erf
from .f64_exp import cosh, exp, exp2, expm1, sigmoid, sinh, tanh
from .f64_log import acosh, asinh, atanh, log, log1p, log2, log10, softplus
from .f64_trig import cos, sin, tan

__all__ = [
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "cos",
    "cosh",
    "erf",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log10",
    "log1p",
    "log2",
    "sigmoid",
    "sin",
    "sinh",
    "softplus",
    "tan",
    "tanh",
]
