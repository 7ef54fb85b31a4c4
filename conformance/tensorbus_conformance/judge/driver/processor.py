"""The cpu device's surroundings: processor, threads, memory, compilers; made up, and then real.

What the system says is replaced where it is asked: /proc, sysctl, affinity, cgroups, the programs
on the path.  A compiler is a shell script that notes how it is called.
"""

from __future__ import annotations

import builtins
import io
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module, util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import (
    CompileError,
    DeviceUnavailableError,
    Evidence,
    OutOfMemoryError,
)

from ..session import Session
from .apart import afresh, changed, forked, script
from .base import Checks, affine, affine_result, duty, filled, integers, launch_affine, numbers

_INTEL = """processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: FPU sse2 avx2 FMA avx512f
model name\t: second

processor\t: 1
model name\t: Other CPU
flags\t\t: none
"""

_ARM = """processor\t: 0
Features\t: fp asimd sve
CPU implementer\t: 0x41
CPU part\t: 0xd0c
"""


def _module(session: Session, name: str) -> Any:
    """A module of the package of the device's plugin."""
    package = type(session.guard.real).__module__.partition(".")[0]
    return import_module(f"{package}.{name}")


@contextmanager
def _files(texts: Mapping[str, str]) -> Iterator[None]:
    """A system in which files below /proc and /sys are these and no other."""
    real_open, real_read = builtins.open, Path.read_text

    def opened(path: Any, *rest: Any, **options: Any) -> Any:
        if str(path).startswith(("/proc/", "/sys/")):
            if str(path) not in texts:
                raise FileNotFoundError(2, "no such file", str(path))
            return io.StringIO(texts[str(path)])
        return real_open(path, *rest, **options)

    def read(self: Path, *rest: Any, **options: Any) -> str:
        if str(self).startswith(("/proc/", "/sys/")):
            if str(self) not in texts:
                raise FileNotFoundError(2, "no such file", str(self))
            return texts[str(self)]
        return real_read(self, *rest, **options)

    with changed(builtins, open=opened), changed(Path, read_text=read):
        yield


@forked
def features(checks: Checks, folder: Path, session: Session) -> None:
    """Name and features of a processor are what the system says of its first core."""
    p = _module(session, "processor")
    cases: list[tuple[str, str, str, tuple[str, ...], bool, str]] = [
        ("x86_64", _INTEL, "Some CPU @ 2.00GHz", ("fpu", "sse2", "avx2", "fma", "avx512f"), True,
         "AVX-512"),
        ("x86_64", _INTEL.replace(" avx512f", ""), "Some CPU @ 2.00GHz",
         ("fpu", "sse2", "avx2", "fma"), True, "AVX2"),
        ("x86_64", "flags: sse2\n", "x86_64", ("sse2",), False, "SSE2"),
        ("aarch64", _ARM, "aarch64 (implementer 0x41, part 0xd0c)", ("fp", "asimd", "sve"), True,
         "SVE"),
        ("aarch64", "Processor: ARMv8\nCPU part: 1\nFeatures: fp\n", "ARMv8", ("fp",), True,
         "NEON"),
        ("aarch64", "CPU part: 0x1\n", "aarch64 (implementer ?, part 0x1)", (), True, "NEON"),
        ("arm64", "", "arm64", (), True, "NEON"), ("riscv64", "", "riscv64", (), False, ""),
        ("", "", "unknown", (), False, ""),
    ]  # fmt: skip
    for machine, text, name, words, fma, vectors in cases:
        texts = {"/proc/cpuinfo": text} if text else {}
        with (
            _files(texts),
            changed(sys, platform="linux"),
            changed(platform, machine=lambda machine=machine: machine),
        ):
            p.processor.cache_clear()
            x = p.processor()
            again = p.processor()
        got = (x.machine, x.name, x.features, x.fma, x.vectors)
        due = (machine or "unknown", name, frozenset(words), fma, vectors)
        checks.that(got == due, f"a processor is told as {got}, due is {due}")
        checks.that(again is x, "the processor is asked again and again")
    answers = {
        "machdep.cpu.brand_string": "Chip 9", "machdep.cpu.features": "SSE2 FMA",
        "machdep.cpu.leaf7_features": "AVX2 AVX512F",
    }  # fmt: skip

    def sysctl(command: list[str], **options: Any) -> Any:
        if command[-1] not in answers or options.get("timeout") is None:
            raise OSError("no sysctl")
        return SimpleNamespace(stdout=answers[command[-1]] + "\n")

    for machine, words, vectors in (
        ("x86_64", ("sse2", "fma", "avx2", "avx512f"), "AVX-512"), ("arm64", (), "NEON"),
    ):  # fmt: skip
        with (
            changed(sys, platform="darwin"),
            changed(platform, machine=lambda machine=machine: machine),
            changed(subprocess, run=sysctl),
        ):
            p.processor.cache_clear()
            x = p.processor()
        got_mac = (x.name, x.features, x.vectors)
        checks.that(got_mac == ("Chip 9", frozenset(words), vectors), f"a Mac is told as {got_mac}")
    answers.clear()
    with (
        changed(sys, platform="darwin"),
        changed(platform, machine=lambda: "arm64"),
        changed(subprocess, run=sysctl),
    ):
        p.processor.cache_clear()
        checks.that(p.processor().name == "arm64", "a Mac that does not tell its name")


