"""Faults of a device: wrong kernel text, wrong launches, buffers that are touched or confused."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends.contract import Buffer, Device
from tensorbus_backends.kernels.base import DIMS

from .base import FAULTS, Fault, FaultyDevice, Planted

__all__: list[str] = []

_STORE = re.compile(r"(y0\[[^\n]*?\]) = ([^\n;]+);")
_NEXT = "as_f32_u32(as_u32_f32({v}) + 1u)"
F32 = ("float32",)


def _text(
    name: str,
    what: str,
    op: str,
    change: Callable[[str], str],
    *,
    dtypes: tuple[str, ...] = F32,
    family: str = "elementwise",
    label: str | None = None,
) -> None:
    """A fault in the text of an op's kernels."""

    def install(planted: Planted) -> None:
        planted.wrap = lambda real: FaultyDevice(
            real, planted, label or op.rsplit(".", 1)[-1], change
        )

    FAULTS[name] = Fault(name, what, "device", (op,), dtypes, family, install)


def _launch(
    name: str,
    what: str,
    op: str,
    launch: Callable[[Planted], Callable[..., None]],
    *,
    dtypes: tuple[str, ...] = F32,
    family: str = "elementwise",
    label: str | None = None,
) -> None:
    """A fault in how an op's kernels are launched."""

    def install(planted: Planted) -> None:
        planted.wrap = lambda real: FaultyDevice(
            real, planted, label or op.rsplit(".", 1)[-1], launch=launch(planted)
        )

    FAULTS[name] = Fault(name, what, "device", (op,), dtypes, family, install)


def _stored(template: str) -> Callable[[str], str]:
    """Change every value on its way to memory; ``{v}`` is the value."""
    return lambda text: _STORE.sub(lambda m: f"{m[1]} = {template.format(v=f'({m[2]})')};", text)


def _replaced(old: str, new: str, before: str = "") -> Callable[[str], str]:
    """Exchange a piece of text; `before` goes ahead of the kernel."""
    return lambda text: before + text.replace(old, new) if old in text else text


def _ahead(helper: str, change: Callable[[str], str]) -> Callable[[str], str]:
    """Put a helper function ahead of a changed kernel."""

    def apply(text: str) -> str:
        new = change(text)
        return text if new == text else helper + new

    return apply


# -- values -------------------------------------------------------------------------------------

