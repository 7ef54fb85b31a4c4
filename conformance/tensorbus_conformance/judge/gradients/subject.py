"""One call with its plain gradients, which every way to ask for a derivative has to give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray

from ..cases import Case
from ..comparing import same_bits
from ..items import Outcome
from ..layouts import host, place
from ..session import Session, flushed
from .common import called, direction, fail, floats

__all__ = ["WAYS", "Subject", "way"]

Array = NDArray[Any]


@dataclass
class Subject:
    """One call with its plain gradients.

    Attributes:
        session: The item.
        case: The call.
        outcome: Where differences go.
        rng: Of this way.
    """

    session: Session
    case: Case
    outcome: Outcome
    rng: np.random.Generator
    arrays: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        self.arrays = self.session.tensors(self.case)[1]

    @cached_property
    def moving(self) -> list[int]:
        """The floating operands."""
        return floats(self.arrays)

    @cached_property
    def cotangents(self) -> list[Array]:
        """One for each result."""
        return [direction(self.rng, host(r)) for r in self.call(self.leaves(()))]

    @cached_property
    def plain(self) -> list[Any]:
        """Gradients of the floating operands by ``tb.grad``, None where there is none."""
        return self.grads(self.leaves(self.moving))

    def leaves(self, wanted: Any) -> list[tb.Tensor]:
        """Fresh operands; those wanted require a gradient."""
        tensors = self.session.tensors(self.case)[0]
        for k in wanted:
            tensors[k].requires_grad = True
        return tensors

    def call(self, tensors: list[tb.Tensor]) -> list[tb.Tensor]:
        """The op's results."""
        return self.session.call(self.case, tensors)

    def function(self, tensors: list[tb.Tensor] | None = None) -> Callable[..., Any]:
        """The call as a function of its floating operands."""
        return called(self.session, self.case, tensors or self.leaves(()))

    def put(self, array: Array, layout: str = "contiguous") -> tb.Tensor:
        """A tensor of an array."""
        return place(self.session.device, array, layout)[0]

    def placed(self) -> list[tb.Tensor]:
        """The cotangents as tensors."""
        return [self.put(c) for c in self.cotangents]

    def grads(
        self,
        tensors: list[tb.Tensor],
        results: list[tb.Tensor] | None = None,
        cotangents: list[tb.Tensor] | None = None,
        **options: Any,
    ) -> list[Any]:
        """Gradients of the floating operands as arrays."""
        outs = self.call(tensors) if results is None else results
        found = tb.grad(
            outs,
            [tensors[k] for k in self.moving],
            self.placed() if cotangents is None else cotangents,
            allow_unused=True,
            **options,
        )
        return [None if g is None else host(g) for g in found]

    def same(self, what: str, found: Any, expected: Any, *, numbers: bool = False) -> None:
        """Note where `found` differs from `expected`, by bits or as numbers."""
        for k, (f, e) in enumerate(zip(found, expected, strict=True)):
            self.outcome.decided += 1
            if f is None or e is None:
                if (f is None) != (e is None):
                    kind = "is none" if f is None else "is one that was not asked for"
                    fail(self.outcome, f"{what}: of {k} there {kind}")
                continue
            if f.shape != e.shape or f.dtype != e.dtype:
                fail(self.outcome, f"{what}: {k} is {f.dtype}{f.shape}, not {e.dtype}{e.shape}")
                continue
            equal = self._equal(f, e, numbers)
            if not equal.all():
                flat = int(np.flatnonzero(~equal.reshape(-1))[0])
                a, b = f.reshape(-1)[flat], e.reshape(-1)[flat]
                fail(self.outcome, f"{what}: {k} has {a!r} at {flat}, the plain call {b!r}")

    def _equal(self, f: Array, e: Array, numbers: bool) -> Array:
        if numbers:
            wide, other = f.astype(np.float64), e.astype(np.float64)
            return np.asarray((wide == other) | (np.isnan(wide) & np.isnan(other)))
        if self.session.flushes:
            f, e = flushed(f), flushed(e)
        return same_bits(f, e)

    def raises(self, what: str, error: type[Exception], call: Callable[[], Any]) -> None:
        """`call` must raise `error`."""
        self.outcome.decided += 1
        try:
            call()
        except error:
            return
        except Exception as raised:
            fail(self.outcome, f"{what}: {type(raised).__name__}, not {error.__name__}: {raised}")
            return
        fail(self.outcome, f"{what}: nothing was raised, {error.__name__} is due")

    def holds(self, what: str, truth: bool) -> None:
        """Note that a condition does not hold."""
        self.outcome.decided += 1
        if not truth:
            fail(self.outcome, what)


Way = Callable[[Subject], None]
WAYS: dict[str, Way] = {}
"""Every way by name."""


def way(function: Way) -> Way:
    """Register a way."""
    WAYS[function.__name__.strip("_")] = function
    return function
