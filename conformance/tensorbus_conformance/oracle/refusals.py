"""What single ops refuse: shapes, indices and options that only they know, part of their records.

What every op refuses by the form of its parameters is in `misuse`.  Each maker gives whole calls;
operands are small vectors of the item's dtype `d`, so that the calls share what is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .misuse import HUGE, Bad, BadCalls, broadcast_shapes
from .op import OpReference

__all__ = ["BAD", "with_refusals"]

BAD: dict[str, BadCalls] = {}
"""The makers, by the names of the ops that register them."""

_FACTS: dict[str, dict[str, Any]] = {}


def with_refusals(op: OpReference) -> OpReference:
    """An op's record with what it refuses."""
    return replace(op, bad=BAD.get(op.name), **_FACTS.get(op.name, {}))


def _fact(*names: str, **fields: Any) -> None:
    """Fields of records by which an op differs from the rules of `misuse`."""
    for name in names:
        _FACTS[name] = fields


_fact("expand_dims", "stack", new_axes=True)
_fact("roll", axes_twice=True)  # the shifts add up, as in NumPy
_fact("clip", saturates=True, mixes="first kind", numbers=True)
_fact("where", "full", "full_like", numbers=True)
_fact("scatter", "index_add", mixes="first")
_fact("mse_loss", "cross_entropy", "linear", "layer_norm", "rms_norm", mixes="within")
_fact("broadcast_arrays", mixes="each")
_fact("meshgrid", mixes="never")
_fact("divide", takes="if")  # integers are divided as float32


def _refuses(*names: str) -> Callable[[BadCalls], BadCalls]:
    def wrap(make: BadCalls) -> BadCalls:
        for name in names:
            BAD[name] = make
        return make

    return wrap


def _x(d: Any, *shape: int) -> Any:
    return np.ones(shape, d)


def _at(*values: int, dtype: Any = np.int64) -> Any:
    return np.asarray(values, dtype)


def _calls(error: type[Exception], *args: tuple[Any, ...], **options: Any) -> list[Bad]:
    return [Bad(_words(a, options), error, a, dict(options)) for a in args]


def _words(args: Sequence[Any], options: dict[str, Any]) -> str:
    def said(value: Any) -> str:
        if isinstance(value, np.ndarray):
            if value.dtype.kind in "iu" and 0 < value.size < 4 and value.ndim == 1:
                return f"indices {value.tolist()} ({value.dtype})"
            return f"{value.dtype}{value.shape}"
        return f"[{', '.join(map(said, value))}]" if isinstance(value, list) else f"{value!r:.40}"

    return ", ".join([*map(said, args), *(f"{k}={said(v)}" for k, v in options.items())])


# -- indices --------------------------------------------------------------------------------------


def _far(size: int) -> list[Any]:
    """Index tensors with one index that an axis of `size` does not have."""
    found = [_at(size), _at(-size - 1), _at(0, HUGE) if size else _at(0), _at(-(2**63))]
    found += [_at(size, dtype=np.int32), _at(2**64 - 1, dtype=np.uint64)]
    return found


_NO_INDEX = (np.ones(1, np.float32), np.ones(1, np.bool_))


@_refuses("take")
def _take(d: Any) -> Sequence[Bad]:
    x = _x(d, 5)
    return [
        *_calls(IndexError, *((x, i) for i in _far(5)), axis=0),
        *_calls(IndexError, *((_x(d, 0), i) for i in _far(0)), axis=0),
        *_calls(IndexError, (_x(d, 2, 5), _at(2)), (_x(d, 2, 5), _at(-3)), axis=-2),
        *_calls(TypeError, *((x, i) for i in _NO_INDEX), axis=0),
        *_calls(ValueError, (_x(d, 2, 5), _at(0)), (_x(d), _at(0))),
        *_calls(IndexError, (_x(d), _at(0)), axis=0),
    ]


@_refuses("embedding")
def _embedding(d: Any) -> Sequence[Bad]:
    table = _x(d, 5, 2)
    return [
        *_calls(IndexError, *((i, table) for i in _far(5))),
        *_calls(IndexError, (_at(0), _x(d, 0, 2))),
        *_calls(TypeError, *((i, table) for i in _NO_INDEX)),
        *_calls(ValueError, (_at(0), _x(d))),
    ]


