"""Calls at whose data a rule may take something small for nothing.

Samples hold ordinary numbers, so that a rule which calls a deviation below 10^-6 or 10^-12 zero is
right at each of them.  Here the operands of one small call of each op are scaled by powers of two,
which leaves every digit: elementwise ops get elements of every magnitude, others rows that are
small as a whole and rows that hardly differ from 1.  The bounds are the oracle's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...oracle import REFERENCES
from ..cases import Case, gradient_cases, split
from ..session import Session, array_slots
from .common import floats, stays_floating

__all__ = ["magnitudes"]

Array = NDArray[Any]

_DOWN = {"float32": 45, "float64": 200}
"""By which power of two; squares of ordinary numbers that much smaller do not underflow."""

_NEAR = {"float32": 18, "float64": 40}
"""How much smaller deviations are than what they deviate from; some digits of them are left."""


def magnitudes(session: Session) -> list[Case]:
    """Such calls of the item's op, at levels above smoke; none where data may not be small."""
    if session.level == "smoke" or session.item.dtype not in _DOWN:
        return []
    base = _small(session)
    if base is None:
        return []
    rng = np.random.default_rng([session.seed, 79])
    down, near = _DOWN[session.item.dtype], _NEAR[session.item.dtype]
    if REFERENCES[session.op].elementwise:
        every = _scaled(base, lambda a: np.ldexp(a, -rng.integers(0, down + 1, a.shape)))
        return [replace(every, label=f"every magnitude, {base.label}")]
    tiny = _scaled(base, lambda a: np.ldexp(a, -down))
    flat = _scaled(base, lambda a: 1 + np.ldexp(a, -near))
    return [
        replace(tiny, label=f"2^-{down} of {base.label}"),
        replace(flat, label=f"1 + 2^-{near} of {base.label}"),
    ]


def _small(session: Session) -> Case | None:
    """The smallest call with some elements in each operand that moves; see `gradient_cases`."""
    domain = REFERENCES[session.op].domain
    if not any(low <= 0 < high for low, high in domain):
        return None
    sets = gradient_cases(session.op, session.dtype, session.level, session.seed)
    kept = [c for c in session.usable(sets) if stays_floating(c)]
    found: list[tuple[int, int]] = []
    for k, case in enumerate(kept):
        arrays = array_slots(case)
        if max((arrays[j].size for j in floats(arrays)), default=0) > 3:
            found.append((sum(a.size for a in arrays), k))
    return kept[min(found)[1]] if found else None


def _scaled(case: Case, change: Any) -> Case:
    """The call with its floating operands changed."""
    arrays, rebuild = split(case)
    made: Sequence[Array] = [
        np.asarray(change(np.array(a, order="C")), a.dtype) if a.dtype.kind == "f" else a
        for a in arrays
    ]
    args, options = rebuild(made)
    return replace(case, args=tuple(args), options=options)
