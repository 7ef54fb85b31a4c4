"""Bad arguments: which exception each of them must raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt

from ..oracle import REFERENCES
from .cases import Case, cases, is_elementwise
from .items import Outcome
from .session import Session, split

__all__ = ["check"]

_AXIS = {
    "sum", "prod", "mean", "var", "std", "max", "min", "any", "all", "argmax", "argmin",
    "cumulative_sum", "cumulative_prod", "logsumexp", "softmax", "log_softmax", "sort", "argsort",
    "count_nonzero", "take", "flip", "concat", "stack", "expand_dims", "unstack", "layer_norm",
    "rms_norm",
}  # fmt: skip


def _bad_calls(session: Session, case: Case) -> list[tuple[str, type[Exception], Any]]:
    """(what is wrong, exception, call) for one op."""
    function = tb.FUNCTIONS[session.item.op].call
    reference = REFERENCES[session.op]
    tensors, _ = session.tensors(case)
    _, rebuild = split(case)
    args, options = rebuild(tensors)
    found: list[tuple[str, type[Exception], Any]] = []

    def add(what: str, error: type[Exception], *new: Any, **changed: Any) -> None:
        final = {**options, **changed}
        found.append((what, error, lambda: function(*new, **final)))

    first = args[0]
    if isinstance(first, tb.Tensor) and session.op not in ("asarray", "from_dlpack"):
        add("a list instead of a tensor", TypeError, [1.0, 2.0], *args[1:])
        for kind, dtype in (("b", dt.bool_), ("i", dt.int32), ("f", dt.float32)):
            if kind not in reference.kinds and session.op != "embedding":
                other = tb.zeros(first.shape, dtype=dtype, device=session.device)
                rest = [
                    tb.zeros(a.shape, dtype=dtype, device=session.device)
                    if isinstance(a, tb.Tensor) and a.dtype is session.dtype
                    else a
                    for a in args[1:]
                ]
                add(f"{dtype.name} operands", TypeError, other, *rest)
                break
    if "axis" in options and session.op in _AXIS:
        add("axis 99", IndexError, *args, axis=99)
        add("axis -99", IndexError, *args, axis=-99)
    if is_elementwise(session.op) and len(args) == 2:
        other = tb.zeros((7,), dtype=session.dtype, device=session.device)
        wrong = tb.zeros((5,), dtype=session.dtype, device=session.device)
        add("shapes (7,) and (5,)", ValueError, other, wrong)
    if session.op == "matmul":
        add("inner sizes that differ", ValueError, args[0], tb.zeros(
            (99, 3), dtype=session.dtype, device=session.device))  # fmt: skip
    if session.op == "take":
        far = tb.asarray(np.asarray([10**6]), device=session.device)
        add("an index out of range", IndexError, args[0], far)
    if session.op == "reshape":
        add("a shape of another size", ValueError, args[0], (7, 11, 13))
    return found


def check(session: Session) -> Outcome:
    """Every bad call raises its exception with a message, and nothing else."""
    outcome = Outcome("errors", unit="calls")
    sets = cases(session.op, session.dtype, "smoke", session.seed)
    for what, error, call in _bad_calls(session, sets[0]):
        outcome.decided += 1
        problem = _raised(call, error)
        if problem and outcome.state == "pass":
            outcome.state, outcome.message = "fail", f"{what}: {problem}"
    if outcome.decided == 0:
        outcome.decided, outcome.message = 1, ""
    return outcome


def _raised(call: Callable[[], Any], error: type[Exception]) -> str:
    try:
        call()
    except error as raised:
        return "" if str(raised).strip() else f"{error.__name__} without a message"
    except Exception as raised:
        return f"raised {type(raised).__name__} ({raised}), expected {error.__name__}"[:300]
    return f"nothing raised, expected {error.__name__}"
