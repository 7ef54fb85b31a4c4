"""What the gradient properties share: calls, directions, cotangents, references and judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt

from ...oracle import REFERENCES
from ..cases import Case, gradient_cases as smooth_cases
from ..comparing import portable_bound
from ..items import Outcome
from ..layouts import host, place
from ..session import Session, array_slots, oracle_arguments, oracle_call

__all__ = [
    "Pulled", "called", "direction", "fail", "floats", "gradient_cases", "judge_of",
    "oracle_inputs", "per_array", "pull", "stays_floating", "undeclared",
]  # fmt: skip

Array = NDArray[Any]
SEVERAL = {"unstack", "meshgrid", "broadcast_arrays"}


def floats(arrays: Sequence[Array]) -> list[int]:
    """Which operands are floating."""
    return [k for k, a in enumerate(arrays) if a.dtype.kind not in "biu"]


def direction(rng: np.random.Generator, like: Array) -> Array:
    """Random signs and sizes in [0.5, 2): no element is near zero, and none is like another."""
    size = np.exp2(rng.uniform(-1, 1, like.shape))
    return np.asarray(size * rng.choice([-1.0, 1.0], like.shape)).astype(like.dtype)


CASES = {"smoke": 2, "standard": 12, "exhaustive": 20}
"""Calls whose first derivatives are judged; those whose arguments differ most come first."""


def gradient_cases(session: Session) -> list[Case]:
    """Cases for gradients: values are judged elsewhere."""
    sets = smooth_cases(session.op, session.dtype, session.level, session.seed)
    sets = [c for c in session.usable(sets) if stays_floating(c)]
    # What options and axes do to a rule is the same in every dtype; here they are all taken.
    least = session.level == "standard" and session.item.dtype != "float32"
    count = 5 if least else CASES[session.level]
    chosen = sets[:count]
    # However few they are: one has elements (a product of no copies has none), one broadcasts.
    for k, need in ((0, _has_elements), (-1, _broadcasts)):
        found = next((c for c in sets if need(session, c)), None)
        if found is not None and not any(need(session, c) for c in chosen):
            chosen[k] = found
    return chosen


def _broadcasts(session: Session, case: Case) -> bool:
    return len({a.shape for a in split_arrays(case)}) > 1


def _has_elements(session: Session, case: Case) -> bool:
    return any(np.size(r.value) for r in oracle_call(session.op, case))


def stays_floating(case: Case) -> bool:
    """Whether the case's own dtype arguments keep the result differentiable."""
    given = [a for a in (*case.args, *case.options.values()) if isinstance(a, dt.DType)]
    return all(d.is_float for d in given)


def undeclared(session: Session, name: str) -> Outcome | None:
    """An outcome at once where oracle and library do not agree that there is a gradient."""
    known = REFERENCES[session.op].differentiable
    claimed = tb.FUNCTIONS[session.item.op].differentiable
    if known and not claimed:
        return Outcome(name, "fail", "the op must be differentiable; the library says it is not")
    if claimed and not known:
        return Outcome(name, "not run", "the oracle has no derivative for this op")
    return None


def judge_of(session: Session, case: Case, dtype: Any = None) -> Any:
    """The judge of gradients."""
    make = REFERENCES[session.op].gradient_judge
    assert make is not None
    options = {
        k: v.numpy if isinstance(v, dt.DType) else v
        for k, v in case.options.items()
        if not isinstance(v, np.ndarray)
    }
    ulps = portable_bound(session.op, session.dtype)
    return make(
        dtype or session.dtype.numpy,
        options,
        ulps,
        statistics=False,
        subnormals=not session.flushes,
    )


@dataclass(frozen=True)
class Pulled:
    """What came back: gradients by operand (None where there is none), and for which cotangents."""

    arrays: list[Array]
    gradients: list[Any]
    cotangents: list[Array]
    tensors: list[tb.Tensor]
    placed: list[tb.Tensor]

    def cotangent(self, session: Session) -> Any:
        """As the oracle takes it: an array, or a list for an op of several results."""
        return self.cotangents if session.op in SEVERAL else self.cotangents[0]


def called(session: Session, case: Case, tensors: Sequence[tb.Tensor]) -> Callable[..., Any]:
    """The call as a function of its floating operands alone, results as a tuple."""
    wanted = floats(split_arrays(case))

    def run(*moving: tb.Tensor) -> tuple[tb.Tensor, ...]:
        full = list(tensors)
        for k, t in zip(wanted, moving, strict=True):
            full[k] = t
        return tuple(session.call(case, full))

    return run


def split_arrays(case: Case) -> list[Array]:
    """The arrays of a case in order."""

    return array_slots(case)


def pull(
    session: Session,
    case: Case,
    rng: np.random.Generator,
    create: bool = False,
    cotangents: Sequence[Array] | None = None,
) -> Pulled | None:
    """Run forward and backward; None where a result does not require a gradient.

    With `create` the cotangents require gradients too, so that the pullback is differentiated
    along them as well.
    """
    tensors, arrays = session.tensors(case)
    wanted = floats(arrays)
    for k in wanted:
        tensors[k].requires_grad = True
    results = session.call(case, tensors)
    if not all(r.requires_grad for r in results):
        return None
    given = cotangents or [direction(rng, host(r)) for r in results]
    placed = [place(session.device, c)[0] for c in given]
    if create:
        for p in placed:
            p.requires_grad = True
    with tb.reproducible(session.portable):
        grads = tb.grad(
            results, [tensors[k] for k in wanted], placed, create_graph=create, allow_unused=True
        )
    full: list[Any] = [None] * len(arrays)
    for k, value in zip(wanted, grads, strict=True):
        full[k] = value
    return Pulled(arrays, full, list(given), tensors, placed)


def oracle_inputs(session: Session, case: Case) -> tuple[list[Any], dict[str, Any]]:
    """Arguments and options of a case for the oracle's derivatives."""
    flat, plain = oracle_arguments(session.op, case)
    if session.op == "astype":
        return flat[:1], {"dtype": flat[1]}
    return flat, plain


def per_array(flat: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """Of one value for each argument those that belong to arrays."""
    return [v for v, a in zip(values, flat, strict=True) if isinstance(a, np.ndarray)]


def spread_over(flat: Sequence[Any], given: dict[int, Any]) -> list[Any]:
    """`given` by number of the array, as one value (or None) for each argument."""
    numbers = iter(range(len(flat)))
    return [given.get(next(numbers)) if isinstance(a, np.ndarray) else None for a in flat]


def fail(outcome: Outcome, message: str) -> None:
    """Note a failure, unless there is an earlier one."""
    if outcome.state == "pass":
        outcome.state, outcome.message = "fail", message
