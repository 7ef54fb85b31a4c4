"""Level exhaustive: every float32 input of the elementary functions, as cells of the report."""

from __future__ import annotations

import shlex

import tensorbus as tb

from .exhaustive import FUNCTIONS, sweep
from .judge.items import Outcome

__all__ = ["functions", "sweep_cell"]


def functions() -> tuple[str, ...]:
    """Names of the functions that are swept."""
    return FUNCTIONS


def sweep_cell(name: str, device: tb.Device) -> Outcome:
    """Sweep one function with the compiler of a loop-style device."""
    dialect = device.backend.dialect
    command = device.info.details.get("command")
    if dialect is None or command is None:
        return Outcome("exhaustive32", "not run", "the device names no C compiler")
    found = sweep(name, dialect, shlex.split(command))
    outcome = Outcome(
        "exhaustive32",
        "pass" if found.passed and found.complete else "fail",
        worst_error=found.max_ulp,
        bound=found.bound,
        unit="ulp",
        witness=f"0x{found.witness:08x}",
        decided=found.checked,
    )
    if outcome.state == "fail":
        outcome.message = f"{found.max_ulp:.4f} ulp at input bits {outcome.witness}"
    return outcome
