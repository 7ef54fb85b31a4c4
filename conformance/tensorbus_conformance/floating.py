"""The floating-point environment of the thread that judges: IEEE 754's, or who changed it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

__all__ = ["Environment"]


def _probe(kind: Any, bits: str, least: int, below: int) -> tuple[Any, ...]:
    """Numbers whose sums and products tell a mode: made of bits, which no mode changes."""
    return (
        kind.__name__,
        np.asarray([least], bits).view(kind),
        np.asarray([below], bits).view(kind),
        np.asarray([0.5], kind),
        np.asarray([4.0], kind),
        np.asarray([1.0, -1.0, 1.0], kind),
        np.asarray([2.0**-60, -(2.0**-60), -(2.0**-60)], kind),
    )


_PROBES = (
    _probe(np.float32, "u4", 1 << 23, 1 << 22),
    _probe(np.float64, "u8", 1 << 52, 1 << 51),
)
"""Least normal number and a subnormal one, by bits."""


class Environment:
    """Rounding and subnormals as they were when this was made, to be held and restored."""

    def __init__(self) -> None:
        self._kept = ctypes.create_string_buffer(512)  # more than any fenv_t
        self._library: Any = None
        try:
            library = ctypes.CDLL(None)
            library.fegetenv(self._kept)
            self._library = library
        except (OSError, AttributeError):
            pass

    @staticmethod
    def wrong() -> str:
        """What this thread does that IEEE 754's default does not, or nothing."""
        found = []
        for kind, least, below, half, four, ones, small in _PROBES:
            if (least * half)[0] == 0 or (below * four)[0] == 0:
                found.append(f"flushes {kind} subnormals")
            if (ones + small != ones).any():
                found.append(f"does not round {kind} to nearest")
        return " and ".join(found)

    def restored(self) -> bool:
        """Whether the environment is right, after putting back what was kept."""
        if self._library is not None:
            self._library.fesetenv(self._kept)
        return not self.wrong()
