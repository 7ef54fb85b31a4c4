"""How a process runs changed sources without a changed tree: an import hook and two overlays.

Modules come from code objects that were compiled before the fork.  What reads a source file at run
time (the C runtime, the compiler's key) gets the changed text.  Compiled kernels are read from the
user's cache and written to a directory of this process alone, so that no mutant can spoil the
cache of others.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import mmap
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from .probes import HITS, MARK

__all__ = ["Code", "Hook", "overlay_file"]


@dataclass(frozen=True)
class Code:
    """A module ready to run."""

    code: CodeType
    path: Path
    package: bool


def _nothing(number: int) -> None:
    return None


@dataclass
class Hook(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports modules from prepared code.

    Attributes:
        codes: By module name.
        hits: What the modules' probes write to.
        shared: A cache of compiled kernels that is read; None for none.
        texts: Digests of the kernels' texts that were made; with the texts where `keep`.
        mark: Called after each statement of a module's own level: module, place.
    """

    codes: Mapping[str, Code]
    hits: bytearray | mmap.mmap
    shared: Path | None = None
    keep: bool = False
    mark: Callable[[str, int], None] | None = None
    texts: dict[str, str] = field(default_factory=dict)

    def install(self) -> None:
        """Serve all imports from now on."""
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        found = self.codes.get(name)
        if found is None:
            return None
        spec = importlib.machinery.ModuleSpec(
            name, self, origin=str(found.path), is_package=found.package
        )
        spec.has_location = True
        if found.package:
            spec.submodule_search_locations = [str(found.path.parent)]
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        space: dict[str, Any] = vars(module)
        space[HITS] = self.hits
        mark = self.mark
        space[MARK] = _nothing if mark is None else (lambda number: mark(name, number))
        exec(self.codes[name].code, space)
        if name == "tensorbus_backends.clike":
            self._note_texts(module)
        if name == "tensorbus_backends.cache" and self.shared is not None:
            _chain(module, self.shared)

    def _note_texts(self, module: ModuleType) -> None:
        assemble = module.assemble

        def noting(*args: Any, **options: Any) -> str:
            text: str = assemble(*args, **options)
            self.texts[hashlib.sha256(text.encode()).hexdigest()[:12]] = text if self.keep else ""
            return text

        module.assemble = noting  # type: ignore[attr-defined]


def _chain(module: ModuleType, shared: Path) -> None:
    roots = module.DiskCache._roots

    def chained(cache: Any) -> list[Path]:
        return [*roots(cache), shared]

    module.DiskCache._roots = chained


def overlay_file(path: Path, text: str) -> None:
    """Let `Path.read_text` and `Path.read_bytes` of one file give another text in this process."""
    real_text, real_bytes = pathlib.Path.read_text, pathlib.Path.read_bytes
    wanted = path.resolve()

    def read_text(self: Path, *args: Any, **options: Any) -> str:
        return text if self.resolve() == wanted else real_text(self, *args, **options)

    def read_bytes(self: Path) -> bytes:
        return text.encode() if self.resolve() == wanted else real_bytes(self)

    pathlib.Path.read_text = read_text  # type: ignore[method-assign]
    pathlib.Path.read_bytes = read_bytes  # type: ignore[method-assign]
