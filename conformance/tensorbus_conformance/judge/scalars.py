"""Python numbers beside tensors, by value: what `2.0 - x`, `x * -0.0` and `where(c, x, 2)` give.

A number joins in the tensor's dtype, rounded to it once, if its kind allows; a float beside
integers makes both float32.  Numbers that compare equal follow each other (0.0, -0.0, 0; 1.0, 1),
and all of them come twice, the second time in the opposite order, so that whatever is kept of one
cannot serve another.  Numbers that have no dtype here are the business of `errors`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

from ..oracle import REFERENCES
from .items import Outcome
from .layouts import host, place
from .promotion import ends, judge_of
from .session import Session
from .signature import Parameter, parameters
from .surfaces.checks import bits_of

__all__ = ["check", "numbers"]

Array = NDArray[Any]
_NUMBERS = frozenset({"bool", "int", "float"})


def numbers(dtype: DType, deep: bool) -> list[bool | int | float]:
    """Python numbers that join a tensor of `dtype` in its own dtype."""
    if dtype.kind == "b":
        return [True, False]
    if dtype.is_integer:
        found: list[bool | int | float] = [0, 1, 2, 3, int(dtype.max), int(dtype.min)]
        return found + ([-1, -2] if dtype.kind == "i" else [])
    found = [0.0, -0.0, 0, 1, 1.0, 2.0, -2.5, 0.1, 2, math.inf, math.nan]
    return found + ([-math.inf, -1, 3, 0.5, 1 / 3, 2**53 + 1, 2049, 257] if deep else [])


def _floats(deep: bool) -> list[bool | int | float]:
    """Python floats beside integers."""
    return [2.0, -0.0, 0.1, 2.5] + ([0.0, math.inf, math.nan, 2.0**24 + 1] if deep else [])


def check(session: Session) -> Outcome:
    """A number on either side gives what a tensor of its dtype would, by the oracle."""
    outcome = Outcome("scalars", unit="results")
    function = tb.FUNCTIONS[session.item.op].call
    known = parameters(function)
    record = REFERENCES[session.op]
    deep = session.level != "smoke"
    dtype = session.dtype
    values: list[tuple[bool | int | float, DType]] = [(v, dtype) for v in numbers(dtype, deep)]
    takes = record.takes or record.kinds
    if (
        dtype.is_integer
        and "f" in takes
        and record.mixes == "promoted"
        and any(p.scalar for p in known)
    ):
        values += [(v, dt.float32) for v in _floats(deep)]
    # What comes again has to give its bits again; at level smoke the numbers that equal others.
    again = values[::-1] if deep else [v for v in values[::-1] if v[0] in (0, 1)]
    for p in known:
        if not p.forms >= _NUMBERS:
            continue
        seen: dict[str, bytes] = {}
        for value, common in (*values, *again):
            _one(session, outcome, known, p, value, common, seen)
    _only_numbers(session, outcome, known)
    return outcome


def _only_numbers(session: Session, outcome: Outcome, known: Sequence[Parameter]) -> None:
    """Numbers for all that take them, beside a condition: the default dtype of the greater kind."""
    takers = [p for p in known if p.scalar and p.required]
    conditions = [p for p in known if p.required and not p.scalar and "tensor" in p.forms]
    if len(takers) < 2 or not conditions:
        return
    pairs = [(True, False, dt.bool_), (3, 5, dt.int64), (2, -7, dt.int64), (1, 2.5, dt.float32),
             (-0.0, 1, dt.float32), (0.1, 0.7, dt.float32), (2.5, 4, dt.float32),
             (2**40 + 1, 0, dt.int64), (math.inf, -2, dt.float32)]  # fmt: skip
    flags = ends(dt.bool_)
    condition = place(session.device, flags)[0]
    declared = session.device.capabilities.dtypes
    for one, two, dtype in pairs:
        if dtype.name not in declared:
            continue
        with tb.reproducible(session.portable):
            got = host(tb.FUNCTIONS[session.item.op].call(condition, one, two))
        reference = REFERENCES[session.op].forward(
            flags, _rounded(one, dtype), _rounded(two, dtype)
        )
        assert not isinstance(reference, tuple)
        verdict = judge_of(session, dtype).check(got, reference)
        outcome.decided += max(verdict.decided, 1)
        if not verdict.ok and outcome.state == "pass":
            text = f"numbers only, {one!r} and {two!r}: {verdict.message}"
            outcome.state, outcome.message = "fail", text[:400]


def _one(
    session: Session,
    outcome: Outcome,
    known: Sequence[Parameter],
    at: Parameter,
    value: bool | int | float,
    common: DType,
    seen: dict[str, bytes],
) -> None:
    record = REFERENCES[session.op]
    own = ends(session.dtype)
    args: list[Any] = []
    flat: list[Any] = []
    options: dict[str, Any] = {}
    with np.errstate(all="ignore"):
        for p in known:
            if p is at:
                args.append(value)
                # A 0-dimensional array is rounded from the Python number once.
                flat.append(_rounded(value, common) if p.scalar else value)
            elif p.scalar and not p.required:
                args.append(None)
                flat.append(None)
            elif "tensor" in p.forms:
                condition = not p.scalar and any(q.scalar and q.required for q in known)
                x = ends(dt.bool_) if condition else own
                args.append(place(session.device, x)[0])
                flat.append(x if condition else x.astype(common.numpy))
            elif p.name == "shape":
                args.append((6,))
                flat.append((6,))
            elif p.name == "device" and not any(isinstance(a, tb.Tensor) for a in args):
                options["device"] = session.device
            elif p.name == "dtype":
                options["dtype"] = session.dtype
        plain = {"dtype": session.dtype.numpy} if "dtype" in options else {}
    while args and args[-1] is None:
        args.pop()
    with tb.reproducible(session.portable):
        result = tb.FUNCTIONS[session.item.op].call(*args, **options)
    session.runs += 1
    got = host(result)
    what = f"{at.name}={value!r} ({type(value).__name__})"
    text = f"{what} in {common.name}"
    if text in seen:
        outcome.decided += 1
        if bits_of(got) != seen[text] and outcome.state == "pass":
            outcome.state, outcome.message = "fail", f"{what}: other bits when it comes again"
        return
    seen[text] = bits_of(got)
    with np.errstate(all="ignore"):
        reference = record.forward(*flat, **plain)
    assert not isinstance(reference, tuple)
    verdict = judge_of(session, common).check(got, reference)
    outcome.decided += max(verdict.decided, 1)
    if not verdict.ok and outcome.state == "pass":
        outcome.state, outcome.message = "fail", f"{what}: {verdict.message}"[:400]
    if at.scalar and got.dtype.kind not in "biu":
        _zeros(session, outcome, what, args, value, common, got)


def _zeros(
    session: Session,
    outcome: Outcome,
    what: str,
    args: list[Any],
    value: bool | int | float,
    common: DType,
    got: Array,
) -> None:
    """Zeros have the sign that a 0-dimensional tensor gives them, which bounds do not tell."""
    other = place(session.device, _rounded(value, common))[0]
    with tb.reproducible(session.portable):
        result = tb.FUNCTIONS[session.item.op].call(*(other if a is value else a for a in args))
    want = host(result)
    both = (got == 0) & (want == 0)
    wrong = both & (np.signbit(got) != np.signbit(want))
    if wrong.any() and outcome.state == "pass":
        outcome.state, outcome.message = "fail", f"{what}: a zero has the wrong sign"


def _rounded(value: bool | int | float, dtype: DType) -> Array:
    return np.asarray(np.asarray(value).astype(dtype.numpy))
