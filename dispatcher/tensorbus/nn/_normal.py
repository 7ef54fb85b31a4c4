"""The standard normal distribution over the scalar IR: what gelu is made of.

With t = abs(x), Phi the distribution function and phi the density:

* up to 1: ``Phi(x) = 1/2 + x R(x**2)``, R a polynomial;
* above: ``Phi(-t) = exp(-t**2 / 2) P((t - a) / (t + a)) / (t + a)``, P a polynomial, which keeps
  the relative accuracy down to the subnormal numbers.

``t**2`` is used as a pair ``p + l``: ``exp(-t**2 / 2) = exp(-p / 2) (1 - l / 2)`` up to 2**-34, so
the size of t does not amplify its rounding.  R and P interpolate at Chebyshev nodes with 60 digits
and are rounded to the dtype; the relative error after rounding stands beside each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tensorbus_backends import dtypes as dt, ir, mathlib
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.mathlib.exact import floats, horner
from tensorbus_backends.scalar import f

__all__ = ["gelu", "gelu_slope", "limited"]


@dataclass(frozen=True)
class _Table:
    """Constants of one dtype.

    Attributes:
        center: R's coefficients from the constant up.
        tail: P's coefficients.
        a: Centre of P's argument.
        far: Beyond it ``t * Phi(-t)`` rounds to 0.
    """

    center: tuple[float, ...]
    tail: tuple[float, ...]
    a: float
    far: float


# Relative errors 2**-24.7 (of R, whose term is at most 0.35) and 2**-26.1, t in [1, 14.5].
_FLOAT32 = _Table(
    (
        0.3989423,
        -0.06649036,
        0.009973329,
        -0.001186344,
        0.0001135023,
        -7.660538e-06,
    ),
    (
        0.7595542,
        -0.6251297,
        0.41822714,
        -0.22051905,
        0.08527985,
        -0.019325633,
        -0.00079474825,
        0.0020155509,
        -0.00028889804,
    ),
    4.25,
    14.5,
)
# Relative errors 2**-53.6 and 2**-54.9, t in [1, 38.75].
_FLOAT64 = _Table(
    floats(
        "0x1.9884533d43651p-2",
        "-0x1.1058377e2cedfp-4",
        "0x1.46d0429769010p-7",
        "-0x1.37403f6b93143p-10",
        "0x1.e42b0d4b14d39p-14",
        "-0x1.3ce8f9bacee1ep-17",
        "0x1.6589f17ce2693p-21",
        "-0x1.621cc567a99f7p-25",
        "0x1.380b151d37375p-29",
        "-0x1.e69d43072e1f8p-34",
        "0x1.1eb48cc19cdecp-38",
    ),
    floats(
        "0x1.8ec639965dd1cp-1",
        "-0x1.6a5d5a7871c0fp-1",
        "0x1.2abf9cf993fd5p-1",
        "-0x1.bd73726287359p-2",
        "0x1.2aa9a56bb04f2p-2",
        "-0x1.651b78e93d6e3p-3",
        "0x1.77b7e7c9b4e66p-4",
        "-0x1.546b5b97340f5p-5",
        "0x1.ff193c7ca4e28p-7",
        "-0x1.244443f4b5d04p-8",
        "0x1.7eb5d91856e88p-11",
        "0x1.6c1e652a0158fp-14",
        "-0x1.a0fa32d1d7851p-14",
        "0x1.a794328f95ce8p-16",
        "0x1.4ffbec97c2a39p-19",
        "-0x1.d0691e45dc6ccp-19",
        "0x1.3c239cf8660a8p-21",
        "0x1.2d67fb9396fbbp-22",
        "-0x1.1578fa936582dp-23",
        "-0x1.defe0a1fc4a29p-27",
        "0x1.3b655a7e99a4ap-26",
        "-0x1.c09f8cdcbe702p-37",
        "-0x1.ebf68360aef0ep-30",
    ),
    6.25,
    38.75,
)


def limited(x: Expr, low: float, high: float) -> Expr:
    """`x` brought into [low, high]; NaN stays."""
    below = ir.select(x > f(high, x.dtype), f(high, x.dtype), x)
    return ir.select(below < f(low, x.dtype), f(low, x.dtype), below)


def _table(dtype: DType) -> _Table:
    return _FLOAT32 if dtype is dt.float32 else _FLOAT64


@dataclass(frozen=True)
class _Parts:
    """What Phi and phi share.

    Attributes:
        t: abs(x), at most the table's `far`.
        e: exp(-p / 2).
        low: 1 - l / 2, the rest of exp(-t**2 / 2).
        ratio: Phi(-t) / exp(-t**2 / 2).
        center: R(x**2).
    """

    t: Expr
    e: Expr
    low: Expr
    ratio: Expr
    center: Expr


def _parts(x: Expr) -> _Parts:
    table = _table(x.dtype)
    a, far = f(table.a, x.dtype), f(table.far, x.dtype)
    size = ir.fabs(x)
    t = ir.select(size > far, far, size)
    square = t * t
    rest = ir.fma(t, t, -square)
    inverse = 1.0 / (t + a)
    return _Parts(
        t,
        mathlib.exp(square * -0.5),
        ir.fma(rest, -0.5, 1.0),
        horner((t - a) * inverse, table.tail) * inverse,
        horner(square, table.center),
    )


def gelu(x: Expr) -> Expr:
    """``x Phi(x)``; -0 at -inf."""
    parts = _parts(x)
    factor = parts.low * parts.ratio
    # The power is multiplied last: it alone may be subnormal.
    left = -(parts.t * factor) * parts.e
    right = x * (1.0 - factor * parts.e)
    near = x * ir.fma(x, parts.center, 0.5)
    return ir.select(parts.t < 1.0, near, ir.select(x < 0.0, left, right))


def gelu_slope(x: Expr) -> Expr:
    """``Phi(x) + x phi(x)``, the derivative of `gelu`; 0 at -inf."""
    parts = _parts(x)
    k = f(1.0 / math.sqrt(2.0 * math.pi), x.dtype)
    e = parts.e * parts.low
    left = e * ir.fma(-parts.t, k, parts.ratio)
    near = ir.fma(x, ir.fma(e, k, parts.center), 0.5)
    return ir.select(parts.t < 1.0, near, ir.select(x < 0.0, left, 1.0 - left))
