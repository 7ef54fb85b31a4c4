"""Probing and opening OpenCL devices; imported at the first use of the plugin."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import DeviceInfo, DeviceUnavailableError, Evidence
from tensorbus_backends.environment import group_threads
from tensorbus_backends.opening import Terms, absent, checked, expect_index, tried

from .inventory import Entry, Found, inventory, largest_group
from .loader import Drivers, drivers, load_error

if TYPE_CHECKING:
    from .device import OpenCLDevice

__all__ = ["open_device", "probe"]

NAME = "opencl"
GROUP = "TENSORBUS_OPENCL_GROUP"
_INSTALL = 'pip install "tensorbus[opencl]"'
# Without correct rounding OpenCL C allows 2.5 ulp for / and 3 ulp for sqrt in float32.
_TERMS = Terms("2.5", "3")
_POCL = replace(
    _TERMS,
    compiler_fix="this PoCL does not know this processor: install your system's package (Debian: "
    f"pocl-opencl-icd) instead of a wheel, or Intel's runtime with {_INSTALL}",
)


def probe() -> list[DeviceInfo]:
    """Every OpenCL device, available if it ran a kernel right; never raises."""
    try:
        found = drivers()
    except Exception as error:
        cause = f"pyopencl cannot be imported ({type(error).__name__}: {error})"
        return [_absent(NAME, cause, _INSTALL)]
    listed = inventory(found)
    lines = [tried(_line(e, found), partial(_checked, e, found)) for e in listed.entries]
    lines += [
        _absent(f"{NAME}:{short}", cause, "reinstall or update that platform's driver")
        for short, cause in listed.broken
    ]
    lines += _intel_missing(found, listed)
    return lines or [_no_platform(found)]


def open_device(index: int) -> OpenCLDevice:
    """Open device `index` of `probe`.

    Raises:
        DeviceUnavailableError: It is not there, does not compute right, or has no groups of what
            ``TENSORBUS_OPENCL_GROUP`` asks for.
    """
    try:
        found = drivers()
    except ImportError as error:
        raise DeviceUnavailableError(
            NAME, f"pyopencl cannot be imported ({error})", _INSTALL
        ) from (error)
    entries = inventory(found).entries
    hint = "import tensorbus before other libraries that use OpenCL"
    expect_index(NAME, index, len(entries), "OpenCL", hint)
    entry = entries[index]
    group = group_threads(GROUP, entry.name, largest_group(entry.device))
    return _checked(entry, found, group)


def _checked(entry: Entry, found: Drivers, group: int | None = None) -> OpenCLDevice:
    """Open a device and let it prove itself."""
    import pyopencl as cl

    from .device import OpenCLDevice
    from .errors import translate

    def opened() -> OpenCLDevice:
        try:
            return OpenCLDevice(entry, _line(entry, found), DiskCache(), group)
        except cl.Error as error:
            raise translate(error, entry.name, "being opened") from error

    device = entry.device
    if not (device.available and device.compiler_available):
        what = "has no compiler" if device.available else "reports that it is not available"
        raise DeviceUnavailableError(
            entry.name, f"the driver {what}", "update or repair the driver"
        )
    terms = _POCL if entry.short == "pocl" else _TERMS
    return checked(entry.name, opened, terms)


def _line(entry: Entry, found: Drivers) -> DeviceInfo:
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
        },
    )


def _absent(name: str, cause: str, fix: str) -> DeviceInfo:
    return absent(NAME, "OpenCL devices", cause, fix, name)


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
