"""Contexts: they nest, end with exceptions, and belong to one thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import tensorbus as tb
from tensorbus._state import current, settings
from tensorbus_backends import dtypes as dt

from .checks import Checks, surface

__all__ = ["states"]


class _Stop(Exception):
    """Leaves a block."""


def _grad() -> Any:
    return tb.is_grad_enabled()


_CONTEXTS: dict[str, tuple[Callable[[], AbstractContextManager[Any]], Callable[[], Any], Any]] = {
    "no_grad": (tb.no_grad, _grad, False),
    "enable_grad": (tb.enable_grad, _grad, True),
    "reproducible": (tb.reproducible, lambda: settings().reproducible, True),
    "reproducible(False)": (lambda: tb.reproducible(False), lambda: settings().reproducible, False),
    "fallback allow": (lambda: tb.fallback_policy("allow"), lambda: settings().policy, "allow"),
    "fallback error": (lambda: tb.fallback_policy("error"), lambda: settings().policy, "error"),
    "device ref": (lambda: tb.device("ref"), lambda: str(tb.get_device()), "ref"),
}
"""For each context: itself, what shows it, and what that shows inside."""


@surface("state", (dt.float32,), (dt.float32,))
def states(c: Checks) -> None:
    """Nesting, exceptions, decorators, threads, tasks, and that a trace sees every call."""
    _nesting(c)
    _ends(c)
    _effects(c)
    _threads(c)
    _tasks(c)
    _traces(c)
    _fallback(c)


def _nesting(c: Checks) -> None:
    for name, (enter, look, inside) in _CONTEXTS.items():
        for outer, (wrap, _, _) in _CONTEXTS.items():
            start = {k: v[1]() for k, v in _CONTEXTS.items()}
            with wrap():
                before = look()
                with contextlib.suppress(_Stop), enter():
                    c.true(f"{name} in {outer}", look() == inside, f"{look()!r} inside")
                    raise _Stop
                c.true(f"after {name} in {outer}", look() == before, f"{look()!r}, was {before!r}")
                with enter(), enter():
                    pass
                c.true(f"after {name} twice in {outer}", look() == before)
            ended = {k: v[1]() for k, v in _CONTEXTS.items()}
            c.true(f"after {outer}", ended == start, f"{ended}, was {start}")
    one = tb.no_grad()
    with one, one:
        c.true("one context entered twice", not _grad())
    c.true("after one context entered twice", _grad())

    @tb.no_grad()
    def inner() -> bool:
        return bool(_grad())

    c.true("no_grad as decorator", not inner() and _grad())
    never: Any = "never"
    c.raises("no such policy", ValueError, lambda: tb.fallback_policy(never).__enter__())


def _ends(c: Checks) -> None:
    """Blocks that end out of order, in another thread, or in a copied context are over there."""
    fresh = {k: v[1]() for k, v in _CONTEXTS.items()}
    x = c.put(np.asarray([1, 2, 3], np.float32))

    def shown() -> dict[str, Any]:
        return {k: v[1]() for k, v in _CONTEXTS.items()}

    for name, (enter, look, inside) in _CONTEXTS.items():
        for outer, (wrap, see, around) in _CONTEXTS.items():
            first, second = wrap(), enter()
            first.__enter__()
            second.__enter__()
            first.__exit__(None, None, None)
            c.true(f"{name} after the {outer} around it", look() == inside, f"{look()!r}")
            second.__exit__(None, None, None)
            c.true(f"{outer}, {name} ended in this order", shown() == fresh, f"{shown()}")
            if outer not in ("no_grad", "reproducible(False)", "device ref"):
                continue
            # Around it a block that stays, inside one that ends here.
            with wrap():
                due, block, inner = shown(), enter(), tb.trace()
                block.__enter__()
                inner.__enter__()
                copied = contextvars.copy_context()
                failed = _elsewhere(partial(block.__exit__, None, None, None))
                c.true(f"{name} ended in a thread", failed is None, f"{failed!r}")
                c.true(f"{name} in {outer}, ended in a thread", shown() == due, f"{shown()}")
                x + x
                inner.__exit__(None, None, None)
                c.true(f"{name} in {outer} and a trace", shown() == due, f"{shown()}")
                held = copied.run(look), copied.run(look)
                c.true(f"a copy inside {name} in {outer}", held == (inside, inside), f"{held}")
                if outer != name:
                    c.true(f"{outer} after that", see() == around)
            c.true(f"{outer} ended, {name} in a thread", shown() == fresh, f"{shown()}")
    served = tb.reproducible(True)
    served.__enter__()
    x + x
    look_up = current().fast
    _elsewhere(lambda: served.__exit__(None, None, None))
    c.true("plans of an ended block", not current().fast or current().fast is not look_up)
    x + x
    c.true("plans of what holds", current().fast is settings().plans)


def _elsewhere(call: Callable[[], Any]) -> Any:
    """What a call gives, or raises, in a new thread."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def _effects(c: Checks) -> None:
    """What the contexts are for."""
    x = c.put(np.asarray([1, 2, 3], np.float32))
    x.requires_grad = True
    with tb.no_grad():
        c.true("x * x under no_grad", not (x * x).requires_grad)
        with tb.enable_grad():
            c.true("x * x under enable_grad", (x * x).requires_grad)
    c.true("x * x after no_grad", (x * x).requires_grad)
    with contextlib.suppress(_Stop), tb.no_grad():
        raise _Stop
    c.true("x * x after an exception", (x * x).requires_grad)
    with tb.device("ref"):
        c.true("zeros on the device of the block", tb.zeros((2,)).device == "ref")
        c.true("asarray on the device of the block", tb.asarray([1]).device == "ref")
    c.true("zeros after the block", tb.zeros((2,)).device is c.device)
    a = c.put(np.ones((64, 64), np.float32))
    for served in (True, False, True):
        with tb.reproducible(served), tb.trace() as t:
            a @ a
        native = "native" in t.variants()
        c.true(f"a @ a with reproducible({served})", not (served and native), "a native kernel ran")
    _orders(c)


