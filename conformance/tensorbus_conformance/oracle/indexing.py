"""References of selection, searching and sorting: movement, judged exactly.

Sources: Python array API standard 2025.12; gather and scatter follow torch.gather and
torch.Tensor.scatter.  Negative indices count from the end.  Where scatter writes an element more
than once the last write in C order of `index` stays; index_add adds all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import judges, ordered_sums
from .contraction import exact_sum
from .op import JudgeOf, OpReference, as_float64, common_dtype
from .sampling import Samples, edges, indexing as at, reductions as along
from .sampling.sampler import AXIS_FORMS
from .ulp import format_of
from .verdict import Reference

__all__ = ["OPS", "moved", "order_keys", "scatter_positions"]

Array = NDArray[Any]
OPS: dict[str, OpReference] = {}


def moved(result: Array) -> Reference:
    """A reference for elements that only moved."""
    value = as_float64(result) if format_of(result.dtype) is not None else np.asarray(result)
    return Reference(value, result.dtype)


def order_keys(x: Array) -> Array:
    """Integers or floats that sort as the elements: NaN last, both zeros equal."""
    if format_of(x.dtype) is None:
        return x.astype(np.int64) if x.dtype == np.bool_ else x
    return as_float64(x)


def _argextreme(greatest: bool) -> Callable[..., Reference]:
    """The first index of the extreme; the first NaN wins."""

    def forward(x: Any, *, axis: int | None = None, keepdims: bool = False) -> Reference:
        array = order_keys(np.asarray(x))
        find = np.argmax if greatest else np.argmin
        if axis is None:
            result = np.asarray(find(array), np.int64)
            return moved(result.reshape((1,) * array.ndim) if keepdims else result)
        return moved(np.asarray(find(array, axis=axis, keepdims=keepdims), np.int64))

    return forward


def _where(condition: Any, x1: Any, x2: Any) -> Reference:
    dtype = common_dtype(x1, x2)
    return moved(np.where(condition, np.asarray(x1).astype(dtype), np.asarray(x2).astype(dtype)))


def _nonzero(x: Any) -> tuple[Reference, ...]:
    truth = order_keys(np.asarray(x)) != 0
    return tuple(moved(i.astype(np.int64)) for i in np.nonzero(truth))


def _searchsorted(x1: Any, x2: Any, *, side: str = "left", sorter: Any = None) -> Reference:
    a, v = order_keys(np.asarray(x1)), order_keys(np.asarray(x2))
    order = None if sorter is None else np.asarray(sorter)
    if side == "right":
        return moved(np.asarray(np.searchsorted(a, v, "right", order), np.int64))
    return moved(np.asarray(np.searchsorted(a, v, "left", order), np.int64))


def stable_order(x: Array, axis: int, descending: bool) -> Array:
    """Indices of the stable order; NaN last in both directions, equal elements in input order."""
    keys = order_keys(x)
    if not descending:
        return np.asarray(np.argsort(keys, axis=axis, kind="stable"))
    if keys.dtype.kind == "f":
        return np.asarray(np.argsort(-keys, axis=axis, kind="stable"))
    ranks = np.unique(keys, return_inverse=True)[1].reshape(keys.shape)
    return np.asarray(np.argsort(-ranks, axis=axis, kind="stable"))


def _sort(x: Any, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Reference:
    array = np.asarray(x)
    if array.ndim == 0:
        return moved(array)
    order = stable_order(array, axis, descending)
    return moved(np.take_along_axis(array, order, axis))


def _argsort(x: Any, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Reference:
    array = np.asarray(x)
    if array.ndim == 0:
        return moved(np.zeros((), np.int64))
    return moved(stable_order(array, axis, descending).astype(np.int64))


def _take(x: Any, indices: Any, *, axis: int | None = None) -> Reference:
    array = np.asarray(x)
    return moved(np.take(array, np.asarray(indices), axis=0 if axis is None else axis))


def _take_along_axis(x: Any, indices: Any, *, axis: int = -1) -> Reference:
    array, index = np.asarray(x), np.asarray(indices)
    along = axis % array.ndim
    rest = np.broadcast_shapes(
        array.shape[:along] + array.shape[along + 1 :],
        index.shape[:along] + index.shape[along + 1 :],
    )
    full = (*rest[:along], array.shape[along], *rest[along:])
    shape = (*rest[:along], index.shape[along], *rest[along:])
    return moved(
        np.take_along_axis(np.broadcast_to(array, full), np.broadcast_to(index, shape), along)
    )


def _gather(x: Any, index: Any, *, axis: int = 0) -> Reference:
    """out[i][j] = x[index[i][j]][j] for axis 0; index may be smaller on the other axes."""
    array, positions = np.asarray(x), np.asarray(index)
    return moved(array[scatter_positions(array.shape, positions, axis)])


def scatter_positions(shape: tuple[int, ...], index: Array, axis: int) -> tuple[Array, ...]:
    """The coordinates that each element of `index` names."""
    along = axis % len(shape)
    grid: list[Array] = list(np.asarray(np.indices(index.shape)))
    grid[along] = np.where(index < 0, index + shape[along], index)
    return tuple(grid)


def _scatter(x: Any, index: Any, src: Any, *, axis: int = 0) -> Reference:
    array, positions = np.asarray(x), np.asarray(index)
    values = np.broadcast_to(np.asarray(src).astype(array.dtype), np.shape(src) or positions.shape)
    values = values[tuple(slice(n) for n in positions.shape)]
    result = array.copy()
    where = scatter_positions(array.shape, positions, axis)
    for k in np.ndindex(*positions.shape):
        result[tuple(w[k] for w in where)] = values[k]
    return moved(result)


def _index_add(x: Any, index: Any, source: Any, *, axis: int = 0, alpha: float = 1) -> Reference:
    """x with `source` slices added at `index`: class 4, one term more than slices that meet."""
    array, positions = np.asarray(x), np.asarray(index)
    along = axis % array.ndim
    moved_x = np.moveaxis(array, along, 0)
    slices = np.moveaxis(np.asarray(source).astype(array.dtype), along, 0)
    if format_of(array.dtype) is None:
        result = moved_x.copy()
        with np.errstate(all="ignore"):
            np.add.at(result, positions, (slices * array.dtype.type(alpha)).astype(array.dtype))
        return moved(np.moveaxis(result, 0, along))
    rows: list[list[Array]] = [[as_float64(r)] for r in moved_x]
    for k, i in enumerate(positions.tolist()):
        rows[i].append(as_float64(slices[k]) * alpha)
    hi, lo = np.zeros(moved_x.shape), np.zeros(moved_x.shape)
    magnitude, terms = np.zeros(moved_x.shape), np.ones(moved_x.shape)
    with np.errstate(all="ignore"):
        for i, parts in enumerate(rows):
            stack = np.stack(parts).reshape(len(parts), -1)
            sums = [exact_sum(column) for column in stack.T.tolist()]
            hi[i] = np.array([s[0] for s in sums]).reshape(hi[i].shape)
            lo[i] = np.array([s[1] for s in sums]).reshape(hi[i].shape)
            magnitude[i] = np.abs(stack).sum(axis=0).reshape(hi[i].shape)
            terms[i] = len(parts) + (alpha != 1)
    ref = Reference(hi, array.dtype, lo, 0.0, magnitude, terms=terms)
    return replace(
        ref,
        value=np.moveaxis(hi, 0, along),
        low=np.moveaxis(lo, 0, along),
        magnitude=np.moveaxis(magnitude, 0, along),
        terms=np.moveaxis(terms, 0, along),
    )


def _isin(x1: Any, x2: Any, *, invert: bool = False) -> Reference:
    a, b = order_keys(np.asarray(x1)), order_keys(np.asarray(x2))
    return moved(np.asarray(np.isin(a, b, invert=invert)))


def _unique(which: str) -> Callable[..., Any]:
    def forward(x: Any) -> Any:
        array = np.asarray(x)
        keys = order_keys(array)
        _, first, inverse, counts = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True, equal_nan=False
        )
        unique = moved(array.reshape(-1)[first].astype(array.dtype))
        parts = {
            "values": unique,
            "indices": moved(first.astype(np.int64)),
            "inverse": moved(inverse.reshape(array.shape).astype(np.int64)),
            "counts": moved(counts.astype(np.int64)),
        }
        return (
            unique
            if which == "values"
            else tuple(
                parts[name]
                for name in {
                    "all": ("values", "indices", "inverse", "counts"),
                    "counts": ("values", "counts"),
                    "inverse": ("values", "inverse"),
                }[which]
            )
        )

    return forward


def _register(
    name: str,
    forward: Callable[..., Any],
    tensors: int,
    samples: Samples | None,
    kinds: str = "bif",
    judge: JudgeOf = judges.exact,
    family: str = "exact",
    special: Samples | None = None,
    degenerate: Samples | None = None,
    namespace: str = "",
    offered: bool = True,
    **facts: Any,
) -> None:
    OPS[name] = OpReference(
        name,
        family,
        forward,
        judge,
        (tensors, tensors),
        kinds,
        ((-4.0, 4.0),) * tensors,
        samples=samples,
        special=special,
        degenerate=degenerate,
        namespace=namespace,
        offered=offered,
        **facts,
    )


_ORDERED = ("ordinary", "ties", "wide")
_FIRST = along.degenerate(empty=False)
for _name, _greatest in (("argmax", True), ("argmin", False)):
    _register(
        _name,
        _argextreme(_greatest),
        1,
        along.reduction(_ORDERED, forms=("none", *AXIS_FORMS), keepdims=(None, True, False)),
        "if",
        special=along.special_rows,
        degenerate=_FIRST,
    )
for _name, _forward in (("sort", _sort), ("argsort", _argsort)):
    _register(
        _name,
        _forward,
        1,
        along.sorting(_ORDERED, descending=(None, True, False), stable=(None, True, False)),
        special=along.special_rows,
        degenerate=along.degenerate(axis=-1, scalar=False),
    )
_register("where", _where, 3, at.where, degenerate=edges.where_degenerate, numbers=True)
_register(
    "nonzero",
    _nonzero,
    1,
    at.nonzero,
    special=edges.nonzero_special,
    degenerate=edges.nonzero_degenerate,
)
_register(
    "searchsorted",
    _searchsorted,
    2,
    at.searchsorted,
    "if",
    special=edges.searchsorted_special,
    degenerate=edges.searchsorted_degenerate,
)
_register(
    "take",
    _take,
    2,
    at.take,
    degenerate=edges.indexed(
        ((0,), (0,), None), ((1,), (), None), ((3, 0), (2,), 0), ((3, 0), (2, 2), -2),
        ((0, 3), (0,), 0), ((2, 3), (0, 4), -1), ((0, 3), (2,), 1), ((1, 1), (1, 1), 1),
    ),
    order=ordered_sums.TAKE,
)  # fmt: skip
_ALONG = edges.indexed(
    ((0,), (0,), 0), ((3,), (0,), 0), ((0, 3), (0, 3), 0), ((0, 3), (0, 3), 1),
    ((3, 0), (2, 0), 0), ((1, 1), (1, 1), -1), ((2, 0, 3), (2, 0, 3), -1),
)  # fmt: skip
_register(
    "take_along_axis",
    _take_along_axis,
    2,
    at.take_along_axis,
    degenerate=_ALONG,
    order=ordered_sums.TAKE_ALONG_AXIS,
)
_register("gather", _gather, 2, at.gather, degenerate=_ALONG, order=ordered_sums.GATHER)
_register(
    "scatter",
    _scatter,
    3,
    at.scatter,
    degenerate=edges.indexed(
        ((0,), (0,), (0,), 0), ((3,), (0,), (0,), 0), ((2, 0), (2, 0), (2, 0), 0),
        ((1,), (1,), (), 0), ((2, 3), (0, 3), (0, 3), 0), ((2, 3), (2, 0), (), -1),
        ((1, 1), (1, 1), (1, 1), -2),
    ), mixes="first",
)  # fmt: skip
_register(
    "index_add",
    _index_add,
    3,
    at.index_add,
    "if",
    judges.accumulation(),
    "accumulation",
    degenerate=edges.indexed(
        ((0,), (0,), (0,), 0), ((3, 0), (2,), (2, 0), 0), ((1,), (1,), (1,), 0),
        ((2, 3), (0,), (0, 3), 0), ((2, 3), (0,), (2, 0), -1), ((0, 3), (2,), (0, 2), 1),
    ), mixes="first",
    order=ordered_sums.INDEX_ADD,
)  # fmt: skip
_register("isin", _isin, 2, None, "if", offered=False)
for _which in ("all", "counts", "inverse", "values"):
    _register(f"unique_{_which}", _unique(_which), 1, None, offered=False)

for _name, _at in (
    ("take", 1), ("take_along_axis", 1), ("gather", 1), ("scatter", 1), ("index_add", 1),
    ("searchsorted", 2), ("where", 0),
):  # fmt: skip
    OPS[_name] = replace(OPS[_name], positions=(_at,))
