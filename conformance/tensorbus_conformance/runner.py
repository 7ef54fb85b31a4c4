"""Running items in worker processes: parallel, isolated from crashes, watched from outside.

A worker that dies turns the cell it was in into ``crash``, one that is silent too long into
``timeout``; the other cells of its item go to a fresh worker.  So do those of a device that was
lost.  A device that is lost, hangs or crashes again and again, with nothing passing between, is
given up: its other cells are ``not run``, with the cause, and the run goes on with the other
devices.  Items of one op stay together, so that kernels are compiled once and devices share what
the oracle and the interpreter computed; but plugins that are not ours, and further platforms of
OpenCL, have workers of their own.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from tensorbus_backends import dtypes as dt

from .judge.items import Item, Outcome, properties, subjects
from .process import Stock, Worker, isolation, memory_limit
from .survey import Survey, too_much

__all__ = ["LOSSES", "Cell", "Run", "cells_of", "run_items", "worker_count"]

TIMEOUT = {"smoke": 90.0, "standard": 300.0, "exhaustive": 900.0}
"""Seconds that one property may take before its worker is ended."""

LOSSES = 3
"""Losses or timeouts of a device, or ops that it crashed in, with no cell passed in between, after
which it is given up."""

_RETIRED = 0.25
"""Share of the memory limit from which on a worker, of all workers, takes no further item.

