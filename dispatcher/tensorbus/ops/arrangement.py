"""Joining, splitting, repeating and moving: views where there is one, else one copy."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from tensorbus_backends.dtypes import DType

from .._autograd import Context
from .._op import Op, apply, function
from .._plan import Value
from .._planner import Planner, same_device
from .._promotion import promote
from .._spec import Shape, Spec, broadcast_shapes
from .._tensor import Tensor
from ._common import normalize_axes, normalize_axis, tensor_of
from ._moves import write
from .indexing import slices
from .manipulation import astype, broadcast_to, permute_dims, reshape

__all__ = [
    "broadcast_arrays",
    "concat",
    "expand_dims",
    "flip",
    "moveaxis",
    "repeat",
    "roll",
    "squeeze",
    "stack",
    "tile",
    "unstack",
]


class _Concat(Op):
    """Each operand is copied to its part of the result."""

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        axis, first = options["axis"], specs[0]
        total = sum(s.shape[axis] for s in specs)
        return [(first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :]))]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        axis = options["axis"]
        ((dtype, shape),) = self.infer([v.spec for v in values], options)
        out = p.new(dtype, shape)
        step = out.strides[axis]
        start = 0
        for v in values:
            write(p, v, p.view(out, v.shape, out.strides, start * step))
            start += v.shape[axis]
        return out


def _parts(shapes: Sequence[Shape], axis: int) -> list[tuple[tuple[int, int, int], ...]]:
    """The slice of the result that each operand fills."""
    result = []
    start = 0
    for shape in shapes:
        result.append(tuple((start if k == axis else 0, 1, n) for k, n in enumerate(shape)))
        start += shape[axis]
    return result


def _concat_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    shapes = [c.input_spec(k).shape for k in range(c.count())]
    items = _parts(shapes, c.options["axis"])
    return [slices(g, i) if need else None for i, need in zip(items, c.needs, strict=True)]


def _concat_jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    from ._segment_kernel import zeros_of

    filled = [
        t if t is not None else zeros_of(c.input_spec(k), c.input_spec(k).shape)
        for k, t in enumerate(tangents)
    ]
    return apply(_concat, filled, c.options)  # type: ignore[no-any-return]


_concat = _Concat("concat", vjp=_concat_vjp, jvp=_concat_jvp)


def _common_dtype(name: str, arrays: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in their common dtype."""
    if not isinstance(arrays, Sequence) or isinstance(arrays, str | bytes):
        raise TypeError(f"{name} needs a list or tuple of tensors, not {type(arrays).__name__}")
    for x in arrays:  # before there is a list of what may be a range of any length
        tensor_of(name, x)
    given = list(arrays)
    if not given:
        raise ValueError(f"{name} needs a non-empty list or tuple of tensors")
    dtype = given[0].dtype
    for x in given[1:]:
        dtype = promote(dtype, x.dtype)
    return [astype(x, dtype, copy=False) for x in given]


@function("manipulation", differentiable=True)
def concat(arrays: Sequence[Tensor], /, *, axis: int | None = 0) -> Tensor:
    """Join tensors along an existing axis.

    Args:
        arrays: Tensors whose shapes agree but for `axis`; their dtypes are promoted.
        axis: Along which; None flattens them first.

    Raises:
        ValueError: No tensors, or the shapes do not fit.
        IndexError: `axis` is out of range.
    """
    given = _common_dtype("concat", arrays)
    if axis is None:
        given, axis = [reshape(x, (x.size,)) for x in given], 0
    first = given[0]
    if not first.ndim:
        raise ValueError("concat: 0-dimensional tensors cannot be joined; use stack")
    along = normalize_axis("concat", axis, first.ndim)
    for x in given[1:]:
        if x.ndim != first.ndim or any(
            n != m for k, (n, m) in enumerate(zip(x.shape, first.shape, strict=True)) if k != along
        ):
            raise ValueError(
                f"concat: shapes {first.shape} and {x.shape} must agree but for axis {along}"
            )
    return apply(_concat, given, {"axis": along})  # type: ignore[no-any-return]


