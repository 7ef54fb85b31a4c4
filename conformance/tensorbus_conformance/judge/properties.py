"""The properties: each looks at one promise of an op and returns an `Outcome`."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray

from ..oracle import REFERENCES, indexing, manipulation
from . import (
    aliasing,
    errors,
    gradients,
    order,
    parts,
    promotion,
    random,
    rounding,
    scalars,
    users,
)
from .cases import Case, is_plain, split
from .comparing import compare, judge_of, judged, merge, witness
from .data import all_patterns
from .items import Outcome, due_ops, random_recipe
from .layouts import place
from .session import Session, array_slots, flushed, oracle_call
from .signature import parameters, takes_scalars
from .surfaces.engine import checks_of

__all__ = ["PROPERTIES", "judge"]

Array = NDArray[Any]

MOVES = {
    name for name, op in (*manipulation.OPS.items(), *indexing.OPS.items()) if op.family == "exact"
}
"""Ops whose results are operands' elements, so that their bits survive on every device."""


def values(session: Session) -> Outcome:
    """Ordinary data, against the oracle."""
    return judged(session, session.cases(), "values")


def special(session: Session) -> Outcome:
    """Zeros of both signs, infinities, NaN, subnormals, extremes, against the oracle."""
    return judged(session, session.special_cases(), "special")


def shapes(session: Session) -> Outcome:
    """Empty, zero-dimensional and odd-tailed shapes, against the oracle."""
    return judged(session, session.shape_cases(), "shapes")


def exhaustive16(session: Session) -> Outcome:
    """All 65,536 values of a 16-bit dtype, against the oracle."""
    case = Case((all_patterns(session.dtype),), {}, "all patterns", random=False)
    return judged(session, [case], "exhaustive16")


def bits(session: Session) -> Outcome:
    """Portable results equal the interpreter's, bit for bit."""
    outcome = Outcome("bits", unit="bits")
    for case in [*session.cases(), *session.special_cases(), *session.shape_cases()]:
        got = session.result(case)
        if session.op in ("empty", "empty_like"):
            got = [np.zeros_like(g) for g in got]
        if session.flushes:
            _flushed_bits(session, outcome, case, got)
            continue
        want = session.interpreted(case)
        if session.op in ("empty", "empty_like"):
            want = [np.zeros_like(w) for w in want]
        before = outcome.state
        for g, w in zip(got, want, strict=True):
            compare(outcome, case.label or "call", g, w, "ref has")
        if outcome.state != before and outcome.witness:
            index = tuple(map(int, re.findall(r"\d+", outcome.witness)))
            outcome.witness = witness(index, want[0].shape, case)
    return outcome


def _flushed_bits(session: Session, outcome: Outcome, case: Case, got: Sequence[Array]) -> None:
    """As `bits`, with the interpreter flushing too.

    What IEEE 754 leaves open, when a result is tiny, has one answer on a device: only the answers
    that agreed with every case so far stay.  A subnormal equals the zero of its sign, since
    compilers leave out x + -0 and 1 * x, which would have flushed it; where nothing is computed,
    bits are bits.
    """
    moves = session.op in MOVES
    seen: dict[str, Outcome] = {}
    for tiny in session.tininess:
        want = session.interpreted(case, tiny)
        if session.op in ("empty", "empty_like"):
            want = [np.zeros_like(w) for w in want]
        seen[tiny] = Outcome("bits")
        for g, w in zip(got, want, strict=True):
            pair = (g, w) if moves else (flushed(g), flushed(w))
            compare(seen[tiny], case.label or "call", *pair, "ref, flushing, has")
    good = tuple(t for t in session.tininess if seen[t].state == "pass")
    best = seen[(good or session.tininess)[0]]
    outcome.decided += best.decided
    session.tininess = good or session.tininess
    if not good and outcome.state == "pass":
        outcome.state, outcome.message, outcome.witness = "fail", best.message, best.witness


def layouts(session: Session) -> Outcome:
    """Any memory layout of the operands gives what contiguous ones give."""
    outcome = Outcome("layouts", unit="bits")
    for case in session.cases():
        if all(is_plain(a) for a in array_slots(case)):
            continue
        if session.op in ("empty", "empty_like"):
            outcome.decided += 1
            continue
        if session.portable:
            want, _ = session.run(case, "contiguous")
            for g, w in zip(session.result(case), want, strict=True):
                pair = (flushed(g), flushed(w)) if session.flushes else (g, w)
                compare(outcome, case.label, *pair, "contiguous gives")
        else:
            judge = judge_of(session, case)
            for g, r in zip(session.result(case), oracle_call(session.op, case), strict=True):
                merge(outcome, judge.check(g, r), case, array_slots(case))
    if session.portable and (REFERENCES[session.op].elementwise or session.op == "astype"):
        _kept_order(session, outcome)
    return outcome


