"""DLPack from the other side: capsules made and read field by field, as another library does.

The structures are written here once more, from dlpack.h of DLPack 1.1, so that no mistake is shared
with the library that is judged.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Buffer, Device, Feature
from tensorbus_backends.dtypes import DType

from ..guard import Guarded

__all__ = ["Apart", "Exporter", "Fields", "code_of", "named", "read"]

Array = NDArray[Any]

_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Old(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _DELETER))


class _New(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
        ("deleter", _DELETER), ("flags", ctypes.c_uint64), ("tensor", _Tensor),
    )  # fmt: skip


_api = ctypes.pythonapi
_make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", _api)
)
_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", _api))
_at = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _api)
)
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_SetName", _api)
)
_OLD, _NEW, _USED_OLD, _USED_NEW = (
    b"dltensor", b"dltensor_versioned", b"used_dltensor", b"used_dltensor_versioned",
)  # fmt: skip

_alive: list[Any] = []
"""Structures and callbacks: whoever holds a capsule may use them until the process ends."""


def code_of(dtype: DType) -> tuple[int, int]:
    """DLPack's code and bits of a dtype."""
    return (4 if dtype is dt.bfloat16 else _CODES[dtype.kind]), dtype.bits


def named(capsule: Any) -> str:
    """The name of a capsule now."""
    return bytes(_name(capsule)).decode()


@dataclass
class Exporter:
    """Another library's array: gives capsules over its memory, and notes what it is asked.

    Attributes:
        array: The elements; their memory is kept.
        dtype: Of them.
        old: Knows no keyword but `stream` where it has a place, none at all else.
        place: What ``__dlpack_device__`` says.
        changed: Fields of the structure that are to be others than those of the array.
        deleted: How often the deleter was called.
    """

    array: Array
    dtype: DType
    old: bool = False
    place: tuple[int, int] = (1, 0)
    changed: dict[str, Any] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    deleted: int = 0
    capsule: Any = None

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.place

    def __dlpack__(self, **options: Any) -> Any:
        self.asked.append(options)
        if self.old and not set(options) <= ({"stream"} if self.place[0] != 1 else set()):
            raise TypeError("__dlpack__() got an unexpected keyword argument")
        self.capsule = self._made(versioned=not self.old)
        return self.capsule

    def _made(self, versioned: bool) -> Any:
        a = self.array
        shape = (ctypes.c_int64 * max(a.ndim, 1))(*a.shape)
        steps = (ctypes.c_int64 * max(a.ndim, 1))(*(s // a.itemsize for s in a.strides))
        code, bits = code_of(self.dtype)
        given: dict[str, Any] = {
            "data": a.ctypes.data, "device_type": self.place[0], "device_id": self.place[1],
            "ndim": a.ndim, "code": code, "bits": bits, "lanes": 1,
            "shape": ctypes.addressof(shape), "strides": ctypes.addressof(steps), "byte_offset": 0,
        }  # fmt: skip
        head = {"major": 1, "minor": 1, "flags": 0}
        for key, value in self.changed.items():
            (head if key in head else given)[key] = value
        given.pop("deleter", None)
        start = self.changed.get("byte_offset", 0)
        if given["data"] is not None and "data" not in self.changed:
            given["data"] -= start
        tensor = _Tensor(**given)

        def delete(address: int) -> None:
            self.deleted += 1

        deleter = _DELETER(delete) if self.changed.get("deleter", True) else _DELETER()
        made: _Old | _New
        if versioned:
            made = _New(head["major"], head["minor"], None, deleter, head["flags"], tensor)
        else:
            made = _Old(tensor, None, deleter)
        _alive.append((made, shape, steps, deleter, a))
        return _make(ctypes.addressof(made), _NEW if versioned else _OLD, None)


@dataclass(frozen=True)
class Fields:
    """What a capsule holds; the shape and the steps in elements."""

    versioned: bool
    version: tuple[int, int]
    flags: int
    data: int
    place: tuple[int, int]
    dtype: tuple[int, int, int]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    byte_offset: int
    address: int

    def elements(self, dtype: DType) -> Array:
        """The elements, read from the host's memory now."""
        out = np.empty(self.shape, dtype.numpy)
        first = self.data + self.byte_offset
        for at in np.ndindex(*self.shape):
            step = sum(k * s for k, s in zip(at, self.strides, strict=True))
            raw = ctypes.string_at(first + step * dtype.itemsize, dtype.itemsize)
            out[at] = np.frombuffer(raw, dtype.numpy)[0]
        return out

    def delete(self) -> None:
        """Call the deleter, as one does who has taken the contents."""
        made = (_New if self.versioned else _Old).from_address(self.address)
        made.deleter(self.address)


def read(capsule: Any, take: bool = False) -> Fields:
    """The fields of an exported capsule; with `take` it is renamed, and the deleter is ours."""
    name = bytes(_name(capsule))
    versioned = name == _NEW
    address = _at(capsule, name)
    made: Any = (_New if versioned else _Old).from_address(address)
    t = made.tensor
    if take:
        _rename(capsule, _USED_NEW if versioned else _USED_OLD)

    def longs(where: int) -> tuple[int, ...]:
        return tuple((ctypes.c_int64 * t.ndim).from_address(where)) if t.ndim else ()

    return Fields(
        versioned,
        (made.major, made.minor) if versioned else (0, 0),
        made.flags if versioned else 0,
        t.data or 0,
        (t.device_type, t.device_id),
        (t.code, t.bits, t.lanes),
        longs(t.shape),
        longs(t.strides),
        t.byte_offset,
        address,
    )


class Apart(Guarded):
    """A device whose memory the host does not reach, with DLPack's type of another vendor.

    The memory is that of a device which the host does reach, so that it can be looked at.

    Attributes:
        waited: How often the queue was waited for.
    """

    def __init__(self, real: Device, kind: int, stream: int = 0) -> None:
        super().__init__(real)
        self.features = self.features - {Feature.ADDRESS}
        self.dlpack_type, self.dlpack_stream = kind, stream
        self.waited = 0

    @property
    def natives(self) -> Any:  # type: ignore[override]
        return {}

    def allocate(self, nbytes: int) -> Buffer:
        return self.real.allocate(nbytes)

    def synchronize(self) -> None:
        self.waited += 1
        self.real.synchronize()

    def address(self, buffer: Buffer) -> int:
        raise AssertionError("the host's address of memory that the host does not reach")

    def pointer(self, buffer: Buffer) -> int:
        return self.real.address(buffer)
