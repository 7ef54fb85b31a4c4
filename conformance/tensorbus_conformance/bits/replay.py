"""Making a call that docs/bits.json describes, and the digest of what it gives.

An argument is a number, text, true, false or null as in JSON; a list of sizes or axes is a tuple;
a mapping is an operand (see `array`), ``{"float": "inf"}``, ``{"key": number}`` or ``{"dtype":
name}``; a list of operands stays a list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt

from ..judge.layouts import host, put
from ..judge.session import flushed
from .array import elements, filled

__all__ = ["COTANGENT", "TANGENT", "Call", "dtypes_of", "operands", "results"]

Array = NDArray[Any]
Call = Mapping[str, Any]

COTANGENT = ("float", 1 << 40, -2.0, 2.0)
TANGENT = ("float", 1 << 41, -2.0, 2.0)
"""Data of the first cotangent and tangent of a call; the k-th next adds k to the key."""

_UNDEFINED = {"empty", "empty_like"}


def is_operand(value: Any) -> bool:
    """Whether an argument is a described tensor."""
    return isinstance(value, Mapping) and "shape" in value


def operands(call: Call) -> list[Mapping[str, Any]]:
    """The described tensors of a call, in order."""
    found: list[Mapping[str, Any]] = []
    for value in (*call.get("args", ()), *call.get("options", {}).values()):
        found += [v for v in (value if isinstance(value, list) else [value]) if is_operand(v)]
    return found


def dtypes_of(call: Call) -> set[str]:
    """Names of the dtypes that a device needs for a call, those of its results included."""
    given = (*call.get("args", ()), *call.get("options", {}).values())
    named = {v["dtype"] for v in given if isinstance(v, Mapping) and "dtype" in v}
    return named | {o["dtype"] for o in operands(call)} | set(call.get("gives", ()))


def _decoded(value: Any, next_tensor: Callable[[], tb.Tensor]) -> Any:
    if is_operand(value):
        return next_tensor()
    if isinstance(value, Mapping):
        if "float" in value:
            return float(value["float"])
        if "key" in value:
            return tb.random.key(value["key"])
        return dt.by_name(value["dtype"])
    if isinstance(value, list):
        made = [_decoded(v, next_tensor) for v in value]
        return made if any(map(is_operand, value)) else tuple(made)
    return value


class Replay:
    """One call on one device.

    Attributes:
        tensors: Its operands.
    """

    def __init__(self, name: str, call: Call, device: tb.Device) -> None:
        self.name, self.call, self.device = name, call, device
        self.tensors = []
        for what in operands(call):
            memory, strides, offset = filled(what)
            self.tensors.append(put(device, memory, tuple(what["shape"]), strides, offset))

    def run(self, tensors: Sequence[tb.Tensor]) -> list[tb.Tensor]:
        """The results with these tensors as operands."""
        left = iter(tensors)
        args = [_decoded(a, left.__next__) for a in self.call.get("args", ())]
        options = {k: _decoded(v, left.__next__) for k, v in self.call.get("options", {}).items()}
        if not tensors:
            options["device"] = self.device
        result = tb.FUNCTIONS[self.name].call(*args, **options)
        return [result] if isinstance(result, tb.Tensor) else list(result)

    def forward(self) -> list[Array]:
        """What the call gives."""
        found = [host(r) for r in self.run(self.tensors)]
        return [np.zeros_like(a) for a in found] if self.name in _UNDEFINED else found

    @property
    def moving(self) -> list[int]:
        """Positions of the floating operands."""
        return [k for k, t in enumerate(self.tensors) if t.dtype.is_float]

    def _of_moving(self, *moving: tb.Tensor) -> tuple[tb.Tensor, ...]:
        full = list(self.tensors)
        for k, t in zip(self.moving, moving, strict=True):
            full[k] = t
        return tuple(self.run(full))

    def reverse(self) -> list[Array]:
        """Gradients for the fixed cotangents."""
        values, pull = tb.vjp(self._of_moving, *(self.tensors[k] for k in self.moving))
        return [host(g) for g in pull(*self._directions(values, COTANGENT))]

    def tangent(self) -> list[Array]:
        """Derivatives in the fixed directions."""
        primals = [self.tensors[k] for k in self.moving]
        return [
            host(d) for d in tb.jvp(self._of_moving, primals, self._directions(primals, TANGENT))[1]
        ]

    def _directions(
        self, like: Sequence[tb.Tensor], data: tuple[str, int, float, float]
    ) -> list[tb.Tensor]:
        kind, key, low, high = data
        return [
            put(
                self.device,
                elements([kind, key + k, low, high], t.dtype, t.size)
                if t.dtype.is_float
                else np.zeros(t.size, t.dtype.numpy),
                t.shape,
                None,
                0,
            )
            for k, t in enumerate(like)
        ]


def results(name: str, call: Call, device: tb.Device, kind: str) -> list[Array]:
    """What a call gives on a device, in reproducible mode.

    Args:
        name: The function's qualified name.
        call: As docs/bits.json has it.
        device: Where.
        kind: ``"out"``, ``"vjp"`` or ``"jvp"``.
    """
    with tb.reproducible():
        replay = Replay(name, call, device)
        return {"out": replay.forward, "vjp": replay.reverse, "jvp": replay.tangent}[kind]()


def digest(arrays: Sequence[Array], flushes: bool = False) -> str:
    """16 hex digits of SHA-256 over dtypes, shapes and bits in C order; every NaN is one.

    Args:
        arrays: Results.
        flushes: Take subnormals for the zeros of their sign: compilers leave out x + -0 and 1 x,
            so a device that flushes does it in more places or fewer (docs/order.md).
    """
    sum_ = hashlib.sha256()
    for a in arrays:
        unsigned = f"u{a.itemsize}"
        bits = np.ascontiguousarray(flushed(a) if flushes else a).view(unsigned)
        kind = dt.from_numpy(a.dtype)
        if kind.is_float:
            infinity = 2 * kind.emax + 1 << kind.precision - 1
            quiet = infinity | 1 << kind.precision - 2
            sign = 1 << kind.bits - 1
            nan = (bits & np.asarray(sign - 1, unsigned)) > np.asarray(infinity, unsigned)
            bits = np.where(nan, np.asarray(quiet, unsigned), bits)
        sum_.update(f"{kind.name}{a.shape}".encode())
        sum_.update(bits.astype(f"<u{a.itemsize}").tobytes())
    return sum_.hexdigest()[:16]


__all__ += ["Replay", "digest", "is_operand"]
