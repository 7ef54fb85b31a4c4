"""The sample catalogue: for every op the calls with which it is judged.

A case is arguments and options as a user writes them, on NumPy arrays.  Cases are made from the
op's record in the oracle (number of tensors, kinds, domain) unless the op has a maker of its own.
Everything is seeded by op, dtype and the run's seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

from ..oracle import REFERENCES, OpReference
from .data import ordinary, specials

__all__ = ["Case", "cases", "is_elementwise", "is_unary", "shape_cases", "special_cases", "takes"]

Array = NDArray[Any]

TAIL = 4099
"""Elements of a one-dimensional sample: more than one group on every device, and odd."""


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        args: Positional arguments: arrays, None, Python scalars, or lists of arrays.
        options: Keyword options; dtypes are tensorbus dtypes.
        label: What is particular about it.
        random: Whether the data is random enough for statistics.
    """

    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    random: bool = True


Maker = Callable[["Builder"], list[Case]]


class Builder:
    """Makes arrays for the cases of one op and dtype."""

    def __init__(self, op: str, dtype: DType, level: str, seed: int) -> None:
        self.op, self.dtype, self.level = op, dtype, level
        self.reference = REFERENCES[op]
        self.rng = np.random.default_rng([seed, zlib.crc32(f"{op}|{dtype.name}".encode())])

    @property
    def deep(self) -> bool:
        """Whether more than the smoke sample is wanted."""
        return self.level != "smoke"

    def array(self, *shape: int, at: int = 0, dtype: DType | None = None) -> Array:
        """Ordinary data in the domain of tensor argument `at`."""
        domain = self.reference.domain
        low, high = domain[min(at, len(domain) - 1)] if domain else (-4.0, 4.0)
        return ordinary(self.rng, shape, dtype or self.dtype, low, high)

    def index(self, size: int, *shape: int) -> Array:
        """Valid indices into a dimension of `size`."""
        return self.rng.integers(0, size, shape, dtype=np.int64)


def _elementwise(b: Builder) -> list[Case]:
    most = b.reference.tensors[1]
    sets = [Case(tuple(b.array(TAIL, at=k) for k in range(most)), label="vector")]
    if most == 2:
        sets.append(Case((b.array(17, 1), b.array(1, 19, at=1)), label="broadcast"))
    return sets


def _reduction(b: Builder) -> list[Case]:
    x = b.array(5, 1030)
    sets = [
        Case((x,), {"axis": 1}, "rows"),
        Case((b.array(40, 37),), {"axis": 0, "keepdims": True}, "columns"),
        Case((b.array(TAIL),), {}, "all"),
    ]
    if b.deep:
        sets += [
            Case((b.array(8193 + 60),), {"axis": 0}, "two chunks"),
            Case((b.array(2, 9000, 3),), {"axis": 1}, "two chunks, columns"),
            Case((b.array(3, 4, 5),), {"axis": (0, 2)}, "axes (0, 2)"),
            Case((b.array(3, 64),), {"axis": -1}, "short rows"),
        ]
    return sets


def _one_axis(b: Builder) -> list[Case]:
    sets = [
        Case((b.array(5, 300),), {"axis": 1}, "rows"),
        Case((b.array(70, 6),), {"axis": 0}, "columns"),
    ]
    if b.deep:
        sets += [
            Case((b.array(TAIL),), {"axis": 0}, "vector"),
            Case((b.array(2, 3, 130),), {"axis": 2}, "three dimensions"),
        ]
    return sets


def _argreduce(b: Builder) -> list[Case]:
    x = b.array(5, 300)
    x[:, 7] = x[:, 200] = x.max() if b.op == "argmax" else x.min()
    return [
        Case((x,), {"axis": 1}, "ties"),
        Case((b.array(TAIL),), {}, "all"),
        Case((b.array(40, 37),), {"axis": 0, "keepdims": True}, "columns"),
    ]


def _variance(b: Builder) -> list[Case]:
    sets = _reduction(b)
    sets.append(Case((b.array(4, 200),), {"axis": 1, "correction": 1.0}, "correction"))
    if b.dtype.bits >= 32:
        far = (b.rng.standard_normal((3, 500)) + 1e4).astype(b.dtype.numpy)
        sets.append(Case((far,), {"axis": 1}, "badly conditioned"))
    return sets


