"""Primitives of the scalar IR, one by one, on the device that ops will run on.

Each trial is launched over one long row and over rows of seven, where every element meets vector
bodies, tails and other lanes, and compared bit by bit with `oracle.primitives`; any NaN is as good
as another.  Level exhaustive adds all pairs of 16-bit operands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt, flushing, ir
from tensorbus_backends.contract import Compiled, CompileError, Device
from tensorbus_backends.dtypes import DType
from tensorbus_backends.kernels.base import Strided, pack

from ..oracle import primitives as exact
from .items import Outcome
from .parts import Part, part
from .session import Session
from .trials import BUILDERS, MOVES, Result, Trial, trial

__all__ = ["bits", "compiled", "launch", "together"]

Array = NDArray[Any]

ROW = 7
"""Length of a short row: no multiple of a vector's."""

_BEYOND = 64
"""Bytes behind every result that must stay as they were."""

_PAIRED = (
    "add",
    "sub",
    "mul",
    "div",
    "lt",
    "le",
    "eq",
    "idiv",
    "irem",
    "mulhi",
    "and",
    "or",
    "xor",
)


def _raw(values: Iterable[int], dtype: DType) -> Array:
    """Elements as they lie in a buffer."""
    kind = np.dtype(f"u{dtype.itemsize}") if dtype.kind in "fb" else dtype.numpy
    return np.array(list(values), kind)


def _stored(values: Iterable[int], dtype: DType) -> Array:
    """Operands as they may lie in a buffer: every byte but 0 is true."""
    raw = _raw(values, dtype)
    if dtype is dt.bool_:
        raw = raw * np.resize(np.array([1, 2, 255, 1, 128, 16], np.uint8), raw.size)
    return raw


def _word(x: int, dtype: DType) -> int:
    """A launch scalar as a word of metadata."""
    return int.from_bytes(_raw([x], dtype).tobytes().ljust(8, b"\0"), "little", signed=True)


@lru_cache(maxsize=256)
def _columns(
    op: str, dtype: DType, declared: frozenset[str], level: str, seed: int
) -> list[list[int]]:
    """Operands of a trial, as many as fill an odd number of short rows."""
    made = trial(op, dtype, declared)
    assert made is not None
    columns = made.columns(level, seed)
    if 0 in made.read:
        return columns
    n = len(columns[0])
    if made.read:  # positions in a column: it keeps its length
        keep = n - (n - ROW) % (2 * ROW)
        first = [k % keep for k in columns[0][:keep]]
        return [first, *(c[:keep] for c in columns[1:])]
    size = n + (ROW - n) % (2 * ROW)
    return [[c[k % n] for k in range(size)] for c in columns]


@lru_cache(maxsize=4096)
def _wanted(
    op: str,
    dtype: DType,
    declared: frozenset[str],
    level: str,
    seed: int,
    k: int,
    tiny: str | None,
) -> Array:
    """What result `k` of a trial must be."""
    made = trial(op, dtype, declared)
    assert made is not None
    result = made.results[k]
    return _raw(result.want(_columns(op, dtype, declared, level, seed), tiny), result.dtype)


_kernels: WeakKeyDictionary[Device, dict[tuple[str, DType], Compiled]] = WeakKeyDictionary()


def compiled(device: Device, op: str, dtype: DType, names: Sequence[str]) -> Compiled:
    """The kernel of a trial; those of all `names` for the dtype are compiled together.

    A device whose compiler takes them one by one only is asked so, and a kernel that it rejects
    costs the other primitives nothing.
    """
    known = _kernels.setdefault(device, {})
    declared = device.capabilities.dtypes
    if (op, dtype) not in known:
        found = {
            n: t
            for n in dict.fromkeys([*names, op])
            if (t := trial(n, dtype, declared)) is not None and t.results
        }
        try:
            for n, k in zip(
                found, device.compile([t.kernel() for t in found.values()]), strict=True
            ):
                known[n, dtype] = k
        except CompileError:
            (known[op, dtype],) = device.compile([found[op].kernel()])
    return known[op, dtype]


