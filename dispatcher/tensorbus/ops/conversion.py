"""Into tensorbus and out of it: numbers, NumPy arrays, DLPack, other devices."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tensorbus_backends import dtypes as dt, interp
from tensorbus_backends.contract import Feature, OutOfMemoryError, UnsupportedError
from tensorbus_backends.dtypes import DType

from .._devices import Device, get_device
from .._dlpack import load
from .._fallback import holding
from .._memory import READ_ONLY, from_host
from .._op import function
from .._promotion import DEFAULT_FLOAT, DEFAULT_INT
from .._shown import shown
from .._state import watching
from .._tensor import Tensor
from ._transfer import transfer
from .manipulation import astype, contiguous

__all__ = ["as_numpy_array", "asarray", "from_dlpack", "to_device", "to_numpy"]


@function("creation", differentiable=True, op="astype")
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
        obj: What to convert.  Python floats become float32, ints int64.  NumPy arrays are copied
            (`from_dlpack` shares their memory), other DLPack exporters share it.
        dtype: Element type; by default that of `obj`.
        device: Where; by default that of `obj`, else the default device.
        copy: True copies always; False raises ValueError where a copy would be needed.

    Raises:
        TypeError: Elements that are no numbers, or of a dtype that tensorbus has not.
        ValueError: Ragged sequences; a copy would be needed although `copy` is False.
        OverflowError: A Python integer that `dtype` cannot hold.
        UnsupportedError: The device has no such dtype.
    """
    if dtype is not None and not isinstance(dtype, DType):
        raise TypeError(f"asarray: dtype is a tensorbus dtype, not {shown(dtype)}")
    if isinstance(obj, Tensor):
        target = obj.device if device is None else get_device(device)
        lacking = obj.dtype.name not in target.capabilities.dtypes
        # What the target cannot hold becomes what it can where it lies.
        ready = astype(obj, dtype) if dtype is not None and lacking else obj
        moved = ready if target is obj.device else to_device(ready, target)
        wanted = moved if dtype is None else astype(moved, dtype, copy=False)
        if wanted is obj and copy:
            return astype(obj, obj.dtype, copy=True)
        if wanted is not obj and copy is False:
            raise ValueError("asarray: copy=False, but dtype or device differ from the tensor's")
        return wanted
    where = get_device(device)
    if not isinstance(obj, np.ndarray | np.generic) and hasattr(obj, "__dlpack__"):
        return asarray(from_dlpack(obj, copy=copy), dtype=dtype, device=where)
    if copy is False:
        raise ValueError(
            "asarray: copy=False, but elements have to be copied to the device; "
            "from_dlpack shares the memory of a NumPy array"
        )
    if isinstance(obj, np.ndarray | np.generic):
        array = np.asarray(obj)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
    else:
        array = _from_python(obj, dtype)
    try:
        source = dt.from_numpy(array.dtype)
    except TypeError as error:
        raise TypeError(f"asarray: {error}") from None
    if dtype is None:
        try:
            return from_host(holding("asarray", where, source, True), array, source)
        except UnsupportedError as error:
            raise UnsupportedError(f"asarray: {error}; pass dtype= to convert") from None
    if dtype is source:
        return from_host(holding("asarray", where, source, True), array, source)
    if source.name not in where.capabilities.dtypes:
        there = holding("asarray", where, dtype, True)
        return from_host(there, interp.convert(array, source, dtype), dtype)
    return astype(from_host(where, array, source), dtype)


def _from_python(obj: Any, dtype: DType | None) -> np.ndarray[Any, Any]:
    if isinstance(obj, Sequence) and not isinstance(obj, str):
        _check_nesting(obj)
        if _has_tensor(obj):
            obj = _unwrap(obj, {}, 0)
    try:
        array = np.asarray(obj)
    except MemoryError:
        raise OutOfMemoryError(
            f"asarray: the system has no memory for the elements of {shown(obj)}"
        ) from None
    except ValueError as error:
        raise ValueError(f"asarray: {error}") from None
    except OverflowError as error:
        raise OverflowError(f"asarray: {error}") from None
    if array.dtype == object and array.size and all(isinstance(v, int) for v in array.flat):
        worst = max(array.flat, key=abs)
        raise OverflowError(
            f"asarray: {shown(worst)} does not fit {dtype.name if dtype else 'int64'}"
        )
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise TypeError(
            f"asarray: cannot make a tensor of {type(obj).__name__} with elements like {shown(obj)}"
        )
    if dtype is not None:
        if dtype.is_integer and array.dtype.kind in "iu" and array.size:
            low, high = int(array.min()), int(array.max())
            if low < dtype.min or high > dtype.max:
                raise OverflowError(
                    f"asarray: {low if low < dtype.min else high} does not fit {dtype.name}"
                )
        if array.dtype.kind == "f" and dtype.is_float:
            with np.errstate(over="ignore"):
                return array.astype(dtype.numpy)
        return array
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype(DEFAULT_FLOAT.numpy)
    if array.dtype.kind == "i":
        return array.astype(DEFAULT_INT.numpy)
    return array


_DEEPEST = 64
"""Sequences inside of each other, as many as NumPy has dimensions."""


def _check_nesting(obj: Sequence[Any]) -> None:
    """Raise ValueError unless an array could have the shape that the first elements tell.

    NumPy looks no further than that shape, but into all of it: lists that hold themselves, or each
    other several times, would keep it busy for ever.
    """
    sizes: list[int] = []
    # What has a buffer, as a memoryview, lets NumPy look at no element.
    while isinstance(obj, Sequence) and not isinstance(obj, str | memoryview) and len(obj):
        sizes.append(len(obj))
        if len(sizes) > _DEEPEST:
            raise _too_deep()
        obj = obj[0]
    if math.prod(sizes) > 1 << 40:
        raise ValueError(f"asarray: sequences of shape {tuple(sizes)} have too many elements")


