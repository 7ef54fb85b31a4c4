"""DLPack: memory shared with NumPy and back, flags, versions, lifetime, refusals."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Feature

from ..layouts import host
from .checks import Checks, distinct, surface

__all__ = ["dlpack"]

Array = NDArray[Any]
_VERSIONS = (None, (0, 8), (1, 0), (1, 1), (2, 0))


class _Exporter:
    """Passes an array on as another library might: old protocol, other devices, odd answers."""

    def __init__(self, x: Any, old: bool = False, place: tuple[int, int] | None = None) -> None:
        self.x, self.old, self.place = x, old, place
        self.asked: list[dict[str, Any]] = []

    def __dlpack__(self, **options: Any) -> Any:
        self.asked.append(options)
        if self.old:
            if options:
                raise TypeError("unexpected keyword")
            return self.x.__dlpack__()
        if not isinstance(self.x, tb.Tensor):
            options.pop("dl_device", None)
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.place or self.x.__dlpack_device__()


def _shares(c: Checks) -> bool:
    return bool(c.device.has(Feature.ADDRESS))


@surface("dlpack", dt.ALL, (dt.float32,))
def dlpack(c: Checks) -> None:
    """From here to NumPy, from NumPy to here, from here to here."""
    array = distinct((4, 6), c.dtype, 2)
    for layout in ("contiguous", "general", "transposed", "negative", "offset"):
        _out(c, layout, c.put(array, layout), array)
    for shape in ((), (1,), (0, 3), (2, 1, 3)):
        given = distinct(shape, c.dtype, 9)
        _out(c, f"shape {list(shape)}", c.put(given), given)
    _options(c, array)
    if c.dtype is not dt.bfloat16:
        _in(c, array)
        _lifetime(c, array)
    _ours(c, array)
    _errors(c, array)


def _numpy(x: Any, **options: Any) -> Array:
    return np.from_dlpack(x, **options)


def _out(c: Checks, label: str, x: tb.Tensor, array: Array) -> None:
    """NumPy reads what we export; the same memory where the host reaches it."""
    if c.dtype is dt.bfloat16:  # NumPy has no such dtype: read back by us
        for version in _VERSIONS:
            # One of the old protocol cannot be asked for a copy on the host.
            old = version is None and _shares(c)
            back = tb.from_dlpack(_Exporter(x, old=old), device=c.device)
            c.same(f"back through DLPack, {label}, {version}", back, array)
        return
    if not _shares(c):
        got = c.attempt(f"copy to NumPy, {label}", lambda: _numpy(x, device="cpu", copy=True))
        if got is not None:
            c.same(f"copy to NumPy, {label}", got, array)
        return
    got = c.attempt(f"to NumPy, {label}", lambda: _numpy(x))
    if got is None:
        return
    c.same(f"to NumPy, {label}", got, array)
    copied = _numpy(x, copy=True)
    c.same(f"to NumPy copied, {label}", copied, array)
    if array.size:
        x[...] = c.put(array.reshape(-1)[::-1].reshape(array.shape))
        c.device.synchronize()
        c.same(f"NumPy's view after x changed, {label}", got, host(x))
        c.same(f"NumPy's copy after x changed, {label}", copied, array)


def _options(c: Checks, array: Array) -> None:
    """Versions, devices and copies that a consumer may ask for."""
    x = c.put(array, "offset")
    place = x.__dlpack_device__()
    c.true("__dlpack_device__", len(place) == 2 and place == ((1, 0) if _shares(c) else place))
    for version in _VERSIONS:
        for copied in (None, True):
            for where in (None, (1, 0)):
                if not _shares(c) and (where is None):
                    continue
                label = f"max_version={version} copy={copied} dl_device={where}"
                capsule = c.attempt(
                    label,
                    lambda v=version, k=copied, w=where: x.__dlpack__(
                        stream=None, max_version=v, dl_device=w, copy=k
                    ),
                )
                if capsule is None:
                    continue
                new = version is not None and version[0] >= 1
                named = '"dltensor_versioned"' if new else '"dltensor"'
                c.true(label, named in repr(capsule), f"the capsule is {capsule!r}")
                back = tb.from_dlpack(_Capsule(capsule), device=c.device)
                c.same(label, back, array)
    if _shares(c):
        c.true("copy=False", x.__dlpack__(copy=False) is not None)


class _Capsule:
    """What gives one capsule once, in host memory."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **options: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def _in(c: Checks, base: Array) -> None:
    """NumPy's memory is shared, or copied where the device cannot use it in place."""
    forms = {
        "C": base.copy(), "Fortran": np.asfortranarray(base), "negative": base.copy()[::-1, ::-2],
        "steps": base.copy()[1::2, 1::3], "transposed": base.copy().T, "empty": base[:0].copy(),
        "number": base[1, 2, ...].copy(), "broadcast": np.broadcast_to(base[0].copy(), (3, 6)),
    }  # fmt: skip
    for name, given in forms.items():
        due = np.array(given)
        for source in (given, _Exporter(given, old=True)):
            if isinstance(source, _Exporter) and not given.flags.writeable:
                continue
            for copied in (None, True):
                label = f"from NumPy {name}, {type(source).__name__}, copy={copied}"
                if isinstance(source, _Exporter) and copied:
                    continue  # an old exporter cannot copy
                x = c.attempt(
                    label, lambda s=source, k=copied: tb.from_dlpack(s, device=c.device, copy=k)
                )
                if x is None:
                    continue
                c.same(label, x, due)
                c.true(label, x.device is c.device and x.dtype is c.dtype)
                c.same(f"{label}, used", x.reshape(-1), due.reshape(-1))
    shared = base.copy()
    x = tb.from_dlpack(shared, device=c.device)
    alone = tb.from_dlpack(shared, device=c.device, copy=True)
    asked = tb.asarray(_Exporter(shared), device=c.device)
    shared[1] = shared[0]
    c.same("a copy after NumPy changed", alone, base)
    if _shares(c):
        c.same("shared after NumPy changed", x, shared)
        c.same("asarray of an exporter after NumPy changed", asked, shared)
        x[2] = x[3]
        c.device.synchronize()
        c.same("NumPy after the tensor changed", shared[2], shared[3])
        c.true(
            "from_dlpack(copy=False)", tb.from_dlpack(shared, device=c.device, copy=False) is not x
        )
        _readonly(c, base)
    else:
        c.raises(
            "copy=False", ValueError, lambda: tb.from_dlpack(shared, device=c.device, copy=False)
        )


