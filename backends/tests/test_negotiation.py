"""What a plugin and tensorbus agree on: versions of the contract, and features."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorbus_backends import ref
from tensorbus_backends.contract import (
    API_VERSION,
    CONTRACT,
    FEATURES,
    DeviceUnavailableError,
    Feature,
)
from tensorbus_backends.discovery import Registry
from tensorbus_backends.negotiation import agree, agreed, refused

GROUP = "tensorbus.test.negotiation"
PLUGIN = """
from tensorbus_backends.contract import *
from tensorbus_backends.ref import RefDevice
LINE = DeviceInfo("chip", "chip", 0, evidence=Evidence.SIMULATED)
class Chip(RefDevice):
    {device}
class Plugin:
    name = "chip"
    api_version = {version}
    def probe(self):
        return [LINE]
    def open(self, index):
        return Chip(LINE)
PLUGIN = Plugin()
"""
Make = Callable[..., Registry]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """``make(version, device)``: a registry with one plugin of that text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def build(version: str, device: str = "pass") -> Registry:
        module = f"chip_{tmp_path.name}".replace("-", "_")
        text = PLUGIN.format(version=version, device=device)
        (tmp_path / f"{module}.py").write_text(text)
        info = tmp_path / "fake_chip-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-chip\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\nchip = {module}:PLUGIN\n")
        importlib.invalidate_caches()
        return Registry(GROUP)

    return build


@pytest.mark.parametrize("version", ["1", "API_VERSION", "(1, 4)"])
def test_a_plugin_of_contract_1_is_told_what_to_change(make: Make, version: str) -> None:
    registry = make(version)
    (line,) = registry.devices()
    assert (line.name, line.available) == ("chip", False)
    assert "for version 1" in line.cause
    assert line.cause.endswith("of the plugin contract, and this is 2.0")
    for word in ("fake-chip 1.0", "evidence", "Device.features", "(2, 0)", "adding-a-device"):
        assert word in line.fix
    with pytest.raises(DeviceUnavailableError, match="for version 1"):
        registry.open("chip")


@pytest.mark.parametrize("version", ["3", "(3, 0)", "(3, 2)"])
def test_a_plugin_of_contract_3_asks_for_a_newer_tensorbus(make: Make, version: str) -> None:
    (line,) = make(version).devices()
    assert not line.available
    assert "for version 3" in line.cause
    assert line.fix == (
        "upgrade tensorbus to one with contract 3, or install a fake-chip 1.0 for contract 2"
    )


def test_the_constant_of_contract_1_stays_what_it_was() -> None:
    assert API_VERSION == 1
    assert refused(API_VERSION, "x") is not None
    assert refused(CONTRACT, "x") is None


@pytest.mark.parametrize("stated", [None, 2, True, "2.0", (2,), (2, 0, 0), (2, "0"), [2, 0], 2.0])
def test_what_is_no_version_is_refused(stated: object) -> None:
    refusal = refused(stated, "chip 1")
    assert refusal is not None
    assert repr(stated) in refusal.cause
    assert "(2, 0)" in refusal.fix


def test_minor_versions_differ_either_way(make: Make) -> None:
    registry = make("(2, 9)", "features = RefDevice.features | {'graphs'}")
    device = registry.open("chip")
    assert device.features == ref.RefDevice.features  # what is not known here is not used
    assert device.has(Feature.ADDRESS)
    known = {**FEATURES, "graphs": (2, 1)}
    features = frozenset({"graphs", "parts"})
    assert agreed(features, (2, 1), known, (2, 3)) == features
    assert agreed(frozenset({"parts"}), (2, 0), known, (2, 3)) == {"parts"}


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("features = frozenset({'part'})", "'part', which contract 2.0 .*did you mean 'parts'"),
        ("features = frozenset({'graphs'})", "'graphs', which contract 2.0 does not have"),
        ("features = {'address'}", "not a frozenset of names"),
        ("features = frozenset({3})", "not a frozenset of names"),
        ("features = frozenset({'parts'})", "feature 'parts', but has no 'part'"),
        ("features = frozenset({'peers'})", "feature 'peers', but has no 'copy_from'"),
    ],
)
def test_a_device_that_states_what_it_has_not_is_refused(
    make: Make, device: str, words: str
) -> None:
    registry = make("(2, 0)", device)
    with pytest.raises(DeviceUnavailableError, match=f"{words}.*repair fake-chip 1.0"):
        registry.open("chip")


def test_a_feature_needs_the_version_that_it_came_with() -> None:
    known = {**FEATURES, "graphs": (2, 1)}
    with pytest.raises(ValueError, match=r"'graphs', which came with contract 2\.1, and is wri"):
        agreed(frozenset({"graphs"}), (2, 0), known, (2, 3))


def test_every_device_of_ours_keeps_its_features() -> None:
    device = ref.PLUGIN.open(0)
    stated = device.features
    agree(device, ref.PLUGIN.api_version)
    assert device.features is stated
