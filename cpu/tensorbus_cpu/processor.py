"""What the machine is: processor name and features, usable cores, memory."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Processor", "memory_total", "processor", "usable_threads"]


class Processor:
    """Name and instruction-set features of the processor, as the system spells them.

    Attributes:
        machine: ``"x86_64"``, ``"aarch64"``, ``"arm64"``, ...
        name: Product name, or the machine where the system does not tell.
        features: Lower-case feature names; empty where the system does not tell.
    """

    def __init__(self, machine: str, name: str, features: frozenset[str]) -> None:
        self.machine, self.name, self.features = machine, name, features

    @property
    def fma(self) -> bool:
        """Whether fused multiply-add is one instruction."""
        return "fma" in self.features or self.machine in ("aarch64", "arm64")

    @property
    def vectors(self) -> str:
        """The widest vector extension that portable kernels profit from, for people."""
        for feature, name in (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("sve", "SVE")):
            if feature in self.features:
                return name
        return {"x86_64": "SSE2", "aarch64": "NEON", "arm64": "NEON"}.get(self.machine, "")


@functools.cache
def processor() -> Processor:
    """The processor of this machine."""
    machine = platform.machine() or "unknown"
    if sys.platform == "darwin":
        name = _sysctl("machdep.cpu.brand_string") or machine
        keys = ("machdep.cpu.features", "machdep.cpu.leaf7_features")
        words = " ".join(_sysctl(k) for k in keys) if machine == "x86_64" else ""
        known = {"avx2": "avx2", "fma": "fma", "avx512f": "avx512f"}
        return Processor(machine, name, frozenset(known.get(w, w) for w in words.lower().split()))
    fields = _cpuinfo()
    name = fields.get("model name") or fields.get("Processor") or machine
    part = fields.get("CPU part")
    if name == machine and part:
        name = f"{machine} (implementer {fields.get('CPU implementer', '?')}, part {part})"
    words = fields.get("flags") or fields.get("Features") or ""
    return Processor(machine, name, frozenset(words.lower().split()))


def _cpuinfo() -> Mapping[str, str]:
    fields: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if not value and fields:
                    break  # the first core's block is enough
                fields.setdefault(key.strip(), value.strip())
    except OSError:
        return {}
    return fields


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def usable_threads() -> int:
    """Threads of a parallel kernel.

    ``TENSORBUS_NUM_THREADS`` if it is a positive number, else the cores that this process may use,
    at most as many as a container's quota of processor time pays for.  Another value is ignored
    with a RuntimeWarning.
    """
    asked = os.environ.get("TENSORBUS_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    cores = _cores()
    if asked:
        warnings.warn(
            f"TENSORBUS_NUM_THREADS={asked!r} is no number of threads from 1; {cores} are used",
            RuntimeWarning,
            stacklevel=2,
        )
    return cores


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        if quota != "max":
            cores = min(cores, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def memory_total() -> int:
    """Bytes of physical memory, or of a container's limit where that is smaller; 0 if unknown."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit.isdecimal():
            total = min(total, int(limit))
    except OSError:
        pass
    return max(0, total)
