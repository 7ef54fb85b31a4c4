"""How launches walk memory: classes of strides, orders of dimensions, the words of a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorbus_backends import ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import Kernel, Map, Operand, Strided
from tensorbus_backends.kernels.base import bits_of

from ._devices import Device
from ._plan import Arg
from ._recent import Recent
from ._sizes import Size
from ._spec import Shape, broadcast_strides, collapse, contiguous_strides

__all__ = ["FLAT_BELOW", "map_step", "permuted_strides", "step_of", "word"]

FLAT_BELOW = 16
"""Rows shorter than this are not worth a row's set-up: every element finds its own place."""


def word(value: float | int, dtype: DType) -> int:
    """A launch scalar as the word that carries it, open if it is."""
    if isinstance(value, Size):
        return value.bits(bits_of, dtype)
    return bits_of(value, dtype)


def step_of(stride: int, size: int) -> str:
    """Inner stride class of an operand."""
    if size == 1 or stride == 1:
        return "c"
    return "s" if stride == 0 else "g"


def permuted_strides(shape: Shape, inputs: Sequence[tuple[Shape, Shape]]) -> Shape:
    """Strides for an output that keeps the memory order of its inputs (NumPy's order "K").

    Args:
        shape: Output shape.
        inputs: Shape and strides of each operand.
    """
    candidates = [st for sh, st in inputs if sh == shape]
    if not candidates or any(c == contiguous_strides(shape) for c in candidates):
        return contiguous_strides(shape)
    order = sorted(range(len(shape)), key=lambda k: -abs(candidates[0][k]))
    sizes = [shape[k] for k in order]
    dense = contiguous_strides(sizes)
    if any(abs(candidates[0][k]) != d for k, d in zip(order, dense, strict=True) if shape[k] > 1):
        return contiguous_strides(shape)
    strides = [0] * len(shape)
    for k, d in zip(order, dense, strict=True):
        strides[k] = d
    return tuple(strides)


def _memory_order(shape: Shape, outputs: Sequence[Shape]) -> list[int]:
    """Order of dimensions in which the first output is walked with falling strides."""
    if not outputs:
        return list(range(len(shape)))
    return sorted(range(len(shape)), key=lambda k: (-abs(outputs[0][k]), k))


class _Body:
    """A map's expressions, checked against their operands once; its kernels by layout."""

    __slots__ = ("indexed", "kernels")

    def __init__(self, indexed: bool) -> None:
        self.indexed = indexed
        self.kernels: dict[tuple[tuple[str, ...], str], Map] = {}


_bodies: Recent[Any, _Body] = Recent(1 << 11)


def map_step(
    device: Device,
    label: str,
    exprs: tuple[Expr, ...],
    shape: Shape,
    inputs: Sequence[Arg],
    outputs: Sequence[Arg],
    params: Sequence[tuple[DType, float | int]],
) -> tuple[Kernel, list[int], Sequence[int], int]:
    """The launch of an elementwise kernel; arguments as for `Planner.map`.

    Returns:
        Kernel, words, places of offsets among them, number of groups.
    """
    dtypes = [a.dtype for a in (*inputs, *outputs)]
    scalars = tuple([d for d, _ in params])
    key = (label, exprs, len(inputs), tuple(dtypes), scalars)
    body = _bodies.find(key)
    if body is None:
        given = dtypes[: len(inputs)]
        body = _bodies.keep(key, _Body(ir.validate_leaves(exprs, given, scalars)))
    strided = [
        None if a.shape is None else broadcast_strides(a.shape, a.strides, shape) for a in inputs
    ]
    walked = [s for s in strided if s is not None] + [a.strides for a in outputs]
    if not body.indexed and len(shape) > 1:
        order = _memory_order(shape, [a.strides for a in outputs])
        shape = tuple([shape[k] for k in order])
        walked = [tuple([s[k] for k in order]) for s in walked]
    size = 1
    for n in shape:
        size *= n
    dims, walked = collapse(shape, walked)
    inner, outer = dims[-1], dims[:-1]
    layout = "flat" if outer and inner < FLAT_BELOW else "rows"
    kinds: list[str] = []
    words: list[list[int]] = []
    steps = iter(walked)
    for k in range(len(dtypes)):
        if k < len(inputs) and strided[k] is None:
            kinds.append("-")
            words.append(Strided.words(0, 0, []))
            continue
        step = next(steps)
        flat = layout == "flat" and step[-1] not in (0, 1)
        kinds.append("g" if flat else step_of(step[-1], inner))
        words.append(Strided.words(0, step[-1], step[:-1]))
    form = (tuple(kinds), layout)
    if form not in body.kernels:
        operands = tuple(Operand(d, kind) for d, kind in zip(dtypes, kinds, strict=True))
        ins, outs = operands[: len(inputs)], operands[len(inputs) :]
        body.kernels[form] = Map(label, ins, outs, exprs, scalars, layout)
    kernel = body.kernels[form]
    rows = size // inner if size else 0
    groups = kernel.groups(device.backend.dialect, inner, rows) if size else 0
    meta = kernel.meta(inner, outer, words, [word(v, d) for d, v in params])
    first = len(meta) - len(params) - Strided.WORDS * len(kinds)
    places = tuple([first + Strided.WORDS * k for k in range(len(kinds))])
    return kernel, meta, places, groups
