"""The list of faults, and a device that carries one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorbus_backends.contract import (
    Buffer,
    Compiled,
    Device,
    Event,
    Feature,
    KernelSpec,
    MemoryFigures,
)
from tensorbus_backends.dialect import Dialect

__all__ = ["FAULTS", "Changed", "Fault", "FaultyDevice", "Planted", "plant"]


@dataclass
class Planted:
    """A fault at work in this process.

    Attributes:
        wrap: Puts the fault between judge and device.
        hits: How often it changed something.
    """

    wrap: Callable[[Device], Device] | None = None
    hits: int = 0

    def hit(self) -> None:
        """Note that the fault changed something."""
        self.hits += 1


@dataclass(frozen=True)
class Fault:
    """Something wrong on purpose.

    Attributes:
        name: Short name.
        what: One sentence.
        point: ``"device"`` or ``"registry"``.
        ops: Ops that it can touch; only their items are run.
        dtypes: Dtypes of those items.
        family: Kind of ops, for the list of what is covered.
        install: Plants it: fills in `Planted`.
        threads: Whether only threads of a group that run in any order can show it.
    """

    name: str
    what: str
    point: str
    ops: tuple[str, ...]
    dtypes: tuple[str, ...]
    family: str
    install: Callable[[Planted], None] = field(compare=False)
    threads: bool = False


FAULTS: dict[str, Fault] = {}
"""All faults by name."""


def plant(name: str) -> Planted:
    """Plant a fault in this process; KeyError if there is none of that name."""
    planted = Planted()
    FAULTS[name].install(planted)
    return planted


class Changed:
    """A kernel whose text was changed; `suffix` of its name tells it from others of the spec."""

    def __init__(
        self, spec: KernelSpec, change: Callable[[str], str], planted: Planted, suffix: str = "x"
    ) -> None:
        self._spec, self._change, self._planted = spec, change, planted
        self.name, self.buffers, self.words = f"{spec.name}_{suffix}", spec.buffers, spec.words

    def source(self, dialect: Dialect) -> str:
        text = self._spec.source(dialect)
        new = self._change(text)
        if new != text:
            self._planted.hit()
        return new.replace(self._spec.name, self.name)

    def local_bytes(self, dialect: Dialect) -> int:
        return self._spec.local_bytes(dialect)

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        raise NotImplementedError("faults in kernel text need a device that compiles it")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._spec, name)


class _Handle:
    """A compiled kernel as the judge sees it; without ``prepare``, so launches pass through."""

    def __init__(self, spec: KernelSpec, real: Compiled) -> None:
        self.spec, self.real = spec, real


class FaultyDevice(Device):
    """A device that passes everything on, but for what a fault overrides.

    Args:
        real: The device.
        label: Only kernels whose name begins with this are touched.
        change: New text of a kernel.
        launch: ``launch(device, kernel, groups, buffers, meta)`` in place of the real one.
    """

    def __init__(
        self,
        real: Device,
        planted: Planted,
        label: str = "",
        change: Callable[[str], str] | None = None,
        launch: Callable[..., None] | None = None,
    ) -> None:
        self.real, self.planted, self.label = real, planted, f"tb_{label}"
        self.change, self.instead = change, launch
        self.info, self.capabilities = real.info, real.capabilities
        self.dialect, self.features = real.dialect, real.features - {Feature.PEERS}

    @property
    def natives(self) -> Any:  # type: ignore[override]
        return self.real.natives

    def touches(self, kernel: KernelSpec) -> bool:
        """Whether the fault is for this kernel."""
        return kernel.name.startswith(self.label)

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Any]:
        given: list[Any] = []
        for k in kernels:
            if self.change is not None and self.touches(k):
                given.append(Changed(k, self.change, self.planted))
            else:
                given.append(k)
        return self.handles(kernels, self.real.compile(given))

    @staticmethod
    def handles(kernels: Sequence[KernelSpec], compiled: Sequence[Compiled]) -> list[Any]:
        """Compiled kernels that keep the specs which the caller knows."""
        return [_Handle(k, c) for k, c in zip(kernels, compiled, strict=True)]

    def launch(self, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
        if self.instead is not None and self.touches(kernel.spec):
            self.instead(self.real, kernel, groups, buffers, meta)
        else:
            self.real.launch(kernel.real, groups, buffers, meta)

    def allocate(self, nbytes: int) -> Buffer:
        return self.real.allocate(nbytes)

    def copy_in(self, target: Buffer, offset: int, source: memoryview) -> None:
        self.real.copy_in(target, offset, source)

    def copy_out(self, source: Buffer, offset: int, target: memoryview) -> None:
        self.real.copy_out(source, offset, target)

    def copy(
        self, target: Buffer, target_offset: int, source: Buffer, source_offset: int, nbytes: int
    ) -> None:
        self.real.copy(target, target_offset, source, source_offset, nbytes)

    def synchronize(self) -> None:
        self.real.synchronize()

    def record(self) -> Event:
        return self.real.record()

    def memory(self) -> MemoryFigures:
        return self.real.memory()

    def empty_cache(self) -> None:
        self.real.empty_cache()

    def address(self, buffer: Buffer) -> int:
        return self.real.address(buffer)

    def part(self, buffer: Buffer, offset: int, nbytes: int) -> Buffer:
        return self.real.part(buffer, offset, nbytes)

    def import_pointer(self, address: int, nbytes: int, owner: object) -> Buffer:
        return self.real.import_pointer(address, nbytes, owner)
