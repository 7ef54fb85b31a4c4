"""Probing and opening OpenCL devices; imported at the first use of the plugin."""

from __future__ import annotations

import os
from collections.abc import Mapping

from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import (
    BackendError,
    CompileError,
    Device,
    DeviceInfo,
    DeviceUnavailableError,
    Evidence,
)

from .inventory import Entry, Found, inventory
from .loader import Drivers, drivers, load_error

__all__ = ["open_device", "probe"]

NAME = "opencl"
GROUP = "TENSORBUS_OPENCL_GROUP"
_INSTALL = 'pip install "tensorbus[opencl]"'


def probe() -> list[DeviceInfo]:
    """Every OpenCL device, available if it ran a kernel right; never raises."""
    try:
        found = drivers()
    except Exception as error:
        cause = f"pyopencl cannot be imported ({type(error).__name__}: {error})"
        return [_absent(NAME, cause, _INSTALL)]
    listed = inventory(found)
    lines = [_try(entry, found) for entry in listed.entries]
    lines += [
        _absent(f"{NAME}:{short}", cause, "reinstall or update that platform's driver")
        for short, cause in listed.broken
    ]
    lines += _intel_missing(found, listed)
    return lines or [_no_platform(found)]


def open_device(index: int) -> Device:
    """Open device `index` of `probe`.

    Raises:
        DeviceUnavailableError: It is not there, or does not compute right.
        BackendError: ``TENSORBUS_OPENCL_GROUP`` asks for what the device does not have.
    """
    try:
        found = drivers()
    except ImportError as error:
        raise DeviceUnavailableError(
            NAME, f"pyopencl cannot be imported ({error})", _INSTALL
        ) from (error)
    entries = inventory(found).entries
    if not 0 <= index < len(entries):
        count = len(entries)
        raise DeviceUnavailableError(
            f"{NAME}:{index}",
            f"this process sees {count} OpenCL device{'' if count == 1 else 's'}",
            "choose one that `tensorbus devices` lists; import tensorbus before other libraries "
            "that use OpenCL",
        )
    entry = entries[index]
    try:
        device, _ = _checked(entry, found, _group())
    except CompileError as error:
        raise DeviceUnavailableError(entry.name, *_compiler_problem(entry, error)) from error
    return device


