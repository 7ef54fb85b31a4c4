"""Calling an op for the judge: arguments to tensors and back, on a fenced device or on ref."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Device as Backend
from tensorbus_backends.dtypes import DType
from tensorbus_backends.flushing import TININESS, flush, flushing

from ..oracle import REFERENCES
from .asked import names_of
from .cases import Case, array_slots, cases, shape_cases, special_cases, split
from .guard import Guarded
from .items import Item, oracle_name
from .layouts import host, place

__all__ = [
    "Session",
    "array_slots",
    "fenced",
    "flushed",
    "flushed_calls",
    "oracle_call",
    "split",
]

Array = NDArray[Any]
Wrap = Callable[[Backend], Backend]


def dtypes_in(case: Case) -> set[DType]:
    """Dtypes of a case's arrays and of its arguments that are dtypes."""
    given = {a for a in (*case.args, *case.options.values()) if isinstance(a, DType)}
    return given | {dt.from_numpy(a.dtype) for a in array_slots(case)}


@lru_cache(maxsize=256)
def _positional(op: str) -> list[str]:
    """Names of the parameters that the oracle's reference takes by position."""
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(REFERENCES[op].forward).parameters.values()
    return [p.name for p in parameters if p.kind in by_position]


def _arrays(value: Any) -> bool:
    """Whether an argument is a list of operands (and not of sizes, say)."""
    return isinstance(value, list) and any(isinstance(v, np.ndarray) for v in value)


def oracle_arguments(
    op: str, case: Case, arrays: Sequence[Array] | None = None
) -> tuple[list[Any], Any]:
    """Arguments as the oracle takes them: tensors positional, dtypes NumPy's."""
    _, rebuild = split(case)
    args, options = rebuild(array_slots(case) if arrays is None else arrays)
    flat: list[Any] = []
    for a in args:
        flat += a if _arrays(a) else [a]
    plain: dict[str, Any] = {}
    names = _positional(op)
    for key, value in options.items():
        if isinstance(value, np.ndarray) and key in names:
            flat += [None] * (names.index(key) + 1 - len(flat))
            flat[names.index(key)] = value
        else:
            plain[key] = value.numpy if isinstance(value, DType) else value
    flat = [a.numpy if isinstance(a, DType) else a for a in flat]
    return flat, plain


class _Kept:
    """What was computed for a case, for as long as the latest cases; devices share it."""

    SIZE = 256

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[Case, Any]] = {}

    def get(self, op: str, case: Case, make: Callable[[], Any]) -> Any:
        """The value of `make` for this very case."""
        key = (op, id(case))
        if key not in self._known:
            if len(self._known) >= self.SIZE:
                del self._known[next(iter(self._known))]
            self._known[key] = (case, make())
        return self._known[key][1]


_references = _Kept()
_interpreted = _Kept()


def flushed(array: Array) -> Array:
    """What a device that flushes float32 subnormals may take an operand for."""
    if array.dtype == np.float32:
        return flush(array)
    if array.dtype == ml_dtypes.bfloat16:  # its numbers are float32's
        return flush(array.astype(np.float32)).astype(array.dtype)
    return array


def flushed_calls(op: str, case: Case) -> list[tuple[Any, ...]]:
    """References of a call with subnormal operands taken as zero, in every combination.

    The first one, in which all operands are as they are, is left out; so the list is empty where
    there are no subnormals.
    """
    arrays = array_slots(case)
    choices = []
    for a in arrays:
        other = flushed(a)
        same = np.ascontiguousarray(other).tobytes() == np.ascontiguousarray(a).tobytes()
        choices.append((a,) if same else (a, other))
    return [_call_oracle(op, case, chosen) for chosen in list(product(*choices))[1:]]


def oracle_call(op: str, case: Case, arrays: Sequence[Array] | None = None) -> tuple[Any, ...]:
    """The references of a call's results."""
    if arrays is None:
        return _references.get(op, case, lambda: _call_oracle(op, case, None))  # type: ignore[no-any-return]
    return _call_oracle(op, case, arrays)


def _call_oracle(op: str, case: Case, arrays: Sequence[Array] | None) -> tuple[Any, ...]:
    flat, plain = oracle_arguments(op, case, arrays)
    if op == "astype":
        flat, plain = flat[:1], {"dtype": flat[1]}
    result = REFERENCES[op].forward(*flat, **plain)
    return result if isinstance(result, tuple) else (result,)


def fenced(backend: Backend, wrap: Wrap | None = None) -> tb.Device:
    """A device of its own, with fences, over an open one; `wrap` goes between (planted faults)."""
    inner = backend if wrap is None else wrap(backend)
    return tb.Device(Guarded(inner))


@lru_cache(maxsize=1)
def reference_device() -> tb.Device:
    """Device ``ref`` without fences."""
    return tb.get_device("ref")


