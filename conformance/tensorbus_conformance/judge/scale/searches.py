"""Sorting, searching, gathering and scattering: places beyond 2^16 and 2^24, many dimensions."""

from __future__ import annotations

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt

from .bench import BLOCK, LONG, Array, Bench, register
from .strides import KINDS, views


def _sorted(bench: Bench, label: str, x: Array, axis: int) -> None:
    order = np.argsort(x, axis=axis, kind="stable").astype(np.int64)
    t = bench.put(x)
    bench.expect(f"argsort, {label}", tb.argsort(t, axis=axis), order)
    if not bench.smoke:
        bench.expect(f"sort, {label}", tb.sort(t, axis=axis), np.take_along_axis(x, order, axis))


def sorts(bench: Bench) -> None:
    """One long row, many short ones, columns; equal elements keep their order."""
    if bench.smoke:
        return _sorted(bench, f"{BLOCK + 1}", bench.noise(BLOCK + 1), 0)
    _sorted(bench, f"{2 * BLOCK + 3}", bench.noise(2 * BLOCK + 3), 0)
    n = 300 if bench.slow else BLOCK // 4 + 5
    _sorted(bench, f"{n} rows of 5", bench.noise(n, 5), 1)
    _sorted(bench, "257 columns of 259", bench.noise(259, 257), 0)
    return None


def sort_ranks(bench: Bench) -> None:
    if bench.smoke:
        return
    for v in views(bench.rng, 0, (6, 8), ("gapped", "permuted")):
        t, x = bench.view(bench.noise(v.memory), v.shape, v.strides, v.offset)
        for axis in (0, int(bench.rng.integers(1, len(v.shape)))):
            order = np.argsort(x, axis=axis, kind="stable").astype(np.int64)
            bench.expect(f"argsort, {v.label}, axis {axis}", tb.argsort(t, axis=axis), order)


def found(bench: Bench) -> None:
    """searchsorted and nonzero beyond 2^16 (2^20) elements, and coordinates of many dimensions."""
    n = bench.lengths()[-1] if bench.dtype.itemsize == 1 else BLOCK + 1 if bench.smoke else LONG
    mask = bench.rng.integers(0, 64, n, np.uint8) == 0
    x = bench.noise(n) * mask.astype(bench.numpy)
    (places,) = tb.nonzero(bench.put(x))
    bench.expect(f"nonzero of {n}", places, np.flatnonzero(x).astype(np.int64))
    chosen = (8,) if bench.smoke else (5, 6, 8, 9)
    for v in views(bench.rng, 0, chosen, ("gapped", "permuted")):
        t, y = bench.view(bench.noise(v.memory, bits=1), v.shape, v.strides, v.offset)
        for k, (got, due) in enumerate(zip(tb.nonzero(t), np.nonzero(y), strict=True)):
            bench.expect(f"nonzero, {v.label}, coordinate {k}", got, due.astype(np.int64))
    line = np.sort(bench.noise(n if n <= LONG else LONG))
    values = bench.noise(BLOCK + 1)
    out = tb.searchsorted(bench.put(line), bench.put(values))
    bench.expect(
        f"searchsorted in {line.size}", out, np.searchsorted(line, values).astype(np.int64)
    )


def taken(bench: Bench) -> None:
    """take, take_along_axis, indexing: places beyond 2^16 and 2^24, long and wide arrays."""
    for n in bench.lengths()[-1:]:
        x = bench.noise(n)
        at = bench.rng.integers(-n, n, BLOCK + 3)
        at[:4] = (n - 1, -1, BLOCK, n - 2)
        t, where = bench.put(x), bench.put(at)
        bench.expect(f"take of {n}", tb.take(t, where), x[at])
        if not bench.smoke:
            bench.expect(f"indexing of {n}", t[where], x[at])
            half = n // 2 if n <= LONG or bench.dtype.itemsize == 1 else n - LONG
            back = np.arange(n - half)[::-1].copy()
            part = tb.take(t[half:], bench.put(back))
            bench.expect(f"take of {n} from {half} on, backwards", part, x[half:][::-1])
    if bench.smoke:
        return
    many = bench.rows()
    for shape in ((many, 5), (5, BLOCK + 99), (300, 513)):
        x = bench.noise(*shape)
        t = bench.put(x)
        for axis in (0, 1):
            at = bench.rng.integers(-shape[axis], shape[axis], 700)
            bench.expect(f"take of {shape}, axis {axis}", tb.take(t, bench.put(at), axis=axis),
                         np.take(x, at, axis))  # fmt: skip
            wide = tuple(33 if k == axis else n for k, n in enumerate(shape))
            each = bench.rng.integers(0, shape[axis], wide)
            out = tb.take_along_axis(t, bench.put(each), axis=axis)
            due = np.take_along_axis(x, each, axis)
            bench.expect(f"take_along_axis of {shape}, axis {axis}", out, due)


