"""How a tensor prints."""

from __future__ import annotations

import numpy as np
from tensorbus_backends import dtypes as dt

from ._tensor import Tensor
from .ops.arrangement import concat

__all__ = ["describe"]

_LARGE, _EDGE = 1000, 3


def describe(x: Tensor) -> str:
    """Elements as NumPy shows them, then what NumPy does not know.

    Of a large tensor only the corners come to the host.
    """
    array = _corners(x.detach()) if x.size > _LARGE else x.numpy()
    if x.dtype is dt.bfloat16:
        array = array.astype(np.float32)
    body = np.array2string(
        array,
        separator=", ",
        prefix="tensor(",
        threshold=0 if x.size > _LARGE else _LARGE,
        edgeitems=_EDGE,
    )
    extra = [f"dtype={x.dtype.name}", f"device={str(x.device)!r}"]
    if x.size == 0 or x.size > _LARGE:
        extra.insert(0, f"shape={x.shape}")
    if x.requires_grad:
        extra.append("requires_grad=True")
    return f"tensor({body}, {', '.join(extra)})"


def _corners(x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """The elements that will be shown, and one more between them that stands for the rest."""
    for axis, n in enumerate(x.shape):
        if n > 2 * _EDGE + 1:
            lead = (slice(None),) * axis
            x = concat([x[(*lead, slice(_EDGE + 1))], x[(*lead, slice(n - _EDGE, n))]], axis=axis)
    return x.numpy()