@forked
def threads(checks: Checks, folder: Path, session: Session) -> None:
    """Threads are what the user asks for, else the cores that a process may use and a quota pays."""
    p = _module(session, "processor")
    quota_file = "/sys/fs/cgroup/cpu.max"
    cores: list[tuple[int, str | None, int]] = [
        (8, None, 8), (8, "max 100000", 8), (8, "300000 100000", 3), (8, "250000 100000", 3),
        (8, "200001 100000", 3), (8, "50000 100000", 1), (2, "800000 100000", 2), (8, "odd", 8),
        (8, "x y", 8), (1, None, 1), (8, "100000 100000 more", 1), (8, "0 100000", 1),
    ]  # fmt: skip
    with changed(os.environ, TENSORBUS_NUM_THREADS=None):
        for count, quota, due in cores:
            texts = {quota_file: quota} if quota is not None else {}
            allowed = set(range(count))
            with _files(texts), changed(os, sched_getaffinity=lambda pid, a=allowed: a):
                got = p.usable_threads()
            checks.that(got == due, f"{count} cores with a quota {quota!r} give {got} threads")
        real = os.sched_getaffinity
        for count, due in ((6, 6), (None, 1)):
            with _files({}), changed(os, cpu_count=lambda c=count: c):
                del os.sched_getaffinity
                try:
                    got = p.usable_threads()
                finally:
                    os.sched_getaffinity = real
            checks.that(got == due, f"of {count} processors {got} are used")
    with _files({}), changed(os, sched_getaffinity=lambda pid: {0, 1, 2}):
        for text, due, warns in (
            ("5", 5, False), ("1", 1, False), ("", 3, False), ("0", 3, True), ("-3", 3, True),
            ("many", 3, True), ("2.5", 3, True), ("64", 64, False),
        ):  # fmt: skip
            with (
                changed(os.environ, TENSORBUS_NUM_THREADS=text),
                warnings.catch_warnings(record=True) as told,
            ):
                warnings.simplefilter("always")
                got = p.usable_threads()
            checks.that(got == due, f"TENSORBUS_NUM_THREADS={text!r} gives {got} threads")
            checks.that(bool(told) == warns, f"TENSORBUS_NUM_THREADS={text!r}: {len(told)} warnings")


