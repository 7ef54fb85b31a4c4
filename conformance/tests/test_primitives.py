"""Every primitive of the IR is judged, by a reference that the host confirms, and faults show."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus_backends import ir
from tensorbus_backends.contract import CompileError
from tensorbus_conformance.judge import parts, primitives, trials
from tensorbus_conformance.judge.guard import Guarded
from tensorbus_conformance.judge.items import Item
from tensorbus_conformance.judge.parts import Part
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session
from tensorbus_conformance.oracle import primitives as exact, vectors

HOST = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "sqrt": np.sqrt,
    "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "rint": np.rint,
    "neg": np.negative, "abs": np.abs, "lt": np.less, "le": np.less_equal, "eq": np.equal,
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", HOST)
def test_the_reference_agrees_with_the_hosts_arithmetic(op: str, dtype: str) -> None:
    arity = 1 if op in ("sqrt", "floor", "ceil", "trunc", "rint", "neg", "abs") else 2
    columns = vectors.operands(op, dtype, arity, 1, 300, False)
    unsigned = np.dtype(f"u{np.dtype(dtype).itemsize}")
    want = exact.results(exact.element(op, dtype), columns)
    with np.errstate(all="ignore"):
        got = HOST[op](*(np.array(c, unsigned).view(dtype) for c in columns))
    if got.dtype == bool:
        assert got.tolist() == [bool(w) for w in want]
        return
    expected = np.array(want, unsigned)
    nan = np.isnan(got) & np.isnan(expected.view(dtype))
    assert ((got.view(unsigned) == expected) | nan).all()


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "uint64"])
def test_integers_agree_with_the_hosts(dtype: str) -> None:
    bits, _ = exact.INTEGERS[dtype]
    a, b = vectors.operands("mul", dtype, 2, 1, 300, True)
    x, y = np.array(a, dtype), np.array(b, dtype)
    with np.errstate(all="ignore"):
        assert (x * y).tolist() == exact.results(exact.element("mul", dtype), [a, b])
        assert (x + y).tolist() == exact.results(exact.element("add", dtype), [a, b])
        assert (~x).tolist() == exact.results(exact.element("not", dtype), [a])
    high = exact.results(exact.element("mulhi", dtype), [a, b])
    assert high == [p * q // 2**bits for p, q in zip(a, b, strict=True)]


@pytest.mark.parametrize("narrow", ["float16", "float32"])
def test_conversions_agree_with_the_hosts(narrow: str) -> None:
    (column,) = vectors.operands("cast", "float64", 1, 1, 2000, False)
    x = np.array(column, np.uint64).view(np.float64)
    with np.errstate(all="ignore"):
        got = x.astype(narrow)
    want = np.array(
        exact.results(exact.conversion("float64", narrow), [column]), f"u{got.itemsize}"
    )
    nan = np.isnan(got) & np.isnan(want.view(narrow))
    assert ((got.view(want.dtype) == want) | nan).all()


def test_an_fma_with_two_roundings_differs_on_many_vectors() -> None:
    columns = vectors.operands("fma", "float32", 3, 0, 200, True)
    want = np.array(exact.results(exact.element("fma", "float32"), columns), np.uint32)
    a, b, c = (np.array(c, np.uint32).view(np.float32) for c in columns)
    with np.errstate(all="ignore"):
        wide = (a.astype(np.float64) * b + c).astype(np.float32)
        twice = a * b + c
    for wrong in (wide, twice):
        differ = (wrong.view(np.uint32) != want) & ~(np.isnan(wrong) & np.isnan(want.view("f4")))
        assert differ.sum() >= 10


def test_flushed_results_have_three_readings() -> None:
    f = exact.FORMATS["float32"]
    least = exact.encode(0, 1, -126, f)
    below = exact.encode(0, (1 << 24) - 1, -24, f)  # 1 - 2^-24
    got = {
        tiny: exact.element("mul", "float32", tiny=tiny)(least, below)
        for tiny in ("after", "before", "stored")
    }
    # 2^-126 (1 - 2^-24) = 2^-126 - 2^-150, which IEEE 754 rounds up to 2^-126 when it stores it.
    assert got == {"after": 0, "before": 0, "stored": least}
    assert exact.element("add", "float32", tiny="after")(1, 1) == 0
    assert exact.element("neg", "float32", tiny="after")(1) == 1 | 1 << 31


def test_every_primitive_of_the_ir_has_a_part_and_a_reference() -> None:
    parts.load()
    assert set(ir.PRIMITIVES) <= {n.partition(".")[2] for n in parts.PARTS if "primitive." in n}
    assert {*ir.PRIMITIVES, "store"} == set(trials.BUILDERS)
    with pytest.raises(ir.IRError, match="no such primitive"):
        ir._make("popcount", tb.int32, (ir.input_(0, tb.int32),))


# -- planted faults -------------------------------------------------------------------------------


def session(op: str, dtype: str, backend: Any, level: str = "smoke") -> Session:
    parts.load()
    return Session(
        Item(f"primitive.{op}", "cpu", dtype, "portable"), tb.Device(Guarded(backend)), level, 0
    )


def test_a_primitive_without_a_reference_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    parts.load()
    made = Part("primitive.popcount", {"bits": primitives.bits}, (tb.int32,), (tb.int32,))
    monkeypatch.setitem(parts.PARTS, made.name, made)
    outcome = judge(session("popcount", "int32", tb.get_device("ref").backend), "bits")
    assert outcome.state == "not run"


@dataclass(frozen=True)
class Respelt:
    """A kernel whose text is changed."""

    spec: Any
    change: Callable[[str], str]
    tag: str

    @property
    def name(self) -> str:
        return f"{self.spec.name}_{self.tag}"

    @property
    def buffers(self) -> int:
        return int(self.spec.buffers)

    @property
    def words(self) -> int:
        return int(self.spec.words)

    def source(self, dialect: Any) -> str:
        text = self.spec.source(dialect)
        changed = self.change(text)
        assert changed != text, "the fault does not touch the kernel"
        return changed.replace(self.spec.name, self.name)

    def local_bytes(self, dialect: Any) -> int:
        return int(self.spec.local_bytes(dialect))


class Faulty:
    """The cpu device with kernels spelt wrong; it takes one at a time."""

    def __init__(self, real: Any, change: Callable[[str], str], tag: str) -> None:
        self.real, self.change, self.tag = real, change, tag

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def compile(self, kernels: Sequence[Any]) -> list[Any]:
        if len(kernels) > 1:
            raise CompileError("one at a time")
        return list(self.real.compile([Respelt(k, self.change, self.tag) for k in kernels]))


def macro(name: str, text: str) -> Callable[[str], str]:
    return lambda source: f"#undef {name}\n#define {name}{text}\n{source}"


def line(pattern: str, replacement: str) -> Callable[[str], str]:
    return lambda source: re.sub(pattern, replacement, source)


FAULTS: dict[str, tuple[str, str, Callable[[str], str]]] = {
    "fma through float64": (
        "fma", "float32", macro("fma_f32", "(a, b, c) ((f32)((f64)(a) * (f64)(b) + (f64)(c)))"),
    ),
    "fma32 rounded twice": ("fma", "float32", macro("fma_f32", "(a, b, c) ((a) * (b) + (c))")),
    "fma64 rounded twice": ("fma", "float64", macro("fma_f64", "(a, b, c) ((a) * (b) + (c))")),
    "fma64 through 64 bits": (
        "fma", "float64",
        macro("fma_f64", "(a, b, c) ((f64)((long double)(a) * (b) + (long double)(c)))"),
    ),
    "mulhi without its carry": (
        "mulhi", "uint64",
        macro("mulhi_u64", "(a, b) (((a) >> 32) * ((b) >> 32) + ((((a) >> 32) * (u32)(b)) >> 32)"
              " + (((u32)(a) * ((b) >> 32)) >> 32))"),
    ),
    "mulhi without one carry": (
        "mulhi", "uint64",
        macro("mulhi_u64", "(a, b) (((a) >> 32) * ((b) >> 32) + ((((a) >> 32) * (u32)(b)"
              " + (u32)(a) * ((b) >> 32)) >> 32))"),
    ),
    "mulhi without signs": (
        "mulhi", "int64", macro("mulhi_i64", "(a, b) "
        "((i64)(((unsigned __int128)(u64)(a) * (u64)(b)) >> 64))"),
    ),
    "an integer's limit two too low": (
        "cast", "float64", line(r"0x1\.0000000000000p\+31", "0x1.fffffffcp+30"),
    ),
    "an integer's limit one too high": (
        "cast", "float64", line(r"0x1\.0000000000000p\+31", "0x1.00000002p+31"),
    ),
    "division by reciprocal": ("div", "float32", line(r"in0 / in1", "in0 * (1.0f / in1)")),
    "division rounded twice": (
        "div", "float64", line(r"in0 / in1", "(f64)((long double)in0 / in1)"),
    ),
    "sum rounded twice": ("add", "float64", line(r"in0 \+ in1", "(f64)((long double)in0 + in1)")),
    "product rounded twice": (
        "mul", "float64", line(r"in0 \* in1", "(f64)((long double)in0 * in1)"),
    ),
    "root rounded twice": (
        "sqrt", "float64", macro("sqrt_f64", "(x) ((f64)__builtin_sqrtl((long double)(x)))"),
    ),
    "root by reciprocal": (
        "sqrt", "float32",
        macro("sqrt_f32", "(x) ((x) > 0.0f && (x) < 1e38f ? (x) * (1.0f / __builtin_sqrtf(x))"
              " : __builtin_sqrtf(x))"),
    ),
    "subnormal sums are zero": (
        "sub", "float32",
        line(r"in0 - in1;", "abs_f32(in0 - in1) < 0x1p-126f ? 0.0f : in0 - in1;"),
    ),
    "ties away from zero": ("rint", "float32", macro("rint_f32", " __builtin_roundf")),
    "rint by adding a half": ("rint", "float64", macro("rint_f64", "(x) floor_f64((x) + 0.5)")),
    "trunc through an integer": (
        "trunc", "float32",
        macro("trunc_f32", "(x) (abs_f32(x) < 1e9f ? (f32)(i64)(x) : (x))"),
    ),
    "negation by subtraction": ("neg", "float32", line(r"= -in0", "= 0.0f - in0")),
    "absolute value by comparison": (
        "abs", "float32", macro("abs_f32", "(x) ((x) < 0.0f ? -(x) : (x))"),
    ),
    "unsigned compared as signed": ("lt", "uint32", line("in0 < in1", "(i32)in0 < (i32)in1")),
    "NaN is less or equal": ("le", "float32", line("in0 <= in1", "!(in0 > in1)")),
    "zeros compared by bits": (
        "eq", "float32", line("in0 == in1", "as_u32_f32(in0) == as_u32_f32(in1)"),
    ),
    "shift by the amount's low bits": (
        "shl", "int32", line(r"shl_i32\(in0, in1\)", "(i32)((u32)in0 << (in1 & 31))"),
    ),
    "shift without the sign": (
        "shr", "int32",
        line(r"shr_i32\(in0, in1\);", "(u32)in1 < 32u ? (i32)((u32)in0 >> in1) : 0;"),
    ),
    "a zero divisor gives -1": (
        "idiv", "int32", line(r"if \(b == 0\) return \(i32\)0", "if (b == 0) return -1"),
    ),
    "division by a constant through float": (
        "idiv", "int32", line(r"idiv_i32\(in0, 3\)", "(i32)((f32)in0 / 3.0f)"),
    ),
    "remainder of the divisor's sign": (
        "irem", "int32", line(r"\(i32\)\(a % b\)", "(a % b + b) % b"),
    ),
    "float64 to float16 through float32": (
        "cast", "float64", line(r"= f64_to_f16\((\w+)\);", r"= f32_to_f16((f32)\1);"),
    ),
    "int64 to bfloat16 through float32": (
        "cast", "int64", line(r"= i64_to_bf16\((\w+)\);", r"= f32_to_bf16((f32)\1);"),
    ),
    "int64 to bfloat16 through float64": (
        "cast", "int64", line(r"return f32_to_bf16\(i64_to_f32_odd\(\(i64\)x\)\)",
                              "return f32_to_bf16(i64_to_f32_odd((i64)(f64)x))"),
    ),
    "a bool that is another byte than 1": (
        "input", "bool", line(r"\((x0\[.*?\]) != 0\)", r"(\1 == 1)"),
    ),
    "a table after a loop at its first entry": (
        "repeat", "int32", line(r"(table_\w+)\[(v\d+)\]", r"\1[in0 > 8 ? \2 : 0]"),
    ),
    "int64 to float32 through float64": (
        "cast", "int64", line(r"\(f32\)in0;", r"(f32)(f64)in0;"),
    ),
    "conversion without saturation": (
        "cast", "float32", line(r"f32_to_i32\(in0\)", "(i32)in0"),
    ),
    "a store without saturation": (
        "store", "float32", line(r"f32_to_i32\(in0\)", "(i32)in0"),
    ),
    "a store of a bool by its integer part": (
        "store", "float32", line(r"\(u8\)\(in0 != 0\)", "(u8)in0"),
    ),
    "float16 subnormals are zero": (
        "input", "float16", line(r"rest < 0x400u \? small", "rest < 0x400u ? 0u"),
    ),
    "the last element of short rows": (
        "add", "float32",
        line(r"y0\[(.*?)\] = (\w+);", r"y0[\1] = l == 6 && count == 7 ? 0.0f : \2;"),
    ),
    "select takes the other side of a bool": (
        "select", "float32", line(r"in0 \? in1 : in2", "in0 ? in2 : in1"),
    ),
    "one more turn": ("repeat", "int32", line(r"(v\d+) < in0;", r"\1 < in0 + (in0 > 8);")),
    "min by less or equal": (
        "le", "float32", line(r"(v\d+) \? in0 : in1", r"\1 ? in1 : in0"),
    ),
    "a table's last entry": ("table", "int32", line(r"\[in0\]", "[in0 % 16]")),
    "a write behind the result": (
        "not", "int32", line(r"(y0\[.*?) \+ l\] = (\w+);", r"\1 + l] = \2; \1 + count] = \2;"),
    ),
}  # fmt: skip


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_primitive_is_seen(name: str) -> None:
    op, dtype, change = FAULTS[name]
    real = tb.get_device("cpu").backend
    faulty = Faulty(real, change, re.sub(r"\W", "_", name))
    outcome = judge(session(op, dtype, faulty), "bits")
    assert outcome.state == "fail", outcome
    assert outcome.message
