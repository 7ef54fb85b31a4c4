"""Against an earlier report: ``tensorbus conform --baseline REPORT.json`` fails on what got worse.

Worse is a cell that passed then and does not now, a cell that was executed then and is missing or
not run now (coverage lost), and a failure that the earlier report could not know.  What failed then
and fails still does not fail the run; the report does not call it passed either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .sound import sound

__all__ = ["compare", "enter", "scope"]

_SILENT = ("not run", "unsupported")
"""States of cells that were not executed."""

_FINE = ("pass", "unsupported", "known")


def scope(
    names: Sequence[str], wanted: str | None, ops: Sequence[str] | None
) -> Callable[[Mapping[str, Any]], bool]:
    """Which cells of the earlier report a run is answerable for: those within what was asked.

    Args:
        names: Devices that were judged, or asked for by name and absent.
        wanted: The text of ``--device``; None asks for all, so that a vanished one is lost.
        ops: Those of ``--ops``; None for all.
    """
    words = None if wanted is None else [w.strip().lower() for w in wanted.split(",") if w.strip()]

    def inside(cell: Mapping[str, Any]) -> bool:
        device = cell["device"]
        of_device = (
            words is None
            or device in names
            or any(device == w or device.startswith(f"{w}:") for w in words)
        )
        return of_device and (ops is None or cell["op"] in ops)

    return inside


def compare(
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    inside: Callable[[Mapping[str, Any]], bool],
) -> dict[str, Any]:
    """What changed from one report to another.

    Returns:
        Lists of changes ``{"cell", "was", "now"}``: `worse`, `lost`, `new` (these fail the run),
        `improved` and `changed` (from one failure to another, or excused since); the number of
        cells `still` failing as they did and of cells `outside` what was asked; and `notes` on
        what makes the two less comparable.
    """
    was = {c["cell"]: c["state"] for c in then["cells"] if inside(c)}
    found = {c["cell"]: c["state"] for c in now["cells"]}
    kinds: dict[str, list[dict[str, str]]] = {
        kind: [] for kind in ("worse", "lost", "new", "improved", "changed")
    }
    still = 0
    for cell in [*was, *(c for c in found if c not in was)]:
        before, after = was.get(cell, "unknown"), found.get(cell, "missing")
        kind = _kind(before, after)
        if kind == "still":
            still += 1
        elif kind:
            kinds[kind].append({"cell": cell, "was": before, "now": after})
    return {
        **kinds,
        "still": still,
        "outside": len(then["cells"]) - len(was),
        "notes": _notes(then, now),
    }


def _kind(before: str, after: str) -> str:
    """The list that a cell belongs to; nothing if it is as fine, or as silent, as it was."""
    if before not in (*_SILENT, "unknown") and after in ("missing", "not run"):
        return "lost"
    if before == "pass":
        # A failure that is excused with reason, link and day is told, and accepted.
        return {"pass": "", "known": "changed"}.get(after, "worse")
    if before in (*_SILENT, "unknown"):
        if after == "missing" or (before == after == "not run"):
            return ""
        return "" if after in _FINE else "new"
    if after == "pass":
        return "improved"
    return "still" if after == before else "changed"


def _notes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    pairs = [(key, then[key], now[key]) for key in ("level", "seed")]
    for key in sorted({*then["machine"], *now["machine"]}):
        pairs.append((key, then["machine"].get(key, "-"), now["machine"].get(key, "-")))
    earlier = {d["name"]: d for d in then["devices"]}
    for device in now["devices"]:
        before = earlier.get(device["name"])
        if before is None:
            continue
        name = device["name"]
        pairs.append((f"evidence of {name}", before["evidence"], device["evidence"]))
        for key in sorted({*before["details"], *device["details"]}):
            old, new = before["details"].get(key, "-"), device["details"].get(key, "-")
            pairs.append((f"{key} of {name}", old, new))
    notes = [f"{what} differs: {old} then, {new} now" for what, old, new in pairs if old != new]
    if not then["complete"]:
        notes.append("the baseline was interrupted: what it did not run is unknown to it")
    return notes


def enter(
    data: dict[str, Any],
    file: str,
    then: Mapping[str, Any],
    inside: Callable[[Mapping[str, Any]], bool],
) -> None:
    """Compare a report with a baseline, and enter the comparison and its verdict into it."""
    found = compare(then, data, inside)
    passed = (
        sound(data)
        and any(c["state"] == "pass" for c in data["cells"])
        and not (found["worse"] or found["lost"] or found["new"])
    )
    data["baseline"] = {"file": file, "created": then["created"], "passed": passed, **found}
