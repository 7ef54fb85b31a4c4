"""Probing and opening Metal devices; imported at the first use of the plugin."""

from __future__ import annotations

import platform
from functools import partial
from typing import Any

from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import Device, DeviceInfo, DeviceUnavailableError, Evidence
from tensorbus_backends.environment import group_threads
from tensorbus_backends.opening import Terms, absent, checked, expect_index, tried

from .device import LARGEST_GROUP, MetalDevice
from .system import NAME, Metal, find_metal

__all__ = ["open_device", "probe"]

GROUP = "TENSORBUS_METAL_GROUP"
# MSL allows 2.5 ulp for / and 3 ulp for sqrt where they are not exact.
_TERMS = Terms("2.5", "3", "update macOS, or use another device")


def probe() -> list[DeviceInfo]:
    """Every Metal device, available if it ran a kernel right; never raises."""
    try:
        metal = find_metal()
    except DeviceUnavailableError as error:
        return [absent(NAME, "Apple's GPUs through Metal", error.cause, error.fix)]
    indices = range(len(metal.devices))
    return [tried(_line(metal, k), partial(_checked, metal, k)) for k in indices]


def open_device(index: int) -> Device:
    """Open device `index` of `probe`.

    Raises:
        DeviceUnavailableError: It is not there, does not compute right, or has no groups of what
            ``TENSORBUS_METAL_GROUP`` asks for.
    """
    metal = find_metal()
    expect_index(NAME, index, len(metal.devices), "Metal")
    group = group_threads(GROUP, f"{NAME}:{index}", LARGEST_GROUP)
    return _checked(metal, index, group)


def _checked(metal: Metal, index: int, group: int | None = None) -> MetalDevice:
    """Open a device and let it prove itself."""
    line, device = _line(metal, index), metal.devices[index]
    lacking = metal.lacks(device)
    if lacking is not None:
        raise DeviceUnavailableError(line.name, *lacking)
    return checked(
        line.name, lambda: MetalDevice(metal.objc, device, line, DiskCache(), group), _TERMS
    )


def _line(metal: Metal, index: int) -> DeviceInfo:
    objc, device = metal.objc, metal.devices[index]

    def number(selector: str) -> str:
        return str(objc.send(device, selector)) if objc.responds(device, selector) else "unknown"

    with objc.pool():
        product = objc.text(objc.send(device, "name")).strip()
        old = metal.lacks(device) is not None and not objc.responds(device, "supportsFamily:")
        families = [] if old else metal.families(device)
    system = "simulated" if metal.simulated else f"macOS {platform.mac_ver()[0]}"
    return DeviceInfo(
        name=f"{NAME}:{index}",
        plugin=NAME,
        index=index,
        description=f"{product}, {system}",
        evidence=Evidence.SIMULATED if metal.simulated else Evidence.HARDWARE,
        details=_details(product, system, families, number),
    )


def _details(product: str, system: str, families: list[str], number: Any) -> dict[str, str]:
    return {
        "device": product,
        "system": system,
        "driver": system,
        "families": " ".join(families),
        "unified_memory": number("hasUnifiedMemory"),
        "memory": number("recommendedMaxWorkingSetSize"),
        "largest_buffer": number("maxBufferLength"),
        "allocated": number("currentAllocatedSize"),
        "compiler": "MSL 2.2, math mode safe, precise functions, fp contract(off)",
    }
