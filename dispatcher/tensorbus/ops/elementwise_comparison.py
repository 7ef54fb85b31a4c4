"""Comparisons, predicates, logic, bits, and selection."""

from __future__ import annotations

from tensorbus_backends import dtypes as dt, ir, scalar
from tensorbus_backends.ir import Expr

from .._op import apply, function
from .._promotion import result_of_scalar, scalar_dtype
from .._tensor import Tensor
from . import _dtype_rules as rules
from ._common import Scalar, operands, scalar_tensor, tensor_of
from ._elementwise import Elementwise, binary, unary

__all__ = [
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "equal",
    "greater",
    "greater_equal",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "not_equal",
    "signbit",
    "where",
]


def _finite(x: Expr) -> Expr:
    if not x.dtype.is_float:
        return ir.const(True, dt.bool_)
    return ir.fabs(x) < scalar.inf(x.dtype)


_equal = Elementwise("equal", lambda a, b: a.eq(b), rules.comparable)
_not_equal = Elementwise("not_equal", lambda a, b: a.ne(b), rules.comparable)
_less = Elementwise("less", lambda a, b: a < b, rules.ordered)
_less_equal = Elementwise("less_equal", lambda a, b: a <= b, rules.ordered)
_greater = Elementwise("greater", lambda a, b: a > b, rules.ordered)
_greater_equal = Elementwise("greater_equal", lambda a, b: a >= b, rules.ordered)
_isfinite = Elementwise("isfinite", _finite, rules.predicate)
_isinf = Elementwise("isinf", scalar.is_inf, rules.predicate)
_isnan = Elementwise("isnan", scalar.is_nan, rules.predicate)
_signbit = Elementwise("signbit", scalar.sign_bit, rules.floating_predicate)
_logical_and = Elementwise("logical_and", lambda a, b: a & b, rules.boolean)
_logical_or = Elementwise("logical_or", lambda a, b: a | b, rules.boolean)
_logical_xor = Elementwise("logical_xor", lambda a, b: a ^ b, rules.boolean)
_logical_not = Elementwise("logical_not", lambda a: ~a, rules.boolean)
_bitwise_and = Elementwise("bitwise_and", lambda a, b: a & b, rules.bits)
_bitwise_or = Elementwise("bitwise_or", lambda a, b: a | b, rules.bits)
_bitwise_xor = Elementwise("bitwise_xor", lambda a, b: a ^ b, rules.bits)
_bitwise_invert = Elementwise("bitwise_invert", lambda a: ~a, rules.bits)
_left_shift = Elementwise("bitwise_left_shift", lambda a, b: a << b, rules.integral)
_right_shift = Elementwise("bitwise_right_shift", lambda a, b: a >> b, rules.integral)


