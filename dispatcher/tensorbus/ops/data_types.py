"""What the array API says about dtypes: promotion, kinds and limits."""

from __future__ import annotations

from dataclasses import dataclass

from tensorbus_backends.dtypes import FLOATING, INTEGER, SIGNED, UNSIGNED, DType, bool_ as _bool

from .._promotion import promote, result_of_scalar
from .._shown import shown
from .._tensor import Tensor

__all__ = ["can_cast", "finfo", "iinfo", "isdtype", "result_type"]

Kind = str | DType | tuple["Kind", ...]


def dtypes_of_kind(kind: str) -> tuple[DType, ...]:
    """The dtypes of a kind's name; ValueError for another name."""
    kinds: dict[str, tuple[DType, ...]] = {
        "bool": (_bool,),
        "signed integer": SIGNED,
        "unsigned integer": UNSIGNED,
        "integral": INTEGER,
        "real floating": FLOATING,
        "complex floating": (),
        "numeric": INTEGER + FLOATING,
    }
    if kind not in kinds:
        raise ValueError(f"no kind of dtypes is called {shown(kind)}; there are {', '.join(kinds)}")
    return kinds[kind]


def isdtype(dtype: DType, kind: Kind) -> bool:
    """Whether a dtype is of a kind, is a dtype, or is of one of several.

    Args:
        dtype: What to look at.
        kind: A kind's name ("bool", "signed integer", "unsigned integer", "integral",
            "real floating", "complex floating", "numeric"), a dtype, or a tuple of these.

    Raises:
        TypeError: `dtype` or `kind` is something else.
        ValueError: No such kind.
    """
    if not isinstance(dtype, DType):
        raise TypeError(f"isdtype: {shown(dtype)} is not a dtype")
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, DType):
        return dtype is kind
    if not isinstance(kind, str):
        raise TypeError(f"isdtype: kind is a name, a dtype or a tuple of these, not {shown(kind)}")
    return dtype in dtypes_of_kind(kind)


def result_type(*arrays_and_dtypes: Tensor | DType | bool | int | float) -> DType:
    """The dtype to which tensors, dtypes and Python numbers promote together.

    Raises:
        TypeError: They do not promote, or all are Python numbers.
        ValueError: No arguments.
    """
    if not arrays_and_dtypes:
        raise ValueError("result_type needs at least one tensor or dtype")
    found: DType | None = None
    scalars = []
    for a in arrays_and_dtypes:
        if isinstance(a, bool | int | float):
            scalars.append(a)
        elif isinstance(a, Tensor | DType):
            dtype = a.dtype if isinstance(a, Tensor) else a
            found = dtype if found is None else promote(found, dtype)
        else:
            raise TypeError(f"result_type: {shown(a)} is no tensor, dtype or Python number")
    if found is None:
        raise TypeError("result_type: Python numbers alone have no dtype; name one dtype")
    for s in scalars:
        found = result_of_scalar(found, s)
    return found


def can_cast(from_: Tensor | DType, to: DType, /) -> bool:
    """Whether promotion leads from one dtype to another, so that every value is kept in kind."""
    source = from_.dtype if isinstance(from_, Tensor) else from_
    if not isinstance(source, DType) or not isinstance(to, DType):
        raise TypeError(
            f"can_cast takes a tensor or dtype and a dtype, not {shown(from_)} and {shown(to)}"
        )
    try:
        return promote(source, to) is to
    except TypeError:
        return False


@dataclass(frozen=True)
class FloatInfo:
    """Limits of a floating dtype, as Python floats.

    Attributes:
        bits: Width in storage.
        eps: Distance from 1 to the next greater number.
        max: Greatest finite number.
        min: Least finite number.
        smallest_normal: Least positive normal number.
        dtype: The dtype.
    """

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


@dataclass(frozen=True)
class IntegerInfo:
    """Limits of an integer dtype.

    Attributes:
        bits: Width.
        max: Greatest integer.
        min: Least integer.
        dtype: The dtype.
    """

    bits: int
    max: int
    min: int
    dtype: DType


def finfo(type: DType | Tensor, /) -> FloatInfo:
    """Limits of a floating dtype; TypeError for others."""
    dtype = type.dtype if isinstance(type, Tensor) else type
    if not isinstance(dtype, DType) or not dtype.is_float:
        raise TypeError(f"finfo: {dtype} is not a floating dtype")
    eps = 2.0 ** (1 - dtype.precision)
    greatest = (2.0 - eps) * 2.0**dtype.emax
    return FloatInfo(dtype.bits, eps, greatest, -greatest, 2.0**dtype.emin, dtype)


def iinfo(type: DType | Tensor, /) -> IntegerInfo:
    """Limits of an integer dtype; TypeError for others."""
    dtype = type.dtype if isinstance(type, Tensor) else type
    if not isinstance(dtype, DType) or not dtype.is_integer:
        raise TypeError(f"iinfo: {dtype} is not an integer dtype")
    return IntegerInfo(dtype.bits, dtype.max, dtype.min, dtype)
