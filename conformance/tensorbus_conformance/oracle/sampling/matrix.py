"""Samples of products of matrices and vectors."""

from __future__ import annotations

from typing import Any

from . import arrays
from .elementwise import broadcast
from .sampler import AXIS_FORMS, Case, Sampler, Shape

__all__ = ["linear", "matmul", "matmul_degenerate", "mse_loss", "tensordot", "vecdot"]

INNER = (1, 2, 3, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300, 511, 512, 513, 1025)
"""Lengths of sums: around every power of two up to 512, and beyond two blocks."""

OUTER = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70)
"""Rows and columns: around the tiles of product kernels."""

DATA = ("ordinary", "positive", "cancelling", "small_onto_large", "zeros")
_LAYOUTS = ("contiguous", "reversed order", "negative", "gaps", "padded rows", "offset", "repeated")


def _kinds(sampler: Sampler) -> list[str]:
    """Ordinary data as often as all other kinds at smoke, and every other kind at standard."""
    if not sampler.floating:
        return ["ordinary", "wide"]
    return ["ordinary", "ordinary", *(DATA[1:] if sampler.deep else [sampler.pick(DATA[1:])])]


def _case(sampler: Sampler, row: dict[str, Any], a: Shape, b: Shape, **options: Any) -> Case:
    kind = row["data"]
    x = sampler.array(a, 0, data=kind, layout=row["left"])
    y = sampler.array(b, 1, data=kind, layout=row["right"])
    shared = {row["left"], row["right"]} & set(arrays.SHARING)
    plain = kind in ("ordinary", "positive") and not shared
    label = f"{kind} {a} and {b}, {row['left']} and {row['right']}"
    return Case((x, y), options, label, plain, kind == "ordinary")


def _free(sampler: Sampler) -> dict[str, Any]:
    return {
        "k": list(INNER)
        if sampler.deep
        else [sampler.pick(INNER[:6]), sampler.pick(INNER[6:13]), *sampler.some(INNER[13:], 2)],
        "m": sampler.some(OUTER, 4),
        "n": sampler.some(OUTER, 4),
        "left": sampler.some(_LAYOUTS, 3),
        "right": sampler.some(_LAYOUTS, 3),
        "data": _kinds(sampler),
    }


def matmul(sampler: Sampler) -> list[Case]:
    """Matrices, vectors on either side, batches that broadcast."""
    forms: dict[str, Any] = {
        "matrices": lambda m, k, n: ((m, k), (k, n)),
        "vector left": lambda m, k, n: ((k,), (k, n)),
        "vector right": lambda m, k, n: ((m, k), (k,)),
        "vectors": lambda m, k, n: ((k,), (k,)),
        "batch": lambda m, k, n: ((3, m, k), (3, k, n)),
        "batch left": lambda m, k, n: ((2, 3, m, k), (k, n)),
        "batch right": lambda m, k, n: ((m, k), (2, k, n)),
        "batches broadcast": lambda m, k, n: ((2, 1, m, k), (3, k, n)),
        "vector and batch": lambda m, k, n: ((k,), (4, k, n)),
        "five dimensions": lambda m, k, n: ((2, 1, 2, m, k), (1, 3, 1, k, n)),
    }
    found = []
    names = ["matrices", "matrices", *forms] if sampler.deep else sampler.some(list(forms), 4)
    for row in sampler.rows({}, {"form": names, **_free(sampler)}, smoke=5, standard=24):
        batched = row["form"] not in ("matrices", "vector left", "vector right", "vectors")
        m, n = (min(v, 17) if batched else v for v in (row["m"], row["n"]))
        a, b = forms[row["form"]](m, row["k"], n)
        found.append(_case(sampler, row, a, b))
    return found


def matmul_degenerate(sampler: Sampler) -> list[Case]:
    """No rows, no columns, nothing to sum, ones."""
    shapes: list[tuple[Shape, Shape]] = [
        ((1, 1), (1, 1)),
        ((3, 0), (0, 4)),
        ((0, 3), (3, 2)),
        ((2, 3), (3, 0)),
        ((1, 7), (7, 1)),
        ((0,), (0,)),
        ((0, 2, 3), (3, 2)),
        ((1, 2, 3), (5, 3, 1)),
    ]
    return [Case((sampler.array(a), sampler.array(b, 1)), {}, f"{a} @ {b}") for a, b in shapes]


