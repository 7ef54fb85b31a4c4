"""Maps of the index alone: ranges, triangles, tables, random words at far counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt

from ...oracle.random import philox4x32
from .bench import BLOCK, FAR, FLOATS, Array, Bench, register
from .strides import views

BEYOND = (1 << 31) + 4099
"""Beyond the indices that 32 signed bits hold."""


def ranges(bench: Bench) -> None:
    """arange, modulo the dtype where it counts less far; full; eye; triangles."""
    for n in bench.lengths():
        start = int(bench.rng.integers(0, 100))
        count = n
        if bench.dtype.itemsize < 4:
            count = 200 if bench.dtype.itemsize == 1 else 1900
            start = min(start, 50)
        if count == n or n == bench.lengths()[0]:
            due = np.arange(start, start + count).astype(bench.numpy)
            out = tb.arange(start, start + count, dtype=bench.dtype, device=bench.device)
            bench.expect(f"arange of {count}", out, due)
        value = bench.noise(1)
        out = tb.full((n,), value[0].item(), dtype=bench.dtype, device=bench.device)
        bench.expect(f"full of {n}", out, np.broadcast_to(value, (n,)))
    if bench.dtype.is_float:
        n = BLOCK if bench.smoke or bench.dtype.itemsize < 4 else (1 << 20)
        # Differences of a power of two: every place is exact (in 16 bits only that many are).
        n = n if bench.dtype.itemsize >= 4 else 1024
        out = tb.linspace(0, n, n + 1, dtype=bench.dtype, device=bench.device)
        bench.expect(f"linspace of {n + 1}", out, np.arange(n + 1).astype(bench.numpy))
    shapes = [(257, 259)]
    if not bench.smoke and not bench.slow:
        shapes += [(70_003, 31), (3, BLOCK + 9)]
    for shape in shapes:
        x = bench.noise(*shape)
        for k in (0, int(bench.rng.integers(-shape[0] + 1, shape[1]))):
            out = tb.eye(*shape, k=k, dtype=bench.dtype, device=bench.device)
            bench.expect(f"eye {shape}, k={k}", out, np.eye(*shape, k=k, dtype=bench.numpy))
            bench.expect(f"tril {shape}, k={k}", tb.tril(bench.put(x), k=k), np.tril(x, k))
            bench.expect(f"triu {shape}, k={k}", tb.triu(bench.put(x), k=k), np.triu(x, k))


def beyond_exact(bench: Bench) -> None:
    """Floats made of an index beyond 2^24, which float32 does not count: rising, falling, broken.

    Every value is exact in float32, so that an index that is rounded anywhere shows: half of the
    elements beyond 2^24 have an odd index.  The 16-bit ones round those values once.
    """
    # float64 counts them all: its kernels are looked at where they are cheap.
    n = BLOCK + 131 if bench.slow or bench.dtype.itemsize > 4 else FAR
    near = [np.arange(max(p - 99, 0), min(p + 99, n)) for p in (0, BLOCK, 1 << 23, 1 << 24)]
    at = np.unique(np.concatenate([*near, np.arange(n - 1200, n), bench.rng.integers(0, n, 5000)]))
    fine = 2.0**-13 if bench.dtype.itemsize == 2 else float(2.0 ** -int(bench.rng.integers(0, 8)))
    index = bench.put(at)
    how: dict[str, Any] = {"dtype": bench.dtype, "device": bench.device}
    made: dict[str, tuple[float, Callable[[float, float], tb.Tensor]]] = {
        "arange": (fine, lambda a, s: tb.arange(a, a + (n - 0.5) * s, s, **how)),
        "linspace": (-fine, lambda a, s: tb.linspace(a, a + (n - 1) * s, n, **how)),
    }
    if bench.dtype is dt.float32:
        made["falling arange"] = (-fine, made["arange"][1])
    for name, (step, make) in made.items():
        start = -step * (1 << 23)
        due = np.asarray(start + at * step, np.float32).astype(bench.numpy)
        bench.expect(f"{name} of {n} by {step}", tb.take(make(start, step), index, axis=0), due)


def triangles(bench: Bench) -> None:
    """Triangles of many dimensions: the index is that of C order, whatever the strides."""
    if bench.smoke:
        return
    for v in views(bench.rng, 17, (5, 6, 7, 8)):
        t, x = bench.view(bench.noise(v.memory), v.shape, v.strides, v.offset)
        bench.expect(f"tril, {v.label}", tb.tril(t, k=1), np.tril(x, 1))


def _words(seed: int, at: Array) -> NDArray[np.uint32]:
    counter = np.zeros((at.size, 4), np.uint32)
    counter[:, 0], counter[:, 1] = at & 0xFFFFFFFF, at >> 32
    return philox4x32(counter, np.asarray([seed & 0xFFFFFFFF, seed >> 32], np.uint32))


def _places(bench: Bench, n: int) -> Array:
    """Where a draw of n is looked at: its start and end, 2^16 and 2^24, and a few thousand."""
    near = [np.arange(max(p - 64, 0), min(p + 64, n)) for p in (0, BLOCK, 1 << 24, 1 << 31, n)]
    return np.unique(np.concatenate([*near, bench.rng.integers(0, n, 3000)]))


def _draw(bench: Bench, n: int, seed: int) -> tb.Tensor:
    if bench.dtype.is_float:
        return tb.random.uniform(n, seed=seed, dtype=bench.dtype, device=bench.device)
    low, high = bench.dtype.min, bench.dtype.max + 1
    return tb.random.integers(low, high, n, seed=seed, dtype=bench.dtype, device=bench.device)


def _drawn(bench: Bench, words: NDArray[np.uint32]) -> Array:
    """docs of uniform and integers: the upper p bits; the upper bits of 64."""
    if bench.dtype.is_float:
        p = bench.dtype.precision
        wide = words[:, 1].astype(np.uint64) << np.uint64(32) | words[:, 0]
        top = wide >> np.uint64(64 - p) if p > 32 else words[:, 0] >> np.uint32(32 - p)
        return np.asarray(top.astype(np.float64) * 2.0**-p).astype(bench.numpy)
    bits = bench.dtype.bits
    return np.asarray(
        (words[:, 1] >> np.uint32(32 - bits)).astype(np.int64) + bench.dtype.min
    ).astype(bench.numpy)


def words(bench: Bench) -> None:
    """Random elements far from the first, against the oracle's generator."""
    seed = int(bench.rng.integers(1, 1 << 62))
    for n in bench.lengths()[-1:]:
        at = _places(bench, n)
        found = bench.fetch(_draw(bench, n, seed))
        bench.expect(f"draw of {n}", bench.put(found[at]), _drawn(bench, _words(seed, at)))
    v = next(views(bench.rng, 17, (8,)))
    t, x = bench.view(bench.noise(v.memory), v.shape, v.strides, v.offset)
    if bench.dtype.is_float:
        keep = _words(seed, np.arange(x.size))[:, 0].reshape(x.shape) >= np.uint32(1 << 31)
        small = np.asarray(x / 4).astype(bench.numpy)
        out = tb.nn.dropout(tb.multiply(t, 0.25), 0.5, seed=seed)
        bench.expect("dropout of rank 8", out, np.where(keep, small * 2, 0).astype(bench.numpy))


