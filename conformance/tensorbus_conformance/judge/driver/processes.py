"""Threads and forks: what several do at once is right, and a forked child never hangs."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends.contract import BackendError, Device
from tensorbus_backends.dialect import Dialect

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

_WAIT_S = 30.0
_SHARED = 70_001


def concurrency(session: Session) -> Outcome:
    """Threads allocate, compile, copy and launch at once, each with data of its own."""
    checks, device = Checks("concurrency"), session.guard.real
    turns = 6 if session.level == "smoke" else 30
    wrong: list[str] = []
    done: list[int] = []
    start = threading.Barrier(4)

    def work(number: int) -> None:
        try:
            start.wait(_WAIT_S)
            for k in range(turns):
                n = 50 + 97 * number + k
                x = integers(n, 100 * number + k)
                (kernel,) = device.compile([affine(51 + (number + k) % 3)])
                source, target = filled(device, x), device.allocate(4 * n)
                other = filled(device, pattern(3 * n, k))
                launch_affine(device, kernel, source, target, n, number)
                device.copy(source, 0, target, 0, 4 * n)
                want = affine_result(x, 51 + (number + k) % 3, number)
                if (numbers(device, source, n) != want).any():
                    wrong.append(f"thread {number} got a wrong result in turn {k}")
                if fetch(device, other, 3 * n) != pattern(3 * n, k):
                    wrong.append(f"a buffer of thread {number} was changed by another one")
                if k % 3 == number % 3:
                    device.record().wait()
                    device.memory()
                if k % 5 == 4:
                    device.synchronize()
        except Exception as error:
            wrong.append(f"thread {number}: {type(error).__name__}: {error}")
        finally:
            done.append(number)

    threads = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(4)]
    for t in threads:
        t.start()
    limit = time.monotonic() + _WAIT_S
    for t in threads:
        t.join(max(0.0, limit - time.monotonic()))
    checks.outcome.decided += turns * 4
    checks.that(len(done) == 4, f"{4 - len(done)} of four threads hang")
    checks.that(not wrong, wrong[0] if wrong else "")
    return checks.outcome


def _child(device: Device, factor: int = 61) -> int:
    """What a forked child sees: 0 if the device works, 1 if it says that it does not."""
    try:
        x = integers(64, 3)
        source, target = filled(device, x), device.allocate(256)
        (kernel,) = device.compile([affine(factor)])
        launch_affine(device, kernel, source, target, 64, 4)
        device.synchronize()
        right = bool((numbers(device, target, 64) == affine_result(x, factor, 4)).all())
        # So many groups that threads of the device's own would share them.
        x = integers(_SHARED, 5)
        source, target = filled(device, x), device.allocate(4 * _SHARED)
        for p in range(4):
            launch_affine(device, kernel, source, target, _SHARED, p)
            right = right and bool(
                (numbers(device, target, _SHARED) == affine_result(x, factor, p)).all()
            )
        return 0 if right else 2
    except BackendError as error:
        return 1 if str(error) else 3
    except BaseException:
        return 3


def fork(session: Session) -> Outcome:
    """A forked child works or raises the contract's error, in time; the parent goes on.

    It is forked when the device is at rest, then while another thread launches.
    """
    checks, device = Checks("fork"), session.guard.real
    if not hasattr(os, "fork"):
        return Outcome("fork", "unsupported", "this platform has no fork")
    data = pattern(4000, 1)
    kept = filled(device, data)
    (kernel,) = device.compile([affine(61)])
    device.synchronize()
    _watched(checks, lambda: _child(device), "a forked child")
    stop, turns = threading.Event(), 2 if session.level == "smoke" else 6
    heavy, _ = slow(device, 60)
    source, scratch = filled(device, integers(_SHARED, 6)), device.allocate(4 * _SHARED)

    def launching() -> None:
        while not stop.is_set():
            launch_affine(device, heavy, source, scratch, _SHARED)
            device.synchronize()

    thread = threading.Thread(target=launching, daemon=True)
    thread.start()
    try:
        for k in range(turns):
            time.sleep(0.001 * (1 + k))
            _watched(checks, lambda: _child(device), "a forked child")
    finally:
        stop.set()
        thread.join(_WAIT_S)
    checks.that(not thread.is_alive(), "a thread that launched while others forked hangs")
    checks.that(fetch(device, kept, 4000) == data, "a fork changed a buffer of the parent")
    x = integers(64, 9)
    target = device.allocate(256)
    launch_affine(device, kernel, filled(device, x), target, 64, 1)
    checks.that(
        bool((numbers(device, target, 64) == affine_result(x, 61, 1)).all()),
        "the parent is of no use after a fork",
    )
    return checks.outcome


def _watched(checks: Checks, work: Callable[[], int], who: str) -> None:
    """Fork, let the child work, and say how it ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 3
        try:
            signal.alarm(int(_WAIT_S))
            status = work()
        finally:
            os._exit(status)
    limit, ended = time.monotonic() + _WAIT_S, None
    while ended is None and time.monotonic() < limit:
        pid, raw = os.waitpid(child, os.WNOHANG)
        if pid:
            ended = os.waitstatus_to_exitcode(raw)
        else:
            time.sleep(0.001)
    if ended is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    words = {
        None: f"hangs for {_WAIT_S:.0f} s",
        2: "computes something else",
        3: "raises what is no error of the contract, or one without a message",
        -signal.SIGALRM: f"hangs for {_WAIT_S:.0f} s",
    }
    checks.that(ended in (0, 1), f"{who} {words.get(ended, f'ends with status {ended}')}")


class _Held:
    """A kernel whose text comes when it may."""

    def __init__(self) -> None:
        self.name, self.buffers, self.words = "tb_driver_held", 2, affine(62).words
        self.asked, self.go = threading.Event(), threading.Event()

    def source(self, dialect: Dialect) -> str:
        """Of a map."""
        self.asked.set()
        self.go.wait(_WAIT_S)
        return affine(62).source(dialect).replace(affine(62).name, self.name)

    def local_bytes(self, dialect: Dialect) -> int:
        """None."""
        return 0

    def arguments(self) -> Sequence[Any]:
        """As the map's."""
        return affine(62).arguments()

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        """Not launched."""
        raise BackendError("a kernel that is only compiled was launched")


def busy(session: Session) -> Outcome:
    """A fork in the middle of another thread's compilation leaves no lock behind in the child."""
    checks, device = Checks("busy"), session.guard.real
    if not hasattr(os, "fork"):
        return Outcome("busy", "unsupported", "this platform has no fork")
    held = _Held()
    thread = threading.Thread(target=lambda: device.compile([held]), daemon=True)
    thread.start()
    # A device without a dialect may read no text; it then compiles at once.
    asked = held.asked.wait(_WAIT_S if device.dialect is not None else 0.1)
    checks.that(asked or device.dialect is None, "a kernel is compiled without its text")
    _watched(checks, lambda: _child(device, 63), "a child forked during a compilation")
    held.go.set()
    thread.join(_WAIT_S)
    checks.that(not thread.is_alive(), "a compilation hangs after a fork")
    return checks.outcome


duty("threads", concurrency)
duty("fork", fork, busy)
