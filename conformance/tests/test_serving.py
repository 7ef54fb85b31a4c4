"""``tensorbus ops``, traces and reports have one word for how a function is served."""

from __future__ import annotations

import pytest
import tensorbus as tb
from tensorbus_conformance.judge.items import Item, dtypes_of, due_ops, random_recipe
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session, fenced
from tensorbus_conformance.listing import ops_table


def first(op: str) -> Session:
    """A session that has made the first call of an op."""
    dtype = dtypes_of(op, "smoke")[0]
    session = Session(Item(op, "ref", dtype.name, "portable"), fenced(backend()), "smoke", 0)
    session.run(session.cases()[0])
    return session


def backend() -> tb.Device:
    return tb.get_device("ref").backend  # type: ignore[return-value]


@pytest.mark.parametrize("op", sorted(o for o in due_ops() if not random_recipe(o)))
def test_the_list_says_what_a_trace_says(op: str) -> None:
    """No native kernel runs on ref, so a call is of its op's own kernels, or of other ops'."""
    session = first(op)
    due = "decomposed" if tb.FUNCTIONS[op].decomposed else "portable"
    assert session.ways == {due}


def test_the_words_are_those_of_the_command() -> None:
    table = {r["name"]: r["devices"] for r in ops_table()}
    assert table["nn.linear"]["ref"] == "decomposed"
    assert table["zeros"]["ref"] == table["add"]["ref"] == "portable"
    words = {w for devices in table.values() for w in devices.values()}
    assert words <= {"portable", "decomposed", "native+portable", "native+decomposed"}


def test_a_report_has_the_word() -> None:
    from tensorbus_conformance.worker import judge_item

    told = []
    for op in ("nn.linear", "exp"):
        request = {
            "item": f"{op}/ref/float32/portable", "level": "smoke", "seed": 0,
            "properties": ["provenance"],
        }  # fmt: skip
        judge_item(request, told.append)
    served = [a["outcome"]["served"] for a in told if "outcome" in a]
    assert served == ["decomposed", "portable"]


def test_a_function_that_is_served_otherwise_than_listed_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tb.Function, "decomposed", property(lambda self: self.name == "exp"))
    session = Session(Item("exp", "ref", "float32", "portable"), fenced(backend()), "smoke", 0)
    session.ways.add("portable")
    outcome = judge(session, "provenance")
    assert outcome.state == "fail"
    assert "traces say ['portable']" in outcome.message
