"""What devices over a grid driver share: `tensorbus_backends.grid` over a driver that is made up.

Its places are objects that can be seen to die, its memory bytes of the host; every call is noted.
"""

from __future__ import annotations

import functools
import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import (
    BackendError,
    Capabilities,
    CompileError,
    DeviceInfo,
    Evidence,
    LaunchError,
    OutOfMemoryError,
    UnsupportedError,
)
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.grid import GridDevice, GridDriver

from ..session import Session
from .apart import forked
from .base import Checks, duty, fetch, filled


class _Place:
    """A position in a block."""

    def __init__(self, data: bytearray, offset: int = 0) -> None:
        self.data, self.offset = data, offset


class _Event:
    def wait(self) -> None:
        """At once."""

    def done(self) -> bool:
        """At once."""
        return True


class _Driver(GridDriver):
    """Notes what it is asked; `short` commands are still to fail for lack of memory."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.short = 0

    def calls(self) -> list[tuple[Any, ...]]:
        """Since the last time."""
        found = list(self.said)
        self.said.clear()
        return found

    def _command(self, *said: Any) -> None:
        self.said.append(said)
        if self.short:
            self.short -= 1
            raise MemoryError

    def obtain(self, nbytes: int) -> _Place:
        self.said.append(("obtain", nbytes))
        return _Place(bytearray(min(nbytes, 1 << 16)))

    def release(self, place: _Place, nbytes: int) -> None:
        self.said.append(("release", nbytes))

    def at(self, place: Any, offset: int) -> _Place:
        if isinstance(place, int):
            return _Place(bytearray(b"%d" % place), offset)
        return _Place(place.data, place.offset + offset) if offset else place

    def write(self, place: _Place, source: memoryview) -> None:
        self._command("write", place.offset, source.nbytes)
        place.data[place.offset : place.offset + source.nbytes] = source

    def read(self, place: _Place, target: memoryview) -> None:
        self._command("read", place.offset, target.nbytes)
        target[:] = place.data[place.offset : place.offset + target.nbytes]

    def copy(self, target: _Place, source: _Place, nbytes: int) -> None:
        self._command("copy", target.offset, source.offset, nbytes)
        piece = source.data[source.offset : source.offset + nbytes]
        target.data[target.offset : target.offset + nbytes] = piece

    def function(self, program: Any, spec: Any) -> Any:
        self.said.append(("function", spec.name, spec.name in program))
        return f"function {spec.name}"

    def launcher(self, function: Any, spec: Any, groups: int, meta: bytes) -> Any:
        self.said.append(("launcher", function, spec.name, groups, meta))
        return lambda buffers: self._command("run", [b.at for b in buffers])

    def synchronize(self) -> None:
        self.said.append(("synchronize",))

    def record(self) -> _Event:
        self.said.append(("record",))
        return _Event()


class _Pointing(_Driver):
    def pointer(self, place: _Place) -> int:
        """Something that goes by the place."""
        return 1000 + place.offset


class _Compiler:
    """Programs are their own texts."""

    identity, parallel, suffix = "made up", 1, ".txt"

    def compile(self, source: str) -> bytes:
        """As it is."""
        return source.encode()

    def load(self, binary: bytes) -> str:
        """As it was."""
        return binary.decode()


@dataclass(frozen=True)
class _Spec:
    """A kernel; its text tells the dialect."""

    name: str
    buffers: int
    words: int
    local: int = 0
    held: Any = None

    def source(self, dialect: Dialect) -> str:
        """When it may."""
        if self.held is not None:
            self.held[0].set()
            self.held[1].wait(20.0)
        return f"void {self.name}(){{}} // {dialect.name}\n"

    def local_bytes(self, dialect: Dialect) -> int:
        """As it says."""
        return self.local

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        """Never."""
        raise NotImplementedError


_PLAIN = Dialect("plain", "", "simt", "void {name}({args})")
_MEMORY = Dialect("in memory", "", "simt", "void {name}({args})")


class _Grid(GridDevice):
    """One whose memory other libraries may have."""

    dlpack_type = 4


def _device(folder: Path, name: str = "fake:0", driver: Any = None, kind: Any = None, **more: Any
            ) -> tuple[Any, Any]:  # fmt: skip
    driver = driver or _Driver()
    capabilities = Capabilities(frozenset({"float32"}), local_memory=1000)
    info, cache = (
        DeviceInfo(name, "fake", 0, evidence=Evidence.UNSTATED),
        DiskCache(folder / "cache"),
    )
    made = (kind or GridDevice)(info, capabilities, _PLAIN, driver, _Compiler(), cache, **more)
    return made, driver


@forked
def memory(checks: Checks, folder: Path, session: Session) -> None:
    """Blocks, their limits, parts, and errors that tell size, place and device."""
    device, driver = _device(folder)
    that = checks.that
    for nbytes in (0, 1, 64, 65, 5000, 1 << 44):
        held = device.allocate(nbytes)
        that((held.nbytes, held.device is device) == (nbytes, True), f"{nbytes} bytes are {held}")
        del held
    (first, *_), kept = driver.calls(), device.memory().cached
    that(first == ("obtain", 64), f"a block is made by {first}")
    that(device.memory().total == 0 and kept > 1 << 44, "by default memory has a limit")
    device.allocate(3 << 20)
    that(not [c for c in driver.calls() if c[0] == "release"], "what is kept goes by default")
    device.empty_cache()
    that(sum(c[0] == "release" for c in driver.calls()) == 5, "empty_cache keeps blocks")
    that(device.memory().cached == 0, "empty_cache keeps something")
    device, driver = _device(folder, total=10_000, largest=5000)
    that(device.allocate(5000).nbytes == 5000, "the largest block is refused")
    that(driver.calls() == [("obtain", 5000)], "a driver is asked for more than its largest")
    text = str(checks.raises(OutOfMemoryError, "5,001 bytes", device.allocate, 5001))
    that(all(w in text for w in ("fake:0", "4.9 KiB", "largest", "smaller")), f"it says {text}")
    that(device.memory().total == 10_000, "the total is lost")
    checks.raises(
        OutOfMemoryError, "three of 5,000", lambda: [device.allocate(4900) for _ in "abc"]
    )
    device, driver = _device(folder, keep=4096)
    for n in (1024, 2048):
        device.allocate(n)
    that(device.memory().cached == 3072, "too little is kept")
    device.allocate(4096)
    that(device.memory().cached == 4096, "more is kept than asked for")
    device, driver = _device(folder)
    buffer = filled(device, bytes(range(100)))
    inner = device.part(device.part(buffer, 10, 50), 5, 20)
    that((inner.nbytes, inner.device is device) == (20, True), "a part has another size")
    that(fetch(device, inner, 20) == bytes(range(15, 35)), "a part is elsewhere")
    that(device.part(buffer, 100, 0).nbytes == 0, "a part of nothing is refused")
    for offset, nbytes in ((-1, 5), (96, 5), (101, 0), (0, -1), (0, 101)):
        text = str(checks.raises(BackendError, "a part", device.part, buffer, offset, nbytes))
        due = f"a part of {nbytes} bytes at offset {offset} does not fit a buffer of 100 bytes"
        that(text == due, f"a part says {text!r}, due is {due!r}")
    for call in (lambda: device.pointer(buffer), lambda: device.import_pointer(5, 9, None)):
        checks.raises(UnsupportedError, "pointers without a dlpack_type", call)
    other, _ = _device(folder, driver=_Pointing(), kind=_Grid)
    mine = other.allocate(100)
    that(other.pointer(other.part(mine, 7, 8)) == 1007, "the pointer of a part is wrong")
    owner = _Place(bytearray())
    seen = weakref.ref(owner)
    borrowed = other.import_pointer(55, 9, owner)
    del owner
    told = (bytes(borrowed.at.data), borrowed.nbytes, borrowed.device is other)
    that(told == (b"55", 9, True) and seen() is not None, f"borrowed memory is {told}")
    for call in (lambda: other.pointer(buffer), lambda: other.part(buffer, 0, 1)):
        text = str(checks.raises(BackendError, "another device's buffer", call))
        that("fake:0 was given a buffer of fake:0; copy it to" in text, f"it says {text}")
    text = str(checks.raises(BackendError, "no buffer", other.part, object(), 0, 1))
    that("a buffer of another" in text, f"what is no buffer says {text}")


@forked
def copies(checks: Checks, folder: Path, session: Session) -> None:
    """Copies go where they should, are tried twice, and say what did not fit."""
    device, driver = _device(folder)
    a, b = filled(device, bytes(range(64))), filled(device, bytes(64))
    driver.calls()
    host = bytearray(3)
    commands: tuple[tuple[str, Callable[[], Any], tuple[Any, ...]], ...] = (
        ("copying to it", lambda: device.copy_in(a, 5, memoryview(b"abc")), ("write", 5, 3)),
        ("copying from it", lambda: device.copy_out(a, 4, memoryview(host)), ("read", 4, 3)),
        ("copying", lambda: device.copy(b, 60, a, 5, 3), ("copy", 60, 5, 3)),
    )  # fmt: skip
    for doing, command, said in commands:
        command()
        checks.that(driver.calls() == [said], f"{doing} is done by other calls")
        device.allocate(1000)  # something is kept
        driver.calls()
        driver.short = 1
        command()
        again = [c for c in driver.calls() if c[0] != "obtain"]
        checks.that(again == [said, ("release", 1024), said], f"{doing}: lacking memory {again}")
        driver.short = 2
        text = str(checks.raises(OutOfMemoryError, doing, command))
        due = f"fake:0: out of memory while {doing}; drop tensors"
        checks.that(text.startswith(due), f"{doing} without memory says {text}")
        checks.that(len(driver.calls()) == 2, f"{doing} is tried more than twice")
    checks.that(bytes(host) == b"\x04ab", f"the host has {bytes(host)!r}")
    checks.that(fetch(device, b, 3, 60) == b"abc", "a copy is elsewhere")
    driver.calls()
    device.copy_in(a, 64, memoryview(b""))
    device.copy_out(a, 64, memoryview(bytearray()))
    device.copy(b, 64, a, 64, 0)
    checks.that(driver.calls() == [], "copies of nothing ask the driver")
    for call, nbytes, offset in (
        (lambda: device.copy_in(a, 62, memoryview(b"abc")), 3, 62),
        (lambda: device.copy_out(a, -1, memoryview(bytearray(2))), 2, -1),
        (lambda: device.copy(b, 61, a, 3, 4), 4, 61), (lambda: device.copy(b, 3, a, 62, 4), 4, 62),
        (lambda: device.copy(b, 1, a, 0, -1), -1, 1), (lambda: device.copy(b, 0, a, -2, 1), 1, -2),
    ):  # fmt: skip
        due = f"a copy of {nbytes} bytes at offset {offset} does not fit a buffer of 64 bytes"
        text = str(checks.raises(BackendError, due, call))
        checks.that(text == due, f"it says {text!r}, due is {due!r}")
    checks.that(driver.calls() == [], "a copy that does not fit is begun")
    device.synchronize()
    checks.that(isinstance(device.record(), _Event), "an event is not the driver's")
    checks.that(driver.calls() == [("synchronize",), ("record",)], "waiting is done otherwise")


def _meta(words: int) -> bytes:
    return bytes(range(8 * words))


@forked
def launches(checks: Checks, folder: Path, session: Session) -> None:
    """Kernels come once, with metadata as arguments as long as it fits, and in memory beyond."""
    that = checks.that
    for limit, memory_, words, due in (
        (64, _MEMORY, 6, False), (64, _MEMORY, 7, True), (63, _MEMORY, 6, True),
        (0, _MEMORY, 20, False), (64, None, 20, False), (72, _MEMORY, 7, False),
        (72, _MEMORY, 8, True), (None, _MEMORY, 20, False), (64, ..., 20, False),
    ):  # fmt: skip
        more: dict[str, Any] = {} if limit is None else {"argument_bytes": limit}
        more |= {} if memory_ is ... else {"in_memory": memory_}
        device, driver = _device(folder, **more)
        spec, meta = _Spec("k", 2, words), _meta(words)
        (kernel,) = device.compile([spec])
        what = f"{words} words and 2 buffers of at most {limit} bytes"
        that(kernel.in_memory is due, f"{what}: metadata is in memory: {not due}")
        that(("// in memory" in kernel.program) == due, f"{what}: the dialect is another")
        that((kernel.spec, kernel.function) == (spec, "function k"), f"{what}: another kernel")
        a: Any = filled(device, b"a")
        b: Any = filled(device, b"b")
        driver.calls()
        ready = kernel.prepare(3, meta)
        for launch in (lambda d=device, k=kernel, x=(a, b), m=meta: d.launch(k, 3, list(x), m),
                       lambda r=ready, x=(a, b): r(*x)):  # fmt: skip
            launch()
            said = driver.calls()
            (run,) = [c for c in said if c[0] == "run"]
            places = run[1]
            that(places[:2] == [a.at, b.at], f"{what}: other buffers are launched")
            that(len(places) == 2 + due, f"{what}: {len(places)} buffers are launched")
            if due:
                that(bytes(places[2].data[: len(meta)]) == meta, f"{what}: other metadata")
        fresh = [c for c in said if c[0] == "launcher"]
        that(not fresh, "a prepared launch is prepared again")
        kernel.prepare(4, meta)
        (made,) = [c for c in driver.calls() if c[0] == "launcher"]
        given = ("launcher", "function k", "k", 4, b"" if due else meta)
        that(made == given, f"{what}: a launch is made by {made}, due is {given}")
    device, driver = _device(folder)
    one, two = _Spec("one", 1, 1), _Spec("two", 2, 2, 1000)
    kernels = device.compile([one, two, one])
    that([k.spec.name for k in kernels] == ["one", "two", "one"], "kernels are in another order")
    that(driver.calls() == [("function", "one", True), ("function", "two", True)], "made twice")
    that(device.compile([two, one]) == [kernels[1], kernels[0]], "they are compiled again")
    that(driver.calls() == [], "they are compiled again")
    text = str(checks.raises(CompileError, "1,001", device.compile, [_Spec("big", 1, 1, 1001)]))
    due_words = ("kernel 'big' needs 1001 bytes", "fake:0 has 1000")
    that(all(w in text for w in due_words), f"too much local memory says {text}")
    a, b = device.allocate(8), device.allocate(8)
    kernel, good = kernels[1], _meta(2)
    cases: tuple[tuple[int, list[Any], bytes, str], ...] = (
        (1, [a], good, "kernel 'two' takes 2 buffers, 1 were given"),
        (1, [a, b, a], good, "kernel 'two' takes 2 buffers, 3 were given"),
        (1, [a, b], good[:-1], "kernel 'two' takes 16 bytes of metadata, 15 were given"),
        (1, [a, b], _meta(3), "kernel 'two' takes 16 bytes of metadata, 24 were given"),
        (0, [a, b], good, "kernel 'two' was launched with 0 groups; it needs at least 1"),
        (-2, [a, b], good, "kernel 'two' was launched with -2 groups; it needs at least 1"),
    )
    for groups, buffers, meta, due_text in cases:
        calls = [functools.partial(device.launch, kernel, groups, buffers, meta)]
        if len(buffers) == 2:
            calls.append(functools.partial(kernel.prepare, groups, meta))
        for call in calls:
            text = str(checks.raises(LaunchError, due_text, call))
            that(text == due_text, f"a launch says {text!r}, due is {due_text!r}")
    text = str(checks.raises(LaunchError, "no kernel", device.launch, object(), 1, [], b""))
    that("fake:0 was given a kernel that it did not compile" in text, f"no kernel says {text}")
    stranger = _device(folder, "fake:1")[0].allocate(8)
    text = str(checks.raises(BackendError, "a stranger", device.launch, kernel, 1, [a, stranger],
                             good))  # fmt: skip
    that("fake:0 was given a buffer of fake:1; copy it to fake:0 first" in text, f"it says {text}")
    driver.calls()
    ready = kernel.prepare(1, good)
    for launched in (
        functools.partial(device.launch, kernel, 1, [a, b], good), functools.partial(ready, a, b)
    ):  # fmt: skip
        driver.short = 1
        launched()
        that(sum(c[0] == "run" for c in driver.calls()) == 2, "a launch is not tried again")
        driver.short = 2
        text = str(checks.raises(OutOfMemoryError, "a launch", launched))
        that("fake:0: out of memory while launching kernel 'two'; " in text, f"it says {text}")
        that(sum(c[0] == "run" for c in driver.calls()) == 2, "it is tried more than twice")


def _inside(checks: Checks, device: Any, made: dict[str, Any], parent: int) -> None:
    """What holds in a forked child."""
    gc.collect()
    driver = made["driver"]()
    checks.that(driver is not None, "a fork lets go of the driver")
    calls: dict[str, Callable[[], Any]] = {
        "allocate": lambda: device.allocate(1 << 20), "synchronize": device.synchronize,
        "record": device.record, "part": lambda: device.part(made["held"], 1, 2),
        "copy_in": lambda: device.copy_in(made["held"], 0, memoryview(b"x")),
        "copy_out": lambda: device.copy_out(made["held"], 0, memoryview(bytearray(1))),
        "copy": lambda: device.copy(made["held"], 0, made["held"], 50, 1),
        "compile": lambda: device.compile([_Spec("fresh", 1, 1)]),
        "launch": lambda: device.launch(made["kernel"], 1, [made["held"]], _meta(1)),
    }  # fmt: skip
    for name, call in calls.items():
        text = str(checks.raises(BackendError, f"{name} in a child", call))
        due = f"{device.info.name} was opened by process {parent}, and its driver does not survive"
        checks.that(text.startswith(due), f"{name} in a child says {text!r}, due is {due!r}")
    places = [weakref.ref(made["held"].at), weakref.ref(made["kept"].at)]
    del made["kept"], made["held"]
    device.empty_cache()
    gc.collect()
    checks.that(device.memory().cached == 0, "a child keeps blocks")
    checks.that(all(p() is not None for p in places), "a child lets go of its parent's memory")
    checks.that(driver is None or driver.said == [], "a child asks its parent's driver")


def _child(checks: Checks, work: Callable[[], None]) -> None:
    """Do `work` in a forked child, whose finding becomes this one's."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            work()
        except BaseException as error:
            checks.that(False, f"in a child: {type(error).__name__}: {error}")
        finally:
            text = checks.outcome.message if checks.outcome.state != "pass" else ""
            os.write(writing, text.encode())
            os._exit(0)
    os.close(writing)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reading) as said:
        text = said.read()
    checks.that(status == 0, f"a forked child ends with status {status}")
    checks.that(not text, text)


