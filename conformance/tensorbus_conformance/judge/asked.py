"""Which cases native kernels are asked about: those that the judge's own calls come down to.

The calls are made on device ``ref``, with a native kernel under every name that notes the case and
declines it.  So operands, options and results are what the dispatcher really offers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import tensorbus as tb
from tensorbus_backends.contract import Native, NativeCase
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ref import RefDevice

from .cases import Case, array_slots, cases, split
from .layouts import place

__all__ = ["asked", "names_of"]


def names_of(op: str) -> tuple[str, ...]:
    """Names under which a device may have a native kernel for a public function's calls."""
    function = tb.FUNCTIONS[op]
    if function.decomposed:
        return (function.qualified,)
    same = function.op == function.name and function.namespace
    return (function.op, function.qualified) if same else (function.op,)


class _Every(dict[str, Native]):
    """The same kernel under every name."""

    def __init__(self, native: Native) -> None:
        super().__init__()
        self._native = native

    def __contains__(self, name: object) -> bool:
        return True

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def get(self, name: str, default: Any = None) -> Any:
        """The kernel."""
        return self._native


@lru_cache(maxsize=256)
def asked(op: str, oracle: str, dtype: DType) -> tuple[NativeCase, ...]:
    """The cases that the calls of a function at level smoke are offered as, each once.

    Args:
        op: Qualified name of the function.
        oracle: Its name in the oracle.
        dtype: Of its operands.
    """
    seen: list[NativeCase] = []

    def when(case: NativeCase) -> bool:
        seen.append(case)
        return False

    def run(*arguments: Any) -> None:
        raise AssertionError("declined")

    backend = RefDevice(tb.get_device("ref").info)
    backend.natives = _Every(Native(when, run, "asked"))
    device = tb.Device(backend)
    for case in cases(oracle, dtype, "smoke", 0):
        _call(op, case, device)
    function = tb.FUNCTIONS[op]
    own = function.qualified if function.decomposed else function.op
    return tuple(case for case in seen if case.op == own)


def _call(op: str, case: Case, device: tb.Device) -> None:
    operands = [place(device, a)[0] for a in array_slots(case)]
    args, options = split(case)[1](operands)
    if not operands:
        options["device"] = device
    with tb.reproducible(False), tb.no_grad():
        tb.FUNCTIONS[op].call(*args, **options)
