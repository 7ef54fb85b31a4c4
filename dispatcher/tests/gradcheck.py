"""Gradients against central differences in float64, first and second order, both modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorbus as tb

_STEP = 2.0**-17
# Differences of smooth functions of order one: truncation step^2 and cancellation 2^-52 / step.
_CLOSE = {"rtol": 3e-7, "atol": 3e-8}


def _tensors(arrays: list[np.ndarray]) -> list[tb.Tensor]:
    return [tb.asarray(a, device="cpu") for a in arrays]


def check_gradients(
    function: Callable[..., Any], *operands: Any, second: bool = True, seed: int = 0
) -> None:
    """Judge the derivatives of ``function(*tensors)`` with respect to float64 operands."""
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(a, np.float64) for a in operands]
    directions = [rng.standard_normal(a.shape) for a in arrays]
    u = tb.asarray(np.asarray(rng.standard_normal(function(*_tensors(arrays)).shape)), device="cpu")

    def value(shift: float) -> np.ndarray:
        moved = [a + shift * d for a, d in zip(arrays, directions, strict=True)]
        return function(*_tensors(moved)).numpy()

    slope = (value(_STEP) - value(-_STEP)) / (2 * _STEP)
    _, tangent = tb.jvp(function, _tensors(arrays), _tensors(directions))
    np.testing.assert_allclose(tangent.numpy(), slope, **_CLOSE)

    def gradients(points: list[np.ndarray]) -> list[np.ndarray]:
        _, pull = tb.vjp(function, *_tensors(points))
        return [g.numpy() for g in pull(u)]

    found = gradients(arrays)
    pairing = sum(float((g * d).sum()) for g, d in zip(found, directions, strict=True))
    np.testing.assert_allclose(pairing, float((u.numpy() * slope).sum()), rtol=1e-6, atol=1e-7)
    # One element at a time, so that a permuted gradient shows.
    for k, a in enumerate(arrays):
        place = tuple(rng.integers(0, n) for n in a.shape)
        ends = []
        for sign in (1, -1):
            moved = [b.copy() for b in arrays]
            moved[k][place] += sign * _STEP
            ends.append(float((u.numpy() * function(*_tensors(moved)).numpy()).sum()))
        expected = (ends[0] - ends[1]) / (2 * _STEP)
        np.testing.assert_allclose(found[k][place], expected, rtol=1e-6, atol=1e-7)
    if not second:
        return
    weights = [rng.standard_normal(a.shape) for a in arrays]
    leaves = _tensors(arrays)
    for x in leaves:
        x.requires_grad = True
    out = tb.sum(function(*leaves) * u)
    first = tb.grad(out, leaves, create_graph=True)
    total = sum(
        (tb.sum(g * tb.asarray(w, device="cpu")) for g, w in zip(first, weights, strict=True)),
        start=tb.asarray(0.0, dtype=tb.float64, device="cpu"),
    )
    if not total.requires_grad:
        again = [np.zeros_like(a) for a in arrays]
    else:
        again = [
            np.zeros_like(a) if g is None else g.numpy()
            for g, a in zip(tb.grad(total, leaves, allow_unused=True), arrays, strict=True)
        ]
    ends2 = []
    for sign in (1, -1):
        moved = [a + sign * _STEP * d for a, d in zip(arrays, directions, strict=True)]
        ends2.append(
            sum(float((g * w).sum()) for g, w in zip(gradients(moved), weights, strict=True))
        )
    expected = (ends2[0] - ends2[1]) / (2 * _STEP)
    got = sum(float((g * d).sum()) for g, d in zip(again, directions, strict=True))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def same_bits(function: Callable[..., Any], *operands: Any) -> None:
    """Portable results of cpu and ref agree bit for bit, NaN apart."""
    results = []
    with tb.reproducible():
        for device in ("cpu", "ref"):
            tensors = [
                tb.asarray(a, device=device) if isinstance(a, np.ndarray) else a for a in operands
            ]
            with tb.device(device):
                out = function(*tensors)
            results.append([o.numpy() for o in (out if isinstance(out, tuple) else (out,))])
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        equal = a.reshape(-1).view(f"u{a.itemsize}") == b.reshape(-1).view(f"u{b.itemsize}")
        if a.dtype.kind not in "biu":
            equal |= np.isnan(a.astype(np.float64)).reshape(-1) & np.isnan(
                b.astype(np.float64)
            ).reshape(-1)
        assert equal.all(), (a.reshape(-1)[~equal][:5], b.reshape(-1)[~equal][:5])
