"""Kernels launched as no op launches them: results at an offset, more than one launch scalar.

The library gives every result memory of its own and few scalars to a launch, so that a skeleton
which forgets the offset of its output, or takes every scalar from the first one's word, is right in
all ops.  The contract promises more.  Here each skeleton runs with all of it, on the device and in
the interpreter, on whole numbers that every dtype holds, against NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.contract import Compiled, Device
from tensorbus_backends.dtypes import DType
from tensorbus_backends.kernels import MONOIDS, Contraction, Operand, Reduce, Scan, Walk
from tensorbus_backends.kernels.base import Kernel, Strided, bits_of, pack

from ..items import Outcome
from ..session import Session
from .base import Checks, duty, fetch, filled

__all__ = ["launched"]

Array = NDArray[Any]

_LEAD = 5
"""Elements before the first one of every operand and result."""


@dataclass(frozen=True)
class _Trial:
    """One launch.

    Attributes:
        label: What it is.
        kernel: The skeleton.
        meta: Words.
        groups: As the kernel counts them for a dialect.
        inputs: Memory of the operands.
        due: Memory of the results, with what stands before them; zeros where it is not written.
    """

    label: str
    kernel: Kernel
    meta: list[int]
    groups: Any
    inputs: list[Array]
    due: list[Array]


def _behind(array: Array, before: int = 77) -> Array:
    """Memory in which an array begins at `_LEAD`."""
    lead = np.full(_LEAD, before).astype(array.dtype)
    return np.concatenate([lead, array.reshape(-1)])


def _reductions(rng: np.random.Generator, dtype: DType) -> Iterator[_Trial]:
    """Both layouts with one chunk, where scalars reach the last step, and with several."""
    acc, x = dtype.compute, ir.input_(0, dtype)
    factors = (2, 3, 5)
    params = (acc,) * 3
    expr = x * ir.param(0, acc) + ir.param(1, acc)
    finish = ir.input_(0, acc) + ir.param(2, acc) * ir.param(1, acc)
    words = [bits_of(f, acc) for f in factors]
    for rows, n, columns in ((3, 5, 1), (2, 130, 4), (2, 8200, 1), (1, 8195, 3)):
        layout = "row" if columns == 1 else "col"
        data = rng.integers(-3, 4, (rows, n, columns)).astype(dtype.numpy)
        last = finish if n <= 8192 else None
        kernel = Reduce(
            "judged", (Operand(dtype),), expr, MONOIDS["sum"], acc, last, params, layout
        )
        inner, along = (1, 0) if layout == "row" else (1, columns)
        operand = Strided.words(_LEAD, inner, [n * columns])
        meta = kernel.meta(n, columns, [rows], [operand], [along], _LEAD, words)
        chunks = -(-n // 8192)
        terms = data.astype(np.int64) * factors[0] + factors[1]
        parts = [terms[:, k * 8192 : (k + 1) * 8192].sum(axis=1) for k in range(chunks)]
        due = np.stack(parts, axis=1) + (factors[2] * factors[1] if last is not None else 0)

        def groups(
            dialect: Any, k: Reduce = kernel, n: int = n, c: int = columns, r: int = rows
        ) -> int:
            return k.groups(dialect, n, c, r)

        label = f"{layout} of {rows} x {n} x {columns}"
        yield _Trial(label, kernel, meta, groups, [_behind(data)], [_behind(due.astype(acc.numpy))])


def _scans(rng: np.random.Generator, dtype: DType) -> Iterator[_Trial]:
    """Its two results begin at offsets of their own."""
    acc = dtype.compute
    kernel = Scan("judged", Operand(dtype), ir.cast(ir.input_(0, dtype), acc), MONOIDS["sum"])
    for rows, n in ((2, 7), (3, 300)):
        data = rng.integers(-3, 4, (rows, n)).astype(dtype.numpy)
        meta = kernel.meta(n, [rows], Strided.words(_LEAD, 1, [n]))
        blocks = meta[1]
        size = 128
        meta[-2:] = [_LEAD, _LEAD]
        pieces = [data[:, k * size : (k + 1) * size] for k in range(blocks)]
        local = np.concatenate([np.cumsum(p, axis=1) for p in pieces], axis=1)
        totals = np.stack([p.sum(axis=1) for p in pieces], axis=1)

        def groups(dialect: Any, n: int = n, r: int = rows) -> int:
            return kernel.groups(dialect, n, r)

        due = [_behind(a.astype(acc.numpy)) for a in (local, totals)]
        yield _Trial(f"scan of {rows} x {n}", kernel, meta, groups, [_behind(data)], due)


def _products(rng: np.random.Generator, dtype: DType) -> Iterator[_Trial]:
    """All three matrices begin at an offset."""
    for m, k, n in ((2, 3, 4), (5, 260, 7)):
        a = rng.integers(-3, 4, (m, k)).astype(dtype.numpy)
        b = rng.integers(-3, 4, (k, n)).astype(dtype.numpy)
        kernel = Contraction.product(dtype)
        walks = [Walk((), [step], [1]) for step in (k, n, n)]
        meta = kernel.meta([], [m], [n], [k], walks, offsets=[_LEAD] * 3)

        def groups(dialect: Any, kernel: Contraction = kernel, m: int = m, n: int = n) -> int:
            return kernel.groups(dialect, m, n, 1)

        due = (a.astype(np.int64) @ b.astype(np.int64)).astype(dtype.numpy)
        yield _Trial(f"{m} x {k} x {n}", kernel, meta, groups, [_behind(a), _behind(b)],
                     [_behind(due)])  # fmt: skip


def launched(session: Session) -> Outcome:
    """Every skeleton, where the device takes kernels and in the interpreter."""
    checks, device = Checks("launched"), session.guard.real
    rng = np.random.default_rng(session.seed)
    trials = [
        (dtype, trial)
        for dtype in (dt.float32, dt.int32)
        for trial in (*_reductions(rng, dtype), *_scans(rng, dtype), *_products(rng, dtype))
    ]
    handles: list[Any] = []
    if device.dialect is not None:  # together, as some compilers are slow to start
        handles = device.compile([trial.kernel for _, trial in trials])
    for k, (dtype, trial) in enumerate(trials):
        label = f"{trial.label}, {dtype.name}"
        if handles:
            _same(checks, f"{label}, compiled", _compiled(device, handles[k], trial), trial.due)
        _same(checks, f"{label}, interpreted", _interpreted(trial), trial.due)
    return checks.outcome


def _blank(due: Array) -> Array:
    """Memory of a result before the launch."""
    blank = np.zeros_like(due)
    blank[:_LEAD] = due[:_LEAD]
    return blank


def _compiled(device: Device, handle: Compiled, trial: _Trial) -> list[Array]:
    buffers = [filled(device, a) for a in (*trial.inputs, *map(_blank, trial.due))]
    groups = trial.groups(device.dialect)
    device.launch(handle, groups, buffers, pack(trial.meta))
    device.synchronize()
    found = buffers[len(trial.inputs) :]
    return [
        np.frombuffer(fetch(device, b, d.nbytes), d.dtype)
        for b, d in zip(found, trial.due, strict=True)
    ]


def _interpreted(trial: _Trial) -> list[Array]:
    arrays = [*(a.copy() for a in trial.inputs), *map(_blank, trial.due)]
    trial.kernel.interpret(arrays, np.asarray(trial.meta, np.int64), trial.groups(None))
    return arrays[len(trial.inputs) :]


def _same(checks: Checks, label: str, found: Sequence[Array], due: Sequence[Array]) -> None:
    for k, (f, d) in enumerate(zip(found, due, strict=True)):
        wrong = np.flatnonzero(f != d)
        where = "before its offset" if wrong.size and wrong[0] < _LEAD else "in the result"
        checks.that(
            not wrong.size,
            f"{label}: output {k} has {wrong.size} of {d.size} elements wrong, the first {where}",
        )


duty("skeletons", launched, smoke=False)
