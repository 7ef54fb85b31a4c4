"""NVRTC as a compiler that needs no device, and what the PTX of a kernel must not hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Capabilities, DeviceUnavailableError, KernelSpec
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.offline import AbsentCompiler, OfflineCompiler

from .compiler import OPTIONS, Nvrtc
from .dialect import Spelling

__all__ = ["NvrtcCheck", "inexact", "offline"]

# CUDA C++ Programming Guide, kernel parameters, where a device may be of any generation.
_ARGUMENT_BYTES = 4096
_POINTER = 8

_ENTRY = re.compile(r"^\.visible \.entry (\w+)\(", re.MULTILINE)
# PTX ISA: without .rn, mul and add may be contracted by the assembler; div.full is approximate.
_LOOSE = re.compile(
    r"^\s*(?:@!?%\w+\s+)?((?:add|sub|mul|mad|fma|div|rcp|sqrt|rsqrt|sin|cos|ex2|lg2|tanh)"
    r"(?:\.\w+)*\.f(?:16|16x2|32|64))\b",
    re.MULTILINE,
)
_FMA_CALL = re.compile(r"\bfma_f(?:32|64)\(")


def inexact(ptx: str, *, fma: bool) -> str:
    """The first instruction that is not IEEE 754's with rounding to nearest; empty if all are.

    Args:
        ptx: Of one kernel.
        fma: Whether its source asks for fma.
    """
    for match in _LOOSE.finditer(ptx):
        name, *modifiers = match[1].split(".")
        if "rn" not in modifiers or "ftz" in modifiers or "sat" in modifiers:
            return match[1]
        if name == "mad" or (name == "fma" and not fma):
            return match[1]
    return ""


class NvrtcCheck:
    """An installed NVRTC; see `OfflineCompiler`."""

    name = "nvrtc"
    vendor = True

    def __init__(self, nvrtc: Nvrtc) -> None:
        self._nvrtc = nvrtc
        self.version = nvrtc.name
        self.identity = "|".join([nvrtc.name, *OPTIONS])
        self.targets: Sequence[str] = [f"sm_{arch}" for arch in nvrtc.supported_archs]
        levels = {"sm_90": "standard", "sm_80": "smoke", "sm_100": "smoke"}
        self.usual: Mapping[str, str] = {t: v for t, v in levels.items() if t in self.targets}

    def capabilities(self, target: str) -> Capabilities:
        return Capabilities(dtypes=frozenset(d.name for d in dt.ALL))

    def dialect(self, target: str, kernel: KernelSpec) -> Dialect:
        size = 8 * kernel.words + _POINTER * kernel.buffers
        return Spelling().dialect(in_memory=size > _ARGUMENT_BYTES)

    def compile(self, source: str, target: str) -> str:
        """Machine code is made and dropped; returns the PTX that it was made of."""
        ptx, _ = self._nvrtc.compile_both(source, target)
        return ptx.decode(errors="replace")

    def objections(self, listing: str, kernels: Mapping[str, str]) -> Mapping[str, str]:
        parts = _ENTRY.split(listing)
        bodies = dict(zip(parts[1::2], parts[2::2], strict=True))
        found = {}
        for name, text in kernels.items():
            if name not in bodies:
                found[name] = "the PTX has no such entry"
            elif bad := inexact(bodies[name], fma=_FMA_CALL.search(text) is not None):
                found[name] = f"its PTX has {bad}, which its source does not ask for"
        return found


def offline() -> Sequence[OfflineCompiler | AbsentCompiler]:
    """NVRTC, or why it is not there."""
    try:
        return [NvrtcCheck(Nvrtc.open())]
    except DeviceUnavailableError as error:
        return [AbsentCompiler(NvrtcCheck.name, error.cause, error.fix)]
