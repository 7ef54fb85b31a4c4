"""Fused ops on rows: some reductions over axes and a map that uses them, as one kernel.

`Fused` serves softmax, layer_norm, log-sum-exp and their gradients.  Rows that one group should not
handle alone are reduced stage by stage instead, with the same bits.  Each op comes with the same
computation written in ops, whose derivatives serve where it has no rules of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends import ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import DIMS, Operand, Rows, Stage, Strided
from tensorbus_backends.kernels.base import bits_of
from tensorbus_backends.kernels.rows import MAX_ROW

from .. import _autograd, ops
from .._autograd import Context
from .._devices import Device
from .._op import Op
from .._plan import Launch, Plan, map_launch, permuted_strides, step_of
from .._spec import Shape, Spec, broadcast_strides, collapse
from .._tensor import Tensor
from ._elementwise import runner
from .reduction import reduce_plan, reduced_shape

__all__ = ["Fused", "composed_jvp", "composed_vjp"]

Body = tuple[tuple[Stage, ...], tuple[Expr, ...], Sequence[tuple[DType, float]]]

_FEW_ROWS = 8
_LONG_ROW = 1 << 16
_COLUMNS = 16


def composed_vjp(composition: Callable[..., Tensor]) -> Callable[..., list[Tensor | None]]:
    """Reverse rule of an op that equals a composition of differentiable ops."""

    def rule(c: Context, g: Tensor) -> list[Tensor | None]:
        inputs = [c.input(k) for k in range(c.count())]
        _, pull = _autograd.vjp(lambda *a: composition(*a, **c.options), *inputs)
        return list(pull(g))

    return rule


def composed_jvp(composition: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Forward rule of such an op."""

    def rule(c: Context, tangents: Sequence[Tensor | None]) -> Tensor:
        inputs = [c.input(k) for k in range(c.count())]
        given = [
            ops.zeros_like(x) if t is None else t for x, t in zip(inputs, tangents, strict=True)
        ]
        _, out = _autograd.jvp(lambda *a: composition(*a, **c.options), inputs, given)
        return out  # type: ignore[no-any-return]

    return rule


