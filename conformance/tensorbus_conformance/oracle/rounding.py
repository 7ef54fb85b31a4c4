"""How often an elementary function misses the correctly rounded result, region by region.

A greatest error says little about an algorithm: one with a worse coefficient, or without the low
part of a constant, may stay below it.  The shares of results that are rounded wrongly do tell.  The
library claims for each function, dtype and region of `hard_points`

- the share of results above the exact value that are not correctly rounded,
- the share of those below it,
- a tail: an error in ulps, and the share of results that exceed it.

The claims lie in ``rounding.json``, measured on many more points than are judged and raised by what
the measurement leaves open (`claimed`).  They hold on every device, as portable kernels have the
same bits.  A device may be better and never worse.

*Bound.*  The number K of misses among n independent points with probability p each satisfies
P(K >= n p + t) <= exp(-t^2 / (2 (n p + t/3))) (Bernstein), so with L = log(1/q)

    K <= n p + L/3 + sqrt(L^2/9 + 2 L n p)    except with probability q = 1e-11.

Some 2,000 counts are judged a run, so that one run in 5e7 is a false alarm.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .extended import UNSURE

__all__ = ["CLAIMS", "Claim", "allowed", "claimed", "claims", "counted"]

CLAIMS = Path(__file__).with_name("rounding.json")
_L = math.log(1e11)
_TAIL = 2.0**-7
"""Share of the results beyond the error at which the tail begins."""


@dataclass(frozen=True)
class Claim:
    """Shares of wrongly rounded results in one region.

    Attributes:
        above: Share of those greater than the exact value.
        below: Share of those less than it.
        tail: Share of errors beyond `far`.
        far: An error in ulps.
    """

    above: float
    below: float
    tail: float
    far: float


def counted(errors: NDArray[np.float64], far: float) -> tuple[int, int, int, int]:
    """Points that count, and of these the misses above, below and in the tail.

    Args:
        errors: Signed, in ulps; NaN for what does not count.
        far: Where the tail begins.
    """
    known = errors[~np.isnan(errors)]
    boundary = 0.5 + UNSURE
    return (
        int(known.size),
        int((known > boundary).sum()),
        int((known < -boundary).sum()),
        int((np.abs(known) > far).sum()),
    )


def allowed(points: int, share: float) -> float:
    """The greatest number of misses that may be chance (Bernstein's inequality, above)."""
    return points * share + _L / 3 + math.sqrt(_L * _L / 9 + 2 * _L * points * share)


def claimed(errors: NDArray[np.float64]) -> Claim:
    """The claim that a measurement supports.

    A share p measured as k of m is below ``(k + 3 sqrt(k) + 3) / m``: three standard deviations
    of a count, with 3 for a count near 0 (probability below 1 in 500).
    """
    known = np.abs(errors[~np.isnan(errors)])
    # A tail that begins below half an ulp would count results that are right.
    far = max(float(np.quantile(known, 1 - _TAIL)) if known.size else 0.5, 0.5 + UNSURE)
    far = math.ceil(far * 256) / 256
    points, *misses = counted(errors, far)
    above, below, tail = (
        float(f"{(k + 3 * math.sqrt(k) + 3) / points:.3g}") if points else 0.0 for k in misses
    )
    return Claim(above, below, tail, far)


@cache
def claims() -> dict[tuple[str, str], tuple[Claim, ...]]:
    """By function and dtype, in the order of the regions."""
    found: dict[str, dict[str, Any]] = json.loads(CLAIMS.read_text("utf-8"))
    return {
        (name, dtype): tuple(Claim(*row) for row in rows)
        for name, dtypes in found.items()
        for dtype, rows in dtypes.items()
    }
