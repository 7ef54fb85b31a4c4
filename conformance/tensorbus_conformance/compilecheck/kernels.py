"""Which kernels an op set needs: read from the plans of every op's calls (see `judge.planned`).

A call that reads results back (its shape depends on values, say) is made once more with the
interpreter running its kernels, so that it goes the way that values lead it.

Properties that compare results while they go on, and parts, are judged as they are, by the
interpreter; their verdicts are nobody's business here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import (
    Buffer,
    Capabilities,
    DeviceInfo,
    Evidence,
    Feature,
    KernelSpec,
)
from tensorbus_backends.ref import RefDevice

from ..judge import errors, order, parts, primitives, promotion, random, scalars
from ..judge.cases import Case, cases, shape_cases, special_cases
from ..judge.gradients.common import called, gradient_cases
from ..judge.guard import Guarded
from ..judge.items import Item, items, properties, random_recipe
from ..judge.layouts import place
from ..judge.planned import Reading
from ..judge.properties import judge
from ..judge.scale.bench import CHECKS, Bench
from ..judge.session import Session
from ..oracle import REFERENCES

__all__ = ["kernels", "kernels_of"]

_INFO = DeviceInfo("none", "none", 0, evidence=Evidence.COMPILED, description="runs nothing")


class _Noting(RefDevice):
    """Notes what it is asked to compile: also what no plan holds, as duties of drivers have it."""

    def __init__(self, capabilities: Capabilities) -> None:
        super().__init__(_INFO)
        self.features = self.features - {Feature.ADDRESS}
        self.capabilities = capabilities
        self.specs: dict[KernelSpec, None] = {}

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Any]:
        self.specs.update(dict.fromkeys(kernels))
        return super().compile(kernels)


class _Open(Guarded):
    """Fences that are none, for the judge's own code.

    Attributes:
        read: Whether anything was read back.
    """

    read = False

    def allocate(self, nbytes: int) -> Buffer:
        return self.real.allocate(nbytes)

    def holding(self, content: memoryview) -> Buffer:
        buffer = self.allocate(content.nbytes)
        self.copy_in(buffer, 0, content)
        return buffer

    def copy_out(self, source: Buffer, offset: int, target: memoryview) -> None:
        self.read = True
        super().copy_out(source, offset, target)

    def check(self) -> list[str]:
        return []


class _Quiet(Bench):
    """Makes the calls of `scale`, on no more elements than an interpreter can do."""

    slow = True

    def expect(self, label: str, result: tb.Tensor, wanted: Any) -> None:
        pass


def kernels(
    level: str, capabilities: Capabilities, ops: Sequence[str] | None = None, seed: int = 0
) -> dict[str, KernelSpec]:
    """The portable kernels that judging at a level launches, by name.

    Args:
        level: ``"smoke"`` or ``"standard"``.
        capabilities: Of the device; dtypes that it lacks need no kernels.
        ops: Names in ``tb.FUNCTIONS``; None for all.
        seed: Of the data, which no kernel depends on.
    """
    found: dict[str, KernelSpec] = {}
    for item in items("ref", capabilities, {}, level, ops):
        found |= {spec.name: spec for spec in kernels_of(item, level, capabilities, seed)}
    return found


def kernels_of(
    item: Item, level: str, capabilities: Capabilities, seed: int = 0
) -> list[KernelSpec]:
    """The kernels of one item."""
    if item.dtype not in capabilities.dtypes:
        return []
    real = _Noting(capabilities)
    planning, running = _Open(real), _Open(real)
    reading = Reading(tb.Device(planning))
    plans = Session(item, reading.device, level, seed)
    runs = Session(item, tb.Device(running), level, seed)
    names = properties(item.op, plans.dtype, item.variant, item.device, level)
    with np.errstate(all="ignore"):
        for plan, run in zip(_calls(plans, names), _calls(runs, names), strict=True):
            planning.read = False
            with reading(), contextlib.suppress(Exception):
                plan()
            if planning.read:
                _attempt(run)
        for name in _judged(item, names):
            _attempt(partial(judge, runs, name))
    return list(reading.kernels | real.specs)


def _attempt(call: Callable[[], object]) -> None:
    """Call; what it raises is the judge's business."""
    with contextlib.suppress(Exception):
        call()


_JUDGED = ("aliasing", "kinks", "autograd")
"""Properties of ops that launch kernels which no plain call does, while they judge."""

_DRAWN = ("layouts", "gradient", "forward", "second")
"""The same of random ops."""

_APART = "driver.fork"
"""Judges a copy of the process, by a kernel that other parts have too, but for its constant."""