def _readonly(c: Checks, base: Array) -> None:
    """Memory that may not be changed is read, refused for change, and stays so when passed on."""
    frozen = base.copy()
    frozen.flags.writeable = False
    x = c.attempt("readonly", lambda: tb.from_dlpack(frozen, device=c.device))
    if x is None:
        return
    c.same("readonly", x, base)
    for label, view in (("it", x), ("a view of it", x[1:, ::2]), ("its transpose", x.T)):
        c.raises(f"{label} changed", ValueError, lambda view=view: view.__setitem__(0, view[0]))
        c.raises(f"{label} ^= or +=", ValueError, lambda view=view: _change(view))
    c.same("readonly after refusals", frozen, base)
    c.raises("readonly to the old protocol", BufferError, lambda: x.__dlpack__())
    c.true("readonly to NumPy", not _numpy(x).flags.writeable and not np.asarray(x).flags.writeable)
    c.true("readonly copied", _numpy(x, copy=True).flags.writeable)
    c.same("readonly used", x.reshape(-1), base.reshape(-1))


def _change(x: tb.Tensor) -> None:
    if x.dtype is dt.bool_:
        x ^= x
    else:
        x += x


def _lifetime(c: Checks, base: Array) -> None:
    """Memory lives as long as its last user, on both sides, and goes back afterwards."""
    if not _shares(c):
        return
    x = c.put(base)
    seen = _numpy(x)
    part = seen[1:, ::2]
    del x, seen
    for _ in range(6):
        c.put(np.zeros_like(base))
    c.same("NumPy's view of a dropped tensor", part, base[1:, ::2])
    owner = _Owned(base)
    t = tb.from_dlpack(owner.array, device=c.device)
    view = t[1:]
    owner.drop()
    del t
    c.same("a view of dropped NumPy memory", view, base[1:])
    c.true("NumPy memory in use", owner.alive(), "was freed although a view uses it")
    del view
    c.device.synchronize()
    c.true("NumPy memory no longer used", not owner.alive(), "is kept for ever")
    # A block comes back to the pool once its capsule was taken and dropped, or never taken.
    for taken in (True, False):
        live = c.device.backend.memory().used
        for _ in range(3):
            t = c.put(distinct((64, 1024), c.dtype))
            capsule = t.__dlpack__(max_version=(1, 0))
            if taken:
                back = tb.from_dlpack(_Capsule(capsule), device=c.device)
                del back
            del t, capsule
        gc.collect() if c.thorough else c.put(base).__dlpack__()  # either sweeps
        c.device.synchronize()
        grown = c.device.backend.memory().used - live
        c.true(
            f"memory after capsules {taken}", grown < 64 * 1024 * c.dtype.itemsize, f"{grown} bytes"
        )


