"""The plugin is honest about what is missing."""

from __future__ import annotations

import ctypes

import pytest
import tensorbus_rocm
from tensorbus_backends.contract import DeviceUnavailableError, Plugin
from tensorbus_backends.probing import Announcement, describe


def test_it_is_a_plugin_with_one_absent_line() -> None:
    assert isinstance(tensorbus_rocm.PLUGIN, Plugin)
    (line,) = describe(Announcement("rocm", "tensorbus_rocm:PLUGIN"))
    assert (line.name, line.plugin, line.available) == ("rocm", "rocm", False)
    assert line.cause
    assert line.fix


def test_without_the_driver_the_cause_names_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"{name}: no such file")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    (line,) = tensorbus_rocm.PLUGIN.probe()
    assert "libamdhip64.so" in line.cause
    assert "install" in line.fix


def test_with_the_driver_the_cause_is_the_missing_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    (line,) = tensorbus_rocm.PLUGIN.probe()
    assert not line.available
    assert "no ROCm kernels yet" in line.cause
    assert "OpenCL" in line.fix


def test_open_raises_with_cause_and_fix() -> None:
    with pytest.raises(DeviceUnavailableError, match="To fix it") as caught:
        tensorbus_rocm.PLUGIN.open(0)
    assert (caught.value.device, bool(caught.value.cause)) == ("rocm", True)
