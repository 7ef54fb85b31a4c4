"""Specs: what the planner needs to know of a tensor, interned so that look-ups are cheap."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tensorbus_backends.dtypes import DType
from tensorbus_backends.kernels import DIMS

from ._recent import Recent
from ._sizes import Size

if TYPE_CHECKING:
    from ._devices import Device

__all__ = ["Spec", "broadcast_shapes", "broadcast_strides", "collapse", "contiguous_strides"]

Shape = tuple[int, ...]


class Spec:
    """Device, dtype, shape and strides of a tensor; equal specs that live are the same object.

    Attributes:
        strides: In elements; dimensions of size 1 and empty tensors have canonical strides.
        contiguous: Elements lie in C order without gaps.
        views: What views of it are, by how they were asked for: spec and offset in elements.
    """

    __slots__ = (
        "__weakref__",
        "contiguous",
        "device",
        "dtype",
        "nbytes",
        "shape",
        "size",
        "strides",
        "views",
    )
    device: Device
    dtype: DType
    shape: Shape
    strides: Shape
    size: int
    nbytes: int
    contiguous: bool
    views: dict[Any, tuple[Spec, int]]

    def keep_view(self, key: object, spec: Spec, offset: int) -> None:
        """Remember a view; a spec that has many forgets them."""
        if len(self.views) >= _KEPT_VIEWS:
            self.views.clear()
        self.views[key] = spec, offset

    @staticmethod
    def of(device: Device, dtype: DType, shape: Shape, strides: Shape | None = None) -> Spec:
        """The spec with these parts; without `strides` the C-contiguous one."""
        key = (device, dtype, shape, strides)
        try:
            found = _lately.get(key)
        except TypeError:
            if not any(isinstance(n, Size) for n in (*shape, *(strides or ()))):
                raise
            return Spec.build(device, dtype, *_canonical(shape, strides))
        if found is not None:
            return found
        given = _canonical(shape, strides)
        return _lately.keep(key, _intern(device, dtype, *given))

    @staticmethod
    def build(device: Device, dtype: DType, shape: Shape, strides: Shape, contiguous: bool) -> Spec:
        """Always a new object: one to be interned, or one of open sizes (see `_sizes`)."""
        made = Spec()
        made.device, made.dtype, made.shape, made.strides = device, dtype, shape, strides
        made.size = math.prod(shape)
        made.nbytes = made.size * dtype.itemsize
        made.contiguous = contiguous
        made.views = {}
        return made

    def __repr__(self) -> str:
        return f"{self.dtype}{list(self.shape)} on {self.device}"


_KEPT_VIEWS = 64


class _Reference(weakref.ref[Spec]):
    """Of a spec, with the key that it is found by."""

    __slots__ = ("key",)
    key: tuple[object, ...]


_specs: dict[tuple[object, ...], _Reference] = {}
_lately: Recent[Any, Spec] = Recent(1 << 9)
"""Keeps the last ones alive, so that views made again and again do not make their specs again."""

_interning = threading.Lock()  # two threads that miss the same spec must not make two


def _forget(reference: weakref.ref[Spec]) -> None:
    assert isinstance(reference, _Reference)
    if _specs.get(reference.key) is reference:
        _specs.pop(reference.key, None)


def _canonical(shape: Shape, strides: Shape | None) -> tuple[Shape, Shape, bool]:
    """Shape, strides, and whether these are those of C order."""
    default = contiguous_strides(shape)
    if strides is not None and strides != default:
        if 0 in shape:
            strides = default
        elif 1 in shape:
            strides = tuple(
                [d if n == 1 else s for n, s, d in zip(shape, strides, default, strict=True)]
            )
    if strides is None or strides == default:
        return shape, default, True
    return shape, strides, False


def _intern(device: Device, dtype: DType, shape: Shape, strides: Shape, contiguous: bool) -> Spec:
    key = (device, dtype, shape, None if contiguous else strides)
    with _interning:
        reference = _specs.get(key)
        found = None if reference is None else reference()
        if found is None:
            found = Spec.build(device, dtype, shape, strides, contiguous)
            reference = _Reference(found, _forget)
            reference.key = key
            _specs[key] = reference
    return found


def contiguous_strides(shape: Sequence[int]) -> Shape:
    """C-order strides in elements."""
    rank = len(shape)
    if rank == 1:
        return (1,)
    strides, step = [1] * rank, 1
    for k in range(rank - 1, -1, -1):
        strides[k] = step
        step *= shape[k] or 1
    return tuple(strides)


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The common shape by the array API's broadcasting rules; ValueError if there is none."""
    first = shapes[0] if shapes else ()
    if all(shape == first for shape in shapes):
        return first
    rank = max(map(len, shapes), default=0)
    out = [1] * rank
    for shape in shapes:
        for k, n in enumerate(shape, rank - len(shape)):
            if n != 1:
                if out[k] not in (1, n):
                    raise ValueError(
                        "shapes " + " and ".join(map(str, shapes)) + " cannot be broadcast "
                        f"together: dimension {k - rank} has sizes {out[k]} and {n}"
                    )
                out[k] = n
    return tuple(out)


def broadcast_strides(shape: Shape, strides: Shape, to: Shape) -> Shape:
    """Strides of a view of `shape` broadcast to shape `to`."""
    if shape == to:
        return strides
    lead = len(to) - len(shape)
    return (0,) * lead + tuple(
        [0 if n == 1 and m != 1 else s for n, s, m in zip(shape, strides, to[lead:], strict=True)]
    )


def collapse(shape: Shape, operands: Sequence[Shape]) -> tuple[Shape, list[Shape]]:
    """Drop dimensions of size 1 and merge neighbours that every operand walks evenly.

    Returns:
        The new shape, with at least one dimension, and the operands' strides in it.

    Raises:
        ValueError: More than DIMS + 1 dimensions are left.
    """
    dims: list[int] = []
    steps: list[list[int]] = []
    for k, n in enumerate(shape):
        if n == 1:
            continue
        here = [s[k] for s in operands]
        if dims and all(last == s * n for last, s in zip(steps[-1], here, strict=True)):
            dims[-1] *= n
            steps[-1] = here
        else:
            dims.append(n)
            steps.append(here)
    if not dims:
        dims, steps = [1], [[0] * len(operands)]
    if len(dims) > DIMS + 1:
        raise ValueError(
            f"shape {shape} has {len(dims)} dimensions that cannot be merged; kernels walk at most "
            f"{DIMS + 1}: make an operand contiguous first"
        )
    return tuple(dims), [tuple(step[k] for step in steps) for k in range(len(operands))]
