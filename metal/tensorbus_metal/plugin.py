"""Probing and opening Metal devices; imported at the first use of the plugin."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tensorbus_backends.cache import DiskCache
from tensorbus_backends.check import run_check
from tensorbus_backends.contract import (
    BackendError,
    CompileError,
    Device,
    DeviceInfo,
    DeviceUnavailableError,
    Evidence,
)

from .device import MetalDevice
from .system import NAME, Metal, find_metal

__all__ = ["open_device", "probe"]

GROUP = "TENSORBUS_METAL_GROUP"
_DESCRIPTION = "Apple's GPUs through Metal"


def probe() -> list[DeviceInfo]:
    """Every Metal device, available if it ran a kernel right; never raises."""
    try:
        metal = find_metal()
    except DeviceUnavailableError as error:
        return [
            DeviceInfo(
                name=NAME,
                plugin=NAME,
                index=0,
                available=False,
                description=_DESCRIPTION,
                cause=" ".join(error.cause.split()),
                fix=error.fix,
            )
        ]
    return [_try(metal, k) for k in range(len(metal.devices))]


def open_device(index: int) -> Device:
    """Open device `index` of `probe`.

    Raises:
        DeviceUnavailableError: It is not there, or does not compute right.
        BackendError: ``TENSORBUS_METAL_GROUP`` asks for what no device has.
    """
    metal = find_metal()
    count = len(metal.devices)
    if not 0 <= index < count:
        raise DeviceUnavailableError(
            f"{NAME}:{index}",
            f"this process sees {count} Metal device{'' if count == 1 else 's'}",
            "choose one that `tensorbus devices` lists",
        )
    try:
        device, _ = _checked(metal, index, _group())
    except CompileError as error:
        raise DeviceUnavailableError(f"{NAME}:{index}", *_compiler_problem(error)) from error
    return device


def _group() -> int | None:
    text = os.environ.get(GROUP, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise BackendError(
            f"{GROUP}={text!r} is no number of threads; use 1, 2, ... or unset it"
        ) from None


def _checked(metal: Metal, index: int, group: int | None) -> tuple[MetalDevice, Mapping[str, bool]]:
    """Open a device and let it prove itself."""
    line = _line(metal, index)
    lacking = metal.lacks(metal.devices[index])
    if lacking is not None:
        raise DeviceUnavailableError(line.name, *lacking)
    device = MetalDevice(metal.objc, metal.devices[index], line, DiskCache(), group)
    verdict = run_check(device)
    wrong = [name for name, ok in verdict.items() if not ok and name.split()[0] in ("add", "mul")]
    if wrong:
        raise DeviceUnavailableError(
            line.name,
            f"a small kernel gave wrong results on it ({', '.join(wrong)})",
            "update macOS, or use another device",
        )
    device.settle(verdict)
    return device, verdict


def _try(metal: Metal, index: int) -> DeviceInfo:
    """The line of one device."""
    line = _line(metal, index)
    try:
        device, verdict = _checked(metal, index, None)
    except CompileError as error:
        cause, fix = _compiler_problem(error)
    except DeviceUnavailableError as error:
        cause, fix = error.cause, error.fix
    except BackendError as error:
        cause = f"a small kernel cannot be run on it ({error})"
        fix = "update macOS, or use another device"
    else:
        inexact = ", ".join(name for name, ok in verdict.items() if not ok)
        details = {**device.info.details, **({"inexact": inexact} if inexact else {})}
        return replace(line, details=details)
    return replace(line, available=False, cause=" ".join(cause.split()), fix=fix)


def _compiler_problem(error: CompileError) -> tuple[str, str]:
    """Cause and fix for a device that cannot compile a small kernel."""
    words = [line.strip() for line in error.log.splitlines() if "error" in line.lower()]
    said = f": {words[0]}" if words else f" ({error.args[0]})"
    return f"its compiler fails on a small kernel{said}", "update macOS, or use another device"


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
