"""Which kernels calls need, read from their plans: nothing is compiled and nothing is launched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import tensorbus as tb
from tensorbus._plan import Plan
from tensorbus_backends.contract import KernelSpec

__all__ = ["Reading", "planned"]


class Reading:
    """Calls on a device whose plans are read and not run.

    Their results have memory full of zeros, so that one may be an index of the next call.  Where
    the values of results decide what follows, the plans are those that zeros lead to.

    Args:
        device: Whose plans are read: one that nobody else uses, as what was read is kept like any
            plan, and never runs.

    Attributes:
        kernels: What the plans hold, in the order in which they were met.
    """

    def __init__(self, device: tb.Device) -> None:
        self.device = device
        self.kernels: dict[KernelSpec, None] = {}

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Plans for the device are read inside; those for other devices run as ever."""
        run = Plan.runner

        def runner(plan: Plan) -> Callable[..., Any]:
            if plan.host is not None or plan.device.real is not self.device:
                return run(plan)
            self.kernels.update(dict.fromkeys(plan.kernels))
            return partial(_unmade, plan)

        Plan.runner = runner
        try:
            yield
        finally:
            Plan.runner = run


def _unmade(plan: Plan, *given: Any) -> Any:
    """What a plan gives for tensors, and a number after them, as if no step were there."""
    fresh: dict[int, Any] = {}
    made = []
    for r in plan.results:
        if r.slot < plan.operands:
            tensor = given[r.slot]
            made.append(tb.Tensor(tensor._buffer, r.spec, tensor._offset + r.offset))
            continue
        if r.slot not in fresh:
            n = plan.buffers[r.slot - plan.operands - len(plan.tables)]
            fresh[r.slot] = plan.device.backend.allocate(n)
            plan.device.backend.copy_in(fresh[r.slot], 0, memoryview(bytes(n)))
        made.append(tb.Tensor(fresh[r.slot], r.spec, r.offset))
    return made[0] if plan.single else tuple(made)


def planned(device: tb.Device, calls: Iterable[Callable[[tb.Device], Any]]) -> list[KernelSpec]:
    """The kernels that calls need on a device; one that stumbles over zeros adds fewer."""
    reading = Reading(tb.Device(device.backend))
    with reading():
        for call in calls:
            with contextlib.suppress(Exception):
                call(reading.device)
    return list(reading.kernels)