@forked
def capacity(checks: Checks, folder: Path, session: Session) -> None:
    """The machine's memory is its pages, or a container's limit where that is less."""
    p = _module(session, "processor")
    limit_file = "/sys/fs/cgroup/memory.max"

    def pages(name: str) -> int:
        return {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}[name]

    for text, due in (
        (None, 4_096_000), ("max", 4_096_000), ("1000000\n", 1_000_000), ("9999999", 4_096_000),
        ("", 4_096_000), ("-5", 4_096_000),
    ):  # fmt: skip
        texts = {limit_file: text} if text is not None else {}
        with _files(texts), changed(os, sysconf=pages):
            got = p.memory_total()
        checks.that(got == due, f"of 4,096,000 bytes with a limit {text!r} there are {got:,}")

    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    for sysconf in (unknown, lambda name: -1 if name == "SC_PHYS_PAGES" else 4096):
        with _files({}), changed(os, sysconf=sysconf):
            checks.that(p.memory_total() == 0, "an unknown amount of memory is not 0")


# -- compilers ------------------------------------------------------------------------------------

_COMPILER = """
echo "$0 $@" >> LOG
case "$1 $2" in
    *--version*) VERSION; exit 0 ;;
esac
for a in "$@"; do
    case "$a" in
        REJECTED) echo "error: unknown option $a" >&2; exit 1 ;;
    esac
    if [ "$last" = "-o" ]; then echo built > "$a"; fi
    last="$a"
done
"""


class _Bench:
    """A path with made-up compilers, and a cache of its own."""

    def __init__(self, folder: Path, module: Any) -> None:
        self.folder, self.module = folder / "bin", module
        self.folder.mkdir()
        self.log = folder / "log"
        self.cache = DiskCache(folder / "cache")

    def compiler(self, name: str, version: str = "echo", rejected: str = "-none") -> Path:
        """One that says `version` and rejects options."""
        text = _COMPILER.replace("LOG", str(self.log)).replace("VERSION", version)
        return script(self.folder / name, text.replace("REJECTED", rejected))

    def found(self, cc: str | None = None, zig: Path | None = None) -> Any:
        """What `find_toolchain` gives."""
        places = [str(zig)] if zig is not None else []
        spec = SimpleNamespace(submodule_search_locations=places) if places else None
        with (
            changed(os.environ, PATH=f"{self.folder}:/bin:/usr/bin/none", CC=cc),
            changed(util, find_spec=lambda name: spec if name == "ziglang" else None),
            changed(shutil, which=self._which),
        ):
            return self.module.find_toolchain(self.cache)

    def _which(self, name: str, *rest: Any, **options: Any) -> str | None:
        path = Path(name) if "/" in name else self.folder / name
        return str(path) if path.is_file() and os.access(path, os.X_OK) else None

    def calls(self) -> list[str]:
        """Calls since the last time."""
        text = self.log.read_text() if self.log.exists() else ""
        self.log.unlink(missing_ok=True)
        return text.splitlines()


_SAFE = {"-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC"}
_UNSAFE = ("-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-ffp-contract=fast")


