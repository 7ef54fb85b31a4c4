"""The process in which items are judged: ``python -P -m tensorbus_conformance.worker``.

It reads one JSON request a line and answers with one JSON line for every cell, so that its death
loses nothing but the cell it was in.  What libraries print goes to standard error.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorbus as tb
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import BackendError, Device, DeviceLostError, OutOfMemoryError

from . import survey
from .faults import plant
from .floating import Environment
from .judge.items import Item, Outcome, properties
from .judge.properties import judge
from .judge.session import Session, fenced
from .judge.warm import warm
from .oracle import REFERENCES

__all__ = ["judge_item", "main"]


def judge_item(
    request: dict[str, Any], answer: Callable[[dict[str, Any]], None], wrap: Any = None
) -> None:
    """Judge one item.

    Args:
        request: ``item``, ``properties`` (None for all), ``level``, ``seed``.
        answer: Receives ``{"begin": property}`` and ``{"outcome": ..., "seconds": ...}``.
        wrap: Puts a planted fault between judge and device.

    Raises:
        DeviceLostError: After a cell that ended in an error the device is of no more use in this
            process; the properties behind that cell were not judged.
    """

    item = Item.parse(request["item"])
    level, seed = request["level"], request["seed"]
    environment = Environment()
    device = tb.get_device(item.device)
    session = Session(item, fenced(device.backend, wrap), level, seed)
    names = request.get("properties") or properties(
        item.op, dt.by_name(item.dtype), item.variant, item.device, level
    )
    if session.op in REFERENCES or item.op.startswith("surface."):
        answer({"begin": names[0]})
        warm(session, names)
    for name in names:
        answer({"begin": name, "library": session.owner})
        start = time.perf_counter()
        try:
            outcome = judge(session, name)
        except (KeyboardInterrupt, DeviceLostError):
            raise
        except BaseException as error:  # SystemExit and the like: no plugin ends the run
            outcome = Outcome(name, "error", f"{type(error).__name__}: {error}"[:500])
        outcome.library = outcome.library or session.library or session.owner
        outcome.served = session.way
        if changed := environment.wrong():
            # Whatever was judged meanwhile, ref included, was computed in a wrong environment.
            after = "" if environment.restored() else "; it could not be put back"
            text = f"{item.device} left its process in a state that {changed}{after}"
            outcome = Outcome(name, "error", text, decided=outcome.decided)
        answer({"outcome": outcome.record(), "seconds": round(time.perf_counter() - start, 4)})
        if outcome.state == "error" and (why := ailing(session.guard.real)):
            raise DeviceLostError(why)


def ailing(device: Device) -> str:
    """What is wrong with a device that can no longer copy eight bytes; "" if it can.

    A driver may report a lost device, or an illegal address that every later call repeats, in any
    of its errors; so the device itself is asked.
    """
    sent, received = bytes(range(8)), bytearray(8)
    try:
        buffer = device.allocate(8)
        device.copy_in(buffer, 0, memoryview(sent))
        device.copy_out(buffer, 0, memoryview(received))
        device.synchronize()
    except OutOfMemoryError:
        return ""
    except BackendError as error:
        return f"{type(error).__name__}: {error}"
    return "" if received == sent else f"{device.info.name} does not keep what is copied to it"


class _Line:
    """The pipes to the run: requests come in, answers go out; nothing else can use them."""

    def __init__(self) -> None:
        self._born = os.getpid()
        self._requests = os.fdopen(os.dup(0), "rb")
        self._answers = os.dup(1)
        self._token = b""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)

    def open(self) -> int:
        """The first request: returns the number of the process that runs the run."""
        first = json.loads(self._requests.readline())
        self._token = first["token"].encode()
        return int(first["parent"])

    def ask(self) -> dict[str, Any] | None:
        """The next request, or None at the end."""
        self._leave_copies()
        line = self._requests.readline()
        return json.loads(line) if line else None

    def answer(self, message: dict[str, Any]) -> None:
        """Say something to the run."""
        self._leave_copies()
        text = json.dumps({**message, "pid": self._born}).encode()
        data = memoryview(b"\n" + self._token + text + b"\n")
        try:
            while data:
                data = data[os.write(self._answers, data) :]
        except OSError:
            os._exit(1)  # the pipe was closed: by the run, or by a plugin

    def _leave_copies(self) -> None:
        """End a copy of this process that a plugin's fork has made and let run on."""
        if os.getpid() != self._born:
            os._exit(0)


def _keep_standard_files() -> None:
    """Give 0, 1 and 2 back to nobody's file, if they were closed: the next file would get them."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)


def _collect_less() -> None:
    """Let Python look for cycles less often: it took a fifth of a worker's processor time.

    What is imported is looked at no more, and what is new each 20,000 objects instead of 700:
    judging makes many objects that live for one cell, and few cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def _end_with(parent: int) -> None:
    """End this process and what it has started when the run is no more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        with contextlib.suppress(OSError):
            os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    # If memory runs out, the system shall end this process and not the run.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> int:
    """Serve requests until standard input ends."""
    line = _Line()
    _end_with(line.open())

    _collect_less()
    line.answer({"ready": True})
    here = Path.cwd()
    fault = None
    while (request := line.ask()) is not None:
        _keep_standard_files()
        with contextlib.suppress(OSError):
            os.chdir(here)
        if "fault" in request and fault is None:
            fault = plant(request["fault"])
        try:
            if "describe" in request:
                line.answer({"described": survey.describe(request)})
            elif "sweep" in request:
                line.answer({"swept": survey.sweep(request)})
            else:
                judge_item(request, line.answer, fault.wrap if fault is not None else None)
        except DeviceLostError as error:
            line.answer({"lost": str(error)})
        except BaseException as error:
            line.answer({"broken": f"{type(error).__name__}: {error}"[:2000]})
        if fault is not None:
            line.answer({"planted": fault.hits})
        line.answer({"end": True})
    return 0


if __name__ == "__main__":
    sys.exit(main())
