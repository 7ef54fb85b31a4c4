"""What people see of the compile check: progress, the table, the compilers' words."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as RichProgress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from ..console import make_console
from .row import Row

__all__ = ["Progress", "table"]

_COLOURS = {"accepted": "green", "rejected": "red", "not run": "yellow"}
_SHOWN, _LINES = 5, 12


class Progress:
    """A bar for every target, in kernels."""

    def __init__(self) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=make_console(),
            refresh_per_second=4,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self, row: Row, total: int) -> None:
        """A target's kernels are known."""
        text = f"{row.compiler} {row.target} {row.level}"
        self._tasks[row.compiler, row.target] = self._bar.add_task(text, total=total)

    def done(self, row: Row, count: int) -> None:
        """Some of them are decided."""
        self._bar.advance(self._tasks[row.compiler, row.target], count)


def table(rows: Sequence[Row], out: Console | None = None) -> None:
    """Counts by compiler and target, then what was rejected or not run, and why."""
    out = out or make_console()
    counts = Table(box=None, pad_edge=False)
    for name in ("compiler", "target", "kernels of", "evidence", "state"):
        counts.add_column(name)
    for name in ("kernels", "accepted", "(earlier)", "rejected", "seconds"):
        counts.add_column(name, justify="right")
    for row in rows:
        ran = row.state != "not run"
        figures = (row.kernels, row.accepted, row.cached, len(row.rejected), row.seconds)
        counts.add_row(
            row.version or row.compiler,
            row.target or "-",
            row.level or "-",
            row.evidence,
            Text(row.state, _COLOURS[row.state]),
            *(str(f) if ran else "-" for f in figures),
        )
    out.print(counts)
    for row in rows:
        if row.cause:
            fix = f". To fix it: {row.fix}" if row.fix else ""
            out.print(Text(f"{row.compiler} was not run: {row.cause}{fix}", "yellow"))
        for bad in row.rejected[:_SHOWN]:
            out.print(Text(f"{row.compiler} {row.target}: kernel {bad.name}: {bad.message}", "red"))
            for line in bad.log.strip().splitlines()[:_LINES]:
                out.print(Text(f"    {line}"))
        if len(row.rejected) > _SHOWN:
            out.print(f"{len(row.rejected) - _SHOWN} more; logs and sources are in the JSON report")
