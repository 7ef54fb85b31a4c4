"""Simulated drivers: a vendor's library for plugins to load where the hardware is absent.

``TENSORBUS_SIMULATE=cuda,rocm`` turns families on (`wanted`); a plugin then loads the library that
`library` builds from its own sources and the executor of this folder.  See README.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..cache import DiskCache, cache_key
from ..contract import DeviceUnavailableError
from . import settings

__all__ = ["FAMILIES", "Control", "compiler", "control", "library", "wanted"]

FAMILIES = ("cuda", "rocm", "metal")
VARIABLE = "TENSORBUS_SIMULATE"

_FOLDER = Path(__file__).parent
_COMPILED = {".c", ".cc", ".cpp", ".m", ".mm", ".s", ".S"}
_HEADERS = {".h", ".hpp", ".inc"}
_TIMEOUT_S = 300.0
# Which of the processor's features kernels are compiled for: fma must be one instruction.
_FEATURES = {"__FMA__": "-mfma", "__F16C__": "-mf16c", "__AVX2__": "-mavx2", "__BMI2__": "-mbmi2"}


def wanted(family: str) -> bool:
    """Whether ``TENSORBUS_SIMULATE``, a comma list, names `family`.

    Raises:
        DeviceUnavailableError: The list has a name that is no family.
    """
    names = [name.strip().lower() for name in os.environ.get(VARIABLE, "").split(",")]
    for name in filter(None, names):
        if name not in FAMILIES:
            raise DeviceUnavailableError(
                family,
                f"{VARIABLE} names {name!r}, which has no simulated driver",
                f"set {VARIABLE} to a comma list of {', '.join(FAMILIES)}",
            )
    return family in names


def compiler(family: str = "simulator") -> tuple[str, ...]:
    """The command of the system's C++ compiler: ``CXX``, else g++, clang++ or c++.

    Raises:
        DeviceUnavailableError: There is none.
    """
    chosen = shlex.split(os.environ.get("CXX", ""))
    for words in [chosen] if chosen else [["g++"], ["clang++"], ["c++"]]:
        if (program := shutil.which(words[0])) is not None:
            return (program, *words[1:])
    missing = chosen[0] if chosen else "g++ or clang++"
    raise DeviceUnavailableError(
        family,
        f"the simulated driver needs a C++ compiler, and {missing} is not found",
        "install g++ or clang++, or set CXX to a C++ compiler",
    )


def library(
    family: str,
    sources: Sequence[Path],
    soname: str,
    flags: Sequence[str] = (),
    forms: Mapping[str, settings.Form] | None = None,
) -> Path:
    """Build a simulated driver, or find it in the compile cache.

    Args:
        family: For messages, ``"cuda"``.
        sources: C, C++, Objective-C and assembly files are compiled.  Any other file becomes text:
            ``my_words.h`` is ``extern "C" const char tbs_text_my_words[]``.  Headers that lie
            beside a source count for the cache as well.
        soname: Name that the library goes by, ``"libcuda.so.1"``.
        flags: More options for compiling the family's sources, such as include folders; those
            that begin with ``-l`` are for linking.
        forms: What ``TENSORBUS_SIMULATE_<FAMILY>`` may set (see `settings`); None: anything.

    Returns:
        The library's path, which keeps for the life of the process.

    Raises:
        DeviceUnavailableError: No compiler, or it refused (the cause is its first error), or a
            setting is not understood.
    """
    settings.check(family, forms or {})
    build = _Build(family, compiler(family))
    own = sorted(path for path in _FOLDER.iterdir() if path.suffix in _COMPILED)
    compiled = [path for path in sources if path.suffix in _COMPILED]
    texts = [_FOLDER / "kernel.h", *(path for path in sources if path.suffix not in _COMPILED)]
    # The family's own first: processes that build several families share the rest.
    parts = [(path, tuple(flags)) for path in compiled] + [(path, ()) for path in own]
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as workers:
        objects = [*workers.map(lambda part: build.object(*part), parts), build.texts(texts)]
    return build.link(objects, soname, [flag for flag in flags if flag.startswith("-l")])


class Control:
    """Failures on demand and what a simulated driver counted.

    Args:
        path: The library, loaded already or not.
    """

    def __init__(self, path: Path | str) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.tbs_count.restype = ctypes.c_long
        self._library.tbs_message.restype = ctypes.c_char_p

    def arm(self, kind: str, nth: int = 1) -> None:
        """Make the `nth` call of a kind from now on fail; the kinds are in executor.h."""
        self._library.tbs_arm(kind.encode(), ctypes.c_long(nth))

    def disarm(self) -> None:
        """No failures any more, and devices that were lost are there again."""
        self._library.tbs_arm(None, ctypes.c_long(0))

    def count(self, kind: str) -> int:
        """Calls of a kind since the library was loaded."""
        return int(self._library.tbs_count(kind.encode()))

    def status(self, device: int = 0) -> int:
        """Sticky failure of a device as in executor.h, 0 for none."""
        return int(self._library.tbs_device_status(device))

    def message(self) -> str:
        """What went wrong last in this thread."""
        return bytes(self._library.tbs_message()).decode(errors="replace")

    def set_memory(self, nbytes: int, device: int = 0) -> None:
        """Total bytes of a device, from now on."""
        self._library.tbs_set_memory(device, ctypes.c_size_t(nbytes))


def control(path: Path | str) -> Control:
    """The `Control` of a simulated driver's library."""
    return Control(path)


