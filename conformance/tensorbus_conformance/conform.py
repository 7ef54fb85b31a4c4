"""``tensorbus conform``: judge devices, show progress, write the reports."""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorbus as tb
from tensorbus_backends.contract import DeviceInfo

from . import console
from .baseline import enter, scope
from .expectations import FULL, Expectations, full_list
from .html import html
from .judge.items import Item, Outcome, oracle_name
from .junit import junit
from .process import Stock, isolation
from .report import command_line, document, load, markdown, settle, verdict, write_or_say
from .runner import Cell, Run, cells_of, run_items, worker_count
from .stopping import stopping
from .survey import Survey, survey
from .sweeps import functions
from .writing import is_special

__all__ = ["SWEEPING", "conform"]

SWEEPING = 4 * 3600.0
"""Seconds that all inputs of one function may take, unless the user says otherwise."""


def conform(
    devices: Sequence[DeviceInfo],
    ops: Sequence[str] | None,
    level: str,
    seed: int,
    *,
    workers: int | None,
    timeout: float | None,
    json_file: Path | None,
    folder: Path,
    expected: Expectations | None = None,
    baseline: tuple[Path, dict[str, Any]] | None = None,
    wanted: str | None = None,
    html_file: Path | None = None,
    junit_file: Path | None = None,
    stock: Stock | None = None,
) -> int:
    """Judge `devices` and write the reports.

    Ctrl-C, SIGTERM and SIGHUP end the run early: what was not judged is "not run" in the reports.

    Args:
        expected: Known failures; they are reported as known and do not fail the run.
        baseline: An earlier report and its file: only what got worse since fails the run.
        wanted: The text that chose the devices, or None where all were asked for.
        html_file: Where to write the report as HTML.
        junit_file: Where to write it as JUnit XML.
        stock: Workers that have been started already.

    Returns:
        0 if everything asked was executed and passed or is known, or nothing got worse than the
        baseline, and a report on disk says so; else 1.
    """
    with stopping() as stop:
        count = workers or worker_count()
        stock = stock or Stock(count)
        try:
            run, found = _judged(devices, ops, level, seed, count, timeout, expected, stop, stock)
        finally:
            stock.close()
        if level == "exhaustive" and not run.interrupted:
            run.cells += _sweeps(found, ops, timeout, stop)
            run.interrupted = stop.is_set()
        data = _report(run, found, ops, level, seed)
        if expected is not None:
            expected.apply(data, full_list(found))
        if baseline is not None:
            inside = scope([d.name for d in devices], wanted, ops)
            enter(data, str(baseline[0]), baseline[1], inside)
        # The reports come before the tables: whoever stops a run may have closed the terminal.
        target = _save(data, json_file, folder, _due(found, level))
        saved = target is not None
        for file, render in ((html_file, html), (junit_file, junit)):
            if file is not None:
                saved = write_or_say(file, render(data)) and saved
    console.summary(data)
    if target is not None:
        print(f"Report: {target} and {target.with_suffix('.md').name}")
    if run.interrupted:
        print("Interrupted: the report holds what was judged until then.", file=sys.stderr)
    if not run.cells:
        print("Nothing was executed.", file=sys.stderr)
    return 0 if verdict(data) and saved else 1


def _judged(
    devices: Sequence[DeviceInfo],
    ops: Sequence[str] | None,
    level: str,
    seed: int,
    count: int,
    timeout: float | None,
    expected: Expectations | None,
    stop: threading.Event,
    stock: Stock,
) -> tuple[Run, list[Survey]]:
    """Describe the devices and judge them, in worker processes."""
    lists: dict[str, tuple[str, Sequence[str] | None]] = {"run": (level, ops)}
    if expected is not None:
        lists |= FULL
    found = survey(devices, lists, stock=stock, count=count, limit=timeout, stop=stop)
    for one in found:
        _say(one)
    todo = [item for one in found for item in one.items.get("run", ())]
    infos = [one.info for one in found]
    failed = {one.info.name: one for one in found if one.state}
    with console.Progress(todo, level, infos, expected) as progress:
        run = run_items(
            todo, level, seed, workers=count, timeout=timeout, on_cell=progress.cell,
            stop=stop, stock=stock, failed=failed,
        )  # fmt: skip
    return run, found


def _say(one: Survey) -> None:
    """One line for a device that cannot be judged, or not as it declares itself."""
    info = one.info
    if not info.available:
        print(f"{info.name}: unavailable: {info.cause}. To fix it: {info.fix}", file=sys.stderr)
    elif one.state:
        print(f"{info.name}: it could not be opened ({one.state}): {one.why}", file=sys.stderr)
    for problem in one.contradictions:
        print(f"{info.name}: {problem}", file=sys.stderr)


