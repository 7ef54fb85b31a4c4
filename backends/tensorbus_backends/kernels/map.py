"""Map: every output element is an expression of one element of each operand.

Operands are addressed by strides, or read anywhere with `ir.load`, so gathers, searches, merges of
sorted runs and segmented sums are maps too; no kernel ever scatters, and so none can race.

Two layouts: ``"rows"`` walks outer dimensions once per row of the innermost one, ``"flat"`` (for
short rows) computes every element's position from its index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import interp
from ..clike import ctype, write_text
from ..dialect import Dialect
from ..dtypes import DType
from ..ir import Expr, walk
from .base import (
    DIMS,
    Argument,
    Emitter,
    Kernel,
    Operand,
    Strided,
    assemble,
    indent,
    operand_offsets,
    param_text,
    param_value,
    row_text,
)

__all__ = ["Map"]

# Metadata: n_inner, number of outer dims, their sizes, then the operands, then launch scalars.
_INNER, _DIMS, _SHAPE = 0, 1, 2
_OPERANDS = 2 + DIMS


@dataclass(frozen=True)
class Map(Kernel):
    """An elementwise kernel.

    Attributes:
        label: Op name, part of the kernel's name.
        inputs: Operands in slot order.
        outputs: Written operands, one for each expression.
        exprs: Values to store; ``index`` is the C-order index of the element.
        params: Dtypes of launch scalars.
        layout: ``"rows"`` or ``"flat"``.
    """

    __hash__ = Kernel.__hash__

    label: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    exprs: tuple[Expr, ...]
    params: tuple[DType, ...] = ()
    layout: str = "rows"

    def expressions(self) -> Sequence[Expr]:
        return self.exprs

    def shape_key(self) -> str:
        operands = [(o.dtype.name, o.step) for o in (*self.inputs, *self.outputs)]
        return f"{operands}{len(self.inputs)}{[p.name for p in self.params]}{self.layout}"

    @property
    def words(self) -> int:
        count = len(self.inputs) + len(self.outputs)
        return _OPERANDS + Strided.WORDS * count + len(self.params)

    def arguments(self) -> list[Argument]:
        return [Argument(f"x{k}", o.dtype) for k, o in enumerate(self.inputs)] + [
            Argument(f"y{k}", o.dtype, True) for k, o in enumerate(self.outputs)
        ]

    def meta(
        self,
        inner: int,
        outer: Sequence[int],
        operands: Sequence[Sequence[int]],
        params: Sequence[int] = (),
    ) -> list[int]:
        """Metadata words; `operands` come from `Strided.words`, `params` from `bits_of`."""
        words = [inner, len(outer), *outer, *([1] * (DIMS - len(outer)))]
        for o in operands:
            words += o
        return [*words, *params]

    def groups(self, dialect: Dialect | None, inner: int, rows: int) -> int:
        """Number of groups to launch."""
        block = dialect.block if dialect else inner or 1
        if self.layout == "flat":
            return -(-inner * rows // block)
        return rows * -(-inner // block)

    def _strided(self) -> list[Strided]:
        operands = (*self.inputs, *self.outputs)
        names = [a.name for a in self.arguments()]
        return [
            Strided(n, o, _OPERANDS + Strided.WORDS * k)
            for k, (n, o) in enumerate(zip(names, operands, strict=True))
        ]

    def source(self, dialect: Dialect) -> str:
        strided = self._strided()
        first_param = _OPERANDS + Strided.WORDS * len(strided)
        flat = self.layout == "flat"
        lane = "k" if flat else "l"

        def leaf(node: Expr) -> str:
            if node.op == "input":
                return f"in{node.attr}"
            if node.op == "param":
                return f"p{node.attr}"
            return "index"

        emitter = Emitter(leaf)
        lines, values = emitter.statements(self.exprs)
        used = {n.attr for n in _leaves(self.exprs, "input")}
        reads = [
            f"const {_ct(o.dtype)} in{k} = {strided[k].read(lane)};"
            for k, o in enumerate(self.inputs)
            if k in used
        ]
        writes = [
            f"y{k}[{s.at(lane)}] = {write_text(e.dtype, s.operand.dtype, v)};"
            for k, (s, e, v) in enumerate(
                zip(strided[len(self.inputs) :], self.exprs, values, strict=True)
            )
        ]
        params = [
            f"const {_ct(p)} p{k} = {param_text(first_param + k, p)};"
            for k, p in enumerate(self.params)
        ]
        indexed = any(True for _ in _leaves(self.exprs, "index"))
        block = dialect.block
        if flat:
            head = [
                f"const i64 first = g * {block}, size = M({_INNER}) * tb_rows;",
                f"const i32 count = (i32)(size - first < {block} ? size - first : {block});",
            ]
            rows = [
                "i64 tb_rows = 1;",
                f"for (i32 d = 0; d < (i32)M({_DIMS}); ++d)",
                f"    tb_rows *= M({_SHAPE} + d);",
            ]
            inner = [
                "const i64 element = first + l, row = element / M(0), k = element - row * M(0);",
                row_text(strided, "row", "0", _DIMS, _SHAPE),
            ]
            index = ["const i64 index = element;"] if indexed else []
            head = rows + head
        else:
            head = [
                f"const i64 blocks = (M({_INNER}) + {block - 1}) / {block};",
                # 64-bit division is dear on a GPU, and most launches have one row.
                "const i64 row = g < blocks ? 0 : g / blocks;",
                f"const i64 first = (g - row * blocks) * {block};",
                f"const i64 left = M({_INNER}) - first;",
                f"const i32 count = (i32)(left < {block} ? left : {block});",
                row_text(strided, "row", "first", _DIMS, _SHAPE),
            ]
            inner = []
            index = [f"const i64 index = row * M({_INNER}) + first + l;"] if indexed else []
        region = "\n".join([*inner, *index, *reads, *lines, *writes])
        body = "\n".join([*head, *params, "LANES(l, count) {", indent(region), "}"])
        return assemble(
            dialect,
            self.name,
            self.arguments(),
            self.words,
            indent(body),
            tables=emitter.tables,
            offsets=[s.base for s in strided],
        )

    def interpret(
        self, arrays: Sequence[NDArray[Any]], meta: NDArray[np.int64], groups: int
    ) -> None:
        n = int(meta[_INNER])
        lanes = np.arange(n, dtype=np.int64)
        places = []
        for s in self._strided():
            if s.operand.step == "-":
                places.append(np.empty(0, np.int64))
                continue
            step = {"c": 1, "s": 0}.get(s.operand.step, int(meta[s.base + 1]))
            rows = operand_offsets(meta, s.base, _DIMS, _SHAPE)
            places.append((rows[:, None] + lanes[None, :] * step).reshape(-1))
        bases = [int(meta[s.base]) for s in self._strided()]
        size = max(p.size for p in places)
        first_param = _OPERANDS + Strided.WORDS * len(places)

        def leaf_in(part: slice) -> Callable[[Expr], NDArray[Any]]:
            def leaf(node: Expr) -> NDArray[Any]:
                if node.op == "input":
                    k = node.attr
                    return interp.widen(arrays[k][places[k][part]], self.inputs[k].dtype)
                if node.op == "param":
                    word = int(meta[first_param + node.attr])
                    return param_value(word, self.params[node.attr])
                return np.arange(size, dtype=np.int64)[part]

            return leaf

        def load(slot: int, storage: DType, at: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(arrays[slot][bases[slot] + at])

        for start in range(0, size, 1 << 16):
            part = slice(start, min(start + (1 << 16), size))
            values = interp.evaluate(self.exprs, leaf_in(part), load)
            for k, value in enumerate(values):
                slot = len(self.inputs) + k
                full = np.broadcast_to(value, (part.stop - part.start,))
                arrays[slot][places[slot][part]] = interp.narrow(full, self.outputs[k].dtype)


def _leaves(exprs: Sequence[Expr], op: str) -> Iterator[Expr]:
    return (node for node in walk(*exprs) if node.op == op)


def _ct(dtype: DType) -> str:
    return ctype(dtype.compute)
