"""References: known values, special cases, integer rules, and the list of ops."""

from __future__ import annotations

import ast
import math
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from tensorbus_conformance.oracle import REFERENCES, Reference, ball
from tensorbus_conformance.oracle.contraction import exact_dot, exact_sum
from tensorbus_conformance.oracle.data import (
    ACCUMULATION_KINDS,
    accumulation,
    all_patterns,
    away_from,
    distinct,
    generator,
    grid,
    ill_conditioned,
    ordinary,
    patterns,
    sample,
    specials,
    vectors,
)
from tensorbus_conformance.oracle.elementwise import SLACK, TRANSCENDENTAL
from tensorbus_conformance.oracle.random import (
    KNOWN_ANSWERS,
    mean_and_variance_problem,
    philox4x32,
    uniform_from_words,
)
from tensorbus_conformance.oracle.ulp import FLOAT64, format_of

Array = NDArray[Any]
BF16 = np.dtype(ml_dtypes.bfloat16)
FLOATS: list[np.dtype[Any]] = [np.dtype(np.float16), BF16, np.dtype("f4"), np.dtype("f8")]
nan, inf = math.nan, math.inf

WAVE = """
abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_invert bitwise_left_shift
bitwise_or bitwise_right_shift bitwise_xor ceil clip copysign cos cosh divide equal exp expm1 floor
floor_divide greater greater_equal hypot isfinite isinf isnan less less_equal log log1p log2 log10
logaddexp logical_and logical_not logical_or logical_xor maximum minimum multiply negative nextafter
not_equal positive pow reciprocal remainder round sign signbit sin sinh square sqrt subtract tan
tanh trunc exp2 erf sigmoid softplus
sum prod mean var std max min any all cumulative_sum cumulative_prod logsumexp count_nonzero
argmax argmin where nonzero searchsorted sort argsort take take_along_axis gather scatter index_add
matmul matrix_transpose tensordot vecdot
relu gelu silu elu leaky_relu hardtanh hardswish mish softmax log_softmax layer_norm rms_norm
embedding dropout cross_entropy mse_loss linear
arange asarray empty empty_like eye full full_like linspace meshgrid ones ones_like tril triu zeros
zeros_like astype broadcast_arrays broadcast_to concat expand_dims flip moveaxis permute_dims repeat
reshape roll squeeze stack tile unstack diff isin
"""


def forward(name: str, *arrays: Any, **options: Any) -> Reference:
    ref = REFERENCES[name].forward(*arrays, **options)
    assert isinstance(ref, Reference)
    return ref


def same(got: Any, want: Any) -> bool:
    """Equal with NaN and the signs of zero."""
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return bool(np.array_equal(a, b, equal_nan=True)) and bool(
        (np.signbit(a) == np.signbit(b))[~np.isnan(b)].all()
    )


def test_every_op_of_the_first_wave_has_an_oracle() -> None:
    assert sorted(set(WAVE.split()) - set(REFERENCES)) == []
    assert all(name == op.name for name, op in REFERENCES.items())


def test_the_oracle_imports_nothing_under_test() -> None:
    folder = Path(sys.modules["tensorbus_conformance.oracle"].__file__ or "").parent
    allowed = {"numpy", "ml_dtypes", "flint", "mpmath", "cffi", *sys.stdlib_module_names}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                assert not isinstance(node, ast.ImportFrom) or node.level == 1, path
                continue
            assert {n.split(".")[0] for n in names} <= allowed, (path, names)


# -- elementary functions -------------------------------------------------------------------------

HARD: dict[str, list[float]] = {
    "sin": [1e22, 3.141592653589793, 6381956970095103.0, 1e300],
    "cos": [1e22, 1.5707963267948966, 1e300],
    "tan": [1.5707963267948966, 1e22],
    "log": [1 + 2.0**-52, 1 - 2.0**-53, 5e-324, 1e308],
    "log1p": [1e-300, -1 + 2.0**-53, 5e-324],
    "log2": [1 + 2.0**-52, 8.0],
    "log10": [1 + 2.0**-52, 1000.0],
    "exp": [709.78, -745.0, 1e-300, -744.4],
    "expm1": [1e-300, -40.0, 709.7],
    "exp2": [1023.9, -1074.0],
    "tanh": [20.0, 1e-300],
    "atanh": [1 - 2.0**-53],
    "acosh": [1 + 2.0**-52],
    "sinh": [710.0, 1e-310],
    "erf": [5.9, 1e-300],
    "softplus": [-700.0, 700.0],
    "sigmoid": [-700.0, 40.0],
}


