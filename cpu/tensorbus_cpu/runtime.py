"""The C runtime (`runtime.c`) as Python sees it: compiled once, loaded through cffi."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import cffi
from tensorbus_backends.cache import DiskCache, cache_key
from tensorbus_backends.contract import CompileError

from .processor import usable_threads
from .toolchain import Toolchain

__all__ = ["Runtime"]

_DECLARATIONS = """
typedef struct { uintptr_t fn; int64_t groups; float cost; int64_t meta[]; } tb_job;
typedef struct {
    uintptr_t fn;
    int64_t is_double, trans_a, trans_b, m, n, k, lda, ldb, ldc, batch, parallel;
    const int64_t *offsets;
} tb_gemm_job;
int tb_configure(int threads, long spin);
void tb_run(uintptr_t fn, const char *buffers, const char *meta, int64_t groups);
void tb_run1(tb_job *, uintptr_t);
void tb_run2(tb_job *, uintptr_t, uintptr_t);
void tb_run3(tb_job *, uintptr_t, uintptr_t, uintptr_t);
void tb_run4(tb_job *, uintptr_t, uintptr_t, uintptr_t, uintptr_t);
void tb_run_many(tb_job *, const char *packed);
void tb_copy(uintptr_t target, uintptr_t source, int64_t nbytes);
uintptr_t tb_allocate(uint64_t nbytes);
void tb_release(uintptr_t block, uint64_t nbytes);
uintptr_t tb_open(const char *path);
uintptr_t tb_symbol(uintptr_t handle, const char *name);
const char *tb_error(void);
void tb_gemm(const tb_gemm_job *, uintptr_t, uintptr_t, uintptr_t);
"""

# Polls before a worker sleeps, about 20 us: as long as Python takes from one launch to the next.
_SPIN = 1000


def _interface(cache: DiskCache) -> Any:
    """The cffi interface; parsing C declarations takes 70 ms, so the parsed form is kept."""
    key = cache_key("cffi", cffi.__version__, _DECLARATIONS)
    text = cache.get_bytes(key, ".py")
    if text is None:
        ffi = cffi.FFI()
        ffi.cdef(_DECLARATIONS)
        ffi.set_source("tensorbus_cpu._parsed", None, compiler_verbose=0)
        with tempfile.TemporaryDirectory(prefix="tensorbus-") as folder:
            path = Path(folder) / "parsed.py"
            ffi.emit_python_code(str(path))
            text = path.read_bytes()
        cache.put_bytes(key, text, ".py")
    namespace: dict[str, Any] = {}
    exec(compile(text, "<tensorbus_cpu cffi>", "exec"), namespace)
    return namespace["ffi"]


class Runtime:
    """The loaded runtime of one process.

    Attributes:
        ffi: cffi's interface object.
        lib: The functions of `runtime.c`.
        threads: Threads of a parallel job, the caller among them.

    Raises:
        CompileError: The compiler rejects the runtime, or what it built cannot be loaded.
    """

    def __init__(self, toolchain: Toolchain, cache: DiskCache) -> None:
        source = Path(__file__).with_name("runtime.c").read_text()
        extra = ("-fvisibility=hidden", "-pthread")
        key = cache_key("runtime", toolchain.identity, *extra, source)
        path = cache.get_or_build(
            key, ".so", lambda target: toolchain.compile(source, target, extra)
        )
        self.ffi = _interface(cache)
        try:
            # Never unloaded: its threads live until the process ends.
            flags = os.RTLD_NOW | os.RTLD_LOCAL | getattr(os, "RTLD_NODELETE", 0)
            self.lib = self.ffi.dlopen(str(path), flags)
        except OSError as error:
            raise CompileError(f"the compiled runtime cannot be loaded: {error}") from error
        self.threads = int(self.lib.tb_configure(usable_threads(), _SPIN))

    def open(self, path: Path) -> int:
        """Load a shared library for good; its handle.

        Raises:
            CompileError: The system's loader rejects it.
        """
        handle = int(self.lib.tb_open(os.fsencode(path)))
        if not handle:
            reason = self.ffi.string(self.lib.tb_error()).decode(errors="replace")
            raise CompileError(f"a compiled library cannot be loaded: {reason}")
        return handle

    def symbol(self, handle: int, name: str) -> int:
        """Address of a symbol, 0 if the library has none of that name."""
        return int(self.lib.tb_symbol(handle, name.encode()))