class Fused(Op):
    """An op whose result has the shape of its first operand, or one value for each row.

    Options of a call include ``axes`` (sorted tuple: what a row is) and, if the op reduces,
    ``keepdims``.  All operands have one floating dtype and broadcast to the first.

    Args:
        body: ``body(dtype, number of operands, n=row length, **options)`` gives stages,
            expressions and launch scalars.
        composition: The same in terms of ops, with the same options; None if the op has rules.
        reduces: Whether the result has one value for each row; it is -inf for rows of no elements.
    """

    def __init__(
        self,
        name: str,
        body: Callable[..., Body],
        composition: Callable[..., Tensor] | None = None,
        *,
        reduces: bool = False,
        **rules: Any,
    ) -> None:
        if composition is not None:
            rules = {"vjp": composed_vjp(composition), "jvp": composed_jvp(composition)}
        super().__init__(name, **rules)
        self.body, self.reduces = body, reduces

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        shape = specs[0].shape
        if self.reduces:
            shape = reduced_shape(shape, options["axes"], options["keepdims"])
        return [(specs[0].dtype, shape)]

    def plan(self, device: Device, specs: Sequence[Spec], options: dict[str, Any]) -> Plan:
        shape, axes = specs[0].shape, options["axes"]
        n = math.prod(shape[a] for a in axes)
        ((dtype, final),) = self.infer(specs, options)
        if n == 0:

            def nothing(*tensors: Tensor) -> Tensor:
                return ops.full(final, -math.inf, dtype=dtype, device=device)

            return Plan(nothing)
        rows = math.prod(shape) // n
        if n > MAX_ROW or (rows < _FEW_ROWS and n > _LONG_ROW) or self._by_column(specs, axes):
            return Plan(self._staged(device, specs, axes, options, n))
        return Plan(self._kernel(device, specs, axes, options, n))

    @staticmethod
    def _by_column(specs: Sequence[Spec], axes: tuple[int, ...]) -> bool:
        """Whether neighbours in memory belong to different rows."""
        shape, strides = specs[0].shape, specs[0].strides
        inner = [strides[a] for a in axes if shape[a] > 1]
        outer = [strides[k] for k in range(len(shape)) if k not in axes and shape[k] >= _COLUMNS]
        return bool(inner) and 1 not in inner and 1 in outer

    def _staged(
        self,
        device: Device,
        specs: Sequence[Spec],
        axes: tuple[int, ...],
        options: dict[str, Any],
        n: int,
    ) -> Callable[..., Tensor]:
        """The stages as reductions of their own and the map as one: more passes, the same bits."""
        shape, dtype = specs[0].shape, specs[0].dtype
        stages, (expr,), params = self.body(dtype, len(specs), n=n, **options)
        small = reduced_shape(shape, axes, True)
        given = list(specs)

        def with_results(root: Expr, first: int) -> Expr:
            """Results of stages as operands from `first` on, not launch scalars."""

            def replace(node: Expr) -> Expr | None:
                k = node.attr - len(params) if node.op == "param" else -1
                return ir.input_(first + k, node.dtype) if k >= 0 else None

            return ir.substitute(root, replace)

        reductions = []
        for stage in stages:
            out = Spec.of(device, stage.result, small)
            value = with_results(stage.expr, len(specs))
            reductions.append(
                reduce_plan(
                    device, self.name, given, axes, value, stage.monoid, out, stage.finish, params
                )
            )
            given.append(out)
        if self.reduces:
            walked, target = given[len(specs) :], small
            result = Spec.of(device, dtype, reduced_shape(shape, axes, options["keepdims"]))
            strides = Spec.of(device, dtype, small).strides
        else:
            walked, target = given, shape
            strides = permuted_strides(shape, [(shape, specs[0].strides)])
            result = Spec.of(device, dtype, shape, strides)
            strides = result.strides
        launch = map_launch(
            device,
            self.name,
            [with_results(expr, len(walked) - len(stages))],
            target,
            [(s.dtype, s.shape, s.strides) for s in walked],
            [(dtype, strides)],
            params,
        )
        finish = runner(device, launch, result, len(walked))
        skip = len(given) - len(walked)

        def run(*tensors: Tensor) -> Tensor:
            known = list(tensors)
            for reduction in reductions:
                known.append(reduction(*known))
            return finish(*known[skip:])

        return run

    def _kernel(
        self,
        device: Device,
        specs: Sequence[Spec],
        axes: tuple[int, ...],
        options: dict[str, Any],
        n: int,
    ) -> Callable[..., Tensor]:
        shape, dtype = specs[0].shape, specs[0].dtype
        if self.reduces:
            result = Spec.of(device, dtype, reduced_shape(shape, axes, options["keepdims"]))
            wide = Spec.of(device, dtype, reduced_shape(shape, axes, True))
            out = broadcast_strides(wide.shape, wide.strides, shape)
        else:
            out = permuted_strides(shape, [(shape, specs[0].strides)])
            result = Spec.of(device, dtype, shape, out)
            out = result.strides
        kept = [k for k in range(len(shape)) if k not in axes]
        strides = [*(broadcast_strides(s.shape, s.strides, shape) for s in specs), out]
        reduced, inner = collapse(
            tuple(shape[a] for a in axes), [tuple(s[a] for a in axes) for s in strides]
        )
        outer, walks = collapse(
            tuple(shape[k] for k in kept), [tuple(s[k] for k in kept) for s in strides]
        )
        if len(reduced) > 1 or len(outer) > DIMS:
            return self._through_copy(device, specs, axes, options, n)
        stages, exprs, params = self.body(dtype, len(specs), n=n, **options)
        operands = [Operand(dtype, step_of(s[0], n)) for s in inner]
        if self.reduces:
            operands[-1] = Operand(dtype, "s")
        kernel = Rows(
            self.name,
            tuple(operands[:-1]),
            (operands[-1],),
            stages,
            exprs,
            tuple(d for d, _ in params),
        )
        words = [Strided.words(0, s[0], w) for s, w in zip(inner, walks, strict=True)]
        meta = kernel.meta(n, outer, words, [bits_of(v, d) for d, v in params])
        first = len(meta) - len(params) - Strided.WORDS * len(words)
        places = [first + Strided.WORDS * k for k in range(len(words))]
        groups = kernel.groups(device.backend.dialect, n, math.prod(outer))
        launch = Launch(device, kernel, meta, places, groups if result.size else 0)
        allocate, bind = device.backend.allocate, launch.bind

        def run(*tensors: Tensor) -> Tensor:
            buffer = allocate(result.nbytes)
            bind((*(t._offset for t in tensors), 0))(*(t._buffer for t in tensors), buffer)
            return Tensor(buffer, result)

        return run

    def _through_copy(
        self,
        device: Device,
        specs: Sequence[Spec],
        axes: tuple[int, ...],
        options: dict[str, Any],
        n: int,
    ) -> Callable[..., Tensor]:
        """Dimensions that do not merge: lay the operands out so that they do."""
        shape = specs[0].shape
        kept = tuple(k for k in range(len(shape)) if k not in axes)
        order = (*kept, *axes)
        back = tuple(order.index(k) for k in range(len(shape)))
        packed = [Spec.of(device, s.dtype, tuple(shape[k] for k in order)) for s in specs]
        last = tuple(range(len(kept), len(shape)))
        inner = self._kernel(device, packed, last, {**options, "axes": last}, n)
        ((_, final),) = self.infer(specs, options)

        def run(*tensors: Tensor) -> Tensor:
            laid = [
                ops.contiguous(ops.permute_dims(ops.broadcast_to(t.detach(), shape), order))
                for t in tensors
            ]
            result = inner(*laid)
            return ops.reshape(result, final) if self.reduces else ops.permute_dims(result, back)

        return run
