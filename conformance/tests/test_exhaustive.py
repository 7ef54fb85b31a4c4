"""The exhaustive sweep: what it measures, that it sees bad bodies, and how it fails."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from tensorbus_backends import dtypes as dt, ir, mathlib
from tensorbus_conformance import exhaustive
from tensorbus_conformance.exhaustive import FUNCTIONS, Sweep, sweep, table_markdown
from tensorbus_cpu.dialect import C

CC = shutil.which("gcc") or shutil.which("clang") or "cc"
needs_cc = pytest.mark.skipif(shutil.which(CC) is None, reason="no C compiler to sweep with")

FOUND = Sweep("exp", 1 << 32, 0.75, 0x3F800000, 0x402DF854, 1 << 20, 3, 1.0, 40.0)


def bits(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


@needs_cc
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_thin_sweep_holds_the_bound(function: str) -> None:
    """Every 65,521st input, so every exponent and sign with varying mantissas."""
    found = sweep(function, C, CC, step=65521, first=sorted(FUNCTIONS).index(function))
    assert found.passed, found
    assert found.max_ulp > 0.25
    assert found.checked == 65552
    assert not found.complete


@needs_cc
def test_every_input_of_a_range_is_checked() -> None:
    found = sweep("log2", C, CC, first=bits(1.0), last=bits(1.125), threads=3)
    assert found.checked == bits(1.125) - bits(1.0) == 1 << 20
    assert found.passed


def plus(ulps: int) -> exhaustive.Body:
    """exp with so many units in the last place added, where it is not near 1 ulp exactly."""

    def body(x: ir.Expr) -> ir.Expr:
        y = mathlib.exp(x)
        shifted = ir.bitcast(ir.bitcast(y, dt.int32) + ulps, dt.float32)
        return ir.select((x > 1.0) & (x < 8.0), shifted, y)

    return body


def zero_unsigned(x: ir.Expr) -> ir.Expr:
    return mathlib.sin(x) + ir.const(0.0, dt.float32)


def nan_lost(x: ir.Expr) -> ir.Expr:
    y = mathlib.log(x)
    return ir.select(y.ne(y), 0.0, y)


def overflow_early(x: ir.Expr) -> ir.Expr:
    return ir.select(x > 88.5, ir.const(float("inf"), dt.float32), mathlib.exp(x))


def subnormals_flushed(x: ir.Expr) -> ir.Expr:
    y = mathlib.exp(x)
    return ir.select(y < ir.const(2.0**-126, dt.float32), 0.0, y)


@needs_cc
@pytest.mark.parametrize("step", [4099])
@pytest.mark.parametrize(
    ("function", "body"),
    [
        ("exp", plus(1)),
        ("exp", plus(-2)),
        ("sin", zero_unsigned),
        ("log", nan_lost),
        ("exp", overflow_early),
        ("exp", subnormals_flushed),
    ],
    ids=["one ulp more", "two ulps less", "-0 lost", "NaN lost", "overflow", "flush"],
)
def test_a_bad_body_is_seen(function: str, body: exhaustive.Body, step: int) -> None:
    found = sweep(function, C, CC, step=step, first=0x80000000 % step, body=body)
    assert not found.passed, found
    assert found.max_ulp > 1.0


@needs_cc
def test_arb_decides_what_float64_cannot() -> None:
    """With a bound set to an error that occurs, some result is too close to it for float64."""
    first, last = bits(1.0), bits(1.0) + 4096
    worst = sweep("exp", C, CC, first=first, last=last)
    again = sweep("exp", C, CC, first=first, last=last, bound=worst.max_ulp)
    assert again.decided > worst.decided
    assert again.passed
    assert (again.max_ulp, again.wrong) == (worst.max_ulp, worst.wrong)
    assert not sweep("exp", C, CC, first=first, last=last, bound=worst.max_ulp * 0.999).passed


def worse_below_zero(x: ir.Expr) -> ir.Expr:
    y = mathlib.tan(x)
    return ir.select(x < 0.0, ir.fma(y, ir.const(2.0**-23, dt.float32), y), y)


@needs_cc
@pytest.mark.parametrize("body", [None, worse_below_zero], ids=["symmetric", "worse below 0"])
def test_a_mirrored_sweep_gives_the_same_verdict(body: exhaustive.Body | None) -> None:
    first, last = bits(0.7), bits(0.7) + 5000
    sign = 0x80000000
    up = sweep("tan", C, CC, first=first, last=last, body=body)
    down = sweep("tan", C, CC, first=first + sign, last=last + sign, body=body)
    both = sweep("tan", C, CC, first=first, last=last, body=body, mirror=True)
    assert both.checked == up.checked + down.checked == 10000
    assert both.wrong == up.wrong + down.wrong
    assert both.max_ulp == max(up.max_ulp, down.max_ulp)
    assert both.passed == (body is None)


@needs_cc
def test_wrong_results_are_counted() -> None:
    first, last = bits(2.0), bits(2.0) + 1000
    right = sweep("exp", C, CC, first=first, last=last)
    off = sweep("exp", C, CC, first=first, last=last, body=plus(3))
    assert right.wrong < 400
    assert off.wrong == 1000
    assert off.wrong_percent == 100.0


def test_an_error_is_measured_in_ulps_of_the_exact_value() -> None:
    one = float(np.nextafter(np.float32(1), np.float32(2)))
    assert exhaustive.error_in_ulps("exp", 0.0, one) == 1.0
    assert exhaustive.error_in_ulps("exp", 0.0, 1.0) == 0.0
    below = float(np.nextafter(np.float32(1), np.float32(0)))
    assert exhaustive.error_in_ulps("exp", 0.0, below) == 0.5
    assert exhaustive.error_in_ulps("exp2", -149.0, 0.0) == pytest.approx(1.0)
    assert exhaustive.error_in_ulps("exp2", 127.0, float("inf")) == pytest.approx(2.0**23)


def test_the_table_names_witness_and_share() -> None:
    partial = replace(FOUND, function="log", checked=1000, wrong=10, max_ulp=1.5)
    table = table_markdown([FOUND, partial])
    assert (
        "| exp | 0.750000 | `0x3f800000` = 1 | `0x402df854` = 2.71828175 | 0.0244 % | 1 |" in table
    )
    assert "1.500000 (1000 inputs only)" in table
    assert not partial.passed


def test_bad_requests_are_named() -> None:
    with pytest.raises(ValueError, match="no float32 function 'atan2'"):
        sweep("atan2", C, CC)
    with pytest.raises(ValueError, match="not of style 'loop'"):
        sweep("exp", replace(C, style="simt"), CC)


@needs_cc
def test_a_failing_compiler_is_quoted() -> None:
    with pytest.raises(RuntimeError, match="could not compile the sweep"):
        sweep("exp", replace(C, prelude="nonsense"), CC)
