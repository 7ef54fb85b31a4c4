"""Bounds of gradients: what honest rules give lies inside, what is half wrong outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorbus_conformance.oracle import REFERENCES

Array = NDArray[Any]
F32 = np.float32


def _smoothed(x: Array, classes: Array, s: float, p_of: str) -> Array:
    """The gradient of label smoothing in float32 arithmetic, each operation rounded."""
    n = x.shape[-1]
    shifted = x - x.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=-1, keepdims=True, dtype=F32)
    softmax = weights / total if p_of == "quotient" else np.exp(shifted - np.log(total))
    hot = (np.arange(n) == classes[:, None]).astype(F32)
    h = -(hot * F32(1 - s) + F32(s / n))
    return np.asarray(h - softmax * h.sum(axis=-1, keepdims=True, dtype=F32), F32)


@pytest.mark.parametrize("p_of", ["quotient", "logarithm"])
def test_label_smoothing_by_either_formula_is_within_the_bound(p_of: str) -> None:
    op = REFERENCES["cross_entropy"]
    assert op.vjp is not None
    assert op.gradient_judge is not None
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = rng.uniform(-4, 4, (20, 33)).astype(F32)
        classes = rng.integers(0, 33, 20)
        options = {"reduction": "sum", "label_smoothing": 0.1}
        ref = op.vjp([x, classes], options, np.asarray(1, F32))[0]
        judge = op.gradient_judge(np.dtype(F32), options, 1.0)
        got = _smoothed(x, classes, 0.1, p_of)
        assert judge.check(got, ref).ok, judge.check(got, ref).message
        for wrong in (_smoothed(x, classes, 0.1 * (1 + 2.0**-12), p_of), got * F32(1 + 2.0**-14)):
            assert not judge.check(wrong, ref).ok


def test_the_tail_of_gelu_is_bounded_relatively() -> None:
    op = REFERENCES["gelu"]
    assert op.vjp is not None
    assert op.gradient_judge is not None
    x = np.linspace(-12, -1, 89).astype(F32)
    (ref,) = op.vjp([x], {}, np.ones(x.shape, F32))
    judge = op.gradient_judge(np.dtype(F32), {}, 1.0)
    got = ref.rounded()
    assert judge.check(got, ref).ok
    assert not judge.check(np.zeros_like(got), ref).passed.any()
    assert not judge.check(got * F32(1 + 2.0**-15), ref).passed.any()


def test_gradients_in_the_option_dtype_are_rounded_once() -> None:
    op = REFERENCES["prod"]
    assert op.vjp is not None
    assert op.gradient_judge is not None
    x = np.random.default_rng(0).uniform(0.5, 2, (4, 9)).astype(F32)
    options = {"axis": -1, "dtype": np.dtype(np.float64)}
    (ref,) = op.vjp([x], options, np.ones(4))
    judge = op.gradient_judge(np.dtype(F32), options, 1.0)
    others = np.stack([np.delete(x.astype(float), k, axis=1).prod(axis=1) for k in range(9)], 1)
    assert judge.check(others.astype(F32), ref).ok
    early = np.stack([np.delete(x, k, axis=1).prod(axis=1) for k in range(9)], 1)
    assert not judge.check(early, ref).ok
