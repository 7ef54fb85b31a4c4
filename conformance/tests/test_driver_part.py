"""A device that breaks one promise of the contract is caught by the duty that judges it."""

from __future__ import annotations

import ctypes
import ctypes.util
import dataclasses
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorbus as tb
from tensorbus_backends import ref
from tensorbus_backends.contract import (
    BackendError,
    CompileError,
    Feature,
    LaunchError,
    MemoryFigures,
    OutOfMemoryError,
    UnsupportedError,
)
from tensorbus_conformance.judge import parts
from tensorbus_conformance.judge.driver import processes, queue
from tensorbus_conformance.judge.guard import Guarded
from tensorbus_conformance.judge.items import Item, Outcome
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session


def judged(backend: Any, part: str, name: str) -> Outcome:
    parts.load()
    item = Item(f"driver.{part}", "ref", "float32", "portable")
    return judge(Session(item, tb.Device(Guarded(backend)), "smoke", 0), name)


def duties() -> Iterator[tuple[str, str]]:
    parts.load()
    for made in parts.PARTS.values():
        if made.family == "driver" and not made.plugins:
            for name in made.properties:
                yield made.name.partition(".")[2], name


SYNCHRONOUS = frozenset({Feature.SYNCHRONOUS})
PARTS = ref.RefDevice.features | {Feature.PARTS}


class Late(ref.RefDevice):
    """The interpreter behind a queue: launches and copies run when someone waits."""

    features = frozenset[str]()

    def __init__(self) -> None:
        super().__init__(ref.PLUGIN.probe()[0])
        self.queue: list[Callable[[], None]] = []
        self.passed = 0

    def later(self, work: Callable[[], None]) -> None:
        self.queue.append(work)

    def run(self, until: int) -> None:
        while self.passed < until and self.queue:
            self.passed += 1
            self.queue.pop(0)()

    def copy_in(self, target: Any, offset: int, source: memoryview) -> None:
        ref._span(target, offset, source.nbytes)
        data = memoryview(source.tobytes())
        self.later(lambda: ref.RefDevice.copy_in(self, target, offset, data))

    def copy_out(self, source: Any, offset: int, target: memoryview) -> None:
        self.synchronize()
        super().copy_out(source, offset, target)

    def copy(self, target: Any, to: int, source: Any, start: int, nbytes: int) -> None:
        ref._span(target, to, nbytes)
        ref._span(source, start, nbytes)
        self.later(lambda: ref.RefDevice.copy(self, target, to, source, start, nbytes))

    def launch(self, kernel: Any, groups: int, buffers: Sequence[Any], meta: bytes) -> None:
        spec, kept = kernel.spec, list(buffers)
        if len(kept) != spec.buffers or len(meta) != 8 * spec.words or groups < 1:
            raise LaunchError("the arguments do not fit")
        for buffer in kept:
            ref._array(buffer)
        self.later(lambda: ref.RefDevice.launch(self, kernel, groups, kept, meta))

    def synchronize(self) -> None:
        self.run(self.passed + len(self.queue))

    def record(self) -> Any:
        device, place = self, self.passed + len(self.queue)

        class Point:
            def wait(self) -> None:
                device.run(place)

            def done(self) -> bool:
                device.run(min(place, device.passed + 1))
                return device.passed >= place

        return Point()

    def address(self, buffer: Any) -> int:
        raise UnsupportedError("late: the host cannot reach it")

    def import_pointer(self, address: int, nbytes: int, owner: object) -> Any:
        raise UnsupportedError("late: it takes no other memory")


@pytest.mark.parametrize(("part", "name"), list(duties()))
def test_a_late_device_that_keeps_its_promises_passes(part: str, name: str) -> None:
    if part == "threads":
        pytest.skip("its queue is for one thread")
    outcome = judged(Late(), part, name)
    assert outcome.state == "pass", outcome
    assert outcome.decided


# -- faults: a method that replaces the device's own, and the property that must see it -----------


