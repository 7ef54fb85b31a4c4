"""Running items in worker processes: parallel, isolated from crashes, watched from outside.

A worker that dies turns the cell it was in into ``crash``, one that is silent too long into
``timeout``; the other cells of its item go to a fresh worker.  So does a worker whose device was
lost, until nothing passes between losses any more: then the device's other cells are ``not run``,
with the cause, and the run goes on with the other devices.  Items of one op stay together, so that
kernels are compiled once and devices share what the oracle and the interpreter computed.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorbus_backends import dtypes as dt

from .judge.items import Item, Outcome, properties, subjects

__all__ = ["Cell", "Run", "cells_of", "run_items"]

TIMEOUT = {"smoke": 90.0, "standard": 300.0, "exhaustive": 900.0}
"""Seconds that one property may take before its worker is ended."""

LOSSES = 3
"""Losses of a device in one place, with no cell passed in between, after which it is given up."""


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


class _Worker:
    """One process and the thread that reads its answers."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tensorbus_conformance.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.noise: deque[str] = deque(maxlen=20)
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._listen, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self.answers.put(json.loads(line))
            except ValueError:
                self.noise.append(line.strip())
        self.answers.put(None)

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.noise.append(line.strip())

    def send(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # the reader sees the end of a dead worker

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()


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
    """
    start = time.perf_counter()
    wanted = None if only is None else set(only)
    jobs = [
        _Job(item, [p for p in cells_of(item, level) if wanted is None or p in wanted])
        for item in items
    ]
    order: dict[str, deque[_Job]] = {}
    place = {name: k for k, name in enumerate(subjects())}
    for job in sorted(jobs, key=lambda j: (place.get(j.item.op, len(place)), j.item.dtype)):
        order.setdefault(job.item.op, deque()).append(job)
    groups = deque(order.values())
    found: dict[str, Cell] = {}
    lock = threading.Lock()
    halt = stop or threading.Event()
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    count = workers or min(8, _cores())
    if count > 1:
        # Workers share the cores; kernels of one worker need not use them all.
        environment.setdefault("TENSORBUS_NUM_THREADS", "2")

    def note(cell: Cell) -> None:
        with lock:
            if cell.name in found:
                return
            found[cell.name] = cell
        if on_cell is not None:
            on_cell(cell)

    def work() -> None:
        worker: _Worker | None = None
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
                if job.item.device in run.lost:
                    why = f"{job.item.device} was given up: {run.lost[job.item.device]}"
                    for name in job.remaining:
                        note(Cell(job.item, Outcome(name, "not run", why)))
                    job.remaining.clear()
                    continue
                worker = worker or _Worker(environment)
                if not _serve(worker, job, level, seed, fault, limit, note, halt, hit, losses):
                    worker.kill()
                    worker = None
        if worker is not None:
            worker.kill() if halt.is_set() else worker.stop()

    def hit(count: int) -> None:
        with lock:
            run.planted += count

    limit = timeout or TIMEOUT[level]
    run = Run()
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for t in threads:
        t.start()
    try:
        for t in threads:
            while t.is_alive():
                t.join(0.2)
    except KeyboardInterrupt:
        run.interrupted = True
        halt.set()
        for t in threads:
            t.join(5)
    for job in jobs:
        for name in [p for p in cells_of(job.item, level) if wanted is None or p in wanted]:
            key = f"{job.item.name}/{name}"
            missing = Cell(job.item, Outcome(name, "not run", "the run ended before it"))
            run.cells.append(found.get(key, missing))
    run.interrupted = run.interrupted or halt.is_set()
    run.seconds = time.perf_counter() - start
    return run


class _Losses:
    """Counts, for one thread of the run, how often devices were lost since a cell passed.

    One reset of a device is seen once by every worker, so each counts for itself.
    """

    def __init__(self, given_up: dict[str, str]) -> None:
        self._given_up, self._counts = given_up, dict[str, int]()

    def passed(self, device: str) -> None:
        """A cell has passed: the device works."""
        self._counts.pop(device, None)

    def lost(self, device: str, why: str) -> None:
        """The device was lost once more."""
        self._counts[device] = count = self._counts.get(device, 0) + 1
        if count >= LOSSES:
            text = f"it was lost {count} times, each time in a fresh process; the last time: {why}"
            self._given_up.setdefault(device, text[:400])


def cells_of(item: Item, level: str) -> list[str]:
    """The properties that an item is judged for."""
    return properties(item.op, dt.by_name(item.dtype), item.variant, item.device, level)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _serve(
    worker: _Worker,
    job: _Job,
    level: str,
    seed: int,
    fault: str | None,
    limit: float,
    note: Callable[[Cell], None],
    halt: threading.Event,
    hit: Callable[[int], None],
    losses: _Losses,
) -> bool:
    """Have one item judged; False if the worker must be replaced."""
    request = {
        "item": job.item.name,
        "properties": job.remaining,
        "level": level,
        "seed": seed,
    }
    if fault is not None:
        request["fault"] = fault
    worker.send(request)
    current = job.remaining[0]
    deadline = time.monotonic() + limit
    while True:
        if halt.is_set():
            return False
        try:
            answer = worker.answers.get(timeout=0.25)
        except queue.Empty:
            if time.monotonic() < deadline:
                continue
            text = f"no answer within {limit:.0f} s"
            note(Cell(job.item, Outcome(current, "timeout", text), limit))
            job.remaining.remove(current)
            return False
        if answer is None:
            code = worker.process.wait()
            note(Cell(job.item, Outcome(current, "crash", _death(code, worker.noise))))
            job.remaining.remove(current)
            return False
        deadline = time.monotonic() + limit
        if "begin" in answer:
            current = answer["begin"]
        elif "outcome" in answer:
            outcome = Outcome(**answer["outcome"])
            for key in ("worst_error", "bound"):
                setattr(outcome, key, float(getattr(outcome, key)))
            note(Cell(job.item, outcome, answer["seconds"]))
            job.remaining.remove(outcome.property)
            if outcome.state == "pass":
                losses.passed(job.item.device)
        elif "lost" in answer:
            losses.lost(job.item.device, answer["lost"])
            return False
        elif "planted" in answer:
            hit(answer["planted"])
        elif "broken" in answer:
            for name in job.remaining:
                note(Cell(job.item, Outcome(name, "error", answer["broken"])))
            job.remaining.clear()
        elif "end" in answer:
            job.remaining.clear()
            return True


def _death(code: int, noise: Iterable[str]) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        text = f"the process died of {name}"
    else:
        text = f"the process ended with exit code {code}"
    last = next((line for line in reversed(list(noise)) if line), "")
    return f"{text}; last words: {last}"[:400] if last else text
