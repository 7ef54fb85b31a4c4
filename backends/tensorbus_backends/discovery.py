"""Finding and opening devices: the plugins of the entry-point group ``tensorbus.backends``.

Nothing happens at import.  A plugin is imported and asked for its devices when a name needs it: to
open ``"cpu"`` no other plugin is touched.  Plugins that load a driver, and all that are not ours,
are asked in a child process first (see `probing`), so one that raises, hangs, exits or crashes
costs one line in the list of devices and nothing else.
"""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

from .contract import (
    BackendError,
    Device,
    DeviceInfo,
    DeviceUnavailableError,
    Evidence,
    UnknownDeviceError,
)
from .floating import in_default_arithmetic
from .negotiation import agree
from .probing import (
    GROUP,
    Announcement,
    Child,
    absent,
    check_plugin,
    describe,
    probe_timeout,
    valid_name,
)

__all__ = ["REGISTRY", "Registry", "devices", "open_device", "priority"]

OUR_PACKAGE = "tensorbus"
# Plugins that load no driver: asking them in this process is safe, and fast.
IN_PROCESS = {"cpu": "tensorbus_cpu:PLUGIN", "ref": "tensorbus_backends.ref:PLUGIN"}
LISTING = ("cpu", "opencl", "cuda", "rocm", "metal")
# Plugins, and kinds of devices under names that no plugin can have.
_PREFERENCE = ("cuda", "rocm", "metal", "opencl gpu", "any accelerator", "cpu", "opencl",
               "anything else", "ref")  # fmt: skip


class _Source:
    """One plugin: what it announced, its devices once asked, and those that are open."""

    def __init__(self, announcement: Announcement) -> None:
        self.announcement = announcement
        self.lock = threading.RLock()
        self.open: dict[str, Device] = {}
        self._lines: list[DeviceInfo] | None = None
        self._child: Child | None = None
        self._plugin: Any = None

    @in_default_arithmetic
    def begin(self) -> None:
        """Start asking, without waiting."""
        plugin = self.announcement
        with self.lock:
            if self._lines is None and self._child is None:
                if IN_PROCESS.get(plugin.name) == plugin.value:
                    self._lines = describe(plugin)
                else:
                    self._child = Child(plugin, probe_timeout())

    def lines(self) -> list[DeviceInfo]:
        """The plugin's devices, asked once."""
        with self.lock:
            self.begin()
            if self._lines is None:
                assert self._child is not None
                child, self._child = self._child, None
                self._lines = child.result()
            return self._lines

    def forget(self) -> None:
        """Ask again next time; open devices stay open."""
        with self.lock:
            self.abandon()
            self._lines = None

    def abandon(self) -> None:
        """Stop asking if that is still under way."""
        with self.lock:
            child, self._child = self._child, None
            if child is not None:
                child.close()

    def device(self, info: DeviceInfo) -> Device:
        """The one open device of an available line; opened at the first call."""
        with self.lock:
            device = self.open.get(info.name)
            if device is None:
                device = self.open[info.name] = self._open(info)
            return device

    @in_default_arithmetic
    def _open(self, info: DeviceInfo) -> Device:
        who = self.announcement.who
        try:
            if self._plugin is None:
                plugin = self.announcement.load()
                if (problem := check_plugin(self.announcement, plugin)) is not None:
                    raise DeviceUnavailableError(info.name, problem.cause, problem.fix)
                self._plugin = plugin
            device = self._plugin.open(info.index)
        except BackendError:
            raise
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit too: no plugin ends a program that uses it
            cause = f"opening it failed with {type(error).__name__}: {error}"
            fix = f"report this to the authors of {who}"
            raise DeviceUnavailableError(info.name, cause, fix) from error
        if not isinstance(device, Device):
            cause = f"opening it gave {type(device).__name__}, which is no Device"
            raise DeviceUnavailableError(info.name, cause, f"repair {who}")
        try:
            agree(device, self._plugin.api_version)
        except ValueError as error:
            raise DeviceUnavailableError(info.name, str(error), f"repair {who}") from None
        if (device.info.name, device.info.description) != (info.name, info.description):
            raise DeviceUnavailableError(
                info.name,
                f"opening it gave {device.info.name!r} ({device.info.description}) where probing "
                f"had found {info.description}: this process sees other drivers",
                "import tensorbus before any other library that loads the same driver",
            )
        return device


