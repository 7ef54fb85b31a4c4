"""``tensorbus ops``, traces and reports have one word for how a function is served."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus_backends.contract import NATIVES_VERSION, Buffer, Feature, NativeCase, NativeTable
from tensorbus_backends.dtypes import float32
from tensorbus_backends.ref import RefDevice
from tensorbus_conformance import natives
from tensorbus_conformance.judge.items import Item, dtypes_of, due_ops, items, random_recipe
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


# -- natives --------------------------------------------------------------------------------------


def test_the_page_of_natives_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "natives.md"
    assert page.read_text() == natives.page(), "make it again: tensorbus natives > docs/natives.md"
    assert f"Version {NATIVES_VERSION} of this list" in natives.page()


def test_what_the_page_of_natives_says() -> None:
    lines = {e.names[0]: e for e in natives.entries()}
    assert lines["sum"].options == (
        ("axes", "tuple of int"), ("dtype", "dtype"), ("keepdims", "bool"),
    )  # fmt: skip
    assert (lines["sort"].operands, lines["sort"].results) == ("1", "2")
    assert lines["softmax"].names == ("softmax", "nn.softmax")
    assert lines["nn.linear"].operands == "2 or 3"
    assert dict(lines["nn.cross_entropy"].options)["reduction"] == "'mean' or 'none' or 'sum'"
    assert {"nn.embedding", "nn.mse_loss", "tensordot", "vecdot"} <= lines.keys()
    assert set(lines) <= natives.names()


Run = Callable[[NativeCase, Sequence[Buffer], Sequence[int]], Any]


def vendor(name: str, run: Run, when: Callable[[NativeCase], bool]) -> RefDevice:
    """A device with one native kernel, whose memory the judge fences with bands."""
    table = NativeTable()
    table.implements(name, when=when, library="VendorLib 1.0")(run)
    made = RefDevice(replace(tb.get_device("ref").info, name="vendor"))
    made.features -= {Feature.ADDRESS}
    made.natives = table.table
    return made


def due(device: RefDevice, op: str) -> list[Item]:
    """The native items of an op."""
    found = items("vendor", device.capabilities, device.natives, "smoke", [op])
    return [i for i in found if i.variant == "native"]


def single(case: NativeCase) -> bool:
    """One float32 vector to a number, which reads an option."""
    return case.dtypes[0] is float32 and case.options["axes"] == (0,) and case.shapes[-1] == ()


def summed(case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
    _summed(case, buffers, offsets, 1)


def _summed(
    case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int], count: int
) -> None:
    (n,), (step,) = case.shapes[0], case.strides[0]
    x: Any = buffers[0]
    flat = np.lib.stride_tricks.as_strided(
        x.array.view(np.float32)[offsets[0] :], (n,), (4 * step,)
    )
    with np.errstate(all="ignore"):
        total = np.asarray(flat.astype(np.float64).sum(), np.float32)
    out: Any = buffers[1]
    start = out.array.ctypes.data + 4 * offsets[1]
    for k in range(count):
        ctypes.memmove(start + 4 * k, total.tobytes(), 4)


def test_the_judge_asks_about_its_own_calls() -> None:
    device = vendor("sum", summed, single)
    (item,) = due(device, "sum")
    assert item.dtype == "float32"
    session = Session(item, fenced(device), "smoke", 0)
    for name in ("values", "guards", "provenance"):
        outcome = judge(session, name)
        assert (outcome.state, session.way) == ("pass", "native"), outcome.message
    assert not due(vendor("sum", summed, lambda case: case.dtypes[0] is tb.float64), "exp")


def _raises(case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
    raise KeyError("axes")


def _returns(case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int]) -> Any:
    return np.zeros(case.shapes[-1])


def _past(case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
    _summed(case, buffers, offsets, 2)


def _nothing(case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
    """Claims what it cannot do."""


def _unsure(case: NativeCase) -> bool:
    return bool(case.options["no such option"])


@pytest.mark.parametrize(
    ("run", "when", "name", "state", "said"),
    [
        (_raises, single, "values", "error", "raised KeyError"),
        (_returns, single, "values", "error", "returned a ndarray"),
        (_past, single, "guards", "fail", "wrote outside a buffer"),
        (_nothing, single, "values", "fail", "sum"),
        (summed, _unsure, "values", "error", "`when` raised KeyError"),
        (summed, lambda case: True, "values", "error", "raised ValueError"),
    ],
)
def test_bad_natives_end_in_a_verdict_that_names_them(
    run: Run, when: Callable[[NativeCase], bool], name: str, state: str, said: str
) -> None:
    device = vendor("sum", run, when)
    item = next(i for i in due(device, "sum") if i.dtype == "float32")
    outcome = judge(Session(item, fenced(device), "smoke", 0), name)
    assert outcome.state == state, outcome
    assert said in outcome.message
    assert "native kernel of VendorLib 1.0" in outcome.message
    assert "sum" in outcome.message


def test_a_name_that_no_call_has_is_refused() -> None:
    device = vendor("linear", summed, single)
    device.features |= {Feature.ADDRESS}
    session = Session(Item("driver.capabilities", "vendor", "float32", "portable"),
                      fenced(device), "smoke", 0)  # fmt: skip
    outcome = judge(session, "agreement")
    assert outcome.state == "fail"
    assert "native linear: no calls have that name" in outcome.message
