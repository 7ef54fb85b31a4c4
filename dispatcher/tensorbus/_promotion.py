"""Type promotion: the array API's table, with what it leaves open decided as PyTorch does.

* integer with floating: the floating dtype;
* float16 with bfloat16: float32;
* uint64 with a signed integer: TypeError, since no dtype holds both;
* a Python scalar takes the array's dtype if its kind allows, else the default dtype of its kind.
"""

from __future__ import annotations

from functools import cache

from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

__all__ = ["DEFAULT_FLOAT", "DEFAULT_INT", "promote", "result_of_scalar", "scalar_dtype"]

DEFAULT_FLOAT = dt.float32
DEFAULT_INT = dt.int64
_SIGNED = {d.bits: d for d in dt.SIGNED}


@cache
def promote(a: DType, b: DType) -> DType:
    """The dtype that holds values of both; TypeError if none is defined."""
    if a is b:
        return a
    kinds = {a.kind, b.kind}
    if "b" in kinds:
        if kinds == {"b"}:
            return a
        raise TypeError(
            f"bool and {(b if a.kind == 'b' else a).name} do not promote (array API); "
            "convert one with astype"
        )
    if kinds == {"f"}:
        if a.bits != b.bits:
            return a if a.bits > b.bits else b
        return dt.float32
    if "f" in kinds:
        return a if a.kind == "f" else b
    if len(kinds) == 1:
        return a if a.bits > b.bits else b
    signed, unsigned = (a, b) if a.kind == "i" else (b, a)
    if signed.bits > unsigned.bits:
        return signed
    wider = _SIGNED.get(unsigned.bits * 2)
    if wider is None:
        raise TypeError(
            f"{a.name} and {b.name} do not promote: no integer dtype holds both; "
            "convert one with astype"
        )
    return wider


def scalar_dtype(value: bool | int | float) -> DType:
    """Default dtype of a Python scalar."""
    if isinstance(value, bool):
        return dt.bool_
    return DEFAULT_INT if isinstance(value, int) else DEFAULT_FLOAT


def result_of_scalar(dtype: DType, value: bool | int | float) -> DType:
    """The dtype in which a Python scalar joins an array of `dtype`.

    Raises:
        TypeError: bool with a number, which the array API leaves undefined.
        OverflowError: An integer that the array's dtype cannot hold.
    """
    if isinstance(value, bool):
        if dtype.kind == "b":
            return dtype
        raise TypeError(f"a Python bool and {dtype.name} do not promote; use int(value)")
    if dtype.kind == "b":
        raise TypeError("a Python number and bool do not promote; convert with astype first")
    if isinstance(value, int):
        if dtype.is_integer and not dtype.min <= value <= dtype.max:
            raise OverflowError(f"{value} does not fit {dtype.name}")
        return dtype
    return dtype if dtype.is_float else DEFAULT_FLOAT
