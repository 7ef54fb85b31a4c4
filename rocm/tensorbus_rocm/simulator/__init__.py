"""The simulated AMD driver: libamdhip64, hiprtc and rocBLAS in one library.

``TENSORBUS_SIMULATE=rocm`` turns it on, and ``TENSORBUS_SIMULATE_ROCM`` sets it up:

=========  ================================================================
key        meaning
=========  ================================================================
devices    number of GPUs; default 1
arch       target and features; of several devices with "/" between them;
           default gfx90a:sramecc+:xnack-
memory     bytes of each; default 4GiB
version    HIP version: functions and structures are those of its major one;
           default 6.1
name       product name
=========  ================================================================
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from tensorbus_backends import simulator
from tensorbus_backends.simulator.settings import COUNT, SIZE, TEXT, VERSION, Form

__all__ = ["library"]

_FOLDER = Path(__file__).parent
_SETTINGS = {
    "devices": COUNT,
    "arch": Form(r"gfx[0-9a-f]+(:[a-z]+[+-])*", "gfx90a"),
    "memory": SIZE,
    "version": VERSION,
    "name": TEXT,
}


def library() -> Path:
    """The library for the version that the environment asks for, built if need be.

    Raises:
        DeviceUnavailableError: There is no C++ compiler, it refused, or a setting is not
            understood.
    """
    settings = os.environ.get("TENSORBUS_SIMULATE_ROCM", "")
    found = re.search(r"(?:^|,)\s*version=(\d+)", settings)
    return _library(int(found[1]) if found else 6)


@functools.cache
def _library(major: int) -> Path:
    shared = Path(simulator.__file__).parent
    sources = [_FOLDER / "hip_words.h", shared / "grid_kernel.h", *sorted(_FOLDER.glob("*.cpp"))]
    # Not AMD's own name: the loader would give this library to whoever asks for that one.
    soname = f"libamdhip64-simulated.so.{major}"
    flags = [f"-DTBS_HIP_MAJOR={major}"]
    return simulator.library("rocm", sources, soname, flags, _SETTINGS)
