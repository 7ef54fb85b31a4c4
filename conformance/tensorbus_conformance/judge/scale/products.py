"""Matrix products of small integers: exact in every order, so the libraries' too."""

from __future__ import annotations

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt

from .bench import BLOCK, Array, Bench, register
from .strides import KINDS, views


def _factors(bench: Bench, *shape: int) -> Array:
    """-1 and 1 (1 to 3 where there are no signs): no product is zero, so no sum is -0."""
    if bench.dtype.kind == "u":
        return bench.noise(*shape, bits=1) + np.uint8(1)
    return np.where(bench.noise(*shape, bits=1) > 0, 1, -1).astype(bench.numpy)


def _product(bench: Bench, a: Array, b: Array) -> Array:
    """Exact: all sums are below 2^24, and what a small integer dtype cannot hold wraps."""
    exact = np.matmul(a.astype(np.float64), b.astype(np.float64))
    if bench.dtype.is_float:
        return np.asarray(exact.astype(bench.numpy))
    return np.asarray(exact.astype(np.int64).astype(bench.numpy))


def _both(bench: Bench, label: str, a: tb.Tensor, b: tb.Tensor, due: Array) -> None:
    """The portable kernel, then whichever serves a user."""
    bench.expect(f"matmul, {label}", tb.matmul(a, b), due)
    if bench.dtype.is_float and not bench.slow and not bench.smoke:
        with tb.reproducible(False):
            bench.expect(f"matmul as served, {label}", tb.matmul(a, b), due)


def sizes(bench: Bench) -> None:
    """Each of M, K, N and the batch beyond 2^16; all around the tile; a result beyond 2^24."""
    many = bench.rows()
    shapes = [(3, BLOCK + 9, 5)]
    if not bench.smoke:
        shapes += [(many, 3, 5), (3, 5, BLOCK + 77), (129, 257, 513), (5, 513, 65), (4, 256, 64)]
        if not bench.slow and bench.dtype.itemsize <= 2:
            shapes.append((4099, 2, 4099))
    for m, k, n in shapes:
        a, b = _factors(bench, m, k), _factors(bench, k, n)
        due = _product(bench, a, b)
        x, y = bench.put(a), bench.put(b)
        _both(bench, f"{m} x {k} x {n}", x, y, due)
        if m * n < 1 << 20 and not bench.smoke:
            turned = bench.put(b, "transposed")
            _both(bench, f"{m} x {k} x {n}, transposed", x, turned, due)
    if bench.smoke:
        return
    a, b = _factors(bench, many, 2, 3), _factors(bench, many, 3, 2)
    _both(bench, f"{many} matrices", bench.put(a), bench.put(b), _product(bench, a, b))
    one = _factors(bench, 3, 2)
    _both(bench, f"{many} by one", bench.put(a), bench.put(one), _product(bench, a, one))


def batches(bench: Bench) -> None:
    """Batch dimensions that do not merge, up to 7, and matrices of any strides."""
    chosen, kinds = ((9,), ("gapped",)) if bench.smoke else ((5, 7, 8, 9), KINDS)
    for v in views(bench.rng, 0, chosen, kinds):
        t, a = bench.view(_factors(bench, v.memory), v.shape, v.strides, v.offset)
        b = _factors(
            bench, *(n if k % 2 else 1 for k, n in enumerate(v.shape[:-2])), v.shape[-1], 3
        )
        label = f"{v.label}, {v.shape}"
        bench.expect(f"matmul, {label}", tb.matmul(t, bench.put(b)), _product(bench, a, b))


register("matmul_sizes", sizes, smoke=(dt.float32,),
         dtypes=(dt.uint8, dt.float16, dt.float32, dt.int32, dt.float64))  # fmt: skip
register("matmul_batches", batches, smoke=(dt.float64,))
