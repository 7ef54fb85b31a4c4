"""``tensorbus conform --rerun CELL``: one cell alone, in this process, with all it found."""

from __future__ import annotations

import difflib

import tensorbus as tb
from tensorbus_backends import dtypes as dt

from .judge.items import Item, properties, subjects
from .judge.properties import judge
from .judge.session import Session, fenced

__all__ = ["rerun"]


def rerun(name: str, level: str | None, seed: int) -> int:
    """Judge one cell (or all cells of an item); 0 if it passed.

    Raises:
        ValueError: The name is not that of a cell.
    """
    item = Item.parse(name)
    if item.op not in subjects():
        close = difflib.get_close_matches(item.op, subjects(), 1)
        raise ValueError(
            f"unknown op {item.op!r}" + (f"; did you mean {close[0]}?" if close else "")
        )
    try:
        dtype = dt.by_name(item.dtype)
    except KeyError:
        raise ValueError(f"unknown dtype {item.dtype!r}") from None
    chosen = level or "standard"
    known = properties(item.op, dtype, item.variant, item.device, chosen)
    wanted = name.split("/")[4:] or known
    unknown = [w for w in wanted if w not in known]
    if unknown:
        raise ValueError(f"{item.name} has no property {unknown[0]!r}; it has {', '.join(known)}")
    device = tb.get_device(item.device)
    session = Session(item, fenced(device.backend), chosen, seed)
    good = True
    for which in wanted:
        outcome = judge(session, which)
        good = good and outcome.state in ("pass", "unsupported")
        print(f"{item.name}/{which}: {outcome.state} ({device.info.evidence})")
        if outcome.message:
            print(f"    {outcome.message}")
        if outcome.unit:
            print(f"    worst {outcome.worst_error:.6g} of {outcome.bound:.6g} {outcome.unit}")
        if outcome.witness:
            print(f"    witness {outcome.witness}")
    return 0 if good else 1
