"""Every skeleton: compiled C and the interpreter agree bit for bit, and with NumPy in value."""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.kernels import (
    MONOIDS,
    Contraction,
    Map,
    Operand,
    Reduce,
    Rows,
    Scan,
    Stage,
    Walk,
)
from tensorbus_backends.kernels.base import Strided
from tensorbus_cpu.dialect import C

sys.path.insert(0, str(Path(__file__).parent))
from gccrun import CC, both, run

pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler")
W = Strided.words


def data(n: int, dtype: dt.DType, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype.is_integer:
        return rng.integers(dtype.min, dtype.max, n, dtype=dtype.numpy, endpoint=True)
    if dtype is dt.bool_:
        return rng.integers(0, 2, n).astype(bool)
    return (rng.standard_normal(n) * 10).astype(dtype.numpy)


@pytest.mark.parametrize("dtype", dt.NUMERIC, ids=str)
@pytest.mark.parametrize("n", [1, 7, 5000])
def test_map_contiguous(dtype: dt.DType, n: int) -> None:
    o = Operand(dtype)
    expr = ir.input_(0, dtype) * ir.input_(1, dtype) + ir.input_(0, dtype)
    kernel = Map("muladd", (o, o), (o,), (expr,))
    words = kernel.meta(n, [], [W(0, 1, [])] * 3)
    arrays = [data(n, dtype, 1), data(n, dtype, 2), np.zeros(n, dtype.numpy)]
    both(kernel, arrays, words, kernel.groups(C, n, 1))


@pytest.mark.parametrize("layout", ["rows", "flat"])
def test_map_strided(layout: str) -> None:
    x, s, y = Operand(dt.float32, "g"), Operand(dt.float32, "s"), Operand(dt.float32, "c")
    expr = ir.input_(0, dt.float32) - ir.input_(1, dt.float32)
    kernel = Map("sub", (x, s), (y,), (expr,), layout=layout)
    source = np.arange(6 * 5 * 4, dtype=np.float32).reshape(6, 5, 4)
    view = source[::-2].transpose(2, 0, 1)  # shape 4, 3, 5
    words = kernel.meta(5, [4, 3], [W(100, 4, [1, -40]), W(1, 0, [0, 1]), W(0, 1, [15, 5])])
    scalars = np.asarray([9, 1, 2, 3], np.float32)
    out = np.zeros(60, np.float32)
    arrays = [source.reshape(-1), scalars, out]
    both(kernel, arrays, words, kernel.groups(C, 5, 12))
    run(kernel, arrays, words, kernel.groups(C, 5, 12))
    assert (out.reshape(4, 3, 5) == view - scalars[1:, None]).all()


def test_map_index_params_and_load() -> None:
    index = ir.index()
    element = ir.load(0, dt.float32, ir.select(index < 3, index, ir.const(0, dt.int64)))
    expr = element * ir.param(0, dt.float32)
    kernel = Map(
        "gather", (Operand(dt.float32, "-"),), (Operand(dt.float32),), (expr,), (dt.float32,)
    )
    from tensorbus_backends.kernels.base import bits_of

    words = kernel.meta(6, [], [W(2, 0, []), W(0, 1, [])], [bits_of(0.5, dt.float32)])
    arrays = [np.arange(9, dtype=np.float32), np.zeros(6, np.float32)]
    both(kernel, arrays, words, 1)
    run(kernel, arrays, words, 1)
    assert arrays[1].tolist() == [1.0, 1.5, 2.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("monoid", ["sum", "prod", "max", "min"])
@pytest.mark.parametrize("n", [1, 2, 64, 127, 129, 1000, 8192, 20000])
@pytest.mark.parametrize("layout", ["row", "col"])
def test_reduce(monoid: str, n: int, layout: str) -> None:
    rows = 3
    acc = dt.float32
    kernel = Reduce(
        monoid,
        (Operand(acc, "g" if layout == "row" else "c"),),
        ir.input_(0, acc),
        MONOIDS[monoid],
        acc,
        layout=layout,
    )
    x = data(rows * n, acc)
    x[::7] = -0.0
    chunks = -(-n // 8192)
    out = np.zeros(rows * chunks, np.float32)
    if layout == "row":
        words = kernel.meta(n, 1, [rows], [W(0, 1, [n])], [0])
        groups = kernel.groups(C, n, 1, rows)
    else:
        words = kernel.meta(n, rows, [], [W(0, 1, [])], [rows])
        groups = kernel.groups(C, n, rows, 1)
    both(kernel, [x, out], words, groups)
    run(kernel, [x, out], words, groups)
    shaped = x.reshape(rows, n) if layout == "row" else x.reshape(n, rows).T
    got = out.reshape(rows, chunks) if layout == "row" else out.reshape(chunks, rows).T
    if monoid in ("max", "min"):
        reduce = np.max if monoid == "max" else np.min
        assert (reduce(got, axis=1) == reduce(shaped, axis=1)).all()
    elif monoid == "sum":
        exact = shaped.astype(np.float64).sum(axis=1)
        magnitude = np.abs(shaped).astype(np.float64).sum(axis=1)
        assert (np.abs(got.astype(np.float64).sum(axis=1) - exact) <= 1e-6 * magnitude).all()


def test_row_and_column_layouts_give_the_same_bits() -> None:
    n, x = 5000, data(5000 * 4, dt.float32).reshape(5000, 4)
    outs = []
    for layout, step in (("row", "g"), ("col", "c")):
        kernel = Reduce(
            "sum", (Operand(dt.float32, step),), ir.input_(0, dt.float32), MONOIDS["sum"],
            dt.float32, layout=layout,
        )  # fmt: skip
        out = np.zeros(4, np.float32)
        if layout == "row":
            words = kernel.meta(n, 1, [4], [W(0, 4, [1])], [0])
        else:
            words = kernel.meta(n, 4, [], [W(0, 1, [])], [4])
        groups = kernel.groups(C, n, 1 if layout == "row" else 4, 4 if layout == "row" else 1)
        run(kernel, [x.reshape(-1), out], words, groups)
        outs.append(out)
    assert (outs[0].view(np.uint32) == outs[1].view(np.uint32)).all()


@pytest.mark.parametrize("n", [1, 100, 9000])
@pytest.mark.parametrize("dtype", [dt.float32, dt.float16], ids=str)
def test_rows(n: int, dtype: dt.DType) -> None:
    x, f = ir.input_(0, dtype), dt.float32
    greatest, total = ir.param(0, f), ir.param(1, f)
    shifted = x - greatest
    kernel = Rows(
        "soft",
        (Operand(dtype),),
        (Operand(dtype),),
        (Stage(x, MONOIDS["max"]), Stage(shifted * shifted, MONOIDS["sum"])),
        (shifted / total,),
    )
    arrays = [data(3 * n, dtype), np.zeros(3 * n, dtype.numpy)]
    both(kernel, arrays, kernel.meta(n, [3], [W(0, 1, [n])] * 2), 3)


def test_stage_equals_reduce() -> None:
    n, acc = 9000, dt.float32
    x = data(n, acc)
    stage = Rows(
        "s", (Operand(acc),), (Operand(acc),), (Stage(ir.input_(0, acc), MONOIDS["sum"]),),
        (ir.param(0, acc),),
    )  # fmt: skip
    out = np.zeros(n, np.float32)
    run(stage, [x, out], stage.meta(n, [], [W(0, 1, [])] * 2), 1)
    level = Reduce("s", (Operand(acc),), ir.input_(0, acc), MONOIDS["sum"], acc)
    parts, total = np.zeros(2, np.float32), np.zeros(1, np.float32)
    run(level, [x, parts], level.meta(n, 1, [], [W(0, 1, [])], [0]), 2)
    run(level, [parts, total], level.meta(2, 1, [], [W(0, 1, [])], [0]), 1)
    assert out[0] == total[0]


@pytest.mark.parametrize("n", [1, 127, 128, 300, 20000])
@pytest.mark.parametrize("name", ["sum", "prod"])
def test_scan(n: int, name: str) -> None:
    acc = dt.int64 if name == "prod" else dt.float32
    kernel = Scan(name, Operand(acc), ir.input_(0, acc), MONOIDS[name])
    blocks = -(-n // 128)
    arrays = [data(2 * n, acc), np.zeros(2 * n, acc.numpy), np.zeros(2 * blocks, acc.numpy)]
    words = kernel.meta(n, [2], W(0, 1, [n]))
    both(kernel, arrays, words, kernel.groups(C, n, 2))


@pytest.mark.parametrize("dtype", dt.NUMERIC, ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1), (5, 70, 33), (3, 64, 300)])
def test_matmul(dtype: dt.DType, size: tuple[int, int, int]) -> None:
    m, n, k = size
    kernel = Contraction.product(dtype)
    a, b = data(2 * m * k, dtype), data(k * n, dtype)
    walks = [Walk([m * k], [k], [1]), Walk([0], [n], [1]), Walk([m * n], [n], [1])]
    words = kernel.meta([2], [m], [n], [k], walks)
    both(kernel, [a, b, np.zeros(2 * m * n, dtype.numpy)], words, kernel.groups(C, m, n, 2))


@pytest.mark.parametrize("source", [dt.float64, dt.int64, dt.uint64, dt.float32], ids=str)
@pytest.mark.parametrize("target", [dt.float16, dt.bfloat16], ids=str)
def test_narrowing_rounds_once(source: dt.DType, target: dt.DType) -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(0, 1 << 64, 20000, dtype=np.uint64, endpoint=False)
    values = {
        dt.float64: lambda: np.concatenate(
            [
                (x % 65536).astype(np.uint16).view(target.numpy).astype(np.float64)
                * (1 + 2.0**-11 + (x % 3).astype(float) * 2.0**-50),
                rng.standard_normal(1000) * 2.0**-130,
                np.asarray([np.inf, -np.inf, np.nan, 1e300, -1e-300]),
            ]
        ),
        dt.float32: lambda: (x & 0xFFFFFFFF).astype(np.uint32).view(np.float32),
        dt.int64: lambda: (x >> (x % 64)).view(np.int64),
        dt.uint64: lambda: x >> (x % 64),
    }[source]()
    kernel = Map("cast", (Operand(source),), (Operand(target),), (ir.input_(0, source),))
    n = values.size
    arrays = [values, np.zeros(n, target.numpy)]
    words = kernel.meta(n, [], [W(0, 1, [])] * 2)
    both(kernel, arrays, words, kernel.groups(C, n, 1))
    run(kernel, arrays, words, kernel.groups(C, n, 1))
    if source is dt.float64 and target is dt.float16:
        with np.errstate(over="ignore"):
            expected = values.astype(np.float16)  # NumPy rounds float64 to float16 directly
        assert ((arrays[1] == expected) | np.isnan(expected)).all()
    assert target.numpy in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
