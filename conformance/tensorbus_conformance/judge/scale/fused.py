"""Fused rows (softmax, layer_norm and their like) and running sums, with results that are exact.

A row in which one element is far above the others has a softmax of exactly 1 there and 0 elsewhere
(exp of less than -1100 is 0, exp(0) and log(1) are exact), and its largest element as log-sum-exp;
two equal ones give 1/2 each.  A row of +s and -s, equally many, has mean 0 and variance s^2, so
layer_norm without epsilon gives +1 and -1, times the weight; rms_norm needs no balance.
"""

from __future__ import annotations

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt

from .bench import BLOCK, FAR, FLOATS, LONG, Array, Bench, register
from .strides import KINDS, views


def _peaks(bench: Bench, n: int, m: int) -> tuple[Array, Array, Array]:
    """Rows with one or two peaks, their softmax, their heights (all different up to 1000)."""
    x = np.full((n, m), -4000.0)
    height = (np.arange(n) * 7 % 1000).astype(np.float64)
    first, second = bench.rng.integers(0, m, n), bench.rng.integers(0, m, n)
    due = np.zeros((n, m))
    x[np.arange(n), first] = x[np.arange(n), second] = height
    due[np.arange(n), first] = due[np.arange(n), second] = np.where(first == second, 1, 0.5)
    return x.astype(bench.numpy), due.astype(bench.numpy), height.astype(bench.numpy)


