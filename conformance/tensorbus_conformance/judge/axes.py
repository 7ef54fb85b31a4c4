"""Every way to name dimensions: all axes, both signs, alone and together, at small ranks.

An axis that is counted from the wrong end, or from the operand's rank where the result's is meant,
shows in few of the calls that a sample draws.  So in one dtype of each op every axis that a tensor
of 1 to 4 dimensions has is named, from either end, and pairs of them in every order and by every
mixture of signs; the oracle says what has to come.  Operands are a call of the op's sample brought
to dimensions of 3, so that each axis fits each index, or to sizes that differ where there is one
operand alone.  Several operands also come with unlike ranks, each of them the greater one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt

from ..oracle import REFERENCES
from .cases import Case, array_slots, split
from .comparing import judge_of, merge
from .items import Outcome, dtypes_of
from .session import Session, oracle_call
from .signature import parameters

__all__ = ["check", "named"]

Array = NDArray[Any]

_NAMES = ("axis", "axes", "source", "destination")
_SIZES = ((2, 3, 1, 4), (1, 2, 1, 3))
"""Of an operand that stands alone; the second for views, some of which remove ones."""

_UNLIKE = "unlike ranks "

_REFUSED = (ValueError, TypeError, IndexError)


def check(session: Session, outcome: Outcome) -> None:
    """See the module."""
    known = dtypes_of(session.item.op, "standard")
    if session.dtype is not (dt.float32 if dt.float32 in known else known[0]):
        return
    dialect = session.device.backend.dialect
    if dialect is not None and dialect.style == "simt" and not REFERENCES[session.op].view:
        return  # axes are no matter of the device, and its compiler is slow
    for case in named(session):
        try:
            references = oracle_call(session.op, case)
        except _REFUSED:
            continue  # the other operands do not go with this axis
        judge, arrays = judge_of(session, case), array_slots(case)
        try:
            got = session.run(case)[0]
        except _REFUSED:
            if not case.label.startswith(_UNLIKE):
                raise
            continue  # an op may want certain ranks, about which NumPy does not care
        for g, r in zip(got, references, strict=True):
            outcome.decided += 1
            merge(outcome, judge.check(g, r), case, arrays)


def named(session: Session) -> Iterator[Case]:
    """Calls that name dimensions in every way; none for an op that names none."""
    known = parameters(tb.FUNCTIONS[session.item.op].call)
    mine = [p for p in known if p.name in _NAMES and p.forms & {"int", "ints", "pairs"}]
    mine = [p for p in mine if "tensor" not in p.forms]
    if not mine:
        return
    record = REFERENCES[session.op]
    for base in _bases(session):
        rank = max(a.ndim for a in array_slots(base))
        for values in _ways(session.op, rank, mine[0].forms, int(record.new_axes)):
            args, options = list(base.args), dict(base.options)
            for p, value in zip(mine, values, strict=True):
                at = [q.name for q in known].index(p.name)
                if p.keyword:
                    options[p.name] = value
                else:
                    options.pop(p.name, None)
                    args[at:] = [value, *args[at + 1 :]]
            shapes = " and ".join(str(a.shape) for a in array_slots(base))
            said = f"{', '.join(p.name for p in mine)} {values}"
            label = f"{base.label if base.label == _UNLIKE else ''}{shapes}, {said}"
            yield replace(base, args=tuple(args), options=options, label=label, random=False)


def _bases(session: Session) -> Iterator[Case]:
    """Calls of the sample, one for each rank, brought to small sizes."""
    found: dict[int, Case] = {}
    for case in session.cases():
        arrays = array_slots(case)
        if arrays and all(a.size for a in arrays):
            found.setdefault(arrays[0].ndim, case)
    record = REFERENCES[session.op]
    alone = record.tensors == (1, 1)
    if alone and found:
        model = next(iter(found.values()))
        found = {rank: found.get(rank, model) for rank in range(1, 5)}
    for rank in sorted(r for r in found if 0 < r < 5):
        arrays, rebuild = split(found[rank])
        shapes = [s[:rank] for s in _SIZES[: 1 + record.view]] if alone else [()]
        for shape in shapes:
            args, options = rebuild([_small(session, a, shape) for a in arrays])
            yield replace(found[rank], args=tuple(args), options=options)
    if not alone:
        yield from _ranks(session, list(found.values()))


def _ranks(session: Session, sets: Sequence[Case]) -> Iterator[Case]:
    """Operands of unlike ranks, either one the greater: an axis is counted in one shape alone.

    The oracle says which of them go together.
    """
    seen: set[tuple[int, ...]] = set()
    for case in sets:
        arrays, rebuild = split(case)
        ranks = [a.ndim for a in arrays]
        for k in range(len(ranks)):
            for more in (1, 2):
                raised = tuple(n + more * (j == k) for j, n in enumerate(ranks))
                if len(ranks) < 2 or raised[k] > 3 or raised in seen or 0 in raised:
                    continue
                seen.add(raised)
                sized = zip(arrays, raised, strict=True)
                args, options = rebuild([_small(session, a, (3,) * n) for a, n in sized])
                yield replace(case, args=tuple(args), options=options, label=_UNLIKE)


def _small(session: Session, array: Array, shape: tuple[int, ...]) -> Array:
    """An array's first elements in another shape, or with dimensions of 3; indices fit those."""
    made = np.resize(array.reshape(-1), shape or (3,) * array.ndim)
    if made.dtype != session.dtype.numpy and made.dtype.kind in "iu":
        made = made % np.asarray(3, made.dtype)
    return np.array(made, order="C")


def _ways(op: str, rank: int, forms: frozenset[str], room: int) -> Iterator[tuple[Any, ...]]:
    """Values of the parameters that name dimensions."""
    if op == "moveaxis":
        yield from product(range(-rank, rank), repeat=2)
        if rank > 1:
            two = list(_several(rank, 2))
            yield from zip(two, two[3:] + two[:3], strict=True)
    elif op == "permute_dims":
        if rank < 4:
            yield from ((v,) for v in _several(rank, rank))
    elif "pairs" in forms:
        if rank < 3:
            yield from ((((a,), (b,)),) for a, b in product(range(-rank, rank), repeat=2))
            yield from ((((0, -1), v),) for v in _several(rank, 2))
    else:
        yield from ((a,) for a in range(-rank - room, rank + room))
        if "ints" in forms and 1 < rank + room < 4:
            yield from ((v,) for v in _several(rank + 2 * room, 2))
        if "ints" in forms and rank == 3:
            yield from ((v,) for v in ((-1, -2, -3), (0, -1, 1), (-3, 1, -1)))


def _several(rank: int, count: int) -> Iterator[tuple[int, ...]]:
    """`count` different dimensions in every order, each from either end."""
    for order in permutations(range(rank), count):
        for signs in product((0, rank), repeat=count):
            yield tuple(k - s for k, s in zip(order, signs, strict=True))
