"""The order of ops made of sums and elementary functions: softmax, norms and the like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import order
from .order import Scheme, store, wide
from .order_sample import TREE, Call, Elementary, Order, Sample, rows_of

__all__ = ["CROSS_ENTROPY", "LAYER_NORM", "LOGSUMEXP", "LOG_SOFTMAX", "RMS_NORM", "SOFTMAX"]

Array = NDArray[Any]

# -- composed reductions --------------------------------------------------------------------------


def _along(call: Call) -> tuple[Array, int]:
    """The first operand in the dtype it is computed in, its axis last, and the axis."""
    axis = call.options.get("axis", -1)
    return np.ascontiguousarray(np.moveaxis(wide(call.args[0]), axis, -1)), axis


def _back(out: Array, axis: int, dtype: Any) -> Array:
    return store(np.ascontiguousarray(np.moveaxis(out, -1, axis)), dtype)


def _softmax_bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
    x, axis = _along(call)
    power = elementary["exp"](x - x.max(axis=-1, keepdims=True))
    out = power / order.reduce(power, "add", scheme)[..., None]
    return _back(out, axis, call.args[0].dtype)


def _log_softmax(x: Array, scheme: Scheme, elementary: Elementary) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True)
    total = order.reduce(elementary["exp"](shifted), "add", scheme)
    return np.asarray(shifted - elementary["log"](total)[..., None])


def _log_softmax_bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
    x, axis = _along(call)
    return _back(_log_softmax(x, scheme, elementary), axis, call.args[0].dtype)


def _logsumexp_bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
    rows, _, _ = rows_of(wide(call.args[0]), call.options.get("axis"))
    top = rows.max(axis=-1)
    total = order.reduce(elementary["exp"](rows - top[..., None]), "add", scheme)
    return store(elementary["log"](total) + top, call.args[0].dtype)


def _softmax_calls(s: Sample) -> list[Call]:
    found = [
        Call((s.logits(2, 8200),), {"axis": 1}, "rows of 8200"),
        Call((s.peaked(12, 8200),), {"axis": 1}, "peaked rows"),
    ]
    if s.deep:
        found += [
            Call((s.logits(5, n),), {"axis": -1}, f"rows of {n}") for n in (1, 129, 257, 16385)
        ]
        found.append(Call((s.logits(1000, 20),), {"axis": 0}, "columns"))
    return found


def _norm_bits(centred: bool) -> Any:
    def bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
        x, dtype = wide(call.args[0]), call.args[0].dtype
        options = call.options
        rows, axes, _ = rows_of(x, options.get("axis", -1))
        n, c = rows.shape[-1], rows.dtype.type
        eps = options.get("eps", 1e-5) if centred else options["eps"]
        if centred:
            rows = rows - order.mean(rows, n, scheme)[..., None]
        inverse = c(1) / np.sqrt(order.mean(rows * rows, n, scheme) + c(eps))
        y = rows * inverse[..., None]
        weight, bias = (
            None if options.get(k) is None else wide(options[k]).reshape(-1)
            for k in ("weight", "bias")
        )
        if weight is not None and bias is not None:
            y = order.fma(y, weight, bias)
        elif weight is not None:
            y = y * weight
        elif bias is not None:
            y = y + bias
        kept = [k for k in range(x.ndim) if k not in axes]
        moved = y.reshape([x.shape[k] for k in (*kept, *axes)])
        return store(np.moveaxis(moved, range(x.ndim), (*kept, *axes)), dtype)

    return bits


def _norm_calls(centred: bool) -> Callable[[Sample], list[Call]]:
    def calls(s: Sample) -> list[Call]:
        def of(x: Array, axis: Any, weight: Any, bias: Any, label: str) -> Call:
            options = {"axis": axis, "eps": 1e-3, "weight": weight}
            return Call((x,), {**options, "bias": bias} if centred else options, label)

        n = 8200
        found = [of(s.spread(16, n), -1, s.spread(n), s.spread(n), "rows of 8200")]
        if s.deep:
            found += [
                of(s.spread(5, k), 1, s.spread(k), None, f"rows of {k}") for k in (129, 257, 16385)
            ]
            found += [
                of(s.spread(5, 300), 1, None, None, "plain"),
                of(s.spread(5, 300), 1, None, s.spread(300), "bias"),
                of(s.spread(3, 20, 30), (1, 2), s.spread(20, 30), s.spread(20, 30), "two axes"),
                of(s.spread(600, 20), 0, None, None, "columns"),
            ]
        return found

    return calls


def _cross_entropy_bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
    logits, target = call.args
    scores = store(_log_softmax(wide(logits), scheme, elementary), logits.dtype)
    losses = -np.take_along_axis(scores, target[:, None], 1)[:, 0]
    smooth, classes = call.options.get("label_smoothing", 0.0), logits.shape[1]
    if smooth:
        c = logits.dtype.type
        spread = order.reduce(scores, "add", scheme) * c(-smooth / classes)
        losses = losses * c(1 - smooth) + spread
    kind = call.options.get("reduction", "mean")
    if kind == "none":
        return np.asarray(losses)
    if kind == "sum":
        return store(order.reduce(wide(losses), "add", scheme), logits.dtype)
    return store(order.mean(wide(losses), losses.size, scheme), logits.dtype)


def _cross_entropy_calls(s: Sample) -> list[Call]:
    # Few items: the interpreter pads each row, and chunks of losses are those of `mean` and `sum`.
    found = [
        Call((s.logits(n, 3), s.index(3, n)), {"reduction": kind}, f"{kind} of {n}")
        for n, kind in ((385, "sum"), (400, "mean"))
    ]
    if s.deep:
        logits, target = s.logits(300, 200), s.index(200, 300)
        found.append(Call((logits, target), {"reduction": "none"}, "none"))
        if s.dtype.itemsize >= 4:
            found.append(Call((logits, target), {"label_smoothing": 0.25}, "smoothing"))
    return found


SOFTMAX = Order(_softmax_calls, _softmax_bits, TREE[:4], elementary=("exp",))
LOG_SOFTMAX = Order(_softmax_calls, _log_softmax_bits, TREE[:4], elementary=("exp", "log"))
LOGSUMEXP = Order(_softmax_calls, _logsumexp_bits, TREE[:4], elementary=("exp", "log"))
LAYER_NORM = Order(_norm_calls(True), _norm_bits(True), TREE[:4])
RMS_NORM = Order(_norm_calls(False), _norm_bits(False), TREE[:4])
CROSS_ENTROPY = Order(
    _cross_entropy_calls, _cross_entropy_bits, TREE[2:3], elementary=("exp", "log")
)
