"""Rounding statistics of elementary functions: claims, references, and what they see."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from flint import arb
from tensorbus._state import forget_plans
from tensorbus_backends import dtypes as dt
from tensorbus_backends.mathlib import f32_exponential, f64_trig, reduction
from tensorbus_conformance import hard_points
from tensorbus_conformance.judge import rounding as judge
from tensorbus_conformance.judge.items import Item, Outcome, properties
from tensorbus_conformance.judge.session import Session, fenced
from tensorbus_conformance.oracle import ball, extended, rounding
from tensorbus_conformance.oracle.transcendental import TRANSCENDENTAL
from tensorbus_conformance.oracle.ulp import FLOAT32, FLOAT64, FORMATS, Format

SHOWN = ("asinh", "erf", "exp", "log1p", "pow", "sin", "tanh")


def _judged(op: str, dtype: str) -> Outcome:
    device = fenced(tb.get_device("ref").backend)
    forget_plans()  # plans hold what was computed from the constants
    return judge.check(Session(Item(op, "ref", dtype, "portable"), device, "standard", 3))


def test_every_function_has_claims_for_every_region() -> None:
    due = {name for name in TRANSCENDENTAL if name != "rsqrt"}
    assert {name for name, _ in rounding.claims()} == due == set(extended.FUNCTIONS)
    for (name, dtype), rows in rounding.claims().items():
        assert len(rows) == hard_points.count(name), (name, dtype)
        assert "rounding" in properties(
            name if name not in ("sigmoid", "softplus") else f"nn.{name}",
            dt.by_name(dtype), "portable", "cpu", "standard",
        )  # fmt: skip
        for row in rows:
            assert row.far > 0.5
            assert 0 <= max(row.above, row.below, row.tail) < 0.3


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize("fmt", [FLOAT32, FLOAT64], ids=lambda f: str(f.name))
def test_references_are_sure_where_they_say_so(name: str, fmt: Format) -> None:
    if extended.wide_type(fmt) is None:
        pytest.skip("the host has no type beyond float64")
    function = TRANSCENDENTAL[name][1]
    for region in range(hard_points.count(name)):
        points = hard_points.draw(name, region, 40, 5, fmt)
        exacts = [
            ball.accurate(function, *(float(x) for x in row)) for row in zip(*points, strict=True)
        ]
        with np.errstate(over="ignore"):
            near = np.array([float(e.mid()) for e in exacts]).astype(fmt.dtype)
        errors = extended.errors(name, fmt, near, *points)
        for got, exact, error in zip(near, exacts, errors, strict=True):
            if not math.isfinite(error):
                continue
            # At a power of two the unit is that of either side.
            e = math.frexp(float(got))[1] - 1 if got else fmt.emin
            units = (min(max(k, fmt.emin), fmt.emax) - (fmt.p - 1) for k in (e, e - 1))
            with ball.precision(200):
                due = [float(((arb(float(got)) - exact) / arb(2) ** u).mid()) for u in units]
            assert min(abs(d - error) for d in due) <= extended.UNSURE


def test_a_count_stays_within_what_is_allowed() -> None:
    rng = np.random.default_rng(1)
    for share in (0.0, 1e-4, 0.02, 0.25):
        counts = rng.binomial(1 << 15, share, 100_000)
        assert counts.max() <= rounding.allowed(1 << 15, share)
        # And a share that is 3 points and a half higher is not.
        assert rng.binomial(1 << 15, share + 0.035, 1000).min() > rounding.allowed(1 << 15, share)


def test_the_closest_arguments_are_close() -> None:
    for fmt in (FLOAT32, FLOAT64):
        worst = 1.0
        with ball.precision(fmt.emax + 200):
            for x in hard_points._closest(fmt.p, fmt.emax):
                mantissa = Fraction(x)
                quotient = arb(mantissa.numerator) / mantissa.denominator / (arb.pi() / 2)
                rest = abs(quotient - round(float(quotient.mid())) if x < 2**40 else
                           quotient - (quotient + arb("0.5")).floor())  # fmt: skip
                worst = min(worst, float(rest.mid()))
        # Muller: 2^-62 for float64; a random argument of p bits comes to about 2^-p in 1000.
        assert worst < 2.0 ** -(fmt.p + 4)


@pytest.mark.parametrize(("op", "dtype"), [("exp", "float32"), ("sin", "float64")])
def test_the_library_keeps_its_claims(op: str, dtype: str) -> None:
    if extended.wide_type(FORMATS[dtype]) is None:
        pytest.skip("the host has no type beyond float64")
    outcome = _judged(op, dtype)
    assert outcome.state == "pass", outcome.message
    assert outcome.decided > 5000


def test_a_worse_coefficient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    worse = [*f32_exponential._EXP]
    worse[5] *= 1 + 2.0**-8
    monkeypatch.setattr(f32_exponential, "_EXP", tuple(worse))
    assert _judged("exp", "float32").state == "fail"
    longer: Any = [*f64_trig._COS]
    longer[3] *= 1 + 2.0**-8
    monkeypatch.setattr(f64_trig, "_COS", tuple(longer))
    assert _judged("cos", "float64").state == "fail"


def test_a_shorter_constant_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "_HALF_PI", (reduction._HALF_PI[0], 0.0))
    assert _judged("sin", "float64").state == "fail"
    zeros = tuple(0.0 for _ in reduction._TABLES[3])
    monkeypatch.undo()
    monkeypatch.setattr(reduction, "_TABLES", (*reduction._TABLES[:3], zeros))
    assert _judged("tan", "float64").state == "fail"
