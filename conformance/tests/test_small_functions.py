"""The duty that looks at the small functions over the scalar IR: planted faults are seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tensorbus_backends import dtypes as dt, ir, scalar
from tensorbus_conformance.judge.driver import small
from tensorbus_conformance.judge.driver.base import Checks

FAULTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "the top bit of an unsigned integer as a sign": (
        "sign_bit",
        lambda x: x > (x.dtype.max >> 1) if x.dtype.kind == "u" else scalar.sign_bit(x),
    ),
    "minus zero without a sign": (
        "sign_bit",
        lambda x: x < 0 if x.dtype.kind in "if" else ir.const(False, dt.bool_),
    ),
    "infinity as NaN": (
        "is_nan",
        lambda x: scalar.is_nan(x - x) if x.dtype.is_float else scalar.is_nan(x),
    ),
}


def judged() -> str:
    checks = Checks("small")
    small.functions(checks)
    assert checks.outcome.decided > 10_000
    return checks.outcome.message


def test_they_are_right() -> None:
    assert judged() == ""


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_one_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, fault = FAULTS[name]
    _, due, boolean = small._ONE[function]
    monkeypatch.setitem(small._ONE, function, (fault, due, boolean))
    assert judged().startswith(f"{function}(")


def test_a_maximum_that_loses_a_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    _, due, kinds = small._TWO["maximum"]
    fault = lambda a, b: ir.select(a < b, b, a)  # noqa: E731
    monkeypatch.setitem(small._TWO, "maximum", (fault, due, kinds))
    assert judged().startswith("maximum(")
