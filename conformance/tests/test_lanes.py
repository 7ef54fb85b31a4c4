"""The duty that runs the kernels of devices with threads on the host: planted faults are seen."""

from __future__ import annotations

import faulthandler
import functools
import os
import signal
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus_conformance.judge.driver import lanes
from tensorbus_conformance.judge.guard import Guarded
from tensorbus_conformance.judge.items import Item
from tensorbus_conformance.judge.session import Session


def judged(session: Session) -> str:
    outcome = lanes.groups(session)
    return outcome.message if outcome.state == "fail" else outcome.state


@pytest.fixture
def session() -> Any:
    item = Item.parse("driver.lanes/cpu/float32/portable")
    return Session(item, tb.Device(Guarded(tb.get_device("cpu").backend)), "standard", 0)


def swapped(old: str, new: str, text: str) -> str:
    return text.replace(old, new)


def test_the_texts_for_threads_are_right(session: Any) -> None:
    assert judged(session) == "pass"


def test_a_level_of_the_tree_that_is_lost(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    change = functools.partial(swapped, "half > 0; half >>= 1", "half > 1; half >>= 1")
    monkeypatch.setattr(lanes, "_JUDGED", lanes._JUDGED[1:2])
    monkeypatch.setattr(lanes, "Threads", functools.partial(lanes.Threads, change=change))
    assert "threads give other bits" in judged(session)


def test_a_kernel_that_shares_more_than_it_says(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorbus_backends.kernels import Reduce

    monkeypatch.setattr(lanes, "_JUDGED", lanes._JUDGED[1:2])
    monkeypatch.setattr(Reduce, "local_bytes", lambda self, dialect: 128 * self.acc.itemsize)
    assert "says that it shares" in judged(session)


def test_a_row_beyond_the_last_is_not_read() -> None:
    """A product of one row, whose other rows' sums go nowhere: only the fence sees the read."""
    child = os.fork()
    if not child:
        faulthandler.disable()
        change = functools.partial(swapped, "< rows ? 1 : 0", "< rows ? 1 : 2")
        device = tb.Device(lanes.Threads(tb.get_device("cpu").backend, change))
        a, b = (tb.asarray(np.ones(s, np.float32), device=device) for s in ((1, 3), (3, 2)))
        with tb.reproducible():
            tb.matmul(a, b).numpy()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGSEGV
