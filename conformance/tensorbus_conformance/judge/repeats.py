"""A call again: after its result was overwritten, after an operand changed, beside another thread.

Nothing that a call made belongs to the next one, and nothing that it saw of an operand holds once
the operand was changed in place.  In one dtype of each op a few small calls are made

- twice; then the first results are overwritten: neither the second ones nor those of a third call
  may know of it;
- twice; then one operand is changed in place, each in turn, also to an index or a count that is out
  of range: the call has to give, or raise, what a call on fresh operands of those values does;
- in two threads that meet before each launch, on data of the same shapes: the kernels of one run
  between those of the other, so that memory that both use shows (see `judge.turns`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt

from ..oracle import REFERENCES
from .cases import Case, split
from .items import Outcome, dtypes_of
from .layouts import host, place
from .session import Session, array_slots
from .surfaces.checks import bits_of, users_device
from .turns import beside

__all__ = ["check", "overwrite"]

Array = NDArray[Any]

_CASES = 3
_LARGEST = 1 << 14
"""Elements of the operands of a call that is made in two threads."""

_FAR = 1000
"""How far out of range an index is; a count that large makes no large result."""


def check(session: Session, outcome: Outcome) -> None:
    """See the module."""
    known = dtypes_of(session.item.op, "standard")
    if session.dtype is not (dt.float32 if dt.float32 in known else known[0]):
        return
    device = users_device(session)
    with tb.reproducible(session.portable):
        for case in _chosen(session):
            _apart(session, outcome, device, case)
            _changed(session, outcome, device, case)
        if session.portable:
            _threads(session, outcome)


def _size(case: Case) -> int:
    return sum(a.size for a in array_slots(case))


def _chosen(session: Session) -> list[Case]:
    """Small calls with elements, those first that have most operands."""
    sets = [c for c in session.cases() if _size(c) > 1 or not array_slots(c)]
    small = sorted(sets, key=_size)[: 3 * _CASES]
    return sorted(small, key=lambda c: -len(array_slots(c)))[:_CASES]


def _call(session: Session, device: tb.Device, case: Case, operands: Sequence[Any]) -> Any:
    args, options = split(case)[1](operands)
    if not operands:
        options["device"] = device
    result = tb.FUNCTIONS[session.item.op].call(*args, **options)
    return [result] if isinstance(result, tb.Tensor) else list(result)


def _put(device: tb.Device, arrays: Sequence[Array]) -> list[tb.Tensor]:
    return [place(device, a, "contiguous")[0] for a in arrays]


def _fail(outcome: Outcome, case: Case, text: str) -> None:
    if outcome.state == "pass":
        outcome.state, outcome.message = "fail", f"{case.label or 'call'}: {text}"


def overwrite(tensor: tb.Tensor) -> None:
    """Fill all of the memory under a tensor, past the library."""
    raw = np.full(tensor._buffer.nbytes, 0xA5, np.uint8)
    if raw.size:
        tensor.device.backend.copy_in(tensor._buffer, 0, memoryview(raw.data))


def _apart(session: Session, outcome: Outcome, device: tb.Device, case: Case) -> None:
    """Results of equal calls have nothing to do with each other."""
    operands = _put(device, array_slots(case))
    first, second = (_call(session, device, case, operands) for _ in range(2))
    wanted = [bits_of(host(r)) for r in second]
    mine = {id(t._buffer) for t in operands}
    own = [r for r in first if id(r._buffer) not in mine]
    for r in own:
        overwrite(r)
    if not own:
        return
    _same(outcome, case, "after the result of an equal call was overwritten", second, wanted)
    if session.op not in ("empty", "empty_like"):
        third = _call(session, device, case, operands)
        _same(outcome, case, "made again after its result was overwritten", third, wanted)


def _same(
    outcome: Outcome, case: Case, what: str, results: Sequence[tb.Tensor], wanted: Sequence[bytes]
) -> None:
    for k, (r, w) in enumerate(zip(results, wanted, strict=True)):
        outcome.decided += 1
        if bits_of(host(r)) != w:
            _fail(outcome, case, f"result {k} has other bits {what}")


# -- operands changed in place --------------------------------------------------------------------


def _others(session: Session, k: int, array: Array) -> Iterator[Array]:
    """Other contents of operand `k`: its elements turned, and for positions one out of range."""
    turned = np.ascontiguousarray(np.flip(array))
    if turned.tobytes() == np.ascontiguousarray(array).tobytes():
        turned = ~array if array.dtype == bool else np.asarray(array + array).astype(array.dtype)
    yield turned
    if k in REFERENCES[session.op].positions and array.dtype.kind in "iu":
        for far in (_FAR, -_FAR):
            if np.iinfo(array.dtype).min <= far <= np.iinfo(array.dtype).max:
                wild = np.array(array, order="C")
                wild.reshape(-1)[-1] = far
                yield wild


def _changed(session: Session, outcome: Outcome, device: tb.Device, case: Case) -> None:
    """A call sees what its operands hold now."""
    arrays = array_slots(case)
    if session.op in ("empty", "empty_like"):
        return
    operands = _put(device, arrays)
    for _ in range(2):
        _call(session, device, case, operands)
    for k, array in enumerate(arrays):
        if not array.size:
            continue
        for other in (*_others(session, k, array), np.array(array, order="C")):
            operands[k][...] = _put(device, [other])[0]
            fresh = [other if j == k else a for j, a in enumerate(arrays)]
            wanted, due = _outcome(session, device, case, _put(device, fresh))
            found, got = _outcome(session, device, case, operands)
            outcome.decided += 1
            if due != got:
                text = f"operand {k} changed in place: {got or 'no error'}, {due or 'none'} is due"
                _fail(outcome, case, text)
            elif session.portable and found != wanted:
                _fail(outcome, case, f"operand {k} changed in place: the result is not of it")


def _outcome(
    session: Session, device: tb.Device, case: Case, operands: Sequence[tb.Tensor]
) -> tuple[list[bytes], str]:
    """Bits of the results, or the kind of exception."""
    try:
        results = _call(session, device, case, operands)
        return [bits_of(host(r)) for r in results], ""
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        return [], type(error).__name__


# -- threads --------------------------------------------------------------------------------------


def _threads(session: Session, outcome: Outcome) -> None:
    """The largest call, on two sets of data at once."""
    if session.op in ("empty", "empty_like"):
        return
    sets = [c for c in session.cases() if _size(c) <= _LARGEST]
    for case in sorted(sets, key=_size)[-1:]:
        arrays = array_slots(case)
        turned = [np.ascontiguousarray(np.flip(a)) for a in arrays]

        def call(device: tb.Device, data: Sequence[Array], case: Case = case) -> list[bytes]:
            with tb.reproducible():
                results = _call(session, device, case, _put(device, data))
                return [bits_of(host(r)) for r in results]

        try:
            found, wanted = beside(session.guard.real, call, (arrays, turned))
        except (ValueError, TypeError, IndexError, OverflowError):
            continue  # turned data do not go with the options
        outcome.decided += len(wanted)
        if found != wanted:
            _fail(outcome, case, "another result beside the same call in another thread")