def together(dtype: DType, level: str) -> list[str]:
    """Primitives that are judged with a dtype at a level."""
    return [n for n in BUILDERS if dtype in (_smoke(n) if level == "smoke" else _dtypes(n))]


def launch(
    device: Device, kernel: Compiled, made: Trial, columns: Sequence[Array], inner: int
) -> tuple[list[Array], str]:
    """Launch a trial over ``len / inner`` rows.

    Returns:
        The results, and what was written behind one of them ("" if nothing was).
    """
    n = len(columns[0])
    rows = n // inner
    buffers = []
    for c in columns:
        buffers.append(device.allocate(c.nbytes))
        device.copy_in(buffers[-1], 0, memoryview(c.tobytes()))
    for r in made.results:
        buffers.append(device.allocate(n * r.dtype.itemsize + _BEYOND))
        device.copy_in(buffers[-1], 0, memoryview(b"\xa5" * (n * r.dtype.itemsize + _BEYOND)))
    words = made.kernel().meta(
        inner,
        [rows],
        [
            Strided.words(0, 0 if k in made.read else 1, [0 if k in made.read else inner])
            for k in range(len(buffers))
        ],
        [_word(x, d) for d, x in made.params],
    )
    groups = made.kernel().groups(device.dialect, inner, rows)
    with np.errstate(all="ignore"):  # of an interpreter
        device.launch(kernel, groups, buffers, pack(words))
    results, beyond = [], ""
    for r, buffer in zip(made.results, buffers[len(columns) :], strict=True):
        raw = bytearray(n * r.dtype.itemsize + _BEYOND)
        device.copy_out(buffer, 0, memoryview(raw))
        if bytes(raw[-_BEYOND:]) != b"\xa5" * _BEYOND:
            beyond = f"{r.label}: something was written behind the result"
        kind = f"u{r.dtype.itemsize}" if r.dtype.kind in "fb" else r.dtype.numpy
        results.append(np.frombuffer(raw, kind, n))
    return results, beyond


def _keys(x: Array) -> Array:
    """Bit patterns of floats in the order of their values, one apart for neighbours."""
    signed = x.view(f"i{x.itemsize}").astype(np.float64 if x.itemsize == 8 else np.int64)
    return np.asarray(
        np.where(signed < 0, -(signed - float(np.iinfo(f"i{x.itemsize}").min)), signed)
    )


def _flushed(x: Array, dtype: DType) -> Array:
    """Subnormal patterns as zeros of their sign."""
    f = exact.FORMATS[dtype.name]
    top = x.dtype.type(1 << (f.bits - 1))
    small = (x & (top - x.dtype.type(1))) < x.dtype.type(1 << (f.precision - 1))
    return np.where(small, x & top, x)


def _agree(session: Session, op: str, result: Result, got: Array, want: Array) -> NDArray[np.bool_]:
    """Element by element: the same bits, two NaNs, or as near as the device declares."""
    dtype = result.dtype
    if not dtype.is_float:
        return np.asarray(got == want)
    if session.flushes and op not in MOVES and dtype in (dt.float32, dt.bfloat16):
        got, want = _flushed(got, dtype), _flushed(want, dtype)
    x, y = (a.view(dtype.numpy) for a in (got, want))
    with np.errstate(invalid="ignore"):  # signalling NaNs
        same = (got == want) | (np.isnan(x) & np.isnan(y))
    declared = {
        "div": session.device.capabilities.division,
        "sqrt": session.device.capabilities.square_root,
    }.get(op, "correct")
    if declared != "correct":
        near = np.abs(_keys(got) - _keys(want)) <= float(declared)
        same |= near & np.isfinite(x) & np.isfinite(y)
    return np.asarray(same)


