"""Random ops: what the documented recipes give from the oracle's Philox, element by element.

Every recipe is spelled here from the ops' documents; the generator is the oracle's own.  All but
`normal` are exact.  A normal number is sqrt(-2 log u) cos(a), with radius r.  In float32 with unit
u: log errs by one ulp (2u relative), so r by 1u and by 0.5u of its own rounding, 1.5u after the
product with -2, which is exact; the angle, at most pi, by the rounding of 2 pi and of a product,
2u pi absolute, which cosine passes on; cosine by one ulp, 2u; product and fma by 1u each.  Together
below (1.5 + 2 pi + 2 + 2) u r < 12 u r.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends.flushing import flushing

from ..oracle.random import mean_and_variance_problem, philox4x32
from .items import Outcome
from .layouts import host, place
from .session import Session, reference_device

__all__ = ["COVERED", "PROPERTIES", "bits", "determinism", "provenance", "values"]

Array = NDArray[Any]
N = 4099
SEEDS = (0, 12345, 0xFEDCBA9876543210)
_U = 2.0**-24


def _words(seed: int, n: int = N) -> NDArray[np.uint32]:
    counter = np.zeros((n, 4), np.uint32)
    counter[:, 0] = np.arange(n)
    key = np.asarray([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
    return philox4x32(counter, np.broadcast_to(key, (n, 2)))


def _wide(words: NDArray[np.uint32]) -> NDArray[np.uint64]:
    low, high = words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)
    return np.asarray(high << np.uint64(32) | low)


def _uniform(seed: int) -> tuple[Array, Array | float]:
    return (_words(seed)[:, 0] >> 8).astype(np.float32) * np.float32(2.0**-24), 0.0


def _normal(seed: int) -> tuple[Array, Array | float]:
    words = _words(seed)
    u = (words[:, 0].astype(np.float64) + 1) * 2.0**-32
    angle = (words[:, 1].view(np.int32) >> 8).astype(np.float64) * 2.0**-24 * 2 * np.pi
    radius = np.sqrt(-2 * np.log(u))
    # u itself is rounded to float32, which moves log u by at most u beside its size.
    near = np.minimum(_U / np.maximum(-np.log(u), 1e-30), 1.0) * radius
    return radius * np.cos(angle), 12 * _U * radius + near


def _integers(seed: int) -> tuple[Array, Array | float]:
    wide = [int(w) for w in _wide(_words(seed))]
    return np.asarray([-50 + (w * 1000 >> 64) for w in wide], np.int64), 0.0


def _bernoulli(seed: int) -> tuple[Array, Array | float]:
    return _words(seed)[:, 0] < np.uint32(np.float32(0.3) * np.float32(2.0**32)), 0.0


def _permutation(seed: int) -> tuple[Array, Array | float]:
    return np.argsort(_wide(_words(seed, 1000)), kind="stable").astype(np.int64), 0.0


def _sample(shape: int = N) -> Array:
    return np.random.default_rng(5).uniform(1, 2, shape).astype(np.float32)


def _dropout(seed: int) -> tuple[Array, Array | float]:
    keep = np.float32(1) - np.float32(0.25)
    dropped = _words(seed)[:, 0] < np.uint32(np.float32(0.25) * np.float32(2.0**32))
    exact = _sample().astype(np.float64) / float(keep)
    return np.where(dropped, 0.0, exact), 2 * _U * exact


_CALLS: dict[str, Callable[[Any, int], Any]] = {
    "random.uniform": lambda d, s: tb.FUNCTIONS["random.uniform"].call(N, seed=s, device=d),
    "random.normal": lambda d, s: tb.FUNCTIONS["random.normal"].call(N, seed=s, device=d),
    "random.integers": lambda d, s: tb.FUNCTIONS["random.integers"].call(
        -50, 950, N, seed=s, device=d
    ),
    "random.bernoulli": lambda d, s: tb.FUNCTIONS["random.bernoulli"].call(
        0.3, N, seed=s, device=d
    ),
    "random.permutation": lambda d, s: tb.FUNCTIONS["random.permutation"].call(
        1000, seed=s, device=d
    ),
    "nn.dropout": lambda d, s: tb.FUNCTIONS["nn.dropout"].call(
        place(d, _sample())[0], 0.25, seed=s
    ),
}
_EXPECTED: dict[str, Callable[[int], tuple[Array, Array | float]]] = {
    "random.uniform": _uniform,
    "random.normal": _normal,
    "random.integers": _integers,
    "random.bernoulli": _bernoulli,
    "random.permutation": _permutation,
    "nn.dropout": _dropout,
}
_MOMENTS = {
    "random.uniform": (0.5, 1 / 12, 1 / 80),
    "random.normal": (0.0, 1.0, 3.0),
    "random.bernoulli": (0.3, 0.21, 0.3 * 0.7 * (1 - 3 * 0.21)),
}


def _draw(session: Session, seed: int, device: tb.Device | None = None) -> Array:
    with tb.reproducible(), tb.trace() as trace:
        result = _CALLS[session.item.op](device or session.device, seed)
    if device is None:
        session.runs += 1
        session.served |= trace.variants()
    return host(result)


def values(session: Session) -> Outcome:
    """Element by element what the recipe gives, and moments of the distribution."""
    outcome = Outcome("values")
    for seed in SEEDS:
        got = _draw(session, seed)
        want, tolerance = _EXPECTED[session.item.op](seed)
        outcome.decided += got.size
        if got.shape != want.shape:
            return Outcome("values", "fail", f"shape {got.shape}, expected {want.shape}")
        wrong = ~(np.abs(got.astype(np.float64) - want.astype(np.float64)) <= tolerance)
        if wrong.any():
            k = int(np.flatnonzero(wrong)[0])
            text = f"seed {seed}: {int(wrong.sum())} of {got.size} differ; at {k}: got {got[k]}"
            return Outcome("values", "fail", f"{text}, expected {want[k]}", witness=str(k))
        if session.item.op in _MOMENTS:
            problem = mean_and_variance_problem(got, *_MOMENTS[session.item.op])
            if problem:
                return Outcome("values", "fail", f"seed {seed}: {problem}")
    return outcome


def bits(session: Session) -> Outcome:
    """The same bits as the interpreter."""
    from .properties import _compare

    outcome = Outcome("bits", unit="bits")
    for seed in SEEDS[:2]:
        # No number that is drawn comes near the least normal one, so any notion of tiny will do.
        with flushing() if session.flushes else nullcontext():
            want = _draw(session, seed, reference_device())
        _compare(outcome, f"seed {seed}", _draw(session, seed), want, "ref has")
    return outcome


def determinism(session: Session) -> Outcome:
    """A seed gives the same numbers again, another seed others."""
    from .properties import _compare

    outcome = Outcome("determinism", unit="bits")
    first = _draw(session, 7)
    session.guard.poison = 0x5A
    _compare(outcome, "seed 7", _draw(session, 7), first, "the first run gave")
    session.guard.poison = 0xFF
    if np.array_equal(first, _draw(session, 8)) and outcome.state == "pass":
        outcome.state, outcome.message = "fail", "seeds 7 and 8 give the same numbers"
    return outcome


def users(session: Session) -> Outcome:
    """As users have it: no fences, no trace, pool blocks that held other numbers; all kept."""
    from .properties import _compare
    from .surfaces.checks import users_device
    from .users import flood

    outcome, device = Outcome("users", unit="bits"), users_device(session)
    kept = []
    with tb.reproducible():
        for seed in (3, 11, 3):
            device.backend.copy_in(
                device.backend.allocate(8 * N), 0, memoryview(np.full(8 * N, 0xFF, np.uint8).data)
            )
            kept.append((seed, _CALLS[session.item.op](device, seed)))
            _CALLS[session.item.op](device, seed + 1)  # dropped at once
    held = flood(device, [drawn for _, drawn in kept])
    for seed, drawn in kept:
        _compare(outcome, f"seed {seed}", host(drawn), _draw(session, seed), "with fences gave")
    del held
    return outcome


def provenance(session: Session) -> Outcome:
    """The numbers were made on the device itself."""
    before = session.guard.launches
    _draw(session, 1)
    if "fallback" in session.served or session.guard.launches == before:
        return Outcome("provenance", "fallback", "served by another device", decided=1)
    return Outcome("provenance", decided=1)


COVERED = frozenset(_CALLS)
"""Ops that are judged here."""

PROPERTIES = {
    "values": values,
    "bits": bits,
    "determinism": determinism,
    "users": users,
    "provenance": provenance,
}
