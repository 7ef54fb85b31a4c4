"""Elementwise functions: values, special values, dtypes, layouts, gradients, bits."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorbus as tb
from tensorbus.ops import (
    elementwise,
    elementwise_arithmetic,
    elementwise_comparison,
    elementwise_rounding,
    elementwise_transcendental,
)

sys.path.insert(0, str(Path(__file__).parent))
from gradcheck import check_gradients, same_bits

RNG = np.random.default_rng(5)
INF, NAN = float("inf"), float("nan")
SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.5, INF, -INF, NAN, 1e-45, -1e-40, 3e38, -3e38, 7.25],
    np.float32,
)
PAIRS = (np.repeat(SPECIAL, SPECIAL.size), np.tile(SPECIAL, SPECIAL.size))

NUMPY = {
    "acos": "arccos",
    "acosh": "arccosh",
    "asin": "arcsin",
    "asinh": "arcsinh",
    "atan": "arctan",
    "atan2": "arctan2",
    "atanh": "arctanh",
    "bitwise_invert": "invert",
    "bitwise_left_shift": "left_shift",
    "bitwise_right_shift": "right_shift",
    "pow": "power",
    "round": "rint",
}
# Function: (least, greatest) of the operands.
UNARY = {
    **dict.fromkeys(["abs", "ceil", "exp", "exp2", "expm1", "floor", "negative"], (-4, 4)),
    **dict.fromkeys(["positive", "real", "round", "sign", "sin", "cos", "tan"], (-4, 4)),
    **dict.fromkeys(["sinh", "cosh", "tanh", "asinh", "atan", "square", "trunc"], (-4, 4)),
    **dict.fromkeys(["log", "log2", "log10", "sqrt", "reciprocal"], (0.1, 9)),
    **dict.fromkeys(["acos", "asin", "atanh", "log1p"], (-0.9, 0.9)),
    "acosh": (1.1, 9),
}
BINARY = {
    **dict.fromkeys(["add", "subtract", "multiply", "divide", "atan2", "hypot"], (-4, 4)),
    **dict.fromkeys(["maximum", "minimum", "copysign", "logaddexp", "remainder"], (-4, 4)),
    "floor_divide": (-4, 4),
    "pow": (0.2, 3),
}
# Their float32 functions are within 1.5 ulp; two roundings of arguments are not made here.
CLOSE = {"rtol": 3 * 2.0**-24, "atol": 2.0**-149}


def t(a: Any, dtype: Any = None) -> tb.Tensor:
    return tb.asarray(a, dtype=dtype, device="cpu")


def bits(a: np.ndarray) -> np.ndarray:
    a = np.where(np.isnan(a), np.float32(NAN), a)
    return a.view(np.uint32)


def numpy_of(name: str) -> Any:
    return getattr(np, NUMPY.get(name, name))


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Each test has data of its own, whichever tests ran before it in its process."""
    seed = zlib.crc32(request.node.name.encode())
    RNG.bit_generator.state = np.random.default_rng(seed).bit_generator.state


def sample(low: float, high: float, shape: tuple[int, ...] = (7, 5)) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


def test_the_gathered_names_are_those_of_the_families() -> None:
    families = (
        elementwise_arithmetic,
        elementwise_comparison,
        elementwise_rounding,
        elementwise_transcendental,
    )
    assert elementwise.__all__ == sorted(n for f in families for n in f.__all__)
    for name in elementwise.__all__:
        assert getattr(tb, name) is getattr(elementwise, name)
        assert tb.FUNCTIONS[name].family == "elementwise"


@pytest.mark.parametrize("name", UNARY)
def test_unary_values(name: str) -> None:
    x = sample(*UNARY[name])
    got = getattr(tb, name)(t(x))
    assert got.dtype is tb.float32
    np.testing.assert_allclose(got.numpy(), numpy_of(name)(x.astype(np.float64)), **CLOSE)


@pytest.mark.parametrize("name", BINARY)
def test_binary_values(name: str) -> None:
    a, b = sample(*BINARY[name]), sample(*BINARY[name])
    got = getattr(tb, name)(t(a), t(b)).numpy()
    want = numpy_of(name)(a.astype(np.float64), b.astype(np.float64))
    close = {**CLOSE, "atol": 1e-6} if name in ("logaddexp", "remainder") else CLOSE
    np.testing.assert_allclose(got, want, **close)


