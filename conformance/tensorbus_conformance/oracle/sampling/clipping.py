"""Samples of `clip`: bounds as tensors, as Python scalars, one of them, none; crossed bounds."""

from __future__ import annotations

from typing import Any

import numpy as np

from .elementwise import FORMS, broadcast
from .sampler import Case, Sampler

__all__ = ["clip", "degenerate"]


def _scalars(sampler: Sampler) -> list[Any]:
    if sampler.floating:
        return [-0.5, 0.75, 0.0, -0.0, 1, 0.1, float("inf"), float("-inf")]
    info = np.iinfo(sampler.dtype)
    return [1, 50, 0, int(info.max), int(info.min), -20, 10**6]


def clip(sampler: Sampler) -> list[Case]:
    """Each form of each bound against each of the other's."""
    forms = ["tensor", "scalar", "none", "left out"]
    strong = {"min": forms, "max": forms}
    free: dict[str, Any] = {
        "size": sampler.sizes(),
        "rank": [0, 1, 2, 3, 6, 9] if sampler.deep else [1, 2, 3, 6],
        "layout": sampler.layouts(),
        "data": ["ordinary", "wide"],
        "low": _scalars(sampler),
        "high": _scalars(sampler),
        "form min": list(FORMS),
        "form max": list(FORMS),
    }
    found = []
    for row in sampler.rows(strong, free, smoke=6, standard=34):
        shape = sampler.shape(row["rank"], row["size"])
        x = sampler.array(shape, data=row["data"], layout=row["layout"])
        bounds: list[Any] = []
        for at, (name, scalar) in enumerate((("min", "low"), ("max", "high")), 1):
            form = row[name]
            if form == "tensor":
                mine = broadcast(sampler, shape, row[f"form {name}"])
                layout = sampler.pick(["contiguous", "negative", "gaps", "repeated"])
                bounds.append(sampler.array(mine, at, layout=layout))
            elif form == "scalar":
                bounds.append(row[scalar])
            elif form == "none" or (name == "min" and row["max"] != "left out"):
                bounds.append(None)
        label = f"{shape}, min {row['min']}, max {row['max']}, {row['layout']}"
        found.append(Case((x, *bounds), {}, label, False, row["data"] == "ordinary"))
    return found


def degenerate(sampler: Sampler) -> list[Case]:
    """No elements, no dimensions."""
    return [Case((sampler.array(s), 0, 1), {}, f"{s}") for s in ((), (0,), (1,), (2, 0, 3))]
