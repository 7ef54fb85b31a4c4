"""Gradient references against complex steps, duality, symmetry and the conventions at kinks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorbus_conformance.oracle import REFERENCES, Reference
from tensorbus_conformance.oracle.data import distinct, generator, ordinary, vectors
from tensorbus_conformance.oracle.gradients import DIFFERENTIABLE

Array = NDArray[Any]
STEP = 1e-200


def complex_step(function: Callable[..., Array], xs: list[Array], ts: list[Array]) -> Array:
    """The derivative of an analytic function along tangents, exact to rounding.

    Squire and Trapp, Using complex variables to estimate derivatives, 1998.
    """
    steps = [x + 1j * STEP * t if x.dtype.kind == "f" else x for x, t in zip(xs, ts, strict=True)]
    with np.errstate(all="ignore"):
        return np.asarray(np.asarray(function(*steps)).imag / STEP)


def sig(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def sub(x: Array, positive: Array, negative: Array) -> Array:
    return np.where(x.real > 0, positive, negative)


def norm(x: Array) -> Array:
    mean = x.sum(axis=-1, keepdims=True) / x.shape[-1]
    return np.asarray(
        (x - mean) / np.sqrt(((x - mean) ** 2).sum(-1, keepdims=True) / x.shape[-1] + 1e-5)
    )


def softmax(x: Array, axis: int = -1) -> Array:
    e = np.exp(x)
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


CLASS = np.array([1, 0, 3, 2, 1])
PERMUTED = np.argsort(np.sin(np.arange(20.0) * 7).reshape(5, 4), axis=0)

CASES: dict[str, tuple[Callable[..., Any], list[tuple[float, float]], dict[str, Any]]] = {
    # op: the function in complex-capable NumPy, where to sample, options
    "abs": (lambda x: sub(x, x, -x), [(-3, 3)], {}),
    "acos": (np.arccos, [(-0.9, 0.9)], {}),
    "acosh": (lambda x: np.log(x + np.sqrt(x * x - 1)), [(1.2, 5)], {}),
    "add": (np.add, [(-3, 3), (-3, 3)], {}),
    "asin": (np.arcsin, [(-0.9, 0.9)], {}),
    "asinh": (np.arcsinh, [(-5, 5)], {}),
    "atan": (np.arctan, [(-5, 5)], {}),
    "atan2": (lambda y, x: np.arctan(y / x), [(-3, 3), (0.5, 3)], {}),
    "atanh": (np.arctanh, [(-0.9, 0.9)], {}),
    "cos": (np.cos, [(-9, 9)], {}),
    "cosh": (np.cosh, [(-3, 3)], {}),
    "divide": (np.divide, [(-3, 3), (0.5, 3)], {}),
    "exp": (np.exp, [(-3, 3)], {}),
    "exp2": (lambda x: np.exp(x * math.log(2)), [(-3, 3)], {}),
    "expm1": (np.expm1, [(-3, 3)], {}),
    "hypot": (lambda x, y: np.sqrt(x * x + y * y), [(-3, 3), (0.5, 3)], {}),
    "log": (np.log, [(0.1, 5)], {}),
    "log10": (np.log10, [(0.1, 5)], {}),
    "log1p": (np.log1p, [(-0.9, 5)], {}),
    "log2": (np.log2, [(0.1, 5)], {}),
    "logaddexp": (lambda x, y: np.log(np.exp(x) + np.exp(y)), [(-3, 3), (-3, 3)], {}),
    "maximum": (lambda x, y: np.where(x.real > y.real, x, y), [(-3, 3), (-3, 3)], {}),
    "multiply": (np.multiply, [(-3, 3), (-3, 3)], {}),
    "negative": (np.negative, [(-3, 3)], {}),
    "pow": (lambda x, y: np.exp(y * np.log(x)), [(0.5, 3), (-2, 2)], {}),
    "reciprocal": (lambda x: 1 / x, [(0.3, 3)], {}),
    "remainder": (lambda x, y: x - y * np.floor(x.real / y.real), [(-3, 3), (0.5, 3)], {}),
    "rsqrt": (lambda x: 1 / np.sqrt(x), [(0.1, 5)], {}),
    "sigmoid": (sig, [(-5, 5)], {}),
    "sin": (np.sin, [(-9, 9)], {}),
    "sinh": (np.sinh, [(-3, 3)], {}),
    "softplus": (lambda x: np.log(1 + np.exp(x)), [(-5, 5)], {}),
    "sqrt": (np.sqrt, [(0.1, 5)], {}),
    "square": (lambda x: x * x, [(-3, 3)], {}),
    "subtract": (np.subtract, [(-3, 3), (-3, 3)], {}),
    "tan": (np.tan, [(-1.3, 1.3)], {}),
    "tanh": (np.tanh, [(-3, 3)], {}),
    "relu": (lambda x: sub(x, x, 0 * x), [(-3, 3)], {}),
    "silu": (lambda x: x * sig(x), [(-5, 5)], {}),
    "mish": (lambda x: x * np.tanh(np.log(1 + np.exp(x))), [(-5, 5)], {}),
    "gelu": (
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        [(-3, 3)],
        {"approximate": "tanh"},
    ),
    "elu": (lambda x: sub(x, x, 0.7 * (np.exp(x) - 1)), [(-3, 3)], {"alpha": 0.7}),
    "leaky_relu": (lambda x: sub(x, x, 0.01 * x), [(-3, 3)], {}),
    "hardswish": (lambda x: x * (x + 3) / 6, [(-2.9, 2.9)], {}),
    "hardtanh": (lambda x: np.where(abs(x.real) < 1, x, 0), [(-3, 3)], {}),
    "clip": (lambda x: np.where(abs(x.real) < 1, x, 0), [(-3, 3)], {"min": -1.0, "max": 1.0}),
    "sum": (lambda x: x.sum(axis=0), [(-3, 3)], {"axis": 0}),
    "mean": (lambda x: x.mean(axis=1, keepdims=True), [(-3, 3)], {"axis": 1, "keepdims": True}),
    "prod": (lambda x: x.prod(axis=1), [(-2, 2)], {"axis": 1}),
    "var": (
        lambda x: ((x - x.mean(axis=0)) ** 2).sum(axis=0) / (x.shape[0] - 1),
        [(-3, 3)],
        {"axis": 0, "correction": 1},
    ),
    "std": (
        lambda x: np.sqrt(((x - x.mean()) ** 2).sum() / x.size),
        [(-3, 3)],
        {},
    ),
    "logsumexp": (lambda x: np.log(np.exp(x).sum(axis=1)), [(-3, 3)], {"axis": 1}),
    "cumulative_sum": (lambda x: np.cumsum(x, axis=1), [(-3, 3)], {"axis": 1}),
    "cumulative_prod": (lambda x: np.cumprod(x, axis=0), [(-2, 2)], {"axis": 0}),
    "softmax": (lambda x: softmax(x, 0), [(-3, 3)], {"axis": 0}),
    "log_softmax": (lambda x: np.log(softmax(x)), [(-3, 3)], {}),
    "layer_norm": (norm, [(-3, 3)], {}),
    "rms_norm": (
        lambda x: x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6), [(-3, 3)], {"eps": 1e-6}
    ),
    "mse_loss": (lambda x, y: ((x - y) ** 2).mean(), [(-3, 3), (-3, 3)], {}),
}  # fmt: skip


def inputs_of(name: str, dtype: Any = np.float64) -> list[Array]:
    rng = generator(1, name)
    return [ordinary(rng, (5, 4), dtype, low, high) for low, high in CASES[name][1]]


def vjp(name: str, xs: list[Any], options: dict[str, Any], g: Any) -> list[Any]:
    rule = REFERENCES[name].vjp
    assert rule is not None
    return [None if ref is None else ref.value for ref in rule(xs, options, g)]


def jvp(name: str, xs: list[Any], options: dict[str, Any], ts: list[Any]) -> Array:
    rule = REFERENCES[name].jvp
    assert rule is not None
    ref = rule(xs, options, ts)
    assert isinstance(ref, Reference)
    return ref.value


@pytest.mark.parametrize("name", sorted(CASES))
def test_derivatives_agree_with_complex_steps(name: str) -> None:
    function, _, options = CASES[name]
    xs = inputs_of(name)
    ts = vectors(generator(2, name), [x.shape for x in xs], np.float64)
    want = complex_step(function, xs, ts)
    scale = np.abs(want).max() + 1e-3
    assert np.abs(jvp(name, xs, options, ts) - want).max() < 1e-12 * scale
    (g,) = vectors(generator(3, name), [want.shape], np.float64)
    for k, x in enumerate(xs):
        gradient = vjp(name, xs, options, g)[k]
        alone = [t if i == k else np.zeros(x.shape) for i, t in enumerate(ts)]
        left, right = (g * complex_step(function, xs, alone)).sum(), (gradient * ts[k]).sum()
        assert abs(left - right) < 1e-11 * (np.abs(gradient).sum() + 1)


@pytest.mark.parametrize("name", sorted(CASES))
def test_second_order_is_the_derivative_of_the_gradient(name: str) -> None:
    """By central differences of `vjp`, a smoke test, and by symmetry, an exact one."""
    _, _, options = CASES[name]
    op = REFERENCES[name]
    assert op.second_order is not None
    xs = inputs_of(name)
    shape = np.shape(jvp(name, xs, options, [np.ones(x.shape) for x in xs]))
    (g,) = vectors(generator(3, name), [shape], np.float64)
    ts = vectors(generator(2, name), [x.shape for x in xs], np.float64)
    ws = vectors(generator(4, name), [x.shape for x in xs], np.float64)
    along_t = [r.value for r in op.second_order(xs, options, g, ts)]
    along_w = [r.value for r in op.second_order(xs, options, g, ws)]
    left = sum((h * w).sum() for h, w in zip(along_t, ws, strict=True))
    right = sum((h * t).sum() for h, t in zip(along_w, ts, strict=True))
    size = sum(np.abs(h).sum() for h in along_t)
    assert abs(left - right) < 1e-11 * (size + 1)
    step = 1e-6
    ahead = vjp(name, [x + step * t for x, t in zip(xs, ts, strict=True)], options, g)
    behind = vjp(name, [x - step * t for x, t in zip(xs, ts, strict=True)], options, g)
    for h, a, b in zip(along_t, ahead, behind, strict=True):
        assert np.abs((a - b) / (2 * step) - h).max() < 1e-4 * (np.abs(h).max() + 1)


STRUCTURED: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "matmul": ([(2, 1, 3, 4), (3, 4, 5)], {}),
    "vecdot": ([(3, 4), (4,)], {}),
    "tensordot": ([(3, 4, 5), (5, 4, 2)], {"axes": ([1, 2], [1, 0])}),
    "linear": ([(2, 3, 4), (5, 4), (5,)], {}),
    "layer_norm": ([(3, 4), (4,), (4,)], {}),
    "rms_norm": ([(3, 4), (4,)], {}),
    "cross_entropy": ([(5, 4), CLASS], {"label_smoothing": 0.1}),
    "index_add": ([(5, 4), np.array([1, 1, 3]), (3, 4)], {"axis": 0}),
    "gather": ([(5, 4), PERMUTED[:3]], {"axis": 0}),
    "scatter": ([(5, 4), PERMUTED[:3], (3, 4)], {"axis": 0}),
    "take": ([(5, 4), np.array([0, 3, 3])], {"axis": 1}),
    "take_along_axis": ([(5, 4), PERMUTED[:3]], {"axis": 0}),
    "embedding": ([np.array([[1, 2], [1, 0]]), (5, 4)], {}),
    "where": ([np.array([True, False, True, True]), (5, 4), (4,)], {}),
    "sort": ([(5, 4)], {"axis": 0}),
    "concat": ([(5, 4), (2, 4)], {"axis": 0}),
    "stack": ([(5, 4), (5, 4)], {"axis": 1}),
    "broadcast_to": ([(4,)], {"shape": (3, 4)}),
    "tril": ([(5, 4)], {}),
    "repeat": ([(5, 4)], {"repeats": 3, "axis": 1}),
    "roll": ([(5, 4)], {"shift": 2, "axis": 0}),
    "dropout": ([(5, 4), np.arange(20).reshape(5, 4) % 3 > 0], {"p": 0.3}),
    "add": ([(5, 1), (4,)], {}),
    "multiply": ([(5, 4), (1, 4)], {}),
    "max": ([(5, 4)], {"axis": 1}),
    "cumulative_sum": ([(5, 4)], {"axis": 0, "include_initial": True}),
    "cumulative_prod": ([(5, 4)], {"axis": 1, "include_initial": True}),
}


def structured(name: str, dtype: Any = np.float64) -> tuple[list[Any], dict[str, Any]]:
    shapes, options = STRUCTURED[name]
    rng = generator(5, name)
    xs = [s if isinstance(s, np.ndarray) else distinct(rng, s, dtype) for s in shapes]
    return xs, options


@pytest.mark.parametrize("name", sorted(STRUCTURED))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_forward_and_reverse_mode_are_dual(name: str, dtype: Any) -> None:
    """<g, J t> = <J' g, t>, and J t is the change of the reference itself."""
    xs, options = structured(name, dtype)
    rng = generator(6, name)
    ts = [vectors(rng, [x.shape], dtype)[0] if x.dtype.kind == "f" else None for x in xs]
    tangent = jvp(name, xs, options, ts)
    (g,) = vectors(rng, [tangent.shape], dtype)
    gradients = vjp(name, xs, options, g)
    left = float((g.astype(np.float64) * tangent).sum())
    right = sum(float((h * t).sum()) for h, t in zip(gradients, ts, strict=True) if t is not None)
    assert abs(left - right) < 1e-12 * (np.abs(g * tangent).sum() + 1)
    for x, h in zip(xs, gradients, strict=True):
        assert (h is None) == (x.dtype.kind != "f")
        assert h is None or h.shape == x.shape
    if dtype == np.float64:
        values = []
        for step in (1e-6, -1e-6):
            moved = [x if t is None else x + step * t for x, t in zip(xs, ts, strict=True)]
            ref = REFERENCES[name].forward(*moved, **options)
            assert isinstance(ref, Reference)
            values.append(ref.value)
        assert np.abs((values[0] - values[1]) / 2e-6 - tangent).max() < 1e-5 * (
            np.abs(tangent).max() + 1
        )


