"""Matrix products: see docs/order.md for the order in which products are added."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorbus_backends.dtypes import DType
from tensorbus_backends.kernels import DIMS, Matmul

from .._autograd import Context
from .._devices import Device
from .._op import Op, apply, function
from .._plan import Launch, Plan
from .._spec import Shape, Spec, broadcast_shapes, broadcast_strides, collapse
from .._tensor import Tensor
from ._common import tensor_of

__all__ = ["matmul"]


class _Matmul(Op):
    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        a, b = specs
        batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return [(a.dtype, (*batch, a.shape[-2], b.shape[-1]))]

    def plan(self, device: Device, specs: Sequence[Spec], options: dict[str, Any]) -> Plan:
        a, b = specs
        ((dtype, shape),) = self.infer(specs, options)
        out = Spec.of(device, dtype, shape)
        m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
        batch = shape[:-2]
        if k == 0 or out.size == 0:

            def nothing(x: Tensor, y: Tensor) -> Tensor:
                from .creation import zeros

                return zeros(shape, dtype=dtype, device=device)

            return Plan(nothing)
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
            [(0, s.strides[-2], s.strides[-1], w) for s, w in zip((a, b, out), walks, strict=True)],
        )
        groups = kernel.groups(device.backend.dialect, m, n, math.prod(dims))
        first = 4 + DIMS
        launch = Launch(device, kernel, meta, [first + (3 + DIMS) * i for i in range(3)], groups)
        allocate = device.backend.allocate

        def run(x: Tensor, y: Tensor) -> Tensor:
            buffer = allocate(out.nbytes)
            launch((x._buffer, x._offset), (y._buffer, y._offset), (buffer, 0))
            return Tensor(buffer, out)

        return Plan(run)


def _vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    from .elementwise import _unbroadcast
    from .manipulation import matrix_transpose

    left = right = None
    if c.needs[0]:
        left = _unbroadcast(matmul(g, matrix_transpose(c.input(1))), c.input_spec(0))
    if c.needs[1]:
        right = _unbroadcast(matmul(matrix_transpose(c.input(0)), g), c.input_spec(1))
    return [left, right]


def _jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    from .elementwise import add

    ta, tb = tangents
    left = None if ta is None else matmul(ta, c.input(1))
    right = None if tb is None else matmul(c.input(0), tb)
    return left if right is None else right if left is None else add(left, right)


_matmul = _Matmul("matmul", signature="(x1, x2, /)", vjp=_vjp, jvp=_jvp)


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
    from .._promotion import promote
    from .manipulation import astype, reshape

    tensor_of("matmul", x1, "x1")
    tensor_of("matmul", x2, "x2")
    dtype = promote(x1.dtype, x2.dtype)
    if dtype.kind == "b":
        raise TypeError("matmul needs numeric operands, not bool; convert with astype")
    if x1.ndim == 0 or x2.ndim == 0:
        raise ValueError("matmul needs operands with at least one dimension; use multiply")
    a = astype(x1, dtype, copy=False)
    b = astype(x2, dtype, copy=False)
    a = reshape(a, (1, a.shape[0])) if x1.ndim == 1 else a
    b = reshape(b, (b.shape[0], 1)) if x2.ndim == 1 else b
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
