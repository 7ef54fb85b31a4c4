"""The float64 functions of the math library: sampled errors, special values, bad bodies."""

from __future__ import annotations

import math
import shutil
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt, ir, mathlib
from tensorbus_backends.interp import evaluate as interpret
from tensorbus_backends.mathlib import f64
from tensorbus_backends.mathlib.bounds import BOUNDS_F64
from tensorbus_conformance.hard_points import points
from tensorbus_conformance.sampled64 import FLAGS, evaluate, measure, sample
from tensorbus_cpu.dialect import C

COMPILER = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
CC = [COMPILER or "cc", *FLAGS]
INF, NAN = math.inf, math.nan

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")

# C99 Annex F and the array API standard; the sign of a zero counts.
SPECIAL: dict[str, dict[float, float]] = {
    "exp": {0.0: 1.0, INF: INF, -INF: 0.0, 709.79: INF, -746.0: 0.0},
    "exp2": {0.0: 1.0, INF: INF, -INF: 0.0, 10.0: 1024.0, -1074.0: 5e-324, 1024.0: INF},
    "expm1": {0.0: 0.0, INF: INF, -INF: -1.0, 709.79: INF, -50.0: -1.0, 5e-324: 5e-324},
    "log": {0.0: -INF, 1.0: 0.0, INF: INF, -1.0: NAN, -INF: NAN},
    "log2": {0.0: -INF, 1.0: 0.0, INF: INF, -1.0: NAN, 8.0: 3.0, 5e-324: -1074.0},
    "log10": {0.0: -INF, 1.0: 0.0, INF: INF, -1.0: NAN, 1e22: 22.0},
    "log1p": {0.0: 0.0, -1.0: -INF, INF: INF, -2.0: NAN, 5e-324: 5e-324},
    "sin": {0.0: 0.0, INF: NAN, -INF: NAN, 5e-324: 5e-324},
    "cos": {0.0: 1.0, INF: NAN, -INF: NAN, 5e-324: 1.0},
    "tan": {0.0: 0.0, INF: NAN, -INF: NAN, 5e-324: 5e-324},
    "asin": {0.0: 0.0, 1.0: math.pi / 2, -1.0: -math.pi / 2, 1.0000000000000002: NAN, INF: NAN},
    "acos": {1.0: 0.0, -1.0: math.pi, 0.0: math.pi / 2, -1.0000000000000002: NAN, INF: NAN},
    "atan": {0.0: 0.0, INF: math.pi / 2, -INF: -math.pi / 2, 5e-324: 5e-324},
    "sinh": {0.0: 0.0, INF: INF, -INF: -INF, 711.0: INF, 5e-324: 5e-324},
    "cosh": {0.0: 1.0, INF: INF, -INF: INF, -711.0: INF},
    "tanh": {0.0: 0.0, INF: 1.0, -INF: -1.0, 5e-324: 5e-324},
    "asinh": {0.0: 0.0, INF: INF, -INF: -INF, 5e-324: 5e-324},
    "acosh": {1.0: 0.0, INF: INF, 0.5: NAN, -INF: NAN, 0.0: NAN},
    "atanh": {0.0: 0.0, 1.0: INF, -1.0: -INF, 2.0: NAN, -INF: NAN, 5e-324: 5e-324},
    "erf": {0.0: 0.0, INF: 1.0, -INF: -1.0, 6.0: 1.0},
    "sigmoid": {0.0: 0.5, INF: 1.0, -INF: 0.0, -746.0: 0.0},
    "softplus": {0.0: math.log(2), INF: INF, -INF: 0.0, -746.0: 0.0, 1e300: 1e300},
}
ODD = ("sin", "tan", "asin", "atan", "sinh", "tanh", "asinh", "atanh", "erf")
KEEP_ZERO = (*ODD, "expm1", "log1p")