@forked
def search(checks: Checks, folder: Path, session: Session) -> None:
    """$CC, else gcc, else clang, else zig: the first that builds; else cause and fix."""
    module = _module(session, "toolchain")
    bench = _Bench(folder, module)
    error = checks.raises(module.NoCompilerError, "no compiler", bench.found)
    none = getattr(error, "cause", "")
    checks.that("no C compiler was found" in none, f"without compilers it says {none!r}")
    checks.that("gcc" in getattr(error, "fix", ""), "without compilers there is no fix")
    zig = folder / "ziglang"
    zig.mkdir()
    checks.raises(module.NoCompilerError, "a package without zig", bench.found, None, zig)
    bench.compiler("zig", 'echo "0.13"')
    shutil.move(str(bench.folder / "zig"), zig / "zig")
    t = bench.found(zig=zig)
    checks.that(t.command == (str(zig / "zig"), "cc"), f"zig is called as {t.command}")
    checks.that((t.family, t.version) == ("zig", "zig cc, 0.13"), f"zig is {t.family} {t.version}")
    checks.that("-mcpu=native" in t.flags, f"zig has the flags {t.flags}")
    checks.that("-fno-sanitize=undefined" in t.flags, "zig traps what is undefined")
    bench.compiler("clang", 'echo "Debian clang version 14.0"; echo more')
    t = bench.found(zig=zig)
    told = (t.command, t.family, t.version)
    checks.that(told == (("clang",), "clang", "Debian clang version 14.0"), f"clang is {told}")
    checks.that("-fvect-cost-model=dynamic" not in t.flags, "clang is given gcc's flags")
    bench.compiler("gcc", 'echo "gcc (Debian) 12.2" >&2')
    bench.calls()
    t = bench.found(zig=zig)
    told = (t.command, t.family, t.version)
    checks.that(told == (("gcc",), "gcc", "gcc (Debian) 12.2"), f"gcc is {told}")
    checks.that(_SAFE <= set(t.flags), f"flags lack {_SAFE - set(t.flags)}")
    checks.that(not set(t.flags) & set(_UNSAFE), f"flags relax arithmetic: {t.flags}")
    machine = session.guard.real.info.details.get("machine", "")
    native = "-march=native" if machine in ("x86_64", "AMD64") else "-mcpu=native"
    for flag in (native, "-fno-trapping-math", "-fvect-cost-model=dynamic"):
        checks.that(flag in t.flags, f"gcc lacks {flag}")
    wide = "avx512f" in session.guard.real.info.details.get("features", "").split()
    checks.that(("-mprefer-vector-width=512" in t.flags) == wide, "the width of vectors is wrong")
    checks.that(len(bench.calls()) == 2, "finding a compiler takes more calls than it needs")
    again = bench.found(zig=zig)
    checks.that(again == t, f"found again it is {again}")
    checks.that(bench.calls() == [], "a compiler that is known was asked again")
    bench.compiler("odd", "true")
    t = bench.found(cc=f"{bench.folder / 'odd'} -x 'a b'")
    checks.that(t.command == (str(bench.folder / "odd"), "-x", "a b"), f"$CC is {t.command}")
    checks.that((t.family, t.version) == ("gcc", "unknown version"), f"it is {t.version}")
    checks.that(all("-x a b" in c for c in bench.calls()), "arguments in $CC are lost")
    for cc in ("/no/such/cc", "nosuch -O", " "):
        error = checks.raises(module.NoCompilerError, f"CC={cc!r}", bench.found, cc)
        cause = f"$CC is {cc!r}, which is not an executable file"
        checks.that(getattr(error, "cause", "") == cause, f"CC={cc!r} says {error}")
    bench.compiler("bad", "echo bad 1", "-shared")
    error = checks.raises(module.NoCompilerError, "a bad CC", bench.found, "bad")
    cause = getattr(error, "cause", "")
    due = "no C compiler works here (bad: error: unknown option -shared)"
    checks.that(cause == due, f"a bad compiler is told as {cause!r}")
    bench.compiler("gcc", "echo gcc 1", "-shared")
    t = bench.found()
    checks.that(t.command == ("clang",), f"after a gcc that fails comes {t.command}")
    bench.compiler("clang", "echo clang 1", "-shared")
    error = checks.raises(module.NoCompilerError, "bad compilers", bench.found)
    cause = getattr(error, "cause", "")
    checks.that("gcc: error" in cause and "clang: error" in cause, f"two bad ones: {cause}")
    checks.that("apt install" in getattr(error, "fix", ""), "bad compilers have no fix")


