"""Devices by name: one object each, names and aliases, defaults, kernels compiled once."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorbus as tb
from tensorbus import _devices, _info
from tensorbus._state import settings
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import (
    BackendError,
    DeviceInfo,
    Evidence,
    Feature,
    KernelSpec,
    UnknownDeviceError,
)

from ..driver.apart import changed
from ..guard import Guarded
from ..layouts import host
from .checks import Checks, distinct, surface

__all__ = ["devices", "sharing"]


@surface("device", (dt.float32,), (dt.float32,))
def devices(c: Checks) -> None:
    """Names, the default of a thread and of the process, lists, and what a device keeps."""
    _names(c)
    _equality(c)
    _lists(c)
    _settings(c)
    _kernels(c)
    _specs(c)
    _rows(c)


@surface("sharing", (dt.float32,), (dt.float32,))
def sharing(c: Checks) -> None:
    """What is looked up and opened on the way to a device, among made-up ones."""
    _probes(c)
    for number in (0, 3, 11):
        _sharing(c, number)


def _names(c: Checks) -> None:
    """Every name of a device gives the one object."""
    name = c.session.item.device
    one = c.attempt(name, lambda: tb.get_device(name))
    if one is None:
        return
    for text in (name, one.name, one.info.name, *one.info.aliases):
        for turn in range(2):
            found = tb.get_device(text)
            c.true(f"get_device({text!r}), call {turn}", found is one, f"gives another, {found!r}")
    info = one.info
    texts = (info.name, f"{info.plugin}:{info.index}", info.name.upper(), *info.aliases)
    for chosen in (texts, texts[::-1]):
        with changed(_devices, _open={}):  # as in a process that has opened nothing
            opened = [tb.get_device(text) for text in chosen + chosen]
        same = all(f is opened[0] for f in opened)
        c.true("names one after the other", same, f"{chosen} give several objects")
        c.true("names one after the other", opened[0].backend is one.backend, "another device")
    c.true("get_device of a device", tb.get_device(c.device) is c.device)
    c.true("get_device of none", tb.get_device() is c.device)
    with tb.device(name) as inside:
        c.true("device() gives the device", inside is one)
        c.true("get_device of none inside", tb.get_device() is one and tb.get_device(None) is one)
        c.true("a tensor made inside", tb.zeros((2,)).device is one)
    c.true("get_device of none after", tb.get_device() is c.device)
    for bad in ("nothing", "nothing:0", "cpu:99", f"{name}x"):
        c.raises(f"get_device({bad!r})", UnknownDeviceError, lambda b=bad: tb.get_device(b))
        c.raises(f"device({bad!r})", UnknownDeviceError, lambda b=bad: tb.device(b).__enter__())
    for odd in (3, 1.5, b"cpu", ("cpu",)):
        given: Any = odd
        c.raises(f"get_device({odd!r})", TypeError, lambda g=given: tb.get_device(g))
    c.true("get_device of none after errors", tb.get_device() is c.device)


def _equality(c: Checks) -> None:
    """A device equals itself and its names, and nothing else."""
    one = c.device
    info = one.info
    for text in (info.name, *info.aliases):
        c.true(f"{text!r}", one == text and text == one, "is not equal")
        c.true(f"{text!r}", operator.ne(one, text) is False, "is unequal")
    for other in ("", "nothing", f"{info.name}0", info.name.upper() + "!", 3, None, object()):
        c.true(f"{other!r:.20}", one != other, "is equal")
        c.true(f"{other!r:.20}", operator.eq(one, other) is False, "is equal")
    twin = tb.Device(one.backend)
    c.true("another object over the same backend", one != twin, "is equal")
    c.true("hash", hash(one) == hash(c.device) and one in {one} and twin not in {one: 1})
    c.true("text", str(one) == info.name == one.name and f"{one}" == info.name)
    c.true("repr", info.name in repr(one) and info.description in repr(one))
    c.true("capabilities", one.capabilities is one.backend.capabilities)


def _lists(c: Checks) -> None:
    """The device is in every list of devices, with what it can hold."""
    name = c.session.item.device
    lines = {line.name: line for line in tb.devices()}
    c.true("devices()", name in lines and lines[name].available, f"{sorted(lines)}")
    again = [line.name for line in tb.devices()]
    c.true("devices() again", again == [line.name for line in lines.values()])
    info = c.put(np.zeros(1, np.float32)).__array_namespace__().__array_namespace_info__()
    c.true("default_device", info.default_device() is c.device)
    # Others are not opened in this process: they may end it, and they are judged in their own.
    module: Any = _info
    listed = module.devices
    alone = [line for line in lines.values() if line.name == name or not line.available]
    module.devices = lambda: alone
    try:
        found = [d.name for d in info.devices() if isinstance(d, tb.Device)]
    finally:
        module.devices = listed
    c.true("namespace info's devices", found == [name], f"{found}, expected {[name]}")
    known = {d.name: d for d in dt.ALL if c.has(d)}
    for where in (None, c.device):
        c.true(f"dtypes of {where}", info.dtypes(device=where) == known)
        kinds: dict[Any, str] = {
            "bool": "b", "signed integer": "i", "unsigned integer": "u", "integral": "iu",
            "real floating": "f", "numeric": "iuf", ("bool", "real floating"): "bf",
        }  # fmt: skip
        for kind, letters in kinds.items():
            due = {n: d for n, d in known.items() if d.kind in letters}
            got = info.dtypes(device=where, kind=kind)
            c.true(f"dtypes of {where}, {kind}", got == due, f"{sorted(got)}")
        due_defaults = {"real floating": dt.float32, "integral": dt.int64, "indexing": dt.int64}
        c.true(f"default dtypes of {where}", info.default_dtypes(device=where) == due_defaults)
    c.raises("dtypes of no device", UnknownDeviceError, lambda: info.dtypes(device="nothing"))
    said = info.capabilities()
    c.true("capabilities", said["boolean indexing"] is True)
    c.true("capabilities", said["data-dependent shapes"] is True)
    most = said["max dimensions"]
    c.true("max dimensions", isinstance(most, int) and most >= 8, f"{most}")
    # As many dimensions as are promised, of which no two merge.
    if isinstance(most, int):
        array = distinct((2,) * most, c.dtype)
        order = tuple(reversed(range(most)))
        x = c.put(array)
        c.same("max dimensions", tb.add(x, tb.permute_dims(x, order)), array + array.T)


class _Lines:
    """Stands in for the registry: made-up lines, and whether they were to be looked up again."""

    def __init__(self, lines: list[DeviceInfo]) -> None:
        self.lines, self.asked = lines, list[bool]()

    def devices(self, refresh: bool = False, plugin: str | None = None) -> list[DeviceInfo]:
        """The lines."""
        self.asked.append(refresh)
        return self.lines


def _probes(c: Checks) -> None:
    """Plugins are asked once a process: they are asked again only on demand."""
    lines = [DeviceInfo("madeup", "madeup", 0, evidence=Evidence.HARDWARE)]
    calls: dict[str, tuple[Callable[[], Any], bool]] = {
        "devices()": (tb.devices, False),
        "devices(False)": (lambda: tb.devices(False), False),
        "devices(True)": (lambda: tb.devices(True), True),
        "devices(refresh=True)": (lambda: tb.devices(refresh=True), True),
    }
    for label, (call, due) in calls.items():
        registry = _Lines(lines)
        with changed(_devices, registry=registry):
            found = call()
        c.true(label, found == lines, f"{found}")
        c.true(label, registry.asked == [due], f"asked to look again: {registry.asked}")


class _Place:
    """A device as far as `sharing` looks at it."""

    def __init__(self, kind: int, index: int, shared: bool = False, simulated: bool = False):
        evidence = Evidence.SIMULATED if simulated else Evidence.UNSTATED
        self.info = DeviceInfo(
            f"madeup:{index}:{kind}:{shared}", "madeup", index, evidence=evidence
        )
        self.backend = self
        self.dlpack_type, self.shared = kind, shared

    def has(self, feature: Feature) -> bool:
        """Whether the host reaches its memory."""
        return self.shared and feature is Feature.ADDRESS

    def __repr__(self) -> str:
        return self.info.name


def _sharing(c: Checks, n: int) -> None:
    """Whose memory a DLPack device is: asked are open devices, then those that could be it.

    Opened is none that is absent, has another number, or is simulated: it may be slow to open, and
    a simulated one cannot reach real memory.
    """
    kind = 77

    def line(name: str, index: int, available: bool = True, simulated: bool = False) -> DeviceInfo:
        evidence = Evidence.SIMULATED if simulated else Evidence.HARDWARE
        return DeviceInfo(name, "madeup", index, available=available, evidence=evidence)

    right = {"good": _Place(kind, n), "kind": _Place(78, n), "host": _Place(kind, n, shared=True)}
    lines = [
        line("absent", n, available=False), line("other", n + 1),
        line("simulated", n, simulated=True),
        line("broken", n), line("kind", n), line("host", n), line("good", n), line("later", n),
    ]  # fmt: skip
    opened: list[str] = []

    def get_device(name: str) -> Any:
        opened.append(name)
        if name not in right:
            raise BackendError(f"{name} cannot be opened")
        return right[name]

    def look(known: dict[str, Any], given: list[DeviceInfo], *target: Any) -> Any:
        opened.clear()
        with changed(_devices, registry=_Lines(given), get_device=get_device, _open=known):
            return _devices.sharing(kind, n, *target)

    found = c.attempt("sharing", lambda: look({}, lines))
    c.true("sharing", found is right["good"], f"{found!r}")
    c.true("sharing", opened == ["broken", "kind", "host", "good"], f"opened {opened}")
    for k, one in enumerate(lines):
        found = c.attempt(f"sharing, {one.name} alone", lambda one=one: look({}, [one]))
        c.true(f"sharing, {one.name} alone", found is (right["good"] if k == 6 else None))
        due = [one.name] if k > 2 else []
        c.true(f"sharing, {one.name} alone", opened == due, f"opened {opened}")
    known = {p.info.name: p for p in (_Place(kind, n + 1), _Place(78, n), _Place(kind, n, True),
                                      _Place(kind, n, simulated=True))}  # fmt: skip
    found = c.attempt("sharing with an open device", lambda: look(known, lines))
    c.true("sharing with an open device", found is list(known.values())[-1], f"{found!r}")
    c.true("sharing with an open device", not opened, f"opened {opened}")
    target = _Place(kind, n)
    found = c.attempt("sharing with a target", lambda: look(known, lines, target))
    c.true("sharing with a target", found is target and not opened, f"{found!r}")
    found = c.attempt("sharing, wrong target", lambda: look({}, lines, _Place(kind, n + 1)))
    c.true("sharing with another target", found is right["good"], f"{found!r}")
    found = c.attempt("sharing, nothing", lambda: look({}, []))
    c.true("sharing with nothing", found is None, f"{found!r}")


@contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    before = {k: os.environ.get(k) for k in values}

    def put(given: dict[str, str | None]) -> None:
        for key, value in given.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value

    put(values)
    try:
        yield
    finally:
        put(before)


def _elsewhere(call: Callable[[], Any]) -> Any:
    """What a call gives in a thread that has made none yet, or the exception."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def _settings(c: Checks) -> None:
    """What the environment says to a thread that begins."""
    with _environment(TENSORBUS_DEVICE="ref"):
        got = _elsewhere(tb.get_device)
        c.true("TENSORBUS_DEVICE=ref", got == "ref", f"{got!r}")
        c.true("this thread's device", tb.get_device() is c.device)
    with _environment(TENSORBUS_DEVICE="nothing:7"):
        got = _elsewhere(tb.get_device)
        c.true("TENSORBUS_DEVICE=nothing:7", isinstance(got, UnknownDeviceError), f"{got!r}")
    try:
        usual = tb.get_device("cpu")
    except BackendError:
        usual = tb.get_device("ref")
    for unset in (None, ""):
        with _environment(TENSORBUS_DEVICE=unset):
            got = _elsewhere(tb.get_device)
            c.true(f"TENSORBUS_DEVICE={unset!r}", got is usual, f"{got!r}")
            c.true("the same in another", _elsewhere(lambda: tb.zeros((1,)).device) is usual)
    for text, due in (("error", "error"), ("warn", "warn"), ("allow", "allow"), ("", "error"),
                      (None, "error")):  # fmt: skip
        with _environment(TENSORBUS_FALLBACK=text):
            got = _elsewhere(lambda: settings().policy)
            c.true(f"TENSORBUS_FALLBACK={text!r}", got == due, f"{got!r}")
    with _environment(TENSORBUS_FALLBACK="never"):
        got = _elsewhere(lambda: settings().policy)
        c.true("TENSORBUS_FALLBACK=never", isinstance(got, BackendError) and "never" in str(got))
    for text, on in (("1", True), ("0", False), ("", False), (None, False)):
        with _environment(TENSORBUS_REPRODUCIBLE=text):
            got = _elsewhere(lambda: settings().reproducible)
            c.true(f"TENSORBUS_REPRODUCIBLE={text!r}", got is on, f"{got!r}")
    c.true("grad in a new thread", _elsewhere(tb.is_grad_enabled) is True)
    c.true(
        "trace in a new thread",
        _elsewhere(lambda: (settings().trace, settings().depth)) == (None, 0),
    )


