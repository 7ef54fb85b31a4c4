"""The dialect and the MSL check: good programs pass, each kind of bad one is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tensorbus_backends import interp
from tensorbus_backends.check import Check
from tensorbus_backends.contract import CompileError, DeviceUnavailableError
from tensorbus_backends.units import program_text
from tensorbus_metal import msl
from tensorbus_metal.device import MetalDevice, declared
from tensorbus_metal.dialect import BUFFERS, MSL
from tensorbus_metal.lint import lint
from tensorbus_metal.msl import MslCheck

HEAD = "#include <metal_stdlib>\n#pragma METAL fp contract(off)\nusing namespace metal;\n"
X = "device float *x [[buffer(0)]]"


def program() -> str:
    return program_text(MSL, [Check(False).source(MSL)])


@pytest.fixture(scope="module")
def check() -> MslCheck:
    try:
        return MslCheck.open()
    except DeviceUnavailableError as error:
        pytest.skip(error.cause)


def test_a_generated_program_is_clean(check: MslCheck) -> None:
    assert lint(program()) == []
    check.check(program())
    assert check.version.startswith("clang ")


def test_the_pragma_stands_before_every_kernel() -> None:
    text = program()
    assert text.index("#pragma METAL fp contract(off)") < text.index("kernel void")


def test_the_last_buffer_leaves_a_place_for_the_metadata() -> None:
    assert BUFFERS == 30
    assert "float64" not in declared().dtypes


# Each with a word of the message and the line, counted behind the head; 0 where it has none.
BAD = {
    "double": (f"kernel void k({X}) {{ double y = x[0]; }}", "no double", 1),
    "new": (f"kernel void k({X}) {{ thread float *y = new float; }}", "no new", 1),
    "long long": (f"kernel void k({X}) {{\n long long y = 0; }}", "no long long", 2),
    "exception": (f"kernel void k({X}) {{ throw 1; }}", "no exceptions", 1),
    "goto": (f"kernel void k({X}) {{ a: goto a; }}", "no goto", 1),
    "std": (f"kernel void k({X}) {{ x[0] = std::sqrt(x[0]); }}", "standard library", 1),
    "reserved name": (f"kernel void k({X}) {{\n\n float sampler = x[0]; }}", "'sampler'", 3),
    "recursion": (
        "static inline float f(float x) { return x > 0 ? f(x - 1) : 0; }\n"
        f"kernel void k({X}) {{ x[0] = f(x[0]); }}",
        "f calls itself",
        1,
    ),
    "mutual recursion": (
        "static inline float g(float x);\n"
        "static inline float f(float x) { return g(x); }\n"
        "static inline float g(float x) { return f(x); }\n"
        f"kernel void k({X}) {{ x[0] = f(x[0]); }}",
        "g calls itself",
        3,
    ),
    "no attribute": ("kernel void k(device float *x) { }", "has no attribute", 1),
    "misspelt attribute": ("kernel void k(device float *x [[bufer(0)]]) { }", "'bufer'", 1),
    "misspelt position": (
        f"kernel void k({X},\n uint i [[thread_position_in_gird]]) {{ }}",
        "'thread_position_in_gird'",
        2,
    ),
    "wrong type of position": (
        f"kernel void k({X}, int i [[thread_position_in_grid]]) {{ }}",
        "a ushort or a uint",
        1,
    ),
    "index too large": ("kernel void k(device float *x [[buffer(31)]]) { }", "0 .. 30", 1),
    "index twice": (f"kernel void k({X}, {X.replace('*x', '*y')}) {{ }}", "there twice", 1),
    "no address space": ("kernel void k(float *x [[buffer(0)]]) { }", "no pointer to device", 1),
    "no pointer": ("kernel void k(device float x [[buffer(0)]]) { }", "no pointer to device", 1),
    "too much threadgroup memory": (
        f"kernel void k({X}) {{ threadgroup float a[8193]; a[0] = x[0]; }}",
        "32772 bytes of threadgroup memory",
        1,
    ),
    "threadgroup in a block": (
        f"kernel void k({X}) {{ if (x[0] > 0) {{\n threadgroup float a[4]; a[0] = 1; }} }}",
        "not at the scope of a kernel",
        2,
    ),
    "threadgroup in a function": (
        "static inline void f() { threadgroup float a[4]; a[0] = 1; }",
        "not at the scope of a kernel",
        1,
    ),
    "table that is not constant": (
        "static const float t[2] = {1, 2};",
        "not in constant memory",
        1,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_the_lint_sees(name: str) -> None:
    text, words, line = BAD[name]
    found = lint(HEAD + text + "\n")
    assert any(words in f.words and f.line == line + 3 for f in found), found


@pytest.mark.parametrize(
    ("without", "words"),
    [("#include <metal_stdlib>\n", "include"), ("#pragma METAL fp contract(off)\n", "contract")],
)
def test_the_lint_misses_a_line_of_the_prelude(without: str, words: str) -> None:
    (found,) = lint(HEAD.replace(without, "") + f"kernel void k({X}) {{ }}\n")
    assert words in found.words


def test_a_macro_may_rename_a_reserved_word() -> None:
    text = HEAD + f"#define half tb_half\nkernel void k({X}) {{ int half = 2; x[half] = 1; }}\n"
    assert lint(text) == []


WRONG = {
    "missing qualifier": f"kernel void k({X}) {{ float *y = x; y[0] = 1; }}",
    "mixed spaces": f"kernel void k({X}) {{ threadgroup float *y = x; y[0] = 1; }}",
    "written constant": "kernel void k(constant float *x [[buffer(0)]]) { x[0] = 1; }",
    "written const": "kernel void k(device const float *x [[buffer(0)]]) { x[0] = 1; }",
    "passed to a private pointer": (
        "static inline float f(thread float *p) { return p[0]; }\n"
        f"kernel void k({X}) {{ x[0] = f(x); }}"
    ),
    "float64 literal": f"kernel void k({X}) {{ x[0] = x[0] * double(2); }}",
    "unknown function": f"kernel void k({X}) {{ x[0] = erf(x[0]); }}",
    "unknown variable": f"kernel void k({X}) {{ x[0] = y; }}",
    "sizes of as_type": f"kernel void k({X}) {{ x[0] = as_type<float>(ulong(1)); }}",
    "ambiguous call": f"kernel void k({X}) {{ x[0] = mulhi(1l, 2l); }}",
    "syntax": f"kernel void k({X}) {{ x[0] = ; }}",
}


@pytest.mark.parametrize("name", WRONG)
def test_the_front_end_sees(check: MslCheck, name: str) -> None:
    source = HEAD + WRONG[name] + "\n"
    with pytest.raises(CompileError) as caught:
        check.check(source)
    line = source.count("\n")
    assert f"program_source:{line}:" in caught.value.log
    assert "rejects MSL" in str(caught.value)
    assert caught.value.source == source


def test_without_clang_the_cause_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(msl.shutil, "which", lambda name: None)
    with pytest.raises(DeviceUnavailableError, match="clang is not installed"):
        MslCheck.open()


# -- as the simulated device runs it ----------------------------------------------------------


def results(device: MetalDevice, kernel: Any, x: Any) -> Any:
    (compiled,) = device.compile([kernel])
    source, target = device.allocate(x.nbytes), device.allocate(x.nbytes)
    device.copy_in(source, 0, x.view(np.uint8).data)
    device.launch(compiled, 1, [source, target], np.zeros(3, np.int64).tobytes())
    out = np.empty_like(x)
    device.copy_out(target, 0, out.view(np.uint8).data)
    return out


@pytest.mark.parametrize("signed", [False, True])
def test_the_high_half_of_64_bit_products(device: MetalDevice, add_to: Any, signed: bool) -> None:
    t = "i64" if signed else "u64"
    edges = [0, 1, 2, 3, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1]
    values = [v for e in edges for v in (e, -e, e + 1, -e - 1)]
    rng = np.random.default_rng(5)
    values += [int(v) for v in rng.integers(-(1 << 63), 1 << 63, 64 - len(values), np.int64)]
    words = np.array([v & ((1 << 64) - 1) for v in values], np.uint64)
    body = (
        f"device const {t} *a = (device const {t} *)x; device {t} *b = (device {t} *)y;\n"
        f"LANES(l, 64) b[l] = mulhi_{t}(a[l], a[63 - l]);"
    )
    got = results(device, add_to(f"high_{t}", body=body), words)
    low = 1 << 63 if signed else 0
    plain = [((int(w) + low) % (1 << 64)) - low for w in words]
    want = [(p * q >> 64) & ((1 << 64) - 1) for p, q in zip(plain, reversed(plain), strict=True)]
    assert [int(g) for g in got] == want


def test_the_pragma_keeps_products_and_sums_apart(
    make: Callable[..., MetalDevice], add_to: Any
) -> None:
    """And without it the simulated device fuses them, as Apple's do, so its loss is seen."""
    body = (
        "device const f32 *a = (device const f32 *)x; device f32 *b = (device f32 *)y;\n"
        "LANES(l, 64) b[l] = a[l] * a[63 - l] + a[l];"
    )
    x = np.linspace(1, 2, 64, dtype=np.float32)
    fused = interp.fma32(x, x[::-1], x)
    apart = x * x[::-1] + x
    assert (fused != apart).any()
    assert (results(make(), add_to("apart", body=body), x) == apart).all()
    careless = make()
    prelude = MSL.prelude.replace("#pragma METAL fp contract(off)\n", "")
    careless.dialect = replace(MSL, name="careless", prelude=prelude)
    got = results(careless, add_to("fused", body=body), x)
    if (got == apart).all():
        pytest.skip("this processor has no fma instruction")
    assert (got == fused).all()


def test_the_source_is_kept_on_disk(
    make: Callable[..., MetalDevice], add_to: Any, tmp_path: Any
) -> None:
    make().compile([add_to()])
    (kept,) = tmp_path.glob("cache/**/*.metal/payload*")
    assert "kernel void add_to(" in kept.read_text()
    make().compile([add_to()])
    assert len(list(tmp_path.glob("cache/**/*.metal/payload*"))) == 1
