"""Kernels as a device with threads gets them, run on the host: every skeleton, behind fences.

The text for a grid of groups is C but for its head, so the processor's compiler takes it: a group
is a function, its lanes are a loop (from the last to the first, as their order is free), and a
function over a range of groups calls it.  Memory ends where a page begins that nobody may touch, so
that a lane that reads beyond an operand is seen, which a device with threads does not show.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Compiled, Device, KernelSpec
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.dtypes import DType

from ..guard import Guarded
from ..items import Outcome
from ..session import Session
from .base import Checks, duty

__all__ = ["Threads", "shared_bytes"]

Array = NDArray[Any]
Change = Callable[[str], str]

_BACKWARDS = """\
#undef LANES
#define LANES(l, n) for (i32 l = (i32)(n) - 1; l >= 0; --l)
"""

_SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}
_ARRAY = re.compile(r"^\s*(?:LOCAL )?([biuf])(\d+) \w+\[(\d+)\](?: LOCAL)?;$", re.MULTILINE)


def shared_bytes(text: str) -> list[int]:
    """Bytes of each array that the lanes of a group share, by a kernel's text."""
    lines = "\n".join(line for line in text.splitlines() if "LOCAL" in line)
    return [_SIZES[bits] * int(size) for _, bits, size in _ARRAY.findall(lines)]


def threads(c: Dialect) -> Dialect:
    """The dialect of a device with threads, in the words of C."""
    return replace(
        c,
        name=f"{c.name}-threads",
        style="simt",
        kernel="static void {name}_group(const i64 *tb_meta, const i64 tb_g, {args})",
        pointer="{const}{type} *{name}",
        meta="const i64 tb_words",
        group="tb_g",
        block=192,
        columns=32,
    )


class _Spelt:
    """A kernel in the words of a device with threads, with the head of a loop's."""

    def __init__(self, spec: KernelSpec, dialect: Dialect, change: Change) -> None:
        self._spec, self._dialect, self._change = spec, dialect, change
        self.name, self.buffers, self.words = f"{spec.name}_t", spec.buffers, spec.words

    def source(self, dialect: Dialect) -> str:
        text = self._change(self._spec.source(self._dialect)).replace(self._spec.name, self.name)
        given = "".join(f"tb_buffers[{k}], " for k in range(self.buffers))
        head = dialect.kernel.format(name=self.name, args="", words=self.words)
        call = f"{self.name}_group(tb_meta, g, {given}{self.words})"
        loop = f"for (i64 g = tb_first; g < tb_end; ++g) {call};"
        return f"{_BACKWARDS}{text}{head} {{\n    {loop}\n}}\n"

    def local_bytes(self, dialect: Dialect) -> int:
        return self._spec.local_bytes(dialect)

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        raise NotImplementedError("it is there to be compiled")


class _Handle:
    def __init__(self, spec: KernelSpec, real: Compiled) -> None:
        self.spec, self.real = spec, real


class Threads(Guarded):
    """The processor as a device with threads.

    Attributes:
        seen: The kernels that were compiled, by name.

    Args:
        real: Device cpu.
        change: What becomes of a kernel's text (for tests).
    """

    def __init__(self, real: Device, change: Change = str) -> None:
        super().__init__(real)
        assert real.dialect is not None
        self.dialect: Dialect | None = threads(real.dialect)
        self.seen: dict[str, KernelSpec] = {}
        self._change = change

    @property
    def natives(self) -> Any:  # type: ignore[override]
        return {}

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Any]:
        assert self.dialect is not None
        self.seen.update((k.name, k) for k in kernels)
        spelt: list[Any] = [_Spelt(k, self.dialect, self._change) for k in kernels]
        return [_Handle(k, c) for k, c in zip(kernels, self.real.compile(spelt), strict=True)]


Call = Callable[[Callable[..., tb.Tensor], DType], Sequence[tb.Tensor]]


def _products(put: Callable[..., tb.Tensor], dtype: DType) -> list[tb.Tensor]:
    """Every remainder of rows, of columns and of the sum's blocks, both orders of B."""
    found = []
    for m, k, n in (
        (1, 3, 1), (2, 257, 63), (3, 1, 64), (4, 5, 65), (5, 256, 7), (6, 2, 129), (7, 513, 2),
    ):  # fmt: skip
        found.append(tb.matmul(put(m, k), put(k, n)))
        found.append(tb.matmul(put(m, k), put(n, k).mT))
    found.append(tb.matmul(put(3, 5, 2), put(3, 2, 9)))
    return found