def test_erf_and_rsqrt() -> None:
    from math import erf

    x = sample(-3, 3)
    want = np.vectorize(erf)(x.astype(np.float64))
    np.testing.assert_allclose(tb.erf(t(x)).numpy(), want, **CLOSE)
    x = np.abs(x)
    # 1.5 ulp is at most 3 u.
    np.testing.assert_allclose(tb.rsqrt(t(x)).numpy(), 1 / np.sqrt(x.astype(np.float64)), **CLOSE)
    assert tb.rsqrt(t([0.0, -0.0, INF])).tolist() == [INF, -INF, 0.0]


@pytest.mark.parametrize(
    "name", ["abs", "negative", "ceil", "floor", "trunc", "round", "sign", "sqrt", "square"]
)
def test_exact_functions_on_special_values(name: str) -> None:
    with np.errstate(all="ignore"):
        want = numpy_of(name)(SPECIAL)
    if name == "sign":
        want = want + np.float32(0)
    np.testing.assert_array_equal(bits(getattr(tb, name)(t(SPECIAL)).numpy()), bits(want))


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "copysign", "nextafter"])
def test_exact_functions_on_pairs_of_special_values(name: str) -> None:
    a, b = PAIRS
    if name == "copysign":
        # The sign of a NaN is not specified.
        a, b = a[~np.isnan(b)], b[~np.isnan(b)]
    with np.errstate(all="ignore"):
        want = numpy_of(name)(a, b)
    np.testing.assert_array_equal(bits(getattr(tb, name)(t(a), t(b)).numpy()), bits(want))


@pytest.mark.parametrize(
    "name", ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"]
)
def test_comparisons(name: str) -> None:
    a, b = PAIRS
    got = getattr(tb, name)(t(a), t(b))
    assert got.dtype is tb.bool
    np.testing.assert_array_equal(got.numpy(), getattr(np, name)(a, b))
    i = np.arange(-3, 4, dtype=np.int64)
    np.testing.assert_array_equal(getattr(tb, name)(t(i), 1).numpy(), getattr(np, name)(i, 1))


def test_predicates() -> None:
    for name in ("isfinite", "isinf", "isnan"):
        got = getattr(tb, name)(t(SPECIAL)).numpy()
        np.testing.assert_array_equal(got, getattr(np, name)(SPECIAL))
    known = SPECIAL[~np.isnan(SPECIAL)]
    np.testing.assert_array_equal(tb.signbit(t(known)).numpy(), np.signbit(known))
    i = t([1, -2])
    assert tb.isfinite(i).tolist() == [True, True]
    assert tb.isinf(i).tolist() == tb.isnan(i).tolist() == [False, False]


def test_extrema_order_zeros_and_propagate_nan() -> None:
    a, b = t([0.0, -0.0, NAN, 1.0, NAN]), t([-0.0, 0.0, 1.0, NAN, NAN])
    for left, right in ((a, b), (b, a)):
        high, low = tb.maximum(left, right).numpy(), tb.minimum(left, right).numpy()
        assert not np.signbit(high[:2]).any()
        assert np.signbit(low[:2]).all()
        assert np.isnan(high[2:]).all()
        assert np.isnan(low[2:]).all()


def test_bool_logic_and_bits() -> None:
    a, b = np.array([False, False, True, True]), np.array([False, True, False, True])
    for name in ("and", "or", "xor"):
        want = getattr(np, f"logical_{name}")(a, b)
        for family in ("logical", "bitwise"):
            got = getattr(tb, f"{family}_{name}")(t(a), t(b))
            np.testing.assert_array_equal(got.numpy(), want)
    np.testing.assert_array_equal(tb.logical_not(t(a)).numpy(), ~a)
    np.testing.assert_array_equal((~t(a)).numpy(), ~a)
    i, j = np.array([-5, 12, 127], np.int8), np.array([3, -7, 85], np.int8)
    for name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
        np.testing.assert_array_equal(
            getattr(tb, name)(t(i), t(j)).numpy(), getattr(np, name)(i, j)
        )
    np.testing.assert_array_equal(tb.bitwise_invert(t(i)).numpy(), ~i)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint16"])
def test_shifts_beyond_the_width(dtype: str) -> None:
    kind = getattr(tb, dtype)
    x = t([1, 5, 100], kind)
    width = kind.bits
    assert tb.bitwise_left_shift(x, t([1, width, width + 3], kind)).tolist() == [2, 0, 0]
    assert tb.bitwise_right_shift(x, t([0, 1, width], kind)).tolist() == [1, 2, 0]
    if kind.kind == "i":
        assert (t([-1, -8, -8], kind) >> t([99, 1, -1], kind)).tolist() == [-1, -4, -1]


