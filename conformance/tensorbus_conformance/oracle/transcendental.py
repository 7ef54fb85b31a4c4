"""References of the transcendental functions: float64 for narrower dtypes, Arb for float64.

Special values are those of C17 Annex F and the array API, which NumPy's float64 functions keep;
Arb refines what is a finite number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray

from . import ball, judges
from .op import OpReference, Range, as_float64, promoted
from .sampling import elementwise as each
from .ulp import FLOAT64, format_of
from .verdict import Reference

__all__ = ["OPS", "SLACK", "TRANSCENDENTAL", "reference_of"]

Array = NDArray[Any]
F64 = NDArray[np.float64]
OPS: dict[str, OpReference] = {}


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid64(x: F64) -> F64:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, e) / (1 + e))


def _hypot_ball(x: Any, y: Any) -> Any:
    return (x * x + y * y).sqrt()


def _logaddexp_ball(x: Any, y: Any) -> Any:
    big, small = (x, y) if x >= y else (y, x)
    return big + (small - big).exp().log1p()


TRANSCENDENTAL: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Range, ...]]] = {
    # name: float64 function (a few ulp of float64), Arb function, where to sample
    "acos": (np.arccos, lambda x: x.acos(), ((-0.99, 0.99),)),
    "acosh": (np.arccosh, lambda x: x.acosh(), ((1.05, 50.0),)),
    "asin": (np.arcsin, lambda x: x.asin(), ((-0.99, 0.99),)),
    "asinh": (np.arcsinh, lambda x: x.asinh(), ((-20.0, 20.0),)),
    "atan": (np.arctan, lambda x: x.atan(), ((-20.0, 20.0),)),
    "atan2": (np.arctan2, arb.atan2, ((-4.0, 4.0), (-4.0, 4.0))),
    "atanh": (np.arctanh, lambda x: x.atanh(), ((-0.98, 0.98),)),
    "cos": (np.cos, lambda x: x.cos(), ((-20.0, 20.0),)),
    "cosh": (np.cosh, lambda x: x.cosh(), ((-8.0, 8.0),)),
    "erf": (_erf, lambda x: x.erf(), ((-3.0, 3.0),)),
    "exp": (np.exp, lambda x: x.exp(), ((-8.0, 8.0),)),
    "exp2": (np.exp2, lambda x: (x * arb(2).log()).exp(), ((-8.0, 8.0),)),
    "expm1": (np.expm1, lambda x: x.expm1(), ((-4.0, 4.0),)),
    "hypot": (np.hypot, _hypot_ball, ((-4.0, 4.0), (-4.0, 4.0))),
    "log": (np.log, lambda x: x.log(), ((0.05, 20.0),)),
    "log10": (np.log10, lambda x: x.log_base(10), ((0.05, 20.0),)),
    "log1p": (np.log1p, lambda x: x.log1p(), ((-0.95, 8.0),)),
    "log2": (np.log2, lambda x: x.log_base(2), ((0.05, 20.0),)),
    "logaddexp": (np.logaddexp, _logaddexp_ball, ((-8.0, 8.0), (-8.0, 8.0))),
    "pow": (np.power, lambda x, y: x**y, ((0.1, 4.0), (-4.0, 4.0))),
    "rsqrt": (lambda x: 1 / np.sqrt(x), lambda x: x.rsqrt(), ((0.05, 8.0),)),
    "sigmoid": (_sigmoid64, lambda x: 1 / (1 + (-x).exp()), ((-8.0, 8.0),)),
    "sin": (np.sin, lambda x: x.sin(), ((-20.0, 20.0),)),
    "sinh": (np.sinh, lambda x: x.sinh(), ((-8.0, 8.0),)),
    "softplus": (
        lambda x: np.logaddexp(0.0, x),
        lambda x: _logaddexp_ball(x, arb(0)),
        ((-8.0, 8.0),),
    ),
    "tan": (np.tan, lambda x: x.tan(), ((-20.0, 20.0),)),
    "tanh": (np.tanh, lambda x: x.tanh(), ((-4.0, 4.0),)),
}

SLACK = 2.0**-49
"""Relative error allowed to a float64 reference: 8 to 16 ulp of float64, 2^-26 ulp of float32."""


def _refined(value: F64, exact: Callable[[int], Any]) -> tuple[F64, F64]:
    """The float64 values replaced by Arb's, as pairs, wherever the exact value is a number."""
    hi, lo = value.copy(), np.zeros(value.shape)
    places, exacts = [], []
    for i, rough in enumerate(value.reshape(-1).tolist()):
        if math.isnan(rough) or (rough == 0 and _certainly(exact, i)):
            continue
        precise = exact(i)
        if precise.is_finite() and precise.rel_accuracy_bits() >= 100:
            places.append(i)
            exacts.append(precise)
    if places:
        high, low = ball.pair(exacts)
        rough_signs = value.reshape(-1)[places]
        hi.flat[places] = np.where(high == 0, np.copysign(0.0, rough_signs), high)
        lo.flat[places] = low
    return hi, lo