def refuses(*arguments: Any, **options: Any) -> Any:
    raise NotImplementedError


def nothing(*arguments: Any, **options: Any) -> None:
    return None


Host = ref.RefDevice
plain_copy_in, plain_copy_out, plain_copy = Host.copy_in, Host.copy_out, Host.copy


def small(self: Any, nbytes: int) -> Any:
    return Host.allocate(self, max(nbytes - 1, 0))


def in_use(self: Any, nbytes: int) -> Any:
    """Every 23rd block is the one before it."""
    self.made = getattr(self, "made", 0) + 1
    old = getattr(self, "old", None)
    if self.made % 23 == 0 and old is not None and old.size >= nbytes:
        return ref.RefBuffer(self, old[:nbytes])
    buffer = Host.allocate(self, nbytes)
    self.old = buffer.array  # type: ignore[attr-defined]
    return buffer


def crooked(self: Any, nbytes: int) -> Any:
    buffer: Any = Host.allocate(self, nbytes + 8)
    return ref.RefBuffer(self, buffer.array[8:])


def words_in(self: Any, target: Any, offset: int, source: memoryview) -> None:
    """Copies whole words only, as a driver with 32-bit transfers does."""
    data = source.tobytes()
    n = len(data) // 4 * 4
    plain_copy_in(self, target, offset, memoryview(data[:n]))


def rounded_in(self: Any, target: Any, offset: int, source: memoryview) -> None:
    """Writes up to the next word."""
    data = source.tobytes()
    room = target.array.size - offset - len(data)
    plain_copy_in(self, target, offset, memoryview(data + bytes(min(room, -len(data) % 4))))


def words_out(self: Any, source: Any, offset: int, target: memoryview) -> None:
    plain_copy_out(self, source, offset & ~3 if target.nbytes % 2 else offset, target)


def aligned_copy(self: Any, target: Any, to: int, source: Any, start: int, nbytes: int) -> None:
    plain_copy(self, target, to, source, start & ~3, nbytes)


def borrowed_in(self: Any, target: Any, offset: int, source: memoryview) -> None:
    """Reads the host's memory when the queue gets there."""
    ref._span(target, offset, source.nbytes)
    self.later(lambda: plain_copy_in(self, target, offset, source))


def few_groups(self: Any, kernel: Any, groups: int, buffers: Any, meta: bytes) -> None:
    if groups <= 65535:
        Host.launch(self, kernel, groups, buffers, meta)


def unchecked(self: Any, kernel: Any, groups: int, buffers: Any, meta: bytes) -> None:
    if len(buffers) == kernel.spec.buffers and len(meta) == 8 * kernel.spec.words and groups > 0:
        Host.launch(self, kernel, groups, buffers, meta)


def stale_meta(self: Any, kernel: Any, groups: int, buffers: Any, meta: bytes) -> None:
    self.metas = getattr(self, "metas", {})
    Host.launch(self, kernel, groups, buffers, self.metas.setdefault((kernel.spec, groups), meta))


def last_first(self: Any, until: int) -> None:
    while self.passed < until and self.queue:
        self.passed += 1
        self.queue.pop()()


def loose_launch(self: Any, kernel: Any, groups: int, buffers: Any, meta: bytes) -> None:
    """Keeps addresses, not buffers; what is dropped meanwhile is scribbled over."""
    arrays, device = [b.array for b in buffers], self

    class Loose(ref.RefBuffer):
        def __init__(self, array: Any) -> None:
            self.device, self.array, self.keep, self.nbytes = device, array, None, 0

    import weakref

    for buffer, array in zip(buffers, arrays, strict=True):
        weakref.finalize(buffer, array.fill, 0)
    self.later(lambda: Host.launch(self, kernel, groups, [Loose(a) for a in arrays], meta))


class Done:
    def wait(self) -> None:
        """Returns at once."""

    def done(self) -> bool:
        return True


class Never(Done):
    def done(self) -> bool:
        return False


def overtaking_in(self: Any, target: Any, offset: int, source: memoryview) -> None:
    plain_copy_in(self, target, offset, source)