def test_integers_wrap_and_division_by_zero_gives_zero() -> None:
    low, high = t([-128, 127], tb.int8), t([-1, 1], tb.int8)
    assert (low + high).tolist() == [127, -128]
    assert (low * high).tolist() == [-128, 127]
    assert (-low).tolist() == [-128, -127]
    assert tb.abs(low).tolist() == [-128, 127]
    assert tb.square(t([16], tb.int8)).tolist() == [0]
    a, b = t([7, -7, 7, -7, -128, 5]), t([2, 2, -2, -2, -1, 0])
    assert (a // b).tolist() == [3, -4, -4, 3, 128, 0]
    assert (a % b).tolist() == [1, 1, -1, -1, 0, 0]
    assert (t([-128], tb.int8) // t([-1], tb.int8)).tolist() == [-128]
    assert (t([250], tb.uint8) // t([7], tb.uint8)).tolist() == [35]


def test_integer_powers() -> None:
    base, exponent = t([2, -3, 0, 1, -1, -1, 5, 0]), t([10, 3, 0, -4, -3, -2, -1, -1])
    assert (base**exponent).tolist() == [1024, -27, 1, 1, -1, 1, 0, 0]
    assert (t([3], tb.uint8) ** t([6], tb.uint8)).tolist() == [729 % 256]


@pytest.mark.parametrize("name", ["ceil", "floor", "trunc", "round", "sign", "positive", "abs"])
def test_integers_keep_their_dtype(name: str) -> None:
    x = t([0, 3, 200], tb.uint8)
    got = getattr(tb, name)(x)
    assert got.dtype is tb.uint8
    assert got.tolist() == ([0, 1, 1] if name == "sign" else [0, 3, 200])


def test_power_of_two_squares_and_small_exponents() -> None:
    x = sample(-3, 3)
    np.testing.assert_array_equal((t(x) ** 2).numpy(), x * x)
    np.testing.assert_array_equal((t(x) ** 1).numpy(), x)
    np.testing.assert_array_equal((t(x) ** 0).numpy(), np.ones_like(x))
    np.testing.assert_allclose((2.0 ** t(x)).numpy(), 2 ** x.astype(np.float64), **CLOSE)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sixteen_bits_round_once(dtype: Any) -> None:
    a, b = RNG.uniform(0.1, 4, (2, 300)).astype(dtype)
    wide = a.astype(np.float32), b.astype(np.float32)
    for name in ("multiply", "divide"):
        got = getattr(tb, name)(t(a), t(b)).numpy()
        np.testing.assert_array_equal(got, getattr(np, name)(*wide).astype(dtype))
    np.testing.assert_array_equal(tb.sqrt(t(a)).numpy(), np.sqrt(wide[0]).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_nextafter_in_other_formats(dtype: Any) -> None:
    a, b = (p.astype(np.float32).clip(-6e4, 6e4).astype(dtype) for p in PAIRS)
    integer = np.dtype(f"u{a.itemsize}")
    got = tb.nextafter(t(a), t(b)).numpy()
    # NumPy's float16 function gives the first of two equal numbers, C and the array API the second.
    want = np.where(a == b, b, np.nextafter(a, b))
    same = (got.view(integer) == want.view(integer)) | (np.isnan(got) & np.isnan(want))
    assert same.all()


def test_mixed_dtypes_promote() -> None:
    f16, i32, f64 = t([1.5], tb.float16), t([2049]), t([0.1], tb.float64)
    assert (f16 + i32).dtype is tb.float16
    # The integer becomes a float16, 2048, before it is added.
    assert (f16 + i32).tolist() == [2050.0]
    assert (f16 * f64).dtype is tb.float64
    assert tb.divide(t([1]), t([3])).dtype is tb.float32
    assert (t([1], tb.int8) + t([200], tb.uint8)).tolist() == [201]
    assert (t([3]) > 2.5).tolist() == [True]
    with pytest.raises(TypeError, match="uint64 and int64 do not promote"):
        tb.add(t([1], tb.uint64), t([1]))


def test_where_copies_bits() -> None:
    payload = np.array([0x7FC12345, 0xFF800001], np.uint32).view(np.float32)
    condition = t([True, False])
    got = tb.where(condition, t(payload), t(payload)).numpy()
    np.testing.assert_array_equal(got.view(np.uint32), payload.view(np.uint32))
    assert tb.where(condition, t([1, 2]), 7).tolist() == [1, 7]
    assert tb.where(condition, 1.5, t([1, 2])).dtype is tb.float32
    assert tb.where(condition, 1, 2).dtype is tb.int64
    assert tb.where(condition, t([[1.0], [2.0]], tb.float16), t(3.0)).tolist() == [[1, 3], [2, 3]]
    assert tb.where(condition, t([True, True]), t([False, False])).tolist() == [True, False]


def test_clip() -> None:
    x = t([-3.0, -0.5, 0.5, 3.0, NAN])
    np.testing.assert_array_equal(tb.clip(x, -1, 1).numpy(), np.clip(x.numpy(), -1, 1))
    np.testing.assert_array_equal(tb.clip(x, min=0).numpy(), np.clip(x.numpy(), 0, None))
    np.testing.assert_array_equal(tb.clip(x, max=t(0.25)).numpy(), np.clip(x.numpy(), None, 0.25))
    np.testing.assert_array_equal(tb.clip(x).numpy(), x.numpy())
    assert np.isnan(tb.clip(x, NAN, 1).numpy()).all()
    # Where the bounds cross, the upper one wins.
    assert tb.clip(t([0.0]), 2, 1).tolist() == [1.0]
    small = t([-100, 5, 100], tb.int8)
    got = tb.clip(small, -1000, 50)
    assert got.dtype is tb.int8
    assert got.tolist() == [-100, 5, 50]
    assert tb.clip(small, t([-7]), t([1 << 40])).tolist() == [-7, 5, 100]
    with pytest.raises(TypeError, match="clip: max is float32 but x is int8"):
        tb.clip(small, 0, 0.5)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: tb.exp(t([1])), TypeError, "exp needs floating operands, not int64"),
        (lambda: tb.negative(t([True])), TypeError, "negative needs numeric operands"),
        (lambda: t([True]) + t([True]), TypeError, "add needs numeric operands, not bool"),
        (lambda: t([True]) * 2, TypeError, "bool do not promote"),
        (lambda: tb.bitwise_and(t([1.0]), t([1.0])), TypeError, "integer or bool"),
        (lambda: tb.logical_and(t([1]), t([1])), TypeError, "needs bool operands"),
        (lambda: t([True]) << t([True]), TypeError, "needs integer operands"),
        (lambda: tb.less(t([True]), t([True])), TypeError, "less needs numeric"),
        (lambda: tb.where(t([1]), t([1]), t([1])), TypeError, "bool condition"),
        (lambda: tb.sqrt(2.0), TypeError, "sqrt: x is a float, not a tensor"),
        (lambda: tb.add(1, 2), TypeError, "at least one operand must be a tensor"),
        (lambda: tb.add(t([1]), "a"), TypeError, "not str"),
        (lambda: t([1], tb.int8) + 300, OverflowError, "300 does not fit int8"),
        (lambda: t([1.0, 2]) + t([1.0, 2, 3]), ValueError, r"add: shapes \(2,\) and \(3,\)"),
        (lambda: tb.signbit(t([1])), TypeError, "signbit needs floating"),
    ],
)
def test_errors(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_layouts() -> None:
    base = sample(-4, 4, (6, 8, 10))
    a, b = base[::2, ::-1, 1::3], base[0, :, :3][None]
    x = t(base)[::2, ::-1, 1::3]
    y = t(base)[0, :, :3][None]
    np.testing.assert_array_equal((x + y).numpy(), a + b)
    np.testing.assert_array_equal(tb.abs(x).numpy(), np.abs(a))
    swapped = t(base).mT
    np.testing.assert_array_equal((swapped * swapped).numpy(), np.swapaxes(base * base, 1, 2))
    for shape in ((), (0,), (3, 0, 2), (1, 1)):
        z = np.zeros(shape, np.float32)
        assert (t(z) + 1).shape == shape
        np.testing.assert_array_equal(tb.maximum(t(z), 2).numpy(), np.maximum(z, 2))


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*UNARY, "erf", "rsqrt"])
def test_unary_gradients(name: str) -> None:
    low, high = UNARY.get(name, (0.2, 3))
    x = RNG.uniform(low, high, (2, 3))
    if name == "tan":  # beside a pole differences of values say nothing
        x = np.where(np.abs(np.cos(x)) < 0.1, 0.3, x)
    # Away from the steps of rounding functions.
    check_gradients(getattr(tb, name), np.where(np.abs(x - np.rint(x * 2) / 2) < 1e-3, 0.3, x))


