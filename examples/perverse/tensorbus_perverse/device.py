"""The perverse device: memory is dirty, launches are late, groups and lanes run in any order."""

import ctypes
import platform
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import run
from typing import Any, cast

import numpy as np
from tensorbus_backends import contract, dtypes
from tensorbus_backends.cache import DiskCache, cache_key
from tensorbus_backends.contract import Buffer, Compiled, KernelSpec

from .dialect import DIALECT, ORDERS, RUN
from .natives import native_table

__all__ = ["PerverseDevice"]

TOTAL, QUEUE = 2 << 30, 64
CHECKS = "float-cast-overflow,signed-integer-overflow,integer-divide-by-zero,shift,bounds"


class _Buffer(Buffer):
    """Bytes at an odd multiple of 64, which is all that the contract promises."""

    __slots__ = ("array", "whole")
    device: "PerverseDevice"

    def __init__(self, device: "PerverseDevice", array: Any, whole: Buffer | None = None) -> None:
        self.device, self.array, self.whole, self.nbytes = device, array, whole, array.size
        device.used += 0 if whole else self.nbytes
        device.peak = max(device.peak, device.used)

    def __del__(self) -> None:
        self.device.used -= 0 if self.whole else self.nbytes


class _Kernel:
    """A loaded kernel; `floats` has, for each buffer, the size of floats written there or 0."""

    def __init__(self, spec: KernelSpec, text: str, path: Path) -> None:
        self.spec, self.run = spec, ctypes.CDLL(str(path)).tb_run
        found = re.findall(r"(const )?(\w+) \*\w+_base[,)]", text)
        self.floats = [0 if const else {"f32": 4, "f64": 8}.get(t, 0) for const, t in found]


class _Event:
    def __init__(self, device: "PerverseDevice") -> None:
        self.device, self.position = device, device.passed + len(device.queue)

    def wait(self) -> None:
        self.device.advance(self.position)

    def done(self) -> bool:
        """Asking executes one piece of work, so that asking again and again comes to an end."""
        self.device.advance(min(self.position, self.device.passed + 1))
        return self.device.passed >= self.position