@_refuses("take_along_axis", "gather")
def _gather(d: Any) -> Sequence[Bad]:
    x = _x(d, 5)
    wide = np.zeros((3, 5), np.int64)
    return [
        *_calls(IndexError, *((x, i) for i in _far(5)), axis=0),
        *_calls(IndexError, *((_x(d, 0), i) for i in _far(0)), axis=0),
        *_calls(TypeError, *((x, i) for i in _NO_INDEX), axis=0),
        *_calls(ValueError, (x, wide), (_x(d, 2, 5), _at(0)), axis=0),
        *_calls(ValueError, (_x(d, 2, 5), wide), axis=1),
        *_calls(IndexError, (_x(d), np.zeros((), np.int64)), axis=0),
    ]


@_refuses("scatter")
def _scatter(d: Any) -> Sequence[Bad]:
    x, one = _x(d, 5), _x(d, 1)
    return [
        *_calls(IndexError, *((x, i, _x(d, i.size)) for i in _far(5)), axis=0),
        *_calls(IndexError, *((_x(d, 0), i, _x(d, i.size)) for i in _far(0)), axis=0),
        *_calls(TypeError, *((x, i, one) for i in _NO_INDEX), axis=0),
        *_calls(ValueError, (x, _at(0, 1), one), (x, _at(0), _x(d, 1, 1)), axis=0),
        *_calls(ValueError, (_x(d, 2, 5), np.zeros((3, 5), np.int64), _x(d, 3, 5)), axis=1),
        *_calls(IndexError, (_x(d), np.zeros((), np.int64), _x(d)), axis=0),
    ]


@_refuses("index_add")
def _index_add(d: Any) -> Sequence[Bad]:
    x, one = _x(d, 5), _x(d, 1)
    return [
        *_calls(IndexError, *((x, i, _x(d, i.size)) for i in _far(5)), axis=0),
        *_calls(IndexError, *((_x(d, 0), i, _x(d, i.size)) for i in _far(0)), axis=0),
        *_calls(TypeError, *((x, i, one) for i in _NO_INDEX), axis=0),
        *_calls(
            ValueError, (x, _at(0, 1), one), (x, _at(0), _x(d, 1, 1)), (x, _at(0), _x(d)), axis=0
        ),
        *_calls(ValueError, (x, np.zeros((1, 1), np.int64), _x(d, 1)), axis=0),
        *_calls(ValueError, (_x(d, 2, 5), _at(0), _x(d, 1, 4)), axis=0),
        *_calls(IndexError, (_x(d), _at(0), one), axis=0),
    ]


@_refuses("searchsorted")
def _searchsorted(d: Any) -> Sequence[Bad]:
    x = _x(d, 5)
    return [
        *_calls(ValueError, (_x(d), x), (_x(d, 2, 5), x)),
        *_calls(ValueError, (x, x), sorter=_at(0, 1)),
        *_calls(ValueError, (x, x), sorter=np.zeros((1, 5), np.int64)),
        *_calls(TypeError, (x, x), sorter=np.zeros(5, np.float32)),
        *_calls(TypeError, (x, x), sorter=np.zeros(5, np.bool_)),
    ]


def _needs_dimension(error: type[Exception]) -> BadCalls:
    return lambda d: _calls(error, (_x(d),))


for _name in ("nonzero", "unstack"):
    BAD[_name] = _needs_dimension(ValueError)
for _name in ("sort", "argsort", "softmax", "log_softmax"):
    BAD[_name] = _needs_dimension(IndexError)


@_refuses("cumulative_sum", "cumulative_prod")
def _scan(d: Any) -> Sequence[Bad]:
    return [
        *_calls(ValueError, (_x(d, 2, 5),), (_x(d),)),
        *_calls(TypeError, (_x(d, 5),), axis=0, dtype=np.dtype(np.bool_)),
    ]


@_refuses("sum", "prod")
def _sum(d: Any) -> Sequence[Bad]:
    return _calls(TypeError, (_x(d, 5),), dtype=np.dtype(np.bool_))


@_refuses("max", "min", "argmax", "argmin")
def _extreme(d: Any) -> Sequence[Bad]:
    return [
        *_calls(ValueError, (_x(d, 0),), (_x(d, 5, 0),)),
        *_calls(ValueError, (_x(d, 0),), axis=0),
        *_calls(ValueError, (_x(d, 5, 0),), axis=1),
    ]


# -- products -------------------------------------------------------------------------------------


