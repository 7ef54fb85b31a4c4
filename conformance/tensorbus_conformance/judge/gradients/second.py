"""Second derivatives: the pullback differentiated along operands and cotangents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorbus as tb

from ...oracle import REFERENCES
from ..cases import Case, is_elementwise, is_unary, split
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
    undeclared,
)

__all__ = ["second"]


def second(session: Session) -> Outcome:
    """The gradient of <J'u, d> by the operands and by u, element by element.

    By the operands it is H d, H the (symmetric) Hessian of <u, f>: the derivative of J'u along d,
    which the oracle has with the error bound of computing it.  By u it is J d, the oracle's
    forward mode: the pullback is linear in its cotangent; that is for level standard.
    """
    missing = undeclared(session, "second")
    if missing:
        return missing
    outcome = Outcome("second")
    rng = np.random.default_rng([session.seed, 79])
    # Equal elements are kinks of an order.
    sets = [c for c in gradient_cases(session) if "ties" not in c.label]
    for k, case in enumerate(sets[: 1 if session.level == "smoke" else 8]):
        _second(session, small(session.op, case), rng, outcome, k < 2)
    return outcome


def _second(
    session: Session, case: Case, rng: np.random.Generator, outcome: Outcome, more: bool
) -> None:
    pulled = pull(session, case, rng, create=True)
    if pulled is None:
        fail(outcome, f"{case.label}: the result does not require a gradient")
        return
    record = REFERENCES[session.op]
    assert record.second_order is not None
    assert record.jvp is not None
    wanted = [k for k, g in enumerate(pulled.gradients) if g is not None]
    along = {k: direction(rng, pulled.arrays[k]) for k in wanted}
    by_operands, by_cotangents = differentiated(session, pulled, wanted, along)
    flat, plain = oracle_inputs(session, case)
    moving = spread_over(flat, along)
    references = record.second_order(flat, plain, pulled.cotangent(session), moving)
    references = per_array(flat, references)
    judge = judge_of(session, case)
    for k, found in zip(wanted, by_operands, strict=True):
        r = references[k]
        if r is not None:
            got = np.zeros(r.shape, r.dtype) if found is None else host(found)
            merge(outcome, judge.check(got, r), case, [])
    if session.level == "smoke":
        return
    expected = record.jvp(flat, plain, moving)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for found, e in zip(by_cotangents, expected, strict=True):
        got = np.zeros(e.shape, e.dtype) if found is None else host(found)
        merge(outcome, judge_of(session, case, got.dtype).check(got, e), case, [])
    if more:
        _along_cotangent(session, case, pulled, rng, outcome)
        if is_unary(session.op) and wanted == [0] and references[0] is not None:
            found = _twice_forward(session, case, pulled, along[0])
            merge(outcome, judge.check(host(found), references[0]), case, [])
    for way in _mixed(session, case, pulled, along):
        for k, found in way.items():
            if references[k] is not None:
                merge(outcome, judge.check(host(found), references[k]), case, [])


def _twice_forward(session: Session, case: Case, pulled: Pulled, along: Any) -> tb.Tensor:
    """f'' u d of a function of one element, which is what H d is there, by two forward levels."""
    tensors = session.tensors(case)[0]
    run = called(session, case, tensors)
    with tb.reproducible(session.portable):
        u, d = (place(session.device, a)[0] for a in (pulled.cotangents[0], along))
        found: tb.Tensor = tb.jvp(lambda x: tb.jvp(run, [x], [u])[1][0], [tensors[0]], [d])[1]
        return found


def _along_cotangent(
    session: Session, case: Case, pulled: Pulled, rng: np.random.Generator, outcome: Outcome
) -> None:
    """The tangent of the pullback J'u along another cotangent w is J'w, as it is linear in u.

    The rules of what a pullback is made of see a tangent here whose operands have none.
    """
    vjp = REFERENCES[session.op].vjp
    assert vjp is not None
    tensors = session.tensors(case)[0]
    wanted = floats(pulled.arrays)
    run, primals = called(session, case, tensors), [tensors[k] for k in wanted]
    others = [direction(rng, c) for c in pulled.cotangents]
    with tb.reproducible(session.portable):
        given, moving = (
            [place(session.device, c)[0] for c in sets] for sets in (pulled.cotangents, others)
        )
        _, moved = tb.jvp(lambda *us: tb.vjp(run, *primals)[1](*us), given, moving)
    flat, plain = oracle_inputs(session, case)
    other = replace(pulled, cotangents=others)
    references = per_array(flat, vjp(flat, plain, other.cotangent(session)))
    judge = judge_of(session, case)
    for k, found in zip(wanted, moved, strict=True):
        if references[k] is not None:
            labelled = replace(case, label=f"along a cotangent, {case.label}")
            merge(outcome, judge.check(host(found), references[k]), labelled, [])


def _mixed(
    session: Session, case: Case, pulled: Pulled, along: dict[int, Any]
) -> list[dict[int, tb.Tensor]]:
    """H d as the tangent of the pullback along d, and as the pullback of the tangent J d."""
    tensors = session.tensors(case)[0]
    run = called(session, case, tensors)
    u = [place(session.device, c)[0] for c in pulled.cotangents]
    wanted = floats(pulled.arrays)
    given = [along.get(k, np.zeros_like(pulled.arrays[k])) for k in wanted]
    with tb.reproducible(session.portable):
        primals = [tensors[k] for k in wanted]
        tangents = [place(session.device, t)[0] for t in given]
        _, moved = tb.jvp(lambda *xs: tb.vjp(run, *xs)[1](*u), primals, tangents)
        pushed = tb.vjp(lambda *xs: tb.jvp(run, xs, tangents)[1], *primals)[1](*u)
    return [dict(zip(wanted, found, strict=True)) for found in (moved, pushed)]


def differentiated(
    session: Session, pulled: Pulled, wanted: Sequence[int], along: dict[int, Any]
) -> tuple[list[Any], list[Any]]:
    """Gradients of <J'u, d> by the wanted operands and by the cotangents."""
    live = [k for k in wanted if pulled.gradients[k].requires_grad]
    inputs = [*(pulled.tensors[k] for k in wanted), *pulled.placed]
    if not live:
        return [None] * len(wanted), [None] * len(pulled.placed)
    with tb.reproducible(session.portable):
        found = tb.grad(
            [pulled.gradients[k] for k in live],
            inputs,
            [place(session.device, along[k])[0] for k in live],
            allow_unused=True,
        )
    return list(found[: len(wanted)]), list(found[len(wanted) :])


def small(op: str, case: Case) -> Case:
    """The same call on vectors of at most 64 elements, where nothing else depends on their size."""
    arrays, rebuild = split(case)
    alone = len(arrays) == len(case.args) == 1
    if not (alone or is_elementwise(op)) or any(a.ndim > 1 for a in arrays):
        return case
    args, options = rebuild([a[:64] if a.ndim else a for a in arrays])
    return replace(case, args=tuple(args), options=options)
