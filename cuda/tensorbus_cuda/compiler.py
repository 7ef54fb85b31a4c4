"""NVRTC through cffi: CUDA C++ to machine code, with neither driver nor device.

::

    nvrtc = Nvrtc.open()
    cubin = nvrtc.compile(source, "sm_90")
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import cffi
from tensorbus_backends.contract import CompileError, DeviceUnavailableError
from tensorbus_backends.loading import loader_words

from .libraries import candidates, major

__all__ = ["INSTALL", "OPTIONS", "Nvrtc", "Toolchain", "target"]

OPTIONS = (
    "--fmad=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--ftz=false",
    "--std=c++17",
    "--device-as-default-execution-space",
    "--disable-warnings",
)
"""For every program: IEEE arithmetic, nothing fast and loose."""

INSTALL = "pip install nvidia-cuda-nvrtc"

_DECLARATIONS = """
typedef struct _nvrtcProgram *nvrtcProgram;
int nvrtcVersion(int *major, int *minor);
int nvrtcGetNumSupportedArchs(int *count);
int nvrtcGetSupportedArchs(int *archs);
const char *nvrtcGetErrorString(int result);
int nvrtcCreateProgram(nvrtcProgram *prog, const char *src, const char *name, int headers,
                       const char *const *texts, const char *const *names);
