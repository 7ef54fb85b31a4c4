"""Reading and writing parts of a tensor."""

from __future__ import annotations

from typing import Any

from .._tensor import Tensor

__all__ = ["getitem", "setitem"]


def getitem(x: Tensor, key: Any) -> Tensor:
    raise NotImplementedError


def setitem(x: Tensor, key: Any, value: Any) -> None:
    raise NotImplementedError
