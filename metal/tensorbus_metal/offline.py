"""The check of MSL by clang's OpenCL C++ front end, which stands in for Apple's compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tensorbus_backends.contract import Capabilities, DeviceUnavailableError, KernelSpec
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.offline import AbsentCompiler, OfflineCompiler

from .device import declared
from .dialect import MSL
from .msl import MslCheck

__all__ = ["MslFrontEnd", "offline"]


class MslFrontEnd:
    """An installed clang; see `OfflineCompiler`."""

    name = "msl-check"
    vendor = False
    targets: Sequence[str] = ("msl",)
    usual: Mapping[str, str] = {"msl": "smoke"}

    def __init__(self, check: MslCheck) -> None:
        self._check = check
        self.version = f"MSL check by {check.version}"
        self.identity = check.identity

    def capabilities(self, target: str) -> Capabilities:
        return declared()

    def dialect(self, target: str, kernel: KernelSpec) -> Dialect:
        return MSL

    def compile(self, source: str, target: str) -> str:
        """Nothing is made; what is not MSL is rejected."""
        self._check.check(source)
        return ""

    def objections(self, listing: str, kernels: Mapping[str, str]) -> Mapping[str, str]:
        """None: no code was made."""
        return {}


def offline() -> Sequence[OfflineCompiler | AbsentCompiler]:
    """The check, or why it cannot be made."""
    try:
        return [MslFrontEnd(MslCheck.open())]
    except DeviceUnavailableError as error:
        return [AbsentCompiler(MslFrontEnd.name, error.cause, error.fix)]
