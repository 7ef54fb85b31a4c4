"""Random numbers from docs/random.md: the generator, keys, and the recipe of every op.

The generator is Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as
1, 2, 3, 2011).  All recipes give bits, but for `normal`, which gives the exact transform of the
same words and a bound for what log and cos may round away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray

from .ball import pair, precision
from .order import fma
from .ulp import format_of

__all__ = [
    "KNOWN_ANSWERS",
    "RECIPES",
    "Normal",
    "Recipe",
    "bernoulli",
    "double",
    "dropout",
    "fold_in",
    "integers",
    "mean_and_variance_problem",
    "normal",
    "permutation",
    "philox4x32",
    "split",
    "uniform",
    "uniform_from_words",
    "words",
]

Array = NDArray[Any]

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
_LOW = 0xFFFFFFFF


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


# -- docs/random.md: keys -------------------------------------------------------------------------


@lru_cache(maxsize=16)
def words(key: int, count: int, first: int = 0, purpose: int = 0) -> U32:
    """The words of places first .. first + count - 1: shape (count, 4); read only."""
    places = np.arange(count, dtype=np.uint64) + np.uint64(first)
    counter = np.zeros((count, 4), np.uint64)
    counter[:, 0], counter[:, 1] = places & np.uint64(_LOW), places >> np.uint64(32)
    counter[:, 3] = purpose
    found = philox4x32(counter, (key & _LOW, key >> 32))
    found.setflags(write=False)
    return found


def double(w: U32, at: int = 0) -> NDArray[np.uint64]:
    """Words at, at + 1 as one 64-bit number, the first one its lower half."""
    low, high = w[..., at].astype(np.uint64), w[..., at + 1].astype(np.uint64)
    return np.asarray(high << np.uint64(32) | low)


def split(key: int, count: int) -> list[int]:
    """The keys that ``Key.split`` makes."""
    return [int(v) for v in double(words(key, count, 0, 1))]


def fold_in(key: int, data: int) -> int:
    """The key that ``Key.fold_in`` makes."""
    return int(double(words(key, 1, data % (1 << 64), 2))[0])


# -- docs/random.md: recipes ----------------------------------------------------------------------


def _compute(dtype: Any) -> Any:
    return np.float64 if np.dtype(dtype) == np.float64 else np.float32


def _precision(dtype: Any) -> int:
    found = format_of(np.dtype(dtype))
    assert found is not None
    return found.p


def _below(bound: Array) -> Array:
    """The next number of the dtype below a 0-dimensional one."""
    size = bound.dtype.itemsize
    if float(bound) == 0:
        step = np.asarray(1 | 1 << (8 * size - 1), f"u{size}")  # the least negative subnormal
    else:
        bits = bound.view(f"u{size}")
        step = bits - 1 if float(bound) > 0 else bits + 1
    return np.asarray(step, f"u{size}").view(bound.dtype)


def uniform(key: int, count: int, dtype: Any, low: float = 0.0, high: float = 1.0) -> Array:
    """The bits of ``random.uniform``."""
    wide, w = _compute(dtype), words(key, count)
    p = _precision(dtype)
    k = double(w) >> np.uint64(64 - p) if wide == np.float64 else w[:, 0] >> np.uint32(32 - p)
    least, bound = np.asarray(low).astype(dtype), np.asarray(high).astype(dtype)
    top = _below(bound).astype(wide)
    span = bound.astype(wide) - least.astype(wide)
    value = fma(k.astype(wide) * wide(2.0**-p), span, least.astype(wide))
    return np.where(value < top, value, top).astype(dtype)


def integers(key: int, count: int, dtype: Any, low: int, high: int) -> Array:
    """The bits of ``random.integers``, in Python's integers."""
    wide = double(words(key, count)).tolist()
    return np.asarray([low + (w * (high - low) >> 64) for w in wide], dtype)


def _chance(w: NDArray[np.uint32], p: float) -> Array:
    q = float(np.float32(p))
    if q >= 1:
        return np.ones(w.shape, bool)
    return np.asarray(w < np.uint32(math.floor(q * 2.0**32)))


def bernoulli(key: int, count: int, p: float) -> Array:
    """The bits of ``random.bernoulli``."""
    return _chance(words(key, count)[:, 0], p)


def permutation(key: int, count: int) -> NDArray[np.int64]:
    """The bits of ``random.permutation(count)``."""
    return np.argsort(double(words(key, count)), kind="stable").astype(np.int64)


def dropout(x: Array, p: float, key: int) -> Array:
    """The bits of ``nn.dropout`` while training, and of its gradient for a cotangent `x`."""
    if p == 0:
        return x
    wide = _compute(x.dtype)
    dropped = _chance(words(key, x.size)[:, 0], p).reshape(x.shape)
    scale = wide(1 / (1 - p)) if p < 1 else wide(0)
    with np.errstate(over="ignore", invalid="ignore"):
        out = np.where(dropped, wide(0), x.astype(wide) * scale)
    return np.asarray(out.astype(x.dtype))


@dataclass(frozen=True)
class Normal:
    """Exact normal numbers, as hi + lo, and how far from them a result may be.

    Attributes:
        hi: float64.
        lo: float64, what is missing.
        bound: Absolute.
    """

    hi: F64
    lo: F64
    bound: F64


