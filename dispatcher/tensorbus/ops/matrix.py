"""Matrix products: see docs/order.md for the order in which products are added."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorbus_backends.dtypes import DType
from tensorbus_backends.kernels import DIMS, Matmul

from .. import ops
from .._autograd import Context
from .._op import Op, apply, function, whole
from .._plan import Value
from .._planner import Planner
from .._promotion import promote
from .._spec import Shape, Spec, broadcast_shapes, broadcast_strides, collapse
from .._tensor import Tensor
from ._common import normalize_axes, normalize_axis, tensor_of
from ._elementwise import unbroadcast
from ._moves import filled

__all__ = ["matmul", "tensordot", "vecdot"]


class _Matmul(Op):
    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        a, b = specs
        batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return [(a.dtype, (*batch, a.shape[-2], b.shape[-1]))]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        a, b = values
        ((dtype, shape),) = self.infer([a.spec, b.spec], options)
        m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
        batch = shape[:-2]
        if k == 0 or 0 in shape:
            return filled(p, dtype, shape, 0)
        out = p.new(dtype, shape)
        walks = [
            broadcast_strides(a.shape[:-2], a.strides[:-2], batch),
            broadcast_strides(b.shape[:-2], b.strides[:-2], batch),
            out.strides[:-2],
        ]
        dims, walks = collapse(batch, walks)
        if dims == (1,):
            dims, walks = (), [(), (), ()]
        if len(dims) > DIMS:
            raise ValueError("matmul: too many batch dimensions that cannot be merged")
        kernel = Matmul("matmul", dtype, b.strides[-1] == 1 or n == 1)
        meta = kernel.meta(
            m,
            n,
            k,
            dims,
            [(0, v.strides[-2], v.strides[-1], w) for v, w in zip((a, b, out), walks, strict=True)],
        )
        groups = kernel.groups(p.device.backend.dialect, m, n, math.prod(dims))
        first = 4 + DIMS
        p.launch(kernel, meta, [first + (3 + DIMS) * i for i in range(3)], groups, [a, b, out])
        return out


def _vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    left = right = None
    if c.needs[0]:
        left = unbroadcast(matmul(g, ops.matrix_transpose(c.input(1))), c.input_spec(0))
    if c.needs[1]:
        right = unbroadcast(matmul(ops.matrix_transpose(c.input(0)), g), c.input_spec(1))
    return [left, right]


def _jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    ta, tb = tangents
    left = None if ta is None else matmul(ta, c.input(1))
    right = None if tb is None else matmul(c.input(0), tb)
    return left if right is None else right if left is None else ops.add(left, right)


_matmul = _Matmul("matmul", signature="(x1, x2, /)", vjp=_vjp, jvp=_jvp)


def _operands(name: str, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    """Both operands in their common numeric dtype."""
    tensor_of(name, x1, "x1")
    tensor_of(name, x2, "x2")
    dtype = promote(x1.dtype, x2.dtype)
    if dtype.kind == "b":
        raise TypeError(f"{name} needs numeric operands, not bool; convert with astype")
    return ops.astype(x1, dtype, copy=False), ops.astype(x2, dtype, copy=False)


@function("matrix", differentiable=True)
def matmul(x1: Tensor, x2: Tensor, /) -> Tensor:
    """Matrix product of the last two dimensions, broadcasting the others.

    Args:
        x1: Numeric, shape (..., M, K) or (K,).
        x2: Numeric, shape (..., K, N) or (K,).

    Returns:
        Shape (..., M, N); a one-dimensional operand's dimension is dropped.

    Raises:
        TypeError: Operands are not numeric tensors.
        ValueError: The shapes do not fit.
    """
    x1, x2 = _operands("matmul", x1, x2)
    if x1.ndim == 0 or x2.ndim == 0:
        raise ValueError("matmul needs operands with at least one dimension; use multiply")
    a = ops.reshape(x1, (1, x1.shape[0])) if x1.ndim == 1 else x1
    b = ops.reshape(x2, (x2.shape[0], 1)) if x2.ndim == 1 else x2
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(
            f"matmul: shapes {x1.shape} and {x2.shape} do not fit: the inner sizes are "
            f"{a.shape[-1]} and {b.shape[-2]}"
        )
    out: Tensor = apply(_matmul, [a, b])
    shape = out.shape
    if x1.ndim == 1:
        shape = (*shape[:-2], shape[-1])
    if x2.ndim == 1:
        shape = shape[:-1]
    return out if shape == out.shape else ops.reshape(out, shape)


@function("matrix", differentiable=True)
def vecdot(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    """Dot products of vectors along an axis, in the order of `matmul`.

    Args:
        x1: Numeric, at least one dimension.
        x2: Numeric; all dimensions but the contracted one broadcast.
        axis: The contracted dimension, counted in both operands after broadcasting.

    Returns:
        The broadcast shape without the contracted dimension.

    Raises:
        TypeError: Operands are not numeric tensors.
        ValueError: The vectors have different sizes, or the shapes do not broadcast.
        IndexError: The axis is out of range.
    """
    a, b = _operands("vecdot", x1, x2)
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError("vecdot needs operands with at least one dimension; use multiply")
    rank = max(a.ndim, b.ndim)
    from_end = normalize_axis("vecdot", axis, rank) - rank
    for t in (a, b):
        if -from_end > t.ndim:
            raise IndexError(f"vecdot: axis {axis} is out of range for shape {t.shape}")
    if a.shape[from_end] != b.shape[from_end]:
        raise ValueError(
            f"vecdot: shapes {x1.shape} and {x2.shape} have vectors of {a.shape[from_end]} and "
            f"{b.shape[from_end]} elements along axis {axis}"
        )
    rests = [(*t.shape[:from_end], *t.shape[t.ndim + from_end + 1 :]) for t in (a, b)]
    made: Tensor | None = whole(
        "vecdot",
        [a, b],
        {"axis": from_end},
        lambda: [(a.dtype, broadcast_shapes(*rests))],
    )
    if made is not None:
        return made
    a, b = ops.moveaxis(a, from_end, -1), ops.moveaxis(b, from_end, -1)
    left = ops.reshape(a, (*a.shape[:-1], 1, a.shape[-1]))
    right = ops.reshape(b, (*b.shape, 1))
    out = matmul(left, right)
    return ops.reshape(out, out.shape[:-2])


@function("matrix", differentiable=True)
def tensordot(
    x1: Tensor, x2: Tensor, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2
) -> Tensor:
    """Sum of products over pairs of dimensions, in the order of `matmul`.

    Args:
        x1: Numeric.
        x2: Numeric.
        axes: How many last dimensions of `x1` meet the first of `x2`, or the dimensions of each, in
            pairs.

    Returns:
        The dimensions of `x1` that are left, then those of `x2`.

    Raises:
        TypeError: Operands are not numeric tensors.
        ValueError: The sizes do not fit, or `axes` names a dimension twice.
        IndexError: A dimension is out of range.
    """
    a, b = _operands("tensordot", x1, x2)
    if isinstance(axes, int):
        if not 0 <= axes <= min(a.ndim, b.ndim):
            raise ValueError(
                f"tensordot: {axes} axes cannot be contracted of shapes {x1.shape} and {x2.shape}"
            )
        first, second = tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes))
    else:
        first = tuple(normalize_axis("tensordot", k, a.ndim) for k in axes[0])
        second = tuple(normalize_axis("tensordot", k, b.ndim) for k in axes[1])
        for chosen, t in ((first, a), (second, b)):
            normalize_axes("tensordot", chosen, t.ndim)
    sizes = tuple(a.shape[k] for k in first)
    if sizes != tuple(b.shape[k] for k in second):
        raise ValueError(
            f"tensordot: shapes {x1.shape} and {x2.shape} do not fit along axes {axes}"
        )
    rest_a = tuple(k for k in range(a.ndim) if k not in first)
    rest_b = tuple(k for k in range(b.ndim) if k not in second)
    shape_a, shape_b = tuple(a.shape[k] for k in rest_a), tuple(b.shape[k] for k in rest_b)
    made: Tensor | None = whole(
        "tensordot", [a, b], {"axes": (first, second)}, lambda: [(a.dtype, (*shape_a, *shape_b))]
    )
    if made is not None:
        return made
    terms = math.prod(sizes)
    left = ops.reshape(ops.permute_dims(a, (*rest_a, *first)), (math.prod(shape_a), terms))
    right = ops.reshape(ops.permute_dims(b, (*second, *rest_b)), (terms, math.prod(shape_b)))
    return ops.reshape(matmul(left, right), (*shape_a, *shape_b))
