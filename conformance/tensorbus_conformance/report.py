"""Reports: the JSON document (schema in docs/report.schema.json), and Markdown for people."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorbus_backends.contract import DeviceInfo

from .reading import MERGED, SCHEMA, read
from .runner import Run
from .sound import settle
from .writing import write, write_or_say

__all__ = [
    "MERGED", "SCHEMA", "Column", "Row", "column_of", "columns", "device_record", "document",
    "entry", "load", "machine", "markdown", "op_table", "remarks", "rerun_command", "runs",
    "settle", "unexplained", "verdict", "verdict_text", "why", "worst", "write", "write_or_say",
]  # fmt: skip

_ORDER = (
    "fail",
    "crash",
    "timeout",
    "error",
    "fallback",
    "vacuous",
    "not run",
    "known",
    "unsupported",
)


def document(
    run: Run,
    devices: Sequence[DeviceInfo],
    level: str,
    seed: int,
    asked: dict[str, Any],
    capabilities: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The report as JSON data.

    Args:
        capabilities: What devices declare, by name.
    """
    declared = capabilities or {}
    evidence = {d.name: str(d.evidence) for d in devices}
    return {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "complete": not run.interrupted,
        "passed": run.ok,
        "level": level,
        "seed": seed,
        "asked": asked,
        "seconds": round(run.seconds, 1),
        "machine": machine(),
        "devices": [device_record(d, declared.get(d.name)) for d in devices],
        "lost": run.lost,
        "summary": {d.name: _counted(run.counts(d.name)) for d in devices},
        "cells": [
            {
                "cell": cell.name,
                "op": cell.item.op,
                "device": cell.item.device,
                "dtype": cell.item.dtype,
                "variant": cell.item.variant,
                "evidence": evidence.get(cell.item.device, ""),
                "seconds": cell.seconds,
                **cell.outcome.record(),
            }
            for cell in run.cells
        ],
    }


def _counted(counts: dict[str, int]) -> dict[str, int]:
    return {"cells": sum(counts.values()), "pass": counts.get("pass", 0), **counts}


def machine() -> dict[str, str]:
    """System, processor cores, and versions of what a result may depend on."""
    versions = {}
    for name in ("tensorbus", "numpy", "pyopencl", "python-flint", "mpmath"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        **versions,
    }


