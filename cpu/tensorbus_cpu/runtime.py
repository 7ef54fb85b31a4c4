"""The C runtime (`runtime.c`) as Python sees it: compiled once, loaded through cffi."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Any

import cffi
from tensorbus_backends.cache import DiskCache, cache_key
from tensorbus_backends.contract import CompileError

from .processor import usable_threads
from .toolchain import Toolchain

__all__ = ["Launch", "Runtime"]

_DECLARATIONS = """
typedef struct tb_job tb_job;
typedef struct {
    uintptr_t fn;
    int64_t is_double, trans_a, trans_b, m, n, k, lda, ldb, ldc, batch, parallel;
    const int64_t *offsets;
} tb_gemm_job;
int tb_configure(int threads);
void tb_run_job(tb_job *, const char *buffers);
void tb_copy(uintptr_t target, uintptr_t source, int64_t nbytes);
uintptr_t tb_allocate(uint64_t nbytes);
void tb_release(uintptr_t block, uint64_t nbytes);
uintptr_t tb_open(const char *path);
uintptr_t tb_symbol(uintptr_t handle, const char *name);
const char *tb_error(void);
void tb_gemm(const tb_gemm_job *, uintptr_t, uintptr_t, uintptr_t);
"""

Launch = Callable[..., None]

_HEAD = Struct("=qQqf4x")

# MOST of fastcall.c: kernels of more buffers go through cffi.
_FAST_MOST = 16


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


def _build(name: str, extra: tuple[str, ...], toolchain: Toolchain, cache: DiskCache) -> Path:
    """Compile one of the C files beside this one."""
    source = Path(__file__).with_name(name).read_text()
    flags = ("-fvisibility=hidden", *extra)
    key = cache_key(name, toolchain.identity, *flags, source)
    return cache.get_or_build(key, ".so", lambda path: toolchain.compile(source, path, flags))


def _fast_launch(
    ffi: Any, lib: Any, toolchain: Toolchain, cache: DiskCache
) -> Callable[[bytearray], Launch] | None:
    """`tb_fast_launch` of fastcall.c, or None where it cannot be had: cffi serves instead."""
    if sys.implementation.name != "cpython":
        return None
    extra = ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()
    try:
        fast = ctypes.PyDLL(str(_build("fastcall.c", extra, toolchain, cache)))
    except (CompileError, OSError):
        return None
    fast.tb_fast_setup.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.py_object)
    fast.tb_fast_setup.restype = None
    run = int(ffi.cast("uintptr_t", ffi.addressof(lib, "tb_run_job")))
    fast.tb_fast_setup(run, None, sys.intern("address"))
    launch: Callable[[bytearray], Launch] = fast.tb_fast_launch
    fast.tb_fast_launch.argtypes = (ctypes.py_object,)
    fast.tb_fast_launch.restype = ctypes.py_object
    return launch


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
        path = _build("runtime.c", ("-pthread",), toolchain, cache)
        self.ffi = _interface(cache)
        try:
            # Never unloaded: its threads live until the process ends.
            flags = os.RTLD_NOW | os.RTLD_LOCAL | getattr(os, "RTLD_NODELETE", 0)
            self.lib = self.ffi.dlopen(str(path), flags)
        except OSError as error:
            raise CompileError(f"the compiled runtime cannot be loaded: {error}") from error
        self.threads = int(self.lib.tb_configure(usable_threads()))
        self._fast = _fast_launch(self.ffi, self.lib, toolchain, cache)

    def prepare(self, function: int, buffers: int, groups: int, meta: bytes) -> Launch:
        """A launch of a kernel that lacks only its buffers.

        Args:
            function: Address of the kernel.
            buffers: How many it takes.
            groups: Number of groups.
            meta: Its metadata; copied.
        """
        # The layout of `prepared` in fastcall.c, and of tb_job from the second word on.
        job = bytearray(_HEAD.pack(buffers, function, groups, 0.0) + meta)
        if self._fast is not None and buffers <= _FAST_MOST:
            return self._fast(job)
        ffi, run, pack = self.ffi, self.lib.tb_run_job, Struct(f"={buffers}Q").pack
        held = ffi.from_buffer(job)
        start = ffi.cast("tb_job *", int(ffi.cast("uintptr_t", held)) + 8)

        def launch(*given: Any, held: Any = held) -> None:
            run(start, pack(*[b.address for b in given]))

        return launch

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
