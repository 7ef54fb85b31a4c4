"""The plugin contract, version 2.0: everything a device package has to provide.

A package announces a `Plugin` through the entry-point group ``tensorbus.backends``::

    [project.entry-points."tensorbus.backends"]
    mychip = "tensorbus_mychip:PLUGIN"

The plugin lists its devices (`Plugin.probe`) and opens one of them (`Plugin.open`).  A `Device`
moves bytes, compiles kernels and launches them.  Kernels arrive as `Kernel` descriptions; a device
with a C-like language turns one into text with `Kernel.source(dialect)`, about 40 lines of dialect,
and needs to know nothing else about tensor operations.  Native kernels are optional: see `Native`.

A plugin states the version that it was written for (`Plugin.api_version`), a device what it has
beyond the methods that all have (`Device.features`).  How the two sides agree on both is in
`negotiation`; nothing else asks a device what it has.
"""

from __future__ import annotations

import enum
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from .dialect import Dialect
from .dtypes import DType

__all__ = [
    "ALIGNMENT",
    "API_VERSION",
    "BackendError",
    "Buffer",
    "CONTRACT",
    "Capabilities",
    "CompileError",
    "Compiled",
    "Device",
    "DeviceInfo",
    "DeviceLostError",
    "DeviceUnavailableError",
    "Event",
    "Evidence",
    "FEATURES",
    "Feature",
    "KernelSpec",
    "LaunchError",
    "MemoryFigures",
    "NATIVES_VERSION",
    "Native",
    "NativeCase",
    "NativeTable",
    "OutOfMemoryError",
    "PART_ALIGNMENT",
    "Plugin",
    "UnknownDeviceError",
    "UnsupportedError",
]

CONTRACT: tuple[int, int] = (2, 0)
"""The version of this contract, major and minor.

A minor version adds features and asks nothing new of a device that does not state them.  A major
version changes what is asked of all: plugins of another one are refused, and told what to change.
"""

API_VERSION = 1
"""Where plugins of contract 1 took their version from; kept, so that they are told what to change
instead of failing to import."""

ALIGNMENT = 64
"""Memory of `Device.allocate` begins at a multiple of so many bytes."""

PART_ALIGNMENT = 4096
"""So do parts of buffers, counted from the beginning of the buffer that they are parts of."""


# -- errors: all that a device may raise ------------------------------------------------------


class BackendError(RuntimeError):
    """Base of every error that a device raises; the message says what to do."""


class DeviceUnavailableError(BackendError):
    """The device cannot be opened; `cause` and `fix` are one sentence each."""

    def __init__(self, device: str, cause: str, fix: str) -> None:
        super().__init__(f"device {device!r} is unavailable: {cause}. To fix it: {fix}")
        self.device, self.cause, self.fix = device, cause, fix

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.device, self.cause, self.fix))


class UnknownDeviceError(BackendError, ValueError):
    """No plugin has a device of that name; the message lists those that exist."""


class OutOfMemoryError(BackendError, MemoryError):
    """An allocation failed; the device stays usable."""


class CompileError(BackendError):
    """The device's compiler rejected a kernel; `log` and `source` hold its words and its input."""

    def __init__(self, message: str, log: str = "", source: str = "") -> None:
        super().__init__(message)
        self.log, self.source = log, source

    def __str__(self) -> str:
        head = str(self.args[0])
        if not self.log:
            return head
        lines = self.log.strip().splitlines()
        shown = lines[:20] + (["..."] if len(lines) > 20 else []) + self._excerpt()
        return "\n".join([head, *shown])

    def _excerpt(self) -> list[str]:
        """The lines of source around the log's first error, numbered."""
        # gcc and clang write "file:4:12: error", NVRTC "file(4): error".
        found = re.search(r"[:(](\d+)[:)][^\n]*error", self.log)
        line = int(found[1]) if found else 0
        return self.numbered_source().splitlines()[max(0, line - 3) : line + 2] if line else []

    def numbered_source(self) -> str:
        """The source with line numbers, as the log refers to it."""
        return "\n".join(f"{k:4d} {t}" for k, t in enumerate(self.source.splitlines(), 1))


class LaunchError(BackendError):
    """A kernel could not be launched or failed while it ran."""


class DeviceLostError(BackendError):
    """The device is gone (reset, unplugged, crashed driver); open it again or use another."""


class UnsupportedError(BackendError):
    """The device does not have what was asked (a dtype, say), and said so in its capabilities."""


# -- what a device is -------------------------------------------------------------------------


