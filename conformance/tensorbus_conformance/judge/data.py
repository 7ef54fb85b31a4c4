"""Input arrays of the judge: ordinary data, special values, every pattern of 16 bits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

__all__ = ["all_patterns", "ordinary", "specials"]

Array = NDArray[Any]


def ordinary(
    rng: np.random.Generator, shape: int | tuple[int, ...], dtype: DType, low: float, high: float
) -> Array:
    """Values spread over (low, high); integers over their small range and some of the full one.

    One in eight floats has a random exponent towards zero, so that not all lie in one binade.
    """
    if dtype is dt.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype.is_integer:
        small = rng.integers(max(dtype.min, -100), min(dtype.max, 100), shape, endpoint=True)
        full = rng.integers(dtype.min, dtype.max, shape, dtype=dtype.numpy, endpoint=True)
        return np.asarray(np.where(rng.random(shape) < 0.25, full, small.astype(dtype.numpy)))
    values = rng.uniform(low, high, shape)
    if low <= 0 <= high:
        spread = np.exp2(-rng.uniform(0, 12, shape))
        values = np.where(rng.random(shape) < 0.125, values * spread, values)
    return np.asarray(values).astype(dtype.numpy)


def specials(dtype: DType) -> Array:
    """Zeros of both signs, infinities, NaN, subnormals, extremes, neighbours of powers of two."""
    if dtype is dt.bool_:
        return np.asarray([False, True])
    if dtype.is_integer:
        edge = {0, 1, 2, 3, 7, dtype.max, dtype.max - 1, dtype.min, dtype.min + 1, dtype.max // 2}
        if dtype.kind == "i":
            edge |= {-1, -2, -3, -7}
        return np.asarray(sorted(edge), dtype.numpy)
    info: Any = ml_dtypes.finfo(dtype.numpy)  # type: ignore[no-untyped-call]
    eps = float(info.eps)
    finite = [
        0.0, 1.0, 0.5, 2.0, 3.0, 0.1, 10.0, 1 + eps, 1 - eps / 2, 2 + 2 * eps,
        float(info.max), float(info.tiny), float(info.smallest_subnormal),
        float(info.smallest_subnormal) * 3, float(info.tiny) * (1 - eps), float(info.max) / 2,
        np.pi, np.pi / 2, np.e, 88.5, 100.25, 1e4,
    ]  # fmt: skip
    values = [v for f in finite for v in (f, -f)] + [np.inf, -np.inf, np.nan]
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(dtype.numpy)


def all_patterns(dtype: DType) -> Array:
    """All 65,536 values of a 16-bit dtype."""
    return np.arange(65536, dtype=np.uint16).view(dtype.numpy)
