"""Samples of ops that read or write by index: shapes of the index, both ends, repeats, layouts.

A kernel with a loop whose length is a size is compiled for that size, so each item takes a few of
the sizes, drawn by op, dtype and seed, and the items of a run cover them together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import arrays
from .elementwise import FORMS, broadcast
from .sampler import AXIS_FORMS, Case, Sampler, Shape, axis_of

__all__ = [
    "cross_entropy",
    "embedding",
    "gather",
    "index_add",
    "nonzero",
    "scatter",
    "searchsorted",
    "take",
    "take_along_axis",
    "where",
]


def _few(sampler: Sampler, count: int = 10) -> list[int]:
    """Sizes around the constants: `count` of them at standard, three at smoke."""
    sizes = [n for n in arrays.LIMITS if n <= 1025]
    chosen = sorted(sampler.rng.permutation(len(sizes))[: count if sampler.deep else 3])
    return [sizes[k] for k in chosen]


def _rows(sampler: Sampler, standard: int = 10, **strong: Any) -> list[dict[str, Any]]:
    free = {
        "size": _few(sampler),
        "rank": [1, 2, 3, 5] if sampler.deep else [1, 2, 3],
        "layout": sampler.layouts(),
        "index layout": sampler.some(["contiguous", "negative", "gaps", "permuted", "offset"], 2),
        "data": ["ordinary", "patterns"] if sampler.dtype != np.bool_ else ["ordinary"],
    }
    return sampler.rows(strong, free, smoke=3, standard=standard)


def _along(shape: Shape, axis: int, size: int) -> Shape:
    """The shape with `size` along the axis."""
    k = axis % len(shape)
    return (*shape[:k], size, *shape[k + 1 :])


def _spread(sampler: Sampler, row: dict[str, Any], axis: int) -> Shape:
    """A shape whose size along the axis is the row's; short elsewhere."""
    rank = row["rank"]
    others = [int(n) for n in sampler.rng.integers(1, 5, rank)]
    return _along(tuple(others), axis, row["size"])


def take(sampler: Sampler) -> list[Case]:
    """Indices of any shape; negative ones; axis left out for vectors."""
    found = []
    forms = [*AXIS_FORMS, "none"]
    shapes: list[Shape] = [(), (1,), (0,), (7,), (300,), (3, 5), (2, 3, 4)]
    for row in _rows(sampler, axis=sampler.some(forms), index=sampler.some(shapes, 4)):
        if row["axis"] == "none":
            row["rank"] = 1
        axis = None if row["axis"] == "none" else axis_of(row["axis"], row["rank"], sampler.rng)
        shape = _spread(sampler, row, axis or 0)
        x = sampler.array(shape, data=row["data"], layout=row["layout"])
        i = sampler.index(row["size"], row["index"], row["index layout"])
        leave = axis is None and sampler.rng.random() < 0.5
        found.append(Case((x, i), {} if leave else {"axis": axis}, f"{shape} at {i.shape}"))
    return found


def take_along_axis(sampler: Sampler) -> list[Case]:
    """As many indices as elements, fewer, more; other axes broadcast, on either side."""
    found = []
    for row in _rows(sampler, axis=[*AXIS_FORMS, "default"], other=["same", "index 1", "x 1"]):
        axis = -1 if row["axis"] == "default" else axis_of(row["axis"], row["rank"], sampler.rng)
        shape = _spread(sampler, row, axis)
        count = sampler.pick([1, row["size"], 5, 0])
        mine, theirs = list(shape), list(_along(shape, axis, count))
        for k in range(len(shape)):
            if k != axis % len(shape) and row["other"] != "same" and sampler.rng.random() < 0.7:
                (theirs if row["other"] == "index 1" else mine)[k] = 1
        x = sampler.array(tuple(mine), data=row["data"], layout=row["layout"])
        i = sampler.index(row["size"], tuple(theirs), row["index layout"])
        options = {} if row["axis"] == "default" else {"axis": axis}
        found.append(Case((x, i), options, f"{x.shape} at {i.shape}, axis {axis}"))
    return found


def _smaller(sampler: Sampler, shape: Shape, axis: int, count: int) -> Shape:
    """The shape of an index: `count` along the axis, at most as large elsewhere."""
    cut = tuple(int(sampler.rng.integers(1, n + 1)) if n else 0 for n in shape)
    return _along(cut if sampler.rng.random() < 0.5 else shape, axis, count)


