"""``tensorbus conform --self-test``: plant faults one at a time and see which properties notice.

Only items that a fault can touch are run: on the cpu device, or, for faults that only threads of a
group can show, on a simulated device, whose threads run in any order between barriers.  A fault
counts as caught if one of its cells does not pass; without any fault the same cells must all pass,
or the self-test says so and fails.  Where there is no device for a fault it is listed as not run,
and is no part of the kill rate.
"""

from __future__ import annotations

import datetime
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorbus as tb
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from tensorbus_backends.contract import Evidence

from .console import make_console
from .faults import FAULTS, Fault
from .judge.items import Item
from .report import write
from .runner import Run, run_items
from .survey import survey

__all__ = ["THRESHOLD", "self_test"]

THRESHOLD = {"smoke": 0.90, "standard": 1.0, "exhaustive": 1.0}
"""Least share of faults that must be caught."""


_NO_THREADS = (
    "not run: needs threads of a group in any order, as a simulated driver has them "
    "(TENSORBUS_SIMULATE=cuda or rocm)"
)


@dataclass
class _Result:
    fault: Fault
    device: str | None = None
    killers: list[str] = field(default_factory=list)
    message: str = ""
    cells: int = 0
    planted: bool = True
    seconds: float = 0.0


def _items(fault: Fault, device: str) -> list[Item]:
    return [Item(op, device, dtype, "portable") for op in fault.ops for dtype in fault.dtypes]


def _check(fault: Fault, device: str | None, level: str, seed: int) -> _Result:
    start = time.perf_counter()
    if device is None:
        return _Result(fault, message=_NO_THREADS, planted=False)
    run = run_items(_items(fault, device), level, seed, workers=1, fault=fault.name)
    result = _Result(fault, device, cells=len(run.cells), planted=run.planted > 0)
    for cell in run.cells:
        if cell.outcome.state not in ("pass", "unsupported"):
            result.killers.append(
                cell.outcome.property
                + ("" if cell.outcome.state == "fail" else f" ({cell.outcome.state})")
            )
            result.message = result.message or cell.outcome.message
    result.planted = result.planted or any("(crash)" in k for k in result.killers)
    result.seconds = time.perf_counter() - start
    return result


def self_test(
    level: str, seed: int, workers: int | None, json_file: Path | None, folder: Path
) -> int:
    """Plant every fault; 0 if enough of them were caught and nothing fails without them."""
    device = _device()
    if device is None:
        print(
            "tensorbus: the self-test changes C kernels and needs the cpu device", file=sys.stderr
        )
        return 1
    console = make_console()
    faults = [f for f in FAULTS.values() if f.family != "harness"]
    start = time.perf_counter()
    shuffled = _shuffled_device()
    places = {f.name: shuffled if f.threads else device for f in faults}
    items = list(
        dict.fromkeys(i for f in faults if (d := places[f.name]) is not None for i in _items(f, d))
    )
    with Progress(console=console) as bar:
        task = bar.add_task("without faults", total=len(faults) + 1)
        clean = run_items(items, level, seed, workers=workers)
        bar.update(task, advance=1, description="planting")
        results = _all(faults, places, level, seed, workers or 2, lambda: bar.advance(task))
    seconds = time.perf_counter() - start
    dirty = [c for c in clean.cells if c.outcome.state not in ("pass", "unsupported")]
    # A property that fails anyway proves nothing about a fault.
    noisy = {(c.item.op, c.item.dtype, c.outcome.property) for c in dirty}
    for r in results:
        r.killers = [
            k
            for k in r.killers
            if not any((op, d, k) in noisy for op in r.fault.ops for d in r.fault.dtypes)
        ]
    tried = [r for r in results if r.device is not None]
    caught = [r for r in tried if r.killers and r.planted]
    rate = len(caught) / len(tried)
    _show(console, results)
    left = f" ({len(results) - len(tried)} not run)" if len(tried) < len(results) else ""
    console.print(
        f"{len(caught)} of {len(tried)} faults caught ({rate:.1%}){left} at level {level} in "
        f"{seconds:.0f} s; without a fault {_counted(clean)}"
    )
    for cell in dirty[:10]:
        console.print(Text(f"without a fault: {cell.name} {cell.outcome.message}", "red"))
    ok = rate >= THRESHOLD[level] and not dirty
    saved = _save(results, rate, level, seed, seconds, clean, json_file, folder)
    console.print(Text("PASSED" if ok else "NOT PASSED", "bold green" if ok else "bold red"))
    return 0 if ok and saved else 1


def _device() -> str | None:
    for info in tb.devices():
        if info.name == "cpu" and info.available:
            return "cpu"
    return None


def _shuffled_device() -> str | None:
    """A simulated device whose groups are threads: its barrier is no empty text."""
    lines = [d for d in tb.devices() if d.available and d.evidence is Evidence.SIMULATED]
    return next((one.info.name for one in survey(lines) if one.shuffled), None)


def _all(
    faults: Sequence[Fault],
    places: Mapping[str, str | None],
    level: str,
    seed: int,
    count: int,
    done: Any,
) -> list[_Result]:
    """Check faults on `count` threads; each has a worker process of its own."""
    todo = list(faults)
    found: dict[str, _Result] = {}
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not todo:
                    return
                fault = todo.pop(0)
            result = _check(fault, places[fault.name], level, seed)
            with lock:
                found[fault.name] = result
            done()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        while t.is_alive():
            t.join(0.2)
    return [found[f.name] for f in faults]


def _show(console: Console, results: Sequence[_Result]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("fault", "point", "family", "op", "caught by"):
        table.add_column(name)
    for r in results:
        if r.device is None:
            text = Text(r.message, "yellow")
        elif not r.planted:
            text = Text("never touched anything", "red")
        elif r.killers:
            text = Text(", ".join(r.killers))
        else:
            text = Text("SURVIVED", "bold red")
        ops = ", ".join(r.fault.ops)
        table.add_row(r.fault.name, r.fault.point, r.fault.family, ops, text)
    console.print(table)


def _counted(run: Run) -> str:
    counts = run.counts()
    return f"{counts.get('pass', 0)} of {sum(counts.values())} cells pass"


def _save(
    results: Sequence[_Result],
    rate: float,
    level: str,
    seed: int,
    seconds: float,
    clean: Run,
    json_file: Path | None,
    folder: Path,
) -> bool:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    evidence = {d.name: str(d.evidence) for d in tb.devices()}
    data = {
        "schema": "tensorbus-self-test/1",
        "created": now,
        "level": level,
        "seed": seed,
        "seconds": round(seconds, 1),
        "kill_rate": rate,
        "without_faults": clean.counts(),
        "faults": [
            {
                "name": r.fault.name,
                "what": r.fault.what,
                "point": r.fault.point,
                "family": r.fault.family,
                "device": r.device or "not run",
                "evidence": evidence.get(r.device or "", ""),
                "ops": list(r.fault.ops),
                "planted": r.planted,
                "caught_by": r.killers,
                "first_message": r.message,
            }
            for r in results
        ],
    }
    stamp = now.replace(":", "").replace("+0000", "Z")
    target = json_file or folder / f"self-test-{level}-{stamp}.json"
    try:
        write(target, json.dumps(data, indent=1) + "\n")
    except OSError as error:
        print(f"tensorbus: the report could not be written: {error.strerror}", file=sys.stderr)
        return False
    print(f"Report: {target}")
    return True