def _matmul(b: Builder) -> list[Case]:
    sets = [
        Case((b.array(7, 33), b.array(33, 65, at=1)), label="matrix"),
        Case((b.array(9, 300), b.array(300, 70, at=1)), label="two k-blocks"),
        Case((b.array(64), b.array(64, 5, at=1)), label="vector and matrix"),
    ]
    if b.deep:
        sets += [
            Case((b.array(2, 3, 17, 20), b.array(20, 9, at=1)), label="batch, broadcast"),
            Case((b.array(64, 64), b.array(64, 64, at=1)), label="square"),
            Case((b.array(33), b.array(33, at=1)), label="dot"),
            Case((b.array(130, 1), b.array(1, 130, at=1)), label="outer"),
        ]
    return sets


def _vecdot(b: Builder) -> list[Case]:
    return [Case((b.array(6, 300), b.array(6, 300, at=1)), label="rows")]


def _tensordot(b: Builder) -> list[Case]:
    return [
        Case((b.array(3, 4, 5), b.array(4, 5, 6, at=1)), {"axes": 2}, "axes 2"),
        Case((b.array(3, 4, 5), b.array(6, 4, 3, at=1)), {"axes": ((1, 0), (1, 2))}, "pairs"),
    ]


def _take(b: Builder) -> list[Case]:
    return [
        Case((b.array(11, 40), b.index(11, 90)), {"axis": 0}, "axis 0"),
        Case((b.array(6, 33), b.index(33, 20)), {"axis": 1}, "axis 1"),
    ]


def _take_along(b: Builder) -> list[Case]:
    return [Case((b.array(7, 33), b.index(33, 7, 20)), {"axis": 1}, "axis 1")]


def _gather(b: Builder) -> list[Case]:
    return [
        Case((b.array(7, 33), b.index(33, 7, 20)), {"axis": 1}, "axis 1"),
        Case((b.array(7, 33), b.index(7, 4, 33)), {"axis": 0}, "axis 0"),
    ]


def _scatter(b: Builder) -> list[Case]:
    return [Case((b.array(7, 33), b.index(33, 7, 50), b.array(7, 50, at=2)), {"axis": 1}, "axis 1")]


def _index_add(b: Builder) -> list[Case]:
    return [
        Case((b.array(9, 20), b.index(9, 70), b.array(70, 20, at=2)), {"axis": 0}, "axis 0"),
        Case((b.array(5, 12), b.index(12, 40), b.array(5, 40, at=2)), {"axis": 1}, "axis 1"),
    ]


def _where(b: Builder) -> list[Case]:
    condition = b.rng.integers(0, 2, TAIL).astype(np.bool_)
    return [
        Case((condition, b.array(TAIL), b.array(TAIL, at=1)), label="vector"),
        Case(
            (b.rng.integers(0, 2, (17, 1)).astype(np.bool_), b.array(1, 19), b.array(17, 19, at=1)),
            label="broadcast",
        ),
    ]


def _clip(b: Builder) -> list[Case]:
    low, high = (1, 50) if b.dtype.kind == "u" else (-20, 50)
    x = b.array(TAIL)
    bounds = (low, high) if b.dtype.is_integer else (-0.5, 0.75)
    return [
        Case((x, *bounds), label="scalars"),
        Case((x, None, bounds[1]), label="upper only"),
    ]


def _searchsorted(b: Builder) -> list[Case]:
    x = np.sort(b.array(300))
    return [
        Case((x, b.array(90)), {"side": "left"}, "left"),
        Case((x, np.concatenate([x[::5], b.array(9)])), {"side": "right"}, "right"),
    ]


def _sort(b: Builder) -> list[Case]:
    x = b.array(3, 200)
    x[:, ::9] = x[0, 0]
    sets = [Case((x,), {"axis": 1}, "rows with ties")]
    sets.append(Case((b.array(50, 4),), {"axis": 0, "descending": True}, "descending"))
    if b.deep:
        sets.append(Case((b.array(1000),), {}, "vector"))
    return sets