class _Counting(Guarded):
    """Counts what it is asked to compile."""

    def __init__(self, real: Any) -> None:
        super().__init__(real)
        self.asked: list[KernelSpec] = []

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Any]:
        self.asked += kernels
        return super().compile(kernels)


def _kernels(c: Checks) -> None:
    """A kernel is compiled once for each device, whatever calls it, and never again by `warm`."""
    backend = _Counting(c.session.guard.real)
    device = tb.Device(backend)
    base = distinct((3, 4), c.dtype)
    with tb.reproducible():
        x = tb.asarray(base, device=device)
        first = tb.add(x, x)
        asked = list(backend.asked)
        c.true("the first call", len(asked) == len(set(asked)) > 0, f"{len(asked)} kernels")
        for other in (x, tb.asarray(base + 1, device=device), tb.asarray(base[:1], device=device)):
            tb.add(other, other)
        y = tb.asarray(np.zeros((6, 4), c.dtype.numpy), device=device)
        tb.add(y, y)
        c.true("another shape", len(set(backend.asked)) == len(backend.asked), "compiled again")
        before = list(backend.asked)
        specs = list(device._kernels)
        device.warm(specs)
        c.true("warm of what is there", backend.asked == before, "compiled again")
        for spec in specs:
            c.true("kernel of what is there", device.kernel(spec) is device._kernels[spec])
        c.true("kernel of what is there", backend.asked == before, "compiled again")
        fresh = tb.Device(_Counting(c.session.guard.real))
        fresh.warm([*specs, *specs])
        assert isinstance(fresh.backend, _Counting)
        c.true("warm of two of each", fresh.backend.asked == specs, f"{len(fresh.backend.asked)}")
        z = tb.asarray(base, device=fresh)
        c.same("a warm device", tb.add(z, z), base + base)
        c.true("a warm device", fresh.backend.asked == specs, "compiled more")
        c.same("the first result", first, base + base)
        _walks(c, device, backend)


