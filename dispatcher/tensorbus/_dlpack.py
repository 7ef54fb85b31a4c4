"""DLPack both ways: sharing memory with other libraries without a copy.

The structures are those of DLPack 1.1 (dlpack.h): a capsule named ``dltensor_versioned`` holds a
DLManagedTensorVersioned, one named ``dltensor`` the older DLManagedTensor.  Whoever takes the
contents renames the capsule to ``used_...`` and calls the deleter when it is done.

Memory that the host reaches is shared as the host's.  A device with a `dlpack_type` shares its own,
with the queues put in order as the array API says.  Out: the device is synchronised, so the memory
is ready on every stream; ``stream=-1`` leaves that to the other side.  In: the exporter is told our
queue, and its deleter is called only when everything launched here has finished.  What the other
side still has in its queue when it drops *our* memory, it has to wait for itself: DLPack has no way
to tell.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import queue
import sys
import threading
import warnings
from collections import deque
from typing import Any

from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import (
    BackendError,
    DeviceUnavailableError,
    Feature,
    UnsupportedError,
)
from tensorbus_backends.dtypes import DType

from ._devices import Device, get_device, sharing
from ._memory import READ_ONLY, check_dtype
from ._shown import shown
from ._spec import Spec
from ._tensor import Tensor

__all__ = ["dlpack_device", "export", "load"]

CPU, CUDA, METAL, ROCM, EXTERNAL = 1, 2, 8, 10, 12
_NAMES = {CUDA: "CUDA", METAL: "Metal", ROCM: "ROCm"}
# The array API on `stream`: 0 would be ambiguous on CUDA, ROCm has no per-thread default stream.
_NO_STREAM = {CUDA: (0,), ROCM: (1, 2)}
_DEFAULT_STREAM = {CUDA: 1, ROCM: 0}
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
_new_capsule = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
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

_offered: deque[tuple[Any, int]] = deque()
"""Capsules that nobody had taken the contents of, and the structures in them."""


def _delete(address: int) -> None:
    _exported.pop(address, None)


_deleter = _Deleter(_delete)
# Other libraries may call the deleter until the process ends, so the callback never goes away.
_python.Py_IncRef(ctypes.py_object(_deleter))


def _references(offer: tuple[Any, int]) -> int:
    return sys.getrefcount(offer[0])


_ALONE = _references((object(), 0))


def _sweep() -> None:
    """Drop the contents of capsules that died untaken.

    A destructor could do so at once, but it may run while an exception is on its way (NumPy refuses
    a device so), which a callback into Python would destroy.
    """
    for _ in range(len(_offered)):
        try:
            offer = _offered.popleft()
        except IndexError:
            return
        if not any(_is_valid(id(offer[0]), name) for name in (_OLD, _NEW)):
            continue  # taken: the deleter will be called
        if _references(offer) > _ALONE:
            _offered.append(offer)
        else:
            _delete(offer[1])


def _after_collection(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        _sweep()


gc.callbacks.append(_after_collection)


def _code(dtype: DType) -> int:
    if dtype is dt.bfloat16:
        return _BFLOAT
    return {"b": _BOOL, "i": _SIGNED, "u": _UNSIGNED, "f": _FLOAT}[dtype.kind]


_DTYPES = {(_code(d), d.bits): d for d in dt.ALL}


# -- out ------------------------------------------------------------------------------------------


def dlpack_device(device: Device) -> tuple[int, int]:
    """DLPack's (type, number) of a device: (1, 0) where the host reaches the memory."""
    return (CPU, 0) if device.has(Feature.ADDRESS) else _own_place(device)


def _own_place(device: Device) -> tuple[int, int]:
    return device.backend.dlpack_type or EXTERNAL, device.info.index


