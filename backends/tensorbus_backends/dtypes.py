"""The element types of tensorbus: one interned object per dtype.

Two notions are kept apart.  A *storage* dtype is what lies in a buffer.  A *compute* dtype is what
the scalar IR calculates with: float16 and bfloat16 compute as float32 and are rounded once, when
a kernel stores its result; every other dtype computes as itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

__all__ = [
    "ALL",
    "DType",
    "FLOATING",
    "INTEGER",
    "NUMERIC",
    "SIGNED",
    "UNSIGNED",
    "bfloat16",
    "bool_",
    "by_name",
    "float16",
    "float32",
    "float64",
    "from_numpy",
    "int16",
    "int32",
    "int64",
    "int8",
    "uint16",
    "uint32",
    "uint64",
    "uint8",
]


@dataclass(frozen=True, eq=False)
class DType:
    """An element type; instances are unique, so ``is`` and ``==`` agree.

    Attributes:
        name: The array-API name (``bfloat16`` beside them).
        kind: ``"b"`` bool, ``"i"`` signed, ``"u"`` unsigned, ``"f"`` floating, ``"c"`` complex.
            No complex dtype exists yet; a kind ``"c"`` will lower to pairs of reals in the IR.
        bits: Width in storage.
        precision: Significand bits with the hidden one (IEEE 754 ``p``); 0 unless floating.
        emin: Least exponent of a normal number, in IEEE 754's sense; 0 unless floating.
        emax: Greatest exponent; 0 unless floating.
    """

    name: str
    kind: str
    bits: int
    numpy: np.dtype[Any]
    precision: int = 0
    emin: int = 0
    emax: int = 0

    @property
    def itemsize(self) -> int:
        return self.bits // 8

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def compute(self) -> DType:
        """The dtype in which the scalar IR calculates with values of this one."""
        return float32 if self in (float16, bfloat16) else self

    @property
    def min(self) -> int:
        """The least integer; only for bool and integer dtypes."""
        return -(1 << (self.bits - 1)) if self.kind == "i" else 0

    @property
    def max(self) -> int:
        """The greatest integer; only for bool and integer dtypes."""
        if self.kind == "b":
            return 1
        return (1 << (self.bits - (self.kind == "i"))) - 1

    def __repr__(self) -> str:
        return f"tensorbus.{self.name}"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return (by_name, (self.name,))


bool_ = DType("bool", "b", 8, np.dtype(np.bool_))
int8 = DType("int8", "i", 8, np.dtype(np.int8))
int16 = DType("int16", "i", 16, np.dtype(np.int16))
int32 = DType("int32", "i", 32, np.dtype(np.int32))
int64 = DType("int64", "i", 64, np.dtype(np.int64))
uint8 = DType("uint8", "u", 8, np.dtype(np.uint8))
uint16 = DType("uint16", "u", 16, np.dtype(np.uint16))
uint32 = DType("uint32", "u", 32, np.dtype(np.uint32))
uint64 = DType("uint64", "u", 64, np.dtype(np.uint64))
float16 = DType("float16", "f", 16, np.dtype(np.float16), 11, -14, 15)
bfloat16 = DType("bfloat16", "f", 16, np.dtype(ml_dtypes.bfloat16), 8, -126, 127)
float32 = DType("float32", "f", 32, np.dtype(np.float32), 24, -126, 127)
float64 = DType("float64", "f", 64, np.dtype(np.float64), 53, -1022, 1023)

SIGNED = (int8, int16, int32, int64)
UNSIGNED = (uint8, uint16, uint32, uint64)
INTEGER = SIGNED + UNSIGNED
FLOATING = (float16, bfloat16, float32, float64)
NUMERIC = INTEGER + FLOATING
ALL = (bool_, *NUMERIC)

_BY_NAME = {d.name: d for d in ALL}
_BY_NUMPY = {d.numpy: d for d in ALL}


def by_name(name: str) -> DType:
    """The dtype called `name`; KeyError if there is none."""
    return _BY_NAME[name]


def from_numpy(dtype: Any) -> DType:
    """The dtype of a NumPy dtype in native byte order; TypeError if tensorbus has none for it."""
    try:
        return _BY_NUMPY[np.dtype(dtype)]
    except (KeyError, TypeError):
        names = ", ".join(_BY_NAME)
        raise TypeError(f"tensorbus has no dtype for {dtype!r}; it has {names}") from None
