"""Copies: every size and offset, exactly those bytes, from and to any host memory."""

from __future__ import annotations

import array

import numpy as np
from tensorbus_backends.contract import BackendError

from ..items import Outcome
from ..session import Session
from .base import Checks, duty, fetch, filled, pattern

_EDGES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 70)
_BIG = (4095, 4096, 4097, 8191, 65535, 65537, 262147)


def _cases(level: str) -> list[tuple[int, int]]:
    """Sizes and offsets: all pairs of small ones, large ones beside them."""
    if level == "smoke":
        small = [(n, (7 * n + 3) % 71) for n in range(71)]
        return small + [(n, n % 13) for n in _EDGES] + [(n, 1 + n % 5) for n in _BIG[:5]]
    every = [(n, o) for n in range(71) for o in (0, 1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 63, 64, 70)]
    return every + [(n, o) for n in _BIG for o in (0, 1, 4, 63)]


def inward(session: Session) -> Outcome:
    """``copy_in`` writes its bytes and no other, and is done with the source when it returns."""
    checks, device = Checks("inward"), session.guard.real
    for n, offset in _cases(session.level):
        size = offset + n + 67
        before = pattern(size, n)
        buffer, data = filled(device, before), bytearray(pattern(n, n + 1))
        sent = bytes(data)
        device.copy_in(buffer, offset, memoryview(data))
        data[:] = bytes(n)  # the caller may use it again
        want = before[:offset] + sent + before[offset + n :]
        checks.that(
            fetch(device, buffer, size) == want, f"copy_in of {n} bytes at offset {offset} is wrong"
        )
    return checks.outcome


def outward(session: Session) -> Outcome:
    """``copy_out`` gives the bytes of its range and leaves the host's others alone."""
    checks, device = Checks("outward"), session.guard.real
    data = pattern(600_000, 5)
    buffer = filled(device, data)
    for n, offset in _cases(session.level):
        host = bytearray(b"\xc3" * (n + 34))
        start = 1 + n % 16
        device.copy_out(buffer, offset, memoryview(host)[start : start + n])
        want = b"\xc3" * start + data[offset : offset + n] + b"\xc3" * (34 - start)
        checks.that(bytes(host) == want, f"copy_out of {n} bytes at offset {offset} is wrong")
    return checks.outcome


def across(session: Session) -> Outcome:
    """``copy`` moves bytes between buffers, and between parts of one that do not overlap."""
    checks, device = Checks("across"), session.guard.real
    for n, offset in _cases(session.level):
        other = (offset * 5 + n) % 71
        before, data = pattern(other + n + 66, n), pattern(offset + n + 3, n + 9)
        target, source = filled(device, before), filled(device, data)
        device.copy(target, other, source, offset, n)
        want = before[:other] + data[offset : offset + n] + before[other + n :]
        checks.that(
            fetch(device, target, len(before)) == want,
            f"copy of {n} bytes from offset {offset} to {other} is wrong",
        )
        checks.that(fetch(device, source, len(data)) == data, "copy changed its source")
    # So large that a device may share a copy among threads, or map memory instead.
    for n in (5 << 20,) if session.level == "smoke" else ((4 << 20) - 1, 4 << 20, (9 << 20) + 7):
        # Memory that is used again may hold what an earlier copy left there.
        before, data = pattern(n + 16, n + 1), pattern(n + 8, n)
        source, target = filled(device, data), filled(device, before)
        device.copy(target, 3, source, 5, n)
        want = before[:3] + data[5 : n + 5] + before[n + 3 :]
        checks.that(fetch(device, target, n + 16) == want, f"copy of {n} bytes is wrong")
    data = pattern(1000, 3)
    one = filled(device, data)
    device.copy(one, 501, one, 3, 498)
    checks.that(
        fetch(device, one, 1000) == data[:501] + data[3:501] + data[999:],
        "copy within a buffer is wrong",
    )
    return checks.outcome


def hosts(session: Session) -> Outcome:
    """Host memory of any kind: read-only, odd addresses, typed and shaped views."""
    checks, device = Checks("hosts"), session.guard.real
    buffer = filled(device, bytes(256))
    floats = array.array("d", [1.5, -2.0, 1e300])
    shaped = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    locked = np.arange(33, dtype=np.uint8)
    locked.setflags(write=False)
    odd = memoryview(bytearray(pattern(100, 1)))[1:78]
    for name, view in (
        ("bytes", memoryview(pattern(77, 4))), ("an array of doubles", memoryview(floats)),
        ("a shaped array", shaped.data), ("a read-only array", locked.data),
        ("an odd address", odd), ("nothing", memoryview(b"")),
    ):  # fmt: skip
        device.copy_in(buffer, 5, view)
        checks.that(
            fetch(device, buffer, view.nbytes, 5) == view.tobytes(), f"copy_in of {name} is wrong"
        )
    locked_target = bytes(33)
    kinds = (BackendError, BufferError, TypeError, ValueError)
    checks.raises(
        kinds, "copy_out to read-only memory", device.copy_out, buffer, 0, memoryview(locked_target)
    )
    checks.that(not any(locked_target), "copy_out wrote to read-only memory")
    target = np.zeros((3, 5), np.float32)
    device.copy_in(buffer, 4, np.arange(15, dtype=np.float32).data)
    device.copy_out(buffer, 4, target.data)
    checks.that(
        bool((target.reshape(-1) == np.arange(15)).all()), "copy_out to a shaped array is wrong"
    )
    return checks.outcome


duty("copy", inward, outward, across, hosts)
