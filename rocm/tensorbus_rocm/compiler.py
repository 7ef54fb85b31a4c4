"""hiprtc through cffi: HIP C++ to machine code, with neither driver nor device.

::

    hiprtc = Hiprtc.open()
    code = hiprtc.compile(source, "gfx90a")
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tensorbus_backends.contract import CompileError, DeviceUnavailableError
from tensorbus_backends.loading import loader_words

from .library import CrowdedError, Hip, attempts, ffi, find, has, open_hip, split_version

__all__ = ["INSTALL", "OPTIONS", "Hiprtc", "Toolchain"]

OPTIONS = (
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",
    "-fno-fast-math",
    "-fno-gpu-flush-denormals-to-zero",
    "-fhip-fp32-correctly-rounded-divide-sqrt",
    "-Wno-unused-command-line-argument",
)
"""For every program: IEEE arithmetic, nothing fast and loose.

Division and square root are correctly rounded by default; the option makes that part of the cache's
keys, and hiprtc 5 warns that it does nothing.
"""

INSTALL = "install ROCm's HIP runtime compiler (libhiprtc.so; Debian: libamdhip64-dev)"

_COMPILATION = 6

# Held for a whole compilation.  The compiler inside keeps its options in globals of the process:
# two at once crash hiprtc 5 or give code of the wrong options (ROCm-CompilerSupport issue 27), and
# later ones take turns by themselves (ROCm/hip issue 3826).
_compiling = threading.Lock()
_FILE = b"tensorbus.hip"


class Hiprtc:
    """A loaded hiprtc; all methods may be called from several threads, and compile in turn.

    Attributes:
        path: The library.
        version: ``"hiprtc 9.0, HIP 5.2.21153, comgr 2.4"``.
        identity: All that decides the code it makes: its version, and the path of a library that
            stands in for AMD's, which changes without one.
        targets: Architectures that it can compile for, without features (``"gfx90a"``); empty if
            it does not say.
    """

    def __init__(self, path: str, lib: Any, *, alone: bool = False) -> None:
        """Wrap a loaded library; if `alone`, it stands in for AMD's and is all there is."""
        self.path, self._lib = path, lib
        pair = ffi().new("int[2]")
        self._expect(lib.hiprtcVersion(pair, pair + 1), "asked for its version")
        parts = [f"hiprtc {pair[0]}.{pair[1]}"]
        if has(lib, "hipRuntimeGetVersion") and lib.hipRuntimeGetVersion(pair) == 0:
            parts.append("HIP {}.{}.{}".format(*split_version(pair[0])))
        comgr, self.targets = ([], frozenset[str]()) if alone else _comgr(path)
        self.version: str = ", ".join([*parts, *comgr])
        self.identity: str = f"{self.version}, {path}" if alone else self.version

    @classmethod
    def open(cls, hip: Hip | None = None) -> Hiprtc:
        """An installed hiprtc.

        Args:
            hip: The runtime that it should come with; None for whatever is installed, which needs
                neither driver nor device.

        Raises:
            DeviceUnavailableError: There is none that can be loaded; says how to install it.
        """
        if hip is None:
            try:
                hip = open_hip(None)
            except CrowdedError as error:
                cause = f"hiprtc, which compiles kernels, cannot be loaded: {error}"
                raise DeviceUnavailableError(
                    "rocm", cause, "use the AMD GPU in a process of its own"
                ) from error
            except OSError:
                hip = None
        # HIP 5 has it inside libamdhip64; so have libraries that stand in for both.
        inside = [hip.path] if hip is not None else []
        apart = attempts("libhiprtc", inside[0] if inside else "", _majors(hip))
        first = hip is not None and (hip.chosen or hip.version < (6,))
        names = inside + apart if first else apart + inside
        try:
            path, lib = find(names, "hiprtcCompileProgram")
            return cls(path, lib, alone=hip is not None and path == hip.path and hip.stand_in)
        except (OSError, CompileError) as error:
            cause = f"hiprtc, which compiles kernels, cannot be loaded ({loader_words(error)})"
            raise DeviceUnavailableError("rocm", cause, INSTALL) from error

    def knows(self, arch: str) -> bool:
        """Whether it can compile for an architecture; hiprtc 5 crashes on one that it cannot."""
        return not self.targets or arch.split(":")[0] in self.targets

    def compile(self, source: str, arch: str) -> bytes:
        """A code object.

        Args:
            source: HIP C++ that includes nothing.
            arch: ``"gfx90a"``, or with features: ``"gfx90a:sramecc+:xnack-"``.

        Raises:
            CompileError: hiprtc rejects it.
        """
        if not self.knows(arch):
            raise CompileError(
                f"{self.version} does not know {arch}; install a ROCm that supports this GPU",
                "",
                source,
            )
        with _compiling:
            return self._compile(source, arch)

    def _compile(self, source: str, arch: str) -> bytes:
        made, lib = ffi(), self._lib
        handle = made.new("void **")
        text, file = made.new("char[]", source.encode()), made.new("char[]", _FILE)
        created = lib.hiprtcCreateProgram(handle, text, file, 0, made.NULL, made.NULL)
        self._expect(created, "given a program", source)
        try:
            options = [made.new("char[]", o.encode()) for o in (f"--offload-arch={arch}", *OPTIONS)]
            given = made.new("char *[]", options)
            status = lib.hiprtcCompileProgram(
                handle[0], len(options), made.cast("const char **", given)
            )
            if status != 0:
                log = self._get(handle[0], lib.hiprtcGetProgramLogSize, lib.hiprtcGetProgramLog)
                words = "" if status == _COMPILATION else f" ({self._words(status)})"
                raise CompileError(
                    f"hiprtc rejected it for {arch}{words}",
                    log.rstrip(b"\0").decode(errors="replace"),
                    source,
                )
            return self._get(handle[0], lib.hiprtcGetCodeSize, lib.hiprtcGetCode)
        finally:
            lib.hiprtcDestroyProgram(handle)

    def _get(self, program: Any, measure: Callable[..., int], fetch: Callable[..., int]) -> bytes:
        size = ffi().new("size_t *")
        self._expect(measure(program, size), "asked for its result")
        data = ffi().new("char[]", max(1, size[0]))
        self._expect(fetch(program, data), "asked for its result")
        return bytes(ffi().buffer(data, size[0]))

    def _words(self, status: int) -> str:
        return str(ffi().string(self._lib.hiprtcGetErrorString(status)).decode(errors="replace"))

    def _expect(self, status: int, doing: str, source: str = "") -> None:
        if status != 0:
            raise CompileError(f"hiprtc failed when {doing}: {self._words(status)}", "", source)


