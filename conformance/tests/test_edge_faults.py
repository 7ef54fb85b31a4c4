"""Faults at edges: options in derivatives, roundings, kept plans, nothing at all, dtypes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorbus as tb
from tensorbus import _op, _state
from tensorbus.ops import data_types, indexing, matrix
from tensorbus_backends import dtypes as dt
from tensorbus_conformance.judge.cases import _made, gradient_cases
from tensorbus_conformance.judge.comparing import claimed_bound
from tensorbus_conformance.judge.items import Item, Outcome
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session, fenced
from tensorbus_conformance.oracle import REFERENCES


@pytest.fixture(autouse=True)
def fresh_plans() -> Iterator[None]:
    yield
    _state.forget_plans()


def verdict(op: str, name: str, dtype: str = "float32") -> Outcome:
    device = tb.get_device("ref")
    item = Item(op, "ref", dtype, "portable")
    return judge(Session(item, fenced(device.backend), "standard", 0), name)


OPTIONS = sorted(n for n, r in REFERENCES.items() if r.differentiable and r.samples)


@pytest.mark.parametrize("op", OPTIONS)
def test_derivatives_of_every_order_take_every_option(op: str) -> None:
    every = _made(op, dt.float32, "standard", 0, REFERENCES[op].samples, "values")
    names = {n for c in every if c.smooth for n in c.options if n not in ("copy", "dtype")}
    judged = gradient_cases(op, dt.float32, "standard", 0)[:8]
    for name in names:
        values = [c.options[name] for c in judged if name in c.options]
        assert values, name
        wide = {repr(c.options[name]) for c in every if isinstance(c.options.get(name), float)}
        if len(wide) > 2:  # its default, and more than one other value
            assert len({repr(v) for v in values}) > 1, (name, values)


@pytest.mark.parametrize("op", ["add", "multiply", "divide", "sqrt", "square", "reciprocal"])
def test_one_ulp_off_is_wrong_where_rounding_is_correct(op: str) -> None:
    record = REFERENCES[op]
    x = np.array([1.5, 2.7, 3.1], np.float32)
    reference: Any = record.forward(*[x] * record.tensors[0])
    good = reference.rounded()
    for dtype in (dt.float32, dt.float64, dt.bfloat16):
        assert claimed_bound(op, dtype, tb.get_device("ref")) == 0.5
    made = record.judge(np.float32, {}, claimed_bound(op, dt.float32, tb.get_device("ref")))
    assert made.check(good, reference).ok
    assert not made.check(np.nextafter(good, np.float32(9)), reference).ok


def test_a_conversion_that_rounds_twice_is_wrong() -> None:
    x = np.array([2**30 + 2**22 + 1], np.int64)
    record = REFERENCES["astype"]
    reference: Any = record.forward(x, dtype=np.dtype(ml_dtypes.bfloat16))
    made = record.judge(np.int64)
    assert made.check(np.array([2.0**30 + 2**23]).astype(ml_dtypes.bfloat16), reference).ok
    twice = x.astype(np.float32).astype(ml_dtypes.bfloat16)
    assert not made.check(twice, reference).ok


def test_a_plan_that_serves_another_option_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict("sort", "users").state == "pass"
    monkeypatch.setattr(_op, "_option_key", lambda options: ())
    _state.forget_plans()
    assert verdict("sort", "users").state == "fail"


def test_a_gradient_of_nothing_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict("concat", "gradient").state == "pass"
    assert verdict("nn.linear", "gradient").state == "pass"
    real = matrix.unbroadcast

    def wrong(g: tb.Tensor, spec: Any) -> tb.Tensor:
        out = real(g, spec)
        return out if 0 not in g.shape and out.size else tb.ones_like(out)

    def matmul(x1: tb.Tensor, x2: tb.Tensor) -> tb.Tensor:
        return made(x1, x2) + float(0 in x1.shape)

    made = matrix.matmul
    monkeypatch.setattr(matrix, "unbroadcast", wrong)
    monkeypatch.setattr(matrix, "matmul", matmul)
    outcome = verdict("nn.linear", "gradient")
    assert outcome.state == "fail", outcome


def test_limits_and_kinds_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict("surface.dtypes", "users").state == "pass"
    real = data_types.promote
    monkeypatch.setattr(data_types, "promote", lambda a, b: a if b is dt.float64 else real(a, b))
    assert verdict("surface.dtypes", "users").state == "fail"


def test_a_device_without_a_dtype_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorbus.ops import _common

    monkeypatch.setattr(_common, "check_dtype", lambda device, dtype: None)
    assert verdict("surface.dtypes", "users").state == "fail"


def test_an_ellipsis_between_indices_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    real = indexing._read

    def wrong(x: tb.Tensor, key: Any) -> Any:
        found = real(x, key)
        if isinstance(key, tuple) and Ellipsis in [k for k in key if k is Ellipsis]:
            found.at = max(found.at, int(key[0] == slice(None, None, None)))
        return found

    assert verdict("surface.getitem", "users").state == "pass"
    monkeypatch.setattr(indexing, "_read", wrong)
    assert verdict("surface.getitem", "users").state == "fail"
