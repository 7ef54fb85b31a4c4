"""Many shapes in a row: what was learnt from the first ones serves the later ones.

A library that met an op with some shapes may serve the next one by what it knows of them, with
other numbers.  In one dtype of each op a few small calls are made with ever larger sizes: equal
sizes stay equal, different ones grow by different steps, so that a number in the place of another
shows.  The last results have to have the bits of calls for which nothing was learnt: these are made
under settings that share no plans with the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt

from .cases import Case, split
from .items import Outcome, dtypes_of
from .layouts import host, place
from .session import Session, array_slots
from .surfaces.checks import bits_of, users_device

__all__ = ["check", "grown"]

Array = NDArray[Any]

_SHAPES = 9
_JUDGED = 3
"""Of these the last."""

_CASES = {"smoke": 1, "standard": 6}
_LARGEST = 1 << 13
"""Elements of a call's operands when they have grown."""

_LAYOUTS = ("contiguous", "transposed", "general")


def check(session: Session, outcome: Outcome) -> None:
    """See the module."""
    known = dtypes_of(session.item.op, "standard")
    if session.dtype is not (dt.float32 if dt.float32 in known else known[0]):
        return
    if session.op in ("empty", "empty_like"):
        return
    device = users_device(session)
    for k, case in enumerate(_chosen(session)):
        _in_a_row(session, outcome, device, case, _LAYOUTS[k % len(_LAYOUTS)])


def _chosen(session: Session) -> Iterator[Case]:
    """Calls on arrays that may grow, with most different sizes first, of each kind one."""
    sets = [c for c in session.cases() if 1 < _grown_size(array_slots(c)) <= _LARGEST]
    seen: set[object] = set()
    for case in sorted(sets, key=_different, reverse=True):
        kind = tuple(a.ndim for a in array_slots(case))
        if kind not in seen:
            seen.add(kind)
            yield case
            if len(seen) >= _CASES.get(session.level, _CASES["standard"]):
                return


def _different(case: Case) -> tuple[int, int]:
    arrays = array_slots(case)
    return len({n for a in arrays for n in a.shape if n > 1}), len(arrays)


def _shapes(arrays: Sequence[Array], turn: int) -> list[tuple[int, ...]]:
    sizes = sorted({int(n) for a in arrays for n in a.shape if n > 1})
    larger = {n: n + turn * (j + 1) for j, n in enumerate(sizes)}
    return [tuple([larger.get(n, int(n)) for n in a.shape]) for a in arrays]


def _grown_size(arrays: Sequence[Array]) -> int:
    return sum(math.prod(shape) for shape in _shapes(arrays, _SHAPES - 1))


def grown(arrays: Sequence[Array], turn: int) -> list[Array]:
    """Arrays whose sizes grew: the j-th least of the sizes above 1 by ``turn * (j + 1)``."""
    shapes = _shapes(arrays, turn)
    return [np.resize(a, s) if a.size else a for a, s in zip(arrays, shapes, strict=True)]


def _in_a_row(
    session: Session, outcome: Outcome, device: tb.Device, case: Case, layout: str
) -> None:
    for turn in range(_SHAPES):
        arrays = grown(array_slots(case), turn)
        with tb.reproducible(session.portable):
            found = _outcome(session, device, case, arrays, layout)
            if turn < _SHAPES - _JUDGED:
                continue
            with tb.fallback_policy("allow"):
                wanted = _outcome(session, device, case, arrays, layout)
        outcome.decided += 1
        if found != wanted and outcome.state == "pass":
            shapes = [a.shape for a in arrays]
            outcome.state = "fail"
            outcome.message = (
                f"{case.label or 'call'}: operands of shapes {shapes}, {layout}, after "
                f"{turn} other shapes: {_said(found)}, {_said(wanted)} is due"
            )


def _said(made: list[bytes] | str) -> str:
    return made if isinstance(made, str) else f"{len(made)} result(s) of other bits"


def _outcome(
    session: Session, device: tb.Device, case: Case, arrays: Sequence[Array], layout: str
) -> list[bytes] | str:
    """Bits of the results, or the kind of exception: grown operands may not go together."""
    operands = [place(device, a, layout)[0] for a in arrays]
    args, options = split(case)[1](operands)
    try:
        result = tb.FUNCTIONS[session.item.op].call(*args, **options)
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        return type(error).__name__
    results = [result] if isinstance(result, tb.Tensor) else list(result)
    return [repr(r.shape).encode() + bits_of(host(r)) for r in results]
