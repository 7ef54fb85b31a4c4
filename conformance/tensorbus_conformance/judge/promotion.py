"""Result dtypes: the array API's promotion table, spelled here once more, independently."""

from __future__ import annotations

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

from ..oracle import REFERENCES
from .cases import cases, is_elementwise
from .items import Outcome
from .session import Session, oracle_call

__all__ = ["check", "expected"]

_INTEGERS = {
    ("int8", "int16"): "int16", ("int8", "int32"): "int32", ("int8", "int64"): "int64",
    ("int16", "int32"): "int32", ("int16", "int64"): "int64", ("int32", "int64"): "int64",
    ("uint8", "uint16"): "uint16", ("uint8", "uint32"): "uint32", ("uint8", "uint64"): "uint64",
    ("uint16", "uint32"): "uint32", ("uint16", "uint64"): "uint64",
    ("uint32", "uint64"): "uint64",
    ("int8", "uint8"): "int16", ("int8", "uint16"): "int32", ("int8", "uint32"): "int64",
    ("int16", "uint8"): "int16", ("int16", "uint16"): "int32", ("int16", "uint32"): "int64",
    ("int32", "uint8"): "int32", ("int32", "uint16"): "int32", ("int32", "uint32"): "int64",
    ("int64", "uint8"): "int64", ("int64", "uint16"): "int64", ("int64", "uint32"): "int64",
}  # fmt: skip
_FLOATS = {
    ("float16", "float32"): "float32", ("float16", "float64"): "float64",
    ("float32", "float64"): "float64", ("bfloat16", "float32"): "float32",
    ("bfloat16", "float64"): "float64", ("bfloat16", "float16"): "float32",
}  # fmt: skip


def expected(a: DType, b: DType) -> str | None:
    """The promoted dtype of a pair, None where promotion is an error."""
    if a is b:
        return a.name
    for table in (_INTEGERS, _FLOATS):
        for pair in ((a.name, b.name), (b.name, a.name)):
            if pair in table:
                return table[pair]
    if a.is_float and b.is_integer:
        return a.name
    if b.is_float and a.is_integer:
        return b.name
    return None


_PREDICATES = {
    "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and",
    "logical_or", "logical_xor",
}  # fmt: skip


def check(session: Session) -> Outcome:
    """Dtype of the result: for the item's own dtype, and for pairs with every other dtype."""
    outcome = Outcome("promotion", unit="dtypes")
    for case in session.usable(cases(session.op, session.dtype, "smoke", session.seed)):
        got, _ = session.run(case)
        for g, r in zip(got, oracle_call(session.op, case), strict=True):
            outcome.decided += 1
            if g.dtype != r.dtype and outcome.state == "pass":
                outcome.state = "fail"
                outcome.message = f"{case.label}: result is {g.dtype}, expected {r.dtype}"
    binary = is_elementwise(session.op) and REFERENCES[session.op].tensors == (2, 2)
    if binary and session.op not in ("divide", "ldexp"):
        _pairs(session, outcome)
    return outcome


def _pairs(session: Session, outcome: Outcome) -> None:
    function = tb.FUNCTIONS[session.item.op].call
    kinds = REFERENCES[session.op].kinds
    others = dt.ALL if session.level != "smoke" else (dt.float64, dt.int8, dt.uint8, dt.float16)
    known = session.device.capabilities.dtypes
    for other in others:
        kind = {"b": "b", "i": "i", "u": "i", "f": "f"}[other.kind]
        if kind not in kinds or other.name not in known:
            continue
        want = expected(session.dtype, other)
        if want is None or want not in known:
            continue
        if session.op in _PREDICATES:
            want = "bool"
        a = tb.ones((2,), dtype=session.dtype, device=session.device)
        b = tb.ones((2,), dtype=other, device=session.device)
        outcome.decided += 1
        with tb.reproducible():
            got = function(a, b).dtype.name
        if got != want and outcome.state == "pass":
            outcome.state = "fail"
            outcome.message = f"{session.dtype.name} with {other.name} gives {got}, expected {want}"
    if session.dtype.kind != "b" and session.op not in _PREDICATES:
        x = tb.asarray(np.ones(2, session.dtype.numpy), device=session.device)
        with tb.reproducible():
            got = function(x, 1).dtype.name
        outcome.decided += 1
        if got != session.dtype.name and outcome.state == "pass":
            outcome.state = "fail"
            outcome.message = f"{session.dtype.name} with a Python int gives {got}"
