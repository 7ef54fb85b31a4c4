"""A training step of many ops, for tests that count what a device has to wait for."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorbus as tb

WORDS, WIDTH, CLASSES, BATCH = 11, 8, 5, 6

_SHAPES = {
    "table": (WORDS, WIDTH), "scale": (WIDTH,), "shift": (WIDTH,), "w1": (WIDTH, WIDTH),
    "b1": (WIDTH,), "w2": (CLASSES, WIDTH), "b2": (CLASSES,),
}  # fmt: skip


class Training:
    """Parameters and three batches on a device; all that the host has to give is there.

    Args:
        device: The device, or its name.
    """

    def __init__(self, device: str | tb.Device) -> None:
        rng = np.random.default_rng(3)

        def put(array: Any) -> tb.Tensor:
            return tb.asarray(array, device=device)

        self.weights = {
            name: put(rng.normal(size=shape).astype(np.float32)) for name, shape in _SHAPES.items()
        }
        for weight in self.weights.values():
            weight.requires_grad = True
        self.order = put(rng.permutation(BATCH))
        self.batches = [
            (put(rng.integers(0, WORDS, BATCH)), put(rng.integers(0, CLASSES, BATCH)))
            for _ in range(3)
        ]

    def loss(self, k: int) -> tb.Tensor:
        """Embedding, dropout, norm, layers, gather, noise and cross-entropy of batch `k`."""
        w, (tokens, classes) = self.weights, self.batches[k]
        key = tb.random.key(7 + k)
        first, second = key.split()
        x = tb.nn.dropout(tb.nn.embedding(tokens, w["table"]), 0.3, key=first)
        x = tb.nn.layer_norm(x, weight=w["scale"], bias=w["shift"])
        x = tb.nn.gelu(tb.nn.linear(x, w["w1"], w["b1"]))
        x = x + (0.1 + k) * tb.exp(-tb.square(x))
        x = tb.nn.dropout(x, 0.2, key=second)
        x = tb.nn.softmax(x, axis=-1) * tb.tanh(x) - tb.mean(x, axis=-1, keepdims=True)
        x = tb.nn.linear(tb.take(x, self.order, axis=0), w["w2"], w["b2"])
        noise = tb.random.normal(x.shape, key=key, device=x.device)
        x = tb.where(noise > 1.5, x * 0.5, tb.clip(x, -3.0, 3.0))
        return tb.nn.cross_entropy(x, classes, label_smoothing=0.1)

    def step(self, k: int) -> tb.Tensor:
        """The loss of batch `k`; the weights go down its slope."""
        loss = self.loss(k)
        names = list(self.weights)
        slopes = tb.grad(loss, [self.weights[n] for n in names])
        for name, slope in zip(names, slopes, strict=True):
            self.weights[name] = self.weights[name].detach() - 0.1 / (k + 1) * slope
            self.weights[name].requires_grad = True
        return loss
