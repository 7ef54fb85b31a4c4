"""Reductions and statistics: values, specials, gradients, errors, same bits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorbus as tb

sys.path.insert(0, str(Path(__file__).parent))
from gradcheck import check_gradients, same_bits

RNG = np.random.default_rng(7)


def t(a: Any, dtype: Any = None) -> tb.Tensor:
    return tb.asarray(a, dtype=dtype, device="cpu")


@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "mean", "var", "std"])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (), 1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_values(name: str, axis: Any, keepdims: bool) -> None:
    x = RNG.uniform(0.5, 1.5, (3, 5, 4)).astype(np.float32)
    got = getattr(tb, name)(t(x), axis=axis, keepdims=keepdims)
    want = getattr(np, name)(x.astype(np.float64), axis=axis, keepdims=keepdims)
    assert got.dtype is tb.float32
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-7)
    assert got.shape == want.shape


@pytest.mark.parametrize("shape", [(20000,), (3, 9000), (9000, 3), (2, 130, 70)])
def test_long_and_strided(shape: tuple[int, ...]) -> None:
    x = RNG.standard_normal(shape)
    for axis in (None, *range(len(shape))):
        np.testing.assert_allclose(tb.sum(t(x), axis=axis).numpy(), x.sum(axis), atol=1e-10)
        view = t(x).T if x.ndim == 2 else t(x)
        flipped = x.T if x.ndim == 2 else x
        np.testing.assert_allclose(tb.sum(view, axis=axis).numpy(), flipped.sum(axis), atol=1e-10)
        np.testing.assert_allclose(tb.var(t(x), axis=axis).numpy(), x.var(axis), rtol=1e-12)


def test_layout_does_not_change_the_bits() -> None:
    x = RNG.standard_normal((300, 40)).astype(np.float32)
    rows = tb.sum(t(x), axis=0).numpy()
    columns = tb.sum(t(np.ascontiguousarray(x.T)).T, axis=0).numpy()
    assert rows.tobytes() == columns.tobytes()


def test_dtypes_of_sum() -> None:
    x = t([100, 100, 100], tb.int8)
    assert tb.sum(x).dtype is tb.int64
    assert tb.sum(x).item() == 300
    assert tb.sum(t([200, 100], tb.uint8)).dtype is tb.uint64
    assert tb.sum(t([True, True])).item() == 2
    assert tb.sum(x, dtype=tb.int8).item() == 44
    half = tb.sum(t(np.full(3000, 1.0)), dtype=tb.float16)
    assert half.dtype is tb.float16
    assert half.item() == 3000
    with pytest.raises(TypeError, match="dtype"):
        tb.sum(x, dtype=tb.bool)


def test_mean_of_halves_rounds_once() -> None:
    x = RNG.standard_normal(5000).astype(np.float16)
    exact = x.astype(np.float64).mean()
    assert tb.mean(t(x)).item() == float(np.float16(exact))


def test_nothing() -> None:
    x = tb.zeros((0, 3), device="cpu")
    assert tb.sum(x).item() == 0
    assert tb.prod(x, axis=0).numpy().tolist() == [1, 1, 1]
    assert np.isnan(tb.mean(x).item())
    assert np.isnan(tb.var(x, axis=0).numpy()).all()
    assert not tb.any(x).item()
    assert tb.all(x).item()
    assert tb.count_nonzero(x).item() == 0
    assert tb.logsumexp(x).item() == -np.inf
    for f in (tb.max, tb.min, tb.argmax):
        with pytest.raises(ValueError, match="no elements"):
            f(x)
        with pytest.raises(ValueError, match="no elements"):
            f(x, axis=0)
        assert f(x, axis=1).shape == (0,)


def test_extremes_of_special_values() -> None:
    nan, inf = np.nan, np.inf
    assert np.isnan(tb.max(t([1.0, nan, inf])).item())
    assert np.isnan(tb.min(t([1.0, nan, -inf])).item())
    assert np.signbit(tb.min(t([0.0, -0.0])).numpy())
    assert not np.signbit(tb.max(t([-0.0, 0.0])).numpy())
    assert tb.max(t([-5, -7], tb.int8)).item() == -5
    assert tb.argmax(t([1.0, nan, 5.0, nan])).item() == 1
    assert tb.argmin(t([1.0, nan, -5.0, nan])).item() == 1
    assert tb.argmax(t([3, 7, 7, 1])).item() == 1
    assert tb.argmin(t([0.0, -0.0])).item() == 0


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_positions(axis: int | None) -> None:
    x = RNG.integers(0, 5, (4, 300, 3))
    for f, g in ((tb.argmax, np.argmax), (tb.argmin, np.argmin)):
        assert (f(t(x), axis=axis).numpy() == g(x, axis=axis)).all()
        swapped = tb.permute_dims(t(x), (2, 0, 1))
        want = g(x.transpose(2, 0, 1), axis=axis)
        assert (f(swapped, axis=axis).numpy() == want).all()
    assert tb.argmax(t(x), axis=axis, keepdims=True).ndim == 3


def test_truth() -> None:
    x = np.asarray([[0.0, np.nan, -0.0], [0.0, 0.0, -0.0]], np.float32)
    assert tb.any(t(x), axis=1).numpy().tolist() == [True, False]
    assert tb.all(t(x), axis=0).numpy().tolist() == [False, False, False]
    assert tb.count_nonzero(t(x), axis=1).numpy().tolist() == [1, 0]
    assert tb.any(t([0, 2], tb.uint8)).item() is True


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
def test_logsumexp(axis: Any) -> None:
    x = RNG.standard_normal((6, 40)) * 100
    got = tb.logsumexp(t(x), axis=axis).numpy()
    m = x.max(axis=axis, keepdims=True)
    want = np.log(np.exp(x - m).sum(axis=axis)) + np.squeeze(m, axis)
    np.testing.assert_allclose(got, want, rtol=1e-14)


def test_logsumexp_of_special_values() -> None:
    inf = np.inf
    x = t([[-inf, -inf], [inf, 0.0], [-inf, 2.0], [np.nan, 0.0], [1e4, -1e4]])
    np.testing.assert_array_equal(tb.logsumexp(x, axis=1).numpy(), [-inf, inf, 2.0, np.nan, 1e4])


def test_variance_keeps_small_spread_on_large_mean() -> None:
    x = (1e4 + RNG.standard_normal(3000)).astype(np.float32)
    np.testing.assert_allclose(tb.var(t(x)).item(), x.astype(np.float64).var(), rtol=1e-5)
    np.testing.assert_allclose(
        tb.std(t(x), correction=1).item(), x.astype(np.float64).std(ddof=1), rtol=1e-5
    )


@pytest.mark.parametrize("axis", [None, 0, (1, 2)])
@pytest.mark.parametrize("name", ["sum", "prod", "mean", "var", "std", "logsumexp"])
def test_gradients(name: str, axis: Any) -> None:
    check_gradients(lambda a: getattr(tb, name)(a, axis=axis), RNG.uniform(0.5, 1.5, (2, 3, 4)))


def test_gradient_of_prod_with_zeros() -> None:
    check_gradients(tb.prod, np.asarray([2.0, 0.0, 3.0, 0.5]))
    check_gradients(tb.prod, np.asarray([2.0, 0.0, 3.0, 0.0]))
    check_gradients(lambda a: tb.prod(a, axis=1), np.asarray([[2.0, 0.0, 3.0], [1.0, 2.0, 3.0]]))


def test_gradient_of_extremes() -> None:
    x = np.asarray([[1.0, 4.0, 2.0], [5.0, 3.0, 0.0]])
    check_gradients(lambda a: tb.max(a, axis=1), x)
    check_gradients(lambda a: tb.min(a, axis=(0, 1), keepdims=True), x)
    tied = t([3.0, 1.0, 3.0])
    tied.requires_grad = True
    (g,) = tb.grad(tb.max(tied), tied)
    assert g.numpy().tolist() == [0.5, 0.0, 0.5]


def test_gradient_of_std_is_zero_without_spread() -> None:
    x = t([2.0, 2.0])
    x.requires_grad = True
    (g,) = tb.grad(tb.std(x), x)
    assert g.numpy().tolist() == [0.0, 0.0]


def test_halves_have_gradients_of_their_dtype() -> None:
    x = t(np.asarray([0.5, 1.5, 2.0], np.float16))
    x.requires_grad = True
    for f in (tb.sum, tb.prod, tb.max, tb.mean, tb.var, tb.std, tb.logsumexp):
        (g,) = tb.grad(f(x), x)
        assert g.dtype is tb.float16
        assert g.shape == x.shape
        assert np.isfinite(g.numpy()).all()


def test_gradient_of_mean_divides_by_the_exact_count() -> None:
    x = t(np.ones(5150), tb.bfloat16)
    x.requires_grad = True
    (g,) = tb.grad(tb.mean(x), x)
    assert g.numpy()[0] == tb.bfloat16.numpy.type(1 / 5150)


def test_errors() -> None:
    x = t(np.ones((2, 3)))
    with pytest.raises(IndexError, match="axis 2"):
        tb.sum(x, axis=2)
    with pytest.raises(ValueError, match="twice"):
        tb.sum(x, axis=(0, -2))
    for f in (tb.mean, tb.var, tb.logsumexp):
        with pytest.raises(TypeError, match="floating"):
            f(t([1, 2]))
    with pytest.raises(TypeError, match="bool"):
        tb.max(t([True]))
    with pytest.raises(TypeError, match="not a tensor"):
        tb.sum([1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_same_bits(dtype: Any) -> None:
    x = RNG.standard_normal((3, 150)).astype(dtype)
    x[0, :3] = -0.0, 0.0, np.inf
    for f in (tb.sum, tb.mean, tb.max, tb.var, tb.logsumexp, tb.argmin):
        same_bits(lambda a, f=f: f(a, axis=1), x)
        same_bits(lambda a, f=f: f(a, axis=0), x)


def test_stage_by_stage_equals_fused() -> None:
    x = RNG.standard_normal((9, 70000)).astype(np.float32)
    many = tb.logsumexp(t(x), axis=1).numpy()
    few = [tb.logsumexp(t(row[None]), axis=1).numpy()[0] for row in x]
    assert many.tobytes() == np.asarray(few).tobytes()
