"""Sums, products, quotients, extrema and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable

from tensorbus_backends import ir, mathlib, scalar
from tensorbus_backends.ir import Expr
from tensorbus_backends.mathlib.integer import int_floor_divide, int_remainder

from .._history import Context
from .._op import Op, apply, function
from .._promotion import promote
from .._tensor import Tensor
from . import _dtype_rules as rules
from ._common import Scalar, operands, tensor_of
from ._elementwise import Elementwise, Partial, binary, unary
from .elementwise_comparison import equal, where
from .manipulation import astype

__all__ = [
    "abs",
    "add",
    "clip",
    "copysign",
    "divide",
    "floor_divide",
    "hypot",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "positive",
    "real",
    "reciprocal",
    "remainder",
    "rsqrt",
    "sign",
    "sqrt",
    "square",
    "subtract",
]


def masked(name: str, body: Callable[..., Expr], count: int, *, params: tuple[str, ...] = ()) -> Op:
    """The op ``v * p(x1, ..)`` where p is piecewise constant, and so has no derivative itself.

    Args:
        name: Of the op.
        body: From the values of v and of the `count` others (and scalars) to the product.
        count: Number of operands besides v.
        params: Options that are launch scalars.
    """

    def linear(c: Context) -> Callable[[Tensor], Tensor]:
        def call(v: Tensor) -> Tensor:
            others = [c.input(k) for k in range(1, count + 1)]
            out: Tensor = apply(op, (v, *others), c.options)
            return out

        return call

    zero: Partial = lambda c: 0  # noqa: E731
    op = Elementwise(name, body, rules.floating, [linear, *[zero] * count], params=params)
    return op


# -- bodies ---------------------------------------------------------------------------------------


def _nothing(x: Expr) -> Expr:
    return ir.const(0, x.dtype)


def _sign_body(x: Expr) -> Expr:
    s = scalar.sign(x)
    # The array API has sign(-0) = 0.
    return s + 0.0 if x.dtype.is_float else s


def _floor_divide_body(a: Expr, b: Expr) -> Expr:
    return mathlib.floor_divide(a, b) if a.dtype.is_float else int_floor_divide(a, b)


def _remainder_body(a: Expr, b: Expr) -> Expr:
    return mathlib.remainder(a, b) if a.dtype.is_float else int_remainder(a, b)


def _half_if_tied(v: Expr, below: Expr, tie: Expr) -> Expr:
    return ir.select(below, _nothing(v), ir.select(tie, v * 0.5, v))


def clip_body(x: Expr, low: Expr, high: Expr) -> Expr:
    """``minimum(maximum(x, low), high)``, but a zero of x may stay beside a zero bound.

    Compilers vectorize it: the test of the bounds does not depend on that of x.
    """
    if not x.dtype.is_float:
        return scalar.minimum(scalar.maximum(x, low), high)
    above = ir.select(x < low, low, x)
    inside = ir.select(above > high, high, above)
    undefined = scalar.is_nan(low) | scalar.is_nan(high)
    return ir.select(undefined, scalar.nan(x.dtype), inside)


def _flip(v: Expr, x1: Expr, x2: Expr) -> Expr:
    moved = scalar.sign_bit(x1) ^ scalar.sign_bit(x2)
    return ir.select(x1.eq(0.0), _nothing(v), ir.select(moved, -v, v))


# -- public ---------------------------------------------------------------------------------------


@function("elementwise", differentiable=True)
def add(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 + x2``; integers wrap."""
    return binary(_add, x1, x2)