def _group() -> int | None:
    text = os.environ.get(GROUP, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise BackendError(
            f"{GROUP}={text!r} is no number of work-items; use 1, 2, ... or unset it"
        ) from None


def _checked(entry: Entry, found: Drivers, group: int | None) -> tuple[Device, Mapping[str, bool]]:
    """Open a device and let it prove itself."""
    from tensorbus_backends.check import run_check

    from .device import OpenCLDevice

    device = OpenCLDevice(entry, _line(entry, found), DiskCache(), group)
    verdict = run_check(device)
    wrong = [name for name, ok in verdict.items() if not ok and name.split()[0] in ("add", "mul")]
    if wrong:
        raise DeviceUnavailableError(
            entry.name,
            f"a small kernel gave wrong results on it ({', '.join(wrong)})",
            "update its driver, or use another device",
        )
    device.settle(verdict)
    return device, verdict


def _try(entry: Entry, found: Drivers) -> DeviceInfo:
    """The line of one device."""
    import pyopencl as cl

    device = entry.device
    if not (device.available and device.compiler_available):
        what = "has no compiler" if device.available else "reports that it is not available"
        return _absent_device(entry, found, f"the driver {what}", "update or repair the driver")
    try:
        _, verdict = _checked(entry, found, None)
    except CompileError as error:
        return _absent_device(entry, found, *_compiler_problem(entry, error))
    except DeviceUnavailableError as error:
        return _absent_device(entry, found, error.cause, error.fix)
    except (BackendError, cl.Error) as error:
        cause = f"a small kernel cannot be run on it ({error})"
        return _absent_device(entry, found, cause, "update its driver, or use another device")
    inexact = ", ".join(name for name, ok in verdict.items() if not ok)
    return _line(entry, found, {"inexact": inexact} if inexact else {})


def _compiler_problem(entry: Entry, error: CompileError) -> tuple[str, str]:
    """Cause and fix for a device that cannot compile a small kernel."""
    words = [line.strip() for line in error.log.splitlines() if "error" in line.lower()]
    log = f": {words[0]}" if words else ""
    cause = f"its compiler fails on a small kernel{log or f' ({error.args[0]})'}"
    if entry.short == "pocl":
        return cause, (
            "this PoCL does not know this processor: install your system's package (Debian: "
            f"pocl-opencl-icd) instead of a wheel, or Intel's runtime with {_INSTALL}"
        )
    return cause, "update its driver, or use another device"


def _line(entry: Entry, found: Drivers, more: Mapping[str, str] | None = None) -> DeviceInfo:
    from .device import build_options

    device, platform = entry.device, entry.device.platform
    return DeviceInfo(
        name=entry.name,
        plugin=NAME,
        index=entry.index,
        aliases=(entry.alias,),
        description=entry.description,
        # Oclgrind interprets kernels; it finds races and bad accesses, and is no hardware.
        evidence=Evidence.SIMULATED if entry.short == "oclgrind" else Evidence.HARDWARE,
        details={
            "kind": entry.kind,
            "platform": str(platform.name).strip(),
            "platform_version": str(platform.version).strip(),
            "device": str(device.name).strip(),
            "vendor": str(device.vendor).strip(),
            "driver": entry.driver,
            "opencl": str(device.version).strip(),
            "opencl_c": str(device.opencl_c_version).strip(),
            "build_options": " ".join(build_options(device)),
            "loader": found.loader,
            "compute_units": str(device.max_compute_units),
            "memory": str(device.global_mem_size),
            **(more or {}),
        },
    )


def _absent_device(entry: Entry, found: Drivers, cause: str, fix: str) -> DeviceInfo:
    from dataclasses import replace

    return replace(_line(entry, found), available=False, cause=" ".join(cause.split()), fix=fix)


def _absent(name: str, cause: str, fix: str) -> DeviceInfo:
    return DeviceInfo(
        name=name,
        plugin=NAME,
        index=-1,
        available=False,
        description="OpenCL devices",
        cause=" ".join(cause.split()),
        fix=fix,
    )


def _intel_missing(found: Drivers, listed: Found) -> list[DeviceInfo]:
    """A line if Intel's runtime is installed and yet its device is not there."""
    shorts = [e.short for e in listed.entries] + [short for short, _ in listed.broken]
    if not found.intel or "intel" in shorts or found.chosen:
        return []
    error = load_error(found.intel)
    if error:
        cause = f"Intel's runtime {found.intel} cannot be loaded ({error})"
        fix = "pip install --force-reinstall intel-opencl-rt intel-cmplr-lib-rt"
    else:
        cause = "OpenCL was used in this process before tensorbus could announce Intel's runtime"
        fix = "import tensorbus and open a device before other libraries that use OpenCL"
    return [_absent(f"{NAME}:intel", cause, fix)]


def _no_platform(found: Drivers) -> DeviceInfo:
    if found.chosen:
        value = os.environ.get(found.chosen, "")
        cause = f"no OpenCL driver is found through {found.chosen}={value}"
        return _absent(NAME, cause, f"unset {found.chosen}, or name a directory with *.icd files")
    if not found.entries:
        cause = "no OpenCL driver is installed"
    else:
        errors = [f"{e}: {load_error(e) or 'it offers no platform'}" for e in found.entries]
        cause = f"no OpenCL driver can be used ({'; '.join(errors)})"
    fix = (
        f"on x86-64 Linux {_INSTALL} brings Intel's runtime; elsewhere install the driver of your "
        "device, or PoCL (Debian: pocl-opencl-icd)"
    )
    return _absent(NAME, cause, fix)
