"""References of manipulation and creation functions (array API 2025.12): exact but linspace."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray

from . import ball, judges
from .elementwise import OPS as ELEMENTWISE
from .indexing import moved
from .op import OpReference, common_dtype
from .sampling import Samples, creation as making, moving
from .ulp import format_of
from .verdict import Reference

__all__ = ["OPS"]

Array = NDArray[Any]
OPS: dict[str, OpReference] = {}

_FLOAT, _INT = np.dtype(np.float32), np.dtype(np.int64)


def _register(
    name: str,
    forward: Callable[..., Any],
    samples: Samples,
    tensors: tuple[int, int] = (1, 1),
    kinds: str = "bif",
    degenerate: Samples | None = None,
) -> None:
    OPS[name] = OpReference(
        name,
        "exact",
        forward,
        judges.exact,
        tensors,
        kinds,
        ((-4.0, 4.0),) * min(tensors[1], 4),
        samples=samples,
        degenerate=degenerate,
    )


def _moving(function: Callable[..., Array]) -> Callable[..., Reference]:
    def forward(x: Any, *args: Any, **options: Any) -> Reference:
        return moved(np.asarray(function(np.asarray(x), *args, **options)))

    return forward


def _together(function: Callable[..., Array]) -> Callable[..., Reference]:
    def forward(*arrays: Any, **options: Any) -> Reference:
        dtype = common_dtype(*arrays)
        return moved(function([np.asarray(a).astype(dtype) for a in arrays], **options))

    return forward


def _concat(arrays: list[Array], axis: int | None = 0) -> Array:
    if axis is None:
        return np.concatenate([a.reshape(-1) for a in arrays])
    return np.concatenate(arrays, axis=axis)


def _several(function: Callable[..., Any]) -> Callable[..., tuple[Reference, ...]]:
    def forward(*arrays: Any, **options: Any) -> tuple[Reference, ...]:
        return tuple(moved(np.asarray(a)) for a in function(*map(np.asarray, arrays), **options))

    return forward


def _unstack(x: Array, axis: int = 0) -> list[Array]:
    return list(np.moveaxis(x, axis, 0))


def _repeat(x: Array, repeats: Any = 1, axis: int | None = None) -> Array:
    return np.repeat(x, repeats, axis=axis)


def _diff(x: Any, *, axis: int = -1, n: int = 1) -> Reference:
    """First differences, correctly rounded (n = 1); integers wrap, n times."""
    array = np.asarray(x)
    if format_of(array.dtype) is None:
        for _ in range(n):
            array = np.diff(array, axis=axis)
        return moved(array)
    if n != 1:
        raise ValueError("the reference of diff covers n=1 for floating dtypes")

    size = array.shape[axis]
    later = np.take(array, range(1, size), axis)
    result = ELEMENTWISE["subtract"].forward(later, np.take(array, range(size - 1), axis))
    assert isinstance(result, Reference)
    return result


_NOTHING = moving.degenerate()
_register("broadcast_to", _moving(lambda x, shape: np.broadcast_to(x, shape)), moving.broadcast_to)
_register(
    "broadcast_arrays",
    _several(lambda *xs: np.broadcast_arrays(*xs)),
    moving.broadcast_arrays,
    (1, 8),
)
_register("concat", _together(_concat), moving.concat, (1, 8))
_register("stack", _together(lambda xs, axis=0: np.stack(xs, axis=axis)), moving.stack, (1, 8))
_register(
    "expand_dims",
    _moving(lambda x, axis=0: np.expand_dims(x, axis)),
    moving.expand_dims,
    degenerate=_NOTHING,
)
_register("squeeze", _moving(lambda x, axis: np.squeeze(x, axis)), moving.squeeze)
_register(
    "flip",
    _moving(lambda x, axis=None: np.flip(x, axis)),
    moving.axes_option(*moving.AXES, "()"),
    degenerate=_NOTHING,
)
_register(
    "moveaxis",
    _moving(lambda x, source, destination: np.moveaxis(x, source, destination)),
    moving.moveaxis,
)
_register("permute_dims", _moving(lambda x, axes: np.transpose(x, axes)), moving.permute_dims)
_register(
    "matrix_transpose",
    _moving(lambda x: np.swapaxes(x, -1, -2)),
    moving.matrix_transpose,
    degenerate=moving.degenerate(least=2),
)
_register(
    "reshape",
    _moving(lambda x, shape, copy=None: np.reshape(x, shape)),
    moving.reshape,
)
_register(
    "roll",
    _moving(lambda x, shift, axis=None: np.roll(x, shift, axis)),
    moving.roll,
    degenerate=moving.degenerate(3),
)
_register("repeat", _moving(_repeat), moving.repeat, (1, 2), degenerate=moving.degenerate(2))
_register(
    "tile",
    _moving(lambda x, repetitions: np.tile(x, repetitions)),
    moving.tile,
    degenerate=moving.degenerate((2, 3)),
)
_register("unstack", _several(_unstack), moving.unstack)
for _name, _triangle in (("tril", np.tril), ("triu", np.triu)):
    _register(
        _name,
        _moving(lambda x, k=0, cut=_triangle: cut(x, k)),
        moving.triangle,
        degenerate=moving.degenerate(least=2),
    )
_register(
    "meshgrid",
    _several(lambda *xs, indexing="xy": np.meshgrid(*xs, indexing=indexing)),
    moving.meshgrid,
    (1, 8),
)
OPS["diff"] = OpReference(
    "diff", "rounded", _diff, judges.rounded, (1, 1), "if", ((-4.0, 4.0),), offered=False
)

# -- creation -------------------------------------------------------------------------------------


def _filled(value: float) -> Callable[..., Reference]:
    def forward(shape: Any, *, dtype: Any = None) -> Reference:
        return moved(np.full(shape, value, _FLOAT if dtype is None else np.dtype(dtype)))

    return forward


def _filled_like(value: float) -> Callable[..., Reference]:
    def forward(x: Any, *, dtype: Any = None) -> Reference:
        array = np.asarray(x)
        return moved(np.full(array.shape, value, array.dtype if dtype is None else np.dtype(dtype)))

    return forward


def _default_dtype(value: Any) -> np.dtype[Any]:
    if isinstance(value, bool):
        return np.dtype(np.bool_)
    return _INT if isinstance(value, int) else _FLOAT


def _full(shape: Any, fill_value: Any, *, dtype: Any = None) -> Reference:
    target = _default_dtype(fill_value) if dtype is None else np.dtype(dtype)
    return moved(np.full(shape, fill_value, target))


def _full_like(x: Any, fill_value: Any, *, dtype: Any = None) -> Reference:
    array = np.asarray(x)
    target = array.dtype if dtype is None else np.dtype(dtype)
    return moved(np.full(array.shape, fill_value, target))


def _undefined(shape: Any, *, dtype: Any = None) -> Reference:
    target = _FLOAT if dtype is None else np.dtype(dtype)
    value = np.zeros(shape, np.float64 if format_of(target) is not None else target)
    return Reference(value, target, undefined=np.ones(value.shape, bool))


def _undefined_like(x: Any, *, dtype: Any = None) -> Reference:
    array = np.asarray(x)
    return _undefined(array.shape, dtype=array.dtype if dtype is None else dtype)


def _line(
    dtype: np.dtype[Any], count: int, point: Callable[[int], Any], scale: float, terms: int
) -> Reference:
    """Points given as balls, each computed with `terms` roundings of numbers up to `scale`."""
    with ball.precision(200):
        hi, lo = ball.pair([point(i) for i in range(count)])
    magnitude = np.full(count, scale)
    return Reference(hi, dtype, lo, 0.0, magnitude, terms=terms)


def _arange(start: Any, stop: Any = None, step: Any = 1, *, dtype: Any = None) -> Reference:
    """start + i step, ceil((stop - start)/step) of them; floats with 2 roundings (i itself is
    exact below 2^p), start and step being rounded to the dtype first: 4."""
    first, last = (0, start) if stop is None else (start, stop)
    whole = all(isinstance(v, int) for v in (first, last, step))
    target = np.dtype(dtype) if dtype is not None else (_INT if whole else _FLOAT)
    count = max(math.ceil((last - first) / step), 0)
    if format_of(target) is None:
        return moved(np.array([int(first + i * step) for i in range(count)], target))
    return _line(
        target,
        count,
        lambda i: arb(first) + i * arb(step),
        max(abs(first), abs(last)) + abs(step),
        4,
    )


def _linspace(
    start: float, stop: float, num: int, *, dtype: Any = None, endpoint: bool = True
) -> Reference:
    """start + i (stop - start)/(num - 1): the ends rounded (2), difference, division, product and
    sum (4), each error at most u (|start| + |stop|)."""
    target = _FLOAT if dtype is None else np.dtype(dtype)
    parts = max(num - 1 if endpoint else num, 1)
    if format_of(target) is None:
        values = [int(start + i * (stop - start) / parts) for i in range(num)]
        return moved(np.array(values, target))
    return _line(
        target,
        num,
        lambda i: arb(start) + (arb(stop) - arb(start)) * i / parts,
        abs(start) + abs(stop),
        6,
    )


def _eye(n_rows: int, n_cols: int | None = None, *, k: int = 0, dtype: Any = None) -> Reference:
    return moved(np.eye(n_rows, n_cols, k, _FLOAT if dtype is None else np.dtype(dtype)))


def _asarray(obj: Any, *, dtype: Any = None, copy: Any = None) -> Reference:

    array = np.asarray(obj)
    if dtype is None or np.dtype(dtype) == array.dtype:
        return moved(array)
    result = ELEMENTWISE["astype"].forward(array, dtype=dtype)
    assert isinstance(result, Reference)
    return result


_forward: Callable[..., Any]
for _name, _forward in (("zeros", _filled(0)), ("ones", _filled(1)), ("empty", _undefined)):
    _register(_name, _forward, making.filled, (0, 0))
for _name, _forward in (
    ("zeros_like", _filled_like(0)),
    ("ones_like", _filled_like(1)),
    ("empty_like", _undefined_like),
):
    _register(_name, _forward, making.like(), degenerate=_NOTHING)
_register("full", _full, making.full, (0, 0))
_register("full_like", _full_like, making.like(fill=True), degenerate=moving.degenerate(1))
_register("eye", _eye, making.eye, (0, 0))
_register("asarray", _asarray, making.converted, degenerate=_NOTHING)
_register("from_dlpack", _asarray, making.converted, degenerate=_NOTHING)
_excused: dict[str, str]
for _name, _forward, _samples, _kinds, _excused in (
    (
        "arange",
        _arange,
        making.arange,
        "if",
        {"step: 0": "a step of zero is a ValueError, see errors"},
    ),
    ("linspace", _linspace, making.linspace, "f", {}),
):
    OPS[_name] = OpReference(
        _name,
        "accumulation",
        _forward,
        judges.accumulation(),
        (0, 0),
        _kinds,
        (),
        samples=_samples,
        excused=_excused,
    )
for _name in (
    "broadcast_to", "broadcast_arrays", "expand_dims", "squeeze", "moveaxis", "permute_dims",
    "matrix_transpose", "reshape", "flip", "unstack", "asarray", "from_dlpack", "meshgrid",
):  # fmt: skip
    OPS[_name] = replace(OPS[_name], view=True)
OPS["repeat"] = replace(OPS["repeat"], positions=(1,))
