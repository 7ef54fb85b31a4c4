"""hiprtc as a compiler that needs no device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Capabilities, DeviceUnavailableError, KernelSpec
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.offline import AbsentCompiler, OfflineCompiler

from .codeobject import Modes, float_modes
from .compiler import OPTIONS, Hiprtc
from .dialect import hip_dialect

__all__ = ["HiprtcCheck", "offline"]

# One target of each generation; a hiprtc checks those that it knows.
_USUAL = ("gfx90a", "gfx1030", "gfx942", "gfx1100", "gfx1201")


class HiprtcCheck:
    """An installed hiprtc; see `OfflineCompiler`."""

    name = "hiprtc"
    vendor = True

    def __init__(self, hiprtc: Hiprtc) -> None:
        self._hiprtc = hiprtc
        self.version = hiprtc.version
        self.identity = "|".join([hiprtc.version, *OPTIONS])
        self.targets: Sequence[str] = sorted(hiprtc.targets) or list(_USUAL[:2])
        self.usual: Mapping[str, str] = {t: "smoke" for t in _USUAL if t in self.targets}

    def capabilities(self, target: str) -> Capabilities:
        return Capabilities(dtypes=frozenset(d.name for d in dt.ALL))

    def dialect(self, target: str, kernel: KernelSpec) -> Dialect:
        return hip_dialect()

    def compile(self, source: str, target: str) -> str:
        """One line for each kernel: its name, rounding mode, and which subnormals it keeps."""
        modes = float_modes(self._hiprtc.compile(source, target))
        return "\n".join(f"{name} {m.rounding} {m.subnormals}" for name, m in modes.items())

    def objections(self, listing: str, kernels: Mapping[str, str]) -> Mapping[str, str]:
        """Kernels that do not start in IEEE 754's modes.

        Machine code spells a division with fma, so contraction cannot be told from it.
        """
        found = {}
        for line in listing.splitlines():
            name, rounding, subnormals = line.split()
            if name in kernels and not Modes(int(rounding), int(subnormals)).ieee:
                found[name] = (
                    f"starts with rounding mode {rounding} and keeps subnormals {subnormals}"
                )
        return found


def offline() -> Sequence[OfflineCompiler | AbsentCompiler]:
    """hiprtc, or why it is not there."""
    try:
        return [HiprtcCheck(Hiprtc.open())]
    except DeviceUnavailableError as error:
        return [AbsentCompiler(HiprtcCheck.name, error.cause, error.fix)]
