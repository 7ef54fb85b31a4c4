"""Derivatives: reverse, forward, duality, second order, all with random directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt

from ..oracle import REFERENCES
from .cases import Case, array_slots, gradient_cases
from .items import Outcome
from .layouts import host, place
from .session import Session, oracle_arguments

__all__ = ["forward", "reverse", "second"]

Array = NDArray[Any]


def _floats(arrays: Sequence[Array]) -> list[int]:
    return [k for k, a in enumerate(arrays) if a.dtype.kind not in "biu"]


def _direction(rng: np.random.Generator, like: Array) -> Array:
    """Random signs and sizes in [0.5, 2): no element is near zero, and none is like another."""
    size = np.exp2(rng.uniform(-1, 1, like.shape))
    return np.asarray(size * rng.choice([-1.0, 1.0], like.shape)).astype(like.dtype)


def _cases(session: Session) -> list[Case]:
    """Cases for gradients: values are judged elsewhere."""
    sets = gradient_cases(session.op, session.dtype, session.level, session.seed)
    sets = [c for c in session.usable(sets) if _stays_floating(c)]
    return sets[:2] if session.level == "smoke" else sets[:8]


def _stays_floating(case: Case) -> bool:
    """Whether the case's own dtype arguments keep the result differentiable."""
    given = [a for a in (*case.args, *case.options.values()) if isinstance(a, dt.DType)]
    return all(d.is_float for d in given)


def _judge(session: Session, case: Case, dtype: Any = None) -> Any:
    from .properties import portable_bound

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
class _Pulled:
    """What came back: gradients by operand (None where there is none), and for which cotangents."""

    arrays: list[Array]
    gradients: list[Any]
    cotangents: list[Array]
    tensors: list[tb.Tensor]

    @property
    def cotangent(self) -> Any:
        """As the oracle takes it: an array, or a list for several results."""
        return self.cotangents[0] if len(self.cotangents) == 1 else self.cotangents


_SEVERAL = {"unstack", "meshgrid", "broadcast_arrays"}


def _pull(
    session: Session, case: Case, rng: np.random.Generator, create: bool = False
) -> _Pulled | None:
    """Run forward and backward; None where a result does not require a gradient."""
    tensors, arrays = session.tensors(case)
    wanted = _floats(arrays)
    for k in wanted:
        tensors[k].requires_grad = True
    results = session.call(case, tensors)
    if not all(r.requires_grad for r in results):
        return None
    cotangents = [_direction(rng, host(r)) for r in results]
    with tb.reproducible(session.portable):
        grads = tb.grad(
            results,
            [tensors[k] for k in wanted],
            [place(session.device, c)[0] for c in cotangents],
            create_graph=create,
            allow_unused=True,
        )
    full: list[Any] = [None] * len(arrays)
    for k, value in zip(wanted, grads, strict=True):
        full[k] = value
    return _Pulled(arrays, full, cotangents, tensors)


def _oracle_cotangent(session: Session, pulled: _Pulled) -> Any:
    return pulled.cotangents if session.op in _SEVERAL else pulled.cotangent


def _unknown(session: Session, name: str) -> Outcome | None:
    if REFERENCES[session.op].vjp is None:
        return Outcome(name, "not run", "the oracle has no derivative for this op")
    return None


def reverse(session: Session) -> Outcome:
    """Gradients of every floating operand against the oracle's, judged by their own class."""
    from .properties import _merge

    missing = _unknown(session, "gradient")
    if missing:
        return missing
    outcome = Outcome("gradient")
    rng = np.random.default_rng([session.seed, 77])
    vjp = REFERENCES[session.op].vjp
    assert vjp is not None
    for case in _cases(session):
        pulled = _pull(session, case, rng)
        if pulled is None:
            outcome.state = "fail"
            outcome.message = f"{case.label}: the result does not require a gradient"
            return outcome
        arrays, grads = pulled.arrays, pulled.gradients
        flat, plain = _oracle(session, case)
        references = vjp(flat, plain, _oracle_cotangent(session, pulled))
        references = [r for r, a in zip(references, flat, strict=True) if _is_array(a)]
        judge = _judge(session, case)
        for k, (g, r) in enumerate(zip(grads, references, strict=True)):
            if r is None or g is None:
                if (r is None) != (g is None) and _floats([arrays[k]]) and _nonzero(r):
                    outcome.state = "fail"
                    outcome.message = f"{case.label}: operand {k} has no gradient"
                continue
            _merge(outcome, judge.check(host(g), r), case, [])
    return outcome