@pytest.mark.parametrize("name", sorted(TRANSCENDENTAL))
def test_float64_functions_are_good_enough_to_judge_float32(name: str) -> None:
    """Within `SLACK` of Arb for inputs of float32 (where float32 results are no subnormals)."""
    function, arb_function, domain = TRANSCENDENTAL[name]
    rng = generator(1, name)
    arguments = [ordinary(rng, (400,), np.float32, a, b) for a, b in domain]
    if len(domain) == 1:
        hard = np.array([x for x in HARD.get(name, []) if abs(x) < 1e30], np.float32)
        arguments = [np.concatenate([arguments[0], hard])]
    wide = [a.astype(np.float64) for a in arguments]
    with np.errstate(all="ignore"):
        values = function(*wide)
    for i, value in enumerate(values):
        if not np.isfinite(value):
            continue
        exact = ball.accurate(arb_function, *(float(w[i]) for w in wide))
        room = SLACK * abs(float(value)) + FLOAT64.tiny
        if name == "logaddexp":
            room += SLACK
        assert ball.within(float(value), exact, room), (name, [float(w[i]) for w in wide])


@pytest.mark.parametrize("name", sorted(HARD))
def test_float64_references_are_arbs(name: str) -> None:
    x = np.array(HARD[name])
    ref = forward(name, x)
    assert ref.low is not None
    for i, value in enumerate(x):
        exact = ball.accurate(TRANSCENDENTAL[name][1], float(value))
        with ball.precision(300):
            error = abs(exact - ball.balls([float(ref.value[i])])[0] - float(ref.low[i]))
            assert bool(error < abs(exact) * 2.0**-95 + 2.0**-1074)


def test_known_values() -> None:
    assert forward("sin", np.array([1e22])).rounded()[0] == -0.8522008497671888
    assert forward("exp", np.array([1.0])).rounded()[0] == math.e
    assert forward("erf", np.array([1.0], np.float32)).rounded()[0] == np.float32(0.8427007929)
    assert same(forward("exp", np.array([-1e4, 1e4, -inf, inf])).rounded(), [0.0, inf, 0.0, inf])


@pytest.mark.parametrize(
    ("name", "arguments", "want"),
    [
        ("log", [[0.0, -0.0, -1.0, inf, nan, 1.0]], [-inf, -inf, nan, inf, nan, 0.0]),
        ("log1p", [[-1.0, -2.0, -0.0, inf]], [-inf, nan, -0.0, inf]),
        ("sqrt", [[-0.0, -1.0, inf, 4.0]], [-0.0, nan, inf, 2.0]),
        ("atan2", [[0.0, -0.0, 0.0, -0.0], [-0.0, -0.0, 0.0, 0.0]], [math.pi, -math.pi, 0.0, -0.0]),
        (
            "atan2",
            [[inf, -inf, 1.0, nan], [inf, -inf, -inf, 1.0]],
            [math.pi / 4, -3 * math.pi / 4, math.pi, nan],
        ),
        (
            "pow",
            [[1.0, nan, -1.0, 0.0, -0.0, -8.0, 2.0], [nan, 0.0, inf, -1.0, -3.0, 3.0, -inf]],
            [1.0, 1.0, 1.0, inf, -inf, -512.0, 0.0],
        ),
        ("hypot", [[inf, nan, 3e30], [nan, -inf, 4e30]], [inf, inf, float(np.hypot(3e30, 4e30))]),
        (
            "maximum",
            [[-0.0, 0.0, nan, 1.0, inf], [0.0, -0.0, 1.0, nan, 3.0]],
            [0.0, 0.0, nan, nan, inf],
        ),
        (
            "minimum",
            [[-0.0, 0.0, nan, 1.0, -inf], [0.0, -0.0, 1.0, nan, 3.0]],
            [-0.0, -0.0, nan, nan, -inf],
        ),
        ("round", [[0.5, 1.5, 2.5, -0.5, -0.2, nan]], [0.0, 2.0, 2.0, -0.0, -0.0, nan]),
        ("sign", [[-3.0, 0.0, nan, inf]], [-1.0, 0.0, nan, 1.0]),
        (
            "remainder",
            [
                [5.0, -5.0, 5.0, -5.0, 1.0, -1.0, 0.0, 6.0, inf, 1.0, inf, nan],
                [3.0, 3.0, -3.0, -3.0, inf, inf, -3.0, -3.0, 2.0, 0.0, -inf, -inf],
            ],
            [2.0, 1.0, -1.0, -2.0, 1.0, inf, -0.0, -0.0, nan, nan, nan, nan],
        ),
        (
            "floor_divide",
            [
                [5.0, -5.0, 5.0, 1.0, -1.0, 0.0, -0.0, 1.0, 0.0],
                [3.0, 3.0, -3.0, inf, inf, 3.0, 3.0, 0.0, 0.0],
            ],
            [1.0, -2.0, -2.0, 0.0, -1.0, 0.0, -0.0, inf, nan],
        ),
        (
            "nextafter",
            [[0.0, 0.0, 1.0, inf, nan, 0.0], [1.0, -1.0, 1.0, 0.0, 1.0, -0.0]],
            [5e-324, -5e-324, 1.0, np.finfo(np.float64).max, nan, -0.0],
        ),
        ("copysign", [[1.0, nan, -3.0], [-0.0, 1.0, 2.0]], [-1.0, nan, 3.0]),
        (
            "logaddexp",
            [[-inf, inf, nan, 0.0], [-inf, -inf, 1.0, 0.0]],
            [-inf, inf, nan, math.log(2)],
        ),
        ("relu", [[-1.0, nan, 0.0, inf]], [0.0, nan, 0.0, inf]),
        ("square", [[1e200, -0.0]], [inf, 0.0]),
        ("reciprocal", [[0.0, -0.0, inf]], [inf, -inf, 0.0]),
    ],
)
def test_special_cases(name: str, arguments: list[list[float]], want: list[float]) -> None:
    ref = forward(name, *[np.array(a) for a in arguments])
    assert same(ref.rounded(), want), ref.rounded()


