"""Memory: blocks are the caller's alone, figures are true, what is dropped comes back."""

from __future__ import annotations

import gc
import resource

import numpy as np
from tensorbus_backends.contract import ALIGNMENT, Buffer, Device, Feature, MemoryFigures

from ..items import Outcome
from ..session import Session
from .base import (
    Checks,
    affine,
    affine_result,
    duty,
    fetch,
    filled,
    integers,
    launch_affine,
    numbers,
    pattern,
    place,
)

_SIZES = (0, 1, 2, 3, 7, 63, 64, 65, 100, 127, 129, 255, 1000, 4095, 4096, 4097, 65537, 1 << 20)


def sizes(session: Session) -> Outcome:
    """A block of every size: as large as asked, aligned, and this device's."""
    checks, device = Checks("sizes"), session.guard.real
    large = () if session.level == "smoke" else ((1 << 24) + 1, (1 << 26) + 3)
    for nbytes in (*_SIZES, *large):
        buffer = device.allocate(nbytes)
        if not checks.that(isinstance(buffer, Buffer), f"allocate({nbytes}) gives {buffer!r}"):
            return checks.outcome
        checks.that(
            type(buffer.nbytes) is int and buffer.nbytes >= nbytes,
            f"{nbytes} bytes asked for, {buffer.nbytes} given",
        )
        checks.that(buffer.device is device, "a buffer's device is not the device")
        if nbytes and (at := place(device, buffer)) is not None:
            checks.that(at % ALIGNMENT == 0, f"a block of {nbytes} bytes is not 64-byte aligned")
        if nbytes:  # the last byte is there
            device.copy_in(buffer, nbytes - 1, memoryview(b"\x5a"))
            checks.that(
                fetch(device, buffer, 1, nbytes - 1) == b"\x5a",
                f"the last byte of {nbytes} does not keep what is written",
            )
    return checks.outcome


