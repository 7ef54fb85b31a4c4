"""Two-argument and integer functions of the math library."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.interp import evaluate as interpret
from tensorbus_backends.mathlib import integer, two
from tensorbus_backends.mathlib.bounds import BOUNDS_TWO
from tensorbus_conformance.hard_points import points
from tensorbus_conformance.oracle.ulp import FORMATS
from tensorbus_conformance.sampled64 import FLAGS, evaluate, sample
from tensorbus_cpu.dialect import C

COMPILER = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
CC = [COMPILER or "cc", *FLAGS]
INF, NAN = math.inf, math.nan
ALL = sorted(BOUNDS_TWO)

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


def same(got: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """Equal bit for bit, any NaN alike."""
    equal = (got == wanted) & (np.signbit(got) == np.signbit(wanted))
    return np.asarray(equal | (np.isnan(got) & np.isnan(wanted)))


def run(name: str, dtype: str, *arguments: Any) -> NDArray[Any]:
    columns = [np.asarray(a, dtype) for a in arguments]
    return evaluate(getattr(two, name), columns, C, CC)


def uses(body: ir.Expr) -> set[str]:
    return {node.dtype.name for node in ir.walk(body)}


def _leaves(*columns: NDArray[Any]) -> Callable[[ir.Expr], NDArray[Any]]:
    return lambda leaf: columns[leaf.attr]


@pytest.mark.parametrize(("name", "dtype"), ALL)
def test_float32_uses_no_float64(name: str, dtype: str) -> None:
    d = dt.by_name(dtype)
    names = uses(getattr(two, name)(ir.input_(0, d), ir.input_(1, d)))
    assert dtype in names
    assert names <= {dtype, "bool", "int32", "uint32"} | (
        {"int64", "uint64"} if dtype == "float64" else set()
    )


@needs_compiler
@pytest.mark.parametrize(("name", "dtype"), ALL)
def test_sampled_error(name: str, dtype: str) -> None:
    found = sample(name, C, CC, points=1500, seed=11, dtype=dtype)
    assert found.points >= 1500
    assert found.passed, found


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_interpreter_gives_the_same_bits(dtype: str) -> None:
    d = dt.by_name(dtype)
    for name in ("pow", "logaddexp", "remainder", "floor_divide"):
        x, y = (a[:200] for a in points(name, 200, 3, FORMATS[dtype]))
        body = getattr(two, name)(ir.input_(0, d), ir.input_(1, d))
        (interpreted,) = interpret([body], _leaves(x, y))
        assert same(run(name, dtype, x, y), np.asarray(interpreted)).all(), name


# -- special values: the rows of the array API standard's tables -----------------------------------

POW = [
    *((x, NAN, NAN) for x in (0.0, -1.0, 2.0, INF, NAN)),
    *((x, z, 1.0) for x in (0.0, -0.0, 1.0, -2.0, INF, -INF, NAN) for z in (0.0, -0.0)),
    *((NAN, y, NAN) for y in (1.0, -1.0, INF, -INF)),
    *((x, INF, INF) for x in (1.5, -1.5, INF, -INF)),
    *((x, -INF, 0.0) for x in (1.5, -1.5, INF, -INF)),
    *((x, y, 1.0) for x in (1.0, -1.0) for y in (INF, -INF)),
    *((1.0, y, 1.0) for y in (0.5, -3.0, 1e30, NAN)),
    *((x, INF, 0.0) for x in (0.5, -0.5, 0.0, -0.0)),
    *((x, -INF, INF) for x in (0.5, -0.5, 0.0, -0.0)),
    *((INF, y, INF) for y in (0.5, 3.0)),
    *((INF, y, 0.0) for y in (-0.5, -3.0)),
    *((-INF, y, r) for y, r in ((3.0, -INF), (2.0, INF), (0.5, INF), (-3.0, -0.0), (-2.0, 0.0))),
    (-INF, -0.5, 0.0),
    *((0.0, y, r) for y, r in ((0.5, 0.0), (3.0, 0.0), (-0.5, INF), (-3.0, INF))),
    *((-0.0, y, r) for y, r in ((3.0, -0.0), (2.0, 0.0), (0.5, 0.0), (-3.0, -INF), (-2.0, INF))),
    (-0.0, -0.5, INF),
    *((x, y, NAN) for x in (-1.0, -2.5) for y in (0.5, -1.5)),
    (-2.0, 3.0, -8.0),
    (-2.0, 2.0, 4.0),
    (-1.0, 1e30, 1.0),
    (-1.0, 16777215.0, -1.0),
    (2.0, 1e30, INF),
    (0.5, 1e30, 0.0),
    (2.0, -1e30, 0.0),
]
PI = math.pi
ATAN2 = [
    *((y, NAN, NAN) for y in (0.0, 1.0, INF, NAN)),
    *((NAN, x, NAN) for x in (0.0, 1.0, INF)),
    *((y, x, PI / 2) for y, x in ((1.0, 0.0), (1.0, -0.0))),
    *((y, x, -PI / 2) for y, x in ((-1.0, 0.0), (-1.0, -0.0))),
    *((0.0, x, 0.0) for x in (1.0, 0.0, INF)),
    *((0.0, x, PI) for x in (-0.0, -1.0, -INF)),
    *((-0.0, x, -0.0) for x in (1.0, 0.0, INF)),
    *((-0.0, x, -PI) for x in (-0.0, -1.0, -INF)),
    *((y, x, r) for y, x, r in ((1.0, INF, 0.0), (1.0, -INF, PI), (-1.0, INF, -0.0))),
    (-1.0, -INF, -PI),
    *((INF, x, PI / 2) for x in (1.0, -1.0, 0.0)),
    *((-INF, x, -PI / 2) for x in (1.0, -1.0, 0.0)),
    *((INF, x, r) for x, r in ((INF, PI / 4), (-INF, 3 * PI / 4))),
    *((-INF, x, r) for x, r in ((INF, -PI / 4), (-INF, -3 * PI / 4))),
]
HYPOT = [
    *((x, y, INF) for x in (INF, -INF) for y in (0.0, 1.0, -INF, NAN)),
    *((y, x, INF) for x in (INF, -INF) for y in (0.0, 1.0, NAN)),
    *((x, y, 3.0) for x in (0.0, -0.0) for y in (3.0, -3.0)),
    *((NAN, y, NAN) for y in (0.0, 1.0, NAN)),
    (1.0, NAN, NAN),
    (-0.0, -0.0, 0.0),
    (3.0, -4.0, 5.0),
]
LOGADDEXP = [
    (INF, INF, INF),
    (INF, -INF, INF),
    (-INF, -INF, -INF),
    (-INF, 2.5, 2.5),
    (2.5, INF, INF),
    (NAN, INF, NAN),
    (-INF, NAN, NAN),
    (2.0**100, -(2.0**100), 2.0**100),
]
REMAINDER = [
    *((NAN, y, NAN) for y in (1.0, INF, 0.0)),
    *((x, NAN, NAN) for x in (1.0, INF, 0.0)),
    *((x, y, NAN) for x in (INF, -INF) for y in (INF, -INF, 1.0, -1.0, 0.0)),
    *((x, y, NAN) for x in (0.0, -0.0, 1.0, -1.0) for y in (0.0, -0.0)),
    *((x, 2.0, 0.0) for x in (0.0, -0.0)),
    *((x, -2.0, -0.0) for x in (0.0, -0.0)),
    *((x, y, r) for x, y, r in ((1.5, INF, 1.5), (1.5, -INF, -INF), (-1.5, INF, INF))),
    (-1.5, -INF, -1.5),
    *((x, y, r) for x, y, r in ((5.0, 3.0, 2.0), (-5.0, 3.0, 1.0), (5.0, -3.0, -1.0))),
    (-5.0, -3.0, -2.0),
    (-6.0, 3.0, 0.0),
    (6.0, -3.0, -0.0),
    (-1e-30, 1.0, 1.0),
]
FMOD = [
    *((INF, y, NAN) for y in (1.0, INF)),
    *((x, 0.0, NAN) for x in (1.0, 0.0, -INF)),
    *((x, INF, x) for x in (0.0, -0.0, 1.5, -1.5)),
    (-6.0, 3.0, -0.0),
    (-5.0, 3.0, -2.0),
    (5.0, -3.0, 2.0),
]
FLOOR_DIVIDE = [
    *((NAN, y, NAN) for y in (1.0, INF, 0.0)),
    *((x, NAN, NAN) for x in (1.0, INF, 0.0)),
    *((x, y, NAN) for x in (INF, -INF) for y in (INF, -INF)),
    *((x, y, NAN) for x in (0.0, -0.0) for y in (0.0, -0.0)),
    *((0.0, y, r) for y, r in ((2.0, 0.0), (-2.0, -0.0), (INF, 0.0), (-INF, -0.0))),
    *((-0.0, y, r) for y, r in ((2.0, -0.0), (-2.0, 0.0))),
    *((x, y, r) for x, y, r in ((1.0, 0.0, INF), (1.0, -0.0, -INF), (-1.0, 0.0, -INF))),
    (-1.0, -0.0, INF),
    *((INF, y, r) for y, r in ((2.0, INF), (-2.0, -INF))),
    *((-INF, y, r) for y, r in ((2.0, -INF), (-2.0, INF))),
    *((x, y, r) for x, y, r in ((1.5, INF, 0.0), (1.5, -INF, -0.0), (-1.5, INF, -0.0))),
    (-1.5, -INF, 0.0),
    *((x, y, r) for x, y, r in ((5.0, 3.0, 1.0), (-5.0, 3.0, -2.0), (5.0, -3.0, -2.0))),
    (-5.0, -3.0, 1.0),
    (-6.0, 3.0, -2.0),
    (1.0, -3.0, -1.0),
    (1.0, 3.0, 0.0),
]
SPECIAL = {
    "pow": POW,
    "atan2": ATAN2,
    "hypot": HYPOT,
    "logaddexp": LOGADDEXP,
    "remainder": REMAINDER,
    "fmod": FMOD,
    "floor_divide": FLOOR_DIVIDE,
}


@needs_compiler
@pytest.mark.parametrize(("name", "dtype"), ALL)
def test_special_values(name: str, dtype: str) -> None:
    x, y, wanted = (np.array(c).astype(dtype) for c in zip(*SPECIAL[name], strict=True))
    got = run(name, dtype, x, y)
    fine = same(got, wanted)
    assert fine.all(), list(zip(x[~fine], y[~fine], got[~fine], wanted[~fine], strict=True))


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hypot_at_the_edges(dtype: str) -> None:
    info = np.finfo(dtype)
    big, tiny = float(info.max), float(info.smallest_subnormal)
    cases = [(big, big, INF), (big, 1.0, big), (big * 0.5, big * 0.5, big * math.sqrt(0.5))]
    cases += [(3 * tiny, 4 * tiny, 5 * tiny), (tiny, 0.0, tiny)]
    x, y, wanted = (np.array(c).astype(dtype) for c in zip(*cases, strict=True))
    assert np.allclose(run("hypot", dtype, x, y), wanted, rtol=2 * info.eps, atol=0)
    swapped = run("hypot", dtype, -y, x)
    assert same(swapped, run("hypot", dtype, x, y)).all()


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_longest_division(dtype: str) -> None:
    """The greatest number modulo the least one: the loop's full length."""
    info = np.finfo(dtype)
    tiny, big = float(info.smallest_subnormal), float(info.max)
    x = np.array([big, big, -big, big], dtype)
    y = np.array([tiny, 3 * tiny, 3 * tiny, 7 * tiny], dtype)
    wanted = [float(np.fmod(a, b)) for a, b in zip(x.astype(float), y.astype(float), strict=True)]
    assert same(run("fmod", dtype, x, y), np.array(wanted, dtype)).all()
    quotients = run("floor_divide", dtype, x, y)
    assert np.isinf(quotients).all()
    assert np.signbit(quotients[2])


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["pow", "atan2", "hypot", "logaddexp", "remainder"])
def test_twice_as_bad_is_detected(name: str, dtype: str) -> None:
    """A result moved by twice the bound, in one ulp of itself, exceeds the bound."""
    bound = BOUNDS_TWO[name, dtype]
    whole = dt.by_name("int" + dtype[5:])

    def worse(x: ir.Expr, y: ir.Expr) -> ir.Expr:
        bits = ir.bitcast(getattr(two, name)(x, y), whole)
        return ir.bitcast(bits + math.ceil(2 * bound), x.dtype)

    assert not sample(name, C, CC, points=300, seed=1, dtype=dtype, body=worse).passed


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_naive_quotients_are_detected(dtype: str) -> None:
    def naive_floor(x: ir.Expr, y: ir.Expr) -> ir.Expr:
        return ir.floor(x / y)

    def naive_remainder(x: ir.Expr, y: ir.Expr) -> ir.Expr:
        return ir.fma(-ir.floor(x / y), y, x)

    for name, body in (("floor_divide", naive_floor), ("remainder", naive_remainder)):
        assert not sample(name, C, CC, points=600, seed=1, dtype=dtype, body=body).passed


