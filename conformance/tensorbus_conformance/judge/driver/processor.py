"""The cpu device's surroundings: processor, threads, memory, compilers; made up, and then real.

What the system says is replaced where it is asked: /proc, sysctl, affinity, cgroups, the programs
on the path.  A compiler is a shell script that notes how it is called.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import (
    OutOfMemoryError,
)

from ..session import Session
from .apart import afresh, changed, files, forked
from .base import Checks, affine, affine_result, duty, filled, integers, launch_affine, numbers

_INTEL = """processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: FPU sse2 avx2 FMA avx512f
model name\t: second

processor\t: 1
model name\t: Other CPU
flags\t\t: none
"""

_ARM = """processor\t: 0
Features\t: fp asimd sve
CPU implementer\t: 0x41
CPU part\t: 0xd0c
"""


def module(session: Session, name: str) -> Any:
    """A module of the package of the device's plugin."""
    package = type(session.guard.real).__module__.partition(".")[0]
    return import_module(f"{package}.{name}")


@forked
def features(checks: Checks, folder: Path, session: Session) -> None:
    """Name and features of a processor are what the system says of its first core."""
    p = module(session, "processor")
    cases: list[tuple[str, str, str, tuple[str, ...], bool, str]] = [
        ("x86_64", _INTEL, "Some CPU @ 2.00GHz", ("fpu", "sse2", "avx2", "fma", "avx512f"), True,
         "AVX-512"),
        ("x86_64", _INTEL.replace(" avx512f", ""), "Some CPU @ 2.00GHz",
         ("fpu", "sse2", "avx2", "fma"), True, "AVX2"),
        ("x86_64", "flags: sse2\n", "x86_64", ("sse2",), False, "SSE2"),
        ("aarch64", _ARM, "aarch64 (implementer 0x41, part 0xd0c)", ("fp", "asimd", "sve"), True,
         "SVE"),
        ("aarch64", "Processor: ARMv8\nCPU part: 1\nFeatures: fp\n", "ARMv8", ("fp",), True,
         "NEON"),
        # A core that another one follows is told by its own lines alone.
        ("aarch64", "processor: 0\n\nprocessor: 1\nCPU part: 0x1\nFeatures: fp\n", "aarch64", (),
         True, "NEON"),
        ("aarch64", "CPU part: 0x1\n", "aarch64 (implementer ?, part 0x1)", (), True, "NEON"),
        ("arm64", "", "arm64", (), True, "NEON"), ("riscv64", "", "riscv64", (), False, ""),
        ("", "", "unknown", (), False, ""),
    ]  # fmt: skip
    for machine, text, name, words, fma, vectors in cases:
        texts = {"/proc/cpuinfo": text} if text else {}
        with (
            files(texts),
            changed(sys, platform="linux"),
            changed(platform, machine=lambda machine=machine: machine),
        ):
            p.processor.cache_clear()
            x = p.processor()
            again = p.processor()
        got = (x.machine, x.name, x.features, x.fma, x.vectors)
        due = (machine or "unknown", name, frozenset(words), fma, vectors)
        checks.that(got == due, f"a processor is told as {got}, due is {due}")
        checks.that(again is x, "the processor is asked again and again")
    answers = {
        "machdep.cpu.brand_string": "Chip 9", "machdep.cpu.features": "SSE2 FMA",
        "machdep.cpu.leaf7_features": "AVX2 AVX512F",
    }  # fmt: skip

    def sysctl(command: list[str], **options: Any) -> Any:
        if command[-1] not in answers or options.get("timeout") is None:
            raise OSError("no sysctl")
        return SimpleNamespace(stdout=answers[command[-1]] + "\n")

    for machine, words, vectors in (
        ("x86_64", ("sse2", "fma", "avx2", "avx512f"), "AVX-512"), ("arm64", (), "NEON"),
    ):  # fmt: skip
        with (
            changed(sys, platform="darwin"),
            changed(platform, machine=lambda machine=machine: machine),
            changed(subprocess, run=sysctl),
        ):
            p.processor.cache_clear()
            x = p.processor()
        got_mac = (x.name, x.features, x.vectors)
        checks.that(got_mac == ("Chip 9", frozenset(words), vectors), f"a Mac is told as {got_mac}")
    answers.clear()
    with (
        changed(sys, platform="darwin"),
        changed(platform, machine=lambda: "arm64"),
        changed(subprocess, run=sysctl),
    ):
        p.processor.cache_clear()
        checks.that(p.processor().name == "arm64", "a Mac that does not tell its name")


