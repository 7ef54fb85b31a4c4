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
from tensorbus_backends.kernels.rows import MAX_ROW

from .. import _autograd, ops
from .._autograd import Context
from .._layout import permuted_strides, step_of, word
from .._op import Op
from .._plan import Value
from .._planner import Planner
from .._recent import kept
from .._spec import Shape, Spec, broadcast_strides, collapse
from .._tensor import Tensor
from ._moves import broadcast, filled, packed, permuted
from .reduction import reduce_into, reduced_shape

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

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        first, axes = values[0], options["axes"]
        shape = first.shape
        n = math.prod([shape[a] for a in axes])
        ((dtype, final),) = self.infer([v.spec for v in values], options)
        if n == 0:
            return filled(p, dtype, final, -math.inf)
        rows = first.size // n
        if n > MAX_ROW or (rows < _FEW_ROWS and n > _LONG_ROW) or self._by_column(first, axes):
            return self._staged(p, values, axes, options, n)
        return self._kernel(p, values, axes, options, n)

    @staticmethod
    def _by_column(x: Value, axes: tuple[int, ...]) -> bool:
        """Whether neighbours in memory belong to different rows."""
        shape, strides = x.shape, x.strides
        inner = [strides[a] for a in axes if shape[a] > 1]
        outer = [strides[k] for k in range(len(shape)) if k not in axes and shape[k] >= _COLUMNS]
        return bool(inner) and 1 not in inner and 1 in outer

    def _staged(
        self,
        p: Planner,
        values: Sequence[Value],
        axes: tuple[int, ...],
        options: dict[str, Any],
        n: int,
    ) -> Value:
        """The stages as reductions of their own and the map as one: more passes, the same bits."""
        shape, dtype = values[0].shape, values[0].dtype
        stages, (expr,), params = self.body(dtype, len(values), n=n, **options)
        small = reduced_shape(shape, axes, True)
        given = list(values)

        def with_results(root: Expr, first: int) -> Expr:
            """Results of stages as operands from `first` on, not launch scalars."""

            def replace(node: Expr) -> Expr | None:
                k = node.attr - len(params) if node.op == "param" else -1
                return ir.input_(first + k, node.dtype) if k >= 0 else None

            return ir.substitute(root, replace)

        for stage in stages:
            out = p.new(stage.result, small)
            value = with_results(stage.expr, len(values))
            reduce_into(p, self.name, given, axes, value, stage.monoid, out, stage.finish, params)
            given.append(out)
        if self.reduces:
            walked, target = given[len(values) :], small
            made = p.new(dtype, small)
        else:
            walked, target = given, shape
            made = p.new(dtype, shape, permuted_strides(shape, [(shape, values[0].strides)]))
        last = with_results(expr, len(walked) - len(stages))
        p.map(self.name, [last], target, walked, [made], params)
        if self.reduces:
            return p.view(made, reduced_shape(shape, axes, options["keepdims"]))
        return made

    def _kernel(
        self,
        p: Planner,
        values: Sequence[Value],
        axes: tuple[int, ...],
        options: dict[str, Any],
        n: int,
    ) -> Value:
        shape, dtype = values[0].shape, values[0].dtype
        kept = [k for k in range(len(shape)) if k not in axes]
        if self.reduces:
            wide = Spec.of(p.device, dtype, reduced_shape(shape, axes, True))
            out = broadcast_strides(wide.shape, wide.strides, shape)
            spec = Spec.of(p.device, dtype, reduced_shape(shape, axes, options["keepdims"]))
        else:
            out = permuted_strides(shape, [(shape, values[0].strides)])
            spec = Spec.of(p.device, dtype, shape, out)
            out = spec.strides
        strides = [*(broadcast_strides(v.shape, v.strides, shape) for v in values), out]
        reduced, inner = collapse(
            tuple([shape[a] for a in axes]), [tuple([s[a] for a in axes]) for s in strides]
        )
        outer, walks = collapse(
            tuple([shape[k] for k in kept]), [tuple([s[k] for k in kept]) for s in strides]
        )
        if len(reduced) > 1 or len(outer) > DIMS:
            return self._through_copy(p, values, axes, options, n)
        stages, exprs, params = self.body(dtype, len(values), n=n, **options)
        kinds = [step_of(s[0], n) for s in inner]
        if self.reduces:
            kinds[-1] = "s"
        scalars = tuple([d for d, _ in params])
        kernel = _rows_kernel(self.name, dtype, tuple(kinds), stages, exprs, scalars)
        words = [Strided.words(0, s[0], w) for s, w in zip(inner, walks, strict=True)]
        meta = kernel.meta(n, outer, words, [word(v, d) for d, v in params])
        first = len(meta) - len(params) - Strided.WORDS * len(words)
        places = [first + Strided.WORDS * k for k in range(len(words))]
        groups = kernel.groups(p.device.backend.dialect, n, math.prod(outer))
        made = p.place(spec)
        p.launch(kernel, meta, places, groups if spec.size else 0, [*values, made])
        return made

    def _through_copy(
        self,
        p: Planner,
        values: Sequence[Value],
        axes: tuple[int, ...],
        options: dict[str, Any],
        n: int,
    ) -> Value:
        """Dimensions that do not merge: lay the operands out so that they do."""
        shape = values[0].shape
        kept = tuple(k for k in range(len(shape)) if k not in axes)
        order = (*kept, *axes)
        laid = [packed(p, permuted(p, broadcast(p, v, shape), order)) for v in values]
        last = tuple(range(len(kept), len(shape)))
        made = self._kernel(p, laid, last, {**options, "axes": last}, n)
        if self.reduces:
            return p.view(made, reduced_shape(shape, axes, options["keepdims"]))
        return permuted(p, made, tuple(order.index(k) for k in range(len(shape))))


@kept(1024)
def _rows_kernel(
    label: str,
    dtype: DType,
    kinds: tuple[str, ...],
    stages: tuple[Stage, ...],
    exprs: tuple[Expr, ...],
    scalars: tuple[DType, ...],
) -> Rows:
    operands = tuple(Operand(dtype, kind) for kind in kinds)
    return Rows(label, operands[:-1], operands[-1:], stages, exprs, scalars)
