"""Making every installed OpenCL driver visible to the ICD loader, before it looks for them.

A driver announces itself by a file ``*.icd`` that names its library.  The loader reads a directory
of them (``OCL_ICD_VENDORS``, else ``/etc/OpenCL/vendors``) at the first call, once for the process.
Drivers in wheels are not there: Intel's installs its file under ``sys.prefix``, where it names a
folder that does not exist.  So a directory with all of them is put together for that first call.

pyopencl's wheels bring their own loader, ocl-icd: it knows that variable and ignores
``OCL_ICD_FILENAMES``, which only Khronos's loader reads.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import site
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["Drivers", "drivers", "icd_entries", "load_error"]

SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")
CHOSEN_BY = ("OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH")
_INTEL = "libintelocl.so"


@dataclass(frozen=True)
class Drivers:
    """What the loader found.

    Attributes:
        platforms: pyopencl's platforms, in the loader's order.
        entries: The libraries that were announced to it.
        intel: Library of Intel's wheel, if that is installed.
        loader: Path of the loader, or how it is known.
        chosen: The variable by which the user chose the drivers, or empty.
    """

    platforms: tuple[Any, ...]
    entries: tuple[str, ...]
    intel: str
    loader: str
    chosen: str


_lock = threading.Lock()
_found: Drivers | None = None


def drivers() -> Drivers:
    """Load pyopencl and all drivers; once for the process.

    Raises:
        ImportError: pyopencl is not installed, or not usable.
    """
    global _found
    with _lock:
        if _found is None:
            _found = _load()
        return _found


def _load() -> Drivers:
    import pyopencl as cl

    entries = icd_entries()
    intel = next((e for e in entries if Path(e).name == _INTEL), "")
    chosen = next((name for name in CHOSEN_BY if os.environ.get(name)), "")
    announced = contextlib.nullcontext() if chosen else _announced(entries)
    with announced:
        try:
            platforms = tuple(cl.get_platforms())
        except cl.Error:
            platforms = ()
    return Drivers(platforms, tuple(entries), intel, _loader_path(), chosen)


@contextlib.contextmanager
def _announced(entries: list[str]) -> Iterator[None]:
    """Let the loader see `entries`; the environment is as before afterwards."""
    if not sys.platform.startswith("linux"):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="tensorbus-icd-") as directory:
        for number, entry in enumerate(entries):
            Path(directory, f"{number:03d}.icd").write_text(entry + "\n")
        os.environ["OCL_ICD_VENDORS"] = directory
        try:
            yield
        finally:
            os.environ.pop("OCL_ICD_VENDORS", None)


def icd_entries() -> list[str]:
    """Libraries of all installed drivers: of the system, of this Python environment, of wheels."""
    entries: dict[str, str] = {}

    def add(library: str) -> None:
        path = Path(library)
        # Two files for one library would list its devices twice.
        key = str(path.resolve()) if path.is_absolute() else library
        entries.setdefault(key, library)

    for directory in (SYSTEM_VENDORS, Path(sys.prefix, "etc/OpenCL/vendors")):
        for file in sorted(directory.glob("*.icd")):
            with contextlib.suppress(OSError):
                library = _library(file.read_text(errors="replace").strip())
                if library:
                    add(library)
    intel = _intel_library()
    if intel is not None and not any(Path(e).name == _INTEL for e in entries.values()):
        add(str(intel))
    return list(entries.values())


def _library(named: str) -> str:
    """The library that a file means; empty if it is nowhere."""
    path = Path(named.splitlines()[0].strip()) if named else Path()
    if not path.name or not path.is_absolute() or path.exists():
        return str(path) if path.name else ""
    moved = Path(sys.prefix, "lib", path.name)
    return str(moved) if moved.exists() else ""


def _intel_library() -> Path | None:
    """The library of the wheel ``intel-opencl-rt``."""
    places = [Path(sys.prefix, "lib"), Path(sysconfig.get_path("data"), "lib")]
    with contextlib.suppress(Exception):
        places.append(Path(site.getuserbase(), "lib"))
    with contextlib.suppress(Exception):
        for file in metadata.files("intel-opencl-rt") or ():
            if file.name == _INTEL:
                places.insert(0, Path(str(file.locate())).resolve().parent)
    for place in places:
        if (place / _INTEL).exists():
            return place / _INTEL
    return None


def load_error(library: str) -> str:
    """Why a driver's library cannot be loaded; empty if it can."""
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return ""


def _loader_path() -> str:
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return "OpenCL framework" if sys.platform == "darwin" else "unknown"
    found = re.search(r"\S*/libOpenCL[^/\s]*", maps)
    return found.group() if found else "unknown"
