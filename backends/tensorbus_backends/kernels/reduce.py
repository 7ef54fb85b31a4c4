"""Reductions in the canonical order (docs/order.md), and the monoids they use.

The elements of one reduction are cut into chunks of `CHUNK`.  In a chunk, lane ``l`` of `LANES`
combines elements l, l + LANES, l + 2 LANES, ... in this order, starting from the identity; lanes
are combined by a halving tree (lane l with lane l + 64, then + 32, ... + 1).  The results of the
chunks are reduced in the same way again, until one is left.

Invariant: combining with the identity changes nothing (-0 for a sum), so a lane without elements,
or a tree that starts at the number of lanes in use, gives the same bits as the full one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import interp, ir, scalar
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

__all__ = [
    "CHUNK",
    "LANES",
    "MONOIDS",
    "Monoid",
    "Reduce",
    "chunk_text",
    "reduce_lanes",
]

LANES = 128
CHUNK = 8192

# Column layout on a "loop" device: elements of a lane that are taken at a time, and the greatest
# number of statements for which that is worth its code.
_DEEP = 8
_SHORT = 6


@dataclass(frozen=True)
class Monoid:
    """An associative operation in exact arithmetic, with the identity that pads it."""

    name: str
    combine: Callable[[Expr, Expr], Expr] = field(compare=False)
    identity: Callable[[DType], Expr] = field(compare=False)


def _least(dtype: DType) -> Expr:
    return -scalar.inf(dtype) if dtype.is_float else ir.const(dtype.min, dtype)


def _greatest(dtype: DType) -> Expr:
    return scalar.inf(dtype) if dtype.is_float else ir.const(dtype.max, dtype)


MONOIDS = {
    m.name: m
    for m in (
        Monoid("sum", lambda a, b: a + b, lambda d: ir.const(-0.0 if d.is_float else 0, d)),
        Monoid("prod", lambda a, b: a * b, lambda d: ir.const(1, d)),
        Monoid("max", scalar.maximum, _least),
        Monoid("min", scalar.minimum, _greatest),
        Monoid("any", lambda a, b: a | b, lambda d: ir.const(0, d)),
        Monoid("all", lambda a, b: a & b, lambda d: ir.const(d.max, d)),
    )
}


def _pair_text(monoid: Monoid, dtype: DType, a: str, b: str) -> tuple[list[str], str]:
    """Statements and value of ``combine(a, b)`` for texts `a` and `b`."""
    names = {0: a, 1: b}
    emitter = Emitter(lambda node: names[node.attr], prefix="c")
    expr = monoid.combine(ir.input_(0, dtype), ir.input_(1, dtype))
    lines, (value,) = emitter.statements([expr])
    return lines, value


def _identity_text(monoid: Monoid, dtype: DType) -> str:
    lines, (value,) = Emitter(lambda node: "").statements([monoid.identity(dtype)])
    return value if not lines else lines[0].split(" = ", 1)[1].rstrip(";")


def chunk_text(
    dialect: Dialect, monoid: Monoid, acc: DType, element: Callable[[str], list[str]]
) -> str:
    """Statements that leave in ``acc[0]`` the reduction of elements 0 .. count-1 of a chunk.

    Args:
        element: Given the text of an element number in the chunk, statements that end by
            defining ``value``.
    """
    t = ctype(acc)
    identity = _identity_text(monoid, acc)
    if not dialect.loops:
        pair, combined = _pair_text(monoid, acc, "sum", "value")
        step = indent("\n".join([*element("i"), *pair, f"sum = {combined};"]), 2)
        gather = (
            f"LANES(l, {LANES}) {{\n    {t} sum = {identity};\n"
            f"    for (i32 i = l; i < count; i += {LANES}) {{\n{step}\n    }}\n"
            "    acc[l] = sum;\n}\nSYNC;\n"
        )
    else:
        pair, combined = _pair_text(monoid, acc, "acc[l]", "value")
        step = indent("\n".join([*element("(at + l)"), *pair, f"acc[l] = {combined};"]))
        gather = (
            f"LANES(l, {LANES}) acc[l] = {identity};\n"
            f"i32 at = 0;\nfor (; at + {LANES} <= count; at += {LANES}) {{\n"
            f"    LANES(l, {LANES}) {{\n{indent(step)}\n    }}\n}}\n"
            f"LANES(l, count - at) {{\n{step}\n}}\n"
        )
    if dialect.loops:
        # Levels with lengths that the compiler knows: a short row is mostly its tree.
        levels = []
        half = LANES // 2
        while half:
            pair, combined = _pair_text(monoid, acc, "acc[l]", f"acc[l + {half}]")
            level = indent("\n".join([*pair, f"acc[l] = {combined};"]), 2)
            levels.append(f"if (count > {half}) {{\n    LANES(l, {half}) {{\n{level}\n    }}\n}}")
            half //= 2
        return gather + "\n".join(levels)
    pair, combined = _pair_text(monoid, acc, "acc[l]", "acc[l + half]")
    tree = "\n".join([*pair, f"acc[l] = {combined};"])
    return (
        gather + f"i32 half = {LANES // 2};\n"
        "while (half >= count && half > 0) half >>= 1;\n"
        "for (; half > 0; half >>= 1) {\n"
        f"    LANES(l, half) {{\n{indent(tree, 2)}\n    }}\n    SYNC;\n}}"
    )


AT_ONCE = 1 << 17
"""Elements that the interpreter reduces together."""

# Metadata: n (reduced), columns, outer dims, their sizes, operands, output offset, params.
_N, _COLS, _DIMS, _SHAPE = 0, 1, 2, 3
_OPERANDS = 3 + DIMS


@dataclass(frozen=True)
class Reduce(Kernel):
    """One level of a reduction: every chunk of every output becomes one value.

    The output is contiguous: [rows, chunks] for ``"row"``, [rows, chunks, columns] for ``"col"``.
    With one chunk that is the result, and `finish` is applied; otherwise the caller reduces the
    partial results with the kernel that has the same monoid and an identity `expr`.

    Attributes:
        label: Op name.
        inputs: Operands; in layout ``"row"`` the lanes walk the reduced dimension, in ``"col"``
            they walk the innermost kept one, and the reduced dimension is each operand's `along`.
        expr: What is reduced; ``index`` is the position along the reduction.
        monoid: How two values combine.
        finish: From the reduced value (``input 0``) to what is stored; None stores it as it is.
        out: Storage dtype of the output.
        params: Dtypes of launch scalars, for `expr` and `finish`.
        layout: ``"row"`` or ``"col"``.
    """

    __hash__ = Kernel.__hash__

    label: str
    inputs: tuple[Operand, ...]
    expr: Expr
    monoid: Monoid
    out: DType
    finish: Expr | None = None
    params: tuple[DType, ...] = ()
    layout: str = "row"

    @property
    def acc(self) -> DType:
        """Dtype in which values are combined."""
        return self.expr.dtype

    def expressions(self) -> Sequence[Expr]:
        return (self.expr,) if self.finish is None else (self.expr, self.finish)

    def shape_key(self) -> str:
        operands = [(o.dtype.name, o.step) for o in self.inputs]
        return (
            f"{operands}{self.monoid.name}{self.out.name}{[p.name for p in self.params]}"
            f"{self.layout}"
        )

    @property
    def words(self) -> int:
        return _OPERANDS + (Strided.WORDS + 1) * len(self.inputs) + 1 + len(self.params)

    def _strided(self) -> list[Strided]:
        size = Strided.WORDS + 1
        return [Strided(f"x{k}", o, _OPERANDS + size * k) for k, o in enumerate(self.inputs)]

    @property
    def _out_word(self) -> int:
        return _OPERANDS + (Strided.WORDS + 1) * len(self.inputs)

    def arguments(self) -> list[Argument]:
        inputs = [Argument(f"x{k}", o.dtype) for k, o in enumerate(self.inputs)]
        return [*inputs, Argument("y0", self.out, True)]

    def meta(
        self,
        n: int,
        columns: int,
        outer: Sequence[int],
        operands: Sequence[Sequence[int]],
        along: Sequence[int],
        out_offset: int = 0,
        params: Sequence[int] = (),
    ) -> list[int]:
        """Metadata words; `along` are the operands' strides in the reduced dimension."""
        words = [n, columns, len(outer), *outer, *([1] * (DIMS - len(outer)))]
        for o, a in zip(operands, along, strict=True):
            words += [*o, a]
        return [*words, out_offset, *params]

    def groups(self, dialect: Dialect | None, n: int, columns: int, rows: int) -> int:
        """Number of groups to launch."""
        chunks = max(1, -(-n // CHUNK))
        if self.layout == "row":
            return rows * chunks
        width = dialect.columns if dialect else columns
        return rows * chunks * -(-columns // width)

    def local_bytes(self, dialect: Dialect) -> int:
        return LANES * self.acc.itemsize * (dialect.columns if self.layout == "col" else 1)

    def source(self, dialect: Dialect) -> str:
        emitter = Emitter(self._leaf)
        lines, (value,) = emitter.statements([self.expr])
        finisher = Emitter(lambda n: "reduced" if n.op == "input" else f"p{n.attr}", prefix="z")
        finish = self.finish if self.finish is not None else ir.input_(0, self.acc)
        last, (result,) = finisher.statements([finish])
        first_param = self._out_word + 1
        params = [
            f"const {ctype(p.compute)} p{k} = {param_text(first_param + k, p)};"
            for k, p in enumerate(self.params)
        ]
        write = write_text(finish.dtype, self.out, result)
        build = self._row if self.layout == "row" else self._col
        body, local = build(dialect, lines, value, [*last], write)
        strided = self._strided()
        return assemble(
            dialect,
            self.name,
            self.arguments(),
            self.words,
            indent("\n".join([*params, body])),
            local=[(ctype(self.acc), "acc", local)],
            tables=emitter.tables | finisher.tables,
            offsets=[*(s.base for s in strided), self._out_word],
        )

    def _leaf(self, node: Expr) -> str:
        return {"input": f"in{node.attr}", "param": f"p{node.attr}"}.get(node.op, "index")

    def _reads(self, element: Callable[[Strided], str]) -> list[str]:
        used = {n.attr for n in walk(self.expr) if n.op == "input"}
        return [
            f"const {ctype(s.operand.dtype.compute)} in{k} = {element(s)};"
            for k, s in enumerate(self._strided())
            if k in used
        ]

    @property
    def _indexed(self) -> bool:
        return any(n.op == "index" for n in walk(self.expr))

    def _row(
        self, dialect: Dialect, lines: list[str], value: str, last: list[str], write: str
    ) -> tuple[str, int]:
        strided = self._strided()

        def element(at: str) -> list[str]:
            index = [f"const i64 index = start + {at};"] if self._indexed else []
            reads = self._reads(lambda s: s.read(at))
            return [*index, *reads, *lines, f"const {ctype(self.acc)} value = {value};"]

        store = "\n".join(
            [f"const {ctype(self.acc)} reduced = acc[0];", *last, f"y0[g + l] = {write};"]
        )
        body = "\n".join(
            [
                f"const i64 chunks = (M({_N}) + {CHUNK - 1}) / {CHUNK};",
                "const i64 row = chunks == 1 ? g : g < chunks ? 0 : g / chunks;",
                f"const i64 start = (g - row * chunks) * {CHUNK};",
                f"const i64 left = M({_N}) - start;",
                f"const i32 count = (i32)(left < {CHUNK} ? left : {CHUNK});",
                row_text(strided, "row", "start", _DIMS, _SHAPE),
                chunk_text(dialect, self.monoid, self.acc, element),
                f"LANES(l, 1) {{\n{indent(store)}\n}}",
            ]
        )
        return body, LANES

    def _col(
        self, dialect: Dialect, lines: list[str], value: str, last: list[str], write: str
    ) -> tuple[str, int]:
        strided, width, t = self._strided(), dialect.columns, ctype(self.acc)
        index = ["const i64 index = start + i;"] if self._indexed else []
        reads = self._reads(lambda s: s.read("l"))
        value_lines = [*index, *reads, *lines, f"const {t} value = {value};"]
        pair, combined = _pair_text(self.monoid, self.acc, f"acc[lane * {width} + l]", "value")
        more = indent("\n".join([*value_lines, *pair, f"acc[lane * {width} + l] = {combined};"]), 2)
        up, joined = _pair_text(
            self.monoid, self.acc, f"acc[k * {width} + l]", f"acc[(k + half) * {width} + l]"
        )
        tree = indent("\n".join([*up, f"acc[k * {width} + l] = {joined};"]), 3)
        store = "\n".join(
            [
                f"const {t} reduced = acc[l];",
                *last,
                f"y0[(row * chunks + chunk) * M({_COLS}) + column + l] = {write};",
            ]
        )
        advance = " ".join(f"o_{s.name} += M({s.base + Strided.WORDS});" for s in strided)
        skip = "\n".join(f"o_{s.name} += start * M({s.base + Strided.WORDS});" for s in strided)
        several = self._several(width, lines, value) if dialect.loops else ""
        few = self._few(width, lines, value) if dialect.loops else ""
        body = f"""\
const i64 chunks = (M({_N}) + {CHUNK - 1}) / {CHUNK}, blocks = (M({_COLS}) + {width - 1}) / {width};
const i64 block = g % blocks, pass = g / blocks, chunk = pass % chunks, row = pass / chunks;
const i64 start = chunk * {CHUNK}, column = block * {width};
const i32 count = (i32)(M({_N}) - start < {CHUNK} ? M({_N}) - start : {CHUNK});
const i32 columns = (i32)(M({_COLS}) - column < {width} ? M({_COLS}) - column : {width});
{row_text(strided, "row", "column", _DIMS, _SHAPE)}
{skip}
i32 lanes = count < {LANES} ? count : {LANES}, i = 0;
{few}for (i32 k = i; k < lanes; ++k)
    LANES(l, columns) acc[k * {width} + l] = {_identity_text(self.monoid, self.acc)};
{several}for (; i < count; ++i) {{
    const i32 lane = i & {LANES - 1};
    LANES(l, columns) {{
{more}
    }}
    {advance}
}}
for (i32 half = {LANES // 2}; half > 0; half >>= 1)
    for (i32 k = 0; k < half && k + half < lanes; ++k) {{
        LANES(l, columns) {{
{tree}
        }}
    }}
LANES(l, columns) {{
{indent(store)}
}}"""
        return body, LANES * width

    def _few(self, width: int, lines: list[str], value: str) -> str:
        """Statements of a "loop" device that take all elements, if no lane has two of them.

        The first level of the tree is folded while they are read: half of the accumulators are
        never filled, and the other half once.
        """
        if len(lines) > _SHORT:
            return ""
        strided, t = self._strided(), ctype(self.acc)

        def element(name: str, ahead: str) -> list[str]:
            index = [f"const i64 index = start + i + {ahead};"] if self._indexed else []
            reads = self._reads(
                lambda s: s.read("l").replace(
                    f"o_{s.name}", f"o_{s.name} + {ahead} * M({s.base + Strided.WORDS})"
                )
            )
            inside = indent("\n".join([*index, *reads, *lines, f"{name} = {value};"]))
            return [f"{t} {name};", f"{{\n{inside}\n}}"]

        pair, combined = _pair_text(self.monoid, self.acc, "low", "high")
        none = _identity_text(self.monoid, self.acc)
        alone, kept = _pair_text(self.monoid, self.acc, none, "low")
        place = f"acc[i * {width} + l]"
        both = [*element("low", "0"), *element("high", "half"), *pair, f"{place} = {combined};"]
        one = [*element("low", "0"), *alone, f"{place} = {kept};"]
        advance = " ".join(f"o_{s.name} += M({s.base + Strided.WORDS});" for s in strided)
        return f"""\
if (count > 1 && count <= {LANES}) {{
    i32 half = {LANES // 2};
    while (half >= count) half >>= 1;
    for (; i < half; ++i) {{
        if (i + half < count) {{
            LANES(l, columns) {{
{indent(chr(10).join(both), 4)}
            }}
        }} else {{
            LANES(l, columns) {{
{indent(chr(10).join(one), 4)}
            }}
        }}
        {advance}
    }}
    lanes = half;
    i = count;
}}
"""

    def _several(self, width: int, lines: list[str], value: str) -> str:
        """Statements of a "loop" device that take `_DEEP` elements of a lane at a time.

        A lane's elements are `LANES` rows apart, so its accumulators are read and written once for
        all of them, in the same order.
        """
        if len(lines) > _SHORT or self._indexed:
            return ""
        strided = self._strided()
        pair, combined = _pair_text(self.monoid, self.acc, "sum", "value")
        far = {s.name: f"deep * {LANES} * d_{s.name}" for s in strided}
        reads = self._reads(
            lambda s: s.read("l").replace(f"o_{s.name}", f"o_{s.name} + {far[s.name]}")
        )
        t = ctype(self.acc)
        one = [*reads, *lines, f"const {t} value = {value};", *pair, f"sum = {combined};"]
        # Written out, not a loop: gcc unrolls before it vectorizes only at -O3, which costs three
        # times the compile time.
        inner = indent("\n".join(one), 4)
        blocks = [
            f"            {{\n{inner.replace('deep', str(k))}\n            }}" for k in range(_DEEP)
        ]
        unrolled = "\n".join(blocks)
        steps = "\n".join(f"const i64 d_{s.name} = M({s.base + Strided.WORDS});" for s in strided)
        advance = " ".join(f"o_{s.name} += d_{s.name};" for s in strided)
        jump = " ".join(f"o_{s.name} += {(_DEEP - 1) * LANES} * d_{s.name};" for s in strided)

        def over(count: str) -> str:
            return f"""\
        LANES(l, {count}) {{
            {t} sum = acc[lane * {width} + l];
{unrolled}
            acc[lane * {width} + l] = sum;
        }}"""

        return f"""\
{steps}
for (; i + {_DEEP * LANES} <= count; i += {_DEEP * LANES}) {{
    for (i32 lane = 0; lane < {LANES}; ++lane) {{
        if (columns == {width})
{over(str(width))}
        else
{over("columns")}
        {advance}
    }}
    {jump}
}}
"""

    def interpret(
        self, arrays: Sequence[NDArray[Any]], meta: NDArray[np.int64], groups: int
    ) -> None:
        n, columns = int(meta[_N]), int(meta[_COLS])
        strided = self._strided()
        first_param = self._out_word + 1

        def params(node: Expr) -> NDArray[Any]:
            return param_value(int(meta[first_param + node.attr]), self.params[node.attr])

        bases = [operand_offsets(meta, s.base, _DIMS, _SHAPE) for s in strided]
        steps = [{"c": 1, "s": 0}.get(s.operand.step, int(meta[s.base + 1])) for s in strided]
        far = [int(meta[s.base + Strided.WORDS]) for s in strided]
        chunks = max(1, -(-n // CHUNK))
        width = columns if self.layout == "col" else 1
        out, across = int(meta[self._out_word]), np.arange(width, dtype=np.int64)
        # Rows are independent, so several at a time are as good as one after the other.
        block = max(1, AT_ONCE // max(1, min(n, CHUNK) * width))
        for first in range(0, bases[0].size, block):
            rows = slice(first, first + block)
            count = bases[0][rows].size
            for c in range(chunks):
                along = np.arange(c * CHUNK, min(n, (c + 1) * CHUNK), dtype=np.int64)

                def leaf(
                    node: Expr, along: NDArray[np.int64] = along, rows: slice = rows
                ) -> NDArray[Any]:
                    if node.op == "param":
                        return params(node)
                    if node.op == "index":
                        return along[:, None]
                    k = node.attr
                    lanes = along * (steps[k] if self.layout == "row" else far[k])
                    starts = (bases[k][rows][:, None] + across * steps[k]).reshape(-1)
                    places = lanes[:, None] + starts
                    return interp.widen(arrays[k][places], self.inputs[k].dtype)

                (values,) = interp.evaluate([self.expr], leaf)
                values = np.broadcast_to(values, (along.size, count * width))
                part = reduce_lanes(self.monoid, values, self.acc)
                if self.finish is not None:
                    finish = self.finish

                    def reduced(node: Expr, part: NDArray[Any] = part) -> NDArray[Any]:
                        return part if node.op == "input" else params(node)

                    (part,) = interp.evaluate([finish], reduced)
                    part = np.broadcast_to(part, (count * width,))
                numbers = np.arange(first, first + count, dtype=np.int64)
                places = out + ((numbers * chunks + c) * width)[:, None] + across
                arrays[-1][places.reshape(-1)] = interp.narrow(part, self.out)


def reduce_lanes(monoid: Monoid, values: NDArray[Any], acc: DType) -> NDArray[Any]:
    """Reduce one chunk in NumPy: [count <= CHUNK, width] to [width]."""
    (identity,) = interp.evaluate([monoid.identity(acc)], lambda node: np.empty(0))
    pair = monoid.combine(ir.input_(0, acc), ir.input_(1, acc))

    def combine(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        return interp.evaluate([pair], lambda node: (a, b)[node.attr])[0]

    count, width = values.shape
    padded = np.full((-(-max(count, 1) // LANES) * LANES, width), identity, acc.numpy)
    padded[:count] = values
    lanes = np.full((LANES, width), identity, acc.numpy)
    for step in padded.reshape(-1, LANES, width):
        lanes = combine(lanes, step)
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = combine(lanes[:half], lanes[half:])
    return np.asarray(lanes[0])
