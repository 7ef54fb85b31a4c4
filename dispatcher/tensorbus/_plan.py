"""Planning: from specs to kernels, metadata and launches.

A plan is made once for each combination of op, specs, options and settings.  What it leaves for
every further call is an allocation and a launch with ready metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tensorbus_backends import ir
from tensorbus_backends.contract import Buffer
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import Kernel, Map, Operand, Strided, pack
from tensorbus_backends.kernels.base import bits_of

from ._devices import Device
from ._spec import Shape, Spec, broadcast_strides, collapse, contiguous_strides

__all__ = ["FLAT_BELOW", "Launch", "Plan", "map_launch", "permuted_strides", "step_of"]

FLAT_BELOW = 16
"""Rows shorter than this are not worth a row's set-up: every element finds its own place."""

_KEPT_OFFSETS = 64


@dataclass(frozen=True)
class Plan:
    """How calls of one kind are served.

    Attributes:
        run: From operands to the result (a tensor or a tuple of them).
        variant: ``"native"``, ``"portable"`` or ``"fallback"``.
        library: Whose code runs, where native; which device, where fallback.
    """

    run: Callable[..., Any]
    variant: str = "portable"
    library: str = ""


class Launch:
    """A kernel with its metadata; buffers and their offsets are still open.

    Args:
        device: Where it runs.
        kernel: What runs.
        words: Metadata, with 0 for the offsets.
        places: For each buffer the word of its element offset.
        groups: Number of groups; 0 launches nothing.
    """

    __slots__ = ("_backend", "_bound", "_compiled", "_groups", "_places", "_words", "kernel")

    def __init__(
        self,
        device: Device,
        kernel: Kernel,
        words: Sequence[int],
        places: Sequence[int],
        groups: int,
    ) -> None:
        self.kernel = kernel
        self._backend = device.backend
        self._compiled = device.kernel(kernel) if groups else None
        self._words, self._places, self._groups = list(words), tuple(places), groups
        self._bound: dict[tuple[int, ...], Callable[..., None]] = {}

    def bind(self, offsets: tuple[int, ...]) -> Callable[..., None]:
        """A function of the buffers that launches with these element offsets."""
        found = self._bound.get(offsets)
        if found is not None:
            return found
        words = list(self._words)
        for place, offset in zip(self._places, offsets, strict=True):
            words[place] = offset
        meta = pack(words)
        compiled, groups, backend = self._compiled, self._groups, self._backend
        prepare = getattr(compiled, "prepare", None)
        call: Callable[..., None]
        if compiled is None:

            def call(*buffers: Buffer) -> None:
                return None

        elif prepare is not None:
            call = prepare(groups, meta)
        else:

            def call(*buffers: Buffer) -> None:
                backend.launch(compiled, groups, buffers, meta)

        if len(self._bound) >= _KEPT_OFFSETS:
            self._bound.clear()
        self._bound[offsets] = call
        return call

    def __call__(self, *operands: tuple[Buffer, int]) -> None:
        """Launch on (buffer, element offset) pairs."""
        buffers = [b for b, _ in operands]
        self.bind(tuple([o for _, o in operands]))(*buffers)


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


def map_launch(
    device: Device,
    label: str,
    exprs: Sequence[Expr],
    shape: Shape,
    inputs: Sequence[tuple[DType, Shape, Shape] | DType],
    outputs: Sequence[tuple[DType, Shape]],
    params: Sequence[tuple[DType, float | int]] = (),
) -> Launch:
    """Plan an elementwise launch.

    Args:
        device: Where.
        label: Op name.
        exprs: One for each output; ``index`` is the C-order index in `shape`.
        shape: Output shape.
        inputs: (dtype, shape, strides), broadcast to `shape`; or a dtype alone for an operand that
            is only read through `ir.load`.
        outputs: (dtype, strides).
        params: Launch scalars: (dtype, value).

    Returns:
        A launch whose buffers are the inputs, then the outputs.
    """
    given = [i if isinstance(i, DType) else i[0] for i in inputs]
    indexed = ir.validate_leaves(exprs, given, [d for d, _ in params])
    strided = [
        None if isinstance(i, DType) else broadcast_strides(i[1], i[2], shape) for i in inputs
    ]
    walked = [s for s in strided if s is not None] + [st for _, st in outputs]
    if not indexed:
        order = _memory_order(shape, [st for _, st in outputs])
        shape = tuple(shape[k] for k in order)
        walked = [tuple(s[k] for k in order) for s in walked]
    size = 1
    for n in shape:
        size *= n
    dims, walked = collapse(shape, walked)
    inner, outer = dims[-1], dims[:-1]
    layout = "flat" if outer and inner < FLAT_BELOW else "rows"
    operands: list[Operand] = []
    words: list[list[int]] = []
    steps = iter(walked)
    dtypes = given + [d for d, _ in outputs]
    for k, dtype in enumerate(dtypes):
        if k < len(inputs) and strided[k] is None:
            operands.append(Operand(dtype, "-"))
            words.append(Strided.words(0, 0, []))
            continue
        step = next(steps)
        kind = "g" if layout == "flat" and step[-1] not in (0, 1) else step_of(step[-1], inner)
        operands.append(Operand(dtype, kind))
        words.append(Strided.words(0, step[-1], step[:-1]))
    kernel = Map(
        label,
        tuple(operands[: len(inputs)]),
        tuple(operands[len(inputs) :]),
        tuple(exprs),
        tuple(d for d, _ in params),
        layout,
    )
    rows = size // inner if size else 0
    groups = kernel.groups(device.backend.dialect, inner, rows) if size else 0
    meta = kernel.meta(inner, outer, words, [bits_of(v, d) for d, v in params])
    first = len(meta) - len(params) - Strided.WORDS * len(operands)
    places = [first + Strided.WORDS * k for k in range(len(operands))]
    return Launch(device, kernel, meta, places, groups)


def same_device(op: str, specs: Sequence[Spec]) -> Device:
    """The device of all operands.

    Raises:
        ValueError: They are on different devices; the message says how to move one.
    """
    device = specs[0].device
    for spec in specs[1:]:
        if spec.device is not device:
            raise ValueError(
                f"{op}: operands are on {device} and {spec.device}; move one, for example with "
                f"x.to_device({device.name!r})"
            )
    return device
