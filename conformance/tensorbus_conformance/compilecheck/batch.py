"""Compiling many kernels for one target: batches, processes, and what was accepted before.

Kernels share programs, since starting a compiler costs more than most kernels; one that is rejected
is told apart by compiling alone.  Processes, not threads: some compilers serialise inside a
process, and one that crashes takes only its process with it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from tensorbus_backends.cache import DiskCache, cache_key
from tensorbus_backends.contract import CompileError
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.units import program_text

from .compilers import opened

__all__ = ["Rejected", "Text", "compile_texts", "compile_unit"]

_UNIT, _KEPT = 16, 256
# Raised when the checks of a plugin's `objections` change their meaning.
_CHECKS = "1"


@dataclass(frozen=True)
class Text:
    """A kernel as the compiler gets it: text without its dialect's prelude."""

    name: str
    dialect: Dialect
    text: str


@dataclass(frozen=True)
class Rejected:
    """A kernel that did not pass.

    Attributes:
        name: Of the kernel.
        message: One line.
        log: The compiler's words.
        source: The program, with line numbers as the log refers to them.
    """

    name: str
    message: str
    log: str
    source: str


@dataclass(frozen=True)
class _Unit:
    plugin: str
    compiler: str
    target: str
    kernels: tuple[Text, ...]

    def each(self) -> list[_Unit]:
        return [_Unit(self.plugin, self.compiler, self.target, (k,)) for k in self.kernels]


def compile_unit(unit: _Unit) -> list[Rejected]:
    """Compile the kernels of one program; returns those that are rejected."""
    compiler = opened(unit.plugin, unit.compiler)
    texts = [k.text for k in unit.kernels]
    source = program_text(unit.kernels[0].dialect, texts)
    try:
        listing = compiler.compile(source, unit.target)
    except CompileError as error:
        if len(unit.kernels) > 1:
            return [r for alone in unit.each() for r in compile_unit(alone)]
        numbered = CompileError("", source=error.source or source).numbered_source()
        return [Rejected(unit.kernels[0].name, str(error.args[0]), error.log, numbered)]
    said = compiler.objections(listing, {k.name: k.text for k in unit.kernels})
    numbered = CompileError("", source=source).numbered_source() if said else ""
    return [Rejected(name, words, "", numbered) for name, words in said.items()]


class _Accepted:
    """What a compiler accepted for a target, kept on disk."""

    def __init__(self, identity: str, target: str) -> None:
        self._cache = DiskCache()
        self._key = cache_key("compile check", _CHECKS, identity, target)
        self.known = self._read()

    def _read(self) -> set[str]:
        return set((self._cache.get_bytes(self._key) or b"").decode().split())

    @staticmethod
    def digest(kernel: Text) -> str:
        """What stands for a kernel: everything that its program is made of."""
        return cache_key(kernel.dialect.prelude, kernel.text)[:32]

    def add(self, digests: set[str]) -> None:
        """Keep these too, and what another process added meanwhile."""
        self.known |= digests | self._read()
        self._cache.put_bytes(self._key, "\n".join(sorted(self.known)).encode())


def compile_texts(
    plugin: str,
    compiler: str,
    target: str,
    kernels: Sequence[Text],
    *,
    workers: int = 1,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[list[Rejected], int]:
    """Compile kernels for a target.

    Args:
        plugin: Who offers the compiler.
        compiler: Its name.
        target: One of its targets.
        kernels: What to compile.
        workers: Processes; 0 compiles in this one.
        done: Called with the number of kernels that have just been decided.

    Returns:
        The rejected kernels, and how many of the others this very compiler had accepted before.
    """
    accepted = _Accepted(opened(plugin, compiler).identity, target)
    digests = {k.name: accepted.digest(k) for k in kernels}
    todo = [k for k in kernels if digests[k.name] not in accepted.known]
    cached = len(kernels) - len(todo)
    done(cached)
    units = []
    for dialect in dict.fromkeys(k.dialect for k in todo):
        same = [k for k in todo if k.dialect == dialect]
        units += [
            _Unit(plugin, compiler, target, tuple(same[k : k + _UNIT]))
            for k in range(0, len(same), _UNIT)
        ]
    rejected: list[Rejected] = []
    fresh: set[str] = set()
    try:
        for unit, bad in _run(units, workers):
            rejected += bad
            names = {r.name for r in bad}
            fresh |= {digests[k.name] for k in unit.kernels if k.name not in names}
            done(len(unit.kernels))
            if len(fresh) >= _KEPT:  # a run that is ended from outside loses no more than this
                accepted.add(fresh)
                fresh = set()
    finally:
        if fresh:
            accepted.add(fresh)
    return sorted(rejected, key=lambda r: r.name), cached


def _run(units: Sequence[_Unit], workers: int) -> Iterator[tuple[_Unit, list[Rejected]]]:
    """Compile units in processes; a crash is narrowed down to the kernel that causes it."""
    crashed: list[_Unit] = []
    if not units:
        return
    if workers == 0:
        yield from ((unit, compile_unit(unit)) for unit in units)
        return
    with _pool(min(workers, len(units))) as pool:
        waiting: dict[Future[list[Rejected]], _Unit] = {}
        try:
            waiting = {pool.submit(compile_unit, u): u for u in units}
        except BrokenProcessPool:
            crashed += [u for u in units if u not in waiting.values()]
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                unit = waiting.pop(future)
                try:
                    yield unit, future.result()
                except BrokenProcessPool:
                    crashed.append(unit)
    for unit in crashed:
        yield unit, _alone(unit)


def _alone(unit: _Unit) -> list[Rejected]:
    """A unit in a process of its own, then its kernels, each in another."""
    try:
        with _pool(1) as pool:
            return pool.submit(compile_unit, unit).result()
    except BrokenProcessPool:
        if len(unit.kernels) > 1:
            return [r for alone in unit.each() for r in _alone(alone)]
        kernel = unit.kernels[0]
        source = program_text(kernel.dialect, [kernel.text])
        numbered = CompileError("", source=source).numbered_source()
        return [Rejected(kernel.name, "the compiler crashed", "", numbered)]


def _pool(workers: int) -> ProcessPoolExecutor:
    # Not fork: compilers start threads of their own.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
