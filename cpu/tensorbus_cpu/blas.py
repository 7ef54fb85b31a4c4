"""Native matrix products through OpenBLAS, from the ``scipy-openblas64`` wheel if installed.

OpenBLAS picks its kernels by processor model while it is loaded and takes older ones for a model
that it does not know.  The choice here goes by instruction-set features instead.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from tensorbus_backends import dtypes as dt, gemm
from tensorbus_backends.contract import Buffer, CompileError, NativeCase, NativeTable

from .processor import Processor, processor
from .runtime import Runtime

__all__ = ["Blas", "core_type", "load_blas", "native_table", "supported"]

# OpenBLAS multiplies on one thread up to this m * n * k; a batch of such goes to our own threads.
_ONE_THREAD = 1 << 18

# Its idle threads poll for 2^n cycles, here a third of a millisecond: they are awake for the next
# of several products, and the default of 2^26 would keep cores from our kernels.
_POLL = "20"


class HostBuffer(Protocol):
    """What every buffer of the cpu device has."""

    address: int


@dataclass(frozen=True)
class Blas:
    """A loaded OpenBLAS.

    Attributes:
        version: ``"OpenBLAS 0.3.34"``.
        core: The kernels that it uses, ``"SkylakeX"``.
        gemm: Addresses of its CBLAS functions for float32 and float64.
    """

    version: str
    core: str
    gemm: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.version} {self.core}"


def core_type(machine: Processor) -> str:
    """The OPENBLAS_CORETYPE that fits a processor's features; empty: leave it to OpenBLAS."""
    has = machine.features.__contains__
    if machine.machine not in ("x86_64", "AMD64"):
        return ""
    if all(map(has, ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"))):
        if has("avx512_bf16"):
            return "SapphireRapids" if has("amx_bf16") else "Cooperlake"
        return "SkylakeX"
    if has("avx2") and has("fma"):
        return "Zen" if "AMD" in machine.name else "Haswell"
    return ""


def _library() -> Path | None:
    try:
        spec = importlib.util.find_spec("scipy_openblas64")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(folder, "lib").glob("libscipy_openblas64_.*")):
            if path.suffix in (".so", ".dylib"):
                return path
    return None


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set yet, for the time that a library is loaded."""
    added = {k: v for k, v in settings.items() if v and k not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


def load_blas(runtime: Runtime) -> Blas | None:
    """OpenBLAS from its wheel, or None if it is not installed or cannot be loaded."""
    path = _library()
    if path is None:
        return None
    settings = {
        "OPENBLAS_CORETYPE": core_type(processor()),
        "OPENBLAS_NUM_THREADS": str(runtime.threads),
        "OPENBLAS_THREAD_TIMEOUT": _POLL,
    }
    ffi = runtime.ffi
    with _environment(settings):
        try:
            handle = runtime.open(path)
        except CompileError:
            return None
    names = {"float32": "scipy_cblas_sgemm64_", "float64": "scipy_cblas_dgemm64_"}
    gemm = {dtype: runtime.symbol(handle, name) for dtype, name in names.items()}
    set_threads = runtime.symbol(handle, "scipy_openblas_set_num_threads64_")
    if not set_threads or not all(gemm.values()):
        return None
    ffi.cast("void (*)(int)", set_threads)(runtime.threads)

    def text(symbol: str) -> str:
        address = runtime.symbol(handle, symbol)
        found = ffi.cast("char *(*)(void)", address)() if address else ffi.NULL
        return ffi.string(found).decode(errors="replace") if found else "?"

    version = " ".join(text("scipy_openblas_get_config64_").split()[:2])
    return Blas(version, text("scipy_openblas_get_corename64_"), gemm)


def supported(case: NativeCase) -> bool:
    """Whether a product goes to OpenBLAS: float32 or float64, see `gemm.supported`."""
    return gemm.supported(case, (dt.float32, dt.float64))


def native_table(runtime: Runtime, blas: Blas) -> NativeTable:
    """The native kernels of the cpu device: ``matmul``."""
    table = NativeTable()
    ffi, multiply = runtime.ffi, runtime.lib.tb_gemm

    @functools.lru_cache(maxsize=512)
    def job_of(
        dtype: dt.DType,
        shapes: tuple[tuple[int, ...], ...],
        strides: tuple[tuple[int, ...], ...],
    ) -> tuple[Any, Any]:
        product = gemm.plan(shapes, strides)
        packed = product.offsets * dtype.itemsize
        offsets = ffi.from_buffer("int64_t[]", packed)
        job = ffi.new("tb_gemm_job *")
        job.fn, job.is_double = blas.gemm[dtype.name], dtype is dt.float64
        for name in ("m", "n", "k", "trans_a", "lda", "trans_b", "ldb", "ldc", "batch"):
            setattr(job, name, getattr(product, name))
        size = product.m * product.n * product.k
        job.parallel = product.batch > 1 and size <= _ONE_THREAD
        job.offsets = offsets
        return job, (offsets, packed)

    @table.implements("matmul", when=supported, library=str(blas))
    def matmul(case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
        dtype = case.dtypes[0]
        job, _ = job_of(dtype, case.shapes, case.strides)
        size = dtype.bits >> 3
        a, b, c = cast("Sequence[HostBuffer]", buffers)
        i, j, k = offsets
        multiply(job, a.address + i * size, b.address + j * size, c.address + k * size)

    return table
