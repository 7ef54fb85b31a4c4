"""From kernel specs to OpenCL kernels: batches, program binaries, the disk cache.

Starting a runtime's compiler costs more than most kernels, so kernels that are asked for together
share programs.  The disk cache knows the program that holds a kernel by the kernel's own text, so
it is found again whatever it is asked for with.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tensorbus_backends.cache import DiskCache, cache_key
from tensorbus_backends.contract import CompileError, KernelSpec
from tensorbus_backends.dialect import Dialect

__all__ = ["Builder", "program_text", "status_text", "workers"]

# Larger programs save little more, and all of one is loaded for one of its kernels.
_UNIT = 16

_DEFINITION = re.compile(r"^(?=INLINE |CONSTANT |struct |__kernel )", re.MULTILINE)


def program_text(dialect: Dialect, texts: Sequence[str]) -> str:
    """One program for several kernels: the prelude, then each top-level definition once."""
    seen: dict[str, None] = {}
    for text in texts:
        for part in _DEFINITION.split(text):
            seen.setdefault(part.strip() + "\n")
    return dialect.prelude + "".join(seen)


@dataclass(frozen=True)
class _Wanted:
    spec: KernelSpec
    dialect: Dialect
    text: str
    key: str


class Builder:
    """Compiles for one device.

    Args:
        context: pyopencl context of exactly one device.
        identity: Platform, device and driver versions.
        options: Build options.
        cache: Where program binaries are kept.
        binaries: Keep program binaries; else keep the sources, for a driver that compiles at the
            first launch and caches that itself (asking PoCL for a binary compiles everything once
            more, for group sizes that are never used).
        parallel: Programs to build at the same time.
    """

    def __init__(
        self,
        context: Any,
        identity: str,
        options: Sequence[str],
        cache: DiskCache,
        *,
        binaries: bool = True,
        parallel: int = 1,
    ) -> None:
        self._context, self._identity, self._cache = context, identity, cache
        self._device = context.devices[0]
        self._options = " ".join(options).encode()
        self._binaries, self._parallel = binaries, parallel
        self._programs: dict[str, Any] = {}
        self._lock = threading.Lock()

    def programs(self, wanted: Sequence[tuple[KernelSpec, Dialect]]) -> list[Any]:
        """The built pyopencl program of each kernel.

        Raises:
            CompileError: The compiler rejects a kernel; the message names it.
        """
        rows = []
        for spec, dialect in wanted:
            text = spec.source(dialect)
            rows.append(_Wanted(spec, dialect, text, self._key(dialect.prelude, text)))
        found = {w.key: self._find(w) for w in rows}
        missing = list({w.key: w for w in rows if found[w.key] is None}.values())
        if missing:
            found.update(self._build_all(missing))
        return [found[w.key] for w in rows]

    def _key(self, *texts: str) -> str:
        return cache_key("opencl", self._identity, self._options.decode(), *texts)

    def _find(self, wanted: _Wanted) -> Any:
        """The program that has a kernel, if the disk cache knows it."""
        unit = self._cache.get_bytes(wanted.key, ".unit")
        if unit is None:
            return None
        key = unit.decode(errors="replace")
        with self._lock:
            program = self._programs.get(key)
            if program is None and (kept := self._cache.get_bytes(key, self._suffix)) is not None:
                program = self._load(kept)
                if program is not None:
                    self._programs[key] = program
            return program

    @property
    def _suffix(self) -> str:
        return ".clbin" if self._binaries else ".cl"

    def _load(self, kept: bytes) -> Any:
        """A program from what the cache has, or None if the driver does not take it."""
        import pyopencl as cl

        try:
            if not self._binaries:
                return self._compile(kept.decode())
            program = cl._cl._Program(self._context, [self._device], [kept])
            program._build(self._options, [self._device])
        except (cl.Error, CompileError, UnicodeDecodeError):
            return None
        return program

    def _build_all(self, missing: Sequence[_Wanted]) -> dict[str, Any]:
        units: list[list[_Wanted]] = []
        for dialect in dict.fromkeys(w.dialect for w in missing):
            same = [w for w in missing if w.dialect == dialect]
            size = min(_UNIT, -(-len(same) // self._parallel))
            units += [same[k : k + size] for k in range(0, len(same), size)]
        if len(units) == 1 or self._parallel == 1:
            results = [self._build_unit(unit) for unit in units]
        else:
            with ThreadPoolExecutor(self._parallel, thread_name_prefix="tensorbus-cl") as pool:
                results = list(pool.map(self._build_unit, units))
        return {key: program for built in results for key, program in built.items()}

    def _build_unit(self, unit: Sequence[_Wanted]) -> dict[str, Any]:
        source = program_text(unit[0].dialect, [w.text for w in unit])
        try:
            program = self._compile(source)
        except CompileError as error:
            if len(unit) > 1:
                # One of them is at fault: alone, each is told apart by name.
                return {k: p for w in unit for k, p in self._build_unit([w]).items()}
            message = f"kernel {unit[0].spec.name!r}: {error.args[0]}"
            raise CompileError(message, error.log, source) from None
        key = self._key("program", source)
        self._cache.put_bytes(key, self._kept(program, source), self._suffix)
        with self._lock:
            self._programs[key] = program
        for w in unit:
            self._cache.put_bytes(w.key, key.encode(), ".unit")
        return {w.key: program for w in unit}

    def _compile(self, source: str) -> Any:
        import pyopencl as cl

        # Not pyopencl.Program: that adds a cache of its own and leaves files with failed sources.
        program = cl._cl._Program(self._context, source)
        try:
            program._build(self._options, [self._device])
        except cl.Error as error:
            log = str(program.get_build_info(self._device, cl.program_build_info.LOG) or "")
            name = " ".join(str(self._device.name).split())
            message = f"the OpenCL compiler of {name} rejected it ({status_text(error)})"
            raise CompileError(message, log.replace("\0", ""), source) from None
        return program

    def _kept(self, program: Any, source: str) -> bytes:
        """What goes into the cache for a program."""
        import pyopencl as cl

        if not self._binaries:
            return source.encode()
        return bytes(program.get_info(cl.program_info.BINARIES)[0])


def status_text(error: Any) -> str:
    """Name of the OpenCL status that a pyopencl error carries."""
    import pyopencl as cl

    names: Any = cl.status_code
    try:
        return str(names.to_string(error.code))
    except (AttributeError, ValueError):
        return str(error)


def workers() -> int:
    """Programs that a driver with a thread-safe compiler may build at once."""
    return max(1, min(4, os.cpu_count() or 1))
