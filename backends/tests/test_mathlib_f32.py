"""The float32 math library: special values, symmetries and sampled errors against Arb."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flint import arb, ctx
from tensorbus_backends import dtypes as dt, interp, ir, mathlib
from tensorbus_backends.clike import Argument, Emitter, assemble
from tensorbus_backends.mathlib.bounds import BOUNDS_F32
from tensorbus_cpu.dialect import C

CC = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler (gcc, clang or cc) to run bodies")

INF, NAN = math.inf, math.nan
PI = float(np.float32(math.pi))

EXACT: dict[str, Callable[[Any], Any]] = {
    "exp": arb.exp,
    "exp2": lambda x: (x * arb(2).log()).exp(),
    "expm1": arb.expm1,
    "log": arb.log,
    "log2": lambda x: x.log() / arb(2).log(),
    "log10": lambda x: x.log() / arb(10).log(),
    "log1p": arb.log1p,
    "sin": arb.sin,
    "cos": arb.cos,
    "tan": arb.tan,
    "asin": arb.asin,
    "acos": arb.acos,
    "atan": arb.atan,
    "sinh": arb.sinh,
    "cosh": arb.cosh,
    "tanh": arb.tanh,
    "asinh": arb.asinh,
    "acosh": arb.acosh,
    "atanh": arb.atanh,
    "erf": arb.erf,
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "softplus": lambda x: x.exp().log1p(),
}

# (input, result) after array API 2025.12 and C17 Annex F; the sign of a zero counts.
SPECIAL: dict[str, list[tuple[float, float]]] = {
    "exp": [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (89.0, INF), (-104.0, 0.0)],
    "exp2": [
        (0.0, 1.0),
        (INF, INF),
        (-INF, 0.0),
        (128.0, INF),
        (127.0, 2.0**127),
        (-149.0, 2.0**-149),
    ],
    "expm1": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -1.0), (-50.0, -1.0), (89.0, INF)],
    "log": [(0.0, -INF), (-0.0, -INF), (1.0, 0.0), (INF, INF), (-1.0, NAN), (-INF, NAN)],
    "log2": [(0.0, -INF), (-0.0, -INF), (1.0, 0.0), (INF, INF), (-1.0, NAN), (2.0**-149, -149.0)],
    "log10": [(0.0, -INF), (-0.0, -INF), (1.0, 0.0), (INF, INF), (-1.0, NAN), (1000.0, 3.0)],
    "log1p": [(0.0, 0.0), (-0.0, -0.0), (-1.0, -INF), (INF, INF), (-2.0, NAN), (-INF, NAN)],
    "sin": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN)],
    "cos": [(0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN)],
    "tan": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN)],
    "asin": [
        (0.0, 0.0),
        (-0.0, -0.0),
        (1.5, NAN),
        (-1.5, NAN),
        (INF, NAN),
        (1.0, PI / 2),
        (-1.0, -PI / 2),
    ],
    "acos": [(1.0, 0.0), (1.5, NAN), (-1.5, NAN), (-INF, NAN), (-1.0, PI), (0.0, PI / 2)],
    "atan": [(0.0, 0.0), (-0.0, -0.0), (INF, PI / 2), (-INF, -PI / 2), (1.0, PI / 4)],
    "sinh": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -INF), (90.0, INF), (-90.0, -INF)],
    "cosh": [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, INF), (90.0, INF)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (20.0, 1.0)],
    "asinh": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -INF)],
    "acosh": [(1.0, 0.0), (INF, INF), (0.5, NAN), (-0.0, NAN), (-INF, NAN)],
    "atanh": [(0.0, 0.0), (-0.0, -0.0), (1.0, INF), (-1.0, -INF), (1.5, NAN), (-INF, NAN)],
    "erf": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (5.0, 1.0)],
    "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (INF, 1.0), (-INF, 0.0), (-104.0, 0.0)],
    "softplus": [(INF, INF), (-INF, 0.0), (100.0, 100.0), (-104.0, 0.0)],
}
ODD = ("sin", "tan", "asin", "atan", "sinh", "tanh", "asinh", "atanh", "erf")
EVEN = ("cos", "cosh")
RISING = ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "atan", "sinh", "asinh", "erf")

# Where each function has its turning points, thresholds and hardest roundings.
EDGES = (
    [2.0**k for k in range(-149, 128)]
    + [k * math.pi / 4 for k in range(1, 40)]
    + [k * math.log(2) / 2 for k in range(1, 260)]
    + [0.25, 0.3, 0.5, 0.55, 0.75, 0.9375, 1.0, 1.25, 1.5, 8.0, 9.5, 18.0, 20.0, 87.33, 88.72]
    + [89.41, 103.97, 3.9, 4.0, 1e10, 8192.0, 16367173.0 * 2.0**72, 3.4e38]
)


def kernel_text(name: str, body: Callable[[ir.Expr], ir.Expr]) -> str:
    """A C function ``name`` that maps M(2) floats with `body`."""
    output = body(ir.input_(0, dt.float32))
    ir.validate([output], [dt.float32], allow_index=False)
    emitter = Emitter(leaf=lambda _: "x[at]")
    lines, (result,) = emitter.statements([output])
    loop = "\n".join(["for (i64 at = 0; at < M(2); ++at) {", *lines, f"y[at] = {result};", "}"])
    arguments = [Argument("x", dt.float32), Argument("y", dt.float32, written=True)]
    return assemble(C, name, arguments, 3, loop, tables=emitter.tables, offsets=(0, 1))


class Bodies:
    """Bodies compiled with the cpu device's flags, called with and returning float32 arrays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.functions: dict[str, Any] = {}

    def compile(self, name: str, body: Callable[[ir.Expr], ir.Expr]) -> None:
        """Make `body` known as `name`."""
        source, target = self.folder / f"{name}.c", self.folder / f"{name}.so"
        source.write_text(C.prelude + kernel_text(f"tb_{name}", body))
        flags = "-std=gnu11 -O3 -march=native -ffp-contract=off -fno-math-errno -fno-trapping-math"
        assert CC is not None
        command = [CC, *flags.split(), "-fPIC", "-shared", str(source), "-o", str(target), "-lm"]
        subprocess.run(command, check=True)
        self.functions[name] = getattr(ctypes.CDLL(str(target)), f"tb_{name}")

    def __call__(self, name: str, x: Any) -> np.ndarray[Any, Any]:
        if name not in self.functions:
            self.compile(name, getattr(mathlib, name))
        values = np.ascontiguousarray(x, np.float32)
        result = np.empty_like(values)
        pointers = (ctypes.c_void_p * 2)(values.ctypes.data, result.ctypes.data)
        meta = (ctypes.c_int64 * 3)(0, 0, values.size)
        self.functions[name](pointers, meta, ctypes.c_int64(0), ctypes.c_int64(1))
        return result


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Bodies:
    return Bodies(tmp_path_factory.mktemp("mathlib"))


