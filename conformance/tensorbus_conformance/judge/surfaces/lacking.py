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
from tensorbus import _fallback
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

    with changed(_fallback, get_device=get_device):
        yield


@surface("lacking", (dt.float32,), (dt.float32,))
def lacking(c: Checks) -> None:
    """By policy: an error that says what is there, a warning, or silence.

    Results that the device can hold come back, others stay and meet its tensors again.
    """
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
    _staying(c, poor, a, b)


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


def _staying(c: Checks, poor: tb.Device, a: Array, b: Array) -> None:
    """Results in a dtype that the device lacks, and what becomes of them."""
    z = tb.asarray(a.astype(np.float32), device=poor)
    w = tb.asarray(b.astype(np.float32), device=poor)
    narrow = dt.float64
    calls: dict[str, tuple[str, Callable[[], Any], Array]] = {
        "astype": ("astype", lambda: tb.astype(z, narrow), a),
        "sum": ("astype", lambda: tb.sum(w, axis=1, dtype=narrow), b.sum(axis=1)),
        "zeros": ("", lambda: tb.zeros((2,), dtype=narrow, device=poor), np.zeros(2)),
        "add": ("astype", lambda: z + tb.astype(w, narrow), a + b),
        "multiply, twice": ("astype", lambda: tb.astype(z, narrow) * 2.0 * w, a * 2 * b),
    }
    for label, (op, call, want) in calls.items():
        c.refuses(f"{label} in float64", UnsupportedError, call, op, poor.name, "float64")
        for policy in ("allow", "warn", "allow"):
            asked: list[str] = []
            with (
                _other(asked), tb.fallback_policy(_policy(policy)), tb.trace() as t,
                warnings.catch_warnings(record=True) as said,
            ):  # fmt: skip
                warnings.simplefilter("always")
                got = c.attempt(f"{label} under {policy}", call)
                if got is None:
                    continue
                c.same(f"{label} under {policy}", got, want)
                back = c.attempt(f"{label}, back", lambda got=got: tb.astype(got, dt.float32))
            home = got.device.home
            c.true(label, home is poor, f"the result is on {got.device!r}")
            c.true(label, bool(said) == (policy == "warn"), f"{len(said)} warnings under {policy}")
            told = [r for r in t if not r.depth]
            good = {(r.variant, r.device, r.library) for r in told} == {
                ("fallback", poor.name, "ref")
            }
            c.true(f"trace of {label}", good, f"{told}")
            c.true(f"trace of {label}", [r.stays for r in told[-2:]] == ["ref", ""], f"{told}")
            if back is not None:
                c.true(label, back.device is poor, f"float32 of it is on {back.device!r}")
                c.same(f"{label}, back", back, want.astype(np.float32))
    theirs = tb.asarray(a, device=reference_device())
    with _other([]), tb.fallback_policy("allow"):
        for stray in (z, tb.astype(z, narrow)):
            c.raises("a tensor of another device", ValueError, lambda stray=stray: stray + theirs)
        z.requires_grad = True
        loss = tb.sum(tb.astype(z, narrow) * w)
    (slope,) = tb.grad(loss, [z])
    assert slope is not None
    c.true("gradient", slope.device is poor, f"the gradient is on {slope.device!r}")
    c.same("gradient", slope, b.astype(np.float32))


def _message(call: Callable[[], Any]) -> str:
    try:
        call()
    except UnsupportedError as error:
        return str(error)
    return ""
