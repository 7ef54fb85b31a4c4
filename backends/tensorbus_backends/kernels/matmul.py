"""Matmul: C[b, i, j] = sum over k of A[b, i, k] B[b, k, j], in a fixed order.

The sum over k is cut into blocks of `KBLOCK`.  In a block, products are added by fma in the order
of k, starting from -0 (so the first product is just rounded); block sums are added in order.
float16 and bfloat16 are widened to float32 and rounded once at the end; integers wrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import interp
from ..clike import ctype, read_text, write_text
from ..dialect import Dialect
from ..dtypes import DType
from ..ir import Expr
from .base import DIMS, Argument, Kernel, assemble, indent

__all__ = ["KBLOCK", "Matmul"]

KBLOCK = 256
_ROWS = 4
_COLUMNS = {"loop": 64, "simt": 64}

# Metadata: M, N, K, batch dims, their sizes, then for A, B and C: offset, two inner strides,
# batch strides.  A's inner strides are those of i and k, B's of k and j, C's of i and j.
_M, _N, _K, _DIMS, _SHAPE = 0, 1, 2, 3, 4
_OPERAND = 4 + DIMS
_WORDS = 3 + DIMS


@dataclass(frozen=True)
class Matmul(Kernel):
    """A batched matrix product.

    Attributes:
        label: Op name.
        dtype: Storage dtype of both operands and the result.
        unit: Whether B's stride along j is 1, so that lanes read neighbours.
    """

    __hash__ = Kernel.__hash__

    label: str
    dtype: DType
    unit: bool = True

    def expressions(self) -> Sequence[Expr]:
        return ()

    def shape_key(self) -> str:
        return f"{self.dtype.name}{self.unit}"

    @property
    def words(self) -> int:
        return _OPERAND + 3 * _WORDS

    def arguments(self) -> list[Argument]:
        return [
            Argument("a", self.dtype),
            Argument("b", self.dtype),
            Argument("c", self.dtype, True),
        ]

    def meta(
        self,
        m: int,
        n: int,
        k: int,
        batch: Sequence[int],
        operands: Sequence[tuple[int, int, int, Sequence[int]]],
    ) -> list[int]:
        """Metadata words; each operand is (offset, row stride, column stride, batch strides)."""
        words = [m, n, k, len(batch), *batch, *([1] * (DIMS - len(batch)))]
        for offset, rows, columns, outer in operands:
            words += [offset, rows, columns, *outer, *([0] * (DIMS - len(outer)))]
        return words

    def groups(self, dialect: Dialect | None, m: int, n: int, batch: int) -> int:
        """Number of groups to launch."""
        width = _COLUMNS[dialect.style] if dialect else n
        return batch * -(-m // _ROWS) * -(-n // width)

    def local_bytes(self, dialect: Dialect) -> int:
        size = _ROWS * _COLUMNS["loop"] * self.dtype.compute.itemsize
        return 2 * size if dialect.loops else 0

    def source(self, dialect: Dialect) -> str:
        t, width = ctype(self.dtype.compute), _COLUMNS[dialect.style]
        zero = {"f32": "-0.0f", "f64": "-0.0"}.get(t, f"({t})0")
        a, b, c = (_OPERAND + k * _WORDS for k in range(3))
        right = "j" if self.unit else f"j * M({b + 2})"
        b_text = read_text(self.dtype, f"b[o_b + k * M({b + 1}) + {right}]")
        offsets = [f"i64 o_{name} = 0;" for name in "abc"]
        walk = "\n".join(
            [
                *offsets,
                "i64 rest = pass;",
                f"for (i32 d = (i32)M({_DIMS}) - 1; d >= 0; --d) {{",
                f"    const i64 q = rest / M({_SHAPE} + d), at = rest - q * M({_SHAPE} + d);",
                *(
                    f"    o_{n} += at * M({w + 3} + d);"
                    for n, w in zip("abc", (a, b, c), strict=True)
                ),
                "    rest = q;",
                "}",
            ]
        )
        head = f"""\
