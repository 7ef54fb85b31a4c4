"""Finding HIP, saying what is missing, and what differs between its versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tensorbus_rocm
from tensorbus_backends import opening
from tensorbus_backends.check import OPERATIONS
from tensorbus_backends.contract import (
    BackendError,
    CompileError,
    DeviceLostError,
    DeviceUnavailableError,
    LaunchError,
    OutOfMemoryError,
    Plugin,
)
from tensorbus_backends.probing import Announcement, describe
from tensorbus_backends.simulator import Control
from tensorbus_rocm import compiler, inventory, library, plugin
from tensorbus_rocm.errors import is_memory, translate

if TYPE_CHECKING:
    from conftest import Settings

OLD = inventory.Layout("hipGetDeviceProperties", 396)
NEW = inventory.Layout("hipGetDevicePropertiesR0600", 1160)


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is simulated, nothing chosen."""
    for name in ("TENSORBUS_SIMULATE", "TENSORBUS_SIMULATE_ROCM", library.LIBRARY):
        monkeypatch.delenv(name, raising=False)


def only_line() -> Any:
    (line,) = describe(Announcement("rocm", "tensorbus_rocm:PLUGIN"))
    assert not line.available
    return line


# -- what is missing ----------------------------------------------------------------------


def test_it_is_a_plugin() -> None:
    assert isinstance(tensorbus_rocm.PLUGIN, Plugin)


def test_no_library(real: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "open_hip", lambda path: library.find(["libnothing.so.9"], "x"))
    line = only_line()
    assert "libamdhip64.so cannot be loaded" in line.cause
    assert "libnothing.so.9" in line.cause
    assert "install AMD's ROCm" in line.fix


