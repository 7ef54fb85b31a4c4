"""The written order of sums (docs/order.md), read again: the bits that portable kernels must give.

Every constant is spelled here from the document.  float32 and float64 additions, products,
quotients and roots are NumPy's, which IEEE 754 rounds correctly; fma is made of them below.
float16 and bfloat16 are computed in float32 and rounded once.

A `Scheme` is one way to order a sum.  `WRITTEN` is the document's; `OTHERS` are ways that an
implementation could take by mistake, with which a sample shows that it would see the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "OTHERS",
    "WRITTEN",
    "Scheme",
    "add_segments",
    "contract",
    "fma",
    "mean",
    "reduce",
    "scan",
    "store",
    "variance",
    "wide",
]

Array = NDArray[Any]
Pair = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Scheme:
    """How the terms of a sum are ordered, and what is rounded on the way.

    Attributes:
        chunk: Elements that are reduced at a time.
        lanes: Partial results of a chunk.
        neighbours: The tree joins lanes l and l + 1 first, not l and l + lanes / 2.
        block: Terms of a product of matrices that are added before they join the total.
        scan: Elements of a block of a cumulative sum.
        backwards: Sums by index start from the last position.
        fused: Products are added by fma.
        reciprocal: Means multiply by 1 / n.
        one_pass: A variance is the mean of squares less the square of the mean.
    """

    chunk: int = 8192
    lanes: int = 128
    neighbours: bool = False
    block: int = 256
    scan: int = 128
    backwards: bool = False
    fused: bool = True
    reciprocal: bool = False
    one_pass: bool = False


WRITTEN = Scheme()

OTHERS: dict[str, Scheme] = {
    "chunks of 4096": replace(WRITTEN, chunk=4096),
    "chunks of 16384": replace(WRITTEN, chunk=16384),
    "64 lanes": replace(WRITTEN, lanes=64),
    "256 lanes": replace(WRITTEN, lanes=256),
    "one lane": replace(WRITTEN, lanes=1),
    "neighbouring lanes first": replace(WRITTEN, neighbours=True),
    "k-blocks of 128": replace(WRITTEN, block=128),
    "k-blocks of 512": replace(WRITTEN, block=512),
    "products rounded": replace(WRITTEN, fused=False),
    "scan blocks of 64": replace(WRITTEN, scan=64),
    "scan blocks of 256": replace(WRITTEN, scan=256),
    "last position first": replace(WRITTEN, backwards=True),
    "times the reciprocal": replace(WRITTEN, reciprocal=True),
    "one pass": replace(WRITTEN, one_pass=True),
}
"""Ways that are not the document's, by what is different."""


# -- numbers --------------------------------------------------------------------------------------


def wide(x: Array) -> Array:
    """The numbers in the dtype that they are computed in: float32 for 16-bit floats."""
    x = np.asarray(x)
    small = x.dtype in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
    return x.astype(np.float32) if small else x


