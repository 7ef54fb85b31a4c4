"""The property ``order``: portable results have the bits that docs/order.md writes.

The expected bits are the oracle's, which shares neither code nor constants with kernels and
interpreter; so it is judged on ``ref`` too.  An op that is made of elementary functions gets them
from the device itself (they are judged elsewhere), and their sums are added again here.

The samples keep clear of subnormals, so a device that flushes them gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt

from ..oracle import REFERENCES, ordered
from ..oracle.order import WRITTEN
from .cases import Case
from .comparing import compare
from .items import Outcome
from .layouts import host, place
from .session import Session

__all__ = ["calls", "check"]

Array = NDArray[Any]


@lru_cache(maxsize=64)
def _known(
    op: str, dtype: str, deep: bool, seed: int
) -> tuple[list[ordered.Call], list[Array], list[str]]:
    """Calls, their bits, and the other orders that they do not tell; devices share them."""
    return ordered.sample(_entry(op), dt.by_name(dtype).numpy, seed, deep)


def _entry(op: str) -> ordered.Order:
    entry = REFERENCES[op].order
    assert entry is not None
    return entry


def _elementary(session: Session, names: tuple[str, ...]) -> dict[str, Callable[[Array], Array]]:
    """The device's own functions, portable, from and to arrays."""

    def of(name: str) -> Callable[[Array], Array]:
        def call(x: Array) -> Array:
            with tb.reproducible():
                return host(getattr(tb, name)(place(session.device, x)[0]))

        return call

    return {name: of(name) for name in names}


def _run(session: Session, call: ordered.Call) -> Array:
    """The result of a call, or the gradient that it asks for."""
    case = Case(call.args, call.options, call.label)
    if call.cotangent is None:
        return session.run(case)[0][0]
    tensors, _ = session.tensors(case)
    tensors[call.operand].requires_grad = True
    results = session.call(case, tensors)
    cotangent = place(session.device, call.cotangent)[0]
    with tb.reproducible():
        (gradient,) = tb.grad(results, [tensors[call.operand]], [cotangent])
    assert gradient is not None
    return host(gradient)


def calls(session: Session) -> list[Callable[[], object]]:
    """The calls that `check` makes, without their judging."""
    deep = session.level != "smoke"
    made, _, _ = _known(session.op, session.item.dtype, deep, session.seed)
    sums: list[Callable[[], object]] = [partial(_run, session, call) for call in made]
    wide = np.ones(3, session.dtype.compute.numpy)
    functions = _elementary(session, _entry(session.op).elementary)
    return sums + [partial(f, wide) for f in functions.values()]


def check(session: Session) -> Outcome:
    """Bits of every call against the written order."""
    outcome = Outcome("order", unit="bits")
    entry = _entry(session.op)
    made, expected, blind = _known(
        session.op, session.item.dtype, session.level != "smoke", session.seed
    )
    if blind:
        return Outcome("order", "vacuous", f"the sample does not see: {', '.join(blind)}")
    if entry.elementary:
        functions = _elementary(session, entry.elementary)
        expected = [entry.bits(c, WRITTEN, functions) for c in made]
    for call, want in zip(made, expected, strict=True):
        got = _run(session, call)
        compare(outcome, call.label, got, want, "docs/order.md gives")
    return outcome