def test_floor_divide_is_the_floor_of_the_exact_quotient() -> None:
    a = np.float32(1.0) / np.float32(3) * np.float32(2**40)
    for x, y in ((6.0, 0.1), (a, 3e-3), (2.0**60, 3.0), (1e38, 1e-38)):
        one, two = np.array([x], np.float32), np.array([y], np.float32)
        exact = math.floor(Fraction(float(one[0])) / Fraction(float(two[0])))
        with np.errstate(over="ignore"):
            want = np.float32(exact) if exact < 2**128 else np.float32(inf)
        assert forward("floor_divide", one, two).rounded()[0] == want


def test_remainder_is_correctly_rounded() -> None:
    ref = forward("remainder", np.array([-1e-20], np.float32), np.array([1.0], np.float32))
    assert ref.rounded()[0] == 1.0
    assert ref.low is not None
    assert ref.low[0] < 0


def test_activations_far_from_zero() -> None:
    x = np.array([-88.7, -700.0, -900.0, 900.0, -inf, inf])
    for name, slope in (("silu", 1.0), ("mish", 1.0)):
        ref = forward(name, x)
        want = x[:2] * np.exp(x[:2]) * slope
        assert np.allclose(ref.value[:2], want, rtol=1e-12)
        assert same(ref.rounded()[2:], [-0.0, 900.0, -0.0, inf])
    assert forward("elu", x, alpha=2.0).rounded()[2:].tolist() == [-2.0, 900.0, -2.0, inf]
    assert forward("leaky_relu", x).rounded()[4] == -inf
    broken = forward("leaky_relu", x).rounded()
    broken[4] = nan
    leaky = REFERENCES["leaky_relu"].judge(np.float64)
    assert not leaky.check(broken, forward("leaky_relu", x)).ok
    assert np.isnan(forward("gelu", np.array([nan])).rounded()[0])


def test_rms_norm_takes_eps_from_the_dtype() -> None:
    x = np.full((1, 4), 1e-3, np.float32)
    want = 1e-3 / math.sqrt(1e-6 + 2.0**-23)
    assert np.allclose(forward("rms_norm", x).value, want, rtol=1e-4)
    assert np.allclose(forward("rms_norm", x, eps=0.0).value, 1.0)


def test_integers_wrap_and_divide_by_zero_to_zero() -> None:
    i8 = np.array([-128, 127, 7, -7, 5], np.int8)
    d = np.array([-1, 1, 0, 2, -3], np.int8)
    assert forward("add", i8, i8).value.tolist() == [0, -2, 14, -14, 10]
    assert forward("multiply", i8, i8).value.tolist() == [0, 1, 49, 49, 25]
    assert forward("negative", i8).value[0] == -128
    assert forward("abs", i8).value[0] == -128
    assert forward("floor_divide", i8, d).value.tolist() == [-128, 127, 0, -4, -2]
    assert forward("remainder", i8, d).value.tolist() == [0, 0, 0, 1, -1]
    assert forward("pow", i8, np.array([2, 2, 3, 3, -1], np.int8)).value.tolist() == [
        0, 1, 87, -87, 0]  # fmt: skip
    u8 = np.array([200], np.uint8)
    assert forward("subtract", np.array([3], np.uint8), u8).value.tolist() == [59]


