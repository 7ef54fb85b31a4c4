"""The cpu device in an empty cache and in the next process: what is compiled, and how often."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import CompileError

from ..session import Session
from .apart import afresh, changed, forked
from .base import Checks, affine, affine_result, duty, filled, integers, launch_affine, numbers
from .processor import module


class _Compiler:
    """Notes what is run as a program."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.real = subprocess.run

    def __call__(self, command: list[str], *rest: Any, **options: Any) -> Any:
        self.lines.append(" ".join(command))
        return self.real(command, *rest, **options)

    def count(self) -> int:
        """Programs since the last time."""
        found = len(self.lines)
        self.lines.clear()
        return found


def _right(checks: Checks, device: Any, factors: list[int], what: str) -> None:
    x = integers(77, 1)
    source = filled(device, x)
    kernels = device.compile([affine(f) for f in factors])
    for kernel, factor in zip(kernels, factors, strict=True):
        target = device.allocate(4 * 77)
        launch_affine(device, kernel, source, target, 77, 3)
        right = bool((numbers(device, target, 77) == affine_result(x, factor, 3)).all())
        checks.that(right, f"{what}: the kernel with constant {factor} computes something else")


@forked
def processes(checks: Checks, folder: Path, session: Session) -> None:
    """Each kernel is compiled once for all processes, alone or in a batch, in any order."""
    package = type(session.guard.real).__module__.partition(".")[0]
    run = _Compiler()
    few, many = [301], [302, 303, 304]
    with changed(subprocess, run=run), changed(os.environ, TENSORBUS_CACHE=str(folder / "cache")):
        device = afresh(package).PLUGIN.open(0)
        # Who it is, its flags, runtime.c, fastcall.c and the test kernel.
        checks.that(run.count() <= 12, "an empty cache takes more programs than it needs")
        _right(checks, device, few, "in an empty cache")
        checks.that(run.count() == 1, "one kernel is not compiled by one call")
        _right(checks, device, many, "a batch in an empty cache")
        most = max(1, min(device._runtime.threads, len(many)))
        checks.that(1 <= run.count() <= most, "a batch is compiled more than once")
        _right(checks, device, [*few, *many], "once more")
        checks.that(run.count() == 0, "what is compiled is compiled again")
        for turn in ("the next process", "the one after"):
            other = afresh(package).PLUGIN.open(0)
            checks.that(other is not device, "a process has another's device")
            checks.that(
                not run.lines, f"{turn} runs {len(run.lines)} programs to open: {run.lines}"
            )
            run.lines.clear()
            _right(checks, other, [*many[::-1], *few], turn)
            checks.that(not run.lines, f"{turn} compiles what is kept: {run.lines}")
            run.lines.clear()
            _right(checks, other, [305 if turn == "the next process" else 306], turn)
            checks.that(run.count() == 1, f"{turn} does not compile what is new")


@forked
def lost(checks: Checks, folder: Path, session: Session) -> None:
    """What is kept and cannot be loaded is told with the kernel's name; what is spoilt is built."""
    device: Any = session.guard.real
    builder, root = module(session, "kernels").Builder, folder / "cache"
    given = (device._builder._toolchain, device._runtime, DiskCache(root))
    child = os.fork()
    if child == 0:  # a library that is loaded here would not be loaded again
        found = builder(*given).addresses([affine(311), affine(312), affine(311)])
        os._exit(0 if len(set(found)) == 2 and 0 not in found and found[0] == found[2] else 3)
    checks.that(os.waitpid(child, 0)[1] == 0, "two kernels have not two addresses")
    for path in root.rglob("payload.so"):
        path.write_bytes(b"no library")
        digest = hashlib.sha256(b"no library").hexdigest()
        (path.parent / "sha256").write_text(digest)
    wanted = [affine(311), affine(312)]
    error = checks.raises(CompileError, "no library", builder(*given).addresses, wanted)
    checks.that("cannot be loaded" in str(error), f"what is no library says {error}")
    for path in root.rglob("sha256"):
        path.write_text("spoilt")
    found = builder(*given).addresses([affine(311)])
    checks.that(len(found) == 1 and found[0] != 0, f"a spoilt library is not built again: {found}")


