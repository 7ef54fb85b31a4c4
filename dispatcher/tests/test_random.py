"""Philox, its keys, and the distributions made of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import random
from tensorbus_backends import dtypes as dt, interp, ir

sys.path.insert(0, str(Path(__file__).parent))
from gradcheck import same_bits

# Random123, kat_vectors, "philox4x32 10".
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
KEY = random.key(0x299F31D0A4093822)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter: Any, key: Any, words: Any) -> None:
    assert random.philox(counter, key) == words
    c = [ir.const(w, dt.uint32) for w in counter]
    k = [ir.const(w, dt.uint32) for w in key]
    found = interp.evaluate(random.philox_expr(c, k), lambda node: np.empty(0))
    assert tuple(int(w) for w in found) == words


def words(n: int) -> np.ndarray:
    return np.asarray([random.philox((i, 0, 0, 0), KEY.words) for i in range(n)], np.uint64)


def test_element_i_is_made_of_counter_i() -> None:
    w = words(200)
    u = random.uniform((10, 20), key=KEY, device="cpu").numpy().reshape(-1)
    assert (u == (w[:, 0] >> np.uint64(8)) * 2.0**-24).all()
    u = random.uniform(200, key=KEY, dtype=tb.float64, device="cpu").numpy()
    assert (u == ((w[:, 0] | w[:, 1] << np.uint64(32)) >> np.uint64(11)) * 2.0**-53).all()
    wide = [int(a) | int(b) << 32 for a, b in w[:, :2]]
    drawn = random.integers(-5, 1000, 200, key=KEY, device="cpu").numpy()
    assert drawn.tolist() == [-5 + (v * 1005 >> 64) for v in wide]
    p = np.float32(0.3)
    b = random.bernoulli(0.3, (200,), key=KEY, device="cpu").numpy()
    assert (b == (w[:, 0] < np.uint64(p * np.float32(2**32)))).all()
    u = (w[:, 0].astype(np.float64) + 1) * 2.0**-32
    turn = (w[:, 1].astype(np.uint32).view(np.int32) >> 8) * 2.0**-24
    z = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * turn)
    got = random.normal(200, key=KEY, mean=1.0, std=2.0, device="cpu").numpy()
    np.testing.assert_allclose(got, 1 + 2 * z, atol=3e-6)


def test_keys() -> None:
    a, b = random.key(1).split()
    assert len({random.key(1), a, b, a.fold_in(0), a.fold_in(1), b.fold_in(0)}) == 6
    assert random.key(1).split(5)[:2] == (a, b)
    same = random.uniform(5, seed=9, device="cpu").numpy()
    assert (same == random.uniform(5, key=random.key(9), device="cpu").numpy()).all()
    assert (same[:3] == random.uniform(3, seed=9, device="cpu").numpy()).all()
    assert (same != random.uniform(5, seed=10, device="cpu").numpy()).any()
    with pytest.raises(ValueError, match="seed"):
        random.key(-1)
    with pytest.raises(TypeError, match="seed"):
        random.key(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="exactly one"):
        random.uniform(5)
    with pytest.raises(TypeError, match="exactly one"):
        random.uniform(5, seed=1, key=a)
    with pytest.raises(TypeError, match="Key"):
        random.uniform(5, key=3)  # type: ignore[arg-type]


N = 1 << 16


def moments(x: np.ndarray, mean: float, variance: float, fourth: float) -> None:
    """Six standard deviations of the sample mean and of the sample variance."""
    x = x.astype(np.float64)
    assert abs(x.mean() - mean) < 6 * np.sqrt(variance / x.size)
    assert abs(((x - mean) ** 2).mean() - variance) < 6 * np.sqrt((fourth - variance**2) / x.size)


def test_distributions() -> None:
    u = random.uniform(N, seed=2, device="cpu").numpy()
    moments(u, 0.5, 1 / 12, 1 / 80)
    assert 0 <= u.min() < u.max() < 1
    z = random.normal(N, seed=3, device="cpu").numpy()
    moments(z, 0, 1, 3)
    assert abs((z**3).mean()) < 6 * np.sqrt(15 / N)
    k = random.integers(0, 7, N, seed=4, device="cpu").numpy()
    counts = np.bincount(k)
    assert (abs(counts - N / 7) < 6 * np.sqrt(N * 6 / 49)).all()
    b = random.bernoulli(0.25, N, seed=5, device="cpu").numpy()
    assert abs(b.sum() - N / 4) < 6 * np.sqrt(N * 3 / 16)


def test_uniform_keeps_its_bounds() -> None:
    for dtype in (tb.float16, tb.bfloat16, tb.float32, tb.float64):
        x = random.uniform(N, seed=6, low=1.0, high=1.01, dtype=dtype, device="cpu")
        assert x.dtype is dtype
        values = x.numpy().astype(np.float64)
        assert values.min() >= 1
        assert values.max() < float(dtype.numpy.type(1.01)) or dtype is tb.bfloat16
    with pytest.raises(ValueError, match="interval"):
        random.uniform(5, seed=0, low=1.0, high=1.0)
    with pytest.raises(ValueError, match="interval"):
        random.uniform(5, seed=0, low=-3e38, high=3e38)
    with pytest.raises(TypeError, match="floating"):
        random.uniform(5, seed=0, dtype=tb.int32)


def test_integers_of_every_width() -> None:
    for dtype in (tb.int8, tb.uint8, tb.int64, tb.uint64):
        x = random.integers(dtype.min, dtype.max + 1, N, seed=7, dtype=dtype, device="cpu").numpy()
        assert x.dtype == dtype.numpy
        assert float(x.max()) > 0.9 * dtype.max
        assert float(x.min()) <= 0.9 * dtype.min + 0.1 * dtype.max
    with pytest.raises(ValueError, match="none"):
        random.integers(3, 3, seed=0)
    with pytest.raises(ValueError, match="fit"):
        random.integers(0, 300, seed=0, dtype=tb.uint8)


def test_bernoulli_at_the_ends() -> None:
    assert not random.bernoulli(0.0, N, seed=8, device="cpu").numpy().any()
    assert random.bernoulli(1.0, N, seed=8, device="cpu").numpy().all()
    with pytest.raises(ValueError, match="probability"):
        random.bernoulli(1.5, seed=8)


def test_permutation() -> None:
    p = random.permutation(1000, seed=9, device="cpu").numpy()
    assert (np.sort(p) == np.arange(1000)).all()
    assert (p != np.arange(1000)).sum() > 900
    x = tb.asarray(np.arange(12.0).reshape(3, 4), device="cpu")
    q = random.permutation(4, seed=9, device="cpu").numpy()
    assert (random.permutation(x, axis=1, seed=9).numpy() == x.numpy()[:, q]).all()
    assert random.permutation(0, seed=9, device="cpu").shape == (0,)
    with pytest.raises(ValueError, match="-1"):
        random.permutation(-1, seed=9)


def test_dropout() -> None:
    x = tb.asarray(np.ones((4, 1000), np.float32), device="cpu")
    y = tb.nn.dropout(x, 0.25, seed=1)
    assert set(np.unique(y.numpy())) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y.numpy() == 0).sum() - 1000) < 6 * np.sqrt(750)
    x.requires_grad = True
    (g,) = tb.grad(tb.sum(tb.nn.dropout(x, 0.25, seed=1) * 2), x)
    assert (g.numpy() == 2 * y.numpy()).all()
    _, tangent = tb.jvp(lambda a: tb.nn.dropout(a, 0.25, seed=1), [x.detach()], [x.detach()])
    assert (tangent.numpy() == y.numpy()).all()
    assert tb.nn.dropout(x, 0.5, training=False) is x
    assert not tb.nn.dropout(x, 1.0, seed=1).numpy().any()
    with pytest.raises(TypeError, match="exactly one"):
        tb.nn.dropout(x)
    with pytest.raises(ValueError, match="probability"):
        tb.nn.dropout(x, 2.0, seed=1)


def test_same_bits() -> None:
    for dtype in (tb.float32, tb.float64, tb.float16):
        same_bits(lambda dtype=dtype: random.uniform(300, seed=1, low=-1.0, dtype=dtype))
        same_bits(lambda dtype=dtype: random.normal(300, seed=1, dtype=dtype))
    same_bits(lambda: random.integers(0, 1000, 300, seed=1))