def test_shifts_out_of_range() -> None:
    x = np.array([-5, -5, 5, 5, 1], np.int32)
    by = np.array([32, -1, 40, 31, 31], np.int32)
    assert forward("bitwise_left_shift", x, by).value.tolist() == [0, 0, 0, -(2**31), -(2**31)]
    assert forward("bitwise_right_shift", x, by).value.tolist() == [-1, -1, 0, 0, 0]


def test_casts_saturate() -> None:
    x = np.array([nan, inf, -inf, 1e20, -1.9, 2.9, 255.5], np.float32)
    assert forward("astype", x, dtype=np.uint8).value.tolist() == [0, 255, 0, 255, 0, 2, 255]
    assert forward("astype", x, dtype=np.int64).value.tolist() == [
        0, 2**63 - 1, -(2**63), 2**63 - 1, -1, 2, 255]  # fmt: skip
    assert forward("astype", np.array([300, -1]), dtype=np.uint8).value.tolist() == [44, 255]
    big = np.array([2**53 + 1, 2**24 + 1, -(2**62) - 1])
    assert forward("astype", big, dtype=np.float32).rounded().tolist() == [
        2.0**53, 2.0**24, -(2.0**62)]  # fmt: skip


def test_nextafter_walks_every_float16() -> None:
    every = all_patterns(np.float16)
    positive = every[:0x7C00]
    up = forward("nextafter", positive, np.full(positive.shape, inf, np.float16)).rounded()
    assert np.array_equal(up.view(np.uint16), np.arange(1, 0x7C01, dtype=np.uint16))


# -- sums, sorting, indexing ----------------------------------------------------------------------


def test_exact_sums() -> None:
    assert exact_sum([1e308, 1e308, -1e308]) == (1e308, 0.0)
    assert exact_sum([1.0, 1e-30]) == (1.0, 1e-30)
    assert math.isnan(exact_sum([inf, -inf])[0])
    assert exact_sum([inf, 1.0]) == (inf, 0.0)
    assert math.copysign(1, exact_sum([-0.0, -0.0])[0]) == -1
    assert math.copysign(1, exact_sum([])[0]) == 1
    a = np.array([1e200, 1e-200, 1.0])
    assert exact_dot(a, np.array([1e200, 1e-200, 1.0])) == (inf, 0.0)
    assert exact_dot(a, np.array([1e-200, 1e-200, 1e-30]))[0] == 1.0
    hi, lo = exact_dot(np.array([0.1, 0.2]), np.array([0.3, 0.4]))
    assert Fraction(hi) + Fraction(lo) == Fraction(0.1) * Fraction(0.3) + Fraction(0.2) * Fraction(
        0.4
    )


def test_sums_of_small_integers_are_wide() -> None:
    x = np.full(1000, 100, np.int8)
    ref = forward("sum", x)
    assert ref.dtype == np.int64
    assert int(ref.value) == 100_000
    assert forward("sum", x.astype(np.uint8)).dtype == np.uint64
    assert forward("prod", np.array([2] * 40, np.int32)).value == 2**40
    assert forward("cumulative_sum", x, include_initial=True).value.shape == (1001,)
    assert forward("sum", np.array([True, True])).value == 2


def test_empty_reductions() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert same(forward("sum", empty, axis=0).value, [0.0, 0.0, 0.0])
    assert same(forward("prod", empty, axis=0).value, [1.0, 1.0, 1.0])
    assert np.isnan(forward("mean", empty, axis=0).value).all()
    assert bool(forward("all", empty).value)
    assert not bool(forward("any", empty).value)
    assert forward("matmul", np.zeros((2, 0), "f4"), np.zeros((0, 2), "f4")).value.tolist() == [
        [0.0, 0.0], [0.0, 0.0]]  # fmt: skip


