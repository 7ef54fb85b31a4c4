"""Inputs: ordinary, special, adversarial; all seeded, the same on every machine.

Every generator takes a NumPy Generator from `generator`, which derives its stream from the seed
of the run and the labels of the cell, so cells do not depend on the order in which they run.
Integers come from the raw bits of PCG64 and floats from integers by exact scaling.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .op import OpReference
from .ulp import Format, format_of, round_to

__all__ = [
    "ACCUMULATION_KINDS",
    "accumulation",
    "all_patterns",
    "away_from",
    "distinct",
    "generator",
    "grid",
    "ill_conditioned",
    "ordinary",
    "patterns",
    "sample",
    "specials",
    "vectors",
]

Array = NDArray[Any]
Shape = tuple[int, ...]

ACCUMULATION_KINDS = (
    "ordinary",
    "positive",
    "zeros",
    "huge",
    "small_onto_large",
    "cancelling",
    "wide",
)
"""Kinds of data for sums and dot products; bias and variance are checked on the first two."""


def generator(seed: int, *labels: Any) -> np.random.Generator:
    """The random stream of one cell: PCG64 seeded by the run's seed and a CRC of the labels."""
    words = [zlib.crc32(str(label).encode()) for label in labels]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


def _units(rng: np.random.Generator, shape: Shape, bits: int = 52) -> NDArray[np.float64]:
    """Fractions in (0, 1): odd multiples of 2^-(bits + 1)."""
    integers = rng.integers(0, 1 << bits, shape, dtype=np.uint64)
    return np.asarray((integers.astype(np.float64) + 0.5) * 2.0**-bits)


def ordinary(
    rng: np.random.Generator, shape: Shape, dtype: Any, low: float = -4.0, high: float = 4.0
) -> Array:
    """Numbers between `low` and `high`; integers cover their range's middle, bools are fair."""
    target = np.dtype(dtype)
    fmt = format_of(target)
    if fmt is not None:
        return round_to(low + (high - low) * _units(rng, shape), fmt)
    if target == np.bool_:
        return np.asarray(rng.integers(0, 2, shape, dtype=np.uint8).astype(np.bool_))
    return np.asarray(rng.integers(0 if target.kind == "u" else -9, 10, shape).astype(target))


def sample(op: OpReference, rng: np.random.Generator, shape: Shape, dtype: Any) -> list[Array]:
    """Ordinary arguments, one for each of the op's most tensors, from its domain."""
    return [ordinary(rng, shape, dtype, low, high) for low, high in op.domain]


def specials(dtype: Any) -> Array:
    """The special values of a dtype, one-dimensional.

    Floats: both zeros and infinities, NaN, subnormals, the ends of the range, 1 and 1/2 and
    their neighbours, powers of two and theirs, small integers and halves (ties of rounding),
    multiples of pi/2 and numbers just below and above where exp over- and underflows.
    Integers: the ends, zero and what lies beside them, powers of two.
    """
    target = np.dtype(dtype)
    fmt = format_of(target)
    if target == np.bool_:
        return np.array([False, True])
    if fmt is None:
        info = np.iinfo(target)
        values = {info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 7, 10}
        values |= {1 << k for k in range(0, info.bits - 1, 3)}
        if info.min:
            values |= {-1, -2, -3, -7, -10}
        return np.array(sorted(values), target)
    return _special_floats(fmt)


def _special_floats(fmt: Format) -> Array:
    powers = [2.0**k for k in (-24, -12, -3, -1, 0, 1, 4, 10, fmt.emax, fmt.emin)]
    step = 2.0 ** (1 - fmt.p)
    values = [0.0, math.inf, math.nan, fmt.tiny, 3 * fmt.tiny, fmt.min_normal - fmt.tiny, fmt.max]
    for power in powers:
        values += [power, power * (1 + step), power * (1 - step / 2)]
    values += [0.5, 1.5, 2.5, 3.0, 3.5, 7.0, 100.0, 1 / 3, math.pi / 2, math.pi, 22.0]
    edge = math.log(2) * (fmt.emax + 1)
    values += [edge * (1 - 2 * step), edge * (1 + 2 * step), edge / 2, math.log(fmt.min_normal)]
    values += [math.log(fmt.tiny), fmt.max / 2, math.sqrt(fmt.max), math.sqrt(fmt.min_normal)]
    values += [2.0 ** (fmt.p - 1) + 0.5, 2.0**fmt.p, 2.0 ** (fmt.p + 1)]
    positive = round_to(np.array(values), fmt)
    both = np.concatenate([positive, -positive])
    bits = both.view(f"uint{8 * both.dtype.itemsize}")
    return both[np.sort(np.unique(bits, return_index=True)[1])]


def grid(values: Array, count: int) -> list[Array]:
    """Every combination of `count` of the values, as `count` one-dimensional arrays."""
    mesh = np.meshgrid(*[np.arange(values.size)] * count, indexing="ij")
    return [values[m.reshape(-1)] for m in mesh]


