"""Finding Metal: the frameworks of macOS, or the simulated driver, and their devices."""

from __future__ import annotations

import functools
import platform
import sys
from dataclasses import dataclass
from typing import Any

from tensorbus_backends import simulator
from tensorbus_backends.contract import DeviceUnavailableError
from tensorbus_backends.loading import loader_words

from .objc import ObjC

__all__ = ["NAME", "Metal", "find_metal"]

NAME = "metal"

_RUNTIME = "/usr/lib/libobjc.A.dylib"
_FRAMEWORKS = "/System/Library/Frameworks/{0}.framework/{0}"
# Processes without windows get no default device unless CoreGraphics is loaded.
_OTHERS = ("Foundation", "CoreGraphics", "MetalPerformanceShaders")

# MTLGPUFamilyApple3, Mac2 and Metal3 have 64-bit integers, which element offsets need.
_WITH_INT64 = (1003, 2002, 5001)
_FAMILIES = {
    **{f"Apple{k}": 1000 + k for k in range(1, 11)},
    "Mac2": 2002,
    "Metal3": 5001,
    "Metal4": 5002,
}


@dataclass(frozen=True)
class Metal:
    """Metal in this process.

    Attributes:
        objc: The runtime.
        devices: MTLDevices, the default one first.
        simulated: Whether they are the simulator's.
    """

    objc: ObjC
    devices: tuple[Any, ...]
    simulated: bool

    def families(self, device: Any) -> list[str]:
        """Names of the GPU families that a device belongs to."""
        send = self.objc.send
        return [name for name, k in _FAMILIES.items() if send(device, "supportsFamily:", k)]

    def lacks(self, device: Any) -> tuple[str, str] | None:
        """Cause and fix if a device cannot serve."""
        if not self.objc.responds(device, "supportsFamily:"):
            return "this system is older than macOS 10.15", "update macOS"
        if not any(self.objc.send(device, "supportsFamily:", k) for k in _WITH_INT64):
            cause = "this GPU has no 64-bit integers, which every kernel computes offsets with"
            return cause, "use another device"
        return None


@functools.cache
def find_metal() -> Metal:
    """Load Metal and list its devices, once for each process.

    Raises:
        DeviceUnavailableError: There is no Metal, or it has no device.
    """
    simulated = simulator.wanted(NAME)
    objc = _simulated() if simulated else _real()
    with objc.pool():
        devices = _devices(objc)
    if not devices:
        raise DeviceUnavailableError(
            NAME,
            "Metal is there, but it lists no device",
            "use a Mac with a GPU that supports Metal; virtual machines may have none",
        )
    return Metal(objc, devices, simulated)


def _real() -> ObjC:
    if sys.platform != "darwin":
        raise DeviceUnavailableError(
            NAME,
            f"Metal exists on macOS only, and this system is {platform.system() or sys.platform}",
            "use another device",
        )
    try:
        others = [_FRAMEWORKS.format(name) for name in _OTHERS]
        return ObjC(_RUNTIME, _FRAMEWORKS.format("Metal"), others)
    except OSError as error:
        raise DeviceUnavailableError(
            NAME,
            f"the Metal framework cannot be loaded ({loader_words(error)})",
            "use macOS 10.15 or later, or another device",
        ) from error


def _simulated() -> ObjC:
    from .simulator import library

    path = str(library())
    return ObjC(path, path)


def _devices(objc: ObjC) -> tuple[Any, ...]:
    default = objc.own(objc.metal.MTLCreateSystemDefaultDevice())
    listed = objc.own(objc.metal.MTLCopyAllDevices())
    found = [] if default is None else [default]
    for k in range(objc.send(listed, "count") if listed is not None else 0):
        device = objc.keep(objc.send(listed, "objectAtIndex:", k))
        if device not in found:
            found.append(device)
    return tuple(found)
