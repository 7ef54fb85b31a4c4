"""DLPack's structures field by field: what is exported, what is imported, and when it goes back."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Feature

from ..guard import Guarded
from ..layouts import host
from .checks import Checks, bits_of, distinct, surface
from .foreign import Apart, Exporter, code_of, named, read

__all__ = ["capsules"]

Array = NDArray[Any]

_READ_ONLY, _COPIED = 1, 2
_CUDA, _METAL, _ROCM = 2, 8, 10
_PATIENCE = 3.0
"""Seconds within which memory has to go back that is given back beside."""


@surface("capsule", dt.ALL, (dt.float32,))
def capsules(c: Checks) -> None:
    """Both directions, with the host's memory and with that of a device of its own."""
    shares = bool(c.device.has(Feature.ADDRESS))
    array = distinct((4, 6), c.dtype, 2)
    _imports(c, array)
    _refusals(c, array)
    _asked(c, array)
    if not shares:
        return
    _exports(c, array)
    if not isinstance(c.device.backend, Guarded):
        _kept(c)
    for kind, stream in ((_CUDA, 77), (_CUDA, 0), (_ROCM, 0), (_ROCM, 55), (_METAL, 0)):
        # Another object: one that the host does not reach, over the same memory.
        apart = tb.Device(Apart(c.session.guard.real, kind, stream))
        _device_out(c, apart, kind, array)
        if kind != _METAL:  # whose pointers are handles
            # The default streams of the array API: 1 of CUDA, 0 of ROCm.
            _device_in(c, apart, kind, array, stream or {_CUDA: 1, _ROCM: 0}[kind])


# -- in -------------------------------------------------------------------------------------------


def _forms(base: Array) -> dict[str, Array]:
    return {
        "C": base.copy(), "part": base.copy()[1:, 2:5], "negative": base.copy()[::-1, ::-2],
        "transposed": base.copy().T, "number": base.copy()[2, 3, ...], "row": base.copy()[2],
        "one column": base.copy()[:, 1:2], "nothing": base.copy()[:0],
        "none of 6": base.copy()[1:1],
    }  # fmt: skip


def _imports(c: Checks, base: Array) -> None:
    """Elements, flags and the life of memory that comes in."""
    for name, array in _forms(base).items():
        for old in (False, True):
            for changed in ({}, {"byte_offset": 3 * array.itemsize}, {"strides": None},
                            {"minor": 7}, {"flags": _COPIED}, {"deleter": False}):  # fmt: skip
                if "strides" in changed and not array.flags.c_contiguous:
                    continue
                if old and ("minor" in changed or "flags" in changed):
                    continue
                given = Exporter(array, c.dtype, old, changed=dict(changed))
                if not array.size:
                    given.changed["data"] = None
                _imported(c, f"{name}, old={old}, {changed}", given)


def _imported(c: Checks, label: str, given: Exporter) -> None:
    x = c.attempt(label, lambda: tb.from_dlpack(given, device=c.device))
    if x is None:
        return
    due = np.array(given.array)
    c.same(label, x, due)
    c.true(f"{label}: name", named(given.capsule).startswith("used_"), named(given.capsule))
    shared = bool(c.device.has(Feature.ADDRESS)) and due.size > 0
    if shared:
        c.true(f"{label}: deleter", given.deleted == 0, "was called while the memory is in use")
        view = x[..., :1] if x.ndim else x
        given.array[...] = given.array.reshape(-1)[0]
        c.same(f"{label}: what the owner changed", x, given.array)
        x[...] = c.put(due)
        c.device.synchronize()
        c.same(f"{label}: what we changed", given.array, due)
        del x
        c.same(f"{label}: a view", view, due[..., :1] if due.ndim else due)
        c.true(f"{label}: deleter", given.deleted == 0, "was called while a view is in use")
        del view
    else:
        del x
    _went_back(c, label, given, int(given.changed.get("deleter", True)))