# -- building -----------------------------------------------------------------------------


class _Build:
    """Object files and libraries of one compiler, each in the cache by what it is made from."""

    def __init__(self, family: str, command: tuple[str, ...]) -> None:
        self._family, self._command = family, command
        self._predefined = _predefined(command)
        features = [flag for macro, flag in _FEATURES.items() if f" {macro} " in self._predefined]
        self._flags = ["-std=c++17", "-O2", "-fPIC", "-fvisibility-inlines-hidden"]
        self._flags += ["-fno-stack-protector", f"-I{_FOLDER}", f'-DTBS_CXX="{" ".join(command)}"']
        self._flags.append(f'-DTBS_KERNEL_FLAGS="{" ".join(features)}"')
        if "__clang__" not in self._predefined:
            self._flags.append("-fno-gnu-unique")

    def object(self, source: Path, flags: Sequence[str]) -> Path:
        """The object file of a source."""
        headers = _read(self._family, [*_headers(source.parent), *_headers(_FOLDER)])
        text = _read(self._family, [source])
        options = [*flags, "-c", str(source)]
        return self._kept(".o", [*flags, *text, *headers], lambda path: self._run(options, path))

    def texts(self, paths: Sequence[Path]) -> Path:
        """The object file of files embedded as text."""
        embedded = _embedded(self._family, paths)

        def build(target: Path) -> None:
            source = target.with_name("embedded.cpp")
            source.write_text(embedded)
            self._run(["-c", str(source)], target)
            source.unlink()

        return self._kept(".o", [embedded], build)

    def link(self, objects: Sequence[Path], soname: str, libraries: Sequence[str]) -> Path:
        """The library of object files."""
        options = [*map(str, objects), *_link_flags(soname), *libraries]
        return self._kept(".so", options, lambda path: self._run(options, path))

    def _kept(self, suffix: str, parts: Sequence[str], build: Callable[[Path], None]) -> Path:
        cache = DiskCache()
        key = cache_key("simulator", *self._command, self._predefined, *self._flags, *parts)
        found = cache.lookup(key, suffix)
        if found is not None:
            return found
        with _alone(cache.directory, key):
            return cache.get_or_build(key, suffix, build)

    def _run(self, options: Sequence[str], target: Path) -> None:
        done = subprocess.run(
            [*self._command, *self._flags, *options, "-o", str(target)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"},
        )
        if done.returncode:
            raise DeviceUnavailableError(
                self._family,
                f"the simulated driver could not be built: {_first_error(done.stderr)}",
                "install a C++17 compiler (g++ 9 or clang++ 10 do) and the headers it asks for",
            )


@contextlib.contextmanager
def _alone(directory: Path, key: str) -> Iterator[None]:
    """Of processes that want the same file at once, let one build it and the others wait."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            directory.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(directory / f"simulator-{key[0]}.lock", "w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def _predefined(command: tuple[str, ...]) -> str:
    """The compiler's own macros: its version and the processor's features, in one start."""
    for native in (["-march=native"], ["-mcpu=native"], []):
        done = subprocess.run(
            [*command, *native, "-dM", "-E", "-x", "c++", os.devnull],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
        if done.returncode == 0:
            return done.stdout
    return ""


def _headers(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.suffix in _HEADERS)
    return []


def _read(family: str, paths: Sequence[Path]) -> list[str]:
    """Names and texts, for a key."""
    try:
        return [part for path in paths for part in (path.name, path.read_text())]
    except OSError as error:
        raise DeviceUnavailableError(
            family, f"a source of the simulated driver cannot be read ({error})", "reinstall it"
        ) from error


def _embedded(family: str, paths: Sequence[Path]) -> str:
    """C++ text that defines ``tbs_text_<stem>`` for each file."""
    definitions = []
    for path in paths:
        name = "tbs_text_" + re.sub(r"\W", "_", path.stem)
        _, text = _read(family, [path])
        quoted = "\n".join(map(_literal, text.splitlines())) or '""'
        definitions.append(
            f'extern "C" {{ extern const char {name}[]; const char {name}[] =\n{quoted}; }}'
        )
    return "\n".join(definitions)


def _literal(line: str) -> str:
    # A question mark is escaped because of trigraphs.
    for character in '\\"?':
        line = line.replace(character, "\\" + character)
    return f'"{line}\\n"'


def _link_flags(soname: str) -> list[str]:
    if sys.platform == "darwin":
        return ["-dynamiclib", f"-Wl,-install_name,{soname}"]
    # Symbolic: of two drivers in one process, each calls its own executor.
    return ["-shared", f"-Wl,-soname,{soname}", "-Wl,-Bsymbolic", "-Wl,-z,defs", "-ldl", "-pthread"]


def _first_error(log: str) -> str:
    lines = log.strip().splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else "no log")
