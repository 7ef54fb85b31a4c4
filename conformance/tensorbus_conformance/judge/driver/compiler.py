"""The cpu device's compiler: which is found, how it is called, and whether it is believed.

A compiler is a shell script on a path of its own, which notes how it is called, or one that passes
everything on to the real compiler with something more.
"""

from __future__ import annotations

import os
import shutil
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import CompileError, DeviceUnavailableError, Evidence

from ..session import Session
from .apart import afresh, changed, forked, script
from .base import Checks, duty
from .processor import module

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
    tools = module(session, "toolchain")
    bench = _Bench(folder, tools)
    error = checks.raises(tools.NoCompilerError, "no compiler", bench.found)
    none = getattr(error, "cause", "")
    checks.that("no C compiler was found" in none, f"without compilers it says {none!r}")
    fix = getattr(error, "fix", "")
    checks.that("gcc" in fix, "without compilers there is no fix")
    due = f"{none}. To fix it: {fix}"
    checks.that(str(error) == due, f"without compilers it says {str(error)!r}, due is {due!r}")
    zig = folder / "ziglang"
    zig.mkdir()
    checks.raises(tools.NoCompilerError, "a package without zig", bench.found, None, zig)
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
    checks.that(set(t.flags) >= _SAFE, f"flags lack {_SAFE - set(t.flags)}")
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
        error = checks.raises(tools.NoCompilerError, f"CC={cc!r}", bench.found, cc)
        cause = f"$CC is {cc!r}, which is not an executable file"
        checks.that(getattr(error, "cause", "") == cause, f"CC={cc!r} says {error}")
    bench.compiler("bad", "echo bad 1", "-shared")
    error = checks.raises(tools.NoCompilerError, "a bad CC", bench.found, "bad")
    cause = getattr(error, "cause", "")
    due = "no C compiler works here (bad: error: unknown option -shared)"
    checks.that(cause == due, f"a bad compiler is told as {cause!r}")
    bench.compiler("gcc", "echo gcc 1", "-shared")
    t = bench.found()
    checks.that(t.command == ("clang",), f"after a gcc that fails comes {t.command}")
    bench.compiler("clang", "echo clang 1", "-shared")
    error = checks.raises(tools.NoCompilerError, "bad compilers", bench.found)
    cause = getattr(error, "cause", "")
    checks.that("gcc: error" in cause and "clang: error" in cause, f"two bad ones: {cause}")
    checks.that("apt install" in getattr(error, "fix", ""), "bad compilers have no fix")


