"""Faults of size classes: a number in the wrong place, a condition that nobody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import _family, _sizes, _state
from tensorbus_conformance.judge.classes import grown
from tensorbus_conformance.judge.items import Item, Outcome
from tensorbus_conformance.judge.parts import load
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session, fenced

load()
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def fresh_plans() -> Iterator[None]:
    _state.forget_plans()
    yield
    _state.forget_plans()


def verdict(op: str) -> Outcome:
    item = Item(op, "cpu", "float32", "portable")
    return judge(Session(item, fenced(tb.get_device("cpu").backend), "smoke", 0), "users")


def _given(change: Callable[[Sequence[int]], list[int]]) -> Callable[[Patch], None]:
    """A class computes with other sizes than those of the call."""

    def plant(p: Patch) -> None:
        function = _sizes.Sizes.function

        def changed(self: Any, result: str) -> Any:
            made, mine = function(self, result), [g.value for g in self.given]
            return lambda given: made(given if given == mine else change(given))

        p.setattr(_sizes.Sizes, "function", changed)

    return plant


def _last_stays(p: Patch) -> None:
    """A class keeps the last size of the shape that it was made for."""
    function = _sizes.Sizes.function

    def changed(self: Any, result: str) -> Any:
        made, last = function(self, result), self.given[-1:]
        return lambda given: made([*given[:-1], *(g.value for g in last)])

    p.setattr(_sizes.Sizes, "function", changed)


def _no_conditions(p: Patch) -> None:
    """Every shape fits every class, though a first shape decided what its steps are."""
    condition = _sizes.Sizes.condition

    def changed(self: Any, symbol: str, a: Any, b: Any) -> bool:
        kept = list(self._lines)
        holds = condition(self, symbol, a, b)
        self._lines[:] = kept
        return holds

    p.setattr(_sizes.Sizes, "condition", changed)


def _other_results(p: Patch) -> None:
    """Results of a class lie one element further on."""
    text = _family._value_text
    p.setattr(_family, "_value_text", lambda value, sizes: text(value, sizes)[:-1] + " + 1)")


PLANTS = {
    "one more": _given(lambda given: [*given[:-1], given[-1] + 1]),
    "last stays": _last_stays,
    "other results": _other_results,
}


@pytest.mark.parametrize("what", PLANTS)
@pytest.mark.parametrize("op", ["add", "softmax", "matmul", "sort", "take"])
def test_a_wrong_class_is_seen(op: str, what: str, monkeypatch: Patch) -> None:
    name = "nn.softmax" if op == "softmax" else op
    assert verdict(name).state == "pass"
    _state.forget_plans()
    PLANTS[what](monkeypatch)
    found = verdict(name)
    assert found.state in ("fail", "error"), (op, what)


def test_a_class_without_conditions_is_seen(monkeypatch: Patch) -> None:
    _no_conditions(monkeypatch)
    states = {verdict(op).state for op in ("sort", "cumulative_sum", "nn.softmax", "where")}
    assert states & {"fail", "error"}


def test_grown_operands_still_go_together() -> None:
    given = [np.zeros((3, 5)), np.zeros((5, 4)), np.zeros((1, 4))]
    shapes = [a.shape for a in grown(given, 2)]
    assert shapes == [(5, 11), (11, 8), (1, 8)]
