"""Errors: what cannot be done raises the contract's exceptions, and harms nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tensorbus_backends import ref
from tensorbus_backends.contract import (
    BackendError,
    Buffer,
    CompileError,
    Device,
    LaunchError,
    OutOfMemoryError,
    UnsupportedError,
)
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.kernels.base import Strided, pack

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
)


@dataclass(frozen=True)
class _Broken:
    """A kernel whose text is no program."""

    name: str = "tb_driver_broken"
    buffers: int = 2
    words: int = 31

    def source(self, dialect: Dialect) -> str:
        """A good kernel, but for one line."""
        text = affine(1).source(dialect).replace(affine(1).name, self.name)
        return text.replace("LANES(l, count) {", "LANES(l, count) { this is no statement ;")

    def local_bytes(self, dialect: Dialect) -> int:
        """None."""
        return 0

    def arguments(self) -> Sequence[Any]:
        """As the good kernel's."""
        return affine(1).arguments()

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        """Not reached: the interpreter does not read the text."""
        raise LaunchError("the broken kernel of the driver part has no meaning")


def broken_kernel() -> _Broken:
    """A kernel that no compiler takes."""
    return _Broken(words=affine(1).words)


def _works(checks: Checks, device: Device, after: str) -> None:
    """The device still does its work."""
    x = integers(100, 8)
    source, target = filled(device, x), device.allocate(400)
    (kernel,) = device.compile([affine(41)])
    launch_affine(device, kernel, source, target, 100, 2)
    checks.that(
        bool((numbers(device, target, 100) == affine_result(x, 41, 2)).all()),
        f"the device is of no use {after}",
    )


def compilation(session: Session) -> Outcome:
    """A bad text raises CompileError with the compiler's words and the text; the rest goes on.

    A device without a dialect reads no text; it is asked only to go on.
    """
    checks, device = Checks("compilation"), session.guard.real
    broken = broken_kernel()
    if device.dialect is not None:
        single = [] if session.level == "smoke" else [[broken]]
        for batch in (*single, [affine(42), broken, affine(43)]):
            error = checks.raises(CompileError, "a bad kernel", device.compile, batch)
            if isinstance(error, CompileError):
                checks.that(bool(error.log.strip()), "a CompileError has no log")
                checks.that("this is no statement" in error.source, "a CompileError has no source")
    (kernel,) = device.compile([affine(42)])
    x = integers(10, 1)
    target = device.allocate(40)
    launch_affine(device, kernel, filled(device, x), target, 10, 0)
    checks.that(
        bool((numbers(device, target, 10) == affine_result(x, 42, 0)).all()),
        "a kernel compiled beside a bad one is wrong",
    )
    _works(checks, device, "after a CompileError")
    return checks.outcome


def memory(session: Session) -> Outcome:
    """What no machine has, and less than nothing, is refused; what lives is not harmed."""
    checks, device = Checks("memory"), session.guard.real
    data = pattern(5000, 1)
    kept = filled(device, data)
    before = device.memory().used
    # The first is small enough to be asked of the system, and too large for it to have.
    for nbytes in (1 << 46, 1 << 60, (1 << 62) + 1):
        checks.raises(OutOfMemoryError, f"allocate({nbytes})", device.allocate, nbytes)
    checks.raises(BackendError, "allocate(-1)", device.allocate, -1)
    checks.that(device.memory().used == before, "a refused allocation counts as used")
    checks.that(fetch(device, kept, 5000) == data, "a refused allocation harmed a buffer")
    _works(checks, device, "after an OutOfMemoryError")
    return checks.outcome


def ranges(session: Session) -> Outcome:
    """A copy outside a buffer raises BackendError and copies nothing."""
    checks, device = Checks("ranges"), session.guard.real
    data = pattern(128, 2)
    one, two = filled(device, data), filled(device, data)
    size, host = one.nbytes, bytearray(64)
    far = memoryview(bytes(64))
    for offset in (-1, -64, size - 63, size, size + 1, 1 << 40):
        checks.raises(BackendError, f"copy_in at {offset}", device.copy_in, one, offset, far)
        checks.raises(
            BackendError, f"copy_out at {offset}", device.copy_out, one, offset, memoryview(host)
        )
        checks.raises(BackendError, f"copy to {offset}", device.copy, one, offset, two, 0, 64)
        checks.raises(BackendError, f"copy from {offset}", device.copy, one, 0, two, offset, 64)
    checks.raises(BackendError, "copy of -1 bytes", device.copy, one, 0, two, 0, -1)
    checks.that(not any(host), "a refused copy_out wrote to the host")
    for buffer in (one, two):
        checks.that(fetch(device, buffer, 128) == data, "a refused copy changed a buffer")
    device.copy_in(one, size, memoryview(b""))  # nothing, at the very end
    device.copy(one, size, two, size, 0)
    few = (0, 1, 100, 4097)
    more = (2, 3, 5, 63, 65, 127, 129, 255, 257, 1000, 1023, 1025, 4095, 65537)
    for size in few if session.level == "smoke" else (*few, *more):
        _bounds(checks, device, size)
    _works(checks, device, "after a refused copy")
    return checks.outcome


