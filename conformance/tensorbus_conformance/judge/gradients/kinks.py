"""Values of derivatives at kinks and singular points, by the conventions of docs/gradients.md."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...oracle import REFERENCES
from ...oracle.kinks import Kink
from ..cases import Case
from ..comparing import merge
from ..items import Outcome
from ..session import Session
from .common import fail, judge_of, pull, undeclared
from .modes import compare_pulled, tangents

__all__ = ["kink_case", "kinks"]


def kink_case(session: Session, kink: Kink) -> Case:
    """The call as a user writes it, in the dtype that is judged."""
    dtype = session.dtype.numpy
    values = [
        v.astype(dtype) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
        for v in kink.inputs
    ]
    count = len(values) - len(kink.names)
    options = {**kink.options, **dict(zip(kink.names, values[count:], strict=True))}
    return Case(tuple(values[:count]), options, kink.label, random=False)


def kinks(session: Session) -> Outcome:
    """Both modes at special points: the documented values, infinities and NaN included.

    At smoke the first call of the record is tried.
    """
    missing = undeclared(session, "kinks")
    if missing:
        return missing
    outcome = Outcome("kinks")
    rng = np.random.default_rng([session.seed, 80])
    known = REFERENCES[session.op].kinks
    for kink in known[:1] if session.level == "smoke" else known:
        case = kink_case(session, kink)
        pulled = pull(session, case, rng, cotangents=_cotangents(session, kink))
        if pulled is None:
            fail(outcome, f"{case.label}: the result does not require a gradient")
            return outcome
        compare_pulled(session, case, pulled, outcome)
        _forward(session, case, rng, outcome)
    return outcome


def _cotangents(session: Session, kink: Kink) -> Any:
    if kink.cotangent is None:
        return None
    return [np.array(kink.cotangent).astype(session.dtype.numpy)]


def _forward(session: Session, case: Case, rng: np.random.Generator, outcome: Outcome) -> None:
    for m, e in zip(*tangents(session, case, rng), strict=True):
        merge(outcome, judge_of(session, case, m.dtype).check(m, e), case, [])
