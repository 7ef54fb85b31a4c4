"""Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, 2011).

Only what the paper defines: the bijection of 128-bit counters under 64-bit keys.  How a library
turns its words into floats and permutations is the library's own rule, stated in its document;
the helpers below compute the usual rules from words, and moments to test distributions with.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KNOWN_ANSWERS", "mean_and_variance_problem", "philox4x32", "uniform_from_words"]

U32 = NDArray[np.uint32]
F64 = NDArray[np.float64]

KNOWN_ANSWERS: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...] = (
    # counter, key, result of ten rounds: Random123's kat_vectors, philox 4 32 10.
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)

_M = (0xD2511F53, 0xCD9E8D57)
_W = (0x9E3779B9, 0xBB67AE85)


def philox4x32(counter: Any, key: Any, rounds: int = 10) -> U32:
    """The words of counters: shape (..., 4) uint32 from counter (..., 4) and key (..., 2).

    Word 0 of the counter is the least significant.
    """
    c = [np.asarray(counter, np.uint64)[..., i] for i in range(4)]
    k = [np.asarray(key, np.uint64)[..., i] for i in range(2)]
    mask = np.uint64(0xFFFFFFFF)
    for _ in range(rounds):
        first, second = np.uint64(_M[0]) * c[0], np.uint64(_M[1]) * c[2]
        c = [
            (second >> np.uint64(32)) ^ c[1] ^ k[0],
            second & mask,
            (first >> np.uint64(32)) ^ c[3] ^ k[1],
            first & mask,
        ]
        k = [(k[0] + np.uint64(_W[0])) & mask, (k[1] + np.uint64(_W[1])) & mask]
    return np.stack(np.broadcast_arrays(*c), axis=-1).astype(np.uint32)


def uniform_from_words(words: Any, bits: int = 24) -> F64:
    """The upper `bits` of 32-bit words as fractions in [0, 1)."""
    upper = np.asarray(words, np.uint64) >> np.uint64(32 - bits)
    return np.asarray(upper.astype(np.float64) * 2.0**-bits)


def mean_and_variance_problem(
    sample: Any, mean: float, variance: float, fourth: float, sigmas: float = 6.0
) -> str:
    """What is wrong with the first two moments of independent draws; empty where nothing is.

    Under the stated moments (`fourth` is the central one) the sample mean has deviation
    sqrt(variance/n) and the mean square about `mean` has sqrt((fourth - variance^2)/n); normal
    sums stray beyond 6 sigma with probability 2e-9.
    """
    x = np.asarray(sample, np.float64).reshape(-1)
    if not np.isfinite(x).all():
        return "the sample holds NaN or infinity"
    error = abs(float(x.mean()) - mean)
    allowed = sigmas * math.sqrt(variance / x.size)
    if error > allowed:
        return f"mean off by {error:.4g}, allowed {allowed:.4g}"
    error = abs(float(np.square(x - mean).mean()) - variance)
    allowed = sigmas * math.sqrt(max(fourth - variance**2, 0.0) / x.size)
    if error > allowed + 1e-12:
        return f"variance off by {error:.4g}, allowed {allowed:.4g}"
    return ""
