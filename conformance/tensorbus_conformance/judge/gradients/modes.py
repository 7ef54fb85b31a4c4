"""Values of first derivatives: reverse and forward mode against the oracle, element by element."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorbus as tb

from ...oracle import REFERENCES
from ..cases import Case
from ..comparing import merge
from ..items import Outcome
from ..layouts import host, place
from ..session import Session
from .common import (
    Pulled,
    called,
    direction,
    fail,
    floats,
    gradient_cases,
    judge_of,
    oracle_inputs,
    per_array,
    pull,
    spread_over,
    stays_floating,
    undeclared,
)
from .magnitudes import magnitudes

__all__ = ["compare_pulled", "forward", "reverse"]


def compare_pulled(session: Session, case: Case, pulled: Pulled, outcome: Outcome) -> None:
    """Hold the gradients of a call against the oracle's."""
    vjp = REFERENCES[session.op].vjp
    assert vjp is not None
    flat, plain = oracle_inputs(session, case)
    references = per_array(flat, vjp(flat, plain, pulled.cotangent(session)))
    judge = judge_of(session, case)
    for k, (g, r) in enumerate(zip(pulled.gradients, references, strict=True)):
        if r is None and g is None:
            continue
        if r is None:
            if bool(np.any(host(g))):
                fail(outcome, f"{case.label}: operand {k} has a gradient, the oracle knows none")
        elif g is None:
            if floats([pulled.arrays[k]]) and bool(np.any(r.value)):
                fail(outcome, f"{case.label}: operand {k} has no gradient")
        else:
            merge(outcome, judge.check(host(g), r), case, [])


def reverse(session: Session) -> Outcome:
    """Gradients of every floating operand against the oracle's, judged by their own class."""
    missing = undeclared(session, "gradient")
    if missing:
        return missing
    outcome = Outcome("gradient")
    rng = np.random.default_rng([session.seed, 77])
    for case in [*gradient_cases(session), *magnitudes(session)]:
        pulled = pull(session, case, rng)
        if pulled is None:
            fail(outcome, f"{case.label}: the result does not require a gradient")
            return outcome
        compare_pulled(session, case, pulled, outcome)
    for case in degenerate_cases(session):
        _edge(session, case, rng, outcome)
    return outcome


def degenerate_cases(session: Session) -> list[Case]:
    """Calls without elements, with one or without dimensions, at level standard."""
    if session.level == "smoke":
        return []
    return [c for c in session.shape_cases() if stays_floating(c) and c.smooth]


def _edge(session: Session, case: Case, rng: np.random.Generator, outcome: Outcome) -> None:
    """Gradients have the shapes and dtypes of operands; they are zeros where there is no result."""
    pulled = pull(session, case, rng)
    if pulled is None:
        fail(outcome, f"{case.label}: the result does not require a gradient")
        return
    if all(a.size for a in (*pulled.arrays, *pulled.cotangents)):
        compare_pulled(session, case, pulled, outcome)
        return
    none = not any(u.size for u in pulled.cotangents)
    for k, (g, a) in enumerate(zip(pulled.gradients, pulled.arrays, strict=True)):
        if g is None:
            continue
        outcome.decided += 1
        got = host(g)
        if got.shape != a.shape or got.dtype != a.dtype:
            text = f"{got.dtype}{got.shape}, the operand is {a.dtype}{a.shape}"
            fail(outcome, f"{case.label}: gradient {k} is {text}")
        elif none and np.any(got != 0):
            fail(outcome, f"{case.label}: gradient {k} is not zero, though there is no result")


def forward(session: Session) -> Outcome:
    """Tangents against the oracle's, element by element.

    Duality is not compared: where J v and J' u are both within their bounds b and c, the sums
    <u, J v> and <J' u, v> differ by at most sum |u| b + sum |v| c, which is the tightest bound
    that holds for honest rules, so the comparison could not fail.  That the two references are
    transposes of each other is tested where they are made.
    """
    missing = undeclared(session, "forward")
    if missing:
        return missing
    outcome = Outcome("forward")
    rng = np.random.default_rng([session.seed, 78])
    sets = gradient_cases(session)
    for case in sets[:2] if session.level == "smoke" else [*sets, *magnitudes(session)]:
        for m, e in zip(*tangents(session, case, rng), strict=True):
            merge(outcome, judge_of(session, case, m.dtype).check(m, e), case, [])
    for case in degenerate_cases(session):
        for m, r in _pushed(session, case, rng):
            outcome.decided += 1
            if m.shape != r.shape or m.dtype != r.dtype:
                text = f"{m.dtype}{m.shape}, the result {r.dtype}{r.shape}"
                fail(outcome, f"{case.label}: a tangent is {text}")
    return outcome


def _pushed(session: Session, case: Case, rng: np.random.Generator) -> list[tuple[Any, Any]]:
    """Tangents of the results of a call, each with its result."""
    tensors, arrays = session.tensors(case)
    moving = floats(arrays)
    placed = [place(session.device, direction(rng, arrays[k]))[0] for k in moving]
    with tb.reproducible(session.portable):
        values, found = tb.jvp(called(session, case, tensors), [tensors[k] for k in moving], placed)
    return [(host(t), host(v)) for t, v in zip(found, values, strict=True)]


def tangents(
    session: Session, case: Case, rng: np.random.Generator, given: dict[int, Any] | None = None
) -> tuple[list[Any], list[Any]]:
    """Tangents of the results of a call, and their references."""
    jvp = REFERENCES[session.op].jvp
    assert jvp is not None
    tensors, arrays = session.tensors(case)
    wanted = floats(arrays)
    along = given or {k: direction(rng, arrays[k]) for k in wanted}
    placed = [place(session.device, along[k])[0] for k in wanted]
    with tb.reproducible(session.portable):
        _, found = tb.jvp(called(session, case, tensors), [tensors[k] for k in wanted], placed)
    flat, plain = oracle_inputs(session, case)
    expected = jvp(flat, plain, spread_over(flat, along))
    expected = expected if isinstance(expected, tuple) else (expected,)
    return [host(t) for t in found], list(expected)
