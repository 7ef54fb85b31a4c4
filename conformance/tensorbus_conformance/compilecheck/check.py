"""``tensorbus compile-check``: every kernel of the op set through compilers that need no device.

A kernel that a device's own compiler accepts has evidence level ``compiled``; where a compiler
stands in for it (`OfflineCompiler.vendor` is false) the level is ``stand-in``.  What is not there
is ``not run``, with its cause: never a pass.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tensorbus_backends.contract import Evidence, KernelSpec
from tensorbus_backends.offline import AbsentCompiler, OfflineCompiler

from ..report import machine, write
from .batch import Text, compile_texts
from .compilers import Offer, offers, opened
from .console import Progress, table
from .kernels import kernels
from .row import Row

__all__ = ["SCHEMA", "check", "document", "plan", "run", "save"]

SCHEMA = "tensorbus-compile-check/1"


@dataclass
class _Sets:
    """Kernels by level and dtypes: targets with the same dtypes share them."""

    ops: Sequence[str] | None
    _known: dict[tuple[str, frozenset[str]], dict[str, KernelSpec]] = field(default_factory=dict)

    def get(self, level: str, compiler: OfflineCompiler, target: str) -> dict[str, KernelSpec]:
        capabilities = compiler.capabilities(target)
        key = (level, capabilities.dtypes)
        if key not in self._known:
            self._known[key] = kernels(level, capabilities, self.ops)
        return self._known[key]


def plan(
    names: Sequence[str] | None, targets: Sequence[str] | None, level: str | None
) -> list[Row]:
    """What is to be done, as rows that have not run.

    Args:
        names: Compilers; None for all that plugins offer.
        targets: Targets; None for each compiler's usual ones.
        level: None for each target's usual one, ``"smoke"`` for a target that is not usual.

    Raises:
        LookupError: No plugin offers such a compiler, or no chosen compiler knows such a target.
    """
    all_offers = offers()
    known = [o.compiler.name for o in all_offers]
    for name in names or ():
        if name not in known:
            raise LookupError(f"no compiler {name!r}; plugins offer {', '.join(known) or 'none'}")
    chosen = [o for o in all_offers if names is None or o.compiler.name in names]
    rows = [row for offer in chosen for row in _rows(offer, targets, level)]
    for target in targets or ():
        present = [o.compiler for o in chosen if isinstance(o.compiler, OfflineCompiler)]
        if len(present) == len(chosen) and all(r.target != target for r in rows):
            places = "; ".join(f"{c.name}: {', '.join(c.targets)}" for c in present)
            raise LookupError(f"no target {target!r}; there are {places}")
    return rows


def _rows(offer: Offer, targets: Sequence[str] | None, level: str | None) -> list[Row]:
    compiler = offer.compiler
    if isinstance(compiler, AbsentCompiler):
        return [Row(offer.plugin, compiler.name, cause=compiler.cause, fix=compiler.fix)]
    wanted = compiler.usual if targets is None else [t for t in targets if t in compiler.targets]
    usual = compiler.usual
    return [
        Row(
            offer.plugin, compiler.name, compiler.version, target,
            level or usual.get(target, "smoke"),
            str(Evidence.COMPILED) if compiler.vendor else "stand-in",
        )
        for target in wanted
    ]  # fmt: skip


def run(
    rows: Sequence[Row],
    *,
    ops: Sequence[str] | None = None,
    workers: int | None = None,
    begin: Callable[[Row, int], None] = lambda row, total: None,
    done: Callable[[Row, int], None] = lambda row, count: None,
) -> list[Row]:
    """Compile what the rows ask for.

    Args:
        rows: From `plan`.
        ops: Names in ``tb.FUNCTIONS``; None for all.
        workers: Processes; None for one on each core, 0 for this process.
        begin: Called with a row and the number of its kernels.
        done: Called with a row and the number of kernels that have just been decided.
    """
    sets = _Sets(ops)
    count = (os.cpu_count() or 1) if workers is None else workers
    finished = []
    for row in rows:
        if row.cause:
            finished.append(row)
            continue
        start = time.monotonic()
        compiler = opened(row.plugin, row.compiler)
        specs = sets.get(row.level, compiler, row.target)
        texts = []
        for name, spec in specs.items():
            dialect = compiler.dialect(row.target, spec)
            texts.append(Text(name, dialect, spec.source(dialect)))
        begin(row, len(texts))
        rejected, cached = compile_texts(
            row.plugin,
            row.compiler,
            row.target,
            texts,
            workers=count,
            done=lambda n, row=row: done(row, n),  # type: ignore[misc]
        )
        finished.append(
            replace(
                row,
                state="rejected" if rejected else "accepted" if texts else "not run",
                cause="" if texts else "the ops asked for have no kernels here",
                kernels=len(texts),
                cached=cached,
                rejected=tuple(rejected),
                seconds=round(time.monotonic() - start, 1),
            )
        )
    return finished


def document(rows: Sequence[Row]) -> dict[str, Any]:
    """The report as JSON data."""
    return {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "passed": any(r.kernels for r in rows) and all(r.state != "rejected" for r in rows),
        "machine": machine(),
        "rows": [{**asdict(r), "accepted": r.accepted} for r in rows],
    }


def save(rows: Sequence[Row], path: Path) -> None:
    """Write the JSON report."""
    write(path, json.dumps(document(rows), indent=1) + "\n")


def check(
    names: Sequence[str] | None,
    targets: Sequence[str] | None,
    level: str | None,
    *,
    ops: Sequence[str] | None = None,
    workers: int | None = None,
    json_file: Path | None = None,
) -> list[Row]:
    """Plan, run with a progress bar, print the table, write the report.

    Raises:
        LookupError: As `plan`.
    """

    rows = plan(names, targets, level)
    with Progress() as progress:
        finished = run(rows, ops=ops, workers=workers, begin=progress.begin, done=progress.done)
    table(finished)
    if json_file is not None:
        save(finished, json_file)
    return finished
