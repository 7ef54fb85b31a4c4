"""Exponentials, logarithms, powers, and trigonometric and hyperbolic functions.

float16 and bfloat16 are computed in float32 and rounded once; the greatest errors are those of
`tensorbus_backends.mathlib.bounds`.  Derivatives: Abramowitz and Stegun, Handbook of Mathematical
Functions, chapters 4 and 7.
"""

from __future__ import annotations

import math

from tensorbus_backends import ir, mathlib
from tensorbus_backends.ir import Expr
from tensorbus_backends.mathlib.integer import int_pow

from .._op import Op, function
from .._tensor import Tensor
from . import _dtype_rules as rules
from ._common import Scalar
from ._elementwise import Elementwise, Partial, binary, unary
from .elementwise_arithmetic import divide, hypot, multiply, negative, positive, sqrt, square
from .elementwise_comparison import equal, greater_equal, logical_and, where

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
    "log",
    "log10",
    "log1p",
    "log2",
    "logaddexp",
    "pow",
    "sin",
    "sinh",
    "tan",
    "tanh",
]

_LN2, _LN10 = math.log(2), math.log(10)
_ERF_SLOPE = 2 / math.sqrt(math.pi)


def _unary(name: str, partial: Partial) -> Op:
    return Elementwise(name, getattr(mathlib, name), rules.floating, [partial])


def _pow_body(x: Expr, y: Expr) -> Expr:
    return mathlib.pow(x, y) if x.dtype.is_float else int_pow(x, y)


def _tanh_slope_body(v: Expr, y: Expr) -> Expr:
    return v * ir.fma(-y, y, 1.0)


def _by_base(x: Tensor, y: Tensor) -> Tensor:
    """d pow(x, y) / dx; 0 for exponent 0 also where x is 0."""
    return where(equal(y, 0), 0, multiply(y, pow(x, y - 1)))


