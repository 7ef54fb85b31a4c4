"""Indexing, take, gather, scatter and index_add against NumPy, with gradients."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from hypothesis import given, settings, strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from gradcheck import check_gradients, same_bits

RNG = np.random.default_rng(3)
A = RNG.standard_normal((5, 6, 7)).astype(np.float32)
I = np.array([[0, -1, 2], [3, 3, 1]])  # noqa: E741
J = np.array([4, 0, -2])
MASK = A > 0.3

KEYS: dict[str, Any] = {
    "int": 0,
    "ints": (1, -2),
    "all_ints": (1, 2, 3),
    "slice": slice(None, None, -2),
    "beyond": slice(-100, 100),
    "empty_slice": slice(4, 1),
    "dots": (..., 3),
    "new": (None, slice(1, 4), None, ..., -1),
    "array": I,
    "array_at_1": (slice(None), I),
    "array_dots": (..., J),
    "pair": (I, J),
    "apart": (I, slice(None), J),
    "apart_by_new": (I, None, J),
    "int_apart": (0, slice(None), J),
    "int_beside": (slice(None), 0, J),
    "with_step": (slice(None, None, -1), I, slice(None, None, -3)),
    "sliced": (slice(1, None, 2), None, J),
    "list": [2, 0, 2],
    "scalar_array": np.array(2),
    "no_indices": np.array([], np.int64),
    "empty_result": (slice(3, 3), I),
    "mask": MASK,
    "mask_rows": MASK[:, 0, 0],
    "mask_two": MASK[:, :, 0],
    "mask_later": (slice(None), MASK[0]),
    "mask_and_int": (MASK[:, 0, 0], 3),
    "mask_and_array": (slice(None), MASK[0, :3, 0].repeat(2), np.array(1)),
    "mask_true": np.array(True),
    "mask_false": np.array(False),
    "nothing": np.zeros((5, 6, 7), bool),
}


def t(a: Any, device: str = "cpu") -> tb.Tensor:
    return tb.asarray(np.asarray(a), device=device)


def key_of(key: Any, device: str = "cpu") -> Any:
    parts = key if isinstance(key, tuple) else (key,)
    return tuple(t(p, device) if isinstance(p, np.ndarray) else p for p in parts)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("device", ["cpu", "ref"])
def test_get_and_set(name: str, device: str) -> None:
    key = KEYS[name]
    numpy_key = key if isinstance(key, tuple) else (key,)
    ours = key_of(key, device)
    for a in (A, np.asarray(A[::-1, :, ::-1])):
        x = tb.from_dlpack(a, device=device)
        want = a[numpy_key]
        got = x[ours]
        assert got.shape == want.shape
        assert (got.numpy() == want).all()
    changed, y = A.copy(), t(A, device)
    value = RNG.standard_normal(want.shape).astype(np.float32)
    changed[numpy_key] = value
    y[ours] = t(value, device)
    assert (y.numpy() == changed).all()
    changed[numpy_key] = 2
    y[ours] = 2
    assert (y.numpy() == changed).all()


@pytest.mark.parametrize("name", ["ints", "slice", "new", "array_at_1", "apart", "mask_two"])
def test_gradients(name: str) -> None:
    key = key_of(KEYS[name])
    check_gradients(lambda x: x[key] * x[key], RNG.standard_normal(A.shape))


@pytest.mark.parametrize("name", ["ints", "slice", "new", "array_at_1", "apart", "mask_two"])
def test_gradients_of_setting(name: str) -> None:
    key = key_of(KEYS[name])

    def function(x: tb.Tensor, v: tb.Tensor) -> tb.Tensor:
        y = x * x
        y[key] = v * v
        return y * y

    value = A[tuple(k.numpy() if isinstance(k, tb.Tensor) else k for k in key)]
    check_gradients(function, RNG.standard_normal(A.shape), RNG.standard_normal(value.shape))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_slices(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
    a = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
    ends = st.none() | st.integers(-7, 7)
    key = []
    for n in shape:
        kinds = [st.builds(slice, ends, ends, st.none() | st.sampled_from([-3, -1, 1, 2]))]
        if n:
            kinds.append(st.integers(-n, n - 1))
        key.append(data.draw(st.one_of(*kinds)))
    key = key[: data.draw(st.integers(0, len(key)))]
    if data.draw(st.booleans()):
        key.insert(data.draw(st.integers(0, len(key))), None)
    if data.draw(st.booleans()):
        key.append(...)
    want = a[tuple(key)]
    x = tb.asarray(a)
    got = x[tuple(key)]
    assert got.shape == want.shape
    assert got.numpy().tolist() == want.tolist()
    b = a.copy()
    b[tuple(key)] = -1
    x[tuple(key)] = -1
    assert x.numpy().tolist() == b.tolist()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_integer_arrays(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    a = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    common = data.draw(st.sampled_from([(), (2,), (3, 1), (1, 2)]))
    key: list[Any] = []
    for n in shape:
        kind = data.draw(st.integers(0, 2))
        if kind == 0:
            key.append(data.draw(st.integers(-n, n - 1)))
        elif kind == 1:
            key.append(slice(None, None, data.draw(st.sampled_from([1, -1]))))
        else:
            size = int(np.prod(common))
            values = data.draw(st.lists(st.integers(-n, n - 1), min_size=size, max_size=size))
            key.append(np.array(values, np.int64).reshape(common))
    want = a[tuple(key)]
    got = tb.asarray(a)[key_of(tuple(key))]
    assert got.shape == want.shape
    assert got.numpy().tolist() == want.tolist()
    b, x = a.copy(), tb.asarray(a)
    value = np.arange(want.size).reshape(want.shape) + 1000
    b[tuple(key)] = value
    x[key_of(tuple(key))] = tb.asarray(value)
    assert x.numpy().tolist() == b.tolist()


@pytest.mark.parametrize("dtype", [tb.bool, tb.int8, tb.float16, tb.float64])
def test_every_width(dtype: Any) -> None:
    a = (A * 3).astype(dtype.numpy)
    x = tb.asarray(a)
    assert (x[t(I)].numpy() == a[I]).all()
    x[t(I)] = tb.asarray(a[I][::-1].copy())
    b = a.copy()
    b[I] = a[I][::-1]
    assert (x.numpy() == b).all()
    assert (tb.take(x, t(J), axis=1).numpy() == np.take(b, J, 1)).all()


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint64"])
def test_index_dtypes(kind: str) -> None:
    i = np.array([0, 3, 1], kind)
    assert (tb.asarray(A)[tb.asarray(i)].numpy() == A[i]).all()


def test_duplicates_keep_the_last() -> None:
    x = tb.zeros((4,), dtype=tb.int64)
    n = 5000
    i = RNG.integers(0, 4, n)
    x[t(i)] = tb.arange(n)
    assert x.numpy().tolist() == [int(np.nonzero(i == k)[0][-1]) for k in range(4)]


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("device", ["cpu", "ref"])
def test_take(axis: int, device: str) -> None:
    for i in (I, J, np.array(1), np.zeros((0, 2), np.int64)):
        got = tb.take(t(A, device), t(i, device), axis=axis).numpy()
        assert got.shape == np.take(A, i, axis).shape
        assert (got == np.take(A, i, axis)).all()
    order = np.argsort(A, axis=axis)
    got = tb.take_along_axis(t(A, device), t(order, device), axis=axis)
    assert (got.numpy() == np.take_along_axis(A, order, axis)).all()
    one = np.argmax(A, axis=axis, keepdims=True)[:1]
    if axis != 0:
        got = tb.take_along_axis(t(A, device), t(one, device), axis=axis)
        wide = np.broadcast_to(one, (5, *one.shape[1:]))
        assert (got.numpy() == np.take_along_axis(A, wide, axis)).all()


def _gather(a: np.ndarray, i: np.ndarray, axis: int) -> np.ndarray:
    grid = list(np.indices(i.shape))
    grid[axis] = i
    return np.asarray(a[tuple(grid)])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("device", ["cpu", "ref"])
def test_gather_and_scatter(axis: int, device: str) -> None:
    n = A.shape[axis]
    shape = [4, 3, 5]
    shape[axis] = 9
    i = RNG.integers(-n, n, shape)
    assert (tb.gather(t(A, device), t(i, device), axis=axis).numpy() == _gather(A, i, axis)).all()
    src = RNG.standard_normal([m + 1 for m in shape]).astype(np.float32)
    want = A.copy()
    grid = list(np.indices(i.shape))
    grid[axis] = i
    for place in np.ndindex(*i.shape):
        want[tuple(g[place] for g in grid)] = src[place]
    got = tb.scatter(t(A, device), t(i, device), t(src, device), axis=axis)
    assert (got.numpy() == want).all()


@pytest.mark.parametrize("device", ["cpu", "ref"])
@pytest.mark.parametrize("dtype", [tb.float32, tb.int8, tb.float16])
def test_index_add_in_order(dtype: Any, device: str) -> None:
    """Bit for bit the loop in order of position, 16-bit floats with one rounding at the end."""
    x = (RNG.standard_normal((4, 3)) * 4).astype(dtype.numpy)
    i = RNG.integers(-4, 4, 300)
    s = (RNG.standard_normal((300, 3)) * 9).astype(dtype.numpy)
    wide = np.float32 if dtype is tb.float16 else dtype.numpy
    want = x.astype(wide)
    with np.errstate(over="ignore"):
        for k, at in enumerate(i):
            want[at] += s[k].astype(wide)
    got = tb.index_add(t(x, device), t(i, device), t(s, device), axis=0)
    assert got.numpy().tobytes() == want.astype(dtype.numpy).tobytes()
    flipped = tb.index_add(t(x.T, device), t(i, device), t(s.T, device), axis=1)
    assert (got.numpy() == flipped.numpy().T).all()


def test_gradients_of_selection() -> None:
    x, s = RNG.standard_normal((4, 3)), RNG.standard_normal((5, 3))
    i = t(np.array([1, 1, 0, 3, 1]))
    g = t(RNG.integers(0, 4, (6, 2)))
    order = t(RNG.integers(0, 3, (4, 5)))
    check_gradients(lambda a: tb.take(a, t(I % 3), axis=1) * 2, x)
    check_gradients(lambda a: tb.gather(a, g, axis=0) * tb.gather(a, g, axis=0), x)
    check_gradients(lambda a: tb.take_along_axis(a, order, axis=1), x)
    check_gradients(lambda a, b: tb.index_add(a, i, b * b, axis=0) * a, x, s)
    check_gradients(
        lambda a, b: tb.scatter(a, g, b * b, axis=0) * a, x, RNG.standard_normal((6, 2))
    )


def test_same_bits() -> None:
    i = RNG.integers(0, 5, 40)
    source = RNG.standard_normal((40, 6, 7)).astype(np.float32)
    same_bits(lambda x, k, s: tb.index_add(x, k, s, axis=0), A, i, source)
    same_bits(lambda x, k, s: tb.scatter(x, k, s, axis=0), A, I[:, :, None], A[:2, :3, :1])
    same_bits(lambda x, k: x[:, k], A, J)


def _into(x: tb.Tensor, key: Any, value: Any) -> None:
    x[key] = value


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: x[5], IndexError, "index 5 .* axis 0 with size 5"),
        (lambda x: x[0, 0, 0, 0], IndexError, "4 indices .* 3 dimensions"),
        (lambda x: x[..., ...], IndexError, "one ellipsis"),
        (lambda x: x[1.5], IndexError, "1.5"),
        (lambda x: x[True], IndexError, "bool"),
        (lambda x: x[::0], ValueError, "step"),
        (lambda x: x["a"], IndexError, "str"),
        (lambda x: x[t(np.array([0, 9]))], IndexError, "index 9 .* size 5"),
        (lambda x: x[:, t(np.array([0, -7]))], IndexError, "index -7 .* axis 1 with size 6"),
        (lambda x: x[t(np.array([1.0]))], IndexError, "float64"),
        (lambda x: x[t(np.ones(4, bool))], IndexError, r"\(4,\)"),
        (lambda x: x[t(np.array([1]), "ref")], ValueError, "to_device"),
        (lambda x: x[t(np.ones(5, bool), "ref")], ValueError, "to_device"),
        (lambda x: x[t(I), t(np.array([0, 1]))], ValueError, "broadcast"),
        (lambda x: _into(x, 0, tb.ones((5,))), ValueError, "broadcast"),
        (lambda x: _into(x, 0, tb.ones((7,), dtype=tb.float64)), TypeError, "astype"),
        (lambda x: _into(x, 0, "a"), TypeError, "str"),
        (lambda x: _into(x, t(np.array([5])), 1), IndexError, "index 5"),
        (lambda x: _into(tb.arange(3), 0, 1.5), TypeError, "int64"),
        (lambda x: _into(x, 0, tb.ones((), device="ref")), ValueError, "to_device"),
        (lambda x: _into(tb.broadcast_to(x, (2, 5, 6, 7)), 0, 1), ValueError, "broadcast view"),
        (lambda x: tb.take(x, t(J)), ValueError, "axis is needed"),
        (lambda x: tb.take(x, t(J), axis=3), IndexError, "axis 3"),
        (lambda x: tb.take(x, t(J * 1.0), axis=0), TypeError, "integer"),
        (lambda x: tb.take(x, t(J + 9), axis=0), IndexError, "out of range"),
        (lambda x: tb.take(x[:0], t(J), axis=0), IndexError, "empty"),
        (lambda x: tb.gather(x, t(J), axis=0), ValueError, "agree"),
        (lambda x: tb.gather(x, t(np.zeros((1, 9, 1), int)), axis=0), ValueError, "exceeds"),
        (lambda x: tb.scatter(x, t(I[:, :, None]), x[:1], axis=0), ValueError, "at least"),
        (lambda x: tb.index_add(x, t(J), x, axis=0), ValueError, r"\(3, 6, 7\)"),
        (lambda x: tb.index_add(x > 0, t(J), x > 0, axis=0), TypeError, "bool"),
        (lambda x: tb.index_add(x, t(I), x, axis=0), ValueError, "2 dimensions"),
    ],
)
def test_errors(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call(tb.asarray(A))


def test_overlapping_assignment() -> None:
    x = tb.arange(8)
    x[1:] = x[:-1]
    assert x.numpy().tolist() == [0, 0, 1, 2, 3, 4, 5, 6]
    x[::-1] = x
    assert x.numpy().tolist() == [6, 5, 4, 3, 2, 1, 0, 0]


def test_large_rows() -> None:
    """Rows whose table of offsets is too large to be kept."""
    a = np.arange(3 * 70000, dtype=np.int32).reshape(3, 70000)
    x = tb.asarray(a)
    assert (x[t(np.array([2, 0]))].numpy() == a[[2, 0]]).all()
    assert (x.mT[:, t(np.array([1]))].numpy() == a.T[:, [1]]).all()


def test_an_ellipsis_of_no_dimensions_separates_integer_tensors() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    x, i = tb.asarray(array), [2, 0]
    np.testing.assert_array_equal(x[:, i, ..., i].numpy(), array[:, i, ..., i])
    np.testing.assert_array_equal(x[:, i, i].numpy(), array[:, i, i])
    x[:, i, ..., i] = tb.asarray([[1, 2], [3, 4]])
    array[:, i, ..., i] = [[1, 2], [3, 4]]
    np.testing.assert_array_equal(x.numpy(), array)