def ulps(name: str, x: float, result: float) -> float:
    """Error of `result` at `x` in ulps of the exact value; both zero of the same sign: 0."""
    before, ctx.prec = ctx.prec, 200
    try:
        exact = EXACT[name](arb(x))
        if not exact.is_finite():
            return 0.0 if not math.isfinite(result) else INF
        value = result if math.isfinite(result) else math.copysign(2.0**128, result)
        if exact.abs_lower() >= 2.0**128 and abs(value) == 2.0**128:
            return 0.0 if (exact > 0) == (value > 0) else INF
        mantissa, power = abs(exact).mid().man_exp()
        top = int(power) + int(mantissa).bit_length() - 1 if mantissa else -126
        unit = 2.0 ** (min(max(top, -126), 127) - 23)
        return float(abs(exact - arb(value)).mid() / arb(unit)) if value == value else INF
    finally:
        ctx.prec = before


def sample(name: str, count: int) -> np.ndarray[Any, Any]:
    """Random bit patterns, and values near the edges, of both signs; no NaN."""
    rng = np.random.default_rng(sorted(BOUNDS_F32).index(name))
    bits = rng.integers(0, 1 << 32, count, dtype=np.uint32).view(np.float32)
    usual = rng.normal(0.0, 3.0, count).astype(np.float32)
    edges = np.array(EDGES, np.float32)
    near = [edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(INF))]
    every: np.ndarray[Any, Any] = np.concatenate([bits, usual, *near, *(-e for e in near)])
    finite: np.ndarray[Any, Any] = every[np.isfinite(every)]
    return finite


@pytest.mark.parametrize("name", sorted(BOUNDS_F32))
def test_every_sampled_error_is_within_the_bound(bodies: Bodies, name: str) -> None:
    x = sample(name, 600)
    y = bodies(name, x)
    errors = [ulps(name, float(a), float(b)) for a, b in zip(x, y, strict=True)]
    worst = int(np.argmax(errors))
    assert errors[worst] <= BOUNDS_F32[name], (float(x[worst]).hex(), float(y[worst]).hex())


