"""Probing and opening AMD GPUs; imported at the first use of the plugin."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from tensorbus_backends.contract import (
    BackendError,
    Device,
    DeviceInfo,
    DeviceUnavailableError,
    Evidence,
)
from tensorbus_backends.environment import group_threads
from tensorbus_backends.opening import Terms, absent, checked, expect_index, tried

from .compiler import OPTIONS, Hiprtc
from .device import RocmDevice
from .errors import NO_DEVICE
from .inventory import Gpu, count, gpu
from .library import LIBRARY, OLDEST, Hip, open_hip

__all__ = ["find_hip", "no_device", "open_device", "probe"]

NAME = "rocm"
GROUP = "TENSORBUS_ROCM_GROUP"
KFD = Path("/dev/kfd")
_INSTALL = "install AMD's ROCm 5.0 or later for this GPU, or use another device"
# HIP allows 2.5 ulp for / and 3 ulp for sqrt where they are not exact.
_TERMS = Terms("2.5", "3", "update ROCm and the amdgpu driver, or use another device")


def probe() -> list[DeviceInfo]:
    """Every GPU that HIP sees, available if it ran a kernel right; never raises."""
    try:
        hip = find_hip()
        return [_try(hip, index) for index in range(_count(hip))]
    except DeviceUnavailableError as error:
        return [_absent(error.cause, error.fix, error.device)]
    except BackendError as error:
        return [_absent(str(error), "start a new process")]


def open_device(index: int) -> Device:
    """Open device `index` of `probe`.

    Raises:
        DeviceUnavailableError: It is not there, does not compute right, or has no groups of what
            ``TENSORBUS_ROCM_GROUP`` asks for.
    """
    hip = find_hip()
    expect_index(NAME, index, _count(hip), "ROCm", "look at HIP_VISIBLE_DEVICES")
    found = gpu(hip, index)
    group = group_threads(GROUP, f"{NAME}:{index}", found.most_threads)
    device = _checked(hip, found, group)
    device.add_natives()
    return device


def find_hip() -> Hip:
    """The HIP library: simulated if asked for, else the one that is named, else what is installed.

    Raises:
        DeviceUnavailableError: There is none, or it is too old.
        BackendError: This process was forked from one that uses it.
    """
    path = _simulated() or os.environ.get(LIBRARY) or None
    try:
        hip = open_hip(path)
    except OSError as error:
        cause = f"the HIP runtime libamdhip64.so cannot be loaded ({error})"
        fix = f"correct or unset {LIBRARY}" if path else _INSTALL
        raise DeviceUnavailableError(NAME, cause, fix) from error
    hip.check_process()
    if hip.version < OLDEST:
        cause = f"{hip.text} ({hip.path}) is too old: it must be {OLDEST[0]}.{OLDEST[1]} or later"
        raise DeviceUnavailableError(NAME, cause, _INSTALL)
    return hip


def _simulated() -> str | None:
    """The simulated driver's library, if ``TENSORBUS_SIMULATE`` names rocm."""
    from tensorbus_backends import simulator

    if not simulator.wanted(NAME):
        return None
    from .simulator import library

    return str(library())


def _count(hip: Hip) -> int:
    """Number of devices, at least 1."""
    here, status = count(hip)
    if here == 0:
        raise DeviceUnavailableError(NAME, *no_device(hip, status))
    return here


def no_device(hip: Hip, status: int) -> tuple[str, str]:
    """Cause and fix where HIP is there and no device is.

    Args:
        hip: The library.
        status: What it answers when asked for devices.
    """
    if status not in NO_DEVICE and status != 0:
        cause = f"{hip.text} cannot be started ({hip.words(status)})"
        return cause, "update the amdgpu kernel driver to one that this ROCm supports, and restart"
    hidden = [k for k in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES") if k in os.environ]
    if hip.stand_in:
        return f"{hip.text} has no device", "use a machine with a GPU, or another device"
    if not KFD.exists():
        return (
            f"{hip.text} is installed and there is no AMD GPU: {KFD} is missing",
            "load the amdgpu kernel driver; in a container pass --device=/dev/kfd "
            "--device=/dev/dri",
        )
    if not os.access(KFD, os.R_OK | os.W_OK):
        return (
            f"this user may not open {KFD}, so {hip.text} sees no device",
            "join the groups that may: sudo usermod -aG render,video $USER, then log in again "
            "(in a container: --group-add render --group-add video)",
        )
    if hidden:
        shown = ", ".join(f"{k}={os.environ[k]}" for k in hidden)
        return f"{hip.text} sees no device with {shown}", f"unset {hidden[0]}"
    return (
        f"{hip.text} finds no GPU that it supports",
        "see what `rocminfo` lists; this GPU may need a newer ROCm",
    )


def _checked(hip: Hip, found: Gpu, group: int | None = None) -> RocmDevice:
    """Open a device and let it prove itself."""

    def opened() -> RocmDevice:
        hiprtc = Hiprtc.open(hip)
        return RocmDevice(hip, hiprtc, found, _line(hip, found, hiprtc), group)

    return checked(f"{NAME}:{found.index}", opened, _TERMS)


def _try(hip: Hip, index: int) -> DeviceInfo:
    """The line of one device."""
    try:
        found = gpu(hip, index)
    except DeviceUnavailableError as error:
        return replace(_absent(error.cause, error.fix, f"{NAME}:{index}"), index=index)
    return tried(_line(hip, found), partial(_checked, hip, found))


def _line(hip: Hip, found: Gpu, hiprtc: Hiprtc | None = None) -> DeviceInfo:
    return DeviceInfo(
        name=f"{NAME}:{found.index}",
        plugin=NAME,
        index=found.index,
        aliases=(f"{NAME}:{found.arch.split(':')[0]}:{found.index}",),
        description=f"{found.product} ({found.arch}), {hip.text}",
        evidence=Evidence.SIMULATED if hip.simulated else Evidence.HARDWARE,
        details={
            "device": found.product,
            "arch": found.arch,
            "driver": hip.text,
            "library": hip.path,
            "compiler": hiprtc.version if hiprtc else "",
            "build_options": " ".join(OPTIONS),
            "compute_units": str(found.units),
            "wave": str(found.wave),
            "memory": str(found.memory),
            "pci": found.pci,
        },
    )


def _absent(cause: str, fix: str, name: str = NAME) -> DeviceInfo:
    return absent(NAME, "AMD GPUs through ROCm", cause, fix, name)