def same(got: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """Equal bit for bit, any NaN alike."""
    equal = (got == wanted) & (np.signbit(got) == np.signbit(wanted))
    return np.asarray(equal | (np.isnan(got) & np.isnan(wanted)))


def test_every_function_is_there() -> None:
    assert set(SPECIAL) == set(BOUNDS_F64) == set(f64.__all__)
    assert max(BOUNDS_F64.values()) <= 2


@pytest.mark.parametrize("name", f64.__all__)
def test_sampled_error(name: str) -> None:
    found = sample(name, C, CC, points=1500, seed=11)
    assert found.points >= 1500
    assert found.passed, found


@pytest.mark.parametrize("name", f64.__all__)
def test_special_values(name: str) -> None:
    table = dict(SPECIAL[name])
    inputs = np.array([*table, NAN])
    wanted = np.array([*table.values(), NAN])
    if name in KEEP_ZERO:
        inputs, wanted = np.append(inputs, -0.0), np.append(wanted, -0.0)
    got = evaluate(getattr(f64, name), [inputs], C, CC)
    fine = same(got, wanted)
    assert fine.all(), list(zip(inputs[~fine], got[~fine], wanted[~fine], strict=True))


@pytest.mark.parametrize("name", ["exp", "sin", "log1p", "acosh", "erf"])
def test_interpreter_gives_the_same_bits(name: str) -> None:
    x = np.append(points(name, 400, 3)[0], [0.0, -0.0, INF, -INF, NAN])
    body = getattr(f64, name)(ir.input_(0, dt.float64))
    (interpreted,) = interpret([body], lambda leaf: x)
    assert same(evaluate(getattr(f64, name), [x], C, CC), np.asarray(interpreted)).all()


@pytest.mark.parametrize("name", ["cos", "cosh", *ODD])
def test_symmetry(name: str) -> None:
    """Odd functions are odd and cosh and cos are even, bit for bit."""
    x = points(name, 300, 5)[0]
    positive, negative = (evaluate(getattr(f64, name), [v], C, CC) for v in (x, -x))
    assert same(negative, positive if name in ("cos", "cosh") else -positive).all()


@pytest.mark.parametrize("name", ["exp", "log", "tan", "erf", "softplus"])
def test_twice_as_bad_is_detected(name: str) -> None:
    """A result moved by twice the bound, in one ulp of itself, exceeds the bound."""

    def worse(x: ir.Expr) -> ir.Expr:
        y = ir.bitcast(getattr(f64, name)(x), dt.int64)
        return ir.bitcast(y + math.ceil(2 * BOUNDS_F64[name]), dt.float64)

    assert not sample(name, C, CC, points=300, seed=1, body=worse).passed


def test_the_float64_closest_to_a_multiple_of_half_pi() -> None:
    """6381956970095103 * 2**797 (Muller, "Elementary Functions", table 11.1)."""
    x = np.array([math.ldexp(6381956970095103, 797)])
    for name in ("sin", "cos", "tan"):
        errors = measure(name, [x], evaluate(getattr(f64, name), [x], C, CC))
        assert errors[0] <= BOUNDS_F64[name], name
    assert abs(evaluate(f64.cos, [x], C, CC)[0]) < 1e-18


def test_naive_range_reduction_is_detected() -> None:
    """Reducing with pi/2 as one float64 fails near its multiples and at huge arguments."""

    def naive(x: ir.Expr) -> ir.Expr:
        k = ir.rint(x * ir.const(2 / math.pi, dt.float64))
        r = ir.fma(-k, ir.const(math.pi / 2, dt.float64), x)
        quarter = k * 0.25
        odd = ir.rint(k * 0.5).ne(k * 0.5)
        flip = (quarter - ir.floor(quarter)) > 0.4
        y = ir.select(odd, f64.cos(r), f64.sin(r))
        return ir.select(flip, -y, y)

    assert not sample("sin", C, CC, points=500, seed=1, body=naive).passed


def test_dispatch_on_dtype() -> None:
    x = ir.input_(0, dt.float64)
    for name in f64.__all__:
        assert getattr(mathlib, name)(x) is getattr(f64, name)(x)


def test_unknown_function_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to sample for 'sine'"):
        sample("sine", C, CC)
