"""The simulated AMD driver for tests: `settings` sets it up, `control` makes it fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tensorbus_backends.contract import DeviceUnavailableError
from tensorbus_backends.simulator import Control, compiler, control as control_of

if TYPE_CHECKING:
    from tensorbus_rocm.device import RocmDevice

Settings = Callable[[str], None]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """``settings("devices=2,version=5.2")``: the driver is simulated, and like that."""
    from tensorbus_rocm.simulator import library

    try:
        compiler("rocm")
    except DeviceUnavailableError as error:
        pytest.skip(f"the driver cannot be simulated: {error.cause}")

    def choose(text: str) -> None:
        monkeypatch.setenv("TENSORBUS_SIMULATE", "rocm")
        monkeypatch.setenv("TENSORBUS_SIMULATE_ROCM", text)
        library()

    monkeypatch.delenv("TENSORBUS_SIMULATE_FAULTS", raising=False)
    choose("")
    return choose


@pytest.fixture
def control(settings: Settings) -> Iterator[Control]:
    """Failures on demand of the driver with the usual settings."""
    from tensorbus_rocm.simulator import library

    the = control_of(library())
    yield the
    the.disarm()


@pytest.fixture
def empty_cache(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A compile cache that knows no kernel yet."""
    monkeypatch.setenv("TENSORBUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def device(control: Control) -> RocmDevice:
    """A simulated GPU of this test's own."""
    from tensorbus_rocm.device import RocmDevice
    from tensorbus_rocm.plugin import open_device

    opened = open_device(0)
    assert isinstance(opened, RocmDevice)
    return opened
