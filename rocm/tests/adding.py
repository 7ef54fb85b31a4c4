"""A kernel for tests, and buffers to and from NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorbus_backends import clike, dtypes as dt
from tensorbus_backends.contract import Buffer, Device
from tensorbus_backends.dialect import Dialect


@dataclass(frozen=True)
class AddTo:
    """y[i] = x[i] + M(2) for 64 elements of each group."""

    name: str = "add_to"
    body: str = "LANES(l, 64) y[64 * g + l] = x[64 * g + l] + (i32)M(2);"
    local: int = 0
    buffers: int = 2
    words: int = 3

    def source(self, dialect: Dialect) -> str:
        arguments = [clike.Argument("x", dt.int32), clike.Argument("y", dt.int32, True)]
        return clike.assemble(dialect, self.name, arguments, self.words, self.body, offsets=[0, 1])

    def local_bytes(self, dialect: Dialect) -> int:
        return self.local

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        raise NotImplementedError


def meta(value: int) -> bytes:
    """Metadata of `AddTo`: no offsets, and the number to add."""
    return np.asarray([0, 0, value], np.int64).tobytes()


def upload(device: Device, x: NDArray[Any]) -> Buffer:
    """A buffer with the bytes of an array."""
    buffer = device.allocate(x.nbytes)
    device.copy_in(buffer, 0, np.ascontiguousarray(x).data.cast("B"))
    return buffer


def download(device: Device, buffer: Buffer, dtype: Any, count: int) -> NDArray[Any]:
    """The first `count` elements of a buffer."""
    x = np.empty(count, dtype)
    device.copy_out(buffer, 0, x.data.cast("B"))
    return x