@pytest.mark.parametrize("name", BINARY)
def test_binary_gradients(name: str) -> None:
    low, high = BINARY[name]
    a, b = RNG.uniform(low, high, (3, 2)), RNG.uniform(low, high, (3, 2))
    if name in ("remainder", "floor_divide"):
        a, b = np.array([[5.3, -2.2, 0.7]]), np.array([[1.7, 0.9, -2.0]])
    check_gradients(getattr(tb, name), a, b)


def test_gradients_of_broadcast_operands() -> None:
    check_gradients(lambda x, y: x * y / (y + 3), RNG.uniform(1, 2, (3, 1)), RNG.uniform(1, 2, 4))
    x = RNG.uniform(-2, 2, (2, 3))
    condition = t(x > 0)
    check_gradients(lambda a, b: tb.where(condition, a, b), x, RNG.uniform(1, 2, 3))
    check_gradients(lambda a, b, c: tb.clip(a, b, c), x, np.array(-0.8), np.array([0.9, 0.1, 1.1]))
    check_gradients(lambda a: tb.clip(a, -0.8, 0.9), x)
    check_gradients(lambda a: tb.clip(a, min=-0.8) + tb.clip(a, max=0.4), x)


def gradient(function: Any, *operands: list[float]) -> list[list[float]]:
    leaves = [t(o, tb.float64) for o in operands]
    for x in leaves:
        x.requires_grad = True
    return [g.tolist() for g in tb.grad(tb.sum(function(*leaves)), leaves)]