def _kept_order(session: Session, outcome: Outcome) -> None:
    """An elementwise result of dense operands has their order in memory, as NumPy's "K" has it."""
    several = [c for c in session.cases() if len(c.args) and array_slots(c)]
    several = [c for c in several if array_slots(c)[0].size and c.options.get("copy") is not False]
    for case in several[:1]:
        arrays, rebuild = split(case)
        shape, order = (3, 2, 4), (2, 0, 1)
        laid = []
        for a in arrays:
            flat = np.resize(a.reshape(-1), tuple(shape[k] for k in order))
            laid.append(flat.transpose(np.argsort(order)))
        args, options = rebuild(laid)
        turned = replace(case, args=tuple(args), options=options, label=f"{shape} of {order}")
        due = tuple(s // laid[0].itemsize for s in laid[0].strides)
        for r in session.call(turned, session.tensors(turned)[0]):
            outcome.decided += 1
            if r.strides != due and outcome.state == "pass":
                text = f"{turned.label}: the result has strides {r.strides}, its operands {due}"
                outcome.state, outcome.message = "fail", text


def _called(session: Session) -> None:
    """Make a call if the item has made none, as when a cell runs alone: one that it is about."""
    if session.runs:
        return
    if random_recipe(session.item.op):
        random.values(session)
    else:
        for case in session.cases():
            session.run(case)
            if session.portable or "native" in session.served:
                break


def inputs(session: Session) -> Outcome:
    """No call has changed an operand (collected over all calls of the item)."""
    _called(session)
    outcome = Outcome("inputs", decided=session.runs)
    if session.changed:
        outcome.state, outcome.message = "fail", session.changed[0]
    return outcome


def guards(session: Session) -> Outcome:
    """No call has written outside its buffers (collected over all calls of the item)."""
    _called(session)
    outcome = Outcome("guards", decided=session.runs)
    found = session.guard.check()
    if found:
        outcome.state, outcome.message = "fail", f"{found[0]} ({len(found)} times)"
    return outcome


def determinism(session: Session) -> Outcome:
    """Repeated runs give the same bits, whatever lay in fresh memory before."""
    outcome = Outcome("determinism", unit="bits")
    sets = session.cases()
    count = 2 if session.level == "smoke" else 6
    for case in sets[:: max(1, len(sets) // count)]:
        runs = []
        for poison in (0xFF, 0x5A, 0x00):
            session.guard.poison = poison
            runs.append(session.run(case)[0])
        session.guard.poison = 0xFF
        if session.op in ("empty", "empty_like"):
            outcome.decided += 1
            continue
        for again in runs[1:]:
            for first, other in zip(runs[0], again, strict=True):
                compare(outcome, case.label or "call", other, first, "the first run gave")
    return outcome


def provenance(session: Session) -> Outcome:
    """The call was served as the item says, and never by another device."""
    outcome = Outcome("provenance", decided=1)
    # A call without elements needs no kernel, so the one that makes most is taken.
    calls = [c for c in session.cases() if c.options.get("copy") is not False] or session.cases()
    largest = max(calls, key=lambda c: sum(r.size for r in session.result(c)))
    before = session.guard.launches
    session.run(largest)
    ran = session.guard.launches > before
    if "fallback" in session.served:
        outcome.state, outcome.message = "fallback", "served by another device"
    elif session.portable and "native" in session.served:
        outcome.state, outcome.message = "fail", "a native kernel ran in reproducible mode"
    elif not session.portable and "native" not in session.served:
        outcome.state = "fail"
        outcome.message = f"no native kernel ran, only {', '.join(sorted(session.served))}"
    elif session.op not in _VIEWS and not ran and session.portable:
        outcome.state = "fallback"
        outcome.message = "no kernel of this device ran, so another device did the work"
    outcome.library = session.library
    function = tb.FUNCTIONS[session.item.op]
    if outcome.state == "pass" and session.portable and session.ways:
        due = "decomposed" if function.decomposed else "portable"
        if session.ways != {due}:
            text = f"traces say {sorted(session.ways)} of calls that `tensorbus ops` calls {due}"
            outcome.state, outcome.message = "fail", text
    if outcome.state == "pass" and not session.portable:
        _switched(session, outcome, largest)
    if outcome.state == "pass" and REFERENCES[session.op].elementwise:
        _unwrapped(session, outcome, largest)
    return outcome


def _unwrapped(session: Session, outcome: Outcome, case: Case) -> None:
    """An elementwise function of operands alone is called as it is: it looks at them itself."""
    function = tb.FUNCTIONS[session.item.op].call
    forms = [p.forms for p in parameters(function)]
    if any("tensor" not in f for f in forms) or (len(forms) > 1 and not takes_scalars(session.op)):
        return
    args, options = split(case)[1]([place(session.device, a)[0] for a in array_slots(case)])
    function(*args, **options)
    steps = checks_of(lambda: function(*args, **options))
    outcome.decided += 1
    if steps:
        text = f"a warm call goes through checks of its options: {', '.join(steps[:4])}"
        outcome.state, outcome.message = "fail", text


def _switched(session: Session, outcome: Outcome, case: Case) -> None:
    """The setting alone says what serves a call, whichever calls came before under the other one.

    Device and plans are new to the op, and each setting comes first once.
    """
    served: dict[bool, set[str]] = {}
    for first in (False, True):
        device = tb.Device(session.guard.real)
        args, options = split(case)[1]([place(device, a)[0] for a in array_slots(case)])
        call = tb.FUNCTIONS[session.item.op].call
        for reproducible in (first, not first, first, not first):
            with tb.reproducible(reproducible):
                call(*args, **options)  # without a trace operators look into a table of their own
                with tb.trace() as t:
                    call(*args, **options)
            outcome.decided += 1
            found = {f"{r.variant} {r.library}" for r in t}
            if found != served.setdefault(reproducible, found) and outcome.state == "pass":
                text = f"reproducible({reproducible}) is served by {sorted(found)} after calls"
                text += f" under the other setting, else by {sorted(served[reproducible])}"
                outcome.state, outcome.message = "fail", text
            if reproducible and "native" in t.variants():
                outcome.state = "fail"
                outcome.message = "a native kernel ran in reproducible mode, after a call outside"


_VIEWS = {name for name, op in REFERENCES.items() if op.view} | {"empty", "empty_like"}
"""Ops that may be served without a kernel: by a view, or by memory alone."""


PROPERTIES: dict[str, Callable[[Session], Outcome]] = {
    "values": values,
    "special": special,
    "shapes": shapes,
    "exhaustive16": exhaustive16,
    "bits": bits,
    "order": order.check,
    "rounding": rounding.check,
    "layouts": layouts,
    "inputs": inputs,
    "errors": errors.check,
    "gradient": gradients.reverse,
    "forward": gradients.forward,
    "second": gradients.second,
    "kinks": gradients.kinks,
    "autograd": gradients.autograd,
    "promotion": promotion.check,
    "scalars": scalars.check,
    "users": users.check,
    "aliasing": aliasing.check,
    "guards": guards,
    "determinism": determinism,
    "provenance": provenance,
}


def judge(session: Session, name: str) -> Outcome:
    """Run one property; what it raises becomes the cell's state."""
    mine = parts.load().get(session.item.op)
    missing = {session.item.dtype} - set(session.device.capabilities.dtypes)
    if missing and not (mine is not None and mine.always):
        return Outcome(name, "unsupported", f"the device declares no {session.item.dtype}")
    chosen: Mapping[str, Callable[[Session], Outcome]] = PROPERTIES
    if mine is not None:
        chosen = mine.properties
        if lacking := mine.lacking(session.device.capabilities):
            return Outcome(name, "unsupported", lacking)
    elif random_recipe(session.item.op):
        chosen = {**PROPERTIES, **random.PROPERTIES}
    elif session.op not in REFERENCES:
        return Outcome(name, "not run", f"the oracle has no reference for {session.item.op}")
    if session.item.op in due_ops() - tb.FUNCTIONS.keys():
        return Outcome(name, "fail", f"missing op: the library has no {session.item.op}")
    try:
        outcome = chosen[name](session)
    except tb.UnsupportedError as error:
        outcome = Outcome(name, "error", f"undeclared gap: {error}")
    except Exception as error:
        where = _place(error)
        outcome = Outcome(name, "error", f"{type(error).__name__}: {error} [{where}]"[:500])
    if not session.portable and outcome.state in ("fail", "error"):
        outcome.message = named(session, outcome.message)
    if outcome.state == "fail" and outcome.witness:
        outcome.witness += f" (level {session.level}, seed {session.seed})"
    if outcome.state == "pass" and outcome.decided == 0:
        outcome.state, outcome.message = "vacuous", "no element could have failed"
    return outcome


def named(session: Session, message: str) -> str:
    """What is said of a native kernel's cell, with its name and library."""
    library = session.owner
    if not library or f"native kernel of {library}" in message:
        return message
    return f"{message}; the native kernel of {library} for {session.item.op}"


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
