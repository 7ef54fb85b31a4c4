"""Samples of reductions, scans, sorts and everything else that works along axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import arrays, cover
from .sampler import (
    AXES_FORMS,
    AXIS_FORMS,
    Case,
    Sampler,
    Samples,
    Shape,
    axes_of,
    axis_of,
    elements,
    least_rank,
)

__all__ = [
    "along_axis", "degenerate", "reduction", "sorting", "special_rows",
    "special_scan", "truths",
]  # fmt: skip

_NONE = object()


def _ranked(sampler: Sampler, rows: list[cover.Row]) -> list[cover.Row]:
    """The rows, whose sizes need few dimensions, and some of them again with many dimensions."""
    high = [0, 4, 5, 6, 7, 8, 9] if sampler.deep else [sampler.pick([4, 5, 6, 7, 8, 9])]
    able = [row for row in rows if row["axis"] != "none"]
    again = sampler.rng.permutation(len(able))[: len(high)]
    return [*rows, *({**able[k], "rank": r} for k, r in zip(again, high, strict=False))]


def _shape(sampler: Sampler, form: str, rank: int, size: int) -> Shape:
    rank = max(rank, least_rank(form))
    return sampler.shape(rank, size)


def _moved(sampler: Sampler, shape: Shape, axis: Any) -> Shape:
    """The same shape with its longest dimension among the axes, in most rows."""
    if not shape or axis is None or axis == () or sampler.rng.random() < 0.2:
        return shape
    first = axis if isinstance(axis, int) else axis[0]
    order = list(shape)
    longest = int(np.argmax(order))
    order[first % len(shape)], order[longest] = order[longest], order[first % len(shape)]
    return tuple(order)


def _kept(shape: Shape, axis: Any) -> Shape:
    """The dimensions that are not reduced."""
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    gone = {a % len(shape) for a in axes} if shape else set()
    return tuple(n for k, n in enumerate(shape) if k not in gone)


def reduction(
    data: Sequence[str] = ("ordinary",),
    *,
    forms: Sequence[str] = AXES_FORMS,
    axis_default: Any = None,
    **options: Any,
) -> Samples:
    """Samples of an op that reduces over `axis`.

    Args:
        data: Kinds of data beside each other (see `arrays.DATA`).
        forms: Forms of `axis` that the op takes.
        axis_default: What `axis` is when it is left out.
        options: Values of further options; None leaves the option out.
    """

    def make(sampler: Sampler) -> list[Case]:
        strong = {"axis": sampler.some(forms, 4), **{n: list(v) for n, v in options.items()}}
        free = {
            "size": sampler.sizes(),
            "rank": [1, 2, 3],
            "layout": sampler.layouts(),
            "data": list(data),
        }
        found = []
        for row in _ranked(sampler, sampler.rows(strong, free, smoke=4, standard=32)):
            shape = _shape(sampler, row["axis"], row["rank"], row["size"])
            axis = axes_of(row["axis"], len(shape), sampler.rng)
            shape = _moved(sampler, shape, axis)
            kind = row["data"] if sampler.floating else "ordinary"
            x = sampler.array(shape, data=kind, layout=row["layout"])
            given = {n: row[n] for n in options if row[n] is not None}
            if row["axis"] != "none" or sampler.rng.random() < 0.5 or axis_default is not None:
                given["axis"] = axis
            label = f"{kind} {shape}, axis {axis}, {row['layout']}"
            plain = kind in ("ordinary", "positive") and row["layout"] not in arrays.SHARING
            # Derivatives of a call with `dtype` are those of a conversion and a plain call.
            smooth = kind == "ordinary" and plain and "dtype" not in given
            if "correction" in given:  # more degrees of freedom than elements: 0/0
                count = elements(shape) // max(elements(_kept(shape, axis)), 1)
                smooth = smooth and count > given["correction"]
            found.append(Case((x,), given, label, plain, smooth))
        return found

    return make


def along_axis(
    data: Sequence[str] = ("ordinary",),
    *,
    forms: Sequence[str] = AXIS_FORMS,
    none: bool = False,
    flat_only: bool = False,
    **options: Any,
) -> Samples:
    """Samples of an op that works along one axis: scans, sorts, softmax.

    Args:
        none: Whether `axis` may be None.
        flat_only: Whether None is for one-dimensional operands alone.
    """

    def make(sampler: Sampler) -> list[Case]:
        chosen = [*forms, "none"] if none else list(forms)
        strong = {"axis": sampler.some(chosen, 3), **{n: list(v) for n, v in options.items()}}
        free = {
            "size": sampler.sizes(),
            "rank": [1, 2, 3],
            "layout": sampler.layouts(),
            "data": list(data),
        }
        found = []
        for row in _ranked(sampler, sampler.rows(strong, free, smoke=3, standard=32)):
            rank = 1 if row["axis"] == "none" and flat_only else row["rank"]
            shape = _shape(sampler, row["axis"], max(rank, 1), row["size"])
            default = row["axis"] == "default"
            form = "-1" if default else row["axis"]
            axis = None if form == "none" else axis_of(form, len(shape), sampler.rng)
            shape = _moved(sampler, shape, axis)
            kind = row["data"] if sampler.dtype != np.bool_ else "ordinary"
            x = sampler.array(shape, data=kind, layout=row["layout"])
            given = {n: row[n] for n in options if row[n] is not None}
            if not default and (axis is not None or sampler.rng.random() < 0.5):
                given["axis"] = axis
            if "dtype" in given and given["dtype"] is not None:
                given["dtype"] = np.dtype(given["dtype"])
            label = f"{kind} {shape}, axis {axis}, {row['layout']}"
            plain = kind == "ordinary" and row["layout"] not in arrays.SHARING
            found.append(Case((x,), given, label, plain, plain and "dtype" not in given))
        return found

    return make


def sorting(data: Sequence[str], **options: Any) -> Samples:
    """As `along_axis`, with fewer sizes: merge sorts are compiled for each length."""

    def make(sampler: Sampler) -> list[Case]:
        every = along_axis(data, forms=(*AXIS_FORMS, "default"), **options)(sampler)
        if not sampler.deep:
            return every[:4]
        return [every[k] for k in sorted(sampler.rng.permutation(len(every))[:14])]

    return make


def truths(rare: bool, **options: Any) -> Samples:
    """As `reduction`, with few elements that decide: mostly zeros (`rare`) or mostly others."""
    base = reduction(("ties",), **options)

    def make(sampler: Sampler) -> list[Case]:
        found = []
        for case in base(sampler):
            x = np.array(case.args[0])
            few = sampler.rng.random(x.shape) < sampler.pick([0.0, 0.5, 2 / max(x.size, 1)])
            value = np.where(few, 1, 0) if rare else np.where(few, 0, 1)
            laid = arrays.laid_out(
                sampler.rng, value.astype(x.dtype), sampler.pick(sampler.layouts())
            )
            found.append(Case((laid,), case.options, case.label, False, False))
        return found

    return make


def special_scan(sampler: Sampler) -> list[Case]:
    """Rows with special values, and rows of zeros of either sign."""
    return special_rows(sampler)


def special_rows(sampler: Sampler) -> list[Case]:
    """Rows of ordinary data with one or two special values each, at places that differ by row."""
    values = sampler.specials()
    n = 150
    x = np.ascontiguousarray(sampler.array((len(values), n)))
    for k, value in enumerate(values):
        x[k, (k * 37) % n] = value
    found = [x]
    if sampler.floating:
        zeros = np.zeros((6, n), sampler.dtype)
        zeros[0] = -0.0
        zeros[1, 70] = -0.0
        zeros[2], zeros[2, 0] = -0.0, 0.0
        zeros[3], zeros[3, n - 1] = -0.0, 0.0
        zeros[4, 0] = -0.0
        zeros[5, n - 1] = -0.0
        few = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0]).astype(sampler.dtype)
        pairs = np.ascontiguousarray(sampler.array((few.size**2, n)))
        for k in range(few.size**2):
            first, second = (int(p) for p in sampler.rng.permutation(n)[:2])
            pairs[k, min(first, second)] = few[k // few.size]
            pairs[k, max(first, second)] = few[k % few.size]
        found += [zeros, pairs]
    whole = np.concatenate(found)
    columns = np.ascontiguousarray(whole.T)
    cases = [Case((whole,), {"axis": 1}, "special values in rows", False, False)]
    if sampler.deep:
        cases.append(Case((columns,), {"axis": 0}, "special values in columns", False, False))
    return cases


def degenerate(*, axis: Any = None, empty: bool = True, scalar: bool = True) -> Samples:
    """Operands of no elements, one element, no dimensions.

    Args:
        axis: Given in every case, if not None.
        empty: Whether the reduced axis may have no elements.
        scalar: Whether the operand may have no dimensions.
    """

    def make(sampler: Sampler) -> list[Case]:
        shapes: list[Shape] = [(1,), (2, 1), (1, 1, 1), (3, 129)]
        if scalar:
            shapes.insert(0, ())
        given = {} if axis is None else {"axis": axis}
        found = [Case((sampler.array(s),), given, f"{s}") for s in shapes]
        # Kept dimensions of no elements leave nothing to reduce.
        last = {"axis": -1}
        found.append(Case((sampler.array((0, 3)),), last, "(0, 3), axis -1"))
        if empty:
            for s, a in (((0,), 0), ((3, 0), 1), ((2, 0, 3), 1), ((0, 0), -1)):
                found.append(Case((sampler.array(s),), {"axis": a}, f"{s}, axis {a}"))
        return found

    return make


__all__ += ["elements"]
