"""sort, argsort, searchsorted, nonzero."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorbus as tb

sys.path.insert(0, str(Path(__file__).parent))
from gradcheck import check_gradients, same_bits

RNG = np.random.default_rng(13)


def t(a: Any, dtype: Any = None) -> tb.Tensor:
    return tb.asarray(a, dtype=dtype, device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint64", "bool"])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_sort(dtype: str, descending: bool, axis: int) -> None:
    x = RNG.integers(-3 if dtype[0] != "u" else 0, 4, (5, 37)).astype(dtype)
    keys = x.astype(np.int64) * (-1 if descending else 1)
    order = np.argsort(keys, axis=axis, kind="stable")
    got = tb.argsort(t(x), axis=axis, descending=descending)
    assert got.dtype is tb.int64
    assert (got.numpy() == order).all()
    values = tb.sort(t(x), axis=axis, descending=descending)
    assert (values.numpy() == np.take_along_axis(x, order, axis)).all()


def test_special_values() -> None:
    nan, inf = np.nan, np.inf
    x = [0.0, nan, -inf, -0.0, inf, nan, -1.0]
    assert tb.argsort(t(x)).numpy().tolist() == [2, 6, 0, 3, 4, 1, 5]
    assert tb.argsort(t(x), descending=True).numpy().tolist() == [4, 0, 3, 6, 2, 1, 5]
    assert np.signbit(tb.sort(t(x)).numpy()).tolist()[2:4] == [False, True]


def test_shapes() -> None:
    assert tb.sort(t(np.zeros((3, 0)))).shape == (3, 0)
    assert tb.argsort(t([5.0])).numpy().tolist() == [0]
    with pytest.raises(IndexError, match="axis"):
        tb.sort(t(1.0))
    with pytest.raises(IndexError, match="axis 2"):
        tb.argsort(t(np.ones((2, 2))), axis=2)


def test_gradient_of_sort() -> None:
    x = RNG.permutation(12).reshape(3, 4).astype(np.float64)
    for axis in (0, 1):
        check_gradients(lambda a, axis=axis: tb.sort(a, axis=axis) ** 2, x)
        check_gradients(lambda a, axis=axis: tb.sort(a, axis=axis, descending=True), x)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", ["float32", "int16", "uint64"])
def test_searchsorted(side: Any, dtype: str) -> None:
    x = np.sort(RNG.integers(0, 50, 60)).astype(dtype)
    v = RNG.integers(0, 60, (4, 9)).astype(dtype)
    got = tb.searchsorted(t(x), t(v), side=side)
    assert got.dtype is tb.int64
    assert (got.numpy() == np.searchsorted(x, v, side)).all()
    mixed = RNG.permutation(x)
    order = np.argsort(mixed, kind="stable")
    got = tb.searchsorted(t(mixed), t(v), side=side, sorter=t(order))
    assert (got.numpy() == np.searchsorted(x, v, side)).all()


def test_searchsorted_at_the_ends() -> None:
    nan = np.nan
    x = t([1.0, 2.0, nan])
    v = t([-np.inf, 1.0, 3.0, nan])
    assert tb.searchsorted(x, v).numpy().tolist() == [0, 0, 2, 2]
    assert tb.searchsorted(x, v, side="right").numpy().tolist() == [0, 1, 2, 3]
    assert tb.searchsorted(t(np.zeros(0)), v).numpy().tolist() == [0, 0, 0, 0]
    assert tb.searchsorted(x[::-1][::-1], t(1.5)).item() == 1
    assert tb.searchsorted(t([1, 5], tb.int8), t([300], tb.int16)).numpy().tolist() == [2]
    with pytest.raises(ValueError, match="dimensions"):
        tb.searchsorted(t(np.ones((2, 2))), v)
    with pytest.raises(TypeError, match="bool"):
        tb.searchsorted(t([False, True]), t([True]))
    with pytest.raises(ValueError, match="side"):
        tb.searchsorted(x, v, side="middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sorter"):
        tb.searchsorted(x, v, sorter=t([0]))


def test_nonzero() -> None:
    x = RNG.integers(0, 3, (7, 20, 3))
    for given, numpy in ((t(x), x), (tb.permute_dims(t(x), (2, 0, 1)), x.transpose(2, 0, 1))):
        for a, b in zip(tb.nonzero(given), np.nonzero(numpy), strict=True):
            assert a.dtype is tb.int64
            assert (a.numpy() == b).all()
    assert [a.shape for a in tb.nonzero(t(np.zeros((2, 3))))] == [(0,), (0,)]
    assert [a.shape for a in tb.nonzero(t(np.zeros((0, 3))))] == [(0,), (0,)]
    (a,) = tb.nonzero(t([0.0, np.nan, -0.0]))
    assert a.numpy().tolist() == [1]
    with pytest.raises(ValueError, match="dimension"):
        tb.nonzero(t(1.0))


def test_same_bits() -> None:
    x = RNG.standard_normal((3, 40)).astype(np.float32)
    same_bits(lambda a: tb.sort(a, axis=1, descending=True), x)
    same_bits(lambda a: tb.argsort(a, axis=0), x)
    same_bits(lambda a: tb.nonzero(a > 0.5), x)
    same_bits(tb.searchsorted, np.sort(x[0]), x)
