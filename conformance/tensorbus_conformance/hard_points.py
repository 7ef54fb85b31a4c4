"""Where functions of the math library are sampled: wide ranges and the places that hurt.

Each function has a list of regions; a sample takes the same share from every region.  Regions are
written for float32 and float64 at once, in terms of the format's p, emin and emax.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray

from .oracle import ball
from .oracle.ulp import FLOAT64, Format

__all__ = ["NAMES", "count", "draw", "points"]

F64 = NDArray[np.float64]
Region = Callable[[np.random.Generator, int, Format], F64]
Pairs = Callable[[np.random.Generator, int, Format], tuple[F64, F64]]


# -- regions of one argument --------------------------------------------------------------------


def _uniform(low: float, high: float) -> Region:
    return lambda rng, n, fmt: rng.uniform(low, high, n)


def _powers(low: float, high: float, *, positive: bool = False) -> Region:
    """Uniform in the exponent of 2, either sign."""

    def draw(rng: np.random.Generator, n: int, fmt: Format) -> F64:
        size = np.exp2(rng.uniform(low, high, n))
        sign = 1.0 if positive else rng.choice([-1.0, 1.0], n)
        return np.asarray(size * sign, np.float64)

    return draw


def _around(*centres: float, first: float = -60.0, last: float = -2.0) -> Region:
    """``c (1 +- 2**e)`` with e from one ulp of the format up to `last`."""

    def draw(rng: np.random.Generator, n: int, fmt: Format) -> F64:
        offset = np.exp2(rng.uniform(max(first, -float(fmt.p)), last, n))
        factor = 1.0 + offset * rng.choice([-1.0, 1.0], n)
        return np.asarray(rng.choice(np.array(centres), n) * factor, np.float64)

    return draw


def _bits(*, positive: bool = False) -> Region:
    """Random bit patterns: every binade alike, subnormals and huge numbers included."""

    def draw(rng: np.random.Generator, n: int, fmt: Format) -> F64:
        unsigned = np.dtype(f"u{fmt.dtype.itemsize}")
        raw = rng.integers(0, np.iinfo(unsigned).max, 2 * n + 64, dtype=unsigned, endpoint=True)
        values = raw.view(fmt.dtype).astype(np.float64)
        values = values[np.isfinite(values)][:n]
        return np.abs(values) if positive else values

    return draw


def _subnormal(*, positive: bool = False) -> Region:
    def draw(rng: np.random.Generator, n: int, fmt: Format) -> F64:
        whole = np.rint(np.exp2(rng.uniform(0, fmt.p - 1, n)))
        sign = 1.0 if positive else rng.choice([-1.0, 1.0], n)
        return np.asarray(whole * fmt.tiny * sign, np.float64)

    return draw


def _multiples(step: Callable[[], Any], low: float, high: float) -> Region:
    """Numbers of the format nearest to random multiples of a constant, and their neighbours.

    An eighth of the points, as each is made alone.
    """

    def draw(rng: np.random.Generator, n: int, fmt: Format) -> F64:
        n = -(-n // 8)
        out = np.empty(n)
        # The multiplier gets as many bits as the result has, so that the product is a hard case.
        exponents = rng.uniform(low, high, n)
        with ball.precision(fmt.emax + 200):
            constant = step()
            for i, e in enumerate(exponents):
                shift = max(0, int(e) - 60)
                k = int(2.0 ** (e - shift)) << shift
                out[i] = float((constant * k).mid())
        out = np.nextafter(out, rng.choice([-np.inf, 0.0, np.inf], n))
        return np.asarray(out * rng.choice([-1.0, 1.0], n), np.float64)

    return draw


@cache
def _closest(p: int, emax: int) -> tuple[float, ...]:
    """Numbers ``M 2**e``, M of p bits, closer to a multiple of pi/2 than all with a smaller M.

    M is a denominator among the convergents of ``2**e 2/pi`` (Kahan's search; Muller, "Elementary
    Functions", 3rd ed., section 11.3.2).
    """
    found = []
    with ball.precision(emax + 400):
        for e in range(1 - p, emax - p + 2):
            mantissa, exponent = (arb(2) ** e / _half_pi()).mid().man_exp()
            shift = int(exponent)
            n, d = int(mantissa) << max(shift, 0), 1 << max(-shift, 0)
            before, k = 1, 0
            while d and k < 1 << p:
                if k >= 1 << (p - 1):
                    found.append(math.ldexp(k, e))
                whole = n // d
                before, k = k, whole * k + before
                n, d = d, n - whole * d
    return tuple(x for x in found if x > 1.5)


def _near_half_pi(rng: np.random.Generator, n: int, fmt: Format) -> F64:
    """The hardest arguments of a reduction by pi/2: always the same ones, however many."""
    x = np.array(_closest(fmt.p, fmt.emax))
    return np.asarray(x * rng.choice([-1.0, 1.0], x.size), np.float64)


def _half_pi() -> Any:
    return arb.pi() / 2


def _ln2() -> Any:
    return arb(2).log()


_MAX_EXP = 709.782712893384
_TRIG: tuple[Region, ...] = (
    _uniform(-3.2, 3.2),
    _uniform(-100.0, 100.0),
    _powers(-60, 3),
    _around(math.pi / 4, 0.78125, math.pi / 2, math.pi),
    _bits(),
    _multiples(_half_pi, 0, 30),
    _multiples(_half_pi, 30, 300),
    _multiples(_half_pi, 300, 1022),
    _near_half_pi,
)
_LOG: tuple[Region, ...] = (
    _bits(positive=True),
    _subnormal(positive=True),
    _around(1.0),
    _around(math.sqrt(0.5), math.sqrt(2.0), 2.0, 10.0),
    _uniform(0.4, 3.0),
)
_EXP: tuple[Region, ...] = (
    _uniform(-2.0, 2.0),
    _powers(-60, 3),
    _uniform(-746.0, 709.8),
    _uniform(-746.0, -708.0),
    _uniform(-105.0, -87.0),  # subnormal in float32
    _multiples(lambda: _ln2() / 2, 0, 11),
    _around(_MAX_EXP, -_MAX_EXP, -745.13, 0.3466, last=-10),
)
_HYPERBOLIC: tuple[Region, ...] = (
    _uniform(-1.2, 1.2),
    _uniform(-30.0, 30.0),
    _uniform(-711.0, 711.0),
    _powers(-60, 4),
    _around(1.0, 710.4758600739439, 0.3466, 22.0, last=-10),
)
_ARC: tuple[Region, ...] = (
    _uniform(-1.0, 1.0),
    _powers(-60, 0),
    _around(0.5, -0.5, last=-3),
    lambda rng, n, fmt: rng.choice([-1.0, 1.0], n) * (1 - np.exp2(rng.uniform(-53, 0, n))),
)

_ONE: dict[str, tuple[Region, ...]] = {
    "exp": _EXP,
    "exp2": (
        _uniform(-1.0, 1.0),
        _powers(-60, 3),
        _uniform(-1075.0, 1024.0),
        _uniform(-1075.0, -1021.0),
        _uniform(-150.0, -125.0),  # subnormal in float32
        _around(1024.0, -1022.0, -1074.0, 0.5, last=-10),
    ),
    "expm1": (*_EXP, _uniform(-60.0, -30.0)),
    "sigmoid": (*_EXP, _uniform(-50.0, 50.0)),
    "softplus": (*_EXP, _uniform(-50.0, 50.0), _around(-40.0, 37.0, -64 * math.log(2), last=-8)),
    "log": _LOG,
    "log2": _LOG,
    "log10": _LOG,
    "log1p": (
        _powers(-60, 0),
        _uniform(-1.0, 3.0),
        _powers(0, 1023.9, positive=True),
        _around(-1.0, math.sqrt(2.0) - 1, math.sqrt(0.5) - 1),
        _subnormal(),
    ),
    "sin": _TRIG,
    "cos": _TRIG,
    "tan": _TRIG,
    "asin": _ARC,
    "acos": _ARC,
    "atan": (
        _uniform(-2.0, 2.0),
        _powers(-60, 0),
        _powers(0, 70),
        _bits(),
        _around(0.25, 0.5, 0.75, 1.0, 4.0, 2.0, 4.0 / 3.0),
    ),
    "sinh": _HYPERBOLIC,
    "cosh": _HYPERBOLIC,
    "tanh": (*_HYPERBOLIC[:2], *_HYPERBOLIC[3:], _bits()),
    "asinh": (_powers(-60, 40), _uniform(-3.0, 3.0), _bits(), _around(2.0**28, 2.0**-28)),
    "acosh": (
        lambda rng, n, fmt: 1 + np.exp2(rng.uniform(-52, 0, n)),
        _uniform(1.0, 10.0),
        _powers(0, 1023.9, positive=True),
        _around(2.0**28, 1.4142135),
    ),
    "atanh": (*_ARC, _around(2.0**-28, math.sqrt(2.0) - 1)),
    "erf": (
        _uniform(-6.2, 6.2),
        _uniform(-1.2, 1.2),
        _uniform(1.0, 1.5),
        _powers(-1070, 0),
        _around(1.0, 5.9375, 5.92, last=-8),
    ),
}


# -- regions of two arguments ---------------------------------------------------------------------


def _both(x: Region, y: Region) -> Pairs:
    return lambda rng, n, fmt: (x(rng, n, fmt), y(rng, n, fmt))


def _near_each_other(span: float) -> Pairs:
    """Any magnitude, with a quotient up to ``2**span`` either way."""

    def draw(rng: np.random.Generator, n: int, fmt: Format) -> tuple[F64, F64]:
        e = rng.uniform(fmt.emin - fmt.p, fmt.emax - span - 1, n)
        x = np.exp2(e) * rng.choice([-1.0, 1.0], n)
        other = np.clip(e + rng.uniform(-span, span, n), fmt.emin - fmt.p, fmt.emax)
        return x, np.exp2(other) * rng.choice([-1.0, 1.0], n)

    return draw


def _power_pairs(base: Region, *, edges: bool) -> Pairs:
    """Exponents that spread the result over all binades, or over overflow and subnormals."""

    def draw(rng: np.random.Generator, n: int, fmt: Format) -> tuple[F64, F64]:
        x = np.abs(base(rng, n, fmt)).astype(fmt.dtype).astype(np.float64)
        x = np.where((x == 0) | (x == 1) | ~np.isfinite(x), 1.5, x)
        low, high = fmt.emin - fmt.p, fmt.emax + 1
        wanted = rng.uniform(low, high, n)
        if edges:
            last = np.where(rng.random(n) < 0.7, rng.uniform(low, fmt.emin + 1, n), high)
            wanted = last + rng.uniform(-0.5, 0.01, n)
        log = np.log1p(x - 1) / math.log(2)
        y = wanted / np.where(log == 0, 1.0, log)
        return x, np.clip(y, -fmt.max, fmt.max)

    return draw


def _whole_powers(rng: np.random.Generator, n: int, fmt: Format) -> tuple[F64, F64]:
    """Negative bases and integral exponents."""
    x = -np.exp2(rng.uniform(-3, 3, n))
    return x, np.rint(rng.uniform(-40, 40, n))


def _cancelling(rng: np.random.Generator, n: int, fmt: Format) -> tuple[F64, F64]:
    """Close to exp(x) + exp(y) = 1, where logaddexp has its root."""
    x = -np.exp2(rng.uniform(-20, 3, n))
    with np.errstate(all="ignore"):
        y = np.log(-np.expm1(x))
    return x, np.where(np.isfinite(y), y, -1.0)


def _many_quotient_bits(rng: np.random.Generator, n: int, fmt: Format) -> tuple[F64, F64]:
    """Quotients of p to p + 3 bits near halves of ulps: floor_divide must round them."""
    y = rng.integers(1, 4096, n).astype(np.float64)
    whole = rng.integers(1 << (fmt.p - 1), 1 << (fmt.p + 2), n).astype(np.float64)
    return whole * y * rng.choice([-1.0, 1.0], n), y * rng.choice([-1.0, 1.0], n)


def _whole_multiples(rng: np.random.Generator, n: int, fmt: Format) -> tuple[F64, F64]:
    """Exact quotients, and quotients next to them."""
    y = rng.integers(1, 100, n) * np.exp2(rng.integers(-20, 20, n))
    x = y * rng.integers(-1000, 1000, n)
    x = np.nextafter(x.astype(fmt.dtype), rng.choice([-1e30, 0.0, 1e30], n).astype(fmt.dtype))
    return x.astype(np.float64), y * rng.choice([-1.0, 1.0], n)


_DIVISION: tuple[Pairs, ...] = (
    _both(_bits(), _bits()),
    _near_each_other(3),
    _near_each_other(70),
    _many_quotient_bits,
    _whole_multiples,
    _both(_subnormal(), _subnormal()),
)
_TWO: dict[str, tuple[Pairs, ...]] = {
    "pow": (
        _power_pairs(_bits(positive=True), edges=False),
        _power_pairs(_around(1.0), edges=False),
        _power_pairs(_uniform(0.5, 2.0), edges=False),
        _power_pairs(_powers(-3, 3), edges=True),
        _power_pairs(_subnormal(positive=True), edges=True),
        _power_pairs(_around(math.sqrt(0.5), math.sqrt(2.0), 2.0), edges=False),
        _whole_powers,
    ),
    "atan2": (
        _both(_bits(), _bits()),
        _near_each_other(3),
        _near_each_other(60),
        _both(_subnormal(), _subnormal()),
        _both(_uniform(-1.0, 1.0), _around(0.25, 0.5, 0.75, 1.0)),
    ),
    "hypot": (
        _both(_bits(), _bits()),
        _near_each_other(3),
        _near_each_other(30),
        _both(_subnormal(), _subnormal()),
        _both(_around(1.0), _around(1.0)),
    ),
    "logaddexp": (
        _both(_uniform(-5.0, 5.0), _uniform(-5.0, 5.0)),
        _both(_uniform(-80.0, 80.0), _uniform(-80.0, 80.0)),
        _both(_powers(-40, 9), _powers(-40, 9)),
        _cancelling,
        _both(_powers(-200, -3), _uniform(-90.0, 1.0)),
    ),
    "remainder": _DIVISION,
    "fmod": _DIVISION,
    "floor_divide": _DIVISION,
}

NAMES = (*_ONE, *_TWO)
"""Functions that have regions."""


def points(name: str, count: int, seed: int, fmt: Format = FLOAT64) -> tuple[NDArray[Any], ...]:
    """At least `count` arguments of a function, in the dtype of `fmt`, one array per argument.

    Points are finite; zeros are left out (their results are special values), and so is what the
    format cannot hold.

    Raises:
        ValueError: There are no regions for `name`.
    """
    if name not in NAMES:
        raise ValueError(f"no points for {name!r}; there are {', '.join(NAMES)}")
    rng = np.random.default_rng([seed, NAMES.index(name), fmt.p])
    regions: list[Callable[..., tuple[F64, ...]]]
    regions = [_single(r) for r in _ONE[name]] if name in _ONE else list(_TWO[name])
    kept: list[list[NDArray[Any]]] = []
    total = 0
    while total < count:
        share = -(-(count - total) // len(regions)) + 8
        for region in regions:
            with np.errstate(all="ignore"):
                drawn = [np.asarray(a).astype(fmt.dtype) for a in region(rng, share, fmt)]
            fine = np.logical_and.reduce([np.isfinite(a) & (a != 0) for a in drawn])
            kept.append([a[fine] for a in drawn])
            total += int(fine.sum())
    return tuple(np.concatenate(column) for column in zip(*kept, strict=True))


def count(name: str) -> int:
    """How many regions a function has."""
    return len(_ONE[name] if name in _ONE else _TWO[name])


def draw(
    name: str, region: int, size: int, seed: int, fmt: Format = FLOAT64
) -> tuple[NDArray[Any], ...]:
    """Nearly `size` independent points of one region, finite and not zero, as `points` gives."""
    rng = np.random.default_rng([seed, NAMES.index(name), fmt.p, region])
    make = _single(_ONE[name][region]) if name in _ONE else _TWO[name][region]
    with np.errstate(all="ignore"):
        drawn = [np.asarray(a).astype(fmt.dtype) for a in make(rng, size, fmt)]
    fine = np.logical_and.reduce([np.isfinite(a) & (a != 0) for a in drawn])
    return tuple(a[fine] for a in drawn)


def _single(region: Region) -> Callable[..., tuple[F64, ...]]:
    return lambda rng, n, fmt: (region(rng, n, fmt),)
