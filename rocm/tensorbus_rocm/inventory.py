"""What HIP says about its devices, in each version's own structure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tensorbus_backends.contract import DeviceUnavailableError

from .library import Hip, ffi, has

__all__ = ["LAYOUTS", "Gpu", "Layout", "architecture", "count", "gpu", "layouts"]

# hipDeviceAttribute_t: the numbers are the same in HIP 5, 6 and 7.
_WARP, _SHARED, _UNITS, _THREADS = 87, 74, 63, 56

# More than any version's hipDeviceProp_t has (792 bytes in HIP 5, 1472 in 6 and 7).
_ROOM = 8192

_ARCH = re.compile(rb"gfx[0-9a-f]{3,5}(?::[a-z]+[+-])*\Z")
_ANYWHERE = re.compile(rb"(gfx[0-9a-f]{3,5}(?::[a-z]+[+-])*)\0")
_NAME = 256


@dataclass(frozen=True)
class Layout:
    """Where one version's hipDeviceProp_t has what no attribute tells.

    Attributes:
        symbol: The function that fills it in.
        arch: Offset of ``char gcnArchName[256]``.
    """

    symbol: str
    arch: int


LAYOUTS = (Layout("hipGetDevicePropertiesR0600", 1160), Layout("hipGetDeviceProperties", 396))
"""Of HIP 6 and 7, and of HIP 5."""


def layouts(hip: Hip) -> list[Layout]:
    """The structures that a library can fill in, best first.

    HIP 6 changed the structure and gave the function that fills it in a new name; the old name
    still fills in the old structure.
    """
    return [layout for layout in LAYOUTS if has(hip.lib, layout.symbol)]


def architecture(properties: bytes, layout: Layout) -> str:
    """The device's name for its instruction set, ``"gfx90a:sramecc+:xnack-"``; empty if not found.

    It is looked for anywhere behind the device's name if it is not where it should be: a structure
    that has grown is no reason to do without a device.
    """
    field = properties[layout.arch : layout.arch + 256].split(b"\0")[0]
    if _ARCH.match(field):
        return field.decode()
    found = _ANYWHERE.search(properties, _NAME)
    return found[1].decode() if found else ""


@dataclass(frozen=True)
class Gpu:
    """One device of HIP.

    Attributes:
        index: HIP's number.
        product: ``"AMD Instinct MI250X"``.
        arch: ``"gfx90a:sramecc+:xnack-"``.
        pci: ``"0000:29:00.0"``; empty if HIP does not say.
        wave: Threads of a wave, 32 or 64.
        local_memory: Bytes that a group may share.
        most_threads: Of a group.
        units: Compute units.
        memory: Bytes in all.
    """

    index: int
    product: str
    arch: str
    pci: str
    wave: int
    local_memory: int
    most_threads: int
    units: int
    memory: int


def count(hip: Hip) -> tuple[int, int]:
    """Number of devices, and the status that HIP answers with."""
    status = hip.lib.hipInit(0)
    if status != 0:
        return 0, status
    number = ffi().new("int *")
    status = hip.lib.hipGetDeviceCount(number)
    return (number[0] if status == 0 else 0), status


def gpu(hip: Hip, index: int) -> Gpu:
    """Device `index` of HIP.

    Raises:
        DeviceUnavailableError: HIP does not say what its instruction set is.
    """
    made, lib = ffi(), hip.lib

    def attribute(number: int) -> int:
        value = made.new("int *")
        return int(value[0]) if lib.hipDeviceGetAttribute(value, number, index) == 0 else 0

    def text(call: Any) -> str:
        room = made.new("char[]", _NAME)
        return made.string(room).decode(errors="replace") if call(room, _NAME, index) == 0 else ""

    arch = _arch(hip, index, layouts(hip))
    return Gpu(
        index=index,
        product=text(lib.hipDeviceGetName).strip() or "AMD GPU",
        arch=arch,
        pci=text(lib.hipDeviceGetPCIBusId),
        wave=attribute(_WARP),
        local_memory=attribute(_SHARED),
        most_threads=attribute(_THREADS),
        units=attribute(_UNITS),
        memory=_memory(hip, index),
    )


def _arch(hip: Hip, index: int, known: Sequence[Layout]) -> str:
    status = 0
    for layout in known:
        properties = ffi().new("char[]", _ROOM)
        status = getattr(hip.lib, layout.symbol)(properties, index)
        if status == 0 and (arch := architecture(ffi().buffer(properties)[:], layout)):
            return arch
    cause = f"{hip.text} does not name its architecture"
    if status != 0:
        cause += f" ({hip.words(status)})"
    raise DeviceUnavailableError(f"rocm:{index}", cause, "update ROCm and the amdgpu driver")


def _memory(hip: Hip, index: int) -> int:
    """Bytes of memory in all; hipMemGetInfo answers for the thread's current device."""
    made, lib = ffi(), hip.lib
    before, sizes = made.new("int *"), made.new("size_t[2]")
    known = lib.hipGetDevice(before) == 0
    if known and before[0] != index:
        lib.hipSetDevice(index)
    status = lib.hipMemGetInfo(sizes, sizes + 1)
    if known and before[0] != index:
        lib.hipSetDevice(before[0])
    return int(sizes[1]) if status == 0 else 0