def _too_deep() -> ValueError:
    return ValueError(f"asarray: sequences lie more than {_DEEPEST} deep in each other")


def _has_tensor(obj: Any) -> bool:
    seen: set[int] = set()
    left = [obj]
    while left:
        one = left.pop()
        if isinstance(one, Tensor):
            return True
        if isinstance(one, list | tuple) and id(one) not in seen:
            seen.add(id(one))
            left.extend(one)
    return False


def _unwrap(obj: Any, done: dict[int, Any], depth: int) -> Any:
    """Arrays in place of tensors; what occurs several times is made once."""
    if isinstance(obj, Tensor):
        # NumPy does not count bfloat16 among numbers; float32 holds all of its values.
        return obj.numpy().astype(np.float32) if obj.dtype is dt.bfloat16 else obj.numpy()
    if not isinstance(obj, list | tuple):
        return obj
    if depth == _DEEPEST:
        raise _too_deep()
    if id(obj) not in done:
        done[id(obj)] = [_unwrap(o, done, depth + 1) for o in obj]
    return done[id(obj)]


@function("creation", op="from_dlpack")
def from_dlpack(
    x: Any, /, *, device: str | Device | None = None, copy: bool | None = None
) -> Tensor:
    """A tensor over the memory of another library's array, through DLPack.

    Host memory is shared with the default device if that is host-accessible, else with ``"cpu"``
    (or ``"ref"`` without a compiler).  Memory of a CUDA or ROCm device (of PyTorch or CuPy, say) is
    shared with our device of the same type and number; without one, the other library is asked for
    a copy on the host.  Memory that the other library forbids to change is shared too; changing it
    in place raises ValueError.

    Args:
        x: An object with ``__dlpack__`` and ``__dlpack_device__``.
        device: Where the result shall be; another device than the memory's needs a copy.
        copy: True copies always; False raises ValueError where a copy would be needed; None
            copies only where needed.

    Raises:
        BufferError: The memory cannot be shared or understood.
        ValueError: A copy would be needed although `copy` is False.
    """
    if isinstance(x, Tensor):
        return asarray(x.detach(), device=device, copy=copy)
    return load(x, device, copy)


# -- out --------------------------------------------------------------------------------------


def to_numpy(x: Tensor, /) -> np.ndarray[Any, Any]:
    """A NumPy copy of a tensor on any device."""
    if watching.by is not None:
        watching.by.other = True
    packed = contiguous(x.detach())
    out = np.empty(packed.shape, packed.dtype.numpy)
    x.device.late.settle()
    if out.size:
        start = packed._offset * packed.dtype.itemsize
        packed.device.backend.copy_out(packed._buffer, start, out.reshape(-1).view(np.uint8).data)
    return out


def as_numpy_array(x: Tensor, dtype: Any, copy: bool | None) -> np.ndarray[Any, Any]:
    """What ``numpy.asarray(x)`` gives: a view of host-accessible memory, else an error.

    The view is read-only if the memory may not be changed.

    Raises:
        RuntimeError: `x` requires a gradient.
        TypeError: The memory is not host-accessible; says how to copy.
        ValueError: `copy` is False but `dtype` differs.
    """
    if x.requires_grad:
        raise RuntimeError("this tensor requires a gradient; use x.detach() or x.numpy()")
    device = x.device
    if not device.has(Feature.ADDRESS):
        raise TypeError(
            f"the memory of {device} cannot be seen by NumPy; copy with x.numpy(), or move with "
            "x.to_device('cpu')"
        )
    device.synchronize()
    if x.size == 0:
        view = np.empty(x.shape, x.dtype.numpy)
    else:
        size = x.dtype.itemsize
        low, high = reach(x)
        start = device.backend.address(x._buffer) + (x._offset + low) * size
        block = (ctypes.c_uint8 * ((high - low + 1) * size)).from_address(start)
        block._owner = x._buffer  # type: ignore[attr-defined]
        flat = np.frombuffer(memoryview(block), x.dtype.numpy)
        view = np.lib.stride_tricks.as_strided(
            flat[-low:], x.shape, tuple(s * size for s in x.strides)
        )
        if x._buffer in READ_ONLY:
            view.flags.writeable = False
    if dtype is not None and np.dtype(dtype) != view.dtype:
        if copy is False:
            raise ValueError("copy=False, but the dtype differs")
        return view.astype(dtype)
    return view.copy() if copy else view


def reach(x: Tensor) -> tuple[int, int]:
    """Least and greatest element offset from the first element, for a tensor that has elements."""
    low = sum(min(0, s * (n - 1)) for s, n in zip(x.strides, x.shape, strict=True))
    high = sum(max(0, s * (n - 1)) for s, n in zip(x.strides, x.shape, strict=True))
    return low, high


def to_device(x: Tensor, device: str | Device, /, *, stream: Any = None) -> Tensor:
    """`x` on another device; recorded, so that its gradient comes back.

    Args:
        x: Any tensor.
        device: Name or device.
        stream: Must be None; queues are managed by the devices.
    """
    if stream is not None:
        raise ValueError("to_device: tensorbus manages the queues itself; pass stream=None")
    target = get_device(device)
    return x if target is x.device else transfer(x, target)