@forked
def threads(checks: Checks, folder: Path, session: Session) -> None:
    """Threads are as many as asked for, else the cores that a process may use and a quota pays."""
    p = module(session, "processor")
    quota_file = "/sys/fs/cgroup/cpu.max"
    cores: list[tuple[int, str | None, int]] = [
        (8, None, 8), (8, "max 100000", 8), (8, "300000 100000", 3), (8, "250000 100000", 3),
        (8, "200001 100000", 3), (8, "50000 100000", 1), (2, "800000 100000", 2), (8, "odd", 8),
        (8, "x y", 8), (1, None, 1), (8, "100000 100000 more", 1), (8, "0 100000", 1),
    ]  # fmt: skip
    with changed(os.environ, TENSORBUS_NUM_THREADS=None):
        for count, quota, due in cores:
            texts = {quota_file: quota} if quota is not None else {}
            allowed = set(range(count))
            with files(texts), changed(os, sched_getaffinity=lambda pid, a=allowed: a):
                got = p.usable_threads()
            checks.that(got == due, f"{count} cores with a quota {quota!r} give {got} threads")
        real = os.sched_getaffinity
        for known, due in ((6, 6), (None, 1)):
            with files({}), changed(os, cpu_count=lambda c=known: c):
                del os.sched_getaffinity
                try:
                    got = p.usable_threads()
                finally:
                    os.sched_getaffinity = real
            checks.that(got == due, f"of {known} processors {got} are used")
    with files({}), changed(os, sched_getaffinity=lambda pid: {0, 1, 2}):
        for text, due, warns in (
            ("5", 5, False), ("1", 1, False), ("", 3, False), ("0", 3, True), ("-3", 3, True),
            ("many", 3, True), ("2.5", 3, True), ("64", 64, False),
        ):  # fmt: skip
            with (
                changed(os.environ, TENSORBUS_NUM_THREADS=text),
                warnings.catch_warnings(record=True) as told,
            ):
                warnings.simplefilter("always")
                got = p.usable_threads()
            checks.that(got == due, f"TENSORBUS_NUM_THREADS={text!r} gives {got} threads")
            checks.that(
                bool(told) == warns, f"TENSORBUS_NUM_THREADS={text!r}: {len(told)} warnings"
            )


@forked
def capacity(checks: Checks, folder: Path, session: Session) -> None:
    """The machine's memory is its pages, or a container's limit where that is less."""
    p = module(session, "processor")
    limit_file = "/sys/fs/cgroup/memory.max"

    def pages(name: str) -> int:
        return {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}[name]

    for text, due in (
        (None, 4_096_000), ("max", 4_096_000), ("1000000\n", 1_000_000), ("9999999", 4_096_000),
        ("", 4_096_000), ("-5", 4_096_000),
    ):  # fmt: skip
        texts = {limit_file: text} if text is not None else {}
        with files(texts), changed(os, sysconf=pages):
            got = p.memory_total()
        checks.that(got == due, f"of 4,096,000 bytes with a limit {text!r} there are {got:,}")

    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    for sysconf in (unknown, lambda name: -1 if name == "SC_PHYS_PAGES" else 4096):
        with files({}), changed(os, sysconf=sysconf):
            checks.that(p.memory_total() == 0, "an unknown amount of memory is not 0")


