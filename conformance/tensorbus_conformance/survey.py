"""What devices are, asked in worker processes: the run itself opens none.

A plugin's `open` may raise, end the process, crash it or hang.  Each of these costs one line here,
and the device's cells; the other devices are judged.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tensorbus as tb
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import (
    BackendError,
    Capabilities,
    DeviceInfo,
    DeviceUnavailableError,
)

from .floating import Environment
from .judge.items import Item, items
from .process import Stock, Worker, isolation, memory_limit
from .sweeps import sweep_cell

__all__ = ["LIMIT", "Survey", "Wanted", "describe", "survey", "sweep"]

Wanted = Mapping[str, tuple[str, Sequence[str] | None]]

LIMIT = 90.0
"""Seconds that a device may take to be opened and described, unless the user says otherwise."""


@dataclass(frozen=True)
class Survey:
    """What one device is.

    Attributes:
        info: Its line; unavailable if it cannot be opened.
        capabilities: What it declares, for reports.
        contradictions: What it declares and cannot be so; each fails the run.
        natives: Ops that it has native kernels for.
        items: What is judged of it, by the lists that were wanted.
        style: Its dialect's style, or "" if it has no dialect.
        shuffled: Whether the threads of its groups run in any order between barriers.
        state: "crash", "timeout" or "error" if it could not be described, and `why`.
    """

    info: DeviceInfo
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    contradictions: tuple[str, ...] = ()
    natives: tuple[str, ...] = ()
    items: Mapping[str, Sequence[Item]] = field(default_factory=dict)
    style: str = ""
    shuffled: bool = False
    state: str = ""
    why: str = ""

    @property
    def line(self) -> DeviceInfo:
        """Its line for a list of devices: unavailable too if it could not be described."""
        if not self.state:
            return self.info
        fix = "update its driver, or report this to the authors of its plugin"
        cause = f"it could not be opened: {self.why}"
        return replace(self.info, available=False, cause=cause, fix=fix)


def survey(
    devices: Sequence[DeviceInfo],
    wanted: Wanted | None = None,
    *,
    stock: Stock | None = None,
    count: int = 1,
    limit: float | None = None,
    stop: threading.Event | None = None,
) -> list[Survey]:
    """Describe devices; absent ones are only passed on.

    Args:
        devices: Their lines.
        wanted: Lists of items to make, by a name for each: level, and ops or None for all.
        stock: Where workers come from and go to.
        count: How many at the same time.
        limit: Seconds for one device.
        stop: When set, the rest is not described.
    """
    own = stock or Stock(count)
    found = [Survey(d) for d in devices]
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for k, info in enumerate(devices):
        if info.available:
            todo.put(k)
    halt = stop or threading.Event()
    most = memory_limit()

    def work() -> None:
        while True:
            try:
                k = todo.get_nowait()
            except queue.Empty:
                return
            if halt.is_set():
                found[k] = _failed(devices[k], wanted, "not run", "the run ended before it")
            else:
                found[k] = _ask(devices[k], wanted or {}, own, limit or LIMIT, most, halt)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for t in threads:
        t.start()
    try:
        for t in threads:
            while t.is_alive():
                t.join(0.2)
    finally:
        if stock is None:
            own.close()
    return found


def _ask(
    info: DeviceInfo,
    wanted: Wanted,
    stock: Stock,
    limit: float,
    most: int,
    halt: threading.Event,
) -> Survey:
    worker = stock.take(isolation(info.name))
    worker.send({"describe": info.name, "lists": dict(wanted)})
    told: dict[str, Any] = {}
    while True:
        state = why = ""
        try:
            answer = worker.take(0.1)
        except queue.Empty:
            if halt.is_set():
                state, why = "not run", "the run ended before it"
            elif worker.late(limit):
                state, why = "timeout", f"it was not opened within {limit:g} s"
            elif worker.held() > most:
                state, why = "crash", too_much(worker, most)
            else:
                continue
        else:
            if answer is None:
                state, why = "crash", worker.death()
            elif "broken" in answer:
                state, why = "error", answer["broken"]
            elif "described" in answer:
                told = answer["described"]
            elif "end" in answer:
                stock.give(worker)
                return _described(info, told)
        if state:
            worker.kill()
            return _failed(info, wanted, state, " ".join(why.split()))


def too_much(worker: Worker, most: int) -> str:
    """Why a worker is ended that holds more memory than it may."""
    held = worker.held() / 2**30
    return f"the process held {held:.1f} GiB of memory, of {most / 2**30:.1f} that it may hold"


def _failed(info: DeviceInfo, wanted: Wanted | None, state: str, why: str) -> Survey:
    """Of a device that does not even say what it is, the portable kernels count."""
    everything = Capabilities(frozenset(d.name for d in dt.ALL))
    lists = {
        key: items(info.name, everything, {}, level, ops)
        for key, (level, ops) in (wanted or {}).items()
    }
    return Survey(info, items=lists, state=state, why=why)


def _described(info: DeviceInfo, told: Mapping[str, Any]) -> Survey:
    if "unavailable" in told:
        cause, fix = told["unavailable"]
        return Survey(replace(info, available=False, cause=cause, fix=fix))
    return Survey(
        info,
        capabilities=told["capabilities"],
        contradictions=tuple(told["contradictions"]),
        natives=tuple(told["natives"]),
        items={k: [Item.parse(n) for n in names] for k, names in told["items"].items()},
        style=told["style"],
        shuffled=told["shuffled"],
    )


# -- in the worker ----------------------------------------------------------------------------


def describe(request: Mapping[str, Any]) -> dict[str, Any]:
    """Open a device and tell what it is; in a worker."""

    name, environment = request["describe"], Environment()
    try:
        device = tb.get_device(name)
    except DeviceUnavailableError as error:
        return {"unavailable": [error.cause, error.fix]}
    except BackendError as error:
        fix = f"run `tensorbus devices`, and look at what its driver says of {name}"
        return {"unavailable": [f"it could not be opened: {error}", fix]}
    c = device.capabilities
    wrong = contradictions(c)
    if changed := environment.wrong():
        wrong.append(f"opening it left the process in a state that {changed}")
        environment.restored()
    natives = device.backend.natives
    dialect = device.backend.dialect
    return {
        "capabilities": {
            "dtypes": sorted(map(str, c.dtypes)),
            "subnormals": str(c.subnormals),
            "division": str(c.division),
            "square_root": str(c.square_root),
            "fma": bool(c.fma),
            "max_group": c.max_group,
        },
        "contradictions": wrong,
        "natives": sorted(natives),
        "items": {
            key: [i.name for i in items(name, c, natives, level, ops)]
            for key, (level, ops) in request["lists"].items()
        },
        "style": "" if dialect is None else dialect.style,
        "shuffled": dialect is not None and not dialect.loops and _has_barrier(dialect.prelude),
    }


def _has_barrier(prelude: str) -> bool:

    barrier = re.search(r"^#define SYNC(.*)$", prelude, re.MULTILINE)
    return barrier is not None and bool(barrier[1].strip())


def contradictions(declared: Capabilities) -> list[str]:
    """What capabilities declare that does not exist or cannot be true together."""
    known = {d.name for d in dt.ALL}
    found = [
        f"it declares the dtype {name!r}, which does not exist"
        for name in sorted(map(str, declared.dtypes))
        if name not in known
    ]
    if not declared.dtypes:
        found.append("it declares no dtype")
    if "float64" in declared.dtypes and not declared.fp64:
        found.append("it declares the dtype float64 and that it has no float64 arithmetic")
    if declared.subnormals not in ("preserve", "flush"):
        found.append(f"it declares subnormals={declared.subnormals!r}: neither preserve nor flush")
    for name in ("division", "square_root"):
        value = getattr(declared, name)
        if value != "correct" and not _is_error(value):
            found.append(f"it declares {name}={value!r}: neither 'correct' nor an error in ulps")
    for name, least in (("max_group", 1), ("local_memory", 0)):
        value = getattr(declared, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            found.append(f"it declares {name}={value!r}, which is no number from {least}")
    return found


def _is_error(value: object) -> bool:
    try:
        return 0.0 < float(str(value)) < float("inf")
    except ValueError:
        return False


def sweep(request: Mapping[str, Any]) -> dict[str, Any]:
    """All 2^32 inputs of a float32 function on a device; in a worker."""

    return sweep_cell(request["sweep"], tb.get_device(request["device"])).record()