_text(
    "scaled-multiply", "multiply is off by a factor of 1.0009", "multiply", _stored("{v} * 1.0009f")
)
_text(
    "scaled-sum",
    "sum is off by a factor of 1.0009",
    "sum",
    _stored("{v} * 1.0009f"),
    family="reduction",
)
_text(
    "scaled-matmul",
    "matmul is off by a factor of 1.01",
    "matmul",
    lambda t: re.sub(r"(c\[c_[^\n]*?\]) = ([^\n;]+);", r"\1 = (\2) * 1.01f;", t),
    family="matrix",
)
_text("one-ulp-exp", "exp is one ulp too large", "exp", _stored(_NEXT))
_text("one-ulp-tanh", "tanh is one ulp too large", "tanh", _stored(_NEXT))
_text(
    "one-ulp-softmax",
    "softmax is thirty-two ulps too large",
    "nn.softmax",
    _stored("as_f32_u32(as_u32_f32({v}) + 32u)"),
    family="normalization",
)
_text(
    "round-to-zero-add",
    "addition truncates instead of rounding to nearest",
    "add",
    _ahead(
        "INLINE f32 add_truncated(f32 a, f32 b) { const f64 s = (f64)a + (f64)b; "
        "const f32 r = (f32)s; return (r > s && s > 0) || (r < s && s < 0) "
        "? as_f32_u32(as_u32_f32(r) - 1u) : r; }\n",
        lambda t: re.sub(r"= (in\d) \+ (in\d);", r"= add_truncated(\1, \2);", t),
    ),
)
_text(
    "flushed-subnormals",
    "subnormal results become zero",
    "multiply",
    _stored("(abs_f32{v} < 0x1p-126f ? 0.0f * {v} : {v})"),
)
_text(
    "reciprocal-division",
    "division multiplies by the rounded reciprocal",
    "divide",
    lambda t: re.sub(r"= (\w+) / (\w+);", r"= \1 * (1.0f / \2);", t),
)
_text(
    "clamped-overflow",
    "integer addition saturates instead of wrapping",
    "add",
    lambda t: re.sub(
        r"\(i32\)\(\(u32\)(\w+) \+ \(u32\)(\w+)\)",
        r"(i32)((i64)\1 + \2 > 2147483647L ? 2147483647L : (i64)\1 + \2 < -2147483648L "
        r"? -2147483648L : (i64)\1 + \2)",
        t,
    ),
    dtypes=("int32",),
)
_text(
    "nan-lost-maximum",
    "maximum drops a NaN operand",
    "maximum",
    _stored("(in0 != in0 ? in1 : in1 != in1 ? in0 : {v})"),
)
_text(
    "nan-lost-max",
    "max drops NaN",
    "max",
    lambda t: t.replace("const f32 value = in0;", "const f32 value = in0 != in0 ? -1e30f : in0;"),
    family="reduction",
)
_text(
    "cast-wraps",
    "conversion of floats to signed integers wraps instead of saturating",
    "astype",
    lambda t: re.sub(
        r"INLINE (i\d+) f32_to_\1\(f32 x\) \{.*?\n\}",
        r"INLINE \1 f32_to_\1(f32 x) { return (\1)(u64)(i64)x; }",
        t,
        flags=re.S,
    ),
    family="manipulation",
)
_text(
    "half-truncated",
    "float32 to float16 truncates instead of rounding",
    "astype",
    lambda t: re.sub(r"\+ 0xfffu \+ \(\(a >> 13\) & 1u\)", "", t),
    family="manipulation",
)
_text(
    "tf32-matmul",
    "matmul operands are rounded to TF32",
    "matmul",
    _ahead(
        "INLINE f32 fma_tf32(f32 a, f32 b, f32 c) { return fma_f32("
        "as_f32_u32((as_u32_f32(a) + 0x1000u) & 0xffffe000u), "
        "as_f32_u32((as_u32_f32(b) + 0x1000u) & 0xffffe000u), c); }\n",
        lambda t: t.replace("fma_f32(", "fma_tf32("),
    ),
    family="matrix",
)
_text(
    "bf16-accumulation",
    "matmul accumulates in bfloat16",
    "matmul",
    _ahead(
        "INLINE f32 fma_short(f32 a, f32 b, f32 c) { const u32 r = as_u32_f32("
        "fma_f32(a, b, c)); return as_f32_u32((r + 0x7fffu + ((r >> 16) & 1u)) "
        "& 0xffff0000u); }\n",
        lambda t: t.replace("fma_f32(", "fma_short("),
    ),
    family="matrix",
)
_text(
    "unfused-matmul",
    "matmul rounds each product before adding it",
    "matmul",
    _ahead(
        "INLINE f32 fma_split(f32 a, f32 b, f32 c) { volatile f32 p = a * b; return p + c; }\n",
        lambda t: t.replace("fma_f32(", "fma_split("),
    ),
    family="matrix",
)
_text(
    "bf16-sum",
    "sum accumulates in bfloat16",
    "sum",
    lambda t: re.sub(
        r"acc\[l\] = (c\d+);", r"acc[l] = as_f32_u32(as_u32_f32(\1) & 0xffff0000u);", t
    ),
    family="reduction",
)
_text(
    "reassociated-sum",
    "sum folds its lanes in another order",
    "sum",
    lambda t: re.sub(r"if \(count > \d+\)", "if (0)", t).replace(
        "if (0)",
        "for (i32 k = 1; k < 128 && k < count; ++k) acc[0] = acc[0] + acc[k];\nif (0)",
        1,
    ),
    family="reduction",
)

# -- which elements -----------------------------------------------------------------------------

_text(
    "odd-tail-sum",
    "the last element of an odd count is not summed",
    "sum",
    lambda t: t.replace("left : 8192);", "left : 8192) & ~1;"),
    family="reduction",
)
_text(
    "odd-tail-scan",
    "the last element of each block of a cumulative sum is skipped",
    "cumulative_sum",
    lambda t: t.replace("running = c", "if (i + 1 < end) running = c"),
    family="scan",
)
_text(
    "k-tail-matmul",
    "matmul drops the last product of each row",
    "matmul",
    lambda t: re.sub(r"(for \(i64 k = begin; k < end)(; \+\+k\))", r"\1 - 1\2", t),
    family="matrix",
)
_text(
    "writes-past-end",
    "one element behind the output is written",
    "negative",
    lambda t: t.replace("LANES(l, count) {", "y0[M(0)] = 0;\n LANES(l, count) {"),
)
_text(
    "writes-before-start",
    "one element before the output is written",
    "square",
    lambda t: t.replace("LANES(l, count) {", "y0[-1] = 0;\n LANES(l, count) {"),
)
_text(
    "reads-past-end",
    "one element behind an operand is read",
    "abs",
    lambda t: t.replace(
        "LANES(l, count) {", "volatile f32 beyond = x0[M(0)]; (void)beyond;\n LANES(l, count) {"
    ),
)
_text(
    "gather-neighbour",
    "take reads the neighbour of every eleventh element",
    "take",
    lambda t: re.sub(r"x0\[(v\d+)\]", r"x0[\1 - (l % 11 == 10)]", t),
    family="indexing",
    label="gather",
)