def _orders(c: Checks) -> None:
    """What serves a call is said by the settings at the call, not by those of an earlier one.

    Every order of settings begins on a device object of its own, for which nothing is planned.
    """
    # So large that a native product pays, where there is one.
    n = 256 if c.device.backend.natives else 8
    array = np.ones((n, n), np.float32)
    calls: dict[str, Callable[[tb.Tensor], Any]] = {
        "x @ x": lambda x: x @ x, "x + x": lambda x: x + x, "sum": tb.sum,
    }  # fmt: skip
    settings: list[tuple[bool, Any]] = [(False, "error"), (True, "error"), (False, "allow")]
    known: dict[Any, Any] = {}
    for order in permutations(settings):
        x = tb.asarray(array, device=tb.Device(c.device.backend))
        for reproducible, policy in (*order, *order):
            with tb.reproducible(reproducible), tb.fallback_policy(policy):
                for name, call in calls.items():
                    call(x)
                    with tb.trace() as t:
                        call(x)
                    found = [(r.variant, r.library) for r in t]
                    due = known.setdefault((name, reproducible), found)
                    label = f"{name} with reproducible({reproducible}), order {order}"
                    c.true(label, found == due, f"served by {found}, before by {due}")
                    c.true(label, not reproducible or "native" not in t.variants(), "native")


def _threads(c: Checks) -> None:
    """Another thread sees none of this one's settings, and changes none."""
    x = c.put(np.asarray([1, 2, 3], np.float32))
    x.requires_grad = True
    seen: dict[str, Any] = {}

    def other() -> None:
        seen.update({k: v[1]() for k, v in _CONTEXTS.items()})
        seen["records"] = (x * x).requires_grad
        with tb.no_grad(), tb.reproducible(), tb.trace() as t, tb.device("ref"):
            x + x
            ready.set()
            go.wait(10)
        seen["trace"] = [r.op for r in t]

    fresh = {k: v[1]() for k, v in _CONTEXTS.items()}
    plain: dict[str, Any] = {}
    thread = threading.Thread(
        target=lambda: plain.update({k: v[1]() for k, v in _CONTEXTS.items()})
    )
    thread.start()
    thread.join()
    ready, go = threading.Event(), threading.Event()
    policy: Any = "allow" if plain["fallback allow"] != "allow" else "warn"
    with (
        tb.no_grad(),
        tb.reproducible(not plain["reproducible"]),
        tb.fallback_policy(policy),
        tb.trace() as mine,
    ):
        thread = threading.Thread(target=other)
        thread.start()
        ready.wait(10)
        x - x
        inside = _grad()
        go.set()
        thread.join()
    c.true("settings of a new thread", all(seen.get(k) == v for k, v in plain.items()), f"{seen}")
    c.true("recording in a new thread", seen.get("records") is True)
    c.true("this thread beside another", not inside)
    c.true("trace of this thread", [r.op for r in mine] == ["subtract"], f"{[r.op for r in mine]}")
    c.true("trace of the other thread", seen.get("trace") == ["add"], f"{seen.get('trace')}")
    c.true("after threads", {k: v[1]() for k, v in _CONTEXTS.items()} == fresh)
    results: list[bool] = []

    def work(k: int) -> None:
        y = c.put(np.full(50, k, np.float32))
        good = True
        for _ in range(20):
            z = y + y
            w = z * y
            good = good and bool(np.all((w - z * y).numpy() == 0)) and z[7].item() == 2 * k
        results.append(good)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    for t in workers:
        t.start()
    for t in workers:
        t.join()
    c.true("four threads computing", results == [True] * 4, f"{results}")


