"""The plugin is honest about what is missing."""

from __future__ import annotations

import ctypes
import sys

import pytest
import tensorbus_metal
from tensorbus_backends.contract import DeviceUnavailableError, Plugin
from tensorbus_backends.probing import Announcement, describe


def test_it_is_a_plugin_with_one_absent_line() -> None:
    assert isinstance(tensorbus_metal.PLUGIN, Plugin)
    (line,) = describe(Announcement("metal", "tensorbus_metal:PLUGIN"))
    assert (line.name, line.plugin, line.available) == ("metal", "metal", False)
    assert line.cause
    assert line.fix


def test_off_macos_the_cause_is_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    (line,) = tensorbus_metal.PLUGIN.probe()
    assert "macOS only" in line.cause


def test_on_macos_without_metal_the_cause_is_the_framework(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"{name}: image not found")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    (line,) = tensorbus_metal.PLUGIN.probe()
    assert "framework cannot be loaded" in line.cause
    assert "image not found" in line.cause


def test_on_macos_with_metal_the_cause_is_the_missing_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    (line,) = tensorbus_metal.PLUGIN.probe()
    assert not line.available
    assert "no Metal kernels yet" in line.cause


def test_open_raises_with_cause_and_fix() -> None:
    with pytest.raises(DeviceUnavailableError, match="To fix it") as caught:
        tensorbus_metal.PLUGIN.open(0)
    assert (caught.value.device, bool(caught.value.cause)) == ("metal", True)
