"""Every way to ask for a derivative gives the same bits.

The values are judged by `modes`; here one small call of each op is differentiated along every way
in, and compared with the plainest one, ``tb.grad`` with contiguous cotangents.  Equal inputs of
equal kernels in the canonical order have equal results, so the comparison is of bits.
"""

from __future__ import annotations

import zlib

import numpy as np
import tensorbus as tb

from ..cases import movable
from ..items import Outcome
from ..session import Session
from . import nested, reverse_ways
from .common import floats, gradient_cases, undeclared
from .second import small
from .subject import WAYS, Subject

__all__ = ["autograd"]

PER_ITEM = 1
"""Ways that an op takes at level smoke; the seed and its name say which."""

_REGISTERED = (nested, reverse_ways)
"""What holds the ways: importing them registers these."""


def autograd(session: Session) -> Outcome:
    """One small call of the op, differentiated along every way in; see `subject.WAYS`."""
    missing = undeclared(session, "autograd")
    if missing:
        return missing
    outcome = Outcome("autograd", unit="bits")
    # Some ways take other layouts of the operands.
    sets = movable(session.op, gradient_cases(session))
    names = sorted(WAYS)
    if session.level == "smoke":
        first = zlib.crc32(session.item.op.encode()) + session.seed * PER_ITEM
        names = [names[(first + k) % len(names)] for k in range(PER_ITEM)]
        sets = sets[:1]
    elif session.level == "standard" and session.item.dtype != "float32":
        # The engine asks for no dtype; the rules' values are judged in each.
        names = names[zlib.crc32(session.item.name.encode()) % 3 :: 3]
    # Several operands where there is a call with several.
    chosen = {len(floats(session.tensors(c)[1])): c for c in reversed(sets)}
    for case in chosen.values():
        for name in names:
            rng = np.random.default_rng([session.seed, zlib.crc32(name.encode())])
            before = outcome.state
            with tb.reproducible(session.portable):
                WAYS[name](Subject(session, small(session.op, case), outcome, rng))
            if outcome.state != before:
                outcome.message = f"{name}: {outcome.message}"
                return outcome
    return outcome
