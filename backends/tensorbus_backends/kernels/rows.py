"""Rows: several reductions over each row and a map that uses them, in one pass over memory.

softmax is two stages (greatest element; sum of exp(x - it)) and a map; layer_norm is two stages
and a map.  One group handles one row, so a row that fits the cache is read from memory once.  The
stages reduce in the canonical order of `reduce`, so results equal those of separate kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from .reduce import (
    AT_ONCE,
    CHUNK,
    LANES,
    Monoid,
    _identity_text,
    _pair_text,
    chunk_text,
    reduce_lanes,
)

__all__ = ["MAX_ROW", "Rows", "Stage"]

MAX_ROW = CHUNK * CHUNK
"""Longest row: its chunks are themselves one chunk."""

# Metadata: n, outer dims, their sizes, operands (inputs, then outputs), params.
_N, _DIMS, _SHAPE = 0, 1, 2
_OPERANDS = 2 + DIMS


@dataclass(frozen=True)
class Stage:
    """One reduction over a row.

    Attributes:
        expr: What is reduced, from inputs and the results of earlier stages; a stage's result is
            ``param(len(params) + k)``.
        monoid: How two values combine.
        finish: From the reduced value (``input 0``) to the stage's result.
    """

    expr: Expr
    monoid: Monoid
    finish: Expr | None = None

    @property
    def result(self) -> DType:
        return (self.expr if self.finish is None else self.finish).dtype


@dataclass(frozen=True)
class Rows(Kernel):
    """A kernel that reduces each row and maps it.

    Attributes:
        label: Op name.
        inputs: Operands, walked along the row by their inner stride.
        outputs: Written operands, one for each of `exprs`; where all have inner stride 0, a row
            is written once.
        stages: Reductions, in order.
        exprs: Values to store for each element.
        params: Dtypes of launch scalars; they come before the stages in ``param`` numbering.
    """

    __hash__ = Kernel.__hash__

    label: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    stages: tuple[Stage, ...]
    exprs: tuple[Expr, ...]
    params: tuple[DType, ...] = ()

    def expressions(self) -> Sequence[Expr]:
        stages = [e for s in self.stages for e in (s.expr, s.finish) if e is not None]
        return (*stages, *self.exprs)

    def shape_key(self) -> str:
        operands = [(o.dtype.name, o.step) for o in (*self.inputs, *self.outputs)]
        stages = [(s.monoid.name, s.finish is None) for s in self.stages]
        return f"{operands}{len(self.inputs)}{stages}{[p.name for p in self.params]}"

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
        n: int,
        outer: Sequence[int],
        operands: Sequence[Sequence[int]],
        params: Sequence[int] = (),
    ) -> list[int]:
        """Metadata words; `operands` come from `Strided.words`, `params` from `bits_of`."""
        words = [n, len(outer), *outer, *([1] * (DIMS - len(outer)))]
        for o in operands:
            words += o
        return [*words, *params]

    def groups(self, dialect: Dialect | None, n: int, rows: int) -> int:
        """One for each row."""
        return rows

    def local_bytes(self, dialect: Dialect) -> int:
        return sum(2 * LANES * s.expr.dtype.itemsize + 8 for s in self.stages)

    def _strided(self) -> list[Strided]:
        operands = (*self.inputs, *self.outputs)
        return [
            Strided(a.name, o, _OPERANDS + Strided.WORDS * k)
            for k, (a, o) in enumerate(zip(self.arguments(), operands, strict=True))
        ]

    def _leaf(self, node: Expr) -> str:
        if node.op == "param":
            k = node.attr - len(self.params)
            return f"p{node.attr}" if k < 0 else f"r{k}"
        return {"input": f"in{node.attr}"}.get(node.op, "index")

    def _reads(self, exprs: Sequence[Expr], at: str) -> list[str]:
        used = {n.attr for n in walk(*exprs) if n.op == "input"}
        lines = [
            f"const {ctype(s.operand.dtype.compute)} in{k} = {s.read(at)};"
            for k, s in enumerate(self._strided()[: len(self.inputs)])
            if k in used
        ]
        if any(n.op == "index" for n in walk(*exprs)):
            lines.append(f"const i64 index = {at};")
        return lines

    def source(self, dialect: Dialect) -> str:
        strided = self._strided()
        tables: dict[str, str] = {}
        first_param = _OPERANDS + Strided.WORDS * len(strided)
        parts = [
            f"const {ctype(p.compute)} p{k} = {param_text(first_param + k, p)};"
            for k, p in enumerate(self.params)
        ]
        parts.append(row_text(strided, "g", "0", _DIMS, _SHAPE))
        parts.append(f"const i64 n = M({_N});")
        local: list[tuple[str, str, int]] = []
        for k, stage in enumerate(self.stages):
            t = ctype(stage.expr.dtype)
            local += [(t, f"acc{k}", LANES), (t, f"top{k}", LANES)]
            local.append((ctype(stage.result), f"result{k}", 1))
            parts.append(self._stage(dialect, k, stage, tables))
        emitter = Emitter(self._leaf, prefix="w")
        lines, values = emitter.statements(self.exprs)
        tables |= emitter.tables
        outs = strided[len(self.inputs) :]
        writes = [
            f"y{k}[{s.at('(start + l)')}] = {write_text(e.dtype, s.operand.dtype, v)};"
            for k, (s, e, v) in enumerate(zip(outs, self.exprs, values, strict=True))
        ]
        region = "\n".join([*self._reads(self.exprs, "(start + l)"), *lines, *writes])
        once = all(o.step == "s" for o in self.outputs)
        parts.append(
            f"LANES(l, 1) {{\n    const i64 start = 0;\n{indent(region)}\n}}"
            if once
            else f"for (i64 start = 0; start < n; start += {CHUNK}) {{\n"
            f"    const i32 count = (i32)(n - start < {CHUNK} ? n - start : {CHUNK});\n"
            f"    LANES(l, count) {{\n{indent(region, 2)}\n    }}\n}}"
        )
        return assemble(
            dialect,
            self.name,
            self.arguments(),
            self.words,
            indent("\n".join(parts)),
            local=local,
            tables=tables,
            offsets=[s.base for s in strided],
        )

    def _stage(self, dialect: Dialect, k: int, stage: Stage, tables: dict[str, str]) -> str:
        acc = stage.expr.dtype
        t = ctype(acc)
        emitter = Emitter(self._leaf)
        lines, (value,) = emitter.statements([stage.expr])
        tables |= emitter.tables

        def element(at: str) -> list[str]:
            place = f"(start + {at})"
            return [*self._reads([stage.expr], place), *lines, f"const {t} value = {value};"]

        finish = stage.finish
        last: list[str] = []
        result = "reduced"
        if finish is not None:
            finisher = Emitter(
                lambda node: "reduced" if node.op == "input" else self._leaf(node), prefix="z"
            )
            last, (result,) = finisher.statements([finish])
            tables |= finisher.tables
        chunk = chunk_text(dialect, stage.monoid, acc, element).replace("acc[", f"acc{k}[")
        join, joined = _pair_text(stage.monoid, acc, f"top{k}[lane]", f"acc{k}[0]")
        pair, treed = _pair_text(stage.monoid, acc, f"top{k}[l]", f"top{k}[l + half]")
        tree = indent("\n".join([*pair, f"top{k}[l] = {treed};"]), 3)
        return f"""\
