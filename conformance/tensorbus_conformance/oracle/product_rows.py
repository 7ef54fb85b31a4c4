"""Products of rows, whole and of every prefix, as pairs of float64 with exponents of their own.

A number is (h + l) 2^k with 1/2 <= |h| < 1, so that no product on the way over- or underflows.
The product of two pairs is off relatively by at most 7 * 2^-106 (Joldes, Muller and Popescu, Tight
and rigorous error bounds for basic building blocks of double-word arithmetic, 2017, theorem 5.1);
n factors take n - 1 of them in any grouping, so n 2^-103 covers them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ulp import two_product
from .verdict import Reference

__all__ = ["prefixes", "products"]

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

ERROR = 2.0**-103
"""Relative error of one product of pairs, at most."""


@dataclass(frozen=True)
class _Scaled:
    high: F64
    low: F64
    exponent: NDArray[np.int64]

    def __getitem__(self, index: Any) -> _Scaled:
        return _Scaled(self.high[index], self.low[index], self.exponent[index])


def _normalised(high: F64, low: F64, exponent: Any) -> _Scaled:
    mantissa, moved = np.frexp(high)
    return _Scaled(mantissa, np.ldexp(low, -moved), exponent + moved)


def _times(a: _Scaled, b: _Scaled) -> _Scaled:
    p, e = two_product(a.high, b.high)
    e = e + (a.high * b.low + a.low * b.high)
    high = p + e
    return _normalised(high, e - (high - p), a.exponent + b.exponent)


def _joined(a: _Scaled, b: _Scaled) -> _Scaled:
    return _Scaled(
        np.concatenate((a.high, b.high), axis=1),
        np.concatenate((a.low, b.low), axis=1),
        np.concatenate((a.exponent, b.exponent), axis=1),
    )


def _lifted(wide: F64) -> _Scaled:
    """The numbers, with 1 for zeros, infinities and NaN."""
    usable = np.isfinite(wide) & (wide != 0)
    return _normalised(np.where(usable, wide, 1.0), np.zeros(wide.shape), np.int64(0))


def _pair(x: _Scaled) -> tuple[F64, F64]:
    """As float64 numbers; infinite beyond their range, with the low part lost below it."""
    shift = np.clip(x.exponent, -3000, 3000).astype(np.int32)
    high = np.ldexp(x.high, shift)
    low = np.where(np.isfinite(high), np.ldexp(x.low, shift), 0.0)
    return high, low


def _result(
    product: _Scaled,
    wide: F64,
    swing: F64,
    dtype: np.dtype[Any],
    terms: Any,
    along: Callable[[Any, Mask], Mask],
) -> Reference:
    """The reference, with zeros, infinities and NaN taken into account.

    `along` reduces flags of the factors to those of the results, as a logical or.
    """
    high, low = _pair(product)
    negative = along(np.logical_xor, np.signbit(wide))
    nan = along(np.logical_or, np.isnan(wide))
    infinite = along(np.logical_or, np.isinf(wide))
    zero = along(np.logical_or, wide == 0)
    nan |= infinite & zero
    size = np.where(infinite, np.inf, np.where(zero, 0.0, np.abs(high)))
    value = np.where(nan, np.nan, np.where(negative, -size, size))
    low = np.where(nan | infinite | zero, 0.0, low)
    # NaN comes in any order; an infinity or a zero only if nothing turned into the other before.
    magnitude = np.where(nan, 1.0, np.exp2(swing))
    slack = ERROR * np.asarray(terms) * np.where(np.isfinite(value), np.abs(value), 0.0)
    return Reference(value, dtype, low, slack, magnitude, terms=terms)


def _logs(wide: F64) -> tuple[F64, F64]:
    """Binary logarithms of the factors above one, and of the reciprocals of those below."""
    logs = np.log2(np.abs(wide))
    logs = np.where(np.isfinite(logs), logs, 0.0)
    return np.maximum(logs, 0), np.maximum(-logs, 0)


def products(wide: F64, dtype: np.dtype[Any]) -> Reference:
    """The product of each row; 1 for a row of no numbers."""
    terms = wide.shape[1]
    with np.errstate(all="ignore"):
        x = _lifted(wide)
        if not terms:
            x = _lifted(np.ones((wide.shape[0], 1)))
        while x.high.shape[1] > 1:
            half = x.high.shape[1] // 2
            pairs = _times(x[:, :half], x[:, half : 2 * half])
            x = _joined(pairs, x[:, 2 * half :])
        up, down = _logs(wide)
        swing = np.maximum(up.sum(axis=1), down.sum(axis=1))
        return _result(
            x[:, 0], wide, swing, dtype, terms, lambda f, flags: np.asarray(f.reduce(flags, axis=1))
        )


def prefixes(wide: F64, dtype: np.dtype[Any]) -> Reference:
    """The products of the first 1, 2, ... numbers of each row (Hillis and Steele's scan)."""
    length = wide.shape[1]
    terms = np.broadcast_to(np.arange(1, length + 1), wide.shape).copy()
    with np.errstate(all="ignore"):
        x, step = _lifted(wide), 1
        while step < length:
            x = _joined(x[:, :step], _times(x[:, :-step], x[:, step:]))
            step *= 2
        up, down = _logs(wide)
        swing = np.maximum(up.cumsum(axis=1), down.cumsum(axis=1))
        return _result(
            x, wide, swing, dtype, terms, lambda f, flags: np.asarray(f.accumulate(flags, axis=1))
        )