def gather(sampler: Sampler) -> list[Case]:
    """PyTorch's gather: index smaller on other axes, shorter and longer along the axis."""
    found = []
    for row in _rows(sampler, axis=AXIS_FORMS):
        axis = axis_of(row["axis"], row["rank"], sampler.rng)
        shape = _spread(sampler, row, axis)
        count = sampler.pick([1, row["size"], 9, row["size"] + 3, 0])
        x = sampler.array(shape, data=row["data"], layout=row["layout"])
        i = sampler.index(row["size"], _smaller(sampler, shape, axis, count), row["index layout"])
        found.append(Case((x, i), {"axis": axis}, f"{shape} at {i.shape}, axis {axis}"))
    return found


def scatter(sampler: Sampler) -> list[Case]:
    """Places named more than once, regions smaller than x, sources larger than the index."""
    found = []
    for row in _rows(sampler, axis=AXIS_FORMS, source=["same", "larger", "scalar"]):
        axis = axis_of(row["axis"], row["rank"], sampler.rng)
        shape = _spread(sampler, row, axis)
        count = sampler.pick([1, row["size"], 2 * min(row["size"], 40), 0])
        x = sampler.array(shape, data=row["data"], layout=row["layout"])
        i = sampler.index(row["size"], _smaller(sampler, shape, axis, count), row["index layout"])
        larger = tuple(n + 1 for n in i.shape)
        source_shape = {"same": i.shape, "larger": larger, "scalar": ()}[row["source"]]
        source = sampler.array(
            source_shape, 2, data=row["data"], layout=sampler.pick(sampler.layouts())
        )
        label = f"{shape} at {i.shape}, axis {axis}, source {row['source']}"
        found.append(Case((x, i, source), {"axis": axis}, label))
    return found


def index_add(sampler: Sampler) -> list[Case]:
    """Targets without, with one and with many sources."""
    found = []
    for row in _rows(sampler, axis=AXIS_FORMS):
        axis = axis_of(row["axis"], row["rank"], sampler.rng)
        shape = _spread(sampler, row, axis)
        count = sampler.pick([0, 1, 5, min(2 * row["size"], 300)])
        x = sampler.array(shape, layout=row["layout"])
        i = sampler.index(row["size"], (count,), row["index layout"])
        source = sampler.array(
            _along(shape, axis, count), 2, layout=sampler.pick(sampler.layouts())
        )
        plain = row["layout"] not in arrays.SHARING
        found.append(Case((x, i, source), {"axis": axis}, f"{shape}, {count} sources", plain))
    return found


def where(sampler: Sampler) -> list[Case]:
    """Condition and values of any shapes that broadcast, in any layout."""

    sizes = sampler.sizes()
    shapes = [sampler.shape(r, n) for r, n in zip((1, 2, 3, 6), sizes[-4:], strict=False)]
    if sampler.deep:
        shapes = [sampler.shape(1 + k % 2, n) for k, n in enumerate(sizes)]
        shapes += [sampler.shape(r, 3) for r in (0, 3, 4, 5, 6, 7, 8, 9)]
    free = {f"layout{k}": sampler.layouts() for k in range(3)}
    free |= {f"form{k}": list(FORMS) for k in range(3)}
    free["data"] = ["ordinary", "patterns"]
    found = []
    for shape, row in zip(
        shapes, sampler.rows({}, free, smoke=len(shapes), standard=len(shapes)), strict=False
    ):
        large = int(sampler.rng.integers(3))
        operands = []
        for k in range(3):
            mine = shape if k == large else broadcast(sampler, shape, row[f"form{k}"])
            dtype = np.bool_ if k == 0 else None
            kind = "ordinary" if k == 0 else row["data"]
            operands.append(
                sampler.array(mine, max(k - 1, 0), data=kind, layout=row[f"layout{k}"], dtype=dtype)
            )
        found.append(
            Case(
                tuple(operands),
                {},
                f"{[o.shape for o in operands]}",
                smooth=row["data"] == "ordinary",
            )
        )
    return found


