"""What a device's native kernels are offered: the call as it is, and the result as it then comes.

A native kernel decides by dtypes, shapes, strides and options whether it takes a call, reads its
operands at their offsets by those strides, and writes a result of just that dtype and shape.  In
one dtype of each op its small calls are made on a device that has a kernel for everything: it
takes what it is told literally and has the portable kernels compute it, so that the bits are
theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorbus as tb
from tensorbus._op import OPS, apply
from tensorbus._spec import Spec
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Buffer, Native, NativeCase

from ..oracle import REFERENCES
from .cases import array_slots, split
from .guard import Guarded
from .items import Outcome, dtypes_of
from .layouts import host, place
from .session import Session
from .surfaces.checks import bits_of

__all__ = ["check"]

_LARGEST, _CALLS = 600, 9
"""Elements of the operands of a call, and calls."""


class _Table(dict[str, Native]):
    """One kernel for every op, and for every function that has none."""

    def __init__(self, kernel: Native) -> None:
        super().__init__()
        self.kernel = kernel

    def __contains__(self, name: object) -> bool:
        return True

    def __len__(self) -> int:
        return 1

    def get(self, name: str, default: Any = None) -> Any:
        """The kernel."""
        return self.kernel


class _Literal(Guarded):
    """A device with a native kernel for every op.

    Attributes:
        problems: Results of another dtype or shape than was offered.
        taken: Number of calls.
    """

    def __init__(self, real: Any) -> None:
        super().__init__(real)
        self.problems: list[str] = []
        self.taken = 0
        self.device: tb.Device | None = None
        # What nonzero gives depends on its data, so that no kernel can be offered a result.
        self._table = _Table(Native(lambda case: case.op != "nonzero", self._run, "literal"))

    @property
    def natives(self) -> Mapping[str, Native]:  # type: ignore[override]
        return self._table

    def _run(self, case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
        assert self.device is not None
        self.taken += 1
        forms = zip(case.dtypes, case.shapes, case.strides, strict=True)
        specs = [Spec.of(self.device, *form) for form in forms]
        count = len(specs) - case.results
        tensors = [
            tb.Tensor(b, s, o) for b, s, o in zip(buffers, specs[:count], offsets, strict=False)
        ]
        with tb.reproducible(), tb.no_grad():
            op, options = OPS.get(case.op), dict(case.options)
            if op is None:
                made = tb.FUNCTIONS[case.op].call(*tensors, **options)
            else:
                made = apply(op, tensors, options, None if tensors else self.device)
        results = list(made) if isinstance(made, tuple) else [made]
        if len(results) != case.results:
            self.problems.append(
                f"native kernels of {case.op} are offered {case.results} results of {len(results)}"
            )
        for k, got in enumerate(results[: case.results], count):
            due = (case.dtypes[k], case.shapes[k])
            if (got.dtype, got.shape) != due:
                self.problems.append(
                    f"native kernels of {case.op} are offered a result {due[0].name}{due[1]}, "
                    f"which is {got.dtype.name}{got.shape}"
                )
            raw = np.ascontiguousarray(host(got)).reshape(-1).view(np.uint8)
            room = buffers[k].nbytes
            self.copy_in(buffers[k], offsets[k] * got.dtype.itemsize, memoryview(raw[:room].data))


def check(session: Session, outcome: Outcome) -> None:
    """See the module."""
    known = dtypes_of(session.item.op, "standard")
    if session.dtype is not (dt.float32 if dt.float32 in known else known[0]):
        return
    dialect = session.device.backend.dialect
    if dialect is not None and dialect.style == "simt":
        return  # what is offered is no matter of the device, and its compiler is slow
    backend = _Literal(session.guard.real)
    backend.device = device = tb.Device(backend)
    small = [
        c for c in session.cases() if sum(a.size for a in array_slots(c)) <= _LARGEST
    ]  # fmt: skip
    sets = [*small[: 2 * _CALLS // 3], *session.shape_cases()[: _CALLS // 3]]
    for case in sets:
        operands = [place(device, a)[0] for a in array_slots(case)]
        args, options = split(case)[1](operands)
        if not operands:
            options["device"] = device
        backend.problems.clear()
        with tb.reproducible(False):
            result = tb.FUNCTIONS[session.item.op].call(*args, **options)
        got = [host(r) for r in ([result] if isinstance(result, tb.Tensor) else result)]
        outcome.decided += len(got)
        problem = next(iter(backend.problems), "")
        for g, w in zip(got, session.result(case), strict=True):
            if not problem and (g.dtype, g.shape) != (w.dtype, w.shape):
                problem = f"through native kernels {g.dtype}{g.shape}, else {w.dtype}{w.shape}"
            elif not problem and session.portable and bits_of(g) != bits_of(w):
                problem = "other bits where native kernels hand on what they are offered"
        if problem and outcome.state == "pass":
            outcome.state, outcome.message = "fail", f"{case.label or 'call'}: {problem}"
    free = REFERENCES[session.op].view or tb.FUNCTIONS[session.item.op].op.startswith("_")
    if sets and not backend.taken and not free and outcome.state == "pass":
        outcome.state, outcome.message = "fail", "no call is offered to native kernels"
