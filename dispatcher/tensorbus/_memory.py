"""Tensors over new memory, and over copies of the host's."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Buffer, UnsupportedError
from tensorbus_backends.dtypes import DType

from ._devices import Device
from ._spec import Shape, Spec
from ._state import watching
from ._tensor import Tensor

__all__ = ["READ_ONLY", "allocate", "check_dtype", "from_host"]

READ_ONLY: weakref.WeakSet[Buffer] = weakref.WeakSet()
"""Memory of other libraries that they forbid to change."""


def check_dtype(device: Device, dtype: DType) -> None:
    """Raise UnsupportedError if the device cannot hold `dtype`."""
    if dtype.name not in device.capabilities.dtypes:
        have = ", ".join(d.name for d in dt.ALL if d.name in device.capabilities.dtypes)
        raise UnsupportedError(f"{device} has no {dtype.name}; it has {have}")


def allocate(device: Device, dtype: DType, shape: Shape, strides: Shape | None = None) -> Tensor:
    """A tensor with undefined elements."""
    check_dtype(device, dtype)
    spec = Spec.of(device, dtype, shape, strides)
    return Tensor(device.backend.allocate(spec.nbytes), spec)


def from_host(device: Device, array: np.ndarray[Any, Any], dtype: DType) -> Tensor:
    """Copy a NumPy array whose dtype is `dtype`'s to a device."""
    if watching.by is not None:
        watching.by.other = True
    shape = tuple(array.shape)
    array = np.ascontiguousarray(array)
    out = allocate(device, dtype, shape)
    if array.size:
        device.backend.copy_in(out._buffer, 0, memoryview(array.reshape(-1).view(np.uint8).data))
    return out
