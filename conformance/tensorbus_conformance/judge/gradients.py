"""Derivatives: reverse, forward, duality, second order, all with random directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt

from ..oracle import REFERENCES
from .cases import Case, cases
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
    """Cases for gradients: the smoke sample suffices, values are judged elsewhere."""
    sets = cases(session.op, session.dtype, "smoke", session.seed)
    sets = [c for c in sets if "badly" not in c.label]
    return sets[:3] if session.level == "smoke" else sets


def _judge(session: Session, case: Case) -> Any:
    from .properties import portable_bound

    make = REFERENCES[session.op].gradient_judge
    assert make is not None
    options = {
        k: v.numpy if isinstance(v, dt.DType) else v
        for k, v in case.options.items()
        if not isinstance(v, np.ndarray)
    }
    ulps = portable_bound(session.op, session.dtype)
    return make(session.dtype.numpy, options, ulps, statistics=False)


def _pull(
    session: Session, case: Case, rng: np.random.Generator, create: bool = False
) -> tuple[list[Array], list[Any], Array, list[tb.Tensor]] | None:
    """Run forward and backward; None where the op has several or no floating results."""
    tensors, arrays = session.tensors(case)
    wanted = _floats(arrays)
    for k in wanted:
        tensors[k].requires_grad = True
    results = session.call(case, tensors)
    outs = [r for r in results if r.dtype.is_float]
    if len(outs) != 1 or len(results) != 1 or not outs[0].requires_grad:
        return None
    cotangent = _direction(rng, host(outs[0]))
    g, _ = place(session.device, cotangent)
    with tb.reproducible(session.portable):
        grads = tb.grad(
            outs[0],
            [tensors[k] for k in wanted],
            g,
            create_graph=create,
            allow_unused=True,
        )
    full: list[Any] = [None] * len(arrays)
    for k, value in zip(wanted, grads, strict=True):
        full[k] = value
    return arrays, full, cotangent, tensors


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
        arrays, grads, cotangent, _ = pulled
        flat, plain = oracle_arguments(case)
        references = vjp(flat, _options(session, flat, plain), cotangent)
        references = [r for r, a in zip(references, flat, strict=False) if _is_array(a)]
        judge = _judge(session, case)
        for k, (g, r) in enumerate(zip(grads, references, strict=False)):
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


def _options(session: Session, flat: list[Any], plain: dict[str, Any]) -> dict[str, Any]:
    return dict(plain)


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
            return session.call(case, full)[0]

        with tb.reproducible(session.portable):
            _, tangent = tb.jvp(run, [tensors[k] for k in wanted], placed)
        moved = host(tangent)
        flat, plain = oracle_arguments(case)
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
            _merge(outcome, _judge(session, case).check(moved, expected[0]), case, [])
        _duality(session, case, rng, outcome, dict(zip(wanted, directions, strict=True)), moved)
    return outcome


def _duality(
    session: Session,
    case: Case,
    rng: np.random.Generator,
    outcome: Outcome,
    directions: dict[int, Array],
    moved: Array,
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
    _, grads, cotangent, _ = pulled
    left = cotangent.astype(np.float64) * moved.astype(np.float64)
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
    u = 2.0**-session.dtype.precision
    difference = abs(float(left.sum()) - right)
    bound = 64 * np.sqrt(count) * u * weight
    outcome.decided += 1
    if not difference <= bound and outcome.state == "pass":
        outcome.state = "fail"
        outcome.message = (
            f"{case.label}: <u,Jv> and <J'u,v> differ by {difference:.3g} > {bound:.3g}"
        )


def second(session: Session) -> Outcome:
    """d/dx of <J'u, w> by tensorbus, against central differences of the oracle's J'u.

    The differences have step h = 2^-13 of the domain's width and error h^2 |f'''| / 6, about 1e-8
    relative: a smoke test of structure (rules, factors, signs); rounding is judged elsewhere.  The
    cell fails where an element is off by more than 1e-3 of the largest one.
    """
    missing = _unknown(session, "second")
    if missing:
        return missing
    outcome = Outcome("second", unit="relative")
    rng = np.random.default_rng([session.seed, 79])
    case = _small(_cases(session)[0])
    pulled = _pull(session, case, rng, create=True)
    if pulled is None:
        outcome.state, outcome.message = "fail", "the result does not require a gradient"
        return outcome
    arrays, grads, cotangent, tensors = pulled
    wanted = [k for k in _floats(arrays) if grads[k] is not None]
    weights = {k: _direction(rng, arrays[k]) for k in wanted}
    live = [k for k in wanted if grads[k].requires_grad]
    got: dict[int, Array] = {}
    if live:
        with tb.reproducible(session.portable):
            found = tb.grad(
                [grads[k] for k in live],
                [tensors[k] for k in wanted],
                [place(session.device, weights[k])[0] for k in live],
                allow_unused=True,
            )
        got = {k: host(g) for k, g in zip(wanted, found, strict=True) if g is not None}
    direction = {k: rng.standard_normal(arrays[k].shape) for k in wanted}
    slope, scale = _slope(session, case, arrays, cotangent, weights, direction)
    mine = sum(float((got[k].astype(np.float64) * direction[k]).sum()) for k in got)
    size = sum(float(np.abs(got[k].astype(np.float64) * direction[k]).sum()) for k in got)
    bound = 1e-3 * max(size, scale, abs(slope))
    outcome.worst_error, outcome.bound, outcome.decided = abs(mine - slope), bound, 1
    if not abs(mine - slope) <= bound:
        outcome.state = "fail"
        outcome.message = f"directional second derivative {mine:.9g}, expected {slope:.9g}"
    return outcome


def _small(case: Case) -> Case:
    """The same call on at most 64 elements where that is possible."""
    if all(isinstance(a, np.ndarray) and a.ndim == 1 for a in case.args):
        return Case(tuple(a[:64] for a in case.args), case.options, case.label)
    return case


def _slope(
    session: Session,
    case: Case,
    arrays: Sequence[Array],
    cotangent: Array,
    weights: dict[int, Array],
    direction: dict[int, Array],
) -> tuple[float, float]:
    """Central difference of <J'u, w> along `direction`, and the size of what was subtracted."""
    vjp = REFERENCES[session.op].vjp
    assert vjp is not None
    step = 2.0**-13

    def value(sign: float) -> float:
        moved = [
            a.astype(np.float64) + sign * step * direction[k] if k in direction else a
            for k, a in enumerate(arrays)
        ]
        flat, plain = oracle_arguments(case, moved)
        references = vjp(flat, plain, cotangent.astype(np.float64))
        references = [r for r, a in zip(references, flat, strict=False) if _is_array(a)]
        total = 0.0
        for k, w in weights.items():
            if references[k] is not None:
                total += float((references[k].value * w.astype(np.float64)).sum())
        return total

    up, down = value(1.0), value(-1.0)
    rounding = (abs(up) + abs(down)) * 2.0**-50 / step
    return (up - down) / (2 * step), rounding