def vecdot(sampler: Sampler) -> list[Case]:
    """Any axis, operands that broadcast, either of which may have fewer dimensions."""
    found = []
    strong = {"axis": ["default", *AXIS_FORMS], "form": ["same", "row", "right", "ones"]}
    for row in sampler.rows(strong, _free(sampler), smoke=4, standard=20):
        shape: Shape = (3, row["k"]) if row["axis"] not in ("-ndim", "first") else (row["k"], 3)
        other = shape
        axis = {"first": 0, "last": 1, "-ndim": -2}.get(row["axis"], -1)
        if row["form"] in ("row", "right"):
            shape, other = ((2, *shape), shape)[:: 1 if row["form"] == "row" else -1]
            axis += axis >= 0
        elif row["form"] == "ones":
            other = tuple(1 if k != axis % 2 else n for k, n in enumerate(shape))
        options = {} if row["axis"] == "default" else {"axis": axis}
        found.append(_case(sampler, row, shape, other, **options))
    return found


def tensordot(sampler: Sampler) -> list[Case]:
    """Numbers of axes, and pairs of axes in any order, negative ones too."""
    calls: list[tuple[Shape, Shape, dict[str, Any]]] = [
        ((3, 4, 5), (4, 5, 6), {}),
        ((3, 4, 5), (4, 5, 6), {"axes": 2}),
        ((3, 4), (5, 2), {"axes": 0}),
        ((3, 40), (40, 5), {"axes": 1}),
        ((3, 4, 5), (6, 4, 3), {"axes": ((1, 0), (1, 2))}),
        ((3, 4, 5), (6, 4, 3), {"axes": ((-2, -3), (-2, -1))}),
        ((300, 2), (2, 300), {"axes": ((0,), (1,))}),
        ((2, 3, 4), (2, 3, 4), {"axes": 3}),
        ((2, 3, 2, 3), (3, 2, 5), {"axes": ((1, 2), (0, 1))}),
        ((4,), (4,), {"axes": 1}),
        ((3, 0), (0, 2), {"axes": 1}),
    ]
    found = []
    for k, (a, b, options) in enumerate(sampler.some(calls, 4)):
        free = _free(sampler)
        row = {n: sampler.pick(v) for n, v in free.items()}
        row["data"] = "ordinary" if k == 0 or not sampler.floating else row["data"]
        found.append(_case(sampler, row, a, b, **options))
    return found


def linear(sampler: Sampler) -> list[Case]:
    """With and without bias, one output or many, any leading dimensions."""
    found = []
    strong = {"bias": [False, True], "lead": [(), (9,), (2, 5), (0,)], "outputs": ["one", "many"]}
    for row in sampler.rows(strong, _free(sampler), smoke=4, standard=16):
        many = row["outputs"] == "many"
        weight: Shape = (row["n"], row["k"]) if many else (row["k"],)
        case = _case(sampler, row, (*row["lead"], row["k"]), weight)
        if row["bias"]:
            layout = sampler.pick(["contiguous", "negative", "gaps"])
            bias = sampler.array((row["n"],) if many else (), 2, layout=layout)
            case = Case((*case.args, bias), {}, f"{case.label}, bias", case.random, case.smooth)
        found.append(case)
    return found


def mse_loss(sampler: Sampler) -> list[Case]:
    """Each reduction; shapes of any rank, either of which may be the smaller one."""

    found = []
    strong = {"reduction": ["mean", "sum", "none", None]}
    free = {
        "rank": [1, 2, 3, 5],
        "size": sampler.sizes(),
        "left": sampler.layouts(),
        "right": sampler.layouts(),
        "form": ["same", "same", "trailing", "column", "mixed"],
        "data": ["ordinary"],
    }
    for row in sampler.rows(strong, free, smoke=4, standard=16):
        shape = sampler.shape(row["rank"], row["size"])
        other = broadcast(sampler, shape, row["form"])
        pair = (shape, other) if sampler.rng.random() < 0.5 else (other, shape)
        options = {} if row["reduction"] is None else {"reduction": row["reduction"]}
        found.append(_case(sampler, row, *pair, **options))
    return found
