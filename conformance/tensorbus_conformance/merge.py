"""``tensorbus report merge A.json B.json``: reports of many machines as one matrix.

Every report keeps columns of its own, one for each device, headed by a name for its machine.  Two
reports that disagree about the same device therefore stand beside each other, each with its
evidence and versions, and neither hides the other.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .report import MERGED, load, verdict

__all__ = ["merge", "named"]


def named(text: str) -> tuple[str, Path]:
    """Name and file of ``NAME=FILE``; of ``FILE`` alone, whose name without ending is taken."""
    name, sign, file = text.partition("=")
    if sign and name and file and not Path(text).exists():
        return name, Path(file)
    return Path(text).stem, Path(text)


def merge(texts: Sequence[str]) -> dict[str, Any]:
    """One document of several reports; it passed if each of them did.

    Args:
        texts: ``FILE`` or ``NAME=FILE`` each.

    Raises:
        ValueError: A file is no report of a run, two have one name, or two are the same run.
    """
    reports: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    known: dict[str, Path] = {}
    runs: list[tuple[Path, dict[str, Any]]] = []
    for name, path in map(named, texts):
        if name in known:
            raise ValueError(
                f"{path} and {known[name]} would both be named {name!r}; name one: NAME={path}"
            )
        known[name] = path
        data = load(path)
        for other, run in runs:
            if run == data:
                raise ValueError(f"{path} and {other} are the same run; leave one out")
        runs.append((path, data))
        head = {k: v for k, v in data.items() if k not in ("schema", "cells")}
        reports.append({"name": name, "file": str(path), "verdict": verdict(data), **head})
        cells += [{"report": name, **c} for c in data["cells"]]
    return {
        "schema": MERGED,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "complete": all(r["complete"] for r in reports),
        "passed": bool(reports) and all(r["passed"] for r in reports),
        "reports": reports,
        "cells": cells,
    }
