"""Which kernels an item will need: found by calling the op on a device that launches nothing.

A driver that starts a compiler for every program (PoCL: 0.2 s each) compiles an item's kernels
together in less than half the time; for the C compiler it is no gain.  The results of these calls
are zeros and nobody looks at them; a call that stumbles over them just contributes fewer kernels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorbus as tb
from tensorbus_backends.contract import Buffer, Device, KernelSpec

from . import parts
from .cases import Case, cases, shape_cases, special_cases
from .gradients.common import gradient_cases, pull
from .guard import Guarded
from .marks import note_of
from .session import Session

__all__ = ["launched", "needed", "warm"]


class _Stub:
    def __init__(self, spec: KernelSpec) -> None:
        self.spec = spec


class _Collecting(Guarded):
    """A device that notes what it is asked to compile; its memory is real, its launches are not."""

    def __init__(self, real: Any) -> None:
        super().__init__(real)
        self.kernels: dict[KernelSpec, None] = {}

    def allocate(self, nbytes: int) -> Buffer:
        buffer: Buffer = self.real.allocate(nbytes)
        # Zeros pass for indices, so that what follows a check of bounds is reached as well.
        self.real.copy_in(buffer, 0, memoryview(bytes(nbytes)))
        return buffer

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Any]:
        self.kernels.update(dict.fromkeys(kernels))
        return [_Stub(k) for k in kernels]

    def launch(self, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
        pass

    prepare = Device.prepare


def launched(backend: Device, calls: Iterable[Callable[[tb.Device], Any]]) -> list[KernelSpec]:
    """The kernels that calls launch on a device, as far as calls without results tell."""
    collected = _Collecting(backend)
    device = tb.Device(collected)
    for call in calls:
        with contextlib.suppress(Exception):
            call(device)
    return list(collected.kernels)


def warm(session: Session, names: Sequence[str]) -> None:
    """Compile the kernels that these properties of an item need, all at once.

    Nothing is collected where a note says that they are compiled (see `judge.marks`).
    """
    dialect = session.device.backend.dialect
    if dialect is None or dialect.style != "simt":
        return
    # A kernel that does not compile is met again, alone, by the property that needs it.
    with contextlib.suppress(Exception):
        note = note_of(session, names)
        if note is not None and note.holds():
            return
        session.device.warm(needed(session, names))
        if note is not None:
            note.write()


def needed(session: Session, names: Sequence[str]) -> list[KernelSpec]:
    """The kernels that these properties of an item need, as far as calls without results tell."""
    collected = _Collecting(session.guard.real)
    device = tb.Device(collected)
    probe = Session(session.item, device, session.level, session.seed)
    op, dtype, level, seed = session.op, session.dtype, session.level, session.seed

    def attempt(call: Callable[[], Any]) -> None:
        with contextlib.suppress(Exception):
            call()

    def each(sets: Sequence[Case], *layouts: str) -> None:
        for case in sets:
            for layout in layouts:
                attempt(partial(_call, probe, case, layout))

    if session.item.op in parts.PARTS:
        surface = parts.PARTS[session.item.op].properties.get("fenced")
        if surface is not None:
            attempt(lambda: surface(probe))
        return list(collected.kernels)
    ordinary = cases(op, dtype, level, seed)
    if "values" in names:
        each(ordinary, "given", *(["contiguous"] if "layouts" in names else []))
    if "order" in names:
        from .order import calls

        for run in calls(probe):
            attempt(run)
    if "special" in names:
        each(special_cases(op, dtype, level, seed), "given")
    if "shapes" in names:
        each(shape_cases(op, dtype, seed), "given")
    if "gradient" in names:
        rng = np.random.default_rng(0)
        for case in gradient_cases(probe):
            attempt(partial(pull, probe, case, rng, True))
    if "promotion" in names:
        from .promotion import check

        attempt(lambda: check(probe))
    if "scalars" in names:
        from . import scalars

        attempt(lambda: scalars.check(probe))
    if "errors" in names:
        from . import errors

        attempt(lambda: errors.check(probe))
    return list(collected.kernels)


def _call(probe: Session, case: Case, layout: str) -> None:
    tensors, _ = probe.tensors(case, layout)
    probe.call(case, tensors)
