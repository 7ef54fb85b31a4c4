"""Tests that take the fixture `device` run on every OpenCL device found."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import DeviceInfo
from tensorbus_backends.discovery import REGISTRY
from tensorbus_opencl.inventory import inventory
from tensorbus_opencl.loader import drivers

if TYPE_CHECKING:
    from tensorbus_opencl.device import OpenCLDevice


@functools.cache
def lines() -> tuple[DeviceInfo, ...]:
    return tuple(REGISTRY.devices(plugin="opencl"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "line" in metafunc.fixturenames:
        params = [pytest.param(x, id=x.aliases[0]) for x in lines() if x.available]
        if not params:
            cause = "; ".join(x.cause for x in lines())
            skip = pytest.mark.skip(reason=f"no OpenCL device: {cause}")
            params = [pytest.param(None, id="none", marks=skip)]
        metafunc.parametrize("line", params)


@pytest.fixture
def device(line: DeviceInfo) -> OpenCLDevice:
    """The process's open device."""
    from tensorbus_opencl.device import OpenCLDevice

    opened = REGISTRY.open(line.name)
    assert isinstance(opened, OpenCLDevice)
    return opened


@pytest.fixture
def make(line: DeviceInfo, tmp_path: Path) -> Callable[..., OpenCLDevice]:
    """``make(group=None)``: a device of its own; its compile cache is ``tmp_path / "cache"``."""

    from tensorbus_opencl.device import OpenCLDevice

    def build(group: int | None = None) -> OpenCLDevice:
        entry = inventory(drivers()).entries[line.index]
        return OpenCLDevice(entry, line, DiskCache(tmp_path / "cache"), group)

    return build