def wiping(self: Any) -> None:
    self.synchronize()
    import gc

    for found in gc.get_objects():
        if type(found) is ref.RefBuffer and found.device is self and found.nbytes == 1000:
            found.array[:10] = 0


def wide_copy(self: Any, target: Any, to: int, source: Any, start: int, nbytes: int) -> None:
    """NumPy's rules for slices: negative positions count from the end."""
    target.array[to:][:nbytes] = 0
    source.array[start:][:nbytes].sum()


def grows(self: Any, nbytes: int) -> Any:
    self.hoard = [*getattr(self, "hoard", []), Host.allocate(self, nbytes)]
    return Host.allocate(self, nbytes)


def huge(self: Any, nbytes: int) -> Any:
    if nbytes > 1 << 46:
        raise MemoryError("no")
    return Host.allocate(self, nbytes)


def shared_arguments(self: Any, kernel: Any, groups: int, buffers: Any, meta: bytes) -> None:
    self.arguments = (kernel, groups, buffers, meta)
    time.sleep(0.001)
    Host.launch(self, *self.arguments)


def by_label(self: Any, kernels: Sequence[Any]) -> list[Any]:
    self.known = getattr(self, "known", {})
    return [self.known.setdefault(k.label, ref._Interpreted(k)) for k in kernels]


def backwards(self: Any, kernels: Sequence[Any]) -> list[Any]:
    return [ref._Interpreted(k) for k in reversed(kernels)]


def copied_import(self: Any, address: int, nbytes: int, owner: object) -> Any:
    buffer: Any = Host.allocate(self, nbytes)
    buffer.array[:] = Host.import_pointer(self, address, nbytes, owner).array  # type: ignore[attr-defined]
    return buffer


def eternal_import(self: Any, address: int, nbytes: int, owner: object) -> Any:
    self.owners = [*getattr(self, "owners", []), owner]
    return Host.import_pointer(self, address, nbytes, owner)


def forgetful_import(self: Any, address: int, nbytes: int, owner: object) -> Any:
    return Host.import_pointer(self, address, nbytes, None)


def first_part(self: Any, buffer: Any, offset: int, nbytes: int) -> Any:
    return ref.RefBuffer(self, ref._span(buffer, 0, nbytes), buffer)


def keeping(self: Any, kernel: Any, groups: int, buffers: Any, meta: bytes) -> None:
    self.kept = [*getattr(self, "kept", []), *buffers]
    Host.launch(self, kernel, groups, buffers, meta)


def fork_wrong(self: Any, kernel: Any, groups: int, buffers: Any, meta: bytes) -> None:
    self.parent = getattr(self, "parent", os.getpid())
    Host.launch(self, kernel, groups, buffers, meta)
    if os.getpid() != PARENT:
        buffers[-1].array[:] = 0


def fork_hangs(self: Any, kernel: Any, groups: int, buffers: Any, meta: bytes) -> None:
    while os.getpid() != PARENT:
        time.sleep(0.1)
    Host.launch(self, kernel, groups, buffers, meta)


def by_length(self: Any, target: Any, offset: int, source: memoryview) -> None:
    """Takes the number of items for that of bytes."""
    plain_copy_in(self, target, offset, memoryview(source.tobytes()[: len(source)]))


def forgetting(self: Any) -> None:
    self.forgotten = True


def forgotten(self: Any, kernel: Any, groups: int, buffers: Any, meta: bytes) -> None:
    """Kernels do not outlive `forgetting`."""
    if not getattr(self, "forgotten", False):
        Host.launch(self, kernel, groups, buffers, meta)


def present_peak(self: Any) -> Any:
    found = Host.memory(self)
    return dataclasses.replace(found, peak=found.used)


LOCK = threading.Lock()


def locked(self: Any, kernels: Sequence[Any]) -> list[Any]:
    """A lock that nobody makes anew after a fork."""
    with LOCK:
        for kernel in kernels:
            if hasattr(kernel, "go"):
                kernel.asked.set()
                kernel.go.wait(5)
    return [ref._Interpreted(k) for k in kernels]


