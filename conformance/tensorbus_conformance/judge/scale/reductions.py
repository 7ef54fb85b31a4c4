"""Reductions: all of a vector, rows, columns, positions of extremes, dimensions between others.

Sums are of integers small enough that every partial sum is exact, in whichever order; 16-bit
results are exact sums rounded once.  Data are random, so each total is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt

from .bench import BLOCK, FAR, LONG, Array, Bench, register
from .strides import KINDS, views

_SIZES = (1, 2, 15, 16, 17, 31, 32, 33, 127, 128, 129, 255, 256, 257, 513)


def summands(bench: Bench, *shape: int) -> Array:
    """Elements whose sums float32 holds: up to 2^24 of them, -1 to 1, or more for fewer."""
    if bench.dtype.is_integer:
        return bench.noise(*shape)
    return bench.noise(*shape, bits=1 if np.prod(shape) > LONG * 2 else 3)


def summed(bench: Bench, x: Array, axis: int | Sequence[int] | None) -> Array:
    """Sums as tensorbus gives them: integers in 64 bits, floats rounded once."""
    where = axis if axis is None or isinstance(axis, int) else tuple(axis)
    if not bench.dtype.is_integer:
        return np.asarray(np.sum(x, axis=where, dtype=np.float64)).astype(bench.numpy)
    wide = np.uint64 if bench.dtype.kind == "u" else np.int64
    return np.asarray(np.sum(x, axis=where, dtype=wide))


def vector(bench: Bench) -> None:
    """Everything to one value, and where a single largest or smallest element is."""
    for n in bench.lengths(far=4):
        x = summands(bench, n)
        t = bench.put(x)
        bench.expect(f"sum of {n}", tb.sum(t), summed(bench, x, None))
        if n == FAR and bench.dtype.itemsize > 2:
            continue
        bench.expect(f"max of {n}", tb.max(t), np.max(x))
        bench.expect(f"count of {n}", tb.count_nonzero(t), np.asarray(np.count_nonzero(x)))
        if n <= LONG:
            bench.expect(f"sum of {n} by twos", tb.sum(t[1::2]), summed(bench, x[1::2], None))
            bench.expect(f"sum of {n} backwards", tb.sum(tb.flip(t)), summed(bench, x, None))
            marks = np.zeros(n, np.bool_)
            flag = bench.put(marks)
            place = int(bench.rng.integers(0, n))
            bench.expect(f"any of {n} zeros", tb.any(flag), np.asarray(False))
            bench.poke(flag, place, True)
            bench.expect(f"any of {n}, one at {place}", tb.any(flag), np.asarray(True))


def positions(bench: Bench) -> None:
    """argmax and argmin of a planted extreme, alone and before its equal in a later chunk."""
    for n in bench.lengths():
        x = bench.noise(n, bits=6)
        t = bench.put(x)
        chunk = 8192
        late = int(bench.rng.integers(n // 2, n - 1))
        odd = min(n - 2, (1 << 24) + 2 * int(bench.rng.integers(0, 500)) + 1)
        edges = [0, chunk - 1, chunk, 128 * chunk - 1, 128 * chunk, BLOCK, odd, late, n - 1]
        if bench.smoke:
            edges = [chunk, late]
        for sign, find in ((1, tb.argmax), (-1, tb.argmin)):
            low = -1 if bench.dtype.kind != "u" else 0
            top = 100 if sign > 0 else low * 100
            if sign < 0 and low == 0:
                x = np.maximum(x, 1)
                t = bench.put(x)
            for p in edges if sign > 0 else edges[-2:]:
                if p >= n:
                    continue
                again = int(bench.rng.integers(p, n))
                bench.poke(t, p, top)
                bench.poke(t, again, top)
                bench.expect(f"{find.__name__} of {n} at {p}, {again}", find(t), np.asarray(p))
                bench.poke(t, p, x[p])
                bench.poke(t, again, x[again])


def placed(bench: Bench) -> None:
    """argmax in every row and column: each has its extreme in another chunk."""
    shapes = (
        [(3, 2 * 8192 + 5)] if bench.smoke else [(5, 9 * 8192 + 5), (bench.rows(), 9), (3, 513)]
    )
    for n, m in shapes:
        x = bench.noise(n, m, bits=6)
        at = bench.rng.integers(0, m, n)
        again = bench.rng.integers(0, m, n)
        at[0] = again[0] = m - 1 - int(bench.rng.integers(0, 5))  # surely in the last chunk
        x[np.arange(n), at] = 100
        x[np.arange(n), again] = 100
        due = np.minimum(at, again).astype(np.int64)
        bench.expect(f"argmax of {n} rows of {m}", tb.argmax(bench.put(x), axis=1), due)
        turned = bench.put(np.ascontiguousarray(x.T))
        bench.expect(f"argmax of {n} columns of {m}", tb.argmax(turned, axis=0), due)
        out = tb.argmax(bench.put(x, "transposed"), axis=1, keepdims=True)
        bench.expect(f"argmax of {n} rows of {m}, transposed", out, due[:, None])


def rows(bench: Bench) -> None:
    """Sums and extremes of many rows and of long ones."""
    shapes = [(3, BLOCK + 1)]
    if not bench.smoke:
        shapes += [(bench.rows(), 33), (bench.rows(), 1)]
        shapes += [(7, 8193)] if bench.slow else [(3, LONG), (257, 8193)]
    for n, m in shapes:
        x = summands(bench, n, m)
        t = bench.put(x)
        bench.expect(f"sum of {n} rows of {m}", tb.sum(t, axis=1), summed(bench, x, 1))
        if not bench.smoke:
            bench.expect(f"min of {n} rows of {m}", tb.min(t, axis=1), np.min(x, 1))
            out = tb.sum(t[:, ::2], axis=1)
            bench.expect(f"sum of {n} rows of {m} by twos", out, summed(bench, x[:, ::2], 1))


def columns(bench: Bench) -> None:
    """Columns beyond one block of them (64, 256), beyond 128 chunks, behind many rows."""
    shapes: list[tuple[int, ...]] = [(5, 257)]
    if bench.smoke:
        shapes += [(8193, 9)]
    else:
        shapes += [(300, k) for k in (2, 63, 64, 65, 255, 256, 513, 1025)]
        shapes += [(2 * 8192 + 5, 259), (3, BLOCK + 9)]
        shapes += [(8192 * 2 + 1, 3)] if bench.slow else [(LONG, 3)]
        shapes += [(bench.rows(), 3, 5), (7, 300, 513)]
    for shape in shapes:
        axis = 1 if len(shape) == 3 else 0
        x = summands(bench, *shape)
        t = bench.put(x)
        bench.expect(f"sum of columns, {shape}", tb.sum(t, axis=axis), summed(bench, x, axis))
        if not bench.smoke:
            bench.expect(f"max of columns, {shape}", tb.max(t, axis=axis), np.max(x, axis))


def between(bench: Bench) -> None:
    """Every axis, and pairs of axes, of views of 5 to 8 dimensions: the others are walked."""
    chosen: tuple[int, ...] = (8,) if bench.smoke else (5, 6, 7, 8)
    kinds: tuple[str, ...] = ("gapped",) if bench.smoke else KINDS
    if bench.slow and not bench.smoke:
        chosen, kinds = (6, 8), ("gapped", "negative")
    wide = 17 if bench.dtype.itemsize >= 4 and not bench.slow else 0
    for v in views(bench.rng, wide, chosen, kinds):
        memory = bench.noise(v.memory, bits=4)
        t, x = bench.view(memory, v.shape, v.strides, v.offset)
        rank = len(v.shape)
        single = [(k,) for k in range(rank)]
        pairs = list(combinations(range(rank), 2))
        some = [pairs[int(k)] for k in bench.rng.integers(0, len(pairs), 1 if bench.smoke else 4)]
        for axes in single + some:
            label = f"{v.label}, {v.shape}, axes {axes}"
            bench.expect(f"sum, {label}", tb.sum(t, axis=axes), summed(bench, x, axes))
            if not bench.smoke and len(axes) == 1:
                out = tb.argmax(t, axis=axes[0])
                bench.expect(f"argmax, {label}", out, np.argmax(x, axes[0]).astype(np.int64))


def every(bench: Bench) -> None:
    """Rows and columns of every pair of sizes around the widths of vectors, lanes and blocks."""
    kinds = int(bench.rng.integers(0, 5))
    sizes = _SIZES[::3] if bench.slow else _SIZES
    for i, n in enumerate(sizes):
        for j, m in enumerate(sizes):
            x = bench.noise(n, m, bits=4)
            t = bench.put(x)
            for axis in (0, 1):
                _every(bench, (kinds + i + j + 2 * axis) % 5, t, x, axis)


def _every(bench: Bench, which: int, t: tb.Tensor, x: Array, axis: int) -> None:
    label = f"{x.shape}, axis {axis}"
    if which == 0:
        bench.expect(f"sum, {label}", tb.sum(t, axis=axis), summed(bench, x, axis))
    elif which == 1:
        bench.expect(f"max, {label}", tb.max(t, axis=axis), np.max(x, axis))
    elif which == 2:
        out = tb.argmin(t, axis=axis)
        bench.expect(f"argmin, {label}", out, np.argmin(x, axis).astype(np.int64))
    elif which == 3:
        bench.expect(f"all, {label}", tb.all(t, axis=axis), np.all(x, axis))
    else:
        wide = bench.dtype if bench.dtype.is_float else dt.int64
        out = tb.cumulative_sum(t, axis=axis, dtype=wide)
        due = np.cumsum(x, axis, dtype=np.float64 if wide.is_float else np.int64)
        bench.expect(f"cumulative_sum, {label}", out, due.astype(wide.numpy))


register("reduce_vector", vector, smoke=(dt.float16,))
register("reduce_position", positions, placed, smoke=(dt.int32,))
register("reduce_row", rows, smoke=(dt.float64,))
register("reduce_column", columns, smoke=(dt.float16,))
register("reduce_between", between, smoke=(dt.int32,))
register("reduce_every", every)