def order(bench: Bench) -> None:
    """A permutation of more than 2^16: the stable order of 64 random bits."""
    if bench.dtype is not dt.int32 or bench.smoke:
        return
    seed, n = int(bench.rng.integers(1, 1 << 62)), BLOCK + 77
    both = _words(seed, np.arange(n))
    wide = both[:, 1].astype(np.uint64) << np.uint64(32) | both[:, 0]
    due = np.argsort(wide, kind="stable").astype(np.int64)
    bench.expect(
        f"permutation of {n}", tb.random.permutation(n, seed=seed, device=bench.device), due
    )


def beyond(bench: Bench) -> None:
    """More than 2^31 elements of one byte: indices, offsets, chunks and counters."""
    if not bench.exhaustive or bench.dtype is not dt.uint8:
        return
    seed = int(bench.rng.integers(1, 1 << 62))
    big = _draw(bench, BEYOND, seed)
    at = _places(bench, BEYOND)
    for lo in range(0, BEYOND, 1 << 26):
        here = at[(at >= lo) & (at < lo + (1 << 26))]
        found = bench.fetch(big[lo : min(lo + (1 << 26), BEYOND)])[here - lo]
        bench.expect(f"draw from {lo} on", bench.put(found), _drawn(bench, _words(seed, here)))
    tail = np.arange(BEYOND - 2000, BEYOND)
    due = _drawn(bench, _words(seed, tail))
    index = bench.put(tail[::-1].copy())
    bench.expect("taken beyond 2^31", tb.take(big, index), due[::-1])
    bench.expect("a view beyond 2^31", tb.bitwise_invert(big[BEYOND - 2000 :]), ~due)
    del big
    one = tb.broadcast_to(bench.put(np.ones(1, np.uint8)), (BEYOND,))
    bench.expect("sum beyond 2^31", tb.sum(one), np.asarray(BEYOND, np.uint64))
    flat = tb.zeros((BEYOND,), dtype=dt.uint8, device=bench.device)
    for p in ((1 << 31) + 1, BEYOND - 1):
        bench.poke(flat, p, 1)
        bench.expect(f"argmax at {p}", tb.argmax(flat), np.asarray(p))
        bench.poke(flat, p, 0)


register("map_far", beyond_exact, dtypes=FLOATS)
register("map_index", ranges, triangles, smoke=(dt.float64,))
register("map_words", words, order, beyond, smoke=(dt.uint8,))
