"""Samples of ops that rearrange elements: every form of their arguments, any rank and layout.

The elements are random bit patterns as often as ordinary numbers, since movement keeps all bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from ..ulp import format_of, round_to
from . import arrays
from .elementwise import FORMS, broadcast
from .sampler import (
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
    "astype",
    "axes_option",
    "broadcast_arrays",
    "broadcast_to",
    "concat",
    "degenerate",
    "expand_dims",
    "matrix_transpose",
    "meshgrid",
    "moveaxis",
    "permute_dims",
    "repeat",
    "reshape",
    "roll",
    "squeeze",
    "stack",
    "tile",
    "triangle",
    "unstack",
]

_SIZES = (1, 2, 3, 5, 15, 16, 17, 31, 33, 127, 129, 1025)


def _rows(sampler: Sampler, standard: int = 20, **strong: Sequence[Any]) -> list[dict[str, Any]]:
    free = {
        "size": sampler.some(_SIZES, 4),
        "rank": [1, 2, 3, 4, 5, 7] if sampler.deep else [1, 2, 3, 5],
        "layout": sampler.layouts(),
        "data": ["ordinary", "patterns"] if sampler.dtype != np.bool_ else ["ordinary"],
    }
    return sampler.rows(strong, free, smoke=3, standard=standard)


def _array(sampler: Sampler, row: dict[str, Any], shape: Shape) -> Any:
    return sampler.array(shape, data=row["data"], layout=row["layout"])


def _shape(sampler: Sampler, row: dict[str, Any], least: int = 0) -> Shape:
    return sampler.shape(max(row["rank"], least), row["size"])


def _each(least: int, arguments: Callable[[Sampler, Shape, Any], Any], *forms: Any) -> Samples:
    """Cases of one array and what `arguments(sampler, shape, form)` gives: (args, options)."""

    def make(sampler: Sampler) -> list[Case]:
        found = []
        for row in _rows(sampler, form=sampler.some(forms)):
            rank = max(least, least_rank(row["form"]) if isinstance(row["form"], str) else 0)
            shape = _shape(sampler, row, rank)
            rest, options = arguments(sampler, shape, row["form"])
            x = _array(sampler, row, shape)
            label = f"{shape} {rest or ''} {options or ''}, {row['layout']}"
            found.append(Case((x, *rest), options, label, smooth=row["data"] == "ordinary"))
        return found

    return make


AXES = ("none", *AXIS_FORMS, "one", "two", "three", "all")


def axes_option(*forms: str) -> Samples:
    """An `axis` option, left out where it is None half of the time (flip, count and the like)."""

    def arguments(sampler: Sampler, shape: Shape, form: str) -> Any:
        axis = axes_of(form, len(shape), sampler.rng)
        leave = axis is None and sampler.rng.random() < 0.5
        return (), {} if leave else {"axis": axis}

    return _each(0, arguments, *forms)


def _roll(sampler: Sampler, shape: Shape, form: str) -> Any:
    axis = axes_of(form, len(shape), sampler.rng)
    far = max(elements(shape), 1)
    steps = [0, 1, -1, 5, far, far + 1, -far - 3]
    if isinstance(axis, tuple):
        shift = tuple(int(sampler.pick(steps)) for _ in axis)
        return (shift,), {"axis": axis}
    if axis is not None and sampler.rng.random() < 0.2:
        return ((1, 3),), {"axis": axis}
    leave = axis is None and sampler.rng.random() < 0.5
    return (int(sampler.pick(steps)),), {} if leave else {"axis": axis}


roll: Samples = _each(0, _roll, *AXES, "()")


def _permute(sampler: Sampler, shape: Shape, form: Any) -> Any:
    order = [int(k) for k in sampler.rng.permutation(len(shape))]
    if form == "identity":
        order = list(range(len(shape)))
    elif form == "reversed":
        order = list(range(len(shape)))[::-1]
    elif form == "negative":
        order = [k - len(shape) for k in order]
    return (tuple(order),), {}


permute_dims: Samples = _each(0, _permute, "identity", "reversed", "negative", "random", "random 2")


def _moveaxis(sampler: Sampler, shape: Shape, form: str) -> Any:
    rank = len(shape)
    if form in AXIS_FORMS:
        other = sampler.pick(AXIS_FORMS)
        return (axis_of(form, rank, sampler.rng), axis_of(other, rank, sampler.rng)), {}
    return (axes_of(form, rank, sampler.rng), axes_of(form, rank, sampler.rng)), {}


moveaxis: Samples = _each(1, _moveaxis, *AXIS_FORMS, "one", "two", "three", "all")


def _expand(sampler: Sampler, shape: Shape, form: Any) -> Any:
    rank = len(shape)
    axis = {
        "default": None,
        "first": 0,
        "end": rank,
        "-1": -1,
        "-ndim": -rank - 1,
        "one": (int(sampler.rng.integers(-rank - 1, rank + 1)),),
        "two": (0, -1),
        "three": (0, rank + 2, -2),
        "()": (),
    }[form]
    return (), {} if axis is None else {"axis": axis}


expand_dims: Samples = _each(
    0, _expand, "default", "first", "end", "-1", "-ndim", "one", "two", "three", "()"
)


def squeeze(sampler: Sampler) -> list[Case]:
    """One axis of size 1 or several, at any place."""
    found = []
    for row in _rows(sampler, form=["int", "-int", "()", "one", "two"]):
        shape = list(_shape(sampler, row))
        count = {"()": 0, "two": 2}.get(row["form"], 1)
        places: list[int] = []
        for _ in range(count):
            at = int(sampler.rng.integers(len(shape) + 1))
            shape.insert(at, 1)
            places = [p + (p >= at) for p in places] + [at]
        axis: Any = tuple(places)
        if row["form"] in ("int", "-int"):
            axis = places[0] - (len(shape) if row["form"] == "-int" else 0)
        x = _array(sampler, row, tuple(shape))
        found.append(Case((x, axis), {}, f"{tuple(shape)}, axis {axis}, {row['layout']}"))
    return found


def _reshape(sampler: Sampler, shape: Shape, form: Any) -> Any:
    size = elements(shape)
    factors: list[int] = []
    rest = size
    for p in (2, 3, 5):
        while rest % p == 0 and rest > 1 and len(factors) < 6:
            factors.append(p)
            rest //= p
    split = [*factors, rest]
    sampler.rng.shuffle(split)
    to: Any = {
        "flat": (-1,),
        "int": size,
        "int -1": -1,
        "factors": tuple(split),
        "unknown": (*split[:-1], -1),
        "ones": (1, *shape, 1),
        "same": tuple(shape),
        "copy": tuple(split),
        "reversed": tuple(shape[::-1]),
    }[form]
    options: dict[str, Any] = {"copy": True} if form == "copy" else {}
    if form == "same":
        options = {"copy": sampler.pick([None, True])}
    return (to,), options


_reshaped: Samples = _each(
    0, _reshape, "flat", "int", "int -1", "factors", "unknown", "ones", "same", "copy", "reversed"
)


def reshape(sampler: Sampler) -> list[Case]:
    """Every form of a shape, with copies; and without, where a view can serve."""
    plain = sampler.array((4, 6))
    views = [Case((plain, to), {"copy": False}, f"view as {to}") for to in ((24,), (2, 2, -1))]
    return [*_reshaped(sampler), *views[: 2 if sampler.deep else 1]]


def _broadcast_to(sampler: Sampler, shape: Shape, form: Any) -> Any:
    grown = tuple(int(sampler.rng.integers(2, 5)) if n == 1 else n for n in shape)
    return ({"same": shape, "grown": grown, "front": (3, *grown), "two": (2, 1, *grown)}[form],), {}


_to: Samples = _each(0, _broadcast_to, "same", "grown", "front", "two")


def broadcast_to(sampler: Sampler) -> list[Case]:
    """New dimensions in front, dimensions of size 1 repeated, none at all, no elements."""
    found = _to(sampler)
    for shape, to in (((3, 1), (2, 3, 5)), ((1, 1), (4, 0)), ((), (2, 2)), ((1, 3, 1), (2, 3, 4))):
        smooth = 0 not in to  # nothing to differentiate
        found.append(Case((sampler.array(shape), to), {}, f"{shape} to {to}", smooth=smooth))
    return found


def _repeat(sampler: Sampler, shape: Shape, form: Any) -> Any:
    axis = axis_of(form, len(shape), sampler.rng) if form in AXIS_FORMS else None
    n = shape[axis] if axis is not None else elements(shape)
    options = {} if axis is None and sampler.rng.random() < 0.5 else {"axis": axis}
    if sampler.rng.random() < 0.4:
        counts = sampler.rng.integers(0, 4, n)
        return (sampler.pick([counts.astype(np.int64), counts.astype(np.int32)]),), options
    return (int(sampler.pick([0, 1, 2, 3])),), options


_repeats: Samples = _each(1, _repeat, "none", *AXIS_FORMS)


def repeat(sampler: Sampler) -> list[Case]:
    """One number of repeats or one for each element, zero among them; nothing left, too."""
    found = [
        replace(case, smooth=case.smooth and bool(np.any(case.args[1])))
        for case in _repeats(sampler)
    ]
    if not any(case.args[0].size and np.any(case.args[1]) for case in found):
        found.append(Case((sampler.array((3, 5)), 2), {"axis": 1}, "(3, 5) twice"))
    return found


def _tile(sampler: Sampler, shape: Shape, form: Any) -> Any:
    times = [int(n) for n in sampler.rng.integers(1, 4, len(shape))]
    return (
        {
            "each": tuple(times),
            "fewer": tuple(times[1:]),
            "more": (2, *times),
            "zero": (*times[:-1], 0) if times else (0,),
            "ones": (1,) * len(shape),
        }[form],
    ), {}


def tile(sampler: Sampler) -> list[Case]:
    """As many repetitions as dimensions, fewer, more, ones and zero."""
    return _few_dims(sampler, _each(0, _tile, "each", "fewer", "more", "zero", "ones"), 5)


def _few_dims(sampler: Sampler, samples: Samples, most: int) -> list[Case]:
    """The cases whose arrays have at most `most` dimensions: results have more of their own."""
    return [c for c in samples(sampler) if c.args[0].ndim <= most]


def _k(sampler: Sampler, shape: Shape, form: Any) -> Any:
    m, n = shape[-2:]
    value = {"default": None, "0": 0, "1": 1, "-1": -1, "beyond": n, "below": -m, "far": n + 5}[
        form
    ]
    return (), {} if value is None else {"k": value}


triangle: Samples = _each(2, _k, "default", "0", "1", "-1", "beyond", "below", "far")
matrix_transpose: Samples = _each(2, lambda sampler, shape, form: ((), {}), "plain", "again")


def _joined(axis_forms: Sequence[str], same: bool) -> Samples:
    def make(sampler: Sampler) -> list[Case]:
        found = []
        counts = [1, 2, 3, 8] if sampler.deep else [2, 3]
        for row in _rows(sampler, 16, form=sampler.some(axis_forms), count=counts):
            shape = sampler.shape(min(row["rank"], 5), row["size"])
            rank = len(shape) + same
            given = row["form"]
            axis: Any = None if given in ("none", "default") else axis_of(given, rank, sampler.rng)
            parts = []
            for _ in range(row["count"]):
                mine = list(shape)
                if not same:
                    # An axis of no elements is one of the parts, sometimes.
                    mine[0 if axis is None else axis] = int(sampler.rng.integers(0, 6))
                if given == "none" and not same:
                    mine = [
                        int(n) for n in sampler.rng.integers(1, 4, int(sampler.rng.integers(1, 4)))
                    ]
                layout = sampler.pick(sampler.layouts())
                parts.append(sampler.array(tuple(mine), data=row["data"], layout=layout))
            options = {} if given == "default" else {"axis": axis}
            label = f"{row['count']} of {shape}, axis {axis}"
            found.append(Case((parts,), options, label, smooth=row["data"] == "ordinary"))
        return found

    return make


concat: Samples = _joined(["default", "none", *AXIS_FORMS], same=False)
stack: Samples = _joined(["default", *AXIS_FORMS], same=True)


def _unstack(sampler: Sampler, shape: Shape, form: str) -> Any:
    if form == "default":
        return (), {}
    return (), {"axis": axis_of(form, len(shape), sampler.rng)}


def unstack(sampler: Sampler) -> list[Case]:
    """Any axis; at most a few slices, since each is a result of its own."""
    found = _each(1, _unstack, "default", *AXIS_FORMS)(sampler)
    return [c for c in found if c.args[0].shape[c.options.get("axis", 0)] <= 40]


def meshgrid(sampler: Sampler) -> list[Case]:
    """One to four vectors, both indexings and the default."""
    found = []
    for row in sampler.rows(
        {"indexing": ["xy", "ij", None], "count": [1, 2, 3, 4]},
        {"layout": ["contiguous", "negative", "gaps"]},
        smoke=3,
        standard=12,
    ):
        parts = [
            sampler.array((int(sampler.rng.integers(1, 7)),), k, layout=row["layout"])
            for k in range(row["count"])
        ]
        options = {} if row["indexing"] is None else {"indexing": row["indexing"]}
        found.append(Case(tuple(parts), options, f"{row['count']} vectors, {row['indexing']}"))
    return found


def broadcast_arrays(sampler: Sampler) -> list[Case]:
    """One to four arrays of shapes that broadcast."""

    found = []
    for row in sampler.rows(
        {"count": [1, 2, 3, 4]},
        {"rank": [0, 1, 2, 3, 5], "layout": sampler.layouts(), "form": list(FORMS)},
        smoke=3,
        standard=12,
    ):
        shape = sampler.shape(row["rank"], 5)
        shapes = [shape] + [
            broadcast(sampler, shape, sampler.pick(FORMS)) for _ in range(row["count"] - 1)
        ]
        sampler.rng.shuffle(shapes)
        parts = [sampler.array(s, layout=row["layout"]) for s in shapes]
        found.append(Case(tuple(parts), {}, f"{shapes}"))
    return found


def degenerate(*rest: Any, least: int = 0, **options: Any) -> Samples:
    """Operands of no elements and of no dimensions."""

    def make(sampler: Sampler) -> list[Case]:
        shapes: list[Shape] = [(), (0,), (1,), (0, 3), (3, 0), (2, 0, 3), (1, 1)]
        return [
            Case((sampler.array(s), *rest), dict(options), f"{s}")
            for s in shapes
            if len(s) >= least
        ]

    return make


def astype(sampler: Sampler) -> list[Case]:
    """Every pair of dtypes: ordinary and special values, neighbours of powers of two, ties.

    At smoke bool, and of each other kind of dtype one that the seed chooses.
    """

    names = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    targets = [*map(np.dtype, names), *map(np.dtype, ("float16", "float32", "float64"))]
    targets.append(np.dtype(ml_dtypes.bfloat16))
    found = []
    for target in [t for t in targets if t.kind not in "biu"][:3] if sampler.floating else []:
        layout = sampler.pick(["contiguous", "negative", "gaps", "permuted"])
        x = sampler.array((5, 31), layout=layout)
        found.append(Case((x, target), {}, f"ordinary to {target.name}"))
    kinds = [[t for t in targets if t.kind in kind] for kind in ("b", "i", "u", "fV")]
    for target in targets if sampler.deep else map(sampler.pick, kinds):
        values = [
            sampler.array((129,)),
            sampler.specials(),
            arrays.wide(sampler.rng, (500,), sampler.dtype),
        ]
        if sampler.floating:
            values.append(_edges(sampler, target))
        elif target.kind not in "biu":
            values.append(_ties(sampler, target))
        x = np.concatenate(values)
        layout = sampler.pick(["contiguous", "negative", "gaps", "offset"])
        laid = arrays.laid_out(sampler.rng, x, layout)
        options: dict[str, Any] = [{}, {"copy": True}, {"copy": False}][len(found) % 3]
        found.append(Case((laid, target), options, f"to {target.name}", False, False))
    return found


def _ties(sampler: Sampler, target: np.dtype[Any]) -> Any:
    """Integers half-way between numbers of a floating target, and those beside them.

    Of the wide ones a format between the two would make ties, to be rounded a second time.
    """

    fmt = format_of(target)
    assert fmt is not None
    if sampler.dtype == np.bool_:
        return sampler.array((2,))
    info = np.iinfo(sampler.dtype)
    found = [0]
    for shift in range(max(info.bits - fmt.p, 0)):
        for _ in range(4):
            odd = 2 * int(sampler.rng.integers(1 << (fmt.p - 1), 1 << fmt.p)) + 1
            tie = odd << shift
            found += [sign * (tie + d) for sign in (1, -1) for d in (-1, 0, 1)]
    return np.array([v for v in found if info.min <= v <= info.max], sampler.dtype)


def _edges(sampler: Sampler, target: np.dtype[Any]) -> Any:
    """Powers of two, what lies half-way between numbers of the target, and their neighbours."""

    mine, fmt = format_of(sampler.dtype), format_of(target)
    assert mine is not None
    low, high = mine.emin - mine.p + 1, mine.emax
    if fmt is not None:
        low, high = max(low, fmt.emin - fmt.p - 2), min(high, fmt.emax + 1)
    else:
        low, high = max(low, -3), min(high, 66)
    powers = np.ldexp(1.0, np.arange(low, high + 1).clip(max=1023))
    digits = fmt.p if fmt is not None else 8 * target.itemsize
    with np.errstate(over="ignore"):
        middles = powers * (
            1
            + sampler.rng.integers(0, 2 ** min(digits - 1, 20), powers.size)
            * 2.0 ** (1 - min(digits, 21))
        )
        halves = middles + powers * 2.0**-digits
        exact = round_to(np.concatenate([powers, middles, halves]), mine)
    up, down = (
        np.nextafter(exact.astype(np.float64), np.inf),
        np.nextafter(exact.astype(np.float64), 0),
    )
    if sampler.dtype != np.float64:
        step = np.ldexp(1.0, np.frexp(np.abs(exact.astype(np.float64)))[1] - mine.p)
        up, down = exact.astype(np.float64) + step, exact.astype(np.float64) - step
    every = round_to(np.concatenate([exact.astype(np.float64), up, down]), mine)
    return np.concatenate([every, -every])
