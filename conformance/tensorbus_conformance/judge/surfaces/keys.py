"""Keys of ``x[key]``: every pair of kinds of parts, on every rank and layout, drawn by a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray

from .checks import Checks

__all__ = ["LAYOUTS", "Key", "keys"]

Array = NDArray[Any]

LAYOUTS = ("contiguous", "general", "transposed", "negative", "offset")
"""Layouts whose elements all have a place of their own."""


@dataclass(frozen=True)
class Key:
    """A key as both libraries take it.

    Attributes:
        shape: Of the tensor that it is for.
        layout: Of that tensor.
        ours: The key, with tensors.
        numpy: The same with arrays.
        advanced: Whether it names elements by tensors, so that reading copies.
    """

    shape: tuple[int, ...]
    layout: str
    ours: Any
    numpy: Any
    advanced: bool

    def __str__(self) -> str:
        text = repr(self.numpy).replace("\n", "").replace(" ", "")
        return f"{self.layout} {list(self.shape)}[{text:.200}]"


def _slices(n: int) -> list[slice]:
    m = max(n // 2, 1)
    return [
        slice(None), slice(1, None), slice(None, -1), slice(None, None, 2), slice(None, None, -1),
        slice(-2, None, -2), slice(n, 0, -1), slice(-100, 100), slice(m, m), slice(100, None),
        slice(None, -100, -1), slice(m, None, -3), slice(-1, None), slice(np.int64(0), n, n + 1),
        slice(-n, n, 1), slice(n - 1, -n - 1, -1), slice(3, 1), slice(None, m, None),
    ]  # fmt: skip


_KINDS = (
    "int", "-int", "edge", "slice", "back", "rare", "none", "dots", "zero-d", "list", "array",
    "grid", "column", "void", "mask", "all", "nobody", "mask2", "truth",
)  # fmt: skip
_INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")
_ADVANCED = {
    "zero-d", "list", "array", "grid", "column", "void", "mask", "all", "nobody", "mask2", "truth"
}  # fmt: skip


_BESIDE = (
    ("array", "array"),
    ("int", "array"),
    ("array", "int"),
    ("mask", "grid"),
    ("list", "all"),
)
"""Parts whose common dimensions go in front if anything stands between them: even an ellipsis
that stands for no dimension."""


class _Maker:
    """Makes parts of keys; index dtypes and slices are taken in turn, values drawn."""

    def __init__(self, checks: Checks) -> None:
        self.checks, self.rng = checks, checks.rng
        self.turn = 0
        few = _INTEGERS if checks.thorough else ("int64", "int32", "uint8")
        self.integers = [n for n in few if n in checks.device.capabilities.dtypes]

    def part(self, kind: str, shape: tuple[int, ...]) -> tuple[Any, Any, int]:
        """Our part, NumPy's, and how many of the dimensions left it takes."""
        self.turn += 1
        n = shape[0] if shape else 0
        rng = self.rng
        if kind == "none":
            return None, None, 0
        if kind == "dots":
            return Ellipsis, Ellipsis, 0
        if kind == "truth":
            held = np.asarray(bool(rng.integers(2)))
            return self.checks.put(held), held, 0
        if kind == "int":
            k = int(rng.integers(0, n))
            return (k, np.int16(k))[self.turn % 2], k, 1
        if kind == "-int":
            k = int(rng.integers(-n, 0))
            return k, k, 1
        if kind == "edge":
            k = (0, -n, n - 1, -1)[self.turn % 4]
            return k, k, 1
        if kind in ("slice", "back", "rare"):
            found = _slices(n)
            if kind != "rare":
                found = [s for s in found if ((s.step or 1) < 0) == (kind == "back")]
            s = found[self.turn % len(found)]
            return s, s, 1
        if kind in ("mask", "all", "nobody"):
            chosen = rng.integers(0, 2, n).astype(bool)
            chosen[:] = chosen if kind == "mask" else kind == "all"
            return self.checks.put(chosen), chosen, 1
        if kind == "mask2":
            two = rng.integers(0, 2, shape[:2]).astype(bool)
            return self.checks.put(two, ("contiguous", "transposed")[self.turn % 2]), two, 2
        return self._integers(kind, n)

    def _integers(self, kind: str, n: int) -> tuple[Any, Any, int]:
        sizes = {"grid": (2, 3), "column": (2, 1), "void": (0,), "zero-d": ()}.get(kind, (3,))
        name = self.integers[self.turn % len(self.integers)]
        low = 0 if name.startswith("u") else -n
        index = self.rng.integers(low, n, sizes).astype(name)
        if kind == "list":
            return [int(k) for k in index], index, 1
        if kind == "array" and self.turn % 4 == 0:
            return index, index, 1
        layout = ("contiguous", "negative", "general")[self.turn % 3]
        return self.checks.put(index, layout), index, 1


