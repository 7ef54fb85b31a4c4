"""DLPack both ways: sharing memory with other libraries without a copy.

The structures are those of DLPack 1.1 (dlpack.h): a capsule named ``dltensor_versioned`` holds a
DLManagedTensorVersioned, one named ``dltensor`` the older DLManagedTensor.  Whoever takes the
contents renames the capsule to ``used_...`` and calls the deleter when it is done.
"""

from __future__ import annotations

import ctypes
from typing import Any

from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import DeviceUnavailableError
from tensorbus_backends.dtypes import DType

from ._devices import Device, get_device
from ._spec import Spec
from ._tensor import Tensor

__all__ = ["dlpack_device", "export", "load"]

CPU, EXTERNAL = 1, 12
_READ_ONLY, _COPIED = 1, 2
_VERSION = (1, 1)
_SIGNED, _UNSIGNED, _FLOAT, _BFLOAT, _BOOL = 0, 1, 2, 4, 6


class _DLDevice(ctypes.Structure):
    _fields_ = (("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


class _DLDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (
        ("dl_tensor", _DLTensor),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", _Deleter),
    )


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("dl_tensor", _DLTensor),
    )


_OLD, _NEW = b"dltensor", b"dltensor_versioned"
_USED = {_OLD: b"used_dltensor", _NEW: b"used_dltensor_versioned"}

_python = ctypes.pythonapi
_CapsuleDestructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
# Capsules are passed by address where their reference count may be 0 (in a destructor).
_new_capsule = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _CapsuleDestructor
)(("PyCapsule_New", _python))
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", _python)
)
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _python)
)
_set_name = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_SetName", _python)
)

_exported: dict[int, tuple[Any, ...]] = {}
"""What each exported structure needs alive, by its address, until its deleter is called."""


def _delete(address: int) -> None:
    _exported.pop(address, None)


def _drop(capsule: int) -> None:
    """A capsule dies: if nobody took its contents, they die with it."""
    for name in (_OLD, _NEW):
        if _is_valid(capsule, name):
            _exported.pop(_pointer_of(capsule, name), None)


_deleter = _Deleter(_delete)
_destructor = _CapsuleDestructor(_drop)
# Other libraries may call the deleter until the process ends, so the callbacks never go away.
for _callback in (_deleter, _destructor):
    _python.Py_IncRef(ctypes.py_object(_callback))


def _code(dtype: DType) -> int:
    if dtype is dt.bfloat16:
        return _BFLOAT
    return {"b": _BOOL, "i": _SIGNED, "u": _UNSIGNED, "f": _FLOAT}[dtype.kind]


_DTYPES = {(_code(d), d.bits): d for d in dt.ALL}


# -- out ------------------------------------------------------------------------------------------


def dlpack_device(device: Device) -> tuple[int, int]:
    """DLPack's (type, number) of a device: (1, 0) where the host reaches the memory."""
    return (CPU, 0) if device.capabilities.host_accessible else (EXTERNAL, device.info.index)