def _by_exponent(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """d pow(x, y) / dy; 0 for base 0 and an exponent that is not negative."""
    still = logical_and(equal(x, 0), greater_equal(y, 0))
    return where(still, 0, multiply(out, log(where(still, 1, x))))


@function("elementwise", differentiable=True)
def exp(x: Tensor, /) -> Tensor:
    """e to the power of a floating tensor."""
    return unary(_exp, x)


@function("elementwise", differentiable=True)
def exp2(x: Tensor, /) -> Tensor:
    """2 to the power of a floating tensor."""
    return unary(_exp2, x)


@function("elementwise", differentiable=True)
def expm1(x: Tensor, /) -> Tensor:
    """``exp(x) - 1`` of a floating tensor, accurate near 0."""
    return unary(_expm1, x)


@function("elementwise", differentiable=True)
def log(x: Tensor, /) -> Tensor:
    """Natural logarithm of a floating tensor; -inf at 0, NaN below."""
    return unary(_log, x)


@function("elementwise", differentiable=True)
def log1p(x: Tensor, /) -> Tensor:
    """``log(1 + x)`` of a floating tensor, accurate near 0; NaN below -1."""
    return unary(_log1p, x)


@function("elementwise", differentiable=True)
def log2(x: Tensor, /) -> Tensor:
    """Logarithm to base 2 of a floating tensor; -inf at 0, NaN below."""
    return unary(_log2, x)


@function("elementwise", differentiable=True)
def log10(x: Tensor, /) -> Tensor:
    """Logarithm to base 10 of a floating tensor; -inf at 0, NaN below."""
    return unary(_log10, x)


@function("elementwise", differentiable=True)
def logaddexp(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``log(exp(x1) + exp(x2))`` of floating operands without overflow on the way."""
    return binary(_logaddexp, x1, x2)


@function("elementwise", differentiable=True)
def pow(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1`` to the power of ``x2``.

    Integers wrap; a negative integer exponent truncates the exact power towards zero, so it gives
    0 for bases other than 1 and -1.  The exponent 2 as a Python int squares, correctly rounded.

    The derivatives are ``x2 * x1**(x2 - 1)``, and 0 for exponent 0; ``x1**x2 * log(x1)``, and 0
    for base 0 and an exponent that is not negative.
    """
    if isinstance(x1, Tensor) and type(x2) is int:
        if x2 == 2:
            return square(x1)
        if x2 == 1:
            return positive(x1)
    return binary(_pow, x1, x2)


@function("elementwise", differentiable=True)
def sin(x: Tensor, /) -> Tensor:
    """Sine of a floating tensor in radians."""
    return unary(_sin, x)


@function("elementwise", differentiable=True)
def cos(x: Tensor, /) -> Tensor:
    """Cosine of a floating tensor in radians."""
    return unary(_cos, x)


@function("elementwise", differentiable=True)
def tan(x: Tensor, /) -> Tensor:
    """Tangent of a floating tensor in radians."""
    return unary(_tan, x)


@function("elementwise", differentiable=True)
def asin(x: Tensor, /) -> Tensor:
    """Inverse sine of a floating tensor, in [-pi/2, pi/2]; NaN outside [-1, 1]."""
    return unary(_asin, x)


@function("elementwise", differentiable=True)
def acos(x: Tensor, /) -> Tensor:
    """Inverse cosine of a floating tensor, in [0, pi]; NaN outside [-1, 1]."""
    return unary(_acos, x)


@function("elementwise", differentiable=True)
def atan(x: Tensor, /) -> Tensor:
    """Inverse tangent of a floating tensor, in [-pi/2, pi/2]."""
    return unary(_atan, x)


@function("elementwise", differentiable=True)
def atan2(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """Angle of the point (``x2``, ``x1``) in radians, in [-pi, pi]; floating operands."""
    return binary(_atan2, x1, x2)


@function("elementwise", differentiable=True)
def sinh(x: Tensor, /) -> Tensor:
    """Hyperbolic sine of a floating tensor."""
    return unary(_sinh, x)


@function("elementwise", differentiable=True)
def cosh(x: Tensor, /) -> Tensor:
    """Hyperbolic cosine of a floating tensor."""
    return unary(_cosh, x)


@function("elementwise", differentiable=True)
def tanh(x: Tensor, /) -> Tensor:
    """Hyperbolic tangent of a floating tensor."""
    return unary(_tanh, x)


@function("elementwise", differentiable=True)
def asinh(x: Tensor, /) -> Tensor:
    """Inverse hyperbolic sine of a floating tensor."""
    return unary(_asinh, x)


@function("elementwise", differentiable=True)
def acosh(x: Tensor, /) -> Tensor:
    """Inverse hyperbolic cosine of a floating tensor; NaN below 1."""
    return unary(_acosh, x)


@function("elementwise", differentiable=True)
def atanh(x: Tensor, /) -> Tensor:
    """Inverse hyperbolic tangent of a floating tensor; NaN outside [-1, 1]."""
    return unary(_atanh, x)


@function("elementwise", differentiable=True)
def erf(x: Tensor, /) -> Tensor:
    """Error function of a floating tensor."""
    return unary(_erf, x)


def sigmoid(x: Tensor, /) -> Tensor:
    """``1 / (1 + exp(-x))``; public as `tensorbus.nn.sigmoid`."""
    return unary(_sigmoid, x)


_tanh_slope: Elementwise = Elementwise(
    "tanh_slope",
    _tanh_slope_body,
    rules.floating,
    [
        lambda c: lambda v: _tanh_slope(v, c.input(1)),
        lambda c: multiply(multiply(c.input(0), c.input(1)), -2),
    ],
)

_exp = _unary("exp", lambda c: c.output())
_exp2 = _unary("exp2", lambda c: multiply(c.output(), _LN2))
_expm1 = _unary("expm1", lambda c: exp(c.input(0)))
_log = _unary("log", lambda c: lambda v: divide(v, c.input(0)))
_log1p = _unary("log1p", lambda c: lambda v: divide(v, c.input(0) + 1))
_log2 = _unary("log2", lambda c: lambda v: divide(v, c.input(0) * _LN2))
_log10 = _unary("log10", lambda c: lambda v: divide(v, c.input(0) * _LN10))
_sin = _unary("sin", lambda c: cos(c.input(0)))
_cos = _unary("cos", lambda c: lambda v: negative(multiply(v, sin(c.input(0)))))
_tan = _unary("tan", lambda c: square(c.output()) + 1)
# Rounded once, so near 1 nothing is lost; and the derivative of (1 - x)(1 + x) would cancel near 0.
_one_less_square: Elementwise = Elementwise(
    "one_less_square",
    lambda x: ir.fma(-x, x, 1.0),
    rules.floating,
    [lambda c: multiply(c.input(0), -2)],
)
_asin = _unary("asin", lambda c: lambda v: divide(v, sqrt(unary(_one_less_square, c.input(0)))))
_acos = _unary(
    "acos", lambda c: lambda v: divide(negative(v), sqrt(unary(_one_less_square, c.input(0))))
)
_atan = _unary("atan", lambda c: lambda v: divide(v, square(c.input(0)) + 1))
_sinh = _unary("sinh", lambda c: cosh(c.input(0)))
_cosh = _unary("cosh", lambda c: sinh(c.input(0)))
_tanh = _unary("tanh", lambda c: lambda v: _tanh_slope(v, c.output()))
_asinh = _unary("asinh", lambda c: lambda v: divide(v, hypot(c.input(0), 1)))
# Two roots, since the product of the radicands overflows early.
_acosh = _unary("acosh", lambda c: lambda v: divide(v, sqrt(c.input(0) - 1) * sqrt(c.input(0) + 1)))
_atanh = _unary("atanh", lambda c: lambda v: divide(v, unary(_one_less_square, c.input(0))))
_erf = _unary("erf", lambda c: multiply(exp(negative(square(c.input(0)))), _ERF_SLOPE))
_sigmoid_slope: Elementwise = Elementwise(
    "sigmoid_slope",
    lambda v, y: v * (y * (1.0 - y)),
    rules.floating,
    [
        lambda c: lambda v: _sigmoid_slope(v, c.input(1)),
        lambda c: multiply(c.input(0), 1 - c.input(1) * 2),
    ],
)
_sigmoid = _unary("sigmoid", lambda c: lambda v: _sigmoid_slope(v, c.output()))
_pow = Elementwise(
    "pow",
    _pow_body,
    rules.numeric,
    [
        lambda c: _by_base(c.input(0), c.input(1)),
        lambda c: _by_exponent(c.input(0), c.input(1), c.output()),
    ],
)
_atan2 = Elementwise(
    "atan2",
    mathlib.atan2,
    rules.floating,
    [
        lambda c: divide(c.input(1), square(c.input(0)) + square(c.input(1))),
        lambda c: negative(divide(c.input(0), square(c.input(0)) + square(c.input(1)))),
    ],
)
_logaddexp = Elementwise(
    "logaddexp",
    mathlib.logaddexp,
    rules.floating,
    [
        lambda c: _sigmoid(c.input(0) - c.input(1)),
        lambda c: _sigmoid(c.input(1) - c.input(0)),
    ],
)