@forked
def flags(checks: Checks, folder: Path, session: Session) -> None:
    """A flag that a compiler does not know is left out, and no other; keys follow the compiler."""
    module = _module(session, "toolchain")
    bench = _Bench(folder, module)
    bench.compiler("gcc", "echo gcc 1")
    plain = bench.found()
    optional = [f for f in plain.flags if f not in _SAFE and f.startswith(("-m", "-fno-t", "-fv"))]
    checks.that(len(optional) >= 3, f"flags are {plain.flags}")
    for k, flag in enumerate(optional):
        bench.compiler("gcc", f"echo gcc 1{'x' * k}", flag)
        t = bench.found()
        due = tuple(f for f in plain.flags if f != flag)
        checks.that(t.flags == due, f"without {flag} flags are {t.flags}, due is {due}")
        checks.that(t.identity != plain.identity, "other flags have the same key")
    path = bench.compiler("gcc", "echo gcc 1")
    bench.cache = DiskCache(folder / "other")
    one = bench.found()
    os.utime(path, ns=(10**18, 10**18))
    checks.that(bench.found().identity != one.identity, "a compiler of another date is the same")
    with changed(module, processor=lambda: SimpleNamespace(
        machine="x86_64", name="Other", features=frozenset({"sse2"}),
    )):  # fmt: skip
        os.utime(path, ns=(10**18, 10**18))
        two = bench.found()
    with changed(module, processor=lambda: SimpleNamespace(
        machine="x86_64", name="Other", features=frozenset({"sse2", "avx2"}),
    )):  # fmt: skip
        three = bench.found()
    checks.that(len({one.identity, two.identity, three.identity}) == 3,
                "another processor has the same key")  # fmt: skip
    checks.that("-mprefer-vector-width=512" not in two.flags, "vectors are wider than there are")
    target, log = folder / "k.so", bench.log
    bench.calls()
    t = bench.found()
    with changed(os.environ, PATH=f"{bench.folder}:/bin", LC_ALL="xx"):
        t.compile("text", target, ("-extra",))
        checks.that(target.read_text() == "built\n", "nothing was built")
        (call,) = bench.calls()
        words = call.split()
        due_flags = [*t.flags, "-extra", "-o", str(target)]
        checks.that(words[1 : len(due_flags) + 1] == due_flags, f"it is called as {call}")
        checks.that(words[-1] == "-lm", "libm is not linked")
        for body, message, words_ in (
            ("echo first >&2; echo second; exit 7", "gcc failed with exit status 7", "first"),
            ("exit 0", "gcc failed with exit status 0", ""),
            ("echo $LC_ALL >&2; exit 1", "exit status 1", "C\n"),
            ("cat; echo end >&2; exit 2", "exit status 2", "end"),
        ):
            script(bench.folder / "gcc", body)
            gone = folder / "gone.so"
            error = checks.raises(CompileError, body, t.compile, "the text", gone)
            if isinstance(error, CompileError):
                checks.that(message in str(error.args[0]), f"{body!r} says {error.args[0]}")
                checks.that(words_ in error.log, f"{body!r} has the log {error.log!r}")
                checks.that(error.source == "the text", f"{body!r} has the source {error.source!r}")
        script(bench.folder / "gcc", "echo first >&2; echo second; exit 7")
        error = checks.raises(CompileError, "a failing compiler", t.compile, "x", target.parent)
        log_text = getattr(error, "log", "")
        checks.that(log_text == "first\nsecond\n", f"the log is {log_text!r}")
        with changed(module, _TIMEOUT_S=0.05):
            script(bench.folder / "gcc", "exec sleep 5")
            error = checks.raises(CompileError, "a compiler that hangs", t.compile, "x", target)
            checks.that("did not finish within" in str(error), f"a hang says {error}")
        (bench.folder / "gcc").unlink()
        os.environ["PATH"] = str(bench.folder)
        error = checks.raises(CompileError, "a compiler that is gone", t.compile, "x", target)
        checks.that("cannot run gcc" in str(error), f"a compiler that is gone says {error}")
    checks.that(not log.exists(), "a script was called that should not be")


# -- probing ----------------------------------------------------------------------------------------


