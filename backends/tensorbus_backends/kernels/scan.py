"""Scan: running results inside blocks of `BLOCK` elements, and each block's total.

A cumulative op is three steps: this kernel; the same op on the totals (recursively, while there is
more than one block); a map that combines each element with the total of all earlier blocks.  In a
block the order is sequential from the identity, so the whole order is fixed: docs/order.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import interp, ir
from ..clike import ctype, write_text
from ..dialect import Dialect
from ..dtypes import DType
from ..ir import Expr
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
    row_text,
)
from .reduce import Monoid, _identity_text, _pair_text

__all__ = ["BLOCK", "Scan"]

BLOCK = 128
_GROUP = 64

# Metadata: n, blocks per row, outer dims, their sizes, the operand, offsets of the two outputs.
_N, _BLOCKS, _DIMS, _SHAPE = 0, 1, 2, 3
_OPERAND = 3 + DIMS
_OUT = _OPERAND + Strided.WORDS


@dataclass(frozen=True)
class Scan(Kernel):
    """Inclusive scan inside blocks.

    Buffers: the operand; local results, contiguous [rows, n], accumulation dtype; totals,
    contiguous [rows, blocks], accumulation dtype.

    Attributes:
        label: Op name.
        operand: The scanned operand; its inner stride walks the scanned dimension.
        expr: Value of an element (``input 0``), in accumulation dtype.
        monoid: How two values combine.
    """

    __hash__ = Kernel.__hash__

    label: str
    operand: Operand
    expr: Expr
    monoid: Monoid

    @property
    def acc(self) -> DType:
        return self.expr.dtype

    def expressions(self) -> Sequence[Expr]:
        return (self.expr,)

    def shape_key(self) -> str:
        return f"{self.operand.dtype.name}{self.operand.step}{self.monoid.name}"

    @property
    def words(self) -> int:
        return _OUT + 2

    def arguments(self) -> list[Argument]:
        return [
            Argument("x0", self.operand.dtype),
            Argument("y0", self.acc, True),
            Argument("y1", self.acc, True),
        ]

    def meta(self, n: int, outer: Sequence[int], operand: Sequence[int]) -> list[int]:
        """Metadata words; outputs start at the beginning of their buffers."""
        blocks = -(-n // BLOCK)
        return [n, blocks, len(outer), *outer, *([1] * (DIMS - len(outer))), *operand, 0, 0]

    def groups(self, dialect: Dialect | None, n: int, rows: int) -> int:
        """Number of groups to launch."""
        blocks = -(-n // BLOCK)
        return rows * -(-blocks // _GROUP)

    def source(self, dialect: Dialect) -> str:
        strided = Strided("x0", self.operand, _OPERAND)
        emitter = Emitter(lambda node: "in0")
        lines, (value,) = emitter.statements([self.expr])
        t = ctype(self.acc)
        pair, combined = _pair_text(self.monoid, self.acc, "running", "value")
        step = indent(
            "\n".join(
                [
                    f"const {ctype(self.operand.dtype.compute)} in0 = {strided.read('i')};",
                    *lines,
                    f"const {t} value = {value};",
                    *pair,
                    f"running = {combined};",
                    f"y0[row * M({_N}) + i] = {write_text(self.acc, self.acc, 'running')};",
                ]
            ),
            2,
        )
        body = f"""\
const i64 parts = (M({_BLOCKS}) + {_GROUP - 1}) / {_GROUP};
const i64 row = g / parts, first = (g - row * parts) * {_GROUP};
const i32 count = (i32)(M({_BLOCKS}) - first < {_GROUP} ? M({_BLOCKS}) - first : {_GROUP});
{row_text([strided], "row", "0", _DIMS, _SHAPE)}
LANES(l, count) {{
    const i64 start = (first + l) * {BLOCK};
    const i64 end = start + {BLOCK} < M({_N}) ? start + {BLOCK} : M({_N});
    {t} running = {_identity_text(self.monoid, self.acc)};
    for (i64 i = start; i < end; ++i) {{
{step}
    }}
    y1[row * M({_BLOCKS}) + first + l] = running;
}}"""
        return assemble(
            dialect,
            self.name,
            self.arguments(),
            self.words,
            indent(body),
            tables=emitter.tables,
            offsets=[_OPERAND, _OUT, _OUT + 1],
        )

    def interpret(
        self, arrays: Sequence[NDArray[Any]], meta: NDArray[np.int64], groups: int
    ) -> None:
        n, blocks = int(meta[_N]), int(meta[_BLOCKS])
        step = {"c": 1, "s": 0}.get(self.operand.step, int(meta[_OPERAND + 1]))
        bases = operand_offsets(meta, _OPERAND, _DIMS, _SHAPE)
        places = bases[:, None] + np.arange(n, dtype=np.int64) * step
        stored = interp.widen(arrays[0][places], self.operand.dtype)
        (values,) = interp.evaluate([self.expr], lambda node: stored)
        (identity,) = interp.evaluate([self.monoid.identity(self.acc)], lambda node: stored)
        pair = self.monoid.combine(ir.input_(0, self.acc), ir.input_(1, self.acc))
        rows = bases.size
        padded = np.full((rows, blocks * BLOCK), identity, self.acc.numpy)
        padded[:, :n] = values
        padded = padded.reshape(rows, blocks, BLOCK)
        running = np.full((rows, blocks), identity, self.acc.numpy)
        local = np.empty_like(padded)
        for i in range(BLOCK):
            both = (running, padded[:, :, i])

            def leaf(node: Expr, both: Any = both) -> NDArray[Any]:
                return np.asarray(both[node.attr])

            (running,) = interp.evaluate([pair], leaf)
            local[:, :, i] = running
        out = local.reshape(rows, blocks * BLOCK)[:, :n]
        first, second = int(meta[_OUT]), int(meta[_OUT + 1])
        arrays[1][first : first + rows * n] = out.reshape(-1)
        arrays[2][second : second + rows * blocks] = running.reshape(-1)