def test_reductions_over_axes() -> None:
    x = ordinary(generator(1), (3, 4, 5), np.float64)
    for axis in (None, 1, (0, 2), (-1,)):
        for keep in (False, True):
            for name, function in (("sum", np.sum), ("mean", np.mean), ("max", np.max)):
                ref = forward(name, x, axis=axis, keepdims=keep)
                want = np.asarray(function(x, axis=axis, keepdims=keep))
                assert ref.shape == want.shape
                assert np.allclose(ref.value, want, rtol=1e-14)
            want = np.asarray(np.var(x, axis=axis, keepdims=keep, ddof=1))
            ref = forward("var", x, axis=axis, keepdims=keep, correction=1)
            assert np.allclose(ref.value, want, rtol=1e-12)
    scan = forward("cumulative_sum", x, axis=1)
    assert np.allclose(scan.value, np.cumsum(x, axis=1))
    assert np.allclose(forward("cumulative_prod", x, axis=2).value, np.cumprod(x, axis=2))
    assert np.allclose(forward("logsumexp", x, axis=0).value, np.log(np.exp(x).sum(axis=0)))


def test_nan_and_zero_in_max() -> None:
    x = np.array([[1.0, nan], [-0.0, 0.0], [0.0, -0.0]], np.float32)
    assert same(forward("max", x, axis=1).value, [nan, 0.0, 0.0])
    assert same(forward("min", x, axis=1).value, [nan, -0.0, -0.0])
    assert forward("argmax", np.array([1.0, nan, 3.0, nan])).value == 1


def test_sorting_is_stable_with_nan_last() -> None:
    x = np.array([3.0, nan, -0.0, 0.0, 3.0, -inf, nan, 1.0], np.float32)
    assert forward("argsort", x).value.tolist() == [5, 2, 3, 7, 0, 4, 1, 6]
    assert forward("argsort", x, descending=True).value.tolist() == [0, 4, 7, 2, 3, 5, 1, 6]
    y = np.array([3, 1, 3, 2, 1], np.uint8)
    assert forward("argsort", y, descending=True).value.tolist() == [0, 2, 3, 1, 4]
    assert forward("sort", y).value.tolist() == [1, 1, 2, 3, 3]


def test_scatter_gather_and_index_add() -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    index = np.array([[0, 3, 1], [2, 0, 0]])
    assert forward("gather", x, index, axis=0).value.tolist() == [[0, 10, 5], [6, 1, 2]]
    put = forward("scatter", x, index, -np.ones((2, 3), np.float32), axis=0).value
    assert put.tolist() == [[-1, -1, -1], [3, 4, -1], [-1, 7, 8], [9, -1, 11]]
    added = forward("index_add", x, np.array([1, 1, -1]), np.ones((3, 3), np.float32), axis=0)
    assert added.value[:, 0].tolist() == [0, 5, 6, 10]
    assert np.asarray(added.terms)[:, 0].tolist() == [1, 3, 1, 2]
    assert forward("searchsorted", np.array([1, 2, 2, 3]), np.array([2]), side="right").value == [3]


def test_every_reference_passes_its_own_judge() -> None:
    """Also that a relative change of 2^-6 (or one step) does not, wherever a value is judged."""
    rng = generator(1)
    for name, op in REFERENCES.items():
        if "f" not in op.kinds or op.tensors[0] == 0 or name in SHAPED:
            continue
        for dtype in FLOATS:
            arrays = sample(op, rng, (6, 6), dtype)
            if name in CONDITIONS:
                arrays[0] = arrays[0] > 0
            options = OPTIONS.get(name, {})
            outcome = op.forward(*arrays, **options)
            for ref in outcome if isinstance(outcome, tuple) else (outcome,):
                judge = op.judge(dtype, options, 1.0)
                verdict = judge.check(ref.rounded(), ref)
                assert verdict.ok, (name, dtype, verdict.message)
                if ref.format is None or name in ("empty_like",):
                    continue
                wrong = (ref.rounded().astype(np.float64) * (1 + 2.0**-4) + 2.0**-4).astype(dtype)
                assert not judge.check(wrong.reshape(ref.shape), ref).ok, (name, dtype)


CONDITIONS = {"where", "dropout_mask"}
OPTIONS: dict[str, dict[str, Any]] = {
    "astype": {"dtype": np.float16},
    "broadcast_to": {"shape": (2, 6, 6)},
    "cumulative_prod": {"axis": 0},
    "cumulative_sum": {"axis": 1},
    "tensordot": {"axes": 1},
    "moveaxis": {"source": 0, "destination": 1},
    "permute_dims": {"axes": (1, 0)},
    "reshape": {"shape": (4, 9)},
    "roll": {"shift": 2, "axis": 1},
    "tile": {"repetitions": (2, 1)},
}
SHAPED = {
    *("take", "take_along_axis", "gather", "scatter", "index_add", "embedding", "cross_entropy"),
    *("squeeze", "layer_norm", "rms_norm", "linear", "searchsorted", "repeat", "full_like"),
    *("stack", "concat", "meshgrid", "broadcast_arrays", "dropout"),
    *("astype", "unique_all", "unique_counts", "unique_inverse", "unique_values"),
}