@function("manipulation", differentiable=True, op="concat")
def stack(arrays: Sequence[Tensor], /, *, axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis."""
    given = _common_dtype("stack", arrays)
    for x in given[1:]:
        if x.shape != given[0].shape:
            raise ValueError(f"stack: shapes {given[0].shape} and {x.shape} must be equal")
    along = normalize_axis("stack", axis, given[0].ndim + 1)
    return concat([expand_dims(x, axis=along) for x in given], axis=along)


@function("manipulation", differentiable=True, op="slice")
def unstack(x: Tensor, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices along an axis, without it: views."""
    tensor_of("unstack", x)
    if not x.ndim:
        raise ValueError("unstack needs at least one dimension")
    along = normalize_axis("unstack", axis, x.ndim)
    whole = [(0, 1, n) for n in x.shape]
    return tuple(slices(x, (*whole[:along], k, *whole[along + 1 :])) for k in range(x.shape[along]))


@function("manipulation", differentiable=True, op="broadcast_to")
def broadcast_arrays(*arrays: Tensor) -> list[Tensor]:
    """The tensors broadcast against each other: views."""
    for x in arrays:
        tensor_of("broadcast_arrays", x)
    shape = broadcast_shapes(*(x.shape for x in arrays))
    return [broadcast_to(x, shape) for x in arrays]


@function("manipulation", differentiable=True, op="reshape")
def expand_dims(x: Tensor, /, *, axis: int | Sequence[int] = 0) -> Tensor:
    """A view with new dimensions of size 1.

    Args:
        x: Any tensor.
        axis: Where they stand in the result.

    Raises:
        IndexError: An axis is out of range.
        ValueError: The same axis twice.
    """
    tensor_of("expand_dims", x)
    count = len(axis) if isinstance(axis, Sequence) else 1
    axes = normalize_axes("expand_dims", axis, x.ndim + count)
    sizes = iter(x.shape)
    return reshape(x, tuple(1 if k in axes else next(sizes) for k in range(x.ndim + count)))


@function("manipulation", differentiable=True, op="reshape")
def squeeze(x: Tensor, /, axis: int | Sequence[int]) -> Tensor:
    """A view without the named dimensions, which have size 1.

    Raises:
        IndexError: An axis is out of range.
        ValueError: One has another size, or is named twice.
    """
    tensor_of("squeeze", x)
    axes = normalize_axes("squeeze", axis, x.ndim)
    for k in axes:
        if x.shape[k] != 1:
            raise ValueError(f"squeeze: axis {k} has size {x.shape[k]}, not 1")
    return reshape(x, tuple(n for k, n in enumerate(x.shape) if k not in axes))


@function("manipulation", differentiable=True, op="slice")
def flip(x: Tensor, /, *, axis: int | Sequence[int] | None = None) -> Tensor:
    """Elements in reverse order along axes (all by default): a view."""
    tensor_of("flip", x)
    axes = normalize_axes("flip", axis, x.ndim)
    return slices(
        x,
        tuple((n - 1, -1, n) if k in axes and n > 1 else (0, 1, n) for k, n in enumerate(x.shape)),
    )


@function("manipulation", differentiable=True, op="permute_dims")
def moveaxis(x: Tensor, source: int | Sequence[int], destination: int | Sequence[int], /) -> Tensor:
    """Move axes to other places, the others keep their order: a view.

    Raises:
        IndexError: An axis is out of range.
        ValueError: The numbers of axes differ, or one is named twice.
    """
    tensor_of("moveaxis", x)
    given = [list(a) if isinstance(a, Sequence) else [a] for a in (source, destination)]
    old, new = ([normalize_axis("moveaxis", a, x.ndim) for a in axes] for axes in given)
    if len(old) != len(new) or len({*old}) != len(old) or len({*new}) != len(new):
        raise ValueError(
            f"moveaxis: source {source} and destination {destination} must name equally many "
            "axes, none twice"
        )
    order = [k for k in range(x.ndim) if k not in old]
    for to, k in sorted(zip(new, old, strict=True)):
        order.insert(to, k)
    return permute_dims(x, tuple(order))


@function("manipulation", differentiable=True, op="concat")
def roll(
    x: Tensor, /, shift: int | Sequence[int], *, axis: int | Sequence[int] | None = None
) -> Tensor:
    """Move elements along axes; what leaves at one end enters at the other.

    Args:
        x: Any tensor.
        shift: Places to move, one for each axis, or one for all.
        axis: None rolls the flattened tensor.

    Raises:
        IndexError: An axis is out of range.
        ValueError: `shift` and `axis` have different lengths.
    """
    tensor_of("roll", x)
    if axis is None:
        return reshape(roll(reshape(x, (x.size,)), shift, axis=0), x.shape)
    axes = list(axis) if isinstance(axis, Sequence) else [axis]
    shifts = list(shift) if isinstance(shift, Sequence) else [shift] * len(axes)
    axes = [normalize_axis("roll", a, x.ndim) for a in axes]
    if len(axes) == 1:
        axes = axes * len(shifts)
    if len(axes) != len(shifts):
        raise ValueError(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    out = x
    for along, by in zip(axes, shifts, strict=True):
        n = x.shape[along]
        start = operator.index(by) % n if n else 0
        if start:
            whole = [(0, 1, m) for m in x.shape]

            def part(first: int, count: int, t: Tensor, k: int, w: Any) -> Tensor:
                return slices(t, (*w[:k], (first, 1, count), *w[k + 1 :]))

            out = concat(
                [
                    part(n - start, start, out, along, whole),
                    part(0, n - start, out, along, whole),
                ],
                axis=along,
            )
    return out if out is not x else astype(x, x.dtype, copy=True)


@function("manipulation", differentiable=True, op="broadcast_to")
def tile(x: Tensor, repetitions: Sequence[int], /) -> Tensor:
    """Repeat a tensor as a whole along each axis.

    Args:
        x: Any tensor.
        repetitions: Numbers of copies; aligned with the last axes, missing ones are 1.
    """
    tensor_of("tile", x)
    times = [repetitions] if isinstance(repetitions, int) else list(repetitions)
    if any(operator.index(n) < 0 for n in times):
        raise ValueError(f"tile: repetitions {tuple(times)} must not be negative")
    rank = max(len(times), x.ndim)
    times = [1] * (rank - len(times)) + times
    shape = (1,) * (rank - x.ndim) + x.shape
    apart = tuple(n for m in shape for n in (1, m))
    wide = tuple(n for r, m in zip(times, shape, strict=True) for n in (r, m))
    out = broadcast_to(reshape(x, apart), wide)
    final = tuple(r * m for r, m in zip(times, shape, strict=True))
    return reshape(out, final, copy=True)


@function("manipulation", differentiable=True, op="broadcast_to")
def repeat(x: Tensor, repeats: int | Tensor, /, *, axis: int | None = None) -> Tensor:
    """Repeat each element, one after the other.

    Args:
        x: Any tensor.
        repeats: How often: one number for all, or integers of shape (n,) for an axis of size n.
        axis: None repeats the elements of the flattened tensor.

    Raises:
        IndexError: `axis` is out of range.
        TypeError: `repeats` are not integers.
        ValueError: `repeats` are negative or do not fit the axis.
    """
    tensor_of("repeat", x)
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    along = normalize_axis("repeat", axis, x.ndim)
    n = x.shape[along]
    if isinstance(repeats, Tensor):
        return _repeat_each(x, repeats, along)
    times = operator.index(repeats)
    if times < 0:
        raise ValueError(f"repeat: repeats must not be negative, not {times}")
    shape = (*x.shape[: along + 1], times, *x.shape[along + 1 :])
    out = broadcast_to(expand_dims(x, axis=along + 1), shape)
    final = (*x.shape[:along], n * times, *x.shape[along + 1 :])
    return reshape(out, final, copy=True)


def _repeat_each(x: Tensor, repeats: Tensor, axis: int) -> Tensor:
    """The result's size depends on values, so the counts come to the host."""
    from .conversion import asarray
    from .selection import index

    same_device("repeat", [x._spec, repeats._spec])
    n = x.shape[axis]
    if not repeats.dtype.is_integer:
        raise TypeError(f"repeat: repeats are {repeats.dtype.name}, they must be integers")
    counts = repeats.numpy()
    if counts.ndim > 1 or (counts.size not in (1, n)):
        raise ValueError(f"repeat: repeats of shape {counts.shape} do not fit an axis of size {n}")
    if (counts < 0).any():
        raise ValueError("repeat: repeats must not be negative")
    places = np.repeat(np.arange(n), np.broadcast_to(counts.reshape(-1), (n,)))
    return index(x, [asarray(places, device=x.device)], (axis,), axis)