def rounding(self: Any, kernel: Any, groups: int, buffers: Any, meta: bytes) -> None:
    """Computes in whatever mode the caller has."""
    with mock.patch.object(ref, "_rounds_to_nearest", return_value=True):
        Host.launch(self, kernel, groups, buffers, meta)


PARENT = os.getpid()


def figure(**changes: Any) -> Callable[[Any], Any]:
    return lambda self: dataclasses.replace(Host.memory(self), **changes)


def capability(**changes: Any) -> dict[str, Any]:
    return {"capabilities": changes}


def rounds_down(self: Any, *arguments: Any) -> None:
    """It leaves the thread rounding down."""
    Host.launch(self, *arguments)
    ctypes.CDLL(ctypes.util.find_library("m")).fesetround(0x400)


def as_rounded(self: Any, *arguments: Any) -> None:
    """Without a look at the thread's modes."""
    kernel, groups, buffers, meta = arguments
    arrays = [
        b.array.view(a.dtype.numpy) for a, b in zip(kernel.spec.arguments(), buffers, strict=True)
    ]
    kernel.spec.interpret(arrays, np.frombuffer(meta, np.int64), groups)


def blocks_signal(self: Any, *arguments: Any) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    Host.launch(self, *arguments)


def polls(self: Any, *arguments: Any) -> None:
    """A thread that never sleeps is left behind, for as long as the test lasts."""
    until = time.monotonic() + 1.5

    def turn() -> None:
        while time.monotonic() < until:
            pass

    threading.Thread(target=turn, daemon=True).start()
    Host.launch(self, *arguments)


_mapped: list[mmap.mmap] = []