def store(x: Array, dtype: Any) -> Array:
    """Computed numbers rounded once to what is stored."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(x).astype(dtype)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Sum and its rounding error, exactly: Knuth, TAOCP 2, 4.2.2, theorem B."""
    s = a + b
    part = s - a
    return s, (a - (s - part)) + (b - part)


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Product and its rounding error, exactly: Dekker, Numerische Mathematik 18, 1971."""
    p = a * b
    halves = []
    for x in (a, b):
        c = x * np.float64(2.0**27 + 1)
        high = c - (c - x)
        halves.append((high, x - high))
    (ah, al), (bh, bl) = halves
    return p, al * bl - (((p - ah * bh) - al * bh) - ah * bl)


def _to_odd(s: Array, error: Array) -> Array:
    """The float64 that s + error rounds to when inexact results take the odd neighbour.

    `s` is the nearest float64, `error` what it lacks.  An odd `s` is the answer; from an even one
    it is the next number towards the exact sum.
    """
    even = (np.ascontiguousarray(s).view(np.uint64) & np.uint64(1)) == 0
    toward = np.nextafter(s, np.where(error > 0, np.inf, -np.inf))
    return np.where(even & (error != 0), toward, s)


def fma(a: Array, b: Array, c: Array) -> Array:
    """a b + c, rounded once.

    In float32 the product is exact in float64 (48 bits of 53); the sum, rounded to odd there, has
    53 >= 24 + 2 bits, so that rounding it again gives the correct result.  In float64: Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums", IEEE Trans. Computers 57(4), 2008,
    which needs that nothing overflows or falls below 2^-1022 / 2^-106.
    """
    a, b, c = (np.asarray(x) for x in np.broadcast_arrays(a, b, c))
    with np.errstate(all="ignore"):
        if a.dtype == np.float32:
            s, error = _two_sum(a.astype(np.float64) * b, c.astype(np.float64))
            return np.asarray(_to_odd(s, error).astype(np.float32))
        p, low = _two_product(a, b)
        uh, ul = _two_sum(c, low)
        th, tl = _two_sum(p, uh)
        return np.asarray(th + _to_odd(*_two_sum(tl, ul)))


# -- reductions -----------------------------------------------------------------------------------


_IDENTITY = {"add": -0.0, "multiply": 1.0, "maximum": -np.inf, "minimum": np.inf}


def _chunk(values: Array, how: Pair, identity: Array, scheme: Scheme) -> Array:
    """Reduce the last dimension, at most one chunk of elements: lanes, then the tree."""
    lanes = scheme.lanes
    steps = max(1, -(-values.shape[-1] // lanes))
    padded = np.full((*values.shape[:-1], steps * lanes), identity, values.dtype)
    padded[..., : values.shape[-1]] = values
    walked = padded.reshape(*values.shape[:-1], steps, lanes)
    lane = np.full((*values.shape[:-1], lanes), identity, values.dtype)
    for k in range(steps):
        lane = how(lane, walked[..., k, :])
    while lane.shape[-1] > 1:
        half = lane.shape[-1] // 2
        if scheme.neighbours:
            lane = how(lane[..., 0::2], lane[..., 1::2])
        else:
            lane = how(lane[..., :half], lane[..., half:])
    return lane[..., 0]


def reduce(values: Array, name: str, scheme: Scheme = WRITTEN) -> Array:
    """Reduce the last dimension: chunks, and then their results in the same way.

    Args:
        values: Floats in the dtype they are combined in, at least one along the last dimension.
        name: NumPy's name of the operation: ``"add"`` or ``"multiply"``.
    """
    how, identity = getattr(np, name), values.dtype.type(_IDENTITY[name])
    with np.errstate(all="ignore"):
        while True:
            n, size = values.shape[-1], scheme.chunk
            whole = n // size
            parts = []
            if whole:
                cut = values[..., : whole * size].reshape(*values.shape[:-1], whole, size)
                parts.append(_chunk(cut, how, identity, scheme))
            if n % size:
                parts.append(_chunk(values[..., whole * size :], how, identity, scheme)[..., None])
            values = np.concatenate(parts, axis=-1)
            if values.shape[-1] == 1:
                return np.asarray(values[..., 0])


def mean(values: Array, count: float, scheme: Scheme = WRITTEN) -> Array:
    """The sum along the last dimension over `count`, which is rounded to the dtype first."""
    total, n = reduce(values, "add", scheme), values.dtype.type(count)
    with np.errstate(all="ignore"):
        return np.asarray(total * (values.dtype.type(1) / n) if scheme.reciprocal else total / n)


def variance(values: Array, correction: float = 0.0, scheme: Scheme = WRITTEN) -> Array:
    """Mean, then the sum of squared distances from it over n - correction (at least 0)."""
    n = values.shape[-1]
    centre = mean(values, n, scheme)[..., None]
    if scheme.one_pass:
        square = centre[..., 0] * centre[..., 0]
        return np.asarray(mean(values * values, n, scheme) - square)
    distance = values - centre
    return mean(distance * distance, max(n - correction, 0.0), scheme)


# -- products of matrices -------------------------------------------------------------------------


def contract(a: Array, b: Array, scheme: Scheme = WRITTEN) -> Array:
    """(..., m, k) by (..., k, n): fma in the order of k in blocks, block sums added in order."""
    k = a.shape[-1]
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*batch, a.shape[-2], b.shape[-1])
    if k == 0:
        return np.zeros(shape, a.dtype)
    total = np.full(shape, -0.0, a.dtype)
    with np.errstate(all="ignore"):
        for begin in range(0, k, scheme.block):
            block = np.full(shape, -0.0, a.dtype)
            for i in range(begin, min(begin + scheme.block, k)):
                x, y = a[..., :, i : i + 1], b[..., i : i + 1, :]
                block = fma(x, y, block) if scheme.fused else x * y + block
            total = total + block
    return np.asarray(total)


# -- cumulative sums and products -----------------------------------------------------------------


def scan(values: Array, name: str, scheme: Scheme = WRITTEN) -> Array:
    """Inclusive scan of the last dimension, block by block."""
    how, identity = getattr(np, name), values.dtype.type(_IDENTITY[name])
    n, size = values.shape[-1], scheme.scan
    blocks = -(-n // size)
    padded = np.full((*values.shape[:-1], blocks * size), identity, values.dtype)
    padded[..., :n] = values
    inside = padded.reshape(*values.shape[:-1], blocks, size)
    local = np.empty_like(inside)
    running = np.full(inside.shape[:-1], identity, values.dtype)
    with np.errstate(all="ignore"):
        for i in range(size):
            running = how(running, inside[..., i])
            local[..., i] = running
        before = np.full(running.shape, identity, values.dtype)
        if blocks > 1:
            before[..., 1:] = scan(running, name, scheme)[..., :-1]
        out = how(before[..., None], local)
    return np.asarray(out.reshape(*values.shape[:-1], -1)[..., :n])


# -- sums by index --------------------------------------------------------------------------------


def add_segments(
    target: Array, index: Array, source: Array, axis: int, scheme: Scheme = WRITTEN
) -> Array:
    """`target` with `source` added along `axis` at `index`, position by position.

    Args:
        index: One-dimensional, or of the shape of `source` (each place has its own).
    """
    out = np.moveaxis(target.copy(), axis, 0)
    came = np.moveaxis(source, axis, 0)
    own = index.ndim == source.ndim and source.ndim > 1
    at = np.moveaxis(index, axis, 0) if own else index
    others = np.ogrid[tuple(slice(n) for n in came.shape[1:])] if own else []
    positions = range(came.shape[0])
    for j in reversed(positions) if scheme.backwards else positions:
        place = (at[j], *others) if own else (at[j],)
        out[place] = out[place] + came[j]
    return np.moveaxis(out, 0, axis)