def ownership(session: Session) -> Outcome:
    """No block is handed out while another buffer holds it.

    Many blocks live at once, each with a pattern of its own; some are dropped and others made, in
    random order, some touched by launches; every one keeps its pattern until it is dropped.
    """
    checks, device = Checks("ownership"), session.guard.real
    draw = np.random.default_rng(session.seed + 7)
    live: dict[int, tuple[Buffer, bytes]] = {}
    turns = 3 if session.level == "smoke" else 8
    (kernel,) = device.compile([affine(1)])
    number = 0
    for turn in range(turns):
        for _ in range(40):
            if draw.random() < 0.5:
                nbytes = int(draw.choice(_SIZES[1:-2]))
            else:
                nbytes = int(draw.integers(1, 9000))
            data = pattern(nbytes, number)
            live[number] = (filled(device, data), data)
            number += 1
        x = integers(500, turn)
        scratch, result = filled(device, x), device.allocate(2000)
        launch_affine(device, kernel, scratch, result, 500, turn)
        for key, (buffer, data) in live.items():
            checks.that(
                fetch(device, buffer, len(data)) == data,
                f"block {key} of {len(data)} bytes lost its contents when others were allocated",
            )
        checks.that(
            bool((numbers(device, result, 500) == affine_result(x, 1, turn)).all()),
            "a launch between live blocks gave a wrong result",
        )
        del scratch, result
        for key in draw.permutation(list(live))[: len(live) // 2]:
            del live[int(key)]
        if turn % 2:
            device.empty_cache()
    return checks.outcome


def _figures(device: Device, used: int | None = None) -> MemoryFigures:
    """Figures when nothing is under way; cycles are collected where `used` is not met at once."""
    device.synchronize()
    found = device.memory()
    if used is not None and found.used != used:
        gc.collect()
        found = device.memory()
    return found


def figures(session: Session) -> Outcome:
    """``used`` follows what is held, ``peak`` never falls, ``cached`` goes with empty_cache."""
    checks, device = Checks("figures"), session.guard.real
    before = _figures(device)
    if not checks.that(isinstance(before, MemoryFigures), f"memory gives {before!r}"):
        return checks.outcome
    for name in ("used", "cached", "peak", "total"):
        value = getattr(before, name)
        checks.that(type(value) is int and value >= 0, f"{name} is {value!r}")
    held = [device.allocate(n) for n in (1000, 100_000, 3_000_000)]
    during = device.memory()
    checks.that(
        during.used - before.used >= 3_101_000,
        f"used rose by {during.used - before.used:,} when 3,101,000 bytes were allocated",
    )
    checks.that(
        during.used - before.used <= 2 * 3_101_000 + (1 << 20),
        f"used rose by {during.used - before.used:,} for 3,101,000 bytes",
    )
    checks.that(during.peak >= max(during.used, before.peak), "peak is below what was in use")
    checks.that(not during.total or during.total >= during.used, "more is used than there is")
    del held[1:]
    partly = _figures(device)
    checks.that(
        partly.used < during.used - 3_000_000, "used does not fall when buffers are dropped"
    )
    checks.that(partly.peak >= during.peak, "peak fell")
    kept = held[0]
    device.copy_in(kept, 0, memoryview(pattern(1000, 1)))
    device.empty_cache()
    after = device.memory()
    checks.that(after.cached == 0, f"{after.cached:,} bytes are still kept after empty_cache")
    checks.that(after.used == partly.used, "empty_cache changed what is in use")
    checks.that(fetch(device, kept, 1000) == pattern(1000, 1), "empty_cache harmed a buffer in use")
    del kept, held
    last = _figures(device, before.used)
    checks.that(
        last.used == before.used,
        f"{last.used - before.used:,} bytes are in use after everything was dropped",
    )
    return checks.outcome


def series(session: Session) -> Outcome:
    """For any series of allocations the figures are those of the blocks that live.

    What a block counts is seen when the first of its size is made in an empty cache: ``used`` and
    nothing else rises.  A block that is dropped counts as kept or not at all, never as used; one of
    a size that is kept is made of what is kept; ``peak`` is the most that was ever in use.
    """
    checks, device = Checks("series"), session.guard.real
    device.synchronize()
    gc.collect()
    device.empty_cache()
    least = device.memory().used
    ballast = _ballast(device)
    start = device.memory()
    _peaks(checks, device)
    sizes_ = (1, 64, 65, 1000, 4096, 5000, 70_000, 3 << 20, 3_300_000)
    cost: dict[int, int] = {}
    held: list[tuple[int, Buffer]] = []
    device.empty_cache()
    used, peak = start.used, device.memory().peak
    for nbytes in sizes_:
        held.append((nbytes, device.allocate(nbytes)))
        now = device.memory()
        cost[nbytes] = now.used - used
        # Blocks of up to an eighth more, by steps of 64 bytes at least.
        checks.that(
            nbytes <= cost[nbytes] <= nbytes + max(64, nbytes // 8),
            f"a block of {nbytes:,} bytes counts as {cost[nbytes]:,}",
        )
        used, peak = now.used, max(peak, now.used)
        checks.that(now.peak == peak, f"peak is {now.peak:,} with {peak:,} in use at most")
        checks.that(now.cached == 0, f"{now.cached:,} bytes are kept of an empty cache")
        checks.that(now.total == start.total, "the total changes")
    draw = np.random.default_rng(session.seed + 3)
    for turn in range(60):
        if held and draw.random() < 0.5:
            nbytes, buffer = held.pop(int(draw.integers(len(held))))
            before = device.memory().cached
            del buffer
            now = device.memory()
            used -= cost[nbytes]
            checks.that(
                now.cached in (before, before + cost[nbytes]),
                f"a dropped block of {nbytes:,} bytes is kept as {now.cached - before:,}",
            )
        else:
            nbytes = sizes_[int(draw.integers(len(sizes_)))]
            before = device.memory().cached
            held.append((nbytes, device.allocate(nbytes)))
            now = device.memory()
            used += cost[nbytes]
            checks.that(
                now.cached in (before, before - cost[nbytes]),
                f"a block of {nbytes:,} bytes takes {before - now.cached:,} of what is kept",
            )
        peak = max(peak, used)
        checks.that(now.used == used, f"{now.used:,} bytes are in use, due are {used:,}")
        checks.that(now.peak == peak, f"peak is {now.peak:,}, due is {peak:,}")
        checks.that(now.cached >= 0 and now.used >= 0, "less than nothing is in use or kept")
        if turn % 20 == 19:
            device.empty_cache()
            now = device.memory()
            told = (now.used, now.cached, now.peak)
            checks.that(told == (used, 0, peak), f"after empty_cache figures are {told}")
    # One block after another of a size: the first is made, the others reuse it.
    held.clear()
    device.empty_cache()
    for _ in range(5):
        buffer = device.allocate(9000)
        kept = device.memory().cached
        checks.that(kept == 0, f"{kept:,} bytes are kept while their only block is in use")
        del buffer
    device.empty_cache()
    _parts(checks, device, device.memory().used)
    del ballast
    now = _figures(device, least)
    checks.that(now.used == least, f"{now.used:,} bytes are in use, were {least:,}")
    return checks.outcome


def _ballast(device: Device) -> list[Buffer]:
    """Blocks that bring what is in use to the highest that it ever was, or near it."""
    held: list[Buffer] = []
    for _ in range(64):
        now = device.memory()
        gap = min(now.peak - now.used, 64 << 20)
        if gap <= 0:
            break
        held.append(device.allocate(gap))
    return held


def _peaks(checks: Checks, device: Device) -> None:
    """A new peak is seen whether a block is fresh or one that was kept."""
    for nbytes in (5000, 70_000, 1 << 20):
        first = device.allocate(nbytes)
        del first
        other = device.allocate(nbytes * 3)
        again = device.allocate(nbytes)
        now = device.memory()
        checks.that(now.peak >= now.used, f"peak is {now.peak:,} with {now.used:,} in use")
        more = device.allocate(nbytes * 2)
        now = device.memory()
        checks.that(now.peak >= now.used, f"peak is {now.peak:,} with {now.used:,} in use")
        del other, again, more


def _parts(checks: Checks, device: Device, used: int) -> None:
    """Parts and imports do not count, and keep what they lie in."""
    whole = device.allocate(3 * 4096)
    cost = device.memory().used - used
    if not device.has(Feature.PARTS):
        return
    piece = device.part(whole, 4096, 4096)
    checks.that(device.memory().used == used + cost, "a part counts as used")
    checks.that(piece.nbytes == 4096, f"a part of 4,096 bytes has {piece.nbytes:,}")
    del whole
    checks.that(device.memory().used == used + cost, "a part does not keep its buffer")
    if device.has(Feature.ADDRESS):
        foreign = np.zeros(4096, np.uint8)
        taken = device.import_pointer(int(foreign.ctypes.data), 4096, foreign)
        checks.that(device.memory().used == used + cost, "an import counts as used")
        checks.that(taken.nbytes == 4096, f"an import of 4,096 bytes has {taken.nbytes:,}")
        checks.that(taken.device is device, "an import is of no device")
        del taken
    del piece
    checks.that(device.memory().used == used, "a dropped part is still in use")


def leaks(session: Session) -> Outcome:
    """A thousand allocations, launches and compilations leave nothing behind."""
    checks, device = Checks("leaks"), session.guard.real
    (kernel,) = device.compile([affine(1)])
    x = integers(64, 3)
    source = filled(device, x)
    fetch(device, source, 4)
    before = _figures(device)
    for k in range(1000):
        buffer = device.allocate(256 + k % 7 * 1000)
        if k % (50 if session.level == "smoke" else 5) == 0:
            launch_affine(device, kernel, source, buffer, 64, k)
            (kernel,) = device.compile([affine(1)])
    result = numbers(device, buffer, 64) if k % 50 == 0 else None
    del buffer, result
    after = _figures(device, before.used)
    checks.that(
        after.used == before.used,
        f"{after.used - before.used:,} bytes are in use after a thousand dropped buffers",
    )
    checks.that(
        after.peak - before.peak <= 1 << 20,
        f"peak rose by {after.peak - before.peak:,} while one small buffer lived at a time",
    )
    checks.that(
        after.cached - before.cached <= 1 << 20,
        f"{after.cached - before.cached:,} bytes more are kept after small buffers were reused",
    )
    return checks.outcome


def _mapped() -> int:
    """Bytes that this process may write to, touched or not; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as figures:
            return int(figures.read().split()[5]) * resource.getpagesize()
    except OSError:
        return 0


def space(session: Session) -> Outcome:
    """Large blocks that were dropped, and released by empty_cache, leave the address space.

    After a first turn, in which libraries set themselves up, a quarter of a block in the mean may
    stay for each that was released.
    """
    checks, device = Checks("space"), session.guard.real
    if not _mapped():
        return Outcome("space", "unsupported", "this system does not tell its address space")
    turns, sizes = 24, [(2 << 20) + 1, 3_000_000, (4 << 20) - 5, 5 << 20]
    grown = []
    for _ in range(3):  # what a library keeps for itself, it keeps once
        before = _mapped()
        for k in range(turns):
            buffer = device.allocate(sizes[k % 4])
            device.copy_in(buffer, sizes[k % 4] - 1, memoryview(b"x"))
            device.synchronize()
            del buffer
            device.empty_cache()
        grown.append(_mapped() - before)
    most = turns * sum(sizes) // 16
    checks.that(
        min(grown) <= most, f"the address space grew by {min(grown):,} in {turns} large allocations"
    )
    return checks.outcome


duty("allocate", sizes, ownership)
duty("memory", figures, series, leaks, space)
