"""What the duties share: counted checks, kernels whose results are known, short copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.contract import Buffer, Compiled, Device, Feature
from tensorbus_backends.kernels import Map, Operand
from tensorbus_backends.kernels.base import Strided, pack

from ..items import Outcome
from ..parts import Part, part
from ..session import Session

__all__ = [
    "Checks", "affine", "affine_result", "duty", "fetch", "filled", "integers", "launch_affine",
    "numbers", "pattern", "place", "slow",
]  # fmt: skip

Array = NDArray[Any]


class Checks:
    """Conditions of one property: each is counted, the first that does not hold is told."""

    def __init__(self, name: str) -> None:
        self.outcome = Outcome(name)

    def that(self, holds: bool, otherwise: str) -> bool:
        """Count a condition; `otherwise` says what is wrong if it does not hold."""
        self.outcome.decided += 1
        if not holds and self.outcome.state == "pass":
            self.outcome.state, self.outcome.message = "fail", otherwise
        return bool(holds)

    def raises(
        self,
        kind: type[BaseException] | tuple[type[BaseException], ...],
        what: str,
        call: Callable[..., Any],
        *arguments: Any,
    ) -> BaseException | None:
        """Count that a call raises `kind` with a message; the error, or None."""  # fmt: skip
        names = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
        try:
            call(*arguments)
        except kind as error:
            self.that(bool(str(error)), f"{what}: {type(error).__name__} without a message")
            return error
        except Exception as error:
            self.that(False, f"{what}: {type(error).__name__} ({error}), and not {names}")
            return None
        self.that(False, f"{what}: nothing was raised, due is {names}")
        return None


def duty(
    name: str,
    *properties: Callable[[Session], Outcome],
    lacking: Callable[[Any], str] = lambda capabilities: "",
    plugins: tuple[str, ...] = (),
    smoke: bool = True,
    always: bool = False,
) -> Part:
    """Register ``driver.<name>``; its properties are called as the functions are.

    Args:
        name: Of the duty.
        properties: What is judged of it.
        lacking: See `Part`.
        plugins: See `Part`.
        smoke: Whether it is judged at level smoke.
        always: See `Part`.
    """
    one = (dt.float32,)
    made: Mapping[str, Callable[[Session], Outcome]] = {f.__name__: f for f in properties}
    return part(Part(f"driver.{name}", made, one, one if smoke else (), lacking, plugins, always))


def pattern(nbytes: int, seed: int) -> bytes:
    """Bytes that another seed, or another place, does not give."""
    return np.random.default_rng(seed).bytes(nbytes)


def filled(device: Device, data: bytes | Array) -> Buffer:
    """A fresh buffer with `data` in it."""
    raw = data if isinstance(data, bytes) else data.tobytes()
    buffer = device.allocate(len(raw))
    if raw:
        device.copy_in(buffer, 0, memoryview(raw))
    return buffer


def fetch(device: Device, buffer: Buffer, nbytes: int, offset: int = 0) -> bytes:
    """Bytes of a buffer."""
    raw = bytearray(nbytes)
    device.copy_out(buffer, offset, memoryview(raw))
    return bytes(raw)


def place(device: Device, buffer: Buffer) -> int | None:
    """Where a buffer lies, for the host or for the device; None where nobody is told."""
    if device.has(Feature.ADDRESS):
        return device.address(buffer)
    return device.pointer(buffer) if device.dlpack_type else None


def affine(factor: int) -> Map:
    """``y = factor * x + p + index`` on int32, `p` given at launch."""
    x, p = ir.input_(0, dt.int32), ir.param(0, dt.int32)
    expr = x * ir.const(factor, dt.int32) + p + ir.cast(ir.index(), dt.int32)
    return Map("driver_affine", (Operand(dt.int32),), (Operand(dt.int32),), (expr,), (dt.int32,))


def affine_result(x: Array, factor: int, p: int) -> Array:
    """What `affine` gives."""
    wide = x.astype(np.int64) * factor + p + np.arange(x.size)
    return wide.astype(np.int32)


def slow(device: Device, turns: int) -> tuple[Compiled, Callable[[Array], Array]]:
    """``y`` after so many turns of ``y = 5 y + 1``, modulo 2^32, and what it is."""
    x = ir.input_(0, dt.int32)
    (y,) = ir.repeat(ir.const(turns, dt.int32), [x], lambda i, a: (a * 5 + 1,))
    kernel = Map("driver_slow", (Operand(dt.int32),), (Operand(dt.int32),), (y,))
    factor, addend = pow(5, turns, 1 << 32), (pow(5, turns, 1 << 34) - 1) // 4 % (1 << 32)

    def result(values: Array) -> Array:
        wide = values.astype(np.int64).astype(np.uint64) * np.uint64(factor) + np.uint64(addend)
        return wide.astype(np.uint32).view(np.int32)

    (compiled,) = device.compile([kernel])
    return compiled, result


def launch_affine(
    device: Device,
    kernel: Compiled,
    source: Buffer,
    target: Buffer,
    n: int,
    p: int = 0,
    *,
    offsets: tuple[int, int] = (0, 0),
    inner: int | None = None,
) -> None:
    """Launch a map with one operand and one result over `n` int32.

    Args:
        p: Its launch scalar, if it has one.
        offsets: Elements before the operand and before the result.
        inner: Length of a row, which divides `n`.
    """
    spec = kernel.spec
    assert isinstance(spec, Map)
    row = inner or n
    words = spec.meta(
        row, [n // row], [Strided.words(o, 1, [row]) for o in offsets], [p] * len(spec.params)
    )
    device.launch(kernel, spec.groups(device.dialect, row, n // row), [source, target], pack(words))


def integers(n: int, seed: int) -> Array:
    """Random int32."""
    return np.random.default_rng(seed).integers(-(1 << 31), 1 << 31, n, np.int64).astype(np.int32)


def numbers(device: Device, buffer: Buffer, n: int, offset: int = 0) -> Array:
    """`n` int32 of a buffer, from element `offset` on."""
    return np.frombuffer(fetch(device, buffer, 4 * n, 4 * offset), np.int32)