def _walks(c: Checks, device: tb.Device, backend: _Counting) -> None:
    """Dense operands in one order in memory are walked by the kernel of a flat array.

    So no dimension costs anything, in whatever order and however many they are.
    """
    for op, call in (("negative", tb.negative), ("square", tb.square)):
        flat = tb.asarray(distinct((64,), c.dtype), device=device)
        call(flat)
        before = len(backend.asked)
        for rank in (2, 3, 6):
            shape = (2,) * (rank - 1) + (64 >> (rank - 1),)
            for order in (tuple(reversed(range(rank))), (*range(1, rank), 0)):
                x = tb.permute_dims(tb.reshape(flat, shape), order)
                got = call(x)
                due = host(x)
                c.same(f"{op} of {shape} in order {order}", got, -due if op == "negative"
                       else due * due)  # fmt: skip
                c.true(
                    f"{op} of {shape} in order {order}", len(backend.asked) == before,
                    "a kernel was compiled that a flat array does not need",
                )  # fmt: skip


def _specs(c: Checks) -> None:
    """Tensors alike in device, dtype, shape and steps share one spec, however they were made."""
    whole = c.put(distinct((4, 1, 6), c.dtype))
    pairs: dict[str, tuple[Callable[[], tb.Tensor], Callable[[], tb.Tensor]]] = {
        "made twice": (lambda: c.put(distinct((2, 3), c.dtype)), lambda: tb.zeros((2, 3))),
        "sliced whole": (lambda: whole, lambda: whole[:, :, :]),
        "one row": (lambda: whole[:1, :, :], lambda: c.put(distinct((1, 1, 6), c.dtype))),
        "one row of another": (lambda: whole[2:3], lambda: tb.zeros((1, 1, 6))),
        "a column of one": (lambda: whole[:1, :, :1], lambda: tb.ones((1, 1, 1))),
        "transposed there and back": (lambda: whole, lambda: whole.mT.mT),
        "steps": (lambda: whole[::2], lambda: c.put(distinct((4, 1, 6), c.dtype))[::2]),
        "nothing": (lambda: whole[:0], lambda: tb.zeros((0, 1, 6))),
        "nothing, transposed": (lambda: whole[:0].mT, lambda: tb.zeros((0, 6, 1))),
        "a number": (lambda: whole[1, 0, 2], lambda: tb.zeros(())),
        "reshaped": (lambda: tb.reshape(whole, (24,)), lambda: tb.zeros((24,))),
    }
    for name, (one, two) in pairs.items():
        for turn in range(2):
            a, b = one(), two()
            c.true(f"specs, {name}, {turn}", a._spec is b._spec, f"{a.strides} and {b.strides}")
    apart = {
        "shape": tb.zeros((2, 6)), "dtype": tb.zeros((3, 4), dtype=dt.int32),
        "steps": tb.zeros((4, 3)).mT, "device": tb.zeros((3, 4), device="ref"),
    }  # fmt: skip
    mine = tb.zeros((3, 4))
    for name, other in apart.items():
        if name != "device" or c.device.name != "ref":
            c.true(f"another {name}", other._spec is not mine._spec, "has the same spec")