def _reductions(put: Callable[..., tb.Tensor], dtype: DType) -> list[tb.Tensor]:
    """Along rows and columns, in lengths around the lanes and the chunk."""
    found = []
    for rows, n in ((1, 1), (3, 127), (2, 128), (33, 129), (2, 8195)):
        x = put(rows, n)
        for axis in (0, 1, None):
            found += [tb.sum(x, axis=axis), tb.max(x, axis=axis)]
        found += [tb.argmin(x, axis=1), tb.argmax(x, axis=0)]
    return found


def _rows(put: Callable[..., tb.Tensor], dtype: DType) -> list[tb.Tensor]:
    """One kernel for a row, running sums, sorting."""
    found = []
    for rows, n in ((3, 1), (2, 130), (1, 2051)):
        x = put(rows, n)
        found += [tb.cumulative_sum(x, axis=1), tb.cumulative_sum(x, axis=0)]
        found += [tb.sort(x, axis=1), tb.argsort(x, axis=1)]
        if dtype.is_float:
            found += [tb.nn.softmax(x, axis=1), tb.nn.log_softmax(x, axis=0)]
            found += [tb.var(x, axis=1), tb.logsumexp(x, axis=1)]
            found.append(tb.nn.layer_norm(x))
    return found


def _maps(put: Callable[..., tb.Tensor], dtype: DType) -> list[tb.Tensor]:
    """Elements one by one, over rows of any length and through strides."""
    x, y = put(5, 193), put(193, 5)
    found = [x + y.mT, tb.where(x < y.mT, x, y.mT), tb.flip(x), tb.roll(y, 3, axis=0) * y]
    if dtype.is_float:
        found += [tb.exp(x), tb.sin(y.mT)]
    return found


_JUDGED: tuple[tuple[Call, tuple[DType, ...]], ...] = (
    (_products, (dt.float32, dt.int64, dt.float16)),
    (_reductions, (dt.float32, dt.int32)),
    (_rows, (dt.float32,)),
    (_maps, (dt.float64,)),
)


def groups(session: Session) -> Outcome:
    """The text for threads gives the bits of the text for loops, and touches nothing else."""
    checks, real = Checks("groups"), session.guard.real
    device = Threads(real)
    for skeleton, dtypes in _JUDGED:
        for dtype in dtypes:
            due, got = (_made(d, skeleton, dtype, session.seed) for d in (real, device))
            for k, (a, b) in enumerate(zip(due, got, strict=True)):
                what = f"{skeleton.__name__[1:]}, {dtype.name}, result {k}"
                checks.that(a == b, f"{what}: threads give other bits than loops")
    for found in device.check()[:1]:
        checks.that(False, found)
    _shared(checks, real, device.seen.values())
    return checks.outcome


def _made(device: Device, call: Call, dtype: DType, seed: int) -> list[bytes]:
    """The bits that ops give on a device for numbers made of a seed."""
    rng, where = np.random.default_rng(seed), tb.Device(device)

    def put(*shape: int) -> tb.Tensor:
        values = rng.normal(0, 2, shape) if dtype.is_float else rng.integers(-99, 99, shape)
        return tb.asarray(values.astype(dtype.numpy), device=where)

    with tb.reproducible():
        return [t.numpy().tobytes() for t in call(put, dtype)]


def _shared(checks: Checks, real: Device, specs: Iterable[KernelSpec]) -> None:
    """What a kernel says that its lanes share is what its text declares, where there are groups.

    Each array may be counted in whole words of 8 bytes, as a compiler places it.
    """
    assert real.dialect is not None
    c = threads(real.dialect)
    serial = replace(c, serial=True)
    loops = [d.loops for d in (real.dialect, c, serial)]
    checks.that(loops == [True, False, True], f"regions are loops: {loops}")
    for dialect in (c, serial, replace(c, columns=7)):
        for spec in specs:
            says, has = spec.local_bytes(dialect), shared_bytes(spec.source(dialect))
            checks.that(
                sum(has) <= says <= sum(-(-n // 8) * 8 for n in has),
                f"{spec.name} for {dialect.name} says that it shares {says} bytes, and has {has}",
            )


duty("lanes", groups, plugins=("cpu",), smoke=False)
