"""Specs: what the planner needs to know of a tensor, interned so that look-ups are cheap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tensorbus_backends.dtypes import DType
from tensorbus_backends.kernels import DIMS

if TYPE_CHECKING:
    from ._devices import Device

__all__ = ["Spec", "broadcast_shapes", "broadcast_strides", "collapse", "contiguous_strides"]

Shape = tuple[int, ...]


class Spec:
    """Device, dtype, shape and strides of a tensor; equal specs are the same object.

    Attributes:
        strides: In elements; dimensions of size 1 and empty tensors have canonical strides.
        contiguous: Elements lie in C order without gaps.
    """

    __slots__ = ("contiguous", "device", "dtype", "nbytes", "shape", "size", "strides")
    device: Device
    dtype: DType
    shape: Shape
    strides: Shape
    size: int
    nbytes: int
    contiguous: bool

    @staticmethod
    def of(device: Device, dtype: DType, shape: Shape, strides: Shape | None = None) -> Spec:
        """The spec with these parts; without `strides` the C-contiguous one."""
        key = (device, dtype, shape, strides)
        found = _specs.get(key)
        if found is None:
            default = contiguous_strides(shape)
            size = math.prod(shape)
            if strides is not None:
                strides = (
                    default
                    if size == 0
                    else tuple(
                        d if n == 1 else s for n, s, d in zip(shape, strides, default, strict=True)
                    )
                )
            if strides is None or strides == default:
                canonical: tuple[object, ...] = (device, dtype, shape, None)
                strides = default
            else:
                canonical = (device, dtype, shape, strides)
            if len(_specs) > _KEPT:
                _specs.clear()  # equal specs made later are new objects: plans are made again
            found = _specs.get(canonical)
            if found is None:
                found = Spec()
                found.device, found.dtype, found.shape = device, dtype, shape
                found.strides, found.size = strides, size
                found.nbytes = size * dtype.itemsize
                found.contiguous = strides == default
                found = _specs.setdefault(canonical, found)
            _specs[key] = found
        return found

    def __repr__(self) -> str:
        return f"{self.dtype}{list(self.shape)} on {self.device}"


_KEPT = 1 << 16
_specs: dict[object, Spec] = {}


def contiguous_strides(shape: Sequence[int]) -> Shape:
    """C-order strides in elements."""
    strides, step = [0] * len(shape), 1
    for k in range(len(shape) - 1, -1, -1):
        strides[k] = step
        step *= max(shape[k], 1)
    return tuple(strides)


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The common shape by the array API's broadcasting rules; ValueError if there is none."""
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
    lead = len(to) - len(shape)
    return (0,) * lead + tuple(
        0 if n == 1 and m != 1 else s for n, s, m in zip(shape, strides, to[lead:], strict=True)
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
