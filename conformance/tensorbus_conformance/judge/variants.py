"""The same operands with another option: what was kept of one call may not serve another.

Plans, launches and tables are kept by operands and options.  In one dtype of each op a call is
made, then once more for each other value that one of its arguments takes in the op's sample, judged
by the oracle, and then as it was: it has to give its bits again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tensorbus_backends import dtypes as dt

from .cases import Case, array_slots
from .comparing import judge_of, merge
from .items import Outcome, dtypes_of
from .session import Session, oracle_call
from .surfaces.checks import bits_of

__all__ = ["check", "neighbours"]

_CASES, _EACH = 3, 6
"""Calls of an item, and neighbours of each."""

_REFUSED = (ValueError, TypeError, IndexError, OverflowError, ZeroDivisionError)


def check(session: Session, outcome: Outcome) -> None:
    """See the module."""
    known = dtypes_of(session.item.op, "standard")
    if session.dtype is not (dt.float32 if dt.float32 in known else known[0]):
        return
    sets = session.cases()
    sized = [(sum(a.size for a in array_slots(c)), k) for k, c in enumerate(sets)]
    filled = [sets[k] for n, k in sorted(sized) if n > 1 or not array_slots(sets[k])]
    # Those that name most arguments have most neighbours; of these the smallest.
    chosen = sorted(filled[: 3 * _CASES], key=lambda c: -len(c.options))[:_CASES]
    rng = np.random.default_rng([session.seed, len(session.item.op)])
    for case in chosen:
        others = list(neighbours(case, sets))
        picked = [others[k] for k in rng.permutation(len(others))[:_EACH]]
        first: list[Any] | None = None
        for other in picked:
            try:
                references = oracle_call(session.op, other)
                before = session.run(case)[0] if first is None else first
                got = session.run(other)[0]
            except _REFUSED:
                continue  # these operands do not go with that value
            first = before
            for g, r in zip(got, references, strict=True):
                merge(outcome, judge_of(session, other).check(g, r), other, array_slots(other))
            again = session.run(case)[0]
            outcome.decided += 1
            same = [bits_of(a) == bits_of(b) for a, b in zip(again, before, strict=True)]
            if session.portable and not all(same) and outcome.state == "pass":
                text = f"other bits after a call with {other.label}"
                outcome.state, outcome.message = "fail", f"{case.label or 'call'}: {text}"


def neighbours(case: Case, sets: Sequence[Case]) -> Iterator[Case]:
    """The call with one argument as in another call of the sample, arrays left alone."""
    names = [*range(len(case.args)), *dict.fromkeys(n for c in sets for n in c.options)]
    for name in names:
        mine = _of(case, name)
        seen = {repr(mine)}
        if _carries(mine):
            continue
        for other in sets:
            value = _of(other, name)
            if _carries(value) or repr(value) in seen:
                continue
            seen.add(repr(value))
            if isinstance(name, int):
                args = tuple(value if k == name else a for k, a in enumerate(case.args))
                changed = replace(case, args=args)
            else:
                options = {**case.options, name: value}
                changed = replace(case, options={k: v for k, v in options.items() if v is not ...})
            yield replace(changed, label=f"{case.label}, {name} {value!r}", random=False)


def _of(case: Case, name: int | str) -> Any:
    """An argument of a call, an ellipsis where it is left out."""
    if isinstance(name, int):
        return case.args[name] if name < len(case.args) else ...
    return case.options.get(name, ...)


def _carries(value: Any) -> bool:
    """Whether an argument is data, or a dtype that would change them."""
    return isinstance(value, np.ndarray | list | dt.DType)