def export(
    x: Tensor,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """The capsule of ``x.__dlpack__``; see the array API.

    Args:
        x: What to share.
        stream: Must be None: the memory is ready on return.
        max_version: Newest version that the other side knows; before (1, 0) the old capsule.
        dl_device: Where the other side wants the memory; (1, 0) works from every device.
        copy: True copies always; False raises BufferError where a copy would be needed.

    Raises:
        BufferError: `x` requires a gradient; `dl_device` cannot be reached, or only by a copy.
        ValueError: `stream` is not None.
    """
    from .ops.inplace import READ_ONLY

    if stream is not None:
        raise ValueError("__dlpack__: tensorbus manages the queues itself; pass stream=None")
    if x.requires_grad:
        raise BufferError(
            "a tensor that requires a gradient cannot be shared through DLPack; use x.detach()"
        )
    here = dlpack_device(x.device)
    wanted = here if dl_device is None else (int(dl_device[0]), int(dl_device[1]))
    if wanted[0] != CPU or (wanted != here and copy is False):
        raise BufferError(
            f"the memory of {x.device} cannot be shared with DLPack device {wanted}"
            + ("" if copy is not False else " without a copy")
            + "; copy to the host with x.to_device('cpu') or x.numpy()"
        )
    shared = x.detach()
    copied = False
    if wanted != here:
        shared, copied = shared.to_device(host_device()), True
    elif copy:
        shared, copied = shared.astype(x.dtype), True
    shared.device.synchronize()
    flags = _COPIED if copied else _READ_ONLY if x._buffer in READ_ONLY else 0
    versioned = max_version is not None and max_version[0] >= 1
    if flags & _READ_ONLY and not versioned:
        raise BufferError(
            "this tensor is read-only, which only DLPack 1.0 and newer can say; pass copy=True"
        )
    return _capsule(shared, versioned, flags)


def _capsule(x: Tensor, versioned: bool, flags: int) -> Any:
    shape = (ctypes.c_int64 * max(x.ndim, 1))(*x.shape)
    strides = (ctypes.c_int64 * max(x.ndim, 1))(*x.strides)
    pointer = ctypes.POINTER(ctypes.c_int64)
    address = x.device.backend.address(x._buffer) + x._offset * x.dtype.itemsize
    tensor = _DLTensor(
        address if x.size else None,
        _DLDevice(CPU, 0),
        x.ndim,
        _DLDataType(_code(x.dtype), x.dtype.bits, 1),
        ctypes.cast(shape, pointer),
        ctypes.cast(strides, pointer),
        0,
    )
    made: _Managed | _ManagedVersioned
    if versioned:
        made = _ManagedVersioned(*_VERSION, None, _deleter, flags, tensor)
    else:
        made = _Managed(tensor, None, _deleter)
    place = ctypes.addressof(made)
    _exported[place] = (made, shape, strides, x._buffer)
    return _new_capsule(place, _NEW if versioned else _OLD, _destructor)


# -- in -------------------------------------------------------------------------------------------


def host_device() -> Device:
    """A device whose memory the host reaches: the default one if it can, else cpu, else ref."""
    device = get_device()
    if device.capabilities.host_accessible:
        return device
    try:
        return get_device("cpu")
    except DeviceUnavailableError:
        return get_device("ref")


class _Owner:
    """Keeps another library's memory alive; tells it when it is no longer needed."""

    __slots__ = ("_managed",)

    def __init__(self, managed: _Managed | _ManagedVersioned) -> None:
        self._managed = managed

    def __del__(self) -> None:
        deleter = self._managed.deleter
        if deleter:
            deleter(ctypes.addressof(self._managed))


def load(x: Any, device: str | Device | None, copy: bool | None) -> Tensor:
    """What `from_dlpack` does."""
    if isinstance(x, Tensor):
        from .ops.conversion import asarray

        return asarray(x.detach(), device=device, copy=copy)
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise TypeError(
            f"from_dlpack: {type(x).__name__} has no __dlpack__; use asarray for numbers and lists"
        )
    target = host_device() if device is None else get_device(device)
    kind = int(x.__dlpack_device__()[0])
    reachable = target if target.capabilities.host_accessible else host_device()
    if kind != CPU and copy is False:
        raise ValueError("from_dlpack: copy=False, but the memory is not the host's")
    shared = _take(_ask(x, kind, copy), reachable)
    if target is reachable:
        return shared
    if copy is False:
        raise ValueError(f"from_dlpack: copy=False, but moving to {target} needs a copy")
    return shared.to_device(target)


def _ask(x: Any, kind: int, copy: bool | None) -> Any:
    """The exporter's capsule, in the newest form that it knows."""
    options: dict[str, Any] = {"max_version": _VERSION}
    if kind != CPU:
        options["dl_device"] = (CPU, 0)
    if copy is not None:
        options["copy"] = copy
    try:
        return x.__dlpack__(**options)
    except TypeError:
        if kind != CPU or copy:
            raise BufferError(
                f"from_dlpack: {type(x).__name__} cannot copy to the host by itself; "
                "copy it there first"
            ) from None
        return x.__dlpack__()


def _take(capsule: Any, device: Device) -> Tensor:
    """Take over the contents of a capsule."""
    from .ops.inplace import READ_ONLY

    handle = id(capsule)
    name = next((n for n in (_NEW, _OLD) if _is_valid(handle, n)), None)
    if name is None:
        raise BufferError("from_dlpack: the exporter gave no DLPack capsule, or a used one")
    address = _pointer_of(handle, name)
    managed: _Managed | _ManagedVersioned
    flags = 0
    if name == _NEW:
        managed = _ManagedVersioned.from_address(address)
        if managed.major > _VERSION[0]:
            raise BufferError(f"from_dlpack: DLPack {managed.major} is newer than {_VERSION[0]}")
        flags = managed.flags
    else:
        managed = _Managed.from_address(address)
    _set_name(handle, _USED[name])
    # From here on the contents are ours: if anything fails, the owner gives them back.
    owner = _Owner(managed)
    tensor = managed.dl_tensor
    if tensor.device.device_type != CPU:
        raise BufferError(
            f"from_dlpack: memory of DLPack device type {tensor.device.device_type} cannot be "
            "shared; copy it to the host first"
        )
    dtype = _DTYPES.get((tensor.dtype.code, tensor.dtype.bits))
    if dtype is None or tensor.dtype.lanes != 1:
        raise BufferError(
            f"from_dlpack: no dtype for DLPack code {tensor.dtype.code}, {tensor.dtype.bits} bits, "
            f"{tensor.dtype.lanes} lanes"
        )
    shape = tuple(tensor.shape[k] for k in range(tensor.ndim))
    strides = tuple(tensor.strides[k] for k in range(tensor.ndim)) if tensor.strides else None
    spec = Spec.of(device, dtype, shape, strides)
    if not spec.size:
        return Tensor(device.backend.allocate(0), spec)
    low = sum(min(0, s * (n - 1)) for s, n in zip(spec.strides, shape, strict=True))
    high = sum(max(0, s * (n - 1)) for s, n in zip(spec.strides, shape, strict=True))
    first = tensor.data + tensor.byte_offset
    if first % dtype.itemsize:
        raise BufferError(
            f"from_dlpack: the memory is not aligned to {dtype.itemsize} bytes; copy it first"
        )
    nbytes = (high - low + 1) * dtype.itemsize
    buffer = device.backend.import_pointer(first + low * dtype.itemsize, nbytes, owner)
    if flags & _READ_ONLY:
        READ_ONLY.add(buffer)
    return Tensor(buffer, spec, -low)