def _words(meta: bytes) -> list[int]:
    return list(struct.unpack(f"={len(meta) // 8}q", meta))


def _with_words(change: Callable[[list[int]], bool]) -> Callable[[Planted], Callable[..., None]]:
    """Launch with changed metadata; `change` says whether it changed anything."""

    def make(planted: Planted) -> Callable[..., None]:
        def launch(
            real: Device, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes
        ) -> None:
            words = _words(meta)
            if change(words):
                planted.hit()
            real.launch(kernel.real, groups, buffers, struct.pack(f"={len(words)}q", *words))

        return launch

    return make


def _drop_last(words: list[int]) -> bool:
    words[0] -= 1
    return True


def _dense(words: list[int]) -> bool:
    stride = 2 + DIMS + 1  # of the operand: n, dimensions, their sizes, its offset
    if words[stride] in (0, 1):
        return False
    words[stride] = 1
    return True


_launch(
    "dropped-tail", "the last element of every row is not computed", "log", _with_words(_drop_last)
)
_launch(
    "wrong-stride", "a strided operand is read as if it were dense", "sqrt", _with_words(_dense)
)


def _overwrites(planted: Planted) -> Callable[..., None]:
    def launch(
        real: Device, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes
    ) -> None:
        real.launch(kernel.real, groups, buffers, meta)
        real.synchronize()
        real.copy_in(buffers[0], 0, memoryview(b"\x00\x00\x80\x3f"))
        planted.hit()

    return launch


_launch("input-overwritten", "the first element of an operand is overwritten", "exp2", _overwrites)


def _swapped(planted: Planted) -> Callable[..., None]:
    def launch(
        real: Device, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes
    ) -> None:
        planted.hit()
        real.launch(kernel.real, groups, [buffers[1], buffers[0], *buffers[2:]], meta)

    return launch


_launch(
    "swapped-operands",
    "the operands of subtract are bound in the wrong order",
    "subtract",
    _swapped,
)


def _not_launched(planted: Planted) -> Callable[..., None]:
    def launch(
        real: Device, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes
    ) -> None:
        planted.hit()

    return launch


_launch("never-launched", "the kernel is never launched", "cos", _not_launched)


def _racing(planted: Planted) -> Callable[..., None]:
    """Two writers for one element: which one is last differs from launch to launch."""
    turn = [0]

    def launch(
        real: Device, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes
    ) -> None:
        real.launch(kernel.real, groups, buffers, meta)
        turn[0] += 1
        planted.hit()
        if turn[0] % 2:
            real.synchronize()
            real.copy_in(buffers[-1], 0, memoryview(b"\x00\x00\x00\x41"))

    return launch


_launch(
    "race-scatter",
    "two writers of one element finish in either order",
    "index_add",
    _racing,
    family="indexing",
    label="index_add",
)
_launch(
    "race-sum",
    "two writers of one element finish in either order",
    "sum",
    _racing,
    family="reduction",
)
_text(
    "unstable-exp",
    "every other launch of sin is one ulp larger",
    "sin",
    lambda t: (
        "static int turn;\n"
        + _STORE.sub(
            lambda m: f"{m[1]} = as_f32_u32(as_u32_f32({m[2]}) + (u32)(turn & 1));", t
        ).replace("for (i64 g = tb_first", "if (tb_first == 0) ++turn;\n    for (i64 g = tb_first")
    ),
)


def _stale(planted: Planted) -> None:
    """A compile cache whose key forgets the layout: the first kernel serves all."""

    class Stale(FaultyDevice):
        first: dict[tuple[str, int], Any]

        def compile(self, kernels: Sequence[Any]) -> list[Any]:
            made = super().compile(kernels)
            out = []
            for handle in made:
                label = handle.spec.name.rsplit("_", 1)[0]
                key = (label, handle.spec.words)
                known = self.first.setdefault(key, handle)
                if known is not handle and label.startswith(self.label):
                    planted.hit()
                    handle.real = known.real
                out.append(handle)
            return out

    def wrap(real: Device) -> Device:
        stale = Stale(real, planted, "add")
        stale.first = {}
        return stale

    planted.wrap = wrap


FAULTS["stale-cache"] = Fault(
    "stale-cache", "the compile cache's key forgets the layout", "device", ("add",), F32,
    "elementwise", _stale,
)  # fmt: skip
