"""Arrays for samples: which values they hold and how they lie in memory.

Layouts are NumPy's: a sample's array has the strides and the offset with which it is put on a
device.  What lies between its elements is NaN, or the largest integer, which no kernel may read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import accumulation, ill_conditioned, patterns
from ..ulp import Format, format_of, round_to

__all__ = [
    "DATA",
    "LAYOUTS",
    "LIMITS",
    "binades",
    "filler",
    "laid_out",
    "ordinary",
    "ranked_shape",
    "wide",
]

Array = NDArray[Any]
Shape = tuple[int, ...]

LIMITS = (
    1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513,
    1023, 1024, 1025, 4095, 4096, 4097, 8191, 8192, 8193,
)  # fmt: skip
"""Sizes just below, at and above every power of two up to 8,192: whatever a skeleton's constants
are (lanes, blocks, chunks, vector widths, short rows), they are powers of two in this range."""


def filler(dtype: Any) -> Any:
    """What no kernel may read: NaN, True or the largest integer."""
    target = np.dtype(dtype)
    if target == np.bool_:
        return True
    return np.iinfo(target).max if target.kind in "iu" else target.type(np.nan)


def ordinary(
    rng: np.random.Generator, shape: Shape, dtype: Any, low: float = -4.0, high: float = 4.0
) -> Array:
    """Values spread over (low, high); integers over their small range and some of the full one.

    One in eight floats has a random exponent towards zero, so that not all lie in one binade.
    """
    target = np.dtype(dtype)
    if target == np.bool_:
        return np.asarray(rng.integers(0, 2, shape).astype(np.bool_))
    if target.kind in "iu":
        info = np.iinfo(target)
        small = rng.integers(max(info.min, -100), min(info.max, 100), shape, endpoint=True)
        full = rng.integers(info.min, info.max, shape, dtype=target.type, endpoint=True)
        chosen = np.where(rng.random(shape) < 0.25, full, np.asarray(small).astype(target))
        return np.asarray(chosen, target)
    values = rng.uniform(low, high, shape)
    if low <= 0 <= high:
        spread = np.exp2(-rng.uniform(0, 12, shape))
        values = np.where(rng.random(shape) < 0.125, values * spread, values)
    return np.asarray(np.asarray(values).astype(target))


def wide(rng: np.random.Generator, shape: Shape, dtype: Any) -> Array:
    """Numbers of every size: exponents (or the bits that an integer has) are uniform."""
    target = np.dtype(dtype)
    fmt = format_of(target)
    if fmt is None:
        if target == np.bool_:
            return ordinary(rng, shape, dtype)
        raw = patterns(rng, shape, f"u{target.itemsize}")
        kept = np.right_shift(raw, rng.integers(0, 8 * target.itemsize, shape).astype(raw.dtype))
        signed = np.asarray(kept).astype(target)
        flip = rng.random(shape) < 0.5
        with np.errstate(all="ignore"):
            return np.asarray(np.where(flip & (target.kind == "i"), -signed, signed), target)
    exponents = rng.integers(fmt.emin, fmt.emax + 1, shape)
    sign = np.where(rng.random(shape) < 0.5, -1.0, 1.0)
    return round_to(sign * np.ldexp(rng.uniform(1, 2, shape), exponents), fmt)


def binades(rng: np.random.Generator, dtype: Any, deep: bool) -> Array:
    """Numbers of both signs from every binade of a floating dtype, subnormal ones included.

    A binade is cut into strata with a number in each: 16 strata for exponents from -12 to 12, where
    functions bend and change their branches, 2 elsewhere (4 and 1 at level smoke).
    """
    fmt = format_of(dtype)
    assert isinstance(fmt, Format)
    near, far = (16, 2) if deep else (4, 1)
    values: list[Array] = []
    for exponent in range(fmt.emin - fmt.p + 1, fmt.emax + 1):
        count = near if -12 <= exponent <= 12 else far
        if fmt.p == 53 and count == far and not deep and exponent % 4:
            continue
        strata = 1 + (np.arange(count) + rng.random(count)) / count
        values.append(np.ldexp(strata, exponent))
    positive = round_to(np.concatenate(values), fmt)
    return np.concatenate([positive, -positive])


def _accumulated(kind: str) -> Callable[..., Array]:
    def make(rng: np.random.Generator, shape: Shape, dtype: Any, low: float, high: float) -> Array:
        return accumulation(rng, shape, dtype, kind, max(math.prod(shape), 1))

    return make


DATA: dict[str, Callable[..., Array]] = {
    "ordinary": ordinary,
    "wide": lambda rng, shape, dtype, low, high: wide(rng, shape, dtype),
    "patterns": lambda rng, shape, dtype, low, high: (
        ordinary(rng, shape, dtype) if np.dtype(dtype) == np.bool_ else patterns(rng, shape, dtype)
    ),
    "ill conditioned": lambda rng, shape, dtype, low, high: ill_conditioned(rng, shape, dtype),
    "ties": lambda rng, shape, dtype, low, high: np.asarray(
        rng.integers(0, 2 if np.dtype(dtype) == np.bool_ else 4, shape)
    ).astype(dtype),
    **{
        kind: _accumulated(kind) for kind in ("positive", "zeros", "small_onto_large", "cancelling")
    },
}
"""Kinds of data by name: ``make(rng, shape, dtype, low, high)``."""


def ranked_shape(rng: np.random.Generator, rank: int, size: int) -> Shape:
    """A shape of `rank` dimensions one of which is `size`, of at most about 16,000 elements.

    From rank 4 on all dimensions are short, but more than one long, so that there are many to walk.
    """
    if rank == 0:
        return ()
    if rank >= 4:
        shape = [int(n) for n in rng.integers(2, 4 if rank < 7 else 3, rank)]
        shape[int(rng.integers(rank))] = int(rng.integers(1, 6))
        return tuple(shape)
    budget = max(1, min(2 * 8193 // max(size, 1), 40))
    shape = []
    for _ in range(rank - 1):
        n = int(rng.integers(1, min(budget, 7) + 1))
        shape.append(n)
        budget = max(1, budget // n)
    # Mostly the long dimension is the inner one; sometimes rows are short instead.
    place = rank - 1 if rng.random() < 0.6 else int(rng.integers(rank))
    shape.insert(place, size)
    return tuple(shape)


def _placed(base: Array, view: Callable[[Array], Array], array: Array) -> Array:
    seen = view(base)
    seen[...] = array
    return seen


def _gaps(array: Array, steps: Sequence[int], lead: int) -> Array:
    """The array as every `steps`-th element of a larger one, from position `lead` on."""
    wide_shape = tuple(n * s + lead for n, s in zip(array.shape, steps, strict=True))
    base = np.full(wide_shape, filler(array.dtype), array.dtype)
    cut = tuple(slice(lead, lead + n * s, s) for n, s in zip(array.shape, steps, strict=True))
    return _placed(base, lambda b: b[cut], array)


def _offset(rng: np.random.Generator, array: Array) -> Array:
    lead = int(rng.integers(1, 9))
    base = np.full(array.size + lead, filler(array.dtype), array.dtype)
    return _placed(base, lambda b: b[lead:].reshape(array.shape), array)


def _permuted(rng: np.random.Generator, array: Array) -> Array:
    order = rng.permutation(array.ndim)
    if array.ndim > 1 and (order == np.arange(array.ndim)).all():
        order = order[::-1]
    back = np.argsort(order)
    return np.ascontiguousarray(array.transpose(order)).transpose(back)


def _negative(rng: np.random.Generator, array: Array) -> Array:
    some = tuple(k for k in range(array.ndim) if rng.random() < 0.7)
    chosen = some or tuple(range(array.ndim))
    return np.flip(np.ascontiguousarray(np.flip(array, chosen)), chosen)


def _repeated(rng: np.random.Generator, array: Array) -> Array:
    """One dimension of stride 0: the array's first slice in it, seen again and again."""
    if not array.ndim or not array.size:
        return array
    k = int(rng.integers(array.ndim))
    first = np.ascontiguousarray(
        array[tuple(slice(1) if d == k else slice(None) for d in range(array.ndim))]
    )
    return np.broadcast_to(first, array.shape)