def test_conventions_at_kinks() -> None:
    one = np.ones(3)
    x = np.array([-1.0, 0.0, 1.0])
    assert vjp("abs", [x], {}, one)[0].tolist() == [-1, 0, 1]
    assert vjp("relu", [x], {}, one)[0].tolist() == [0, 0, 1]
    assert vjp("leaky_relu", [x], {}, one)[0].tolist() == [0.01, 0.01, 1]
    assert vjp("elu", [x], {"alpha": 2.0}, one)[0][1] == 2.0
    assert vjp("sign", [x], {}, one)[0].tolist() == [0, 0, 0]
    halves = vjp("maximum", [x, np.array([0.0, 0.0, 0.0])], {}, one)
    assert halves[0].tolist() == [0, 0.5, 1]
    assert halves[1].tolist() == [1, 0.5, 0]
    assert vjp("clip", [x], {"min": 0.0, "max": 1.0}, one)[0].tolist() == [0, 1, 1]
    assert vjp("hardtanh", [x], {}, one)[0].tolist() == [0, 1, 0]
    ties = np.array([1.0, 3.0, 3.0])
    assert vjp("max", [ties], {}, np.array(1.0))[0].tolist() == [0, 0.5, 0.5]
    zeros = np.array([2.0, 0.0, 3.0])
    assert vjp("prod", [zeros], {}, np.array(1.0))[0].tolist() == [0, 6, 0]
    assert vjp("cumulative_prod", [zeros], {"axis": 0}, one)[0].tolist() == [1, 8, 0]
    assert vjp("hypot", [np.zeros(1), np.zeros(1)], {}, np.ones(1))[0].tolist() == [0]
    power = vjp("pow", [np.array([0.0, 2.0]), np.array([2.0, 0.0])], {}, np.ones(2))
    assert power[0].tolist() == [0, 0]
    assert power[1].tolist() == [0, math.log(2)]