def keys(checks: Checks, count: int) -> Iterator[Key]:
    """About `count` keys: all pairs of kinds beside each other, then other ranks.

    At level smoke a seeded choice of the pairs; every kind is there at every level.
    """
    maker, rng = _Maker(checks), checks.rng
    pairs = [(a, b) for a in _KINDS for b in _KINDS]
    order = rng.permutation(len(pairs))
    plans: list[tuple[tuple[int, ...], tuple[str, ...]]] = []
    plans += [((5, 4, 3), (kind,)) for kind in _KINDS]
    plans += [((7,), (kind,)) for kind in _KINDS if kind != "mask2"]
    plans += [((5, 4, 3), pairs[k]) for k in order]
    if checks.thorough:
        plans = plans[: max(count, 38)]
    else:  # every kind once, a share of the pairs
        plans = plans[:19] + plans[37:57]
    deep = (2, 3, 1, 2, 1, 2, 1, 2, 3)
    for rank in range(10):
        plans += [
            (deep[:rank], kinds)
            for kinds in _mixtures(rng, rank, 2 + count // 60 if checks.thorough else 1)
        ]
    for between in ("dots", "none", "slice"):
        for first in ("slice", "none") if checks.thorough else ("slice",):
            rank = 2 + (first != "none") + (between == "slice")
            plans += [((5, 4, 3, 2)[:rank], (first, one, between, two)) for one, two in _BESIDE]
    plans += [((0, 3), ("slice", "none", "back")), ((3, 0), ("array", "slice")), ((0,), ("void",))]
    for number, (shape, kinds) in enumerate(plans):
        made = _key(maker, shape, kinds)
        if made is not None:
            ours, theirs = made
            bare = len(kinds) == 1 and number % 2 == 0
            yield Key(
                shape,
                LAYOUTS[number % len(LAYOUTS)]
                if len(shape) < 5
                else ("offset", "negative")[number % 2],
                ours[0] if bare else ours,
                theirs[0] if bare else theirs,
                any(k in _ADVANCED for k in kinds),
            )


def _mixtures(rng: np.random.Generator, rank: int, count: int) -> Iterator[tuple[str, ...]]:
    yield ()
    for _ in range(count):
        length = int(rng.integers(1, rank + 3))
        kinds = [str(k) for k in rng.choice(_KINDS, length)]
        few = [k for k in kinds if k not in _ADVANCED] if rng.integers(2) else kinds
        dots = [k for k, kind in enumerate(few) if kind == "dots"]
        yield tuple(kind for k, kind in enumerate(few) if k not in dots[1:])


def _key(
    maker: _Maker, shape: tuple[int, ...], kinds: tuple[str, ...]
) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
    """Parts for these kinds from the first dimension on; None if there are too few dimensions."""
    if kinds.count("dots") > 1:
        return None
    takes: Callable[[str], int] = lambda kind: (  # noqa: E731
        2 if kind == "mask2" else 0 if kind in ("none", "dots", "truth") else 1
    )
    needed = sum(takes(k) for k in kinds)
    if needed > len(shape):
        return None
    ours, theirs, axis = [], [], 0
    for kind in kinds:
        if kind == "dots":
            axis += len(shape) - needed
        left = shape[axis:]
        fixed = kind not in ("none", "dots", "truth", "slice", "back", "rare", "void", "mask2")
        if fixed and not left[0] and kind not in ("mask", "all", "nobody"):
            return None
        one, other, took = maker.part(kind, left)
        ours.append(one)
        theirs.append(other)
        axis += took
    return tuple(ours), tuple(theirs)


def is_tensor(part: Any) -> bool:
    """Whether a part of a key is a tensor."""
    return isinstance(part, tb.Tensor)
