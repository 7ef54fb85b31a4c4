"""`Order`: calls of an op whose bits follow from docs/order.md, and what they must give.

The samples are made so that order matters: large numbers in pairs that cancel, small ones between
them, so that what a wrong order rounds away is a large part of the result.  `unseen` names the
other orders that a sample cannot tell from the written one; a sample that does its work has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .order import OTHERS, WRITTEN, Scheme

__all__ = ["TREE", "Call", "Elementary", "Order", "Sample", "rows_of", "sample", "unseen"]

Array = NDArray[Any]
Elementary = Mapping[str, Callable[[Array], Array]]
"""The device's own functions by name, from and to arrays."""

_ANY: Elementary = {"exp": np.exp, "log": np.log}
_DRAWS = 32


@dataclass(frozen=True)
class Call:
    """One call, or the gradient of one operand of it where there is a cotangent.

    Attributes:
        args: Arrays (None for an optional one left out).
        options: By name; axes, and arrays for operands that are keywords.
        label: What is particular about it.
        cotangent: Of the result.
        operand: Whose gradient is wanted.
    """

    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    cotangent: Array | None = None
    operand: int = 0


@dataclass(frozen=True)
class Order:
    """The order of one op.

    Attributes:
        calls: From a `Sample` to the calls.
        bits: ``bits(call, scheme, elementary)``: what the call must give in the call's dtype.
        sees: Names in `OTHERS` that the float32 and float64 samples tell from the written order.
        elementary: Names of the functions that the formula takes from the device.
    """

    calls: Callable[[Sample], list[Call]]
    bits: Callable[[Call, Scheme, Elementary], Array]
    sees: tuple[str, ...] = ()
    elementary: tuple[str, ...] = ()


class Sample:
    """Random data of one dtype.

    Args:
        deep: Whether more than the sample of level smoke is wanted.
    """

    def __init__(self, dtype: Any, seed: int, deep: bool) -> None:
        self.dtype, self.deep = np.dtype(dtype), deep
        self.rng = np.random.default_rng([seed, 0x0DE5])

    def spread(self, *shape: int) -> Array:
        """Signed numbers of any size in [2^-4, 2^4)."""
        size = np.exp2(self.rng.uniform(-4, 4, shape))
        return np.asarray(size * self.rng.choice([-1.0, 1.0], shape)).astype(self.dtype)

    def near_one(self, *shape: int) -> Array:
        """Numbers whose products stay in range: in [2^-0.05, 2^0.05), both signs."""
        size = np.exp2(self.rng.uniform(-0.05, 0.05, shape))
        return np.asarray(size * self.rng.choice([-1.0, 1.0], shape)).astype(self.dtype)

    def cancelling(self, *shape: int) -> Array:
        """Rows (last dimension) of pairs +-b, b in [2^8, 2^12), and numbers in [2^-10, 2^-4)."""
        rows, n = int(np.prod(shape[:-1], dtype=int)), shape[-1]
        pairs = n // 3
        big = np.exp2(self.rng.uniform(8, 12, (rows, pairs)))
        rest = np.exp2(self.rng.uniform(-10, -4, (rows, n - 2 * pairs)))
        rest *= self.rng.choice([-1.0, 1.0], rest.shape)
        values = np.concatenate([big, -big, rest], axis=1).astype(self.dtype)
        return np.ascontiguousarray(self.rng.permuted(values, axis=1).reshape(shape))

    def logits(self, *shape: int) -> Array:
        """Numbers in [-4, 4)."""
        return self.rng.uniform(-4, 4, shape).astype(self.dtype)

    def peaked(self, rows: int, n: int) -> Array:
        """Rows of one number and n - 1 that are 8 to 14 less.

        The sum of their exponentials is near 1, so that its logarithm keeps its last bits.
        """
        values = self.rng.uniform(-14, -8, (rows, n))
        values[np.arange(rows), self.rng.integers(0, n, rows)] = 0.0
        return (values + self.rng.uniform(-1, 1, (rows, 1))).astype(self.dtype)

    def index(self, size: int, *shape: int) -> Array:
        """Indices into `size` places."""
        return self.rng.integers(0, size, shape, dtype=np.int64)


def unseen(entry: Order, calls: Sequence[Call], written: Sequence[Array]) -> list[str]:
    """Which of the orders in `sees` give the bits of the written one in every call."""

    def same(scheme: Scheme) -> bool:
        return all(
            entry.bits(c, scheme, _ANY).tobytes() == w.tobytes()
            for c, w in zip(calls, written, strict=True)
        )

    return [name for name in entry.sees if same(OTHERS[name])]


def sample(
    entry: Order, dtype: Any, seed: int, deep: bool
) -> tuple[list[Call], list[Array], list[str]]:
    """Calls of an op, their bits with NumPy's elementary functions, and what they do not see.

    Whether a single sum shows another order is up to its last bits, so data is drawn again until
    every order in `sees` shows.  16-bit results hide most of what float32 rounds differently and
    are not held to it.
    """
    for attempt in range(_DRAWS):
        calls = entry.calls(Sample(dtype, seed + (attempt << 32), deep))
        written = [entry.bits(c, WRITTEN, _ANY) for c in calls]
        blind = unseen(entry, calls, written) if np.dtype(dtype).itemsize >= 4 else []
        if not blind:
            break
    return calls, written, blind


TREE = (
    "chunks of 4096",
    "chunks of 16384",
    "64 lanes",
    "256 lanes",
    "one lane",
    "neighbouring lanes first",
)
"""Other orders of a reduction."""


def rows_of(x: Array, axis: Any) -> tuple[Array, tuple[int, ...], list[int]]:
    """The reduced axes, C order, as the last dimension; the axes; the shape of the others."""
    every = tuple(range(x.ndim))
    axes = every if axis is None else tuple(axis) if isinstance(axis, tuple) else (axis,)
    axes = tuple(sorted(a % x.ndim for a in axes))
    kept = [k for k in every if k not in axes]
    sizes = [x.shape[k] for k in kept]
    count = int(np.prod([x.shape[a] for a in axes], dtype=int))
    return x.transpose(*kept, *axes).reshape(*sizes, count), axes, sizes