def _nonzero(reference: Any) -> bool:
    return reference is not None and bool(np.any(reference.value))


def _is_array(a: Any) -> bool:
    return isinstance(a, np.ndarray)


def _oracle(session: Session, case: Case) -> tuple[list[Any], dict[str, Any]]:
    """Arguments and options of a case for the oracle's derivatives."""
    flat, plain = oracle_arguments(session.op, case)
    if session.op == "astype":
        return flat[:1], {"dtype": flat[1]}
    return flat, plain


def forward(session: Session) -> Outcome:
    """Tangents against the oracle's; then <u, J v> = <J' u, v> in float64 sums."""
    from .properties import _merge

    missing = _unknown(session, "forward")
    if missing:
        return missing
    outcome = Outcome("forward")
    rng = np.random.default_rng([session.seed, 78])
    reference = REFERENCES[session.op]
    for case in _cases(session)[:2]:
        tensors, arrays = session.tensors(case)
        wanted = _floats(arrays)
        directions = [_direction(rng, arrays[k]) for k in wanted]
        placed = [place(session.device, d)[0] for d in directions]

        def run(*moving: tb.Tensor, tensors: Any = tensors, wanted: Any = wanted,
                case: Case = case) -> Any:  # fmt: skip
            full = list(tensors)
            for k, t in zip(wanted, moving, strict=True):
                full[k] = t
            return tuple(session.call(case, full))

        with tb.reproducible(session.portable):
            _, found = tb.jvp(run, [tensors[k] for k in wanted], placed)
        moved = [host(t) for t in found]
        flat, plain = _oracle(session, case)
        if reference.jvp is not None:
            inputs: list[Any] = []
            given = dict(zip(wanted, directions, strict=True))
            slot = 0
            for a in flat:
                if _is_array(a):
                    inputs.append(given.get(slot))
                    slot += 1
                else:
                    inputs.append(None)
            expected = reference.jvp(flat, plain, inputs)
            expected = expected if isinstance(expected, tuple) else (expected,)
            for m, e in zip(moved, expected, strict=True):
                _merge(outcome, _judge(session, case, m.dtype).check(m, e), case, [])
        _duality(session, case, rng, outcome, dict(zip(wanted, directions, strict=True)), moved)
    return outcome


def _duality(
    session: Session,
    case: Case,
    rng: np.random.Generator,
    outcome: Outcome,
    directions: dict[int, Array],
    moved: list[Array],
) -> None:
    """<u, J v> = <J' u, v>.

    Both sides are sums of products of rounded numbers.  Each rounded factor is off by at most a
    few u of itself plus what cancelled before; with K the number of terms, |left - right| <=
    64 sqrt(K) u (sum |u||Jv| + sum |J'u||v|) holds for honest rules with room to spare, while a
    wrong factor, sign or index changes it by a constant fraction.  Nothing tighter is claimed:
    the elements themselves are judged above.
    """
    pulled = _pull(session, case, rng)
    if pulled is None:
        return
    grads = pulled.gradients
    pairs = zip(pulled.cotangents, moved, strict=True)
    left = np.concatenate(
        [(c.astype(np.float64) * m.astype(np.float64)).reshape(-1) for c, m in pairs]
    )
    right = 0.0
    weight = float(np.abs(left).sum())
    count = left.size
    for k, direction in directions.items():
        if grads[k] is None:
            continue
        term = host(grads[k]).astype(np.float64) * direction.astype(np.float64)
        right += float(term.sum())
        weight += float(np.abs(term).sum())
        count += term.size
    if np.isinf(weight):
        # A slope beyond the dtype's range: the elements have been judged, their sum has no value.
        return
    formats = [session.dtype, *(dt.from_numpy(c.dtype) for c in pulled.cotangents)]
    u = 2.0 ** -min(f.precision for f in formats)
    difference = abs(float(left.sum()) - right)
    bound = 64 * np.sqrt(count) * u * weight
    outcome.decided += 1
    if not difference <= bound and outcome.state == "pass":
        outcome.state = "fail"
        outcome.message = (
            f"{case.label}: <u,Jv> and <J'u,v> differ by {difference:.3g} > {bound:.3g}"
        )


