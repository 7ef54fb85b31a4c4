"""Derivatives of elementwise ops: how a cotangent or a tangent meets a partial derivative.

The Jacobian of an elementwise function is diagonal for each operand, so one rule serves reverse
and forward mode: multiply by the partial derivative.
"""

from __future__ import annotations

from collections.abc import Sequence

from .._history import Context
from .._spec import Spec
from .._tensor import Tensor
from ._elementwise import Elementwise, Factor
from .creation import zeros_like
from .elementwise_arithmetic import add, multiply, negative
from .manipulation import _broadcast, astype, broadcast_to, reshape
from .reduction import sum as sum_

__all__ = ["unbroadcast"]


def _scale(g: Tensor, factor: Factor) -> Tensor | None:
    """``g * factor`` without launching what is known to change nothing."""
    if factor is None:
        return None
    if isinstance(factor, Tensor):
        return multiply(g, factor)
    if isinstance(factor, int | float):
        if factor == 1:
            return g
        if factor == -1:
            return negative(g)
        return zeros_like(g) if factor == 0 else multiply(g, factor)
    return factor(g)


def unbroadcast(g: Tensor, spec: Spec) -> Tensor:
    """Sum a gradient over the dimensions that broadcasting added, in the operand's dtype."""
    if g.shape != spec.shape:
        lead = g.ndim - len(spec.shape)
        axes = tuple(range(lead)) + tuple(
            lead + k for k, n in enumerate(spec.shape) if n == 1 and g.shape[lead + k] != 1
        )
        g = reshape(sum_(g, axis=axes, keepdims=True), spec.shape) if axes else g
    return g if g.dtype is spec.dtype else astype(g, spec.dtype)


def _reverse(op: Elementwise, context: Context, g: Tensor) -> list[Tensor | None]:
    assert op.partials is not None
    result: list[Tensor | None] = []
    for k, partial in enumerate(op.partials):
        d = _scale(g, partial(context)) if context.needs[k] else None
        result.append(None if d is None else unbroadcast(d, context.input_spec(k)))
    return result


def _forward(op: Elementwise, context: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    out = context.output(0)
    if not out.dtype.is_float:
        return None
    if op.partials is None:
        raise RuntimeError(f"{op.name} has no derivative; detach its operands first")
    total: Tensor | None = None
    for partial, t in zip(op.partials, tangents, strict=True):
        if t is None:
            continue
        d = _scale(astype(t, out.dtype, copy=False), partial(context))
        if d is not None:
            total = d if total is None else add(total, d)
    if total is not None and total.shape != out.shape:
        total = broadcast_to(total, out.shape)
    return total


Elementwise.reverse = staticmethod(_reverse)
Elementwise.forward = staticmethod(_forward)


def _broadcast_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    return [unbroadcast(g, c.input_spec(0))]


_broadcast.vjp = _broadcast_vjp
