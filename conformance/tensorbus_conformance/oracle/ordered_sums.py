"""The order of reductions, cumulative ops and sums by index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import order
from .order import Scheme, store, wide
from .order_sample import TREE, Call, Elementary, Order, Sample, rows_of

__all__ = [
    "CUMULATIVE_PROD",
    "CUMULATIVE_SUM",
    "EMBEDDING",
    "GATHER",
    "INDEX_ADD",
    "MEAN",
    "MSE_LOSS",
    "PROD",
    "STD",
    "SUM",
    "TAKE",
    "TAKE_ALONG_AXIS",
    "VAR",
]

Array = NDArray[Any]

# -- reductions -----------------------------------------------------------------------------------


def _reduction(body: Callable[[Array, dict[str, Any], Scheme], Array]) -> Any:
    def bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
        (x,), options = call.args, dict(call.options)
        rows, axes, _ = rows_of(wide(x), options.pop("axis", None))
        out = body(rows, options, scheme)
        if options.get("keepdims"):
            out = out.reshape([1 if k in axes else n for k, n in enumerate(x.shape)])
        return store(out, x.dtype)

    return bits


def _reduced(data: str) -> Callable[[Sample], list[Call]]:
    def calls(s: Sample) -> list[Call]:
        make = getattr(s, data)
        columns = np.ascontiguousarray(make(9, 8195).T)
        found = [
            Call((make(6, 2 * 8192 + 1),), {"axis": 1}, "rows of 16385"),
            Call((columns,), {"axis": 0}, "columns of 8195"),
            Call((make(7, 129),), {"axis": -1, "keepdims": True}, "rows of 129"),
            Call((make(40, 300),), {"axis": 1}, "rows of 300"),
        ]
        # Sums start from -0: of nothing but -0 they are -0.
        zeros = [np.full((2, n), -0.0, s.dtype) for n in (1, 3, 128, 300, 8193)]
        found += [Call((z,), {"axis": 1}, f"rows of {z.shape[1]} times -0") for z in zeros]
        if not s.deep:
            return found
        found += [
            Call((make(5, n),), {"axis": 1}, f"rows of {n}")
            for n in (1, 2, 63, 64, 65, 127, 128, 255, 256, 257, 1023, 8191, 8192, 8193, 16383)
        ]
        found += [
            Call((np.ascontiguousarray(make(20, n).T),), {"axis": 0}, f"columns of {n}")
            for n in (3, 127, 128, 129, 255, 257, 1025, 8191, 8192, 16385)
        ]
        mixed = make(2, 3, 90 * 95).reshape(2, 3, 90, 95)
        found += [
            Call((make(3 * 8191).reshape(3, 8191),), {}, "all of 24573"),
            Call((np.moveaxis(mixed, 1, 3).copy(),), {"axis": (1, 2)}, "axes 1 and 2"),
            Call((np.moveaxis(mixed, 2, 0).copy(),), {"axis": (0, 3)}, "axes 0 and 3"),
            Call((np.moveaxis(mixed, 3, 1).copy(),), {"axis": (-1, -3)}, "axes -1 and -3"),
        ]
        if s.dtype == np.float32:
            found.append(Call((make(8192 * 129 + 5),), {"axis": 0}, "more than 128 chunks"))
        return found

    return calls


def _spread(x: Array, o: dict[str, Any], s: Scheme) -> Array:
    return order.variance(x, o.get("correction", 0.0), s)


def _root(x: Array, o: dict[str, Any], s: Scheme) -> Array:
    return np.asarray(np.sqrt(_spread(x, o, s)))


def _variances(s: Sample) -> list[Call]:
    corrected = Call((s.spread(5, 300),), {"axis": 1, "correction": 1.5}, "correction 1.5")
    return [*_reduced("spread")(s), corrected]


def _mse_bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
    difference = wide(call.args[0]) - wide(call.args[1])
    squares = (difference * difference).reshape(-1)
    kind = call.options.get("reduction", "mean")
    total = order.reduce(squares, "add", scheme)
    out = order.mean(squares, squares.size, scheme) if kind == "mean" else total
    return store(out, call.args[0].dtype)


def _mse_calls(s: Sample) -> list[Call]:
    sizes = [8193, 8209, 9001, 10007, 12345, 16385, 20011, 24593, 300, 777, 1500, 3001]
    found = [Call((s.spread(3, 8195), s.spread(3, 8195)), {"reduction": "sum"}, "sum")]
    sizes += [1, 127, 128, 129, 257] if s.deep else []
    return found + [Call((s.spread(n), s.spread(n)), {}, f"mean of {n}") for n in sizes]


# -- cumulative ops -------------------------------------------------------------------------------


def _scan_of(name: str) -> Any:
    def bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
        (x,) = call.args
        axis, initial = call.options.get("axis", 0), call.options.get("include_initial", False)
        out = order.scan(np.moveaxis(wide(x), axis, -1), name, scheme)
        if initial:
            first = np.full((*out.shape[:-1], 1), 0.0 if name == "add" else 1.0, out.dtype)
            out = np.concatenate([first, out], axis=-1)
        return store(np.ascontiguousarray(np.moveaxis(out, -1, axis)), x.dtype)

    return bits


def _scans(data: str) -> Callable[[Sample], list[Call]]:
    def calls(s: Sample) -> list[Call]:
        make = getattr(s, data)
        found = [
            Call((make(3, 700),), {"axis": 1}, "rows of 700"),
            Call((make(128 * 128 + 130),), {"axis": 0}, "three levels"),
        ]
        if s.deep:
            found += [
                Call((make(4, n),), {"axis": 1}, f"rows of {n}")
                for n in (1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257, 16383, 16384, 16385)
            ]
            found += [
                Call((np.ascontiguousarray(make(5, 400).T),), {"axis": 0}, "columns"),
                Call((make(2, 3, 300),), {"axis": 2, "include_initial": True}, "initial"),
            ]
        return found

    return calls


# -- sums by index --------------------------------------------------------------------------------


def _index_add_bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
    x, index, source = call.args
    out = order.add_segments(wide(x), index, wide(source), call.options.get("axis", 0), scheme)
    return store(np.ascontiguousarray(out), x.dtype)


def _index_add_calls(s: Sample) -> list[Call]:
    found = [Call((s.spread(5, 4), s.index(5, 700), s.cancelling(4, 700).T.copy()), {"axis": 0},
                  "axis 0")]  # fmt: skip
    if s.deep:
        found += [
            Call((s.spread(3, 7), s.index(7, 500), s.cancelling(3, 500)), {"axis": 1}, "axis 1"),
            Call((s.spread(2), s.index(2, 9000), s.cancelling(9000)), {"axis": 0}, "vector"),
        ]
    return found


def _from_zero(call: Call, index: Array, source: Array, axis: int, scheme: Scheme) -> Array:
    shape = call.args[call.operand].shape
    target = np.zeros(shape, wide(source).dtype)
    out = order.add_segments(target, index, wide(source), axis, scheme)
    return store(np.ascontiguousarray(out), source.dtype)


def _take_bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
    assert call.cotangent is not None
    x, index = call.args
    axis = call.options.get("axis", 0)
    g = call.cotangent
    flat = g.reshape(*x.shape[:axis], index.size, *x.shape[axis + 1 :])
    return _from_zero(call, index.reshape(-1), flat, axis, scheme)


def _take_calls(s: Sample) -> list[Call]:
    found = [Call((s.spread(5, 4), s.index(5, 700)), {"axis": 0}, "gradient, axis 0",
                  s.cancelling(4, 700).T.copy())]  # fmt: skip
    if s.deep:
        found.append(Call((s.spread(3, 7), s.index(7, 20, 30)), {"axis": 1}, "gradient, axis 1",
                          s.cancelling(3, 600).reshape(3, 20, 30)))  # fmt: skip
    return found


def _gather_bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
    assert call.cotangent is not None
    _, index = call.args
    return _from_zero(call, index, call.cotangent, call.options["axis"], scheme)


def _gather_calls(s: Sample) -> list[Call]:
    found = [Call((s.spread(4, 5), s.index(5, 4, 700)), {"axis": 1}, "gradient, axis 1",
                  s.cancelling(4, 700))]  # fmt: skip
    if s.deep:
        found.append(Call((s.spread(5, 4), s.index(5, 700, 4)), {"axis": 0}, "gradient, axis 0",
                          s.cancelling(4, 700).T.copy()))  # fmt: skip
    return found


def _embedding_bits(call: Call, scheme: Scheme, elementary: Elementary) -> Array:
    assert call.cotangent is not None
    index, _ = call.args
    g = call.cotangent.reshape(index.size, -1)
    return _from_zero(call, index.reshape(-1), g, 0, scheme)


def _embedding_calls(s: Sample) -> list[Call]:
    g = s.cancelling(4, 700).T.reshape(7, 100, 4).copy()
    return [Call((s.index(5, 7, 100), s.spread(5, 4)), {}, "gradient", g, 1)]


SUM = Order(_reduced("cancelling"), _reduction(lambda x, o, s: order.reduce(x, "add", s)), TREE)
PROD = Order(_reduced("near_one"), _reduction(lambda x, o, s: order.reduce(x, "multiply", s)), TREE)
MEAN = Order(
    _reduced("cancelling"),
    _reduction(lambda x, o, s: order.mean(x, x.shape[-1], s)),
    (*TREE, "times the reciprocal"),
)
VAR = Order(_variances, _reduction(_spread), (*TREE, "times the reciprocal", "one pass"))
STD = Order(_variances, _reduction(_root), (*TREE, "times the reciprocal", "one pass"))
MSE_LOSS = Order(_mse_calls, _mse_bits, (*TREE[:4], "times the reciprocal"))
CUMULATIVE_SUM = Order(
    _scans("cancelling"), _scan_of("add"), ("scan blocks of 64", "scan blocks of 256")
)
CUMULATIVE_PROD = Order(
    _scans("near_one"), _scan_of("multiply"), ("scan blocks of 64", "scan blocks of 256")
)
INDEX_ADD = Order(_index_add_calls, _index_add_bits, ("last position first",))
TAKE = Order(_take_calls, _take_bits, ("last position first",))
GATHER = Order(_gather_calls, _gather_bits, ("last position first",))
TAKE_ALONG_AXIS = Order(_gather_calls, _gather_bits, ("last position first",))
EMBEDDING = Order(_embedding_calls, _embedding_bits, ("last position first",))
