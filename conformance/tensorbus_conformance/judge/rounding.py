"""The property ``rounding``: elementary functions are rounded as often rightly as is claimed.

Portable kernels alone, as they have the same bits everywhere; see `oracle.rounding`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Evidence
from tensorbus_backends.dtypes import DType

from .. import hard_points
from ..oracle import extended, rounding
from ..oracle.ulp import FORMATS
from .comparing import portable_bound
from .items import Outcome
from .layouts import host, place
from .session import Session

__all__ = ["check", "measured"]

Array = NDArray[Any]

_POINTS = 1 << 16
_SLOW = 1 << 11
"""Points of a region where kernels are interpreted, or run by a simulator."""


@lru_cache(maxsize=64)
def _points(op: str, dtype: str, region: int, size: int, seed: int) -> tuple[Array, ...]:
    return hard_points.draw(op, region, size, seed, FORMATS[dtype])


def measured(device: tb.Device, op: str, dtype: DType, points: tuple[Array, ...]) -> Array:
    """Signed errors of a device's portable kernel, as `oracle.extended.errors` gives them."""
    function = getattr(tb.nn if op in ("sigmoid", "softplus") else tb, op)
    # Beyond its threshold softplus is x by definition.
    options = {"threshold": math.inf} if op == "softplus" else {}
    with tb.reproducible():
        got = host(function(*(place(device, p)[0] for p in points), **options))
    return extended.errors(op, FORMATS[dtype.name], got, *points)


def check(session: Session) -> Outcome:
    """Counts of every region against what is claimed, and every error against the bound."""
    outcome = Outcome("rounding", unit="share")
    op, dtype = session.op, session.dtype
    fmt = FORMATS[dtype.name]
    if extended.wide_type(fmt) is None:
        return Outcome("rounding", "unsupported", "the host has no type beyond float64")
    capabilities, info = session.device.capabilities, session.guard.real.info
    if {capabilities.division, capabilities.square_root} != {"correct"}:
        why = "the device declares that it does not round divisions and roots correctly"
        return Outcome("rounding", "unsupported", why)
    slow = info.plugin == "ref" or info.evidence is not Evidence.HARDWARE
    size = _SLOW if slow else _POINTS
    for region, claim in enumerate(rounding.claims()[op, dtype.name]):
        points = _points(op, dtype.name, region, size, session.seed)
        errors = measured(session.device, op, dtype, points)
        if session.flushes:
            # A subnormal operand, or a result that was one on the way, is anything near zero.
            normal = np.logical_and.reduce([np.abs(p) >= 2.0**-60 for p in points])
            errors = np.where(normal & (np.abs(errors) < 2.0**20), errors, np.nan)
        total, *misses = rounding.counted(errors, claim.far)
        outcome.decided += total
        bound = portable_bound(op, dtype)
        worst = int(np.nanargmax(np.abs(errors))) if total else 0
        if total and abs(errors[worst]) > bound + extended.UNSURE and outcome.state == "pass":
            outcome.state = "fail"
            outcome.message = f"region {region}: {errors[worst]:.3f} ulp, claimed at most {bound}"
            outcome.worst_error, outcome.bound = abs(float(errors[worst])), bound
            outcome.witness = ", ".join(float(p[worst]).hex() for p in points)
        names = ("above", "below", f"beyond {claim.far} ulp")
        for name, count, share in zip(
            names, misses, (claim.above, claim.below, claim.tail), strict=True
        ):
            limit = rounding.allowed(total, share)
            if count > limit and outcome.state == "pass":
                outcome.state = "fail"
                outcome.message = (
                    f"region {region}: {count} of {total} results are wrongly rounded {name}; "
                    f"claimed {share:.3g} of them, at most {limit:.0f}"
                )
                outcome.worst_error, outcome.bound = count / total, limit / total
                outcome.witness = f"{errors[worst]:.3f} ulp at " + ", ".join(
                    float(p[worst]).hex() for p in points
                )
    return outcome


def _main() -> None:
    """Measure the claims on device cpu, of all functions or those named, and write them."""
    import json
    import sys

    found: dict[str, dict[str, list[list[float]]]] = json.loads(rounding.CLAIMS.read_text("utf-8"))
    device = tb.get_device("cpu")
    for op in sys.argv[1:] or sorted(extended.FUNCTIONS):
        for dtype in (dt.float32, dt.float64):
            rows = []
            for region in range(hard_points.count(op)):
                parts = []
                for seed in range(1 << 30, (1 << 30) + 16):
                    drawn = hard_points.draw(op, region, 1 << 15, seed, FORMATS[dtype.name])
                    parts.append(measured(device, op, dtype, drawn))
                c = rounding.claimed(np.concatenate(parts))
                rows.append([c.above, c.below, c.tail, c.far])
            found.setdefault(op, {})[dtype.name] = rows
            print(op, dtype.name, rows, flush=True)
    lines = []
    for op, by in sorted(found.items()):
        lines.append(f' "{op}": {{')
        lines += [f'  "{d}": {json.dumps(rows)},' for d, rows in by.items()]
        lines[-1] = lines[-1][:-1]
        lines.append(" },")
    lines[-1] = " }"
    rounding.CLAIMS.write_text("\n".join(["{", *lines, "}"]) + "\n", "utf-8")


if __name__ == "__main__":
    _main()