if (n > {CHUNK}) LANES(l, {LANES}) top{k}[l] = {_identity_text(stage.monoid, acc)};
SYNC;
for (i64 start = 0; start < n; start += {CHUNK}) {{
    const i32 count = (i32)(n - start < {CHUNK} ? n - start : {CHUNK});
{indent(chunk)}
    LANES(l, 1) {{
        const i32 lane = (i32)((start / {CHUNK}) & {LANES - 1});
{indent(chr(10).join(join), 2)}
        top{k}[lane] = start < {LANES * CHUNK} ? acc{k}[0] : {joined};
    }}
    SYNC;
}}
if (n > {CHUNK})
    for (i32 half = {LANES // 2}; half > 0; half >>= 1) {{
        LANES(l, half) {{
{tree}
        }}
        SYNC;
    }}
LANES(l, 1) {{
    const {t} reduced = top{k}[0];
{indent(chr(10).join([*last, f"result{k}[0] = {result};"]))}
}}
SYNC;
const {ctype(stage.result)} r{k} = result{k}[0];"""

    def interpret(
        self, arrays: Sequence[NDArray[Any]], meta: NDArray[np.int64], groups: int
    ) -> None:
        n = int(meta[_N])
        strided = self._strided()
        first_param = _OPERANDS + Strided.WORDS * len(strided)
        bases = [operand_offsets(meta, s.base, _DIMS, _SHAPE) for s in strided]
        steps = [{"c": 1, "s": 0}.get(s.operand.step, int(meta[s.base + 1])) for s in strided]
        lanes = np.arange(n, dtype=np.int64)[:, None]
        # Rows are independent, so several at a time (as columns) are as good as one by one.
        block = max(1, AT_ONCE // max(n, 1))
        for first in range(0, bases[0].size, block):
            rows = slice(first, first + block)
            count = bases[0][rows].size
            results: list[NDArray[Any]] = []

            def leaf(node: Expr, rows: slice = rows, results: Any = results) -> NDArray[Any]:
                if node.op == "param":
                    k = node.attr - len(self.params)
                    if k >= 0:
                        return np.asarray(results[k])
                    return param_value(int(meta[first_param + node.attr]), self.params[node.attr])
                if node.op == "index":
                    return lanes
                k = node.attr
                stored = arrays[k][bases[k][rows] + lanes * steps[k]]
                return interp.widen(stored, self.inputs[k].dtype)

            for stage in self.stages:
                acc = stage.expr.dtype
                (values,) = interp.evaluate([stage.expr], leaf)
                level = np.broadcast_to(values, (n, count))
                while True:
                    pieces = [level[c : c + CHUNK] for c in range(0, max(len(level), 1), CHUNK)]
                    level = np.stack([reduce_lanes(stage.monoid, p, acc) for p in pieces])
                    if len(level) == 1:
                        break
                value = level[0]
                if stage.finish is not None:

                    def reduced(node: Expr, value: Any = value, leaf: Any = leaf) -> Any:
                        return np.asarray(value) if node.op == "input" else leaf(node)

                    (value,) = interp.evaluate([stage.finish], reduced)
                results.append(value)
            for k, value in enumerate(interp.evaluate(self.exprs, leaf)):
                slot = len(self.inputs) + k
                full = np.broadcast_to(value, (n, count))
                places = bases[slot][rows] + lanes * steps[slot]
                arrays[slot][places] = interp.narrow(full, self.outputs[k].dtype)
