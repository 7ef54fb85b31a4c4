"""Settings belong to one thread or task, and end with their blocks, wherever these end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import _devices, _state
from tensorbus._state import settings
from tensorbus_backends.contract import DeviceUnavailableError

FIELDS = ("grad", "policy", "reproducible", "device", "trace", "depth")


def seen() -> tuple[Any, ...]:
    now = settings()
    return tuple(getattr(now, f) for f in FIELDS)


def fast_is_right() -> bool:
    """Whether operators look into the table of the settings that hold."""
    looked, now = _state.current().fast, settings()
    if now.trace is not None:
        return not looked
    return looked is _state.tables[now.reproducible, now.policy] or not looked


BLOCKS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": tb.no_grad,
    "reproducible": tb.reproducible,
    "policy": lambda: tb.fallback_policy("warn"),
    "device": lambda: tb.device("ref"),
    "trace": tb.trace,
}


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    before = seen()
    yield
    assert seen() == before
    assert fast_is_right()


def test_the_record_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="never changed"):
        settings().grad = False  # type: ignore[misc]
    assert not hasattr(settings(), "__dict__")


def test_blocks_end_in_any_order() -> None:
    names = ("no_grad", "reproducible", "policy", "trace")
    before = seen()
    alone = {}
    for name in names:
        with BLOCKS[name]():
            alone[name] = seen()
    for order in permutations(names):
        blocks = {name: BLOCKS[name]() for name in names}
        for block in blocks.values():
            block.__enter__()
        for k, name in enumerate(order):
            blocks[name].__exit__(None, None, None)
            left = order[k + 1 :]
            assert settings().grad is ("no_grad" not in left)
            assert settings().reproducible is ("reproducible" in left)
            assert (settings().policy == "warn") is ("policy" in left)
            assert (settings().trace is not None) is ("trace" in left)
            assert fast_is_right()
            if len(left) == 1 and left[0] != "trace":
                assert seen() == alone[left[0]]
        assert seen() == before


def test_of_two_blocks_on_one_field_the_outer_ends_first() -> None:
    outer, inner = tb.no_grad(), tb.enable_grad()
    outer.__enter__()
    inner.__enter__()
    outer.__exit__()
    assert tb.is_grad_enabled()
    inner.__exit__()
    assert tb.is_grad_enabled()


def test_generators_that_interleave() -> None:
    def without() -> Iterator[bool]:
        with tb.no_grad():
            yield tb.is_grad_enabled()
            yield tb.is_grad_enabled()

    first, second = without(), without()
    assert not next(first)
    assert not next(second)
    first.close()
    assert not tb.is_grad_enabled()
    second.close()
    assert tb.is_grad_enabled()


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_that_ends_in_another_thread(name: str) -> None:
    """Neither thread keeps it, nor do blocks around and inside it break."""
    before = seen()
    with tb.fallback_policy("allow"):
        around = seen()
        block = BLOCKS[name]()
        block.__enter__()
        with tb.enable_grad():
            problems: list[BaseException] = []
            inside: list[Any] = []

            def end() -> None:
                try:
                    start = seen()
                    block.__exit__(None, None, None)
                    inside.append(seen() == start)
                except BaseException as error:
                    problems.append(error)

            thread = threading.Thread(target=end)
            thread.start()
            thread.join()
            assert not problems
            assert inside == [True]
            assert seen() == around
            assert fast_is_right()
            x = tb.ones((2,))
            x + x
        assert seen() == around
    assert seen() == before


def test_operators_do_not_look_into_plans_of_a_block_that_ended_elsewhere() -> None:
    x = tb.ones((3,))
    with tb.reproducible(False):
        x + x
    block = tb.reproducible()
    block.__enter__()
    x + x
    assert _state.current().fast is _state.tables[True, settings().policy]
    thread = threading.Thread(target=lambda: block.__exit__())
    thread.start()
    thread.join()
    assert _state.current().fast == {}
    x + x
    assert not settings().reproducible
    assert _state.current().fast is settings().plans


def test_a_copied_context_keeps_what_its_maker_leaves() -> None:
    with tb.no_grad():
        copied = contextvars.copy_context()
    assert tb.is_grad_enabled()
    assert copied.run(tb.is_grad_enabled) is False
    block = tb.no_grad()
    block.__enter__()
    copied, other = contextvars.copy_context(), contextvars.copy_context()
    # Ended in the copy: there and here it is over, in the other copy it holds.
    copied.run(block.__exit__)
    assert copied.run(tb.is_grad_enabled)
    assert tb.is_grad_enabled()
    assert other.run(tb.is_grad_enabled) is False
    assert other.run(tb.is_grad_enabled) is False


def test_tasks_do_not_see_each_other() -> None:
    async def task(k: int) -> list[bool]:
        good = []
        for turn in range(4):
            grad, served = bool((k + turn) % 2), bool((k + turn) % 3)
            policy = ("error", "warn", "allow")[(k + turn) % 3]
            chosen = ("cpu", "ref")[(k + turn) % 2]
            with (
                tb.enable_grad() if grad else tb.no_grad(),
                tb.reproducible(served),
                tb.fallback_policy(policy),  # type: ignore[arg-type]
                tb.device(chosen),
                tb.trace() as t,
            ):
                for _ in range(3):
                    await asyncio.sleep(0)
                    x = tb.ones((2,))
                    now = settings()
                    good.append(
                        (now.grad, now.reproducible, now.policy) == (grad, served, policy)
                        and x.device == chosen
                        and now.trace is t
                    )
            good.append([r.device for r in t] == [chosen] * 3)
        return good

    async def main() -> list[list[bool]]:
        before = seen()
        found = await asyncio.gather(*(task(k) for k in range(6)))
        assert seen() == before
        return found

    assert all(all(good) for good in asyncio.run(main()))


def test_an_asynchronous_generator_that_another_task_closes() -> None:
    async def values() -> AsyncIterator[bool]:
        with tb.no_grad():
            yield tb.is_grad_enabled()
            yield tb.is_grad_enabled()

    async def main() -> None:
        given = values()
        assert not await anext(given)
        await asyncio.create_task(given.aclose())  # type: ignore[attr-defined]
        assert tb.is_grad_enabled()
        x = tb.ones((2,))
        x.requires_grad = True
        assert (x + x).requires_grad

    asyncio.run(main())


def test_threads_begin_with_the_process_and_to_thread_carries_on() -> None:
    async def main() -> tuple[bool, bool]:
        with tb.no_grad():
            return await asyncio.to_thread(tb.is_grad_enabled), tb.is_grad_enabled()

    assert asyncio.run(main()) == (False, False)
    with tb.no_grad(), tb.reproducible(), tb.device("ref"), ThreadPoolExecutor(1) as pool:
        now = pool.submit(settings).result()
    assert (now.grad, now.reproducible, now.device, now.trace) == (True, False, None, None)


def test_one_object_serves_several_threads_at_a_time() -> None:
    one, at = tb.no_grad(), threading.Barrier(3)
    good: list[bool] = []

    def work(k: int) -> None:
        for _ in range(50):
            at.wait()
            with one:
                good.append(not tb.is_grad_enabled())
                at.wait()
                if k == 1:
                    with one:
                        good.append(not tb.is_grad_enabled())
                good.append(not tb.is_grad_enabled())
            good.append(tb.is_grad_enabled())

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(good) == 50 * 10
    assert all(good)


def test_decorators() -> None:
    @tb.no_grad()
    @tb.reproducible()
    def call() -> tuple[bool, bool]:
        return tb.is_grad_enabled(), settings().reproducible

    @tb.no_grad()
    async def awaited() -> bool:
        await asyncio.sleep(0)
        return tb.is_grad_enabled()

    @tb.device("ref")
    def where() -> str:
        return str(tb.get_device())

    assert call() == (False, True)
    assert asyncio.run(awaited()) is False  # type: ignore[arg-type]
    assert where() == "ref"


def test_blocks_keep_nothing_alive() -> None:
    def use() -> None:
        with tb.no_grad(), tb.trace(), tb.reproducible(), contextlib.suppress(KeyError):
            raise KeyError

    use()
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(300):
            use()
        assert len(gc.get_objects()) - before < 30
    finally:
        gc.enable()


def test_threads_share_their_plans() -> None:
    x = tb.ones((5,))
    tb.sum(x * 2.0)
    held = len(settings().plans)

    def work() -> None:
        tb.sum(x * 2.0)

    for _ in range(50):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(settings().plans) == held
    assert len(_state.tables) <= 6


def test_sixteen_threads_plan_one_op() -> None:
    x, at = tb.arange(7, dtype=tb.float32), threading.Barrier(16)
    for _ in range(5):
        _state.forget_plans()
        results: list[Any] = []

        def work(results: list[Any] = results) -> None:
            at.wait()
            with tb.trace() as t:
                total = tb.sum(x + x).item()
            results.append((total, [r.op for r in t]))

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [(42.0, ["add", "sum"])] * 16


def test_ref_is_the_default_with_a_warning_only(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = _devices.get_device

    def without(name: Any = None) -> Any:
        if name == "cpu":
            raise DeviceUnavailableError("cpu", "there is no C compiler", "install gcc")
        return opened("ref" if name == "auto" else name)

    monkeypatch.setattr(_devices, "get_device", without)
    monkeypatch.setattr(_devices, "_defaults", {})
    said = "'ref'.*because cpu is unavailable: there is no C compiler; install gcc.*"
    with pytest.warns(RuntimeWarning, match=said + "TENSORBUS_DEVICE=ref"):
        assert _devices._default(None) == "ref"
    with pytest.warns(RuntimeWarning, match="TENSORBUS_DEVICE='auto' finds no other"):
        assert _devices._default("auto") == "ref"
    assert _devices._default("ref") == "ref"  # warnings are errors here
    with pytest.raises(DeviceUnavailableError):
        _devices._default("cpu")


def test_the_warning_says_how_to_mend_it() -> None:
    script = "import tensorbus as tb; print(tb.ones((2,)).device); tb.ones((2,))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "CC": "/nowhere/cc", "TENSORBUS_DEVICE": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.stdout.strip() == "ref":
        assert done.stderr.count("RuntimeWarning: the default device is 'ref'") == 1
        assert "CC" in done.stderr
    else:
        assert "RuntimeWarning" not in done.stderr


def test_threads_run_through_shared_plans_at_a_time() -> None:
    """A plan holds nothing that belongs to one call: no scratch memory, no operand."""
    rng = np.random.default_rng(3)
    given = [tb.asarray(rng.integers(0, 50, (9, 33)).astype(np.float32)) for _ in range(6)]
    calls: list[Callable[[tb.Tensor], Any]] = [
        tb.sort, tb.argsort, lambda x: tb.cumulative_sum(x, axis=1), lambda x: tb.sum(x, axis=0),
        tb.sum, lambda x: x @ x.T, lambda x: tb.take(x, tb.asarray([3, 0, 3]), axis=1),
        tb.nn.softmax, lambda x: x[x > 25.0], lambda x: tb.nonzero(x)[0], tb.var, tb.tril,
        lambda x: tb.concat([x, x]), lambda x: tb.searchsorted(tb.sort(x[0]), x[1]),
        lambda x: tb.index_add(x, tb.asarray([1, 1, 0]), x[:3], axis=0), tb.argmax, tb.mean,
    ]  # fmt: skip

    def results(x: tb.Tensor) -> list[bytes]:
        return [call(x).numpy().tobytes() for call in calls]

    due, wrong = [results(x) for x in given], []

    def work(k: int) -> None:
        for _ in range(8):
            found = results(given[k])
            wrong.extend([n for n, (a, b) in enumerate(zip(found, due[k], strict=True)) if a != b])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