class Registry:
    """Every plugin and device that this Python environment has; safe with threads.

    Args:
        group: The entry-point group to read.
    """

    def __init__(self, group: str = GROUP) -> None:
        self._group = group
        self._lock = threading.RLock()
        self._sources: dict[str, _Source] | None = None
        self._clashes: list[DeviceInfo] = []
        self._resolved: dict[str, Device] = {}

    def plugins(self) -> list[Announcement]:
        """What the installed packages announce; no code of theirs is run."""
        return [source.announcement for source in self._read().values()]

    def devices(self, refresh: bool = False, plugin: str | None = None) -> list[DeviceInfo]:
        """All devices of all plugins, absent ones with cause and fix; never raises.

        Plugins are asked at the same time and each only once, unless `refresh` is true.

        Args:
            refresh: Forget what is known and look again.
            plugin: Ask only this one; empty if there is none of that name.
        """
        if refresh:
            self.refresh()
        if plugin is not None:
            source = self._read().get(plugin)
            return list(source.lines()) if source is not None else []
        sources = list(self._read().values())
        try:
            for source in sources:
                source.begin()
            return [line for source in sources for line in source.lines()] + self._clashes
        except BaseException:
            for source in sources:
                source.abandon()
            raise

    def refresh(self) -> None:
        """Read the entry points and ask the plugins again at the next call; nothing is closed."""
        with self._lock:
            old, self._sources = self._sources or {}, None
            for name, source in self._read().items():
                known = old.get(name)
                if known is not None and known.announcement == source.announcement:
                    known.forget()
                    assert self._sources is not None
                    self._sources[name] = known
            self._resolved.clear()

    def resolve(self, name: str) -> DeviceInfo:
        """The device that a name means.

        A name is canonical (``"opencl:1"``), an alias (``"opencl:intel:0"``), the beginning of one
        (``"opencl:intel"`` or ``"opencl"``: the first available device), or ``"auto"``: the best
        available one in the order of `priority`.

        Raises:
            UnknownDeviceError: No plugin has such a device.
            DeviceUnavailableError: It is absent; the error says why and what to do.
        """
        if not isinstance(name, str):
            raise UnknownDeviceError(f"a device name is text such as 'cpu', not {name!r}")
        text = name.strip().lower()
        if text == "auto":
            return self._best()
        source = self._read().get(text.partition(":")[0])
        if source is None:
            raise self._unknown(name, text, [])
        lines = source.lines()
        line = _match(text, lines)
        if line is None:
            absent_plugin = len(lines) == 1 and not lines[0].available
            if not absent_plugin or lines[0].name != source.announcement.name:
                raise self._unknown(name, text, lines)
            line = lines[0]
        if not line.available:
            raise DeviceUnavailableError(text, line.cause, line.fix)
        return line

    def open(self, name: str) -> Device:
        """The device of a name (see `resolve`); one object per device and process.

        Raises:
            UnknownDeviceError: No plugin has such a device.
            DeviceUnavailableError: It is absent or cannot be opened.
        """
        device = self._resolved.get(name)
        if device is None:
            info = self.resolve(name)
            device = self._read()[info.plugin].device(info)
            self._resolved[name] = device
        return device

    # -- inside ---------------------------------------------------------------------------

    def _read(self) -> dict[str, _Source]:
        with self._lock:
            if self._sources is None:
                self._sources, self._clashes = _sources(_announced(self._group))
            return self._sources

    def _best(self) -> DeviceInfo:
        lines = self.devices()
        usable = [x for x in lines if x.available and x.evidence is Evidence.HARDWARE]
        if not usable:
            causes = "; ".join(
                f"{x.name}: {f'its evidence is {x.evidence}' if x.available else x.cause}"
                for x in lines
            )
            raise DeviceUnavailableError(
                "auto",
                f"no device can be used ({causes or 'no plugin is installed'})",
                "follow the advice that `tensorbus devices` gives for one of them",
            )
        return min(usable, key=priority)

    def _unknown(self, name: str, text: str, lines: Sequence[DeviceInfo]) -> UnknownDeviceError:
        plugin = text.partition(":")[0]
        if lines:
            names = [n for x in lines for n in (x.name, *x.aliases)]
            exists = f"{plugin!r} has {', '.join(names)}"
        else:
            names = ["auto", *self._read()]
            exists = f"there are {', '.join(names)}"
        close = difflib.get_close_matches(text, names, 1, 0.5)
        if not close and not lines:
            close = difflib.get_close_matches(plugin, names, 1, 0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ";"
        return UnknownDeviceError(
            f"no device is called {name!r}{hint} {exists} (`tensorbus devices` shows their state)"
        )


def priority(line: DeviceInfo) -> tuple[int, int, str]:
    """Sort key of ``"auto"``, best first.

    CUDA, ROCm, Metal, OpenCL GPUs, accelerators of other plugins, cpu, OpenCL on a processor,
    anything else, ref.  A plugin tells what a device is by ``details["kind"]``: gpu, accelerator
    or cpu.
    """
    accelerator = line.details.get("kind", "") in ("gpu", "accelerator")
    kind = line.plugin
    if kind == "opencl" and accelerator:
        kind = "opencl gpu"
    elif kind not in _PREFERENCE:
        kind = "any accelerator" if accelerator else "anything else"
    return _PREFERENCE.index(kind), line.index, line.name


def _match(text: str, lines: Sequence[DeviceInfo]) -> DeviceInfo | None:
    for line in lines:
        if text == line.name.lower() and (line.available or ":" in text):
            return line
    for line in lines:
        if text in (a.lower() for a in line.aliases) or text == f"{line.plugin}:{line.index}":
            return line
    inside = [
        x for x in lines if any(n.lower().startswith(text + ":") for n in (x.name, *x.aliases))
    ]
    inside += [x for x in lines if x.name.lower() == text]
    usable = [x for x in inside if x.available]
    return next(iter(usable or inside), None)


def _announced(group: str) -> Iterator[Announcement]:
    try:
        points = list(metadata.entry_points(group=group))
    except Exception:
        # One broken package must not hide the others, so read them one by one.
        points = []
        for distribution in metadata.distributions():
            with contextlib.suppress(Exception):
                points += [p for p in distribution.entry_points if p.group == group]
    for point in points:
        package = ""
        if point.dist is not None:
            package = f"{point.dist.name} {point.dist.version}"
        yield Announcement(point.name, point.value, package)


def _sources(announced: Iterator[Announcement]) -> tuple[dict[str, _Source], list[DeviceInfo]]:
    """Plugins by name, and a line for everything that cannot be one."""
    groups: dict[str, list[Announcement]] = {}
    lines: list[DeviceInfo] = []
    for one in announced:
        if not valid_name(one.name):
            cause = f"{one.name!r} cannot name a plugin: lower-case letters, digits, _ and - can"
            lines.append(absent(one, cause, f"repair {one.who}"))
        elif one not in groups.setdefault(one.name, []):
            groups[one.name].append(one)
    listed = [n for n in LISTING if n in groups]
    others = sorted(n for n in groups if n not in LISTING and n != "ref")
    order = [*listed, *others, *(n for n in groups if n == "ref")]
    sources: dict[str, _Source] = {}
    for name in order:
        group = groups[name]
        ours = [a for a in group if a.package.partition(" ")[0] == OUR_PACKAGE]
        chosen = group[0] if len(group) == 1 else ours[0] if ours else None
        if chosen is not None:
            sources[name] = _Source(chosen)
        for rejected in group:
            if rejected is not chosen:
                rivals = ", ".join(a.who for a in group if a is not rejected)
                line = absent(
                    rejected,
                    f"the plugin name {name!r} is also announced by {rivals}",
                    f"uninstall {rejected.who}, or the other",
                )
                lines.append(replace(line, name=f"{name} ({rejected.who})"))
    return sources, lines


REGISTRY = Registry()


def devices(refresh: bool = False) -> list[DeviceInfo]:
    """`Registry.devices` of this process's registry."""
    return REGISTRY.devices(refresh)


def open_device(name: str) -> Device:
    """`Registry.open` of this process's registry."""
    return REGISTRY.open(name)