def _tasks(c: Checks) -> None:
    """A task's blocks hold for it alone, also while it waits for others."""

    async def task(k: int) -> list[bool]:
        held = []
        for turn in range(3):
            grad, served = bool((k + turn) % 2), bool((k + turn) % 3)
            with tb.enable_grad() if grad else tb.no_grad(), tb.reproducible(served):
                held.append(_grad() == grad)
                await asyncio.sleep(0)
                held.append(_grad() == grad and settings().reproducible == served)
            await asyncio.sleep(0)
            held.append(_grad())
        return held

    async def main() -> list[list[bool]]:
        return await asyncio.gather(*(task(k) for k in range(4)))

    found: list[list[bool]] = []
    thread = threading.Thread(target=lambda: found.extend(asyncio.run(main())))
    thread.start()
    thread.join()
    c.true("tasks", bool(found) and all(all(held) for held in found), f"{found}")


def _traces(c: Checks) -> None:
    """Every call is in the trace, also when its plan is warm and by whatever way it was made."""
    a = c.put(np.asarray([1, 2, 3, 4], np.float32))
    four = (("float32", (4,)),)
    number = (("float32", ()),)
    calls: dict[str, tuple[str, tuple[Any, ...], Callable[[], Any]]] = {
        "a + a": ("add", four + four, lambda: a + a),
        "a + 2": ("add", four + number, lambda: a + 2),
        "2 - a": ("subtract", number + four, lambda: 2 - a),
        "-a": ("negative", four, lambda: -a),
        "a < a": ("less", four + four, lambda: a < a),
        "exp": ("exp", four, lambda: tb.exp(a)),
        "sum": ("sum", four, lambda: tb.sum(a)),
        "slice": ("slice", four, lambda: a[1:]),
        "a[i]": ("index", (*four, ("int64", (2,))), lambda: a[c.put(np.asarray([1, 0]))]),
        "reshape": ("reshape", four, lambda: a.reshape(2, 2)),
        "zeros": ("full", (), lambda: tb.zeros((3,))),
        "softmax": ("softmax", four, lambda: tb.nn.softmax(a)),
        "a *= a": ("multiply", four + four, lambda: a.__imul__(a)),
    }
    for name, (op, given, call) in calls.items():
        for turn in range(3):
            start = time.perf_counter()
            with tb.trace() as t:
                call()
            whole = time.perf_counter() - start
            found = [(r.op.split(".")[-1], tuple(zip(r.dtypes, r.shapes, strict=True))) for r in t]
            c.true(f"trace of {name}, call {turn}", (op, given) in found, f"holds {found}")
            spent = sum(r.seconds for r in t if not r.depth)
            c.true(f"seconds of {name}", 0 <= spent <= whole, f"{spent} in a call of {whole} s")
            for r in t:
                c.true(f"record of {name}", r.device == c.device.name and 0 <= r.seconds <= whole)
                good = r.variant in ("native", "portable") and r.depth >= 0
                c.true(f"record of {name}", good, f"{r}")
            call()  # outside, so that the table that operators look into is full
    a = c.put(np.asarray([1, 2, 3, 4], np.float32))
    a + a
    with tb.trace() as outer:
        a + a
        with contextlib.suppress(_Stop), tb.trace() as inner:
            a - a
            raise _Stop
        a * a
    a / a
    c.true("inner trace", [r.op for r in inner] == ["subtract"], f"{[r.op for r in inner]}")
    every = [r.op for r in outer]
    c.true("outer trace", every == ["add", "subtract", "multiply"], f"{every}")
    c.true("operands in a trace", [r.shapes for r in outer] == [((4,), (4,))] * 3)
    c.true("dtypes in a trace", outer.records[0].dtypes == ("float32", "float32"))
    c.true("text of a trace", "subtract" in str(outer) and len(outer) == 3)
    c.true("trace of nothing", settings().trace is None)


def _fallback(c: Checks) -> None:
    """A device without some dtype refuses, warns or moves, as the policy says."""
    lacking = [d for d in dt.ALL if not c.has(d)]
    if not lacking:
        return
    dtype = lacking[0]
    for policy in ("allow", "warn"):
        with tb.fallback_policy(policy), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = c.put(np.ones(2, np.float32))
            c.true(f"float32 under {policy}", host_sum(x) == 2.0)
    c.raises(f"zeros of {dtype.name}", tb.UnsupportedError, lambda: tb.zeros((2,), dtype=dtype))


def host_sum(x: tb.Tensor) -> float:
    """The sum of a tensor as a number."""
    return float(tb.sum(x))
