"""What a second shape, offset or number needs: no kernel that the first has not, and of the plan
the numbers alone.  For every op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus._family import Family
from tensorbus._plan import Plan
from tensorbus._spec import Spec
from tensorbus._state import forget_plans, settings
from tensorbus_backends import dtypes as dt
from tensorbus_conformance.judge.cases import Case, array_slots, cases, split
from tensorbus_conformance.judge.items import dtypes_of, oracle_name
from tensorbus_conformance.judge.layouts import place

Array = NDArray[Any]


def other(array: Array) -> Array:
    """More elements along the first axis: inner dimensions stay short or long as they were."""
    shape = tuple(n + 1 if k == 0 and n > 1 else n for k, n in enumerate(array.shape))
    return np.resize(array, shape) if array.size else np.zeros(shape, array.dtype)


def size_class(array: Array) -> tuple[object, ...]:
    """What may change the steps of a plan: rows below 16 elements are walked flat, scans go by
    blocks of 128 and a rest, reductions by chunks of 8,192."""
    rows = [n if n < 2 else (n < 16, n >= 128, n % 128 == 0, n > 8192) for n in array.shape]
    return (*rows, array.size < 128, array.size % 128 == 0)


def kernels(device: tb.Device) -> set[str]:
    return {k.name for k in device._kernels}


def called(op: str, device: tb.Device, case: Case, arrays: Sequence[Array]) -> bool:
    """Make the call; False if these shapes do not go together."""
    operands = [place(device, np.ascontiguousarray(a).reshape(a.shape))[0] for a in arrays]
    args, options = split(case)[1](operands)
    if not operands:
        options["device"] = device
    try:
        with tb.reproducible():
            tb.FUNCTIONS[op].call(*args, **options)
    except (ValueError, IndexError, TypeError, OverflowError):
        return False
    return True


OPS = sorted(n for n, f in tb.FUNCTIONS.items() if f.namespace != "random")
UNMOVED = {"arange", "empty", "eye", "full", "linspace", "ones", "reshape", "zeros", "nn.dropout"}
"""Their shapes are arguments; dropout needs a key."""


VIEWS = {"broadcast_arrays", "expand_dims", "flip", "matrix_transpose", "meshgrid", "moveaxis"}
VIEWS |= {"permute_dims", "reshape", "squeeze", "unstack"}


@pytest.mark.parametrize("op", OPS)
def test_a_second_shape_adds_no_kernel(op: str) -> None:
    device = tb.get_device("ref")
    known = dtypes_of(op, "standard")
    dtype = dt.float32 if dt.float32 in known else known[0]
    tried = 0
    for case in cases(oracle_name(op), dtype, "standard", 0):
        arrays = array_slots(case)
        if not arrays or sum(a.size for a in arrays) > 3000:
            continue
        second = [other(a) for a in arrays]
        if [size_class(a) for a in second] != [size_class(a) for a in arrays]:
            continue
        if not called(op, device, case, arrays):
            continue
        before = kernels(device)
        if called(op, device, case, second):
            tried += 1
            assert kernels(device) == before, (case.label, [a.shape for a in arrays])
    assert tried or op in UNMOVED


def test_a_second_draw_adds_no_kernel() -> None:
    device = tb.get_device("ref")
    draws = [f for f in tb.FUNCTIONS.values() if f.namespace == "random"]
    assert draws
    for draw in draws:
        first = {"integers": (0, 5), "bernoulli": (0.5,)}.get(draw.name, ())
        for shape in (101, 102):
            before = kernels(device)
            draw.call(*first, shape, seed=shape, device=device)
            assert shape == 101 or kernels(device) == before, draw.name
    for shape in (101, 102):
        before = kernels(device)
        tb.nn.dropout(tb.ones(shape, device=device), 0.25, seed=shape)
        assert shape == 101 or kernels(device) == before


@pytest.mark.parametrize("op", ["add", "subtract", "multiply", "divide", "pow", "less", "maximum"])
def test_numbers_and_offsets_add_neither_kernels_nor_plans(op: str) -> None:
    device = tb.get_device("ref")
    x = tb.asarray(np.arange(40, dtype=np.float32), device=device)
    call = tb.FUNCTIONS[op].call
    call(x[3:9], 0.5), call(0.5, x[3:9])
    before, plans = kernels(device), len(settings().plans)
    for k in range(20):
        call(x[k : k + 6], 1.5 + k), call(-float(k), x[k : k + 6])
    assert kernels(device) == before
    assert len(settings().plans) == plans


def described(plan: Plan) -> tuple[object, ...]:
    """All that a plan says."""
    return (
        (plan.variant, plan.library, plan.device, plan.operands, plan.single, plan.scalar),
        (plan.buffers, plan.steps),
        [(v.slot, v.offset, id(v.spec)) for v in plan.results],
        [(t.device, t.shape, t.strides) for t in plan.tables],
    )


@pytest.mark.parametrize("op", OPS)
def test_a_size_class_gives_the_plan_that_the_op_writes(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tb.get_device("ref")
    found = Family.plan
    served = 0

    def checked(self: Family, specs: Sequence[Spec], make: Any, options: Any = None) -> Plan | None:
        nonlocal served
        written = make(specs, options or {}, None)
        before, self._due = self._written, self._written + 1
        got = found(self, specs, make, options or {})
        # An op whose sizes something hid would be served shape by shape for ever.
        assert not self.closed
        assert (got is None) == (written is None)
        if got is not None and written is not None and written.host is None:
            assert described(got) == described(written), ([s.shape for s in specs], options)
            served += self._written == before
        return got

    forget_plans()
    monkeypatch.setattr(Family, "plan", checked)
    known = dtypes_of(op, "standard")
    dtype = dt.float32 if dt.float32 in known else known[0]
    moved = False
    for case in cases(oracle_name(op), dtype, "standard", 0):
        arrays = array_slots(case)
        if sum(a.size for a in arrays) <= 3000 and called(op, device, case, arrays):
            second = [other(a) for a in arrays]
            differs = [a.shape for a in second] != [a.shape for a in arrays]
            moved |= differs and called(op, device, case, second)
    assert served or not moved or op in VIEWS
    forget_plans()
