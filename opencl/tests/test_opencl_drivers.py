"""Finding drivers, numbering devices, and explaining what is absent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorbus_backends import opening
from tensorbus_backends.contract import (
    Capabilities,
    CompileError,
    DeviceInfo,
    DeviceLostError,
    LaunchError,
    OutOfMemoryError,
)
from tensorbus_opencl import inventory as numbering, loader, plugin
from tensorbus_opencl.errors import translate
from tensorbus_opencl.inventory import Entry, Found, inventory, short_name
from tensorbus_opencl.loader import Drivers, icd_entries

cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed")

from tensorbus_opencl import device as device_module  # noqa: E402

NONE = Drivers((), (), "", "loader", "")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty system: ``vendors`` and the Python prefix ``prefix`` lie in the given directory."""
    (tmp_path / "vendors").mkdir()
    (tmp_path / "prefix/lib").mkdir(parents=True)
    (tmp_path / "prefix/etc/OpenCL/vendors").mkdir(parents=True)
    monkeypatch.setattr(loader, "SYSTEM_VENDORS", tmp_path / "vendors")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setattr(loader, "_intel_library", lambda: None)
    return tmp_path


# -- drivers ----------------------------------------------------------------------------------


def test_drivers_of_the_system_and_of_the_environment(system: Path) -> None:
    (system / "vendors/a.icd").write_text("libvendor.so.1\n")
    real = system / "prefix/lib/libreal.so"
    real.touch()
    (system / "prefix/etc/OpenCL/vendors/b.icd").write_text(f"{real}\n")
    assert icd_entries() == ["libvendor.so.1", str(real)]


def test_a_wheel_that_names_a_wrong_folder_is_found(system: Path) -> None:
    (system / "prefix/lib/libintelocl.so").touch()
    announced = system / "prefix/etc/OpenCL/vendors"
    (announced / "a.icd").write_text("/opt/nowhere/lib/libintelocl.so")
    (announced / "b.icd").write_text("/opt/nowhere/lib/libmissing.so")
    (announced / "c.icd").write_text("")
    assert icd_entries() == [str(system / "prefix/lib/libintelocl.so")]


def test_one_library_is_announced_once(system: Path) -> None:
    library = system / "prefix/lib/libintelocl.so.1"
    library.touch()
    (system / "prefix/lib/link.so").symlink_to(library)
    (system / "vendors/a.icd").write_text(str(library))
    (system / "vendors/b.icd").write_text(str(system / "prefix/lib/link.so"))
    assert icd_entries() == [str(library)]


