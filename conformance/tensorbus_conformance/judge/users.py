"""Property `users`: an op on the path that users run.

No fences, no `trace`, the device's own allocator, nothing synchronised in between.  Results are
kept or dropped in a seeded order, so that blocks come back from the pool with what they held, and
every call is made three times: cold, warm, and warm after calls of other shapes.  The results are
those of the fenced device, bit for bit; native kernels, which have a margin, are judged by the
oracle.  At the end operands and kept results still hold what they held.  Above smoke each option is
then changed alone, on the same operands (see `variants`), every dimension is named (see `axes`),
and native kernels are offered the call (see `offers`).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray

from . import axes, offers, repeats, variants
from .cases import Case
from .comparing import judge_of, merge, same_bits
from .items import Outcome
from .layouts import host, place
from .session import Session, array_slots, oracle_call, split
from .surfaces.checks import bits_of, users_device

__all__ = ["check", "flood", "small"]

Array = NDArray[Any]


@dataclass
class _Kept:
    """A call whose operands and results are looked at later."""

    case: Case
    turn: int
    operands: list[tb.Tensor]
    results: list[tb.Tensor]


def small(sets: Sequence[Case], count: int) -> list[Case]:
    """The `count` cases with the fewest elements, without those that have none."""
    sized = [(sum(a.size for a in array_slots(c)), k) for k, c in enumerate(sets)]
    filled = sorted((n, k) for n, k in sized if n) or sorted(sized)
    return [sets[k] for _, k in filled[:count]]


def check(session: Session) -> Outcome:
    """See the module."""
    outcome = Outcome("users", unit="bits")
    rng = np.random.default_rng([session.seed, zlib.crc32(session.item.name.encode())])
    if session.level == "smoke":
        chosen = small(session.cases(), 2)
    else:
        chosen = [*small(session.cases(), 6), *small(session.shape_cases(), 4)]
    device = users_device(session)
    wanted = [session.run(case)[0] for case in chosen]
    kept: list[tuple[int, _Kept]] = []
    for turn in range(3):
        for k in rng.permutation(len(chosen)).tolist():
            _dirty(device, wanted[k], (0xFF, 0x5A, 0x00)[turn])
            kept.append((k, _call(session, device, chosen[k], turn)))
            if len(kept) > 2 and rng.integers(2):
                j, one = kept.pop(int(rng.integers(len(kept))))
                _look(session, outcome, one, wanted[j])
    held = flood(device, [t for _, one in kept for t in (*one.operands, *one.results)])
    for k, one in kept:
        _look(session, outcome, one, wanted[k])
    del held
    if session.level != "smoke" and session.op not in ("empty", "empty_like"):
        variants.check(session, outcome)
        axes.check(session, outcome)
        offers.check(session, outcome)
        repeats.check(session, outcome)
    return outcome


def flood(device: tb.Device, live: Sequence[tb.Tensor]) -> list[Any]:
    """Take and fill blocks of the sizes in use: a block handed out twice loses what it held."""
    held = []
    for nbytes in sorted({t._buffer.nbytes for t in live} - {0}):
        raw = memoryview(np.full(nbytes, 0xA5, np.uint8).data)
        for _ in range(10):
            held.append(device.backend.allocate(nbytes))
            device.backend.copy_in(held[-1], 0, raw)
    return held


def _dirty(device: tb.Device, results: Sequence[Array], byte: int) -> None:
    """Give blocks of the results' sizes back to the pool, full of one byte."""
    for result in results:
        if result.nbytes:
            blocks = [device.backend.allocate(result.nbytes) for _ in range(2)]
            for block in blocks:
                raw = np.full(result.nbytes, byte, np.uint8)
                device.backend.copy_in(block, 0, memoryview(raw.data))


def _call(session: Session, device: tb.Device, case: Case, turn: int) -> _Kept:
    operands = [place(device, a)[0] for a in array_slots(case)]
    args, options = split(case)[1](operands)
    if not operands:
        options["device"] = device
    with tb.reproducible(session.portable):
        result = tb.FUNCTIONS[session.item.op].call(*args, **options)
    results = [result] if isinstance(result, tb.Tensor) else list(result)
    return _Kept(case, turn, operands, results)


def _look(session: Session, outcome: Outcome, one: _Kept, wanted: Sequence[Array]) -> None:
    """Compare the results, and the operands with what was put there."""
    label = f"{one.case.label or 'call'}, turn {one.turn}"
    arrays = array_slots(one.case)
    for k, (x, a) in enumerate(zip(one.operands, arrays, strict=True)):
        outcome.decided += 1
        if outcome.state == "pass" and host(x).tobytes() != np.ascontiguousarray(a).tobytes():
            outcome.state, outcome.message = "fail", f"{label}: operand {k} was changed"
    got = [host(r) for r in one.results]
    if [(g.shape, g.dtype) for g in got] != [(w.shape, w.dtype) for w in wanted]:
        outcome.state, outcome.message = "fail", f"{label}: other shapes or dtypes than with fences"
        return
    outcome.decided += len(got)
    if session.op in ("empty", "empty_like"):
        return
    if not session.portable:
        judge = judge_of(session, one.case)
        for g, r in zip(got, oracle_call(session.op, one.case), strict=True):
            merge(outcome, judge.check(g, r), one.case, arrays)
        return
    for k, (g, w) in enumerate(zip(got, wanted, strict=True)):
        outcome.decided += g.size
        if outcome.state == "pass" and bits_of(g) != bits_of(w):
            text = f"result {k} is not that of the fenced device: {_where(g, w)}"
            outcome.state, outcome.message = "fail", f"{label}: {text}"


def _where(got: Array, wanted: Array) -> str:
    wrong = ~same_bits(got, wanted)
    index = np.unravel_index(int(np.flatnonzero(wrong.reshape(-1))[0]), got.shape)
    place = tuple(int(i) for i in index)
    return f"{int(wrong.sum())} of {got.size} differ; at {place}: {got[place]!r}, {wanted[place]!r}"
