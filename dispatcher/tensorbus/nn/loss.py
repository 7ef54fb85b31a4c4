"""Losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tensorbus_backends import dtypes as dt, ir, scalar
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr

from .. import ops
from .._autograd import Context
from .._op import Op, apply, function, whole
from .._plan import Value
from .._planner import Planner
from .._recent import kept
from .._shown import shown
from .._spec import Shape, Spec, broadcast_shapes
from .._tensor import Tensor
from ..ops._common import normalize_axis, tensor_of
from ..ops._moves import filled
from ..ops.reduction import need_floating, widened
from .normalization import log_softmax

__all__ = ["cross_entropy", "mse_loss"]

Reduction = Literal["mean", "sum", "none"]


def _reduced(name: str, losses: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "mean":
        return ops.mean(losses)
    return ops.sum(losses) if reduction == "sum" else losses


def _check(name: str, reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction is 'mean', 'sum' or 'none', not {shown(reduction)}")


@function("loss", differentiable=True, namespace="nn")
def mse_loss(x: Tensor, target: Tensor, /, *, reduction: Reduction = "mean") -> Tensor:
    """Mean squared error: (x - target)^2, averaged, summed or element by element.

    Args:
        x: Floating.
        target: Floating; broadcasts with `x`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A 0-dimensional tensor, or with ``"none"`` one of the broadcast shape.

    Raises:
        TypeError: An operand is not floating.
        ValueError: The shapes do not broadcast, or `reduction` is unknown.
    """
    _check("mse_loss", reduction)
    for value, what in ((x, "x"), (target, "target")):
        tensor_of("mse_loss", value, what)
        need_floating("mse_loss", value)
    dtype = ops.result_type(x, target)
    shape = broadcast_shapes(x.shape, target.shape)
    made: Tensor | None = whole(
        "nn.mse_loss",
        [x, target],
        {"reduction": reduction},
        lambda: [(dtype, shape if reduction == "none" else ())],
    )
    if made is not None:
        return made
    # In compute dtype, so that 16-bit results are rounded once.
    difference = ops.subtract(widened(x), widened(target))
    loss = _reduced("mse_loss", ops.square(difference), reduction)
    return ops.astype(loss, dtype, copy=False)


class _Pick(Op):
    """-values[..., class] of each row; NaN where there is no such class.

    Operands: values, contiguous, classes last; integer classes of the leading shape.
    """

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(specs[0].dtype, specs[1].shape)]

    def build(self, p: Planner, operands: Sequence[Value], options: dict[str, Any]) -> Value:
        values, classes = operands
        dtype = values.dtype
        if values.size == 0:
            return filled(p, dtype, classes.shape, float("nan"))
        out = p.new(dtype, classes.shape)
        p.map(
            self.name,
            [_picked(dtype, classes.dtype)],
            classes.shape,
            [values.whole(), classes],
            [out],
            [(dt.int64, values.shape[-1])],
        )
        return out


@kept(64)
def _picked(dtype: DType, kind: DType) -> Expr:
    """Minus the value of the class that ``input 1`` names; scalar: number of classes."""
    count = ir.param(0, dt.int64)
    at = ir.cast(ir.input_(1, kind), dt.int64)
    inside = (at >= 0) & (at < count)
    place = ir.index() * count + ir.select(inside, at, ir.const(0, dt.int64))
    return ir.select(inside, -ir.load(0, dtype, place), scalar.nan(dtype.compute))


def _pick_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    values, target = c.input_spec(0), c.input(1)
    numbers = ops.arange(values.shape[-1], dtype=target.dtype, device=target.device)
    hit = ops.equal(ops.expand_dims(target, axis=-1), numbers)
    return [ops.where(hit, ops.expand_dims(ops.negative(g), axis=-1), 0.0), None]


def _pick_jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    t = tangents[0]
    return None if t is None else apply(_pick, [ops.contiguous(t), c.input(1)])


_pick = _Pick("nll", vjp=_pick_vjp, jvp=_pick_jvp)


@function("loss", differentiable=True, namespace="nn")
def cross_entropy(
    logits: Tensor,
    target: Tensor,
    /,
    *,
    axis: int = -1,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-sum_c t_c log_softmax(logits)_c, averaged over the items, summed, or one by one.

    Args:
        logits: Floating; the classes lie along `axis`.
        target: Integer classes, of the shape of `logits` without `axis`; or floating probabilities
            of the shape of `logits`.
        axis: Axis of the classes.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        label_smoothing: s in [0, 1]: the target becomes (1 - s) t + s / C for C classes.

    Returns:
        A 0-dimensional tensor, or with ``"none"`` one without `axis`.  A class that does not exist
        gives NaN: to raise an error, every call would have to wait for the device.

    Raises:
        TypeError: `logits` is not floating, or `target` is bool.
        ValueError: The shapes do not fit, or an option is out of range.
        IndexError: The axis is out of range.
    """
    name = "cross_entropy"
    _check(name, reduction)
    tensor_of(name, logits, "logits")
    tensor_of(name, target, "target")
    need_floating(name, logits)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{name}: label_smoothing={label_smoothing} is not in [0, 1]")
    along = normalize_axis(name, axis, logits.ndim)
    rest = (*logits.shape[:along], *logits.shape[along + 1 :])
    _check_target(name, logits, target, rest, axis)
    made: Tensor | None = whole(
        "nn.cross_entropy",
        [logits, target],
        {"axis": along, "reduction": reduction, "label_smoothing": float(label_smoothing)},
        lambda: [(logits.dtype, rest if reduction == "none" else ())],
    )
    if made is not None:
        return made
    if logits.dtype.compute is not logits.dtype:
        # In compute dtype, so that 16-bit results are rounded once.
        loss = cross_entropy(
            widened(logits),
            target,
            axis=axis,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
        return ops.astype(loss, logits.dtype)
    scores = ops.moveaxis(log_softmax(logits, axis=along), along, -1)
    share = label_smoothing / max(logits.shape[along], 1)
    if target.dtype.is_float:
        weights = ops.moveaxis(ops.astype(target, logits.dtype, copy=False), along, -1)
        if label_smoothing:
            weights = ops.add(ops.multiply(weights, 1 - label_smoothing), share)
        # 0 log 0 counts as 0; where the logarithm is finite, probability 0 has its slope.
        none = ops.logical_and(ops.equal(weights, 0), ops.isinf(scores))
        terms = ops.multiply(weights, ops.where(none, 0.0, scores))
        return _reduced(name, ops.negative(ops.sum(terms, axis=-1)), reduction)
    losses = apply(_pick, [ops.contiguous(scores), target])
    if label_smoothing:
        spread = ops.multiply(ops.sum(scores, axis=-1), -share)
        losses = ops.add(ops.multiply(losses, 1 - label_smoothing), spread)
    return _reduced(name, losses, reduction)


def _check_target(name: str, logits: Tensor, target: Tensor, rest: Shape, axis: int) -> None:
    if target.dtype.is_float:
        if target.shape != logits.shape:
            raise ValueError(
                f"{name}: target probabilities have shape {target.shape}, logits {logits.shape}"
            )
        return
    if not target.dtype.is_integer:
        raise TypeError(
            f"{name}: target holds integer classes or floating probabilities, not "
            f"{target.dtype.name}"
        )
    if target.shape != rest:
        raise ValueError(
            f"{name}: classes have shape {target.shape}; logits of shape {logits.shape} with "
            f"axis={axis} need {rest}"
        )
