"""Result dtypes: the array API's promotion table, spelled here once more, independently.

Pairs of dtypes are judged by dtype and, for ops that take Python numbers beside tensors (the
elementwise ones), by value too: on numbers at the ends of both dtypes the result is the oracle's
for operands converted to the common dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

from ..oracle import REFERENCES, Judge
from .cases import Case, cases
from .comparing import claimed_bound
from .items import Outcome
from .layouts import host, place
from .session import Session, array_slots, oracle_arguments, oracle_call, split
from .signature import takes_scalars

__all__ = ["check", "ends", "expected", "judge_of", "small"]

Array = NDArray[Any]

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


def ends(dtype: DType) -> Array:
    """Six values at the ends of a dtype and around zero; no NaN, no subnormal."""
    if dtype.kind == "b":
        return np.asarray([True, False, True, True, False, False])
    if dtype.is_integer:
        low = dtype.min + 1 if dtype.kind == "i" else 2
        return np.asarray([dtype.max, dtype.min, low, 0, 1, 3], dtype.numpy)
    top = {"bfloat16": 3e38, "float16": 65504.0, "float32": 3.4e38, "float64": 1.7e308}[dtype.name]
    return np.asarray([top, -top, -0.0, 0.0, 1.0, -2.5]).astype(dtype.numpy)


def small(session: Session) -> Case | None:
    """The smallest ordinary call of an item, with the ends of its dtype if it is elementwise."""
    sets = session.usable(cases(session.op, session.dtype, "smoke", session.seed))
    if not sets:
        return None
    case = min(sets, key=lambda c: sum(a.size for a in array_slots(c)))
    if not takes_scalars(session.item.op) or not array_slots(case):
        return case
    arrays, rebuild = split(case)
    mine = session.dtype.numpy
    new = [ends(session.dtype if a.dtype == mine else dt.from_numpy(a.dtype)) for a in arrays]
    args, options = rebuild(new)
    return Case(tuple(args), options, "ends", random=False)


def judge_of(session: Session, dtype: DType) -> Judge:
    """The judge of results computed from operands of `dtype`, by value."""
    ulps = claimed_bound(session.op, dtype, session.device) if session.portable else None
    return REFERENCES[session.op].judge(
        dtype.numpy, {}, ulps, statistics=False, subnormals=not session.flushes
    )


def check(session: Session) -> Outcome:
    """Dtype of the result: for the item's own dtype, and for pairs with every other dtype."""
    outcome = Outcome("promotion", unit="dtypes")
    case = small(session)
    if case is None:
        return outcome
    got, _ = session.run(case)
    for g, r in zip(got, oracle_call(session.op, case), strict=True):
        outcome.decided += 1
        if g.dtype != r.dtype:
            _fail(outcome, f"{case.label}: result is {g.dtype}, expected {r.dtype}")
    apart = REFERENCES[session.op].positions
    mine = session.dtype.numpy
    places = [k for k, a in enumerate(array_slots(case)) if a.dtype == mine and k not in apart]
    if len(places) > 1:
        for other in _others(session):
            for k in places[:2] if session.level != "smoke" else [places[session.seed % 2]]:
                _pair(session, outcome, case, places, k, other)
    return outcome


def _fail(outcome: Outcome, message: str) -> None:
    if outcome.state == "pass":
        outcome.state, outcome.message = "fail", message[:400]


def _others(session: Session) -> Sequence[DType]:
    """The dtypes that the item's meets: all, or at level smoke two that the seed draws."""
    known = session.device.capabilities.dtypes
    found = [d for d in dt.ALL if d.name in known and d is not session.dtype]
    if session.level != "smoke":
        return found
    rng = np.random.default_rng([session.seed, len(session.item.op)])
    return [found[int(k)] for k in rng.permutation(len(found))[:2]]


def _kind(dtype: DType) -> str:
    return {"b": "b", "i": "i", "u": "i", "f": "f"}[dtype.kind]


def _pair(
    session: Session, outcome: Outcome, case: Case, places: Sequence[int], at: int, other: DType
) -> None:
    """The call with operand `at` in another dtype."""
    record = REFERENCES[session.op]
    arrays, rebuild = split(case)
    elementwise = takes_scalars(session.item.op)
    changed = list(arrays)
    with np.errstate(all="ignore"):
        changed[at] = ends(other) if elementwise else arrays[at].astype(other.numpy)
    mine = session.dtype
    want = expected(mine, other)
    known = session.device.capabilities.dtypes
    if want is not None and want not in known:
        return
    common = None if want is None else dt.by_name(want)
    first = other if at == places[0] else mine
    refused = record.mixes == "never" or common is None
    refused = refused or (record.mixes == "first" and common is not first)
    if record.mixes == "each":
        return
    if record.mixes == "first kind":
        refused = common is None or not (first.is_float or common.kind in (first.kind, "u"))
        common = first
    if record.mixes == "within" and _kind(other) not in record.kinds:
        refused = True
    if common is not None and _kind(common) not in (record.takes or record.kinds):
        refused = True
    tensors = [place(session.device, a)[0] for a in changed]
    args, options = rebuild(tensors)
    function = tb.FUNCTIONS[session.item.op].call
    what = f"{mine.name} with {other.name} as operand {at}"
    outcome.decided += 1
    try:
        with tb.reproducible(session.portable):
            result = function(*args, **options)
    except (TypeError, ValueError) as error:
        if not refused:
            _fail(outcome, f"{what}: {type(error).__name__}: {error}")
        return
    session.runs += 1
    if refused:
        _fail(outcome, f"{what}: nothing raised, although they do not promote here")
        return
    assert common is not None
    results = [result] if isinstance(result, tb.Tensor) else list(result)
    with np.errstate(all="ignore"):
        # What takes bounds of any size as its own dtype's ends is not to be given wrapped ones.
        casts = places if record.mixes != "first kind" else ()
        converted = [a.astype(common.numpy) if k in casts else a for k, a in enumerate(changed)]
    if not elementwise:
        expect = _result_dtype(session, common)
        for r in results:
            if r.dtype.name != expect:
                _fail(outcome, f"{what}: result is {r.dtype.name}, expected {expect}")
        return
    flat, plain = oracle_arguments(session.op, case, converted)
    with np.errstate(all="ignore"):
        reference = record.forward(*flat, **plain)
    assert not isinstance(reference, tuple)
    verdict = judge_of(session, common).check(host(results[0]), reference)
    outcome.decided += verdict.decided
    if not verdict.ok:
        _fail(outcome, f"{what}: {verdict.message}")


def _result_dtype(session: Session, common: DType) -> str:
    """The dtype of the op's results for operands of one dtype, by the oracle."""
    (case, *_) = cases(session.op, common, "smoke", session.seed)
    reference = oracle_call(session.op, case)[0]
    return str(np.dtype(reference.dtype).name)
