"""A minimal loop-style runner for tests: compiles kernels with the system's C compiler."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tensorbus_backends.kernels import Kernel, pack
from tensorbus_cpu.dialect import C

CC = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
_FOLDER = Path(tempfile.mkdtemp(prefix="tensorbus-test-"))


def run(kernel: Kernel, arrays: list[Any], words: list[int], groups: int) -> None:
    """Compile `kernel` and run it on NumPy arrays, in place."""
    source = C.prelude + kernel.source(C)
    stem = _FOLDER / hashlib.sha1(source.encode()).hexdigest()
    if not stem.with_suffix(".so").exists():
        stem.with_suffix(".c").write_text(source)
        flags = "-std=gnu11 -O2 -ftree-vectorize -fPIC -shared -ffp-contract=off -march=native"
        flags += " -fno-math-errno -fno-trapping-math -lm"
        subprocess.run([CC, str(stem) + ".c", "-o", str(stem) + ".so", *flags.split()], check=True)
    library = ctypes.CDLL(str(stem) + ".so")
    pointers = (ctypes.c_void_p * len(arrays))(*[a.ctypes.data for a in arrays])
    meta = ctypes.create_string_buffer(pack(words))
    function = getattr(library, kernel.name)
    function(pointers, meta, ctypes.c_int64(0), ctypes.c_int64(groups))


def both(kernel: Kernel, arrays: list[Any], words: list[int], groups: int) -> None:
    """Run compiled and interpreted; every buffer must agree bit for bit, NaN apart."""
    assert len(words) == kernel.words
    compiled, interpreted = [a.copy() for a in arrays], [a.copy() for a in arrays]
    run(kernel, compiled, words, groups)
    kernel.interpret(interpreted, np.asarray(words, np.int64), groups)
    for x, y in zip(compiled, interpreted, strict=True):
        same = x.view(f"u{x.itemsize}") == y.view(f"u{y.itemsize}")
        if x.dtype.kind not in "biu":
            same |= np.isnan(x.astype(np.float64)) & np.isnan(y.astype(np.float64))
        assert same.all(), (kernel.name, np.nonzero(~same)[0][:5], x[~same][:5], y[~same][:5])