def test_intels_wheel_is_found_without_any_file(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_intel_library", lambda: Path("/x/libintelocl.so"))
    assert icd_entries() == ["/x/libintelocl.so"]
    (system / "prefix/lib/libintelocl.so").touch()
    (system / "vendors/a.icd").write_text(str(system / "prefix/lib/libintelocl.so"))
    assert icd_entries() == [str(system / "prefix/lib/libintelocl.so")]


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OCL_ICD_VENDORS", raising=False)
    with loader._announced(["libx.so"]):
        if sys.platform.startswith("linux"):
            (file,) = Path(os.environ["OCL_ICD_VENDORS"]).iterdir()
            assert file.read_text() == "libx.so\n"
    assert "OCL_ICD_VENDORS" not in os.environ


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ICD files are Linux's")
@pytest.mark.parametrize("variable", loader.CHOSEN_BY)
def test_the_users_choice_of_drivers_is_respected(tmp_path: Path, variable: str) -> None:
    code = (
        "from tensorbus_opencl import PLUGIN\n"
        "(line,) = PLUGIN.probe()\n"
        "print(line.available, line.cause, line.fix, sep='|')"
    )
    environment = {**os.environ, variable: str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    available, cause, fix = done.stdout.strip().split("|")
    assert available == "False"
    assert f"{variable}={tmp_path}" in cause
    assert fix.startswith(f"unset {variable}")


# -- numbering --------------------------------------------------------------------------------


def fake_device(name: str, kind: int, **more: Any) -> Any:
    given = {"name": name, "type": kind, "vendor": "v", "version": "OpenCL 3.0"}
    given |= {"driver_version": "1.2", "available": True, "compiler_available": True}
    return SimpleNamespace(**given | more)


def fake_platform(name: str, vendor: str, *devices: Any) -> Any:
    platform = SimpleNamespace(
        name=name, vendor=vendor, version="OpenCL 3.0", get_devices=lambda: list(devices)
    )
    for device in devices:
        device.platform = platform
    return platform


def test_gpus_come_first_and_names_do_not_depend_on_the_loaders_order() -> None:
    kinds = cl.device_type
    pocl = fake_platform(
        "Portable Computing Language", "The pocl project", fake_device("cpu", kinds.CPU)
    )
    intel = fake_platform("Intel(R) OpenCL", "Intel(R) Corporation", fake_device("cpu", kinds.CPU))
    graphics = fake_platform(
        "Intel(R) OpenCL Graphics",
        "Intel(R) Corporation",
        fake_device("gpu", kinds.GPU),
        fake_device("gpu", kinds.GPU),
    )
    board = fake_platform("Chips", "Chips Inc", fake_device("fpga", kinds.ACCELERATOR))
    platforms = [pocl, intel, graphics, board]
    for order in (platforms, platforms[::-1]):
        found = inventory(Drivers(tuple(order), (), "", "", ""))
        names = [(e.name, e.alias, e.kind) for e in found.entries]
        assert names == [
            ("opencl:0", "opencl:intel:0", "gpu"),
            ("opencl:1", "opencl:intel:1", "gpu"),
            ("opencl:2", "opencl:chips:0", "accelerator"),
            ("opencl:3", "opencl:intel:2", "cpu"),
            ("opencl:4", "opencl:pocl:0", "cpu"),
        ]


@pytest.mark.parametrize(
    ("name", "vendor", "short"),
    [
        ("NVIDIA CUDA", "NVIDIA Corporation", "nvidia"),
        ("AMD Accelerated Parallel Processing", "Advanced Micro Devices, Inc.", "amd"),
        ("Apple", "Apple", "apple"),
        ("Portable Computing Language", "The pocl project", "pocl"),
        ("rusticl", "Mesa/X.org", "rusticl"),
        ("Oclgrind", "University of Bristol", "oclgrind"),
        ("Intel(R) OpenCL Graphics", "Intel(R) Corporation", "intel"),
        ("ARM Platform", "ARM", "arm"),
        ("Some Thing", "Nobody", "some"),
        ("123", "4", "other"),
    ],
)
def test_short_names(name: str, vendor: str, short: str) -> None:
    assert short_name(SimpleNamespace(name=name, vendor=vendor)) == short


def test_a_platform_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        record = cl._cl._ErrorRecord(msg="oh", code=-30, routine="clGetDeviceIDs")
        raise cl.LogicError(record)

    broken = SimpleNamespace(name="NVIDIA CUDA", vendor="NVIDIA", get_devices=fail)
    found = Drivers((broken,), ("libnv.so",), "", "", "")
    monkeypatch.setattr(plugin, "drivers", lambda: found)
    (line,) = plugin.probe()
    assert (line.name, line.available) == ("opencl:nvidia", False)
    assert "clGetDeviceIDs" in line.cause


# -- what is absent says why ------------------------------------------------------------------


def probe_with(monkeypatch: pytest.MonkeyPatch, found: Drivers) -> DeviceInfo:
    monkeypatch.setattr(plugin, "drivers", lambda: found)
    (line,) = plugin.probe()
    assert not line.available
    assert line.cause
    assert line.fix
    return line


def test_without_pyopencl(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Drivers:
        raise ModuleNotFoundError("No module named 'pyopencl'")

    monkeypatch.setattr(plugin, "drivers", missing)
    (line,) = plugin.probe()
    assert "No module named 'pyopencl'" in line.cause
    assert line.fix == 'pip install "tensorbus[opencl]"'


def test_without_any_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    line = probe_with(monkeypatch, NONE)
    assert line.cause == "no OpenCL driver is installed"
    assert "tensorbus[opencl]" in line.fix


def test_with_drivers_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    line = probe_with(monkeypatch, Drivers((), ("/no/libx.so",), "", "", ""))
    assert "/no/libx.so: " in line.cause
    assert "cannot open shared object" in line.cause or "no such file" in line.cause.lower()


def test_intels_wheel_without_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    library = "/no/libintelocl.so"
    line = probe_with(monkeypatch, Drivers((), (library,), library, "", ""))
    assert line.name == "opencl:intel"
    assert library in line.cause
    assert "intel-cmplr-lib-rt" in line.fix


def test_opencl_that_was_started_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "load_error", lambda library: "")
    line = probe_with(monkeypatch, Drivers((), ("/x/libintelocl.so",), "/x/libintelocl.so", "", ""))
    assert "before tensorbus" in line.cause


def lone(monkeypatch: pytest.MonkeyPatch, short: str, **device: Any) -> Entry:
    """Let the plugin see one fake device."""
    fake = fake_device(
        "chip",
        cl.device_type.CPU,
        opencl_c_version="OpenCL C 1.2",
        max_compute_units=1,
        global_mem_size=1,
        single_fp_config=0,
        **device,
    )
    fake_platform("P", "V", fake)
    entry = Entry(0, short, 0, "cpu", fake)
    monkeypatch.setattr(plugin, "drivers", lambda: NONE)
    monkeypatch.setattr(plugin, "inventory", lambda found: Found((entry,), ()))
    return entry


@pytest.mark.parametrize(("short", "fix"), [("pocl", "pocl-opencl-icd"), ("amd", "update its")])
def test_a_runtime_that_cannot_compile_for_this_processor(
    monkeypatch: pytest.MonkeyPatch, short: str, fix: str
) -> None:
    def fail(*args: object) -> None:
        raise CompileError("rejected", "warning: x\nerror: unknown target CPU 'generic'\n", "src")

    lone(monkeypatch, short)
    monkeypatch.setattr(device_module, "OpenCLDevice", fail)
    (line,) = plugin.probe()
    assert (line.available, line.aliases) == (False, (f"opencl:{short}:0",))
    assert "unknown target CPU 'generic'" in line.cause
    assert fix in line.fix


def test_a_device_that_computes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts: list[Mapping[str, bool]] = [
        {"add f32": True, "mul f32": False, "div f32": True},
        {"add f32": True, "mul f32": True, "div f32": False},
    ]
    lone(monkeypatch, "amd")

    def make(entry: Entry, line: DeviceInfo, *more: object) -> Any:
        declared = Capabilities(frozenset())
        return SimpleNamespace(info=line, capabilities=declared, empty_cache=list)

    monkeypatch.setattr(device_module, "OpenCLDevice", make)
    monkeypatch.setattr(opening, "run_check", lambda device: verdicts.pop(0))
    (wrong,) = plugin.probe()
    assert not wrong.available
    assert "wrong results on it (mul f32)" in wrong.cause
    (inexact,) = plugin.probe()
    assert inexact.available
    assert inexact.details["inexact"] == "div f32"


def test_a_device_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    lone(monkeypatch, "amd", compiler_available=False)
    (line,) = plugin.probe()
    assert "has no compiler" in line.cause


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "memory", "kind"),
    [
        (-4, True, OutOfMemoryError),
        (-5, True, OutOfMemoryError),
        (-6, True, OutOfMemoryError),
        (-61, True, OutOfMemoryError),
        (-5, False, LaunchError),
        (-2, True, DeviceLostError),
        (-36, False, DeviceLostError),
        (-54, True, LaunchError),
    ],
)
def test_status_codes(code: int, memory: bool, kind: type[Exception]) -> None:
    error = SimpleNamespace(code=code)
    result = translate(error, "opencl:0", "launching kernel k", memory=memory)
    assert type(result) is kind
    assert "opencl:0" in str(result)
    assert "launching kernel k" in str(result)
    assert cl.status_code.to_string(code) in str(result)


def test_kinds_cover_what_opencl_has() -> None:
    kinds = cl.device_type
    names = [numbering._kind(k)[1] for k in (kinds.GPU, kinds.CPU, kinds.ACCELERATOR)]
    assert names == ["gpu", "cpu", "accelerator"]
