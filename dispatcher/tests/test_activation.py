"""Activations: accuracy against 50 digits, limits, gradients, bits, one kernel each way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import tensorbus as tb

sys.path.insert(0, str(Path(__file__).parent))
from gradcheck import check_gradients, same_bits

RNG = np.random.default_rng(6)
INF, NAN = float("inf"), float("nan")
nn = tb.nn


def t(a: Any, dtype: Any = None) -> tb.Tensor:
    return tb.asarray(a, dtype=dtype, device="cpu")


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def _normal(x: Any) -> Any:
    return mp.erfc(-x / mp.sqrt(2)) / 2


def _tanh_argument(x: Any) -> Any:
    return mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)


def _hardswish(x: Any) -> Any:
    return x * max(mp.mpf(0), min(x + 3, mp.mpf(6))) / 6


ALL: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], float]] = {
    # name: function, exact function, bound of the relative error in u
    "relu": (nn.relu, lambda x: max(x, mp.mpf(0)), 0),
    "gelu": (nn.gelu, lambda x: x * _normal(x), 10),
    "sigmoid": (nn.sigmoid, _sigmoid, 2),
    "silu": (nn.silu, lambda x: x * _sigmoid(x), 5),
    "softplus": (nn.softplus, lambda x: mp.log1p(mp.exp(x)), 2),
    "elu": (nn.elu, lambda x: x if x > 0 else mp.expm1(x), 3),
    "mish": (nn.mish, lambda x: x * mp.tanh(mp.log1p(mp.exp(x))), 9),
    "hardswish": (nn.hardswish, _hardswish, 4),
    "hardtanh": (nn.hardtanh, lambda x: max(mp.mpf(-1), min(x, mp.mpf(1))), 0),
    "leaky_relu": (nn.leaky_relu, lambda x: x if x > 0 else x * mp.mpf(0.01), 2),
}
OPTIONS = {
    "gelu_tanh": lambda x: nn.gelu(x, approximate="tanh"),
    "softplus_beta": lambda x: nn.softplus(x, beta=2.5, threshold=3.0),
    "elu_alpha": lambda x: nn.elu(x, alpha=0.7),
    "leaky_relu_slope": lambda x: nn.leaky_relu(x, negative_slope=-0.2),
    "hardtanh_bounds": lambda x: nn.hardtanh(x, min_val=-0.5, max_val=2),
}


def points(dtype: Any) -> np.ndarray:
    """Near, to the left as far as results are normal, and tiny."""
    far = 80 if dtype == np.float32 else 600
    x = np.concatenate(
        [
            RNG.uniform(-4, 4, 150),
            -RNG.uniform(4, far, 40),
            RNG.uniform(4, 40, 20),
            RNG.normal(size=10) * 1e-6,
            [-1.0, 1.0, np.nextafter(-1, 0), np.nextafter(1, 2), -3.0, 3.0],
        ]
    )
    return x.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ALL)
def test_relative_error(name: str, dtype: Any) -> None:
    function, exact, bound = ALL[name]
    x = points(dtype)
    if name == "softplus":
        # Beyond the threshold it is x itself, by definition.
        x = x[x <= 20]
    got = function(t(x)).numpy()
    u = np.finfo(dtype).eps / 2
    # gelu leaves the range of normal numbers near -13 and -37; half a unit of the least one.
    least = mp.mpf(float(np.finfo(dtype).smallest_subnormal))
    with mp.workdps(400 if dtype is np.float64 else 60):
        for at, value in zip(x.tolist(), got.tolist(), strict=True):
            want = exact(mp.mpf(at))
            if name == "leaky_relu" and at < 0:
                want = mp.mpf(at) * mp.mpf(float(dtype(0.01)))
            error = abs(mp.mpf(value) - want)
            assert error <= bound * u * abs(want) * (1 + 2 * bound * u) + least, (at, value, want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_tanh_relative_error(dtype: Any) -> None:
    x = points(dtype)
    x = x[x > -9]
    got = nn.gelu(t(x), approximate="tanh").numpy()
    u = np.finfo(dtype).eps / 2
    for at, value in zip(x.tolist(), got.tolist(), strict=True):
        with mp.workdps(60):
            z = _tanh_argument(mp.mpf(at))
            want = mp.mpf(at) * _sigmoid(2 * z)
            assert abs(mp.mpf(value) - want) <= (10 + 10 * abs(z)) * u * abs(want), (at, value)


@pytest.mark.parametrize("name", ["silu", "mish"])
def test_results_fade_out_gradually(name: str) -> None:
    """x exp(x) is still normal where exp(x) is subnormal."""
    x = np.linspace(-100, -80, 41, dtype=np.float32)
    wide = x.astype(np.float64)
    want = wide * np.exp(wide)
    got = ALL[name][0](t(x)).numpy()
    np.testing.assert_allclose(got, want, rtol=2.0**-20, atol=2.0**-149)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", [*ALL, "gelu_tanh"])
def test_limits_and_nan(name: str, dtype: str) -> None:
    function = OPTIONS[name] if name in OPTIONS else ALL[name][0]
    x = t([-INF, INF, NAN], getattr(tb, dtype))
    x.requires_grad = True
    y = function(x)
    left, right, nan = y.detach().tolist()
    assert left == {"elu": -1, "leaky_relu": -INF, "hardtanh": -1}.get(name, 0)
    assert right == (1 if name in ("sigmoid", "hardtanh") else INF)
    assert np.isnan(nan)
    (g,) = tb.grad(tb.sum(y), x)
    assert g is not None
    slope = g.tolist()
    assert slope[0] == pytest.approx(0.01 if name == "leaky_relu" else 0, rel=1e-3)
    assert slope[1] == (0 if name in ("sigmoid", "hardtanh") else 1)


def test_relu_of_integers_and_zeros() -> None:
    assert nn.relu(t([-3, 0, 4])).tolist() == [0, 0, 4]
    assert not np.signbit(nn.relu(t([-0.0])).numpy()).any()


def test_options() -> None:
    x = np.array([-3.0, -0.25, 0.0, 0.5, 4.0])
    got = nn.softplus(t(x), beta=2.0, threshold=3.0).numpy()
    np.testing.assert_allclose(got, [*np.log1p(np.exp(2 * x[:4])) / 2, 4.0], rtol=1e-15)
    got = nn.elu(t(x), alpha=0.5).numpy()
    np.testing.assert_allclose(got, np.where(x > 0, x, 0.5 * np.expm1(x)), rtol=1e-15)
    got = nn.hardtanh(t(x), min_val=-2, max_val=0.25).numpy()
    np.testing.assert_array_equal(got, np.clip(x, -2, 0.25))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: nn.gelu(t([1.0]), approximate="exact"), ValueError, "is 'none' or 'tanh', not"),
        (lambda: nn.hardtanh(t([1.0]), min_val=2, max_val=1), ValueError, "min_val 2 is greater"),
        (lambda: nn.silu(t([1])), TypeError, "silu needs floating operands, not int64"),
        (lambda: nn.relu(t([True])), TypeError, "relu needs numeric operands"),
        (lambda: nn.mish(1.0), TypeError, "mish: x is a float, not a tensor"),
    ],
)
def test_errors(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("name", [*ALL, *OPTIONS])
def test_gradients(name: str) -> None:
    function = OPTIONS[name] if name in OPTIONS else ALL[name][0]
    # No kink within the step of the differences.
    x = np.array([[-6.1, -2.7, -1.2], [-0.6, 0.4, 1.1], [1.4, 2.6, 5.3]])
    check_gradients(function, x)


def test_subgradients() -> None:
    cases: dict[Any, tuple[list[float], list[float]]] = {
        nn.relu: ([0.0, -0.0], [0, 0]),
        nn.leaky_relu: ([0.0, 1.0], [0.01, 1]),
        nn.hardtanh: ([-1.0, 1.0, 0.0], [0, 0, 1]),
        nn.hardswish: ([-3.0, 3.0, 0.0], [0, 1, 0.5]),
        nn.elu: ([0.0], [1]),
    }
    for function, (at, want) in cases.items():
        x = t(at, tb.float64)
        x.requires_grad = True
        (g,) = tb.grad(tb.sum(function(x)), x)
        assert g is not None
        assert g.tolist() == want


@pytest.mark.parametrize("name", ALL)
def test_one_kernel_forward_and_one_backward(name: str) -> None:
    x = t([0.3, -0.7])
    x.requires_grad = True
    g = t([1.0, 2.0])
    with tb.trace() as forward:
        y = ALL[name][0](x)
    with tb.trace() as backward:
        tb.grad(y, x, g)
    assert len(forward) == 1
    assert len(backward) == 1


@pytest.mark.parametrize("name", [*ALL, *OPTIONS])
def test_bits_equal_those_of_the_interpreter(name: str) -> None:
    function = OPTIONS[name] if name in OPTIONS else ALL[name][0]
    random = RNG.integers(0, 1 << 32, 200, np.uint32).view(np.float32)
    special = np.array([0.0, -0.0, INF, -INF, NAN, 1e-45, -1e-40, 3e38, -3e38], np.float32)
    x = np.concatenate([points(np.float32), special, random])

    def both(x: tb.Tensor) -> tuple[tb.Tensor, tb.Tensor]:
        x.requires_grad = True
        y = function(x)
        (g,) = tb.grad(y, x, tb.ones_like(x))
        assert g is not None
        return y.detach(), g

    same_bits(both, x)
