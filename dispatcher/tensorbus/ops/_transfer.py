"""Moving a tensor between devices, as an op with a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends.contract import Feature
from tensorbus_backends.dtypes import DType

from .._devices import Device
from .._history import Context
from .._memory import allocate, from_host
from .._op import Op, apply
from .._spec import Shape, Spec
from .._tensor import Tensor
from .manipulation import contiguous

__all__ = ["transfer"]


class _Transfer(Op):
    moves = True

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(specs[0].dtype, specs[0].shape)]

    def host(self, device: Device, options: dict[str, Any]) -> Callable[..., Any] | None:
        target: Device = options["target"]
        neighbours = target.info.plugin == device.info.plugin and target.has(Feature.PEERS)

        def run(x: Tensor) -> Tensor:
            moved = _directly(x, target) if neighbours else None
            return from_host(target, x.numpy(), x.dtype) if moved is None else moved

        return run


def _directly(x: Tensor, target: Device) -> Tensor | None:
    """A copy between devices of one plugin, or None if they have no way around the host."""
    x.device.late.settle()
    packed = contiguous(x.detach())
    out = allocate(target, x.dtype, x.shape)
    size = x.dtype.itemsize
    start, nbytes = packed._offset * size, packed.size * size
    done = target.backend.copy_from(out._buffer, 0, packed._buffer, start, nbytes)
    return out if done else None


def _vjp(context: Context, g: Tensor) -> list[Tensor | None]:
    return [transfer(g, context.input_spec(0).device)]


def _jvp(context: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    (t,) = tangents
    return transfer(t, context.options["target"])


_op = _Transfer("to_device", signature="(x, device, /)", vjp=_vjp, jvp=_jvp)


def transfer(x: Tensor, target: Device) -> Tensor:
    """A copy of `x` on `target`."""
    return apply(_op, [x], {"target": target})  # type: ignore[no-any-return]