# -- integers --------------------------------------------------------------------------------------


def _python_floor(a: int, b: int, d: dt.DType) -> int:
    return 0 if b == 0 else a // b


def _python_remainder(a: int, b: int, d: dt.DType) -> int:
    return 0 if b == 0 else a % b


def _python_pow(a: int, b: int, d: dt.DType) -> int:
    if b >= 0:
        return pow(a, b, 1 << d.bits)
    return {1: 1, -1: 1 if b % 2 == 0 else -1}.get(a, 0)


def _wrap(value: int, d: dt.DType) -> int:
    value &= (1 << d.bits) - 1
    return value - (1 << d.bits) if value > d.max else value


@pytest.mark.parametrize("d", dt.INTEGER, ids=str)
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("int_floor_divide", _python_floor),
        ("int_remainder", _python_remainder),
        ("int_pow", _python_pow),
    ],
)
def test_integers(name: str, reference: Callable[[int, int, dt.DType], int], d: dt.DType) -> None:
    """Every pair of edge values, interpreted and compiled."""
    edges = {d.min, d.min + 1, -3, -2, -1, 0, 1, 2, 3, 7, d.bits, d.max - 1, d.max}
    values = sorted(v for v in edges if d.min <= v <= d.max)
    rng = np.random.default_rng(d.bits)
    extra = rng.integers(d.min, d.max, 20, dtype=d.numpy, endpoint=True).tolist()
    pairs = [(a, b) for a in (*values, *extra) for b in (*values, *extra)]
    a, b = (np.array(c, d.numpy) for c in zip(*pairs, strict=True))
    wanted = np.array([_wrap(reference(p, q, d), d) for p, q in pairs], d.numpy)
    function = getattr(integer, name)
    columns = (a, b)
    (got,) = interpret(
        [function(ir.input_(0, d), ir.input_(1, d))], lambda leaf: columns[leaf.attr]
    )
    assert (np.asarray(got) == wanted).all()
    if COMPILER is not None:
        assert (evaluate(function, (a, b), C, CC) == wanted).all()