Drivers keep every program that they compiled: a new worker begins with none.
"""

CRASHES = 6
"""Crashes in one op, with no cell passed in between, after which the device is spared that op."""


@dataclass
class Cell:
    """One judged cell: item, outcome and how long it took."""

    item: Item
    outcome: Outcome
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """What ``--rerun`` takes."""
        return f"{self.item.name}/{self.outcome.property}"


@dataclass
class Run:
    """The outcome of a run.

    Attributes:
        cells: All cells of the denominator, those that did not run included.
        interrupted: Whether the user stopped it.
        seconds: Wall time.
        planted: How often a planted fault changed something.
        lost: Devices that were given up, and why.
    """

    cells: list[Cell] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0
    planted: int = 0
    lost: dict[str, str] = field(default_factory=dict)

    def counts(self, device: str | None = None) -> dict[str, int]:
        """Number of cells by state."""
        found: dict[str, int] = {}
        for cell in self.cells:
            if device is None or cell.item.device == device:
                state = cell.outcome.state
                found[state] = found.get(state, 0) + 1
        return found

    @property
    def ok(self) -> bool:
        """Whether everything asked was executed and passed."""
        counts = self.counts()
        good = counts.get("pass", 0)
        return (
            not self.interrupted
            and good > 0
            and good + counts.get("unsupported", 0) == len(self.cells)
        )


@dataclass
class _Job:
    item: Item
    remaining: list[str]


@dataclass
class _Order:
    """What `run_items` was asked, for those that do it."""

    level: str
    seed: int
    fault: str | None
    limit: float
    memory: int


def run_items(
    items: Sequence[Item],
    level: str,
    seed: int,
    *,
    workers: int | None = None,
    timeout: float | None = None,
    fault: str | None = None,
    on_cell: Callable[[Cell], None] | None = None,
    stop: threading.Event | None = None,
    only: Iterable[str] | None = None,
    stock: Stock | None = None,
    failed: Mapping[str, Survey] | None = None,
) -> Run:
    """Judge items in worker processes.

    Args:
        items: What.
        level: Which sample.
        seed: Of all data.
        workers: Number of processes; by default one for each usable core, at most eight.
        timeout: Seconds for one property.
        fault: Name of a fault to plant in every worker.
        on_cell: Called for every cell as it is known.
        stop: When set, no further cell is started.
        only: Restrict every item to these properties.
        stock: Where workers come from; they end with the run.
        failed: Devices that could not be opened: their first cell says so, the others are not run.
    """
    start = time.perf_counter()
    wanted = None if only is None else set(only)
    jobs = [
        _Job(item, [p for p in cells_of(item, level) if wanted is None or p in wanted])
        for item in items
    ]
    names = [(job.item, list(job.remaining)) for job in jobs]
    groups = deque(_grouped(jobs))
    found: dict[str, Cell] = {}
    lock = threading.Lock()
    halt = stop or threading.Event()
    count = workers or worker_count()
    stock = stock or Stock(count)
    order = _Order(level, seed, fault, timeout or TIMEOUT[level], memory_limit())
    run = Run()

    def note(cell: Cell) -> None:
        with lock:
            if cell.name in found:
                return
            found[cell.name] = cell
        if on_cell is not None:
            with contextlib.suppress(OSError):  # a terminal that is gone loses no cell
                on_cell(cell)

    def work() -> None:
        worker: Worker | None = None
        losses = _Losses(run.lost)
        while not halt.is_set():
            with lock:
                group = groups.popleft() if groups else None
            if group is None:
                break
            while group and not halt.is_set():
                job = group[0]
                if not job.remaining:
                    group.popleft()
                    continue
                device = job.item.device
                if failed and device in failed and device not in run.lost:
                    with lock:
                        first = device not in run.lost
                        run.lost[device] = failed[device].why
                    if first:
                        outcome = Outcome(job.remaining[0], failed[device].state, run.lost[device])
                        note(Cell(job.item, outcome))
                        job.remaining.pop(0)
                if why := losses.why(device, job.item.op):
                    for name in job.remaining:
                        note(Cell(job.item, Outcome(name, "not run", why)))
                    job.remaining.clear()
                    continue
                if worker is not None and worker.group != isolation(device):
                    worker.stop()
                    worker = None
                worker = worker or stock.take(isolation(device))
                if not _serve(worker, job, order, note, halt, hit, losses):
                    worker.kill()
                    worker = None
                elif worker.held() > order.memory * _RETIRED / count:
                    worker.stop()
                    worker = None
        if worker is not None:
            worker.kill() if halt.is_set() else worker.stop()

    def hit(count: int) -> None:
        with lock:
            run.planted += count

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for t in threads:
        t.start()
    try:
        for t in threads:
            while t.is_alive():
                t.join(0.2)
    except KeyboardInterrupt:
        halt.set()
        for t in threads:
            t.join(5)
    finally:
        stock.close()
    for item, properties_ in names:
        for name in properties_:
            missing = Cell(item, Outcome(name, "not run", "the run ended before it"))
            run.cells.append(found.get(f"{item.name}/{name}", missing))
    run.interrupted = halt.is_set()
    run.seconds = time.perf_counter() - start
    return run


def _grouped(jobs: Sequence[_Job]) -> list[deque[_Job]]:
    """Jobs of one op and one isolation together; ours before those of other plugins."""
    apart = cache(isolation)
    place = {name: k for k, name in enumerate(subjects())}

    def rank(job: _Job) -> tuple[str, int, str]:
        item = job.item
        return apart(item.device), place.get(item.op, len(place)), item.dtype

    found: dict[tuple[str, str], deque[_Job]] = {}
    for job in sorted(jobs, key=rank):
        found.setdefault((apart(job.item.device), job.item.op), deque()).append(job)
    return list(found.values())


class _Losses:
    """Counts, for one thread of the run, how often devices failed since a cell passed.

    One reset of a device is seen once by every worker, so each counts for itself.
    """

    def __init__(self, given_up: dict[str, str]) -> None:
        self._given_up, self._counts = given_up, dict[str, int]()
        self._crashed: dict[str, Counter[str]] = {}
        self._ops: dict[tuple[str, str], str] = {}

    def why(self, device: str, op: str) -> str:
        """Why nothing more is judged of a device, or of an op on it; "" if it is."""
        if device in self._given_up:
            return f"{device} was given up: {self._given_up[device]}"
        return self._ops.get((device, op), "")

    def passed(self, device: str) -> None:
        """A cell has passed: the device works."""
        self._counts.pop(device, None)
        self._crashed.pop(device, None)

    def lost(self, device: str, why: str) -> None:
        """The device was lost once more."""
        self._count(device, "was lost", why)

    def hung(self, device: str, where: str) -> None:
        """The device did not answer once more."""
        self._count(device, "did not answer", where)

    def _count(self, device: str, what: str, why: str) -> None:
        self._counts[device] = count = self._counts.get(device, 0) + 1
        if count >= LOSSES:
            text = f"it {what} {count} times, each time in a fresh process; the last time: {why}"
            self._give_up(device, text)

    def crashed(self, device: str, op: str, why: str) -> None:
        """It ended its process in an op once more: the op is given up, or the device."""
        ops = self._crashed.setdefault(device, Counter())
        ops[op] += 1
        if ops[op] >= CRASHES:
            text = (
                f"{device} ended its process {ops[op]} times in {op}, with nothing passed between"
            )
            self._ops[device, op] = f"{text}; the last time: {why}"[:400]
        if len(ops) >= LOSSES:
            text = f"its process ended in {len(ops)} ops, with nothing passed between; the last "
            self._give_up(device, f"{text}time: {why}")

    def _give_up(self, device: str, why: str) -> None:
        self._given_up.setdefault(device, why[:400])


def cells_of(item: Item, level: str) -> list[str]:
    """The properties that an item is judged for."""
    return properties(item.op, dt.by_name(item.dtype), item.variant, item.device, level)


def _tidy(text: str, most: int = 2000) -> str:
    """What a plugin may have said, in one line that can be printed and written."""
    line = " ".join(str(text).encode(errors="replace").decode().split())
    return line if len(line) <= most else line[: most - 3] + "..."


def worker_count() -> int:
    """Processes by default: one for each usable core, at most eight."""
    return min(8, _cores())


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _serve(
    worker: Worker,
    job: _Job,
    order: _Order,
    note: Callable[[Cell], None],
    halt: threading.Event,
    hit: Callable[[int], None],
    losses: _Losses,
) -> bool:
    """Have one item judged; False if the worker must be replaced."""
    device = job.item.device
    request = {
        "item": job.item.name,
        "properties": job.remaining,
        "level": order.level,
        "seed": order.seed,
    }
    if order.fault is not None:
        request["fault"] = order.fault
    worker.send(request)
    current, library = job.remaining[0], ""

    def ended(state: str, text: str) -> bool:
        if not job.remaining:
            return False  # all its cells were told before
        if library:
            text += f"; the native kernel of {library} for {job.item.op}"
        outcome = Outcome(current, state, text, library=library)
        note(Cell(job.item, outcome, order.limit * (state == "timeout")))
        job.remaining.remove(current)
        where = f"{text} in {job.item.name}/{current}"
        if state == "timeout":
            losses.hung(device, where)
        else:
            losses.crashed(device, job.item.op, where)
        return False

    checked = time.monotonic()
    while True:
        if halt.is_set():
            return False
        if time.monotonic() - checked > 0.2:
            checked = time.monotonic()
            if worker.held() > order.memory:
                return ended("crash", too_much(worker, order.memory))
        try:
            answer = worker.take(0.2)
        except queue.Empty:
            if worker.late(order.limit):
                return ended("timeout", f"no answer within {order.limit:g} s")
            continue
        if answer is None:
            return ended("crash", worker.death())
        if "begin" in answer:
            current = answer["begin"]
            library = _tidy(answer.get("library", ""))
        elif "outcome" in answer:
            outcome = Outcome(**answer["outcome"])
            for key in ("message", "witness", "library"):
                setattr(outcome, key, _tidy(getattr(outcome, key)))
            for key in ("worst_error", "bound"):
                setattr(outcome, key, float(getattr(outcome, key)))
            note(Cell(job.item, outcome, answer["seconds"]))
            job.remaining.remove(outcome.property)
            current = job.remaining[0] if job.remaining else current
            if outcome.state == "pass":
                losses.passed(device)
        elif "lost" in answer:
            losses.lost(device, _tidy(answer["lost"]))
            return False
        elif "planted" in answer:
            hit(answer["planted"])
        elif "broken" in answer:
            for name in job.remaining:
                note(Cell(job.item, Outcome(name, "error", _tidy(answer["broken"]))))
            job.remaining.clear()
        elif "end" in answer:
            job.remaining.clear()
            return True