def _wrapped(path: Path, real: str, more: str) -> str:
    """A compiler that passes more to the real one; it builds fast code badly, which is quicker."""
    return str(script(path, f'exec {real} "$@" -O0 {more}\n'))


def _probe(session: Session, **environment: str) -> tuple[Any, Any]:
    """The plugin loaded anew in such an environment, and its one line."""
    package = type(session.guard.real).__module__.partition(".")[0]
    with changed(os.environ, **environment):
        plugin = afresh(package).PLUGIN
        lines = plugin.probe()
    return plugin, lines


@forked
def proof(checks: Checks, folder: Path, session: Session) -> None:
    """A compiler that gets a kernel wrong makes the device absent; a right one is described."""
    real = shutil.which("gcc") or shutil.which("clang")
    if real is None:
        checks.that(session.guard.real is not None, "there is no device")
        return
    kept = session.guard.real.info
    keeps = ExitStack()
    keeps.enter_context(changed(os.environ, TENSORBUS_NUM_THREADS="3"))
    with keeps:
        cache = str(folder / "cache")
        good = _wrapped(folder / "good", real, "")
        plugin, lines = _probe(session, CC=good, TENSORBUS_CACHE=cache)
        checks.that(len(lines) == 1, f"the cpu has {len(lines)} lines")
        (x,) = lines
        told = (x.name, x.plugin, x.index, x.available, x.evidence, x.cause, x.aliases)
        due = ("cpu", "cpu", 0, True, Evidence.HARDWARE, "", ())
        checks.that(told == due, f"it is told as {told}")
        d = dict(x.details)
        checks.that(d["command"] == good and d["threads"] == "3", f"its details are {d}")
        for name in ("processor", "machine", "vectors", "features", "compiler", "blas"):
            same = d.get(name) == kept.details.get(name)
            checks.that(same, f"{name} is {d.get(name)!r}, was {kept.details.get(name)!r}")
        checks.that("-ffp-contract=off" in d["flags"].split(), f"flags are {d['flags']}")
        for word in (d["processor"], d["vectors"], "3 threads", d["compiler"]):
            checks.that(word in x.description, f"the description {x.description!r} lacks {word}")
        checks.that(plugin.probe() == lines, "a second probe differs")
        device = plugin.open(0)
        checks.that(plugin.open(0) is device, "the cpu is opened twice")
        checks.that(device.info == x, "what is open is described otherwise")
        for index in (1, -1):
            error = checks.raises(DeviceUnavailableError, f"cpu {index}", plugin.open, index)
            checks.that(f"'cpu:{index}'" in str(error), f"cpu {index} says {error}")
        if session.level == "smoke":
            return
        wrong = (
            ("rounds twice", "'-D__builtin_fmaf(a,b,c)=((a)*(b)+(c)*1.0000002f)'", True),
            ("drops a product", "'-D__builtin_fmaf(a,b,c)=(c)'", True),
            ("drops an addend", "'-D__builtin_fmaf(a,b,c)=((a)*(b))'", True),
        )
        for k, (what, option, absent) in enumerate(wrong):
            bad = _wrapped(folder / f"bad{k}", real, option)
            plugin, (y,) = _probe(session, CC=bad, TENSORBUS_CACHE=cache)
            checks.that(y.available != absent, f"a compiler that {what} counts as available")
            checks.that("a test kernel failed: element" in y.cause, f"{what}: {y.cause}")
            checks.that("CC" in y.fix and cache in y.fix, f"{what}: the fix is {y.fix}")
            checks.that((y.name, y.plugin, y.index) == ("cpu", "cpu", 0), f"{what}: {y}")
            error = checks.raises(DeviceUnavailableError, what, plugin.open, 0)
            checks.that(getattr(error, "cause", "") == y.cause, f"{what}: opening says {error}")
        bad = str(script(folder / "late", f"""
            for a in "$@"; do case "$a" in *kernels.c)
                grep -q tb_configure "$a" && {{ echo "no runtime" >&2; echo 2 >&2; exit 1; }} ;;
            esac; done
            exec {real} "$@" -O0
            """))  # fmt: skip
        plugin, (y,) = _probe(session, CC=bad, TENSORBUS_CACHE=cache)
        said = "the C runtime cannot be built: " in y.cause and "no runtime" in y.cause
        checks.that(not y.available and said, f"a runtime that cannot be built: {y.cause}")
        checks.that("set CC" in y.fix, f"a runtime that cannot be built: {y.fix}")
        bad = str(script(folder / "last", f"""
            for a in "$@"; do case "$a" in *kernels.c)
                grep -q tb_check "$a" && {{ echo "no kernel" >&2; exit 1; }} ;;
            esac; done
            exec {real} "$@" -O0
            """))  # fmt: skip
        plugin, (y,) = _probe(session, CC=bad, TENSORBUS_CACHE=cache)
        said = "a test kernel failed: " in y.cause and "no kernel" in y.cause
        checks.that(not y.available and said, f"a kernel that cannot be built: {y.cause}")
        plugin, (y,) = _probe(session, CC="/no/such/cc", TENSORBUS_CACHE=cache)
        checks.that("$CC is '/no/such/cc'" in y.cause, f"a CC that is nowhere: {y.cause}")
        error = checks.raises(DeviceUnavailableError, "no compiler", plugin.open, 0)
        checks.that("'cpu'" in str(error), f"without a compiler opening says {error}")