def _check_stream(stream: Any, device: Device) -> None:
    kind = device.backend.dlpack_type
    if stream is None:
        return
    if kind not in _NO_STREAM:
        raise ValueError(
            f"__dlpack__: {device} has no streams that other libraries know; pass stream=None"
        )
    if not isinstance(stream, int) or stream < -1 or stream in _NO_STREAM[kind]:
        raise ValueError(
            f"__dlpack__: stream={shown(stream)} is no {_NAMES[kind]} stream; pass None or "
            f"{_DEFAULT_STREAM[kind]} for the default one, -1 for no synchronisation, or a "
            "stream's handle"
        )


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
        stream: Whose the memory is on return: None on devices without streams; a stream of CUDA
            (1 the legacy default one, 2 that of the thread) or ROCm (0 the default one), or -1
            for no synchronisation at all.
        max_version: Newest version that the other side knows; before (1, 0) the old capsule.
        dl_device: Where the other side wants the memory; (1, 0) works from every device, and a
            device that the host reaches can be asked for its own type too.
        copy: True copies always; False raises BufferError where a copy would be needed.

    Raises:
        BufferError: `x` requires a gradient; `dl_device` cannot be reached, or only by a copy.
        ValueError: `stream` is none of the device's.
    """
    _check_stream(stream, x.device)
    if x.requires_grad:
        raise BufferError(
            "a tensor that requires a gradient cannot be shared through DLPack; use x.detach()"
        )
    wanted = dlpack_device(x.device)
    if dl_device is not None:
        wanted = (int(dl_device[0]), int(dl_device[1]))
    in_place = wanted in (dlpack_device(x.device), _own_place(x.device))
    if wanted[0] == EXTERNAL or not (in_place or (wanted[0] == CPU and copy is not False)):
        raise BufferError(
            f"the memory of {x.device} cannot be shared with DLPack device {wanted}"
            + ("" if copy is not False else " without a copy")
            + "; copy to the host with x.to_device('cpu') or x.numpy()"
        )
    shared = x.detach()
    if not in_place:
        shared, wanted = shared.to_device(host_device()), (CPU, 0)
    elif copy:
        shared = shared.astype(x.dtype)
    copied = bool(copy) or not in_place
    if stream != -1:
        shared.device.synchronize()
    flags = _COPIED if copied else _READ_ONLY if x._buffer in READ_ONLY else 0
    versioned = max_version is not None and max_version[0] >= 1
    if flags & _READ_ONLY and not versioned:
        raise BufferError(
            "this tensor is read-only, which only DLPack 1.0 and newer can say; pass copy=True"
        )
    return _capsule(shared, wanted, versioned, flags)


def _capsule(x: Tensor, place: tuple[int, int], versioned: bool, flags: int) -> Any:
    shape = (ctypes.c_int64 * max(x.ndim, 1))(*x.shape)
    strides = (ctypes.c_int64 * max(x.ndim, 1))(*x.strides)
    pointer = ctypes.POINTER(ctypes.c_int64)
    backend, offset = x.device.backend, x._offset * x.dtype.itemsize
    data = backend.address(x._buffer) if place[0] == CPU else backend.pointer(x._buffer)
    # Metal's is a handle, not an address; libraries on the others do not all heed byte_offset.
    apart = place[0] == METAL
    tensor = _DLTensor(
        data + (0 if apart else offset) if x.size else None,
        _DLDevice(*place),
        x.ndim,
        _DLDataType(_code(x.dtype), x.dtype.bits, 1),
        ctypes.cast(shape, pointer),
        ctypes.cast(strides, pointer),
        offset if apart and x.size else 0,
    )
    made: _Managed | _ManagedVersioned
    if versioned:
        made = _ManagedVersioned(*_VERSION, None, _deleter, flags, tensor)
    else:
        made = _Managed(tensor, None, _deleter)
    address = ctypes.addressof(made)
    _exported[address] = (made, shape, strides, x._buffer)
    capsule = _new_capsule(address, _NEW if versioned else _OLD, None)
    _sweep()
    _offered.append((capsule, address))
    return capsule


# -- in -------------------------------------------------------------------------------------------


def host_device() -> Device:
    """A device whose memory the host reaches: the default one if it can, else cpu.

    Without a cpu device it is ref, with a RuntimeWarning.
    """
    device = get_device()
    if device.has(Feature.ADDRESS):
        return device
    try:
        return get_device("cpu")
    except DeviceUnavailableError as error:
        warnings.warn(
            "memory of the host is shared with device 'ref', a slow interpreter, because cpu is "
            f"unavailable: {error.cause}; {error.fix}. With device='ref' there is no such warning",
            RuntimeWarning,
            stacklevel=4,
        )
        return get_device("ref")


class _Owner:
    """Keeps another library's memory alive; tells it when it is no longer needed.

    Args:
        managed: What the capsule held.
        device: Whose queue may still use the memory when the owner dies; None for the host's.
    """

    __slots__ = ("_device", "_managed")

    def __init__(self, managed: _Managed | _ManagedVersioned, device: Device | None) -> None:
        self._managed, self._device = managed, device

    def __del__(self) -> None:
        if self._device is None:
            _give_back(self._managed)
        else:
            _giver.give(self._managed, self._device)


def _give_back(managed: _Managed | _ManagedVersioned) -> None:
    deleter = managed.deleter
    if deleter:
        deleter(ctypes.addressof(managed))


class _Giver:
    """Gives memory back on a thread of its own: a finalizer must not wait for a device."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = 0
        self._queue: queue.SimpleQueue[tuple[Any, Device]] = queue.SimpleQueue()

    def start(self) -> None:
        """Start the thread, once for each process."""
        with self._lock:
            if self._process != os.getpid():
                self._process, self._queue = os.getpid(), queue.SimpleQueue()
                work = threading.Thread(target=self._run, name="tensorbus-dlpack", daemon=True)
                work.start()

    def give(self, managed: _Managed | _ManagedVersioned, device: Device) -> None:
        """Give memory back when the device has done what is in its queue now; returns at once."""
        self._queue.put((managed, device))

    def _run(self) -> None:
        while True:
            managed, device = self._queue.get()
            # A failed kernel is reported to whoever reads its results.
            with contextlib.suppress(BackendError):
                device.backend.synchronize()
            _give_back(managed)
            del managed, device