def maps(self: Any, nbytes: int) -> Any:
    if nbytes > 1 << 20:
        _mapped.append(mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    return Host.allocate(self, nbytes)


def short_large_copy(self: Any, target: Any, to: int, source: Any, start: int, nbytes: int) -> None:
    plain_copy(self, target, to, source, start, nbytes - (nbytes > 1 << 22))


FAULTS: dict[str, tuple[str, str, type[Any], dict[str, Any]]] = {
    "a dtype that does not exist": (
        "capabilities", "declared", Host, capability(dtypes=frozenset({"float32", "float128"})),
    ),
    "half-flushed": ("capabilities", "declared", Host, capability(subnormals="some")),
    "division nearly right": ("capabilities", "declared", Host, capability(division="good")),
    "groups of none": ("capabilities", "declared", Host, capability(max_group=0)),
    "no fp64, yet float64": ("capabilities", "agreement", Host, capability(fp64=False)),
    "no address": ("capabilities", "agreement", Host, {"address": refuses}),
    "an address it denies": (
        "capabilities", "agreement", Late, {"address": lambda self, b: 4096},
    ),
    "no evidence": ("capabilities", "identity", Host, {"info": {"evidence": "certain"}}),
    "no key": ("capabilities", "records", Host, {"info": {"description": ["some", "words"]}}),
    "another's name": ("capabilities", "identity", Host, {"info": {"name": "cuda:0"}}),
    "None for a buffer": ("allocate", "sizes", Host, {"allocate": nothing}),
    "a byte too few": ("allocate", "sizes", Host, {"allocate": small}),
    "crooked blocks": ("allocate", "sizes", Host, {"allocate": crooked}),
    "blocks in use": ("allocate", "ownership", Host, {"allocate": in_use}),
    "copy not made": ("copy", "across", Host, {"copy": refuses}),
    "copy does nothing": ("copy", "across", Host, {"copy": nothing}),
    "copy from words": ("copy", "across", Host, {"copy": aligned_copy}),
    "words in": ("copy", "inward", Host, {"copy_in": words_in}),
    "rounded in": ("copy", "inward", Host, {"copy_in": rounded_in}),
    "the host's bytes later": ("copy", "inward", Late, {"copy_in": borrowed_in}),
    "words out": ("copy", "outward", Host, {"copy_out": words_out}),
    "16 bits of groups": ("launch", "grids", Host, {"launch": few_groups}),
    "stale metadata": ("launch", "arguments", Host, {"launch": stale_meta}),
    "the last first": ("launch", "order", Late, {"run": last_first}),
    "synchronize does nothing": ("queue", "events", Late, {"synchronize": nothing}),
    "synchronize not made": ("queue", "events", Late, {"synchronize": refuses}),
    "record not made": ("queue", "events", Late, {"record": refuses}),
    "record gives nothing": ("queue", "events", Late, {"record": nothing}),
    "never done": ("queue", "events", Late, {"record": lambda self: Never()}),
    "said to be synchronous": ("queue", "events", Late, {"features": SYNCHRONOUS}),
    "done too early": ("queue", "early", Late, {"record": lambda self: Done()}),
    "wait does nothing": ("queue", "waiting", Late, {"record": lambda self: Done()}),
    "pending buffers lost": ("queue", "pending", Late, {"launch": loose_launch}),
    "copies overtake": ("queue", "lateness", Late, {"copy_in": overtaking_in}),
    "memory not made": ("memory", "figures", Host, {"memory": refuses}),
    "memory gives nothing": ("memory", "figures", Host, {"memory": nothing}),
    "nothing is used": ("memory", "figures", Host, {"memory": figure(used=0)}),
    "no peak": ("memory", "figures", Host, {"memory": figure(peak=0)}),
    "always cached": ("memory", "figures", Host, {"memory": figure(cached=64)}),
    "empty_cache not made": ("memory", "figures", Host, {"empty_cache": refuses}),
    "empty_cache wipes": ("memory", "figures", Host, {"empty_cache": wiping}),
    "a leak": ("memory", "leaks", Host, {"allocate": grows}),
    "a bare MemoryError": ("errors", "memory", Host, {"allocate": huge}),
    "copies anywhere": ("errors", "ranges", Host, {"copy": wide_copy}),
    "launches of anything": ("errors", "launches", Host, {"launch": unchecked}),
    "launch arguments shared": ("threads", "concurrency", Host, {"launch": shared_arguments}),
    "a wrong child": ("fork", "fork", Host, {"launch": fork_wrong}),
    "a hanging child": ("fork", "fork", Host, {"launch": fork_hangs}),
    "another's buffers": ("errors", "foreign", Host, {"copy_in": nothing}),
    "the caller's rounding": ("launch", "modes", Host, {"launch": rounding}),
    "a lock held in a child": ("fork", "busy", Host, {"compile": locked}),
    "prepared with stale metadata": ("launch", "prepared", Host, {"launch": stale_meta}),
    "groups with stale metadata": ("launch", "mixed", Host, {"launch": stale_meta}),
    "items for bytes": ("copy", "hosts", Host, {"copy_in": by_length}),
    "kernels that are not kept": (
        "compile", "again", Host, {"empty_cache": forgetting, "launch": forgotten},
    ),
    "the present peak": ("memory", "series", Host, {"memory": present_peak}),
    "launches keep buffers": ("oom", "every_allocation", Host, {"launch": keeping}),
    "a key without constants": ("compile", "batches", Host, {"compile": by_label}),
    "batches backwards": ("compile", "batches", Host, {"compile": backwards}),
    "imports are copies": ("import", "imports", Host, {"import_pointer": copied_import}),
    "imports for ever": ("import", "imports", Host, {"import_pointer": eternal_import}),
    "imports without owner": ("import", "imports", Host, {"import_pointer": forgetful_import}),
    "parts from the start": ("import", "parts", Host, {"part": first_part, "features": PARTS}),
    "parts that are none": ("capabilities", "agreement", Host, {"features": PARTS}),
    "a feature that is none": (
        "capabilities", "agreement", Host, {"features": frozenset({"address", "part"})},
    ),
    "launches that round down": ("environment", "modes", Host, {"launch": rounds_down}),
    "a caller's rounding": ("environment", "modes", Host, {"launch": as_rounded}),
    "a blocked signal": ("environment", "signals", Host, {"launch": blocks_signal}),
    "a thread that polls": ("environment", "idle", Host, {"launch": polls}),
    "address space kept": ("memory", "space", Host, {"allocate": maps}),
    "large copies cut": ("copy", "across", Host, {"copy": short_large_copy}),
}  # fmt: skip


# -----------------------------------------------------------------------------------------------


def planted(base: type[Any], changes: dict[str, Any]) -> Any:
    replaced = ("capabilities", "info")
    made = type("Planted", (base,), {k: v for k, v in changes.items() if k not in replaced})
    device = made() if base is Late else made(ref.PLUGIN.probe()[0])
    for name in replaced:
        if name in changes:
            changed = dataclasses.replace(getattr(device, name), **changes[name])
            setattr(device, name, changed)
    return device


@cache
def sound(base: type[Any], part: str, duty: str) -> bool:
    return judged(planted(base, {}), part, duty).state == "pass"


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_promise_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part, duty, base, changes = FAULTS[name]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        _broken(part, duty, base, changes, monkeypatch)
    finally:
        ctypes.CDLL(ctypes.util.find_library("m")).fesetround(0)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _mapped.clear()


def _broken(
    part: str, duty: str, base: type[Any], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_WAIT_S", 1.5)
    monkeypatch.setattr(queue, "_POLL_S", 0.2)
    assert sound(base, part, duty)
    outcome = judged(planted(base, changes), part, duty)
    assert outcome.state in ("fail", "error"), outcome
    assert outcome.message


def test_every_duty_has_a_fault_that_it_sees() -> None:
    other = {("errors", "compilation")}  # below: the interpreter reads no text
    # The toolkit's own classes are broken in test_toolkit_duties.py, skeletons in
    # test_unasked_ways.py.
    toolkit = ("arithmetic", "language", "products", "cache", "pool", "dtypes", "skeletons")
    other |= {(p, d) for p, d in duties() if p in toolkit}
    assert set(duties()) - {(p, d) for p, d, _, _ in FAULTS.values()} == other


def test_a_launch_with_other_groups_is_another_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    device: Any = tb.get_device("cpu").backend
    assert judged(device, "launch", "mixed").state == "pass"
    most: dict[Any, int] = {}
    real = type(device).launch

    def launch(self: Any, kernel: Any, groups: int, buffers: Any, meta: bytes) -> None:
        real(self, kernel, most.setdefault((kernel.spec, meta), groups), buffers, meta)

    monkeypatch.setattr(type(device), "launch", launch)
    outcome = judged(device, "launch", "mixed")
    assert outcome.state == "fail"
    assert "a launch of 2 groups after others: 192 are wrong" in outcome.message


@pytest.mark.parametrize("log", ["", "line 3: error: expected ';'"])
def test_a_compile_error_has_log_and_source(log: str) -> None:
    class Mute:
        def __init__(self, real: Any) -> None:
            self.real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def compile(self, kernels: Sequence[Any]) -> list[Any]:
            try:
                return list(self.real.compile(kernels))
            except CompileError as error:
                raise CompileError(str(error.args[0]), log) from None

    outcome = judged(Mute(tb.get_device("cpu").backend), "errors", "compilation")
    assert outcome.state == "fail"
    assert "CompileError has no" in outcome.message


def test_ref_refuses_what_does_not_fit() -> None:
    device = ref.PLUGIN.open(0)
    buffer = device.allocate(64)
    for offset in (-8, 60, 1 << 40):
        with pytest.raises(BackendError, match="does not fit"):
            device.copy_in(buffer, offset, memoryview(bytes(8)))
    with pytest.raises(OutOfMemoryError):
        device.allocate(-1)
    assert isinstance(device.memory(), MemoryFigures)
    assert np.prod(device.memory().peak) >= 64
