"""What an AMD code object says about the floating-point modes that its kernels start with.

Format: ELF64, and kernel descriptors as in LLVM's "User Guide for AMDGPU Backend".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Modes", "float_modes"]

_DYNAMIC_SYMBOLS = 11  # SHT_DYNSYM
_SYMBOL = struct.Struct("<IBBHQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_RSRC1 = 48  # offset of COMPUTE_PGM_RSRC1 in a descriptor
_NEAREST, _ALL_SUBNORMALS = 0, 0b1111


@dataclass(frozen=True)
class Modes:
    """Modes of one kernel: two bits each for float32, and for float16 and float64.

    Attributes:
        rounding: 0 is to nearest.
        subnormals: Bits 0 and 2 keep those of operands, 1 and 3 those of results.
    """

    rounding: int
    subnormals: int

    @property
    def ieee(self) -> bool:
        """Whether results are rounded to nearest and no subnormal is flushed."""
        return (self.rounding, self.subnormals) == (_NEAREST, _ALL_SUBNORMALS)


def float_modes(code: bytes) -> Mapping[str, Modes]:
    """The modes of each kernel, by name; empty if the code object is of another format."""
    try:
        return dict(_descriptors(code)) if code[:4] == b"\x7fELF" else {}
    except (struct.error, ValueError, IndexError):
        return {}


def _descriptors(code: bytes) -> Iterator[tuple[str, Modes]]:
    """A kernel has the symbol ``<name>.kd``, whose 64 bytes are its descriptor."""
    (table,) = struct.unpack_from("<Q", code, 40)
    size, count = struct.unpack_from("<HH", code, 58)
    sections = [_SECTION.unpack_from(code, table + k * size) for k in range(count)]
    for kind, start, nbytes, link in ((s[1], s[4], s[5], s[6]) for s in sections):
        if kind != _DYNAMIC_SYMBOLS:
            continue
        names = sections[link][4]
        for at in range(start, start + nbytes, _SYMBOL.size):
            text, _, _, home, value, _ = _SYMBOL.unpack_from(code, at)
            name = code[names + text : code.index(b"\0", names + text)].decode()
            if name.endswith(".kd"):
                where = sections[home][4] + value - sections[home][3]
                (mode,) = struct.unpack_from("<I", code, where + _RSRC1)
                yield name.removesuffix(".kd"), Modes(mode >> 12 & 15, mode >> 16 & 15)
