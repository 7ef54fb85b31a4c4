"""What a device has to prove before it counts as available, and what is said if it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tensorbus_backends import opening
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.check import OPERATIONS
from tensorbus_backends.contract import (
    BackendError,
    Capabilities,
    CompileError,
    DeviceInfo,
    DeviceUnavailableError,
    Evidence,
    OutOfMemoryError,
)
from tensorbus_backends.grid import GridDevice
from tensorbus_backends.opening import Terms, absent, checked, expect_index, tried

sys.path.insert(0, str(Path(__file__).parent))
from fakegrid import DIALECT, FakeDriver, FakeToolchain

TERMS = Terms("2.5", "3", "mend it", "mend its compiler", "make room")
LINE = DeviceInfo("fake:0", "fake", 0, details={"driver": "1.0"}, evidence=Evidence.UNSTATED)


@pytest.fixture
def make(tmp_path):
    def build():
        return GridDevice(
            LINE,
            Capabilities(frozenset({"float32"})),
            DIALECT,
            FakeDriver(),
            FakeToolchain(),
            DiskCache(tmp_path / "cache"),
        )

    return build


@pytest.fixture
def verdict(monkeypatch):
    """Lets the check find these operations inexact."""

    def set_to(*inexact):
        found = {f"{name} f32": name not in inexact for name in OPERATIONS}
        monkeypatch.setattr(opening, "run_check", lambda device: found)

    return set_to


def test_an_exact_device_declares_so(make, verdict):
    verdict()
    device = checked("fake:0", make, TERMS)
    assert (device.capabilities.division, device.capabilities.square_root) == ("correct", "correct")
    assert device.capabilities.ieee
    assert device.info == LINE


def test_an_inexact_device_declares_so(make, verdict):
    verdict("div", "sqrt", "subnormal")
    device = checked("fake:0", make, TERMS)
    found = device.capabilities
    assert (found.division, found.square_root, found.subnormals) == ("2.5", "3", "flush")
    assert not found.ieee
    assert device.info.details == {"driver": "1.0", "inexact": "div f32, sqrt f32, subnormal f32"}


@pytest.mark.parametrize("name", ["add", "mul"])
def test_a_wrong_device_is_not_available(make, verdict, name):
    verdict(name, "div")
    with pytest.raises(DeviceUnavailableError) as caught:
        checked("fake:0", make, TERMS)
    assert caught.value.device == "fake:0"
    assert caught.value.cause == f"a small kernel gave wrong results on it ({name} f32)"
    assert caught.value.fix == "mend it"


@pytest.mark.parametrize("where", ["opening", "check"])
@pytest.mark.parametrize(
    ("error", "cause", "fix"),
    [
        (
            CompileError("rejected", "1 warning\n x.c: Error: no float \nerror: more\n"),
            "its compiler fails on a small kernel: x.c: Error: no float",
            "mend its compiler",
        ),
        (
            CompileError("rejected", "says nothing"),
            "its compiler fails on a small kernel: rejected (says nothing)",
            "mend its compiler",
        ),
        (
            CompileError("rejected"),
            "its compiler fails on a small kernel: rejected",
            "mend its compiler",
        ),
        (
            OutOfMemoryError("no room; drop tensors"),
            "a small kernel finds no room in its memory (no room)",
            "make room",
        ),
        (BackendError("lost"), "a small kernel cannot be run on it (lost)", "mend it"),
        (DeviceUnavailableError("fake", "old", "update"), "old", "update"),
    ],
)
def test_a_device_that_fails_says_why(make, monkeypatch, where, error, cause, fix):
    def fail(*_):
        raise error

    monkeypatch.setattr(opening, "run_check", fail)
    opens = fail if where == "opening" else make
    line = tried(LINE, lambda: checked("fake:0", opens, TERMS))
    assert (line.name, line.available, line.details) == ("fake:0", False, LINE.details)
    assert (line.cause, line.fix) == (cause, fix)


def test_a_compiler_is_mended_like_the_rest_if_nothing_else_is_known(make, monkeypatch):
    def fail(device):
        raise CompileError("rejected")

    monkeypatch.setattr(opening, "run_check", fail)
    line = tried(LINE, lambda: checked("fake:0", make, Terms("2.5", "3", "mend it")))
    assert line.fix == "mend it"


def test_a_tried_device_keeps_no_memory(make, verdict):
    verdict("div")
    device = make()
    device.allocate(1000)
    line = tried(LINE, lambda: checked("fake:0", lambda: device, TERMS))
    assert (line.available, line.details["inexact"]) == (True, "div f32")
    assert device.memory().cached == 0


@pytest.mark.parametrize("index", [-1, 1])
def test_a_number_that_no_device_has(index):
    expect_index("fake", 0, 1, "Fake")
    with pytest.raises(DeviceUnavailableError) as caught:
        expect_index("fake", index, 1, "Fake", "unset FAKE")
    assert caught.value.device == f"fake:{index}"
    assert caught.value.cause == "this process sees 1 Fake device"
    assert caught.value.fix == "choose one that `tensorbus devices` lists, or unset FAKE"
    with pytest.raises(DeviceUnavailableError, match="sees 2 Fake devices"):
        expect_index("fake", 2, 2, "Fake")


def test_what_is_absent_is_one_line():
    line = absent("fake", "Fakes", "no\n driver", "install it")
    assert (line.name, line.index, line.available) == ("fake", -1, False)
    assert (line.description, line.cause, line.fix) == ("Fakes", "no driver", "install it")
    assert absent("fake", "Fakes", "no", "do", "fake:x").name == "fake:x"
