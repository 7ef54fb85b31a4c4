"""The process in which items are judged: ``python -m tensorbus_conformance.worker``.

It reads one JSON request a line and answers with one JSON line for every cell, so that its death
loses nothing but the cell it was in.  What libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from tensorbus_backends.contract import BackendError, Device, DeviceLostError, OutOfMemoryError

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
    import tensorbus as tb
    from tensorbus_backends import dtypes as dt

    from .judge.items import Item, properties
    from .judge.properties import judge
    from .judge.session import Session, fenced
    from .judge.warm import warm
    from .oracle import REFERENCES

    item = Item.parse(request["item"])
    level, seed = request["level"], request["seed"]
    device = tb.get_device(item.device)
    session = Session(item, fenced(device.backend, wrap), level, seed)
    names = request.get("properties") or properties(
        item.op, dt.by_name(item.dtype), item.variant, item.device, level
    )
    if session.op in REFERENCES:
        answer({"begin": names[0]})
        warm(session, names)
    for name in names:
        answer({"begin": name})
        start = time.perf_counter()
        outcome = judge(session, name)
        outcome.library = outcome.library or session.library
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


def main() -> int:
    """Serve requests until standard input ends."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    fault = None

    def answer(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")

    for line in sys.stdin:
        request = json.loads(line)
        if "fault" in request and fault is None:
            from .faults import plant

            fault = plant(request["fault"])
        try:
            judge_item(request, answer, fault.wrap if fault is not None else None)
        except KeyboardInterrupt:
            return 1
        except DeviceLostError as error:
            answer({"lost": str(error)})
        except Exception as error:
            answer({"broken": f"{type(error).__name__}: {error}"})
        if fault is not None:
            answer({"planted": fault.hits})
        answer({"end": request["item"]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