@dataclass
class Session:
    """One item being judged.

    Attributes:
        item: What.
        device: The fenced device.
        level: ``"smoke"``, ``"standard"`` or ``"exhaustive"``.
        seed: Of all data.
        library: Whose native kernel was seen.
        ways: Variants of the item's calls, as their traces tell.
        tininess: What the device may call tiny, where it flushes subnormals: one thing for all.
    """

    item: Item
    device: tb.Device
    level: str
    seed: int
    library: str = ""
    served: set[str] = field(default_factory=set)
    ways: set[str] = field(default_factory=set)
    changed: list[str] = field(default_factory=list)
    runs: int = 0
    tininess: tuple[str, ...] = TININESS
    results: dict[int, tuple[Case, list[Array]]] = field(default_factory=dict)

    @property
    def op(self) -> str:
        """The op's name in the oracle."""
        return oracle_name(self.item.op) or self.item.op

    @property
    def dtype(self) -> DType:
        return dt.by_name(self.item.dtype)

    @property
    def guard(self) -> Guarded:
        backend = self.device.backend
        assert isinstance(backend, Guarded)
        return backend

    @property
    def portable(self) -> bool:
        return self.item.variant == "portable"

    @property
    def owner(self) -> str:
        """Whose native kernel is judged; "" for a portable item."""
        if self.portable:
            return ""
        natives = self.device.backend.natives
        return next((natives[n].library for n in names_of(self.item.op) if n in natives), "")

    @property
    def flushes(self) -> bool:
        """Whether the device declares that it flushes float32 subnormals."""
        return self.device.capabilities.subnormals == "flush"

    def cases(self) -> list[Case]:
        """The calls with ordinary data."""
        return self.usable(cases(self.op, self.dtype, self.level, self.seed))

    def special_cases(self) -> list[Case]:
        """The calls with special values."""
        return self.usable(special_cases(self.op, self.dtype, self.level, self.seed))

    def shape_cases(self) -> list[Case]:
        """The calls with empty, zero-dimensional and odd shapes."""
        return self.usable(shape_cases(self.op, self.dtype, self.seed))

    def usable(self, sets: Sequence[Case]) -> list[Case]:
        """The calls that name and hold no dtype beyond those that the device declares."""
        known = self.device.capabilities.dtypes
        return [c for c in sets if all(d.name in known for d in dtypes_in(c))]

    def interpreted(self, case: Case, tiny: str | None = None) -> list[Array]:
        """The interpreter's results, flushing subnormals as `tiny` says unless it is None."""

        def make() -> list[Array]:
            with nullcontext() if tiny is None else flushing(tiny):
                return self.run(case, device=reference_device())[0]

        kept: list[Array] = _interpreted.get(f"{self.item.op} {tiny}", case, make)
        return kept

    def result(self, case: Case) -> list[Array]:
        """What the first call of a case gave: properties that only compare share it."""
        if id(case) not in self.results:
            self.results[id(case)] = (case, self.run(case)[0])
        return self.results[id(case)][1]

    def run(
        self, case: Case, layout: str = "given", device: tb.Device | None = None
    ) -> tuple[list[Array], list[Array]]:
        """Call the op.

        Returns:
            The results, and the arrays that the call really saw (layouts may change values).
        """
        tensors, seen = self.tensors(case, layout, device)
        results = self.call(case, tensors, device)
        outs = [host(r) for r in results]
        if device is None:
            self.runs += 1
            if not self.portable:
                self.guard.look()
            for k, (t, a) in enumerate(zip(tensors, seen, strict=True)):
                now = host(t)
                if now.tobytes() != np.ascontiguousarray(a).tobytes():
                    self.changed.append(f"operand {k} was changed by {case.label or 'the call'}")
        return outs, seen

    def tensors(
        self, case: Case, layout: str = "given", device: tb.Device | None = None
    ) -> tuple[list[tb.Tensor], list[Array]]:
        """The case's arrays on a device."""
        where = device or self.device
        placed = [place(where, a, layout) for a in array_slots(case)]
        return [p[0] for p in placed], [p[1] for p in placed]

    def call(
        self, case: Case, tensors: Sequence[tb.Tensor], device: tb.Device | None = None
    ) -> list[tb.Tensor]:
        """Call the op on tensors, under the item's variant, and note how it was served."""
        function = tb.FUNCTIONS[self.item.op].call
        _, rebuild = split(case)
        args, options = rebuild(tensors)
        if not tensors:
            options["device"] = device or self.device
        with tb.reproducible(self.portable or device is not None), tb.trace() as trace:
            result = function(*args, **options)
        if device is None:
            for record in trace:
                self.served.add(record.variant)
                if record.op == "to_device" and self.op not in ("asarray", "from_dlpack"):
                    # No op moves its operands: whoever does has another device do the work.
                    self.served.add("fallback")
                if record.variant == "native":
                    self.library = record.library
            self.ways |= {r.variant for r in trace if not r.depth}
        return [result] if isinstance(result, tb.Tensor) else list(result)

    @property
    def way(self) -> str:
        """How the op was served: the word that a trace and ``tensorbus ops`` have for it."""
        order = ("fallback", "native", "decomposed", "portable")
        return next((w for w in order if w in self.ways), "")