def test_subgradients() -> None:
    assert gradient(tb.abs, [0.0, -0.0, -2.0]) == [[0, 0, -1]]
    assert gradient(tb.maximum, [1.0, 2.0], [1.0, 1.0]) == [[0.5, 1], [0.5, 0]]
    assert gradient(tb.minimum, [1.0, 2.0], [1.0, 1.0]) == [[0.5, 0], [0.5, 1]]
    assert gradient(lambda x: tb.clip(x, 0, 1), [-1.0, 0.0, 1.0, 2.0]) == [[0, 1, 1, 0]]
    assert gradient(tb.copysign, [2.0, 0.0, -2.0], [-1.0, 1.0, -1.0]) == [[-1, 0, 1], [0, 0, 0]]
    for name in ("floor", "ceil", "trunc", "round", "sign"):
        assert gradient(getattr(tb, name), [0.3, 1.0]) == [[0, 0]]
    assert gradient(tb.sqrt, [0.0]) == [[INF]]


def test_gradients_of_powers_at_zero() -> None:
    base, exponent = gradient(tb.pow, [0.0, 0.0, 0.0, 2.0], [0.0, 1.0, 3.0, 0.0])
    assert base == [0, 1, 0, 0]
    assert exponent[:3] == [0, 0, 0]
    assert exponent[3] == pytest.approx(np.log(2))
    x = t([0.0], tb.float64)
    x.requires_grad = True
    (first,) = tb.grad(tb.sum(tb.pow(x, t(2.0, tb.float64))), x, create_graph=True)
    assert first is not None
    (second,) = tb.grad(tb.sum(first), x)
    assert second is not None
    assert second.tolist() == [2.0]


def test_gradient_keeps_the_dtype_of_each_operand() -> None:
    x, y = t([1.0, 2.0], tb.float16), t([[3.0], [4.0]])
    x.requires_grad = y.requires_grad = True
    gx, gy = tb.grad(tb.sum(x * y), [x, y])
    assert gx is not None
    assert gy is not None
    assert (gx.dtype, gy.dtype) == (tb.float16, tb.float32)
    assert (gx.tolist(), gy.tolist()) == ([7, 7], [[3], [3]])
    z = t([1, 2])
    (gx,) = tb.grad(tb.sum(x * z), [x])
    assert gx is not None
    assert gx.tolist() == [1, 2]


# -- the same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*UNARY, "erf", "rsqrt"])
def test_unary_bits_equal_those_of_the_interpreter(name: str) -> None:
    wide = RNG.integers(0, 1 << 32, 400, np.uint32).view(np.float32)
    same_bits(getattr(tb, name), np.concatenate([SPECIAL, wide]))


@pytest.mark.parametrize("name", [*BINARY, "nextafter"])
def test_binary_bits_equal_those_of_the_interpreter(name: str) -> None:
    wide = RNG.integers(0, 1 << 32, (2, 100), np.uint32).view(np.float32)
    a, b = (np.concatenate([p, w]) for p, w in zip(PAIRS, wide, strict=True))
    same_bits(getattr(tb, name), a, b)


def test_where_and_clip_bits() -> None:
    a, b = PAIRS
    same_bits(tb.where, a < b, a, b)
    same_bits(lambda x: tb.clip(x, -1, 3), a)


def test_clip_takes_bounds_beyond_the_dtype_as_its_limits() -> None:
    x = tb.asarray([-5, 0, 7], dtype=tb.int8)
    far = tb.asarray([300, -300, 2], dtype=tb.int32)
    assert tb.clip(x, None, far).tolist() == [-5, -128, 2]
    assert tb.clip(x, far, None).tolist() == [127, 0, 7]
    assert tb.clip(x, far).dtype is tb.int8
