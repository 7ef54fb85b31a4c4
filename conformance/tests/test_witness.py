"""A failing cell names its input, also where operands have other shapes than the result."""

from __future__ import annotations

import numpy as np
import pytest
from tensorbus_conformance.judge.cases import Case
from tensorbus_conformance.judge.comparing import witness
from tensorbus_conformance.judge.items import Item
from tensorbus_conformance.runner import run_items


def test_elements_where_the_operands_have_the_shape_of_the_result() -> None:
    case = Case((np.asarray([1.0, 2.0], np.float32), np.asarray([3, 4], np.int32)), {}, "call")
    assert witness((1,), (2,), case) == f"(1,) of call: {(2.0).hex()}, 4"


def test_operands_where_they_have_not() -> None:
    case = Case((np.ones((3, 40), np.float32), np.asarray([2], np.int64)), {}, "rows")
    text = witness((1,), (3,), case)
    assert text == "(1,) of rows, operands float32(3, 40); int64(1,) [2]"


@pytest.mark.parametrize(("op", "fault"), [("sum", "scaled-sum"), ("matmul", "scaled-matmul")])
def test_a_failure_tells_how_to_make_its_input_again(op: str, fault: str) -> None:
    item = Item(op, "cpu", "float32", "portable")
    run = run_items([item], "smoke", 5, workers=1, fault=fault, only=["values", "bits"])
    for cell in run.cells:
        assert cell.outcome.state == "fail", cell.outcome
        assert "(level smoke, seed 5)" in cell.outcome.witness
        assert " of " in cell.outcome.witness
    assert any("operands float32(" in cell.outcome.witness for cell in run.cells)