def _signs(bench: Bench, n: int, m: int) -> tuple[Array, Array]:
    """Rows of +s and -s (s a power of two for each row, m even), and their signs."""
    signs = np.where(np.arange(m) % 2, 1.0, -1.0)
    # Each row is turned by another number of places, and every pair of elements by a random bit.
    turned = signs[None, :] * np.repeat(bench.rng.choice([-1.0, 1.0], (n, m // 2)), 2, axis=1)
    scale = np.exp2(np.arange(n) % 5 - 2.0)[:, None]
    return (turned * scale).astype(bench.numpy), turned.astype(bench.numpy)


def shapes(bench: Bench) -> list[tuple[int, int]]:
    if bench.smoke:
        return [(9, 8192 + 2)]
    found = [(300, 18), (9, 3 * 8192 + 2), (3, BLOCK + 2), (57, 514)]
    if not bench.slow:
        found += [(bench.rows(), 6)]
        found += [(9, LONG + 1)] if bench.dtype is dt.float32 else [(3, LONG + 1)]
    return found


def softmax(bench: Bench) -> None:
    for n, m in shapes(bench):
        x, due, height = _peaks(bench, n, m)
        t = bench.put(x)
        label = f"{n} rows of {m}"
        bench.expect(f"softmax, {label}", tb.nn.softmax(t, axis=-1), due)
        if bench.smoke or m > LONG:
            continue
        single = (due == 1).any(1)
        found = bench.fetch(tb.logsumexp(t, axis=1))
        bench.expect(f"logsumexp, {label}", bench.put(found[single]), height[single])
        turned = bench.put(x, "transposed")
        bench.expect(f"softmax, {label}, transposed", tb.nn.softmax(turned, axis=1), due)
    n = 1 << 13 if bench.smoke else 1 << 15
    flat = bench.put(np.full((3, n), 3.25, bench.numpy))
    bench.expect(
        f"softmax of {n} equal", tb.nn.softmax(flat, axis=1), np.full((3, n), 1 / n, bench.numpy)
    )


def norms(bench: Bench) -> None:
    for n, m in shapes(bench):
        x, signs = _signs(bench, n, m)
        t, label = bench.put(x), f"{n} rows of {m}"
        weight = bench.noise(m, bits=5)
        out = tb.nn.layer_norm(t, weight=bench.put(weight), eps=0.0)
        bench.expect(f"layer_norm, {label}", out, signs * weight)
        if not bench.smoke and m <= LONG:
            bench.expect(f"rms_norm, {label}", tb.nn.rms_norm(t, eps=0.0), signs)
            if bench.dtype.bits > 16:
                bench.expect(f"var, {label}", tb.var(t, axis=1), x[:, 0] ** 2)


def _levels(bench: Bench, count: int) -> Array:
    """Multiples of what makes exp vanish: 128 in float32 arithmetic, 2048 in float64's."""
    if bench.dtype.bits == 16:
        return (bench.rng.integers(0, 500, count) * 128.0).astype(bench.numpy)
    return (bench.rng.permutation(count) * 2048.0).astype(bench.numpy)


def dimensions(bench: Bench) -> None:
    """softmax along every axis of views of many dimensions: 1 at the largest element, else 0."""
    chosen: tuple[int, ...] = (8,) if bench.smoke else (5, 6, 7, 8)
    kinds: tuple[str, ...] = ("gapped",) if bench.smoke else KINDS
    if bench.slow:
        chosen, kinds = ((6,) if bench.smoke else (6, 8)), ("gapped",)
    for v in views(bench.rng, 0, chosen, kinds):
        rank = len(v.shape)
        known: list[Array] = []
        while not known:
            t, x = bench.view(_levels(bench, v.memory), v.shape, v.strides, v.offset)
            tops = [x == x.max(axis, keepdims=True) for axis in range(rank)]
            if all(tops[k].sum(k).max() <= 2 or not v.strides[k] for k in range(rank)):
                known = tops  # a third is not exact, so no row may have three that are largest
        # The interpreter takes a fraction of a millisecond for each row.
        for axis in (0, rank - 1) if bench.slow else range(rank):
            count = known[axis].sum(axis, keepdims=True)
            if count.max() > 2:
                continue
            out = tb.nn.softmax(t, axis=axis)
            label = f"softmax, {v.label}, {v.shape}, axis {axis}"
            bench.expect(label, out, (known[axis] / count).astype(bench.numpy))


def running(bench: Bench) -> None:
    """Running sums along vectors, rows and columns, through three levels of blocks."""
    wide = bench.dtype if bench.dtype.is_float else dt.int64

    def due(x: Array, axis: int) -> Array:
        kind = np.float64 if wide.is_float else np.int64
        return np.cumsum(x, axis, dtype=kind).astype(wide.numpy)

    for n in bench.lengths(far=0):
        x = bench.noise(n, bits=1)
        out = tb.cumulative_sum(bench.put(x), dtype=wide)
        bench.expect(f"running sum of {n}", out, due(x, 0))
        if n <= LONG and bench.dtype.kind != "u":
            signs = np.where(x == 0, 1, -1).astype(bench.numpy)
            products = np.cumprod(signs.astype(np.int8)).astype(bench.numpy)
            out = tb.cumulative_prod(bench.put(signs), dtype=bench.dtype)
            bench.expect(f"running product of {n}", out, products)
    if bench.smoke:
        return
    if bench.dtype.itemsize == 1 and not bench.slow:  # three levels of blocks, modulo 256
        x = bench.noise(FAR)
        out = tb.cumulative_sum(bench.put(x), dtype=bench.dtype)
        bench.expect(f"running sum of {FAR}", out, np.cumsum(x, dtype=bench.numpy))
    for n, m in ((bench.rows(), 5), (bench.rows(), 130), (3, BLOCK + 9), (257, 1025)):
        x = bench.noise(n, m, bits=1)
        t = bench.put(x)
        for axis in (0, 1):
            out = tb.cumulative_sum(t, axis=axis, dtype=wide)
            bench.expect(f"running sum of {n} x {m}, axis {axis}", out, due(x, axis))
        out = tb.cumulative_sum(t, axis=1, dtype=wide, include_initial=True)
        first = np.zeros((n, 1), wide.numpy)
        bench.expect(f"from zero, {n} x {m}", out, np.concatenate([first, due(x, 1)], 1))
    for v in views(bench.rng, 0, (5, 6, 7, 8)):
        t, x = bench.view(bench.noise(v.memory, bits=5), v.shape, v.strides, v.offset)
        for axis in range(len(v.shape)):
            out = tb.cumulative_sum(t, axis=axis, dtype=wide)
            bench.expect(f"running sum, {v.label}, axis {axis}", out, due(x, axis))


register("rows_softmax", softmax, dtypes=FLOATS, smoke=(dt.float32,))
register("rows_norm", norms, dtypes=FLOATS, smoke=(dt.float64,))
register("rows_ranks", dimensions, dtypes=FLOATS, smoke=(dt.float32,))
register("scan", running, smoke=(dt.int32,))
