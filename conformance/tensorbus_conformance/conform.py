"""``tensorbus conform``: judge devices, show progress, write the reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorbus as tb
from tensorbus_backends.contract import BackendError, DeviceInfo, DeviceUnavailableError

from . import console
from .baseline import enter, scope
from .expectations import Expectations, full_list
from .html import html
from .judge.items import Item, Outcome, items
from .junit import junit
from .report import command_line, document, markdown, verdict, write, write_or_say
from .runner import Cell, Run, run_items

__all__ = ["conform", "items_of", "opened"]


def items_of(devices: Sequence[DeviceInfo], level: str, ops: Sequence[str] | None) -> list[Item]:
    """The items of available devices."""
    found: list[Item] = []
    for info in devices:
        if info.available:
            device = tb.get_device(info.name)
            natives = device.backend.natives
            found += items(info.name, device.capabilities, natives, level, ops)
    return found


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
) -> int:
    """Judge `devices` and write the reports.

    Args:
        expected: Known failures; they are reported as known and do not fail the run.
        baseline: An earlier report and its file: only what got worse since fails the run.
        wanted: The text that chose the devices, or None where all were asked for.
        html_file: Where to write the report as HTML.
        junit_file: Where to write it as JUnit XML.

    Returns:
        0 if everything asked was executed and passed or is known, or nothing got worse than the
        baseline; else 1.
    """
    devices = [opened(d) for d in devices]
    absent = [d for d in devices if not d.available]
    for info in absent:
        print(f"{info.name}: unavailable: {info.cause}. To fix it: {info.fix}", file=sys.stderr)
    todo = items_of(devices, level, ops)
    with console.Progress(todo, level, devices, expected) as progress:
        run = run_items(todo, level, seed, workers=workers, timeout=timeout, on_cell=progress.cell)
    if level == "exhaustive" and not run.interrupted:
        run.cells += _sweeps(devices, ops)
    present = [d for d in devices if d.available]
    asked = {"command": command_line(), "ops": list(ops) if ops is not None else "all"}
    asked["unavailable"] = [d.name for d in absent]
    data = document(run, [*present, *absent], level, seed, asked)
    data["summary"] = {k: v for k, v in data["summary"].items() if v["cells"] or k in {
        d.name for d in absent}}  # fmt: skip
    if absent:
        data["passed"] = False
    if expected is not None:
        expected.apply(data, full_list(present))
    if baseline is not None:
        inside = scope([d.name for d in devices], wanted, ops)
        enter(data, str(baseline[0]), baseline[1], inside)
    console.summary(data)
    saved = _save(data, json_file, folder, level)
    for file, render in ((html_file, html), (junit_file, junit)):
        if file is not None:
            saved = write_or_say(file, render(data)) and saved
    if run.interrupted:
        print("Interrupted: the report holds what was judged until then.", file=sys.stderr)
    if not run.cells:
        print("Nothing was executed.", file=sys.stderr)
    return 0 if verdict(data) and saved else 1


def opened(info: DeviceInfo) -> DeviceInfo:
    """The device's line; unavailable, with the cause, if it was probed but cannot be opened."""
    if not info.available:
        return info
    try:
        tb.get_device(info.name)
    except DeviceUnavailableError as error:
        return replace(info, available=False, cause=error.cause, fix=error.fix)
    except BackendError as error:
        fix = f"run `tensorbus devices`, and look at what its driver says of {info.name}"
        return replace(info, available=False, cause=f"it could not be opened: {error}", fix=fix)
    return info


def _save(data: dict[str, Any], json_file: Path | None, folder: Path, level: str) -> bool:
    stamp = data["created"].replace(":", "").replace("+0000", "Z")
    target = json_file or folder / f"conform-{level}-{stamp}.json"
    summary = target.with_suffix(".md")
    try:
        write(target, json.dumps(data, indent=1) + "\n")
        write(summary, markdown(data))
    except OSError as error:
        print(
            f"tensorbus: the report could not be written to {target.parent}: {error.strerror}; "
            "free space or choose another place with --json or --report",
            file=sys.stderr,
        )
        return False
    print(f"Report: {target} and {summary.name}")
    return True


def _sweeps(devices: Sequence[DeviceInfo], ops: Sequence[str] | None) -> list[Cell]:
    """All 2^32 inputs of the float32 functions, on devices whose kernels are C."""
    from .judge.items import oracle_name

    cells: list[Cell] = []
    for info in devices:
        if not info.available:
            continue
        device = tb.get_device(info.name)
        dialect = device.backend.dialect
        if dialect is None or dialect.style != "loop":
            continue
        from .sweeps import functions, sweep_cell

        for name in functions():
            op = next((f for f in tb.FUNCTIONS if oracle_name(f) == name), None)
            if op is None or (ops is not None and op not in ops):
                continue
            item = Item(op, info.name, "float32", "portable")
            try:
                outcome = sweep_cell(name, device)
            except Exception as error:
                outcome = Outcome("exhaustive32", "error", f"{type(error).__name__}: {error}")
            cells.append(Cell(item, outcome))
            print(f"{item.name}/exhaustive32: {outcome.state} {outcome.worst_error:.4f} ulp")
    return cells


def summarise(run: Run) -> str:
    """One line of counts."""
    return ", ".join(f"{n} {state}" for state, n in sorted(run.counts().items()))
