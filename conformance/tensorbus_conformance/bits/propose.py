"""Calls for ops that have none in docs/bits.json yet: a few that go as many ways as possible.

They come from the sample catalogue (the oracle's records), with the operands' shapes, layouts and
ranges kept and their elements made anew by `array`, and are chosen one after the other: each call
launches most kernels, and has most arguments, that no earlier one did.  Once recorded they are
data, and the catalogue may change.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Device, KernelSpec
from tensorbus_backends.dtypes import DType

from ..judge.cases import Case, array_slots, cases, shape_cases, special_cases, traits
from ..judge.guard import Guarded
from ..judge.items import oracle_name
from ..oracle import REFERENCES
from .array import described
from .replay import Call, dtypes_of, results

__all__ = ["CALLS", "KINDS", "proposed"]

Array = NDArray[Any]

CALLS = 10
"""Calls of an op that are proposed."""

_LARGEST = 20_000
"""Elements of the operands of one call."""

_EXPLICIT = 6
"""An array of so few elements is written down as it is."""

_SMALL_WITH_SPECIALS = 16
_SORTER = 64

KINDS = ("float32", "float16", "bfloat16", "float64", "int32", "uint8", "bool", "int64")
"""Dtypes, each of which some call has, if the op takes it."""


def _data(op: str, at: int, array: Array, case: Case, key: int) -> list[Any] | None:
    """What an operand's memory holds, None where it cannot be said in a few words."""
    memory, *_ = _memory(array)
    explicit = ["bits", np.ascontiguousarray(memory).tobytes().hex()]
    kind = dt.from_numpy(array.dtype)
    if kind.is_float:
        values = array.astype(np.float64).reshape(-1)
        finite = values[np.isfinite(values)]
        tiny = bool((np.abs(finite[finite != 0]) < 2.0**kind.emin).any())
        low = float(finite.min()) if finite.size else -1.0
        high = float(finite.max()) if finite.size else 1.0
        wide = finite.size < values.size or tiny or not math.isfinite(high - low)
        if low == high and memory.size > _SMALL_WITH_SPECIALS and not wide:
            return None
        if memory.size <= (_SMALL_WITH_SPECIALS if wide else _EXPLICIT):
            return explicit
        data = ["special", key] if wide else ["float", key, _short(low), _short(high)]
    else:
        if memory.size <= _EXPLICIT or (case.options.get("sorter") is array and array.size):
            return explicit if memory.size <= _SORTER else None
        low_, high_ = (int(array.min()), int(array.max())) if array.size else (0, 1)
        wide = kind.is_integer and high_ - low_ > 1 << 20
        data = ["mixed" if wide else "int", key, low_, high_]
    if op != "searchsorted" or at:
        return data
    if "sorter" in case.options:
        return explicit if memory.size <= _SORTER else None
    return ["descending" if array.strides[0] < 0 else "sorted", data]


def _short(x: float) -> float:
    """A bound of 8 significant bits, not further from 0."""
    m, e = math.frexp(x)
    return math.ldexp(math.trunc(m * 256) / 256, e)


