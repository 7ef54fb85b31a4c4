"""Units in the last place and correct rounding, against rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from tensorbus_conformance.oracle.data import all_patterns, generator, patterns
from tensorbus_conformance.oracle.op import as_float64
from tensorbus_conformance.oracle.ulp import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    FORMATS,
    Format,
    error_in_ulps,
    round_to,
    two_product,
    two_sum,
    ulp,
)

EVERY = pytest.mark.parametrize("fmt", FORMATS.values(), ids=str)
NARROW = pytest.mark.parametrize("fmt", [FLOAT16, BFLOAT16, FLOAT32], ids=lambda f: f.name)


def rational_round(value: Fraction, fmt: Format) -> float:
    """Round half to even by integers alone; overflow gives infinity."""
    if value == 0:
        return 0.0
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    exponent = max(exponent, fmt.emin)
    quantum = Fraction(2) ** (exponent - fmt.p + 1)
    rounded = round(value / quantum) * quantum
    if abs(rounded) >= Fraction(2) ** (fmt.emax + 1):
        return math.copysign(math.inf, rounded)
    return float(rounded)


@EVERY
def test_ulp_is_the_gap_to_the_next_number(fmt: Format) -> None:
    values = [1.0, 1.5, 2.0, 3.0, fmt.min_normal, 0.75, fmt.max]
    for value in values:
        exponent = min(max(math.frexp(value)[1] - 1, fmt.emin), fmt.emax)
        assert float(ulp(value, fmt)) == math.ldexp(1.0, exponent - fmt.p + 1)


@EVERY
def test_ulp_is_clamped_at_both_ends(fmt: Format) -> None:
    assert float(ulp(0.0, fmt)) == fmt.tiny
    assert float(ulp(fmt.tiny, fmt)) == fmt.tiny
    assert float(ulp(-fmt.min_normal / 2, fmt)) == fmt.tiny
    assert float(ulp(math.inf, fmt)) == math.ldexp(1.0, fmt.emax - fmt.p + 1)
    assert math.isnan(float(ulp(math.nan, fmt)))
    if fmt is not FLOAT64:
        assert float(ulp(fmt.max * 8, fmt)) == math.ldexp(1.0, fmt.emax - fmt.p + 1)


def test_ulp_below_a_power_of_two_is_half_as_large() -> None:
    assert float(ulp(1.0, FLOAT64, -1e-20)) == 2.0**-53
    assert float(ulp(1.0, FLOAT64, 1e-20)) == 2.0**-52


@NARROW
def test_rounding_agrees_with_rational_arithmetic(fmt: Format) -> None:
    rng = generator(1, fmt.name)
    near = np.ldexp(rng.uniform(1, 2, 400), rng.integers(fmt.emin - fmt.p - 2, fmt.emax + 2, 400))
    for value in near:
        assert float(round_to(value, fmt)) == rational_round(Fraction(float(value)), fmt)


@NARROW
def test_a_tie_goes_to_even_unless_the_low_part_decides(fmt: Format) -> None:
    tie = 1.0 + 2.0**-fmt.p
    assert float(round_to(tie, fmt)) == 1.0
    assert float(round_to(tie, fmt, 1e-30)) == 1.0 + 2.0 ** (1 - fmt.p)
    assert float(round_to(tie, fmt, -1e-30)) == 1.0
    odd = 1.0 + 3 * 2.0**-fmt.p
    assert float(round_to(odd, fmt)) == 1.0 + 4 * 2.0**-fmt.p
    assert float(round_to(odd, fmt, -1e-30)) == 1.0 + 2 * 2.0**-fmt.p
    assert float(round_to(-tie, fmt, -1e-30)) == -1.0 - 2.0 ** (1 - fmt.p)


@NARROW
def test_overflow_starts_at_the_midpoint(fmt: Format) -> None:
    midpoint = fmt.max + math.ldexp(1.0, fmt.emax - fmt.p)
    assert float(round_to(midpoint, fmt)) == math.inf
    assert float(round_to(-midpoint, fmt)) == -math.inf
    assert float(round_to(np.nextafter(midpoint, 0), fmt)) == fmt.max
    assert float(round_to(midpoint, fmt, -1.0)) == fmt.max if fmt is not FLOAT16 else True
    assert float(round_to(1e300, fmt)) == math.inf


@NARROW
def test_subnormals_and_the_sign_of_zero(fmt: Format) -> None:
    assert float(round_to(fmt.tiny / 2, fmt)) == 0.0
    assert float(round_to(fmt.tiny / 2, fmt, fmt.tiny * 2.0**-60)) == fmt.tiny
    assert float(round_to(fmt.tiny * 1.5, fmt)) == 2 * fmt.tiny
    assert np.signbit(round_to(-fmt.tiny / 4, fmt))
    assert np.signbit(round_to(-0.0, fmt))
    assert not np.signbit(round_to(0.0, fmt))


@pytest.mark.parametrize("fmt", [FLOAT16, BFLOAT16], ids=lambda f: f.name)
def test_every_number_rounds_to_itself(fmt: Format) -> None:
    every = all_patterns(fmt.dtype)
    wide = as_float64(every)
    back, nan = round_to(wide, fmt), np.isnan(wide)
    assert np.array_equal(back.view(np.uint16)[~nan], every.view(np.uint16)[~nan])
    assert np.isnan(as_float64(back)[nan]).all()


def test_float32_agrees_with_the_processor() -> None:
    values = patterns(generator(2), (200_000,), np.float64)
    with np.errstate(all="ignore"):
        want = values.astype(np.float32)
    got = round_to(values, FLOAT32)
    nan = np.isnan(values)
    assert np.array_equal(got.view(np.uint32)[~nan], want.view(np.uint32)[~nan])


@EVERY
def test_errors_in_ulps(fmt: Format) -> None:
    step = math.ldexp(1.0, 1 - fmt.p)
    got = np.array([1.0 + step, 1.0, math.inf, math.nan, math.nan, math.inf]).astype(fmt.dtype)
    want = np.array([1.0, 1.0 + step, math.inf, math.nan, 1.0, 2.0])
    assert error_in_ulps(got, want, fmt).tolist() == [1.0, 1.0, 0.0, 0.0, math.inf, math.inf]


def test_pairs_are_exact() -> None:
    rng = generator(3)
    a = np.ldexp(rng.uniform(-1, 1, 300), rng.integers(-80, 80, 300))
    b = np.ldexp(rng.uniform(-1, 1, 300), rng.integers(-80, 80, 300))
    functions: tuple[tuple[Any, Any], ...] = (
        (two_sum, lambda x, y: x + y),
        (two_product, lambda x, y: x * y),
    )
    for function, exact in functions:
        hi, lo = function(a, b)
        for x, y, h, rest in zip(a, b, hi, lo, strict=True):
            assert Fraction(float(h)) + Fraction(float(rest)) == exact(
                Fraction(float(x)), Fraction(float(y))
            )
