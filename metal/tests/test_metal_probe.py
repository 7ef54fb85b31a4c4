"""One clear line for everything that may be missing, and for what is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest
import tensorbus_metal
from tensorbus_backends.contract import DeviceUnavailableError, Plugin
from tensorbus_metal import system

Run = Callable[..., str]

LINES = """
from tensorbus_backends.probing import Announcement, describe
for line in describe(Announcement("metal", "tensorbus_metal:PLUGIN")):
    print(line.name, line.available, line.evidence, line.cause, "|", line.fix)
"""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("TENSORBUS_SIMULATE", raising=False)
    system.find_metal.cache_clear()
    yield
    system.find_metal.cache_clear()


def test_off_macos_the_cause_is_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(tensorbus_metal.PLUGIN, Plugin)
    monkeypatch.setattr(sys, "platform", "linux")
    (line,) = tensorbus_metal.PLUGIN.probe()
    assert (line.name, line.available) == ("metal", False)
    assert "macOS only" in line.cause
    with pytest.raises(DeviceUnavailableError, match="To fix it"):
        tensorbus_metal.PLUGIN.open(0)


def test_on_macos_without_metal_the_cause_is_the_framework(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(system, "_RUNTIME", "/nowhere/libobjc.A.dylib")
    (line,) = tensorbus_metal.PLUGIN.probe()
    assert "framework cannot be loaded" in line.cause
    assert "/nowhere/libobjc.A.dylib" in line.cause


def test_a_family_without_simulator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBUS_SIMULATE", "mettal")
    (line,) = tensorbus_metal.PLUGIN.probe()
    assert "'mettal'" in line.cause


def test_without_a_compiler_the_simulator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBUS_SIMULATE", "metal")
    monkeypatch.setenv("CXX", "no-such-compiler")
    from tensorbus_metal import simulator

    simulator.library.cache_clear()
    (line,) = tensorbus_metal.PLUGIN.probe()
    simulator.library.cache_clear()
    assert "no-such-compiler is not found" in line.cause
    assert line.fix.startswith("install")


def test_a_simulated_device_says_simulated(simulated: Run) -> None:
    assert simulated(LINES).split()[:3] == ["metal:0", "True", "simulated"]


def test_no_device(simulated: Run) -> None:
    assert "metal False unstated Metal is there, but it lists no device" in simulated(
        LINES, devices=0
    )


def test_a_system_that_is_too_old(simulated: Run) -> None:
    assert "older than macOS 10.15 | update macOS" in simulated(LINES, macos="10.14")


def test_devices_of_different_families(simulated: Run) -> None:
    first, second, third = simulated(LINES, devices=3, family="apple7/apple2/mac2").splitlines()
    assert first.startswith("metal:0 True")
    assert second.startswith("metal:1 False")
    assert "no 64-bit integers" in second
    assert third.startswith("metal:2 True")


def test_a_compiler_that_fails(simulated: Run) -> None:
    # Not once, which a second attempt would make good: a name of every kernel becomes a number.
    script = """
import os
from tensorbus_backends.simulator import compiler
os.environ["TENSORBUS_SIMULATE_CXX"] = " ".join([*compiler(), "-Dtb_meta=1"])
"""
    line = simulated(script + LINES)
    assert "metal:0 False" in line
    assert "its compiler fails on a small kernel: " in line


def test_a_device_that_is_lost_while_it_is_tried(simulated: Run) -> None:
    line = simulated(LINES, faults="lost:1")
    assert "metal:0 False" in line
    assert "was lost" in line


def test_a_device_without_memory(simulated: Run) -> None:
    line = simulated(LINES, memory=4096)
    assert "metal:0 False" in line
    assert "out of memory" in line


def test_a_device_that_is_not_there(simulated: Run) -> None:
    script = """
    import tensorbus_metal
    try:
        tensorbus_metal.PLUGIN.open(1)
    except Exception as error:
        print(type(error).__name__, error)
    """
    said = simulated(script)
    assert said.startswith("DeviceUnavailableError device 'metal:1'")
    assert "1 Metal device;" not in said


@pytest.mark.parametrize("text", ["many", "0", "2000"])
def test_a_wrong_group_size(simulated: Run, text: str) -> None:
    script = f"""
    import os
    os.environ["TENSORBUS_METAL_GROUP"] = "{text}"
    import tensorbus_metal
    try:
        tensorbus_metal.PLUGIN.open(0)
    except Exception as error:
        print(type(error).__name__, error)
    """
    said = simulated(script)
    assert said.startswith("DeviceUnavailableError")
    assert f"TENSORBUS_METAL_GROUP='{text}'" in said
    assert "1 to 1024" in said
