"""The text of a contraction: tiles of rows and columns, for loops and for threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ..clike import ctype, read_text, write_text
from ..dialect import Dialect
from ..ir import Expr
from .base import Emitter, assemble, indent, param_text
from .contraction_layout import BATCH, COLUMNS, INNER, KBLOCK, ROWS, SHAPE, SIZES, Affine

if TYPE_CHECKING:
    from .contraction import Contraction

__all__ = ["HEIGHT", "WIDTH", "Text"]

HEIGHT = 4
WIDTH = 64
"""Rows and columns of a tile, which one group computes."""


class Text:
    """Writes the text of one kernel.

    Attributes:
        kernel: Which.
        tables: Constant tables that its expressions need.
    """

    def __init__(self, kernel: Contraction) -> None:
        self.kernel, self.layout = kernel, kernel.layout
        self.tables: dict[str, str] = {}

    def source(self, dialect: Dialect) -> str:
        """The whole kernel."""
        (a, a_checks), *_ = self.layout.operands
        walked = [place for place, _ in self.layout.operands]
        starts = [f"i64 {p.name}g = M({p.start});" for p in walked]
        batch = "\n".join(
            [
                *starts,
                "i64 rest = pass;",
                f"for (i32 d = (i32)M({BATCH}) - 1; d >= 0; --d) {{",
                f"    const i64 q = rest / M({SHAPE} + d), at = rest - q * M({SHAPE} + d);",
                *(f"    {p.name}g += at * M({p.batch} + d);" for p in walked),
                "    rest = q;",
                "}",
            ]
        )
        # A tile has all its rows: those beyond the last are its first one again.
        of_rows = [
            _split(
                f"(top + ({r} < rows ? {r} : 0))",
                self.kernel.dims[0],
                SIZES,
                [(f"{p.name}{r}", _from(p), p.first) for p in (a, *a_checks)],
            )
            for r in range(HEIGHT)
        ]
        params = [
            f"const {ctype(p.compute)} p{k} = {param_text(self.layout.first_param + k, p)};"
            for k, p in enumerate(self.kernel.params)
        ]
        head = "\n".join(
            [
                f"const i64 down = (M({ROWS}) + {HEIGHT - 1}) / {HEIGHT};",
                f"const i64 over = (M({COLUMNS}) + {WIDTH - 1}) / {WIDTH};",
                "const i64 tile = g % over, pass_row = g / over, pass = pass_row / down;",
                f"const i64 top = (pass_row - pass * down) * {HEIGHT}, left = tile * {WIDTH};",
                f"const i32 rows = (i32)(M({ROWS}) - top < {HEIGHT} ? M({ROWS}) - top : {HEIGHT});",
                f"const i32 columns = (i32)(M({COLUMNS}) - left < {WIDTH} "
                f"? M({COLUMNS}) - left : {WIDTH});",
                batch,
                *of_rows,
                *params,
            ]
        )
        body, local = self._loops() if dialect.loops else self._threads()
        return assemble(
            dialect,
            self.kernel.name,
            self.kernel.arguments(),
            self.layout.words,
            indent(f"{head}\n{body}"),
            local=local,
            tables=self.tables,
            offsets=self.layout.places,
        )

    @cached_property
    def tabled(self) -> list[Affine]:
        """What a tile's columns take from a table: places that need divisions."""
        if self.kernel.dims[1] == 1:
            return []
        _, (b, checks), *others = self.layout.operands
        return [b, *checks, *(place for place, _ in others)]

    def _column(self, p: Affine, table: str) -> str:
        """Text of what the column of a lane adds to an expression."""
        if self.kernel.dims[1] > 1:
            return f"{p.name}at{table}"
        return (
            "(left + l)" if p.name == "b_" and self.kernel.unit else f"(left + l) * M({p.second})"
        )

    def _columns(self, table: str) -> str:
        """Statements that split a lane's column where it has several dimensions."""
        if not self.tabled:
            return ""
        parts = [(f"{p.name}at{table}", "0", p.second) for p in self.tabled]
        return _split(
            "(left + l)", self.kernel.dims[1], SIZES + self.kernel.dims[0], parts, declare=not table
        )

    @cached_property
    def _typed(self) -> tuple[str, str, str]:
        """Name of the accumulators' dtype, -0 and +0 in it."""
        t = ctype(self.kernel.acc)
        plus = {"f32": "0.0f", "f64": "0.0"}.get(t, f"({t})0")
        return t, f"-{plus}" if self.kernel.acc.is_float else plus, plus

    def _start(self) -> str:
        """What a total is before the first block."""
        _, minus, plus = self._typed
        return f"M({INNER}) > 0 ? {minus} : {plus}" if self.kernel.acc.is_float else plus

    def _accumulate(self, acc: str, a: str, b: str) -> str:
        t = self._typed[0]
        if self.kernel.acc.is_float:
            return f"{acc} = fma_{t}({a}, {b}, {acc});"
        u = "u64" if t.endswith("64") else "u32"
        return f"{acc} = ({t})(({u}){acc} + ({u}){a} * ({u}){b});"

    def _add(self, x: str, y: str) -> str:
        t = self._typed[0]
        if self.kernel.acc.is_float:
            return f"{x} + {y}"
        u = "u64" if t.endswith("64") else "u32"
        return f"({t})(({u}){x} + ({u}){y})"

    def _leaf(self, element: Callable[[int], str]) -> Callable[[Expr], str]:
        return lambda node: element(node.attr) if node.op == "input" else f"p{node.attr}"

    def _factor(
        self,
        which: int,
        name: str,
        place: str,
        checks: Sequence[tuple[str, int]],
    ) -> list[str]:
        """Statements that set `name` to a factor.

        Args:
            which: 0 for A, 1 for B.
            name: Of the variable.
            place: Text of the element's place.
            checks: Text of each coordinate, and the word of its size.
        """
        t, _, zero = self._typed
        storage, expr = (self.kernel.left, self.kernel.right)[which], self.kernel.prologue[which]
        lines = []
        if checks:
            inside = " && ".join(f"(u64)({c}) < (u64)M({size})" for c, size in checks)
            lines.append(f"const b8 {name}_in = {inside};")
            place = f"{name}_in ? {place} : 0"
        value = read_text(storage, f"{'ab'[which]}[{place}]")
        if expr is not None:
            lines.append(f"const {ctype(storage.compute)} {name}_x = {value};")
            leaf = self._leaf(lambda slot: f"{name}_x")
            made, (value,) = Emitter(leaf, prefix=f"{name}_", tables=self.tables).statements([expr])
            lines += made
        if checks:
            value = f"{name}_in ? {value} : {zero}"
        return [*lines, f"const {t} {name} = {value};"]

    def _lefts(self, along: Callable[[Affine, int], str]) -> list[str]:
        """Statements that set ``a0`` and so on, the factors of a tile's rows."""
        (a, a_checks), *_ = self.layout.operands
        lines = []
        for r in range(HEIGHT):
            checks = [(f"{p.name}{r} + {along(p, p.second)}", p.size) for p in a_checks]
            lines += self._factor(0, f"a{r}", f"a_{r} + {along(a, a.second)}", checks)
        return lines

    def _right(self, along: Callable[[Affine, int], str], table: str) -> list[str]:
        """Statements that set ``right``, the factor of a lane's column."""
        b, b_checks = self.layout.operands[1]
        place = f"b_g + {along(b, b.first)} + {self._column(b, table)}"
        checks = [
            (f"M({p.start}) + {along(p, p.first)} + {self._column(p, table)}", p.size)
            for p in b_checks
        ]
        return self._factor(1, "right", place, checks)

    def _inner(self, body: Callable[[Callable[[Affine, int], str]], str]) -> tuple[str, str]:
        """Statements before the blocks of k, and those that walk one block.

        Args:
            body: From what names a step of k in an expression (given its first word along k) to the
                statements for one k.
        """
        count = self.kernel.dims[2]
        if count == 1:
            text = body(lambda p, word: f"k * M({word})")
            return "", f"for (i64 k = begin; k < end; ++k) {{\n{indent(text)}\n}}"
        # The last dimension is walked in runs; where one ends, the others are carried to.
        (a, a_checks), (b, b_checks), *_ = self.layout.operands
        walked = [(p, p.second) for p in (a, *a_checks)] + [(p, p.first) for p in (b, *b_checks)]
        last, sizes = count - 1, SIZES + sum(self.kernel.dims[:2])
        before = [f"i64 k{d} = 0;" for d in range(1, count)]
        before += [f"i64 {p.name}k = 0;" for p, _ in walked]
        text = body(lambda p, word: f"{p.name}k + t * M({word + last})")
        carry = [f"k{last} += run;", "k += run;"]
        carry += [f"{p.name}k += run * M({word + last});" for p, word in walked]
        for depth, d in enumerate(range(last, 0, -1)):
            lines = [f"if (k{d} == M({sizes + d})) {{", f"    k{d} = 0;"]
            if d > 1:
                lines.append(f"    ++k{d - 1};")
            lines += [
                f"    {p.name}k += M({word + d - 1}) - M({sizes + d}) * M({word + d});"
                for p, word in walked
            ]
            carry += ["    " * depth + line for line in lines]
        carry += ["    " * depth + "}" for depth in range(last - 1, -1, -1)]
        rest = f"M({sizes + last}) - k{last}"
        return "\n".join(before), "\n".join(
            [
                "for (i64 k = begin; k < end; ) {",
                f"    const i64 run = end - k < {rest} ? end - k : {rest};",
                "    for (i64 t = 0; t < run; ++t) {",
                indent(text, 2),
                "    }",
                indent("\n".join(carry)),
                "}",
            ]
        )

    def _write(self, row: str, total: str, table: str) -> tuple[str, str]:
        """Statements that find a row of the result, and those that store a lane's element."""
        *read, c = [p for p, _ in self.layout.operands[2:]]
        parts = [(f"{p.name}r", f"{p.name}g", p.first) for p in (*read, c)]
        places = _split(row, self.kernel.dims[0], SIZES, parts)
        at = {p.name: f"{p.name}r + {self._column(p, table)}" for p in (*read, c)}
        lines, value, dtype = [], total, self.kernel.acc
        if self.kernel.epilogue is not None:
            lines.append(f"const {self._typed[0]} in0 = {total};")
            for k, (p, d) in enumerate(zip(read, self.kernel.extras, strict=True)):
                element = read_text(d, f"e{k}[{at[p.name]}]")
                lines.append(f"const {ctype(d.compute)} in{k + 1} = {element};")
            emitter = Emitter(self._leaf(lambda slot: f"in{slot}"), tables=self.tables)
            made, (value,) = emitter.statements([self.kernel.epilogue])
            lines += made
            dtype = self.kernel.epilogue.dtype
        lines.append(f"c[{at['c_']}] = {write_text(dtype, self.kernel.out, value)};")
        return places, "\n".join(lines)

    def _loops(self) -> tuple[str, list[tuple[str, str, int]]]:
        """Regions over columns: a tile's accumulators live in registers or first-level cache."""
        t, minus, _ = self._typed
        size = HEIGHT * WIDTH

        def inner(count: str) -> tuple[str, str]:
            def body(along: Callable[[Affine, int], str]) -> str:
                steps = self._right(along, "[l]") + [
                    self._accumulate(f"acc[{r * WIDTH} + l]", f"a{r}", "right")
                    for r in range(HEIGHT)
                ]
                region = indent("\n".join(steps))
                lefts = "\n".join(self._lefts(along))
                return f"{lefts}\nLANES(l, {count}) {{\n{region}\n}}"

            return self._inner(body)

        before, whole = inner(str(WIDTH))
        _, part = inner("columns")
        split = self._columns("[l]")
        places, store = self._write("(top + r)", f"total[r * {WIDTH} + l]", "[l]")
        end = f"begin + {KBLOCK} < M({INNER}) ? begin + {KBLOCK} : M({INNER})"
        body = "\n".join(
            [
                *([f"LANES(l, columns) {{\n{indent(split)}\n}}"] if split else []),
                f"LANES(l, {size}) total[l] = {self._start()};",
                *([before] if before else []),
                f"for (i64 begin = 0; begin < M({INNER}); begin += {KBLOCK}) {{",
                f"    const i64 end = {end};",
                f"    LANES(l, {size}) acc[l] = {minus};",
                f"    if (columns == {WIDTH}) {{",
                indent(whole, 2),
                "    } else {",
                indent(part, 2),
                "    }",
                f"    LANES(l, {size}) total[l] = {self._add('total[l]', 'acc[l]')};",
                "}",
                "for (i32 r = 0; r < rows; ++r) {",
                indent(places),
                f"    LANES(l, columns) {{\n{indent(store, 2)}\n    }}",
                "}",
            ]
        )
        at = [("i64", f"{p.name}at", WIDTH) for p in self.tabled]
        return body, [(t, "acc", size), (t, "total", size), *at]

    def _threads(self) -> tuple[str, list[tuple[str, str, int]]]:
        """One lane owns one column of the tile: its accumulators are private."""
        t, minus, _ = self._typed
        rows = range(HEIGHT)

        def body(along: Callable[[Affine, int], str]) -> str:
            steps = [self._accumulate(f"s{r}", f"a{r}", "right") for r in rows]
            right = self._right(along, "")
            return "\n".join([*right, *self._lefts(along), *steps])

        before, block = self._inner(body)
        lines = [self._columns(""), *(f"{t} t{r} = {self._start()};" for r in rows), before]
        lines += [
            f"for (i64 begin = 0; begin < M({INNER}); begin += {KBLOCK}) {{",
            f"    const i64 end = begin + {KBLOCK} < M({INNER}) ? begin + {KBLOCK} : M({INNER});",
            *(f"    {t} s{r} = {minus};" for r in rows),
            indent(block),
            *(f"    t{r} = {self._add(f't{r}', f's{r}')};" for r in rows),
            "}",
        ]
        for r in rows:
            places, store = self._write(f"(top + {r})", f"t{r}", "")
            lines += [f"if ({r} < rows) {{", indent(f"{places}\n{store}"), "}"]
        region = "\n".join(line for line in lines if line)
        return f"LANES(l, columns) {{\n{indent(region)}\n}}", []


