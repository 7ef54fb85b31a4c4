"""Reductions in the canonical order: see docs/order.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends import dtypes as dt
from tensorbus_backends import ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import (
    CHUNK,
    DIMS,
    MONOIDS,
    Monoid,
    Operand,
    Reduce,
    Strided,
)
from tensorbus_backends.kernels.base import bits_of

from .._autograd import Context
from .._devices import Device
from .._op import Op, apply, function
from .._plan import Launch, Plan, step_of
from .._spec import Shape, Spec, broadcast_strides, collapse
from .._tensor import Tensor
from ._common import normalize_axes, tensor_of

__all__ = ["sum"]


def reduced_shape(shape: Shape, axes: tuple[int, ...], keepdims: bool) -> Shape:
    """Shape after reducing `axes`."""
    return tuple(1 if k in axes else n for k, n in enumerate(shape) if k not in axes or keepdims)


def reduce_plan(
    device: Device,
    label: str,
    specs: Sequence[Spec],
    axes: tuple[int, ...],
    expr: Expr,
    monoid: Monoid,
    out: Spec,
    finish: Expr | None = None,
    params: Sequence[tuple[DType, float | int]] = (),
) -> Callable[..., Tensor]:
    """Plan a reduction over `axes` of the broadcast operands.

    Args:
        specs: Operands; the first has the full shape, others broadcast to it.
        axes: Sorted, reduced in logical C order.
        expr: What is reduced, in accumulation dtype; ``index`` counts along the reduction.
        finish: From the reduced value (``input 0``) to the stored one.
        out: Contiguous spec of the result.
        params: Launch scalars.

    Returns:
        A function of the operands.
    """
    shape = specs[0].shape
    kept = [k for k in range(len(shape)) if k not in axes]
    strides = [broadcast_strides(s.shape, s.strides, shape) for s in specs]
    n = math.prod(shape[a] for a in axes)
    rows = math.prod(shape[k] for k in kept)
    reduced, along = collapse(
        tuple(shape[a] for a in axes), [tuple(s[a] for a in axes) for s in strides]
    )
    if len(reduced) > 1:
        return _through_copy(device, label, specs, axes, expr, monoid, out, finish, params)
    steps = [a[0] for a in along]
    outer, walks = collapse(
        tuple(shape[k] for k in kept), [tuple(s[k] for k in kept) for s in strides]
    )
    columns = outer[-1]
    by_column = columns > 1 and walks[0][-1] == 1 and steps[0] != 1 and n > 1
    if not by_column and outer == (1,):
        outer, walks = (), [() for _ in walks]
    acc = expr.dtype
    offsets = len(specs)
    first: Launch
    partial = n > CHUNK
    chunks = max(1, -(-n // CHUNK))
    layout = "col" if by_column else "row"
    operands = tuple(
        Operand(s.dtype, step_of(w[-1], columns) if by_column else step_of(step, n))
        for s, w, step in zip(specs, walks, steps, strict=True)
    )
    kernel = Reduce(
        label,
        operands,
        expr,
        monoid,
        acc if partial else out.dtype,
        None if partial else finish,
        tuple(d for d, _ in params),
        layout,
    )
    values = [bits_of(v, d) for d, v in params]
    if by_column:
        words = [Strided.words(0, w[-1], w[:-1]) for w in walks]
        meta = kernel.meta(n, columns, outer[:-1], words, steps, 0, values)
        groups = kernel.groups(device.backend.dialect, n, columns, rows // columns)
    else:
        words = [Strided.words(0, step, w) for step, w in zip(steps, walks, strict=True)]
        if len(outer) > DIMS:
            raise ValueError(f"{label}: too many dimensions that cannot be merged")
        meta = kernel.meta(n, 1, outer, words, [0] * offsets, 0, values)
        groups = kernel.groups(device.backend.dialect, n, 1, rows)
    base = 3 + DIMS
    places = [base + (Strided.WORDS + 1) * k for k in range(offsets + 1)]
    first = Launch(device, kernel, meta, places, groups if rows else 0)
    allocate = device.backend.allocate
    if not partial:
        zero = first.bind((0,) * (offsets + 1))

        def run(*tensors: Tensor) -> Tensor:
            buffer = allocate(out.nbytes)
            if any(t._offset for t in tensors):
                first(*((t._buffer, t._offset) for t in tensors), (buffer, 0))
            else:
                zero(*(t._buffer for t in tensors), buffer)
            return Tensor(buffer, out)

        return run
    if by_column:
        wide = (math.prod(outer[:-1]), chunks, columns)
        again = (1,)
    else:
        wide = (rows, chunks, 1)
        again = (1,)
    middle = Spec.of(device, acc, wide)
    second = reduce_plan(
        device, label, [middle], again, ir.input_(0, acc), monoid, out, finish, params
    )

    def run_levels(*tensors: Tensor) -> Tensor:
        buffer = allocate(middle.nbytes)
        first(*((t._buffer, t._offset) for t in tensors), (buffer, 0))
        return second(Tensor(buffer, middle))

    return run_levels


def _through_copy(
    device: Device,
    label: str,
    specs: Sequence[Spec],
    axes: tuple[int, ...],
    expr: Expr,
    monoid: Monoid,
    out: Spec,
    finish: Expr | None,
    params: Sequence[tuple[DType, float | int]],
) -> Callable[..., Tensor]:
    """Reduced dimensions that do not merge: lay the operands out so that they do."""
    from .manipulation import broadcast_to, contiguous, permute_dims

    shape = specs[0].shape
    kept = tuple(k for k in range(len(shape)) if k not in axes)
    order = (*kept, *axes)
    packed = [Spec.of(device, s.dtype, tuple(shape[k] for k in order)) for s in specs]
    last = tuple(range(len(kept), len(shape)))
    inner = reduce_plan(device, label, packed, last, expr, monoid, out, finish, params)

    def run(*tensors: Tensor) -> Tensor:
        laid = [contiguous(permute_dims(broadcast_to(t.detach(), shape), order)) for t in tensors]
        return inner(*laid)

    return run


class Reduction(Op):
    """An op that reduces axes with one monoid.

    Options of a call: ``axes`` (sorted tuple), ``keepdims``, ``dtype`` (of the result).

    Args:
        monoid: Name in `MONOIDS`.
        acc: From operand and result dtype to the dtype values are combined in.
        empty: Result over nothing; None raises ValueError.
    """

    def __init__(
        self,
        name: str,
        monoid: str,
        acc: Callable[[DType, DType], DType],
        empty: float | int | None,
        **rules: Any,
    ) -> None:
        super().__init__(name, **rules)
        self.monoid, self.acc, self.empty = MONOIDS[monoid], acc, empty

    def element(self, x: Expr, acc: DType) -> Expr:
        """Value of an operand's element in accumulation dtype."""
        return ir.cast(x, acc)

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        shape = reduced_shape(specs[0].shape, options["axes"], options["keepdims"])
        return [(options["dtype"], shape)]

    def plan(self, device: Device, specs: Sequence[Spec], options: dict[str, Any]) -> Plan:
        (spec,) = specs
        ((dtype, shape),) = self.infer(specs, options)
        out = Spec.of(device, dtype, shape)
        axes: tuple[int, ...] = options["axes"]
        if math.prod(spec.shape[a] for a in axes) == 0:
            return Plan(self._nothing(device, spec, out))
        acc = self.acc(spec.dtype, dtype)
        expr = self.element(ir.input_(0, spec.dtype), acc)
        if not axes:
            from .._plan import map_launch
            from .elementwise import _runner

            value = expr if dtype.compute is acc or dtype.bits == 16 else ir.cast(expr, dtype)
            launch = map_launch(
                device,
                self.name,
                [value],
                spec.shape,
                [(spec.dtype, spec.shape, spec.strides)],
                [(dtype, out.strides)],
            )
            return Plan(_runner(device, launch, out, 1))
        return Plan(reduce_plan(device, self.name, specs, axes, expr, self.monoid, out))

    def _nothing(self, device: Device, spec: Spec, out: Spec) -> Callable[[Tensor], Tensor]:
        if self.empty is None and out.size:
            raise ValueError(
                f"{self.name} of no elements is undefined (shape {spec.shape}); "
                "check the size first"
            )

        def run(x: Tensor) -> Tensor:
            from .creation import full

            return full(out.shape, self.empty or 0, dtype=out.dtype, device=device)

        return run