class _Owned:
    """An array whose end can be observed."""

    def __init__(self, base: Array) -> None:
        import weakref

        self.array: Any = base.copy().view(_Watched)
        self._ref = weakref.ref(self.array)

    def drop(self) -> None:
        self.array = None

    def alive(self) -> bool:
        return self._ref() is not None


class _Watched(np.ndarray):
    """An array that weak references can point to."""


def _ours(c: Checks, array: Array) -> None:
    """A tensor given to `from_dlpack`."""
    x = c.put(array, "general")
    same = tb.from_dlpack(x)
    c.same("from_dlpack of a tensor", same, array)
    c.true("from_dlpack of a tensor", same._buffer is x._buffer)
    made = tb.from_dlpack(x, copy=True)
    c.true("from_dlpack(copy=True) of a tensor", made._buffer is not x._buffer)
    c.same("from_dlpack(copy=True) of a tensor", made, array)
    if c.device.name != "ref":
        moved = tb.from_dlpack(x, device="ref")
        c.true("from_dlpack to ref", moved.device == "ref")
        c.same("from_dlpack to ref", moved, array)
        c.raises("from_dlpack to ref without a copy", ValueError,
                 lambda: tb.from_dlpack(x, device="ref", copy=False))  # fmt: skip


def _errors(c: Checks, array: Array) -> None:
    x = c.put(array)
    for bad in (3, [1], "a", object(), None):
        c.raises(f"from_dlpack({bad!r:.10})", TypeError, lambda bad=bad: tb.from_dlpack(bad))
    for place in ((2, 99), (10, 3), (12, 0)):
        c.raises(
            f"export to {place}", BufferError, lambda place=place: x.__dlpack__(dl_device=place)
        )
        if c.thorough:  # looks at every device of the machine
            c.raises(
                f"import from {place} without a copy",
                ValueError,
                lambda place=place: tb.from_dlpack(_Exporter(x, place=place), copy=False),
            )
    if c.device.backend.dlpack_type is None:
        for stream in (0, 1, -1, "a"):
            c.raises(f"stream {stream!r}", ValueError, lambda s=stream: x.__dlpack__(stream=s))
    if not _shares(c):
        c.raises("no copy to the host", BufferError,
                 lambda: x.__dlpack__(dl_device=(1, 0), copy=False))  # fmt: skip
    capsule = x.__dlpack__(dl_device=(1, 0))
    tb.from_dlpack(_Capsule(capsule), device=c.device)
    for used in (capsule, None, 3):
        c.raises(
            f"a used capsule {type(used).__name__}",
            BufferError,
            lambda used=used: tb.from_dlpack(_Capsule(used), device=c.device),
        )
    for odd in (np.zeros(2, complex), np.zeros(2, np.complex64)):
        c.raises(f"{odd.dtype}", BufferError, lambda odd=odd: tb.from_dlpack(odd, device=c.device))
    if c.dtype.is_float:
        x.requires_grad = True
        c.raises("a leaf", BufferError, lambda: x.__dlpack__())
        c.true("a detached leaf", x.detach().__dlpack__(dl_device=(1, 0)) is not None)