def all_patterns(dtype: Any) -> Array:
    """All 65,536 bit patterns of a 16-bit (or all 256 of an 8-bit) dtype, in order of bits."""
    target = np.dtype(dtype)
    if target.itemsize > 2:
        raise ValueError(f"{target} has too many patterns to hold; use `patterns` for random ones")
    bits = 8 * target.itemsize
    return np.arange(1 << bits, dtype=np.uint64).astype(f"uint{bits}").view(target)


def patterns(rng: np.random.Generator, shape: Shape, dtype: Any) -> Array:
    """Random bit patterns: every exponent alike, NaN, infinities and subnormals included."""
    target = np.dtype(dtype)
    bits = 8 * target.itemsize
    raw = rng.integers(0, (1 << bits) - 1, shape, dtype=np.uint64, endpoint=True)
    return np.asarray(np.asarray(raw).astype(f"uint{bits}").view(target))


def accumulation(
    rng: np.random.Generator, shape: Shape, dtype: Any, kind: str, terms: int, product: bool = False
) -> Array:
    """Data for sums of `terms` numbers, or of products of two such numbers with `product`.

    ``"ordinary"``: signs at random; ``"positive"``: in [0.5, 1), where biased rounding adds up;
    ``"zeros"``: zeros of both signs; ``"huge"``: just below where the sum of absolute terms
    overflows; ``"small_onto_large"``: one large number among ones far below its last place;
    ``"cancelling"``: pairs x, -x whose sums leave only small terms; ``"wide"``: exponents across
    half the range.  Raises ValueError for another kind.
    """
    target = np.dtype(dtype)
    fmt = format_of(target)
    if fmt is None:
        return ordinary(rng, shape, dtype)
    top = (fmt.emax - math.ceil(math.log2(max(terms, 2))) - 1) // (2 if product else 1)
    unit = _units(rng, shape)
    sign = np.where(rng.integers(0, 2, shape) == 1, 1.0, -1.0)
    if kind == "ordinary":
        values = sign * unit
    elif kind == "positive":
        values = 0.5 + unit / 2
    elif kind == "zeros":
        values = sign * 0.0
    elif kind == "huge":
        values = sign * np.ldexp(0.5 + unit / 2, top)
    elif kind == "small_onto_large":
        values = sign * unit
        if shape and shape[-1]:
            values[..., 0] = np.ldexp(1.0, min(fmt.compute.p, top))
    elif kind == "cancelling":
        values = sign * np.ldexp(unit, min(8, top))
        half = shape[-1] // 2 if shape else 0
        values[..., half : 2 * half] = -values[..., :half]
        values = values + np.where(np.arange(shape[-1] if shape else 1) % 7 == 0, 2.0**-6, 0.0)
    elif kind == "wide":
        low = fmt.emin // (4 if product else 2)
        exponents = rng.integers(low, max(top // 2, low + 1), shape)
        values = sign * np.ldexp(0.5 + unit / 2, exponents.astype(np.int32))
    else:
        raise ValueError(f"no accumulation data called {kind!r}; there are {ACCUMULATION_KINDS}")
    return round_to(values, fmt)


def ill_conditioned(rng: np.random.Generator, shape: Shape, dtype: Any) -> Array:
    """Data of large mean and small deviation, on which a one-pass variance loses its digits.

    The ratio of mean to deviation is about 2^(p/2 + 2) for the format of the computation, or
    what the dtype can still resolve (2^(p - 4) with its own p).
    """
    fmt = format_of(dtype)
    if fmt is None:
        raise ValueError(f"{np.dtype(dtype)} has no variance")
    bits = min(fmt.compute.p // 2 + 2, fmt.p - 4)
    return round_to(2.0**bits + 2 * _units(rng, shape) - 1, fmt)


def distinct(rng: np.random.Generator, shape: Shape, dtype: Any) -> Array:
    """Shuffled numbers no two of which are equal or near: for gradients of max, sort, median."""
    count = math.prod(shape)
    order = rng.permutation(count).astype(np.float64)
    values = (order - count / 2 + 0.25) / 4
    fmt = format_of(dtype)
    if fmt is None:
        return (order - count // 2).astype(dtype).reshape(shape)
    return round_to(values, fmt).reshape(shape)


def away_from(values: Array, kinks: tuple[float, ...], distance: float = 0.125) -> Array:
    """The values with those within `distance` of a kink moved out of it: for gradient checks."""
    fmt = format_of(values.dtype)
    if fmt is None:
        return values
    wide = values.astype(np.float64)
    for kink in kinks:
        near = np.abs(wide - kink) < distance
        wide = np.where(near, kink + np.where(wide >= kink, distance, -distance), wide)
    return round_to(wide, fmt)


def vectors(rng: np.random.Generator, shapes: list[Shape], dtype: Any) -> list[Array]:
    """Random cotangents or tangents: no symmetric pattern, no zeros, both signs."""
    fmt = format_of(dtype)
    if fmt is None:
        raise ValueError(f"{np.dtype(dtype)} has no gradients")
    result = []
    for shape in shapes:
        sign = np.where(rng.integers(0, 2, shape) == 1, 1.0, -1.0)
        result.append(round_to(sign * (0.25 + _units(rng, shape)), fmt))
    return result
