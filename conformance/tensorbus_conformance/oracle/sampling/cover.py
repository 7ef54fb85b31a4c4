"""Covering arrays: few rows in which every pair of factor values occurs.

A factor is a name with the values that it can take.  Faults that need two things at once (a
negative stride in an operand of rank 5, keepdims with an empty axis) are met by rows that cover all
pairs; Kuhn, Wallace and Gallo, Software fault interactions and implications for software testing,
2004, found that pairs reveal 70 to 97 per cent of the faults of the programs that they studied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

__all__ = ["Row", "balanced", "pairs", "rows"]

Row = dict[str, Any]
Factors = Mapping[str, Sequence[Any]]

_CANDIDATES = 12
"""Random completions that are compared for each row; more make the array a little shorter."""


def pairs(
    factors: Factors, rng: np.random.Generator, allowed: Callable[[Row], bool] | None = None
) -> list[Row]:
    """Rows in which every allowed pair of values of two factors occurs, by a greedy search.

    Args:
        factors: Names with their values; one factor gives each value once.
        rng: Decides among equals.
        allowed: Says of a whole row whether it can be built.  A pair that no row found in 200 tries
            can hold is given up as impossible.
    """
    names = list(factors)
    if len(names) < 2:
        return [{name: v} for name in names for v in factors[name]]
    good = allowed or (lambda row: True)
    places = {n: list(range(len(factors[n]))) for n in names}
    open_pairs = {
        (a, i, b, j) for a, b in combinations(names, 2) for i, j in product(places[a], places[b])
    }
    found: list[Row] = []

    def gain(row: dict[str, int]) -> int:
        return sum((a, row[a], b, row[b]) in open_pairs for a, b in combinations(names, 2))

    def values(row: dict[str, int]) -> Row:
        return {n: factors[n][k] for n, k in row.items()}

    while open_pairs:
        a, i, b, j = min(open_pairs)
        best: dict[str, int] | None = None
        for attempt in range(200):
            row = {n: int(rng.integers(len(places[n]))) for n in names}
            row[a], row[b] = i, j
            if good(values(row)) and (best is None or gain(row) > gain(best)):
                best = row
            if best is not None and attempt >= _CANDIDATES:
                break
        if best is None:
            open_pairs.discard((a, i, b, j))
            continue
        open_pairs -= {(p, best[p], q, best[q]) for p, q in combinations(names, 2)}
        found.append(values(best))
    return found


def balanced(values: Sequence[Any], count: int, rng: np.random.Generator) -> list[Any]:
    """`count` values in random order, each value as often as any other, or once more."""
    order: list[Any] = []
    while len(order) < count:
        order += [values[k] for k in rng.permutation(len(values))]
    return order[:count]


def rows(
    strong: Factors,
    free: Factors,
    rng: np.random.Generator,
    *,
    deep: bool,
    most: int,
    allowed: Callable[[Row], bool] | None = None,
) -> list[Row]:
    """Rows of an op's sample.

    Args:
        strong: Factors that only this op has (options, forms of arguments): all pairs if `deep`,
            else every value once.
        free: Factors that ops share (sizes, ranks, layouts): every value of each occurs if `deep`
            and there are rows enough; which of them meet is random, so that the ops of a family
            cover the pairs together.
        most: Rows to have at level smoke, where `strong` needs no more; otherwise the least.
    """
    if deep:
        found = pairs(strong, rng, allowed) if strong else []
        count = max(most, len(found), *(len(v) for v in free.values())) if free else len(found)
    else:
        found, count = [], max(most, *(len(v) for v in strong.values())) if strong else most
    columns = {n: balanced(v, count, rng) for n, v in {**strong, **free}.items()}
    loose = [{n: column[k] for n, column in columns.items()} for k in range(count)]
    for k, row in enumerate(found):
        loose[k] = {**loose[k], **row}
    if allowed is None:
        return loose
    return [row for row in loose if allowed(row)]