def _judged(item: Item, names: Sequence[str]) -> Sequence[str]:
    """The properties that are judged as they are, for the kernels that they launch meanwhile."""
    if item.op in parts.PARTS:
        called = item.op in (_APART, *CHECKS) or item.op.startswith("primitive.")
        return [] if called else names
    return [n for n in names if n in (_DRAWN if random_recipe(item.op) else _JUDGED)]


def _calls(session: Session, names: Sequence[str]) -> list[Callable[[], object]]:
    """The calls that the properties make, without their judging."""
    op, dtype, level, seed = session.op, session.dtype, session.level, session.seed
    if op.startswith("primitive."):
        return [partial(_compiled, session)]
    if op in CHECKS:
        return [partial(_made, session, check) for check in CHECKS[op]]
    if random_recipe(session.item.op):
        return [partial(draw.call, session.device) for draw in random.calls(session)]
    if op not in REFERENCES:
        return []
    found: list[Callable[[], object]] = []

    def each(sets: Sequence[Case], *layouts: str) -> None:
        for case in session.usable(sets):
            for layout in layouts:
                found.append(lambda case=case, layout=layout: _call(session, case, layout))  # type: ignore[misc]

    each(cases(op, dtype, level, seed), "given", "contiguous")
    if "order" in names:
        found += order.calls(session)
    if "special" in names:
        each(special_cases(op, dtype, level, seed), "given")
    if "shapes" in names:
        each(shape_cases(op, dtype, seed), "given")
    if "gradient" in names:
        for case in gradient_cases(session):
            found.append(lambda case=case: _reverse(session, case))  # type: ignore[misc]
            found.append(lambda case=case: _forward(session, case))  # type: ignore[misc]
            if "second" in names and level != "smoke":
                found.append(lambda case=case: _mixed(session, case))  # type: ignore[misc]
    if "errors" in names:
        found.append(lambda: errors.check(session))
    if "promotion" in names:
        found.append(lambda: promotion.check(session))
    if "scalars" in names:
        found.append(lambda: scalars.check(session))
    return found


def _compiled(session: Session) -> None:
    """The kernels of primitives, which are compiled together."""
    name = session.item.op.partition(".")[2]
    together = primitives.together(session.dtype, session.level)
    primitives.compiled(session.guard.real, name, session.dtype, together)


def _made(session: Session, check: Callable[[Bench], None]) -> None:
    with tb.reproducible():
        check(_Quiet(session))


def _call(session: Session, case: Case, layout: str) -> object:
    return session.call(case, session.tensors(case, layout)[0])


def _like(session: Session, x: Any) -> tb.Tensor:
    return place(session.device, np.ones(x.shape, x.dtype.numpy))[0]


def _floating(tensors: Sequence[tb.Tensor]) -> list[int]:
    return [k for k, t in enumerate(tensors) if t.dtype.is_float]


def _reverse(session: Session, case: Case) -> None:
    """Gradients, and the gradients of these: both are kernels of the op."""
    tensors, _ = session.tensors(case)
    wanted = [tensors[k] for k in _floating(tensors)]
    for t in wanted:
        t.requires_grad = True
    results = session.call(case, tensors)
    with tb.reproducible(session.portable):
        for create in (False, True):
            cotangents = [_like(session, r) for r in results]
            for c in cotangents:
                c.requires_grad = create
            grads = tb.grad(
                results,
                wanted,
                cotangents,
                create_graph=create,
                retain_graph=True,
                allow_unused=True,
            )
        if session.dtype not in (dt.float32, dt.float64):
            return
        live = [g for g in grads if g is not None and g.requires_grad]
        if live:
            along = [_like(session, g) for g in live]
            tb.grad(live, [*wanted, *cotangents], along, allow_unused=True)


def _mixed(session: Session, case: Case) -> None:
    """The tangent of a pullback and the pullback of a tangent."""
    tensors, _ = session.tensors(case)
    run = called(session, case, tensors)
    primals = [tensors[k] for k in _floating(tensors)]
    with tb.reproducible(session.portable):
        tangents = [_like(session, t) for t in primals]
        u = [_like(session, r) for r in run(*primals)]
        tb.jvp(lambda *xs: tb.vjp(run, *xs)[1](*u), primals, tangents)
        tb.vjp(lambda *xs: tb.jvp(run, xs, tangents)[1], *primals)[1](*u)


def _forward(session: Session, case: Case) -> None:
    tensors, _ = session.tensors(case)
    chosen = [tensors[k] for k in _floating(tensors)]
    with tb.reproducible(session.portable):
        run = called(session, case, tensors)
        tb.jvp(run, chosen, [_like(session, t) for t in chosen])
