"""``tensorbus conform --rerun CELL``: one cell alone, in its own process, with all it found."""

from __future__ import annotations

import difflib
import sys

from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import DeviceUnavailableError

from .judge.items import Item, dtypes_of, properties, subjects
from .process import Stock
from .runner import Cell, run_items
from .stopping import stopping
from .survey import survey

__all__ = ["rerun"]


def rerun(name: str, level: str | None, seed: int, timeout: float | None = None) -> int:
    """Judge one cell (or all cells of an item); 0 if it passed.

    Raises:
        ValueError: The name is not that of a cell.
        UnknownDeviceError: There is no such device.
        DeviceUnavailableError: It cannot be opened.
    """
    from tensorbus._devices import registry

    item = Item.parse(name)
    chosen = level or "standard"
    wanted = _checked(item, name.split("/")[4:], chosen)
    info = registry.resolve(item.device)
    if info.name != item.device:
        item = Item(item.op, info.name, item.dtype, item.variant)
        wanted = _checked(item, name.split("/")[4:], chosen)
    with stopping() as stop:
        stock = Stock(1)
        try:
            lists = {"run": ("exhaustive", [item.op])}
            (found,) = survey([info], lists, stock=stock, limit=timeout, stop=stop)
            if not found.line.available:
                raise DeviceUnavailableError(info.name, found.line.cause, found.line.fix)
            if item not in found.items["run"]:
                raise ValueError(f"{info.name} has no {item.variant} {item.op} of {item.dtype}")
            for problem in found.contradictions:
                print(f"{info.name}: {problem}", file=sys.stderr)
            run = run_items(
                [item], chosen, seed, workers=1, timeout=timeout, only=wanted, stock=stock,
                on_cell=lambda cell: _show(cell, str(info.evidence)), stop=stop,
            )  # fmt: skip
        finally:
            stock.close()
    told = {"pass", "unsupported"}
    good = bool(run.cells) and all(c.outcome.state in told for c in run.cells)
    return 0 if good and not run.interrupted and not found.contradictions else 1


def _checked(item: Item, wanted: list[str], level: str) -> list[str]:
    """The properties that a name asks for; ValueError if it is not that of a cell."""
    if item.op not in subjects():
        close = difflib.get_close_matches(item.op, subjects(), 1)
        raise ValueError(
            f"unknown op {item.op!r}" + (f"; did you mean {close[0]}?" if close else "")
        )
    if item.variant not in ("portable", "native"):
        raise ValueError(f"unknown variant {item.variant!r}; there are portable, native")
    try:
        dtype = dt.by_name(item.dtype)
    except KeyError:
        raise ValueError(f"unknown dtype {item.dtype!r}") from None
    taken = dtypes_of(item.op, "exhaustive")
    if dtype not in taken:
        names = ", ".join(d.name for d in taken)
        raise ValueError(f"{item.op} is not judged with {item.dtype}, but with {names}")
    known = properties(item.op, dtype, item.variant, item.device, level)
    unknown = [w for w in wanted if w not in known]
    if unknown:
        raise ValueError(f"{item.name} has no property {unknown[0]!r}; it has {', '.join(known)}")
    return wanted or known


def _show(cell: Cell, evidence: str) -> None:
    outcome = cell.outcome
    print(f"{cell.name}: {outcome.state} ({evidence})")
    if outcome.message:
        print(f"    {outcome.message}")
    if outcome.unit:
        print(f"    worst {outcome.worst_error:.6g} of {outcome.bound:.6g} {outcome.unit}")
    if outcome.witness:
        print(f"    witness {outcome.witness}", flush=True)
