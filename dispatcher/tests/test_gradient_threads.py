"""Threads that share leaves: what each adds is there at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import _autograd


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Threads take turns every few microseconds, so that a lost update is lost soon."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(2e-6)
    yield
    sys.setswitchinterval(interval)


def run(work: Callable[[int], None], threads: int) -> None:
    at, problems = threading.Barrier(threads), []

    def start(k: int) -> None:
        at.wait()
        try:
            work(k)
        except BaseException as error:
            problems.append(error)

    started = [threading.Thread(target=start, args=(k,)) for k in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert not problems


@pytest.mark.parametrize("device", ["cpu", "ref"])
@pytest.mark.parametrize("slowly", [False, True])
def test_no_gradient_is_lost(device: str, slowly: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where every addition lets other threads run between reading ``grad`` and setting it."""
    threads, turns = (10, 20) if device == "cpu" else (4, 8)
    if slowly:
        add = _autograd._sum

        def late(a: tb.Tensor | None, b: tb.Tensor) -> tb.Tensor:
            total = add(a, b)
            time.sleep(2e-4)
            return total

        monkeypatch.setattr(_autograd, "_sum", late)
    x = tb.asarray([1.0, -2.0, 3.0], device=device)
    y = tb.asarray([0.5, 0.25, 2.0], device=device)
    x.requires_grad = y.requires_grad = True

    def work(k: int) -> None:
        for turn in range(turns):
            # Small whole numbers: every sum of them is exact, in any order.
            tb.sum(x * float(k + 1) + y * float(turn + 1)).backward()

    run(work, threads)
    assert x.grad is not None
    assert y.grad is not None
    due = turns * threads * (threads + 1) // 2
    np.testing.assert_array_equal(x.grad.numpy(), np.full(3, due, np.float32))
    due = threads * turns * (turns + 1) // 2
    np.testing.assert_array_equal(y.grad.numpy(), np.full(3, due, np.float32))


def test_a_reader_sees_whole_sums() -> None:
    """Both leaves' elements are equal in every gradient that is ever seen."""
    x = tb.zeros((257,))
    x.requires_grad = True
    wrong: list[float] = []

    def work(k: int) -> None:
        for _ in range(60):
            if k:
                tb.sum(x * 3.0).backward()
            elif x.grad is not None:
                values = x.grad.numpy()
                if (values != values[0]).any() or values[0] % 3:
                    wrong.append(float(values[0]))

    run(work, 5)
    assert not wrong
    assert x.grad is not None
    assert float(x.grad[0]) == 4 * 60 * 3


def test_threads_run_through_one_graph() -> None:
    """One records its gradients, others do not: each gets what it asked for."""
    x = tb.asarray([0.5, 1.5])
    x.requires_grad = True
    y = tb.sum(tb.exp(x) * x)
    seen: list[bool] = []

    def work(k: int) -> None:
        for _ in range(20):
            (g,) = tb.grad(y, x, retain_graph=True, create_graph=bool(k % 2))
            assert g is not None
            seen.append(g.requires_grad is bool(k % 2))
            if k % 2:
                (h,) = tb.grad(tb.sum(g), x, retain_graph=True)
                assert h is not None
                e = np.exp(np.asarray([0.5, 1.5]))
                np.testing.assert_allclose(h.numpy(), e * (2 + np.asarray([0.5, 1.5])), rtol=1e-5)

    run(work, 4)
    assert len(seen) == 80
    assert all(seen)
