"""Comparing results: with the oracle's, within its bounds; with others', bit by bit.

Bounds come from the oracle's error model; comparisons of bits treat NaN as one value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.mathlib import bounds

from ..oracle import REFERENCES, Judge, Verdict
from .cases import Case
from .items import Outcome
from .session import Session, array_slots, flushed_calls, oracle_call

__all__ = [
    "claimed_bound",
    "compare",
    "judge_of",
    "judged",
    "merge",
    "portable_bound",
    "same_bits",
    "witness",
]

Array = NDArray[Any]


def portable_bound(op: str, dtype: dt.DType) -> float:
    """Ulps claimed for the portable function, or for the worst of those an op is made of."""
    compute = dtype.compute
    if op == "rsqrt":
        return 1.5  # its document: one ulp from the root, half from the division
    if (op, compute.name) in bounds.BOUNDS_TWO:
        return bounds.BOUNDS_TWO[op, compute.name]
    table = bounds.BOUNDS_F64 if compute is dt.float64 else bounds.BOUNDS_F32
    return table.get(op, max(table.values()))


def claimed_bound(op: str, dtype: dt.DType, device: tb.Device) -> float:
    """Ulps that a portable result may be off: half of one for what IEEE 754 rounds correctly.

    A device may declare a division or square root with a greater error.
    """
    if REFERENCES[op].family != "rounded":
        return portable_bound(op, dtype)
    declared = device.capabilities
    roots = {"divide": declared.division, "reciprocal": declared.division}
    said = {**roots, "sqrt": declared.square_root}.get(op, "correct")
    return 0.5 if said == "correct" else float(said)


def same_bits(a: Array, b: Array) -> Array:
    """Element by element: equal bits, or both NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return np.zeros(a.shape, bool)
    if a.dtype.kind in "biu":
        return np.asarray(a == b)
    x, y = np.ascontiguousarray(a), np.ascontiguousarray(b)
    unsigned = f"u{a.itemsize}"
    equal = x.view(unsigned) == y.view(unsigned)
    return np.asarray(equal | ((x != x) & (y != y)))


def judge_of(session: Session, case: Case) -> Any:
    """What compares a call's results with the oracle's, for the dtype and variant of the item."""
    make = REFERENCES[session.op].judge
    ulps = claimed_bound(session.op, session.dtype, session.device) if session.portable else None
    options = {
        k: v.numpy if isinstance(v, dt.DType) else v
        for k, v in case.options.items()
        if not isinstance(v, np.ndarray)
    }
    return make(
        session.dtype.numpy,
        options,
        ulps,
        statistics=case.random and session.level != "smoke",
        subnormals=not session.flushes,
    )


def merge(outcome: Outcome, verdict: Verdict, case: Case, arrays: Sequence[Array]) -> None:
    outcome.decided += verdict.decided
    relative = verdict.worst_error / verdict.bound if verdict.bound else verdict.worst_error
    known = outcome.worst_error / outcome.bound if outcome.bound else outcome.worst_error
    if not verdict.ok and outcome.state == "pass":
        outcome.state = "fail"
        outcome.message = f"{case.label or 'call'}: {verdict.message}"
    if relative >= known or not verdict.ok:
        outcome.worst_error, outcome.bound = verdict.worst_error, verdict.bound
        outcome.unit = verdict.unit
        shape = None if verdict.passed is None else verdict.passed.shape
        outcome.witness = witness(verdict.witness_index, shape, case, arrays)


def witness(
    index: tuple[int, ...] | None,
    shape: tuple[int, ...] | None,
    case: Case,
    given: Sequence[Array] = (),
) -> str:
    """Where a result is worst, and its input: the operands' elements there, or the operands.

    Args:
        index: Of the element.
        shape: Of the result, if it is known.
        case: The call.
        given: Its operands, if they are others than the case's.
    """
    if index is None:
        return ""
    arrays = given or array_slots(case)
    if arrays and all(a.shape == shape for a in arrays):
        values = [
            f"{float(a[index]).hex() if a.dtype.kind not in 'biu' else a[index]}" for a in arrays
        ]
        return f"{index} of {case.label or 'call'}: {', '.join(values)}"
    operands = [f"{a.dtype}{a.shape}" + (f" {a.tolist()}" if a.size <= 8 else "") for a in arrays]
    return f"{index} of {case.label or 'call'}, operands {'; '.join(operands) or 'none'}"


def judged(session: Session, sets: Sequence[Case], name: str) -> Outcome:
    outcome = Outcome(name)
    for case in sets:
        got, seen = session.result(case), array_slots(case)
        references = oracle_call(session.op, case)
        if len(got) != len(references):
            outcome.state = "fail"
            outcome.message = f"{len(got)} results, expected {len(references)}"
            return outcome
        judge = judge_of(session, case)
        for k, (g, r) in enumerate(zip(got, references, strict=True)):
            verdict = judge.check(g, r)
            if not verdict.ok and session.flushes:
                verdict = _with_flushed(session, case, judge, g, k, verdict)
            merge(outcome, verdict, case, seen)
            if not g.size or session.op in ("empty", "empty_like"):
                outcome.decided += 1  # shape and dtype could have been wrong
    return outcome


def _with_flushed(
    session: Session, case: Case, judge: Judge, got: Array, k: int, verdict: Verdict
) -> Verdict:
    """The verdict on result `k` if any operand's subnormals may have been taken as zeros."""
    if verdict.passed is None:  # how many results there are depends on what counts as zero
        others = (judge.check(got, r[k]) for r in flushed_calls(session.op, case))
        return next((other for other in others if other.ok), verdict)
    passed = verdict.passed.copy()
    for references in flushed_calls(session.op, case):
        again = judge.check(got, references[k])
        if again.passed is not None:
            passed |= again.passed
    if passed.all():
        return replace(verdict, ok=True, worst_error=0.0, message="", passed=passed)
    flat = int(np.flatnonzero(~passed.reshape(-1))[0])
    index = tuple(int(i) for i in np.unravel_index(flat, got.shape))
    text = f"{int((~passed).sum())} of {got.size} are wrong for operands as given and flushed; "
    text += f"at {index}: got {got[index]!r}; {verdict.message}"
    return replace(verdict, message=text, witness_index=index)


def compare(outcome: Outcome, label: str, got: Array, want: Array, what: str) -> None:
    outcome.decided += max(got.size, 1)
    if got.shape != want.shape or got.dtype != want.dtype:
        if outcome.state == "pass":
            outcome.state = "fail"
            outcome.message = f"{label}: {got.dtype}{got.shape}, {what} {want.dtype}{want.shape}"
        return
    same = same_bits(got, want)
    if not same.all() and outcome.state == "pass":
        flat = int(np.flatnonzero(~same.reshape(-1))[0])
        index = tuple(int(i) for i in np.unravel_index(flat, got.shape))
        outcome.state = "fail"
        outcome.message = (
            f"{label}: {int((~same).sum())} of {got.size} differ; at {index}: "
            f"{got[index]!r}, {what} {want[index]!r}"
        )
        outcome.witness = str(index)
