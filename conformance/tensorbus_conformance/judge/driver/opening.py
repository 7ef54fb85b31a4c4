"""How a device proves itself when it is opened, and the words of the contract's errors."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorbus_backends import opening
from tensorbus_backends.check import OPERATIONS
from tensorbus_backends.contract import (
    CONTRACT,
    FEATURES,
    BackendError,
    Buffer,
    Capabilities,
    CompileError,
    Device,
    DeviceInfo,
    DeviceLostError,
    DeviceUnavailableError,
    Evidence,
    LaunchError,
    MemoryFigures,
    Native,
    NativeCase,
    NativeTable,
    OutOfMemoryError,
    UnknownDeviceError,
    UnsupportedError,
)
from tensorbus_backends.loading import loader_words
from tensorbus_backends.opening import (
    Terms,
    absent,
    checked,
    expect_index,
    tried,
    unavailable,
)

from ..session import Session
from .apart import changed, forked
from .base import Checks, duty

_TERMS = Terms("2.5", "3", "mend it", "mend its compiler", "make room")
_LINE = DeviceInfo(
    "fake:0", "fake", 0, description="Fake", details={"driver": "1.0"}, evidence=Evidence.UNSTATED
)


def _device() -> Any:
    """What opening needs of a device, with the number of times its cache was emptied."""
    made = SimpleNamespace(info=_LINE, capabilities=Capabilities(frozenset({"float32"})), emptied=0)

    def empty() -> None:
        made.emptied += 1

    made.empty_cache = empty
    return made


def _found(*inexact: str) -> Mapping[str, bool]:
    names = [f"{o} {f}" for f in ("f32", "f64") for o in OPERATIONS]
    return {n: n not in inexact for n in names}


def _giving(value: Any) -> Callable[..., Any]:
    return lambda *_: value


def _raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


@forked
def proofs(checks: Checks, folder: Path, session: Session) -> None:
    """A device declares what was found out about it; one that adds wrongly is none."""
    for inexact, division, root, subnormals, ieee in (
        ((), "correct", "correct", "preserve", True),
        (("div f32",), "2.5", "correct", "preserve", False),
        (("sqrt f64",), "correct", "3", "preserve", False),
        (("subnormal f32",), "correct", "correct", "flush", True),
        (("div f64", "sqrt f32", "subnormal f32"), "2.5", "3", "flush", False),
        (("mul_add f32", "fma f64"), "correct", "correct", "preserve", False),
    ):
        device = _device()
        with changed(opening, run_check=_giving(_found(*inexact))):
            got = checked("fake:0", _giving(device), _TERMS)
        c = got.capabilities
        told = (c.division, c.square_root, c.subnormals, c.ieee)
        due = (division, root, subnormals, ieee)
        checks.that(got is device and told == due, f"inexact {inexact} declares {told}, not {due}")
        named = ", ".join(n for n in _found() if n in inexact)
        details = {"driver": "1.0", **({"inexact": named} if inexact else {})}
        checks.that(dict(got.info.details) == details, f"inexact {inexact}: {got.info.details}")
        checks.that(c.dtypes == frozenset({"float32"}), "what it declares otherwise is lost")
    for wrong in (("add f32",), ("mul f64",), ("add f64", "mul f32", "div f32")):
        needed = [n for n in _found() if n in wrong and not n.startswith("div")]
        with changed(opening, run_check=_giving(_found(*wrong))):
            error = checks.raises(
                DeviceUnavailableError, f"wrong {wrong}", checked, "fake:0", _device, _TERMS
            )
        cause = f"a small kernel gave wrong results on it ({', '.join(needed)})"
        if isinstance(error, DeviceUnavailableError):
            told_error = (error.device, error.cause, error.fix)
            checks.that(told_error == ("fake:0", cause, "mend it"), f"{wrong} says {told_error}")


@forked
def failures(checks: Checks, folder: Path, session: Session) -> None:
    """A device that cannot compile or run a small kernel says why, in one line, and what to do."""
    compiler = "its compiler fails on a small kernel: "
    cases: list[tuple[BackendError, str, str]] = [
        (CompileError("rejected", "1 warning\n x.c: Error: no float \nerror: more\n"),
         compiler + "x.c: Error: no float", "mend its compiler"),
        (CompileError("rejected", "\n says nothing\nmore"),
         compiler + "rejected (says nothing)", "mend its compiler"),
        (CompileError("rejected"), compiler + "rejected", "mend its compiler"),
        (CompileError("rejected", " \n"), compiler + "rejected", "mend its compiler"),
        (OutOfMemoryError("no room; drop tensors; x"),
         "a small kernel finds no room in its memory (no room)", "make room"),
        (BackendError("lost\n today"), "a small kernel cannot be run on it (lost today)",
         "mend it"),
        (LaunchError("no"), "a small kernel cannot be run on it (no)", "mend it"),
        (DeviceUnavailableError("fake", "old", "update"), "old", "update"),
    ]  # fmt: skip
    for error, cause, fix in cases:
        for make, check in ((_raising(error), _giving({})), (_device, _raising(error))):
            with changed(opening, run_check=check):
                line = tried(_LINE, functools.partial(checked, "fake:0", make, _TERMS))
            told = (line.available, line.cause, line.fix)
            checks.that(told == (False, cause, fix), f"{error!r} is told as {told}, due is {cause}")
            kept = (line.name, line.index, line.description, dict(line.details))
            checks.that(kept == ("fake:0", 0, "Fake", {"driver": "1.0"}), f"a line loses: {kept}")
    with changed(opening, run_check=_raising(CompileError("rejected"))):
        line = tried(_LINE, lambda: checked("fake:0", _device, Terms("2", "3", "mend it")))
    checks.that(line.fix == "mend it", f"without a fix for compilers it is {line.fix!r}")
    for default in ("fix", "memory_fix"):
        checks.that(bool(getattr(Terms("2", "3"), default)), f"terms have no {default}")
    checks.that(Terms("2", "3").compiler_fix == "", "a compiler's fix is made up")
    device = _device()
    with changed(opening, run_check=lambda d: _found("div f32")):
        line = tried(_LINE, lambda: checked("fake:0", lambda: device, _TERMS))
    checks.that(
        line.available and line.details.get("inexact") == "div f32", f"it is told as {line}"
    )
    checks.that(device.emptied == 1, "a device that was only tried keeps memory")


@forked
def lines(checks: Checks, folder: Path, session: Session) -> None:
    """Numbers that no device has, and lines of what is absent."""
    for count in (0, 1, 2, 5):
        for index in range(-2, 8):
            if 0 <= index < count:
                checks.that(expect_index("fake", index, count, "Fake") is None, "it gives some")  # type: ignore[func-returns-value]
                continue
            hint = "unset FAKE" if index % 2 else ""
            error = checks.raises(
                DeviceUnavailableError, f"device {index} of {count}",
                expect_index, "fake", index, count, "Fake", hint,
            )  # fmt: skip
            if isinstance(error, DeviceUnavailableError):
                plural = "" if count == 1 else "s"
                told = (error.device, error.cause, error.fix)
                due = (
                    f"fake:{index}", f"this process sees {count} Fake device{plural}",
                    "choose one that `tensorbus devices` lists" + (f", or {hint}" if hint else ""),
                )  # fmt: skip
                checks.that(told == due, f"device {index} of {count} says {told}")
    x = absent("fake", "Fakes", "no\n  driver", "install it")
    due_line = DeviceInfo(
        "fake",
        "fake",
        -1,
        False,
        (),
        "Fakes",
        "no driver",
        "install it",
        evidence=Evidence.UNSTATED,
    )
    checks.that(x == due_line, f"what is absent is {x}")
    checks.that(absent("fake", "F", "no", "do", "fake:x").name == "fake:x", "its name is lost")
    y = unavailable(_LINE, " a\tb ", "f")
    checks.that((y.available, y.cause, y.fix, y.name) == (False, "a b", "f", "fake:0"), f"{y}")
    advice = "Additionally, ctypes.util.find_library() did not manage to locate a library"
    for text, most, due_words in (
        (f"cannot load library 'x.so': x.so: no such file.  {advice}", 200, "x.so: no such file"),
        ("plain  words\n on lines", 200, "plain words on lines"), ("y" * 200, 200, "y" * 200),
        ("y" * 201, 200, "y" * 197 + "..."), ("12345678", 8, "12345678"),
        ("123456789", 8, "12345..."), ("", 200, ""),
    ):  # fmt: skip
        got = loader_words(OSError(text), most)
        checks.that(got == due_words, f"the loader's words {text[:40]!r} become {got!r}")
    checks.that(len(loader_words(OSError("z" * 900))) == 200, "the loader's words are long")


def _compile_errors(checks: Checks) -> None:
    source = "\n".join(f"s{k}" for k in range(1, 10))
    numbered = "\n".join(f"{k:4d} s{k}" for k in range(1, 10))
    error = CompileError("rejected", "", source)
    checks.that(str(error) == "rejected", f"without a log it says {error}")
    checks.that((error.log, error.source) == ("", source), "log and source are lost")
    full = CompileError("rejected", "log", "source")
    checks.that(full.args == ("rejected",), f"its message is {full.args}")
    back = pickle.loads(pickle.dumps(full))
    told = (str(back), back.log, back.source)
    checks.that(told == ("rejected\nlog", "log", "source"), f"after a pickle it is {told}")
    checks.that(error.numbered_source() == numbered, "the numbered source is wrong")
    for log, line in (
        ("k.c:4:12: error: what", 4), ("file(4): error: x", 4), ("k.c:1:1: error", 1),
        ("k.c:2:1: error", 2), ("k.c:3:1: error", 3), ("k.c:9:3: fatal error", 9),
        ("warning only", 0), ("k.c:5:1: warning\nk.c:7:1: error", 7), ("k.c:0:1: error", 0),
    ):  # fmt: skip
        excerpt = numbered.splitlines()[max(0, line - 3) : line + 2] if line else []
        text = "\n".join(["rejected", *log.splitlines(), *excerpt])
        got = str(CompileError("rejected", log, source))
        checks.that(got == text, f"with the log {log!r} it says {got!r}, due is {text!r}")
    for count in (19, 20, 21, 40):
        log = "\n".join(f"w{k}" for k in range(count))
        shown = [f"w{k}" for k in range(min(count, 20))] + (["..."] if count > 20 else [])
        got = str(CompileError("head", f"\n{log}\n"))
        checks.that(got == "\n".join(["head", *shown]), f"of {count} lines of a log {got!r}")


_NOTHING: Any = _giving(None)


class _Least(Device):
    """A device with what is abstract only."""

    info = _LINE

    allocate = copy_in = copy_out = copy = compile = _NOTHING
    launch = synchronize = record = memory = empty_cache = _NOTHING


@forked
def contract(checks: Checks, folder: Path, session: Session) -> None:
    """Errors say what they know and survive a pickle; what nobody states has a default."""
    _compile_errors(checks)
    error = DeviceUnavailableError("x:1", "it is old", "buy another")
    due = "device 'x:1' is unavailable: it is old. To fix it: buy another"
    checks.that(str(error) == due, f"an unavailable device says {error}")
    back = pickle.loads(pickle.dumps(error))
    told = (type(back), str(back), back.device, back.cause, back.fix)
    checks.that(told == (DeviceUnavailableError, due, "x:1", "it is old", "buy another"), f"{told}")
    for kind, also in (
        (UnknownDeviceError, ValueError), (OutOfMemoryError, MemoryError),
        (CompileError, RuntimeError), (LaunchError, RuntimeError), (DeviceLostError, RuntimeError),
        (UnsupportedError, RuntimeError), (DeviceUnavailableError, RuntimeError),
    ):  # fmt: skip
        right = issubclass(kind, BackendError) and issubclass(kind, also)
        checks.that(right, f"{kind.__name__} is no BackendError and {also.__name__}")
    checks.that(CONTRACT == (2, 0), f"this is version {CONTRACT} of the contract")
    since = dict.fromkeys(("address", "parts", "peers", "synchronous"), (2, 0))
    checks.that(dict(FEATURES) == since, f"features are {dict(FEATURES)}")
    words = [str(e) for e in Evidence]
    checks.that(words == ["hardware", "simulated", "compiled", "unstated"], f"evidence: {words}")
    c = Capabilities(frozenset())
    told_c = (
        c.fp64, c.fp16, c.fma, c.subnormals, c.division, c.square_root, c.local_memory,
        c.max_group, c.atomics, c.ieee,
    )  # fmt: skip
    due_c = (
        True, False, True, "preserve", "correct", "correct", 32768, 256, False, True,
    )  # fmt: skip
    checks.that(told_c == due_c, f"capabilities are by default {told_c}")
    checks.raises(TypeError, "a line without evidence", lambda: DeviceInfo("a", "a", 0))  # type: ignore[call-arg]
    x = DeviceInfo("a", "a", 0, evidence=Evidence.UNSTATED)
    told_x = (x.available, x.aliases, x.description, x.cause, x.fix, x.evidence, dict(x.details))
    due_x: tuple[Any, ...] = (True, (), "", "", "", Evidence.UNSTATED, {})
    checks.that(told_x == due_x, f"a line is by default {told_x}")
    checks.that(MemoryFigures(1, 2, 3).total == 0, "an unknown total is not 0")
    checks.that(
        hash(x) == hash(DeviceInfo("a", "a", 0, details={"k": "v"}, evidence=Evidence.UNSTATED)),
        "details are hashed",
    )
    device = _Least()
    plain = (
        device.dialect, dict(device.natives), device.dlpack_type, device.dlpack_stream,
        device.features,
    )  # fmt: skip
    checks.that(plain == (None, {}, 0, 0, frozenset()), f"a device has by default {plain}")
    block = Buffer()
    for name, arguments in (
        ("address", (block,)), ("pointer", (block,)), ("part", (block, 0, 0)),
        ("import_pointer", (0, 0, None)), ("copy_from", (block, 0, block, 0, 0)),
    ):  # fmt: skip
        error_ = checks.raises(UnsupportedError, name, getattr(device, name), *arguments)
        checks.that("fake:0" in str(error_), f"{name} of a device without it says {error_}")
    table = NativeTable()

    def when(case: NativeCase) -> bool:
        return True

    def run(case: NativeCase, buffers: Any, offsets: Any) -> None:
        return

    kept = table.implements("matmul", when=when, library="L 1")(run)
    checks.that(kept is run, "a native kernel's function is replaced")
    checks.that(table.table == {"matmul": Native(when, run, "L 1")}, f"the table is {table.table}")
    checks.that(dict(NativeCase("a", (), (), ()).options) == {}, "a case has options by default")


duty("opening", proofs, failures, lines, contract, plugins=("cpu",))
