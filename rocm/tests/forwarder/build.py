"""Builds the library that lets the rocm plugin run on an NVIDIA GPU; see forwarder.cpp.

::

    environment = forwarded(tmp / "forwarder")
    subprocess.run([...], env=os.environ | environment)

As a program it prints the environment: ``python rocm/tests/forwarder/build.py FOLDER``.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["NoCompilerError", "build", "forwarded", "nvrtc"]

_SOURCE = Path(__file__).with_name("forwarder.cpp")
_TIMEOUT_S = 300


class NoCompilerError(RuntimeError):
    """There is no C++ compiler, or it rejects the source."""


def build(folder: Path, *, over_simulator: bool = False) -> Path:
    """Compile the forwarder into a folder.

    Args:
        folder: Where to; created if need be.
        over_simulator: For a simulated libcuda only, and marked as simulated.

    Raises:
        NoCompilerError: With the compiler's words.
    """
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if compiler is None:
        raise NoCompilerError("the forwarder needs a C++ compiler: install g++ or clang++")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "libamdhip64.so"
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC"]
    command += ["-fvisibility=hidden", *(["-DOVER_SIMULATOR"] if over_simulator else [])]
    command += [str(_SOURCE), "-o", str(target), "-ldl", "-pthread"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if made.returncode != 0:
        raise NoCompilerError(f"{compiler} rejects the forwarder:\n{made.stderr}")
    return target


def nvrtc() -> str | None:
    """NVRTC of the ``nvidia-cuda-nvrtc`` wheel; None leaves the search to the system's loader."""
    try:
        spec = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        return None
    roots = (spec.submodule_search_locations or ()) if spec is not None else ()
    found = sorted(f for root in roots for f in Path(root).glob("*/lib/libnvrtc.so.*"))
    return str(found[-1]) if found else None


def forwarded(folder: Path, simulator: Path | None = None) -> dict[str, str]:
    """Environment variables with which the rocm plugin uses the forwarder.

    Args:
        folder: Where to build it.
        simulator: A simulated libcuda with NVRTC; None for the real ones.

    Raises:
        NoCompilerError: It cannot be built.
    """
    library = build(folder, over_simulator=simulator is not None)
    environment = {"TENSORBUS_ROCM_LIBRARY": str(library)}
    if simulator is not None:
        environment["TENSORBUS_FORWARD_CUDA"] = str(simulator)
        environment["TENSORBUS_FORWARD_NVRTC"] = str(simulator)
    elif (found := nvrtc()) is not None:
        environment["TENSORBUS_FORWARD_NVRTC"] = found
    return environment


if __name__ == "__main__":
    for name, value in forwarded(Path(sys.argv[1])).items():
        print(f"{name}={value}")
