"""Running sums and products."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorbus as tb

sys.path.insert(0, str(Path(__file__).parent))
from gradcheck import check_gradients, same_bits

RNG = np.random.default_rng(11)


def t(a: Any, dtype: Any = None) -> tb.Tensor:
    return tb.asarray(a, dtype=dtype, device="cpu")


@pytest.mark.parametrize("n", [1, 127, 128, 129, 300, 128 * 128 + 5])
@pytest.mark.parametrize("initial", [False, True])
def test_sums_along_the_last_axis(n: int, initial: bool) -> None:
    x = RNG.standard_normal((2, n))
    got = tb.cumulative_sum(t(x), axis=1, include_initial=initial).numpy()
    want = x.cumsum(axis=1)
    if initial:
        want = np.concatenate([np.zeros((2, 1)), want], axis=1)
    np.testing.assert_allclose(got, want, atol=1e-11)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("initial", [False, True])
def test_other_axes(axis: int, initial: bool) -> None:
    x = RNG.uniform(0.9, 1.1, (140, 3, 150))
    for name, numpy in (("cumulative_sum", np.cumsum), ("cumulative_prod", np.cumprod)):
        call = getattr(tb, name)
        got = call(t(x), axis=axis, include_initial=initial).numpy()
        want = numpy(x, axis=axis)
        if initial:
            shape = list(x.shape)
            shape[axis] = 1
            start = np.full(shape, 0.0 if name == "cumulative_sum" else 1.0)
            want = np.concatenate([start, want], axis=axis)
        np.testing.assert_allclose(got, want, rtol=1e-12)
        view = t(x)[::-1, :, ::2]
        np.testing.assert_allclose(
            call(view, axis=axis).numpy(), numpy(x[::-1, :, ::2], axis=axis), rtol=1e-12
        )


def test_dtypes() -> None:
    x = t([100, 100, 100], tb.int8)
    assert tb.cumulative_sum(x).numpy().tolist() == [100, 200, 300]
    assert tb.cumulative_sum(x).dtype is tb.int64
    assert tb.cumulative_prod(t([2, 3], tb.uint16)).dtype is tb.uint64
    assert tb.cumulative_sum(t([True, False, True])).numpy().tolist() == [1, 1, 2]
    wrapped = tb.cumulative_sum(x, dtype=tb.int8)
    assert wrapped.numpy().tolist() == [100, -56, 44]
    half = np.full(400, 0.1, np.float16)
    got = tb.cumulative_sum(t(half)).numpy()
    exact = np.cumsum(half.astype(np.float64))
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, exact.astype(np.float16))


def test_nothing() -> None:
    assert tb.cumulative_sum(t(np.zeros(0)), include_initial=True).numpy().tolist() == [0]
    assert tb.cumulative_prod(t(np.zeros((0, 2))), axis=0, include_initial=True).shape == (1, 2)
    assert tb.cumulative_sum(t(np.zeros((0, 2))), axis=1).shape == (0, 2)
    assert np.signbit(tb.cumulative_sum(t([-0.0, 0.0])).numpy()).tolist() == [True, False]


def test_errors() -> None:
    with pytest.raises(ValueError, match="axis"):
        tb.cumulative_sum(t(np.ones((2, 2))))
    with pytest.raises(IndexError, match="axis 3"):
        tb.cumulative_sum(t(np.ones((2, 2))), axis=3)
    with pytest.raises(ValueError, match="dimension"):
        tb.cumulative_sum(t(1.0))


@pytest.mark.parametrize("initial", [False, True])
def test_gradients(initial: bool) -> None:
    x = RNG.uniform(0.5, 1.5, (2, 7))
    for f in (tb.cumulative_sum, tb.cumulative_prod):
        check_gradients(lambda a, f=f: f(a, axis=1, include_initial=initial), x)
        check_gradients(lambda a, f=f: f(a, axis=0, include_initial=initial), x)


def test_gradient_of_products_with_zeros() -> None:
    x = np.asarray([1.5, 0.0, 2.0, 0.0, 0.5])
    check_gradients(tb.cumulative_prod, x)


@pytest.mark.parametrize("n", [5, 300])
def test_same_bits(n: int) -> None:
    x = RNG.standard_normal((2, n)).astype(np.float32)
    same_bits(lambda a: tb.cumulative_sum(a, axis=1, include_initial=True), x)
    same_bits(lambda a: tb.cumulative_prod(a, axis=0), x)
    same_bits(lambda a: tb.cumulative_sum(a, axis=1), x.astype(np.float16))
