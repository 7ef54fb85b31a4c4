"""Samples of ops that make arrays, and of the normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import arrays
from .sampler import AXIS_FORMS, Case, Sampler, Samples, Shape, axes_of, least_rank

__all__ = ["arange", "converted", "eye", "filled", "full", "like", "linspace", "norm"]

SHAPES: tuple[Any, ...] = ((3, 5), 7, (), (0,), (2, 0), (129,), (1025,), (2, 3, 2, 1, 2), [4, 3])
"""Forms of a shape: tuple, int, none, empty, list."""


def _dtypes(sampler: Sampler) -> dict[str, Any]:
    """The item's dtype, or none for the default one."""
    default = sampler.dtype == np.float32 and sampler.rng.random() < 0.4
    return {} if default else {"dtype": sampler.dtype}


def filled(sampler: Sampler) -> list[Case]:
    """A shape and a dtype."""
    return [Case((s,), _dtypes(sampler), f"{s}") for s in sampler.some(SHAPES, 4)]


def _fills(sampler: Sampler) -> list[Any]:
    if sampler.dtype == np.bool_:
        return [True, False]
    if sampler.floating:
        top = float(np.finfo(np.float16).max)
        return [1, 0, -3, 0.1, -0.0, 0.0, math.inf, -math.inf, math.nan, 1 / 3, top, True]
    info = np.iinfo(sampler.dtype)
    return [0, 1, int(info.max), int(info.min), 100, True]


def full(sampler: Sampler) -> list[Case]:
    """Every fill value that the dtype can hold, shapes in turn."""
    found = []
    for row in sampler.rows({}, {"shape": SHAPES, "value": _fills(sampler)}, smoke=5, standard=14):
        found.append(Case((row["shape"], row["value"]), {"dtype": sampler.dtype}, f"{row}"))
    if sampler.dtype in (np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.bool_)):
        value = {"f": 0.5, "i": 3, "b": True}[sampler.dtype.kind]
        found.append(Case(((2, 3), value), {}, "default dtype"))
    return found


def like(fill: bool = False) -> Samples:
    """Any operand; its own dtype, or one that is asked for."""

    def make(sampler: Sampler) -> list[Case]:
        found = []
        free = {
            "rank": [0, 1, 2, 3, 6],
            "size": sampler.some([1, 5, 31, 129, 1025]),
            "layout": sampler.layouts(),
            "dtype": [None, sampler.dtype, np.dtype(np.float32), np.dtype(np.int32)],
            "value": _fills(sampler),
        }
        for row in sampler.rows({}, free, smoke=4, standard=14):
            x = sampler.array(sampler.shape(row["rank"], row["size"]), layout=row["layout"])
            options = {} if row["dtype"] is None else {"dtype": row["dtype"]}
            plain = row["dtype"] is None or row["dtype"] == sampler.dtype
            value = row["value"] if plain else 1
            found.append(Case((x, value) if fill else (x,), options, f"{x.shape} {options}"))
        return found

    return make


def eye(sampler: Sampler) -> list[Case]:
    """Square, wide, tall, empty; diagonals inside, at the corner and outside."""
    found = []
    strong = {"k": [None, 0, 1, -1, 2, -3, 9, -9], "columns": [None, 9, 4, 1, 0]}
    for row in sampler.rows(strong, {"rows": [7, 1, 0, 33, 4]}, smoke=4, standard=12):
        args = (row["rows"],) if row["columns"] is None else (row["rows"], row["columns"])
        options = {**({} if row["k"] is None else {"k": row["k"]}), **_dtypes(sampler)}
        found.append(Case(args, options, f"{args}, k {row['k']}"))
    return found


def arange(sampler: Sampler) -> list[Case]:
    """One, two and three arguments; steps of both signs, fractions; no elements; long."""
    integer = not sampler.floating
    calls: list[tuple[Any, ...]] = [(17,), (2, 50, 3), (0,), (5, 2), (3, 4), (0, 100, 1), (1, 2, 5)]
    if sampler.dtype.kind != "u":
        calls += [(50, 2, -3), (-7, 8), (5, -6, -1), (-3,)]
    if sampler.dtype.itemsize > 1:
        calls += [(0, 129), (300, 0, -1) if sampler.dtype.kind != "u" else (0, 300)]
    if sampler.dtype.itemsize > 2:
        calls += [(4097,), (0, 8193, 2)]
    if integer:  # floats are truncated
        calls += [(7.9,), (0.5, 6.2, 1.5), (1.0, 8.0, 2), (2, 9.0)]
    else:
        calls += [
            (0.0, 1.0, 0.1),
            (1.0, -1.0, -0.125),
            (0.5, 3),
            (0, 1, 0.3),
            (2.5,),
            (0.1, 0.7, 0.2),
        ]
    return [Case(c, {"dtype": sampler.dtype}, f"{c}") for c in sampler.some(calls, 5)]


