"""What the compile check found out about one compiler and target."""

from __future__ import annotations

from dataclasses import dataclass

from .batch import Rejected

__all__ = ["Row"]


@dataclass(frozen=True)
class Row:
    """One compiler and target.

    Attributes:
        plugin: Who offers the compiler.
        compiler: Its name.
        version: Of the compiler; empty where it is absent.
        target: What is compiled for; empty where the compiler is absent.
        level: Whose kernels: those that judging at this level launches.
        evidence: ``"compiled"`` by devices' own compiler, ``"stand-in"`` by another, or ``"-"``.
        state: ``"accepted"`` if every kernel is, ``"rejected"``, or ``"not run"``.
        kernels: Number of kernels; those not rejected are accepted.
        cached: Kernels accepted by the same compiler, for the same target, in an earlier run.
        rejected: The others.
        cause: Why it was not run, and what to do.
        seconds: Wall time.
    """

    plugin: str
    compiler: str
    version: str = ""
    target: str = ""
    level: str = ""
    evidence: str = "-"
    state: str = "not run"
    kernels: int = 0
    cached: int = 0
    rejected: tuple[Rejected, ...] = ()
    cause: str = ""
    fix: str = ""
    seconds: float = 0.0

    @property
    def accepted(self) -> int:
        return self.kernels - len(self.rejected) if self.state != "not run" else 0