int nvrtcDestroyProgram(nvrtcProgram *prog);
int nvrtcCompileProgram(nvrtcProgram prog, int count, const char *const *options);
int nvrtcGetPTXSize(nvrtcProgram prog, size_t *size);
int nvrtcGetPTX(nvrtcProgram prog, char *ptx);
int nvrtcGetCUBINSize(nvrtcProgram prog, size_t *size);
int nvrtcGetCUBIN(nvrtcProgram prog, char *cubin);
int nvrtcGetProgramLogSize(nvrtcProgram prog, size_t *size);
int nvrtcGetProgramLog(nvrtcProgram prog, char *log);
"""
_COMPILATION = 6
_FILE = "tensorbus.cu"


@functools.cache
def _ffi() -> Any:
    ffi = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    return ffi


class Nvrtc:
    """A loaded NVRTC; all methods may be called from several threads.

    Attributes:
        path: The library.
        version: (major, minor).
        supported_archs: Architectures that it compiles for, ascending: (75, 80, ..., 90, 100).
    """

    def __init__(self, path: str) -> None:
        """Load the library at `path`; OSError or AttributeError if it is none."""
        ffi = self._ffi = _ffi()
        self.path = path
        self._lib = ffi.dlopen(path)
        pair = ffi.new("int[2]")
        self._expect(self._lib.nvrtcVersion(pair, pair + 1), "asked for its version")
        self.version: tuple[int, int] = (int(pair[0]), int(pair[1]))
        count = ffi.new("int *")
        self._expect(self._lib.nvrtcGetNumSupportedArchs(count), "asked for its targets")
        archs = ffi.new("int[]", max(1, count[0]))
        self._expect(self._lib.nvrtcGetSupportedArchs(archs), "asked for its targets")
        self.supported_archs: tuple[int, ...] = tuple(sorted(archs[k] for k in range(count[0])))

    @classmethod
    def open(cls, path: str | None = None, *, newest: int | None = None) -> Nvrtc:
        """An installed NVRTC.

        Args:
            path: The library; None searches wheels, toolkits and the system's loader.
            newest: Major version of CUDA that the driver knows; a compiler that is no newer is
                preferred, since a driver may not take what a newer one makes.

        Raises:
            DeviceUnavailableError: There is none that can be loaded; says how to install it.
        """
        names = [path] if path is not None else candidates("nvrtc")
        if newest is not None:
            names.sort(key=lambda name: (major(name) or newest) > newest)
        causes = []
        for name in names:
            try:
                return _load(name)
            except (OSError, AttributeError, CompileError) as error:
                causes.append((name, f"{name} cannot be loaded ({loader_words(error)})"))
        files = [cause for name, cause in causes if "/" in name]
        cause = "NVRTC, which compiles kernels, is not installed"
        raise DeviceUnavailableError("cuda", "; ".join(files) or cause, INSTALL)

    @property
    def name(self) -> str:
        """``"NVRTC 13.0"``."""
        return "NVRTC {}.{}".format(*self.version)

    def compile(self, source: str, arch: str) -> bytes:
        """Machine code, or PTX.

        Args:
            source: CUDA C++ that includes nothing.
            arch: ``"sm_90"`` for a cubin, ``"compute_90"`` for PTX (ends with a zero byte).

        Raises:
            CompileError: NVRTC rejects it.
        """
        return self._compile(source, arch, ptx=not arch.startswith("sm_"))[-1]

    def compile_both(self, source: str, arch: str) -> tuple[bytes, bytes]:
        """PTX, and the machine code made of it, for ``"sm_90"``; CompileError as `compile`."""
        ptx, image = self._compile(source, arch, ptx=True, image=True)
        return ptx, image

    def _compile(self, source: str, arch: str, *, ptx: bool, image: bool = False) -> list[bytes]:
        ffi, lib = self._ffi, self._lib
        handle = ffi.new("nvrtcProgram *")
        text, file = ffi.new("char[]", source.encode()), ffi.new("char[]", _FILE.encode())
        created = lib.nvrtcCreateProgram(handle, text, file, 0, ffi.NULL, ffi.NULL)
        self._expect(created, "given a program", source)
        try:
            options = [
                ffi.new("char[]", o.encode()) for o in (*OPTIONS, f"--gpu-architecture={arch}")
            ]
            status = lib.nvrtcCompileProgram(handle[0], len(options), ffi.new("char *[]", options))
            if status != 0:
                log = self._get(handle[0], lib.nvrtcGetProgramLogSize, lib.nvrtcGetProgramLog)
                words = "" if status == _COMPILATION else f" ({self._words(status)})"
                raise CompileError(
                    f"{self.name} rejected it for {arch}{words}",
                    log.rstrip(b"\0").decode(errors="replace"),
                    source,
                )
            made = [(lib.nvrtcGetPTXSize, lib.nvrtcGetPTX)] if ptx else []
            if not ptx or image:
                made.append((lib.nvrtcGetCUBINSize, lib.nvrtcGetCUBIN))
            return [self._get(handle[0], measure, fetch) for measure, fetch in made]
        finally:
            lib.nvrtcDestroyProgram(handle)

    def _get(self, program: Any, measure: Callable[..., int], fetch: Callable[..., int]) -> bytes:
        size = self._ffi.new("size_t *")
        self._expect(measure(program, size), "asked for its result")
        data = self._ffi.new("char[]", max(1, size[0]))
        self._expect(fetch(program, data), "asked for its result")
        return bytes(self._ffi.buffer(data, size[0]))

    def _words(self, status: int) -> str:
        return str(self._ffi.string(self._lib.nvrtcGetErrorString(status)).decode())

    def _expect(self, status: int, doing: str, source: str = "") -> None:
        if status != 0:
            raise CompileError(f"NVRTC failed when {doing}: {self._words(status)}", "", source)


_loaded: dict[str, Nvrtc] = {}


def _load(name: str) -> Nvrtc:
    found = _loaded.get(name)
    # No lock, which a fork could leave held: a library that is loaded twice is one.
    return found if found is not None else _loaded.setdefault(name, Nvrtc(name))


def target(capability: tuple[int, int], archs: Sequence[int]) -> str | None:
    """What to compile for on a device, or None if the compiler knows nothing that it can run.

    Its own machine code if the compiler knows it, else PTX for the newest architecture that is no
    newer than the device, which the driver compiles.
    """
    own = 10 * capability[0] + capability[1]
    if own in archs:
        return f"sm_{own}"
    older = [a for a in archs if a <= own]
    return f"compute_{max(older)}" if older else None


class Toolchain:
    """Compiles for one device, and loads there what was compiled.

    Args:
        nvrtc: The compiler.
        arch: From `target`.
        driver: Version text of the driver, which compiles PTX.
        load: Puts an image on the device; CompileError if the driver does not take it.
        parallel: Programs to compile at the same time.
    """

    def __init__(
        self,
        nvrtc: Nvrtc,
        arch: str,
        driver: str,
        load: Callable[[bytes], Any],
        parallel: int,
    ) -> None:
        self.nvrtc, self.arch, self.parallel = nvrtc, arch, parallel
        self.load = load
        self.identity = "|".join([nvrtc.name, arch, driver, *OPTIONS])
        self.suffix = ".cubin" if arch.startswith("sm_") else ".ptx"

    def compile(self, source: str) -> bytes:
        """The program's image; CompileError with NVRTC's log."""
        return self.nvrtc.compile(source, self.arch)
