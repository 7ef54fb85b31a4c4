"""Signs of zero, where a formula or a standard specifies them; products of rows; clipped roots."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from tensorbus_conformance.oracle import REFERENCES
from tensorbus_conformance.oracle.product_rows import prefixes, products

INF = np.inf

ZEROS: list[tuple[str, tuple[Any, ...], dict[str, Any], float]] = [
    # C17 Annex F.10 and the array API.
    ("asin", (-0.0,), {}, -0.0),
    ("atan", (-0.0,), {}, -0.0),
    ("atan2", (-0.0, 1.0), {}, -0.0),
    ("atan2", (0.0, INF), {}, 0.0),
    ("atan2", (-1.0, INF), {}, -0.0),
    ("asinh", (-0.0,), {}, -0.0),
    ("atanh", (-0.0,), {}, -0.0),
    ("acos", (1.0,), {}, 0.0),
    ("acosh", (1.0,), {}, 0.0),
    ("erf", (-0.0,), {}, -0.0),
    ("exp", (-INF,), {}, 0.0),
    ("expm1", (-0.0,), {}, -0.0),
    ("hypot", (-0.0, -0.0), {}, 0.0),
    ("log", (1.0,), {}, 0.0),
    ("log1p", (-0.0,), {}, -0.0),
    ("log2", (1.0,), {}, 0.0),
    ("pow", (-0.0, 3.0), {}, -0.0),
    ("pow", (-0.0, 2.0), {}, 0.0),
    ("pow", (-INF, -3.0), {}, -0.0),
    ("sin", (-0.0,), {}, -0.0),
    ("sinh", (-0.0,), {}, -0.0),
    ("tan", (-0.0,), {}, -0.0),
    ("tanh", (-0.0,), {}, -0.0),
    # Underflow keeps the sign.
    ("pow", (-(2.0**-24), 45.0), {}, -0.0),
    ("exp", (-800.0,), {}, 0.0),
    # By formula.
    ("gelu", (-0.0,), {}, -0.0),
    ("gelu", (-0.0,), {"approximate": "tanh"}, -0.0),
    ("silu", (-0.0,), {}, -0.0),
    ("mish", (-0.0,), {}, -0.0),
    ("elu", (-0.0,), {}, -0.0),
    ("elu", (-0.0,), {"alpha": -0.5}, 0.0),
    ("leaky_relu", (-0.0,), {}, -0.0),
    ("leaky_relu", (-0.0,), {"negative_slope": -0.5}, 0.0),
    ("hardswish", (-0.0,), {}, -0.0),
    ("hardswish", (-3.0,), {}, -0.0),
    ("hardswish", (-5.0,), {}, -0.0),
    # Products of signs.
    ("prod", ([-1.0, 2.0, 0.0],), {}, -0.0),
    ("cumulative_prod", ([-0.0],), {}, -0.0),
]


@pytest.mark.parametrize(("name", "values", "options", "zero"), ZEROS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_zero_of_the_wrong_sign_fails(
    name: str, values: tuple[Any, ...], options: dict[str, Any], zero: float, dtype: str
) -> None:
    arrays = [np.array(v, dtype) for v in values]
    with np.errstate(all="ignore"):
        ref = REFERENCES[name].forward(*arrays, **options)
    assert not isinstance(ref, tuple)
    judge = REFERENCES[name].judge(np.dtype(dtype), options, 2.0)
    right = np.full(ref.shape, zero, dtype)
    assert judge.check(right, ref).ok
    assert not judge.check(-right, ref).ok


def test_results_that_cancel_have_zeros_of_either_sign() -> None:
    x = np.array([-np.log(2.0)], np.float32)
    ref = REFERENCES["logaddexp"].forward(x, x)
    assert not isinstance(ref, tuple)
    judge = REFERENCES["logaddexp"].judge(np.dtype(np.float32), {}, 2.0)
    assert all(judge.check(np.array([z], np.float32), ref).ok for z in (0.0, -0.0))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 129, 300])
def test_products_are_within_their_slack(length: int) -> None:
    rng = np.random.default_rng(length)
    rows = rng.standard_normal((2, length)) * 2.0 ** rng.integers(-30, 30, (2, length))
    whole, steps = (f(rows, np.dtype(np.float64)) for f in (products, prefixes))
    assert whole.low is not None
    assert steps.low is not None
    for i, row in enumerate(rows.tolist()):
        exact = Fraction(1)
        for j, factor in enumerate(row):
            exact *= Fraction(factor)
            if not Fraction(2) ** -850 < abs(exact) < Fraction(2) ** 1000:
                continue
            found = Fraction(float(steps.value[i, j])) + Fraction(float(steps.low[i, j]))
            assert abs(found - exact) <= Fraction(float(steps.slack[i, j]))
            if j == length - 1:
                found = Fraction(float(whole.value[i])) + Fraction(float(whole.low[i]))
                assert abs(found - exact) <= Fraction(float(whole.slack[i]))


def test_a_product_that_may_overflow_before_its_zero_is_free() -> None:
    row = np.array([[1e30, 1e30, 0.0]], np.float32)
    ref = REFERENCES["prod"].forward(row, axis=1)
    assert not isinstance(ref, tuple)
    judge = REFERENCES["prod"].judge(np.dtype(np.float32), {}, None)
    assert judge.check(np.array([np.nan], np.float32), ref).ok  # inf * 0
    near = REFERENCES["prod"].forward(np.array([[1e9, 1e9, 0.0]], np.float32), axis=1)
    assert not isinstance(near, tuple)
    assert not judge.check(np.array([np.nan], np.float32), near).ok


@pytest.mark.parametrize("name", ["rms_norm", "layer_norm"])
def test_a_root_of_a_cancelled_sum_has_a_wider_bound_or_none(name: str) -> None:
    x = np.array([[0.01, -0.01]], np.float32)  # its mean square is 1e-4
    forward, judge = REFERENCES[name].forward, REFERENCES[name].judge(np.dtype(np.float32), {}, 2.0)
    plain, tight, gone = (forward(x, eps=e) for e in (1e-5, -0.9999e-4, -1e-4))
    for ref in (plain, tight, gone):
        assert not isinstance(ref, tuple)
        assert ref.undefined is not None
        assert ref.undefined.all() == (ref is gone)
    for ref, relative, ok in ((plain, 1e-4, False), (tight, 1e-4, True), (tight, 0.1, False)):
        got = (ref.value * (1 + relative)).astype(np.float32)
        assert judge.check(got, ref).ok == ok


def test_an_underflow_on_the_way_is_seen_by_the_exact_reference() -> None:
    x = np.array([-748.0])  # exp(-748) is no float64, -748 exp(-748) is one
    ref = REFERENCES["mish"].forward(x)
    assert not isinstance(ref, tuple)
    assert ref.value[0] == -21 * 2.0**-1074  # -21.27 by Arb, to the nearest


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64", "int64"])
def test_integer_powers_wrap(dtype: str) -> None:
    info = np.iinfo(dtype)
    values = [*range(8), int(info.min), int(info.max), int(info.max) - 1]
    values += [-1, -2, -3] if info.min else []
    bits = info.bits
    pairs = [(x, y) for x in values for y in values]
    ref = REFERENCES["pow"].forward(*(np.array(v, dtype) for v in zip(*pairs, strict=True)))
    assert not isinstance(ref, tuple)
    for (x, y), got in zip(pairs, ref.value.tolist(), strict=True):
        if y < 0:
            wanted = {1: 1, -1: -1 if y % 2 else 1}.get(x, 0)
        else:
            wanted = pow(x, y, 1 << bits)
            wanted -= (1 << bits) * (info.min < 0 and wanted >> (bits - 1))
        assert got == wanted
