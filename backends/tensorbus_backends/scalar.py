"""Small functions over the scalar IR that every kernel body uses.

Whatever IEEE 754, C or OpenCL leave open is decided here once: NaN wins in `minimum` and
`maximum`, -0 is less than +0 there, and the sign functions work on bits.
"""

from __future__ import annotations

import numpy as np

from . import dtypes as dt, ir
from .dtypes import DType
from .ir import Expr, Operand

__all__ = [
    "copysign",
    "f",
    "inf",
    "integer_type",
    "is_inf",
    "is_nan",
    "maximum",
    "minimum",
    "nan",
    "sign",
    "sign_bit",
    "unsigned_type",
]


def f(value: float, dtype: DType) -> Expr:
    """A float constant, rounded to `dtype` first."""
    return ir.const(float(dtype.compute.numpy.type(value)), dtype.compute)


def inf(dtype: DType) -> Expr:
    """+infinity."""
    return ir.const(float(np.inf), dtype)


def nan(dtype: DType) -> Expr:
    """The quiet NaN."""
    return ir.const(float(np.nan), dtype)


def unsigned_type(dtype: DType) -> DType:
    """The unsigned integer dtype of the same width."""
    return dt.by_name(f"uint{dtype.bits}")


def integer_type(dtype: DType) -> DType:
    """The signed integer dtype of the same width."""
    return dt.by_name(f"int{dtype.bits}")


def is_nan(x: Expr) -> Expr:
    """Whether `x` is NaN; False for integers."""
    return x.ne(x) if x.dtype.is_float else ir.const(False, dt.bool_)


def is_inf(x: Expr) -> Expr:
    """Whether `x` is infinite; False for integers."""
    if not x.dtype.is_float:
        return ir.const(False, dt.bool_)
    return ir.fabs(x).eq(inf(x.dtype))


def sign_bit(x: Expr) -> Expr:
    """Whether the sign bit is set (so True for -0 and for negative NaN)."""
    if x.dtype.kind in "bu":
        return ir.const(False, dt.bool_)
    return (ir.bitcast(x, integer_type(x.dtype)) < 0) if x.dtype.is_float else x < 0


def copysign(magnitude: Expr, sign_of: Expr) -> Expr:
    """`magnitude` with the sign bit of `sign_of`."""
    u = unsigned_type(magnitude.dtype)
    mask = 1 << (u.bits - 1)
    low = ir.bitcast(magnitude, u) & (mask - 1)
    return ir.bitcast(low | (ir.bitcast(sign_of, u) & mask), magnitude.dtype)


def maximum(a: Expr, b: Expr) -> Expr:
    """IEEE 754-2019 maximum: NaN if either is NaN, +0 above -0."""
    if not a.dtype.is_float:
        return a | b if a.dtype is dt.bool_ else ir.select(a < b, b, a)
    above = (a > b) | (a.eq(b) & ~sign_bit(a)) | is_nan(a)
    return ir.select(above, a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    """IEEE 754-2019 minimum: NaN if either is NaN, -0 below +0."""
    if not a.dtype.is_float:
        return a & b if a.dtype is dt.bool_ else ir.select(b < a, b, a)
    below = (a < b) | (a.eq(b) & sign_bit(a)) | is_nan(a)
    return ir.select(below, a, b)


def sign(x: Expr) -> Expr:
    """-1, 0 or 1 in the dtype of `x`; NaN stays NaN and a zero keeps its sign."""
    if x.dtype is dt.bool_:
        return x
    one = ir.const(1, x.dtype)
    if x.dtype.kind == "u":
        return ir.select(x.eq(0), x, one)
    return ir.select(x > 0, one, ir.select(x < 0, -one, x))


def as_operand(x: Operand, dtype: DType) -> Expr:
    """Lift a Python number."""
    return x if isinstance(x, Expr) else ir.const(x, dtype)