def _rows(c: Checks) -> None:
    """An elementwise result keeps the order in memory of dense operands, as NumPy's "K" does."""
    for shape in ((3, 4), (2, 3, 4), (3, 1, 4), (1, 3, 4), (2, 1, 3, 1), (5,), (2, 2, 2)):
        rank = len(shape)
        for order in {tuple(range(rank)), tuple(reversed(range(rank))), (*range(1, rank), 0)}:
            back = tuple(int(k) for k in np.argsort(order))
            memory = distinct([shape[k] for k in order], c.dtype)
            view = memory.transpose(back)
            x = tb.permute_dims(c.put(memory), back)
            plain = c.put(np.ascontiguousarray(view))
            calls: dict[str, tuple[tb.Tensor, Any]] = {
                "-x": (-x, -view),
                "x + x": (x + x, view + view),
                "x + number": (x + 2, view + np.float32(2)),
                "x * plain": (x * plain, None),
                "plain * x": (plain * x, None),
                "astype": (tb.astype(x, dt.int32), view.astype(np.int32)),
                "astype of its own dtype": (tb.astype(x, c.dtype), view),
                "abs": (tb.abs(x), view),
                "where": (tb.where(x > 0, x, x), view),
                "clip": (tb.clip(x, 2, 5), view),
                "relu": (tb.nn.relu(x), view),
                "x > x": (x > x, view > view),
            }
            for name, (got, due) in calls.items():
                steps = np.ascontiguousarray(view).strides if due is None else due.strides
                # NumPy's own steps of dimensions of one are free.
                pairs = zip(got.strides, steps, got.shape, strict=True)
                width = np.ascontiguousarray(view).itemsize if due is None else due.itemsize
                good = all(s * width == d for s, d, n in pairs if n > 1)
                label = f"strides of {name}, {shape} of {order}"
                c.true(label, good, f"{got.strides}, NumPy has {steps} bytes")