def _certainly(exact: Callable[[int], Any], i: int) -> bool:
    result = exact(i)
    return bool(result.is_zero() or not result.is_finite())


def reference_of(name: str, *arguments: Any, **options: Any) -> Reference:
    """The reference of an elementary function of `TRANSCENDENTAL`."""
    function, arb_function, _ = TRANSCENDENTAL[name]
    arrays = promoted(*arguments)
    dtype = arrays[0].dtype
    wide = [as_float64(a) for a in arrays]
    with np.errstate(all="ignore"):
        value = np.asarray(function(*wide), np.float64)

    def exact(i: int) -> Any:
        numbers = [float(w.flat[i]) for w in wide]
        if name == "atan2" and numbers[0] == 0:  # Arb knows no sign of zero
            turn = math.copysign(1.0, numbers[1]) < 0
            sign = int(math.copysign(1.0, numbers[0]))
            return ball.accurate(lambda _: arb.pi() * sign if turn else arb(0), 0.0)
        return ball.accurate(arb_function, *numbers)

    magnitude = None
    slack: Any = SLACK * np.where(np.isfinite(value), np.abs(value), 0.0) + FLOAT64.tiny
    if name == "logaddexp":
        with np.errstate(all="ignore"):
            gap = np.abs(wide[0] - wide[1])
            magnitude = np.log1p(np.exp(-np.where(np.isnan(gap), 0.0, gap)))
            slack = slack + SLACK * np.where(np.isfinite(value), magnitude, 0.0)
    low = None
    if dtype == np.float64:
        value, low = _refined(value, exact)
        slack = 2.0**-98 * np.where(np.isfinite(value), np.abs(value), 0.0)
    return Reference(value, dtype, low, slack, magnitude, exact=exact)


def _power(x1: Any, x2: Any) -> Reference:
    """x1 ** x2; integers wrap, a negative integer exponent gives 0 (1 and -1 invert themselves)."""
    a, b = promoted(x1, x2)
    if format_of(a.dtype) is not None:
        return reference_of("pow", a, b)
    negative = b < 0
    power = _modular(a.astype(np.uint64), np.where(negative, 0, b).astype(np.uint64))
    inverse = np.where(a == 1, 1, np.where(a + 1 == 0, np.where(b % 2 == 0, 1, -1), 0))
    result = np.where(negative, inverse.astype(a.dtype), power.astype(a.dtype))
    return Reference(result, result.dtype)


def _modular(base: NDArray[np.uint64], exponent: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """base ** exponent modulo 2^64, whose low bits are the powers modulo less; by squaring."""
    result = np.ones(base.shape, np.uint64)
    with np.errstate(over="ignore"):  # of scalars; arrays wrap in silence
        while exponent.any():
            result = np.where(exponent & np.uint64(1), result * base, result)
            base, exponent = base * base, exponent >> np.uint64(1)
    return result


def _bind(name: str) -> Callable[..., Reference]:
    return lambda *arrays, **options: reference_of(name, *arrays, **options)


for _name, (_, _, _domain) in TRANSCENDENTAL.items():
    OPS[_name] = OpReference(
        _name,
        "transcendental",
        _power if _name == "pow" else _bind(_name),
        judges.ulps(_name, absolute=_name == "logaddexp"),
        (len(_domain), len(_domain)),
        "if" if _name == "pow" else "f",
        _domain,
        elementwise=True,
        samples=each.elementwise(len(_domain)),
        special=each.special(len(_domain)),
        degenerate=each.degenerate(len(_domain)),
        namespace="nn" if _name in ("sigmoid", "softplus") else "",
    )
