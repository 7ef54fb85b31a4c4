"""A device that lacks dtypes: refusals, and calls that another device serves."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus import _op
from tensorbus._spec import Spec
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import UnsupportedError

from ..driver.apart import changed
from ..guard import Guarded
from ..session import reference_device
from .checks import Checks, surface

__all__ = ["lacking"]

Array = NDArray[Any]

_GONE = (dt.float64, dt.int16)


_STEPS = {"nonzero": "astype"}
"""Ops whose first step is another."""


class _Poor(Guarded):
    """The device without some of its dtypes."""

    def __init__(self, real: Any) -> None:
        super().__init__(real)
        left = frozenset(real.capabilities.dtypes) - {d.name for d in _GONE}
        self.capabilities = replace(real.capabilities, dtypes=left)


@contextmanager
def _other(asked: list[str]) -> Iterator[None]:
    """Serve what falls back by the interpreter, and note the device that was asked for.

    No device but the one that is judged is opened in this process.
    """

    def get_device(name: str) -> tb.Device:
        asked.append(name)
        return reference_device()

    with changed(_op, get_device=get_device):
        yield


@surface("lacking", (dt.float32,), (dt.float32,))
def lacking(c: Checks) -> None:
    """By policy: an error that says what is there, a warning, or silence; results come back."""
    poor = tb.Device(_Poor(c.session.guard.real))
    name = poor.name
    due = "ref" if name == "cpu" else "cpu"
    a = np.asarray([[1.5, 0.0, -2.5], [4.0, 0.5, 0.0]])
    b = np.asarray([[2.0, 4.0, 8.0], [1.0, 0.5, 0.25]])
    asked: list[str] = []
    # Nothing makes such a tensor there, so they are laid over memory.
    x, y = (_outside(poor, v) for v in (a, b))
    calls: dict[str, tuple[Callable[[], Any], list[Array]]] = {
        "less": (lambda: x < y, [np.asarray(a < b)]),
        "equal": (lambda: tb.equal(x, x), [np.asarray(a == a)]),
        "isnan": (lambda: tb.isnan(x), [np.isnan(a)]),
        "argmax": (lambda: tb.argmax(x, axis=1), [a.argmax(axis=1)]),
        "argsort": (lambda: tb.argsort(y, axis=1), [np.argsort(b, axis=1)]),
        "any": (lambda: tb.any(x, axis=0), [np.asarray(a.any(axis=0))]),
        "nonzero": (lambda: tb.nonzero(x), list(np.nonzero(a))),
        "count_nonzero": (lambda: tb.count_nonzero(x), [np.asarray(np.count_nonzero(a))]),
        "astype": (lambda: tb.astype(x, dt.float32), [a.astype(np.float32)]),
    }  # fmt: skip
    for op, (call, want) in calls.items():
        said = _STEPS.get(op, op)
        c.refuses(f"{op} with float64", UnsupportedError, call, said, name, "float64", "float32")
        for policy in ("allow", "warn", "allow", "error"):
            label = f"{op} under {policy}"
            asked.clear()
            with _other(asked), tb.fallback_policy(_policy(policy)):
                _served(c, label, op, policy, call, want, poor)
            if policy != "error":
                c.true(label, set(asked) <= {due}, f"asked for {asked}, expected {due}")
    _plain(c, poor)
    # A result that the device cannot hold has no way back.
    for op, give in (
        ("add", lambda: tb.add(x, y)), ("sum", lambda: tb.sum(x)),
    ):  # fmt: skip
        c.refuses(f"{op} in float64", UnsupportedError, give, op, name, "float64", "float32")
        with _other(asked), tb.fallback_policy("allow"):
            c.refuses(f"{op} in float64, allowed", UnsupportedError, give, name, "float64")


def _outside(device: tb.Device, array: Array) -> tb.Tensor:
    """A tensor over memory that holds an array, whatever dtypes the device has kernels for."""
    buffer = device.backend.allocate(array.nbytes)
    device.backend.copy_in(buffer, 0, memoryview(np.ascontiguousarray(array).data))
    return tb.Tensor(buffer, Spec.of(device, dt.from_numpy(array.dtype), array.shape))


def _policy(name: str) -> Any:
    return name


def _served(
    c: Checks, label: str, op: str, policy: str, call: Callable[[], Any], want: list[Array],
    poor: tb.Device,
) -> None:  # fmt: skip
    """Two calls: the plan is made, and then it is there."""
    if policy == "error":
        c.refuses(label, UnsupportedError, call, _STEPS.get(op, op), "float64")
        return
    for turn in range(2):
        with warnings.catch_warnings(record=True) as said, tb.trace() as t:
            warnings.simplefilter("always")
            got = c.attempt(f"{label}, call {turn}", call)
        if got is None:
            return
        results = [got] if isinstance(got, tb.Tensor) else list(got)
        c.true(label, len(results) == len(want), f"{len(results)} results")
        for g, w in zip(results, want, strict=False):
            c.same(label, g, w)
            c.true(label, g.device is poor, f"the result is on {g.device}")
        texts = [str(w.message) for w in said]
        if policy == "allow":
            c.true(label, not texts, f"warned: {texts}")
        else:
            good = any(_STEPS.get(op, op) in m and poor.name in m and "float64" in m for m in texts)
            c.true(f"{label}, call {turn}", good, f"warned: {texts}")
        # What the other device does is in the trace too, a level deeper.
        variants = {(r.variant, r.library) for r in t if not r.depth}
        c.true(label, ("fallback", "ref") in variants, f"the trace holds {variants}")


def _plain(c: Checks, poor: tb.Device) -> None:
    """What the device has it serves itself, under every policy."""
    z = tb.asarray(np.asarray([1, 2, 3], np.float32), device=poor)
    asked: list[str] = []
    for policy in ("error", "warn", "allow"):
        with _other(asked), tb.fallback_policy(_policy(policy)), tb.trace() as t:
            c.same(f"float32 under {policy}", z + z, np.asarray([2, 4, 6], np.float32))
        c.true(f"float32 under {policy}", "fallback" not in t.variants() and not asked)
    whole = tb.asarray(np.asarray([1, 2], np.int32), device=poor)
    c.refuses("a conversion to int16", UnsupportedError, lambda: tb.astype(whole, dt.int16),
              "astype", "int16")  # fmt: skip
    said = _message(lambda: tb.astype(whole, dt.int16))
    c.true("what is lacking", "float64" not in said and "int32" in said, said)


def _message(call: Callable[[], Any]) -> str:
    try:
        call()
    except UnsupportedError as error:
        return str(error)
    return ""