def test_a_named_library_that_is_none(
    real: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = tmp_path / "libamdhip64.so"
    wrong.write_text("no library")
    monkeypatch.setenv(library.LIBRARY, str(wrong))
    line = only_line()
    assert str(wrong) in line.cause
    assert line.fix == "correct or unset TENSORBUS_ROCM_LIBRARY"


def test_no_device(settings: Settings) -> None:
    for version in ("5.2", "6.1"):
        settings(f"devices=0,version={version}")
        line = only_line()
        assert f"simulated HIP {version}.40091 has no device" in line.cause
        with pytest.raises(DeviceUnavailableError, match="has no device"):
            plugin.open_device(0)


def test_too_old(settings: Settings) -> None:
    settings("version=4.5")
    line = only_line()
    assert "HIP 4.5.40091" in line.cause
    assert "too old: it must be 5.0 or later" in line.cause
    assert "ROCm 5.0" in line.fix


class FakeHip:
    """AMD's own, on a machine of the test's making."""

    stand_in = False
    text = "HIP 6.1.40091"

    def words(self, status: int) -> str:
        return f"status {status}"


def no_device(status: int = 100) -> tuple[str, str]:
    return plugin.no_device(FakeHip(), status)  # type: ignore[arg-type]


def test_why_there_is_no_device(
    real: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kfd = tmp_path / "kfd"
    monkeypatch.setattr(plugin, "KFD", kfd)
    for name in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    cause, fix = no_device()
    assert "kfd is missing" in cause
    assert "--device=/dev/kfd" in fix
    kfd.touch()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    cause, fix = no_device()
    assert "may not open" in cause
    assert "render,video" in fix
    monkeypatch.setattr("os.access", lambda path, mode: True)
    assert "rocminfo" in no_device(101)[1]
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    assert no_device() == (
        "HIP 6.1.40091 sees no device with HIP_VISIBLE_DEVICES=",
        "unset HIP_VISIBLE_DEVICES",
    )
    cause, fix = no_device(35)
    assert "cannot be started (status 35)" in cause
    assert "kernel driver" in fix


def test_no_compiler(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        compiler, "find", lambda names, symbol: library.find(["libno-hiprtc.so"], symbol)
    )
    line = only_line()
    assert line.name == "rocm:0"
    assert "hiprtc, which compiles kernels, cannot be loaded" in line.cause
    assert "libhiprtc.so" in line.fix


def test_a_compiler_that_fails(empty_cache: Path, control: Control) -> None:
    control.arm("compile", 1)
    line = only_line()
    assert "its compiler fails on a small kernel" in line.cause
    assert "on demand" in line.cause
    control.arm("compile", 1)
    with pytest.raises(DeviceUnavailableError, match="its compiler fails"):
        plugin.open_device(0)


def test_a_device_that_computes_wrong(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = {f"{name} f32": name != "add" for name in OPERATIONS}
    monkeypatch.setattr(opening, "run_check", lambda device: verdict)
    line = only_line()
    assert "wrong results on it (add f32)" in line.cause


def test_a_device_that_divides_inexactly(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = {f"{name} f32": name != "div" for name in OPERATIONS}
    monkeypatch.setattr(opening, "run_check", lambda device: verdict)
    (line,) = plugin.probe()
    assert line.available
    assert line.details["inexact"] == "div f32"
    assert plugin.open_device(0).capabilities.division == "2.5"


def test_a_device_with_too_little_memory(control: Control) -> None:
    control.set_memory(1 << 16)
    try:
        line = only_line()
    finally:
        control.set_memory(4 << 30)
    assert "a small kernel finds no room in its memory (rocm:0: out of memory" in line.cause


def test_a_device_that_is_lost_while_probed(control: Control) -> None:
    control.arm("lost", 1)
    line = only_line()
    assert "a small kernel cannot be run on it" in line.cause
    assert "was lost" in line.cause


# -- where libraries are ------------------------------------------------------------------


def test_newest_rocm_first_and_what_was_named_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = tmp_path / "named"
    for root, files in ((named, ["libamdhip64.so.6"]), (tmp_path / "beside", ["libhiprtc.so"])):
        (root / "lib").mkdir(parents=True)
        for file in files:
            (root / "lib" / file).touch()
    monkeypatch.setenv("ROCM_PATH", str(named))
    found = library.attempts("libamdhip64")
    assert found[0] == str(named / "lib/libamdhip64.so.6")
    assert found[-4:] == [
        "libamdhip64.so.7",
        "libamdhip64.so.6",
        "libamdhip64.so.5",
        "libamdhip64.so",
    ]
    beside = library.attempts("libhiprtc", str(tmp_path / "beside/lib/libamdhip64.so"))
    assert beside[0] == str(tmp_path / "beside/lib/libhiprtc.so")


def test_versions() -> None:
    assert library.split_version(50221153) == (5, 2, 21153)
    assert library.split_version(70051831) == (7, 0, 51831)
    assert library.split_version(0) == (0, 0, 0)


# -- hipDeviceProp_t ----------------------------------------------------------------------


def properties(offset: int, arch: bytes) -> bytes:
    data = bytearray(inventory._ROOM)
    data[:8] = b"gfx1234\0"
    data[offset : offset + len(arch)] = arch
    return bytes(data)


@pytest.mark.parametrize("layout", [OLD, NEW])
@pytest.mark.parametrize("arch", ["gfx90a:sramecc+:xnack-", "gfx1030", "gfx906:xnack+"])
def test_the_architecture_is_where_the_layout_says(layout: inventory.Layout, arch: str) -> None:
    assert inventory.architecture(properties(layout.arch, arch.encode()), layout) == arch


def test_a_structure_that_has_grown_is_searched() -> None:
    grown = properties(NEW.arch + 64, b"gfx1201")
    assert inventory.architecture(grown, NEW) == "gfx1201"
    assert inventory.architecture(properties(NEW.arch, b"NVIDIA"), NEW) == ""


@pytest.mark.parametrize(("version", "layout"), [("5.7", OLD), ("6.1", NEW), ("7.0", NEW)])
def test_each_version_is_asked_in_its_own_words(
    settings: Settings, version: str, layout: inventory.Layout
) -> None:
    settings(f"version={version},arch=gfx908:sramecc-:xnack-")
    hip = plugin.find_hip()
    assert inventory.layouts(hip)[0] == layout
    raw = library.ffi().new("char[]", inventory._ROOM)
    assert getattr(hip.lib, layout.symbol)(raw, 0) == 0
    field = library.ffi().buffer(raw)[layout.arch :][:8]
    assert field == b"gfx908:s"
    assert inventory.gpu(hip, 0).wave == 64


# -- errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (1, LaunchError),
        (2, OutOfMemoryError),
        (1052, OutOfMemoryError),
        (9, LaunchError),
        (719, LaunchError),
        (700, DeviceLostError),
        (709, DeviceLostError),
        (100, DeviceLostError),
        (999, LaunchError),
    ],
)
def test_statuses(status: int, kind: type[BackendError]) -> None:
    error = translate(status, "hipWords", "rocm:3", "doing something")
    assert type(error) is kind
    assert str(error).startswith("rocm:3")
    assert "doing something" in str(error)
    assert "hipWords" in str(error)
    assert is_memory(status) == (kind is OutOfMemoryError)


def test_an_unknown_target_never_reaches_the_compiler() -> None:
    class Unreachable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    hiprtc = compiler.Hiprtc.__new__(compiler.Hiprtc)
    hiprtc._lib, hiprtc.version = Unreachable(), "hiprtc 9.0"
    hiprtc.targets = frozenset({"gfx90a"})
    with pytest.raises(CompileError, match=r"hiprtc 9.0 does not know gfx942"):
        hiprtc.compile("", "gfx942:xnack-")
