"""Apple's GPUs through Metal: found and explained, without kernels yet."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Sequence

from tensorbus_backends.contract import API_VERSION, Device, DeviceInfo, DeviceUnavailableError

__all__ = ["PLUGIN"]

_LIBRARY = "/System/Library/Frameworks/Metal.framework/Metal"


class _Plugin:
    name = "metal"
    api_version = API_VERSION

    def probe(self) -> Sequence[DeviceInfo]:
        """One line that says what is missing: macOS, the framework, or the kernels."""
        cause, fix = _state()
        line = DeviceInfo(
            name=self.name,
            plugin=self.name,
            index=0,
            available=False,
            description="Apple's GPUs through Metal",
            cause=cause,
            fix=fix,
        )
        return [line]

    def open(self, index: int) -> Device:
        """Always DeviceUnavailableError, with the cause and the fix of `probe`."""
        raise DeviceUnavailableError(self.name, *_state())


def _state() -> tuple[str, str]:
    """Cause and fix."""
    if sys.platform != "darwin":
        return (
            f"Metal exists on macOS only, and this system is {platform.system() or sys.platform}",
            "use another device",
        )
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as error:
        return (
            f"the Metal framework cannot be loaded ({error})",
            "use macOS 10.14 or later, or another device",
        )
    return (
        "the Metal framework is there, but this version of tensorbus has no Metal kernels yet",
        "use the device 'cpu'",
    )


PLUGIN = _Plugin()
