"""The n-th allocation fails, for every n: the error surfaces, nothing leaks, then all is well."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends.contract import (
    Buffer,
    Compiled,
    Device,
    Event,
    KernelSpec,
    MemoryFigures,
    OutOfMemoryError,
)

from ..items import Outcome
from ..session import Session
from .base import Checks, duty

_MOST = 300


class Scarce(Device):
    """A device whose `left`-th allocation from now on fails, and all after it; -1: none does."""

    def __init__(self, real: Device) -> None:
        self.real, self.left, self.refused = real, -1, 0
        self.info, self.capabilities, self.dialect = real.info, real.capabilities, real.dialect

    def allocate(self, nbytes: int) -> Buffer:
        if self.left == 0:
            self.refused += 1
            raise OutOfMemoryError("scarce: the judge lets this allocation fail")
        self.left -= self.left > 0
        return self.real.allocate(nbytes)

    def copy_in(self, target: Buffer, offset: int, source: memoryview) -> None:
        self.real.copy_in(target, offset, source)

    def copy_out(self, source: Buffer, offset: int, target: memoryview) -> None:
        self.real.copy_out(source, offset, target)

    def copy(
        self, target: Buffer, target_offset: int, source: Buffer, source_offset: int, nbytes: int
    ) -> None:
        self.real.copy(target, target_offset, source, source_offset, nbytes)

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Compiled]:
        return self.real.compile(kernels)

    def launch(self, kernel: Compiled, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
        self.real.launch(kernel, groups, buffers, meta)

    def synchronize(self) -> None:
        self.real.synchronize()

    def record(self) -> Event:
        return self.real.record()

    def memory(self) -> MemoryFigures:
        return self.real.memory()

    def empty_cache(self) -> None:
        self.real.empty_cache()

    def address(self, buffer: Buffer) -> int:
        return self.real.address(buffer)


def _program(x: tb.Tensor, y: tb.Tensor, long: bool) -> list[NDArray[Any]]:
    """Elementwise, a sum, a product; if `long` a sort, a scan and a softmax."""
    z = tb.sum(x * y + 1.5, axis=0)
    results = [z, tb.matmul(x, tb.permute_dims(y, (1, 0)))]
    if long:
        results += [tb.sort(x, axis=1), tb.cumulative_sum(y, axis=1), tb.nn.softmax(x, axis=1)]
    return [r.numpy() for r in results]


def every_allocation(session: Session) -> Outcome:
    """A small program, with its first allocation failing, then its second, until it passes."""
    checks = Checks("every_allocation")
    scarce = Scarce(session.guard.real)
    device, long = tb.Device(scarce), session.level != "smoke"
    rng = np.random.default_rng(session.seed)
    arrays = [rng.normal(0, 1, (7, 300)).astype(np.float32) for _ in range(2)]
    x, y = (tb.asarray(a, device=device) for a in arrays)
    with tb.reproducible():
        want = _program(x, y, long)

        def used() -> int:
            scarce.synchronize()
            return scarce.memory().used

        before = used()
        for n in range(_MOST):
            scarce.left, scarce.refused = n, 0
            raised: BaseException | None = None
            got: list[NDArray[Any]] = []
            try:
                got = _program(x, y, long)
            except tb.OutOfMemoryError as error:
                raised = error.with_traceback(None)
            finally:
                scarce.left = -1
            if not scarce.refused:
                break
            checks.that(raised is not None, f"allocation {n} failed, and nothing was raised")
            raised, got = None, []
            now = used()
            if now != before:
                gc.collect()
                now = used()
            checks.that(
                now == before,
                f"{now - before:,} bytes more are in use after allocation {n} failed",
            )
            for t, a in zip((x, y), arrays, strict=True):
                checks.that(
                    t.numpy().tobytes() == a.tobytes(), f"allocation {n}: an operand changed"
                )
        checks.that(n > 2, f"the program made {n} allocations by the device's allocate")
        checks.that(n < _MOST - 1, "the program never ends")
        again = _program(x, y, long)
    for g, a, w in zip(got, again, want, strict=True):
        checks.that(g.tobytes() == w.tobytes(), "the run that passes gives other bits")
        checks.that(a.tobytes() == w.tobytes(), "the run after the failures gives other bits")
    return checks.outcome


duty("oom", every_allocation)