def _operands(made: Trial, columns: Sequence[Array], k: int) -> str:
    """Operands at a place, for people."""
    shown = []
    for d, c in zip(made.inputs, columns, strict=True):
        if d.is_float:
            shown.append(f"{float(c[k : k + 1].view(d.numpy)[0]).hex()} (0x{int(c[k]):x})")
        else:
            shown.append(str(c[k]))
    return ", ".join(shown)


def bits(session: Session) -> Outcome:
    """The primitive gives the one result that the IR defines, on every operand."""
    op, dtype = session.item.op.partition(".")[2], session.dtype
    outcome = Outcome("bits", unit="bits")
    if op not in BUILDERS:
        outcome.state, outcome.message = "not run", f"there is no reference for primitive {op}"
        return outcome
    device = session.guard.real
    key = (op, dtype, device.capabilities.dtypes)
    made = trial(*key)
    if made is None:
        outcome.state, outcome.message = "not run", f"the IR does not define {op} of {dtype.name}"
        return outcome
    raw = [
        _stored(c, d)
        for c, d in zip(_columns(*key, session.level, session.seed), made.inputs, strict=True)
    ]
    kernel = compiled(device, op, dtype, together(dtype, session.level))
    readings: tuple[str | None, ...] = session.tininess if session.flushes else (None,)
    for inner in (len(raw[0]), ROW):
        got, beyond = launch(device, kernel, made, raw, inner)
        if beyond:
            outcome.state, outcome.message = "fail", beyond
            return outcome
        messages: dict[str | None, tuple[str, str]] = {}
        for tiny in readings:
            for k, (result, g) in enumerate(zip(made.results, got, strict=True)):
                want = _wanted(*key, session.level, session.seed, k, tiny)
                outcome.decided += g.size if tiny == readings[0] else 0
                wrong = np.flatnonzero(~_agree(session, op, result, g, want))
                if wrong.size:
                    at = int(wrong[0])
                    text = f"{result.label}: {wrong.size} of {g.size} are wrong in rows of {inner}"
                    text += f"; got {_shown(g, at, result)}, defined {_shown(want, at, result)}"
                    messages[tiny] = (text, _operands(made, raw, at))
                    break
        good = tuple(t for t in readings if t not in messages)
        if not good:
            outcome.state = "fail"
            outcome.message, outcome.witness = messages[readings[0]]
            return outcome
        readings = good
    if session.flushes:
        session.tininess = tuple(t for t in readings if t is not None)
    if device.info.plugin == "ref" and dtype.is_float:
        _speaking(session, outcome, kernel, made, raw, key)
    if session.level == "exhaustive" and dtype.bits == 16 and op in _PAIRED:
        _all_pairs(session, outcome, op, kernel, made)
    return outcome


def _speaking(
    session: Session,
    outcome: Outcome,
    kernel: Compiled,
    made: Trial,
    raw: Sequence[Array],
    key: tuple[str, DType, frozenset[str]],
) -> None:
    """The interpreter inside `flushing`: what it says for devices that flush subnormals."""
    device = session.guard.real
    for tiny in flushing.TININESS[: 1 if session.level == "smoke" else None]:
        with flushing.flushing(tiny):
            got, _ = launch(device, kernel, made, raw, len(raw[0]))
        for k, (result, g) in enumerate(zip(made.results, got, strict=True)):
            want = _wanted(*key, session.level, session.seed, k, tiny)
            outcome.decided += g.size
            wrong = np.flatnonzero(~_agree(session, made.op, result, g, want))
            if wrong.size and outcome.state == "pass":
                at = int(wrong[0])
                outcome.state, outcome.witness = "fail", _operands(made, raw, at)
                outcome.message = (
                    f"{result.label}, flushing, tiny {tiny}: {wrong.size} of {g.size} are wrong; "
                    f"got {_shown(g, at, result)}, defined {_shown(want, at, result)}"
                )


def _shown(x: Array, at: int, result: Result) -> str:
    if not result.dtype.is_float:
        return str(x[at])
    return f"{float(x[at : at + 1].view(result.dtype.numpy)[0]).hex()} (0x{int(x[at]):x})"


