"""Normalization, losses and layers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import nn

sys.path.insert(0, str(Path(__file__).parent))
from gradcheck import check_gradients, same_bits

RNG = np.random.default_rng(19)


def t(a: Any, dtype: Any = None) -> tb.Tensor:
    return tb.asarray(a, dtype=dtype, device="cpu")


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def normalized(x: np.ndarray, axis: Any, eps: float, centre: bool = True) -> np.ndarray:
    x = x - x.mean(axis=axis, keepdims=True) if centre else x
    return x / np.sqrt((x * x).mean(axis=axis, keepdims=True) + eps)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(3, 40, 7), (2, 1, 300)])
def test_values(shape: tuple[int, ...], axis: int) -> None:
    x = RNG.standard_normal(shape) * 5
    for view, y in ((t(x), x), (tb.permute_dims(t(x), (2, 0, 1)), x.transpose(2, 0, 1))):
        p = softmax(y, axis)
        np.testing.assert_allclose(nn.softmax(view, axis=axis).numpy(), p, rtol=1e-13)
        np.testing.assert_allclose(nn.log_softmax(view, axis=axis).numpy(), np.log(p), atol=1e-13)
        got = nn.layer_norm(view, axis=axis).numpy()
        np.testing.assert_allclose(got, normalized(y, axis, 1e-5), atol=1e-11)
        got = nn.rms_norm(view, axis=axis).numpy()
        np.testing.assert_allclose(got, normalized(y, axis, 2.0**-52, False), atol=1e-13)


def test_layer_norm_over_several_axes() -> None:
    x = RNG.standard_normal((4, 3, 5))
    w, b = RNG.standard_normal((3, 5)), RNG.standard_normal((3, 5))
    got = nn.layer_norm(t(x), axis=(1, 2), weight=t(w), bias=t(b), eps=0.1).numpy()
    np.testing.assert_allclose(got, normalized(x, (1, 2), 0.1) * w + b, atol=1e-13)
    w, b = RNG.standard_normal((4, 5)), RNG.standard_normal((1, 3, 1))
    got = nn.layer_norm(t(x), axis=(0, 2), weight=t(w), bias=t(b)).numpy()
    want = normalized(x, (0, 2), 1e-5) * w[:, None] + b
    np.testing.assert_allclose(got, want, atol=1e-12)
    got = nn.rms_norm(t(x), axis=1, weight=t(w[0, :3]), eps=0.5).numpy()
    want = normalized(x, 1, 0.5, False) * w[0, :3, None]
    np.testing.assert_allclose(got, want, atol=1e-13)


def test_special_values() -> None:
    inf, nan = np.inf, np.nan
    x = t([[-inf, -inf], [inf, 0.0], [-inf, 2.0], [nan, 0.0], [3e38, -3e38]])
    want = [[nan, nan], [nan, nan], [0, 1], [nan, nan], [1, 0]]
    np.testing.assert_array_equal(nn.softmax(x).numpy(), want)
    want = [[nan, nan], [nan, nan], [-inf, 0], [nan, nan], [0, -inf]]
    np.testing.assert_array_equal(nn.log_softmax(x).numpy(), want)
    same = nn.layer_norm(t(np.full((1, 5), 7.0))).numpy()
    assert (same == 0).all()
    assert nn.softmax(t(np.zeros((2, 0)))).shape == (2, 0)
    assert nn.softmax(t(np.zeros((0, 2)))).shape == (0, 2)
    assert nn.layer_norm(t(np.zeros((0, 2)))).shape == (0, 2)


@pytest.mark.parametrize("dtype", [tb.float16, tb.bfloat16])
def test_halves_round_once(dtype: Any) -> None:
    x = RNG.standard_normal((5, 60)).astype(dtype.numpy)
    wide = x.astype(np.float32)
    for f in (nn.softmax, nn.log_softmax, nn.layer_norm):
        got = f(t(x))
        assert got.dtype is dtype
        want = f(t(wide)).numpy().astype(dtype.numpy)
        assert (got.numpy() == want).all()


X = RNG.standard_normal((3, 4))
W, B = RNG.standard_normal(4), RNG.standard_normal(4)
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "softmax": (nn.softmax, (X,)),
    "softmax0": (lambda a: nn.softmax(a, axis=0), (X,)),
    "log_softmax": (lambda a: nn.log_softmax(a, axis=0), (X,)),
    "layer_norm": (lambda a, w, b: nn.layer_norm(a, weight=w, bias=b), (X, W, B)),
    "layer_norm_w": (lambda a, w: nn.layer_norm(a, weight=w), (X, W)),
    "layer_norm_b": (lambda a, b: nn.layer_norm(a, bias=b, axis=(0, 1)), (X, X + 1)),
    "rms_norm": (lambda a, w: nn.rms_norm(a, weight=w), (X, W)),
    "linear": (nn.linear, (X, RNG.standard_normal((2, 4)), B[:2])),
    "linear3": (nn.linear, (RNG.standard_normal((2, 3, 4)), RNG.standard_normal((2, 4)))),
    "mse": (nn.mse_loss, (X, X[::-1] * 0.5)),
    "mse_none": (lambda a, b: nn.mse_loss(a, b, reduction="none"), (X, X[0])),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    function, operands = CASES[name]
    check_gradients(function, *operands)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_cross_entropy(axis: int, reduction: Any, smoothing: float) -> None:
    x = RNG.standard_normal((3, 5, 4))
    classes = x.shape[axis]
    rest = (3, 5) if axis == -1 else (3, 4)
    target = RNG.integers(0, classes, rest)
    hot = np.moveaxis(np.eye(classes)[target], -1, axis)
    p = RNG.uniform(0, 1, x.shape)
    logs = np.log(softmax(x, axis))
    options = {"axis": axis, "reduction": reduction, "label_smoothing": smoothing}
    for given, weights in ((t(target), hot), (t(p), p)):
        weights = weights * (1 - smoothing) + smoothing / classes
        losses = -(weights * logs).sum(axis=axis)
        want = {"mean": losses.mean(), "sum": losses.sum(), "none": losses}[reduction]
        got = nn.cross_entropy(t(x), given, **options)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-12)
        check_gradients(lambda a, g=given: nn.cross_entropy(a, g, **options), x)
    check_gradients(lambda a, b: nn.cross_entropy(a, b, **options), x, p)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_16_bit_cross_entropy_is_rounded_once(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 127)).astype(np.float16)
    classes = rng.integers(0, 127, 40)
    for target in (classes, rng.uniform(0.0, 0.02, x.shape).astype(np.float16)):
        options: dict[str, Any] = {"reduction": "none", "label_smoothing": smoothing}
        got = np.asarray(nn.cross_entropy(t(x), t(target), **options))
        wide = np.asarray(nn.cross_entropy(t(x.astype(np.float32)), t(target), **options))
        assert got.dtype == np.float16
        np.testing.assert_array_equal(got, wide.astype(np.float16))


def test_a_probability_of_zero_has_the_slope_of_the_logarithm() -> None:
    x, p = t(np.asarray([[0.5, -1.0, 2.0]])), t(np.asarray([[0.0, 1.0, 0.0]]))
    p.requires_grad = True
    (slope,) = tb.grad(nn.cross_entropy(x, p, reduction="sum"), p)
    np.testing.assert_allclose(slope.numpy(), -np.log(softmax(x.numpy(), -1)), rtol=1e-14)


def test_cross_entropy_at_the_edges() -> None:
    inf = np.inf
    x = t([[0.0, -inf, 1000.0], [0.0, 0.0, -inf]])
    got = nn.cross_entropy(x, t([2, 0]), reduction="none").numpy()
    np.testing.assert_allclose(got, [0.0, np.log(2)], rtol=1e-6)
    assert nn.cross_entropy(x, t([1, 2]), reduction="none").numpy().tolist() == [inf, inf]
    outside = nn.cross_entropy(x, t([3, -1]), reduction="none").numpy()
    assert np.isnan(outside).all()
    hard = t([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    got = nn.cross_entropy(x, hard, reduction="none").numpy()
    np.testing.assert_allclose(got, [1000.0, np.log(2)], rtol=1e-6)


def test_embedding() -> None:
    table = RNG.standard_normal((6, 3))
    i = np.asarray([[0, 5], [2, 2]])
    assert (nn.embedding(t(i), t(table)).numpy() == table[i]).all()
    check_gradients(lambda w: nn.embedding(t(i), w), table)
    assert nn.embedding(t(np.zeros((0, 2), int)), t(table)).shape == (0, 2, 3)
    with pytest.raises(TypeError, match="integers"):
        nn.embedding(t(table), t(table))


def test_linear() -> None:
    x, w, b = (RNG.standard_normal(s) for s in ((2, 3, 4), (5, 4), (5,)))
    np.testing.assert_allclose(nn.linear(t(x), t(w), t(b)).numpy(), x @ w.T + b, atol=1e-13)
    np.testing.assert_allclose(nn.linear(t(x), t(w[0])).numpy(), x @ w[0], atol=1e-13)
    np.testing.assert_allclose(nn.linear(t(x[0, 0]), t(w)).numpy(), w @ x[0, 0], atol=1e-13)
    half = [a.astype(np.float16) for a in (x, w, b)]
    exact = half[0].astype(np.float64) @ half[1].T.astype(np.float64) + half[2]
    got = nn.linear(*map(t, half))
    assert got.dtype is tb.float16
    # float32 inside is exact enough for the one rounding to be right, ties apart.
    assert (got.numpy() == exact.astype(np.float16)).mean() > 0.99
    with pytest.raises(ValueError, match="inputs"):
        nn.linear(t(x), t(w.T))
    with pytest.raises(ValueError, match="bias"):
        nn.linear(t(x), t(w), t(x))


def test_errors() -> None:
    x = t(np.ones((2, 3), np.float32))
    with pytest.raises(TypeError, match="floating"):
        nn.softmax(t([1, 2]))
    with pytest.raises(IndexError, match="axis 2"):
        nn.log_softmax(x, axis=2)
    with pytest.raises(ValueError, match="weight"):
        nn.layer_norm(x, weight=t(np.ones(2)))
    with pytest.raises(ValueError, match="reduction"):
        nn.mse_loss(x, x, reduction="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="classes"):
        nn.cross_entropy(x, t([[1, 1]]))
    with pytest.raises(ValueError, match="label_smoothing"):
        nn.cross_entropy(x, t([1, 1]), label_smoothing=2.0)
    with pytest.raises(TypeError, match="classes"):
        nn.cross_entropy(x, t([True, False]))


def test_stage_by_stage_equals_fused() -> None:
    x = RNG.standard_normal((9, 70000)).astype(np.float32)
    w = t(RNG.standard_normal(70000).astype(np.float32))
    for f in (nn.softmax, nn.log_softmax, lambda a: nn.layer_norm(a, weight=w), nn.rms_norm):
        many = f(t(x)).numpy()
        one = f(t(x[4:5])).numpy()
        assert many[4].tobytes() == one.tobytes()
    y = RNG.standard_normal((300, 40)).astype(np.float32)
    for f in (nn.softmax, nn.log_softmax, nn.layer_norm, nn.rms_norm):
        columns = f(t(y), axis=0).numpy()
        assert columns.tobytes() == np.ascontiguousarray(f(t(y.T.copy())).numpy().T).tobytes()


@pytest.mark.parametrize("axis", [0, 1])
def test_same_bits(axis: int) -> None:
    x = (RNG.standard_normal((4, 150)) * 20).astype(np.float32)
    w = RNG.standard_normal(x.shape[axis]).astype(np.float32)
    same_bits(lambda a: nn.softmax(a, axis=axis), x)
    same_bits(lambda a: nn.log_softmax(a, axis=axis), x)
    same_bits(lambda a, v: nn.layer_norm(a, axis=axis, weight=v, bias=v), x, w)
    same_bits(lambda a: nn.rms_norm(a, axis=axis), x)

    def gradient(a: tb.Tensor) -> tb.Tensor:
        _, pull = tb.vjp(lambda b: nn.layer_norm(nn.softmax(b, axis=axis), axis=axis), a)
        return pull(a)[0]

    same_bits(gradient, x)