def searchsorted(sampler: Sampler) -> list[Case]:
    """Values present, absent, below and above all; ties; with and without a sorter."""
    found = []
    strong = {"side": ["left", "right", None], "sorter": [False, True]}
    free = {
        "size": [0, *_few(sampler)],
        "shape": [(), (0,), (90,), (3, 5), (2, 2, 3)],
        "layout": ["contiguous", "negative", "gaps", "offset"],
        "data": ["ordinary", "ties"],
    }
    for row in sampler.rows(strong, free, smoke=4, standard=12):
        plain = sampler.array((row["size"],), data=row["data"])
        values = sampler.array(row["shape"], data=row["data"]).reshape(-1)
        if row["size"] and values.size > 3:
            values[::3] = sampler.rng.choice(plain, values[::3].size)
        values = values.reshape(row["shape"])
        options: dict[str, Any] = {} if row["side"] is None else {"side": row["side"]}
        keys = plain.astype(np.float64) if plain.dtype.kind not in "biu" else plain
        order = np.argsort(keys, kind="stable")
        if row["sorter"]:
            options["sorter"] = order.astype(np.int64)
        else:
            plain = plain[order]
        sorted_ = arrays.laid_out(sampler.rng, plain, row["layout"], keep=True)
        sought = arrays.laid_out(sampler.rng, values, sampler.pick(sampler.layouts()), keep=True)
        found.append(Case((sorted_, sought), options, f"{row['size']} and {row['shape']}"))
    return found


def nonzero(sampler: Sampler) -> list[Case]:
    """From no to all elements being nonzero, any rank and layout."""
    found = []
    free = {
        "size": _few(sampler),
        "rank": [1, 2, 3, 5],
        "share": [0.0, 0.1, 0.5, 1.0],
        "layout": sampler.layouts(),
    }
    for row in sampler.rows({}, free, smoke=3, standard=10):
        x = np.array(sampler.array(sampler.shape(row["rank"], row["size"])))
        x[sampler.rng.random(x.shape) >= row["share"]] = 0
        laid = arrays.laid_out(sampler.rng, x, row["layout"])
        found.append(Case((laid,), {}, f"{x.shape}, {row['share']:.0%} nonzero"))
    return found


def embedding(sampler: Sampler) -> list[Case]:
    """Indices of any shape into tables of one to three dimensions."""
    found = []
    shapes: list[Shape] = [(), (0,), (7,), (5, 8), (2, 3, 4)]
    for row in _rows(sampler, index=sampler.some(shapes), rest=[(), (1,), (30,), (3, 5)]):
        table = sampler.array(
            (row["size"], *row["rest"]), 1, data=row["data"], layout=row["layout"]
        )
        i = sampler.index(row["size"], row["index"], row["index layout"])
        found.append(Case((i, table), {}, f"{table.shape} at {i.shape}"))
    return found


def cross_entropy(sampler: Sampler) -> list[Case]:
    """Classes and probabilities, each reduction, smoothing, axis and rank."""
    found = []
    strong = {
        "axis": ["default", *sampler.some(AXIS_FORMS, 2)],
        "reduction": ["mean", "sum", "none", None],
        "label_smoothing": [None, 0.0, 0.1, 1.0, 0.3],
        "target": ["classes", "probabilities"],
    }
    free = {
        "rank": [1, 2, 3, 4],
        "size": [1, 2, 33, *sampler.some([127, 128, 129, 255, 257, 300], 1)],
        "layout": sampler.layouts(),
    }
    for row in sampler.rows(strong, free, smoke=5, standard=20):
        rank = row["rank"]
        axis = -1 if row["axis"] == "default" else axis_of(row["axis"], rank, sampler.rng)
        shape = _spread(sampler, row, axis)
        x = sampler.array(shape, layout=row["layout"])
        k = axis % rank
        if row["target"] == "classes":
            target = sampler.index(row["size"], (*shape[:k], *shape[k + 1 :]), negative=False)
        else:
            raw = sampler.rng.uniform(0.1, 1.0, shape)
            target = (raw / raw.sum(axis=k, keepdims=True)).astype(sampler.dtype)
        names = ("reduction", "label_smoothing")
        options = {n: row[n] for n in names if row[n] is not None}
        if row["axis"] != "default":
            options["axis"] = axis
        label = f"{shape}, {row['target']}, {options}"
        found.append(Case((x, target), options, label))
    return found
