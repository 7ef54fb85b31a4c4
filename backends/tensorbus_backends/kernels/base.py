"""What all skeletons share: naming, the metadata block, operand addressing.

A kernel's launch metadata is a block of 64-bit words.  Shapes, strides and offsets are data in it,
so one kernel serves every shape.  Strided operands are addressed by up to `DIMS` outer dimensions,
walked once per row, and one inner dimension, walked by the lanes.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import dtypes as dt
from ..clike import Argument, Emitter, assemble, ctype, read_text
from ..dialect import Dialect
from ..dtypes import DType
from ..floating import usual
from ..ir import Expr, fingerprint

__all__ = ["DIMS", "Kernel", "Operand", "Strided", "bits_of", "pack"]

DIMS = 15
"""Outer dimensions that an operand may keep after collapsing; arrays have at most one more."""


def bits_of(value: float | int, dtype: DType) -> int:
    """A launch scalar as the signed 64-bit word that carries it."""
    compute = dtype.compute
    raw = np.asarray(value).astype(compute.numpy).tobytes().ljust(8, b"\0")
    return int(struct.unpack("<q", raw)[0])


@cache
def word_packer(dtype: DType) -> Callable[[float | int], bytes | None]:
    """How Python numbers become the word of a launch scalar that holds a `dtype`, rounded once.

    Returns:
        A function that gives None for numbers whose conversion is not for it to decide: integers
        out of range, those beyond 2^53 that a float would round twice, and all that are rounded
        while the thread is not in the default floating-point modes.
    """
    if dtype.kind in "iu":
        low, high, integer = int(dtype.min), int(dtype.max), struct.Struct("=q").pack

        def of_int(value: float | int) -> bytes | None:
            if not isinstance(value, int) or not low <= value <= high:
                return None
            return integer(value if value < 1 << 63 else value - (1 << 64))

        return of_int
    if dtype.kind == "b":
        truth = struct.Struct("=q").pack
        return lambda value: truth(bool(value))
    if dtype.bits == 16:

        def of_half(value: float | int) -> bytes | None:
            if (isinstance(value, int) and abs(value) > 1 << 53) or not usual():
                return None
            with np.errstate(all="ignore"):
                stored = np.asarray(float(value)).astype(dtype.numpy)
            return stored.astype(np.float32).tobytes().ljust(8, b"\0")

        return of_half
    single, double = struct.Struct("=f4x").pack, struct.Struct("=d").pack
    infinity = single(math.inf)

    def of_float(value: float | int) -> bytes | None:
        if isinstance(value, int) and abs(value) > 1 << 53:
            return None
        try:
            if dtype is dt.float32:
                return single(value) if usual() else None
            return double(value)
        except OverflowError:
            return infinity if value > 0 else single(-math.inf)

    return of_float


@cache
def _packer(count: int) -> Callable[..., bytes]:
    return struct.Struct(f"={count}q").pack


def pack(words: Sequence[int]) -> bytes:
    """Metadata words as native-endian int64."""
    return _packer(len(words))(*words)


def param_text(word: int, dtype: DType) -> str:
    """Text of a launch scalar that travels in metadata word `word`."""
    compute = dtype.compute
    if compute.is_float:
        u = f"u{compute.bits}"
        return f"as_{ctype(compute)}_{u}(({u})M({word}))"
    return f"(M({word}) != 0)" if compute is dt.bool_ else f"({ctype(compute)})M({word})"


def param_value(word: int, dtype: DType) -> NDArray[Any]:
    """The same scalar for the interpreter."""
    compute = dtype.compute
    raw = struct.pack("<q", word)[: compute.itemsize]
    return np.frombuffer(raw, compute.numpy)[0:1].reshape(())


@dataclass(frozen=True)
class Operand:
    """A buffer argument.

    Attributes:
        dtype: Storage dtype.
        step: Inner stride: ``"c"`` 1, ``"s"`` 0, ``"g"`` given at run time, ``"-"`` none (the
            buffer is only read through `ir.load`, from its offset on).
    """

    dtype: DType
    step: str = "c"


class Strided:
    """Where an operand's offset and strides lie in the metadata, and the text that uses them.

    Words from `base` on: offset, inner stride, outer strides [DIMS].
    """

    WORDS = 2 + DIMS

    def __init__(self, name: str, operand: Operand, base: int) -> None:
        self.name, self.operand, self.base = name, operand, base

    @staticmethod
    def words(offset: int, inner: int, outer: Sequence[int]) -> list[int]:
        """Metadata of one operand."""
        return [offset, inner, *outer, *([0] * (DIMS - len(outer)))]

    def at(self, lane: str) -> str:
        """Subscript of the element that lane text `lane` handles, relative to the row."""
        step = self.operand.step
        if step == "s":
            return f"o_{self.name}"
        return (
            f"o_{self.name} + {lane}" if step == "c" else f"o_{self.name} + {lane} * s_{self.name}"
        )

    def read(self, lane: str) -> str:
        """Compute value of that element."""
        return read_text(self.operand.dtype, f"{self.name}[{self.at(lane)}]")


def row_text(strided: Sequence[Strided], row: str, start: str, dims: int, shape: int) -> str:
    """Statements that set ``o_<name>`` and ``s_<name>`` for a row number.

    Args:
        strided: Operands to address.
        row: Text of the row number, C order over the outer dimensions.
        start: Text of the inner position that the offsets shall include.
        dims: Word with the number of outer dimensions.
        shape: First word of their sizes.
    """
    lines = []
    walked = [s for s in strided if s.operand.step != "-"]
    for s in walked:
        inner = {"c": f"({start})", "s": "0"}.get(s.operand.step, f"({start}) * M({s.base + 1})")
        lines.append(f"i64 o_{s.name} = {inner};")
        if s.operand.step == "g":
            lines.append(f"const i64 s_{s.name} = M({s.base + 1});")
    lines.append(f"i64 rest = {row};")
    # What is left after the inner dimensions is the place in the first: no division for it.
    lines.append(f"for (i32 d = (i32)M({dims}) - 1; d > 0; --d) {{")
    lines.append(f"    const i64 q = rest / M({shape} + d), at = rest - q * M({shape} + d);")
    lines += [f"    o_{s.name} += at * M({s.base + 2} + d);" for s in walked]
    lines += ["    rest = q;", "}"]
    lines += [f"o_{s.name} += rest * M({s.base + 2});" for s in walked]
    return "\n".join(lines)


def indent(text: str, depth: int = 1) -> str:
    """`text` moved right."""
    return "\n".join("    " * depth + line if line else line for line in text.splitlines())


class Kernel:
    """Base of the skeletons; a subclass is a frozen dataclass with a `label` and Expr slots."""

    label: str

    def __hash__(self) -> int:
        """By the name, once: a kernel is looked up for every new shape."""
        found: int | None = self.__dict__.get("_hash")
        if found is None:
            found = self.__dict__["_hash"] = hash(self.name)
        return found

    @property
    def buffers(self) -> int:
        return len(self.arguments())

    @property
    def words(self) -> int:
        raise NotImplementedError

    def arguments(self) -> list[Argument]:
        """Buffer arguments in launch order, inputs first."""
        raise NotImplementedError

    def expressions(self) -> Sequence[Expr]:
        """Every expression in the kernel's slots."""
        raise NotImplementedError

    def shape_key(self) -> str:
        """What tells kernels of one skeleton apart besides their expressions."""
        raise NotImplementedError

    @cached_property
    def name(self) -> str:
        """Identifier made of the label and a digest of everything that makes the kernel."""
        text = f"{type(self).__name__}|{self.shape_key()}|{fingerprint(*self.expressions())}"
        return f"tb_{self.label}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def source(self, dialect: Dialect) -> str:
        raise NotImplementedError

    def local_bytes(self, dialect: Dialect) -> int:
        return 0

    def interpret(
        self, arrays: Sequence[NDArray[Any]], meta: NDArray[np.int64], groups: int
    ) -> None:
        raise NotImplementedError


def operand_offsets(meta: NDArray[np.int64], base: int, dims: int, shape: int) -> NDArray[np.int64]:
    """Element offset of every row of an operand, for the interpreter: int64[rows]."""
    count = int(meta[dims])
    total = np.asarray([meta[base]], np.int64)
    for d in range(count):
        steps = np.arange(meta[shape + d], dtype=np.int64) * meta[base + 2 + d]
        total = (total[:, None] + steps[None, :]).reshape(-1)
    return total


__all__ += [
    "Argument",
    "Emitter",
    "assemble",
    "indent",
    "operand_offsets",
    "param_text",
    "param_value",
    "row_text",
]