@function("elementwise")
def equal(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 == x2`` as bool; false where either is NaN."""
    return binary(_equal, x1, x2)


@function("elementwise")
def not_equal(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 != x2`` as bool; true where either is NaN."""
    return binary(_not_equal, x1, x2)


@function("elementwise")
def less(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 < x2`` as bool; false where either is NaN."""
    return binary(_less, x1, x2)


@function("elementwise")
def less_equal(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 <= x2`` as bool; false where either is NaN."""
    return binary(_less_equal, x1, x2)


@function("elementwise")
def greater(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 > x2`` as bool; false where either is NaN."""
    return binary(_greater, x1, x2)


@function("elementwise")
def greater_equal(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 >= x2`` as bool; false where either is NaN."""
    return binary(_greater_equal, x1, x2)


@function("elementwise")
def isfinite(x: Tensor, /) -> Tensor:
    """Whether each element is neither infinite nor NaN, as bool; true for integers."""
    return unary(_isfinite, x)


@function("elementwise")
def isinf(x: Tensor, /) -> Tensor:
    """Whether each element is an infinity, as bool; false for integers."""
    return unary(_isinf, x)


@function("elementwise")
def isnan(x: Tensor, /) -> Tensor:
    """Whether each element is NaN, as bool; false for integers."""
    return unary(_isnan, x)


@function("elementwise")
def signbit(x: Tensor, /) -> Tensor:
    """Whether the sign bit of each floating element is set, as bool: also that of -0."""
    return unary(_signbit, x)


@function("elementwise")
def logical_and(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """Logical and of bool operands."""
    return binary(_logical_and, x1, x2)


@function("elementwise")
def logical_or(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """Logical or of bool operands."""
    return binary(_logical_or, x1, x2)


@function("elementwise")
def logical_xor(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """Logical exclusive or of bool operands."""
    return binary(_logical_xor, x1, x2)


@function("elementwise")
def logical_not(x: Tensor, /) -> Tensor:
    """Logical negation of a bool operand."""
    return unary(_logical_not, x)


@function("elementwise")
def bitwise_and(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """Bitwise and of integer or bool operands."""
    return binary(_bitwise_and, x1, x2)


@function("elementwise")
def bitwise_or(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """Bitwise or of integer or bool operands."""
    return binary(_bitwise_or, x1, x2)


@function("elementwise")
def bitwise_xor(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """Bitwise exclusive or of integer or bool operands."""
    return binary(_bitwise_xor, x1, x2)


@function("elementwise")
def bitwise_invert(x: Tensor, /) -> Tensor:
    """Every bit of an integer or bool operand inverted."""
    return unary(_bitwise_invert, x)


@function("elementwise")
def bitwise_left_shift(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1`` shifted left by ``x2`` bits; 0 if ``x2`` is not in [0, width)."""
    return binary(_left_shift, x1, x2)


@function("elementwise")
def bitwise_right_shift(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1`` shifted right by ``x2`` bits, keeping its sign.

    Where ``x2`` is not in [0, width) the result is 0, or -1 for a negative ``x1``.
    """
    return binary(_right_shift, x1, x2)


def _where_left(v: Tensor, condition: Tensor) -> Tensor:
    return where(condition, v, 0)


def _where_right(v: Tensor, condition: Tensor) -> Tensor:
    return where(condition, 0, v)


_where = Elementwise(
    "where",
    lambda condition, a, b, dtype: ir.select(condition, a, b),
    rules.selection,
    [
        lambda c: None,
        lambda c: lambda v: _where_left(v, c.input(0)),
        lambda c: lambda v: _where_right(v, c.input(0)),
    ],
    as_bits=True,
)


@function("elementwise", differentiable=True)
def where(condition: Tensor, x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1`` where `condition` is true, else ``x2``; elements are copied bit by bit.

    Args:
        condition: bool; not differentiable.
        x1: Any dtype, broadcast with the others; a Python scalar takes the dtype of ``x2``.
        x2: Likewise.

    Returns:
        A tensor of the broadcast shape and the promoted dtype of ``x1`` and ``x2``.

    Raises:
        TypeError: The condition is not a bool tensor, or ``x1`` and ``x2`` do not promote.
    """
    tensor_of("where", condition, "condition")
    if isinstance(x1, Tensor) or isinstance(x2, Tensor):
        a, b = operands("where", x1, x2)
    else:
        a, b = _scalars(condition, x1, x2)
    out: Tensor = apply(_where, (condition, a, b))
    return out


def _scalars(condition: Tensor, x1: Scalar, x2: Scalar) -> list[Tensor]:
    """Two Python scalars as tensors of the default dtype of the greater kind."""
    for x in (x1, x2):
        if not isinstance(x, bool | int | float):
            raise TypeError(
                f"where: operands are tensors or Python scalars, not {type(x).__name__}; "
                "convert with tensorbus.asarray"
            )
    first = x1 if isinstance(x1, float) or not isinstance(x2, float) else x2
    dtype = scalar_dtype(first)
    return [scalar_tensor(condition.device, x, result_of_scalar(dtype, x)) for x in (x1, x2)]
