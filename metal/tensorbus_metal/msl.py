"""MSL checked by clang's OpenCL C++ front end, not Apple's compiler.

Both languages are C++ with address spaces, and both front ends are clang's.  ``device`` becomes
``__global``, ``constant`` ``__constant``, ``threadgroup`` ``__local`` and ``thread`` ``__private``;
float64 and the generic address space are off, so a pointer without its address space, or with
another one's, is an error, as is whatever the language does not have.  `lint` sees the rest.

What only Apple's compiler can tell: the full standard library (``metal_stdlib.h`` beside this file
declares what kernels use), features of C++17 that MSL's C++14 lacks, and its own limits.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tensorbus_backends.contract import CompileError, DeviceUnavailableError

from .lint import blanked, lint

__all__ = ["MslCheck"]

_STDLIB = Path(__file__).with_name("metal_stdlib.h")
_NEWEST, _OLDEST = 24, 15
_TIMEOUT_S = 60.0

_OPTIONS = (
    *("-cc1", "-x", "clcpp", "-cl-std=clc++2021", "-triple", "spir64-unknown-unknown"),
    *("-cl-ext=-all", "-fsyntax-only", "-Wno-unknown-pragmas"),
    *("-Werror=implicit-function-declaration", "-Werror=return-type", "-Werror=uninitialized"),
)


class MslCheck:
    """A clang that checks MSL.

    Attributes:
        version: For reports, ``"clang 19.1.7, OpenCL C++ 2021 front end"``.
        identity: All but the source that decides what is accepted.
    """

    def __init__(self, program: str, version: str) -> None:
        self._program = program
        self.version = f"clang {version}, OpenCL C++ 2021 front end"
        rules = Path(__file__).with_name("lint.py").read_text()
        self.identity = "\n".join([self.version, *_OPTIONS, _STDLIB.read_text(), rules])

    @classmethod
    def open(cls) -> MslCheck:
        """The newest clang of this machine that can do it.

        Raises:
            DeviceUnavailableError: There is none; its cause and fix are one sentence each.
        """
        tried = []
        for program in _programs():
            version = _version(program)
            tried.append(f"clang {version}")
            check = cls(program, version)
            if check._accepts("kernel void k(device float *x) { x[0] = 1.0f; }"):
                return check
        found = f"{', '.join(tried)} cannot check OpenCL C++" if tried else "clang is not installed"
        raise DeviceUnavailableError(
            "metal",
            f"MSL cannot be checked: {found}",
            "install clang 15 or later (Debian: clang-19)",
        )

    def check(self, source: str) -> None:
        """Accept a program or say what is wrong with it.

        Raises:
            CompileError: With everything that the lint and clang found, and the source.
        """
        findings = [f"program_source:{f.line}:1: error: {f.words}" for f in lint(source)]
        said = self._clang(blanked(source))
        log = "\n".join([*findings, *([said] if said else [])])
        if log:
            first = next((x for x in log.splitlines() if "error:" in x), log.splitlines()[0])
            raise CompileError(f"{self.version}, rejects MSL: {first}", log, source)

    def _accepts(self, kernel: str) -> bool:
        return not self._clang(f"#include <metal_stdlib>\n{kernel}\n")

    def _clang(self, text: str) -> str:
        """Clang's messages; empty if it accepts."""
        with tempfile.TemporaryDirectory(prefix="tensorbus-") as folder:
            (Path(folder) / "metal_stdlib").write_text(_STDLIB.read_text())
            done = subprocess.run(
                [self._program, *_OPTIONS, "-I", folder, "-"],
                input=text,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
            )
        said = done.stderr.replace("<stdin>", "program_source").strip()
        if done.returncode:
            return said or f"clang ended with status {done.returncode}"
        return ""


def _programs() -> Iterator[str]:
    for name in (*(f"clang-{k}" for k in range(_NEWEST, _OLDEST - 1, -1)), "clang"):
        if (path := shutil.which(name)) is not None:
            yield path


def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    match = re.search(r"version (\d[\w.]*)", done.stdout)
    return match[1] if match else "?"