def _memory(array: Array) -> tuple[Array, tuple[int, ...] | None, int]:
    """The memory that an array is a view of, strides in elements and offset."""
    if not array.size or (array.flags.c_contiguous and array.flags.owndata):
        return np.ascontiguousarray(array).reshape(-1), None, 0
    low, _ = np.lib.array_utils.byte_bounds(array)
    first = (array.__array_interface__["data"][0] - low) // array.itemsize
    strides = tuple(s // array.itemsize for s in array.strides)
    reach = sum(max(0, s * (n - 1)) for s, n in zip(strides, array.shape, strict=True))
    start = array
    for axis, s in enumerate(strides):
        if s < 0:
            start = np.flip(start, axis)
    flat = np.lib.stride_tricks.as_strided(
        start.reshape(-1)[:1] if not start.ndim else start[(slice(0, 1),) * start.ndim].reshape(-1),
        (first + reach + 1,),
        (array.itemsize,),
    )
    return flat, strides, first


def _operand(op: str, at: int, array: Array, case: Case, key: int) -> dict[str, Any] | None:
    data = _data(op, at, array, case, key)
    if data is None:
        return None
    _, strides, offset = _memory(array)
    what: dict[str, Any] = {"dtype": dt.from_numpy(array.dtype).name, "shape": list(array.shape)}
    if strides is not None:
        what |= {"strides": list(strides), "offset": offset}
    return what | {"data": data}


def _plain(value: Any) -> Any:
    """An argument that is no operand, as JSON has it; `replay` reads it back."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, DType):
        return {"dtype": value.name}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def encoded(name: str, op: str, case: Case) -> dict[str, Any] | None:
    """A case as data; None where it cannot be one."""
    count = 0

    def give(value: Any) -> Any:
        nonlocal count
        if isinstance(value, np.ndarray):
            key = zlib.crc32(f"{name} {case.label} {value.dtype} {value.shape} {count}".encode())
            made = _operand(op, count, value, case, key)
            count += 1
            if made is None:
                raise _Unsaid
            return made
        if isinstance(value, list) and any(isinstance(v, np.ndarray) for v in value):
            return [give(v) for v in value]
        return _plain(value)

    try:
        call: dict[str, Any] = {"args": [give(a) for a in case.args]}
        if case.options:
            call["options"] = {k: give(v) for k, v in case.options.items()}
    except _Unsaid:
        return None
    return call


class _Unsaid(Exception):
    """An operand that no kind of data describes."""


# -- random ops: their records have no samples --------------------------------------------------

_SHAPES: tuple[Any, ...] = (4099, [3, 5, 43], [], [0], 1)
_FLOATS = ("float32", "float64", "float16", "bfloat16")


def _vector(dtype: str, n: int, key: int) -> dict[str, Any]:
    kind = dt.by_name(dtype)
    if kind.is_float:
        return described(kind, n, ("float", key, -4.0, 4.0))
    return described(kind, n, ("int", key, 0, 1 if kind.kind == "b" else 100))


def _random(name: str) -> Iterator[dict[str, Any]]:
    seeds: tuple[dict[str, Any], ...] = (
        {"key": {"key": 0xFEDCBA9876543210}},
        {"seed": 0},
        {"seed": 12345},
    )
    short = name.rsplit(".", 1)[-1]
    if short in ("uniform", "normal"):
        ends = ("low", "high") if short == "uniform" else ("mean", "std")
        for k, d in enumerate(_FLOATS):
            yield {"args": [4099], "options": {"dtype": {"dtype": d}} | seeds[k % 3]}
            more = {ends[0]: -2.5, ends[1]: 1.5, "dtype": {"dtype": d}}
            yield {"args": [[3, 5, 43]], "options": more | seeds[(k + 1) % 3]}
        for k, s in enumerate(_SHAPES[2:]):
            yield {"args": [s], "options": dict(seeds[k])}
    elif short == "integers":
        for k, d in enumerate(("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
                               "uint64")):  # fmt: skip
            kind = dt.by_name(d)
            low, high = (kind.min, kind.max + 1) if k % 2 else (max(kind.min, -50), 100)
            options = {"dtype": {"dtype": d}} | seeds[k % 3]
            yield {"args": [low, high, _SHAPES[k % 2]], "options": options}
        yield {"args": [0, 2], "options": {"seed": 3}}
    elif short == "bernoulli":
        for k, p in enumerate((0.49, 0.3, 1e-12, 1.0, 1 - 2.0**-24)):
            yield {"args": [p, _SHAPES[k]], "options": dict(seeds[k % 3])}
    elif short == "permutation":
        for k, n in enumerate((1000, 4099, 1, 0)):
            yield {"args": [n], "options": dict(seeds[k % 3])}
        for k, d in enumerate(("float32", "float16", "float64", "bfloat16", "int64", "bool")):
            x = _vector(d, 210, k) | {"shape": [7, 30]}
            yield {"args": [x], "options": {"axis": k % 3 - 1} | seeds[k % 3]}
    elif short == "dropout":
        for k, d in enumerate(_FLOATS):
            yield {"args": [_vector(d, 4099, k), (0.25, 0.5, 0.9, 0.1)[k]], "options": seeds[k % 3]}
        yield {"args": [_vector("float32", 1001, 9)], "options": {"training": False, "seed": 1}}
        x = _vector("float32", 15, 9) | {"shape": [3, 5], "strides": [-1, 3], "offset": 2}
        yield {"args": [x], "options": {"key": {"key": 7}}}
        yield {"args": [_vector("float32", 129, 9), 1.0], "options": {"seed": 5}}


# -- choosing -----------------------------------------------------------------------------------


def _pool(name: str) -> Iterator[tuple[dict[str, Any], set[Any]]]:
    """All calls that could be chosen, with what is particular about each."""
    op = oracle_name(name)
    if op is None or REFERENCES[op].samples is None:
        for call in _random(name):
            yield call, {("call", str(call)), ("subject", _subject(call))}
        return
    for d in dt.ALL:
        for found in (
            cases(op, d, "smoke", 0),
            cases(op, d, "smoke", 1) if d.name in KINDS[:5] else (),
            special_cases(op, d, "smoke", 0),
            shape_cases(op, d, 0) if d is dt.float32 else (),
        ):
            for case in found:
                arrays = array_slots(case)
                if sum(a.size for a in arrays) > _LARGEST:
                    continue
                made = encoded(name, op, case)
                if made is None:
                    continue
                about = {("trait", *t) for t in traits(case)} | {("subject", d.name)}
                kind = "float" if d.is_float else "other"
                about |= {("large", kind, max(a.shape, default=0) > 128) for a in arrays}
                about |= {("larger", kind, max(a.shape, default=0) > 4096) for a in arrays}
                about |= {("layout", _layout(a)) for a in arrays}
                about |= {("rank", min(a.ndim, 5)) for a in arrays}
                yield made, about


def _subject(call: Call) -> str:
    return sorted(dtypes_of(call))[0] if dtypes_of(call) else "float32"


def _layout(array: Array) -> str:
    if array.flags.c_contiguous:
        return "plain" if array.flags.owndata else "offset"
    if any(s < 0 for s in array.strides):
        return "negative"
    return "broadcast" if 0 in array.strides else "strided"


class Watch(Guarded):
    """A device that keeps the names of the kernels that it launches."""

    def __init__(self, real: Device) -> None:
        super().__init__(real)
        self.names: set[str] = set()

    def launching(self, kernel: Any) -> None:
        spec: KernelSpec = kernel.spec
        self.names.add(spec.name)
        super().launching(kernel)


def proposed(name: str, count: int = CALLS) -> list[Call]:
    """Calls of a function, those first that bring most that is new."""
    watch = Watch(tb.get_device("ref").backend)
    device = tb.Device(watch)
    differentiable = tb.FUNCTIONS[name].differentiable
    left: list[tuple[Call, set[Any]]] = []
    for call, about in _pool(name):
        watch.names.clear()
        try:
            given = results(name, call, device, "out")
            call["gives"] = sorted({dt.from_numpy(a.dtype).name for a in given} - dtypes_of(call))
            if differentiable and any(d.startswith(("f", "bf")) for d in dtypes_of(call)):
                results(name, call, device, "vjp")
        except Exception as error:
            if not isinstance(error, OverflowError | ValueError | IndexError | TypeError):
                raise
            continue
        if not call["gives"]:
            del call["gives"]
        # A float that becomes an integer has no derivative: another call stands for its dtype.
        if not (differentiable and _becomes_integer(about, given)):
            about |= {("dtype", *t[1:]) for t in about if t[0] == "subject"}
        # A kernel's name ends with a digest; two calls that differ in that alone differ less.
        used = frozenset(dtypes_of(call))
        about |= {("family", n.rsplit("_", 1)[0], used) for n in watch.names}
        left.append((call, about | {("kernel", n) for n in watch.names}))
    return _most_new(left, count)


_WORTH = {"dtype": 6.0, "larger": 4.0, "large": 3.0, "family": 2.0, "layout": 2.0, "rank": 2.0}


def _becomes_integer(about: set[Any], given: Sequence[Array]) -> bool:
    subject = next(t[1] for t in about if t[0] == "subject")
    return dt.by_name(subject).is_float and any(a.dtype.kind in "biu" for a in given)


def _most_new(left: list[tuple[Call, set[Any]]], count: int) -> list[Call]:
    chosen: list[Call] = []
    known: set[Any] = set()

    def gain(k: int) -> float:
        new = left[k][1] - known
        missing = [d for d in KINDS if ("dtype", d) in possible - known]
        first = bool(missing) and ("dtype", missing[0]) in new
        return 1000.0 * first + sum(_WORTH.get(t[0], 1.0) for t in new)

    possible = {t for _, about in left for t in about}
    while left and len(chosen) < count:
        best = max(range(len(left)), key=gain)
        if gain(best) <= 0:
            break
        call, about = left.pop(best)
        chosen.append(call)
        known |= about
    return chosen
