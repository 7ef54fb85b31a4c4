"""Matrix products: see docs/order.md for the order in which products are added."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorbus_backends import ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.kernels import DIMS, Contraction, Walk

from .._history import Context
from .._op import Op, apply, function, whole
from .._plan import Value
from .._planner import Planner
from .._promotion import promote
from .._recent import kept
from .._spec import Shape, Spec, broadcast_shapes, broadcast_strides, collapse
from .._state import settings
from .._tensor import Tensor
from ._common import normalize_axes, normalize_axis, tensor_of
from ._diagonal import unbroadcast
from ._moves import filled
from .arrangement import moveaxis
from .elementwise_arithmetic import add
from .manipulation import astype, broadcast_to, matrix_transpose, permute_dims, reshape

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
        kernel = Contraction.product(dtype, b.strides[-1] == 1 or n == 1)
        meta = kernel.meta(
            dims,
            [m],
            [n],
            [k],
            [
                Walk(w, v.strides[-2:-1], v.strides[-1:])
                for v, w in zip((a, b, out), walks, strict=True)
            ],
        )
        groups = kernel.groups(p.device.backend.dialect, m, n, math.prod(dims))
        p.launch(kernel, meta, kernel.places, groups, [a, b, out])
        return out


def _vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    left = right = None
    if c.needs[0]:
        left = unbroadcast(matmul(g, matrix_transpose(c.input(1))), c.input_spec(0))
    if c.needs[1]:
        right = unbroadcast(matmul(matrix_transpose(c.input(0)), g), c.input_spec(1))
    return [left, right]


def _jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    ta, tb = tangents
    left = None if ta is None else matmul(ta, c.input(1))
    right = None if tb is None else matmul(c.input(0), tb)
    return left if right is None else right if left is None else add(left, right)


_matmul = _Matmul("matmul", signature="(x1, x2, /)", vjp=_vjp, jvp=_jvp)


class _Linear(Op):
    """x @ weight^T + bias in one launch: one dtype, something to add up.

    The bias is the first operand, since its gradient is the first to be added (docs/order.md).
    """

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        _, x, weight = specs
        return [(x.dtype, (*x.shape[:-1], weight.shape[0]))]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        bias, x, weight = values
        ((dtype, shape),) = self.infer([v.spec for v in values], options)
        out = p.new(dtype, shape)
        if not out.size:
            return out
        n, k = weight.shape
        rows, (of_x, of_out) = collapse(x.shape[:-1], [x.strides[:-1], out.strides[:-1]])
        kernel = _linear_kernel(dtype, len(rows), weight.strides[0] == 1 or n == 1)
        walks = [
            Walk((), of_x, x.strides[-1:]),
            Walk((), weight.strides[1:], weight.strides[:1]),
            Walk((), (0,) * len(rows), bias.strides),
            Walk((), of_out, out.strides[-1:]),
        ]
        meta = kernel.meta((), rows, (n,), (k,), walks)
        groups = kernel.groups(p.device.backend.dialect, math.prod(rows), n, 1)
        p.launch(kernel, meta, kernel.places, groups, [x, weight, bias, out])
        return out


@kept(64)
def _linear_kernel(dtype: DType, rows: int, unit: bool) -> Contraction:
    total = ir.input_(0, dtype.compute) + ir.input_(1, dtype)
    return Contraction(
        "linear", dtype, dtype, dtype, dtype.compute, (rows, 1, 1), unit,
        epilogue=total, extras=(dtype,),
    )  # fmt: skip


def _linear_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    dtype = g.dtype
    g = astype(g, dtype.compute, copy=False)
    bias = unbroadcast(g, c.input_spec(0)) if c.needs[0] else None
    rows = reshape(g, (g.size // g.shape[-1] if g.size else 0, g.shape[-1]))
    left = right = None
    if c.needs[1]:
        weight = astype(c.input(2), dtype.compute, copy=False)
        left = reshape(matmul(rows, weight), c.input_spec(1).shape)
        left = astype(left, dtype, copy=False)
    if c.needs[2]:
        x = astype(c.input(1), dtype.compute, copy=False)
        x = reshape(x, (rows.shape[0], x.shape[-1]))
        right = matrix_transpose(matmul(matrix_transpose(x), rows))
        right = astype(right, dtype, copy=False)
    return [bias, left, right]


def _linear_jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    bias, left, right = tangents
    dtype = c.input_spec(1).dtype
    wide = dtype.compute
    parts = []
    if left is not None:
        weight = astype(c.input(2), wide, copy=False)
        parts.append(matmul(astype(left, wide, copy=False), matrix_transpose(weight)))
    if right is not None:
        x = astype(c.input(1), wide, copy=False)
        parts.append(matmul(x, matrix_transpose(astype(right, wide, copy=False))))
    if bias is not None:
        spec = c.input_spec(1)
        shape = (*spec.shape[:-1], bias.shape[0])
        parts.append(broadcast_to(astype(bias, wide, copy=False), shape))
    total = parts[0]
    for part in parts[1:]:
        total = add(total, part)
    return astype(total, dtype, copy=False)


_linear = _Linear("_linear", vjp=_linear_vjp, jvp=_linear_jvp)


def fused_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor | None:
    """x @ weight^T + bias in one launch; None where a library may multiply, or dtypes differ."""
    device = x._spec.device
    if not x.dtype is weight.dtype is bias.dtype or x is weight or weight.ndim != 2:
        return None
    if x.ndim < 2 or not x.size or not weight.size or device.home is not None:
        return None
    if "matmul" in device.backend.natives and not settings().reproducible:
        return None
    return apply(_linear, [bias, x, weight])  # type: ignore[no-any-return]


def _operands(name: str, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    """Both operands in their common numeric dtype."""
    tensor_of(name, x1, "x1")
    tensor_of(name, x2, "x2")
    dtype = promote(x1.dtype, x2.dtype)
    if dtype.kind == "b":
        raise TypeError(f"{name} needs numeric operands, not bool; convert with astype")
    return astype(x1, dtype, copy=False), astype(x2, dtype, copy=False)


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
    a = reshape(x1, (1, x1.shape[0])) if x1.ndim == 1 else x1
    b = reshape(x2, (x2.shape[0], 1)) if x2.ndim == 1 else x2
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
    return out if shape == out.shape else reshape(out, shape)


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
    a, b = moveaxis(a, from_end, -1), moveaxis(b, from_end, -1)
    left = reshape(a, (*a.shape[:-1], 1, a.shape[-1]))
    right = reshape(b, (*b.shape, 1))
    out = matmul(left, right)
    return reshape(out, out.shape[:-2])


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
    left = reshape(permute_dims(a, (*rest_a, *first)), (math.prod(shape_a), terms))
    right = reshape(permute_dims(b, (*second, *rest_b)), (terms, math.prod(shape_b)))
    return reshape(matmul(left, right), (*shape_a, *shape_b))
