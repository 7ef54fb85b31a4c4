"""Memory that is shared: parts of buffers, another library's memory, addresses, lifetimes."""

from __future__ import annotations

import gc
import weakref

import numpy as np
from tensorbus_backends.contract import BackendError, Feature, UnsupportedError

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


class _Owner:
    """Memory of the host, 64-byte aligned, that can be seen to die."""

    def __init__(self, nbytes: int) -> None:
        self.whole = np.zeros(nbytes + 64, np.uint8)
        start = -self.whole.ctypes.data % 64
        self.array = self.whole[start : start + nbytes]
        self.address = int(self.array.ctypes.data)


def parts(session: Session) -> Outcome:
    """A part is the same memory, and keeps its buffer alive; a device without refuses it."""
    checks, device = Checks("parts"), session.guard.real
    data = pattern(3 * 4096 + 500, 1)
    buffer = filled(device, data)
    if not device.has(Feature.PARTS):
        checks.raises(UnsupportedError, "a part", device.part, buffer, 4096, 4500)
        return checks.outcome
    piece = device.part(buffer, 4096, 4500)
    checks.that(piece.device is device, "a part is not of its device")
    checks.that(piece.nbytes == 4500, f"a part of 4,500 bytes has {piece.nbytes}")
    if (start := place(device, buffer)) is not None:
        checks.that(place(device, piece) == start + 4096, "a part lies somewhere else")
    checks.that(fetch(device, piece, 4500) == data[4096:8596], "a part has other contents")
    outer = device.part(buffer, 4096, 2 * 4096 + 300)
    inner = device.part(outer, 4096, 800)
    checks.that(inner.nbytes == 800, f"a part of a part of 800 bytes has {inner.nbytes}")
    checks.that(fetch(device, inner, 800) == data[8192:8992], "a part of a part has other contents")
    device.copy_in(piece, 3, memoryview(b"\x11" * 9))
    checks.that(
        fetch(device, buffer, 14, 4097) == data[4097:4099] + b"\x11" * 9 + data[4108:4111],
        "what is written to a part is not seen in its buffer",
    )
    x = integers(1000, 2)
    (kernel,) = device.compile([affine(71)])
    source = filled(device, x)
    launch_affine(device, kernel, source, piece, 1000, 1)
    want = affine_result(x, 71, 1)
    checks.that(bool((numbers(device, buffer, 1000, 1024) == want).all()), "a launch missed a part")
    for offset, nbytes in ((-4096, 10), (4096, 1 << 30), (1 << 30, 1), (0, -1)):
        checks.raises(BackendError, f"part at {offset}", device.part, buffer, offset, nbytes)
    del buffer
    others = [filled(device, bytes(3 * 4096 + 500)) for _ in range(4)]
    checks.that(
        bool((numbers(device, piece, 1000) == want).all()), "a part does not keep its buffer alive"
    )
    del others
    return checks.outcome


def imports(session: Session) -> Outcome:
    """Memory of another library is used in place, as long as the buffer lives and no longer."""
    checks, device = Checks("imports"), session.guard.real
    n = 600
    x = integers(n, 3)
    (kernel,) = device.compile([affine(72)])
    if device.has(Feature.ADDRESS):
        owner = _Owner(4 * n)
        owner.array.view(np.int32)[:] = x
        memory, seen = owner.array, weakref.ref(owner)
        buffer = device.import_pointer(owner.address, 4 * n, owner)
        checks.that(buffer.nbytes >= 4 * n, "an import is smaller than the memory")
        checks.that(device.address(buffer) == owner.address, "an import lies somewhere else")
        checks.that(bool((numbers(device, buffer, n) == x).all()), "an import has other contents")
        memory.view(np.int32)[5] = 77
        checks.that(numbers(device, buffer, n)[5] == 77, "an import does not follow the host")
        x[5] = 77
        del owner
        checks.that(seen() is not None, "an import does not keep its owner alive")
        target = device.allocate(4 * n)
        launch_affine(device, kernel, buffer, target, n, 2)
        checks.that(
            bool((numbers(device, target, n) == affine_result(x, 72, 2)).all()),
            "a launch reads an import wrongly",
        )
        launch_affine(device, kernel, target, buffer, n, 3)
        device.synchronize()
        want = affine_result(affine_result(x, 72, 2), 72, 3)
        checks.that(bool((memory.view(np.int32) == want).all()), "a launch did not write in place")
        del buffer
        if seen() is not None:
            gc.collect()
        checks.that(seen() is None, "an import keeps its owner alive for ever")
    elif device.dlpack_type:
        buffer = filled(device, x)
        device.synchronize()
        other = device.import_pointer(device.pointer(buffer), 4 * n, buffer)
        checks.that(bool((numbers(device, other, n) == x).all()), "an import has other contents")
        launch_affine(device, kernel, filled(device, x), other, n, 4)
        checks.that(
            bool((numbers(device, buffer, n) == affine_result(x, 72, 4)).all()),
            "what is written to an import is not seen in its memory",
        )
    else:
        checks.raises(UnsupportedError, "import_pointer", device.import_pointer, 4096, 64, object())
    return checks.outcome


duty("import", parts, imports)