def taken_ranks(bench: Bench) -> None:
    chosen, kinds = ((8,), ("gapped",)) if bench.smoke else ((5, 6, 7, 8), KINDS)
    for v in views(bench.rng, 0, chosen, kinds):
        t, x = bench.view(bench.noise(v.memory), v.shape, v.strides, v.offset)
        for axis in range(len(v.shape)):
            n = v.shape[axis]
            at = bench.rng.integers(-n, n, 5)
            out = tb.take(t, bench.put(at), axis=axis)
            bench.expect(f"take, {v.label}, axis {axis}", out, np.take(x, at, axis))
        each = bench.rng.integers(0, v.shape[axis], v.shape)
        out = tb.take_along_axis(t, bench.put(each), axis=axis)
        bench.expect(f"take_along_axis, {v.label}", out, np.take_along_axis(x, each, axis))
        pair = [bench.rng.integers(0, n, 7) for n in (v.shape[0], v.shape[1])]
        out = t[bench.put(pair[0]), bench.put(pair[1])]
        bench.expect(f"indexing by two, {v.label}", out, x[pair[0], pair[1]])


def segments(bench: Bench) -> None:
    """index_add and scatter: targets and sources beyond 2^16, wide ones, many dimensions."""
    shapes = [(BLOCK + 5, 2)] if bench.smoke else [(BLOCK + 5, 3), (9, 513), (7, BLOCK // 4 + 9)]
    for n, m in shapes:
        count = 2 * n + 1 if n > 9 else 40
        x, y = bench.noise(n, m, bits=3), bench.noise(count, m, bits=3)
        at = bench.rng.integers(0, n, count)
        due = x.copy()
        # Exact sums of small integers, however they are ordered: float64 counts them all.
        wide = np.zeros((n, m))
        for k in range(m):
            wide[:, k] = np.bincount(at, y[:, k].astype(np.float64), n)
        due = (x.astype(np.float64) + wide).astype(np.int64).astype(bench.numpy)
        out = tb.index_add(bench.put(x), bench.put(at), bench.put(y), axis=0)
        bench.expect(f"index_add of {count} to {n} x {m}", out, due)
        if bench.smoke:
            continue
        rows = np.repeat(at[:, None], m, 1)
        last = x.copy()
        last[at] = y  # NumPy's last assignment stays
        out = tb.scatter(bench.put(x), bench.put(rows), bench.put(y), axis=0)
        bench.expect(f"scatter of {count} to {n} x {m}", out, last)
    if bench.smoke:
        return
    for v in views(bench.rng, 0, (6, 8), ("gapped", "negative")):
        t, x = bench.view(bench.noise(v.memory, bits=3), v.shape, v.strides, v.offset)
        axis = int(bench.rng.integers(0, len(v.shape)))
        at = bench.rng.integers(0, v.shape[axis], 4)
        shape = tuple(4 if k == axis else n for k, n in enumerate(v.shape))
        y = bench.noise(*shape, bits=3)
        due = np.moveaxis(x.copy(), axis, 0)
        np.add.at(due, at, np.moveaxis(y, axis, 0))
        out = tb.index_add(t, bench.put(at), bench.put(y), axis=axis)
        bench.expect(f"index_add, {v.label}, axis {axis}", out, np.moveaxis(due, 0, axis))


register("sort", sorts, sort_ranks, smoke=(dt.int32,))
register("search", found, smoke=(dt.uint8,))
register("gather", taken, taken_ranks, smoke=(dt.float16,))
register("segments", segments, smoke=(dt.float64,))
