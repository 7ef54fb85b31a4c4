"""Views of many dimensions whose strides merge where they are meant to, and nowhere else.

A kernel walks at most 16 dimensions that do not merge, 15 of them once per row.  Every element of
the memory is another word, so a dimension that is skipped, walked with a neighbour's stride or
merged with one that does not fit gives other words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["KINDS", "WALKED", "View", "views"]

WALKED = 16
"""Dimensions that do not merge which a kernel walks, the innermost included."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """A strided view of a vector of `memory` elements; strides and offset count elements."""

    label: str
    shape: Shape
    strides: Shape
    offset: int
    memory: int


def _laid(label: str, shape: Shape, order: list[int], gaps: list[int], signs: list[int]) -> View:
    """Dimensions in memory from the last of `order` outwards, each with a gap behind it."""
    strides, step, offset = [0] * len(shape), 1, 0
    for k in reversed(order):
        strides[k] = step * signs[k]
        if signs[k] < 0:
            offset += step * (shape[k] - 1)
        if signs[k]:
            step = step * shape[k] + gaps[k]
    return View(label, shape, tuple(strides), offset, step + 1)


KINDS = ("gapped", "permuted", "negative", "broadcast", "merging")


def views(
    rng: np.random.Generator,
    inner: int,
    ranks: tuple[int, ...],
    kinds: tuple[str, ...] = KINDS,
) -> Iterator[View]:
    """Views of each rank: sizes 2 and 3, the last one `inner` (2 or 3 if that is 0).

    Above rank 9 all sizes are 2; one pair of neighbours merges in ranks above `WALKED`.

    For each rank: no two dimensions merge; in memory in another order; some of them backwards; one
    broadcast; two neighbours merge, at a place of the seed's choice.
    """
    for rank in ranks:
        for kind in kinds:
            sizes = [int(n) for n in rng.integers(2, 4 if rank < 10 else 3, rank)]
            if inner:
                sizes[-1] = inner
            gaps, signs, order = [1] * rank, [1] * rank, list(range(rank))
            # Beyond what is walked, two neighbours have to merge.
            joined = int(rng.integers(1, rank)) if kind == "merging" or rank > WALKED else 0
            if kind == "permuted":
                order = [int(k) for k in rng.permutation(rank)]
                if joined:
                    order = [k for k in order if k != joined]
                    order.insert(order.index(joined - 1) + 1, joined)
            elif kind == "negative":
                signs = [int(s) for s in rng.choice([-1, 1], rank)]
            elif kind == "broadcast":
                signs[
                    int(rng.choice([k for k in range(rank) if k not in (joined - 1, joined)]))
                ] = 0
            if joined:
                gaps[joined], signs[joined] = 0, signs[joined - 1]
            yield _laid(f"rank {rank}, {kind}", tuple(sizes), order, gaps, signs)
