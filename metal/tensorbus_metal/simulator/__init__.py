"""The simulated Metal: see README.md in the folder above."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from tensorbus_backends import simulator
from tensorbus_backends.cache import limit, prune, subfolder
from tensorbus_backends.simulator.settings import COUNT, SIZE, SWITCH, TEXT, VERSION, Form

__all__ = ["library"]

CACHE = "TENSORBUS_SIMULATE_METAL_CACHE"
_FOLDER = Path(__file__).parent
_SETTINGS = {
    "devices": COUNT,
    "family": Form(r"apple([1-9]|10)|mac2", "apple7"),
    "macos": VERSION,
    "memory": SIZE,
    "name": TEXT,
    "threads": COUNT,
    "local": SIZE,
    "mps": SWITCH,
    "nocopy": SWITCH,
}


@functools.cache
def library() -> Path:
    """The shared library with the Objective-C runtime, Metal and MPS.

    Raises:
        DeviceUnavailableError: No compiler, it refused, or a setting is not understood.
    """
    # Metal caches compiled kernels by itself; so does this one, beside the other caches.
    if CACHE not in os.environ:
        try:
            folder = subfolder("simulated-metal")
        except OSError:
            pass
        else:
            os.environ[CACHE] = str(folder)
            prune(folder, limit() // 8)
    sources = [*sorted(_FOLDER.glob("*.cpp")), _FOLDER / "msl.h"]
    return simulator.library("metal", sources, "Metal", [f"-I{_FOLDER}"], _SETTINGS)