def _nonzero(b: Builder) -> list[Case]:
    x = b.array(20, 31)
    x[b.rng.random(x.shape) < 0.6] = 0
    return [Case((x,), label="matrix")]


def _axis_last(**options: Any) -> Maker:
    def make(b: Builder) -> list[Case]:
        sets = [
            Case((b.array(6, 300),), {"axis": -1, **options}, "rows"),
            Case((b.array(40, 6),), {"axis": 0, **options}, "columns"),
        ]
        if b.deep:
            sets.append(Case((b.array(3, 130),), {"axis": 1, **options}, "odd rows"))
        return sets

    return make


def _norm(weights: int) -> Maker:
    def make(b: Builder) -> list[Case]:
        n = 300
        extra = tuple(b.array(n, at=k + 1) for k in range(weights))
        sets = [Case((b.array(6, n),), {"axis": -1}, "plain")]
        names = ("weight", "bias")[:weights]
        scaled = dict(zip(names, extra, strict=True))
        sets.append(Case((b.array(6, n),), {"axis": -1, **scaled}, "scaled"))
        return sets

    return make


def _cross_entropy(b: Builder) -> list[Case]:
    x = b.array(20, 33)
    target = b.index(33, 20)
    return [
        Case((x, target), {"reduction": "mean"}, "mean"),
        Case((x, target), {"reduction": "none"}, "none"),
        Case((x, target), {"reduction": "sum", "label_smoothing": 0.1}, "label smoothing"),
    ]


def _mse(b: Builder) -> list[Case]:
    x, y = b.array(9, 70), b.array(9, 70, at=1)
    return [Case((x, y), {"reduction": r}, r) for r in ("mean", "none", "sum")]


def _linear(b: Builder) -> list[Case]:
    return [
        Case((b.array(9, 70), b.array(30, 70, at=1)), label="no bias"),
        Case((b.array(9, 70), b.array(30, 70, at=1), b.array(30, at=2)), label="bias"),
    ]


def _embedding(b: Builder) -> list[Case]:
    return [Case((b.index(19, 5, 8), b.array(19, 30)), label="matrix")]


def _moves(*calls: tuple[tuple[int, ...], dict[str, Any]]) -> Maker:
    def make(b: Builder) -> list[Case]:
        return [Case((b.array(*shape),), options) for shape, options in calls]

    return make


def _positional(*calls: tuple[tuple[int, ...], tuple[Any, ...], dict[str, Any]]) -> Maker:
    def make(b: Builder) -> list[Case]:
        return [Case((b.array(*shape), *rest), options) for shape, rest, options in calls]

    return make


def _several(*shapes: tuple[int, ...], **options: Any) -> Maker:
    def make(b: Builder) -> list[Case]:
        return [Case(([b.array(*s) for s in shapes],), options, "list")]

    return make


def _created(*calls: tuple[tuple[Any, ...], dict[str, Any]]) -> Maker:
    def make(b: Builder) -> list[Case]:
        return [Case(args, {**options, "dtype": b.dtype}) for args, options in calls]

    return make


def _like(*rest: Any) -> Maker:
    return lambda b: [Case((b.array(5, 31), *rest), {})]


def _astype(b: Builder) -> list[Case]:
    targets = dt.ALL if b.deep else (dt.float32, dt.int32, dt.bool_, dt.float16)
    sets = []
    for target in targets:
        x = np.concatenate([b.array(200), specials(b.dtype)])
        sets.append(Case((x, target), {}, f"to {target.name}"))
    return sets


def _activation(**options: Any) -> Maker:
    def make(b: Builder) -> list[Case]:
        sets = [Case((b.array(TAIL),), {}, "default")]
        if options:
            sets.append(Case((b.array(TAIL),), dict(options), "options"))
        return sets

    return make