def _went_back(c: Checks, label: str, given: Exporter, due: int = 1) -> None:
    """The deleter is called once, at once or beside, and never again."""
    c.device.synchronize()
    until = time.monotonic() + _PATIENCE
    while given.deleted < due and time.monotonic() < until:
        gc.collect(0)
        time.sleep(0.0005)
    c.true(f"{label}: deleter", given.deleted == due, f"was called {given.deleted} times")


def _refusals(c: Checks, base: Array) -> None:
    """What cannot be taken is refused, and goes back to its owner."""
    wrong: dict[str, dict[str, Any]] = {
        "four lanes": {"lanes": 4},
        "no lanes": {"lanes": 0},
        "opaque code": {"code": 3},
        "a complex": {"code": 5},
        "a float of 8 bits": {"code": 7, "bits": 8},
        "odd bits": {"bits": 4},
        "another device": {"device_type": _CUDA},
        "another device's memory": {"device_type": 14, "device_id": 3},
    }
    if c.dtype.itemsize > 1 and c.device.has(Feature.ADDRESS):
        for step in {1, c.dtype.itemsize - 1, c.dtype.itemsize // 2} - {0}:
            wrong[f"{step} bytes off"] = {"data": base.ctypes.data + step}
    for label, changed in wrong.items():
        for old in (False, True):
            given = Exporter(base.copy(), c.dtype, old, changed=changed)
            c.raises(label, BufferError, lambda g=given: tb.from_dlpack(g, device=c.device))
            _went_back(c, f"{label}, old={old}", given)
    given = Exporter(base.copy(), c.dtype, changed={"major": 2})
    c.raises("DLPack 2", BufferError, lambda: tb.from_dlpack(given, device=c.device))
    taken = named(given.capsule).startswith("used_")
    c.true("DLPack 2: deleter", given.deleted == int(taken), "the capsule is nobody's")
    kept = Exporter(base.copy(), c.dtype)
    capsule = kept.__dlpack__()
    for name in ("dltensor_versioned", "dltensor"):
        c.true("a capsule of ours", named(capsule) != name or name == "dltensor_versioned")
    frozen = Exporter(base.copy(), c.dtype, changed={"flags": _READ_ONLY})
    x = tb.from_dlpack(frozen, device=c.device)
    if c.device.has(Feature.ADDRESS):
        c.raises("read-only memory", ValueError, lambda: x.__setitem__(0, x[1]))
        c.raises("read-only to the old protocol", BufferError, lambda: x.__dlpack__())
        c.raises("read-only, version 0.8", BufferError, lambda: x.__dlpack__(max_version=(0, 8)))
        c.true("a copy of it", not read(x.__dlpack__(copy=True)).flags & _READ_ONLY)
        for version in ((1, 0), (1, 1), (2, 3)):
            flags = read(x.__dlpack__(max_version=version)).flags
            c.true(f"flags of read-only memory, {version}", flags == _READ_ONLY, f"{flags}")
    c.same("read-only memory afterwards", frozen.array, base)


def _asked(c: Checks, base: Array) -> None:
    """What an exporter is asked for, new and old, here and elsewhere."""
    shares = bool(c.device.has(Feature.ADDRESS))
    for copy in (None, True, False) if shares else (None, True):
        given = Exporter(base.copy(), c.dtype)
        x = c.attempt(
            f"copy={copy}", lambda k=copy, g=given: tb.from_dlpack(g, device=c.device, copy=k)
        )
        if x is None:
            continue
        c.same(f"copy={copy}", x, base)
        due: dict[str, Any] = {"max_version": (1, 1)}
        due |= {} if copy is None else {"copy": copy}
        c.true(f"asked, copy={copy}", given.asked == [due], f"{given.asked}, expected {due}")
    old = Exporter(base.copy(), c.dtype, old=True)
    c.same("an old exporter", tb.from_dlpack(old, device=c.device), base)
    c.true("an old exporter", old.asked == [{"max_version": (1, 1)}, {}], f"{old.asked}")
    c.raises("a copy by an old exporter", BufferError,
             lambda: tb.from_dlpack(old, device=c.device, copy=True))  # fmt: skip
    # A device that nobody here has, which copies to the host when it is asked to.
    far = Exporter(base.copy(), c.dtype, place=(14, 2))
    far.changed = {"device_type": 1, "device_id": 0}
    c.same("from a device of others", tb.from_dlpack(far, device=c.device), base)
    want = {"max_version": (1, 1), "dl_device": (1, 0)}
    c.true("from a device of others", far.asked == [want], f"asked for {far.asked}")
    c.raises("from there without a copy", ValueError,
             lambda: tb.from_dlpack(far, device=c.device, copy=False))  # fmt: skip
    distant = Exporter(base.copy(), c.dtype, old=True, place=(14, 2))
    c.raises("from an old one there", BufferError, lambda: tb.from_dlpack(distant, device=c.device))


# -- out ------------------------------------------------------------------------------------------


def _outs(c: Checks, base: Array) -> Iterator[tuple[str, tb.Tensor, Array]]:
    for layout in ("contiguous", "general", "transposed", "negative", "offset"):
        yield layout, c.put(base, layout), base
    whole = c.put(base)
    yield "part", whole[1:, 2:5], base[1:, 2:5]
    yield "number", whole[2, 3], base[2, 3, ...]
    yield "broadcast", tb.broadcast_to(whole[1], (3, 6)), np.broadcast_to(base[1], (3, 6))
    yield "nothing", whole[:0], base[:0]


def _exports(c: Checks, base: Array) -> None:
    """Every field of what goes out, in every version that can be asked for."""
    for label, x, array in _outs(c, base):
        for version in (None, (0, 8), (1, 0), (1, 1), (2, 0)):
            for copy in (None, True, False):
                capsule = x.__dlpack__(max_version=version, copy=copy)
                _exported(c, f"{label}, {version}, copy={copy}", x, array, capsule, version, copy)
    if isinstance(c.device.backend, Guarded):
        return  # whose memory is not the allocator's
    x = c.put(base)
    start = _used(c)
    size = 1 << 18
    big = c.put(np.zeros(size // c.dtype.itemsize, c.dtype.numpy))
    capsule = big.__dlpack__(max_version=(1, 0))
    got = read(capsule, take=True)
    del big, capsule
    gc.collect(0)
    c.true("memory that is shared", _used(c) - start >= size // 2, "was freed")
    first = got.elements(c.dtype)[:3] if got.shape[0] < 64 else _head(got, c)
    c.same("memory that is shared", first, np.zeros(3, c.dtype.numpy))
    got.delete()
    c.device.synchronize()
    c.true("memory that was given back", _used(c) - start < size // 2, "is kept")
    c.same("another tensor", x, base)


def _head(got: Any, c: Checks) -> Array:
    from dataclasses import replace

    found: Array = replace(got, shape=(3,)).elements(c.dtype)
    return found


def _used(c: Checks) -> int:
    c.device.synchronize()
    return int(c.device.backend.memory().used)


def _exported(
    c: Checks,
    label: str,
    x: tb.Tensor,
    array: Array,
    capsule: Any,
    version: tuple[int, int] | None,
    copy: bool | None,
) -> None:
    new = version is not None and version[0] >= 1
    due = "dltensor_versioned" if new else "dltensor"
    c.true(f"{label}: name", named(capsule) == due, named(capsule))
    got = read(capsule)
    if new:
        c.true(f"{label}: version", got.version in ((1, 0), (1, 1), (1, 2), (1, 3)), f"{got}")
        flags = _COPIED if copy else 0
        c.true(f"{label}: flags", got.flags == flags, f"{got.flags}, expected {flags}")
    c.true(f"{label}: device", got.place == (1, 0), f"{got.place}")
    c.true(f"{label}: dtype", got.dtype == (*code_of(c.dtype), 1), f"{got.dtype}")
    c.true(f"{label}: shape", got.shape == array.shape, f"{got.shape}")
    if not array.size:
        c.true(f"{label}: data", got.data == 0, "is not NULL")
        return
    c.same(f"{label}: elements", got.elements(c.dtype), array)
    if copy:
        c.true(f"{label}: data", got.data != _address(x), "is the tensor's own memory")
        return
    at = got.data + got.byte_offset
    c.true(f"{label}: data", at == _address(x), "is other memory")
    steps = [(s, d) for s, d, n in zip(got.strides, x.strides, x.shape, strict=True) if n > 1]
    c.true(f"{label}: strides", all(s == d for s, d in steps), f"{got.strides}")


def _address(x: tb.Tensor) -> int:
    return x.device.backend.address(x._buffer) + x._offset * x.dtype.itemsize


def _kept(c: Checks) -> None:
    """Capsules that nobody takes do not pile up, without a collection by Python too."""
    size = 1 << 16
    array = np.zeros(size // c.dtype.itemsize, c.dtype.numpy)
    start = _used(c)
    with _no_collection():
        for _ in range(24):
            c.put(array).__dlpack__()
        c.put(array[:1]).__dlpack__()
        c.true("capsules that nobody took", _used(c) - start < 8 * size, "are kept")
    held = [c.put(array).__dlpack__(max_version=(1, 0)) for _ in range(12)]
    c.put(array[:1]).__dlpack__()
    c.true("capsules that somebody holds", _used(c) - start >= 10 * size, "lost their memory")
    for k, capsule in enumerate(held):
        c.true(f"held capsule {k}", read(capsule).shape == array.shape, "is damaged")
    held.clear()
    gc.collect()
    c.true("capsules after a collection", _used(c) - start < 8 * size, "are kept")


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's collector is off inside."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


# -- a device that shares its own memory ----------------------------------------------------------


def _device_out(c: Checks, apart: tb.Device, kind: int, base: Array) -> None:
    """Streams, places and fields of memory that the host does not reach."""
    backend = apart.backend
    assert isinstance(backend, Apart)
    whole = tb.asarray(base, device=apart)
    x = whole[1:, ::2]
    index = apart.info.index
    label = f"kind {kind}"
    c.true(f"{label}: device", x.__dlpack_device__() == (kind, index), f"{x.__dlpack_device__()}")
    good: tuple[int, ...] = {_CUDA: (1, 2, 4096), _ROCM: (0, 4096), _METAL: ()}[kind]
    bad: tuple[Any, ...] = {_CUDA: (0, -2), _ROCM: (1, 2, -2), _METAL: (0, 1, -1)}[kind]
    for stream in (None, *good, -1):
        if stream == -1 and kind == _METAL:
            continue
        before = backend.waited
        capsule = c.attempt(
            f"{label}: stream {stream}",
            lambda s=stream: x.__dlpack__(stream=s, max_version=(1, 1)),
        )
        if capsule is None:
            continue
        waited = backend.waited > before
        c.true(f"{label}: stream {stream}", waited == (stream != -1), f"waited: {waited}")
        got = read(capsule)
        c.true(f"{label}: place", got.place == (kind, index), f"{got.place}")
        start = backend.pointer(x._buffer)
        at = x._offset * c.dtype.itemsize
        data = (start, at) if kind == _METAL else (start + at, 0)
        c.true(f"{label}: data", (got.data, got.byte_offset) == data, f"{got}")
        c.same(f"{label}: elements", got.elements(c.dtype), base[1:, ::2])
        c.true(f"{label}: flags", got.flags == 0, f"{got.flags}")
        c.true(f"{label}: shape", got.shape == (3, 3) and got.strides == x.strides)
    for stream in (*bad, "a", 1.5):
        c.raises(f"{label}: stream {stream!r}", ValueError,
                 lambda s=stream: x.__dlpack__(stream=s))  # fmt: skip
    own = (kind, index)
    for where, copy in ((own, None), (own, False), (own, True)):
        got = read(x.__dlpack__(dl_device=where, copy=copy, max_version=(1, 0)))
        c.true(f"{label}: dl_device={where}, copy={copy}", got.place == own, f"{got.place}")
        c.true(f"{label}: dl_device={where}, copy={copy}", got.flags == (_COPIED if copy else 0))
        c.same(f"{label}: dl_device={where}, copy={copy}", got.elements(c.dtype), base[1:, ::2])
    got = read(x.__dlpack__(dl_device=(1, 0), max_version=(1, 0)))
    c.true(f"{label}: a copy on the host", got.place == (1, 0) and got.flags == _COPIED, f"{got}")
    c.same(f"{label}: a copy on the host", got.elements(c.dtype), base[1:, ::2])
    c.raises(f"{label}: the host without a copy", BufferError,
             lambda: x.__dlpack__(dl_device=(1, 0), copy=False))  # fmt: skip
    for where in ((kind, index + 1), (kind + 1, index), (12, 0)):
        c.raises(f"{label}: {where}", BufferError, lambda w=where: x.__dlpack__(dl_device=w))
    c.same(f"{label}: afterwards", whole, base)


def _device_in(c: Checks, apart: tb.Device, kind: int, base: Array, stream: int) -> None:
    """Memory of a library that uses the same device."""
    backend = apart.backend
    assert isinstance(backend, Apart)
    index, label = apart.info.index, f"from kind {kind}"
    calls: dict[str, tuple[Exporter, bool | None]] = {
        "new": (Exporter(base.copy(), c.dtype, place=(kind, index)), None),
        "old": (Exporter(base.copy(), c.dtype, old=True, place=(kind, index)), None),
        "part": (Exporter(base.copy()[1:, ::-2], c.dtype, place=(kind, index)), None),
        "no copy": (Exporter(base.copy(), c.dtype, place=(kind, index)), False),
        "copied": (Exporter(base.copy(), c.dtype, place=(kind, index)), True),
    }
    for name, (given, copy) in calls.items():
        what = f"{label}, {name}"
        x = c.attempt(what, lambda g=given, k=copy: tb.from_dlpack(g, device=apart, copy=k))
        if x is None:
            continue
        due = np.array(given.array)
        c.same(what, x, due)
        c.true(f"{what}: device", x.device is apart, f"{x.device!r}")
        new = {"max_version": (1, 1), "stream": stream}
        asked = [new, {"stream": stream}] if given.old else [new]
        c.true(f"{what}: asked", given.asked == asked, f"{given.asked}")
        if not copy:
            c.true(f"{what}: deleter", given.deleted == 0, "was called too early")
            given.array[...] = given.array.reshape(-1)[0]
            c.same(f"{what}: what the owner changed", x, given.array)
        else:
            given.array[...] = given.array.reshape(-1)[0]
            c.same(f"{what}: after the owner changed its own", x, due)
        before = backend.waited
        del x
        _went_back(c, what, given)
        c.true(f"{what}: given back", copy or backend.waited > before, "before the queue was done")
    other = Exporter(base.copy(), c.dtype, place=(kind, index))
    for place in ((kind, index + 1), (1, 0)):
        other.changed = {"device_type": place[0], "device_id": place[1]}
        before = other.deleted
        c.raises(f"{label}: memory of {place}", BufferError,
                 lambda: tb.from_dlpack(other, device=apart))  # fmt: skip
        _went_back(c, f"{label}: memory of {place}", other, before + 1)
    away = Exporter(base.copy(), c.dtype, place=(kind, index + 1))
    away.changed = {"device_type": 1, "device_id": 0}
    c.raises(f"{label}: another one, no copy", ValueError,
             lambda: tb.from_dlpack(away, device=apart, copy=False))  # fmt: skip
    c.same(f"{label}: another one", tb.from_dlpack(away, device=apart), base)
    # The host's memory goes there by a copy.
    plain = Exporter(base.copy(), c.dtype)
    c.raises(f"{label}: the host's, no copy", ValueError,
             lambda: tb.from_dlpack(plain, device=apart, copy=False))  # fmt: skip
    moved = tb.from_dlpack(plain, device=apart)
    c.true(f"{label}: the host's", moved.device is apart and bits_of(host(moved)) == bits_of(base))