def device_record(
    info: DeviceInfo, capabilities: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A device as JSON; an absent one proves nothing, so it has no evidence."""
    data: dict[str, Any] = {
        "name": info.name,
        "aliases": list(info.aliases),
        "description": info.description,
        "evidence": str(info.evidence) if info.available else None,
        "details": dict(info.details),
        "available": info.available,
        "cause": info.cause,
        "fix": info.fix,
    }
    if info.available and capabilities:
        data["capabilities"] = dict(capabilities)
    return data


def load(path: Path, schemas: Sequence[str] = (SCHEMA,)) -> dict[str, Any]:
    """Read a report of one of these schemas; ValueError, in one line, if it is none."""
    return read(path, schemas)


def runs(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that a document holds: those merged, or the one that it is."""
    return list(data["reports"]) if data["schema"] == MERGED else [data]


@dataclass(frozen=True)
class Column:
    """A column of tables: a device, on a machine if several runs are shown.

    Attributes:
        key: Of its cells, see `column_of`.
        head: What heads it: with the evidence, unless that is hardware.
        device: The device's record.
        counts: Its number of cells by state.
        run: The run that it belongs to.
    """

    key: tuple[str, str]
    head: str
    device: dict[str, Any]
    counts: dict[str, int]
    run: dict[str, Any]


def columns(data: dict[str, Any]) -> list[Column]:
    """The columns of a report, or of merged ones."""
    found = []
    for run in runs(data):
        where = run.get("name", "")
        for device in run["devices"]:
            if device["name"] not in run["summary"]:
                continue
            head = f"{where} {device['name']}".strip()
            if device["available"] and device["evidence"] != "hardware":
                head += f" ({device['evidence']})"
            counts = run["summary"][device["name"]]
            found.append(Column((where, device["name"]), head, device, counts, run))
    return found


def column_of(cell: dict[str, Any]) -> tuple[str, str]:
    """The key of a cell's column."""
    return cell.get("report", ""), cell["device"]


def worst(states: Iterable[str]) -> str:
    """The worst of several states."""
    found = set(states)
    return next((s for s in _ORDER if s in found), "pass")


Row = dict[tuple[str, str], tuple[int, int, str]]
"""Of one op, by column: cells that passed, all cells, worst state."""


def entry(found: tuple[int, int, str] | None) -> str:
    """An entry of the table of ops as text."""
    if found is None:
        return ""
    good, total, state = found
    return f"{good}/{total}" + ("" if state == "pass" else f" {state}")


def op_table(data: dict[str, Any]) -> list[tuple[str, Row]]:
    """The ops and their rows."""
    rows: dict[str, dict[tuple[str, str], list[str]]] = {}
    for cell in data["cells"]:
        rows.setdefault(cell["op"], {}).setdefault(column_of(cell), []).append(cell["state"])
    return [
        (op, {k: (s.count("pass"), len(s), worst(s)) for k, s in rows[op].items()})
        for op in sorted(rows)
    ]


def verdict(data: dict[str, Any]) -> bool:
    """Whether the run succeeds: against its baseline, if it had one."""
    return bool(data["baseline"]["passed"] if "baseline" in data else data["passed"])


def verdict_text(data: dict[str, Any]) -> str:
    """The verdict in words, which never calls a run passed that only got no worse."""
    text = "PASSED" if data["passed"] else "NOT PASSED"
    if "baseline" not in data:
        return text
    if data["baseline"]["passed"]:
        return text if data["passed"] else f"{text}, NO WORSE THAN THE BASELINE"
    return f"{text}, WORSE THAN THE BASELINE"


def unexplained(counts: dict[str, int]) -> int:
    """How many of a device's cells neither passed nor are declared or known not to."""
    return counts["cells"] - sum(counts.get(s, 0) for s in ("pass", "unsupported", "known"))


def why(cell: Mapping[str, Any]) -> str:
    """Why a cell did not pass; of a known failure, what is known."""
    if "expected" not in cell:
        return str(cell["message"])
    e = cell["expected"]
    return (
        f"{e['reason']} ({e['state']} expected until {e['expires']}, {e['link']}): "
        f"{cell['message']}"
    )


def rerun_command(cell: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """The command that judges one cell of a run alone."""
    command = ["tensorbus", "conform", "--rerun", cell["cell"], "--level", run["level"]]
    line = shlex.join([*command, "--seed", str(run["seed"])])
    if cell["evidence"] != "simulated":
        return line
    return f"TENSORBUS_SIMULATE={cell['device'].split(':')[0]} {line}"


def remarks(data: dict[str, Any]) -> list[str]:
    """Lines on what the run was held against: known failures, a baseline."""
    lines = []
    if "expectations" in data:
        e = data["expectations"]
        lines.append(f"{e['known']} known failures, expected by {e['file']}, are no passes.")
        lines += [f"{e['file']}: {problem}" for problem in e["problems"]]
        lines += [f"{e['file']}: about no device of this run: {entry}" for entry in e["idle"]]
    if "baseline" in data:
        lines += _changes(data["baseline"])
    return lines


def _changes(baseline: dict[str, Any]) -> list[str]:
    counts = [f"{len(baseline[k])} {k}" for k in ("worse", "lost", "new", "improved", "changed")]
    lines = [
        f"Against {baseline['file']} of {baseline['created']}: {', '.join(counts)}, "
        f"{baseline['still']} failing still, {baseline['outside']} outside what was asked."
    ]
    lines += [f"baseline: {note}" for note in baseline["notes"]]
    for kind in ("worse", "lost", "new", "changed", "improved"):
        changes = baseline[kind]
        lines += [f"{kind}: {c['cell']}: {c['was']} then, {c['now']} now" for c in changes[:20]]
        if len(changes) > 20:
            lines.append(f"{kind}: {len(changes) - 20} more in the JSON report")
    return lines


def markdown(data: dict[str, Any]) -> str:
    """A summary for people: devices, counts, what did not pass, the table of ops."""
    lines = ["# Conformance report", ""]
    state = verdict_text(data).lower()
    if not data["complete"]:
        state += " (interrupted: cells that did not run are listed as such)"
    lines += [
        f"Level {data['level']}, seed {data['seed']}, {data['created']}: **{state}** in "
        f"{data['seconds']} s.",
        "",
        "| device | description | evidence | cells | pass | unsupported | known | other |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for device in data["devices"]:
        counts = data["summary"].get(device["name"])
        if counts is None:
            continue
        words, evidence = device["description"], device["evidence"]
        if not device["available"]:
            words, evidence = f"unavailable: {device['cause']}. To fix it: {device['fix']}", "-"
        lines.append(
            f"| {_md(device['name'])} | {_md(words)} | {_md(evidence)} | "
            f"{counts['cells']} | {counts['pass']} | {counts.get('unsupported', 0)} | "
            f"{counts.get('known', 0)} | {unexplained(counts)} |"
        )
    for name, cause in data.get("lost", {}).items():
        lines += ["", f"**{_md(name)} was given up**: {_md(cause)}"]
    for name, problems in data.get("problems", {}).items():
        lines += ["", *(f"**{_md(name)}**: {_md(problem)}" for problem in problems)]
    said = remarks(data)
    lines += ["", *(f"- {_md(line)}" for line in said)] if said else []
    bad = [c for c in data["cells"] if c["state"] not in ("pass", "unsupported")]
    if bad:
        lines += ["", "## What did not pass", ""]
        lines += ["| cell | evidence | state | why |", "|---|---|---|---|"]
        lines += [
            f"| `{_md(c['cell'])}` | {_md(c['evidence'])} | {c['state']} | {_md(_because(c))} |"
            for c in bad[:200]
        ]
        if len(bad) > 200:
            lines.append(f"| ... | | | {len(bad) - 200} more in the JSON report |")
        lines += ["", "One cell alone: `tensorbus conform --rerun CELL`."]
    heads = columns(data)
    lines += ["", "## Ops", "", "| op | " + " | ".join(_md(c.head) for c in heads) + " |"]
    lines.append("|---|" + "---|" * len(heads))
    for op, row in op_table(data):
        cells = [entry(row.get(c.key)) for c in heads]
        lines.append(f"| {_md(op)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _because(cell: Mapping[str, Any]) -> str:
    witness = cell["witness"]
    return why(cell) + (f" [witness {witness}]" if witness else "")


def _md(text: object, most: int = 400) -> str:
    """Text for one entry of a Markdown table: one line, no bar, no tag, not without end."""
    words = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    words = words if len(words) <= most else words[: most - 3] + "..."
    return words.replace("\\", "\\\\").replace("|", "/").replace("<", "&lt;").replace("`", "'")


def command_line() -> str:
    """How this process was started, for the report."""
    return " ".join(["tensorbus", *sys.argv[1:]])
