"""Environment variables read with care: a value that is not understood is an error, not a default.

Each function reads one variable now; unset and empty mean the same.
"""

from __future__ import annotations

import os

from .contract import BackendError, DeviceUnavailableError

__all__ = ["group_threads", "switch"]

_ON, _OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def switch(variable: str) -> bool:
    """Whether a variable is on: 1, true, yes, on; off: 0, false, no, off, empty, unset.

    Raises:
        BackendError: It is neither.
    """
    text = os.environ.get(variable, "")
    if (word := text.strip().lower()) in _ON or word in _OFF:
        return word in _ON
    raise BackendError(f"{variable}={text!r} is neither on nor off; set it to 1 or 0, or unset it")


def group_threads(variable: str, device: str, most: int) -> int | None:
    """Threads of a group that a variable asks for; None if it asks for nothing.

    Args:
        variable: ``"TENSORBUS_CUDA_GROUP"``.
        device: Name of the device, for the message.
        most: Threads that a group of the device may have.

    Raises:
        DeviceUnavailableError: It is no number from 1 to `most`.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    if text.isdecimal() and 1 <= int(text) <= most:
        return int(text)
    raise DeviceUnavailableError(
        device,
        f"{variable}={text!r} is no number of threads that its groups can have",
        f"set {variable} to a number from 1 to {most}, or unset it",
    )
