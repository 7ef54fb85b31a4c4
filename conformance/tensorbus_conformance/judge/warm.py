"""Which kernels an item will need: read from the plans of its calls (see `judge.planned`).

A driver that starts a compiler for every program (PoCL: 0.2 s each) compiles an item's kernels
together in less than half the time; for the C compiler it is no gain.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from tensorbus_backends.contract import KernelSpec

from . import errors, order, parts, promotion, scalars
from .cases import Case, cases, shape_cases, special_cases
from .gradients.common import gradient_cases, pull
from .marks import note_of
from .planned import Reading
from .session import Session, fenced

__all__ = ["needed", "warm"]


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
    reading = Reading(fenced(session.guard.real))
    probe = Session(session.item, reading.device, session.level, session.seed)
    with reading():
        _call_all(probe, names)
    return list(reading.kernels)


def _call_all(probe: Session, names: Sequence[str]) -> None:
    """Make the calls of these properties; what they raise is the properties' business."""
    op, dtype, level, seed = probe.op, probe.dtype, probe.level, probe.seed

    def attempt(call: Callable[[], Any]) -> None:
        with contextlib.suppress(Exception):
            call()

    def each(sets: Sequence[Case], *layouts: str) -> None:
        for case in sets:
            for layout in layouts:
                attempt(partial(_call, probe, case, layout))

    if probe.item.op in parts.PARTS:
        surface = parts.PARTS[probe.item.op].properties.get("fenced")
        if surface is not None:
            attempt(lambda: surface(probe))
        return
    ordinary = cases(op, dtype, level, seed)
    if "values" in names:
        each(ordinary, "given", *(["contiguous"] if "layouts" in names else []))
    if "order" in names:
        for run in order.calls(probe):
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
        attempt(lambda: promotion.check(probe))
    if "scalars" in names:
        attempt(lambda: scalars.check(probe))
    if "errors" in names:
        attempt(lambda: errors.check(probe))


def _call(probe: Session, case: Case, layout: str) -> None:
    tensors, _ = probe.tensors(case, layout)
    probe.call(case, tensors)
