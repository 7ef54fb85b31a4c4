"""The source tree that is mutated: its rooms, strata, digest and commit.

Mutation testing needs a checkout: sources in the folders of the repository, and the lists in docs/.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["STRATA", "Source", "Tree", "TreeError", "stratum"]

STRATA = ("dispatcher", "C text", "math library", "runtime", "drivers")

_ROOMS = {
    "dispatcher": "dispatcher",
    "backends": "backends",
    "cpu": "cpu",
    "opencl": "opencl",
}
_PACKAGES = {
    "dispatcher": "tensorbus",
    "backends": "tensorbus_backends",
    "cpu": "tensorbus_cpu",
    "opencl": "tensorbus_opencl",
}
_LEFT_OUT = (
    "dispatcher/tensorbus/_format.py",  # the text of repr
    "backends/tensorbus_backends/simulator/",  # stands in for vendors' drivers, is no product
    "backends/tensorbus_backends/offline.py",  # the compile check's
    "backends/tensorbus_backends/cplusplus.py",  # spells for cuda, rocm and metal alone
    "backends/tensorbus_backends/probe_child.py",  # runs in a process of its own
    "backends/tensorbus_backends/mathlib/bounds.py",  # claims about the code, not code
)
_DRIVERS = {
    "contract.py", "discovery.py", "grid.py", "loading.py", "opening.py", "probing.py",
}  # fmt: skip
_CPU_RUNTIME = {"kernels.py", "runtime.py", "blas.py"}
_OPENCL_RUNTIME = {"kernels.py"}
_KERNEL_TEXT = {"clike.py", "dialect.py", "base.py", "contraction.py", "contraction_layout.py",
                "contraction_text.py", "map.py", "reduce.py", "rows.py", "scan.py"}  # fmt: skip


class TreeError(Exception):
    """There is no checkout to mutate, or not the path that was asked for."""


def stratum(path: str, text: bool) -> str:
    """Where a mutant of a file belongs; `text` for one of C text inside it."""
    room, _, rest = path.partition("/")
    if text:
        return "C text"
    if room == "dispatcher":
        return "dispatcher"
    if "/mathlib/" in path:
        return "math library"
    name = rest.rsplit("/", 1)[-1]
    if room == "backends":
        return "drivers" if name in _DRIVERS else "runtime"
    runtime = _CPU_RUNTIME if room == "cpu" else _OPENCL_RUNTIME
    return "runtime" if name in runtime else "drivers"


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        path: Below the root, ``"cpu/tensorbus_cpu/runtime.c"``.
        module: Its module's name; "" for a C file.
        package: Whether it is a package's ``__init__``.
        text: What is in it.
    """

    path: str
    module: str
    package: bool
    text: str

    @property
    def python(self) -> bool:
        return bool(self.module)

    @property
    def has_kernel_text(self) -> bool:
        """Whether strings in it are C."""
        name = self.path.rsplit("/", 1)[-1]
        return not self.python or (name in _KERNEL_TEXT and "/mathlib/" not in self.path)


@dataclass(frozen=True)
class Tree:
    """A checkout."""

    root: Path

    @staticmethod
    def here() -> Tree:
        """The checkout that this process imports tensorbus from; TreeError if that is none."""
        spec = importlib.util.find_spec("tensorbus")
        if spec is None or spec.origin is None:
            raise TreeError("tensorbus cannot be imported")
        root = Path(spec.origin).resolve().parents[2]
        folders = [root / room / _PACKAGES[room] for room in _ROOMS]
        if not all(f.is_dir() for f in folders) or not (root / "docs").is_dir():
            raise TreeError(
                "mutation testing needs a checkout of the repository (tensorbus is imported from "
                f"{root}, which is none); install it from one with pip install -e"
            )
        return Tree(root)

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Every file that is mutated, by path, in order."""
        return {s.path: s for s in self._all() if not s.path.startswith(_LEFT_OUT)}

    @cached_property
    def modules(self) -> dict[str, Source]:
        """Every Python file that a call may go through, by module, the left out ones too."""
        return {s.module: s for s in self._all() if s.python}

    def _all(self) -> Iterator[Source]:
        for room, package in _PACKAGES.items():
            base = self.root / room
            for path in sorted((base / package).rglob("*")):
                if path.suffix not in (".py", ".c") or "simulator" in path.parts:
                    continue
                parts = list(path.relative_to(base).with_suffix("").parts)
                init = parts[-1] == "__init__"
                name = ".".join(parts[:-1] if init else parts) if path.suffix == ".py" else ""
                text = path.read_text(encoding="utf-8")
                yield Source(path.relative_to(self.root).as_posix(), name, init, text)

    @cached_property
    def sources_digest(self) -> str:
        """Of the sources, which say where the bytes of each statement lie."""
        judge = self.root / "conformance" / "tensorbus_conformance"
        own = [judge / "mutation" / name for name in ("operators.py", "probes.py")]
        return self._digest([*(self.root / s.path for s in self._all()), *own])

    @cached_property
    def digest(self) -> str:
        """Of the sources and of the judge, which decide what covers what."""
        judge = self.root / "conformance" / "tensorbus_conformance"
        parts = [p for part in ("judge", "oracle") for p in sorted((judge / part).rglob("*.py"))]
        return self.sources_digest[:8] + self._digest(parts)[:16]

    def _digest(self, paths: Iterable[Path]) -> str:
        found = hashlib.sha256()
        for path in paths:
            found.update(path.relative_to(self.root).as_posix().encode() + b"\0")
            found.update(path.read_bytes() + b"\0")
        return found.hexdigest()[:24]

    @cached_property
    def commit(self) -> str:
        """The commit that is checked out, with ``+`` where files differ from it; "" without git."""
        head = self._git("rev-parse", "HEAD")
        return head + ("+" if head and self._git("status", "--porcelain", "-uno") else "")

    def _git(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(self.root), *arguments],
                capture_output=True, text=True, timeout=30,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    def chosen(self, paths: list[str]) -> list[Source]:
        """Files at or below these paths (all if there are none); TreeError for one without."""
        if not paths:
            return list(self.sources.values())
        found: dict[str, Source] = {}
        for given in paths:
            path = Path(given)
            full = path if path.is_absolute() else Path.cwd() / path
            if not full.exists():
                full = self.root / path
            try:
                below = full.resolve().relative_to(self.root).as_posix()
            except ValueError:
                raise TreeError(f"{given} is not in {self.root}") from None
            here = {
                p: s for p, s in self.sources.items() if p == below or p.startswith(below + "/")
            }
            if not here:
                raise TreeError(
                    f"nothing in {given} is mutated (sources of the dispatcher, backends, cpu and "
                    "opencl are)"
                )
            found.update(here)
        return list(found.values())