def _from(p: Affine) -> str:
    """What an expression is before its rows: the batch's part, or the start of a coordinate."""
    return f"{p.name}g" if p.batch else f"M({p.start})"


def _split(
    number: str,
    count: int,
    sizes: int,
    parts: Sequence[tuple[str, str, int]],
    declare: bool = True,
) -> str:
    """Statements that set variables to what an index of several dimensions adds to them.

    Args:
        number: Text of the index.
        count: Number of dimensions.
        sizes: First word of their sizes.
        parts: Name, text of the value before, first word of the steps.
        declare: Whether the variables are new.
    """
    if count == 1:
        new = "const i64 " if declare else ""
        return "\n".join(f"{new}{v} = {before} + {number} * M({w});" for v, before, w in parts)
    new = "i64 " if declare else ""
    lines = [f"{new}{v} = {before};" for v, before, _ in parts]
    lines += ["{", f"    i64 rest = {number};"]
    for d in range(count - 1, 0, -1):
        size = f"M({sizes + d})"
        lines.append(f"    {{ const i64 q = rest / {size}, at = rest - q * {size}; rest = q;")
        lines += [f"      {v} += at * M({w + d});" for v, _, w in parts]
        lines.append("    }")
    lines += [f"    {v} += rest * M({w});" for v, _, w in parts]
    return "\n".join([*lines, "}"])
