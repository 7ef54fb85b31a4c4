"""Making tensors, and taking their elements out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

from .._devices import Device, get_device
from .._op import function
from .._plan import const_of, map_launch
from .._promotion import DEFAULT_FLOAT, DEFAULT_INT, scalar_dtype
from .._spec import Spec
from .._tensor import Tensor
from ._common import Scalar, allocate, as_shape, from_host

__all__ = [
    "as_numpy_array",
    "asarray",
    "empty",
    "full",
    "full_like",
    "ones",
    "ones_like",
    "to_device",
    "to_numpy",
    "zeros",
    "zeros_like",
]


def asarray(
    obj: Any,
    /,
    *,
    dtype: DType | None = None,
    device: str | Device | None = None,
    copy: bool | None = None,
) -> Tensor:
    """A tensor of numbers, nested sequences, a NumPy array, a tensor, or any DLPack exporter.

    Args:
        obj: What to convert.  Python floats become float32, ints int64.
        dtype: Element type; by default that of `obj`.
        device: Where; by default that of `obj`, else the default device.
        copy: True copies always; False raises ValueError where a copy would be needed.
    """
    from .manipulation import astype

    if isinstance(obj, Tensor):
        target = obj.device if device is None else get_device(device)
        moved = obj if target is obj.device else to_device(obj, target)
        wanted = moved if dtype is None else astype(moved, dtype, copy=False)
        if wanted is obj and copy:
            return astype(obj, obj.dtype, copy=True)
        if wanted is not obj and copy is False:
            raise ValueError("asarray: copy=False, but dtype or device differ from the tensor's")
        return wanted
    where = get_device(device)
    if not isinstance(obj, np.ndarray | np.generic) and hasattr(obj, "__dlpack__"):
        from .._dlpack import from_dlpack

        return asarray(from_dlpack(obj, copy=copy), dtype=dtype, device=device)
    if copy is False:
        raise ValueError("asarray: copy=False, but elements have to be copied to the device")
    if isinstance(obj, np.ndarray | np.generic):
        array = np.asarray(obj)
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("="))
    else:
        array = _from_python(obj, dtype)
    try:
        source = dt.from_numpy(array.dtype)
    except TypeError as error:
        raise TypeError(f"asarray: {error}") from None
    if dtype is not None and dtype is not source:
        return astype(from_host(where, array, source), dtype)
    return from_host(where, array, source)


def _from_python(obj: Any, dtype: DType | None) -> np.ndarray[Any, Any]:
    if isinstance(obj, Sequence) and not isinstance(obj, str) and _has_tensor(obj):
        obj = _unwrap(obj)
    try:
        array = np.asarray(obj)
    except ValueError as error:
        raise ValueError(f"asarray: {error}") from None
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise TypeError(
            f"asarray: cannot make a tensor of {type(obj).__name__} with elements like {obj!r:.60}"
        )
    if dtype is not None:
        if dtype.is_integer and array.dtype.kind in "iu" and array.size:
            low, high = int(array.min()), int(array.max())
            if low < dtype.min or high > dtype.max:
                raise OverflowError(
                    f"asarray: {low if low < dtype.min else high} does not fit {dtype.name}"
                )
        if array.dtype.kind == "f" and dtype.is_float:
            return array.astype(dtype.numpy)
        return array
    if array.dtype.kind == "f":
        return array.astype(DEFAULT_FLOAT.numpy)
    if array.dtype.kind == "i":
        return array.astype(DEFAULT_INT.numpy)
    return array


def _has_tensor(obj: Any) -> bool:
    if isinstance(obj, Tensor):
        return True
    return isinstance(obj, list | tuple) and any(_has_tensor(o) for o in obj)


def _unwrap(obj: Any) -> Any:
    if isinstance(obj, Tensor):
        return obj.numpy()
    return [_unwrap(o) for o in obj] if isinstance(obj, list | tuple) else obj


@function("creation")
def empty(
    shape: int | Sequence[int],
    *,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """A tensor whose elements are undefined."""
    return allocate(get_device(device), dtype or DEFAULT_FLOAT, as_shape("empty", shape))


@function("creation")
def full(
    shape: int | Sequence[int],
    fill_value: Scalar,
    *,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """A tensor with all elements equal to `fill_value`."""
    where = get_device(device)
    kind = dtype or scalar_dtype(fill_value)
    out = allocate(where, kind, as_shape("full", shape))
    fill(out, fill_value)
    return out


def fill(out: Tensor, value: Scalar) -> None:
    """Set all elements of a tensor, which nobody else has seen yet."""
    from tensorbus_backends import ir

    kind = out.dtype
    if kind.is_integer and not kind.min <= int(value) <= kind.max:
        raise OverflowError(f"full: {value} does not fit {kind.name}")
    if out.size:
        const_of(0, kind)
        launch = map_launch(
            out.device,
            "fill",
            [ir.param(0, kind)],
            out.shape,
            [],
            [(kind, out.strides)],
            [(kind, float(kind.numpy.type(value)) if kind.is_float else int(value))],
        )
        launch((out._buffer, out._offset))


@function("creation")
def zeros(
    shape: int | Sequence[int],
    *,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """A tensor of zeros."""
    return full(shape, 0, dtype=dtype or DEFAULT_FLOAT, device=device)


@function("creation")
def ones(
    shape: int | Sequence[int],
    *,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """A tensor of ones."""
    return full(shape, 1, dtype=dtype or DEFAULT_FLOAT, device=device)


@function("creation")
def full_like(
    x: Tensor,
    /,
    fill_value: Scalar,
    *,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """Like `full`, with shape, dtype and device of `x`."""
    return full(x.shape, fill_value, dtype=dtype or x.dtype, device=device or x.device)


@function("creation")
def zeros_like(
    x: Tensor, /, *, dtype: DType | None = None, device: str | Device | None = None
) -> Tensor:
    """Zeros with shape, dtype and device of `x`."""
    return full_like(x, 0, dtype=dtype, device=device)


@function("creation")
def ones_like(
    x: Tensor, /, *, dtype: DType | None = None, device: str | Device | None = None
) -> Tensor:
    """Ones with shape, dtype and device of `x`."""
    return full_like(x, 1, dtype=dtype, device=device)


def to_numpy(x: Tensor, /) -> np.ndarray[Any, Any]:
    """A NumPy copy of a tensor on any device."""
    from .manipulation import contiguous

    packed = contiguous(x.detach())
    out = np.empty(packed.shape, packed.dtype.numpy)
    if out.size:
        start = packed._offset * packed.dtype.itemsize
        view = memoryview(out.reshape(-1).view(np.uint8))
        packed.device.backend.copy_out(packed._buffer, start, view)
    return out


def as_numpy_array(x: Tensor, dtype: Any, copy: bool | None) -> np.ndarray[Any, Any]:
    """What ``numpy.asarray(x)`` gives: a view of host-accessible memory, else an error."""
    import ctypes

    if x.requires_grad:
        raise RuntimeError("this tensor requires a gradient; use x.detach() or x.numpy()")
    device = x.device
    if not device.capabilities.host_accessible:
        raise TypeError(
            f"the memory of {device} cannot be seen by NumPy; copy with x.numpy(), or move with "
            "x.to_device('cpu')"
        )
    device.synchronize()
    if x.size == 0:
        view = np.empty(x.shape, x.dtype.numpy)
    else:
        size = x.dtype.itemsize
        low = sum(min(0, s * (n - 1)) for s, n in zip(x.strides, x.shape, strict=True))
        high = sum(max(0, s * (n - 1)) for s, n in zip(x.strides, x.shape, strict=True))
        start = device.backend.address(x._buffer) + (x._offset + low) * size
        block = (ctypes.c_uint8 * ((high - low + 1) * size)).from_address(start)
        block._owner = x._buffer  # type: ignore[attr-defined]
        flat = np.frombuffer(block, x.dtype.numpy)
        view = np.lib.stride_tricks.as_strided(
            flat[-low:], x.shape, tuple(s * size for s in x.strides)
        )
    if dtype is not None and np.dtype(dtype) != view.dtype:
        if copy is False:
            raise ValueError("copy=False, but the dtype differs")
        return view.astype(dtype)
    return view.copy() if copy else view


def to_device(x: Tensor, device: str | Device, /, *, stream: Any = None) -> Tensor:
    """`x` on another device; recorded, so that its gradient comes back.

    Args:
        x: Any tensor.
        device: Name or device.
        stream: Must be None; queues are managed by the devices.
    """
    from .._transfer import transfer

    if stream is not None:
        raise ValueError("to_device: tensorbus manages the queues itself; pass stream=None")
    target = get_device(device)
    return x if target is x.device else transfer(x, target)


def _spec_of(x: Tensor) -> Spec:
    return x._spec