class Evidence(enum.StrEnum):
    """How much a result on this device proves, strongest first; only its plugin can know.

    ``UNSTATED`` is for lines of what is not there.  A device may say it of itself: it proves least,
    and ``"auto"`` never chooses it.
    """

    HARDWARE = "hardware"
    SIMULATED = "simulated"
    COMPILED = "compiled"
    UNSTATED = "unstated"


@dataclass(frozen=True)
class Capabilities:
    """What a device declares and the conformance suite then tests.

    Attributes:
        dtypes: Names of the storage dtypes it can hold and compute with.
        fp64: float64 arithmetic exists.
        fp16: float16 arithmetic exists natively (portable kernels do not need it).
        fma: fma is one machine instruction (else it is correct but slow).
        subnormals: ``"preserve"`` or ``"flush"`` for float32.
        division: ``"correct"`` or the greatest error of ``/`` in ulps, as text.
        square_root: The same for ``sqrt``.
        local_memory: Bytes of memory shared by a group.
        max_group: Largest number of threads in a group; 1 where regions are loops.
        atomics: Integer atomics in device memory exist (portable kernels do not need them).
        ieee: Portable kernels give the interpreter's bits; False exempts nothing, it is reported.
    """

    dtypes: frozenset[str]
    fp64: bool = True
    fp16: bool = False
    fma: bool = True
    subnormals: str = "preserve"
    division: str = "correct"
    square_root: str = "correct"
    local_memory: int = 32 * 1024
    max_group: int = 256
    atomics: bool = False
    ieee: bool = True


class Feature(enum.StrEnum):
    """What a device may have beyond the methods that all devices have.

    A member of this list, or its text, in `Device.features` says that the device has it.
    """

    ADDRESS = "address"
    """The host may read and write buffers in place: `Device.address`, and `Device.import_pointer`
    takes the host's addresses."""
    PARTS = "parts"
    """`Device.part`: buffers over ranges of others."""
    PEERS = "peers"
    """`Device.copy_from`: copies between devices of the plugin without the host."""
    SYNCHRONOUS = "synchronous"
    """Launches and copies have finished on return, so that looking at results waits for nothing."""


FEATURES: Mapping[str, tuple[int, int]] = dict.fromkeys(Feature, (2, 0))
"""The version of the contract that each feature came with."""


@dataclass(frozen=True)
class DeviceInfo:
    """One line of ``tensorbus devices``.

    An absent device is listed too: `available` is False, and `cause` and `fix` say why and how.

    Attributes:
        name: Canonical name, ``"cpu"`` or ``"opencl:0"``.
        plugin: Name of the plugin.
        index: What to pass to `Plugin.open`.
        aliases: Other names of the same device, ``"opencl:intel:0"``.
        description: Human words: product, driver and compiler versions.
        evidence: How much a result on it proves; there is no default, since a wrong one would lie.
        details: Versions and figures for reports, all text.
    """

    name: str
    plugin: str
    index: int
    available: bool = True
    aliases: tuple[str, ...] = ()
    description: str = ""
    cause: str = ""
    fix: str = ""
    evidence: Evidence = field(kw_only=True)
    details: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class MemoryFigures:
    """Bytes handed out, kept for reuse, highest ever handed out, and the device's total or 0."""

    used: int
    cached: int
    peak: int
    total: int = 0


class Buffer:
    """A block of device memory; it goes back to the device when the last reference is dropped.

    Attributes:
        nbytes: Usable size, at least what was asked.
        device: Its device.
    """

    __slots__ = ("__weakref__", "device", "nbytes")
    device: Device
    nbytes: int


class Compiled(Protocol):
    """A kernel ready to be launched on one device; opaque to everyone else."""

    @property
    def spec(self) -> KernelSpec: ...


class KernelSpec(Protocol):
    """A device-independent kernel: what `Device.compile` is given.

    Two specs are equal exactly if they are the same kernel, and they hash accordingly.
    """

    @property
    def name(self) -> str:
        """A C identifier that is unique among the kernels of a process."""

    @property
    def buffers(self) -> int:
        """Number of buffer arguments."""

    @property
    def words(self) -> int:
        """Number of 64-bit words in the metadata argument."""

    def source(self, dialect: Dialect) -> str:
        """The kernel's text, without the dialect's prelude."""

    def local_bytes(self, dialect: Dialect) -> int:
        """Bytes of group-shared memory that the text declares."""

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        """Run it in NumPy on flat arrays of storage dtype (device ``ref``)."""


class Event(Protocol):
    """A point in a device's queue."""

    def wait(self) -> None:
        """Block until everything launched before the event has finished."""

    def done(self) -> bool:
        """Whether it has been reached."""


