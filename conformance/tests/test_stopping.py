"""Signals: the first one stops a run, its echo changes nothing, a second one interrupts at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from tensorbus_conformance import stopping


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """A shell starts what runs in its background with SIGINT ignored, which `stopping` keeps."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def told() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)


def test_an_echo_of_the_first_interrupt_is_none() -> None:
    with stopping.stopping() as stop:
        told()
        told()
        assert stop.is_set()


def test_a_second_interrupt_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_ECHO_S", 0.0)
    with stopping.stopping() as stop:
        told()
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            told()