def _overlapping(rng: np.random.Generator, array: Array) -> Array:
    """Windows that slide by one element: rows share all elements but one."""
    if array.ndim < 2 or not array.size:
        return array
    flat = np.resize(array.reshape(-1), sum(array.shape))
    return np.lib.stride_tricks.as_strided(flat, array.shape, (array.itemsize,) * array.ndim)


LAYOUTS: dict[str, Callable[[np.random.Generator, Array], Array]] = {
    "contiguous": lambda rng, array: np.array(array, order="C"),
    "offset": _offset,
    "permuted": _permuted,
    "negative": _negative,
    "gaps": lambda rng, array: _gaps(array, [2] * array.ndim, 1),
    "inner gaps": lambda rng, array: _gaps(
        array, [1] * (array.ndim - 1) + [3] * (array.ndim > 0), 0
    ),
    "padded rows": lambda rng, array: _gaps(array, [1] * array.ndim, 2),
    "reversed order": lambda rng, array: np.ascontiguousarray(array.T).T,
    "repeated": _repeated,
    "overlapping": _overlapping,
}
"""Layouts by name.  The last two change values, as elements share memory."""

SHARING = ("repeated", "overlapping")


def laid_out(rng: np.random.Generator, array: Array, layout: str, keep: bool = False) -> Array:
    """The array in a layout; with `keep` those that change values give way to another one."""
    if keep and layout in SHARING:
        layout = "permuted"
    if not array.ndim and layout not in ("offset", "contiguous"):
        layout = "offset"
    return LAYOUTS[layout](rng, array)
