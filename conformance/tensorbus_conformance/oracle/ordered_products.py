"""The order of products of matrices: `matmul`, `vecdot`, `tensordot` and `linear`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import order
from .order import Scheme, store, wide
from .order_sample import Call, Elementary, Order, Sample

__all__ = ["LINEAR", "MATMUL", "TENSORDOT", "VECDOT"]

Array = NDArray[Any]

# -- products of matrices -------------------------------------------------------------------------

_BLOCKS = ("k-blocks of 128", "k-blocks of 512", "products rounded")


def _pairs(s: Sample, m: int, k: int, n: int) -> tuple[Array, Array]:
    """(m, k) and (n, k) whose products cancel in pairs of k, at the same places for all rows."""
    place = s.rng.permutation(k)
    half = k // 3

    def twins(values: Array, sign: float) -> Array:
        values[:, half : 2 * half] = sign * values[:, :half]
        return np.ascontiguousarray(values[:, place])

    a = s.spread(m, k)
    a[:, : 2 * half] = (a[:, : 2 * half].astype(np.float64) * 2.0**8).astype(s.dtype)
    return twins(a, -1.0), twins(s.spread(n, k), 1.0)


def _product(a: Array, b: Array, scheme: Scheme) -> Array:
    """(..., m, k) by (..., k, n), with vectors as matmul takes them; not yet rounded to 16 bits."""
    x, y = wide(a), wide(b)
    left = x[None] if x.ndim == 1 else x
    out = order.contract(left, y[:, None] if y.ndim == 1 else y, scheme)
    if y.ndim == 1:
        out = out[..., 0]
    return out[..., 0] if x.ndim == 1 and y.ndim == 1 else out[..., 0, :] if x.ndim == 1 else out


def _matmul_bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
    a, b = call.args
    if call.cotangent is None:
        return store(_product(a, b, scheme), a.dtype)
    g = call.cotangent
    left, right = (g, b.T) if call.operand == 0 else (a.T, g)
    return store(_product(left, right, scheme), a.dtype)


_SIZES = (1, 2, 127, 128, 129, 255, 256, 257, 511, 512, 513)


def _matmul_calls(s: Sample) -> list[Call]:
    def of(m: int, k: int, n: int, label: str) -> Call:
        a, b = _pairs(s, m, k, n)
        return Call((a, np.ascontiguousarray(b.T)), {}, label)

    found = [of(5, 600, 9, "k of 600"), of(3, 257, 5, "k of 257")]
    if s.deep:
        found += [of(4, k, 66, f"k of {k}") for k in _SIZES]
        # Beyond sixteen blocks, and sixteen times sixteen of them.
        found += [
            of(2, 17 * 256 + 9, 3, "more than 16 blocks"),
            of(1, 257 * 256 + 5, 2, "257 blocks"),
        ]
        a, b = _pairs(s, 3, 300, 4)
        found += [
            Call((a[0], np.ascontiguousarray(b.T)), {}, "vector and matrix"),
            Call((a, b[0]), {}, "matrix and vector"),
            Call((a[0], b[0]), {}, "vectors"),
            Call((np.stack([a, -a[::-1]]), np.ascontiguousarray(b.T)), {}, "batch"),
        ]
        a, g = _pairs(s, 4, 520, 3)
        first = np.ascontiguousarray(a.T)  # (k, m): k is contracted in the second's gradient
        cotangent = np.ascontiguousarray(g.T)
        found.append(Call((first, s.spread(4, 3)), {}, "gradient of x2", cotangent, 1))
        found.append(Call((s.spread(4, 3), g), {}, "gradient of x1", a, 0))
    return found


def _vecdot_bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
    a, b = (np.moveaxis(wide(x), call.options.get("axis", -1), -1) for x in call.args)
    out = order.contract(a[..., None, :], b[..., :, None], scheme)
    return store(out[..., 0, 0], call.args[0].dtype)


def _vecdot_calls(s: Sample) -> list[Call]:
    def of(k: int, label: str, **options: int) -> Call:
        a, b = _pairs(s, 6, k, 6)
        if options:
            a, b = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
        return Call((a, b), options, label)

    found = [of(700, "rows of 700")]
    if s.deep:
        found += [of(k, f"rows of {k}") for k in _SIZES]
        found.append(of(600, "columns", axis=0))
    return found


def _tensordot_bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
    a, b = call.args
    axes = call.options["axes"]
    if isinstance(axes, int):
        axes = (range(a.ndim - axes, a.ndim), range(axes))
    first, second = ([k % x.ndim for k in ks] for x, ks in zip((a, b), axes, strict=True))
    rest = [[k for k in range(x.ndim) if k not in ks] for x, ks in ((a, first), (b, second))]
    k = int(np.prod([a.shape[i] for i in first], dtype=int))
    left = wide(a).transpose(*rest[0], *first).reshape(-1, k)
    right = wide(b).transpose(*second, *rest[1]).reshape(k, -1)
    shape = [a.shape[i] for i in rest[0]] + [b.shape[i] for i in rest[1]]
    return store(order.contract(left, right, scheme).reshape(shape), a.dtype)


def _tensordot_calls(s: Sample) -> list[Call]:
    a, b = _pairs(s, 5, 24 * 26, 6)
    found = [
        Call(
            (a.reshape(5, 24, 26), np.ascontiguousarray(b.T).reshape(24, 26, 6)),
            {"axes": 2},
            "axes 2",
        )
    ]
    if s.deep:
        turned = np.moveaxis(a.reshape(5, 24, 26), 2, 0).copy()
        found += [
            Call((turned, b.reshape(6, 24, 26)), {"axes": ((2, 0), (1, 2))}, "pairs"),
            Call((turned, b.reshape(6, 24, 26)), {"axes": ((0, -1), (2, 1))}, "pairs turned"),
        ]
    return found


def _linear_bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
    x, weight, bias = (*call.args, None)[:3]
    out = _product(x.reshape(-1, x.shape[-1]), weight.T, scheme)
    if bias is not None:
        out = out + wide(bias)
    return store(out, x.dtype).reshape(*x.shape[:-1], *weight.shape[:-1])


def _linear_calls(s: Sample) -> list[Call]:
    x, weight = _pairs(s, 6, 600, 7)
    found = [Call((x, weight, s.spread(7)), {}, "bias")]
    if s.deep:
        found += [
            Call((x.reshape(2, 3, 600), weight), {}, "batch, no bias"),
            Call((x.reshape(3, 1, 2, 600), weight, s.spread(7)), {}, "batch, bias"),
            Call((x, weight[0], s.spread()), {}, "one output"),
        ]
    return found


MATMUL = Order(_matmul_calls, _matmul_bits, _BLOCKS)
VECDOT = Order(_vecdot_calls, _vecdot_bits, _BLOCKS)
TENSORDOT = Order(_tensordot_calls, _tensordot_bits, _BLOCKS)
LINEAR = Order(_linear_calls, _linear_bits, _BLOCKS)