_MAKERS: dict[str, Maker] = {
    **dict.fromkeys(
        ("sum", "prod", "mean", "max", "min", "any", "all", "logsumexp", "count_nonzero"),
        _reduction,
    ),
    **dict.fromkeys(("var", "std"), _variance),
    **dict.fromkeys(("argmax", "argmin"), _argreduce),
    **dict.fromkeys(("cumulative_sum", "cumulative_prod"), _one_axis),
    "matmul": _matmul,
    "vecdot": _vecdot,
    "tensordot": _tensordot,
    "take": _take,
    "take_along_axis": _take_along,
    "gather": _gather,
    "scatter": _scatter,
    "index_add": _index_add,
    "where": _where,
    "clip": _clip,
    "searchsorted": _searchsorted,
    "sort": _sort,
    "argsort": _sort,
    "nonzero": _nonzero,
    "softmax": _axis_last(),
    "log_softmax": _axis_last(),
    "layer_norm": _norm(2),
    "rms_norm": _norm(1),
    "cross_entropy": _cross_entropy,
    "mse_loss": _mse,
    "linear": _linear,
    "embedding": _embedding,
    "gelu": _activation(approximate="tanh"),
    "softplus": _activation(beta=2.0, threshold=10.0),
    "elu": _activation(alpha=1.5),
    "leaky_relu": _activation(negative_slope=0.2),
    "hardtanh": _activation(min_val=-0.5, max_val=2.0),
    "astype": _astype,
    "broadcast_to": _positional(((3, 1), ((2, 3, 5),), {})),
    "broadcast_arrays": lambda b: [Case((b.array(3, 1), b.array(4)), {})],
    "concat": _several((3, 5), (2, 5), (4, 5), axis=0),
    "stack": _several((3, 5), (3, 5), axis=1),
    "expand_dims": _moves(((3, 5), {"axis": 1})),
    "squeeze": _positional(((3, 1, 5), (1,), {})),
    "flip": _moves(((3, 33), {"axis": 1}), ((3, 5), {})),
    "moveaxis": _positional(((3, 4, 5), (0, 2), {})),
    "permute_dims": _positional(((3, 4, 5), ((2, 0, 1),), {})),
    "matrix_transpose": _moves(((2, 3, 5), {})),
    "reshape": _positional(((3, 4, 5), ((5, 12),), {}), ((3, 4), ((-1,),), {})),
    "roll": _positional(((3, 33), (5,), {"axis": 1}), ((3, 5), (4,), {})),
    "repeat": _positional(((3, 20), (3,), {"axis": 1})),
    "tile": _positional(((3, 5), ((2, 3),), {})),
    "unstack": _moves(((3, 5), {"axis": 0})),
    "tril": _moves(((9, 33), {"k": 1})),
    "triu": _moves(((9, 33), {"k": -1})),
    "zeros": _created((((3, 5),), {})),
    "ones": _created((((3, 5),), {})),
    "empty": _created((((3, 5),), {})),
    "full": _created((((3, 5), 1), {})),
    "eye": _created(((7,), {}), ((4, 9), {"k": 2})),
    "arange": _created(((17,), {}), ((2, 50, 3), {})),
    "linspace": _created(((0.0, 1.0, 37), {}), ((-3.0, 5.0, 40), {"endpoint": False})),
    "zeros_like": _like(),
    "ones_like": _like(),
    "empty_like": _like(),
    "full_like": _like(1),
    "meshgrid": lambda b: [Case((b.array(3), b.array(5)), {"indexing": "xy"})],
    "from_dlpack": lambda b: [Case((b.array(3, 5),), {})],
    "asarray": lambda b: [Case((b.array(3, 5),), {})],
}


def _dtype_fits(op: str, dtype: DType) -> bool:
    if op == "linspace":
        return dtype.is_float
    return not (op == "arange" and dtype is dt.bool_)


@lru_cache(maxsize=64)
def cases(op: str, dtype: DType, level: str, seed: int) -> Sequence[Case]:
    """The calls with ordinary data; empty if the op does not take `dtype`."""
    reference = REFERENCES[op]
    if not takes(reference, dtype):
        return []
    return _MAKERS.get(op, _elementwise)(Builder(op, dtype, level, seed))


def takes(reference: OpReference, dtype: DType) -> bool:
    """Whether the op accepts operands of `dtype`."""
    kind = {"b": "b", "i": "i", "u": "i", "f": "f"}[dtype.kind]
    return kind in reference.kinds and _dtype_fits(reference.name, dtype)


