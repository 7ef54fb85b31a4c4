"""The simulated NVIDIA driver: libcuda, NVRTC and cuBLAS in one library.

The plugin's own code runs over it unchanged, pycuda included; only the library that is loaded
differs.  Devices are described by ``TENSORBUS_SIMULATE_CUDA``, a comma list of

* ``devices=2``, and by device, separated by ``/``: ``capability=9.0/7.5``, ``memory=2GiB/1GiB``,
  ``name=...``, ``multiprocessors=8``, ``peer=0`` (no peer access);
* ``driver=12.4`` and ``nvrtc=13.0``: versions; ``archs=75/90``: what NVRTC compiles for;
* ``init=803``: the code with which the driver refuses to start.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from tensorbus_backends import simulator
from tensorbus_backends.simulator.settings import COUNT, SIZE, SWITCH, TEXT, VERSION

__all__ = ["SONAME", "load", "sources"]

SONAME = "libcuda.so.1"
_FOLDER = Path(__file__).parent
_SETTINGS = {
    "devices": COUNT,
    "capability": VERSION,
    "memory": SIZE,
    "name": TEXT,
    "multiprocessors": COUNT,
    "peer": SWITCH,
    "driver": VERSION,
    "nvrtc": VERSION,
    "archs": COUNT,
    "init": COUNT,
}


def sources() -> list[Path]:
    """What the library is made of, besides the executor."""
    shared = Path(simulator.__file__).parent / "grid_kernel.h"
    return sorted([*_FOLDER.glob("*.cpp"), *_FOLDER.glob("*_words.h"), shared])


@functools.cache
def load() -> Path:
    """Build the library, or find it in the compile cache, and load it for the whole process.

    pycuda's module asks for ``libcuda.so.1``, and the loader answers with this one if it came
    first: call this before pycuda is imported.

    Returns:
        The library, to be opened as libcuda, NVRTC or cuBLAS.  Its path is made from all that the
        images which its NVRTC compiles depend on.

    Raises:
        DeviceUnavailableError: There is no C++ compiler, or a setting is not understood.
    """
    path = simulator.library("cuda", sources(), SONAME, forms=_SETTINGS)
    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    return path
