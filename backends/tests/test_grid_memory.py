"""Launch metadata that is too much for kernel arguments lies in memory."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import Capabilities, DeviceInfo, Evidence
from tensorbus_backends.grid import GridDevice

sys.path.insert(0, str(Path(__file__).parent))
from fakegrid import DIALECT, AddTo, FakeDriver, FakeToolchain

IN_MEMORY = replace(DIALECT, name="fake-memory", prelude="// in memory\n")
X = np.arange(8, dtype=np.int32)


class Driver(FakeDriver):
    """Reads metadata that is no argument from the place behind the buffers', at the launch."""

    def launcher(self, function, spec, groups, meta):
        if meta:
            return super().launcher(function, spec, groups, meta)

        def run(buffers):
            *others, words = buffers
            found = self.memory[words.at : words.at + 8 * spec.words].tobytes()
            super(Driver, self).launcher(function, spec, groups, found)(others)

        return run


@pytest.fixture
def device(tmp_path):
    return GridDevice(
        DeviceInfo("fake:0", "fake", 0, evidence=Evidence.UNSTATED),
        Capabilities(frozenset({"int32"}), local_memory=1024),
        DIALECT,
        Driver(),
        FakeToolchain(),
        DiskCache(tmp_path / "cache"),
        in_memory=IN_MEMORY,
        argument_bytes=8 * 4,
    )


def result(device, buffer):
    out = np.zeros(8, np.int32)
    device.copy_out(buffer, 0, out.data.cast("B"))
    return out.tolist()


def test_only_what_does_not_fit_is_in_memory(device):
    few, many = device.compile([AddTo(), AddTo(name="many", words=3)])
    assert (few.in_memory, many.in_memory) == (False, True)  # 32 bytes of arguments, and 40
    texts = device._builder._toolchain.compiled
    assert [text.splitlines()[0] for text in texts] == ["// prelude", "// in memory"]


def test_it_arrives_by_both_kinds_of_launch(device):
    (kernel,) = device.compile([AddTo(words=3)])
    x, y = device.allocate(32), device.allocate(32)
    device.copy_in(x, 0, X.data.cast("B"))
    device.launch(kernel, 1, [x, y], np.asarray([5, 0, 0], np.int64).tobytes())
    assert result(device, y) == (X + 5).tolist()
    ready = kernel.prepare(1, np.asarray([7, 0, 0], np.int64).tobytes())
    device.launch(kernel, 1, [x, y], np.asarray([6, 0, 0], np.int64).tobytes())
    for _ in range(2):  # what is prepared keeps its metadata, whatever is launched in between
        ready(x, y)
        assert result(device, y) == (X + 7).tolist()
    starved = device.driver
    starved.starved = 1
    ready(x, y)
    assert [name for name, _, _ in starved.launches] == ["add_to"] * 5
