"""nn.linear with a bias: one launch, whose bits are those of a product and an addition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus.nn import layers

RNG = np.random.default_rng(3)


def results(dtype: Any, x: tb.Tensor, weight: tb.Tensor, bias: tb.Tensor) -> list[bytes]:
    """Bits of the result, its gradients and its derivative along a tangent."""
    operands = [tb.astype(t, dtype, copy=True) for t in (x, weight, bias)]
    tangents = [tb.astype(t * 0.5 + 1.0, dtype) for t in (x, weight, bias)]
    with tb.reproducible():
        _, moved = tb.jvp(tb.nn.linear, operands, tangents)
        for t in operands:
            t.requires_grad = True
        out = tb.nn.linear(*operands)
        cotangent = tb.astype(tb.sin(tb.astype(out.detach(), tb.float32)), dtype)
        found = [out.detach(), moved, *tb.grad(out, operands, cotangent)]
    return [tb.astype(t, tb.float64).numpy().tobytes() for t in found]


@pytest.mark.parametrize("dtype", [tb.float16, tb.bfloat16, tb.float32, tb.float64], ids=str)
@pytest.mark.parametrize("shape", [(5, 300), (2, 3, 40), (4, 1, 2, 7)])
def test_bits_of_the_calls_that_it_stands_for(
    shape: tuple[int, ...], dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, bias = (
        tb.asarray(RNG.standard_normal(s), device="ref") for s in (shape, (6, shape[-1]), (6,))
    )
    fused = results(dtype, x, weight, bias)
    monkeypatch.setattr(layers, "fused_linear", lambda *operands: None)
    assert fused == results(dtype, x, weight, bias)


def test_it_is_one_launch() -> None:
    x, weight, bias = (tb.ones(s, device="ref") for s in ((2, 3, 4), (5, 4), (5,)))
    with tb.reproducible(), tb.trace() as t:
        tb.nn.linear(x, weight, bias)
    assert [(r.op, r.variant) for r in t] == [("_linear", "portable"), ("nn.linear", "decomposed")]