@forked
def forks(checks: Checks, folder: Path, session: Session) -> None:
    """In a forked child every call is refused, nothing is freed, and no lock is left behind."""
    device, driver = _device(folder)
    (kernel,) = device.compile([_Spec("k", 1, 1)])
    made = {
        "held": filled(device, bytes(64)), "kept": filled(device, bytes(200)), "kernel": kernel,
        "driver": weakref.ref(driver),
    }  # fmt: skip
    parent = os.getpid()
    asked, go = threading.Event(), threading.Event()
    spec = _Spec("held", 1, 1, 0, (asked, go))
    thread = threading.Thread(target=lambda: device.compile([spec]), daemon=True)
    thread.start()
    checks.that(asked.wait(20.0), "a kernel is compiled without its text")
    driver.said.clear()
    del driver

    def inside() -> None:
        if checks.outcome.state == "pass":
            _inside(checks, device, made, parent)

    _child(checks, inside)

    def deeper() -> None:
        _child(checks, inside)

    _child(checks, deeper)  # a grandchild is told who opened it
    go.set()
    thread.join(20.0)
    checks.that(not thread.is_alive(), "a compilation hangs after a fork")
    ready = kernel.prepare(1, _meta(1))
    ready(made["held"])
    real = device.driver
    real.said.clear()

    def prepared() -> None:
        checks.raises(BackendError, "a prepared launch in a child", ready, made["held"])
        checks.that(real.said == [], "a launch prepared before a fork reaches the driver")

    _child(checks, prepared)
    ready(made["held"])
    checks.that([c[0] for c in real.calls()] == ["run"], "the parent's driver is another")


duty("grid", memory, copies, launches, forks, plugins=("cpu",), smoke=False)
