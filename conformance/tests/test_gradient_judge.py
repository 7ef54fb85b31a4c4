"""Planted faults in rules and in the engine: each is caught by a gradient property."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import _autograd, _history, _state
from tensorbus._history import Context
from tensorbus_backends import dtypes as dt
from tensorbus_conformance.judge import items
from tensorbus_conformance.judge.cases import Case
from tensorbus_conformance.judge.gradients import nested, reverse_ways, ways
from tensorbus_conformance.judge.items import Item, Outcome
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session, fenced

assert nested
assert reverse_ways  # they register their ways


@pytest.fixture(autouse=True)
def fresh_plans() -> Iterator[None]:
    yield
    _state.forget_plans()


def along(monkeypatch: pytest.MonkeyPatch, op: str, *names: str) -> Outcome:
    """The verdict of these ways alone."""
    monkeypatch.setattr(ways, "WAYS", {n: ways.WAYS[n] for n in names})
    monkeypatch.setattr(ways, "PER_ITEM", len(names))
    return verdict(op, "autograd")


def verdict(op: str, name: str, dtype: str = "float32") -> Outcome:
    device = tb.get_device("ref")
    return judge(
        Session(Item(op, "ref", dtype, "portable"), fenced(device.backend), "smoke", 0), name
    )


def caught(op: str, name: str, dtype: str = "float32") -> None:
    outcome = verdict(op, name, dtype)
    assert outcome.state == "fail", outcome


def rule(monkeypatch: pytest.MonkeyPatch, op: str, change: Callable[..., Any]) -> None:
    """Put `change` (from the old rule) in place of the reverse rule of an op."""
    monkeypatch.setattr(tb.OPS[op], "vjp", change(tb.OPS[op].vjp))  # type: ignore[union-attr]


@pytest.mark.parametrize("op", ["nn.relu", "where", "multiply"])
def test_what_is_right_passes(op: str) -> None:
    for name in ("gradient", "forward", "second", "kinks", "autograd"):
        assert name in items.properties(op, dt.float32, "portable", "ref", "smoke")
        outcome = verdict(op, name)
        assert outcome.state == "pass", (name, outcome)
        assert outcome.decided > 0


@pytest.mark.parametrize("name", sorted(ways.WAYS))
def test_every_way_passes_and_decides(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    outcome = along(monkeypatch, "multiply", name)
    assert outcome.state == "pass", outcome


def test_ways_that_lay_operands_out_anew_demand_no_view(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = np.zeros((2, 3), np.float32)
    calls = [Case((shown, (6,)), {"copy": False}, "a view"), Case((shown, (6,)), {}, "plain")]
    monkeypatch.setattr(ways, "gradient_cases", lambda _session: calls)
    outcome = along(monkeypatch, "reshape", "views")
    assert outcome.state == "pass", outcome
    assert outcome.decided > 0


@pytest.mark.parametrize(("public", "name"), [("nn.relu", "relu"), ("abs", "abs")])
def test_a_wrong_subgradient_at_zero(
    monkeypatch: pytest.MonkeyPatch, public: str, name: str
) -> None:
    def at_zero(old: Any) -> Any:
        def changed(c: Context, g: tb.Tensor) -> Any:
            (d,) = old(c, g)
            return [tb.where(tb.equal(c.input(0), 0), g, d)]

        return changed

    rule(monkeypatch, name, at_zero)
    caught(public, "kinks")


def test_a_product_that_divides(monkeypatch: pytest.MonkeyPatch) -> None:
    def dividing(old: Any) -> Any:
        def changed(c: Context, g: tb.Tensor) -> Any:
            (d,) = old(c, g)
            x = c.input(0)
            return [tb.divide(tb.multiply(d, x), x)]

        return changed

    rule(monkeypatch, "prod", dividing)
    caught("prod", "kinks")


def test_where_that_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(old: Any) -> Any:
        def changed(c: Context, g: tb.Tensor) -> Any:
            mask = tb.broadcast_to(tb.astype(c.input(0), g.dtype), g.shape)
            found = list(old(c, g))
            for k, factor in ((1, mask), (2, 1 - mask)):
                if found[k] is not None and found[k].shape == g.shape:
                    found[k] = tb.multiply(g, factor)
            return found

        return changed

    rule(monkeypatch, "where", leaking)
    caught("where", "kinks")


def test_a_gradient_dropped_with_its_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    def dropping(old: Any) -> Any:
        def changed(c: Context, g: tb.Tensor) -> Any:
            found = old(c, g)
            return found if all(c.needs) else [None] * len(found)

        return changed

    rule(monkeypatch, "multiply", dropping)
    assert along(monkeypatch, "multiply", "subsets").state == "fail"


def test_a_strided_cotangent_read_as_contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    def packed(old: Any) -> Any:
        def changed(c: Context, g: tb.Tensor) -> Any:
            from tensorbus._spec import Spec

            return old(c, tb.Tensor(g._buffer, Spec.of(g.device, g.dtype, g.shape), g._offset))

        return changed

    rule(monkeypatch, "exp", packed)
    assert along(monkeypatch, "exp", "layouts").state in ("fail", "error")


def test_one_tensor_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(old: Any) -> Any:
        def changed(c: Context, g: tb.Tensor) -> Any:
            first, second = old(c, g)
            return [first, None if c.input(0)._buffer is c.input(1)._buffer else second]

        return changed

    rule(monkeypatch, "multiply", once)
    assert along(monkeypatch, "multiply", "identity").state == "fail"


def test_accumulation_that_overwrites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_autograd, "_sum", lambda a, b: b)
    assert along(monkeypatch, "exp", "backward").state == "fail"


def test_gradients_that_share_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_autograd, "_own", lambda g, taken: g)
    assert along(monkeypatch, "add", "backward").state == "fail"


def test_a_wrong_default_cotangent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_autograd, "_ones_like", lambda out: tb.full_like(out, 2.0))
    assert along(monkeypatch, "exp", "method").state == "fail"


def test_levels_that_are_confused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_autograd, "_levels", iter([7] * 10**6))
    assert along(monkeypatch, "exp", "levels").state == "fail"


def test_changes_that_nobody_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_history, "changes", lambda buffer: 0)
    assert along(monkeypatch, "multiply", "changes").state == "fail"


def test_a_second_order_term_of_the_wrong_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    op: Any = tb.OPS["divide"]
    first, second = op.partials
    wrong = lambda c: lambda v: 2 * second(c)(v).detach() - second(c)(v)  # noqa: E731
    monkeypatch.setattr(op, "partials", [first, wrong])
    caught("divide", "second")


def test_the_oracle_says_what_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    known = items.properties("exp", dt.float32, "portable", "ref", "smoke")
    monkeypatch.setitem(tb.FUNCTIONS, "exp", replace(tb.FUNCTIONS["exp"], differentiable=False))
    assert items.properties("exp", dt.float32, "portable", "ref", "smoke") == known
    for name in ("gradient", "forward", "second", "kinks", "autograd"):
        assert name in known
        caught("exp", name)


@pytest.mark.parametrize("op", ["exp", "add", "where"])
def test_a_missing_op_is_counted(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = items.properties(op, dt.float32, "portable", "ref", "smoke")
    device = tb.get_device("ref")
    before = items.items("ref", device.capabilities, {}, "smoke")
    monkeypatch.delitem(tb.FUNCTIONS, op)
    assert items.items("ref", device.capabilities, {}, "smoke") == before
    assert items.properties(op, dt.float32, "portable", "ref", "smoke") == known
    for name in known:
        outcome = verdict(op, name)
        assert (outcome.state, "missing op" in outcome.message) == ("fail", True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("op", ["nn.softmax", "sum", "matmul", "nn.layer_norm", "var", "multiply"])
def test_a_missing_half_in_16_bits(monkeypatch: pytest.MonkeyPatch, op: str, dtype: str) -> None:
    name = tb.FUNCTIONS[op].op or op.removeprefix("nn.")

    def halved(old: Any) -> Any:
        def changed(c: Context, g: tb.Tensor) -> Any:
            return [None if d is None else tb.multiply(d, 0.5) for d in old(c, g)]

        return changed

    assert verdict(op, "gradient", dtype).state == "pass"
    rule(monkeypatch, name, halved)
    caught(op, "gradient", dtype)


@pytest.mark.parametrize("op", ["nn.softmax", "sum", "nn.layer_norm", "var", "multiply", "exp"])
def test_two_percent_in_float16(monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    name = tb.FUNCTIONS[op].op or op.removeprefix("nn.")

    def larger(old: Any) -> Any:
        def changed(c: Context, g: tb.Tensor) -> Any:
            return [None if d is None else tb.multiply(d, 1.02) for d in old(c, g)]

        return changed

    rule(monkeypatch, name, larger)
    caught(op, "gradient", "float16")


def test_a_wrong_default_eps(monkeypatch: pytest.MonkeyPatch) -> None:
    right = tb.FUNCTIONS["nn.rms_norm"]

    def call(x: tb.Tensor, *args: Any, **options: Any) -> Any:
        return right.call(x, *args, **{"eps": 1e-5, **options})

    assert verdict("nn.rms_norm", "kinks").state == "pass"
    monkeypatch.setitem(tb.FUNCTIONS, "nn.rms_norm", replace(right, call=call))
    caught("nn.rms_norm", "kinks")


def test_the_page_and_the_points_are_there() -> None:
    from tensorbus_conformance.oracle import REFERENCES

    pointed = [op for op in REFERENCES.values() if op.kinks]
    assert len(pointed) > 70
    assert all(op.differentiable for op in pointed)
    assert all(np.isfinite(op.tensors[1]) for op in pointed)