@_refuses("matmul")
def _matmul(d: Any) -> Sequence[Bad]:
    return _calls(
        ValueError,
        (_x(d, 5), _x(d, 2)),
        (_x(d, 5), _x(d, 1)),
        (_x(d, 5), _x(d, 0)),
        (_x(d, 2, 5), _x(d, 2, 5)),
        (_x(d, 2, 5), _x(d, 2)),
        (_x(d, 2), _x(d, 5, 2)),
        (_x(d), _x(d, 5)),
        (_x(d, 5), _x(d)),
        (_x(d, 2, 1, 5), _x(d, 3, 5, 1)),
        (_x(d, 0, 1, 5), _x(d, 3, 5, 1)),
    )


@_refuses("vecdot")
def _vecdot(d: Any) -> Sequence[Bad]:
    return [
        *_calls(
            ValueError,
            (_x(d, 5), _x(d, 2)),
            (_x(d, 5), _x(d, 1)),
            (_x(d, 5), _x(d, 0)),
            (_x(d), _x(d, 5)),
            (_x(d, 2, 5), _x(d, 3, 5)),
        ),
        *_calls(IndexError, (_x(d, 2, 5), _x(d, 5)), axis=-2),
    ]


@_refuses("tensordot")
def _tensordot(d: Any) -> Sequence[Bad]:
    a, b = _x(d, 2, 5), _x(d, 5, 2)
    return [
        *_calls(ValueError, (a, a), axes=1),
        *_calls(ValueError, (a, b), axes=3),
        *_calls(ValueError, (a, b), axes=-1),
        *_calls(ValueError, (a, b), axes=((0, 1), (0,))),
        *_calls(ValueError, (a, a), axes=((0, 0), (0, 0))),
        *_calls(ValueError, (a, b), axes=((0,), (0,))),
        *_calls(ValueError, (a, _x(d, 1, 2)), axes=1),
        *_calls(IndexError, (a, b), axes=((2,), (0,))),
        *_calls(IndexError, (a, b), axes=((-3,), (0,))),
        *_calls(TypeError, (a, b), axes=((0.0,), (0,))),
        *_calls(TypeError, (a, b), axes=(0.0, 0)),
    ]


@_refuses("linear")
def _linear(d: Any) -> Sequence[Bad]:
    x, w = _x(d, 2, 5), _x(d, 3, 5)
    return _calls(
        ValueError,
        (x, _x(d, 5, 3)),
        (x, _x(d, 3, 1)),
        (x, _x(d)),
        (_x(d), w),
        (x, w, _x(d, 5)),
        (x, w, _x(d, 1)),
        (x, w, _x(d)),
        (x, w, _x(d, 1, 3)),
    )


# -- shapes ---------------------------------------------------------------------------------------


@_refuses("reshape")
def _reshape(d: Any) -> Sequence[Bad]:
    x = _x(d, 6)
    shapes = [(7, 11, 13), (5,), (), (-1, -1), (-1, 4), (-1, 0), (-6,), (-2, -3), (6, 0), (-1, -6)]
    return [
        *_calls(ValueError, *((x, s) for s in shapes)),
        *_calls(ValueError, (_x(d, 0), (1,)), (_x(d, 0), (-1, 0)), (_x(d, 2, 0), (0, -1))),
        *_calls(TypeError, (x, (2.0, 3)), (x, (-1.0, 3))),
    ]


@_refuses("broadcast_to")
def _broadcast_to(d: Any) -> Sequence[Bad]:
    return _calls(
        ValueError,
        (_x(d, 5), (2,)),
        (_x(d, 5), (0,)),
        (_x(d, 0), (5,)),
        (_x(d, 5), (5, 1)),
        (_x(d, 5), ()),
        (_x(d, 2, 5), (5,)),
        (_x(d, 2, 5), (1, 5)),
    )


@_refuses("broadcast_arrays")
def _broadcast_arrays(d: Any) -> Sequence[Bad]:

    return _calls(ValueError, *((_x(d, *a), _x(d, *b)) for a, b in broadcast_shapes()))


@_refuses("concat")
def _concat(d: Any) -> Sequence[Bad]:
    a = _x(d, 2, 5)
    return [
        *_calls(ValueError, ([],), ([a, _x(d, 2, 3)],), ([a, _x(d, 5)],), ([a, _x(d, 2, 1)],)),
        *_calls(ValueError, ([_x(d), _x(d)],)),
        *_calls(ValueError, ([a, _x(d, 3, 5)],), axis=1),
        *_calls(ValueError, ([a, _x(d, 0)],), axis=0),
        *_mixed(d),
    ]


