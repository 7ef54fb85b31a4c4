"""How a tensor prints."""

from __future__ import annotations

import numpy as np

from ._tensor import Tensor

__all__ = ["describe"]


def describe(x: Tensor) -> str:
    """Elements as NumPy shows them, then what NumPy does not know."""
    body = np.array2string(x.numpy(), separator=", ", prefix="tensor(", threshold=1000)
    extra = [f"dtype={x.dtype.name}", f"device={str(x.device)!r}"]
    if x.size == 0:
        extra.insert(0, f"shape={x.shape}")
    if x.requires_grad:
        extra.append("requires_grad=True")
    return f"tensor({body}, {', '.join(extra)})"