def linspace(sampler: Sampler) -> list[Case]:
    """No point, one, two, many; with and without the end; either direction; equal ends."""
    found = []
    ends: list[tuple[Any, Any]] = [
        (0.0, 1.0),
        (-3.0, 5.0),
        (5.0, -3.0),
        (2, 2),
        (0.1, 0.7),
        (-7, 0),
    ]
    strong = {"num": [0, 1, 2, 3, 37, 40, 129, 1025], "endpoint": [None, True, False]}
    for row in sampler.rows(strong, {"ends": ends}, smoke=5, standard=12):
        options: dict[str, Any] = _dtypes(sampler)
        if row["endpoint"] is not None:
            options["endpoint"] = row["endpoint"]
        found.append(Case((*row["ends"], row["num"]), options, f"{row}"))
    for args, endpoint in sampler.some([((0.0, 10.0, 5), False), ((-7, 8.5, 4), True)], 1):
        whole: dict[str, Any] = {"dtype": np.dtype(np.int32), "endpoint": endpoint}
        found.append(Case(args, whole, f"{args} as int32"))
    return found


def converted(sampler: Sampler) -> list[Case]:
    """Tensors of any layout as they are, and (asarray) with copy."""
    found = []
    free = {"rank": [1, 2, 5], "size": [2, 5, 33], "layout": sampler.layouts()}
    for row in sampler.rows({"copy": [None, True, False]}, free, smoke=3, standard=10):
        x = sampler.array(sampler.shape(row["rank"], row["size"]), layout=row["layout"])
        options = {} if row["copy"] is None else {"copy": row["copy"]}
        found.append(Case((x,), options, f"{x.shape}, {row['layout']}"))
    return found


def norm(weights: Sequence[str], eps: Sequence[Any]) -> Samples:
    """Samples of a normalisation over axes, with and without each of its weights.

    Rows differ in size by orders of magnitude, some as small as the square root of eps, so that a
    wrong eps shows; one kind of data has a large mean, so that a formula in one pass shows.
    """
    forms = ("default", *AXIS_FORMS, "one", "two", "all")

    def make(sampler: Sampler) -> list[Case]:
        found = []
        strong = {
            "axis": sampler.some(forms),
            "eps": list(eps),
            **{w: [False, True] for w in weights},
        }
        free = {
            "size": sampler.sizes(),
            "rank": [1, 2, 3, 4, 6] if sampler.deep else [1, 2, 3],
            "layout": sampler.layouts(),
            "data": ["ordinary", "small", "far"],
        }
        for row in sampler.rows(strong, free, smoke=5, standard=34):
            form = "-1" if row["axis"] == "default" else row["axis"]
            shape = sampler.shape(max(row["rank"], least_rank(form), 1), row["size"])
            axis = axes_of(form, len(shape), sampler.rng)
            x = sampler.array(shape)
            if row["data"] == "small":
                x = (x.astype(np.float64) * 2.0**-9).astype(sampler.dtype)
            elif row["data"] == "far":
                x = (x.astype(np.float64) + 2.0**6).astype(sampler.dtype)
            x = arrays.laid_out(sampler.rng, x, row["layout"])
            named = sorted(k % len(shape) for k in ((axis,) if isinstance(axis, int) else axis))
            size: Shape = tuple(shape[k] for k in named)
            options: dict[str, Any] = {} if row["axis"] == "default" else {"axis": axis}
            if row["eps"] is not None:
                options["eps"] = row["eps"]
            for at, name in enumerate(weights, 1):
                if row[name]:
                    layout = sampler.pick(["contiguous", "negative", "gaps", "offset"])
                    options[name] = sampler.array(size, at, layout=layout)
            plain = row["data"] == "ordinary" and row["layout"] not in arrays.SHARING
            label = f"{row['data']} {shape}, axis {axis}, {row['layout']}"
            smooth = row["layout"] not in arrays.SHARING
            smooth = smooth and _has_root(x, tuple(named), row["eps"] or 0.0, "bias" in weights)
            found.append(Case((x,), options, label, plain, smooth))
        return found

    return make


def _has_root(x: Any, axes: Shape, eps: float, centre: bool) -> bool:
    """Whether variance (or mean square) and eps are positive together, without cancelling.

    One element less its mean is 0; a default eps, taken for 0 here, only adds to what there is.
    """
    wide = x.astype(np.float64)
    if centre:
        wide = wide - wide.mean(axis=axes, keepdims=True)
    spread = np.square(wide).mean(axis=axes)
    return bool(np.all(spread + eps > (spread + abs(eps)) / 8))