@forked
def limits(checks: Checks, folder: Path, session: Session) -> None:
    """A machine with little memory: all of it can be had, no more, and what is kept goes back."""
    unit = 1 << 20

    def pages(name: str) -> int:
        return {"SC_PHYS_PAGES": 64 << 8, "SC_PAGE_SIZE": 4096}[name]

    with changed(os, sysconf=pages), _files({}):
        package = type(session.guard.real).__module__.partition(".")[0]
        device = afresh(package).PLUGIN.open(0)
    checks.that(device.memory().total == 64 * unit, f"it has {device.memory().total:,} bytes")
    device.empty_cache()
    checks.that(device.memory().cached == 0, "something is kept after empty_cache")
    used = device.memory().used
    checks.that(used == 0, f"{used:,} bytes are in use in the beginning")
    held = [device.allocate(16 * unit) for _ in range(3)]
    for nbytes in (16 * unit + 1, 32 * unit, 64 * unit, 65 * unit, 1 << 40):
        checks.raises(OutOfMemoryError, f"{nbytes:,} more bytes", device.allocate, nbytes)
    held.append(device.allocate(16 * unit))
    checks.that(device.memory().used == 64 * unit, "not all of it is in use")
    checks.raises(OutOfMemoryError, "one byte more", device.allocate, 1)
    held.clear()
    checks.that(device.memory().cached == 64 * unit, "nothing is kept for reuse")
    whole = device.allocate(64 * unit)  # what was kept had to go
    checks.that(device.memory().cached == 0, "it has more than there is")
    del whole
    device.empty_cache()
    # Up to half of the memory is kept beside what is in use.
    first = device.allocate(12 * unit)
    del first
    second = device.allocate(16 * unit)
    checks.that(device.memory().cached == 12 * unit, "too little is kept for reuse")
    third = device.allocate(8 * unit)
    checks.that(device.memory().cached == 0, "too much is kept for reuse")
    x = integers(100, 1)
    source, target = filled(device, x), device.allocate(400)
    (kernel,) = device.compile([affine(81)])
    launch_affine(device, kernel, source, target, 100, 2)
    right = (numbers(device, target, 100) == affine_result(x, 81, 2)).all()
    checks.that(bool(right), "it computes something else")
    del second, third

duty("processor", features, threads, capacity, limits, plugins=("cpu",))
duty("compiler", search, flags, proof, plugins=("cpu",))
