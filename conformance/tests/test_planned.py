"""Kernels that are read from plans are those that calls launch, and reading launches none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus._plan import Plan
from tensorbus_backends.contract import KernelSpec
from tensorbus_conformance.judge.guard import Guarded
from tensorbus_conformance.judge.planned import Reading, planned


class Watch(Guarded):
    """Notes what it compiles and launches."""

    def __init__(self) -> None:
        super().__init__(tb.get_device("ref").backend)
        self.compiled: set[str] = set()
        self.launched: set[str] = set()

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Any]:
        self.compiled |= {k.name for k in kernels}
        return super().compile(kernels)

    def launching(self, kernel: Any) -> None:
        self.launched.add(kernel.spec.name)
        super().launching(kernel)


def softmax_and_gradient(device: tb.Device) -> None:
    x = tb.asarray(np.ones((3, 40), np.float32), device=device)
    x.requires_grad = True
    tb.sum(tb.nn.softmax(x.mT, axis=0)).backward()


def sorted_rows(device: tb.Device) -> None:
    x = tb.asarray(np.arange(2 * 300).reshape(2, 300), device=device)
    tb.take(x, tb.argsort(x, axis=1)[0], axis=1)


def scaled(device: tb.Device) -> None:
    _ = tb.cumulative_sum(tb.ones(20_000, device=device)) * 3 + tb.arange(20_000.0, device=device)


@pytest.mark.parametrize("call", [softmax_and_gradient, sorted_rows, scaled])
def test_plans_hold_what_calls_launch(call: Callable[[tb.Device], None]) -> None:
    watch = Watch()
    with tb.reproducible():
        found = {k.name for k in planned(tb.Device(watch), [call])}
        assert not watch.compiled
        assert not watch.launched
        call(tb.Device(watch))
    assert found == watch.launched == watch.compiled
    assert len(found) > 2


def test_other_devices_go_on_while_plans_are_read() -> None:
    watch, runner = Watch(), Plan.runner
    reading = Reading(tb.Device(watch))
    with reading():
        x = tb.asarray([1.0, 2.0], device=reading.device) + 1
        assert x.numpy().tolist() == [0.0, 0.0]
        assert (tb.asarray([1.5, 3.25], device="ref") + 1).numpy().tolist() == [2.5, 4.25]
    assert not watch.launched
    with pytest.raises(ZeroDivisionError), reading():
        raise ZeroDivisionError
    assert Plan.runner is runner
