"""``to_device``: between this device, ``ref`` and ``cpu``, in every layout, with its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import BackendError, UnknownDeviceError

from ..layouts import LAYOUTS, host, place
from .checks import Checks, distinct, surface

__all__ = ["transfer"]


def _others(c: Checks) -> list[tb.Device]:
    """Where to move: the interpreter, the processor, and this plugin's device without fences."""
    found = []
    for name in ("ref", "cpu", c.session.item.device):
        try:
            device = tb.get_device(name)
        except BackendError:
            continue
        if device is c.device or device in found:
            continue
        if c.dtype.name in device.capabilities.dtypes:
            found.append(device)
    return found


@surface("transfer", dt.ALL, (dt.float32,))
def transfer(c: Checks) -> None:
    """There and back in every layout; the same device gives the tensor itself; gradients."""
    for shape in ((3, 5), (), (0, 2), (7,), (2, 3, 1, 2, 2)):
        for layout in LAYOUTS if len(shape) == 2 else ("contiguous", "negative", "offset"):
            used = layout if shape else "contiguous"
            x, seen = place(c.device, distinct(shape, c.dtype, 5), used)
            c.true("to its own device", x.to_device(c.device) is x, "gives another tensor")
            for other in _others(c):
                _there_and_back(c, f"{used} {list(shape)}, {other}", x, seen, other)
    base = distinct((6, 7), c.dtype, 3)
    x = c.put(base)
    for other in _others(c):
        for key in ((slice(1, None), slice(None, None, -2)), (3,), (slice(None), 2)):
            c.same(f"x[{key}] to {other}", x[key].to_device(other), base[key])
            there = x.to_device(other)
            c.same(f"x[{key}] back from {other}", there[key].to_device(c.device), base[key])
        c.same(f"x.T to {other}", x.T.to_device(other), base.T)
        # Plans are kept by spec: the same slice at other offsets.
        for k in (0, 4, 1, 5):
            c.same(f"x[{k}] to {other}", x[k].to_device(other), base[k])
        if c.dtype.is_float:
            _gradient(c, other)
    _errors(c, x)


def _there_and_back(
    c: Checks,
    label: str,
    x: tb.Tensor,
    seen: np.ndarray[Any, Any],
    other: tb.Device,
) -> None:
    for turn in range(2):
        there = c.attempt(f"to_device, {label}", lambda: x.to_device(other))
        if there is None:
            return
        c.true(f"device of to_device, {label}", there.device is other)
        c.same(f"to_device, {label}, call {turn}", there, seen)
        back = there.to_device(c.device)
        c.same(f"to_device back, {label}, call {turn}", back, seen)
    assert there is not None
    c.true(f"to_device, {label}", there._buffer is not x._buffer)
    c.same(f"asarray(device=), {label}", tb.asarray(x, device=other), seen)
    if x.size and 0 not in x.strides and "overlapping" not in label:
        kept = host(there)
        x[...] = x.reshape(-1)[0]
        c.same(f"what was moved, after x changed, {label}", there, kept)
        x[...] = there.to_device(c.device)
        there[...] = there.reshape(-1)[-1]
        c.same(f"x, after what was moved changed, {label}", x, kept)
    c.same(f"x after to_device, {label}", x, seen)


def _gradient(c: Checks, other: tb.Device) -> None:
    array = distinct((3, 4), c.dtype, 2)
    cotangent = c.rng.integers(-8, 9, (2, 4)).astype(c.dtype.numpy)
    x = c.put(array, "transposed")
    x.requires_grad = True
    y = x[1:].to_device(other)
    c.true(f"gradient to {other}", y.requires_grad and not y.is_leaf, "is not recorded")
    ct = place(other, cotangent, "general")[0]
    due = np.concatenate([np.zeros((1, 4), c.dtype.numpy), cotangent])
    tb.backward([y], [ct])
    assert x.grad is not None
    c.true(f"device of a gradient from {other}", x.grad.device is c.device)
    c.same(f"gradient from {other}", x.grad, due)
    tangent = c.rng.integers(-8, 9, (3, 4)).astype(c.dtype.numpy)
    value, moved = tb.jvp(
        lambda a: a.to_device(other), [c.put(array)], [c.put(tangent, "negative")]
    )
    c.same(f"value of jvp to {other}", value, array)
    c.same(f"tangent to {other}", moved, tangent)
    c.true(f"tangent to {other}", moved.device is other)
    with tb.no_grad():
        c.true("to_device under no_grad", not x.to_device(other).requires_grad)


def _errors(c: Checks, x: tb.Tensor) -> None:
    c.raises("no such device", UnknownDeviceError, lambda: x.to_device("nothing:0"))
    c.raises("a stream", ValueError, lambda: x.to_device(c.device, stream=1))
    if c.device.name != "ref":
        there = x.to_device("ref")
        c.raises("operands on two devices", ValueError, lambda: tb.equal(x, there))
