"""Manipulation against NumPy: values, views, gradients, errors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from hypothesis import given, settings, strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from gradcheck import check_gradients

A = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
VIEWS = [A, A[::-1, :, ::2], A.T, A[:, 0:0], A[1, 2, 3], np.broadcast_to(A[:1], (2, 4, 5))]


def t(a: Any, device: str = "cpu") -> tb.Tensor:
    """A tensor with the strides of the array, over its memory."""
    return tb.from_dlpack(np.asarray(a), device=device)


def same(got: tb.Tensor, want: Any) -> None:
    want = np.asarray(want)
    assert got.shape == want.shape
    assert got.dtype.numpy == want.dtype
    assert got.numpy().tobytes() == want.tobytes()


def shares(view: tb.Tensor, base: tb.Tensor) -> bool:
    return view._buffer is base._buffer


CASES: list[tuple[str, Any, Any]] = [
    ("flip", lambda x: tb.flip(x), lambda a: np.flip(a)),
    ("flip_axis", lambda x: tb.flip(x, axis=(0, -1)), lambda a: np.flip(a, (0, -1))),
    ("expand", lambda x: tb.expand_dims(x, axis=(0, -1)), lambda a: np.expand_dims(a, (0, -1))),
    ("moveaxis", lambda x: tb.moveaxis(x, 0, -1), lambda a: np.moveaxis(a, 0, -1)),
    ("moves", lambda x: tb.moveaxis(x, (2, 0), (0, 1)), lambda a: np.moveaxis(a, (2, 0), (0, 1))),
    ("permute", lambda x: tb.permute_dims(x, (1, 2, 0)), lambda a: a.transpose(1, 2, 0)),
    ("mT", lambda x: x.mT, lambda a: np.swapaxes(a, -1, -2)),
    ("roll", lambda x: tb.roll(x, 3), lambda a: np.roll(a, 3)),
    ("roll_axis", lambda x: tb.roll(x, -2, axis=1), lambda a: np.roll(a, -2, 1)),
    ("rolls", lambda x: tb.roll(x, (1, 7), axis=(0, 2)), lambda a: np.roll(a, (1, 7), (0, 2))),
    ("roll_more", lambda x: tb.roll(x, 1, axis=(0, 2)), lambda a: np.roll(a, 1, (0, 2))),
    ("tile", lambda x: tb.tile(x, (2, 1, 3)), lambda a: np.tile(a, (2, 1, 3))),
    ("tile_more", lambda x: tb.tile(x, (2, 1, 1, 2)), lambda a: np.tile(a, (2, 1, 1, 2))),
    ("tile_less", lambda x: tb.tile(x, (0,)), lambda a: np.tile(a, (0,))),
    ("repeat", lambda x: tb.repeat(x, 2), lambda a: np.repeat(a, 2)),
    ("repeat_axis", lambda x: tb.repeat(x, 3, axis=-2), lambda a: np.repeat(a, 3, -2)),
    ("concat", lambda x: tb.concat([x, x, x], axis=1), lambda a: np.concatenate([a, a, a], 1)),
    ("concat_flat", lambda x: tb.concat([x, x], axis=None), lambda a: np.concatenate([a, a], None)),
    ("stack", lambda x: tb.stack([x, x], axis=-1), lambda a: np.stack([a, a], -1)),
    ("broadcast", lambda x: tb.broadcast_to(x, (2, *x.shape)), lambda a: np.stack([a, a])),
    ("tril", lambda x: tb.tril(x, k=1), lambda a: np.tril(a, 1)),
    ("triu", lambda x: tb.triu(x, k=-1), lambda a: np.triu(a, -1)),
]


@pytest.mark.parametrize(("name", "ours", "theirs"), CASES, ids=[c[0] for c in CASES])
def test_values(name: str, ours: Any, theirs: Any) -> None:
    for a in VIEWS:
        if a.ndim == 3:
            same(ours(t(a)), theirs(a))
    same(ours(t(VIEWS[1], "ref")), theirs(VIEWS[1]))


@pytest.mark.parametrize(("name", "ours", "theirs"), CASES, ids=[c[0] for c in CASES])
def test_gradients(name: str, ours: Any, theirs: Any) -> None:
    check_gradients(ours, np.random.default_rng(1).standard_normal((2, 3, 4)), second=False)


@pytest.mark.parametrize("dtype", [tb.bool, tb.int8, tb.uint16, tb.bfloat16, tb.float64])
def test_every_width_moves(dtype: Any) -> None:
    a = (np.arange(12).reshape(3, 4) % 3).astype(dtype.numpy)
    x = tb.asarray(a)
    same(tb.concat([x, tb.flip(x)], axis=0), np.concatenate([a, np.flip(a)], 0))
    same(tb.roll(x, 2, axis=1), np.roll(a, 2, 1))
    same(tb.tril(x), np.tril(a.astype(np.float32)).astype(dtype.numpy))


def test_views_share_memory() -> None:
    x = tb.asarray(A)
    for view in (
        tb.flip(x),
        tb.moveaxis(x, 0, 2),
        tb.expand_dims(x, axis=1),
        tb.squeeze(tb.expand_dims(x, axis=0), 0),
        tb.reshape(x, (4, 15)),
        tb.broadcast_to(x, (2, 3, 4, 5)),
        tb.unstack(x, axis=1)[2],
        tb.broadcast_arrays(x, x)[0],
        tb.meshgrid(x[0, 0], x[0, 1])[0],
    ):
        assert shares(view, x)
    assert not shares(tb.reshape(x.mT, (60,)), x)
    assert not shares(tb.reshape(x, (60,), copy=True), x)
    with pytest.raises(ValueError, match="copy=False"):
        tb.reshape(x.mT, (60,), copy=False)


def test_several_results() -> None:
    x = t(VIEWS[1])
    for got, want in zip(tb.unstack(x, axis=-1), np.moveaxis(VIEWS[1], -1, 0), strict=True):
        same(got, want)
    a, b = np.arange(3.0), np.ones((2, 1))
    for got, want in zip(tb.broadcast_arrays(t(a), t(b)), np.broadcast_arrays(a, b), strict=True):
        same(got, want)
    for indexing in ("xy", "ij"):
        ours = tb.meshgrid(t(a), t(a[:2]), t(a[:1]), indexing=indexing)
        theirs = np.meshgrid(a, a[:2], a[:1], indexing=indexing)
        for got, want in zip(ours, theirs, strict=True):
            same(got, want)


def test_join_promotes() -> None:
    x = tb.concat([tb.ones((2,), dtype=tb.int32), tb.ones((1,), dtype=tb.float16)])
    assert x.dtype is tb.float16
    assert tb.stack([tb.ones(()), tb.ones((), dtype=tb.float64)]).dtype is tb.float64


def test_repeat_each() -> None:
    for repeats in ([1, 0, 2], [2]):
        got = tb.repeat(t(VIEWS[1]), tb.asarray(repeats), axis=0)
        same(got, np.repeat(VIEWS[1], repeats, 0))
    check_gradients(
        lambda x: tb.repeat(x, tb.asarray([1, 0, 2]), axis=0), np.ones((3, 2)), second=False
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_reshape_of_any_view(data: st.DataObject) -> None:
    """A reshaped view has the elements of the reshaped copy, whether it could share or not."""
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    base = np.arange(int(np.prod([2 * n + 1 for n in shape])), dtype=np.int32)
    base = base.reshape([2 * n + 1 for n in shape])
    steps = [data.draw(st.sampled_from([1, 2, -1])) for _ in shape]
    keys = tuple(
        slice(None, n * s, s) if s > 0 else slice(n - 1, None, -1) if n else slice(0, 0)
        for n, s in zip(shape, steps, strict=True)
    )
    axes = data.draw(st.permutations(range(len(shape))))
    view = base[keys].transpose(axes)
    size = view.size
    target = data.draw(st.sampled_from([(size,), (-1, 1), (1, size, 1), view.shape[::-1]]))
    if size % 2 == 0:
        target = data.draw(st.sampled_from([target, (2, size // 2), (size // 2, 2, 1)]))
    if size == 0 and -1 in target:
        target = (0, 1)
    same(tb.reshape(t(view), target), view.reshape(target))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 3), max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.integers(0, 2),
)
def test_broadcast_of_any_shape(shape: list[int], ones: list[bool], lead: int) -> None:
    source = [1 if one else n for n, one in zip(shape, ones, strict=False)]
    a = np.arange(int(np.prod(source)), dtype=np.int16).reshape(source)
    target = (*([2] * lead), *shape)
    same(tb.broadcast_to(t(a), target), np.broadcast_to(a, target))


ERRORS: list[tuple[str, Any, type[Exception], str]] = [
    ("reshape", lambda x: tb.reshape(x, (7, 9)), ValueError, "60 elements"),
    ("reshape_minus", lambda x: tb.reshape(x, (7, -1)), ValueError, "do not fill"),
    ("permute", lambda x: tb.permute_dims(x, (0, 0, 1)), ValueError, "order"),
    ("expand", lambda x: tb.expand_dims(x, axis=4), IndexError, "out of range"),
    ("squeeze", lambda x: tb.squeeze(x, 0), ValueError, "size 3"),
    ("flip", lambda x: tb.flip(x, axis=3), IndexError, "axis 3"),
    ("moveaxis", lambda x: tb.moveaxis(x, (0, 1), 0), ValueError, "equally many"),
    ("concat", lambda x: tb.concat([x, x[0]], axis=0), ValueError, "must agree"),
    ("concat_none", lambda x: tb.concat([], axis=0), ValueError, "non-empty"),
    ("concat_scalar", lambda x: tb.concat([x[0, 0, 0]], axis=0), ValueError, "stack"),
    ("stack", lambda x: tb.stack([x, x[0]]), ValueError, "equal"),
    ("roll", lambda x: tb.roll(x, (1, 2), axis=(0, 1, 2)), ValueError, "2 shifts"),
    ("tile", lambda x: tb.tile(x, (-1,)), ValueError, "negative"),
    ("repeat", lambda x: tb.repeat(x, -1), ValueError, "negative"),
    ("repeat_fit", lambda x: tb.repeat(x, tb.arange(2), axis=0), ValueError, "do not fit"),
    ("broadcast", lambda x: tb.broadcast_to(x, (3, 4, 6)), ValueError, "broadcast"),
    ("tril", lambda x: tb.tril(x[0, 0]), ValueError, "2 dimensions"),
    ("meshgrid", lambda x: tb.meshgrid(x), ValueError, "one dimension"),
    ("mT", lambda x: x[0, 0].mT, ValueError, "2 dimensions"),
    ("T", lambda x: x.T, ValueError, r"x\.mT"),
    ("not_a_tensor", lambda x: tb.flip(A), TypeError, "asarray"),
]


@pytest.mark.parametrize(("name", "call", "error", "words"), ERRORS, ids=[e[0] for e in ERRORS])
def test_errors(name: str, call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call(tb.asarray(A))


def test_astype() -> None:
    a = np.array([-1.5, 0.0, 2.5, 300.0, np.nan, np.inf, -np.inf], np.float32)
    x = tb.asarray(a)
    assert tb.astype(x, tb.int8).numpy().tolist() == [-1, 0, 2, 127, 0, 127, -128]
    assert tb.astype(x, tb.uint8).numpy().tolist() == [0, 0, 2, 255, 0, 255, 0]
    assert tb.astype(x, tb.bool).numpy().tolist() == [True, False] + [True] * 5
    assert tb.astype(tb.asarray([257, -1]), tb.uint8).numpy().tolist() == [1, 255]
    assert tb.astype(x, tb.float32, copy=False) is x
    assert not shares(tb.astype(x, tb.float32), x)
    assert tb.astype(x, tb.int32, device="ref").device == "ref"
    with pytest.raises(TypeError, match="dtype"):
        tb.astype(x, "int32")  # type: ignore[arg-type]
    check_gradients(lambda v: tb.astype(tb.astype(v, tb.float64), tb.float64), np.ones(3))


def test_dtype_functions() -> None:
    assert tb.result_type(tb.int8, tb.uint8) is tb.int16
    assert tb.result_type(tb.ones((1,), dtype=tb.float16), 1.5, tb.int64) is tb.float16
    assert tb.can_cast(tb.int8, tb.float32)
    assert not tb.can_cast(tb.float32, tb.int64)
    assert not tb.can_cast(tb.bool, tb.int8)
    assert tb.isdtype(tb.bfloat16, "real floating")
    assert tb.isdtype(tb.int8, ("bool", tb.int8))
    assert not tb.isdtype(tb.uint8, "signed integer")
    for dtype in (tb.float16, tb.float32, tb.float64):
        ours, theirs = tb.finfo(dtype), np.finfo(dtype.numpy)
        assert ours.eps == theirs.eps
        assert ours.max == theirs.max
        assert ours.min == theirs.min
        assert ours.smallest_normal == theirs.smallest_normal
    assert tb.iinfo(tb.uint16).max == 65535
    assert tb.iinfo(tb.ones((1,), dtype=tb.int8)).min == -128
    for call, error in [
        (lambda: tb.finfo(tb.int8), TypeError),
        (lambda: tb.iinfo(tb.bool), TypeError),
        (lambda: tb.isdtype(tb.int8, "whole"), ValueError),
        (lambda: tb.result_type(1, 2.0), TypeError),
        (lambda: tb.result_type(tb.uint64, tb.int8), TypeError),
    ]:
        with pytest.raises(error):
            call()
    assert tb.newaxis is None
    assert (tb.e, tb.pi, tb.inf) == (np.e, np.pi, np.inf)
    assert tb.nan != tb.nan
