"""Faults that only real threads of a group can show: barriers that are missing.

On a device whose regions are loops they change nothing, and on hardware a warp in lock-step may
hide them; they need threads that run in any order between barriers, as simulated drivers do.
"""

from __future__ import annotations

import re

from .base import FAULTS, Fault, FaultyDevice, Planted

__all__: list[str] = []

_LAST_STEPS = re.compile(r"(LANES\(l, half\) \{[^{}]*\}\s*)SYNC;")


def _fault(name: str, what: str, op: str, family: str, pattern: re.Pattern[str], new: str) -> None:
    def install(planted: Planted) -> None:
        planted.wrap = lambda real: FaultyDevice(
            real, planted, op.rsplit(".", 1)[-1], lambda text: pattern.sub(new, text)
        )

    FAULTS[name] = Fault(name, what, "device", (op,), ("float32",), family, install, threads=True)


_fault(
    "missing-sync",
    "no barrier stands between what lanes write and what others read",
    "sum",
    "reduction",
    re.compile(r"SYNC;"),
    ";",
)
_fault(
    "lock-step",
    "the last 32 lanes of a tree rely on running in lock-step",
    "max",
    "reduction",
    _LAST_STEPS,
    r"\1if (half > 32) SYNC;",
)
_fault(
    "missing-sync-softmax",
    "lanes use the result of a row before it is there",
    "nn.softmax",
    "normalization",
    re.compile(r"SYNC;(?=\s*const \w+ r\d+ = result)"),
    ";",
)