class Device(ABC):
    """An open device: memory, compilation, launches on one in-order queue.

    **Order.** Launches and copies on device may be asynchronous; `copy_out` and `synchronize` wait.
    A buffer may be dropped while work that uses it is pending; its memory serves nobody else before
    that is done.

    **Threads.** Methods may be called from several at once; a device serialises what its driver
    cannot.

    **Fork.** In a forked child methods work, or raise BackendError at once; none hangs, none
    computes something else, and buffers may be dropped there.  The parent's device goes on.

    **Alignment.** Memory of `allocate` begins at a multiple of `ALIGNMENT` bytes, a part at a
    multiple of `PART_ALIGNMENT` of its buffer, foreign memory at one of the dtype's size.  Offsets
    of copies are any number of bytes, those of launches any number of elements.

    **Out of memory.** Whoever cannot get memory - `allocate`, but a copy or a launch as well -
    gives back what was kept for reuse and tries once more before it raises OutOfMemoryError.
    Nothing has happened then, and the device stays usable: nobody else has to try again.

    **Errors.** A copy or part that does not lie inside its buffer, or a buffer of another device,
    raises BackendError, and nothing is copied.  Methods of a feature that a device does not state
    raise UnsupportedError, and are not called; those that are abstract here it has.  Once a device
    is lost, methods raise DeviceLostError; `memory`, `empty_cache` and dropping buffers go on.
    """

    info: DeviceInfo
    capabilities: Capabilities
    dialect: Dialect | None = None
    natives: Mapping[str, Native] = {}
    features: frozenset[str] = frozenset()
    """Members of `Feature`, or their text; it stays the same while the device is open."""
    dlpack_type: int = 0
    """DLPack's device type (dlpack.h: kDLCUDA is 2) if its memory can be shared by `pointer`."""
    dlpack_stream: int = 0
    """Handle of its queue (CUstream, hipStream_t), for those whose memory it takes; 0: default."""

    def has(self, feature: Feature) -> bool:
        """Whether the device has a feature."""
        return feature in self.features

    @abstractmethod
    def allocate(self, nbytes: int) -> Buffer:
        """A block of at least `nbytes` (0 is allowed), contents undefined, aligned to `ALIGNMENT`.

        Raises:
            OutOfMemoryError: After giving back what was kept for reuse and trying again; also for
                a size that no device has.
            BackendError: `nbytes` is negative.
        """

    @abstractmethod
    def copy_in(self, target: Buffer, offset: int, source: memoryview) -> None:
        """Copy host bytes to ``target[offset:]``; `source` may be reused on return."""

    @abstractmethod
    def copy_out(self, source: Buffer, offset: int, target: memoryview) -> None:
        """Copy ``source[offset:]`` to writable host bytes, after all earlier launches."""

    @abstractmethod
    def copy(
        self, target: Buffer, target_offset: int, source: Buffer, source_offset: int, nbytes: int
    ) -> None:
        """Copy on the device; ranges do not overlap."""

    def copy_from(
        self, target: Buffer, target_offset: int, source: Buffer, source_offset: int, nbytes: int
    ) -> bool:
        """Copy from a buffer of another device of the plugin without the host (`Feature.PEERS`).

        It runs after all that was launched on either device before, and before all that is launched
        on either later.  False means that nothing was done, and the host has to carry the bytes.
        """
        raise UnsupportedError(f"{self.info.name} cannot copy from another device")

    @abstractmethod
    def compile(self, kernels: Sequence[KernelSpec]) -> list[Compiled]:
        """Compile kernels, together if that is cheaper.

        Raises:
            CompileError: With the compiler's log and the source.
        """

    @abstractmethod
    def launch(self, kernel: Compiled, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
        """Run groups 0 .. groups-1 of a kernel; the caller's rounding mode changes no result.

        Args:
            kernel: From `compile` of this device.
            groups: Number of groups, at least 1.
            buffers: One for each buffer argument; element offsets travel in `meta`.
            meta: ``8 * kernel.spec.words`` bytes of native-endian int64.

        Raises:
            LaunchError: The arguments do not fit the kernel, or it would compute wrongly in this
                thread's rounding mode; nothing was launched.
        """

    def prepare(self, kernel: Compiled, groups: int, meta: bytes) -> Callable[..., None]:
        """`launch` with everything but the buffers fixed: all launches of ops are made so.

        A device overrides it where that saves work when the call comes again.

        Returns:
            ``run(*buffers)``, which launches; it may be called from several threads, with buffers
            of this device, as many as the kernel takes.

        Raises:
            LaunchError: As `launch`; here or when it is run.
        """
        return lambda *buffers: self.launch(kernel, groups, buffers, meta)

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until everything launched has finished; errors that it met are raised here."""

    @abstractmethod
    def record(self) -> Event:
        """Mark the present end of the queue."""

    @abstractmethod
    def memory(self) -> MemoryFigures:
        """Present memory figures; ``used`` counts buffers that live, parts and imports aside."""

    @abstractmethod
    def empty_cache(self) -> None:
        """Give memory kept for reuse back to the system."""

    def address(self, buffer: Buffer) -> int:
        """Host address of a buffer (`Feature.ADDRESS`)."""
        raise UnsupportedError(f"memory of {self.info.name} cannot be reached from the host")

    def pointer(self, buffer: Buffer) -> int:
        """The device's own address of a buffer, for DLPack; only if `dlpack_type` is not 0."""
        raise UnsupportedError(f"memory of {self.info.name} has no address for other libraries")

    def part(self, buffer: Buffer, offset: int, nbytes: int) -> Buffer:
        """A buffer over ``buffer[offset : offset + nbytes]``, kept alive by it (`Feature.PARTS`).

        `offset` is a multiple of `PART_ALIGNMENT`.  The conformance suite fences buffers with it
        from both sides; without it, only what lies behind a buffer is watched.
        """
        raise UnsupportedError(f"{self.info.name} has no parts of buffers")

    def import_pointer(self, address: int, nbytes: int, owner: object) -> Buffer:
        """A buffer over memory that `owner` keeps alive (DLPack).

        `address` is the host's with `Feature.ADDRESS`, else, if `dlpack_type` is not 0, what
        `pointer` gives.
        """
        raise UnsupportedError(f"{self.info.name} cannot use memory of another library in place")


@runtime_checkable
class Plugin(Protocol):
    """What the entry point names."""

    name: str
    api_version: tuple[int, int]
    """The version of the contract that it was written for, in figures: ``(2, 0)``.

    Not `CONTRACT`, which is the version of whoever runs the plugin.
    """

    def probe(self) -> Sequence[DeviceInfo]:
        """List devices, absent ones with cause and fix; quick, and safe to call more than once.

        "available" is a promise: probing has compiled and run a kernel on the device.
        """

    def open(self, index: int) -> Device:
        """Open device `index` of `probe`; the caller keeps it for the life of the process."""


# -- native kernels ---------------------------------------------------------------------------

NATIVES_VERSION = 1
"""Version of the list of names, operands and options that native kernels can take on; see
docs/natives.md."""


@dataclass(frozen=True, slots=True)
class NativeCase:
    """One call that a native kernel may take on.

    Attributes:
        op: Name of the op; of the function ("nn.linear") where that has none.
        dtypes: Storage dtypes of the operands, then of the results.
        shapes: Logical shapes of the operands, then of the results.
        strides: Strides in elements, likewise.
        options: The op's other arguments.
        results: How many results there are.
    """

    op: str
    dtypes: tuple[DType, ...]
    shapes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    results: int = 1


@dataclass(frozen=True)
class Native:
    """A device's own implementation of an op.

    Attributes:
        when: Whether this kernel takes a case; dispatch and the support matrix both ask it.
        run: ``run(case, buffers, offsets)`` with operands then results; offsets in elements.  It
            returns nothing; what it raises reaches the caller as an error that names the library.
        library: Whose code it is, for the evidence ("OpenBLAS 0.3.34 SkylakeX").
    """

    when: Callable[[NativeCase], bool]
    run: Callable[[NativeCase, Sequence[Buffer], Sequence[int]], None]
    library: str


class NativeTable:
    """Collects a device's native kernels::

    table = NativeTable()


    @table.implements("matmul", when=lambda case: case.dtypes[0] is float32, library="MyBLAS 1.2")
    def matmul(case, buffers, offsets): ...
    """

    def __init__(self) -> None:
        self.table: dict[str, Native] = {}

    def implements(
        self, op: str, *, when: Callable[[NativeCase], bool], library: str
    ) -> Callable[
        [Callable[[NativeCase, Sequence[Buffer], Sequence[int]], None]],
        Callable[[NativeCase, Sequence[Buffer], Sequence[int]], None],
    ]:
        """Register the decorated function as this device's kernel for `op`."""

        def register(
            run: Callable[[NativeCase, Sequence[Buffer], Sequence[int]], None],
        ) -> Callable[[NativeCase, Sequence[Buffer], Sequence[int]], None]:
            self.table[op] = Native(when, run, library)
            return run

        return register
