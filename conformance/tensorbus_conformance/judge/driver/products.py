"""How matrix products are put to libraries: `gemm` against addresses counted one by one.

A plan is carried out on a memory of small integers, element by element, by the definition of its
fields; which cases have a plan follows from trying every transposition and leading dimension.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt, gemm
from tensorbus_backends.contract import NativeCase

from ..items import Outcome
from ..session import Session
from .base import Checks, duty

Array = NDArray[Any]
Layout = tuple[tuple[int, ...], tuple[int, ...]]
"""Shape and strides, in elements."""

_KINDS = ("plain", "turned", "padded", "padded turned", "gapped", "rows overlap", "still", "back")
_BATCHES: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((), ()), ((3,), (3,)), ((3,), ()), ((), (2,)), ((2, 1), (3,)), ((1, 3), (2, 1)), ((4,), (1,)),
    ((2, 3), (2, 3)), ((2, 3), ()), ((1,), (1,)), ((1, 1), (1,)),
)  # fmt: skip


def _matrix(rows: int, columns: int, kind: str) -> tuple[int, int, int]:
    """Strides of a matrix and the elements that it spans."""
    down, across = {
        "plain": (columns, 1), "turned": (1, rows), "padded": (columns + 3, 1),
        "padded turned": (1, rows + 2), "gapped": (2 * columns, 2),
        "rows overlap": (columns - 1, 1), "still": (0, 1), "back": (-columns, 1),
    }[kind]  # fmt: skip
    return down, across, abs(down) * (rows - 1) + across * (columns - 1) + 1


def _operand(batch: Sequence[int], rows: int, columns: int, kind: str, order: str) -> Layout:
    down, across, size = _matrix(rows, columns, kind)
    strides, step = [0] * len(batch), size + (3 if order == "apart" else 0)
    if order == "merged":  # rows of the next matrix follow those of this one
        step = down * rows if down > 0 else size
    places = range(len(batch)) if order == "crossed" else reversed(range(len(batch)))
    for k in places:
        strides[k], step = step, step * batch[k]
    if order == "back" and batch:
        strides[-1] = -strides[-1]
    return (*batch, rows, columns), (*strides, down, across)


def _places(layout: Layout, batch: Sequence[int]) -> Array:
    """Address of every element, [*batch, rows, columns]; the least one is 0."""
    shape, strides = layout
    whole = np.zeros(shape, np.int64)
    for axis, (n, s) in enumerate(zip(shape, strides, strict=True)):
        whole += (np.arange(n) * s).reshape([n if k == axis else 1 for k in range(len(shape))])
    return np.broadcast_to(whole, (*batch, *shape[-2:]))


def _addressable(layout: Layout) -> bool:
    """Whether a transposition and a leading dimension give the addresses of each matrix."""
    (rows, columns), (down, across) = layout[0][-2:], layout[1][-2:]
    for n, wide, outer, inner in ((rows, columns, down, across), (columns, rows, across, down)):
        if (wide == 1 or inner == 1) and (n == 1 or outer >= max(wide, 1)):
            return True
    return False


def _carried_out(p: gemm.Product, memory: Sequence[Array], lows: Sequence[int], size: int,
                 column: bool) -> Array:  # fmt: skip
    """C after the batch of a plan; NaN where nothing was written."""
    c = np.full(size, np.nan)

    def at(i: Array, j: Array, ld: int) -> Array:
        return np.asarray(i + j * ld if column else i * ld + j)

    i, j, k = np.arange(p.m), np.arange(p.n), np.arange(p.k)
    a = at(k, i[:, None], p.lda) if p.trans_a else at(i[:, None], k, p.lda)
    b = at(j, k[:, None], p.ldb) if p.trans_b else at(k[:, None], j, p.ldb)
    for row in p.offsets.tolist():
        left, right = memory[0][row[0] - lows[0] + a], memory[1][row[1] - lows[1] + b]
        c[row[2] + at(i[:, None], j, p.ldc)] = left @ right
    return c


def _judge(checks: Checks, a: Layout, b: Layout, label: str) -> None:
    batch = np.broadcast_shapes(a[0][:-2], b[0][:-2])
    shape = (*batch, a[0][-2], b[0][-1])
    steps = tuple(int(np.prod(shape[k + 1 :], dtype=np.int64)) for k in range(len(shape)))
    case = NativeCase("matmul", (dt.float32,) * 3, (a[0], b[0], shape), (a[1], b[1], steps))
    due = _addressable(a) and _addressable(b)
    if not checks.that(
        gemm.supported(case, (dt.float32,)) is due, f"{label}: supported is not {due}"
    ) or not due:  # fmt: skip
        return
    p = gemm.plan(case.shapes, case.strides)
    places = [_places(x, batch) for x in (a, b)]
    lows = [int(x.min()) for x in places]
    memory = [
        (np.arange(x.max() - x.min() + 1) * (7 + k) % 23 - 11.0) for k, x in enumerate(places)
    ]
    want = np.matmul(memory[0][places[0] - lows[0]], memory[1][places[1] - lows[1]])
    size = math.prod(shape)
    got = _carried_out(p, memory, lows, size, False)
    checks.that(bool((got == want.reshape(-1)).all()), f"{label}: the plan is another product")
    turned = p.column_major()
    got = _carried_out(turned, memory[::-1], lows[::-1], size, True)
    checks.that(bool((got == want.reshape(-1)).all()), f"{label}: in column-major order")
    _figures(checks, p, label)
    _figures(checks, turned, f"{label}, column-major")
    largest = max(p.m, p.n, p.k, p.lda, p.ldb, p.ldc, p.batch)
    for most in (largest, largest - 1):
        found = gemm.supported(case, (dt.float64, dt.float32), most)
        checks.that(found is (most == largest), f"{label}: at most {most} is {found}")
    checks.that(not gemm.supported(case, (dt.float64,)), f"{label}: another dtype is taken")


def _figures(checks: Checks, p: gemm.Product, label: str) -> None:
    checks.that(p.offsets.shape == (p.batch, 3), f"{label}: {p.offsets.shape} offsets")
    checks.that(p.batch == math.prod(p.shape), f"{label}: a batch of {p.batch}")
    ways = np.diff(p.offsets, axis=0)
    even = p.batch == 1 or bool(((ways == ways[0]) & (ways >= 0)).all())
    if p.strides is None:
        checks.that(not even, f"{label}: even steps have no strides")
    else:
        along = np.arange(p.batch)[:, None] * np.array(p.strides)
        checks.that(bool((p.offsets == along).all()), f"{label}: strides differ from offsets")


def plans(session: Session) -> Outcome:
    """Every case that a library can address is taken, and its plan is that product."""
    checks = Checks("plans")
    sizes = ((2, 3, 4), (1, 3, 2), (3, 1, 2), (2, 3, 1), (1, 1, 1), (3, 2, 1), (1, 4, 1))
    orders = ("apart", "merged", "crossed", "back")
    rounds = itertools.cycle(itertools.product(orders, orders))
    smoke = session.level == "smoke"
    for count, ((m, k, n), first, second) in enumerate(itertools.product(sizes, _KINDS, _KINDS)):
        if smoke and count % 3:
            continue
        for turn in range(1 if smoke else 3):
            one, two = _BATCHES[(count + 4 * turn) % len(_BATCHES)]
            x, y = next(rounds)
            a, b = _operand(one, m, k, first, x), _operand(two, k, n, second, y)
            _judge(checks, a, b, f"{a} by {b}")
    for one, two in _BATCHES:
        for kind in ("plain", "turned", "padded"):
            for order in ("merged", "apart"):
                a = _operand(one, 3, 2, kind, order)
                b = _operand(two, 2, 4, "plain", "apart")
                _judge(checks, a, b, f"{a} by {b}")
    folded = gemm.plan(((5, 3, 2), (2, 4), (5, 3, 4)), ((6, 2, 1), (4, 1), (12, 4, 1)))
    checks.that((folded.batch, folded.m) == (1, 15), "a batch with one factor is not one product")
    # Of one row each, the steps of the batch are those of the rows, gaps included.
    for step in (2, 5):
        rows = gemm.plan(((6, 1, 2), (2, 4), (6, 1, 4)), ((step, 2, 1), (4, 1), (4, 4, 1)))
        found = (rows.batch, rows.m, rows.lda)
        checks.that(found == (1, 6, step), f"rows {step} apart are {found}, not one product")
    many = gemm.plan(
        ((1 << 20, 1 << 11, 2), (2, 1), (1 << 20, 1 << 11, 1)),
        ((1 << 12, 2, 1), (1, 1), (1 << 11, 1, 1)),
    )
    checks.that(many.batch == 1 << 20, "a product has more rows than 32 bits count")
    return checks.outcome


def refusals(session: Session) -> Outcome:
    """What is no product of one dtype, is empty, or has an output with gaps, is not taken."""
    checks = Checks("refusals")
    f32, good = dt.float32, (((2, 3), (3, 4), (2, 4)), ((3, 1), (4, 1), (4, 1)))
    checks.that(
        gemm.supported(NativeCase("matmul", (f32,) * 3, *good), (f32,)), "refuses a product"
    )
    for why, shapes, strides in (
        ("two operands", ((2, 3), (3, 4)), ((3, 1), (4, 1))),
        ("a vector", ((3,), (3, 4), (4,)), ((1,), (4, 1), (1,))),
        ("no rows", ((0, 3), (3, 4), (0, 4)), ((3, 1), (4, 1), (4, 1))),
        ("no columns", ((2, 3), (3, 0), (2, 0)), ((3, 1), (1, 1), (1, 1))),
        ("nothing to sum", ((2, 0), (0, 4), (2, 4)), ((1, 1), (4, 1), (4, 1))),
        ("other inner sizes", ((2, 3), (2, 4), (2, 4)), ((3, 1), (4, 1), (4, 1))),
        ("other rows", ((2, 3), (3, 4), (3, 4)), ((3, 1), (4, 1), (4, 1))),
        ("other columns", ((2, 3), (3, 4), (2, 3)), ((3, 1), (4, 1), (3, 1))),
        ("a gap in the output", ((2, 3), (3, 4), (2, 4)), ((3, 1), (4, 1), (5, 1))),
        ("an output turned", ((2, 3), (3, 4), (2, 4)), ((3, 1), (4, 1), (1, 2))),
        ("batches that differ", ((2, 2, 3), (3, 3, 4), (2, 2, 4)),
         ((6, 3, 1), (12, 4, 1), (8, 4, 1))),
        ("a batch that the output lacks", ((2, 2, 3), (3, 4), (2, 4)),
         ((6, 3, 1), (4, 1), (4, 1))),
        ("a gap between outputs", ((2, 2, 3), (3, 4), (2, 2, 4)),
         ((6, 3, 1), (4, 1), (9, 4, 1))),
    ):  # fmt: skip
        case = NativeCase("matmul", (f32,) * len(shapes), shapes, strides)
        checks.that(not gemm.supported(case, (f32,)), f"takes {why}")
    mixed = NativeCase("matmul", (f32, f32, dt.float64), *good)
    checks.that(not gemm.supported(mixed, (f32, dt.float64)), "takes two dtypes")
    checks.raises(
        ValueError, "a plan for what has none", gemm.plan, ((2, 2), (2, 2), (2, 2)),
        ((4, 2), (2, 1), (2, 1)),
    )  # fmt: skip
    wide = (((2, 3), (3, 4), (2, 4)), ((1 << 31, 1), (4, 1), (4, 1)))
    case = NativeCase("matmul", (f32,) * 3, *wide)
    checks.that(gemm.supported(case, (f32,)), "refuses a leading dimension of 2^31")
    checks.that(not gemm.supported(case, (f32,), gemm.INT32), "takes 2^31 as 32 bits")
    limits = (gemm.INT32, gemm.INT64)
    checks.that(limits == (2**31 - 1, 2**63 - 1), f"the limits are {limits}")
    return checks.outcome


duty("products", plans, refusals, plugins=("cpu",))
