"""Build and install pycuda on a machine without a GPU, a driver or a CUDA toolkit.

    python -m tensorbus_cuda.simulator.build_pycuda

pycuda is published as source only, and its build wants the toolkit's headers and a libcuda to link
with.  The headers are on the package index (`HEADERS`).  The libcuda is a stub with the right
soname: the functions are looked for only when the module is imported, and then NVIDIA's driver or
the simulated one answers.  The wheel is kept in the compile cache.

Where it cannot be built, one line says so and the exit status is 0: the simulation of cuda is then
reported as not run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tensorbus_backends.cache import DiskCache, cache_key

__all__ = ["PYCUDA", "HEADERS", "main"]

PYCUDA = "pycuda==2026.1"
HEADERS = ("nvidia-cuda-runtime==13.0.*", "nvidia-cuda-profiler-api==13.0.*")

_SITECONF = """\
CUDA_INC_DIR = [{include!r}]
CUDA_ENABLE_GL = False
CUDA_ENABLE_CURAND = False
CUDADRV_LIB_DIR = [{stub!r}]
CUDADRV_LIBNAME = ["cuda"]
CXXFLAGS = ["-O1", "-g0", "-w"]
LDFLAGS = []
"""


class _NotBuiltError(Exception):
    """In one line, why pycuda cannot be built here."""


def main() -> int:
    """Install pycuda unless it is there; 0 also where it cannot be built."""
    if importlib.util.find_spec("pycuda") is not None:
        return 0
    try:
        _check_tools()
        wheel = _cached_wheel()
        _run([*_PIP, "install", "--quiet", str(wheel)], "install pycuda's wheel")
    except _NotBuiltError as error:
        print(f"pycuda cannot be built: {error}; the simulation of cuda will not run")
    return 0


_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def _check_tools() -> None:
    if not sys.platform.startswith("linux"):
        raise _NotBuiltError(f"this is done on Linux only, not on {sys.platform}")
    if importlib.util.find_spec("pip") is None:
        raise _NotBuiltError("this environment has no pip")
    for tool in ("g++", "cc"):
        if shutil.which(tool) is None:
            raise _NotBuiltError(f"there is no C++ compiler ({tool} is missing)")
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        raise _NotBuiltError("Python.h is missing (Debian: apt install python3-dev)")


def _cached_wheel() -> Path:
    """The wheel under its own name, which pip insists on, beside its entry in the compile cache."""
    version = PYCUDA.partition("==")[2]
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    cache = DiskCache()
    key = cache_key("pycuda", PYCUDA, *HEADERS, _SITECONF, tag, platform)
    built = cache.get_or_build(key, ".whl", _build)
    named = (
        Path(tempfile.mkdtemp(prefix="pycuda-")) / f"pycuda-{version}-{tag}-{tag}-{platform}.whl"
    )
    return Path(shutil.copy(built, named))


def _build(target: Path) -> None:
    print(f"building {PYCUDA} without a GPU (about a minute, once) ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="pycuda-") as folder:
        work = Path(folder)
        source = _source(work)
        (source / "siteconf.py").write_text(
            _SITECONF.format(include=str(_headers(work)), stub=str(_stub(work)))
        )
        out = work / "out"
        _run(
            [*_PIP, "wheel", "--no-deps", "--no-cache-dir", "-w", str(out), str(source)],
            "build pycuda",
        )
        shutil.copy(next(out.glob("pycuda-*.whl")), target)


def _source(work: Path) -> Path:
    """pycuda's source, unpacked."""
    _download(work, "--no-binary", "pycuda", PYCUDA)
    with tarfile.open(next(work.glob("pycuda-*.tar.gz"))) as archive:
        archive.extractall(work / "source", filter="data")
    return next((work / "source").iterdir())


def _headers(work: Path) -> Path:
    """The folder of cuda.h."""
    _download(work, "--only-binary", ":all:", *HEADERS)
    for wheel in work.glob("nvidia_*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(work / "headers")
    found = next((work / "headers").rglob("cuda.h"), None)
    if found is None:
        raise _NotBuiltError(f"there is no cuda.h in {', '.join(HEADERS)}")
    return found.parent


def _stub(work: Path) -> Path:
    """The folder of a libcuda with one function, without which a linker may leave it out."""
    folder = work / "stub"
    folder.mkdir()
    source = folder / "stub.c"
    source.write_text("int cuInit(unsigned flags) { return flags ? 1 : 34; }\n")
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    _run([*command, "-o", str(folder / "libcuda.so"), str(source)], "link a stub of libcuda")
    return folder


def _download(work: Path, *what: str) -> None:
    _run([*_PIP, "download", "--quiet", "--no-deps", "-d", str(work), *what], f"fetch {what[-1]}")


def _run(command: list[str], purpose: str) -> None:
    environment = {**os.environ, "PIP_NO_INPUT": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        # pip's own last words say only that something else failed.
        told = [x for x in lines if "error" in x.lower() and "subprocess-exited" not in x]
        last = (told or lines or ["no message"])[-1]
        raise _NotBuiltError(f"cannot {purpose}: {last.strip()[:300]}")


if __name__ == "__main__":
    sys.exit(main())