# -- random and data ------------------------------------------------------------------------------


def test_philox_known_answers() -> None:
    for counter, key, words in KNOWN_ANSWERS:
        assert philox4x32(counter, key).tolist() == list(words)
    together = philox4x32([k[0] for k in KNOWN_ANSWERS], [k[1] for k in KNOWN_ANSWERS])
    assert together.tolist() == [list(k[2]) for k in KNOWN_ANSWERS]


def test_philox_differs_with_fewer_rounds_and_gives_uniform_bits() -> None:
    counters = np.zeros((20_000, 4), np.uint32)
    counters[:, 0] = np.arange(20_000)
    words = philox4x32(counters, (1, 2))
    assert not np.array_equal(words, philox4x32(counters, (1, 2), 9))
    u = uniform_from_words(words)
    assert mean_and_variance_problem(u, 0.5, 1 / 12, 1 / 80) == ""
    assert "mean" in mean_and_variance_problem(u * 1.02, 0.5, 1 / 12, 1 / 80)
    assert "variance" in mean_and_variance_problem((u - 0.5) * 1.03 + 0.5, 0.5, 1 / 12, 1 / 80)


def test_data_depends_on_seed_and_labels_only() -> None:
    a = ordinary(generator(1, "exp", "float32"), (5,), np.float32)
    assert np.array_equal(a, ordinary(generator(1, "exp", "float32"), (5,), np.float32))
    assert not np.array_equal(a, ordinary(generator(2, "exp", "float32"), (5,), np.float32))
    assert not np.array_equal(a, ordinary(generator(1, "log", "float32"), (5,), np.float32))
    pinned = [0.9861194491386414, 3.411123275756836, 0.48544633388519287, -0.3296627402305603]
    assert a.tolist()[:4] == pinned


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_specials_hold_what_they_promise(dtype: np.dtype[Any]) -> None:
    values = specials(dtype)
    wide = values.astype(np.float64)
    assert np.isnan(wide).any()
    assert {inf, -inf} <= set(wide.tolist())
    assert {1.0, 0.5, -1.0, 2.5} <= set(wide.tolist())
    zeros = wide[wide == 0]
    assert set(np.signbit(zeros).tolist()) == {True, False}
    fmt = format_of(dtype)
    assert fmt is not None
    assert {fmt.tiny, -fmt.tiny, fmt.max} <= set(wide.tolist())
    pairs = grid(values, 2)
    assert pairs[0].shape == (values.size**2,)


def test_all_patterns_are_all() -> None:
    for dtype in (np.dtype(np.float16), BF16):
        every = all_patterns(dtype)
        assert np.array_equal(every.view(np.uint16), np.arange(65536, dtype=np.uint16))
    with pytest.raises(ValueError, match="too many"):
        all_patterns(np.float32)
    mixed = patterns(generator(1), (4000,), np.float32)
    assert np.isnan(mixed).any()
    assert (np.abs(mixed) < 1e-38).any()


@pytest.mark.parametrize("kind", ACCUMULATION_KINDS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_accumulation_data_stays_finite(kind: str, dtype: np.dtype[Any]) -> None:
    limit = format_of(dtype)
    assert limit is not None
    for product in (False, True):
        x = accumulation(generator(1), (4, 100), dtype, kind, 100, product).astype(np.float64)
        assert np.isfinite(x).all()
        total = (x * x if product else np.abs(x)).sum(axis=1)
        assert (total < limit.max).all()
    with pytest.raises(ValueError, match="no accumulation data"):
        accumulation(generator(1), (4,), dtype, "nonsense", 4)


def test_data_for_gradients_keeps_away_from_kinks() -> None:
    x = distinct(generator(1), (10, 10), np.float32)
    assert np.unique(x).size == 100
    assert (np.abs(away_from(x, (0.0, 1.0))) >= 0.125).all()
    (g,) = vectors(generator(1), [(50,)], np.float32)
    assert (np.abs(g) >= 0.25).all()
    assert {-1.0, 1.0} == set(np.sign(g).tolist())
    bad = ill_conditioned(generator(1), (100,), np.float32).astype(np.float64)
    assert bad.mean() / bad.std() > 1000
