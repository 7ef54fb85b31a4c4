"""From kernel specs to compiled programs: batches, compilers side by side, the disk cache.

Starting a compiler costs more than most kernels, so kernels that are asked for together share
programs.  The disk cache knows the program that holds a kernel by the kernel's own text, so it is
found again whatever it is asked for with.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from .cache import DiskCache, cache_key
from .contract import CompileError, KernelSpec
from .dialect import Dialect

__all__ = ["Program", "Toolchain", "UnitBuilder", "program_text", "workers"]

Program = TypeVar("Program")
Loaded = TypeVar("Loaded", covariant=True)

# Larger programs save little more, and all of one is loaded for one of its kernels.
_UNIT = 16


class Toolchain(Protocol[Loaded]):
    """A run-time compiler and the loader of what it makes.

    Attributes:
        identity: Compiler, target and options: everything but the source that decides the result.
        parallel: Programs that it may compile at the same time, on threads of this process.
        suffix: Ending of the file's name in the cache, ``".cubin"``.
    """

    identity: str
    parallel: int
    suffix: str

    def compile(self, source: str) -> bytes:
        """What is kept in the cache for a program.

        Raises:
            CompileError: With the compiler's log and the source.
        """

    def load(self, binary: bytes) -> Loaded:
        """The program that `compile` made, on the device.

        Raises:
            CompileError: The driver does not take it (another driver wrote the cache, say).
        """


def program_text(dialect: Dialect, texts: Sequence[str]) -> str:
    """One program for several kernels: the prelude, then each top-level definition once.

    Kernels of one renderer repeat the helper functions and tables that they share word for word.
    """
    heads = {"INLINE", "CONSTANT", "struct", dialect.kernel.strip().splitlines()[-1].split()[0]}
    definition = re.compile(rf"^(?=(?:{'|'.join(map(re.escape, sorted(heads)))})\s)", re.MULTILINE)
    seen: dict[str, None] = {}
    for text in texts:
        for part in definition.split(text):
            seen.setdefault(part.strip() + "\n")
    return dialect.prelude + "".join(seen)


@dataclass(frozen=True)
class _Wanted:
    spec: KernelSpec
    dialect: Dialect
    text: str
    key: str


class UnitBuilder(Generic[Program]):
    """Compiles kernels for one device.

    Args:
        toolchain: Compiler and loader.
        cache: Where compiled programs are kept.
    """

    def __init__(self, toolchain: Toolchain[Program], cache: DiskCache) -> None:
        self._toolchain, self._cache = toolchain, cache
        self._programs: dict[str, Program] = {}
        self._lock = threading.Lock()

    def programs(self, wanted: Sequence[tuple[KernelSpec, Dialect]]) -> list[Program]:
        """The program that holds each kernel.

        Raises:
            CompileError: The compiler rejects a kernel; the message names it.
        """
        rows = []
        for spec, dialect in wanted:
            text = spec.source(dialect)
            rows.append(_Wanted(spec, dialect, text, self._key(dialect.prelude, text)))
        found = {w.key: self._find(w.key) for w in rows}
        missing = list({w.key: w for w in rows if found[w.key] is None}.values())
        built = self._build_all(missing) if missing else {}
        result = []
        for w in rows:
            program = found[w.key]
            result.append(built[w.key] if program is None else program)
        return result

    def _key(self, *texts: str) -> str:
        return cache_key("unit", self._toolchain.identity, *texts)

    def _find(self, wanted: str) -> Program | None:
        """The program that has a kernel, if the disk cache knows it."""
        unit = self._cache.get_bytes(wanted, ".unit")
        if unit is None:
            return None
        key = unit.decode(errors="replace")
        with self._lock:
            program = self._programs.get(key)
            if program is None:
                kept = self._cache.get_bytes(key, self._toolchain.suffix)
                if kept is None:
                    return None
                try:
                    program = self._programs[key] = self._toolchain.load(kept)
                except CompileError:
                    return None
            return program

    def _build_all(self, missing: Sequence[_Wanted]) -> dict[str, Program]:
        parallel = self._toolchain.parallel
        units: list[list[_Wanted]] = []
        for dialect in dict.fromkeys(w.dialect for w in missing):
            same = [w for w in missing if w.dialect == dialect]
            size = min(_UNIT, -(-len(same) // parallel))
            units += [same[k : k + size] for k in range(0, len(same), size)]
        if len(units) == 1 or parallel == 1:
            results = [self._build_unit(unit) for unit in units]
        else:
            with ThreadPoolExecutor(parallel, thread_name_prefix="tensorbus-compile") as pool:
                results = list(pool.map(self._build_unit, units))
        return {key: program for built in results for key, program in built.items()}

    def _build_unit(self, unit: Sequence[_Wanted]) -> dict[str, Program]:
        source = program_text(unit[0].dialect, [w.text for w in unit])
        try:
            binary = self._toolchain.compile(source)
            program = self._toolchain.load(binary)
        except CompileError as error:
            if len(unit) > 1:
                # One of them is at fault: alone, each is told apart by name.
                return {k: p for w in unit for k, p in self._build_unit([w]).items()}
            message = f"kernel {unit[0].spec.name!r}: {error.args[0]}"
            raise CompileError(message, error.log, error.source or source) from None
        key = self._key("program", source)
        self._cache.put_bytes(key, binary, self._toolchain.suffix)
        with self._lock:
            self._programs[key] = program
        for w in unit:
            self._cache.put_bytes(w.key, key.encode(), ".unit")
        return {w.key: program for w in unit}


def workers() -> int:
    """Programs that a thread-safe compiler may be given at once."""
    return max(1, min(4, os.cpu_count() or 1))
