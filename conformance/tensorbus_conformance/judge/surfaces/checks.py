"""What the checks of a surface share: where they run, comparison of bits, expected exceptions.

A surface is judged twice: on the device with fences, which sees every access past a buffer, and as
users have it, without fences, with the device's own allocator, and outside `trace`, where operators
take the short way.  Every condition that could have failed counts as decided.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

from ..items import Outcome
from ..layouts import host, place
from ..parts import Part, part
from ..session import Session

__all__ = ["MOVED", "Checks", "bits_of", "distinct", "memory_of", "surface", "users_device"]

Array = NDArray[Any]
T = TypeVar("T")

MOVED = (dt.float32, dt.float64, dt.bfloat16, dt.int64, dt.uint8, dt.bool_)
"""Dtypes of what only moves: each width, kind, and the two that are not NumPy's or not numbers."""


def users_device(session: Session) -> tb.Device:
    """The item's device as `get_device` gives it, or without fences what stands in its place."""
    real = session.guard.real
    known = tb.get_device(session.item.device)
    return known if known.backend is real else tb.Device(real)


def bits_of(array: Array) -> bytes:
    """The elements in C order as bytes, every NaN the same."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind not in "biu":
        flat = np.where(flat != flat, np.asarray(np.nan).astype(flat.dtype), flat)
    return flat.tobytes()


def distinct(shape: int | Sequence[int], dtype: DType, start: int = 1) -> Array:
    """Elements that tell their place: 1, 2, 3, ... as far as the dtype can hold them apart.

    Of bool, a sequence in which equal neighbourhoods are rare.
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    n = int(np.prod(sizes))
    count = np.arange(start, start + n)
    if dtype is dt.bool_:
        return np.asarray((count * count * 7 // 5) % 3 == 1).reshape(sizes)
    return (count % 120).astype(dtype.numpy).reshape(sizes)


def memory_of(x: tb.Tensor) -> Array:
    """All of the buffer under a tensor, as elements of its dtype."""
    size = x.dtype.itemsize
    flat = np.empty(x._buffer.nbytes // size, x.dtype.numpy)
    if flat.size:
        x.device.backend.copy_out(x._buffer, 0, memoryview(flat.view(np.uint8).data))
    return flat


class Checks:
    """One surface being judged on one device.

    Attributes:
        session: The item.
        device: Where.
        dtype: Of the operands.
        outcome: What is known so far; the first failure's message stays.
        rng: Seeded by the session's seed and the surface.
    """

    def __init__(self, session: Session, name: str, device: tb.Device) -> None:
        self.session, self.device, self.dtype = session, device, session.dtype
        self.outcome = Outcome(name)
        self.rng = np.random.default_rng([session.seed, zlib.crc32(session.item.op.encode())])

    @property
    def thorough(self) -> bool:
        """Whether the level is above smoke."""
        return self.session.level != "smoke"

    def has(self, dtype: DType) -> bool:
        """Whether the device holds a dtype."""
        return dtype.name in self.device.capabilities.dtypes

    def put(self, array: Any, layout: str = "contiguous") -> tb.Tensor:
        """A tensor of an array on the device."""
        given = np.asarray(array)
        return place(self.device, given, layout if given.ndim else "contiguous")[0]

    def fail(self, label: str, message: str) -> None:
        """Note a failure."""
        if self.outcome.state == "pass":
            self.outcome.state, self.outcome.message = "fail", f"{label}: {message}"[:500]

    def true(self, label: str, held: bool, message: str = "does not hold") -> bool:
        """One condition."""
        self.outcome.decided += 1
        if not held:
            self.fail(label, message)
        return held

    def same(self, label: str, got: Any, want: Any) -> bool:
        """Equal dtype, shape and bits; NaN equals NaN."""
        have = host(got) if isinstance(got, tb.Tensor) else np.asarray(got)
        due = np.asarray(want)
        self.outcome.decided += max(due.size, 1)
        if have.dtype != due.dtype or have.shape != due.shape:
            self.fail(
                label, f"{have.dtype}{list(have.shape)}, expected {due.dtype}{list(due.shape)}"
            )
            return False
        if bits_of(have) != bits_of(due):
            self.fail(label, f"got {have.tolist()!s:.120}, expected {due.tolist()!s:.120}")
            return False
        return True

    def raises(
        self,
        label: str,
        kind: type[BaseException] | tuple[type[BaseException], ...],
        call: Callable[..., Any],
    ) -> None:
        """The call ends in exactly this exception, with a message.

        What the device finds later counts, too: an index out of range is raised when it is waited
        for.
        """
        self.outcome.decided += 1
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(k.__name__ for k in kinds)
        try:
            got = call()
            self.device.synchronize()
        except Exception as error:
            if type(error) not in kinds:
                self.fail(label, f"{type(error).__name__} ({error}), expected {names}")
            elif not str(error):
                self.fail(label, f"{type(error).__name__} without a message")
        else:
            self.fail(label, f"gave {got!r:.60}, expected {names}")

    def refuses(
        self, label: str, kind: type[BaseException], call: Callable[..., Any], *said: str
    ) -> None:
        """As `raises`, with a message that holds these words."""

        def checked() -> Any:
            try:
                return call()
            except kind as error:
                for words in said:
                    self.true(f"message of {label}", words in str(error), f"{error!s:.200}")
                raise

        self.raises(label, kind, checked)

    def attempt(self, label: str, call: Callable[..., T]) -> T | None:
        """What a call gives; an exception is a failure that does not end the surface."""
        self.outcome.decided += 1
        try:
            return call()
        except Exception as error:
            self.fail(label, f"{type(error).__name__}: {error}")
            return None


def surface(
    name: str, dtypes: Sequence[DType], smoke: Sequence[DType]
) -> Callable[[Callable[[Checks], None]], Callable[[Checks], None]]:
    """Register a body of checks as the part ``surface.NAME`` with its two properties."""

    def wrap(body: Callable[[Checks], None]) -> Callable[[Checks], None]:
        def run(session: Session, where: str, device: tb.Device) -> Outcome:
            checks = Checks(session, where, device)
            with tb.device(device), tb.reproducible(False):
                body(checks)
            return checks.outcome

        def users(session: Session) -> Outcome:
            return run(session, "users", users_device(session))

        def fenced(session: Session) -> Outcome:
            outcome = run(session, "fenced", session.device)
            found = session.guard.check()
            outcome.decided += 1
            if found and outcome.state == "pass":
                outcome.state, outcome.message = "fail", found[0]
            return outcome

        part(
            Part(f"surface.{name}", {"users": users, "fenced": fenced}, tuple(dtypes), tuple(smoke))
        )
        return body

    return wrap
