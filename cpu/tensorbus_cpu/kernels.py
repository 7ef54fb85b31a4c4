"""From kernel specs to addresses of C functions: batches, the disk cache, the loader.

Kernels that are asked for together share translation units, since starting the compiler and
reading headers costs more than most kernels.  The cache knows the unit that holds a kernel by the
kernel's own text, so it is found again whatever it is asked for with.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tensorbus_backends.cache import DiskCache, cache_key
from tensorbus_backends.contract import CompileError, KernelSpec
from tensorbus_backends.units import program_text

from .dialect import C
from .runtime import Runtime
from .toolchain import Toolchain

__all__ = ["Builder"]

# Past this the compiler's start no longer shows, and smaller units spread better over the cores.
_UNIT = 16


@dataclass(frozen=True)
class _Wanted:
    spec: KernelSpec
    text: str
    key: str


class Builder:
    """Compiles kernels with one toolchain and loads what it built.

    Args:
        toolchain: The compiler.
        runtime: The loader.
        cache: Where libraries are kept.
    """

    def __init__(self, toolchain: Toolchain, runtime: Runtime, cache: DiskCache) -> None:
        self._toolchain, self._runtime, self._cache = toolchain, runtime, cache
        self._handles: dict[Path, int] = {}

    def addresses(self, kernels: Sequence[KernelSpec]) -> list[int]:
        """Address of each kernel's function.

        Raises:
            CompileError: The compiler rejects a kernel (the message names it), or the loader does.
        """
        identity = self._toolchain.identity
        wanted = []
        for spec in kernels:
            text = spec.source(C)
            wanted.append(_Wanted(spec, text, cache_key("kernel", identity, C.prelude, text)))
        found = {w.key: self._find(w) for w in wanted}
        missing = list({w.key: w for w in wanted if found[w.key] == 0}.values())
        if missing:
            found.update(self._build_all(missing))
        return [found[w.key] for w in wanted]

    def _find(self, wanted: _Wanted) -> int:
        """Address of a kernel that the disk cache has, else 0."""
        path = self._cache.lookup(wanted.key, ".so")
        if path is None:
            unit = self._cache.get_bytes(wanted.key, ".unit")
            path = self._cache.lookup(unit.decode(), ".so") if unit is not None else None
        if path is None:
            return 0
        try:
            return self._load(path, wanted.spec.name)
        except CompileError:
            return 0  # built again, and reported if that cannot be loaded either

    def _load(self, path: Path, name: str) -> int:
        handle = self._handles.get(path)
        if handle is None:
            handle = self._handles[path] = self._runtime.open(path)
        address = self._runtime.symbol(handle, name)
        if not address:
            raise CompileError(f"the compiled library of kernel {name!r} does not define it")
        return address

    def _build_all(self, missing: Sequence[_Wanted]) -> dict[str, int]:
        workers = min(self._runtime.threads, len(missing))
        size = min(_UNIT, -(-len(missing) // workers))
        units = [missing[k : k + size] for k in range(0, len(missing), size)]
        if len(units) == 1:
            return self._build_unit(units[0])
        found: dict[str, int] = {}
        with ThreadPoolExecutor(workers, thread_name_prefix="tensorbus-cc") as pool:
            for built in pool.map(self._build_unit, units):
                found.update(built)
        return found

    def _build_unit(self, unit: Sequence[_Wanted]) -> dict[str, int]:
        if len(unit) == 1:
            return {unit[0].key: self._build_one(unit[0])}
        source = program_text(C, [w.text for w in unit])
        key = cache_key("unit", self._toolchain.identity, source)
        try:
            path = self._compile(key, source)
        except CompileError:
            # One of them is at fault: alone, each is told apart by name.
            return {w.key: self._build_one(w) for w in unit}
        for w in unit:
            self._cache.put_bytes(w.key, key.encode(), ".unit")
        return {w.key: self._load(path, w.spec.name) for w in unit}

    def _build_one(self, wanted: _Wanted) -> int:
        source = program_text(C, [wanted.text])
        try:
            return self._load(self._compile(wanted.key, source), wanted.spec.name)
        except CompileError as error:
            message = f"kernel {wanted.spec.name!r}: {error.args[0]}"
            raise CompileError(message, error.log, error.source or source) from None

    def _compile(self, key: str, source: str) -> Path:
        return self._cache.get_or_build(
            key, ".so", lambda target: self._toolchain.compile(source, target)
        )