@_refuses("stack")
def _stack(d: Any) -> Sequence[Bad]:
    a = _x(d, 5)
    return [
        *_calls(ValueError, ([],), ([a, _x(d, 1)],), ([a, _x(d, 0)],), ([a, _x(d, 1, 5)],)),
        *_mixed(d),
    ]


def _mixed(d: Any) -> Sequence[Bad]:
    """A number beside bool, which do not promote."""
    other = np.dtype(np.int32 if np.dtype(d).kind == "b" else np.bool_)
    return _calls(TypeError, ([_x(d, 5), _x(other, 5)],), ([_x(other, 5), _x(d, 5)],))


@_refuses("squeeze")
def _squeeze(d: Any) -> Sequence[Bad]:
    x = _x(d, 2, 1, 5)
    return _calls(
        ValueError, (x, 0), (x, -1), (x, (0, 1)), (x, (1, 1)), (x, (1, -2)), (_x(d, 0), 0)
    )


@_refuses("expand_dims")
def _expand_dims(d: Any) -> Sequence[Bad]:
    x = _x(d, 5)
    return [
        *(b for a in (2, -3) for b in _calls(IndexError, (x,), axis=a)),
        *(b for a in ((0, 3), (-4, 0)) for b in _calls(IndexError, (x,), axis=a)),
        *(b for a in ((0, 0), (0, -3), (2, -1)) for b in _calls(ValueError, (x,), axis=a)),
    ]


@_refuses("moveaxis")
def _moveaxis(d: Any) -> Sequence[Bad]:
    x = _x(d, 2, 1, 5)
    return [
        *_calls(IndexError, (x, 3, 0), (x, 0, 3), (x, -4, 0), (x, 0, -4), (_x(d), 0, 0)),
        *_calls(IndexError, (x, (0, 3), (0, 1))),
        *_calls(ValueError, (x, (0, 1), (0,)), (x, (0, 0), (0, 1)), (x, (0, 1), (0, 0))),
        *_calls(ValueError, (x, (0, -3), (0, 1)), (x, (0, 1), (0, -3)), (x, 0, (0, 1))),
    ]


@_refuses("permute_dims")
def _permute_dims(d: Any) -> Sequence[Bad]:
    x = _x(d, 2, 1, 5)
    orders = [(0, 1), (0, 1, 1), (0, 1, -2), (0, 1, 3), (0, 1, -4), (0, 1, 2, 2), (), (0, 0, 0)]
    return [
        *_calls(ValueError, *((x, o) for o in orders)),
        *_calls(TypeError, (x, (0.0, 1.0, 2.0))),
    ]


@_refuses("matrix_transpose", "tril", "triu")
def _matrix(d: Any) -> Sequence[Bad]:
    return _calls(ValueError, (_x(d, 5),), (_x(d),))


@_refuses("roll")
def _roll(d: Any) -> Sequence[Bad]:
    x = _x(d, 2, 5)
    return [
        *_calls(ValueError, (x, (1, 2)), axis=(0, 1, 0)),
        *_calls(ValueError, (x, (1, 2, 3)), axis=(0, 1)),
        *_calls(IndexError, (x, 1), axis=2),
        *_calls(IndexError, (x, (1, 0)), axis=(0, 2)),
        *_calls(TypeError, (x, 1.5), (x, (1, 0.5)), axis=0),
    ]


@_refuses("tile")
def _tile(d: Any) -> Sequence[Bad]:
    x = _x(d, 2, 5)
    return [
        *_calls(ValueError, (x, (-1,)), (x, (2, -2)), (x, (1, 1, -1))),
        *_calls(TypeError, (x, (1.5,)), (x, ("2",)), (x, ((1,), 2))),
    ]


@_refuses("repeat")
def _repeat(d: Any) -> Sequence[Bad]:
    x = _x(d, 5)
    return [
        *_calls(
            ValueError, (x, -1), (x, _at(1, 2)), (x, _at(-1)), (x, _at(1, 1, 1, 1, -1)), axis=0
        ),
        *_calls(ValueError, (x, np.ones((1, 5), np.int64)), axis=0),
        *_calls(TypeError, *((x, i) for i in _NO_INDEX), axis=0),
    ]


