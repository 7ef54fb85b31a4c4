"""Devices: choosing one, listing all, compiling kernels once for each."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import Any

from tensorbus_backends.contract import (
    BackendError,
    Capabilities,
    Compiled,
    Device as Backend,
    DeviceInfo,
    DeviceUnavailableError,
    Evidence,
    Feature,
    KernelSpec,
)
from tensorbus_backends.discovery import Registry
from tensorbus_backends.floating import DefaultArithmetic

from ._late import Late
from ._recent import Recent
from ._state import Change, enter, settings

__all__ = ["Device", "device", "devices", "get_device", "registry", "sharing"]

registry = Registry()


class Device:
    """An open device, as ``x.device`` gives it; equal to its names as text.

    Attributes:
        name: Canonical name, ``"cpu"`` or ``"opencl:0"``.
        backend: The plugin's device object.
        constants: Memory that calls share and that can be made again, by what it holds.
        late: Errors of calls that nobody has waited for.
        home: Of what lies here only because `home` cannot hold it (see `guest`); else None.
        real: The device without that mark; itself where there is none.
    """

    __slots__ = (
        "__weakref__", "_guests", "_kernels", "_lock", "backend", "constants", "home", "late",
        "name", "real",
    )  # fmt: skip

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.home: Device | None = None
        self.real = self
        self._guests: dict[Device, Device] = {}
        self.name = backend.info.name
        self.constants: Recent[Any, Any] = Recent(256)
        self.late = Late(backend)
        self._kernels: dict[KernelSpec, Compiled] = {}
        self._lock = threading.Lock()

    @property
    def info(self) -> DeviceInfo:
        """Names, description, versions, evidence level."""
        return self.backend.info

    @property
    def capabilities(self) -> Capabilities:
        """What the device declares."""
        return self.backend.capabilities

    def has(self, feature: Feature) -> bool:
        """Whether the device has a feature of the contract."""
        return self.backend.has(feature)

    def guest(self, home: Device) -> Device:
        """This device as the place of results of calls on `home` that `home` cannot hold.

        It is another object of the same name, memory and kernels: tensors there are told from those
        that the user put on this device, and may meet tensors of `home` (see `_fallback`).
        """
        found = self._guests.get(home)
        if found is None:
            made = Device(self.backend)
            made.home, made.real = home, self
            # Not its constants: these are tensors, which know their device.
            made._kernels, made._lock = self._kernels, self._lock
            found = self._guests.setdefault(home, made)
        return found

    def kernel(self, spec: KernelSpec) -> Compiled:
        """The compiled form of a kernel."""
        found = self._kernels.get(spec)
        if found is None:
            with self._lock, DefaultArithmetic():
                found = self._kernels.get(spec)
                if found is None:
                    (found,) = self.backend.compile([spec])
                    self._kernels[spec] = found
        return found

    def warm(self, specs: Sequence[KernelSpec]) -> None:
        """Compile many kernels at once, which is cheaper than one by one."""
        with self._lock, DefaultArithmetic():
            missing = list(dict.fromkeys(s for s in specs if s not in self._kernels))
            if missing:
                compiled = self.backend.compile(missing)
                self._kernels.update(zip(missing, compiled, strict=True))

    def synchronize(self) -> None:
        """Wait until everything launched on the device has finished.

        Raises:
            IndexError: An earlier call had an index out of range; raised once, in the thread that
                waits or reads first.
        """
        self.backend.synchronize()
        self.late.settle()

    def empty_cache(self) -> None:
        """Give back memory that no tensor uses: shared constants, and what the pool keeps."""
        self.constants.clear()
        self.backend.empty_cache()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return other == self.name or other in self.info.aliases
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        for_home = "" if self.home is None else f", for results of {self.home.name!r}"
        return f"<tensorbus device {self.name!r}: {self.info.description}{for_home}>"


_open: dict[str, Device] = {}
_opening = threading.Lock()


def get_device(name: str | Device | None = None) -> Device:
    """The open device of a name; None is the default of this thread or task.

    The default is the one set by `device`, else ``TENSORBUS_DEVICE``, else ``"cpu"``; where the cpu
    device is unavailable (no compiler), ``"ref"``, which a RuntimeWarning says.

    Raises:
        UnknownDeviceError: No such name; the message suggests one.
        DeviceUnavailableError: With cause and fix.
    """
    if name is None:
        now = settings()
        if now.device is not None:
            return now.device
        return _defaults.get(now.named) or _default(now.named)
    if isinstance(name, Device):
        return name
    found = _open.get(name)
    if found is None:
        if not isinstance(name, str):
            raise TypeError(f"a device is named by text like 'cpu', not by {type(name).__name__}")
        backend = registry.open(name)
        with _opening:
            found = _open.get(backend.info.name) or Device(backend)
            _open[backend.info.name] = _open[name] = found
    return found


_defaults: dict[str | None, Device] = {}
"""Default devices by the value of ``TENSORBUS_DEVICE``."""


def _default(named: str | None) -> Device:
    """The default device where no block sets one; said once where it is ``ref`` unasked."""
    reason = ""
    try:
        found = get_device(named or "cpu")
        if found == "ref" and named != "ref":
            reason = (
                f"TENSORBUS_DEVICE={named!r} finds no other device that is available; "
                "`tensorbus devices` says why and what to do"
            )
    except DeviceUnavailableError as error:
        if named is not None:
            raise
        found = get_device("ref")
        reason = f"cpu is unavailable: {error.cause}; {error.fix}"
    if reason:
        warnings.warn(
            f"the default device is 'ref', a slow interpreter, because {reason}. "
            "TENSORBUS_DEVICE=ref chooses it without this warning",
            RuntimeWarning,
            stacklevel=3,
        )
    return _defaults.setdefault(named, found)


def sharing(kind: int, number: int, target: Device | None = None) -> Device | None:
    """The device whose own memory is DLPack's (kind, number): `target`, or any that is found.

    A simulated device is found only if it is open: real memory would be out of its reach.
    """

    def fits(one: Device) -> bool:
        place = (one.backend.dlpack_type, one.info.index)
        return place == (kind, number) and not one.has(Feature.ADDRESS)

    known = [target] if target is not None else []
    known += _open.values()
    for one in known:
        if fits(one):
            return one
    for line in registry.devices():
        if line.available and line.index == number and line.evidence is not Evidence.SIMULATED:
            try:
                one = get_device(line.name)
            except BackendError:
                continue
            if fits(one):
                return one
    return None


def devices(refresh: bool = False) -> list[DeviceInfo]:
    """All devices of all plugins, absent ones with cause and fix.

    Args:
        refresh: Probe again instead of using what this process already knows.
    """
    return registry.devices(refresh)


class _Chosen(Change):
    """Opens the device where the block begins."""

    def __enter__(self) -> Device:
        chosen = get_device(self._value)
        self._entered.append(enter("device", chosen))
        return chosen

    def _again(self) -> Change:
        return _Chosen(self._field, self._value)


def device(name: str | Device) -> _Chosen:
    """Make a device the default inside the block (also a decorator)::

    with tb.device("opencl:0"):
        x = tb.ones((3, 3))
    """
    return _Chosen("device", name)
