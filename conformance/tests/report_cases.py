"""Reports of runs that were never made, for the tests of what reads and shows reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text())


def device(name: str, evidence: str = "hardware", **changes: Any) -> dict[str, Any]:
    return {
        "name": name, "aliases": [], "description": f"the {name}", "evidence": evidence,
        "details": {"driver": "1.0"}, "available": True, "cause": "", "fix": "", **changes,
    }  # fmt: skip


def cell(name: str, state: str = "pass", **changes: Any) -> dict[str, Any]:
    op, where, dtype, variant, prop = name.split("/")
    bad = state != "pass"
    return {
        "cell": name, "op": op, "device": where, "dtype": dtype, "variant": variant,
        "property": prop, "state": state, "message": "2.5 ulp" if bad else "",
        "worst_error": 2.5 if bad else 0.5, "bound": 1.0, "unit": "ulp",
        "witness": "x=1.5" if bad else "", "decided": 10, "library": "",
        "evidence": "hardware", "seconds": 0.1, **changes,
    }  # fmt: skip


def report(cells: dict[str, str] | list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A valid report of cells, or of states by name of cell."""
    rows = [cell(n, s) for n, s in cells.items()] if isinstance(cells, dict) else cells
    summary: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = summary.setdefault(row["device"], {"cells": 0, "pass": 0})
        counts["cells"] += 1
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    data = {
        "schema": "tensorbus-conformance/1", "created": "2026-01-01T00:00:00+00:00",
        "complete": True, "passed": {r["state"] for r in rows} <= {"pass", "unsupported"},
        "level": "smoke", "seed": 0, "asked": {"ops": "all", "unavailable": []}, "seconds": 1.0,
        "machine": {"system": "Linux", "python": "3.12"}, "devices": [device(d) for d in summary],
        "lost": {}, "summary": summary, "cells": rows, **changes,
    }  # fmt: skip
    jsonschema.validate(data, SCHEMA)
    return data
