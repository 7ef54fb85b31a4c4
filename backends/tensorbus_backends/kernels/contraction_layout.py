"""Where the numbers of a contraction lie in its metadata: sizes, places of operands, limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from .base import DIMS

__all__ = [
    "BATCH", "COLUMNS", "INNER", "KBLOCK", "ROWS", "SHAPE", "SIZES", "Affine", "Layout", "Limit",
    "Walk",
]  # fmt: skip

KBLOCK = 256
"""Products of a block."""

# Words: how many rows, columns and k there are, the number of the batch's dimensions and their
# sizes, then the sizes of the dimensions of rows, columns and k, the operands, launch scalars.
ROWS, COLUMNS, INNER, BATCH, SHAPE = 0, 1, 2, 3, 4
SIZES = 4 + DIMS


class Limit(NamedTuple):
    """A coordinate of an operand that has to lie in [0, size).

    Attributes:
        size: Of the dimension in memory.
        start: Its value where all indices are 0; negative by the padding.
        first: Steps along the first group that the operand is indexed by, besides the batch.
        second: Steps along the second.
    """

    size: int
    start: int
    first: Sequence[int]
    second: Sequence[int]


class Walk(NamedTuple):
    """How the place of an operand's element follows from the indices.

    Attributes:
        batch: Strides along the batch's dimensions, in elements.
        first: Along rows (A, C, what the epilogue reads) or k (B).
        second: Along k (A) or columns (B, C, what the epilogue reads).
        start: Where all indices are 0, from the operand's offset on.
        limits: Coordinates that are checked.
    """

    batch: Sequence[int]
    first: Sequence[int]
    second: Sequence[int]
    start: int = 0
    limits: Sequence[Limit] = ()


class Affine(NamedTuple):
    """Words of an integer expression of indices: an operand's place, or a limited coordinate.

    Attributes:
        name: Beginning of the variables that hold its parts.
        start: Word of its value where all indices are 0.
        batch: First word of its steps along the batch; 0 for a coordinate, which has none.
        first: First word of its steps along the operand's first group.
        second: Along its second group.
        size: Word of a coordinate's size.
    """

    name: str
    start: int
    batch: int
    first: int
    second: int
    size: int = 0


@dataclass(frozen=True)
class Layout:
    """The words of a kernel.

    Attributes:
        dims: How many dimensions rows, columns and k have.
        limits: How many coordinates of A and of B are checked.
        names: Of the operands: A, B, what the epilogue reads, C.
        params: Number of launch scalars.
    """

    dims: tuple[int, int, int]
    limits: tuple[int, int]
    names: tuple[str, ...]
    params: int

    @cached_property
    def operands(self) -> list[tuple[Affine, list[Affine]]]:
        """Places of A, B, what the epilogue reads and C, with the coordinates to check."""
        rows, columns, inner = self.dims
        groups = {"a": (rows, inner), "b": (inner, columns)}
        found = []
        word = SIZES + sum(self.dims)
        for name in self.names:
            one, two = groups.get(name, (rows, columns))
            start, first = word + 1, word + 2 + DIMS
            place = Affine(f"{name}_", start, start + 1, first, first + one)
            word = first + one + two
            checks = []
            for k in range(self.limits["ab".index(name)] if name in groups else 0):
                checks.append(
                    Affine(f"{name}limit{k}_", word + 1, 0, word + 2, word + 2 + one, word)
                )
                word += 2 + one + two
            found.append((place, checks))
        return found

    @property
    def words(self) -> int:
        """How many there are."""
        return self.first_param + self.params

    @property
    def first_param(self) -> int:
        """The word of the first launch scalar."""
        c, _ = self.operands[-1]
        return c.second + self.dims[1]

    @cached_property
    def places(self) -> list[int]:
        """The word of the element offset of each argument."""
        return [place.start - 1 for place, _ in self.operands]

    def meta(
        self,
        batch: Sequence[int],
        rows: Sequence[int],
        columns: Sequence[int],
        inner: Sequence[int],
        walks: Sequence[Walk],
        params: Sequence[int] = (),
        offsets: Sequence[int] = (),
    ) -> list[int]:
        """Metadata words.

        Args:
            batch: Sizes of the batch's dimensions, at most `DIMS`.
            rows: Sizes of the dimensions of rows.
            columns: Of columns.
            inner: Of k.
            walks: Of A, B, what the epilogue reads, and C.
            params: Launch scalars, from `bits_of`.
            offsets: Element offsets of these; 0 without.
        """
        if (len(rows), len(columns), len(inner)) != self.dims:
            raise ValueError(f"contraction: a kernel of {self.dims} dimensions walks no others")
        words = [math.prod(rows), math.prod(columns), math.prod(inner), len(batch)]
        words += [*batch, *([1] * (DIMS - len(batch))), *rows, *columns, *inner]
        for k, walk in enumerate(walks):
            words += [offsets[k] if offsets else 0, walk.start]
            words += [*walk.batch, *([0] * (DIMS - len(batch))), *walk.first, *walk.second]
            for limit in walk.limits:
                words += [limit.size, limit.start, *limit.first, *limit.second]
        return [*words, *params]
