"""The queue: late work is waited for, events tell the truth, pending work keeps its buffers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from tensorbus_backends.contract import Compiled, Device, Feature

from ..items import Outcome
from ..session import Session
from .base import (
    Checks,
    affine,
    affine_result,
    duty,
    fetch,
    filled,
    integers,
    launch_affine,
    numbers,
    pattern,
    slow,
)

_N = 12_000
_POLL_S = 20.0


def _heavy(device: Device, level: str) -> tuple[Compiled, Any, float]:
    """A kernel that takes a while, its function, and the seconds that it takes with its copy."""
    kernel, result, seconds = None, None, 0.0
    for turns in (60, 600, 6000):
        kernel, result = slow(device, turns)
        source, target = filled(device, integers(_N, 1)), device.allocate(4 * _N)
        fetch(device, source, 4)
        start = time.perf_counter()
        launch_affine(device, kernel, source, target, _N)
        fetch(device, target, 4)
        seconds = time.perf_counter() - start
        if seconds > (0.002 if level == "smoke" else 0.02):
            break
    assert kernel is not None
    return kernel, result, seconds


def events(session: Session) -> Outcome:
    """``record`` marks a point; ``wait`` and ``synchronize`` reach it, ``done`` says so."""
    checks, device = Checks("events"), session.guard.real
    kernel, result, _ = _heavy(device, session.level)
    x = integers(_N, 2)
    source, little = filled(device, x), device.allocate(8)
    for way in ("wait", "synchronize", "copy_out", "poll"):
        target = filled(device, bytes(4 * _N))
        launch_affine(device, kernel, source, target, _N)
        for k in range(8):  # where asking does a piece of the work, a few pieces are left
            device.copy_in(little, k, memoryview(b"."))
        event = device.record()
        if not checks.that(
            hasattr(event, "wait") and hasattr(event, "done"), f"record gives {event!r}"
        ):
            return checks.outcome
        done = event.done()
        checks.that(type(done) is bool, f"done gives {done!r}")
        checks.that(
            done or not device.has(Feature.SYNCHRONOUS), "is synchronous, but a launch is not done"
        )
        if way == "wait":
            event.wait()
        elif way == "synchronize":
            device.synchronize()
        elif way == "copy_out":
            fetch(device, target, 4)
        else:
            limit = time.monotonic() + _POLL_S
            while not event.done() and time.monotonic() < limit:
                time.sleep(0.0005)
        checks.that(event.done() is True, f"an event is not done after {way}")
        event.wait()
        checks.that(event.done() is True, "an event that was waited for is not done")
        if device.has(Feature.ADDRESS):
            import ctypes

            raw = ctypes.string_at(device.address(target), 4 * _N)
            checks.that(
                bool((np.frombuffer(raw, np.int32) == result(x)).all()),
                f"after {way} the host does not see what was launched before",
            )
        checks.that(
            bool((numbers(device, target, _N) == result(x)).all()), f"wrong result after {way}"
        )
    device.synchronize()
    idle = device.record()
    idle.wait()
    checks.that(idle.done() is True, "an event on an idle device is not done")
    checks.that(device.synchronize() is None, "synchronize gives something")
    return checks.outcome


def waiting(session: Session) -> Outcome:
    """After ``synchronize`` and ``wait`` nothing is left to wait for.

    A copy of four bytes then takes no longer than launches and wait together took; a device on
    which the contrary is seen three times in a row has not waited.
    """
    checks, device = Checks("waiting"), session.guard.real
    kernel, _, _ = _heavy(device, session.level)
    source, target = filled(device, integers(_N, 3)), device.allocate(4 * _N)
    fetch(device, source, 4)
    for way in ("synchronize", "wait"):
        late = 0
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(4):
                launch_affine(device, kernel, source, target, _N)
            if way == "wait":
                device.record().wait()
            else:
                device.synchronize()
            middle = time.perf_counter()
            fetch(device, target, 4)
            rest = time.perf_counter() - middle
            if rest <= 0.002 or rest <= (middle - start):
                break
            late += 1
        checks.that(late < 3, f"work was still under way after {way}")
    return checks.outcome


def early(session: Session) -> Outcome:
    """An event is not done while a good part of the work before it is still to come.

    Asked at once after four long launches, it may be done only if waiting for them then takes less
    than a quarter of what launches and wait take otherwise; three contrary findings in a row fail.
    """
    checks, device = Checks("early"), session.guard.real
    kernel, _, _ = _heavy(device, session.level)
    source, target = filled(device, integers(_N, 4)), device.allocate(4 * _N)
    fetch(device, source, 4)
    start = time.perf_counter()
    for _ in range(4):
        launch_affine(device, kernel, source, target, _N)
    device.synchronize()
    whole, lies = time.perf_counter() - start, 0
    for _ in range(3):
        for _ in range(4):
            launch_affine(device, kernel, source, target, _N)
        said, middle = device.record().done(), time.perf_counter()
        device.synchronize()
        if not said or time.perf_counter() - middle < max(0.002, whole / 4):
            break
        lies += 1
    checks.that(lies < 3, "an event was done while the work before it was still under way")
    return checks.outcome


def pending(session: Session) -> Outcome:
    """Buffers dropped while a launch is pending are not used for anything else before it ran."""
    checks, device = Checks("pending"), session.guard.real
    kernel, result, _ = _heavy(device, session.level)
    (quick,) = device.compile([affine(5)])
    x, y = integers(_N, 4), integers(_N, 5)
    for _ in range(4):
        source, target = filled(device, x), device.allocate(4 * _N)
        launch_affine(device, kernel, source, target, _N)
        del source
        other = filled(device, pattern(4 * _N, 6))  # likely in the place of `source`
        middle = device.allocate(4 * _N)
        launch_affine(device, quick, target, middle, _N, 1)
        del target
        again = filled(device, y)
        device.copy(again, 0, other, 0, 400)
        checks.that(
            bool((numbers(device, middle, _N) == affine_result(result(x), 5, 1)).all()),
            "a buffer dropped after its launch was written before the launch had read it",
        )
        checks.that(
            fetch(device, other, 4 * _N) == pattern(4 * _N, 6),
            "a late launch wrote to a new buffer",
        )
        checks.that(
            bool((numbers(device, again, _N)[100:] == y[100:]).all()),
            "a late launch wrote to a new buffer",
        )
        del other, middle, again
    return checks.outcome


def lateness(session: Session) -> Outcome:
    """A copy from the host uses the bytes of its time, one to the host those of the queue's."""
    checks, device = Checks("lateness"), session.guard.real
    kernel, result, _ = _heavy(device, session.level)
    x, y = integers(_N, 6), integers(_N, 7)
    source, target = filled(device, x), device.allocate(4 * _N)
    launch_affine(device, kernel, source, target, _N)
    host = bytearray(y.tobytes())
    device.copy_in(source, 0, memoryview(host))  # behind the launch, which still reads x
    host[:] = bytes(4 * _N)
    second = device.allocate(4 * _N)
    device.copy(second, 0, source, 0, 4 * _N)
    launch_affine(device, kernel, second, source, _N)
    checks.that(
        bool((numbers(device, target, _N) == result(x)).all()),
        "a copy from the host overtook a launch that reads its target",
    )
    checks.that(
        bool((numbers(device, second, _N) == y).all()), "a copy on the device was out of order"
    )
    checks.that(
        bool((numbers(device, source, _N) == result(y)).all()), "copies and launches were reordered"
    )
    return checks.outcome


duty("queue", events, early, waiting, pending, lateness)
