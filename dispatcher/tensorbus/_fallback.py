"""Fallback: calls that a device cannot serve because it lacks a dtype, served by another one.

Under the policies ``warn`` and ``allow`` such a call runs on the other device.  A result that the
device of the call can hold comes back to it.  Another one stays where it is, on a `Device.guest` of
the first: it is marked as belonging there, so that calls in which it meets tensors of its home fall
back too.  Tensors that the user put on another device have no such mark; they are never moved.
Under ``error`` nothing moves: guests are tensors of the device on which they lie.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import DeviceUnavailableError, UnsupportedError
from tensorbus_backends.dtypes import DType

from ._devices import Device, get_device
from ._plan import Plan
from ._planner import same_device
from ._spec import Spec
from ._state import Record, settings
from ._tensor import Tensor

__all__ = ["fallback", "holding", "meeting", "note_fallback", "relabelled", "together"]


def together(a: Device, b: Device) -> bool:
    """Whether tensors of two devices may meet in a call under the policy that is set."""
    if a is b:
        return True
    return settings().policy != "error" and (a.home or a) is (b.home or b)


def meeting(op: str, specs: Sequence[Spec]) -> Device:
    """The device whose call it is: that of all operands, or the home of those that are guests.

    Raises:
        ValueError: Operands are on different devices.
    """
    first = specs[0].device
    if all(s.device is first for s in specs):
        return first
    home = first.home or first
    if settings().policy != "error" and all((s.device.home or s.device) is home for s in specs):
        return home
    return same_device(op, specs)


def fallback(
    name: str,
    device: Device,
    missing: Sequence[str],
    guests: Sequence[Device],
    call: Callable[..., Any],
) -> Plan:
    """How a call on `device` is served elsewhere.

    Args:
        name: Of the op.
        device: The device of the call.
        missing: Dtypes that it lacks.
        guests: Devices of operands that lie elsewhere already.
        call: Makes the call with operands on the device that it is given, and with the numbers
            that come after the operands.

    Raises:
        UnsupportedError: The policy is ``error``.
    """
    what = f"{name}: {device} has no {', '.join(missing)}"
    policy = settings().policy
    if policy == "error":
        raise UnsupportedError(
            f"{what}; it has {_held(device)}. Use one of these, or another device, or allow a "
            "fallback with tensorbus.fallback_policy('warn')"
        )
    other = guests[0].real if guests else _other(device)
    if not missing:
        what = f"{name}: operands of {device} lie on {other}"

    def run(*given: Any) -> Any:
        if policy == "warn":
            warnings.warn(f"{what}; this call runs on {other} instead", stacklevel=4)
        tensors = [g for g in given if isinstance(g, Tensor)]
        out = call([_moved(t, other) for t in tensors], other, *given[len(tensors) :])
        if isinstance(out, tuple):
            return tuple(_returned(o, device, other) for o in out)
        return _returned(out, device, other)

    plan = Plan(run, "fallback", other.name)
    plan.device = device
    return plan


def holding(name: str, device: Device, dtype: DType, noted: bool = False) -> Device:
    """The device on which a new tensor is made that shall be on `device`.

    Args:
        name: Of the function that makes it.
        device: Asked for.
        dtype: Of the tensor.
        noted: Whether the trace is told here of a fallback, since no op will do so.

    Raises:
        UnsupportedError: It cannot hold `dtype`, and the policy is ``error``.
    """
    policy = settings().policy
    home = device.home
    if home is not None and policy != "error" and dtype.name in home.capabilities.dtypes:
        return home
    if dtype.name in device.capabilities.dtypes:
        return device
    if policy == "error":
        raise UnsupportedError(f"{device} has no {dtype.name}; it has {_held(device)}")
    other = _other(device)
    if policy == "warn":
        text = f"{name}: {device} has no {dtype.name}; the tensor is made on {other} instead"
        warnings.warn(text, stacklevel=5)
    made = other.guest(device)
    if noted:
        note_fallback(name, made)
    return made


def note_fallback(name: str, where: Device, seconds: float = 0.0) -> None:
    """Tell the trace of a tensor that is made on a guest."""
    now, home = settings(), where.home
    if now.trace is not None and home is not None:
        told = ("fallback", where.name, seconds, now.depth, where.name)
        now.trace.records.append(Record(name, home.name, (), (), *told))


def relabelled(tensor: Tensor, device: Device) -> Tensor:
    """The same memory as a tensor of `device`, without history."""
    spec = tensor._spec
    made = Spec.of(device, spec.dtype, spec.shape, spec.strides)
    return Tensor(tensor._buffer, made, tensor._offset)


def _held(device: Device) -> str:
    return ", ".join(d.name for d in dt.ALL if d.name in device.capabilities.dtypes)


def _other(device: Device) -> Device:
    if device.name == "cpu":
        return get_device("ref")
    try:
        return get_device("cpu")
    except DeviceUnavailableError:
        return get_device("ref")


def _moved(tensor: Tensor, other: Device) -> Tensor:
    from .ops._common import from_host

    if tensor._spec.device.real is other:
        return relabelled(tensor, other)
    # Not by to_device, which as an op of such a dtype would fall back itself.
    return from_host(other, tensor.numpy(), tensor.dtype)


def _returned(tensor: Tensor, device: Device, other: Device) -> Tensor:
    from .ops._common import from_host

    if tensor.dtype.name in device.capabilities.dtypes:
        return from_host(device, tensor.numpy(), tensor.dtype)
    return relabelled(tensor, other.guest(device))
