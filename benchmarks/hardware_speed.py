"""Measures one device; hardware.py runs it as a child process.

``bandwidth``: add, exp, sum and softmax, as a fraction of a copy on the device.  Each moves what it
has to read and write once, which is the most that a copy's rate allows.
``matmul``: products as a fraction of PyTorch's on the same device.

Rounds are interleaved: in each, every case runs once, for at least `--least` seconds between two
synchronisations; the fractions are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorbus as tb

ELEMENTWISE_AIM, REDUCTION_AIM, MATMUL_AIM = 0.90, 0.80, 0.97
ROW = 1024


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        call: Starts the work once; it may be asynchronous.
        wait: Returns when all of it is done.
        work: Bytes that it has to move, or operations.
    """

    call: Callable[[], Any]
    wait: Callable[[], None]
    work: float


def measure(cases: Mapping[str, Case], rounds: int, least_s: float) -> dict[str, list[float]]:
    """Seconds of one call of each case, by round."""
    repeats = {name: max(1, math.ceil(least_s / _once(c, 1))) for name, c in cases.items()}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            times[name].append(_once(case, repeats[name]))
    return times


def _once(case: Case, repeats: int) -> float:
    case.call()  # what the first call does once, and a busy device's clocks
    case.wait()
    start = time.perf_counter()
    for _ in range(repeats):
        case.call()
    case.wait()
    return (time.perf_counter() - start) / repeats


def row(
    times: list[float], against: list[float], work: float, base: float, aim: float
) -> dict[str, Any]:
    """Figures of one case.

    Args:
        times: Its seconds by round.
        against: Those of what it is compared with.
        work: Of a call.
        base: Work of a call of what it is compared with.
        aim: Fraction that is aimed at.
    """
    ratios = [(work / t) / (base / u) for t, u in zip(times, against, strict=True)]
    fraction = statistics.median(ratios)
    return {
        "seconds": statistics.median(times),
        "rate": work / statistics.median(times),
        "fraction": round(fraction, 4),
        "fractions": [round(min(ratios), 4), round(max(ratios), 4)],
        "aim": aim,
        "met": fraction >= aim,
    }


def bandwidth(name: str, elements: int, rounds: int, least_s: float) -> dict[str, Any]:
    """The table of ``bandwidth``; rates are bytes in a second."""
    device = tb.get_device(name)
    backend, nbytes = device.backend, 4 * elements
    x, y = (tb.random.uniform(elements, seed=seed, device=device) for seed in range(2))
    rows = tb.reshape(x, (-1, ROW)) if elements % ROW == 0 else tb.reshape(x, (1, -1))
    source, target = backend.allocate(nbytes), backend.allocate(nbytes)
    calls: dict[str, tuple[Callable[[], Any], int, float]] = {
        "copy": (lambda: backend.copy(target, 0, source, 0, nbytes), 2, 1.0),
        "add": (lambda: x + y, 3, ELEMENTWISE_AIM),
        "exp": (lambda: tb.exp(x), 2, ELEMENTWISE_AIM),
        "sum": (lambda: tb.sum(x), 1, REDUCTION_AIM),
        "softmax": (lambda: tb.nn.softmax(rows, axis=-1), 2, REDUCTION_AIM),
    }
    cases = {k: Case(call, device.synchronize, n * nbytes) for k, (call, n, _) in calls.items()}
    times = measure(cases, rounds, least_s)
    table = {
        k: row(times[k], times["copy"], case.work, cases["copy"].work, calls[k][2])
        for k, case in cases.items()
    }
    return {
        "unit": "bytes/s",
        "against": "a copy on the device",
        "elements": elements,
        "rounds": rounds,
        "rows": table,
    }


def matmul(name: str, sizes: list[int], rounds: int, least_s: float) -> dict[str, Any]:
    """The table of ``matmul``; rates are operations in a second."""
    torch, cause = _torch(name)
    found: dict[str, Any] = {
        "unit": "flop/s",
        "against": f"PyTorch {torch.__version__}" if torch else "",
        "rounds": rounds,
        "rows": {},
    }
    if cause:
        found["not_run"] = cause
    for dtype in ("bfloat16", "float32"):
        for n in sizes:
            found["rows"][f"{dtype} {n}"] = _product(name, dtype, n, torch, rounds, least_s)
    return found


def _product(
    name: str, dtype: str, n: int, torch: Any, rounds: int, least_s: float
) -> dict[str, Any]:
    device = tb.get_device(name)
    a, b = (
        tb.astype(tb.random.uniform((n, n), seed=seed, device=device), getattr(tb, dtype))
        for seed in range(2)
    )
    with tb.trace() as calls:
        tb.matmul(a, b)
    served = " ".join(filter(None, (calls.records[-1].variant, calls.records[-1].library)))
    work = 2.0 * n**3
    cases = {"tensorbus": Case(lambda: tb.matmul(a, b), device.synchronize, work)}
    if torch:
        place = torch.device("cuda", device.info.index)
        c, d = (torch.rand((n, n), device=place).to(getattr(torch, dtype)) for _ in range(2))
        cases["torch"] = Case(
            lambda: torch.matmul(c, d), lambda: torch.cuda.synchronize(place), work
        )
    times = measure(cases, rounds, least_s)
    if not torch:
        seconds = statistics.median(times["tensorbus"])
        return {"seconds": seconds, "rate": work / seconds, "served": served}
    return {**row(times["tensorbus"], times["torch"], work, work, MATMUL_AIM), "served": served}


def _torch(name: str) -> tuple[Any, str]:
    """PyTorch, or None and why it is no measure of this device."""
    info = tb.get_device(name).info
    if info.plugin != "cuda" or info.evidence != "hardware":
        return None, f"{name} is no NVIDIA GPU that PyTorch could use (evidence {info.evidence})"
    try:
        import torch
    except ImportError as error:
        return None, f"PyTorch is not installed ({error})"
    if not torch.cuda.is_available():
        return None, f"PyTorch {torch.__version__} has no CUDA, or sees no GPU"
    # Full float32 on both sides: tensorbus uses TF32 only on request.
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch, ""


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["bandwidth", "matmul"])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--elements", type=int, default=1 << 28)
    parser.add_argument("--sizes", default="4096,8192")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--least", type=float, default=0.05, metavar="SECONDS")
    given = parser.parse_args(arguments)
    if given.what == "bandwidth":
        table = bandwidth(given.device, given.elements, given.rounds, given.least)
    else:
        sizes = [int(n) for n in given.sizes.split(",")]
        table = matmul(given.device, sizes, given.rounds, given.least)
    given.json.write_text(json.dumps(table, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
