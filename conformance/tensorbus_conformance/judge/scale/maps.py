"""Maps: rows walked by dimensions, flat elements, the index itself, and copies of all kinds."""

from __future__ import annotations

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt

from .bench import BLOCK, FAR, LONG, Array, Bench, register
from .strides import KINDS, WALKED, views


def _turn(bench: Bench, x: tb.Tensor) -> tb.Tensor:
    """A map that shows every bit of its operand."""
    return tb.bitwise_invert(x) if not bench.dtype.is_float else tb.negative(x)


def _turned(bench: Bench, x: Array) -> Array:
    return np.asarray(~x if not bench.dtype.is_float else -x)


def _halves(bench: Bench, *shape: int) -> Array:
    """Integers whose sums and differences the dtype holds."""
    bits = {1: 7, 2: 9, 4: 23, 8: 50}[bench.dtype.itemsize]
    return bench.noise(*shape, bits=bits)


def vectors(bench: Bench) -> None:
    """One row: contiguous, backwards, every third element, one element for all."""
    for n in bench.lengths(far=8):
        x = bench.noise(n)
        t = bench.put(x)
        bench.expect(f"{n} elements", _turn(bench, t), _turned(bench, x))
        if n <= LONG:
            bench.expect(f"{n} backwards", _turn(bench, tb.flip(t)), _turned(bench, x[::-1]))
            bench.expect(f"each third of {n}", _turn(bench, t[1::3]), _turned(bench, x[1::3]))
    n = bench.lengths()[-1]
    x, one = _halves(bench, n), _halves(bench, 1)
    bench.expect(f"{n} and one", tb.add(bench.put(x), bench.put(one)), x + one)
    whole = bench.noise(n)
    bench.expect(
        f"{n} from {n // 2} on",
        _turn(bench, bench.put(whole)[n // 2 :]),
        _turned(bench, whole[n // 2 :]),
    )


def rows(bench: Bench) -> None:
    """Many rows and long ones, one operand a row or a column that is repeated."""
    if bench.smoke:
        return
    many = bench.rows()
    for shape in ((many, 17), (3, BLOCK + 1), (5, 1025), (257, 513)):
        wide = _halves(bench, shape[0], shape[1] + 2)
        x, part = wide[:, :-2], bench.put(wide)[:, :-2]
        row, column = _halves(bench, 1, shape[1]), _halves(bench, shape[0], 1)
        label = f"{shape[0]} rows of {shape[1]}"
        bench.expect(label, _turn(bench, part), _turned(bench, x))
        bench.expect(f"{label} and a row", tb.add(part, bench.put(row)), x + row)
        bench.expect(f"{label} and a column", tb.add(part, bench.put(column)), x + column)


def flat(bench: Bench) -> None:
    """Rows too short to be walked: each element finds its place by division."""
    sizes = [BLOCK // 3 + 9] if bench.smoke else [BLOCK // 3 + 9, BLOCK + 5, LONG // 3]
    if bench.lengths()[-1] == FAR:
        sizes.append(FAR // 3 + 1)
    for n in sizes:
        wide = bench.noise(n, 4)
        x = bench.put(wide)[:, :3]
        bench.expect(f"{n} rows of 3", _turn(bench, x), _turned(bench, wide[:, :3]))
    if not bench.smoke:
        cube = bench.noise(5, BLOCK + 3, 2)
        x = tb.permute_dims(bench.put(cube), (1, 0, 2))
        bench.expect(
            "permuted", tb.reshape(_turn(bench, x), (-1,)),
            _turned(bench, cube.transpose(1, 0, 2)).reshape(-1),
        )  # fmt: skip


def ranks(bench: Bench) -> None:
    """Every element of views of 5 to 9 dimensions, in rows of 17 and flat."""
    chosen, kinds = ((8,), ("gapped", "merging")) if bench.smoke else ((5, 6, 7, 8, 9), KINDS)
    for inner in (0, 17):
        for v in views(bench.rng, inner, chosen, kinds):
            memory = _halves(bench, v.memory)
            t, x = bench.view(memory, v.shape, v.strides, v.offset)
            label = f"{v.label}, {v.shape} by {v.strides}"
            bench.expect(label, _turn(bench, t), _turned(bench, x))
            bench.expect(f"{label}, copied", tb.reshape(t, (-1,)), x.reshape(-1))
            # A second operand that is repeated along other dimensions, where all can be walked.
            even = len(v.shape) <= WALKED
            small = tuple(n if k % 2 or not even else 1 for k, n in enumerate(v.shape))
            other = _halves(bench, *small)
            bench.expect(f"{label} and {small}", tb.add(t, bench.put(other)), x + other)


def deepest(bench: Bench) -> None:
    """As many dimensions as a kernel walks, and one more where two of them merge."""
    if bench.smoke or bench.slow:
        return
    for v in views(bench.rng, 0, (WALKED, WALKED + 1), ("gapped", "merging")):
        memory = _halves(bench, v.memory)
        t, x = bench.view(memory, v.shape, v.strides, v.offset)
        bench.expect(v.label, _turn(bench, t), _turned(bench, x))


def three(bench: Bench) -> None:
    """where: three operands, each walked in its own way."""
    if bench.smoke:
        return
    for v in views(bench.rng, 17, (6, 8)):
        memory = bench.noise(v.memory)
        t, x = bench.view(memory, v.shape, v.strides, v.offset)
        mask = bench.rng.integers(0, 2, v.shape[::-1]) > 0
        other = bench.noise(*v.shape)
        turned = tb.permute_dims(bench.put(mask), tuple(range(len(v.shape)))[::-1])
        out = tb.where(turned, t, bench.put(other, "negative"))
        bench.expect(f"where, {v.label}", out, np.where(mask.transpose(), x, other))


def written(bench: Bench) -> None:
    """Assignment through views: the walk of the output."""
    if bench.smoke:
        return
    for inner in (0, 17):
        for v in views(bench.rng, inner, (5, 6, 7, 8, 9)):
            if v.label.endswith("broadcast"):
                continue
            memory = bench.noise(v.memory)
            whole = bench.put(memory)
            value = bench.noise(*v.shape)
            spec_view = tb.Tensor(
                whole._buffer,
                type(whole._spec).of(bench.device, whole.dtype, v.shape, v.strides),
                v.offset,
            )
            spec_view[...] = bench.put(value)
            wanted = memory.copy()
            steps = tuple(s * wanted.itemsize for s in v.strides)
            np.lib.stride_tricks.as_strided(wanted[v.offset :], v.shape, steps)[...] = value
            bench.expect(f"written, {v.label}", whole, wanted)


register("map_rows", vectors, rows, smoke=(dt.int32,))
register("map_flat", flat, smoke=(dt.float16,))
register("map_ranks", ranks, deepest, three, written, smoke=(dt.int32,))
