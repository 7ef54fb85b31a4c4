"""Copies: joined, stacked, rolled, repeated, tiled and turned arrays; conversions."""

from __future__ import annotations

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt

from .bench import BLOCK, Array, Bench, register
from .strides import WALKED, views


def large(bench: Bench) -> None:
    """Parts that begin and end around 2^16, many rows, wide ones."""
    n = BLOCK + 1
    shapes: list[tuple[int, int]] = [(n, 3)] if bench.smoke else [(n, 3), (5, n), (257, 513)]
    for shape in shapes:
        x, y = bench.noise(*shape), bench.noise(*shape)
        t, u = bench.put(x), bench.put(y)
        for axis in (0, 1):
            _joined(bench, f"{shape}, axis {axis}", (t, u), (x, y), axis)
        if bench.smoke:
            continue
        bench.expect(f"transposed {shape}", tb.reshape(tb.permute_dims(t, (1, 0)), (-1,)),
                     x.T.reshape(-1))  # fmt: skip
        bench.expect(
            f"flipped {shape}", tb.concat([tb.flip(t), u]), np.concatenate([np.flip(x), y])
        )
        bench.expect(f"tile {shape}", tb.tile(t, (2, 3)), np.tile(x, (2, 3)))
        counts = bench.rng.integers(0, 3, shape[0])
        out = tb.repeat(t, bench.put(counts), axis=0)
        bench.expect(f"repeat {shape} by counts", out, np.repeat(x, counts, axis=0))
        bench.expect(f"roll {shape}", tb.roll(t, 12345), np.roll(x, 12345))


def _joined(
    bench: Bench, label: str, tensors: tuple[tb.Tensor, ...], arrays: tuple[Array, ...], axis: int
) -> None:
    shift = int(bench.rng.integers(1, arrays[0].shape[axis]))
    bench.expect(
        f"concat {label}", tb.concat(list(tensors), axis=axis), np.concatenate(arrays, axis)
    )
    bench.expect(
        f"roll {label}", tb.roll(tensors[0], shift, axis=axis), np.roll(arrays[0], shift, axis)
    )
    if not bench.smoke and arrays[0].ndim < WALKED:  # both have a dimension more
        bench.expect(f"stack {label}", tb.stack(list(tensors), axis=axis), np.stack(arrays, axis))
        bench.expect(
            f"repeat {label}", tb.repeat(tensors[0], 3, axis=axis), np.repeat(arrays[0], 3, axis)
        )


def converted(bench: Bench) -> None:
    """astype to every width: the two buffers are walked by other steps."""
    for target in (dt.uint8, dt.int16, dt.float32, dt.int64):
        if target.name not in bench.device.capabilities.dtypes or bench.smoke:
            continue
        x = np.abs(bench.noise(BLOCK + 1, 2, bits=7))
        t = bench.put(x)[:, 1:]
        bench.expect(f"as {target.name}", tb.astype(t, target), x[:, 1:].astype(target.numpy))
        bench.expect(
            f"as {target.name}, all", tb.astype(bench.put(x), target), x.astype(target.numpy)
        )


def ranks(bench: Bench) -> None:
    """Joined along every axis, rolled and tiled in 5 to 8 dimensions."""
    if bench.smoke:
        return
    for v in views(bench.rng, 0, (5, 6, 7, 8), ("gapped", "permuted", "negative")):
        t, x = bench.view(bench.noise(v.memory), v.shape, v.strides, v.offset)
        y = bench.noise(*v.shape)
        u = bench.put(y)
        for axis in range(len(v.shape)):
            _joined(bench, f"{v.label}, axis {axis}", (t, u), (x, y), axis)
        if v.label.endswith("gapped"):
            times = tuple(2 if k == 1 else 1 for k in range(len(v.shape)))
            bench.expect(f"tile, {v.label}", tb.tile(u, times), np.tile(y, times))


register("copy_large", large, converted, smoke=(dt.float64,))
register("copy_ranks", ranks)
