"""The simulated Metal: see README.md in the folder above."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from tensorbus_backends import simulator
from tensorbus_backends.cache import default_directory

__all__ = ["library"]

CACHE = "TENSORBUS_SIMULATE_METAL_CACHE"
_FOLDER = Path(__file__).parent


@functools.cache
def library() -> Path:
    """The shared library with the Objective-C runtime, Metal and MPS.

    Raises:
        DeviceUnavailableError: No compiler, or it refused.
    """
    # Metal caches compiled kernels by itself; so does this one, beside the other caches.
    folder = default_directory() / "simulated-metal"
    if CACHE not in os.environ:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            pass
        else:
            os.environ[CACHE] = str(folder)
    sources = [*sorted(_FOLDER.glob("*.cpp")), _FOLDER / "msl.h"]
    return simulator.library("metal", sources, "Metal", [f"-I{_FOLDER}"])