def accumulator(source: DType, result: DType) -> DType:
    """Sums and products combine in the result's compute dtype."""
    return result.compute


def sum_dtype(x: DType, dtype: DType | None) -> DType:
    """Result dtype of sum and prod: small integers and bool become 64 bits wide."""
    if dtype is not None:
        return dtype
    if x.is_float:
        return x
    return dt.uint64 if x.kind == "u" else dt.int64


def expand(g: Tensor, spec: Spec, axes: tuple[int, ...]) -> Tensor:
    """A reduced gradient as a broadcast view of the operand's shape."""
    from .manipulation import broadcast_to, reshape

    kept = tuple(1 if k in axes else n for k, n in enumerate(spec.shape))
    return broadcast_to(reshape(g, kept), spec.shape)


def _sum_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    from .manipulation import astype

    spec = c.input_spec(0)
    return [astype(expand(g, spec, c.options["axes"]), spec.dtype, copy=False)]


def _sum_jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    (t,) = tangents
    return None if t is None else apply(_sum, [t], c.options)


_sum = Reduction("sum", "sum", accumulator, 0, vjp=_sum_vjp, jvp=_sum_jvp)


@function("reduction", differentiable=True)
def sum(
    x: Tensor,
    /,
    *,
    axis: int | Sequence[int] | None = None,
    dtype: DType | None = None,
    keepdims: bool = False,
) -> Tensor:
    """Sum over axes, in the canonical order.

    Args:
        x: Numeric (or bool) tensor.
        axis: Axis or axes; None means all.
        dtype: Of the result; by default that of `x`, widened to 64 bits for integers and bool.
        keepdims: Keep reduced axes with size 1.

    Returns:
        The sums; over no elements +0.
    """
    tensor_of("sum", x)
    axes = normalize_axes("sum", axis, x.ndim)
    options = {"axes": axes, "keepdims": bool(keepdims), "dtype": sum_dtype(x.dtype, dtype)}
    return apply(_sum, [x], options)  # type: ignore[no-any-return]
