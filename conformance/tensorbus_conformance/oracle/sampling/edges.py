"""Edges of ops that index, normalise or sum up: no elements, one, and values that are no numbers.

An op of several operands has more ways to be empty than one: nothing to choose from, nothing
chosen, nothing beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .sampler import Case, Sampler, Samples, Shape

__all__ = [
    "cross_entropy_degenerate", "cross_entropy_special", "indexed", "linear_degenerate",
    "mse_degenerate", "mse_special", "nonzero_degenerate", "nonzero_special", "norm_degenerate",
    "norm_special", "searchsorted_degenerate", "searchsorted_special", "vecdot_degenerate",
    "where_degenerate",
]  # fmt: skip


def indexed(*forms: tuple[Any, ...], first: bool = False) -> Samples:
    """Calls of an op that takes an index.

    Args:
        forms: Shapes of the operands, the axis (None: left out) last.
        first: Whether the index comes before what it indexes.
    """

    def make(sampler: Sampler) -> list[Case]:
        found = []
        for *shapes, axis in forms:
            given: list[Any] = [sampler.array(s, k) for k, s in enumerate(shapes)]
            at = 0 if first else 1
            table = shapes[1 - at]
            size = table[axis or 0] if table else 1
            given[at] = sampler.index(size, shapes[at])
            options = {} if axis is None else {"axis": axis}
            found.append(Case(tuple(given), options, f"{shapes}, axis {axis}"))
        return found

    return make


def searchsorted_degenerate(sampler: Sampler) -> list[Case]:
    """Nothing to search in, nothing to look for, one of each."""
    shapes: list[tuple[Shape, Shape]] = [((0,), ()), ((0,), (3,)), ((3,), (0,)), ((1,), ())]
    found = []
    for a, b in shapes:
        values = np.sort(sampler.array(a).astype(np.float64)).astype(sampler.dtype)
        found.append(Case((values, sampler.array(b, 1)), {}, f"{a} and {b}"))
    return found


def searchsorted_special(sampler: Sampler) -> list[Case]:
    """Special values among special values: NaN is last, zeros are equal; either side, a sorter."""
    values = sampler.specials()
    with np.errstate(all="ignore"):
        keys = values.astype(np.float64) if sampler.floating else values
    order = np.argsort(keys, kind="stable")
    mixed = np.concatenate([values[order], values[order[-1:]]])
    found = [
        Case((mixed, values), options, f"special values, {options}", False, False)
        for options in ({}, {"side": "right"})
    ]
    for side in ("left", "right"):
        options = {"side": side, "sorter": order.astype(np.int64)}
        found.append(Case((values, values), options, f"a sorter, {side}", False, False))
    return found


def nonzero_degenerate(sampler: Sampler) -> list[Case]:
    """No elements, one element."""
    shapes: list[Shape] = [(0,), (1,), (3, 0), (0, 2), (1, 1, 1)]
    return [Case((sampler.array(s),), {}, f"{s}") for s in shapes]


def nonzero_special(sampler: Sampler) -> list[Case]:
    """Zeros of both signs are zero; NaN and the least subnormal numbers are not."""
    values = sampler.specials()
    return [Case((values,), {}, "special values", False, False)]


def where_degenerate(sampler: Sampler) -> list[Case]:
    """No elements on any side, and sizes of one that meet none."""
    found = []
    shapes: list[tuple[Shape, Shape, Shape]] = [
        ((), (), ()), ((0,), (1,), ()), ((1,), (0,), (1,)), ((), (2, 0), (1, 1)), ((1,), (1,), (1,))
    ]  # fmt: skip
    for c, a, b in shapes:
        given = (sampler.array(c, dtype=np.bool_), sampler.array(a), sampler.array(b))
        found.append(Case(given, {}, f"{c}, {a}, {b}"))
    return found


def _each_reduction(sampler: Sampler, given: Sequence[Any], label: str, **options: Any) -> Any:
    forms: list[Any] = [None, "sum", "none"]
    return [
        Case(
            tuple(given),
            options if form is None else {**options, "reduction": form},
            f"{label}, {form}",
        )
        for form in forms
    ]


def mse_degenerate(sampler: Sampler) -> list[Case]:
    """No elements, whose mean is NaN and whose sum is 0; numbers."""
    found = []
    for a, b in (((0,), (0,)), ((), ()), ((2, 0), (1,)), ((1, 1), (1,))):
        found += _each_reduction(sampler, (sampler.array(a), sampler.array(b, 1)), f"{a}, {b}")
    return found


def mse_special(sampler: Sampler) -> list[Case]:
    """Zeros, infinities and NaN against each other, element by element."""
    few = np.array([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan]).astype(sampler.dtype)
    a, b = (np.ascontiguousarray(v.reshape(-1)) for v in np.meshgrid(few, few, indexing="ij"))
    return [Case((a, b), {"reduction": "none"}, "pairs of special values", False, False)]


def norm_degenerate(sampler: Sampler) -> list[Case]:
    """No rows, rows of no elements, rows of one."""
    calls: list[tuple[Shape, Any]] = [
        ((0, 3), -1), ((3, 0), -1), ((0, 3), 0), ((1,), -1), ((2, 1), 1), ((1, 1, 1), (0, 2))
    ]  # fmt: skip
    return [Case((sampler.array(s),), {"axis": a}, f"{s}, axis {a}") for s, a in calls]


def norm_special(sampler: Sampler) -> list[Case]:
    """Rows that hold one infinity or NaN, rows of zeros and of one number."""
    x = sampler.array((7, 33))
    for k, value in enumerate((np.inf, -np.inf, np.nan)):
        x[k, 5 * k] = value
    x[3], x[4] = 0.0, -0.0
    x[5] = 1.0
    return [Case((x,), {}, "special rows", False, False)]


def cross_entropy_degenerate(sampler: Sampler) -> list[Case]:
    """No items, no classes, one of each; both kinds of target, with and without smoothing."""
    found = []
    for shape in ((0, 4), (1, 1), (3,), (2, 0, 3)):
        rest: Shape = (shape[0], *shape[2:]) if len(shape) > 1 else ()
        axis = 1 if len(shape) > 1 else 0
        x = sampler.array(shape)
        classes = sampler.index(max(shape[axis], 1), rest, negative=False)
        if shape[axis]:
            found += _each_reduction(sampler, (x, classes), f"{shape}", axis=axis)
        raw = np.full(shape, 0.25)
        given = (x, raw.astype(sampler.dtype))
        found += _each_reduction(sampler, given, f"{shape}, probabilities", axis=axis)
        smooth: dict[str, Any] = {"axis": axis, "label_smoothing": 0.5}
        found += _each_reduction(sampler, given, f"{shape}, smooth probabilities", **smooth)
        if shape[axis]:
            found += _each_reduction(sampler, (x, classes), f"{shape}, smooth", **smooth)
    return found


def cross_entropy_special(sampler: Sampler) -> list[Case]:
    """Classes that do not exist give NaN; impossible classes of probability 0 give nothing."""
    x = sampler.array((9, 5))
    target = np.array([0, 4, 5, -1, 2, 3, 2, 1, 2**40])
    found = [Case((x, target), {"reduction": "none"}, "classes out of range", False, False)]
    x = np.array(sampler.array((6, 4)))
    x[0, 1] = x[1, 2] = -np.inf
    x[2, 0], x[3, 3] = np.inf, np.nan
    target = np.array([1, 0, 0, 0, 1, 2])
    found.append(Case((x, target), {"reduction": "none"}, "special logits", False, False))
    share = np.full((6, 4), 0.25)
    share[0], share[1] = (0.5, 0.0, 0.25, 0.25), (0.0, 1.0, 0.0, 0.0)
    share[4] = (0.0, 0.0, 1.0, 0.0)
    given = (x, share.astype(sampler.dtype))
    found.append(Case(given, {"reduction": "none"}, "probabilities of 0", False, False))
    return found


def linear_degenerate(sampler: Sampler) -> list[Case]:
    """Nothing to sum, no rows, no outputs; with and without bias, and any leading dimensions."""
    shapes: list[tuple[Shape, ...]] = [
        ((2, 0), (3, 0)), ((2, 0), (3, 0), (3,)), ((2, 2, 0), (3, 0)), ((2, 2, 0), (0,)),
        ((0, 3), (2, 3), (2,)), ((0, 2, 3), (4, 3)), ((5,), (5,), ()), ((1,), (1, 1)),
        ((2, 3), (0, 3)), ((2, 2, 0), (0,), ()), ((0,), (0,)),
    ]  # fmt: skip
    return [
        Case(tuple(sampler.array(s, k) for k, s in enumerate(given)), {}, f"{given}")
        for given in shapes
    ]


def vecdot_degenerate(sampler: Sampler) -> list[Case]:
    """Vectors of no elements and of one; no vectors."""
    shapes: list[tuple[Shape, Shape, Any]] = [
        ((0,), (0,), -1), ((3, 0), (3, 0), -1), ((0, 3), (3,), -1), ((1,), (1,), 0),
        ((0, 2), (0, 2), 0), ((2, 1, 3), (4, 3), -1),
    ]  # fmt: skip
    return [
        Case((sampler.array(a), sampler.array(b, 1)), {"axis": k}, f"{a}, {b}, axis {k}")
        for a, b, k in shapes
    ]
