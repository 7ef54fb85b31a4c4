"""OpenCL's platforms and devices: found, numbered, named and explained, on systems made up for it.

pyopencl's own functions answer with platforms that do not exist; the plugin is imported anew in a
forked child and asked for its devices, as the contract asks.
"""

from __future__ import annotations

import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorbus_backends import opening
from tensorbus_backends.contract import (
    BackendError,
    Capabilities,
    CompileError,
    DeviceInfo,
    DeviceLostError,
    DeviceUnavailableError,
    Evidence,
    LaunchError,
    OutOfMemoryError,
)

from ..session import Session
from .apart import afresh, changed, files, forked
from .base import Checks, duty

_GPU, _CPU, _ACCELERATOR, _CUSTOM = 4, 2, 8, 16  # CL_DEVICE_TYPE_*

_INTEL = "libintelocl.so"

__all__ = ["System", "cl_error", "failing", "fake_device", "fake_platform"]


def fake_device(name: str, kind: int, **more: Any) -> Any:
    """What pyopencl says of a device."""
    given: dict[str, Any] = {
        "name": name, "type": kind, "vendor": " Vendor\0", "version": "OpenCL 3.0 x ",
        "driver_version": " 1.2\0", "available": True, "compiler_available": True,
        "opencl_c_version": "OpenCL C 1.2 ", "max_compute_units": 6, "global_mem_size": 1 << 30,
        "max_mem_alloc_size": 1 << 28, "max_parameter_size": 1024, "local_mem_size": 4096,
        "max_work_group_size": 1024, "max_work_item_sizes": [512, 512, 64],
        "single_fp_config": 128 | 32, "double_fp_config": 32, "extensions": "cl_khr_fp64",
    }  # fmt: skip
    return SimpleNamespace(**given | more)


def fake_platform(name: str, vendor: str, *devices: Any) -> Any:
    """A platform with devices."""
    platform = SimpleNamespace(name=name, vendor=vendor, version="OpenCL 3.0 LINUX ")
    platform.get_devices = lambda: list(devices)
    for device in devices:
        device.platform = platform
    return platform


def cl_error(code: int, kind: str = "RuntimeError") -> Exception:
    """An error as pyopencl raises it."""
    import pyopencl as cl

    made: Exception = getattr(cl, kind)(cl._cl._ErrorRecord(msg="made up", code=code, routine="cl"))
    return made


def failing(code: int) -> Any:
    """A function that fails with a status."""

    def fail(*_: Any, **__: Any) -> Any:
        raise cl_error(code)

    return fail


def _package(session: Session) -> str:
    # The device's class is defined in its plugin.
    return type(session.guard.real).__module__.partition(".")[0]