def reverse(x: Array) -> Array:
    return x.reshape(-1)[::-1].reshape(x.shape).copy()


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_wrong_gradient_fails(name: str, dtype: Any) -> None:
    """Rounded references pass; scaled by 1.0009, tripled, reversed or negated ones do not."""
    op = REFERENCES[name]
    _, _, options = CASES[name]
    xs = inputs_of(name, dtype)
    assert op.vjp is not None
    assert op.gradient_judge is not None
    probe = jvp(name, xs, options, [np.ones(x.shape) for x in xs])
    (g,) = vectors(generator(3, name), [np.shape(probe)], dtype)
    judge = op.gradient_judge(dtype, options, 1.0)
    for ref in op.vjp(xs, options, g):
        good = ref.rounded()
        assert judge.check(good, ref).ok
        for bad in (good * dtype(1.0009), good * dtype(3), -good, reverse(good)):
            assert not judge.check(bad, ref).ok


def test_broadcast_arguments_sum_their_gradient() -> None:
    x, y = np.ones((3, 4), np.float32), np.ones((4,), np.float32)
    op = REFERENCES["multiply"]
    assert op.vjp is not None
    assert op.gradient_judge is not None
    _, dy = op.vjp([x, y], {}, np.full((3, 4), 2.0, np.float32))
    assert dy.value.tolist() == [6, 6, 6, 6]
    assert not op.gradient_judge(np.float32).check(np.full(4, 2.0, np.float32), dy).ok


