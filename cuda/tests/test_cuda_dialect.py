"""The kernel language in CUDA C++, down to the instructions that NVRTC makes of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tensorbus_backends import clike, dtypes as dt
from tensorbus_backends.check import Check
from tensorbus_backends.units import program_text
from tensorbus_cuda.dialect import Spelling

sys.path.insert(0, str(Path(__file__).parent))
from nvrtcs import installed

F = {"f32": dt.float32, "f64": dt.float64}


@pytest.fixture(scope="module")
def nvrtc():
    return installed()


def text(dialect, body, t="f32", **more):
    arguments = [clike.Argument("x", F[t]), clike.Argument("y", F[t], True)]
    code = clike.assemble(dialect, "kernel", arguments, 4, body, offsets=[1, 2], **more)
    return program_text(dialect, [code])


def instructions(nvrtc, body, t="f32", **more):
    """The PTX instructions of a body."""
    ptx = nvrtc.compile(text(Spelling().dialect(), body, t, **more), "compute_80").decode()
    return re.findall(r"^\s+(?:@%p\d+ )?([a-z][a-z0-9_.:]*)\s", ptx, re.MULTILINE)


def one(nvrtc, expression, t="f32"):
    found = instructions(nvrtc, f"LANES(l, 128) {{ y[l] = {expression}; }}", t)
    return [i for i in found if i.endswith(t) and not i.startswith(("ld", "st", "mov"))]


@pytest.mark.parametrize("t", ["f32", "f64"])
def test_every_operation_rounds_once_and_keeps_subnormals(nvrtc, t):
    a, b, c = "x[l]", "x[l + 128]", "x[l + 256]"
    for expression, kind in {
        f"{a} + {b}": "add",
        f"{a} * {b}": "mul",
        f"{a} / {b}": "div",
        f"sqrt_{t}({a})": "sqrt",
        f"fma_{t}({a}, {b}, {c})": "fma",
    }.items():
        (found,) = one(nvrtc, expression, t)
        assert found in (f"{kind}.rn.{t}", f"{kind}.{t}"), expression
        if kind in ("div", "sqrt", "fma"):
            assert ".rn." in found


@pytest.mark.parametrize("t", ["f32", "f64"])
def test_a_product_and_a_sum_stay_two_roundings(nvrtc, t):
    kinds = [i.split(".")[0] for i in one(nvrtc, "x[l] * x[l + 128] + x[l + 256]", t)]
    assert kinds == ["mul", "add"]


@pytest.mark.parametrize(
    ("name", "mode"), [("floor", "rmi"), ("ceil", "rpi"), ("trunc", "rzi"), ("rint", "rni")]
)
def test_roundings_to_an_integer(nvrtc, name, mode):
    for t in F:
        assert one(nvrtc, f"{name}_{t}(x[l])", t) == [f"cvt.{mode}.{t}.{t}"]
        assert one(nvrtc, f"abs_{t}(x[l])", t) == [f"abs.{t}"]


WORDS = """
LANES(l, 128) {
    const u32 a = as_u32_f32((f32)x[l]); const i32 b = as_i32_f32((f32)x[l]);
    const u64 c = as_u64_f64((f64)x[l]); const i64 d = as_i64_f64((f64)x[l]);
    const i8 e = (i8)a; const i16 f = (i16)a; const u8 h = (u8)a; const u16 k = (u16)a;
    const b8 p = a != 0u;
    shared[l] = as_f32_u32(mulhi_u32(a, a)) + as_f32_i32(mulhi_i32(b, b)) + table[l & 1];
    shared[l] += (f32)(as_f64_u64(mulhi_u64(c, c)) + as_f64_i64(mulhi_i64(d, d)));
    shared[l] += (f32)(e + f + h + k) + (p ? 1.0f : 0.0f) + twice((f32)M(3));
}
SYNC;
LANES(l, 1) { y[g] = shared[l + 127]; }
"""


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("grid_constant", [False, True])
def test_every_word_of_the_language(nvrtc, in_memory, grid_constant):
    dialect = Spelling(256, grid_constant).dialect(in_memory=in_memory)
    tables = {
        "table": "CONSTANT f32 table[2] = {0x1.8p+0f, -2.0f};",
        "twice": "INLINE f32 twice(f32 x) { return x + x; }",
    }
    source = text(dialect, WORDS, local=[("f32", "shared", 128)], tables=tables)
    ptx = nvrtc.compile(source, "compute_80").decode()
    for part in (".maxntid 256", "bar.sync", ".shared", "mul.hi.u32", "mul.hi.s64", "mul.hi.u64"):
        assert part in ptx, part
    parameters = re.search(r"\.entry kernel\((.*?)\)", ptx, re.DOTALL)[1]
    assert (".param .align 8 .b8" in parameters) is not in_memory
    assert nvrtc.compile(source, "sm_90")[:4] == b"\x7fELF"


def test_metadata_is_read_where_it_lies(nvrtc):
    """Not copied to each thread's own memory, also where the word is computed."""
    body = "LANES(l, 128) { y[l] = (f32)M(l & 3); }"
    assert not [i for i in instructions(nvrtc, body) if "local" in i]


def test_no_text_is_in_two_programs_with_different_meaning():
    names = [
        Spelling(group, constant).dialect(in_memory=memory).name
        for group in (128, 256)
        for constant in (False, True)
        for memory in (False, True)
    ]
    assert len(set(names)) == 8


def test_the_proof_kernel_compiles_for_every_target(nvrtc):
    dialect = Spelling().dialect()
    source = program_text(dialect, [Check(True).source(dialect)])
    for arch in {min(nvrtc.supported_archs), 80, 90, max(nvrtc.supported_archs)}:
        assert nvrtc.compile(source, f"sm_{arch}")[:4] == b"\x7fELF"


def test_loops_over_dimensions_stay_loops(nvrtc):
    # Each copy of such a loop's body holds a 64-bit division.
    body = "\n".join(
        [
            "i64 rest = g, o = 0;",
            "for (i32 d = (i32)M(0) - 1; d > 0; --d) {",
            "    o += rest % M(3); rest = rest / M(3);",
            "}",
            "LANES(l, 1) { y[l + o] = x[l]; }",
        ]
    )
    divisions = [i for i in instructions(nvrtc, body) if i.startswith("div.s64")]
    assert len(divisions) == 1
