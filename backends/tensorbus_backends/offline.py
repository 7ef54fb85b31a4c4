"""Compilers that need no device: a plugin may offer them, so that its kernels are checked anywhere.

A plugin that has one adds a method to its plugin object::

    def offline(self) -> Sequence[OfflineCompiler | AbsentCompiler]: ...

``tensorbus compile-check`` then puts every kernel of the op set through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .contract import Capabilities, KernelSpec
from .dialect import Dialect

__all__ = ["AbsentCompiler", "OfflineCompiler", "OffersCompilers"]


@dataclass(frozen=True)
class AbsentCompiler:
    """A compiler that is not here; `cause` and `fix` are one sentence each."""

    name: str
    cause: str
    fix: str


@runtime_checkable
class OfflineCompiler(Protocol):
    """A compiler that runs on the host alone.

    Attributes:
        name: On the command line and in reports, ``"nvrtc"``.
        version: For reports, ``"NVRTC 13.0"``.
        identity: Version and options: all but source and target that decides what is accepted.
        vendor: Whether devices use this very compiler; else it is a check that stands in for it.
        targets: What it can compile for.
        usual: What is checked unless somebody asks for something else: levels of the conformance
            suite by target, ``{"sm_90": "standard", "sm_80": "smoke"}``.
    """

    name: str
    version: str
    identity: str
    vendor: bool
    targets: Sequence[str]
    usual: Mapping[str, str]

    def capabilities(self, target: str) -> Capabilities:
        """What a device of that target declares; `dtypes` decides which kernels there are."""

    def dialect(self, target: str, kernel: KernelSpec) -> Dialect:
        """The dialect in which a device of that target gets the kernel."""

    def compile(self, source: str, target: str) -> str:
        """Compile a program.

        Returns:
            What `objections` reads, PTX or assembly; may be empty.

        Raises:
            CompileError: It is rejected; with the log and the source.
        """

    def objections(self, listing: str, kernels: Mapping[str, str]) -> Mapping[str, str]:
        """What is wrong with the code of an accepted program (contraction, flushing), if anything.

        Args:
            listing: From `compile`.
            kernels: Texts of the program's kernels by name.

        Returns:
            One line for each kernel that is objected to, by name.
        """


@runtime_checkable
class OffersCompilers(Protocol):
    """A plugin with compilers of its own."""

    def offline(self) -> Sequence[OfflineCompiler | AbsentCompiler]:
        """All of them, absent ones with cause and fix; never raises."""
