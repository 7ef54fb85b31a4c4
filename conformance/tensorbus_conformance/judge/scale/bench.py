"""What the parts of `scale` share: data, strided views, and a comparison of all bits at once."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus._spec import Spec
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Evidence
from tensorbus_backends.dtypes import DType

from ..items import Outcome
from ..layouts import host, place
from ..parts import Part, part
from ..session import Session

__all__ = ["BLOCK", "CHECKS", "FAR", "LONG", "Array", "Bench", "Check", "register"]

Array = NDArray[Any]
Check = Callable[["Bench"], None]

BLOCK = 1 << 16
"""What 16 bits count, and the greatest number of groups that some launches take in one go."""

LONG = 133 * 8192 + 3
"""More than 128 chunks of a reduction, so that its chunks are more than one lane each."""

FAR = (1 << 24) + 1027
"""Beyond the integers that float32 counts; about 500 of the indices beyond are odd."""

CHECKS: dict[str, tuple[Check, ...]] = {}
"""What each part of `scale` makes, by its name."""

WIDTHS = (dt.uint8, dt.float16, dt.int32, dt.float64)
FLOATS = (dt.float16, dt.float32, dt.float64)

_HOLDS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}


class Mismatch(Exception):
    """A result that is not what the closed form says."""


class Bench:
    """One part being judged with one dtype.

    Attributes:
        session: The item.
        rng: Seeded by the run's seed and the item.
        decided: Number of elements compared.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        name = f"{session.item.op}/{session.item.dtype}"
        self.rng = np.random.default_rng([session.seed, zlib.crc32(name.encode())])
        self.decided = 0

    @property
    def device(self) -> tb.Device:
        return self.session.device

    @property
    def dtype(self) -> DType:
        return self.session.dtype

    @property
    def numpy(self) -> Any:
        """The NumPy dtype of elements."""
        return self.dtype.numpy

    @property
    def smoke(self) -> bool:
        return self.session.level == "smoke"

    @property
    def slow(self) -> bool:
        """Whether kernels are interpreted, or run by a simulator."""
        info = self.session.guard.real.info
        return info.plugin == "ref" or info.evidence is not Evidence.HARDWARE

    @property
    def exhaustive(self) -> bool:
        return self.session.level == "exhaustive" and not self.slow

    def lengths(self, far: int = 2) -> list[int]:
        """Sizes of a vector, the largest last; beyond 2^24 up to `far` bytes an element."""
        if self.smoke:
            return [BLOCK + 131]
        sizes = [BLOCK - 1, BLOCK, BLOCK + 1, LONG]
        return sizes if self.slow or self.dtype.itemsize > far else [*sizes, FAR]

    def rows(self) -> int:
        """A number of rows beyond 2^16, or some hundreds where each is slow."""
        return 300 if self.slow else BLOCK + int(self.rng.integers(1, 5000))

    # -- data ---------------------------------------------------------------------------------

    def noise(self, *shape: int, bits: int | None = None, dtype: DType | None = None) -> Array:
        """Random integers that the dtype holds exactly; floats and signed ones of both signs.

        Args:
            shape: Of the array.
            bits: Absolute values below 2^bits; by default all that the dtype counts.
            dtype: By default that of the part.
        """
        kind = self.dtype if dtype is None else dtype
        size = int(np.prod(shape))
        if kind is dt.bool_:
            return (self.rng.integers(0, 2, size, np.uint8) > 0).reshape(shape)
        if kind.is_integer and bits is None:
            raw = np.frombuffer(self.rng.bytes(size * kind.itemsize), kind.numpy)
            return raw.reshape(shape)
        count = bits or _HOLDS[kind.name]
        low = 0 if kind.kind == "u" else -(1 << count) + 1
        small = np.int16 if count < 15 else np.int32 if count < 31 else np.int64
        return self.rng.integers(low, 1 << count, size, small).astype(kind.numpy).reshape(shape)

    def put(self, array: Array, layout: str = "contiguous") -> tb.Tensor:
        """An array on the device; the layout keeps its values."""
        return place(self.device, array, layout)[0]

    def view(
        self, memory: Array, shape: Sequence[int], strides: Sequence[int], offset: int
    ) -> tuple[tb.Tensor, Array]:
        """The same strided view of a vector, on the device and in NumPy (strides in elements)."""
        whole = self.put(memory)
        spec = Spec.of(self.device, dt.from_numpy(memory.dtype), tuple(shape), tuple(strides))
        steps = tuple(s * memory.itemsize for s in strides)
        seen = np.lib.stride_tricks.as_strided(memory[offset:], tuple(shape), steps)
        return tb.Tensor(whole._buffer, spec, offset), seen

    def poke(self, tensor: tb.Tensor, at: int, value: Any) -> None:
        """Store one element of a contiguous tensor from the host."""
        raw = np.asarray([value], tensor.dtype.numpy).view(np.uint8)
        where = (tensor._offset + at) * tensor.dtype.itemsize
        self.device.backend.copy_in(tensor._buffer, where, memoryview(raw.data))

    # -- verdicts -----------------------------------------------------------------------------

    def fetch(self, tensor: tb.Tensor) -> Array:
        """The elements of a tensor: one raw copy."""
        if not tensor._spec.contiguous or not tensor.size:
            return host(tensor)
        out = np.empty(tensor.shape, tensor.dtype.numpy)
        raw = memoryview(out.reshape(-1).view(np.uint8).data)
        start = tensor._offset * tensor.dtype.itemsize
        self.device.backend.copy_out(tensor._buffer, start, raw)
        return out

    def expect(self, label: str, result: tb.Tensor, wanted: Any) -> None:
        """Raise Mismatch unless shape, dtype and every bit are as wanted."""
        due = np.asarray(wanted)
        if result.shape != due.shape or result.dtype.numpy != due.dtype:
            found = f"{result.dtype.name}{list(result.shape)}"
            raise Mismatch(f"{label}: {found}, expected {due.dtype.name}{list(due.shape)}")
        got, due = self.fetch(result).reshape(-1), np.ascontiguousarray(due).reshape(-1)
        self.decided += due.size
        unsigned = f"u{due.itemsize}"
        wrong = got.view(unsigned) != due.view(unsigned)
        if not wrong.any():
            return
        first = int(np.argmax(wrong))
        at = tuple(int(i) for i in np.unravel_index(first, result.shape))
        raise Mismatch(
            f"{label}: {int(wrong.sum())} of {due.size} are wrong, the first at {at}: "
            f"got {got[first]!r}, expected {due[first]!r}"
        )


def register(
    name: str,
    *checks: Check,
    dtypes: tuple[DType, ...] = WIDTHS,
    smoke: tuple[DType, ...] = (),
) -> None:
    """Register part ``scale.<name>``, whose one property makes all the checks.

    Args:
        name: Skeleton and path.
        checks: What is judged, in order; the first mismatch ends them.
        dtypes: One for each width.
        smoke: Those at level smoke.
    """

    def values(session: Session) -> Outcome:
        bench = Bench(session)
        outcome = Outcome("values")
        try:
            with tb.reproducible():
                for check in checks:
                    check(bench)
        except Mismatch as error:
            outcome.state, outcome.message = "fail", str(error)[:400]
        found = session.guard.check()
        if found and outcome.state == "pass":
            outcome.state, outcome.message = "fail", found[0]
        outcome.decided = bench.decided
        return outcome

    CHECKS[f"scale.{name}"] = checks
    part(Part(f"scale.{name}", {"values": values}, dtypes, smoke))
