"""Putting arrays on a device in many memory layouts, without using the ops under test."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorbus import Device, Tensor
from tensorbus._spec import Spec
from tensorbus_backends import dtypes as dt

from .guard import Guarded

__all__ = ["LAYOUTS", "host", "place", "put"]

Array = NDArray[Any]

LAYOUTS = (
    "given", "contiguous", "general", "transposed", "negative", "offset", "broadcast",
    "overlapping",
)  # fmt: skip
"""Every layout; ``given`` is that of the array; the last two also change the values."""


def place(device: Device, array: Array, layout: str = "given") -> tuple[Tensor, Array]:
    """A tensor whose elements are `array`'s, laid out as asked.

    Returns:
        The tensor, and the array that it now holds: another one for layouts that share memory
        between elements.
    """
    array = np.asarray(array)
    shape = array.shape
    if layout == "given":
        return _mirrored(device, array), array
    if layout in ("broadcast", "overlapping") and array.size == 0:
        layout = "contiguous"
    if not shape and layout != "contiguous":  # one element has no strides to vary
        layout = "offset"
    if layout == "contiguous":
        return put(device, np.ascontiguousarray(array), shape, None, 0), array
    if layout == "offset":
        padded = np.concatenate([_filler(array, 5), array.reshape(-1), _filler(array, 3)])
        return put(device, padded, shape, None, 5), array
    if layout == "transposed":
        order = np.ascontiguousarray(array.T)
        strides = tuple(s // array.itemsize for s in order.T.strides)
        return put(device, order, shape, strides if shape else None, 0), array
    if layout == "negative":
        flipped = np.ascontiguousarray(np.flip(array))
        strides = tuple(-s // array.itemsize for s in flipped.strides)
        return put(device, flipped, shape, strides, max(array.size - 1, 0)), array
    if layout == "general":
        wide = np.full(tuple(2 * n + 1 for n in shape), _filler(array, 1)[0], array.dtype)
        wide[tuple(slice(1, None, 2) for _ in shape)] = array
        strides = tuple(2 * s // array.itemsize for s in wide.strides)
        offset = sum(s // array.itemsize for s in wide.strides) if array.size else 0
        return put(device, wide, shape, strides, offset), array
    if layout == "broadcast":
        one = np.ascontiguousarray(array[:1])
        strides = (0, *(s // array.itemsize for s in one.strides[1:]))
        return put(device, one, shape, strides, 0), np.broadcast_to(one, shape)
    # Neighbouring rows share all elements but one; a vector is one row.
    flat = np.resize(array.reshape(-1), max(sum(shape), 1))
    strides = (1,) * len(shape)
    view = np.lib.stride_tricks.as_strided(flat, shape, tuple(array.itemsize for _ in shape))
    return put(device, flat, shape, strides, 0), view


def _mirrored(device: Device, array: Array) -> Tensor:
    """A tensor with the strides of a NumPy array; what is not contiguous gets an offset too."""
    if (array.flags.c_contiguous and array.flags.owndata) or not array.size:
        return put(device, np.ascontiguousarray(array), array.shape, None, 0)
    low, high = np.lib.array_utils.byte_bounds(array)
    inside = np.frombuffer(ctypes.string_at(low, high - low), array.dtype)
    memory = np.concatenate([_filler(array, _LEAD), inside, _filler(array, 3)])
    first = array.__array_interface__["data"][0]
    strides = tuple(s // array.itemsize for s in array.strides)
    return put(device, memory, array.shape, strides, _LEAD + (first - low) // array.itemsize)


_LEAD = 5
"""Elements before those of a view: its offset is not 0, and its address not aligned to 16 bytes."""


def _filler(array: Array, n: int) -> Array:
    """Elements that no kernel should look at: NaN, or the largest integer."""
    if array.dtype.kind in "biu":
        top = True if array.dtype.kind == "b" else np.iinfo(array.dtype).max
        return np.full(n, top, array.dtype)
    return np.full(n, np.nan).astype(array.dtype)


def put(device: Device, memory: Array, shape: tuple[int, ...], strides: Any, offset: int) -> Tensor:
    """A tensor of a shape, strides and an offset (in elements) over memory with these elements."""
    dtype = dt.from_numpy(memory.dtype)
    backend = device.backend
    raw = memoryview(np.ascontiguousarray(memory).reshape(-1).view(np.uint8).data)
    if isinstance(backend, Guarded):
        buffer = backend.holding(raw)
    else:
        buffer = backend.allocate(raw.nbytes)
        if raw.nbytes:
            backend.copy_in(buffer, 0, raw)
    return Tensor(buffer, Spec.of(device, dtype, shape, strides), offset)


def host(tensor: Tensor) -> Array:
    """The elements of a tensor, by one raw copy and NumPy's own striding.

    Raises:
        AssertionError: It has no elements, and begins outside of its memory, as a pointer that is
            handed on may not.
    """
    spec = tensor._spec
    if spec.size == 0:
        held = 0 <= tensor._offset * spec.dtype.itemsize <= tensor._buffer.nbytes
        assert held, f"a tensor of no elements begins at {tensor._offset} of its memory"
        return np.empty(spec.shape, spec.dtype.numpy)
    steps = [(s, n - 1) for s, n in zip(spec.strides, spec.shape, strict=True)]
    low = tensor._offset + sum(min(0, s * n) for s, n in steps)
    high = tensor._offset + sum(max(0, s * n) for s, n in steps)
    flat = np.empty(high - low + 1, spec.dtype.numpy)
    view = memoryview(flat.view(np.uint8).data)
    spec.device.backend.copy_out(tensor._buffer, low * spec.dtype.itemsize, view)
    return np.lib.stride_tricks.as_strided(
        flat[tensor._offset - low :],
        spec.shape,
        tuple(s * spec.dtype.itemsize for s in spec.strides),
    ).copy()
