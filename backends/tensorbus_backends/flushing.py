"""float32 arithmetic of a device that flushes subnormals, for the interpreter (docs/order.md).

The interpreter computes it from IEEE 754 results instead of switching the processor's own mode on:
that mode also changes float64, is honoured by some of NumPy's loops only, and differs between
processors in what it calls tiny.  So device ``ref`` can speak for every flushing device, on any
host, in one process with devices that preserve subnormals.

An operand below 2^-126 counts as the zero of its sign, and so does a tiny result.  Sums and
differences below 2^-126 are exact; for products, quotients and fma IEEE 754 (7.5) leaves open what
"tiny" means right below 2^-126, and the three readings are `TININESS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_NORMAL", "TININESS", "flush", "flushing", "result", "tininess", "wrapped"]

Array = NDArray[Any]

MIN_NORMAL = 2.0**-126
"""The least normal number of float32 and bfloat16; smaller ones are flushed."""

TININESS = ("after", "before", "stored")
"""What counts as tiny: ``"after"`` rounding to 24 bits with no bound on the exponent (x86), the
exact result ``"before"`` rounding (Arm), or the result as IEEE 754 would have ``"stored"`` it."""

# Greatest magnitudes that are flushed lie below these.  Half an ulp (of 24 bits) below 2^-126, the
# tie rounds to 2^-126; the spacing of subnormals is twice as wide.
_BELOW = {
    "after": MIN_NORMAL - 2.0**-151,
    "before": MIN_NORMAL,
    "stored": MIN_NORMAL - 2.0**-150,
}

_mode: ContextVar[str | None] = ContextVar("tensorbus_flushing", default=None)


@contextmanager
def flushing(tiny: str = "after") -> Iterator[None]:
    """Let the interpreter flush float32 subnormals, in this thread, until the block ends.

    Args:
        tiny: One of `TININESS`; ValueError otherwise.
    """
    if tiny not in TININESS:
        raise ValueError(f"{tiny!r} is no way to tell a tiny result; choose of {TININESS}")
    token = _mode.set(tiny)
    try:
        yield
    finally:
        _mode.reset(token)


def tininess() -> str | None:
    """The mode of the innermost `flushing`, None where subnormals are preserved."""
    return _mode.get()


def flush(x: Array) -> Array:
    """Subnormal numbers as zeros of their sign, at float32's least normal number."""
    return np.where(np.abs(x) < x.dtype.type(MIN_NORMAL), np.copysign(x.dtype.type(0), x), x)


def result(exact: Array, tiny: str) -> Array:
    """A result rounded to float32, tiny ones flushed.

    Args:
        exact: The exact result, or its float64 rounding to nearest or to odd, which lies on the
            same side of every bound above (a quotient of 24-bit numbers keeps 2^-49 away from
            them relatively, unless it is equal).
        tiny: One of `TININESS`.
    """
    zero = np.copysign(np.float32(0), exact).astype(np.float32)
    return np.where(np.abs(exact) < _BELOW[tiny], zero, exact.astype(np.float32))


_READ = frozenset({"sqrt", "floor", "ceil", "trunc", "rint", "lt", "le", "eq"})


def wrapped(op: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """What a flushing device does for a primitive on float32, given what others do.

    Bit patterns pass: ``neg`` and ``abs`` are operations on the sign bit (IEEE 754, 5.5.1),
    ``select``, ``bitcast``, loads and stores move.
    """
    tiny = tininess()
    if tiny is None:
        return plain
    if op in _READ:
        return lambda *a: plain(*map(flush, a))
    if op in ("add", "sub"):
        return lambda a, b: flush(np.asarray(plain(flush(a), flush(b))))
    if op in ("mul", "div"):
        return lambda a, b: result(
            np.asarray(plain(flush(a).astype(np.float64), flush(b).astype(np.float64))), tiny
        )
    return plain