@_refuses("meshgrid")
def _meshgrid(d: Any) -> Sequence[Bad]:
    other = np.dtype(np.float32 if np.dtype(d) != np.float32 else np.int32)
    return _calls(ValueError, (_x(d, 5), _x(d, 1, 5)), (_x(d, 5), _x(other, 5)))


# -- creation -------------------------------------------------------------------------------------


@_refuses("full")
def _full(d: Any) -> Sequence[Bad]:
    kind = np.dtype(d)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        return [
            *_calls(
                OverflowError, ((5,), int(limits.max) + 1), ((5,), int(limits.min) - 1), dtype=kind
            ),
            *_calls(OverflowError, ((5,), 2**70), ((0,), 2**70), dtype=kind),
            *_calls(TypeError, ((5,), 0.5), ((5,), math.nan), ((5,), math.inf), dtype=kind),
        ]
    return _calls(TypeError, ((5,), 1j), ((5,), "1"), ((5,), None), ((5,), [1]), dtype=kind)


def _filled_like(d: Any) -> Sequence[Bad]:
    return [replace(b, args=(_x(d, *b.args[0]), *b.args[1:])) for b in _full(d)]


BAD["full_like"] = _filled_like


@_refuses("eye")
def _eye(d: Any) -> Sequence[Bad]:
    return [
        *_calls(ValueError, (-1,), (2, -1), (-2, 3), (HUGE, 4)),
        *_calls(TypeError, (2.0,), (2, 2.5), ((2, 3),)),
    ]


@_refuses("arange")
def _arange(d: Any) -> Sequence[Bad]:
    kind = np.dtype(d)
    found = [
        *_calls(ValueError, (0, 5, 0), (0.0, 5.0, 0.0), (math.nan,), (0, math.nan), dtype=kind),
        *_calls(ValueError, (0, math.inf), (-math.inf, 0), (0, 5, math.nan), dtype=kind),
        *_calls(TypeError, (True,), (0, True), ("5",), (0, 5, None), (1j,), dtype=kind),
        *_calls(TypeError, (5,), dtype=np.dtype(np.bool_)),
        *_calls(ValueError, (HUGE * 4,), (0.0, 1.0, 1e-300), dtype=np.dtype(np.float32)),
    ]
    if kind.kind in "iu":
        top, low = int(np.iinfo(kind).max), int(np.iinfo(kind).min)
        found += _calls(
            OverflowError, (top, top + 2), (low - 1, low), (top, top + 9, 5), dtype=kind
        )
    return found


@_refuses("linspace")
def _linspace(d: Any) -> Sequence[Bad]:
    kind = np.dtype(d)
    return [
        *_calls(ValueError, (0.0, 1.0, -1), (0, 1, -5), dtype=kind),
        *_calls(
            TypeError, (0.0, 1.0, 2.5), (0.0, 1.0, "3"), ("0", 1.0, 3), (0.0, 1j, 3), dtype=kind
        ),
        *_calls(TypeError, (0.0, 1.0, 3), dtype=np.dtype(np.bool_)),
        *_calls(OverflowError, (0.0, 300.0, 2), (-1.0, 0.0, 2), dtype=np.dtype(np.uint8)),
    ]


@_refuses("asarray")
def _asarray(d: Any) -> Sequence[Bad]:
    x = _x(d, 5)
    other = np.dtype(np.float32 if np.dtype(d) != np.float32 else np.int32)
    return [
        *_calls(TypeError, (object(),), (None,), ("text",), (1j,), ({},), (["a"],), ([None],)),
        *_calls(ValueError, ([[1, 2], [3]],)),
        *_calls(ValueError, (x,), dtype=other, copy=False),
        *_calls(OverflowError, (300,), (-1,), ([0, 256],), dtype=np.dtype(np.uint8)),
        *_calls(OverflowError, (2**40,), (-(2**31) - 1,), dtype=np.dtype(np.int32)),
        *_calls(ValueError, (1.0,), copy=False),
    ]


@_refuses("from_dlpack")
def _from_dlpack(d: Any) -> Sequence[Bad]:
    return _calls(TypeError, (object(),), (None,), ([1.0],), (3,))


# -- neural networks ------------------------------------------------------------------------------


