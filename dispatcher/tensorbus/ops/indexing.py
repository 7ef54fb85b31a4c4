"""``x[key]`` and ``x[key] = value``: slices as views, integer tensors and masks as NumPy does."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

import numpy as np
from tensorbus_backends import dtypes as dt

from .._fallback import together
from .._history import record, snapshot
from .._promotion import promote, result_of_scalar
from .._shown import shown
from .._spec import Shape, broadcast_shapes
from .._tensor import Tensor
from ._common import scalar_tensor
from ._gather_kernel import check_bounds, linear_index
from ._segment_kernel import put_segments
from ._slices import Item, _replace, _slice, slice_of, slices
from .conversion import asarray
from .creation import zeros
from .elementwise_comparison import where
from .inplace import adopt, check_writable, write_into
from .manipulation import (
    astype,
    broadcast_to,
    permute_dims,
    reshape,
)
from .selection import index
from .sorting import nonzero

__all__ = ["getitem", "setitem"]

# -- reading a key --------------------------------------------------------------------------------


@dataclass
class _Key:
    """What a key means.

    Attributes:
        items: The slice that is taken first; indexed dimensions are kept whole.
        axes: Dimensions of the slice that integer tensors index.
        tensors: Those tensors, int64.
        known: Whether a tensor's values are in range by construction.
        at: Where in the result their common dimensions stand.
    """

    items: tuple[Item, ...] = ()
    axes: list[int] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    known: list[bool] = field(default_factory=list)
    at: int = 0


_WHAT = "ints, slices, ..., None, integer tensors and bool masks"


def _unified(x: Tensor, key: Any) -> list[Any]:
    """Parts of a key, arrays and lists as tensors, with an ellipsis followed by its slices."""
    parts: list[Any] = []
    used = 0
    dots = None
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, list | np.ndarray):
            empty = isinstance(part, list) and not part
            part = asarray(part, dtype=dt.int64 if empty else None, device=x.device)
        if part is Ellipsis:
            if dots is not None:
                raise IndexError("an index may hold one ellipsis (...)")
            dots = len(parts)
        elif part is None:
            pass
        elif isinstance(part, Tensor):
            used += part.ndim if part.dtype.kind == "b" else 1
        elif isinstance(part, bool | np.bool_):
            raise IndexError(f"a bool is no index; indices are {_WHAT}")
        else:
            used += 1
        parts.append(part)
    if used > x.ndim:
        raise IndexError(
            f"{used} indices for a tensor with {x.ndim} dimension{'s' if x.ndim != 1 else ''}"
        )
    missing = [slice(None)] * (x.ndim - used)
    if dots is None:
        return parts + missing
    return parts[: dots + 1] + missing + parts[dots + 1 :]


def _read(x: Tensor, key: Any) -> _Key:
    items: list[Item] = []
    found = _Key()
    axis = made = 0
    groups: list[int] = []  # for every ``int`` or tensor: how many dimensions were made before it
    where: list[int] = []
    ended = False
    split = False
    for part in _unified(x, key):
        if part is None:
            items.append(None)
            made += 1
            ended = bool(groups)
        elif isinstance(part, slice):
            start, stop, step = _bounds(part, x.shape[axis])
            items.append((start, step, max(0, -(-(stop - start) // step))))
            axis += 1
            made += 1
            ended = bool(groups)
        elif isinstance(part, EllipsisType):
            ended = bool(groups)
        else:
            split = split or ended
            groups.append(made)
            if isinstance(part, Tensor) and part.dtype.kind == "b":
                axis += _read_mask(x, part, axis, items, found, where)
            elif isinstance(part, Tensor):
                if not part.dtype.is_integer:
                    raise IndexError(f"a {part.dtype.name} tensor is no index; indices are {_WHAT}")
                where.append(len(items))
                items.append((0, 1, x.shape[axis]))
                found.tensors.append(astype(part.detach(), dt.int64, copy=False))
                found.known.append(False)
                axis += 1
            else:
                items.append(_whole_number(part, x.shape[axis], axis))
                axis += 1
    found.items = tuple(items)
    found.axes = [w - sum(isinstance(i, int) for i in items[:w]) for w in where]
    found.at = 0 if split or not groups else groups[0]
    return found


def _bounds(part: slice, size: int) -> tuple[int, int, int]:
    try:
        start, stop, step = part.indices(size)
    except TypeError:
        raise IndexError(f"a slice is made of ints or None, not {shown(part)}") from None
    except ValueError:
        raise ValueError("a slice step must not be 0") from None
    return start, stop, step


def _whole_number(part: Any, size: int, axis: int) -> int:
    try:
        k = operator.index(part)
    except TypeError:
        raise IndexError(
            f"{shown(part)} ({type(part).__name__}) is no index; indices are {_WHAT}"
        ) from None
    if not -size <= k < size:
        raise IndexError(f"index {shown(k)} is out of range for axis {axis} with size {size}")
    return k % size


def _read_mask(
    x: Tensor, mask: Tensor, axis: int, items: list[Item], found: _Key, where: list[int]
) -> int:
    """Turn a mask into coordinates; returns how many dimensions it covers."""
    shape = _check_mask(x, mask, axis)
    if not mask.ndim:
        where.append(len(items))
        items.append(None)
        count = int(bool(mask.detach()))
        found.tensors.append(zeros((count,), dtype=dt.int64, device=x.device))
        found.known.append(True)
        return 0
    for n, places in zip(shape, nonzero(mask), strict=True):
        where.append(len(items))
        items.append((0, 1, n))
        found.tensors.append(places)
        found.known.append(True)
    return mask.ndim


def _check_mask(x: Tensor, mask: Tensor, axis: int) -> Shape:
    """The part of the shape that a mask covers."""
    if not together(mask.device, x.device):
        raise ValueError(
            f"the mask is on {mask.device}, the tensor on {x.device}; move one with to_device"
        )
    shape = x.shape[axis : axis + mask.ndim]
    if mask.shape != shape:
        raise IndexError(
            f"a mask of shape {mask.shape} does not match the dimensions {shape} from axis {axis}"
        )
    return shape


def _check(found: _Key, x: Tensor, view: Tensor) -> None:
    for axis, i, known in zip(found.axes, found.tensors, found.known, strict=True):
        if not together(i.device, x.device):
            raise ValueError(
                f"an index is on {i.device}, the tensor on {x.device}; move one with to_device"
            )
        if not known:
            check_bounds("indexing", i, view.shape[axis], axis)


# -- public ---------------------------------------------------------------------------------------


def getitem(x: Tensor, key: Any) -> Tensor:
    """``x[key]``: a view for ints, slices, ``...`` and None; else a copy of the elements named.

    Integer tensors broadcast against each other; a mask stands for the integer tensors that
    `nonzero` gives.  Their common dimensions stand where the first one stood, or in front if a
    slice, None or ``...`` (even one that stands for no dimension) separates them (an int beside a
    tensor counts as one), as in NumPy.

    Raises:
        IndexError: A key of another type, too many indices, or one out of range.
        ValueError: Integer tensors that do not broadcast, a tensor of another device, or a slice
            whose step is 0.
    """
    if type(key) is int and x.ndim:
        shape = x.shape
        whole = [(0, 1, n) for n in shape[1:]]
        return _slice.view(x, {"items": (_whole_number(key, shape[0], 0), *whole)})
    found = _read(x, key)
    view = slices(x, found.items)
    if not found.tensors:
        return view if view is not x else snapshot(x)
    _check(found, x, view)
    return index(view, found.tensors, found.axes, found.at)


def setitem(x: Tensor, key: Any, value: Any) -> None:
    """``x[key] = value``: change elements in place; `value` is broadcast.

    Where integer tensors name an element more than once, the last in C order stays.

    Args:
        x: Changed in place; see `inplace.check_writable` for what forbids it.
        key: As for `getitem`.
        value: Tensor or Python number; its dtype must promote to that of `x`.

    Raises:
        IndexError: As for `getitem`.
        ValueError: `value` cannot be broadcast to the elements named.
        TypeError: Its dtype does not fit.
        RuntimeError: `x` is a leaf that requires a gradient.
    """
    check_writable(x)
    given = _value(x, value)
    if isinstance(key, Tensor) and key.dtype.kind == "b" and given.ndim <= x.ndim - key.ndim:
        _set_where(x, key, given)
        return
    found = _read(x, key)
    bare = slice_of(x, found.items)
    if found.tensors:
        _check(found, x, bare)
        view = slices(x, found.items) if x._track is not None else bare
        new = _put(view, found, given)
        _write(x, found.items, bare, new)
        return
    _write(x, found.items, bare, _fit(given, bare.shape))


def _set_where(x: Tensor, mask: Tensor, value: Tensor) -> None:
    """``x[mask] = value`` for a value that does not depend on the element: no search is needed."""
    _check_mask(x, mask, 0)
    wide = reshape(mask, (*mask.shape, *(1,) * (x.ndim - mask.ndim)))
    rest = _fit(value, x.shape[mask.ndim :])
    whole: tuple[Item, ...] = tuple((0, 1, n) for n in x.shape)
    _write(x, whole, x, where(wide, rest, x))


def _write(x: Tensor, items: tuple[Item, ...], view: Tensor, value: Tensor) -> None:
    """Put `value` into the slice `view` of `x`, with history where there is any."""
    if x._track is None and value._track is None:
        write_into(view, value)
        adopt(x, x)
        return
    # The rule of replace_slice reads no values, so the old ones need not be kept.
    out = Tensor(x._buffer, x._spec, x._offset)
    record(_replace, [snapshot(x), value], {"items": items}, (out,))
    write_into(view, value.detach())
    adopt(x, out)


def _value(x: Tensor, value: Any) -> Tensor:
    if isinstance(value, bool | int | float):
        if result_of_scalar(x.dtype, value) is not x.dtype:
            raise TypeError(f"{shown(value)} cannot be stored in a {x.dtype.name} tensor")
        return scalar_tensor(x.device, value, x.dtype)
    given: Tensor
    if isinstance(value, Tensor):
        given = value
    else:
        given = asarray(value, device=x.device)
    if not together(given.device, x.device):
        raise ValueError(
            f"the value is on {given.device}, the tensor on {x.device}; move it with "
            f"value.to_device({x.device.name!r})"
        )
    if given.dtype is not x.dtype:
        if promote(x.dtype, given.dtype) is not x.dtype:
            raise TypeError(
                f"a {given.dtype.name} value does not fit a {x.dtype.name} tensor; convert it "
                "with astype"
            )
        given = astype(given, x.dtype)
    return given


def _fit(value: Tensor, shape: Shape) -> Tensor:
    """`value` broadcast to the elements that are set; leading dimensions of size 1 may go."""
    spare = value.ndim - len(shape)
    if spare > 0 and all(n == 1 for n in value.shape[:spare]):
        value = reshape(value, value.shape[spare:])
    try:
        fits = broadcast_shapes(value.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"a value of shape {value.shape} cannot be broadcast to {shape}")
    return broadcast_to(value, shape)


def _put(view: Tensor, found: _Key, value: Tensor) -> Tensor:
    """`view` with `value` where the integer tensors point."""
    axes = found.axes
    common = broadcast_shapes(*(t.shape for t in found.tensors))
    rest = [k for k in range(view.ndim) if k not in axes]
    sizes = [view.shape[a] for a in axes]
    kept = [view.shape[k] for k in rest]
    at, count, inner = found.at, math.prod(common), math.prod(kept)
    value = _fit(value, (*kept[:at], *common, *kept[at:]))
    front = tuple(range(at, at + len(common)))
    order = (*front, *(k for k in range(value.ndim) if k not in front))
    source = reshape(permute_dims(value, order), (1, count, inner))
    where = reshape(linear_index(found.tensors, common, sizes), (1, count))
    came = (*axes, *rest)
    target = reshape(permute_dims(view, came), (1, math.prod(sizes), inner))
    out: Tensor = reshape(put_segments(target, where, source), (*sizes, *kept))
    return permute_dims(out, tuple(came.index(k) for k in range(view.ndim)))