def _bounds(checks: Checks, device: Device, size: int) -> None:
    """A buffer ends where it was asked to, whatever the block that it lies in is rounded to."""
    data = pattern(size, 4)
    one, two = filled(device, data), filled(device, pattern(2 * size + 600, 5))
    checks.that(one.nbytes == size, f"a buffer of {size} bytes says {one.nbytes}")
    room = two.nbytes
    for n, offset in ((1, size), (2, size - 1), (size + 1, 0), (16, size - 4), (size, 1)):
        if n < 1 or offset < 0 or n + offset <= size:
            continue
        what, host = f"{n} bytes at {offset} of {size}", bytearray(n)
        far = memoryview(bytes(n))
        checks.raises(BackendError, f"copy_in of {what}", device.copy_in, one, offset, far)
        checks.raises(
            BackendError, f"copy_out of {what}", device.copy_out, one, offset, memoryview(host)
        )
        checks.that(not any(host), f"a refused copy_out of {what} wrote to the host")
        checks.raises(BackendError, f"copy to {what}", device.copy, one, offset, two, 0, n)
        checks.raises(BackendError, f"copy from {what}", device.copy, two, room - n, one, offset, n)
    checks.that(fetch(device, one, size) == data, f"a refused copy changed {size} bytes")
    with contextlib.suppress(UnsupportedError):
        # A part ends where it ends, though memory of its whole goes on.
        part = device.part(two, 0, size)
        for n, offset in ((1, size), (size + 1, 0)):
            checks.raises(
                BackendError, f"copy_in beyond a part of {size} bytes",
                device.copy_in, part, offset, memoryview(bytes(n)),
            )  # fmt: skip
            checks.raises(
                BackendError, f"copy_out beyond a part of {size} bytes",
                device.copy_out, part, offset, memoryview(bytearray(n)),
            )  # fmt: skip


def launches(session: Session) -> Outcome:
    """A launch that does not fit its kernel raises LaunchError and runs nothing."""
    checks, device = Checks("launches"), session.guard.real
    spec, n = affine(44), 64
    (kernel,) = device.compile([spec])
    source, target = filled(device, integers(n, 1)), filled(device, bytes(4 * n))
    meta = pack(spec.meta(n, [], [Strided.words(0, 1, [])] * 2, [1]))
    both = [source, target]
    for what, groups, buffers, words in (
        ("no groups", 0, both, meta), ("-1 groups", -1, both, meta),
        ("a buffer too few", 1, both[:1], meta), ("a buffer too many", 1, [*both, source], meta),
        ("no buffers", 1, [], meta), ("metadata too short", 1, both, meta[:-8]),
        ("metadata too long", 1, both, meta + bytes(8)), ("no metadata", 1, both, b""),
        ("metadata of half a word", 1, both, meta[:-4]),
    ):  # fmt: skip
        error = checks.raises(LaunchError, what, device.launch, kernel, groups, buffers, words)
        short = len(str(error)) <= 400 and "\n" not in str(error)
        checks.that(short, f"{what}: what it says is long or on several lines")
    checks.that(not any(fetch(device, target, 4 * n)), "a refused launch wrote a result")
    _works(checks, device, "after a refused launch")
    return checks.outcome


def foreign(session: Session) -> Outcome:
    """Buffers and kernels of another device are refused, and nothing is copied or launched."""
    checks, device = Checks("foreign"), session.guard.real
    spec, n = affine(45), 64
    (kernel,) = device.compile([spec])
    data = pattern(4 * n, 3)
    own, target, far = filled(device, data), filled(device, bytes(4 * n)), Buffer()
    far.device, far.nbytes = ref.PLUGIN.open(0), 4 * n
    (stranger,) = far.device.compile([affine(46)])
    host = bytearray(4 * n)
    for what, call in (
        ("copy_in to", lambda: device.copy_in(far, 0, memoryview(bytes(8)))),
        ("copy_out from", lambda: device.copy_out(far, 0, memoryview(host))),
        ("copy to", lambda: device.copy(far, 0, own, 0, 16)),
        ("copy from", lambda: device.copy(own, 0, far, 0, 16)),
        ("a part of", lambda: device.part(far, 0, 16)),
        ("the address of", lambda: device.address(far)),
    ):  # fmt: skip
        checks.raises(BackendError, f"{what} another device's buffer", call)
    meta = pack(spec.meta(n, [], [Strided.words(0, 1, [])] * 2, [1]))
    groups = spec.groups(device.dialect, n, 1)
    for buffers in ([far, target], [own, far], [far, far]):
        checks.raises(
            BackendError, "a launch with another device's buffer",
            device.launch, kernel, groups, buffers, meta,
        )  # fmt: skip
    if not isinstance(device, ref.RefDevice):
        checks.raises(
            LaunchError, "a kernel of another device",
            device.launch, stranger, groups, [own, target], meta,
        )  # fmt: skip
    checks.that(not any(host), "a refused copy_out wrote to the host")
    checks.that(fetch(device, own, 4 * n) == data, "a refused copy changed a buffer")
    checks.that(not any(fetch(device, target, 4 * n)), "a refused launch wrote a result")
    _works(checks, device, "after it was given another device's buffer")
    return checks.outcome


duty("errors", compilation, memory, ranges, launches, foreign)
