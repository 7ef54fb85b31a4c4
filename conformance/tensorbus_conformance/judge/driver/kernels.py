"""Compilation: one by one or together, in any order and again, each kernel is itself."""

from __future__ import annotations

from collections.abc import Sequence

from tensorbus_backends.contract import Compiled, Device

from ..items import Outcome
from ..session import Session
from .base import Checks, affine, affine_result, duty, filled, integers, launch_affine, numbers

_N = 77


def _right(
    checks: Checks, device: Device, kernels: Sequence[Compiled], factors: Sequence[int], what: str
) -> None:
    """Whether each kernel multiplies by its factor."""
    x = integers(_N, 1)
    source = filled(device, x)
    if not checks.that(len(kernels) == len(factors), f"{what}: {len(kernels)} kernels came back"):
        return
    for kernel, factor in zip(kernels, factors, strict=True):
        target = device.allocate(4 * _N)
        launch_affine(device, kernel, source, target, _N, 3)
        checks.that(
            bool((numbers(device, target, _N) == affine_result(x, factor, 3)).all()),
            f"{what}: the kernel with constant {factor} computes something else",
        )


def batches(session: Session) -> Outcome:
    """Kernels that differ in a constant only differ, in batches, alone and in any order."""
    checks, device = Checks("batches"), session.guard.real
    some = [21, 22, 23, -21]
    _right(checks, device, device.compile([affine(f) for f in some]), some, "a batch")
    back = [23, -21, 22, 24, 21]
    _right(checks, device, device.compile([affine(f) for f in back]), back, "another order")
    for f in (22, 25):
        _right(checks, device, device.compile([affine(f)]), [f], "alone")
    twice = [26, 21, 26]
    _right(checks, device, device.compile([affine(f) for f in twice]), twice, "one kernel twice")
    checks.that(device.compile([]) == [], "no kernels give some")
    return checks.outcome


def again(session: Session) -> Outcome:
    """A kernel outlives its siblings, what is kept for reuse, and its own second compilation."""
    checks, device = Checks("again"), session.guard.real
    (first,) = device.compile([affine(31)])
    _right(checks, device, [first], [31], "at first")
    device.empty_cache()
    _right(checks, device, [first], [31], "after empty_cache")
    (second,) = device.compile([affine(31)])
    device.compile([affine(32), affine(33)])
    _right(checks, device, [second, first], [31, 31], "compiled again")
    del second
    _right(checks, device, [first], [31], "when the other one is gone")
    return checks.outcome


duty("compile", batches, again)