@_refuses("cross_entropy")
def _cross_entropy(d: Any) -> Sequence[Bad]:
    x, target = _x(d, 2, 5), _at(0, 1)
    wrong = (1.5, -0.1, math.nan, math.inf)
    return [
        *(b for s in wrong for b in _calls(ValueError, (x, target), label_smoothing=s)),
        *_calls(ValueError, (x, _at(0, 1, 2)), (x, np.zeros((), np.int64)), (x, _x(d, 2, 1))),
        *_calls(ValueError, (x, np.zeros((2, 1), np.int64)), (x, np.zeros(5, np.int64))),
        *_calls(TypeError, (x, np.ones(2, np.bool_))),
        *_calls(IndexError, (_x(d), np.zeros((), np.int64))),
    ]


@_refuses("mse_loss")
def _mse_loss(d: Any) -> Sequence[Bad]:
    return _broadcast_arrays(d)


@_refuses("layer_norm", "rms_norm")
def _norm(d: Any) -> Sequence[Bad]:
    x = _x(d, 2, 5)
    wrong = (_x(d, 2), _x(d, 0), _x(d, 3, 5), _x(d, 1, 1, 5))
    return [b for w in wrong for b in _calls(ValueError, (x,), weight=w)] + [
        *_calls(TypeError, (x,), weight=_x(np.int32, 5)),
        *_calls(IndexError, (_x(d),)),
    ]


@_refuses("hardtanh")
def _hardtanh(d: Any) -> Sequence[Bad]:
    return _calls(ValueError, (_x(d, 5),), min_val=1.0, max_val=-1.0)


@_refuses("dropout")
def _dropout(d: Any) -> Sequence[Bad]:
    x = _x(d, 5)
    return [
        *_calls(ValueError, *((x, p) for p in (1.5, -0.1, math.nan, math.inf)), seed=1),
        *_calls(TypeError, (x, 0.5), (x,)),
        *_seeds(x, 0.5),
    ]


def _seeds(*args: Any) -> list[Bad]:
    return [
        *_calls(ValueError, args, seed=-1),
        *_calls(ValueError, args, seed=2**64),
    ]


# -- random numbers -------------------------------------------------------------------------------


@_refuses("random.uniform")
def _uniform(d: Any) -> Sequence[Bad]:
    bad = [(1.0, 0.0), (1.0, 1.0), (math.nan, 1.0), (0.0, math.nan), (0.0, math.inf), (-4e38, 1.0)]
    return [
        *(b for lo, hi in bad for b in _calls(ValueError, ((5,),), seed=1, low=lo, high=hi)),
        *_calls(TypeError, ((5,),)),
        *_calls(TypeError, ((5,),), seed=1, dtype=np.dtype(np.int32)),
        *_seeds((5,)),
    ]


@_refuses("random.normal")
def _normal(d: Any) -> Sequence[Bad]:
    return [
        *(b for s in (-1.0, math.nan) for b in _calls(ValueError, ((5,),), seed=1, std=s)),
        *_calls(TypeError, ((5,),)),
        *_calls(TypeError, ((5,),), seed=1, dtype=np.dtype(np.int32)),
        *_seeds((5,)),
    ]


@_refuses("random.integers")
def _integers(d: Any) -> Sequence[Bad]:
    return [
        *_calls(ValueError, (5, 5, (5,)), (5, 4, (5,)), (0, 2**63 + 1, (5,)), seed=1),
        *_calls(ValueError, (0, 257, (5,)), (-1, 5, (5,)), seed=1, dtype=np.dtype(np.uint8)),
        *_calls(TypeError, (0, 5, (5,))),
        *_calls(TypeError, (0, 5, (5,)), seed=1, dtype=np.dtype(np.float32)),
        *_seeds(0, 5, (5,)),
    ]


@_refuses("random.bernoulli")
def _bernoulli(d: Any) -> Sequence[Bad]:
    return [
        *_calls(ValueError, *((p, (5,)) for p in (1.5, -0.1, math.nan)), seed=1),
        *_calls(TypeError, (0.5, (5,))),
        *_seeds(0.5, (5,)),
    ]


@_refuses("random.permutation")
def _permutation(d: Any) -> Sequence[Bad]:
    return [
        *_calls(ValueError, (-1,), seed=1),
        *_calls(IndexError, (_x(np.float32, 5),), seed=1, axis=1),
        *_calls(IndexError, (_x(np.float32, 5),), seed=1, axis=-2),
        *_calls(IndexError, (_x(np.float32),), seed=1),
        *_calls(TypeError, (5,)),
        *_seeds(5),
    ]
