"""All devices of all platforms, numbered the same way in every process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .loader import Drivers

__all__ = ["Entry", "Found", "inventory", "largest_group", "short_name"]

# First match wins: a runtime of one vendor may name another's hardware.
_KNOWN = (
    ("pocl", "portable computing language", "pocl"),
    ("oclgrind", "oclgrind"),
    ("rusticl", "rusticl"),
    ("clover", "clover"),
    ("clvk", "clvk"),
    ("apple", "apple"),
    ("nvidia", "nvidia"),
    ("amd", "amd", "advanced micro devices"),
    ("intel", "intel"),
    ("arm", "arm "),
    ("qualcomm", "qualcomm"),
)


@dataclass(frozen=True)
class Entry:
    """One device.

    Attributes:
        index: Its number among all OpenCL devices: GPUs first, then accelerators, then processors,
            each in the order of platform names.
        short: Short name of the platform.
        number: Its number among the devices of platforms with that short name.
        kind: ``"gpu"``, ``"accelerator"`` or ``"cpu"``.
        device: pyopencl's device.
    """

    index: int
    short: str
    number: int
    kind: str
    device: Any

    @property
    def name(self) -> str:
        """Canonical name."""
        return f"opencl:{self.index}"

    @property
    def alias(self) -> str:
        """Name that does not change when another driver is installed."""
        return f"opencl:{self.short}:{self.number}"

    @property
    def description(self) -> str:
        """Product, platform and driver version."""
        platform = self.device.platform
        return f"{_text(self.device.name)} ({_text(platform.name)}, driver {self.driver})"

    @property
    def driver(self) -> str:
        """The driver's version."""
        return _text(self.device.driver_version)

    def identity(self) -> str:
        """What compiled code depends on besides its source and options."""
        d, p = self.device, self.device.platform
        parts = (p.name, p.vendor, p.version, d.name, d.vendor, d.version, d.driver_version)
        return "|".join(_text(x) for x in parts)


@dataclass(frozen=True)
class Found:
    """Devices, and the platforms that would not list theirs: (short name, cause)."""

    entries: tuple[Entry, ...]
    broken: tuple[tuple[str, str], ...]


def inventory(found: Drivers) -> Found:
    """Number the devices of all platforms."""
    import pyopencl as cl

    rows: list[tuple[tuple[int, str, int, int], str, str, Any]] = []
    broken: list[tuple[str, str]] = []
    for p, platform in enumerate(found.platforms):
        short = short_name(platform)
        try:
            devices: Sequence[Any] = platform.get_devices()
        except cl.Error as error:
            if error.code != cl.status_code.DEVICE_NOT_FOUND:
                broken.append((short, f"platform {_text(platform.name)}: {error}"))
            continue
        for d, device in enumerate(devices):
            rank, kind = _kind(device.type)
            rows.append(((rank, short, p, d), short, kind, device))
    rows.sort(key=lambda row: row[0])
    counts: dict[str, int] = {}
    entries = []
    for index, (_, short, kind, device) in enumerate(rows):
        number = counts[short] = counts.get(short, -1) + 1
        entries.append(Entry(index, short, number, kind, device))
    return Found(tuple(entries), tuple(broken))


def _kind(bits: int) -> tuple[int, str]:
    import pyopencl as cl

    if bits & cl.device_type.GPU:
        return 0, "gpu"
    if bits & cl.device_type.CPU:
        return 2, "cpu"
    return 1, "accelerator"


def largest_group(device: Any) -> int:
    """The most work-items that a group of a pyopencl device can have."""
    return int(min(device.max_work_group_size, device.max_work_item_sizes[0]))


def short_name(platform: Any) -> str:
    """One word for a platform: ``"intel"``, ``"pocl"``, ``"nvidia"``, ..."""
    for text in (str(platform.name).lower(), str(platform.vendor).lower()):
        for short, *marks in _KNOWN:
            if any(mark in text for mark in marks):
                return short
    words = re.findall(r"[a-z][a-z0-9]*", str(platform.name).lower())
    return words[0] if words else "other"


def _text(x: object) -> str:
    return " ".join(str(x).replace("\0", "").split())
