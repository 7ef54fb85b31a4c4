"""Rules of fused ops that equal a composition of differentiable ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .._autograd import jvp, vjp
from .._history import Context
from .._tensor import Tensor
from ..ops.creation import zeros_like

__all__ = ["composed"]


def composed_vjp(composition: Callable[..., Tensor]) -> Callable[..., list[Tensor | None]]:
    """Reverse rule of an op that equals a composition of differentiable ops."""

    def rule(c: Context, g: Tensor) -> list[Tensor | None]:
        inputs = [c.input(k) for k in range(c.count())]
        _, pull = vjp(lambda *a: composition(*a, **c.options), *inputs)
        return list(pull(g))

    return rule


def composed_jvp(composition: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Forward rule of such an op."""

    def rule(c: Context, tangents: Sequence[Tensor | None]) -> Tensor:
        inputs = [c.input(k) for k in range(c.count())]
        given = [zeros_like(x) if t is None else t for x, t in zip(inputs, tangents, strict=True)]
        _, out = jvp(lambda *a: composition(*a, **c.options), inputs, given)
        return out  # type: ignore[no-any-return]

    return rule


def composed(composition: Callable[..., Tensor]) -> dict[str, Any]:
    """Both rules, by the names under which an op takes them."""
    return {"vjp": composed_vjp(composition), "jvp": composed_jvp(composition)}
