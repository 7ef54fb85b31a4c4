"""Changing the memory of a tensor, and what keeps that from corrupting a gradient."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from tensorbus_backends.contract import Buffer
from tensorbus_backends.dtypes import DType

from .._autograd import Track, bump, version
from .._op import Op, perform
from .._plan import Value
from .._planner import Planner
from .._spec import Shape, Spec
from .._state import settings
from .._tensor import Tensor
from ._moves import write
from .manipulation import View, _contiguous, contiguous

__all__ = ["assign"]

READ_ONLY: weakref.WeakSet[Buffer] = weakref.WeakSet()
"""Memory of other libraries that they forbid to change."""


class _Write(Op):
    """The second operand, broadcast and converted, is written into the memory of the first."""

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return []

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Any:
        target, value = values
        write(p, value, target)
        return ()


_write = _Write("_write")


def write_into(target: Tensor, value: Tensor) -> None:
    """Copy `value`, broadcast and converted, into the memory of `target`; no checks, no history."""
    if not target.size:
        return
    if value._buffer is target._buffer and (
        value._offset != target._offset or value._spec is not target._spec
    ):
        value = _copy(value)
    perform(_write, (target, value))


def _copy(value: Tensor) -> Tensor:
    bare = value.detach()
    packed = contiguous(bare)
    if packed._buffer is not bare._buffer:
        return packed
    return perform(_contiguous, [packed])  # type: ignore[no-any-return]


def check_writable(target: Tensor) -> None:
    """Raise unless the memory of `target` may be changed now.

    Raises:
        RuntimeError: It is a leaf that requires a gradient, or a recorded view of one.
        ValueError: The memory is read-only, or several elements share a place in it.
    """
    if target._buffer in READ_ONLY:
        raise ValueError(
            "this tensor shares read-only memory of another library; change a copy "
            "(tensorbus.asarray(x, copy=True)) instead"
        )
    if any(s == 0 and n > 1 for n, s in zip(target.shape, target.strides, strict=True)):
        raise ValueError(
            "this tensor is a broadcast view, several of its elements share one place in memory; "
            "change a copy (tensorbus.asarray(x, copy=True)) instead"
        )
    if not settings().grad or not target.requires_grad:
        return
    if target.is_leaf:
        raise RuntimeError(
            "a leaf that requires a gradient cannot be changed in place; do it under no_grad()"
        )
    track = target._track
    while track is not None and track.node is not None and isinstance(track.node.op, View):
        track = track.node.parents[0]
        if track is not None and track.node is not None and track.node.leaf:
            raise RuntimeError(
                "a view of a leaf that requires a gradient cannot be changed in place; change a "
                "copy, or do it under no_grad()"
            )


def adopt(target: Tensor, value: Tensor) -> None:
    """Give `target`, whose memory has just been changed, the history of `value`."""
    bump(target)
    track = value._track if settings().grad or value._track is not None else target._track
    if track is not None:
        track = Track(track.node, track.index, track.tangents, version(target))
    target._track = track


def assign(target: Tensor, value: Tensor) -> Tensor:
    """What ``x += y`` does once ``x + y`` is known: put it into the memory of `x`.

    Raises:
        RuntimeError: `target` is a leaf that requires a gradient, or a view of one.
        ValueError: Its shape would have to change, or its memory cannot be changed.
        TypeError: Its dtype would have to change.
    """
    check_writable(target)
    if value.shape != target.shape:
        raise ValueError(f"in-place result has shape {value.shape}, the tensor has {target.shape}")
    if value.dtype is not target.dtype:
        raise TypeError(
            f"in-place result is {value.dtype.name}, the tensor {target.dtype.name}; "
            "write x = x op y, or convert the operand"
        )
    write_into(target, value.detach())
    adopt(target, value)
    return target