# -- all pairs of 16 bits -----------------------------------------------------------------------


def _pairs_reference(op: str, dtype: DType, a: Array, b: Array) -> Array:
    """Results for all pairs, by NumPy: 64-bit integers, or float32 rounded to 16 bits.

    float32 has more than ``2 p + 2`` bits for both 16-bit formats, so that rounding twice is
    rounding once (Figueroa, 1995); the host's own float32 is IEEE 754's.
    """
    with np.errstate(all="ignore"):
        if dtype.is_float:
            x, y = (v.view(dtype.numpy).astype(np.float32) for v in (a, b))
            function = {
                "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
                "lt": np.less, "le": np.less_equal, "eq": np.equal,
            }[op]  # fmt: skip
            r = function(x, y)
            return r.view(np.uint8) if r.dtype == bool else r.astype(dtype.numpy).view(np.uint16)
        x, y = a.astype(np.int64), b.astype(np.int64)
        if op in ("idiv", "irem"):
            safe = np.where(y == 0, 1, y)
            q = np.where(y == 0, 0, np.abs(x) // np.abs(safe) * np.sign(x) * np.sign(safe))
            r = q if op == "idiv" else np.where(y == 0, 0, x - q * y)
        elif op == "mulhi":
            r = np.right_shift(x * y, 16)
        else:
            r = {
                "add": np.add, "sub": np.subtract, "mul": np.multiply, "and": np.bitwise_and,
                "or": np.bitwise_or, "xor": np.bitwise_xor, "lt": np.less, "le": np.less_equal,
                "eq": np.equal,
            }[op](x, y)  # fmt: skip
        return r.view(np.uint8) if r.dtype == bool else r.astype(dtype.numpy)


def _all_pairs(session: Session, outcome: Outcome, op: str, kernel: Compiled, made: Trial) -> None:
    """All 2^32 pairs of operands, 2^22 at a time; minutes."""
    dtype, device, result = session.dtype, session.guard.real, made.results[0]
    unsigned = np.arange(1 << 16, dtype=np.uint16)
    every = unsigned if dtype.is_float else unsigned.view(dtype.numpy)
    for start in range(0, 1 << 16, 64):
        a, b = np.repeat(every[start : start + 64], 1 << 16), np.tile(every, 64)
        got, _ = launch(device, kernel, made, [a, b], 1 << 16)
        want = _pairs_reference(op, dtype, a, b)
        wrong = np.flatnonzero(~_agree(session, op, result, got[0], want))
        outcome.decided += a.size
        if wrong.size:
            at = int(wrong[0])
            outcome.state = "fail"
            outcome.message = f"{result.label}: {wrong.size} of {a.size} pairs are wrong"
            outcome.witness = _operands(made, [a, b], at)
            return


# -- parts --------------------------------------------------------------------------------------

_ALSO = {
    "fma": (dt.float64,),
    "mulhi": (dt.int64, dt.uint32, dt.uint64),
    "cast": (dt.float64, dt.int64),
    "input": (dt.float16, dt.bfloat16, dt.bool_),
    "index": (dt.int64,),
    **dict.fromkeys(("not", "and", "or", "xor"), (dt.bool_,)),
}
"""Dtypes of level smoke beside float32 and int32."""

_EVERY = frozenset(d.name for d in dt.ALL)


@cache
def _dtypes(op: str) -> tuple[DType, ...]:
    """Those for which the IR defines a primitive; float32 where it has no reference."""
    if op not in BUILDERS:
        return (dt.float32,)
    return tuple(d for d in dt.ALL if trial(op, d, _EVERY) is not None)


@cache
def _smoke(op: str) -> tuple[DType, ...]:
    chosen = (dt.float32, dt.int32, *_ALSO.get(op, ()))
    return tuple(d for d in _dtypes(op) if d in chosen) or _dtypes(op)[:1]


for _op in (*ir.PRIMITIVES, "store"):
    part(Part(f"primitive.{_op}", {"bits": bits}, _dtypes(_op), _smoke(_op)))