@forked
def flags(checks: Checks, folder: Path, session: Session) -> None:
    """A flag that a compiler does not know is left out, and no other; keys follow the compiler."""
    tools = module(session, "toolchain")
    bench = _Bench(folder, tools)
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
    with changed(tools, processor=lambda: SimpleNamespace(
        machine="x86_64", name="Other", features=frozenset({"sse2"}),
    )):  # fmt: skip
        os.utime(path, ns=(10**18, 10**18))
        two = bench.found()
    with changed(tools, processor=lambda: SimpleNamespace(
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
        with changed(tools, _TIMEOUT_S=0.05):
            script(bench.folder / "gcc", "exec sleep 5")
            error = checks.raises(CompileError, "a compiler that hangs", t.compile, "x", target)
            checks.that("did not finish within" in str(error), f"a hang says {error}")
        (bench.folder / "gcc").unlink()
        os.environ["PATH"] = str(bench.folder)
        error = checks.raises(CompileError, "a compiler that is gone", t.compile, "x", target)
        checks.that("cannot run gcc" in str(error), f"a compiler that is gone says {error}")
    checks.that(not log.exists(), "a script was called that should not be")


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
    kept, cache = session.guard.real.info, str(folder / "cache")
    good, given = kept.details["command"], {}
    if session.level != "smoke":  # an empty cache, and a compiler of which nothing is known
        good = _wrapped(folder / "good", real, "")
        given = {"CC": good, "TENSORBUS_CACHE": cache}
    with changed(os.environ, TENSORBUS_NUM_THREADS="3"):
        plugin, lines = _probe(session, **given)
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


def _spoilt(k: int) -> str:
    """A compiler's option that makes the test kernel wrong in one element: -1 is a subnormal."""
    value = f"{k}.0f" if k >= 0 else "0x1p-148f"
    return f"-D__builtin_fmaf(a,b,c)=((a)=={value}?1e9f:__builtin_fma((a),(b),(c)))"


_ROUNDED = "-D__builtin_fmaf(a,b,c)=((a)*(b)+(c)*1.0000002f)"
_WRONG = (_ROUNDED, "-D__builtin_fmaf(a,b,c)=(c)", *map(_spoilt, (0, 7, 8, 31, 32, 38, -1)))


@forked
def doubts(checks: Checks, folder: Path, session: Session) -> None:
    """A compiler that gets one element of a kernel wrong, or builds nothing, is not believed."""
    real = shutil.which("gcc") or shutil.which("clang")
    cache = str(folder / "cache")
    plugin, (y,) = _probe(session, CC="/no/such/cc", TENSORBUS_CACHE=cache)
    checks.that("$CC is '/no/such/cc'" in y.cause, f"a CC that is nowhere: {y.cause}")
    error = checks.raises(DeviceUnavailableError, "no compiler", plugin.open, 0)
    checks.that("'cpu'" in str(error), f"without a compiler opening says {error}")
    if real is None or session.level == "smoke":
        return
    old = folder / "cache/tmp/left"
    old.mkdir(parents=True)
    os.utime(old, (10**9, 10**9))
    moody = script(folder / "moody", f'exec {real} "$@" -O0 ${{EXTRA:+"$EXTRA"}}\n')
    plugin, (y,) = _probe(session, CC=str(moody), TENSORBUS_CACHE=cache)
    checks.that(y.available, f"a slow compiler is not believed: {y.cause}")
    checks.that(not old.exists(), "what a process left behind long ago stays in the cache")
    for built in list((folder / "cache").rglob("payload.so")):
        if b"tb_check" in built.read_bytes():
            shutil.rmtree(built.parent)
    for k, option in enumerate(_WRONG):
        # A library of a path that is loaded already would not be loaded again.
        kept = shutil.copytree(cache, folder / f"cache{k}")
        given = {"CC": str(moody), "TENSORBUS_CACHE": str(kept), "EXTRA": option}
        plugin, (y,) = _probe(session, **given)
        what = option[option.index("=") :]
        checks.that(not y.available, f"a compiler whose fma is {what} is believed")
        checks.that("a test kernel failed: element" in y.cause, f"{what}: {y.cause}")
        checks.that("CC" in y.fix and str(kept) in y.fix, f"{what}: the fix is {y.fix}")
        checks.that((y.name, y.plugin, y.index) == ("cpu", "cpu", 0), f"{what}: {y}")
        error = checks.raises(DeviceUnavailableError, what, plugin.open, 0)
        checks.that(getattr(error, "cause", "") == y.cause, f"{what}: opening says {error}")
    for name, word, cause in (
        ("late", "tb_configure", "the C runtime cannot be built: "),
        ("last", "tb_check", "a test kernel failed: "),
    ):
        bad = script(folder / name, f"""
            for a in "$@"; do case "$a" in *kernels.c)
                grep -q {word} "$a" && {{ for k in 1 2 3 4 5; do echo "w$k" >&2; done; exit 1; }} ;;
            esac; done
            exec {real} "$@" -O0
            """)  # fmt: skip
        plugin, (y,) = _probe(session, CC=str(bad), TENSORBUS_CACHE=cache)
        checks.that(not y.available and y.cause.startswith(cause), f"{name}: {y.cause}")
        told = y.cause.split(" / ")
        checks.that(told[1:] == ["w1", "w2"], f"of a long log {told} is told")
        checks.that("set CC" in y.fix, f"{name}: {y.fix}")


duty("compiler", search, flags, proof, doubts, plugins=("cpu",), smoke=False)
