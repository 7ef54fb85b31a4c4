"""Property `aliasing`: operands that share memory, and results that must not.

A result has memory of its own unless the oracle's record says that the op may give a view.  Then
operands of one dtype are made to share a buffer: the same tensor for all, neighbours at other
offsets, one reversed, one with a step of 0.  The op has to give the bits that it gives on separate
copies of the same values, raise what it raises there, and leave the buffer as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus._spec import Spec, contiguous_strides
from tensorbus_backends import dtypes as dt

from ..oracle import REFERENCES
from .cases import Case, movable
from .comparing import judge_of
from .items import Outcome
from .layouts import host
from .session import Session, array_slots, oracle_call, split
from .surfaces.checks import bits_of, memory_of

__all__ = ["check"]

Array = NDArray[Any]
Views = list[tb.Tensor]


def check(session: Session) -> Outcome:
    """See the module."""
    outcome = Outcome("aliasing", unit="bits")
    count = 1 if session.level == "smoke" else 3
    for number, case in enumerate(_chosen(session.op, session.cases())):
        if number >= count and outcome.decided:
            break
        tensors, _ = session.tensors(case)
        _fresh(session, outcome, case, tensors, session.call(case, tensors))
        for label, views in _shared(session, case):
            compare(session, outcome, case, label, views)
    return outcome


def _chosen(op: str, sets: Sequence[Case]) -> list[Case]:
    """Cases by how many of their arrays could be one, then by size; empty ones last."""

    def rank(case: Case) -> tuple[bool, bool, int, int, int]:
        arrays = array_slots(case)
        forms = [(a.dtype, a.shape) for a in arrays]
        size = sum(a.size for a in arrays)
        poor = case.options.get("copy") is False
        poor = poor or not any(a.size > 1 for a in arrays)
        return size == 0, poor, len(set(forms)) - len(forms), -len(forms), size

    return sorted(movable(op, sets), key=rank)


def _fail(outcome: Outcome, case: Case, text: str) -> None:
    if outcome.state == "pass":
        outcome.state, outcome.message = "fail", f"{case.label or 'call'}: {text}"


def _fresh(
    session: Session, outcome: Outcome, case: Case, operands: Sequence[tb.Tensor], results: Views
) -> None:
    """No result lies in an operand's buffer or in another result's."""
    if REFERENCES[session.op].view or case.options.get("copy") is False:
        return
    seen = {id(t._buffer): f"operand {k}" for k, t in enumerate(operands)}
    for k, r in enumerate(results):
        outcome.decided += 1
        if r.size and id(r._buffer) in seen:
            _fail(outcome, case, f"result {k} lies in the memory of {seen[id(r._buffer)]}")
        seen[id(r._buffer)] = f"result {k}"
        if r.size and r._spec.size * r.dtype.itemsize > r._buffer.nbytes:
            _fail(outcome, case, f"result {k} is larger than its memory")


def _shared(session: Session, case: Case) -> Iterator[tuple[str, Views]]:
    """Tensors for all slots of a case, some of them over one buffer.

    At level smoke only those that need no kernel of their own.
    """
    strided = session.level != "smoke" or REFERENCES[session.op].view
    arrays = array_slots(case)
    tensors, _ = session.tensors(case, "contiguous")

    def view(x: tb.Tensor, shape: tuple[int, ...], offset: int, strides: Any = None) -> tb.Tensor:
        return tb.Tensor(x._buffer, Spec.of(x.device, x.dtype, shape, strides), x._offset + offset)

    groups: dict[Any, list[int]] = {}
    for k, a in enumerate(arrays):
        if a.size and k not in REFERENCES[session.op].positions:
            groups.setdefault(a.dtype, []).append(k)
    for members in groups.values():
        first = members[0]
        shape = arrays[first].shape
        equal = [k for k in members if arrays[k].shape == shape]
        if len(equal) > 1:
            yield (
                "one tensor for all",
                [tensors[first] if k in equal else t for k, t in enumerate(tensors)],
            )
            if shape and strided:
                back = tuple(-s for s in contiguous_strides(shape))
                turned = view(tensors[first], shape, arrays[first].size - 1, back)
                yield (
                    "x and x reversed",
                    [
                        turned if k in equal[1:] else tensors[first] if k == first else t
                        for k, t in enumerate(tensors)
                    ],
                )
            if strided and len(shape) == 2 and shape[0] == shape[1]:
                across = view(tensors[first], shape, 0, contiguous_strides(shape)[::-1])
                yield (
                    "x and x.T",
                    [
                        across if k in equal[1:] else tensors[first] if k == first else t
                        for k, t in enumerate(tensors)
                    ],
                )
        if len(members) > 1:
            yield from _neighbours(session, arrays, tensors, members)
    if strided and arrays and arrays[0].size > 1:
        axis = int(np.argmax(arrays[0].shape))
        steps = contiguous_strides(arrays[0].shape)
        wide = view(tensors[0], arrays[0].shape, 0, (*steps[:axis], 0, *steps[axis + 1 :]))
        yield "a step of 0", [wide, *tensors[1:]]


def _neighbours(
    session: Session, arrays: Sequence[Array], tensors: Views, members: Sequence[int]
) -> Iterator[tuple[str, Views]]:
    """Operands in one buffer at rising and falling offsets, one element apart."""
    room = max(arrays[k].size for k in members) + len(members)
    flat = np.resize(arrays[members[0]].reshape(-1), room)
    memory = session.device.backend.allocate(flat.nbytes)
    session.device.backend.copy_in(memory, 0, memoryview(flat.view(np.uint8).data))
    for label, order in (("rising", 1), ("falling", -1)):
        views = list(tensors)
        for n, k in enumerate(members[::order]):
            spec = Spec.of(session.device, dt.from_numpy(flat.dtype), arrays[k].shape)
            views[k] = tb.Tensor(memory, spec, n)
        yield f"neighbours at {label} offsets", views


def compare(session: Session, outcome: Outcome, case: Case, label: str, views: Views) -> None:
    """The call on `views` against the call on copies of their values."""
    values = [host(v) for v in views]
    args, options = split(case)[1]([np.array(v, order="C") for v in values])
    plain = Case(tuple(args), options, case.label)
    before = [memory_of(v).tobytes() for v in views]
    wanted, due = _outcome(session, plain, session.tensors(plain)[0])
    results, got = _outcome(session, case, views)
    outcome.decided += 1
    if due != got:
        _fail(outcome, case, f"{label}: {got or 'no error'}, on copies {due or 'none'}")
        return
    if any(memory_of(v).tobytes() != b for v, b in zip(views, before, strict=True)):
        _fail(outcome, case, f"{label}: an operand was changed")
    if due:
        return
    _fresh(session, outcome, case, views, results)
    if session.op in ("empty", "empty_like"):
        return
    have, want = [host(r) for r in results], [host(w) for w in wanted]
    outcome.decided += sum(max(w.size, 1) for w in want)
    alike = [h.shape == w.shape and h.dtype == w.dtype for h, w in zip(have, want, strict=True)]
    right = _agree(session, plain, have, want) if all(alike) else alike
    for k in (k for k, fine in enumerate(right) if not fine):
        _fail(outcome, case, f"{label}: result {k} is not that on separate copies")


def _agree(
    session: Session, plain: Case, results: Sequence[Array], wanted: Sequence[Array]
) -> list[bool]:
    """Which results are right.

    Portable kernels give the bits that they give on copies.  A library may choose another kernel
    for another layout: each of its results is judged by the oracle, with the bound of `values`.
    """
    if session.portable:
        return [bits_of(h) == bits_of(w) for h, w in zip(results, wanted, strict=True)]
    judge, references = judge_of(session, plain), oracle_call(session.op, plain)
    return [judge.check(h, r).ok for h, r in zip(results, references, strict=True)]


def _outcome(session: Session, case: Case, tensors: Views) -> tuple[Views, str]:
    """Results, or the kind of exception."""
    try:
        return session.call(case, tensors), ""
    except (ValueError, TypeError, IndexError) as error:
        return [], type(error).__name__