class PerverseDevice(contract.Device):
    """Compiles with `compiler`; all that is random follows from `seed`."""

    features = frozenset({contract.Feature.PARTS})

    def __init__(self, info: contract.DeviceInfo, compiler: str, seed: int = 0) -> None:
        self.info, self.dialect, self.random = info, DIALECT, np.random.default_rng(seed)
        self.capabilities = contract.Capabilities(frozenset(d.name for d in dtypes.ALL))
        version = run([compiler, "--version"], capture_output=True, text=True).stdout
        fast = "-Xclang -ffp-contract=fast-honor-pragmas"  # clang's own fast ignores pragmas
        fast = fast if "clang" in version else "-ffp-contract=fast"
        native = "-march=native" if platform.machine() == "x86_64" else "-mcpu=native"
        self.command = f"{compiler} -O2 {native} {fast} -w -fPIC -shared"
        self.command += f" -fsanitize={CHECKS} -x c - -nodefaultlibs -lm -lc -o"
        self.cache, self.identity = DiskCache(), version + platform.node() + self.command
        self.queue: deque[Callable[[], object]] = deque()
        self.used = self.peak = self.passed = 0
        self.lock = threading.RLock()
        self.natives = native_table(self)

    def allocate(self, nbytes: int) -> Buffer:
        with self.lock:
            if not 0 <= nbytes <= TOTAL - self.used:
                what = f"{nbytes:,} bytes asked for, {self.used:,} of {TOTAL:,} in use"
                raise contract.OutOfMemoryError(f"perverse: {what}; drop some tensors")
            dirty = self.random.integers(0, 256, nbytes + 128, np.uint8)
        start = (64 - dirty.ctypes.data) % 128
        return _Buffer(self, dirty[start : start + nbytes])

    def part(self, buffer: Buffer, offset: int, nbytes: int) -> Buffer:
        return _Buffer(self, self.span(buffer, offset, nbytes), buffer)

    def span(self, buffer: Buffer, offset: int, nbytes: int) -> Any:
        """The bytes ``buffer[offset : offset + nbytes]``, or the contract's error."""
        if buffer.device is not self or not 0 <= offset <= offset + nbytes <= buffer.nbytes:
            what = f"{nbytes} bytes at {offset} of {buffer.nbytes} on {buffer.device.info.name}"
            raise contract.LaunchError(f"perverse was asked for {what}")
        return cast(_Buffer, buffer).array[offset : offset + nbytes]

    def copy_in(self, target: Buffer, offset: int, source: memoryview) -> None:
        to, data = self.span(target, offset, source.nbytes), np.frombuffer(bytes(source), np.uint8)
        self.later(lambda: np.copyto(to, data))

    def copy_out(self, source: Buffer, offset: int, target: memoryview) -> None:
        data = self.span(source, offset, target.nbytes)
        self.synchronize()
        np.copyto(np.frombuffer(target, np.uint8), data)

    def copy(self, target: Buffer, to: int, source: Buffer, start: int, nbytes: int) -> None:
        into, data = self.span(target, to, nbytes), self.span(source, start, nbytes)
        self.later(lambda: np.copyto(into, data))

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Compiled]:
        return [self.build(spec, spec.source(DIALECT)) for spec in kernels]

    def build(self, spec: KernelSpec, text: str) -> _Kernel:
        """One kernel, from the cache if it is there."""
        buffers = ", ".join(f"b[{k}]" for k in range(spec.buffers))
        source = DIALECT.prelude + text + RUN.format(name=spec.name, buffers=buffers)

        def write(path: Path) -> None:
            command = [*self.command.split(), str(path)]
            done = run(command, input=source, capture_output=True, text=True)
            if done.returncode:
                what = f"perverse: {command[0]} rejects kernel {spec.name}"
                raise contract.CompileError(what, done.stderr, source)

        key = cache_key(self.identity, source)
        return _Kernel(spec, text, self.cache.get_or_build(key, ".so", write))

    def launch(self, kernel: Compiled, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
        spec, arrays = kernel.spec, [self.span(b, 0, b.nbytes) for b in buffers]
        fits = len(arrays) == spec.buffers and len(meta) == 8 * spec.words and groups > 0
        if not isinstance(kernel, _Kernel) or not fits:
            raise contract.LaunchError(f"perverse: the arguments do not fit kernel {spec.name}")
        self.later(lambda: self.execute(kernel, groups, arrays, meta))

    def execute(self, kernel: _Kernel, groups: int, arrays: list[Any], meta: bytes) -> None:
        """Run a kernel now: groups and threads in random order, a random number of threads."""
        size = int(self.random.integers(1, 257))
        orders = np.concatenate([self.random.permutation(size) for _ in range(ORDERS)])
        orders, order = orders.astype(np.int32), self.random.permutation(groups).astype(np.int64)
        sized = zip(arrays, kernel.floats, strict=True)
        results = [a[: a.size // n * n].view(f"u{n}") for a, n in sized if n]
        before = [bits.copy() for bits in results]
        pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        rest = (order.ctypes.data, groups, orders.ctypes.data, size)
        if kernel.run(pointers, meta, *map(ctypes.c_int64, rest)):
            raise contract.LaunchError(f"perverse: {kernel.spec.name} did what C leaves undefined")
        for bits, old in zip(results, before, strict=True):
            self.spoil(bits, np.flatnonzero(bits != old))

    def spoil(self, bits: Any, fresh: Any) -> None:
        """Give NaNs among the `fresh` numbers another sign and payload; they stay quiet."""
        kind, n = bits.dtype.type, bits.itemsize
        quiet, free = (1 << 22, 0x803FFFFF) if n == 4 else (1 << 51, 0x8007FFFFFFFFFFFF)
        nan = fresh[np.isnan(bits.view(f"f{n}")[fresh])]
        noise = self.random.integers(0, free, nan.size, bits.dtype) & kind(free)
        bits[nan] = (bits[nan] ^ noise) | kind(quiet)

    def later(self, work: Callable[[], object]) -> None:
        """Put work at the end of the queue, which is finite."""
        with self.lock:
            self.queue.append(work)
            self.advance(self.passed + len(self.queue) - QUEUE)

    def advance(self, position: int) -> None:
        """Execute what lies before `position` in the queue."""
        with self.lock:
            while self.passed < position and self.queue:
                self.passed += 1
                self.queue.popleft()()

    def synchronize(self) -> None:
        self.advance(self.passed + len(self.queue))

    def record(self) -> contract.Event:
        return _Event(self)

    def memory(self) -> contract.MemoryFigures:
        return contract.MemoryFigures(self.used, 0, self.peak, TOTAL)

    def empty_cache(self) -> None:
        """Nothing is kept."""
