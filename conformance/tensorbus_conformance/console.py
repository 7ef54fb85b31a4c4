"""What people see in the terminal: progress, tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as RichProgress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import DeviceInfo, Evidence

from .expectations import Expectations
from .judge.items import Item, properties
from .report import (
    MERGED,
    Column,
    columns,
    entry,
    op_table,
    remarks,
    runs,
    unexplained,
    verdict,
    verdict_text,
    worst,
)
from .runner import Cell

__all__ = ["Progress", "devices", "make_console", "ops", "summary"]

_COLOURS = {"pass": "green", "unsupported": "yellow", "known": "yellow", "not run": "yellow"}


def make_console() -> Console:
    """A console; where nobody says how wide it is (a pipe, CI), wide enough for the tables."""
    wide = Console(highlight=False)
    return wide if wide.is_terminal else Console(highlight=False, width=140)


class Progress:
    """A bar for every device while items are judged, and the first words of what failed."""

    SHOWN = 20

    def __init__(
        self,
        todo: Sequence[Item],
        level: str,
        found: Sequence[DeviceInfo] = (),
        expected: Expectations | None = None,
    ) -> None:
        self._expected = expected
        self._evidence = {d.name: d.evidence for d in found if d.evidence is not Evidence.HARDWARE}
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[bad]}"),
            console=make_console(),
            refresh_per_second=4,
        )
        self._tasks: dict[str, Any] = {}
        self._bad: dict[str, int] = {}
        self._shown = 0
        self._said: set[str] = set()
        totals: dict[str, int] = {}
        for item in todo:
            cells = properties(item.op, dt.by_name(item.dtype), item.variant, item.device, level)
            totals[item.device] = totals.get(item.device, 0) + len(cells)
        for device, total in totals.items():
            evidence = self._evidence.get(device)
            label = f"{device} ({evidence})" if evidence else device
            self._tasks[device] = self._bar.add_task(label, total=total, bad="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def cell(self, cell: Cell) -> None:
        """Note a judged cell."""
        device = cell.item.device
        known = self._expected is not None and self._expected.excuse(cell.name, cell.outcome.state)
        if cell.outcome.state not in ("pass", "unsupported") and not known:
            self._bad[device] = self._bad.get(device, 0) + 1
            given_up = cell.outcome.state == "not run" and cell.outcome.message in self._said
            self._said.add(cell.outcome.message)
            if self._shown < self.SHOWN and not given_up:
                self._shown += 1
                line = Text(f"{cell.outcome.state:>8} ", "red")
                if device in self._evidence:
                    line.append(f"({self._evidence[device]}) ", "default")
                line.append(f"{cell.name}  {cell.outcome.message}"[:180], "default")
                self._bar.console.print(line)
        bad = self._bad.get(device, 0)
        self._bar.update(self._tasks[device], advance=1, bad=f"[red]{bad} bad" if bad else "")


def devices(found: Sequence[DeviceInfo]) -> None:
    """The table of ``tensorbus devices``."""
    table = Table(box=None, pad_edge=False)
    for name in ("device", "state", "evidence", "what it is, or why not and what to do"):
        table.add_column(name)
    for d in found:
        names = d.name + (f" ({', '.join(d.aliases)})" if d.aliases else "")
        if d.available:
            table.add_row(names, Text("available", "green"), str(d.evidence), d.description)
        else:
            why = f"{d.cause}. To fix it: {d.fix}"
            table.add_row(names, Text("unavailable", "yellow"), "-", why)
    make_console().print(table)


def ops(rows: Sequence[dict[str, Any]]) -> None:
    """The table of ``tensorbus ops``."""
    table = Table(box=None, pad_edge=False)
    for name in ("op", "signature", "gradient"):
        table.add_column(name, overflow="fold")
    devices_ = list(rows[0]["devices"]) if rows else []
    for name in devices_:
        table.add_column(name)
    for row in rows:
        table.add_row(
            row["name"],
            Text(row["signature"]),
            "yes" if row["differentiable"] else "-",
            *(row["devices"][d] for d in devices_),
        )
    make_console().print(table)


def summary(data: dict[str, Any], out: Console | None = None) -> None:
    """The tables of a report or of merged ones: ops by devices, counts by device, verdicts."""
    out = out or make_console()
    heads = columns(data)
    many = len(runs(data)) > 1
    table = Table(box=None, pad_edge=False, title=None)
    table.add_column("op")
    for column in heads:
        table.add_column(column.head, justify="right")
    if many:
        table.add_column("worst")
    for op, row in op_table(data):
        texts = [_entry(row.get(column.key)) for column in heads]
        if many:
            state = worst(s for _, _, s in row.values())
            texts.append(Text(state, _COLOURS.get(state, "red")))
        table.add_row(op, *texts)
    out.print(table)
    out.print()
    out.print(_counts(heads))
    for run in runs(data):
        _verdict(run, out)
    if data["schema"] == MERGED:
        out.print(Text("ALL PASSED", "bold green") if data["passed"] else _not_all(data))


def _entry(found: tuple[int, int, str] | None) -> Text:
    return Text(entry(found), _COLOURS.get(found[2], "red") if found else "")


def _counts(heads: Sequence[Column]) -> Table:
    counts = Table(box=None, pad_edge=False)
    for name in ("device", "evidence", "cells", "pass", "unsupported", "known", "other"):
        counts.add_column(name, justify="left" if name in ("device", "evidence") else "right")
    for column in heads:
        c, device = column.counts, column.device
        other = unexplained(c)
        counts.add_row(
            f"{' '.join(column.key).strip()}  "
            f"{device['description'] if device['available'] else 'unavailable'}",
            device["evidence"] if device["available"] else "-",
            *(str(c.get(s, 0)) for s in ("cells", "pass", "unsupported", "known")),
            Text(str(other), "red" if other else "default"),
        )
    return counts


def _verdict(run: dict[str, Any], out: Console) -> None:
    for name, why in run.get("lost", {}).items():
        out.print(Text(f"{name} was given up: {why}", "red"))
    for name, problems in run.get("problems", {}).items():
        for problem in problems:
            out.print(Text(f"{name}: {problem}", "red"))
    for remark in remarks(run):
        out.print(Text(remark, "yellow"))
    line = Text(f"{run['name']}: " if "name" in run else "")
    line.append(verdict_text(run), "bold green" if verdict(run) else "bold red")
    line.append(f"  level {run['level']}, seed {run['seed']}, {run['seconds']} s", "default")
    if "name" in run:
        machine = ", ".join(f"{k} {v}" for k, v in run["machine"].items())
        line.append(f"; {run['created']}; {machine}", "default")
    if not run["complete"]:
        line.append("  (interrupted)", "yellow")
    out.print(line)


def _not_all(data: dict[str, Any]) -> Text:
    bad = [r["name"] for r in data["reports"] if not r["passed"]]
    return Text(f"NOT ALL PASSED: {', '.join(bad)}", "bold red")