def test_every_differentiable_op_is_covered_here() -> None:
    tested = set(CASES) | set(STRUCTURED)
    trivial = {
        "ceil",
        "floor",
        "floor_divide",
        "round",
        "sign",
        "trunc",
        "positive",
        "copysign",
        "real",
    }
    moving = {
        "astype",
        "asarray",
        "broadcast_arrays",
        "expand_dims",
        "flip",
        "meshgrid",
        "reshape",
        "matrix_transpose",
        "moveaxis",
        "permute_dims",
        "squeeze",
        "tile",
        "triu",
        "unstack",
    }
    mirrored = {"min", "minimum", "erf"}  # as max and maximum; erf has no complex version
    assert set(DIFFERENTIABLE) - tested - trivial - moving - mirrored == set()


def test_erf_and_exact_gelu() -> None:
    x = np.linspace(-3, 3, 41)
    one = np.ones(41)
    slope = 2 / math.sqrt(math.pi) * np.exp(-x * x)
    assert np.allclose(vjp("erf", [x], {}, one)[0], slope, rtol=1e-14)
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    cumulative = 0.5 * (1 + np.array([math.erf(v / math.sqrt(2)) for v in x]))
    assert np.allclose(vjp("gelu", [x], {}, one)[0], cumulative + x * density, rtol=1e-12)


def test_unstack_takes_a_list_of_cotangents() -> None:
    x = np.arange(6.0).reshape(2, 3)
    parts = [np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([5.0, 6.0])]
    op = REFERENCES["unstack"]
    assert op.vjp is not None
    (ref,) = op.vjp([x], {"axis": 1}, parts)
    assert ref.value.tolist() == [[1, 3, 5], [2, 4, 6]]
