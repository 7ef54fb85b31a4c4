"""Arb balls: rigorous values of elementary functions, as decisions and as pairs of float64.

A ball is a midpoint with a radius that provably holds the exact value.  `accurate` repeats an
evaluation with more bits until the ball is narrow, so a decision made with it is a proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from flint import arb, ctx
from numpy.typing import NDArray

__all__ = ["Ball", "accurate", "balls", "pair", "precision", "within"]

Ball = Any
"""A flint.arb (the package carries no types)."""

F64 = NDArray[np.float64]


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Arb calculates with `bits` bits inside."""
    before = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = before


def accurate(function: Callable[..., Ball], *args: float, bits: int = 120) -> Ball:
    """`function` of exact floats as a ball of relative accuracy 2^-`bits`.

    Gives the last (wide) ball where 16,384 bits of work do not suffice, as at a root that is
    no float; a wide ball decides nothing, so callers stay safe.
    """
    work = bits + 16
    while True:
        with precision(work):
            result = function(*(arb(x) for x in args))
            if result.is_exact() or not result.is_finite():
                return result
            if result.rel_accuracy_bits() >= bits or work > 16384:
                return result
        work *= 2


def pair(values: Sequence[Ball]) -> tuple[F64, F64]:
    """Midpoints of balls as hi + lo, |lo| <= ulp64(hi)/2 (lo loses bits where |hi| < 2^-900)."""
    with precision(180):
        high = [float(v.mid()) for v in values]
        low = [
            float(v.mid() - arb(h)) if np.isfinite(h) else 0.0
            for v, h in zip(values, high, strict=True)
        ]
    hi, lo = np.array(high, np.float64), np.array(low, np.float64)
    total = hi + lo
    with np.errstate(invalid="ignore"):
        return total, np.where(np.isfinite(total), lo - (total - hi), 0.0)


def balls(values: Any) -> NDArray[Any]:
    """An object array of exact balls, for formulas written once for float64 and for Arb."""
    array = np.asarray(values, np.float64)
    out = np.empty(array.shape, object)
    out.reshape(-1)[:] = [arb(float(x)) for x in array.reshape(-1)]
    return out


def within(got: float, exact: Ball, tolerance: Ball | float) -> bool:
    """Whether |got - exact| <= tolerance, decided rigorously; doubt is decided for `got`.

    Doubt remains only where the ball of the exact value touches the bound itself.
    """
    with precision(400):
        return not bool(abs(arb(got) - exact) > arb(tolerance))
