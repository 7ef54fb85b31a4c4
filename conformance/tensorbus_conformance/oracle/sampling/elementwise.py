"""Samples of elementwise ops: ranks, sizes, layouts, broadcasting, every binade, special values."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from . import arrays
from .cover import pairs
from .sampler import Case, Sampler, Samples, Shape

__all__ = ["broadcast", "degenerate", "elementwise", "special", "unary_options"]

RANKS = tuple(range(10))
FORMS = ("same", "same", "scalar", "trailing", "column", "mixed", "ones")
"""How a further operand's shape relates to the first one's."""


def broadcast(sampler: Sampler, shape: Shape, form: str) -> Shape:
    """A shape that broadcasts against `shape`."""
    rank = len(shape)
    if form == "scalar" or not rank:
        return ()
    if form == "trailing":
        return shape[int(sampler.rng.integers(0, rank)) :]
    if form == "column":
        return (*shape[:-1], 1)
    if form == "ones":
        return (1,) * rank
    if form == "mixed":
        return tuple(1 if sampler.rng.random() < 0.5 else n for n in shape)
    return shape


def _shapes(sampler: Sampler) -> list[Shape]:
    """Sizes in one or two dimensions, then ranks; at smoke three of the first, three of these."""
    sizes = sampler.sizes()
    if sampler.deep:
        sized = [sampler.shape(1 + (k % 3 == 2), n) for k, n in enumerate(sizes)]
        ranked = [sampler.shape(r, int(sampler.pick((2, 5, 17)))) for r in (*RANKS, *RANKS[2:])]
        return sized + ranked
    high = int(sampler.rng.integers(5, 10))
    return [
        (sizes[0],),
        (sizes[3],),
        sampler.shape(2, sizes[1]),
        sampler.shape(3, sizes[0]),
        sampler.shape(high, 2),
    ]


def _data(sampler: Sampler) -> list[str]:
    if sampler.dtype == np.bool_:
        return ["ordinary"]
    return ["ordinary", "ordinary", "wide"]


def elementwise(count: int, option_sets: Any = None) -> Samples:
    """Samples of an op of `count` operands that are broadcast against each other.

    Args:
        count: Number of operands.
        option_sets: ``sets(sampler)`` gives the keyword options of successive cases.
    """

    def make(sampler: Sampler) -> list[Case]:
        shapes = _shapes(sampler)
        free: dict[str, Any] = {"shape": shapes, "data": _data(sampler)}
        free |= {f"layout{k}": sampler.layouts() for k in range(count)}
        free |= {f"form{k}": FORMS for k in range(1, count)}
        found = []
        options = option_sets(sampler) if option_sets is not None else [{}]
        rows = sampler.rows({}, free, smoke=len(shapes), standard=max(len(shapes), len(options)))
        for k, (row, shape) in enumerate(zip(rows, _cycle(shapes, len(rows)), strict=True)):
            # Any operand may be the large one, not just the first.
            large = int(sampler.rng.integers(count))
            operands = []
            for j in range(count):
                form = "same" if j == large else str(row.get(f"form{j}", row.get("form1", "same")))
                mine = broadcast(sampler, shape, form)
                layout = row[f"layout{j}"]
                operands.append(sampler.array(mine, j, data=row["data"], layout=layout))
            layouts = ", ".join(row[f"layout{j}"] for j in range(count))
            label = f"{row['data']} {'x'.join(map(str, shape)) or 'scalar'}, {layouts}"
            shared = any(row[f"layout{j}"] in arrays.SHARING for j in range(count))
            plain = row["data"] == "ordinary" and not shared
            chosen = options[k % len(options)]
            found.append(Case(tuple(operands), dict(chosen), label, plain, plain))
        if sampler.floating:
            found += [
                Case(
                    case.args,
                    {**case.options, **options[k % len(options)]},
                    case.label,
                    False,
                    False,
                )
                for k, case in enumerate(_strata(sampler, count))
            ]
        return found

    return make


def _cycle(values: list[Any], count: int) -> list[Any]:
    return [values[k % len(values)] for k in range(count)]


def _strata(sampler: Sampler, count: int) -> list[Case]:
    """Every binade of one operand; two operands near each other, where sums cancel."""
    if count == 1:
        return [Case((arrays.binades(sampler.rng, sampler.dtype, sampler.deep),), {}, "binades")]
    if count == 2 and sampler.deep:
        a = arrays.wide(sampler.rng, (2048,), sampler.dtype)
        with np.errstate(all="ignore"):
            factor = sampler.rng.uniform(-2, 2, 2048)
            near = (a.astype(np.float64) * factor).astype(sampler.dtype)
        return [Case((a, near), {}, "neighbouring binades"), Case((near, a), {}, "and exchanged")]
    return []


def special(count: int, option_sets: Any = None) -> Samples:
    """Special values of `count` operands, every combination of those of two."""

    def make(sampler: Sampler) -> list[Case]:
        values = sampler.specials()
        options = option_sets(sampler)[0] if option_sets is not None else {}
        if count == 1:
            sets = option_sets(sampler) if option_sets is not None else [{}]
            # What an option is alone; pairs of options meet ordinary values.
            chosen = [o for o in sets if len(o) < 2]
            return [Case((values,), dict(o), "special values", False, False) for o in chosen]
        if not sampler.deep and values.size > 40:
            values = values[np.sort(sampler.rng.permutation(values.size)[:40])]
            values = np.concatenate([values, _essential(sampler)])
        if count == 2:
            a, b = np.meshgrid(values, values, indexing="ij")
            flat = tuple(np.ascontiguousarray(v.reshape(-1)) for v in (a, b))
            return [Case(flat, options, "pairs of special values", False, False)]
        few = _essential(sampler)
        triples = np.array(list(product(range(few.size), repeat=3))).reshape(-1, 3)
        return [
            Case(
                tuple(few[triples[:, k]] for k in range(3)),
                options,
                "triples of special values",
                False,
                False,
            )
        ]

    return make


def _essential(sampler: Sampler) -> Any:
    """Zeros, ones, infinities and NaN, or the ends of the range."""
    if sampler.dtype == np.bool_:
        return np.array([False, True])
    if sampler.floating:
        values = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5]
        return np.array(values).astype(sampler.dtype)
    info = np.iinfo(sampler.dtype)
    return np.array(sorted({info.min, info.max, 0, 1, 2, max(info.min, -1)}), sampler.dtype)


def degenerate(count: int) -> Samples:
    """No elements, one element, no dimensions."""

    def make(sampler: Sampler) -> list[Case]:
        shapes: list[Shape] = [(), (0,), (1,), (3, 0, 2), (1, 1, 1), (0, 5)]
        found = []
        for shape in shapes:
            operands = [sampler.array(shape, k) for k in range(count)]
            found.append(Case(tuple(operands), {}, f"{shape}"))
        if count >= 2:
            # A size of one meets no elements: broadcast, not an error.
            one = [sampler.array((1,) if k else (0,), k) for k in range(count)]
            found.append(Case(tuple(one), {}, "(0,) and (1,)"))
            found.append(Case((*one[1:], one[0]), {}, "(1,) and (0,)"))
        return found

    return make


def unary_options(
    allowed: Callable[[dict[str, Any]], bool] | None = None, **values: tuple[Any, ...]
) -> Any:
    """Option sets of an activation: no options, each value alone, all pairs of values.

    `allowed` says of options whether the op takes them together.
    """
    good = allowed or (lambda options: True)

    def make(sampler: Sampler) -> list[dict[str, Any]]:

        alone = [{name: v} for name, given in values.items() for v in given if good({name: v})]
        both = pairs(values, sampler.rng, allowed) if len(values) > 1 else []
        sets: list[dict[str, Any]] = [{}, *alone, *both]
        if sampler.deep:
            return sets
        order = sampler.rng.permutation(len(alone))[:2]
        return [{}, *(alone[k] for k in order)]

    return make
