"""A compiler and a driver that are made up, with every call on record."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorbus_backends.contract import CompileError, KernelSpec, LaunchError
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.grid import GridBuffer, GridDriver, Launcher

DIALECT = Dialect(name="fake", prelude="// prelude\n", kernel="__global__ void {name}({args})")
HELPER = "INLINE i32 helper(i32 x) {\n    return x;\n}\n"


@dataclass(frozen=True)
class AddTo:
    """y[i] = x[i] + word 0 for 8 elements of each group."""

    name: str = "add_to"
    body: str = "y = x + w"
    local: int = 0
    buffers: int = 2
    words: int = 2

    def source(self, dialect: Dialect) -> str:
        return f"{HELPER}__global__ void {self.name}() {{\n    {self.body};\n}}\n"

    def local_bytes(self, dialect: Dialect) -> int:
        return self.local

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        x, y = arrays
        y[: 8 * groups] = x[: 8 * groups] + meta[0]


class FakeToolchain:
    """Its programs are their own text; whatever contains "broken" is rejected."""

    def __init__(self, identity: str = "fake 1.0", parallel: int = 1) -> None:
        self.identity, self.parallel, self.suffix = identity, parallel, ".fakebin"
        self.compiled: list[str] = []
        self.loaded = 0
        self.refuse = b""
        self.at_once: threading.Barrier | None = None

    def compile(self, source: str) -> bytes:
        self.compiled.append(source)
        if self.at_once is not None:
            self.at_once.wait(60)
        if "broken" in source:
            raise CompileError("the fake compiler rejected it", "line 1: broken", source)
        return source.encode()

    def load(self, binary: bytes) -> str:
        self.loaded += 1
        if self.refuse and self.refuse in binary:
            raise CompileError("the fake driver does not take it")
        return binary.decode()


class FakeEvent:
    def wait(self) -> None:
        return

    def done(self) -> bool:
        return True


class FakeDriver(GridDriver):
    """Memory is one array, a place an address in it; launches run at once, in NumPy.

    Attributes:
        free: Bytes that can still be obtained.
        starved: Launches to come that lack memory.
    """

    def __init__(self, size: int = 1 << 20) -> None:
        self.memory = np.full(size + 256, 0xAB, np.uint8)
        self.free, self.next, self.starved = size, 256, 0
        self.held: dict[int, int] = {}
        self.sizes: list[int] = []
        self.launches: list[tuple[str, int, bytes]] = []

    def obtain(self, nbytes: int) -> int:
        self.sizes.append(nbytes)
        if nbytes > self.free:
            raise MemoryError
        place, self.next = self.next, self.next + -(-nbytes // 256) * 256
        self.free -= nbytes
        self.held[place] = nbytes
        return place

    def release(self, place: int, nbytes: int) -> None:
        self.free += self.held.pop(place)

    def at(self, place: int, offset: int) -> int:
        return place + offset

    def write(self, place: int, source: memoryview) -> None:
        self.memory[place : place + source.nbytes] = np.frombuffer(source, np.uint8)

    def read(self, place: int, target: memoryview) -> None:
        target[:] = self.memory[place : place + target.nbytes].data

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self.memory[target : target + nbytes] = self.memory[source : source + nbytes]

    def function(self, program: str, spec: KernelSpec) -> str:
        if f" {spec.name}(" not in program:
            raise CompileError(f"no {spec.name}")
        return spec.name

    def launcher(self, function: str, spec: KernelSpec, groups: int, meta: bytes) -> Launcher:
        words = np.frombuffer(meta, np.int64)

        def run(buffers: Sequence[GridBuffer]) -> None:
            if self.starved:
                self.starved -= 1
                raise MemoryError
            if words[1] == 13:
                raise LaunchError("kernel failed")
            self.launches.append((function, groups, meta))
            spec.interpret([self.memory[b.at :].view(np.int32) for b in buffers], words, groups)

        return run

    def synchronize(self) -> None:
        return

    def record(self) -> FakeEvent:
        return FakeEvent()

    def pointer(self, place: int) -> int:
        return place
