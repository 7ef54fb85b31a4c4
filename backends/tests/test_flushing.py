"""The interpreter as a device that flushes subnormals: its rules, and a processor that does it."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorbus_backends import dtypes as dt, flushing, interp, ir, ref
from tensorbus_backends.contract import LaunchError
from tensorbus_backends.kernels import Contraction, Map, Operand, Walk
from tensorbus_backends.kernels.base import Strided, pack

CC = shutil.which("gcc") or shutil.which("clang")
TINY = np.float32(1e-40)
LEAST = np.float32(2.0**-126)
X, Y, Z = (ir.input_(k, dt.float32) for k in range(3))
OPS: dict[str, ir.Expr] = {
    "x + y": X + Y,
    "x - y": X - Y,
    "x * y": X * Y,
    "x / y": X / Y,
    "__builtin_fmaf(x, y, z)": ir.fma(X, Y, Z),
    "__builtin_sqrtf(x)": ir.sqrt(X),
    "__builtin_floorf(x)": ir.floor(X),
    "__builtin_ceilf(x)": ir.ceil(X),
    "__builtin_rintf(x)": ir.rint(X),
    "x < y": ir.cast(X < Y, dt.float32),
    "x <= y": ir.cast(X <= Y, dt.float32),
    "x == y": ir.cast(X.eq(Y), dt.float32),
    "-x": -X,
    "__builtin_fabsf(x)": ir.fabs(X),
}


def value(expr: ir.Expr, *arrays: Any) -> Any:
    operands = [np.atleast_1d(np.asarray(a)) for a in arrays]
    return interp.evaluate([expr], lambda node: operands[node.attr])[0]


def same(a: Any, b: Any) -> bool:
    equal = a.view(np.uint32) == b.view(np.uint32)
    return bool((equal | (np.isnan(a) & np.isnan(b))).all())


def test_operands_and_results_become_zeros_of_their_sign() -> None:
    with flushing.flushing():
        for got in (value(X + Y, TINY, np.float32(0)), value(X * Y, LEAST, np.float32(0.5))):
            assert same(got, np.zeros(1, np.float32))
        assert same(value(X - Y, np.float32(0), LEAST / 2), np.zeros(1, np.float32))
        assert same(value(X * Y, -LEAST, np.float32(0.5)), np.asarray([-0.0], np.float32))
        assert same(value(ir.sqrt(X), -TINY), np.asarray([-0.0], np.float32))
        assert same(value(ir.ceil(X), TINY), np.zeros(1, np.float32))
        assert value(X.eq(Y), TINY, np.float32(0)).all()
        assert value(X / Y, np.float32(1), TINY)[0] == np.inf
        assert not value(ir.cast(X, dt.bool_), TINY).any()


def test_bits_that_only_move_are_kept() -> None:
    picked = ir.select(ir.const(True, dt.bool_), X, Y)
    again = ir.bitcast(ir.bitcast(X, dt.uint32), dt.float32)
    with flushing.flushing():
        for expr in (picked, again, X):
            assert same(value(expr, TINY, LEAST), np.atleast_1d(TINY))
        assert same(value(-X, TINY), np.atleast_1d(-TINY))
        assert same(value(ir.fabs(X), -TINY), np.atleast_1d(TINY))


def test_other_dtypes_and_other_code_are_untouched() -> None:
    double = ir.input_(0, dt.float64)
    with flushing.flushing():
        assert value(double + double, np.float64(5e-324))[0] == 1e-323
        assert value(ir.cast(double, dt.float32), np.float64(1e-40))[0] == 0
        assert interp.widen(np.asarray([1e-7], np.float16), dt.float16)[0] != 0
        assert interp.narrow(np.asarray([1e-7], np.float32), dt.float16)[0] != 0
        assert TINY * np.float32(2) != 0
    assert value(X + Y, TINY, np.float32(0))[0] == TINY
    assert flushing.tininess() is None


@pytest.mark.parametrize(
    ("tiny", "kept"), [("after", (True, False)), ("before", (False, False)), ("stored", (1, 1))]
)
def test_what_counts_as_tiny(tiny: str, kept: tuple[bool, bool]) -> None:
    """Products 2^-126 (1 - a^2), where a^2 is 2^-26 and 0.75 times 2^-24."""
    a = np.asarray([2.0**-13, 1773 * 2.0**-23])
    left, right = (((1 + s * a) * 2.0**-63).astype(np.float32) for s in (1, -1))
    with flushing.flushing(tiny):
        for got in (value(X * Y, left, right), value(ir.fma(X, Y, Z), left, right, 0 * left)):
            assert [g != 0 for g in got] == [bool(k) for k in kept]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="choose of"), flushing.flushing("sometimes"):
        pass


def test_matrix_products_flush_too() -> None:
    kernel = Contraction.product(dt.float32)
    words = kernel.meta([], [1], [1], [1], [Walk([], [1], [1])] * 3)
    arrays = [np.asarray([v], np.float32) for v in (1e-20, 1e-20, 7.0)]
    with flushing.flushing():
        kernel.interpret(arrays, np.asarray(words, np.int64), 1)
    assert arrays[2][0] == 0


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, list[Any]], Any]:
    """Compute an expression of C on this processor, in its flush mode."""
    if CC is None or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("needs a C compiler and an x86 processor, whose flush mode is known")
    functions = "\n".join(
        f"""void f{k}(const float *a, const float *b, const float *c, float *r, long n) {{
    unsigned old, new;
    __asm__ volatile("stmxcsr %0" : "=m"(old));
    new = old | 0x8040;
    __asm__ volatile("ldmxcsr %0" : : "m"(new) : "memory");
    for (long i = 0; i < n; ++i) {{ float x = a[i], y = b[i], z = c[i]; r[i] = {text}; }}
    __asm__ volatile("ldmxcsr %0" : : "m"(old) : "memory");
}}"""
        for k, text in enumerate(OPS)
    )
    stem = tmp_path_factory.mktemp("flush") / "ops"
    Path(f"{stem}.c").write_text(functions)
    flags = "-O2 -march=native -ffp-contract=off -fno-math-errno -fPIC -shared"
    subprocess.run([CC, *flags.split(), f"{stem}.c", "-o", f"{stem}.so", "-lm"], check=True)
    library = ctypes.CDLL(f"{stem}.so")

    def compute(text: str, arrays: list[Any]) -> Any:
        result = np.empty_like(arrays[0])
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*arrays, result)]
        getattr(library, f"f{list(OPS).index(text)}")(*pointers, ctypes.c_long(result.size))
        return result

    return compute


@pytest.mark.parametrize("text", OPS)
def test_the_processor_agrees(processor: Callable[[str, list[Any]], Any], text: str) -> None:
    """x86 calls a result tiny after rounding; operands crowd around the least normal number."""
    rng = np.random.default_rng(1)
    n = 60_000
    bits = rng.integers(0, 40 << 23, n, dtype=np.uint32) | rng.integers(0, 2, n, np.uint32) << 31
    x = bits.astype(np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        # Products and quotients with x that lie within some ulps of 2^-126.
        wide = x.astype(np.float64)
        y = (wide / 2.0**-126 if text == "x / y" else 2.0**-126 / wide).astype(np.float32)
    noise = rng.integers(0, 1 << 32, n, dtype=np.uint64).astype(np.uint32).view(np.float32)
    z = np.where(rng.random(n) < 0.5, 0, rng.permutation(x)).astype(np.float32)
    y = np.where(rng.random(n) < 0.3, noise, np.where(rng.random(n) < 0.3, z, y))
    arrays = [np.ascontiguousarray(a, np.float32) for a in (x, y, z)]
    with flushing.flushing("after"):
        got = value(OPS[text], *arrays)
    assert same(got, processor(text, arrays))


FE_MODES = {"x86_64": (0x400, 0x800, 0xC00), "aarch64": (0x800000, 0x400000, 0xC00000)}


@pytest.mark.skipif(platform.machine() not in FE_MODES, reason="its rounding modes are not known")
@pytest.mark.parametrize("which", range(3))
def test_ref_does_not_speak_where_rounding_is_changed(which: int) -> None:
    device = ref.PLUGIN.open(0)
    spec = Map("t_add", (Operand(dt.float32),) * 2, (Operand(dt.float32),), (X + Y,))
    (kernel,) = device.compile([spec])
    buffers = [device.allocate(64) for _ in range(3)]
    meta = pack(spec.meta(16, [], [Strided.words(0, 1, [])] * 3))
    fesetround = ctypes.CDLL(ctypes.util.find_library("m")).fesetround
    device.launch(kernel, 1, buffers, meta)
    fesetround(FE_MODES[platform.machine()][which])
    try:
        with pytest.raises(LaunchError, match="does not round to nearest"):
            device.launch(kernel, 1, buffers, meta)
    finally:
        fesetround(0)
    device.launch(kernel, 1, buffers, meta)
