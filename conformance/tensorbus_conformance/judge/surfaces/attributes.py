"""What a tensor says of itself, in every layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt

from ..layouts import LAYOUTS, place
from .checks import Checks, distinct, surface

__all__ = ["attributes"]


@surface("attributes", dt.ALL, (dt.float32,))
def attributes(c: Checks) -> None:
    """Attributes agree with NumPy's of the same elements and steps."""
    for shape in ((), (3,), (3, 4), (2, 3, 4), (2, 1, 3, 1), (0, 3), (1, 0, 2), (2,) * 9):
        for layout in LAYOUTS if 0 < len(shape) < 4 and 0 not in shape else ("contiguous",):
            x, seen = place(c.device, distinct(shape, c.dtype), layout)
            _basic(c, f"{layout} {list(shape)}", x, seen)
    _transposes(c)
    _history(c)
    _namespace(c)


def _basic(c: Checks, label: str, x: tb.Tensor, seen: np.ndarray[Any, Any]) -> None:
    for name, got, due in (
        ("shape", x.shape, seen.shape),
        ("ndim", x.ndim, seen.ndim),
        ("size", x.size, seen.size),
        ("nbytes", x.nbytes, seen.size * seen.dtype.itemsize),
    ):
        same = got == due and type(got) is type(due)
        c.true(f"{name}, {label}", same, f"{got!r}, expected {due!r}")
    c.true(f"dtype, {label}", x.dtype is c.dtype and x.dtype.numpy == seen.dtype)
    c.true(f"device, {label}", x.device is c.device and x.device == c.device.name)
    c.true(f"strides, {label}", len(x.strides) == x.ndim)
    if x.size and "contiguous" in label:
        steps = tuple(s // seen.itemsize for s in seen.strides)
        c.true(f"strides, {label}", x.strides == steps, f"{x.strides}, expected {steps}")
    c.true(f"flags, {label}", not x.requires_grad and x.is_leaf and x.grad is None)
    c.true(f"hash, {label}", hash(x) == hash(x) and x in {x})


def _transposes(c: Checks) -> None:
    for layout in ("contiguous", "general", "negative"):
        array = distinct((2, 3, 4), c.dtype)
        x = c.put(array, layout)
        c.same(f"mT, {layout}", x.mT, np.swapaxes(array, -1, -2))
        c.same(f"T, {layout}", x[1].T, array[1].T)
        c.true(f"T, {layout}", x[1].T._buffer is x._buffer and x[1].T.strides == x[1].strides[::-1])
        c.same(f"mT twice, {layout}", x.mT.mT, array)
        for shape in ((), (3,), (2, 3, 4)):
            y = c.put(distinct(shape, c.dtype))
            c.raises(f"T of {shape}", ValueError, lambda y=y: y.T)
    for shape in ((), (3,)):
        y = c.put(distinct(shape, c.dtype))
        c.raises(f"mT of {shape}", (ValueError, IndexError), lambda y=y: y.mT)


def _history(c: Checks) -> None:
    x = c.put(distinct((2, 3), c.dtype))
    if not c.dtype.is_float:
        c.raises("requires_grad", TypeError, lambda: setattr(x, "requires_grad", True))
        c.true("requires_grad", not x.requires_grad)
        return
    x.requires_grad = True
    y = x * x
    c.true("a leaf", x.requires_grad and x.is_leaf)
    c.true("a result", y.requires_grad and not y.is_leaf)
    c.raises("requires_grad of a result", RuntimeError, lambda: setattr(y, "requires_grad", False))
    for name, z in (("detach", y.detach()), ("x > 0", x > 0), ("astype int", x.astype(tb.int32))):
        c.true(name, not z.requires_grad and z.is_leaf)
    c.true("detach", y.detach()._buffer is y._buffer)
    tb.sum(y).backward()
    assert x.grad is not None
    c.true("grad", x.grad.shape == x.shape and x.grad.dtype is c.dtype and y.grad is None)
    x.grad = None
    c.true("grad after None", x.grad is None)
    x.requires_grad = False
    c.true("requires_grad taken back", not x.requires_grad and not (x * x).requires_grad)
    c.raises("backward of no history", RuntimeError, lambda: tb.sum(x).backward())
    with tb.no_grad():
        made = c.put(distinct((2,), c.dtype))
        made.requires_grad = True
        c.true("a leaf made under no_grad", made.requires_grad and not (made * 2).requires_grad)


def _namespace(c: Checks) -> None:
    x = c.put(distinct((2,), c.dtype))
    c.true("__array_namespace__", x.__array_namespace__() is tb)
    for version in tb.__array_api_versions__:
        c.true(f"version {version}", x.__array_namespace__(api_version=version) is tb)
    for bad in ("2020.01", "", "2099.12", 3):
        c.raises(
            f"version {bad!r}", ValueError, lambda bad=bad: x.__array_namespace__(api_version=bad)
        )