def _report(
    run: Run, found: Sequence[Survey], ops: Sequence[str] | None, level: str, seed: int
) -> dict[str, Any]:
    """The report as data, with all that fails the run beside its cells."""
    present = [one for one in found if one.info.available]
    absent = [one for one in found if not one.info.available]
    asked = {"command": command_line(), "ops": list(ops) if ops is not None else "all"}
    asked["unavailable"] = [one.info.name for one in absent]
    lines = [one.info for one in (*present, *absent)]
    declared = {one.info.name: one.capabilities for one in present if one.capabilities}
    data = document(run, lines, level, seed, asked, declared)
    data["summary"] = {
        k: v
        for k, v in data["summary"].items()
        if v["cells"] or k in {one.info.name for one in absent}
    }
    problems = {one.info.name: list(one.contradictions) for one in present if one.contradictions}
    for one in present:
        name = one.info.name
        counts = run.counts(name)
        executed = sum(counts.values()) - counts.get("unsupported", 0) - counts.get("not run", 0)
        if not executed and not run.interrupted and name not in run.lost:
            problems.setdefault(name, []).append("nothing was executed on it")
    if problems:
        data["problems"] = problems
    settle(data)
    return data


def _save(data: dict[str, Any], json_file: Path | None, folder: Path, due: set[str]) -> Path | None:
    """Write the JSON report and its summary; where they are, if they are there and whole."""
    stamp = data["created"].replace(":", "").replace("+0000", "Z")
    usual = folder / f"conform-{data['level']}-{stamp}.json"
    text = json.dumps(data, indent=1) + "\n"
    if json_file is not None and is_special(json_file):
        # A device or a pipe keeps nothing, so the report is written to its folder too.
        if not write_or_say(json_file, text, quiet=True):
            return None
        json_file = None
    target = json_file or usual
    if not write_or_say(target, text, quiet=True):
        return None
    summary = target.with_suffix(".md")
    if not write_or_say(summary, markdown(data), quiet=True):
        return None
    try:
        kept = load(target)
    except ValueError as error:
        print(f"tensorbus: the report is not what was written: {error}", file=sys.stderr)
        return None
    if kept != json.loads(text) or not due <= {c["cell"] for c in kept["cells"]}:
        print(f"tensorbus: {target} is not the whole report of this run", file=sys.stderr)
        return None
    return target


def _sweeps(
    found: Sequence[Survey],
    ops: Sequence[str] | None,
    timeout: float | None,
    stop: threading.Event,
) -> list[Cell]:
    """All 2^32 inputs of the float32 functions, on devices whose kernels are C."""

    cells: list[Cell] = []
    for one in found:
        if one.state or not one.info.available or one.style != "loop":
            continue
        for name in functions():
            op = next((f for f in tb.FUNCTIONS if oracle_name(f) == name), None)
            if op is None or (ops is not None and op not in ops):
                continue
            item = Item(op, one.info.name, "float32", "portable")
            if stop.is_set():
                outcome = Outcome("exhaustive32", "not run", "the run ended before it")
            else:
                outcome = _sweep(name, one.info.name, timeout or SWEEPING, stop)
            cells.append(Cell(item, outcome))
            print(f"{item.name}/exhaustive32: {outcome.state} {outcome.worst_error:.4f} ulp")
    return cells


def _sweep(name: str, device: str, limit: float, stop: threading.Event) -> Outcome:
    """One function, in a worker of its own with all threads."""
    worker = Stock(1).take(isolation(device))
    worker.send({"sweep": name, "device": device})
    try:
        while True:
            try:
                answer = worker.take(0.2)
            except queue.Empty:
                if stop.is_set():
                    return Outcome("exhaustive32", "not run", "the run ended before it")
                if worker.late(limit):
                    return Outcome("exhaustive32", "timeout", f"no answer within {limit:g} s")
                continue
            if answer is None:
                return Outcome("exhaustive32", "crash", worker.death())
            if "swept" in answer:
                return _outcome(answer["swept"])
            if "broken" in answer or "lost" in answer:
                text = answer.get("broken") or answer.get("lost")
                return Outcome("exhaustive32", "error", str(text))
    finally:
        worker.kill()


def _outcome(record: Mapping[str, Any]) -> Outcome:
    outcome = Outcome(**record)
    outcome.worst_error, outcome.bound = float(outcome.worst_error), float(outcome.bound)
    return outcome


def _due(found: Sequence[Survey], level: str) -> set[str]:
    """Names of all cells that a report at a level has to hold, sweeps apart."""
    return {
        f"{i.name}/{p}" for s in found for i in s.items.get("run", ()) for p in cells_of(i, level)
    }