@function("elementwise", differentiable=True)
def subtract(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 - x2``; integers wrap."""
    return binary(_subtract, x1, x2)


@function("elementwise", differentiable=True)
def multiply(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 * x2``; integers wrap."""
    return binary(_multiply, x1, x2)


@function("elementwise", differentiable=True)
def divide(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 / x2``, correctly rounded; integers are divided as float32."""
    return binary(_divide, x1, x2)


@function("elementwise", differentiable=True)
def floor_divide(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """The greatest integer not above the exact ``x1 / x2``, correctly rounded.

    An integer divided by 0 gives 0, the least integer divided by -1 itself.  The gradient is zero.
    """
    return binary(_floor_divide, x1, x2)


@function("elementwise", differentiable=True)
def remainder(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 - floor(x1 / x2) * x2``, exact up to one rounding, with the sign of ``x2``.

    An integer's remainder by 0 is 0.
    """
    return binary(_remainder, x1, x2)


@function("elementwise", differentiable=True)
def negative(x: Tensor, /) -> Tensor:
    """``-x``; integers wrap."""
    return unary(_negative, x)


@function("elementwise", differentiable=True)
def positive(x: Tensor, /) -> Tensor:
    """A copy of a numeric tensor."""
    return unary(_positive, x)


@function("elementwise", differentiable=True)
def real(x: Tensor, /) -> Tensor:
    """The real part: a copy, since no complex dtype exists yet."""
    return unary(_real, x)


@function("elementwise", differentiable=True)
def reciprocal(x: Tensor, /) -> Tensor:
    """``1 / x`` of a floating tensor, correctly rounded."""
    return unary(_reciprocal, x)


@function("elementwise", differentiable=True)
def square(x: Tensor, /) -> Tensor:
    """``x * x``; integers wrap."""
    return unary(_square, x)


@function("elementwise", differentiable=True)
def sqrt(x: Tensor, /) -> Tensor:
    """Square root of a floating tensor, correctly rounded; NaN below zero."""
    return unary(_sqrt, x)


@function("elementwise", differentiable=True)
def rsqrt(x: Tensor, /) -> Tensor:
    """``1 / sqrt(x)`` of a floating tensor, within 1.5 ulp.

    The root has relative error at most u = 2**-p, which passes to the quotient, an error of at
    most one ulp; the division adds half an ulp.  A zero gives an infinity of its sign.
    """
    return unary(_rsqrt, x)


@function("elementwise", differentiable=True)
def hypot(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``sqrt(x1**2 + x2**2)`` of floating operands without overflow on the way.

    The gradient at the origin is 0.
    """
    return binary(_hypot, x1, x2)


@function("elementwise", differentiable=True)
def abs(x: Tensor, /) -> Tensor:
    """Absolute value; the least signed integer stays itself.  Its derivative at 0 is 0."""
    return unary(_abs, x)


@function("elementwise", differentiable=True)
def sign(x: Tensor, /) -> Tensor:
    """-1, 0 or 1 by the sign of each element; NaN stays NaN, -0 gives 0.  The gradient is zero."""
    return unary(_sign, x)


@function("elementwise", differentiable=True)
def maximum(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """The greater element (IEEE 754-2019 maximum): NaN if either is NaN, +0 above -0.

    Where both are equal, each gets half of the gradient.
    """
    return binary(_maximum, x1, x2)


@function("elementwise", differentiable=True)
def minimum(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """The lesser element (IEEE 754-2019 minimum): NaN if either is NaN, -0 below +0.

    Where both are equal, each gets half of the gradient.
    """
    return binary(_minimum, x1, x2)


@function("elementwise", differentiable=True)
def copysign(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """The magnitude of ``x1`` with the sign of ``x2``; floating operands."""
    return binary(_copysign, x1, x2)


@function("elementwise", differentiable=True)
def clip(
    x: Tensor,
    /,
    min: Tensor | Scalar | None = None,
    max: Tensor | Scalar | None = None,
) -> Tensor:
    """``minimum(maximum(x, min), max)`` in the dtype of `x`.

    Args:
        x: Numeric tensor.
        min: Lower bound, broadcast with `x`; None means none.  Integers beyond the dtype of `x`
            count as the dtype's limit.
        max: Upper bound, likewise.

    Returns:
        A tensor of the dtype of `x`.  The gradient goes to `x` where it is inside or at a bound,
        else to the bound.

    Raises:
        TypeError: A bound is floating where `x` is an integer tensor, or not numeric.
        ValueError: The shapes do not broadcast.
    """
    tensor_of("clip", x)
    low = None if min is None else _bound(x, min, "min")
    high = None if max is None else _bound(x, max, "max")
    out: Tensor
    if low is not None and high is not None:
        out = apply(_clip, (x, low, high))
    elif low is not None:
        out = apply(_clip_low, (x, low))
    elif high is not None:
        out = apply(_clip_high, (x, high))
    elif x.dtype.kind == "b":
        raise TypeError("clip: x is bool; convert it with astype")
    else:
        out = positive(x)
    return out


def _bound(x: Tensor, bound: Tensor | Scalar, argument: str) -> Tensor:
    """A bound of clip in the dtype of `x`; integers that do not fit become its limits."""
    dtype = x.dtype
    if not isinstance(bound, Tensor):
        if isinstance(bound, int) and not isinstance(bound, bool) and dtype.is_integer:
            bound = sorted((dtype.min, bound, dtype.max))[1]
        tensor = operands("clip", x, bound)[1]
    else:
        tensor = bound
    if tensor.dtype is dtype:
        return tensor
    if promote(dtype, tensor.dtype).kind != dtype.kind and not dtype.is_float:
        raise TypeError(
            f"clip: {argument} is {tensor.dtype.name} but x is {dtype.name}; "
            "convert one with astype"
        )
    if dtype.is_integer:
        tensor = clip(tensor, dtype.min, dtype.max)
    return astype(tensor, dtype)


# -- derivatives of piecewise linear functions ---------------------------------------------------

_maximum_slope = masked("maximum_slope", lambda v, a, b: _half_if_tied(v, a < b, a.eq(b)), 2)
_minimum_slope = masked("minimum_slope", lambda v, a, b: _half_if_tied(v, a > b, a.eq(b)), 2)
_clip_slope = masked(
    "clip_slope",
    lambda v, x, low, high: ir.select((x < low) | (x > high), _nothing(v), v),
    3,
)
_clip_slope_low = masked(
    "clip_slope_low",
    lambda v, x, low, high: ir.select((x < low) & (low <= high), v, _nothing(v)),
    3,
)
_clip_slope_high = masked(
    "clip_slope_high",
    lambda v, x, low, high: ir.select((x > high) | (low > high), v, _nothing(v)),
    3,
)
_copysign_slope = masked("copysign_slope", _flip, 2)
_below_slope = masked("below_slope", lambda v, a, b: ir.select(a > b, _nothing(v), v), 2)
_above_slope = masked("above_slope", lambda v, a, b: ir.select(a > b, v, _nothing(v)), 2)

# -- the ops --------------------------------------------------------------------------------------

_add = Elementwise("add", lambda a, b: a + b, rules.numeric, [lambda c: 1, lambda c: 1])
_subtract = Elementwise("subtract", lambda a, b: a - b, rules.numeric, [lambda c: 1, lambda c: -1])
_multiply = Elementwise(
    "multiply", lambda a, b: a * b, rules.numeric, [lambda c: c.input(1), lambda c: c.input(0)]
)
_negative = Elementwise("negative", lambda a: -a, rules.numeric, [lambda c: -1])
_positive = Elementwise("positive", lambda a: a, rules.numeric, [lambda c: 1])
_real = Elementwise("real", lambda a: a, rules.numeric, [lambda c: 1])
_divide = Elementwise(
    "divide",
    lambda a, b: a / b,
    rules.floating_default,
    [
        lambda c: lambda v: divide(v, c.input(1)),
        lambda c: lambda v: negative(divide(multiply(v, c.output()), c.input(1))),
    ],
)
_floor_divide = Elementwise(
    "floor_divide", _floor_divide_body, rules.numeric, [lambda c: 0, lambda c: 0]
)
_remainder = Elementwise(
    "remainder",
    _remainder_body,
    rules.numeric,
    [lambda c: 1, lambda c: negative(floor_divide(c.input(0), c.input(1)))],
)
_reciprocal = Elementwise(
    "reciprocal",
    lambda x: 1.0 / x,
    rules.floating,
    [lambda c: lambda v: negative(multiply(v, square(c.output())))],
)
_square = Elementwise("square", lambda x: x * x, rules.numeric, [lambda c: multiply(c.input(0), 2)])
_sqrt = Elementwise(
    "sqrt",
    ir.sqrt,
    rules.floating,
    [lambda c: lambda v: divide(multiply(v, 0.5), c.output())],
)
_rsqrt = Elementwise(
    "rsqrt",
    lambda x: 1.0 / ir.sqrt(x),
    rules.floating,
    [lambda c: lambda v: divide(multiply(multiply(v, -0.5), c.output()), c.input(0))],
)


def _nonzero(h: Tensor) -> Tensor:
    return where(equal(h, 0), 1, h)


# x / h, and 0 at the origin: of the subgradients there the least.
_hypot_slope: Elementwise = Elementwise(
    "hypot_slope",
    lambda x, h: ir.select(h.eq(0.0), _nothing(x), x / h),
    rules.floating,
    [
        lambda c: lambda v: divide(v, _nonzero(c.input(1))),
        lambda c: lambda v: negative(divide(multiply(v, c.output()), _nonzero(c.input(1)))),
    ],
)
_hypot = Elementwise(
    "hypot",
    mathlib.hypot,
    rules.floating,
    [
        lambda c: binary(_hypot_slope, c.input(0), c.output()),
        lambda c: binary(_hypot_slope, c.input(1), c.output()),
    ],
)
_abs = Elementwise("abs", ir.fabs, rules.numeric, [lambda c: sign(c.input(0))])
_sign = Elementwise("sign", _sign_body, rules.numeric, [lambda c: 0])
_maximum = Elementwise(
    "maximum",
    scalar.maximum,
    rules.numeric,
    [
        lambda c: lambda v: _maximum_slope(v, c.input(0), c.input(1)),
        lambda c: lambda v: _maximum_slope(v, c.input(1), c.input(0)),
    ],
)
_minimum = Elementwise(
    "minimum",
    scalar.minimum,
    rules.numeric,
    [
        lambda c: lambda v: _minimum_slope(v, c.input(0), c.input(1)),
        lambda c: lambda v: _minimum_slope(v, c.input(1), c.input(0)),
    ],
)
_clip = Elementwise(
    "clip",
    clip_body,
    rules.numeric,
    [
        lambda c: lambda v: _clip_slope(v, c.input(0), c.input(1), c.input(2)),
        lambda c: lambda v: _clip_slope_low(v, c.input(0), c.input(1), c.input(2)),
        lambda c: lambda v: _clip_slope_high(v, c.input(0), c.input(1), c.input(2)),
    ],
)
_copysign = Elementwise(
    "copysign",
    scalar.copysign,
    rules.floating,
    [lambda c: lambda v: _copysign_slope(v, c.input(0), c.input(1)), lambda c: 0],
)
_clip_low = Elementwise(
    "clip_low",
    scalar.maximum,
    rules.numeric,
    [
        lambda c: lambda v: _below_slope(v, c.input(1), c.input(0)),
        lambda c: lambda v: _above_slope(v, c.input(1), c.input(0)),
    ],
)
_clip_high = Elementwise(
    "clip_high",
    scalar.minimum,
    rules.numeric,
    [
        lambda c: lambda v: _below_slope(v, c.input(0), c.input(1)),
        lambda c: lambda v: _above_slope(v, c.input(0), c.input(1)),
    ],
)