@lru_cache(maxsize=32)
def normal(
    key: int,
    count: int,
    dtype: Any,
    mean: float = 0.0,
    std: float = 1.0,
    ulps: tuple[float, float] = (1.0, 1.0),
) -> Normal:
    """The exact transform of the words, and a bound for the recipe's rounding.

    Args:
        ulps: Claimed for the portable log and cos, in ulps of their results.

    With the unit h = 2^-24 (2^-53 for float64), r = sqrt(-2 log u), c = cos a, and L and C for the
    ulps (an ulp is at most 2 h of its number):

    - w0 and w0 + 1 are rounded to float32: u is off by d = 2 h (1 + h) relative, so that log u is
      off by d (1 + d) absolute; float64 holds its u, d = 0.
    - log: 2 h L (|log u| + d) more.  Twice all that, exact, is e, the error of -2 log u.  Its root
      is off by min(e / r, sqrt(e)), as |sqrt s - sqrt t| = |s - t| / (sqrt s + sqrt t), and by h
      of itself.
    - a: 2 pi is rounded, and the product: 2 h (1 + h) |a|, which cos passes on; 2 h C |c| more.
    - r c is rounded: h.  fma is rounded: h of the result.  16 bits: half an ulp of the result.

    The transform of the exact u and a is taken in float64 for float32 and smaller, where its own
    error, below 2^-50 (r + 1), is added; by Arb with 140 bits for float64.
    """
    h = 2.0 ** -_precision(_compute(dtype))
    w, wide = words(key, count), _compute(dtype)
    m, s = float(wide(mean)), float(wide(std))
    if wide == np.float64:
        upper = double(w) >> np.uint64(11)
        u = (upper.astype(np.float64) + 1) * 2.0**-53
        turn = (double(w, 2).view(np.int64) >> 11).astype(np.float64) * 2.0**-53
    else:
        u = (w[:, 0].astype(np.float64) + 1) * 2.0**-32
        turn = (np.ascontiguousarray(w[:, 1]).view(np.int32) >> 8).astype(np.float64) * 2.0**-24
    size = np.abs(np.log(u))
    r, angle = np.sqrt(2 * size), 2 * np.pi * turn
    c = np.cos(angle)
    if wide == np.float64:
        hi, lo = _exact_normal(u, turn, m, s)
        own = np.zeros_like(u)
    else:
        hi, lo = m + s * (r * c), np.zeros_like(u)
        own = 2.0**-50 * (r + 1) * abs(s) + 2.0**-52 * abs(m)
    d = 0.0 if wide == np.float64 else 2 * h * (1 + h)
    e = 2 * (d * (1 + d) + 2 * h * ulps[0] * (size + d))
    root = np.minimum(e / np.maximum(r, 1e-300), np.sqrt(e))
    root += h * (r + root)
    turned = 2 * h * (1 + h) * np.abs(angle)
    turned += 2 * h * ulps[1] * (np.abs(c) + turned)
    off = root * np.abs(c) + r * turned + root * turned
    off += h * (r + root) * (np.abs(c) + turned)
    total = abs(s) * off
    total += h * (np.abs(hi) + total)
    if np.dtype(dtype).itemsize == 2:
        half = 2.0 ** -_precision(dtype) * (np.abs(hi) + total)
        total += np.maximum(half, 2.0**-25)  # the spacing of float16's subnormals is 2^-24
    return Normal(hi, lo, np.asarray(total + own))


def _exact_normal(u: F64, turn: F64, mean: float, std: float) -> tuple[F64, F64]:

    with precision(140):
        exact = [
            arb(mean) + arb(std) * (-2 * arb(x).log()).sqrt() * (2 * arb(t)).cos_pi()
            for x, t in zip(u.tolist(), turn.tolist(), strict=True)
        ]
        return pair(exact)


@dataclass(frozen=True)
class Recipe:
    """A random op.

    Attributes:
        dtypes: NumPy names of those that it draws (or moves, or masks).
        smoke: Those at level smoke.
        tensor: Whether it can take a tensor, which gives it layouts and a gradient.
        defaults: What its options are where they are left out, beside those that are None.
    """

    dtypes: tuple[str, ...]
    smoke: tuple[str, ...]
    tensor: bool = False
    defaults: tuple[tuple[str, object], ...] = ()


_FLOATS = ("float16", "bfloat16", "float32", "float64")
_INTS = tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))

RECIPES: dict[str, Recipe] = {
    "uniform": Recipe(_FLOATS, ("float32", "float64"), defaults=(("low", 0.0), ("high", 1.0))),
    "normal": Recipe(_FLOATS, ("float32", "float64"), defaults=(("mean", 0.0), ("std", 1.0))),
    "integers": Recipe(_INTS, ("int32", "int64"), defaults=(("shape", ()),)),
    "bernoulli": Recipe(("bool",), ("bool",), defaults=(("shape", ()),)),
    "permutation": Recipe(("bool", "int64", *_FLOATS), ("int64", "float32"), True, (("axis", 0),)),
    "dropout": Recipe(_FLOATS, ("float32",), True, (("p", 0.5), ("training", True))),
}
"""Every random op by name."""
