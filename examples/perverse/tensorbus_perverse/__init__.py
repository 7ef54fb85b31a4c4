"""A tensorbus device that takes the other choice wherever a standard leaves one.

It runs on the processor, through the system's C compiler, and keeps the plugin contract to the
letter.  Portable kernels must give the same bits on it as everywhere else.
"""

import os
import shutil
import struct
from collections.abc import Sequence
from dataclasses import replace

from tensorbus_backends import contract, ir
from tensorbus_backends.contract import Evidence
from tensorbus_backends.dtypes import float32
from tensorbus_backends.kernels import Map, Operand
from tensorbus_backends.kernels.base import Strided, pack

from .device import PerverseDevice

__all__ = ["PLUGIN", "PerverseDevice"]

_FIX = "install gcc or clang, or set CC to another compiler"


def _problem(device: PerverseDevice) -> str:
    """What is wrong with a device, found with a kernel that contraction changes; "" if nothing."""
    x, y = ir.input_(0, float32), ir.input_(1, float32)
    kernel = Map("check", (Operand(float32),) * 2, (Operand(float32),), (x * x + y,))
    meta, result = pack(kernel.meta(1, [], [Strided.words(0, 1, [])] * 3)), bytearray(4)
    try:
        buffers = [device.allocate(4) for _ in range(3)]
        device.copy_in(buffers[0], 0, memoryview(struct.pack("f", 1 + 2**-12)))
        device.copy_in(buffers[1], 0, memoryview(struct.pack("f", -1 - 2**-11)))
        device.launch(device.compile([kernel])[0], 1, buffers, meta)
        device.copy_out(buffers[2], 0, memoryview(result))
    except (contract.BackendError, OSError) as error:
        return " ".join(str(error).splitlines()[:2])
    return "" if struct.unpack("f", result) == (0.0,) else "its compiler contracts all the same"


class _Plugin:
    name, api_version = "perverse", (2, 0)

    def probe(self) -> Sequence[contract.DeviceInfo]:
        found = map(shutil.which, filter(None, [os.environ.get("CC"), "gcc", "clang"]))
        compiler = next(filter(None, found), "")
        details = {"compiler": compiler, "seed": os.environ.get("TENSORBUS_PERVERSE_SEED", "0")}
        line = contract.DeviceInfo(
            "perverse", "perverse", 0, evidence=Evidence.SIMULATED,
            description=f"C by {compiler}, shuffled", details=details,
        )  # fmt: skip
        cause = _problem(self._device(line)) if compiler else "no C compiler was found"
        return [replace(line, available=False, cause=cause, fix=_FIX) if cause else line]

    def open(self, index: int) -> contract.Device:
        line = self.probe()[index]
        if not line.available:
            raise contract.DeviceUnavailableError(line.name, line.cause, line.fix)
        return self._device(line)

    def _device(self, line: contract.DeviceInfo) -> PerverseDevice:
        return PerverseDevice(line, line.details["compiler"], int(line.details["seed"]))


PLUGIN = _Plugin()
