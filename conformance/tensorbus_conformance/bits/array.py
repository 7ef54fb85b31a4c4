"""Operands from a few numbers: a counter, a hash and arithmetic that rounds nowhere.

Nothing here depends on another library's generator or on a cast that rounds, so a digest changes
only when an op does.  An array is described by a mapping:

| key | what |
|---|---|
| ``dtype``, ``shape`` | of the operand |
| ``strides``, ``offset`` | in elements; left out where the memory is the array in C order |
| ``data`` | what its memory holds, gaps included: a list, the kind first |

Kinds: ``["bits", hex]`` is the memory itself, in little-endian order; ``["float", key, low,
high]`` spreads over a range, one in eight scaled towards 0 where the range has it; ``["int", key,
low, high]`` is uniform, both ends included; ``["mixed", key, low, high]`` is small three times out
of four, an end of the range now and then; ``["special", key]`` has zeros of both signs,
subnormals, powers, extremes, infinities and NaN, random bits and ordinary numbers; ``["sorted",
...]`` and ``["descending", ...]`` order the elements of another kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

__all__ = ["described", "elements", "filled", "memory_size", "words"]

Array = NDArray[Any]
U64 = NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def words(key: int, n: int) -> U64:
    """`n` words of the stream `key`: SplitMix64 (Steele, Lea, Flood 2014) from its own start."""
    start = _mixed(np.asarray([(key * _GOLDEN + 1) & _MASK], np.uint64))
    return _mixed(start + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GOLDEN))


def _mixed(x: U64) -> U64:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def elements(data: Sequence[Any], dtype: DType, n: int) -> Array:
    """`n` elements of a kind; ValueError for a kind that does not exist."""
    kind, *given = data
    if kind == "bits":
        raw = np.frombuffer(bytes.fromhex(given[0]), np.uint8)
        return raw.copy().view(dtype.numpy)
    if kind == "float":
        return _floats(dtype, words(given[0], n), given[1], given[2])
    if kind == "int":
        return _integers(dtype, words(given[0], n), given[1], given[2])
    if kind == "mixed":
        return _mixture(dtype, given[0], n, given[1], given[2])
    if kind == "special":
        return _special(dtype, given[0], n)
    if kind in ("sorted", "descending"):
        up = np.sort(elements(given[0], dtype, n))
        return up if kind == "sorted" else np.ascontiguousarray(up[::-1])
    raise ValueError(f"there is no data of kind {kind!r}")


def _exact(values: NDArray[np.float64], dtype: DType) -> Array:
    """Numbers cut to what the dtype holds, so that the cast after it rounds nothing."""
    _, exponent = np.frexp(values)
    place = np.maximum(exponent, dtype.emin + 1) - dtype.precision
    if dtype.precision < 53:
        values = np.ldexp(np.trunc(np.ldexp(values, -place)), place)
    return values.astype(dtype.numpy)


def _floats(dtype: DType, drawn: U64, low: float, high: float) -> Array:
    part = np.ldexp((drawn >> np.uint64(11)).astype(np.float64), -53)
    values = low + (high - low) * part
    if low <= 0 <= high:
        down = np.where(drawn & np.uint64(7), 0, (drawn >> np.uint64(3)) & np.uint64(15))
        values = np.ldexp(values, -down.astype(np.int64))
    return _exact(values, dtype)


def _integers(dtype: DType, drawn: U64, low: int, high: int) -> Array:
    span = high - low + 1
    at = drawn if span > _MASK else drawn % np.uint64(span)
    wrapped = (at + np.uint64(low & _MASK)).view(np.int64)
    return (wrapped != 0) if dtype.kind == "b" else wrapped.astype(dtype.numpy)


def _mixture(dtype: DType, key: int, n: int, low: int, high: int) -> Array:
    choice = words(key + 1, n) % np.uint64(32)
    small = _integers(dtype, words(key, n), max(low, -100), min(high, 100))
    found = np.where(choice < 8, _integers(dtype, words(key, n), low, high), small)
    found = np.where(choice == 8, np.asarray(low, dtype.numpy), found)
    return np.where(choice == 9, np.asarray(high, dtype.numpy), found)


def _special(dtype: DType, key: int, n: int) -> Array:
    fraction = dtype.precision - 1
    one, least, top = dtype.emax << fraction, 1 << fraction, 2 * dtype.emax + 1 << fraction
    positive = [
        0, 1, 3, least - 1, least, least + 1, one - 1, one, one + 1, one + least,
        one + (least >> 1), top - 1, top - least, top, top + (least >> 1),
    ]  # fmt: skip
    unsigned = f"u{dtype.itemsize}"
    table = np.asarray([p | s << (dtype.bits - 1) for s in (0, 1) for p in positive], unsigned)
    drawn, choice = words(key, n), words(key + 1, n) % np.uint64(16)
    bits = table[(drawn % np.uint64(len(table))).astype(np.int64)]
    ordinary = _floats(dtype, drawn, -4.0, 4.0).view(unsigned)
    anything = drawn.astype(unsigned)
    found = np.where(choice < 8, bits, np.where(choice < 11, anything, ordinary))
    return np.ascontiguousarray(found).view(dtype.numpy)


def memory_size(shape: Sequence[int], strides: Sequence[int] | None, offset: int) -> int:
    """Elements of the least memory that holds a view."""
    if strides is None or 0 in shape:
        return offset + math.prod(shape)
    return offset + 1 + sum(max(0, s * (n - 1)) for s, n in zip(strides, shape, strict=True))


def filled(what: Mapping[str, Any]) -> tuple[Array, Any, int]:
    """Memory, strides (None: C order) and offset of an operand."""
    strides = what.get("strides")
    offset = what.get("offset", 0)
    n = memory_size(what["shape"], strides, offset)
    memory = elements(what["data"], dt.by_name(what["dtype"]), n)
    if memory.size != n:
        raise ValueError(f"{memory.size} elements are given for memory of {n}")
    return memory, None if strides is None else tuple(strides), offset


def described(dtype: DType, n: int, data: Sequence[Any]) -> dict[str, Any]:
    """A vector's description."""
    return {"dtype": dtype.name, "shape": [n], "data": list(data)}
