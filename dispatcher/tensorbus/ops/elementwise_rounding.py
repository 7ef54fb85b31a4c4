"""Rounding to integers, and neighbours in the floating-point format."""

from __future__ import annotations

from collections.abc import Callable

from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr

from .._op import function
from .._tensor import Tensor
from . import _dtype_rules as rules
from ._common import Scalar
from ._elementwise import Elementwise, binary, unary

__all__ = ["ceil", "floor", "nextafter", "round", "trunc"]


def _rounding(name: str, body: Callable[[Expr], Expr]) -> Elementwise:
    """Integers are their own rounding; the derivative is zero between the steps."""
    return Elementwise(
        name, lambda x: body(x) if x.dtype.is_float else x, rules.numeric, [lambda c: 0]
    )


def _nextafter_body(x1: Expr, x2: Expr, dtype: DType) -> Expr:
    """On bit patterns, which grow with the magnitude on both sides of zero."""
    signed = dt.by_name(f"int{dtype.bits}")
    sign = 1 << (dtype.bits - 1)
    infinity = ((1 << (dtype.bits - dtype.precision)) - 1) << (dtype.precision - 1)
    size1, size2 = x1 & (sign - 1), x2 & (sign - 1)
    key1, key2 = (
        ir.select(x < sign, ir.bitcast(size, signed), -ir.bitcast(size, signed))
        for x, size in ((x1, size1), (x2, size2))
    )
    nan = (size1 > infinity) | (size2 > infinity)
    away = (key2 > key1) ^ (x1 >= sign)
    stepped = ir.select(away, x1 + 1, x1 - 1)
    from_zero = (x2 & sign) | 1
    moved = ir.select(size1.eq(0), from_zero, stepped)
    result = ir.select(key1.eq(key2), x2, moved)
    quiet = ir.const(infinity | 1 << (dtype.precision - 2), x1.dtype)
    return ir.select(nan, quiet, result)


_ceil = _rounding("ceil", ir.ceil)
_floor = _rounding("floor", ir.floor)
_trunc = _rounding("trunc", ir.trunc)
_round = _rounding("round", ir.rint)
_nextafter = Elementwise("nextafter", _nextafter_body, rules.floating, as_bits=True)


@function("elementwise", differentiable=True)
def ceil(x: Tensor, /) -> Tensor:
    """The least integer not below each element; integers stay.  The gradient is zero."""
    return unary(_ceil, x)


@function("elementwise", differentiable=True)
def floor(x: Tensor, /) -> Tensor:
    """The greatest integer not above each element; integers stay.  The gradient is zero."""
    return unary(_floor, x)


@function("elementwise", differentiable=True)
def trunc(x: Tensor, /) -> Tensor:
    """Each element without its fraction; integers stay.  The gradient is zero."""
    return unary(_trunc, x)


@function("elementwise", differentiable=True)
def round(x: Tensor, /) -> Tensor:
    """The nearest integer, ties to even; integers stay.  The gradient is zero."""
    return unary(_round, x)


@function("elementwise")
def nextafter(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """The next number of the dtype from ``x1`` towards ``x2``; ``x2`` if both are equal.

    NaN if either is NaN; floating operands.
    """
    return binary(_nextafter, x1, x2)
