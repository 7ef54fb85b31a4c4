"""Matrix products and what is made of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorbus as tb

sys.path.insert(0, str(Path(__file__).parent))
from gradcheck import check_gradients, same_bits

RNG = np.random.default_rng(17)


def t(a: Any, dtype: Any = None) -> tb.Tensor:
    return tb.asarray(a, dtype=dtype, device="cpu")


SHAPES = [
    ((3, 4), (4, 5)),
    ((4,), (4,)),
    ((3, 4), (4,)),
    ((4,), (4, 5)),
    ((2, 3, 4), (4, 5)),
    ((2, 1, 3, 4), (6, 4, 5)),
    ((2, 3, 4), (4,)),
    ((0, 4), (4, 5)),
    ((3, 0), (0, 5)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = RNG.standard_normal(a), RNG.standard_normal(b)
    np.testing.assert_allclose(tb.matmul(t(x), t(y)).numpy(), x @ y, atol=1e-13)
    with tb.reproducible():
        np.testing.assert_allclose((t(x) @ t(y)).numpy(), x @ y, atol=1e-13)
    m, n = RNG.integers(-9, 9, a), RNG.integers(-9, 9, b)
    assert (tb.matmul(t(m), t(n, tb.int32)).numpy() == m @ n).all()


@pytest.mark.parametrize(("a", "b"), SHAPES[:7])
def test_gradients_of_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check_gradients(tb.matmul, RNG.standard_normal(a), RNG.standard_normal(b))


def test_matmul_of_views() -> None:
    x, y = RNG.standard_normal((6, 8)), RNG.standard_normal((6, 8))
    np.testing.assert_allclose((t(x).T @ t(y)[:, ::-1]).numpy(), x.T @ y[:, ::-1], atol=1e-13)
    half = RNG.standard_normal((5, 7)).astype(np.float16)
    exact = half.astype(np.float64) @ half.T.astype(np.float64)
    np.testing.assert_allclose(tb.matmul(t(half), t(half).T).numpy(), exact, rtol=1e-3)


def test_vecdot_has_the_bits_of_matmul() -> None:
    x, y = (RNG.standard_normal((5, 600)).astype(np.float32) for _ in range(2))
    with tb.reproducible():
        dots = tb.vecdot(t(x), t(y)).numpy()
        product = tb.matmul(t(x), t(y).T).numpy()
    assert dots.tobytes() == np.diagonal(product).tobytes()


def test_vecdot() -> None:
    x, y = RNG.standard_normal((3, 4, 5)), RNG.standard_normal((4, 1))
    got = tb.vecdot(t(x), t(y), axis=-2).numpy()
    np.testing.assert_allclose(got, (x * y).sum(axis=-2), atol=1e-14)
    got = tb.linalg.vecdot(t(x), t(x), axis=0).numpy()
    np.testing.assert_allclose(got, (x * x).sum(axis=0), atol=1e-14)
    check_gradients(lambda a, b: tb.vecdot(a, b, axis=-2), x, y)
    with pytest.raises(ValueError, match="vectors"):
        tb.vecdot(t(x), t(y))
    with pytest.raises(IndexError, match="axis 3"):
        tb.vecdot(t(x), t(x), axis=3)


@pytest.mark.parametrize("axes", [0, 1, 2, ((0, 2), (2, 0)), ((-1,), (0,)), ((), ())])
def test_tensordot(axes: Any) -> None:
    x, y = RNG.standard_normal((3, 4, 3)), RNG.standard_normal((3, 4, 3))
    if axes == 2:
        y = RNG.standard_normal((4, 3, 2))
    got = tb.tensordot(t(x), t(y), axes=axes).numpy()
    np.testing.assert_allclose(got, np.tensordot(x, y, axes), atol=1e-13)


def test_gradient_of_tensordot() -> None:
    x, y = RNG.standard_normal((2, 3, 4)), RNG.standard_normal((4, 5, 2))
    check_gradients(lambda a, b: tb.tensordot(a, b, axes=((2, 0), (0, 2))), x, y)


def test_namespace() -> None:
    assert tb.linalg.matmul is tb.matmul
    assert tb.linalg.tensordot is tb.tensordot
    assert tb.linalg.matrix_transpose is tb.matrix_transpose


def test_errors() -> None:
    x = t(np.ones((2, 3)))
    with pytest.raises(ValueError, match="inner sizes"):
        tb.matmul(x, x)
    with pytest.raises(ValueError, match="dimension"):
        tb.matmul(x, t(1.0))
    with pytest.raises(TypeError, match="bool"):
        tb.matmul(t([True]), t([True]))
    with pytest.raises(ValueError, match="do not fit"):
        tb.tensordot(x, x, axes=1)
    with pytest.raises(ValueError, match="axes"):
        tb.tensordot(x, x, axes=3)


def test_same_bits() -> None:
    x = RNG.standard_normal((3, 300)).astype(np.float32)
    same_bits(tb.matmul, x, np.ascontiguousarray(x.T))
    same_bits(tb.vecdot, x, x)
    same_bits(lambda a, b: tb.tensordot(a, b, axes=((1,), (1,))), x, x)
