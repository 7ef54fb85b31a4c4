"""Ways into forward mode, and levels within levels."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import tensorbus as tb

from ..layouts import LAYOUTS, host, place
from .common import direction
from .subject import Subject, way

__all__: list[str] = []


def _tangents(s: Subject) -> list[Any]:
    return [direction(s.rng, s.arrays[k]) for k in s.moving]


def _pushed(s: Subject, along: list[tb.Tensor]) -> list[Any]:
    tensors = s.leaves(())
    _, found = tb.jvp(s.function(tensors), [tensors[k] for k in s.moving], along)
    return [host(f) for f in found]


@way
def _tangent_layouts(s: Subject) -> None:
    """Tangents in every memory layout."""
    given = _tangents(s)
    for layout in LAYOUTS[1:]:
        placed = [place(s.session.device, t, layout) for t in given]
        found = _pushed(s, [p[0] for p in placed])
        plain = _pushed(s, [s.put(np.array(p[1])) for p in placed])
        s.same(f"{layout} tangents", found, plain)


@way
def _tangent_subsets(s: Subject) -> None:
    """A tangent of zeros is no tangent, for each subset of operands; the value stays."""
    given = _tangents(s)
    values = [host(r) for r in s.call(s.leaves(()))]
    for count in range(1, len(s.moving) + 1):
        for chosen in combinations(range(len(s.moving)), count):
            tensors = s.leaves(())

            def run(
                *moving: tb.Tensor, tensors: Any = tensors, chosen: Any = chosen
            ) -> tuple[tb.Tensor, ...]:
                full = list(tensors)
                for j, t in zip(chosen, moving, strict=True):
                    full[s.moving[j]] = t
                return tuple(s.call(full))

            value, found = tb.jvp(
                run, [tensors[s.moving[j]] for j in chosen], [s.put(given[j]) for j in chosen]
            )
            s.same(f"value with tangents of {chosen}", [host(v) for v in value], values)
            zero = [s.put(t if j in chosen else np.zeros_like(t)) for j, t in enumerate(given)]
            s.same(
                f"tangents of {chosen}", [host(f) for f in found], _pushed(s, zero), numbers=True
            )


@way
def _levels(s: Subject) -> None:
    """d/dz of J(x) v z, and of J of f(x) z, is J v: the inner derivative knows its own level."""
    given = [s.put(t) for t in _tangents(s)]
    tensors = s.leaves(())
    primals = [tensors[k] for k in s.moving]
    run = s.function(tensors)
    plain = tb.jvp(run, primals, given)[1]
    for j, tangent in enumerate(plain):
        z, step = s.put(np.ones_like(host(tangent))), s.put(direction(s.rng, host(tangent)))
        expected = [host(tb.multiply(tangent, step))]

        def outside(at: tb.Tensor, j: int = j) -> Any:
            return tb.multiply(tb.jvp(run, primals, given)[1][j], at)

        def inside(at: tb.Tensor, j: int = j) -> Any:
            return tb.jvp(lambda *xs: tb.multiply(run(*xs)[j], at), primals, given)[1]

        for what, function in (("outside", outside), ("inside", inside)):
            found = [host(tb.jvp(function, [z], [step])[1])]
            s.same(f"a factor {what} the inner derivative", found, expected, numbers=True)
            if j:
                break


@way
def _mixed(s: Subject) -> None:
    """vjp inside jvp and jvp inside vjp: the inner value is what it is alone."""
    given = _tangents(s)
    tensors = s.leaves(())
    primals = [tensors[k] for k in s.moving]
    run = s.function(tensors)
    u = s.placed()

    def pulled(*xs: tb.Tensor) -> Any:
        return tb.vjp(run, *xs)[1](*u)

    value, moved = tb.jvp(pulled, primals, [s.put(t) for t in given])
    expected = [
        np.zeros_like(s.arrays[k]) if g is None else g
        for k, g in zip(s.moving, s.plain, strict=True)
    ]
    s.same("vjp inside jvp", [host(v) for v in value], expected)
    s.holds(
        "jvp of vjp has other shapes than its operands",
        [m.shape for m in moved] == [p.shape for p in primals],
    )
    pushed = [host(t) for t in tb.jvp(run, primals, [s.put(t) for t in given])[1]]

    def pushing(*xs: tb.Tensor) -> Any:
        return tb.jvp(run, xs, [s.put(t) for t in given])[1]

    value, _ = tb.vjp(pushing, *primals)
    s.same("jvp inside vjp", [host(v) for v in value], pushed)