@pytest.mark.parametrize("name", sorted(BOUNDS_F32))
def test_the_interpreter_gives_the_same_bits(bodies: Bodies, name: str) -> None:
    x = sample(name, 1000)
    body = getattr(mathlib, name)(ir.input_(0, dt.float32))
    (wanted,) = interp.evaluate([body], lambda _: x)
    got = bodies(name, x)
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(np.signbit(got[got == 0]), np.signbit(wanted[got == 0]))


@pytest.mark.parametrize("name", sorted(SPECIAL))
def test_special_values(bodies: Bodies, name: str) -> None:
    x, wanted = np.array([*SPECIAL[name], (NAN, NAN)], np.float32).T
    got = bodies(name, x)
    np.testing.assert_array_equal(got, wanted)
    zeros = wanted == 0
    np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(wanted[zeros]))


@pytest.mark.parametrize("name", sorted(ODD + EVEN))
def test_symmetry_is_exact(bodies: Bodies, name: str) -> None:
    x = np.abs(sample(name, 3000))
    sign = np.float32(-1 if name in ODD else 1)
    np.testing.assert_array_equal(bodies(name, -x), sign * bodies(name, x))


@pytest.mark.parametrize("name", sorted(RISING))
def test_rises_over_steps_of_many_ulps(bodies: Bodies, name: str) -> None:
    """Errors of at most one ulp cannot reverse points whose results lie three ulps apart."""
    start = int(np.float32(0.26).view(np.uint32))
    x = np.arange(start, start + (3 << 23), 1 << 9, dtype=np.uint32).view(np.float32)
    y = bodies(name, x).astype(np.float64)
    assert (np.diff(y) >= 0).all()
    assert (np.diff(y) > 0).mean() > 0.5


@pytest.mark.parametrize("name", ["exp", "exp2", "sigmoid", "softplus"])
def test_underflow_is_gradual(bodies: Bodies, name: str) -> None:
    x = np.linspace(-104, -86, 500).astype(np.float32)
    if name == "exp2":
        x = x * np.float32(1.442695)
    y = bodies(name, x)
    assert ((y > 0) & (y < 2.0**-126)).sum() > 300
    assert max(ulps(name, float(a), float(b)) for a, b in zip(x, y, strict=True)) <= 1.0


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_huge_angles_are_reduced_exactly(bodies: Bodies, name: str) -> None:
    """The last is the float32 above 1 that comes closest to a multiple of pi/2."""
    x = np.array([1e6, 3e9, 1e22, 2.0**127, 3.4028235e38, 16367173 * 2.0**72], np.float32)
    for a, b in zip(x, bodies(name, x), strict=True):
        assert ulps(name, float(a), float(b)) <= 1.0


def test_powers_of_two_are_exact(bodies: Bodies) -> None:
    k = np.arange(-149, 128, dtype=np.float32)
    np.testing.assert_array_equal(bodies("exp2", k), np.ldexp(np.float32(1), k.astype(int)))
    np.testing.assert_array_equal(bodies("log2", np.ldexp(np.float32(1), k.astype(int))), k)


def test_a_twice_as_bad_implementation_is_seen(bodies: Bodies) -> None:
    """One part in 2**23 too much is one to two half-ulps beside the library's own error."""

    def worse(x: ir.Expr) -> ir.Expr:
        y = mathlib.exp(x)
        return ir.fma(y, ir.const(2.0**-23, dt.float32), y)

    x = np.linspace(-10, 10, 400).astype(np.float32)
    bodies.compile("worse", worse)
    y = bodies("worse", x)
    errors = [ulps("exp", float(a), float(b)) for a, b in zip(x, y, strict=True)]
    assert max(errors) > BOUNDS_F32["exp"]


@pytest.mark.parametrize("name", sorted(BOUNDS_F32))
def test_only_what_metal_has(name: str) -> None:
    """Metal has no float64; loops do not vectorize, and tables vectorize badly."""
    body = getattr(mathlib, name)(ir.input_(0, dt.float32))
    for node in ir.walk(body):
        assert node.dtype.bits <= 32
        assert node.op not in ("repeat", "table")


def test_a_dtype_without_functions_is_named() -> None:
    with pytest.raises(ir.IRError, match=r"exp\(int32\)"):
        mathlib.exp(ir.input_(0, dt.int32))
