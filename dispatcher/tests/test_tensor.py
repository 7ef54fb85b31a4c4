"""The tensor as a Python object; changes in place and what protects gradients from them."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import numpy as np
import pytest
import tensorbus as tb


def leaf(values: Any) -> tb.Tensor:
    x = tb.asarray(values, dtype=tb.float32)
    x.requires_grad = True
    return x


# -- Python's protocols ---------------------------------------------------------------------------


def test_attributes() -> None:
    x = tb.zeros((2, 3, 4), dtype=tb.int16)
    assert (x.ndim, x.size, x.nbytes, len(x)) == (3, 24, 48, 2)
    assert x.strides == (12, 4, 1)
    assert x.device == "cpu"
    assert x.mT.shape == (2, 4, 3)
    assert x[0].T.shape == (4, 3)
    assert x.__array_namespace__() is tb
    assert x.__array_namespace__(api_version="2024.12") is tb
    with pytest.raises(ValueError, match=r"1999\.1"):
        x.__array_namespace__(api_version="1999.1")
    with pytest.raises(AttributeError, match="shap"):
        _ = x.shap
    assert x.grad is None


def test_repr() -> None:
    assert repr(tb.asarray([1.5, -0.0])) == "tensor([ 1.5, -0. ], dtype=float32, device='cpu')"
    assert repr(leaf(2.0)).endswith("requires_grad=True)")
    assert "shape=(0, 3)" in repr(tb.zeros((0, 3)))
    assert "1.5" in repr(tb.asarray([1.5], dtype=tb.bfloat16))
    text = repr(tb.arange(100000))
    assert len(text) < 200
    assert "...," in text
    assert "99999" in text
    wide = repr(tb.reshape(tb.arange(3 * 5000), (3, 5000)))
    assert "14999" in wide
    assert "9999" in wide
    assert len(wide) < 400


def test_scalars() -> None:
    x = tb.asarray(3, dtype=tb.int8)
    assert int(x) == float(x) == x.item() == 3
    assert [10, 20, 30, 40][x] == 40
    assert bool(x)
    assert tb.asarray([[2.5]], dtype=tb.bfloat16).item() == 2.5
    assert type(tb.asarray(True).item()) is bool
    assert tb.asarray([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert tb.asarray([0.5], dtype=tb.bfloat16).tolist() == [0.5]
    with pytest.raises(ValueError, match="one element"):
        tb.ones((2,)).item()
    with pytest.raises(ValueError, match="ambiguous"):
        bool(tb.ones((2,)))
    with pytest.raises(TypeError, match="index"):
        range(4)[tb.asarray(1.0)]
    with pytest.raises(TypeError, match="length"):
        len(x)


def test_iteration_and_membership() -> None:
    x = tb.asarray([[1, 2], [3, 4]])
    assert [row.tolist() for row in x] == [[1, 2], [3, 4]]
    assert 3 in x
    assert 5 not in x
    a, b = x
    assert a._buffer is x._buffer
    assert b.tolist() == [3, 4]
    with pytest.raises(TypeError):
        iter(tb.asarray(1)).__next__()


def test_comparison_and_hash() -> None:
    x, y = tb.asarray([1, 2, 3]), tb.asarray([3, 2, 1])
    assert (x == y).tolist() == [False, True, False]
    assert (x != y).tolist() == [True, False, True]
    assert (x < y).tolist() == [True, False, False]
    assert (x >= 2).tolist() == [False, True, True]
    assert (1 + x).tolist() == [2, 3, 4]
    assert (x == None) is False  # noqa: E711
    assert len({x, y, x}) == 2
    assert hash(x) != hash(y)


def test_operators_with_strangers() -> None:
    x = tb.ones((2,))
    for call in (lambda: x + "a", lambda: np.ones(2) + x, lambda: x @ 3, lambda: x < [1]):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("dtype", [tb.bool, tb.int64, tb.bfloat16, tb.float32])
@pytest.mark.parametrize("device", ["cpu", "ref"])
def test_pickle_and_copy(dtype: Any, device: str) -> None:
    x = tb.asarray([[0, 1, 1]], dtype=dtype, device=device)
    for made in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x), copy.copy(x)):
        assert (made.dtype, str(made.device), made.shape) == (dtype, device, (1, 3))
        assert made.tolist() == x.tolist()
    assert copy.copy(x)._buffer is x._buffer
    assert copy.deepcopy(x)._buffer is not x._buffer


def test_copies_of_leaves() -> None:
    x = leaf([1.0, 2.0])
    tb.sum(x * x).backward()
    for made in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x)):
        assert made.requires_grad
        assert made.is_leaf
    assert copy.deepcopy(x).grad.tolist() == [2, 4]
    pair = copy.deepcopy([x, x])
    assert pair[0] is pair[1]
    for call in (pickle.dumps, copy.deepcopy):
        with pytest.raises(RuntimeError, match="detach"):
            call(x * 2)


def test_namespace_info() -> None:
    info = tb.__array_namespace_info__()
    assert info.capabilities()["boolean indexing"] is True
    assert info.default_device() == "cpu"
    assert info.default_dtypes()["integral"] is tb.int64
    assert set(info.dtypes(kind="real floating")) == {"float16", "bfloat16", "float32", "float64"}
    assert info.dtypes(kind=("bool", "unsigned integer"), device="ref")["bool"] is tb.bool
    assert "cpu" in info.devices()
    with pytest.raises(ValueError, match="kind"):
        info.dtypes(kind="real")


# -- in place -------------------------------------------------------------------------------------


def test_in_place_operators() -> None:
    x = tb.asarray([1.0, 2.0, 3.0])
    base = x._buffer
    view = x[1:]
    x += 1
    x *= tb.asarray([2.0, 2.0, 2.0])
    assert x._buffer is base
    assert view.tolist() == [6, 8]
    view -= 1
    assert x.tolist() == [4, 5, 7]
    with pytest.raises(ValueError, match="shape"):
        x += tb.ones((2, 3))
    with pytest.raises(TypeError, match="float64"):
        x += tb.ones((3,), dtype=tb.float64)
    n = tb.asarray([1, 2])
    with pytest.raises(TypeError, match="float32"):
        n /= 2


def test_in_place_is_differentiated() -> None:
    x = leaf([1.0, 2.0])
    y = x * 3
    y *= tb.asarray([2.0, 4.0])
    y[0] = 5.0
    y += x
    (g,) = tb.grad(tb.sum(y), x)
    assert g.tolist() == [1, 13]
    z = x * 3
    z *= z
    with pytest.raises(RuntimeError, match="changed in place"):
        tb.grad(tb.sum(z), x)


def test_leaves_are_protected() -> None:
    x = leaf([1.0, 2.0])
    view = x[:1]
    for change in (
        lambda: x.__iadd__(1),
        lambda: x.__setitem__(0, 1.0),
        lambda: view.__iadd__(1),
        lambda: view.__setitem__(0, 1.0),
        lambda: x[0:1][:].__imul__(2),
    ):
        with pytest.raises(RuntimeError, match="leaf"):
            change()
    assert x.tolist() == [1, 2]
    with tb.no_grad():
        x -= 0.5
        x[0] = 4
    assert x.requires_grad
    assert x.is_leaf
    (g,) = tb.grad(tb.sum(x * x), x)
    assert g.tolist() == [8, 3]


def test_saved_values_are_protected() -> None:
    x = leaf([1.0, 2.0])
    for spoil in (
        lambda y: y.__iadd__(1),
        lambda y: y.__setitem__(0, 9.0),
        lambda y: y.detach().__imul__(2),
        lambda y: y[:1].__iadd__(1),
    ):
        y = x * 1
        z = y * y
        spoil(y)
        with pytest.raises(RuntimeError, match="changed in place"):
            tb.grad(tb.sum(z), x)
    y = tb.exp(x)
    out = y + 1
    y += 1
    with pytest.raises(RuntimeError, match="result 0 of exp"):
        tb.grad(tb.sum(out), x)


def test_values_that_no_rule_needs_may_change() -> None:
    x = leaf([1.0, 2.0])
    y = x * 2
    z = y + 1
    y += 100
    (g,) = tb.grad(tb.sum(z), x)
    assert g.tolist() == [2, 2]


def test_views_of_changed_memory() -> None:
    """A tracked view whose base changed, or a base whose view changed, must not go unnoticed."""
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    y = x * 1
    view = y[0]
    y *= 10
    with pytest.raises(RuntimeError, match="through another tensor"):
        _ = view * 2
    (g,) = tb.grad(tb.sum(y), x)
    assert g.tolist() == [[10, 10], [10, 10]]
    y = x * 1
    view = y[0]
    view *= 10
    with pytest.raises(RuntimeError, match="through another tensor"):
        _ = y * 2
    (g,) = tb.grad(tb.sum(view), x)
    assert g.tolist() == [[10, 10], [0, 0]]


def test_views_of_changed_memory_forward() -> None:
    x = tb.asarray([1.0, 2.0])

    def stale(v: tb.Tensor) -> tb.Tensor:
        y = v * 2
        part = y[:1]
        y *= 3
        return part * 1

    with pytest.raises(RuntimeError, match="through another tensor"):
        tb.jvp(stale, [x], [x])

    def fine(v: tb.Tensor) -> tb.Tensor:
        y = v * 2
        y *= v
        y[0] = v[1] * 4
        return y

    value, tangent = tb.jvp(fine, [x], [tb.ones((2,))])
    assert value.tolist() == [8, 8]
    assert tangent.tolist() == [4, 8]


def test_detached_and_untracked_views_follow_memory() -> None:
    x = leaf([1.0, 2.0])
    y = x * 1
    seen = y.detach()
    y += 1
    assert seen.tolist() == [2, 3]
    assert (seen * 2).tolist() == [4, 6]


# -- memory ---------------------------------------------------------------------------------------


def _work(x: tb.Tensor, w: tb.Tensor, i: tb.Tensor) -> None:
    y = tb.concat([x * w, x[::-1]], axis=0)
    y[0] = 1.0
    z = tb.sum(tb.take(y, i, axis=0) * 2)
    z.backward()
    w.grad = None
    tb.reshape(y.detach(), (-1,))[3].item()
    x.detach().numpy()


def test_no_leak() -> None:
    """Nothing waits for the cycle collector, and memory comes back."""
    x, w, i = tb.ones((6, 5)), leaf(np.ones((6, 5))), tb.asarray([1, 1, 7])
    gc.collect()
    gc.disable()
    try:
        for _ in range(30):
            _work(x, w, i)
        memory = x.device.backend.memory
        before, used = len(gc.get_objects()), memory()
        for _ in range(400):
            _work(x, w, i)
        after, now = len(gc.get_objects()), memory()
    finally:
        gc.enable()
    assert after - before < 50
    assert now.used == used.used
    assert now.cached == used.cached


def test_many_operators_leak_nothing() -> None:
    x = tb.ones((8,))
    y = x + x
    used = x.device.backend.memory().used
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(100_000):
            y = x + y
        assert len(gc.get_objects()) - before < 20
    finally:
        gc.enable()
    assert x.device.backend.memory().used == used
    assert y[0].item() == 100_002


def test_freed_memory_is_reused() -> None:
    figures = tb.get_device("cpu").backend.memory
    tb.ones((1 << 20,))
    before = figures()
    for _ in range(50):
        tb.ones((1 << 20,)) + 1
    after = figures()
    assert after.used <= before.used
    assert after.used + after.cached <= before.used + before.cached + (1 << 23)


def test_distinct_slices_keep_no_plans() -> None:
    from tensorbus._state import settings

    x = tb.arange(3000)
    _ = x[0]
    plans = len(settings().plans)
    for k in range(3000):
        _ = x[k]
    assert len(settings().plans) == plans


@pytest.mark.parametrize("name", ["exp", "tanh", "sqrt", "reciprocal"])
def test_forward_and_reverse_nest_where_a_rule_uses_the_result(name: str) -> None:
    function, at = getattr(tb, name), 0.5
    second = {
        "exp": np.exp(at),
        "tanh": -2 * np.tanh(at) * (1 - np.tanh(at) ** 2),
        "sqrt": -0.25 * at**-1.5,
        "reciprocal": 2 * at**-3.0,
    }[name]
    x = tb.asarray(np.asarray([at]), device="cpu")
    one = tb.ones_like(x)

    def forward(a: tb.Tensor) -> tb.Tensor:
        found: tb.Tensor = tb.jvp(function, [a], [one])[1]
        return found

    def reverse(a: tb.Tensor) -> tb.Tensor:
        return tb.vjp(function, a)[1](one)[0]

    for inner in (forward, reverse):
        for found in (tb.jvp(inner, [x], [one])[1], tb.vjp(inner, x)[1](one)[0]):
            np.testing.assert_allclose(found.numpy(), [second], rtol=1e-13)
