"""Calls at kinks and singular points, with which every op's conventions are judged.

The conventions are written in docs/gradients.md, with their sources; the rules of this package
follow them, and the tests hold both together.  Here are the points: for elementwise ops a list of
values, crossed between operands, for other ops whole calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Kink", "kinks_of"]

Array = NDArray[Any]
INF = math.inf


@dataclass(frozen=True)
class Kink:
    """One call at special points.

    Attributes:
        inputs: Tensor arguments as float64 (to be converted), integer or bool arrays, None, or
            Python numbers.
        options: Options.
        label: What is particular about it.
        cotangent: Of every element of the result, or an array; None for ordinary numbers.
        names: Of the last inputs, where they are keywords.
    """

    inputs: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    label: str = "special points"
    cotangent: Any = None
    names: tuple[str, ...] = ()


POINTS = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 8.5, -8.5, 20.0, -20.0, 21.0),
    *(INF, -INF),
)
"""Ends of domains, kinks, thresholds, tails and ties of the elementwise functions, infinities."""

TIES = np.array([[3.0, 1.0, 3.0, 3.0], [0.0, -0.0, 0.0, -1.0], [2.0, 2.0, 2.0, 2.0]])
ZEROS = np.array(
    [[2.0, 3.0, -4.0, 0.5], [2.0, 0.0, -4.0, 0.5], [0.0, 3.0, 0.0, 0.5], [0.0, 0.0, 0.0, -0.0]]
)
FLAT = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 4.0, 9.0]])
HOLES = np.array([[-INF, 0.0, 1.0, -INF], [0.0, 0.0, 0.0, 0.0], [-INF, -INF, 2.0, -INF]])
SMALL = np.array(
    [[0.125, -0.0625, 0.03125, 0.25], [3e-4, -2e-4, 1e-4, 4e-4], [1.0, 2.0, -1.0, 0.5]]
)
CHOICE = np.array([True, False, True, False])
SIDES = (np.array([1.0, -2.0, 0.0, 3.0]), np.array([4.0, 5.0, -0.0, -1.0]))
LEAKS = np.array([INF, -INF, np.nan, 1.5])


def _rows(x: Array, label: str, **options: Any) -> tuple[Kink, ...]:
    return tuple(
        Kink((a,), {"axis": axis, **options}, label) for a, axis in ((x, -1), (x.T.copy(), 0))
    )


def _norm(count: int) -> tuple[Kink, ...]:
    scale, shift = np.array([1.0, -2.0, 0.0, 0.5]), np.array([0.0, 1.0, -1.0, 2.0])
    options = {"axis": -1, "eps": 0.25}
    return (
        Kink((FLAT,), options, "constant rows"),
        Kink(
            (FLAT, scale, shift)[:count],
            options,
            "constant rows, scaled",
            names=("weight", "bias")[: count - 1],
        ),
    )


SINGLE = (
    Kink((FLAT[:, :1],), {"axis": -1, "correction": 1.0}, "as many elements as the correction"),
    Kink((FLAT,), {"axis": -1, "correction": 4.5}, "fewer elements than the correction"),
)

CALLS: dict[str, tuple[Kink, ...]] = {
    "max": _rows(TIES, "ties"),
    "min": _rows(TIES, "ties"),
    "prod": (*_rows(ZEROS, "zeros"), Kink((ZEROS,), {}, "zeros, all axes")),
    "cumulative_prod": (
        *_rows(ZEROS, "zeros"),
        *_rows(ZEROS, "zeros, initial", include_initial=True),
    ),
    "cumulative_sum": _rows(ZEROS, "zeros", include_initial=True),
    "var": (*_rows(FLAT, "constant rows"), *_rows(FLAT, "sample", correction=1.0), *SINGLE),
    "std": (*_rows(FLAT, "constant rows"), *_rows(FLAT, "sample", correction=1.0), *SINGLE),
    "sum": _rows(ZEROS, "zeros"),
    "mean": _rows(ZEROS, "zeros"),
    "logsumexp": _rows(HOLES, "rows with -inf"),
    "softmax": _rows(HOLES, "rows with -inf"),
    "log_softmax": _rows(HOLES, "rows with -inf"),
    "sort": (*_rows(TIES, "ties"), *_rows(TIES, "ties, descending", descending=True)),
    "where": (
        Kink((CHOICE, *SIDES), {}, "cotangents that are not finite", LEAKS),
        Kink((CHOICE, SIDES[0], SIDES[1][:1]), {}, "one of them broadcast", LEAKS[[1, 3, 1, 3]]),
    ),
    "clip": (
        Kink((np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), -1.0, 1.0), {}, "at the bounds"),
        Kink((np.array([-1.0, 1.0, 2.0]), None, 1.0), {}, "at the upper bound"),
        Kink(
            (
                np.array([-1.0, 0.0, 2.0, 2.0, 1.0, 3.0]),
                np.array([-1.0, 0.0, 1.0, 2.0, 2.0, 1.0]),
                np.array([1.0, 0.0, 2.0, 2.0, 3.0, 2.0]),
            ),
            {},
            "bounds that are tensors",
        ),
        Kink((np.array([0.0, 1.5, 3.0]), np.full(3, 2.0), np.ones(3)), {}, "crossed bounds"),
    ),
    "take": (Kink((SIDES[0], np.array([1, 1, 3, 1])), {"axis": 0}, "duplicates"),),
    "gather": (Kink((SIDES[0], np.array([1, 1, 3, 1])), {"axis": 0}, "duplicates"),),
    "take_along_axis": (Kink((SIDES[0], np.array([1, 1, 3, 1])), {"axis": 0}, "duplicates"),),
    "embedding": (Kink((np.array([[0, 2], [2, 2]]), FLAT), {}, "duplicates"),),
    "index_add": (Kink((SIDES[0], np.array([0, 0, 2]), SIDES[1][:3]), {"axis": 0}, "duplicates"),),
    "mse_loss": tuple(
        Kink((SIDES[0], SIDES[0].copy()), {"reduction": k}, f"no difference, {k}")
        for k in ("mean", "sum", "none")
    ),
    "cross_entropy": (
        Kink((HOLES, np.array([1, 2, 2])), {}, "logits of -inf"),
        Kink((FLAT, np.array([0, 3, 1])), {"label_smoothing": 1.0}, "nothing but smoothing"),
        Kink(
            (FLAT, np.array([[0.0, 1.0, 0.0, 0.0], [0.25] * 4, [0.0, 0.0, 0.5, 0.5]])),
            {},
            "probabilities of 0 and 1",
        ),
    ),
    "layer_norm": _norm(3),
    "rms_norm": (Kink((SMALL,), {"axis": -1}, "rows as small as the default eps"), *_norm(2)),
    "matmul": (Kink((ZEROS, ZEROS.T.copy()), {}, "zeros"),),
    "vecdot": (Kink((ZEROS, ZEROS[::-1].copy()), {}, "zeros"),),
    "linear": (Kink((ZEROS, FLAT, SIDES[0][:3]), {}, "zeros"),),
    "hardtanh": (Kink((np.array([-0.5, 2.0, 0.0, 3.0]),), {"min_val": -0.5, "max_val": 2.0}),),
    "softplus": (Kink((np.array([5.0, 5.5, 0.0, -9.0]),), {"beta": 2.0, "threshold": 10.0}),),
    "elu": (Kink((np.array([0.0, -0.0, -INF, INF]),), {"alpha": 1.5}),),
    "leaky_relu": (Kink((np.array([0.0, -0.0, -1.0, 1.0]),), {"negative_slope": 0.25}),),
    "gelu": (
        Kink((np.array(POINTS[:-2]),), {"approximate": "tanh"}),
        Kink((np.linspace(-14.5, -0.5, 57),), {}, "the tail"),
    ),
}


def kinks_of(name: str, elementwise: bool, tensors: int) -> tuple[Kink, ...]:
    """The calls at special points of an op; for an elementwise one its points, crossed."""
    found = CALLS.get(name, ())
    if not elementwise:
        return found
    grid = np.meshgrid(*[np.array(POINTS)] * tensors, indexing="ij")
    return (Kink(tuple(g.reshape(-1).copy() for g in grid)), *found)