const i64 down = (M({_M}) + {_ROWS - 1}) / {_ROWS}, over = (M({_N}) + {width - 1}) / {width};
const i64 tile = g % over, pass_row = g / over, pass = pass_row / down;
const i64 top = (pass_row - pass * down) * {_ROWS}, left = tile * {width};
const i32 rows = (i32)(M({_M}) - top < {_ROWS} ? M({_M}) - top : {_ROWS});
const i32 columns = (i32)(M({_N}) - left < {width} ? M({_N}) - left : {width});
{walk}"""
        if dialect.loops:
            body, local = self._loop(t, zero, width, a, b_text, c)
        else:
            body, local = self._simt(t, zero, a, b_text, c)
        return assemble(
            dialect,
            self.name,
            self.arguments(),
            self.words,
            indent(f"{head}\n{body}"),
            local=local,
            offsets=[a, b, c],
        )

    def _accumulate(self, t: str, acc: str, a: str, b: str) -> str:
        if t in ("f32", "f64"):
            return f"{acc} = fma_{t}({a}, {b}, {acc});"
        u = "u64" if t.endswith("64") else "u32"
        return f"{acc} = ({t})(({u}){acc} + ({u}){a} * ({u}){b});"

    def _add(self, t: str, x: str, y: str) -> str:
        if t in ("f32", "f64"):
            return f"{x} + {y}"
        u = "u64" if t.endswith("64") else "u32"
        return f"({t})(({u}){x} + ({u}){y})"

    def _loop(
        self, t: str, zero: str, width: int, a: int, b_text: str, c: int
    ) -> tuple[str, list[tuple[str, str, int]]]:
        """Regions over columns: a tile's accumulators live in registers or first-level cache."""
        steps = "\n".join(
            f"        {self._accumulate(t, f'acc[{r * width} + l]', f'a{r}', 'right')}"
            for r in range(_ROWS)
        )
        values = "\n".join(
            f"    const {t} a{r} = "
            + read_text(
                self.dtype,
                f"a[o_a + (top + ({r} < rows ? {r} : 0)) * M({a + 1}) + k * M({a + 2})]",
            )
            + ";"
            for r in range(_ROWS)
        )
        b_lane = b_text.replace("j", "(left + l)")

        def inner(count: str) -> str:
            return (
                f"for (i64 k = begin; k < end; ++k) {{\n{values}\n    LANES(l, {count}) {{\n"
                f"        const {t} right = {b_lane};\n{steps}\n    }}\n}}"
            )

        size = _ROWS * width
        write = write_text(self.dtype.compute, self.dtype, f"total[r * {width} + l]")
        body = f"""\
LANES(l, {size}) total[l] = {zero};
for (i64 begin = 0; begin < M({_K}); begin += {KBLOCK}) {{
    const i64 end = begin + {KBLOCK} < M({_K}) ? begin + {KBLOCK} : M({_K});
    LANES(l, {size}) acc[l] = {zero};
    if (columns == {width})
{indent(inner(str(width)), 2)}
    else
{indent(inner("columns"), 2)}
    LANES(l, {size}) total[l] = {self._add(t, "total[l]", "acc[l]")};
}}
for (i32 r = 0; r < rows; ++r) LANES(l, columns)
    c[o_c + (top + r) * M({c + 1}) + (left + l) * M({c + 2})] = {write};"""
        return body, [(t, "acc", size), (t, "total", size)]

    def _simt(
        self, t: str, zero: str, a: int, b_text: str, c: int
    ) -> tuple[str, list[tuple[str, str, int]]]:
        """One lane owns one column of the tile: its accumulators are private."""
        rows = range(_ROWS)
        declare = " ".join(f"{t} t{r} = {zero};" for r in rows)
        clear = " ".join(f"{t} s{r} = {zero};" for r in rows)
        steps = "\n".join(
            "            "
            + self._accumulate(
                t,
                f"s{r}",
                read_text(
                    self.dtype,
                    f"a[o_a + (top + ({r} < rows ? {r} : 0)) * M({a + 1}) + k * M({a + 2})]",
                ),
                "right",
            )
            for r in rows
        )
        add = "\n".join(f"        t{r} = {self._add(t, f't{r}', f's{r}')};" for r in rows)
        writes = "\n".join(
            f"    if ({r} < rows) c[o_c + (top + {r}) * M({c + 1}) + j * M({c + 2})] = "
            f"{write_text(self.dtype.compute, self.dtype, f't{r}')};"
            for r in rows
        )
        body = f"""\
LANES(l, columns) {{
    const i64 j = left + l;
    {declare}
    for (i64 begin = 0; begin < M({_K}); begin += {KBLOCK}) {{
        const i64 end = begin + {KBLOCK} < M({_K}) ? begin + {KBLOCK} : M({_K});
        {clear}
        for (i64 k = begin; k < end; ++k) {{
            const {t} right = {b_text};
{steps}
        }}
{add}
    }}
{writes}
}}"""
        return body, []

    def interpret(
        self, arrays: Sequence[NDArray[Any]], meta: NDArray[np.int64], groups: int
    ) -> None:
        m, n, k = (int(meta[w]) for w in (_M, _N, _K))
        dims = int(meta[_DIMS])
        shape = [int(s) for s in meta[_SHAPE : _SHAPE + dims]]
        compute = self.dtype.compute

        def places(which: int, rows: int, columns: int) -> NDArray[np.int64]:
            base = _OPERAND + which * _WORDS
            at = np.asarray([meta[base]], np.int64)
            for d, size in enumerate(shape):
                step = np.arange(size, dtype=np.int64) * meta[base + 3 + d]
                at = (at[:, None] + step).reshape(-1)
            down = np.arange(rows, dtype=np.int64)[:, None] * meta[base + 1]
            return np.asarray(
                at[:, None, None] + down + np.arange(columns, dtype=np.int64) * meta[base + 2]
            )

        a = interp.widen(arrays[0][places(0, m, k)], self.dtype)
        b = interp.widen(arrays[1][places(1, k, n)], self.dtype)
        zero = -0.0 if compute.is_float else 0
        total = np.full((a.shape[0], m, n), zero, compute.numpy)
        for begin in range(0, k, KBLOCK):
            acc = np.full_like(total, zero)
            for at in range(begin, min(begin + KBLOCK, k)):
                left, right = a[:, :, at : at + 1], b[:, at : at + 1, :]
                acc = self._step(left, right, acc)
            with np.errstate(all="ignore"):
                total = interp.add(total, acc)
        arrays[2][places(2, m, n)] = interp.narrow(total, self.dtype)

    def _step(self, a: NDArray[Any], b: NDArray[Any], acc: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(all="ignore"):
            if not self.dtype.is_float:
                return np.asarray(acc + a * b)
            left, right = np.broadcast_to(a, acc.shape), np.broadcast_to(b, acc.shape)
            exact = interp.fma64 if acc.dtype == np.float64 else interp.fma32
            return exact(left, right, acc).reshape(acc.shape)