@forked
def library(checks: Checks, folder: Path, session: Session) -> None:
    """OpenBLAS is loaded with our settings where the user has none, which last no longer."""
    blas, p = module(session, "blas"), module(session, "processor")
    names = ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OPENBLAS_THREAD_TIMEOUT")
    wide = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
    cases: list[tuple[str, str, tuple[str, ...], str]] = [
        ("x86_64", "Intel", wide, "SkylakeX"), ("AMD64", "AMD", wide, "SkylakeX"),
        ("x86_64", "Intel", (*wide, "avx512_bf16"), "Cooperlake"),
        ("x86_64", "Intel", (*wide, "amx_bf16"), "SkylakeX"),
        ("x86_64", "Intel", (*wide, "avx512_bf16", "amx_bf16"), "SapphireRapids"),
        *(("x86_64", "Intel", (*(w for w in wide if w != x), "avx2", "fma"), "Haswell")
          for x in wide),
        ("x86_64", "AMD EPYC", ("avx2", "fma"), "Zen"), ("x86_64", "Intel", ("avx2",), ""),
        ("x86_64", "Intel", ("fma",), ""), ("AMD64", "Intel", ("avx2", "fma"), "Haswell"),
        ("aarch64", "ARM", (*wide, "avx2", "fma"), ""), ("x86_64", "", (), ""),
    ]  # fmt: skip
    opened: list[dict[str, str]] = []

    def refuse(path: Path) -> int:
        opened.append({n: os.environ[n] for n in names if n in os.environ})
        raise CompileError("not loaded")

    runtime = SimpleNamespace(threads=3, ffi=None, open=refuse)
    clear: dict[str, Any] = dict.fromkeys(names)
    for machine, name, features, core in cases:
        made = p.Processor(machine, name, frozenset(features))
        got = blas.core_type(made)
        checks.that(got == core, f"{name} {features} has the kernels of {got!r}, due is {core!r}")
        for mine in ({}, {"OPENBLAS_CORETYPE": "Mine"}, {"OPENBLAS_NUM_THREADS": "7"}):
            opened.clear()
            with (
                changed(os.environ, **clear | mine),
                changed(blas, processor=lambda m=made: m, _library=lambda: Path("blas.so")),
            ):
                before = dict(os.environ)
                checks.that(blas.load_blas(runtime) is None, "a library that is refused is there")
                checks.that(dict(os.environ) == before, "settings for OpenBLAS stay for others")
            due = {"OPENBLAS_NUM_THREADS": "3", "OPENBLAS_THREAD_TIMEOUT": "20"}
            due |= {"OPENBLAS_CORETYPE": core} if core else {}
            due |= mine
            checks.that(opened == [due], f"OpenBLAS is loaded with {opened}, due is {due}")
    with changed(blas, _library=lambda: None):
        checks.that(blas.load_blas(runtime) is None, "a library that is not there is loaded")
    real: Any = session.guard.real
    if real.natives:
        details = real.info.details["blas"]
        checks.that(details.startswith("OpenBLAS ") and "?" not in details, f"it is {details!r}")
        native = real.natives["matmul"]
        checks.that(native.library == details, f"products are by {native.library!r}")
        threads = _threads(blas, real._runtime)
        checks.that(threads == real._runtime.threads, f"OpenBLAS has {threads} threads")


def _threads(blas: Any, runtime: Any) -> int:
    handle = runtime.open(blas._library())
    address = runtime.symbol(handle, "scipy_openblas_get_num_threads64_")
    if not address:
        return int(runtime.threads)
    return int(runtime.ffi.cast("int (*)(void)", address)())


duty("cold", processes, lost, library, plugins=("cpu",), smoke=False)