_giver = _Giver()


def load(x: Any, device: str | Device | None, copy: bool | None) -> Tensor:
    """What `from_dlpack` does."""
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise TypeError(
            f"from_dlpack: {type(x).__name__} has no __dlpack__; use asarray for numbers and lists"
        )
    target = None if device is None else get_device(device)
    kind, number = (int(part) for part in x.__dlpack_device__())
    ours = None if kind == CPU else sharing(kind, number, target)
    if ours is not None:
        shared = _take_from_device(x, ours, copy)
    elif kind != CPU and copy is False:
        raise ValueError(
            f"from_dlpack: copy=False, but no device here shares memory of {_place(kind, number)}"
        )
    else:
        home = target or host_device()
        reachable = home if home.has(Feature.ADDRESS) else host_device()
        shared = _take_from_host(x, kind, reachable, copy)
        target = home
    if target is None or target is shared.device:
        return shared
    if copy is False:
        raise ValueError(f"from_dlpack: copy=False, but moving to {target} needs a copy")
    return shared.to_device(target)


def _take_from_host(x: Any, kind: int, device: Device, copy: bool | None) -> Tensor:
    """Share the host's memory, or copy what `device` cannot use in place."""
    try:
        return _take(_ask(x, kind, copy), device, (CPU, 0))
    except UnsupportedError as error:
        if copy is False:
            raise ValueError(f"from_dlpack: copy=False, but {error}") from error
        return _take(_ask(x, kind, copy), get_device("ref"), (CPU, 0)).to_device(device)


def _place(kind: int, number: int) -> str:
    name = _NAMES.get(kind)
    return f"{name} device {number}" if name else f"DLPack device ({kind}, {number})"


def _take_from_device(x: Any, device: Device, copy: bool | None) -> Tensor:
    """Share memory of `device` with a library that uses the same one."""
    _giver.start()
    place = _own_place(device)
    options: dict[str, Any] = {}
    if place[0] in _DEFAULT_STREAM:
        options["stream"] = device.backend.dlpack_stream or _DEFAULT_STREAM[place[0]]
    try:
        capsule = x.__dlpack__(max_version=_VERSION, **options)
    except TypeError:
        capsule = x.__dlpack__(**options)
    shared = _take(capsule, device, place)
    return shared.astype(shared.dtype) if copy else shared


def _ask(x: Any, kind: int, copy: bool | None) -> Any:
    """The exporter's capsule with the host's memory, in the newest form that it knows."""
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


def _take(capsule: Any, device: Device, place: tuple[int, int]) -> Tensor:
    """Take over the contents of a capsule, which have to lie at `place`."""
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
    owner = _Owner(managed, None if place[0] == CPU else device)
    tensor = managed.dl_tensor
    kind, number = tensor.device.device_type, tensor.device.device_id
    if kind != place[0] or (kind != CPU and number != place[1]):
        raise BufferError(
            f"from_dlpack: memory of {_place(kind, number)} was given where that of "
            f"{_place(*place)} was asked for; copy it to the host first"
        )
    dtype = _DTYPES.get((tensor.dtype.code, tensor.dtype.bits))
    if dtype is None or tensor.dtype.lanes != 1:
        raise BufferError(
            f"from_dlpack: no dtype for DLPack code {tensor.dtype.code}, {tensor.dtype.bits} bits, "
            f"{tensor.dtype.lanes} lanes"
        )
    check_dtype(device, dtype)
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
