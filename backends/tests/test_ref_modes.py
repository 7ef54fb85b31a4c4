"""ref says that it cannot compute in a thread whose modes are not the ordinary ones."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform

import numpy as np
import pytest
from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.contract import LaunchError
from tensorbus_backends.kernels import Map, Operand
from tensorbus_backends.kernels.base import Strided, pack
from tensorbus_backends.ref import PLUGIN

ROUNDINGS = {"x86_64": (0x400, 0x800, 0xC00), "aarch64": (0x400000, 0x800000, 0xC00000)}


@pytest.mark.parametrize("way", range(3))
def test_a_thread_that_does_not_round_to_nearest_is_refused(way: int) -> None:
    if platform.machine() not in ROUNDINGS:
        pytest.skip("this processor's names of modes are not known to the test")
    device = PLUGIN.open(0)
    spec = Map(
        "t_add", (Operand(dt.float32),), (Operand(dt.float32),), (ir.input_(0, dt.float32) + 1.0,)
    )
    (kernel,) = device.compile([spec])
    source, target = device.allocate(4), device.allocate(4)
    device.copy_in(source, 0, memoryview(np.float32([2.0**-30]).tobytes()))
    meta = pack(spec.meta(1, [], [Strided.words(0, 1, [])] * 2))
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    assert library.fesetround(ROUNDINGS[platform.machine()][way]) == 0
    try:
        with pytest.raises(LaunchError, match="round to nearest"):
            device.launch(kernel, 1, [source, target], meta)
    finally:
        library.fesetround(0)
    device.launch(kernel, 1, [source, target], meta)