def second(session: Session) -> Outcome:
    """d/dx of <J'u, w> in a random direction d, against <w, d(J'u)[d]> of the oracle.

    One number is compared, to within 2^-10 of the sum of the absolute terms on both sides: it tells
    whether rules, factors and signs of the second derivative are right, for which float32 has 13
    bits to spare.  Rounding is judged where it arises, in the ops that gradients are made of.
    """
    missing = _unknown(session, "second")
    exact = REFERENCES[session.op].second_order
    if missing or exact is None:
        return missing or Outcome("second", "not run", "the oracle has no second derivative")
    outcome = Outcome("second", unit="sum of terms")
    rng = np.random.default_rng([session.seed, 79])
    sets = _cases(session)
    case = min(sets, key=lambda c: sum(a.size for a in array_slots(c)))
    pulled = _pull(session, case, rng, create=True)
    if pulled is None:
        outcome.state, outcome.message = "fail", "the result does not require a gradient"
        return outcome
    arrays, grads, tensors = pulled.arrays, pulled.gradients, pulled.tensors
    wanted = [k for k in _floats(arrays) if grads[k] is not None]
    weights = {k: _direction(rng, arrays[k]) for k in wanted}
    directions = {k: _direction(rng, arrays[k]) for k in wanted}
    mine, size = _hessian(session, grads, tensors, wanted, weights, directions)
    flat, plain = _oracle(session, case)
    slots = iter(range(len(arrays)))
    moving = [directions.get(next(slots)) if _is_array(a) else None for a in flat]
    references = exact(flat, plain, _oracle_cotangent(session, pulled), moving)
    references = [r for r, a in zip(references, flat, strict=True) if _is_array(a)]
    theirs = 0.0
    for k, w in weights.items():
        reference = references[k]
        if reference is not None:
            terms = reference.value.astype(np.float64) * w.astype(np.float64)
            theirs += float(terms.sum())
            size += float(np.abs(terms).sum())
    bound = 2.0**-10 * size
    outcome.worst_error, outcome.bound, outcome.decided = abs(mine - theirs), bound, 1
    if not abs(mine - theirs) <= bound:
        outcome.state = "fail"
        outcome.message = f"directional second derivative {mine:.9g}, expected {theirs:.9g}"
    return outcome


def _hessian(
    session: Session,
    grads: Sequence[Any],
    tensors: Sequence[tb.Tensor],
    wanted: Sequence[int],
    weights: dict[int, Array],
    directions: dict[int, Array],
) -> tuple[float, float]:
    """<d, grad of <J'u, w>> by tensorbus, and the sum of its absolute terms."""
    live = [k for k in wanted if grads[k].requires_grad]
    if not live:
        return 0.0, 0.0
    with tb.reproducible(session.portable):
        found = tb.grad(
            [grads[k] for k in live],
            [tensors[k] for k in wanted],
            [place(session.device, weights[k])[0] for k in live],
            allow_unused=True,
        )
    total = size = 0.0
    for k, g in zip(wanted, found, strict=True):
        if g is not None:
            terms = host(g).astype(np.float64) * directions[k].astype(np.float64)
            total += float(terms.sum())
            size += float(np.abs(terms).sum())
    return total, size