def is_elementwise(op: str) -> bool:
    """Whether the op is judged with the elementwise data sets."""
    return op not in _MAKERS and REFERENCES[op].tensors[1] in (1, 2)


_ACTIVATIONS = {
    "gelu",
    "softplus",
    "elu",
    "leaky_relu",
    "hardtanh",
    "relu",
    "silu",
    "sigmoid",
    "mish",
    "hardswish",
}


def is_unary(op: str) -> bool:
    """Whether the op is elementwise with one tensor."""
    return op in _ACTIVATIONS or (is_elementwise(op) and REFERENCES[op].tensors == (1, 1))


@lru_cache(maxsize=64)
def special_cases(op: str, dtype: DType, level: str, seed: int) -> Sequence[Case]:
    """The calls with special values: ±0, ±inf, NaN, subnormals, extremes."""
    reference = REFERENCES[op]
    if not takes(reference, dtype):
        return []
    values = specials(dtype)
    if is_unary(op):
        return [Case((values,), {}, "special values", random=False)]
    if is_elementwise(op):
        a, b = np.meshgrid(values, values, indexing="ij")
        pair = (np.ascontiguousarray(a.reshape(-1)), np.ascontiguousarray(b.reshape(-1)))
        return [Case(pair, {}, "pairs of special values", random=False)]
    return _special_rows(op, dtype, seed, values)


_ROW_OPS = frozenset(
    {
        "max",
        "min",
        "any",
        "all",
        "sum",
        "prod",
        "argmax",
        "argmin",
        "count_nonzero",
        "sort",
        "argsort",
        "cumulative_sum",
        "softmax",
        "log_softmax",
        "logsumexp",
    }
)


def _special_rows(op: str, dtype: DType, seed: int, values: Array) -> list[Case]:
    """Rows of ordinary data with one special value each, at a place that differs by row."""
    if op not in _ROW_OPS:
        return []
    builder = Builder(op, dtype, "smoke", seed)
    x = builder.array(len(values), 150)
    for k, value in enumerate(values):
        x[k, (k * 37) % 150] = value
    zeros = np.zeros((2, 150), dtype.numpy)
    if dtype.is_float:
        zeros[0] = -0.0
        zeros[1, 70] = -0.0
    return [Case((np.concatenate([x, zeros]),), {"axis": 1}, "special values", random=False)]


@lru_cache(maxsize=64)
def shape_cases(op: str, dtype: DType, seed: int) -> Sequence[Case]:
    """Empty, zero-dimensional and odd-tailed shapes."""
    if not takes(REFERENCES[op], dtype):
        return []
    b = Builder(op, dtype, "smoke", seed)
    shapes: Sequence[tuple[int, ...]]
    if is_unary(op) or is_elementwise(op):
        most = REFERENCES[op].tensors[1]
        shapes = [(), (0,), (1,), (3, 0, 2), (127,), (1025,)]
        return [Case(tuple(b.array(*s, at=k) for k in range(most)), {}, f"{s}") for s in shapes]
    if op in ("sum", "prod", "mean", "any", "all", "count_nonzero", "max", "min", "logsumexp"):
        full: list[Case] = [Case((b.array(*s),), {}, f"{s}") for s in ((), (1,), (129,), (2, 1))]
        if op in ("sum", "prod", "any", "all", "count_nonzero"):
            full += [Case((b.array(*s),), {"axis": 0}, f"{s}") for s in ((0,), (0, 3), (3, 0))]
        return full
    if op == "matmul":
        return [
            Case((b.array(*x), b.array(*y, at=1)), {}, f"{x} @ {y}")
            for x, y in (((1, 1), (1, 1)), ((3, 0), (0, 4)), ((0, 3), (3, 2)), ((1, 7), (7, 1)))
        ]
    if op in ("softmax", "log_softmax", "sort", "argsort", "cumulative_sum", "cumulative_prod"):
        name = {"axis": -1}
        return [Case((b.array(*s),), name, f"{s}") for s in ((1,), (2, 1), (3, 129))]
    return []
