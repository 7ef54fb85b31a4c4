"""take, gather, scatter and index_add, with gradients that need no atomics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

from .._autograd import Context
from .._op import Op, apply, function
from .._plan import Value
from .._planner import Planner
from .._promotion import promote
from .._spec import Shape, Spec, broadcast_shapes
from .._tensor import Tensor
from ._common import normalize_axis, tensor_of
from ._gather_kernel import broadcast_index, check_bounds, gathered, linear_index
from ._segment_kernel import add_segments, put_segments, zeros_of
from .elementwise_arithmetic import minimum
from .manipulation import astype, broadcast_to, permute_dims, reshape

__all__ = ["gather", "index_add", "scatter", "take", "take_along_axis"]


class _Index(Op):
    """``x[..., i_1, ..., i_k, ...]`` with integer tensors, as NumPy defines it.

    Operands: x, then int64 tensors, checked by the caller.  Options: ``axes`` of x
    that they index, ``at``: where in the result their common dimensions stand.
    """

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        x, *indices = specs
        axes, at = options["axes"], options["at"]
        common = broadcast_shapes(*(i.shape for i in indices))
        rest = tuple(n for k, n in enumerate(x.shape) if k not in axes)
        return [(x.dtype, (*rest[:at], *common, *rest[at:]))]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        x, *indices = values
        axes, at = options["axes"], options["at"]
        ((_, shape),) = self.infer([v.spec for v in values], options)
        common = broadcast_shapes(*(i.shape for i in indices))
        kept = [k for k in range(len(x.shape)) if k not in axes]
        steps = [x.strides[k] for k in kept]
        trailing = len(kept) - at
        return gathered(
            p,
            x,
            shape,
            (*steps[:at], *(0,) * len(common), *steps[at:]),
            [broadcast_index(i, common, trailing) for i in indices],
            [x.shape[a] for a in axes],
            [x.strides[a] for a in axes],
        )


def _index_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    indices = [c.input(k) for k in range(1, c.count())]
    spec = c.input_spec(0)
    axes, at = c.options["axes"], c.options["at"]
    common = broadcast_shapes(*(i.shape for i in indices))
    count = math.prod(common)
    sizes = [spec.shape[a] for a in axes]
    rest = [k for k in range(len(spec.shape)) if k not in axes]
    inner = math.prod(spec.shape[k] for k in rest)
    front = tuple(range(at, at + len(common)))
    order = (*front, *(k for k in range(g.ndim) if k not in front))
    source = reshape(permute_dims(g, order), (1, count, inner))
    where = reshape(linear_index(indices, common, sizes), (1, count))
    places = math.prod(sizes)
    total = add_segments(zeros_of(spec, (1, places, inner)), where, source)
    moved = reshape(total, (*sizes, *(spec.shape[k] for k in rest)))
    came = [*axes, *rest]
    return [permute_dims(moved, tuple(came.index(k) for k in range(len(came))))] + [None] * len(
        indices
    )


def _index_jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    t = tangents[0]
    if t is None:
        return None
    return index(t, [c.input(k) for k in range(1, c.count())], c.options["axes"], c.options["at"])


_index = _Index("index", vjp=_index_vjp, jvp=_index_jvp)


def index(x: Tensor, indices: Sequence[Tensor], axes: Sequence[int], at: int) -> Tensor:
    """Integer indexing with int64 tensors that the caller has checked."""
    options = {"axes": tuple(axes), "at": at}
    return apply(_index, [x, *indices], options)  # type: ignore[no-any-return]


class _Gather(Op):
    """``out[i, j] = x[index[i, j], j]`` (axis 0); the caller checks the index."""

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(specs[0].dtype, specs[1].shape)]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        x, i = values
        axis = options["axis"]
        rest = tuple(0 if k == axis else s for k, s in enumerate(x.strides))
        return gathered(p, x, i.shape, rest, [i.read()], [x.shape[axis]], [x.strides[axis]])


def _gather_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    spec, axis = c.input_spec(0), c.options["axis"]
    i = c.input(1)
    region = tuple(spec.shape[k] if k == axis else n for k, n in enumerate(i.shape))
    base = zeros_of(spec, region)
    part = _in_rows(add_segments, base, i, g, axis)
    return [_embed(part, spec.shape), None]


def _gather_jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    t = tangents[0]
    return None if t is None else apply(_gather, [t, c.input(1)], c.options)


_gather = _Gather("gather", vjp=_gather_vjp, jvp=_gather_jvp)


def _embed(part: Tensor, shape: Shape) -> Tensor:
    """`part` at the origin of zeros of `shape`."""
    from .indexing import place

    if part.shape == shape:
        return part
    return place(part, shape, tuple((0, 1, n) for n in part.shape))


def _rows_last(x: Tensor, axis: int) -> Tensor:
    """Shape (P, n, 1): rows along `axis`."""
    order = (*(k for k in range(x.ndim) if k != axis), axis)
    n = x.shape[axis]
    count = math.prod(x.shape[k] for k in order[:-1])
    return reshape(permute_dims(x, order), (count, n, 1))


def _in_rows(call: Any, target: Tensor, i: Tensor, source: Tensor, axis: int) -> Tensor:
    """Apply a segment function row by row along `axis`; shapes agree on the other axes."""
    rows = _rows_last(i, axis)
    flat = reshape(rows, rows.shape[:2])
    where = linear_index([flat], flat.shape, [target.shape[axis]])
    out = call(_rows_last(target, axis), where, _rows_last(source, axis))
    others = [k for k in range(target.ndim) if k != axis]
    moved = reshape(out, (*(target.shape[k] for k in others), target.shape[axis]))
    came = [*others, axis]
    return permute_dims(moved, tuple(came.index(k) for k in range(target.ndim)))


class _Rows(Op):
    """``out[p, b, r] = x[p, index[p, b], r]``: what `index_add` needs for its gradient."""

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(specs[0].dtype, (*specs[1].shape, specs[0].shape[2]))]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        x, i = values
        ((_, shape),) = self.infer([x.spec, i.spec], options)
        rows = i.read(shape=(*i.shape, 1), strides=(*i.strides, 1))
        rest = (x.strides[0], 0, x.strides[2])
        return gathered(p, x, shape, rest, [rows], [x.shape[1]], [x.strides[1]])


def _rows_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    spec = c.input_spec(0)
    return [add_segments(zeros_of(spec, spec.shape), c.input(1), g), None]


def _rows_jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    t = tangents[0]
    return None if t is None else rows_at(t, c.input(1))


_rows = _Rows("take_rows", vjp=_rows_vjp, jvp=_rows_jvp)


def rows_at(x: Tensor, i: Tensor) -> Tensor:
    """Rows of x (P, N, R) at index (P, B): shape (P, B, R)."""
    return apply(_rows, [x, i])  # type: ignore[no-any-return]


# -- public ---------------------------------------------------------------------------------------


def index_tensor(name: str, i: Tensor, argument: str) -> Tensor:
    """An integer tensor as int64; TypeError otherwise."""
    tensor_of(name, i, argument)
    if not i.dtype.is_integer:
        raise TypeError(f"{name}: {argument} is {i.dtype.name}, it must be an integer tensor")
    if i.dtype is dt.uint64:
        # What int64 does not hold would wrap to a valid negative index.
        i = minimum(i, dt.int64.max)
    return astype(i.detach(), dt.int64, copy=False)


def _same_dtype(name: str, x: Tensor, source: Tensor, argument: str) -> Tensor:
    if source.dtype is x.dtype:
        return source
    if promote(x.dtype, source.dtype) is not x.dtype:
        raise TypeError(
            f"{name}: {argument} is {source.dtype.name} and does not fit {x.dtype.name}; "
            "convert it with astype"
        )
    return astype(source, x.dtype)


@function("indexing", differentiable=True, op="index")
def take(x: Tensor, indices: Tensor, /, *, axis: int | None = None) -> Tensor:
    """Elements of `x` at `indices` along an axis.

    Args:
        x: Any tensor.
        indices: Integers in [-n, n), n being the size of the axis; any shape.
        axis: Needed unless `x` has one dimension.

    Returns:
        Shape of `x` with the axis replaced by the shape of `indices`.  The gradient adds what
        equal indices received in the order of their position, as `index_add` does.

    Raises:
        IndexError: An index or the axis is out of range.
        TypeError: `indices` are not integers.
        ValueError: `axis` is None although `x` has not exactly one dimension.
    """
    tensor_of("take", x)
    if axis is None:
        if x.ndim != 1:
            raise ValueError(f"take: axis is needed, since x has {x.ndim} dimensions")
        axis = 0
    along = normalize_axis("take", axis, x.ndim)
    if not x.ndim:
        raise IndexError("take: a 0-dimensional tensor has no axis; use reshape(x, (1,)) first")
    return taken("take", x, indices, along)


def taken(name: str, x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """What `take` does along an axis that exists, for a function called `name`."""
    i = index_tensor(name, indices, "indices")
    check_bounds(name, i, x.shape[axis], axis, "indices")
    return index(x, [i], (axis,), axis)


@function("indexing", differentiable=True, op="gather")
def take_along_axis(x: Tensor, indices: Tensor, /, *, axis: int = -1) -> Tensor:
    """Elements of `x` at `indices`, matched along the other axes, as `argsort` gives them.

    Args:
        x: Any tensor with at least one dimension.
        indices: Integers in [-n, n), as many dimensions as `x`; the other axes broadcast.
        axis: Along which.

    Raises:
        IndexError: An index or the axis is out of range.
        TypeError: `indices` are not integers.
        ValueError: The shapes do not fit.
    """
    tensor_of("take_along_axis", x)
    i = index_tensor("take_along_axis", indices, "indices")
    along = _matched("take_along_axis", x, i, "indices", axis)

    def others(shape: Shape) -> Shape:
        return tuple(1 if k == along else n for k, n in enumerate(shape))

    common = broadcast_shapes(others(x.shape), others(i.shape))
    wide = (*common[:along], x.shape[along], *common[along + 1 :])
    narrow = (*common[:along], i.shape[along], *common[along + 1 :])
    check_bounds("take_along_axis", i, x.shape[along], along, "indices")
    operands = [broadcast_to(x, wide), broadcast_to(i, narrow)]
    return apply(_gather, operands, {"axis": along})  # type: ignore[no-any-return]


def _matched(name: str, x: Tensor, i: Tensor, argument: str, axis: int) -> int:
    along = normalize_axis(name, axis, x.ndim)
    if not x.ndim:
        raise IndexError(f"{name}: a 0-dimensional tensor has no axis; reshape it to (1,) first")
    if i.ndim != x.ndim:
        raise ValueError(f"{name}: x has {x.ndim} dimensions, {argument} {i.ndim}: they must agree")
    return along


def _inside(name: str, x: Tensor, i: Tensor, along: int) -> None:
    if any(n > x.shape[k] for k, n in enumerate(i.shape) if k != along):
        raise ValueError(
            f"{name}: index has shape {i.shape}, which exceeds x's {x.shape} on another axis "
            f"than {along}"
        )


@function("indexing", differentiable=True)
def gather(x: Tensor, index: Tensor, /, *, axis: int) -> Tensor:
    """``out[i][j] = x[index[i][j]][j]`` for axis 0 of two, and so on (PyTorch's gather).

    Args:
        x: Any tensor with at least one dimension.
        index: Integers in [-n, n); as many dimensions as `x`, on the other axes at most as large.
        axis: Along which `index` counts.

    Returns:
        Shape of `index`.  The gradient adds what equal places received in the order of position
        along the axis.

    Raises:
        IndexError: An index or the axis is out of range.
        TypeError: `index` is not an integer tensor.
        ValueError: The shapes do not fit.
    """
    tensor_of("gather", x)
    i = index_tensor("gather", index, "index")
    along = _matched("gather", x, i, "index", axis)
    _inside("gather", x, i, along)
    check_bounds("gather", i, x.shape[along], along)
    return apply(_gather, [x, i], {"axis": along})  # type: ignore[no-any-return]


@function("indexing", differentiable=True)
def scatter(x: Tensor, index: Tensor, src: Tensor, /, *, axis: int) -> Tensor:
    """A copy of `x` with ``out[index[i][j]][j] = src[i][j]`` for axis 0 of two, and so on.

    Where several elements name one place, the last of them in C order of `index` stays, on every
    device.  Nothing is scattered: see `_segment_kernel` for how each place finds its element.

    Args:
        x: Any tensor with at least one dimension.
        index: Integers in [-n, n); as many dimensions as `x`, on the other axes at most as large.
        src: Values; at least as large as `index` on every axis, or 0-dimensional.
        axis: Along which `index` counts.

    Raises:
        IndexError: An index or the axis is out of range.
        TypeError: `index` is not an integer tensor, or `src` does not fit the dtype of `x`.
        ValueError: The shapes do not fit.
    """
    from .indexing import replace, slices

    tensor_of("scatter", x)
    i = index_tensor("scatter", index, "index")
    source = _same_dtype("scatter", x, tensor_of("scatter", src, "src"), "src")
    along = _matched("scatter", x, i, "index", axis)
    _inside("scatter", x, i, along)
    if not source.ndim:
        source = broadcast_to(source, i.shape)
    if source.ndim != i.ndim or any(m < n for m, n in zip(source.shape, i.shape, strict=True)):
        raise ValueError(
            f"scatter: src has shape {source.shape}, it must be at least index's {i.shape}"
        )
    check_bounds("scatter", i, x.shape[along], along)
    source = slices(source, tuple((0, 1, n) for n in i.shape))
    region = tuple(
        (0, 1, n if k == along else m)
        for k, (n, m) in enumerate(zip(x.shape, i.shape, strict=True))
    )
    part = _in_rows(put_segments, slices(x, region), i, source, along)
    return part if part.shape == x.shape else replace(x, part, region)


@function("indexing", differentiable=True)
def index_add(x: Tensor, index: Tensor, source: Tensor, /, *, axis: int) -> Tensor:
    """A copy of `x` with ``source[b]`` added to ``out[index[b]]`` along an axis.

    The order is fixed: for each target, beginning with x's value, sources are added one after the
    other in the order of their position; float16 and bfloat16 are added in float32 and rounded
    once.  No atomics: a stable argsort of the index, a binary search for each target's segment,
    and one map that walks the segments.

    Args:
        x: Numeric, at least one dimension.
        index: Integers in [-n, n), one dimension, n being the size of the axis.
        source: Shape of `x` but for the axis, which has the size of `index`.
        axis: Along which to add.

    Raises:
        IndexError: An index or the axis is out of range.
        TypeError: Dtypes: `index` not integer, `x` bool, or `source` does not fit `x`.
        ValueError: The shapes do not fit.
    """
    tensor_of("index_add", x)
    i = index_tensor("index_add", index, "index")
    addend = _same_dtype("index_add", x, tensor_of("index_add", source, "source"), "source")
    if x.dtype.kind == "b":
        raise TypeError("index_add: x is bool; convert it to an integer dtype with astype")
    along = normalize_axis("index_add", axis, x.ndim)
    if not x.ndim:
        raise IndexError("index_add: a 0-dimensional tensor has no axis")
    if i.ndim != 1:
        raise ValueError(f"index_add: index has {i.ndim} dimensions, it must have 1")
    expected = (*x.shape[:along], i.shape[0], *x.shape[along + 1 :])
    if addend.shape != expected:
        raise ValueError(f"index_add: source has shape {addend.shape}, it must be {expected}")
    check_bounds("index_add", i, x.shape[along], along)
    others = [k for k in range(x.ndim) if k != along]
    order = (along, *others)
    inner = math.prod(x.shape[k] for k in others)
    n, count = x.shape[along], i.shape[0]
    out = add_segments(
        reshape(permute_dims(x, order), (1, n, inner)),
        reshape(linear_index([i], i.shape, [n]), (1, count)),
        reshape(permute_dims(addend, order), (1, count, inner)),
    )
    moved = reshape(out, (n, *(x.shape[k] for k in others)))
    return permute_dims(moved, tuple(order.index(k) for k in range(x.ndim)))
