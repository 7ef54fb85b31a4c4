"""``python -m tensorbus_conformance.bits --check [--device NAMES] | --record``: docs/bits.json.

Status 0: all digests agree, or are recorded. 1: some do not, or the change is refused.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import tensorbus as tb

from . import book
from .propose import proposed

_BATCH = 8
"""Ops whose kernels are compiled together."""


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tensorbus_conformance.bits",
        description="Compare every op's bits with docs/bits.json, or record them there.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="compare, on devices")
    what.add_argument(
        "--record",
        action="store_true",
        help="write digests of ops and calls that have none; others only with a new version of "
        "docs/order.md",
    )
    parser.add_argument("--device", default="", help="comma list; by default all that are here")
    parser.add_argument("--ops", default="", help="comma list of qualified names; by default all")
    return parser.parse_args(given)


def _check(devices: Sequence[str], names: Sequence[str]) -> int:
    kept, failed = book.load(book.DOCS / "bits.json"), 0
    for device in devices:
        start, total, problems = time.perf_counter(), 0, []
        for part in (names[k : k + _BATCH] for k in range(0, len(names), _BATCH)):
            known = [n for n in part if kept.calls.get(n)]
            problems += [f"{n} has no call in bits.json" for n in part if n not in known]
            book.warm(known, kept.calls, tb.get_device(device))
            for name in known:
                count, found = book.check(name, kept.calls[name], tb.get_device(device))
                total += count
                problems += found
        for line in problems:
            print(f"{device}: {line}")
        seconds = time.perf_counter() - start
        print(f"{device}: {total} digests, {len(problems)} problems, {seconds:.1f} s", flush=True)
        failed += bool(problems)
    return 1 if failed else 0


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; the status it ends with."""
    chosen = _arguments(given)
    names = chosen.ops.split(",") if chosen.ops else sorted(tb.FUNCTIONS)
    unknown = [n for n in names if n not in tb.FUNCTIONS]
    if unknown:
        print(f"there is no op {', '.join(unknown)}", file=sys.stderr)
        return 2
    if chosen.check:
        here = [d.name for d in tb.devices() if d.available]
        return _check(chosen.device.split(",") if chosen.device else here, names)
    try:
        made = book.record(names=names, propose=proposed, say=print)
    except book.Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    print(f"{sum(map(len, made.calls.values()))} calls of {len(made.calls)} ops are recorded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