@forked
def limits(checks: Checks, folder: Path, session: Session) -> None:
    """A machine with little memory: all of it can be had, no more, and what is kept goes back."""
    unit = 1 << 20

    def pages(name: str) -> int:
        return {"SC_PHYS_PAGES": 64 << 8, "SC_PAGE_SIZE": 4096}[name]

    with changed(os, sysconf=pages), files({}):
        package = type(session.guard.real).__module__.partition(".")[0]
        device = afresh(package).PLUGIN.open(0)
    checks.that(device.memory().total == 64 * unit, f"it has {device.memory().total:,} bytes")
    device.empty_cache()
    checks.that(device.memory().cached == 0, "something is kept after empty_cache")
    used = device.memory().used
    checks.that(used == 0, f"{used:,} bytes are in use in the beginning")
    held = [device.allocate(16 * unit) for _ in range(3)]
    for nbytes in (16 * unit + 1, 32 * unit, 64 * unit, 65 * unit, 1 << 40):
        checks.raises(OutOfMemoryError, f"{nbytes:,} more bytes", device.allocate, nbytes)
    held.append(device.allocate(16 * unit))
    checks.that(device.memory().used == 64 * unit, "not all of it is in use")
    checks.raises(OutOfMemoryError, "one byte more", device.allocate, 1)
    held.clear()
    checks.that(device.memory().cached == 64 * unit, "nothing is kept for reuse")
    whole = device.allocate(64 * unit)  # what was kept had to go
    checks.that(device.memory().cached == 0, "it has more than there is")
    del whole
    device.empty_cache()
    # Up to half of the memory is kept beside what is in use.
    first = device.allocate(12 * unit)
    del first
    second = device.allocate(16 * unit)
    checks.that(device.memory().cached == 12 * unit, "too little is kept for reuse")
    third = device.allocate(8 * unit)
    checks.that(device.memory().cached == 0, "too much is kept for reuse")
    x = integers(100, 1)
    source, target = filled(device, x), device.allocate(400)
    (kernel,) = device.compile([affine(81)])
    launch_affine(device, kernel, source, target, 100, 2)
    right = (numbers(device, target, 100) == affine_result(x, 81, 2)).all()
    checks.that(bool(right), "it computes something else")
    del second, third


def _address_space() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


@forked
def exhausted(checks: Checks, folder: Path, session: Session) -> None:
    """What the system refuses is an error; what is given back the system has again."""
    device, unit = session.guard.real, 1 << 20
    c = device.capabilities
    told = (c.max_group, c.fp64, c.subnormals, c.division, c.square_root, c.ieee)
    due = (1, True, "preserve", "correct", "correct", True)
    checks.that(told == due, f"a processor declares {told}")
    checks.that(c.dtypes == frozenset(d.name for d in dt.ALL), f"its dtypes are {c.dtypes}")
    has = {"address", "parts", "synchronous"}
    checks.that(device.features == has, f"a processor's features are {set(device.features)}")
    # It is the stack of a thread: no less than the contract's default, no more than a stack.
    shared = 32 << 10 <= c.local_memory <= 8 << 20
    checks.that(shared, f"a group shares {c.local_memory:,} bytes")
    without = device.info.details.get("blas", "").startswith("none")
    checks.that(without == (not device.natives), f"its BLAS is {device.info.details.get('blas')}")
    if not Path("/proc/self/statm").exists():
        return
    device.empty_cache()
    before = _address_space()
    held = [device.allocate(n * unit) for n in (1, 24, 40)]
    checks.that(_address_space() - before >= 60 * unit, "blocks take no room")
    del held
    device.empty_cache()
    left = _address_space() - before
    checks.that(left < 8 * unit, f"{left:,} bytes of what was given back are still there")
    room = _address_space() + 64 * unit
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    for nbytes in (256 * unit, 100 * unit):
        error = checks.raises(OutOfMemoryError, f"{nbytes:,} bytes", device.allocate, nbytes)
        checks.that("out of memory" in str(error), f"{nbytes:,} bytes say {error}")
    x = integers(100, 1)
    source, target = filled(device, x), device.allocate(400)
    (kernel,) = device.compile([affine(81)])
    launch_affine(device, kernel, source, target, 100, 2)
    right = (numbers(device, target, 100) == affine_result(x, 81, 2)).all()
    checks.that(bool(right), "it is of no use after the system refused memory")


duty("processor", features, threads, capacity, limits, exhausted, plugins=("cpu",), smoke=False)