class System:
    """A system without any driver; what is put into its folders is found.

    Attributes:
        seen: What the loader was shown at each call: the folder's files by name, or None.
        platforms: What it then finds, or an error.
    """

    def __init__(self, folder: Path, package: str) -> None:
        self.folder, self.package = folder, package
        self.vendors, self.prefix = folder / "vendors", folder / "prefix"
        self.own = self.prefix / "etc/OpenCL/vendors"
        for path in (self.vendors, self.own, self.prefix / "lib"):
            path.mkdir(parents=True, exist_ok=True)
        for name in ("data/lib", "user/lib", "wheel/lib"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.seen: list[dict[str, str] | None] = []
        self.platforms: list[Any] | Exception = []
        self.wheel: list[Any] = []

    def _platforms(self) -> list[Any]:
        directory = os.environ.get("OCL_ICD_VENDORS")
        shown = sorted(Path(directory).iterdir()) if directory else []
        self.seen.append({f.name: f.read_text() for f in shown} if directory else None)
        if isinstance(self.platforms, Exception):
            raise self.platforms
        return self.platforms

    @contextmanager
    def alive(self, **environment: Any) -> Iterator[Any]:
        """The plugin's package as a process on this system imports it."""
        import pyopencl as cl

        package = afresh(self.package)
        loader = import_module(f"{self.package}.loader")
        given = dict.fromkeys(("OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH"), None) | environment
        user, data = str(self.folder / "user"), str(self.folder / "data")
        with ExitStack() as all_:
            for change in (
                changed(os.environ, **given), changed(cl, get_platforms=self._platforms),
                changed(loader, SYSTEM_VENDORS=self.vendors), changed(sys, prefix=str(self.prefix)),
                changed(site, getuserbase=lambda: user),
                changed(sysconfig, get_path=lambda name: data if name == "data" else "/nowhere"),
                changed(metadata, files=lambda name: self.wheel),
            ):  # fmt: skip
                all_.enter_context(change)
            yield package


def _lines(found: list[DeviceInfo]) -> list[tuple[str, tuple[str, ...], bool]]:
    return [(x.name, x.aliases, x.available) for x in found]


@forked
def numbering(checks: Checks, folder: Path, session: Session) -> None:
    """GPUs first, then accelerators, then processors, in whatever order they come."""
    inventory = import_module(f"{_package(session)}.inventory")
    loader = import_module(f"{_package(session)}.loader")
    pocl = fake_platform("Portable Computing Language", "The pocl project", fake_device("c", _CPU))
    intel = fake_platform("Intel(R) OpenCL", "Intel(R) Corporation", fake_device("cpu", _CPU))
    graphics = fake_platform(
        "Intel(R) OpenCL Graphics", "Intel(R) Corporation",
        fake_device("g0", _GPU), fake_device("g1", _GPU | 1),
    )  # fmt: skip
    board = fake_platform(
        "Chips", "Chips Inc", fake_device("fpga", _ACCELERATOR), fake_device("x", _CUSTOM)
    )
    platforms = [pocl, intel, graphics, board]
    due = [
        ("opencl:0", "opencl:intel:0", "gpu", "g0"), ("opencl:1", "opencl:intel:1", "gpu", "g1"),
        ("opencl:2", "opencl:chips:0", "accelerator", "fpga"),
        ("opencl:3", "opencl:chips:1", "accelerator", "x"),
        ("opencl:4", "opencl:intel:2", "cpu", "cpu"), ("opencl:5", "opencl:pocl:0", "cpu", "c"),
    ]  # fmt: skip
    for order in (platforms, platforms[::-1], platforms[2:] + platforms[:2]):
        found = inventory.inventory(loader.Drivers(tuple(order), (), "", "", ""))
        names = [(e.name, e.alias, e.kind, e.device.name) for e in found.entries]
        checks.that(names == due, f"devices are numbered {names}")
        checks.that([e.index for e in found.entries] == list(range(6)), "numbers are not in order")
        checks.that(found.broken == (), f"platforms are broken: {found.broken}")
    first = found.entries[0]
    checks.that(first.description == "g0 (Intel(R) OpenCL Graphics, driver 1.2)",
                f"a device is described as {first.description!r}")  # fmt: skip
    checks.that(first.driver == "1.2", f"its driver is {first.driver!r}")
    keys = {first.identity()}
    for name in ("name", "vendor", "version", "driver_version"):
        with changed(first.device, **{name: "other"}):
            keys.add(first.identity())
    for name in ("name", "vendor", "version"):
        with changed(first.device.platform, **{name: "other"}):
            keys.add(first.identity())
    checks.that(len(keys) == 8, "another driver, device or platform has the same key")
    checks.that("\0" not in first.identity(), "a key has zero bytes")
    for name, vendor, short in (
        ("NVIDIA CUDA", "NVIDIA Corporation", "nvidia"), ("Apple", "Apple", "apple"),
        ("AMD Accelerated Parallel Processing", "Advanced Micro Devices, Inc.", "amd"),
        ("Portable Computing Language", "x", "pocl"), ("rusticl", "Mesa/X.org", "rusticl"),
        ("Oclgrind", "University of Bristol", "oclgrind"), ("ARM Platform", "ARM", "arm"),
        ("Intel(R) OpenCL Graphics", "x", "intel"), ("Some Thing", "Nobody", "some"),
        ("QUALCOMM Snapdragon", "x", "qualcomm"), ("9Lives", "x", "lives"), ("123", "4", "other"),
        ("Thing", "Intel(R) Corporation", "intel"), ("pocl on nvidia", "NVIDIA", "pocl"),
        ("Clover", "Mesa", "clover"), ("clvk", "clvk", "clvk"),
        ("Platform", "Advanced Micro Devices", "amd"),
    ):  # fmt: skip
        got = inventory.short_name(SimpleNamespace(name=name, vendor=vendor))
        checks.that(got == short, f"platform {name!r} is called {got!r}, due is {short!r}")
    for most, sizes, due_size in ((1024, [512, 9, 9], 512), (64, [512, 9, 9], 64)):
        device = SimpleNamespace(max_work_group_size=most, max_work_item_sizes=sizes)
        got_size = inventory.largest_group(device)
        checks.that(got_size == due_size, f"groups of {most} and {sizes} are of {got_size}")


@forked
def broken(checks: Checks, folder: Path, session: Session) -> None:
    """A platform that fails is one line; one without devices is none; the others stand."""
    silent, sick = (fake_platform(n, "x") for n in ("NVIDIA CUDA", "AMD sick"))
    silent.get_devices, sick.get_devices = failing(-1), failing(-30)
    good = fake_platform("Chips", "Chips", fake_device("one", _GPU))
    system = System(folder, _package(session))
    system.platforms = [silent, sick, good]
    with system.alive() as package, _opens(package.__name__):
        lines = package.PLUGIN.probe()
    due = [("opencl:0", ("opencl:chips:0",), True), ("opencl:amd", (), False)]
    checks.that(_lines(lines) == due, f"lines are {_lines(lines)}")
    if len(lines) == 2:
        x = lines[1]
        checks.that("AMD sick" in x.cause and bool(x.fix), f"it says {x.cause}; {x.fix}")
        checks.that((x.plugin, x.index) == ("opencl", -1), "its line is no plugin's")


@contextmanager
def _opens(package: str, **outcome: Any) -> Iterator[list[Any]]:
    """Devices that open, and prove themselves, as `outcome` says; what they were opened with."""
    module = import_module(f"{package}.device")
    made: list[Any] = []

    def device(entry: Any, line: DeviceInfo, cache: Any, group: Any = None) -> Any:
        made.append((entry, line, cache, group))
        if "error" in outcome:
            raise outcome["error"]
        declared = Capabilities(frozenset({"float32"}))
        return SimpleNamespace(info=line, capabilities=declared, empty_cache=lambda: None)

    verdict = outcome.get("verdict", {"add f32": True, "mul f32": True, "subnormal f32": True})
    with changed(module, OpenCLDevice=device), changed(opening, run_check=lambda d: verdict):
        yield made


@forked
def lines(checks: Checks, folder: Path, session: Session) -> None:
    """A device's line says what it is and how much it proves; opening it gives the same line."""
    grind = fake_platform("Oclgrind", "Bristol", fake_device("Sim", _CPU | 4096))
    chip = fake_device(" Chip\0", _GPU, extensions="", double_fp_config=0, single_fp_config=32)
    platform = fake_platform(" Intel(R) OpenCL ", "Intel", chip)
    system = System(folder, _package(session))
    system.platforms = [grind, platform]
    with system.alive() as package, _opens(package.__name__) as made:
        plugin = package.PLUGIN
        told = (plugin.name, plugin.api_version)
        checks.that(told == ("opencl", (2, 0)), f"the plugin is {told}")
        found = plugin.probe()
        due = [("opencl:0", ("opencl:intel:0",), True), ("opencl:1", ("opencl:oclgrind:0",), True)]
        checks.that(_lines(found) == due, f"lines are {_lines(found)}")
        x, y = found
        checks.that((x.plugin, x.index, y.index) == ("opencl", 0, 1), "they have other numbers")
        proof = (x.evidence, y.evidence)
        checks.that(proof == (Evidence.HARDWARE, Evidence.SIMULATED), f"they prove {proof}")
        due_details = {
            "kind": "gpu", "platform": "Intel(R) OpenCL", "platform_version": "OpenCL 3.0 LINUX",
            "driver": "1.2", "opencl": "OpenCL 3.0 x", "opencl_c": "OpenCL C 1.2",
            "build_options": "-cl-std=CL1.2 -w", "compute_units": "6", "memory": str(1 << 30),
        }  # fmt: skip
        got = {k: x.details.get(k) for k in due_details}
        checks.that(got == due_details, f"details are {got}")
        options = y.details.get("build_options", "").split()
        exact = "-cl-fp32-correctly-rounded-divide-sqrt" in options
        checks.that(exact, f"a device that can divide exactly is built with {options}")
        checks.that(all(isinstance(v, str) for v in x.details.values()), "details are no text")
        checks.that(bool(re.search("OpenCL|unknown", x.details["loader"])), "no loader is named")
        checks.that(y.description == "Sim (Oclgrind, driver 1.2)", f"{y.description!r}")
        checks.that([m[3] for m in made] == [None, None], "probing asks for groups of a size")
        checks.that(plugin.open(1).info == y, "an open device is described otherwise")
        with changed(os.environ, TENSORBUS_OPENCL_GROUP="7"):
            plugin.open(0)
        checks.that(made[-1][3] == 7 and made[-1][0].index == 0, f"it is opened with {made[-1]}")
        for text in ("513", "0", "x", "-1"):
            with changed(os.environ, TENSORBUS_OPENCL_GROUP=text):
                error = checks.raises(DeviceUnavailableError, f"groups of {text}", plugin.open, 0)
                checks.that("from 1 to 512" in str(error), f"groups of {text} say {error}")
        for index in (-1, 2):
            error = checks.raises(DeviceUnavailableError, f"device {index}", plugin.open, index)
            words = f"'opencl:{index}'", "sees 2 OpenCL devices", "import tensorbus before"
            checks.that(all(w in str(error) for w in words), f"device {index} says {error}")
    checks.that(len(system.seen) == 1, "drivers are loaded more than once")


@forked
def failures(checks: Checks, folder: Path, session: Session) -> None:
    """A device that is off, has no compiler, or fails, says why and what to do."""
    system = System(folder, _package(session))
    rejected = CompileError("rejected", "error: unknown target", "src")
    inexact = {"add f32": True, "mul f32": True, "div f32": False, "sqrt f32": False}
    cases: list[tuple[str, dict[str, Any], dict[str, Any], tuple[str, str]]] = [
        ("AMD", {"available": False}, {}, ("reports that it is not available", "driver")),
        ("AMD", {"compiler_available": False}, {}, ("has no compiler", "driver")),
        ("AMD", {}, {"error": rejected}, ("error: unknown target", "update its driver")),
        ("pocl", {}, {"error": rejected}, ("error: unknown target", "pocl-opencl-icd")),
        ("AMD", {}, {"error": cl_error(-2)}, ("was lost while being opened", "update its driver")),
        ("AMD", {}, {"error": cl_error(-5)}, ("no room in its memory", "end other programs")),
        ("pocl", {}, {"error": LaunchError("no")}, ("cannot be run", "update its driver")),
        ("AMD", {}, {"verdict": {"add f32": True, "mul f32": False}}, ("wrong results", "update")),
    ]  # fmt: skip
    for short, device, outcome, words in cases:
        system.platforms = [fake_platform(short, "x", fake_device("d", _CPU, **device))]
        with system.alive() as package, _opens(package.__name__, **outcome):
            found = package.PLUGIN.probe()
            (x,) = found
            checks.that(not x.available and x.name == "opencl:0", f"{words[0]}: it is {x.name}")
            told = words[0] in x.cause and words[1] in x.fix
            checks.that(told, f"due is {words}, it says {x.cause}; {x.fix}")
            error = checks.raises(DeviceUnavailableError, words[0], package.PLUGIN.open, 0)
            told = words[0] in str(error) and "'opencl:0'" in str(error)
            checks.that(told, f"due is {words}, opening says {error}")
    for short in ("AMD", "pocl"):
        system.platforms = [fake_platform(short, "x", fake_device("d", _CPU))]
        with system.alive() as package, _opens(package.__name__, verdict=inexact):
            (x,) = package.PLUGIN.probe()
            c = package.PLUGIN.open(0).capabilities
        checks.that(x.details.get("inexact") == "div f32, sqrt f32", f"it says {dict(x.details)}")
        told_c = (c.division, c.square_root, c.subnormals)
        checks.that(told_c == ("2.5", "3", "flush"), f"an inexact device declares {told_c}")


@forked
def absences(checks: Checks, folder: Path, session: Session) -> None:
    """Where there is no platform one line says what is missing, of drivers that were chosen too."""
    system = System(folder, _package(session))
    loaded = Path("/proc/self/maps").read_text().split()
    library = next(w for w in loaded if "/libc.so" in w)
    other_library = next(w for w in loaded if "/libm.so" in w)
    wheel = system.prefix / "lib" / _INTEL

    def ask(**environment: Any) -> DeviceInfo:
        with system.alive(**environment) as package:
            found = package.PLUGIN.probe()
            error = checks.raises(DeviceUnavailableError, "no device", package.PLUGIN.open, 0)
            checks.that("sees 0 OpenCL devices" in str(error), f"without devices it says {error}")
        checks.that(len(found) == 1, f"without devices there are {len(found)} lines")
        checks.that(not found[0].available and found[0].plugin == "opencl", "it is available")
        told: DeviceInfo = found[0]
        return told

    x = ask()
    checks.that(x.cause == "no OpenCL driver is installed", f"without drivers: {x.cause}")
    checks.that(x.name == "opencl" and "tensorbus[opencl]" in x.fix, f"{x.name}: {x.fix}")
    system.platforms = cl_error(-1001, "LogicError")
    checks.that(ask().cause == x.cause, "a loader that fails is something else")
    system.platforms = []
    (system.vendors / "a.icd").write_text("/no/libx.so\n")
    (system.vendors / "b.icd").write_text("libnowhere.so.9\n")
    (system.vendors / "c.icd").write_text(f"{library}\n")
    x = ask()
    due = "no OpenCL driver can be used (libnowhere.so.9: "
    checks.that(x.cause.startswith(due), f"with bad drivers: {x.cause}")
    checks.that(f"{library}: it offers no platform" in x.cause, f"with empty drivers: {x.cause}")
    for name in ("OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH"):
        chosen = folder / "chosen"
        chosen.mkdir(exist_ok=True)
        count = len(system.seen)
        x = ask(**{name: str(chosen)})
        cause = f"no OpenCL driver is found through {name}={chosen}"
        checks.that(x.cause == cause, f"with a choice of none: {x.cause}")
        checks.that(f"unset {name}" in x.fix, f"with a choice of none: {x.fix}")
        seen: Any = {} if name == "OCL_ICD_VENDORS" else None
        checks.that(system.seen[count:] == [seen], "the user's choice of drivers is changed")
    wheel.write_text("no library")
    x = ask()
    said = "Intel's runtime" in x.cause and str(wheel) in x.cause and "cannot be loaded" in x.cause
    checks.that(said and x.name == "opencl:intel", f"with a spoilt wheel: {x.name}: {x.cause}")
    checks.that("intel-opencl-rt" in x.fix, f"with a spoilt wheel: {x.fix}")
    x = ask(OPENCL_VENDOR_PATH=str(folder / "chosen"))
    checks.that(
        "is found through OPENCL_VENDOR_PATH" in x.cause, f"a choice and a wheel: {x.cause}"
    )
    wheel.unlink()
    wheel.symlink_to(other_library)
    x = ask()
    checks.that("before tensorbus" in x.cause, f"with a wheel that loads: {x.cause}")
    checks.that("import tensorbus" in x.fix, f"with a wheel that loads: {x.fix}")
    other = fake_platform("Chips", "x", fake_device("d", _CPU))
    for platforms, due_names in (
        ([other], ["opencl:0", "opencl:intel"]),
        ([fake_platform("Intel", "x", fake_device("d", _CPU))], ["opencl:0"]),
    ):
        system.platforms = platforms
        with system.alive() as package, _opens(package.__name__):
            names = [y.name for y in package.PLUGIN.probe()]
        checks.that(names == due_names, f"beside an installed wheel lines are {names}")
    sick = fake_platform("Intel", "x")
    sick.get_devices = failing(-30)
    system.platforms = [sick]
    with system.alive() as package:
        told = [(y.name, "Intel: " in y.cause) for y in package.PLUGIN.probe()]
    checks.that(told == [("opencl:intel", True)], f"a sick platform of Intel's is told as {told}")
    system.platforms = []
    with system.alive() as package, changed(sys.modules, pyopencl=_Nothing()):
        sys.modules["pyopencl"] = None  # type: ignore[assignment]
        (x,) = package.PLUGIN.probe()
        checks.that("pyopencl cannot be imported" in x.cause, f"without pyopencl: {x.cause}")
        checks.that(x.fix == 'pip install "tensorbus[opencl]"', f"without pyopencl: {x.fix}")
        error = checks.raises(DeviceUnavailableError, "no pyopencl", package.PLUGIN.open, 0)
        checks.that("pyopencl cannot be imported" in str(error), f"without pyopencl: {error}")


class _Nothing:
    """In the place of a module."""


@forked
def announced(checks: Checks, folder: Path, session: Session) -> None:
    """Every installed driver is shown to the loader once, in order; the environment stays."""
    system = System(folder, _package(session))
    lib = system.prefix / "lib"
    (lib / "libreal.so").touch()
    (lib / "link.so").symlink_to(lib / "libreal.so")
    (lib / "libmoved.so").touch()
    for path, text in {
        system.vendors / "b.icd": "libvendor.so.1\nsecond line\n",
        system.vendors / "a.icd": f"  {lib / 'libreal.so'}  \n", system.vendors / "c.icd": "",
        system.vendors / "d.icd": "\n  \n", system.vendors / "x.txt": "libno.so",
        system.own / "a.icd": str(lib / "link.so"), system.own / "b.icd": "/opt/no/lib/libmoved.so",
        system.own / "c.icd": "/opt/no/lib/libmissing.so", system.own / "d.icd": "libvendor.so.1",
    }.items():  # fmt: skip
        path.write_text(text)
    due = [str(lib / "libreal.so"), "libvendor.so.1", str(lib / "libmoved.so")]

    def entries() -> tuple[list[str], Any]:
        with system.alive() as package:
            loader = import_module(f"{package.__name__}.loader")
            found = loader.icd_entries()
            drivers = loader.drivers()
            checks.that(loader.drivers() is drivers, "drivers are loaded twice")
            checks.that("OCL_ICD_VENDORS" not in os.environ, "the environment is changed")
        checks.that(list(drivers.entries) == found, "what is announced is not what is there")
        return found, drivers

    found, drivers = entries()
    checks.that(found == due, f"drivers are {found}, due are {due}")
    shown = {f"{k:03d}.icd": f"{x}\n" for k, x in enumerate(due)}
    checks.that(system.seen[-1] == shown, f"the loader sees {system.seen[-1]}")
    checks.that((drivers.intel, drivers.chosen) == ("", ""), f"there is {drivers.intel!r}")
    # Intel's wheel: in each of the places where one may be; once only.
    places = [folder / "wheel/lib", lib, folder / "data/lib", folder / "user/lib"]
    system.wheel = [SimpleNamespace(name="other.so", locate=lambda: lib / "other.so"),
                    SimpleNamespace(name=_INTEL, locate=lambda: places[0] / _INTEL)]  # fmt: skip
    for k in reversed(range(4)):
        (places[k] / _INTEL).touch()
        found, drivers = entries()
        own = str(places[k] / _INTEL)
        checks.that(found == [*due, own], f"with a wheel in {places[k]} drivers are {found}")
        checks.that(drivers.intel == own, f"Intel's is {drivers.intel!r}")
    (system.vendors / "z.icd").write_text(str(places[1] / _INTEL))
    found, drivers = entries()
    due_z = [*due[:2], str(places[1] / _INTEL), due[2]]
    checks.that(found == due_z, f"with Intel's announced drivers are {found}")
    checks.that(drivers.intel == due_z[2], f"Intel's is {drivers.intel!r}")
    with system.alive() as package:
        loader = import_module(f"{package.__name__}.loader")
        maps = {"/proc/self/maps": "7f r-xp 0 /lib/libc.so\n7f r /usr/x/libOpenCL.so.1.0 \n"}
        for texts, platform, name in (
            (maps, "linux", "/usr/x/libOpenCL.so.1.0"), ({"/proc/self/maps": "x"}, "linux",
            "unknown"), ({}, "linux", "unknown"), ({}, "darwin", "OpenCL framework"),
        ):  # fmt: skip
            again = import_module(f"{package.__name__}.loader")
            with changed(again, _found=None), files(texts), changed(sys, platform=platform):
                got = again.drivers()
            checks.that(got.loader == name, f"the loader is {got.loader!r}, due is {name!r}")
            if platform == "darwin":
                checks.that(system.seen[-1] is None, "a Mac's loader is shown files")
        missing = loader.load_error("/no/libx.so")
        checks.that("/no/libx.so" in missing, f"a library that is nowhere: {missing!r}")
        there = next(w for w in Path("/proc/self/maps").read_text().split() if "/libc.so" in w)
        checks.that(loader.load_error(there) == "", "a library that loads has an error")


_CODES: Mapping[int, type[BackendError]] = {
    -4: OutOfMemoryError, -5: OutOfMemoryError, -6: OutOfMemoryError, -61: OutOfMemoryError,
    -2: DeviceLostError, -33: DeviceLostError, -34: DeviceLostError, -36: DeviceLostError,
}  # fmt: skip
"""Status codes of OpenCL that mean something else than that a command failed."""


@forked
def codes(checks: Checks, folder: Path, session: Session) -> None:
    """Every status of OpenCL becomes the contract's exception, and says so."""
    import pyopencl as cl

    errors = import_module(f"{_package(session)}.errors")
    for code in range(-72, 0):
        for memory in (True, False):
            kind = _CODES.get(code, LaunchError)
            kind = LaunchError if kind is OutOfMemoryError and not memory else kind
            error = cl_error(code)
            got = errors.translate(error, "opencl:7", "launching k", memory=memory)
            checks.that(
                type(got) is kind, f"status {code} is {type(got).__name__}, memory {memory}"
            )
            try:
                to_string: Any = cl.status_code.to_string
                label = to_string(code)
            except ValueError:
                label = str(error)
            words = ("opencl:7", "launching k", str(label))
            checks.that(all(w in str(got) for w in words), f"status {code} says {got}")
        memory_ran_out = errors.is_memory(cl_error(code))
        due = _CODES.get(code) is OutOfMemoryError
        checks.that(memory_ran_out == due, f"status {code}: is_memory is {memory_ran_out}")
        default = errors.translate(cl_error(code), "d", "x")
        checks.that(type(default) is _CODES.get(code, LaunchError), f"status {code} by default")
    plain = SimpleNamespace()
    checks.that(errors.is_memory(plain) is False, "an error without a code is one of memory")
    checks.that(type(errors.translate(plain, "d", "x")) is LaunchError, "it is lost")


duty("platforms", numbering, broken, lines, failures, absences, announced, codes,
     plugins=("opencl",), smoke=False)  # fmt: skip