def _majors(hip: Hip | None) -> list[int]:
    """Versions of hiprtc to look for, the runtime's own first."""
    known = [7, 6, 5]
    own = [hip.version[0]] if hip is not None and hip.version[0] in known else []
    return list(dict.fromkeys([*own, *known]))


def _comgr(beside: str) -> tuple[list[str], frozenset[str]]:
    """Version and targets of the code-object manager, which hiprtc has its compiler in."""
    made = ffi()
    try:
        _, lib = find(attempts("libamd_comgr", beside, (3, 2)), "amd_comgr_get_isa_count")
    except OSError:
        return [], frozenset()
    size, name = made.new("size_t[2]"), made.new("const char **")
    lib.amd_comgr_get_version(size, size + 1)
    version = f"comgr {size[0]}.{size[1]}"
    found = set()
    if lib.amd_comgr_get_isa_count(size) == 0:
        for k in range(size[0]):
            if lib.amd_comgr_get_isa_name(k, name) == 0:
                found.add(made.string(name[0]).decode().rpartition("--")[2].split(":")[0])
    return [version], frozenset(found)


class Toolchain:
    """Compiles for one device, and loads there what was compiled.

    Args:
        hiprtc: The compiler.
        arch: The device's own name for its architecture, features included.
        load: Puts a code object on the device; CompileError if the driver does not take it.
    """

    suffix = ".hsaco"
    parallel = 1

    def __init__(self, hiprtc: Hiprtc, arch: str, load: Callable[[bytes], Any]) -> None:
        self._hiprtc, self._arch = hiprtc, arch
        self.load = load
        self.identity = "|".join([hiprtc.identity, arch, *OPTIONS])

    def compile(self, source: str) -> bytes:
        """The program's code object; CompileError with hiprtc's log."""
        return self._hiprtc.compile(source, self._arch)
