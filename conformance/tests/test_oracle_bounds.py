"""The error model: what is within a bound passes, what is twice as bad fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from tensorbus_conformance.oracle import REFERENCES, Reference, Verdict
from tensorbus_conformance.oracle.bounds import (
    NATIVE_ULPS,
    AccumulationJudge,
    CoefficientJudge,
    ExactJudge,
    ProductJudge,
    RoundedJudge,
    UlpJudge,
    VarianceJudge,
)
from tensorbus_conformance.oracle.data import accumulation, generator, ill_conditioned
from tensorbus_conformance.oracle.ulp import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    Format,
    round_to,
    ulp,
)
from tensorbus_conformance.oracle.verdict import BoundJudge

Array = NDArray[Any]
F32 = np.dtype(np.float32)
BF16 = np.dtype(ml_dtypes.bfloat16)


def forward(name: str, *arrays: Any, **options: Any) -> Reference:
    ref = REFERENCES[name].forward(*arrays, **options)
    assert isinstance(ref, Reference)
    return ref


def check(name: str, got: Array, ref: Reference, bound: float | None = None) -> Verdict:
    return REFERENCES[name].judge(got.dtype, {}, bound).check(got, ref)


# -- one judge per class: the worst allowed passes, twice as bad fails ----------------------------


def cases() -> list[tuple[str, BoundJudge, Reference]]:
    rng = generator(1)
    x = rng.uniform(0.5, 2.0, (64, 24)).astype(np.float32)
    wide = x.astype(np.float64)
    return [
        ("ulps", UlpJudge(FLOAT32, FLOAT32, 4.0), forward("exp", x)),
        ("root", UlpJudge(FLOAT32, FLOAT32, 4.0, 8.0), forward("logaddexp", -x, -x)),
        ("sum", AccumulationJudge(FLOAT32, FLOAT32, False), forward("sum", x - 1.2, axis=1)),
        ("mean", AccumulationJudge(FLOAT32, FLOAT32, False, 1), forward("mean", x, axis=1)),
        ("matmul", AccumulationJudge(FLOAT32, FLOAT32, False), forward("matmul", x, x.T)),
        ("product", ProductJudge(FLOAT32, FLOAT32), forward("prod", x, axis=1)),
        ("variance", VarianceJudge(FLOAT32, FLOAT32), forward("var", x, axis=1)),
        ("deviation", VarianceJudge(FLOAT32, FLOAT32, True), forward("std", x + 40, axis=1)),
        ("softmax", CoefficientJudge(FLOAT32, FLOAT32, ulps=4.0), forward("softmax", x)),
        ("layer_norm", CoefficientJudge(FLOAT32, FLOAT32), forward("layer_norm", x)),
        ("gelu", CoefficientJudge(FLOAT32, FLOAT32, ulps=4.0), forward("gelu", x)),
        ("float64 exp", UlpJudge(FLOAT64, FLOAT64, 2.0), forward("exp", wide)),
        ("float64 sum", AccumulationJudge(FLOAT64, FLOAT64, False), forward("sum", wide, axis=1)),
        ("float64 softmax", CoefficientJudge(FLOAT64, FLOAT64, ulps=2.0), forward("softmax", wide)),
    ]


@pytest.mark.parametrize(
    ("name", "judge", "ref"), cases(), ids=lambda v: v if isinstance(v, str) else ""
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_twice_the_bound_fails(name: str, judge: BoundJudge, ref: Reference, sign: float) -> None:
    tolerance = sign * judge.tolerance(ref)
    dtype = ref.dtype
    exact = ref.rounded()
    assert judge.check(exact, ref).ok
    # Towards the exact value by an ulp, so that rounding `got` itself does not cross the bound.
    step = sign * ulp(ref.value, judge.fmt)
    allowed = ref.value + np.where(np.abs(tolerance) > 2 * np.abs(step), tolerance - step, 0.0)
    assert judge.check(allowed.astype(dtype), ref).ok
    worse = ref.value + 2 * tolerance + np.where(np.abs(tolerance) < np.abs(step), step, 0.0)
    for k in (0, ref.value.size // 2, ref.value.size - 1):
        got = exact.copy()
        got.reshape(-1)[k] = worse.reshape(-1)[k].astype(dtype)
        verdict = judge.check(got, ref)
        assert not verdict.ok
        assert verdict.witness_index == tuple(int(i) for i in np.unravel_index(k, ref.shape))
        assert verdict.worst_error > 1.5 * verdict.bound
        assert str(verdict.witness_index) in verdict.message


@pytest.mark.parametrize("fmt", [FLOAT16, BFLOAT16], ids=lambda f: f.name)
def test_sixteen_bits_round_a_float32_result(fmt: Format) -> None:
    """Half an ulp and the float32 bound: the neighbour passes only beside a tie."""
    x = generator(2).uniform(-3, 3, 3000).astype(fmt.dtype)
    ref = forward("exp", x)
    judge = UlpJudge(fmt, FLOAT32, 1.0)
    within = np.exp(x.astype(np.float64)).astype(np.float32)
    for shifted in (
        within,
        np.nextafter(within, np.float32(9)),
        np.nextafter(within, np.float32(0)),
    ):
        off_by_one = shifted.astype(np.float64)
        ok = np.abs(off_by_one - ref.value) <= ulp(ref.value, FLOAT32)
        got = np.where(ok, round_to(off_by_one, fmt).astype(np.float64), ref.value)
        assert judge.check(round_to(got, fmt), ref).ok
    unit = ulp(ref.value, fmt)
    verdict = judge.check(round_to(ref.rounded().astype(np.float64) + unit, fmt), ref)
    assert not verdict.ok
    assert verdict.bound < 0.51


def test_exact_means_bit_for_bit_but_for_nan() -> None:
    ref = Reference(np.array([1.0, -0.0, math.nan]), F32)
    good = np.array([1.0, -0.0, math.nan], np.float32)
    odd_nan = good.copy()
    odd_nan.view(np.uint32)[2] |= 0x80000001
    assert ExactJudge().check(good, ref).ok
    assert ExactJudge().check(odd_nan, ref).ok
    for k, wrong in ((0, 1.0 + 2**-23), (1, 0.0), (2, 0.0)):
        bad = good.copy()
        bad[k] = wrong
        verdict = ExactJudge().check(bad, ref)
        assert not verdict.ok
        assert verdict.witness_index == (k,)
    assert ExactJudge(zero_signs=False).check(np.abs(good), ref).ok


def test_rounding_to_the_wrong_neighbour_fails() -> None:
    x = generator(3).uniform(-4, 4, 200).astype(np.float32)
    y = generator(4).uniform(0.5, 4, 200).astype(np.float32)
    for name in ("add", "subtract", "multiply", "divide"):
        ref = forward(name, x, y)
        with np.errstate(all="ignore"):
            native = {"add": x + y, "subtract": x - y, "multiply": x * y, "divide": x / y}[name]
        assert check(name, native, ref).ok
        truncated = np.where(
            np.abs(native.astype(np.float64)) > np.abs(ref.value),
            np.nextafter(native, np.float32(0)),
            native,
        )
        assert not check(name, truncated, ref).ok
    assert RoundedJudge().check(np.sqrt(y), forward("sqrt", y)).ok


def test_bfloat16_products_may_round_twice_among_subnormals_only() -> None:
    a = np.array([1.0 + 2.0**-7], BF16)
    tie = np.array([2.0**-120 * (1 + 2.0**-7)], BF16)
    small = np.array([2.0**-14 * (1 + 2.0**-6)], BF16)
    ref = forward("multiply", tie, small)
    through = round_to(round_to(ref.value, FLOAT32), BFLOAT16)
    assert RoundedJudge().check(through, ref).ok
    assert RoundedJudge().check(ref.rounded(), ref).ok
    assert check(
        "multiply",
        (a.astype(np.float32) * a.astype(np.float32)).astype(BF16),
        forward("multiply", a, a),
    ).ok


def test_a_device_may_declare_division_in_ulps() -> None:
    x = generator(5).uniform(1, 2, 500).astype(np.float32)
    y = generator(6).uniform(1, 2, 500).astype(np.float32)
    ref = forward("divide", x, y)
    off = np.nextafter(x / y, np.float32(9))
    assert not check("divide", off, ref).ok
    assert check("divide", off, ref, 2.5).ok


# -- NaN, infinities, overflow --------------------------------------------------------------------

LOOSE = UlpJudge(FLOAT32, FLOAT32, 4.0)


@pytest.mark.parametrize(
    ("got", "want", "ok"),
    [
        (math.nan, math.nan, True),
        (1.0, math.nan, False),
        (math.nan, 1.0, False),
        (math.inf, math.inf, True),
        (-math.inf, math.inf, False),
        (3.4e38, math.inf, False),
        (math.inf, 1e38, False),
        (math.nan, math.inf, False),
        (math.inf, FLOAT32.max, True),  # within 4 ulp of 2^128
        (math.inf, FLOAT32.max * (1 - 2**-20), False),
        (FLOAT32.max, FLOAT32.max * (1 + 2**-25), True),  # rounds to infinity, but is near
        (FLOAT32.max, FLOAT32.max * 1.001, False),
        (math.inf, FLOAT32.max * 1.001, True),
        (math.inf, 1e300, True),
        (-math.inf, 1e300, False),
    ],
)
def test_nan_and_infinity(got: float, want: float, ok: bool) -> None:
    ref = Reference(np.array([1.0, want]), F32)
    verdict = LOOSE.check(np.array([1.0, got], np.float32), ref)
    assert verdict.ok is ok
    if not ok:
        assert verdict.witness_index == (1,)


def test_values_beside_an_infinity_are_still_compared() -> None:
    ref = Reference(np.array([math.inf, 1.0, math.nan]), F32)
    assert not LOOSE.check(np.array([math.inf, 1.01, math.nan], np.float32), ref).ok


def test_wrong_shape_or_dtype_fails() -> None:
    ref = Reference(np.ones(3), F32)
    assert "shape" in LOOSE.check(np.ones(2, np.float32), ref).message
    assert "dtype" in LOOSE.check(np.ones(3, np.float64), ref).message


def test_nothing_judged_is_reported_as_such() -> None:
    assert LOOSE.check(np.ones(0, np.float32), Reference(np.ones(0), F32)).decided == 0
    free = Reference(np.ones(2), F32, undefined=np.array([True, False]))
    assert LOOSE.check(np.array([math.nan, 1.0], np.float32), free).decided == 1


def test_sums_that_may_overflow_on_the_way_are_not_judged() -> None:
    x = np.array([[3e38, 3e38, -3e38], [1.0, 2.0, 3.0]], np.float32)
    ref = forward("sum", x, axis=1)
    verdict = check("sum", np.array([math.inf, 6.0], np.float32), ref)
    assert verdict.ok
    assert verdict.decided == 1


def test_arb_decides_beside_the_bound() -> None:
    """A float64 result whose error differs from the bound by far less than the slack."""
    x = np.array([1.0])
    ref = forward("exp", x)
    got = ref.rounded()
    error = float(np.abs((got - ref.value) - ref.low)[0] / ulp(ref.value, FLOAT64)[0])
    blurred = Reference(ref.value, ref.dtype, slack=np.array([1e-15]), exact=ref.exact)
    assert UlpJudge(FLOAT64, FLOAT64, max(error * (1 + 1e-9), 0.5)).check(got, blurred).ok
    step = np.nextafter(got, 9.0)
    error = float(np.abs((step - ref.value) - ref.low)[0] / ulp(ref.value, FLOAT64)[0])
    assert not UlpJudge(FLOAT64, FLOAT64, error * (1 - 1e-9)).check(step, blurred).ok
    assert UlpJudge(FLOAT64, FLOAT64, error * (1 + 1e-9)).check(step, blurred).ok


def test_flushed_subnormals_pass_only_where_declared() -> None:
    x = np.array([-88.0, -90.0], np.float32)
    ref = forward("exp", x)
    flushed = np.array([ref.rounded()[0], 0.0], np.float32)
    strict = REFERENCES["exp"].judge(F32, {}, 1.0)
    loose = REFERENCES["exp"].judge(F32, {}, 1.0, subnormals=False)
    assert not strict.check(flushed, ref).ok
    assert loose.check(flushed, ref).ok


def test_a_bound_below_correct_rounding_is_refused() -> None:
    with pytest.raises(ValueError, match="correct rounding"):
        UlpJudge(FLOAT32, FLOAT32, 0.25)


def test_every_transcendental_function_has_a_native_ceiling() -> None:
    names = {n for n, op in REFERENCES.items() if op.family == "transcendental"}
    assert names <= set(NATIVE_ULPS)


# -- accumulation: statistics ---------------------------------------------------------------------

TF32 = Format("tf32", F32, 11, -126, 127)


def sequential(products: Array, rounding: Callable[[Array], Array]) -> Array:
    """Sums along the last axis, one term after the other, each rounded by `rounding`."""
    total = np.zeros(products.shape[:-1])
    for k in range(products.shape[-1]):
        total = rounding(total + products[..., k])
    return total


def to_nearest(x: Array) -> Array:
    return np.asarray(x.astype(np.float32).astype(np.float64))


def to_zero(x: Array) -> Array:
    near = x.astype(np.float32)
    beyond = np.abs(near.astype(np.float64)) > np.abs(x)
    return np.where(beyond, np.nextafter(near, np.float32(0)), near).astype(np.float64)


def to_bfloat16(x: Array) -> Array:
    return round_to(x, BFLOAT16).astype(np.float64)


def pairwise(products: Array, rounding: Callable[[Array], Array]) -> Array:
    """Sums along the last axis by halves."""
    while products.shape[-1] > 1:
        half = products.shape[-1] // 2
        odd = products[..., 2 * half :]
        products = rounding(products[..., :half] + products[..., half : 2 * half])
        products = np.concatenate([products, odd], axis=-1)
    return np.asarray(products[..., 0])


def dot(
    a: Array, b: Array, sums: Callable[..., Array], rounding: Callable[[Array], Array]
) -> Array:
    products = rounding(a.astype(np.float64)[:, None, :] * b.astype(np.float64).T[None, :, :])
    return np.asarray(sums(products, rounding).astype(np.float32))


def matrices(seed: int, kind: str, terms: int) -> tuple[Array, Array]:
    rng = generator(seed, kind)
    a = accumulation(rng, (16, terms), np.float32, kind, terms, True)
    return a, accumulation(rng, (terms, 16), np.float32, kind, terms, True)


@pytest.mark.parametrize("kind", ["ordinary", "positive"])
@pytest.mark.parametrize("terms", [3, 64, 300])
def test_honest_float32_passes_on_many_seeds(kind: str, terms: int) -> None:
    for seed in range(25):
        a, b = matrices(seed, kind, terms)
        ref = forward("matmul", a, b)
        for sums in (sequential, pairwise):
            verdict = check("matmul", dot(a, b, sums, to_nearest), ref)
            assert verdict.ok, verdict.message
        assert check("matmul", a @ b, ref).ok


@pytest.mark.parametrize("terms", [64, 300])
@pytest.mark.parametrize("sums", [sequential, pairwise])
def test_rounding_towards_zero_is_a_bias(terms: int, sums: Callable[..., Array]) -> None:
    for seed in range(10):
        a, b = matrices(seed, "positive", terms)
        verdict = check("matmul", dot(a, b, sums, to_zero), forward("matmul", a, b))
        assert not verdict.ok
        assert verdict.check == "bias"


@pytest.mark.parametrize("kind", ["ordinary", "positive"])
@pytest.mark.parametrize("terms", [64, 300])
def test_inputs_cut_to_tf32_fail(kind: str, terms: int) -> None:
    for seed in range(10):
        a, b = matrices(seed, kind, terms)
        cut_a, cut_b = (round_to(v.astype(np.float64), TF32) for v in (a, b))
        verdict = check("matmul", dot(cut_a, cut_b, pairwise, to_nearest), forward("matmul", a, b))
        assert not verdict.ok


def test_tf32_can_keep_the_worst_case_bound_and_still_fail() -> None:
    terms = 2000
    rng = generator(9)
    a = accumulation(rng, (8, terms), np.float32, "ordinary", terms, True)
    b = accumulation(rng, (terms, 8), np.float32, "ordinary", terms, True)
    cut_a, cut_b = (round_to(v.astype(np.float64), TF32) for v in (a, b))
    verdict = check("matmul", dot(cut_a, cut_b, pairwise, to_nearest), forward("matmul", a, b))
    assert not verdict.ok
    assert verdict.check == "variance"


@pytest.mark.parametrize("kind", ["ordinary", "positive"])
def test_a_bfloat16_accumulator_fails(kind: str) -> None:
    for seed in range(10):
        a, b = matrices(seed, kind, 64)
        got = dot(a.astype(BF16), b.astype(BF16), sequential, to_bfloat16)
        assert not check(
            "matmul",
            got,
            forward("matmul", a.astype(BF16).astype(np.float32), b.astype(BF16).astype(np.float32)),
        ).ok


@pytest.mark.parametrize("fmt", [FLOAT16, BFLOAT16], ids=lambda f: f.name)
def test_sixteen_bit_sums_must_accumulate_in_float32(fmt: Format) -> None:
    for seed in range(10):
        x = accumulation(generator(seed), (64, 128), fmt.dtype, "positive", 128)
        ref = forward("sum", x, axis=1)
        wide = x.astype(np.float64)
        honest = round_to(sequential(wide, to_nearest), fmt)
        narrow = round_to(sequential(wide, lambda v: round_to(v, fmt).astype(np.float64)), fmt)
        assert check("sum", honest, ref).ok
        assert not check("sum", narrow, ref).ok


@pytest.mark.parametrize("kind", ["zeros", "huge", "small_onto_large", "cancelling", "wide"])
def test_adversarial_sums_keep_the_worst_case_bound(kind: str) -> None:
    x = accumulation(generator(7), (40, 100), np.float32, kind, 100)
    ref = forward("sum", x, axis=1)
    judge = REFERENCES["sum"].judge(F32, {"axis": 1}, None, statistics=False)
    wide = x.astype(np.float64)
    for sums in (sequential, pairwise):
        verdict = judge.check(sums(wide, to_nearest).astype(np.float32), ref)
        assert verdict.ok, verdict.message
        assert verdict.decided == 40
    dropped = sequential(wide[:, :-1], to_nearest).astype(np.float32)
    if kind in ("huge", "cancelling", "wide"):
        assert not judge.check(dropped, ref).ok


def test_equal_results_are_counted_once_in_the_statistics() -> None:
    row = accumulation(generator(8), (1, 200), np.float32, "positive", 200)
    x = np.repeat(row, 500, axis=0)
    got = sequential(x.astype(np.float64), to_nearest).astype(np.float32)
    assert check("sum", got, forward("sum", x, axis=1)).ok


@pytest.mark.parametrize("fmt", [FLOAT16, BFLOAT16], ids=lambda f: f.name)
def test_linear_rounds_to_sixteen_bits_once(fmt: Format) -> None:
    rng = generator(3)
    x, w = (accumulation(rng, (20, 60), fmt.dtype, "ordinary", 60) for _ in range(2))
    bias = accumulation(rng, (20,), fmt.dtype, "ordinary", 60)
    ref = forward("linear", x, w, bias)
    product = x.astype(np.float64) @ w.astype(np.float64).T
    stored = round_to(product, fmt).astype(np.float64) + bias.astype(np.float64)
    assert check("linear", ref.rounded(), ref).ok
    assert not check("linear", round_to(stored, fmt), ref).ok
    narrow = sequential(
        x.astype(np.float64)[:, None, :] * w.astype(np.float64)[None, :, :],
        lambda v: round_to(v, fmt).astype(np.float64),
    )
    assert not check("linear", round_to(narrow + bias.astype(np.float64), fmt), ref).ok


@pytest.mark.parametrize("fmt", [FLOAT16, BFLOAT16], ids=lambda f: f.name)
def test_mse_loss_rounds_to_sixteen_bits_once(fmt: Format) -> None:
    rng = generator(4)
    x, y = (accumulation(rng, (900,), fmt.dtype, "ordinary", 900) for _ in range(2))
    ref = forward("mse_loss", x, y)
    difference = round_to(x.astype(np.float64) - y.astype(np.float64), fmt).astype(np.float64)
    square = round_to(difference**2, fmt).astype(np.float64)
    assert check("mse_loss", ref.rounded(), ref).ok
    each = REFERENCES["mse_loss"].forward(x, y, reduction="none")
    assert isinstance(each, Reference)
    assert check("mse_loss", each.rounded(), each).ok
    assert not check("mse_loss", round_to(square, fmt), each).ok
    narrow = sequential(square, lambda v: round_to(v, fmt).astype(np.float64)) / 900
    assert not check("mse_loss", round_to(narrow, fmt), ref).ok


# -- variance, softmax ----------------------------------------------------------------------------


def two_pass(x: Array) -> Array:
    mean = x.sum(axis=1, keepdims=True, dtype=np.float32) / np.float32(x.shape[1])
    return np.asarray(((x - mean) ** 2).sum(axis=1, dtype=np.float32) / np.float32(x.shape[1]))


def one_pass(x: Array) -> Array:
    count = np.float32(x.shape[1])
    mean = x.sum(axis=1, dtype=np.float32) / count
    return np.asarray((x * x).sum(axis=1, dtype=np.float32) / count - mean * mean)


def test_a_one_pass_variance_fails_on_badly_conditioned_data() -> None:
    for seed in range(10):
        x = ill_conditioned(generator(seed), (32, 50), np.float32)
        ref = forward("var", x, axis=1)
        assert check("var", two_pass(x), ref).ok
        assert not check("var", one_pass(x), ref).ok
        root = forward("std", x, axis=1)
        assert check("std", np.sqrt(two_pass(x)), root).ok
        assert not check("std", np.sqrt(np.abs(one_pass(x))), root).ok


def test_a_layer_norm_on_one_pass_variance_fails() -> None:
    x = ill_conditioned(generator(1), (32, 50), np.float32)
    ref = forward("layer_norm", x)
    mean = x.mean(axis=1, keepdims=True, dtype=np.float32)
    eps = np.float32(1e-5)
    good = (x - mean) / np.sqrt(two_pass(x)[:, None] + eps)
    with np.errstate(all="ignore"):
        bad = (x - mean) / np.sqrt(one_pass(x)[:, None] + eps)
    assert check("layer_norm", good.astype(np.float32), ref, 1.0).ok
    assert not check("layer_norm", bad.astype(np.float32), ref, 1.0).ok


def test_softmax_needs_the_maximum_subtracted() -> None:
    x = generator(2).uniform(80, 95, (20, 30)).astype(np.float32)
    ref = forward("softmax", x)
    shifted = np.exp((x - x.max(axis=1, keepdims=True)).astype(np.float64)).astype(np.float32)
    good = shifted / shifted.sum(axis=1, keepdims=True, dtype=np.float32)
    with np.errstate(all="ignore"):
        raw = np.exp(x.astype(np.float64)).astype(np.float32)
        bad = raw / raw.sum(axis=1, keepdims=True, dtype=np.float32)
    assert check("softmax", good, ref, 1.0).ok
    assert not check("softmax", bad, ref, 1.0).ok
    assert not check("softmax", good * np.float32(1.00001), ref, 1.0).ok


def test_float16_gradients_round_every_operation() -> None:
    op = REFERENCES["softmax"]
    assert op.vjp is not None
    assert op.gradient_judge is not None
    x = generator(3).uniform(-2, 2, (8, 12)).astype(np.float16)
    g = generator(4).uniform(-1, 1, (8, 12)).astype(np.float16)
    (ref,) = op.vjp([x], {}, g)
    e = np.exp(x - x.max(axis=1, keepdims=True))
    y = (e / e.sum(axis=1, keepdims=True)).astype(np.float16)
    got = y * (g - (g * y).sum(axis=1, keepdims=True).astype(np.float16))
    judge = op.gradient_judge(np.float16)
    assert judge.check(got, ref).ok
    assert not judge.check(-got, ref).ok
    assert not judge.check((got * np.float16(3)), ref).ok


# -- devices that flush subnormals ----------------------------------------------------------------

LEAST = np.float32(2.0**-126)


def _products() -> tuple[Any, Any]:
    """Exact products of 2^-126 and 0.25, 1 - 2^-26 (which rounds up) and 1.5, and their judge."""
    x = np.asarray([0.25, 1 + 2.0**-13, 1.5], np.float32) * LEAST
    y = np.asarray([1.0, 1 - 2.0**-13, 1.0], np.float32)
    return forward("multiply", x, y), REFERENCES["multiply"].judge(np.float32, subnormals=False)


@pytest.mark.parametrize(
    ("got", "ok"),
    [
        ([0.0, 0.0, 1.5], True),
        ([0.25, 1.0, 1.5], True),
        ([-0.0, 1.0, 1.5], False),  # the sign of what was flushed is lost
        ([0.0, 0.0, 0.0], False),  # a normal number was flushed
        ([1.0, 1.0, 1.5], False),
    ],
)
def test_flushed_results_are_zero_and_no_others(got: list[float], ok: bool) -> None:
    ref, judge = _products()
    verdict = judge.check(np.asarray(got, np.float32) * LEAST, ref)
    assert verdict.ok is ok, verdict.message
    assert verdict.passed is not None
    assert bool(verdict.passed.all()) is ok


def test_flushing_is_no_excuse_where_it_is_not_declared() -> None:
    ref, _ = _products()
    flushed = np.asarray([0.0, 1.0, 1.5], np.float32) * LEAST
    assert not REFERENCES["multiply"].judge(np.float32).check(flushed, ref).ok


@pytest.mark.parametrize("name", ["exp", "sum"])
def test_flushed_functions_and_sums(name: str) -> None:
    x = np.asarray([[-87.4], [-87.0]] if name == "exp" else [[3e-39, 2e-39], [3e-37, 2e-37]])
    options = {} if name == "exp" else {"axis": 1}
    ref = REFERENCES[name].forward(x.astype(np.float32), **options)
    assert isinstance(ref, Reference)
    right = ref.rounded()
    flushed = np.where(np.abs(right) < LEAST, 0, right).astype(np.float32)
    assert (flushed != right).sum() == 1
    judge = REFERENCES[name].judge(np.float32, options, 1.0, subnormals=False)
    assert judge.check(flushed, ref).ok
    assert not judge.check(np.zeros_like(right), ref).ok
    assert not REFERENCES[name].judge(np.float32, options, 1.0).check(flushed, ref).ok


def test_float16_has_nothing_to_flush() -> None:
    """Its subnormals are normal numbers of float32, in which it computes."""
    x = np.asarray([2.0**-20], np.float16)
    ref = forward("multiply", x, np.ones(1, np.float16))
    judge = REFERENCES["multiply"].judge(np.float16, subnormals=False)
    assert judge.check(x, ref).ok
    assert not judge.check(np.zeros(1, np.float16), ref).ok
