"""The C compiler: which one, with which flags, and how it turns text into a loadable library.

Asking a compiler who it is costs a process, so the answer is kept on disk under the compiler's
path, size and modification time.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tensorbus_backends.cache import DiskCache, cache_key
from tensorbus_backends.contract import CompileError

from .processor import processor

__all__ = ["NoCompilerError", "Toolchain", "find_toolchain"]

_TIMEOUT_S = 600.0

# Exact IEEE arithmetic: no contraction; errno and traps are never looked at.
_COMMON = (
    "-std=gnu11",
    # What -O3 adds beyond vectorizing makes no kernel faster and compiling three times slower.
    "-O2",
    "-ftree-vectorize",
    "-fPIC",
    "-shared",
    "-w",
    "-ffp-contract=off",
    "-fno-math-errno",
)


class NoCompilerError(Exception):
    """No usable C compiler; `cause` and `fix` are one sentence each."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}. To fix it: {fix}")
        self.cause, self.fix = cause, fix


@dataclass(frozen=True)
class Toolchain:
    """A compiler that has built a library here.

    Attributes:
        command: How it is called.
        family: ``"gcc"``, ``"clang"`` or ``"zig"``.
        version: First line of what it says about itself.
        flags: Flags of every kernel.
        identity: Part of cache keys: changes whenever the same text might compile differently.
    """

    command: tuple[str, ...]
    family: str
    version: str
    flags: tuple[str, ...]
    identity: str

    def compile(self, source: str, target: Path, extra: tuple[str, ...] = ()) -> None:
        """Compile C text into a shared library at `target`.

        Raises:
            CompileError: With the compiler's log and the source.
        """
        with tempfile.TemporaryDirectory(prefix="tensorbus-") as folder:
            text = Path(folder) / "kernels.c"
            text.write_text(source)
            _compile(self.command, (*self.flags, *extra), text, target, source)


def _compile(
    command: tuple[str, ...], flags: tuple[str, ...], text: Path, target: Path, source: str
) -> None:
    line = [*command, *flags, "-o", str(target), str(text), "-lm"]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            line,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise CompileError(
            f"{command[0]} did not finish within {_TIMEOUT_S:.0f} s", source=source
        ) from None
    except OSError as error:
        raise CompileError(f"cannot run {command[0]}: {error.strerror}", source=source) from error
    if done.returncode != 0 or not target.exists():
        log = done.stderr + done.stdout
        message = f"{Path(command[0]).name} failed with exit status {done.returncode}"
        raise CompileError(message, log=log, source=source)


def _candidates() -> list[tuple[str, ...]]:
    if chosen := os.environ.get("CC"):
        command = shlex.split(chosen)
        if not command or shutil.which(command[0]) is None:
            raise NoCompilerError(
                f"$CC is {chosen!r}, which is not an executable file",
                "set CC to a C compiler such as gcc or clang, or unset it",
            )
        return [tuple(command)]
    found: list[tuple[str, ...]] = [(name,) for name in ("gcc", "clang") if shutil.which(name)]
    # The wheel is found without importing it; calling its binary saves starting Python.
    spec = importlib.util.find_spec("ziglang")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        binary = Path(folder) / "zig"
        if binary.is_file():
            found.append((str(binary), "cc"))
    return found


def find_toolchain(cache: DiskCache) -> Toolchain:
    """The first compiler of $CC, gcc, clang, ziglang that builds a library.

    Raises:
        NoCompilerError: There is none; cause and fix are for people.
    """
    failures = []
    for command in _candidates():
        try:
            return _describe(command, cache)
        except CompileError as error:
            reason = (error.log.strip().splitlines() or [str(error.args[0])])[0]
            failures.append(f"{' '.join(command)}: {reason}")
    if failures:
        raise NoCompilerError(
            f"no C compiler works here ({'; '.join(failures)})",
            "repair that compiler (on Debian: apt install gcc libc6-dev), or pip install ziglang",
        )
    raise NoCompilerError(
        "no C compiler was found: $CC is not set, and gcc, clang and ziglang are absent",
        "install gcc or clang (Debian: apt install gcc libc6-dev; macOS: xcode-select --install), "
        "or pip install ziglang",
    )


def _describe(command: tuple[str, ...], cache: DiskCache) -> Toolchain:
    path = os.path.realpath(shutil.which(command[0]) or command[0])
    try:
        stat = os.stat(path)
    except OSError as error:
        raise CompileError(f"cannot read {path}: {error.strerror}") from error
    machine = processor()
    who = cache_key(
        Path(__file__).read_text(),
        *command,
        f"{path} {stat.st_size} {stat.st_mtime_ns}",
        machine.machine,
        machine.name,
        *sorted(machine.features),
    )
    kept = cache.get_bytes(who, ".toolchain")
    if kept is None:
        family, version = _ask(command)
        flags = _working_flags(command, family)
        kept = json.dumps([family, version, flags]).encode()
        cache.put_bytes(who, kept, ".toolchain")
    family, version, flags = json.loads(kept)
    return Toolchain(command, family, version, tuple(flags), cache_key(who, version, *flags))


def _ask(command: tuple[str, ...]) -> tuple[str, str]:
    """Family and version line of a compiler."""
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=60, errors="replace"
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CompileError(f"cannot run {' '.join(command)}: {error}") from error
    text = done.stdout + done.stderr
    version = (text.strip().splitlines() or ["unknown version"])[0]
    if Path(command[0]).name.startswith("zig"):
        return "zig", f"zig cc, {version}"
    return ("clang" if "clang" in text else "gcc"), version


def _working_flags(command: tuple[str, ...], family: str) -> tuple[str, ...]:
    """`_COMMON` and those optional flags that this compiler takes, found by compiling."""
    machine = processor()
    x86 = machine.machine in ("x86_64", "AMD64")
    native = "-march=native" if x86 and family != "zig" else "-mcpu=native"
    optional = [native, "-fno-trapping-math"]
    if x86 and "avx512f" in machine.features:
        optional.append("-mprefer-vector-width=512")
    if family == "gcc":
        optional.append("-fvect-cost-model=dynamic")
        # Reading two arrays and writing a third is a tenth faster with software prefetching.
        optional.append("-fprefetch-loop-arrays")
    if family == "zig":
        optional.append("-fno-sanitize=undefined")
    with tempfile.TemporaryDirectory(prefix="tensorbus-") as folder:
        text, target = Path(folder) / "empty.c", Path(folder) / "empty.so"
        source = "#include <stdint.h>\n#include <math.h>\nint32_t tb_empty(void) { return 0; }\n"
        text.write_text(source)
        try:
            _compile(command, (*_COMMON, *optional), text, target, source)
            return (*_COMMON, *optional)
        except CompileError:
            pass
        flags: tuple[str, ...] = _COMMON
        _compile(command, flags, text, target, source)
        for flag in optional:
            try:
                _compile(command, (*flags, flag), text, target, source)
            except CompileError:
                continue
            flags = (*flags, flag)
    return flags
