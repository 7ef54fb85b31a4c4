"""How a plugin is asked for its devices: whatever it does comes out as lines that explain it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorbus_backends import probing
from tensorbus_backends.contract import API_VERSION, DeviceInfo, Evidence
from tensorbus_backends.probing import Announcement, Child, check_plugin, describe

from ..session import Session
from .apart import Folder, changed, forked
from .base import Checks, duty
from .discovery import plain

_REPAIR, _REPORT = "repair fake-bad 1.0", "report this to the authors of fake-bad 1.0"
_REMOVE = "repair or uninstall fake-bad 1.0"
_OLD = (
    "upgrade fake-bad 1.0, or change it: give every DeviceInfo its evidence; say in "
    "Device.features what was synchronous and Capabilities.host_accessible, and whether it has "
    "part and copy_from; then api_version = (2, 0) (docs/adding-a-device.md has an example)"
)
_NEW = "upgrade tensorbus to one with contract 3, or install a fake-bad 1.0 for contract 2"
_NONE = "repair fake-bad 1.0: api_version = (2, 0) if it is written for 2.0"


def _one(name: str, *rest: str) -> str:
    stated = any(x.startswith("evidence") for x in rest)
    arguments = ", ".join((repr(name), *rest, *(() if stated else ("evidence=Evidence.UNSTATED",))))
    return f"return [DeviceInfo({arguments})]"


_LONG = "return " + repr("x" * 79)  # its repr has 81 characters
_FITS = "return " + repr("x" * 78)

_BAD: tuple[tuple[str, str, str], ...] = (
    ("raise ImportError('no libfoo.so')", "failed: ImportError: no libfoo.so", _REMOVE),
    ("raise ImportError", "failed: ImportError", _REMOVE),
    ("import sys; sys.exit(3)", "tried to end the process: SystemExit: 3", _REMOVE),
    ("x = 1", "AttributeError: module", _REMOVE),
    ("this is no Python", "SyntaxError", _REMOVE),
    ("PLUGIN = None", "its api_version is None, which is no version of the plugin contract", _NONE),
    ("class P: api_version = 2, 0\nPLUGIN = P()", "it has no method probe or open", _REPAIR),
    ("class P:\n api_version = 2, 0\n def probe(self): pass\nPLUGIN = P()",
     "no method open", _REPAIR),
    ("class P:\n api_version, probe = (2, 0), 2\n def open(self, k): pass\nPLUGIN = P()",
     "no method probe", _REPAIR),
    (plain("bad", version="1"), "written for version 1 of the plugin contract, and this is 2.0",
     _OLD),
    (plain("bad", version="(1, 7)"), "it is written for version 1.7 of the plugin contract", _OLD),
    (plain("bad", version="3"), "it is written for version 3 of the plugin contract", _NEW),
    (plain("bad", version="(3, 1)"), "it is written for version 3.1 of the plugin contract", _NEW),
    (plain("bad", version="2"), "its api_version is 2, which is no version", _NONE),
    (plain("bad", version="'0'"), "its api_version is '0', which is no version", _NONE),
    (plain("bad", version="(2, 0, 0)"), "its api_version is (2, 0, 0), which is no", _NONE),
    (plain("bad", version="(True, 0)"), "its api_version is (True, 0), which is no", _NONE),
    (plain("bad", "return [DeviceInfo('bad', 'bad', 0)]"), "argument: 'evidence'", _REPORT),
    (plain("bad", "raise OSError('driver\\n  is sad')"), "its probe failed: OSError: driver is sad",
     _REPORT),
    (plain("bad", "raise SystemExit('bye')"), "its probe failed: SystemExit: bye", _REPORT),
    (plain("bad", "return 7"), "its probe returned 7 instead of a list of DeviceInfo", _REPAIR),
    (plain("bad", "return None"), "its probe returned None instead of a list", _REPAIR),
    (plain("bad", "return [1, 2]"), "its probe returned [1, 2] instead of a list", _REPAIR),
    (plain("bad", "return {1}"), "its probe returned {1} instead of a list", _REPAIR),
    (plain("bad", _LONG), "its probe returned 'xxx", _REPAIR),
    (plain("bad", _one("bad", "'bad'", "0").replace("]", ", 1]")), "instead of a list", _REPAIR),
    (plain("bad", "return []"), "its probe found no device and gave no cause", _REPORT),
    (plain("bad", _one("bad", "'cpu'", "0")), "lists a device of plugin 'cpu'", _REPAIR),
    (plain("bad", _one("cpu", "'bad'", "0")), "'cpu', but its names must begin with 'bad'",
     _REPAIR),
    (plain("bad", _one("bader", "'bad'", "0")), "its names must begin with 'bad'", _REPAIR),
    (plain("bad", _one("bad", "'bad'", "0", "aliases=('gpu',)")),
     "gives 'bad' an alias that does not begin with 'bad:'", _REPAIR),
    (plain("bad", _one("bad", "'bad'", "0", "aliases=('bad:0', 'bad')")), "an alias", _REPAIR),
    (plain("bad", _one("bad", "'bad'", "0", "False")), "unavailable without cause and fix",
     _REPAIR),
    (plain("bad", _one("bad", "'bad'", "0", "False", "cause='x'")), "without cause", _REPAIR),
    (plain("bad", _one("bad", "'bad'", "0", "False", "fix='x'")), "without cause", _REPAIR),
    (plain("bad", _one("bad", "'bad'", "0", "evidence='sure'")),
     "with the evidence 'sure', which there is not", _REPAIR),
    (plain("bad", _one("bad", "'bad'", "'0'")), "with the index '0'", _REPAIR),
)  # fmt: skip
"""Code of a plugin, what the cause must say, and the fix."""


@forked
def described(checks: Checks, folder: Path, session: Session) -> None:
    """A plugin that misbehaves is one absent line with its cause and fix on one line each."""
    group = Folder(folder)
    for code, cause, fix in _BAD:
        value = group.add("bad", code)
        lines = describe(Announcement("bad", value, "fake-bad 1.0"))
        if not checks.that(len(lines) == 1, f"{code[-80:]!r} gives {len(lines)} lines"):
            continue
        (x,) = lines
        due: Any = ("bad", "bad", 0, False, value, (), fix, {})
        told = (x.name, x.plugin, x.index, x.available, x.description, x.aliases, x.fix, x.details)
        checks.that(told == due, f"{code[-60:]!r} is told as {told}, due is {due}")
        checks.that(cause in x.cause, f"{code[-60:]!r} is told as {x.cause!r}, due is {cause!r}")
        checks.that("\n" not in x.cause + x.fix, f"{code[-60:]!r} is told in several lines")
    for code, most in ((_LONG, "'" + "x" * 76 + "..."), (_FITS, "'" + "x" * 78 + "'")):
        (x,) = describe(Announcement("bad", group.add("bad", plain("bad", code)), ""))
        due_cause = f"its probe returned {most} instead of a list of DeviceInfo"
        checks.that(x.cause == due_cause, f"what a probe returns is shown as {x.cause!r}")
    for size, shown in ((300, 300), (367, 367), (381, 381), (382, 382), (900, 400)):
        error = f"raise ValueError({'y' * size!r})"
        (x,) = describe(Announcement("bad", group.add("bad", plain("bad", error)), ""))
        text = f"its probe failed: ValueError: {'y' * size}"
        text = text if len(text) <= 400 else text[:397] + "..."
        checks.that(x.cause == text, f"of a message of {size} {len(x.cause)} are shown, {shown}")
    good = Announcement("bad", group.add("bad", plain("bad")), "fake-bad 1.0")
    checks.that([x.name for x in describe(good)] == ["bad"], "a good plugin is refused")
    checks.that(check_plugin(good, good.load()) is None, "a good plugin is refused")
    old = check_plugin(good, SimpleNamespace(api_version=API_VERSION))
    checks.that(old is not None and old.fix == _OLD, f"an old plugin is told as {old}")
    later = SimpleNamespace(api_version=(2, 9), probe=id, open=id)
    checks.that(check_plugin(good, later) is None, "a plugin of a later minor version is refused")


@forked
def several(checks: Checks, folder: Path, session: Session) -> None:
    """Lines that keep the contract stand beside those that do not."""
    group = Folder(folder)
    probe = """from functools import partial
        make = partial(DeviceInfo, evidence=Evidence.COMPILED)
        return [
            make('many:0', 'many', 0, aliases=('many:x:0', 'many:y:0')),
            make('many:0', 'many', 1),
            make('many:1', 'many', 2, available=False, cause='c', fix='f'),
            make('many:1', 'many', 3, available=False, cause='d', fix='g'),
            make('many:1', 'many', 4),
            make('other:1', 'many', 5),
            make('many:6', 'many', 6, details={'a': 'b'}),
            make('many', 'many', 7, evidence='hardware'),
        ]"""
    lines = describe(Announcement("many", group.add("many", plain("many", probe)), "p 1"))
    got = [(x.name, x.index, x.available) for x in lines]
    due = [
        ("many:0", 0, True), ("many", 0, False), ("many:1", 2, False), ("many:1", 3, False),
        ("many", 0, False), ("many", 0, False), ("many:6", 6, True), ("many", 7, True),
    ]  # fmt: skip
    checks.that(got == due, f"lines are {got}, due are {due}")
    if len(lines) == 8:
        checks.that(
            "lists 'many:0' twice" in lines[1].cause, f"a second line is told as {lines[1].cause}"
        )
        checks.that(lines[0].aliases == ("many:x:0", "many:y:0"), "aliases are lost")
        checks.that(lines[6].details == {"a": "b"}, "details are lost")
    tupled = probe.replace("return [", "return (", 1).replace("]", ")")
    lines = describe(Announcement("many", group.add("many", plain("many", tupled)), "p 1"))
    checks.that([(x.name, x.index, x.available) for x in lines] == due, "a tuple of lines differs")


@forked
def words(checks: Checks, folder: Path, session: Session) -> None:
    """Names that a plugin may have; seconds that it may take; lines as text and back."""
    for name in ("cpu", "my-chip", "a_b9", "x"):
        checks.that(probing.valid_name(name), f"{name!r} can be no plugin")
    for name in ("auto", "", "Cpu", "9x", "a b", "a:b", "-a", "cpu\n", "ä"):
        checks.that(not probing.valid_name(name), f"{name!r} can be a plugin")
    default, simulated = 20.0, 180.0
    for text, simulate, due, warns in (
        ("", "", default, False), ("", "cuda", simulated, False), ("7", "", 7.0, False),
        ("0.5", "cuda", 0.5, False), ("x", "", default, True), ("-1", "", default, True),
        ("nan", "cuda", simulated, True), ("inf", "", default, True), ("0", "", default, True),
        (None, "", default, False), ("1e-3", "", 0.001, False),
    ):  # fmt: skip
        with (
            changed(os.environ, TENSORBUS_PROBE_TIMEOUT=text, TENSORBUS_SIMULATE=simulate),
            warnings.catch_warnings(record=True) as told,
        ):
            warnings.simplefilter("always")
            seconds = probing.probe_timeout()
        checks.that(seconds == due, f"a timeout of {text!r} is {seconds} s, due is {due}")
        checks.that(bool(told) == warns, f"a timeout of {text!r} gives {len(told)} warnings")
        if told:
            said = str(told[0].message)
            checks.that(f"{due:g} s are used" in said, f"a timeout of {text!r}: {said}")
    given = [
        DeviceInfo("x:0", "x", 0, True, ("x:a:0",), "words", evidence=Evidence.SIMULATED),
        DeviceInfo(
            "x:1",
            "x",
            1,
            False,
            (),
            "",
            "cause",
            "fix",
            details={"threads": "4"},
            evidence=Evidence.UNSTATED,
        ),
    ]
    back = probing.from_json(probing.to_json(given))
    checks.that(back == given, f"lines come back as {back}")
    told_details = [dict(x.details) for x in back]
    checks.that(told_details == [{}, {"threads": "4"}], "details do not come back")
    checks.that(isinstance(back[0].aliases, tuple), "aliases come back as a list")
    checks.that(type(back[0].evidence) is Evidence, "evidence comes back as text")
    odd = replace(given[1], details={"threads": 4, "path": folder, "none": None, 5: True})  # type: ignore[dict-item]
    (back_odd,) = probing.from_json(probing.to_json([odd]))
    texts = dict(back_odd.details)
    due_texts = {"threads": "4", "path": str(folder), "none": "None", "5": "True"}
    checks.that(texts == due_texts, f"details that are no text come back as {texts}")
    for text in ("", "{}x", "[1]", '[{"name": "x"}]', "null", '[{"aliases": []}]', "7"):
        kinds = (ValueError, KeyError, TypeError)
        checks.raises(kinds, f"lines from {text!r}", probing.from_json, text)


class _Process:
    """In the place of a process: ends with `code` after `hangs` waits."""

    def __init__(self, said: list[Any], code: int, hangs: int, out: bytes, err: bytes) -> None:
        self.said, self.code, self.hangs, self.out, self.err = said, code, hangs, out, err
        self.pid = 1 << 22  # no process has it
        self.ended = False

    def __call__(self, command: list[str], **options: Any) -> _Process:
        self.said.append(("start", command, options))
        for name, text in (("stdout", self.out), ("stderr", self.err)):
            os.write(options[name].fileno(), text)
        return self

    def wait(self, timeout: float | None = None) -> int:
        """Its status, after so many timeouts."""
        self.said.append(("wait", timeout))
        if self.hangs and timeout is not None:
            self.hangs -= 1
            raise subprocess.TimeoutExpired("x", timeout)
        self.ended = True
        return self.code

    def poll(self) -> int | None:
        """Its status if it has been waited for."""
        return self.code if self.ended else None

    def send_signal(self, number: int) -> None:
        """Noted."""
        self.said.append(("signal", number))

    def kill(self) -> None:
        """Noted."""
        self.said.append(("kill",))


def _ask(
    process: Any, folder: Path, timeout: float = 3.0, *, alone: bool = False
) -> tuple[list[DeviceInfo], list[Any]]:
    """What a child gives whose process is made up, and what was done with the process."""
    killed: list[Any] = process.said

    def killpg(pid: int, number: int) -> None:
        killed.append(("killpg", pid, number))
        if alone:
            raise ProcessLookupError

    plugin = Announcement("far", "far_module:PLUGIN", "far 2.0")
    with changed(subprocess, Popen=process), changed(os, killpg=killpg):
        child = Child(plugin, timeout)
        lines = child.result()
    for stream in (child._out, child._err):
        killed.append(("closed", stream.closed))
    return lines, killed


@forked
def asked(checks: Checks, folder: Path, session: Session) -> None:
    """The process that asks a plugin ends by itself, sees what is here, and disturbs none."""
    due_line = DeviceInfo("far:0", "far", 0, evidence=Evidence.HARDWARE, details={"a": "b"})
    text = probing.to_json([due_line]).encode()
    sys.path.insert(0, "")
    lines, said = _ask(_Process([], 0, 0, text, b"noise"), folder)
    checks.that(lines == [due_line], f"a plugin's answer comes as {lines}")
    _, command, options = said[0]
    checks.that(command[0] == sys.executable, "another interpreter is started")
    tail = ["-m", "tensorbus_backends.probe_child", "far", "far_module:PLUGIN", "far 2.0"]
    checks.that(command[-6:-1] == tail, f"the command is {command}")
    checks.that("-P" in command and "faulthandler" in command, f"the command is {command}")
    # It outlives whoever asks, if that is killed, by ten seconds at most.
    ends = float(command[-1])
    checks.that(3.0 < ends <= 13.0, f"it ends itself after {ends} s, and is waited for 3 s")
    checks.that(options["stdin"] == subprocess.DEVNULL, "it may read what the user types")
    checks.that(options["start_new_session"] is True, "an interrupt reaches it")
    paths = options["env"]["PYTHONPATH"].split(os.pathsep)
    due_paths = [p or os.getcwd() for p in sys.path]
    checks.that(paths == due_paths, "it does not find what is found here")
    others = {k: v for k, v in options["env"].items() if k != "PYTHONPATH"}
    here = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    checks.that(others == here, "it has another environment")
    waited = [x[1] for x in said if x[0] == "wait"]
    checks.that(bool(waited) and 2.0 < waited[0] <= 3.0, f"it is waited for {waited} s")
    checks.that(not [x for x in said if "kill" in x[0]], "a process that has ended is killed")
    checks.that(said[-2:] == [("closed", True)] * 2, "its files stay open")


@forked
def endings(checks: Checks, folder: Path, session: Session) -> None:
    """However the process ends that asks a plugin, a line says how, and its last words."""
    noise = "\n".join(f"line {k}" for k in range(30)).encode()
    fix = "update or reinstall its driver, or repair far 2.0"
    for code, out, how in (
        (0, b"", "ended the process with status 0"), (0, b"[1]", "with status 0"),
        (0, b'[{"name": "x"}]', "with status 0"), (0, b"\xff\xfe", "with status 0"),
        (3, b"[]", "ended the process with status 3"), (1, b"", "with status 1"),
        (-11, b"", "crashed with SIGSEGV (segmentation fault)"),
        (-6, b"[]", "crashed with SIGABRT (aborted)"), (-9, b"", "crashed with SIGKILL (killed)"),
        (-77, b"", "was killed by signal 77"),
    ):  # fmt: skip
        lines, _ = _ask(_Process([], code, 0, out, noise), folder)
        if not checks.that(len(lines) == 1, f"status {code} gives {len(lines)} lines"):
            continue
        (x,) = lines
        cause = f"{how} while its devices were being listed"
        checks.that(x.cause.endswith(cause), f"status {code} is told as {x.cause!r}")
        checks.that((x.available, x.fix) == (False, fix), f"status {code}: {x.fix!r}")
        due = {"stderr": "\n".join(f"line {k}" for k in range(10, 30))}
        checks.that(dict(x.details) == due, f"status {code} keeps {dict(x.details)}")
    lines, _ = _ask(_Process([], 3, 0, b"", b" \n"), folder)
    checks.that(not lines[0].details, "no last words are kept")
    # One that does not answer is asked once more, with twice the time.
    lines, said = _ask(_Process([], 0, 3, b"[]", noise), folder)
    (x,) = lines if lines else (DeviceInfo("", "", 0, evidence=Evidence.UNSTATED),)
    due_cause = "it did not list its devices within 3 s, nor within 6 s when it was asked again"
    checks.that(x.cause == due_cause, f"a plugin that hangs is told as {x.cause!r}")
    checks.that("TENSORBUS_PROBE_TIMEOUT" in x.fix and "far 2.0" in x.fix, f"the fix is {x.fix}")
    checks.that(x.available is False, "a plugin that hangs is available")
    checks.that("line 29" in x.details.get("stderr", ""), "where it hangs is not kept")
    starts = [s for s in said if s[0] == "start"]
    checks.that(len(starts) == 2, f"a plugin that hangs is asked {len(starts)} times")
    if len(starts) == 2:
        limits = [float(s[1][-1]) for s in starts]
        checks.that(limits[1] - limits[0] == 3.0, f"it may take {limits} s")
    asks = [s[1] for s in said if s[0] == "signal"]
    checks.that(asks == [signal.SIGABRT] * 2, f"it is asked where it hangs by {asks}")
    # The listing is not held up for long by that.
    waits = [s[1] for k, s in enumerate(said) if s[0] == "wait" and said[k - 1][0] == "signal"]
    checks.that(all(0.5 <= w <= 2.0 for w in waits), f"it is waited for its answer for {waits} s")
    checks.that(len(waits) == 2, "where it hangs is not waited for")
    checks.that(("wait", None) in said, "a process that was ended stays a zombie")
    kills = [s for s in said if s[0] == "killpg"]
    checks.that(
        kills == [("killpg", 1 << 22, signal.SIGKILL)], f"a plugin that hangs is ended by {kills}"
    )
    # It hangs once, and answers when it is asked again.
    good = probing.to_json([DeviceInfo("far", "far", 0, evidence=Evidence.UNSTATED)]).encode()
    lines, said = _ask(_Process([], 0, 1, good, b""), folder)
    checks.that([y.name for y in lines] == ["far"], "what it says when asked again is lost")
    lines, said = _ask(_Process([], 0, 9, b"", b""), folder, alone=True)
    checks.that(("kill",) in said, "a process without a group of its own is not ended")
    for words_, how in (("Segmentation fault: 11", "(segmentation fault)"), (None, "()")):
        with changed(signal, strsignal=lambda n, w=words_: w):
            lines, _ = _ask(_Process([], -11, 0, b"", b""), folder)
        checks.that(f"SIGSEGV {how} while" in lines[0].cause, f"{words_!r}: {lines[0].cause}")
    for executable in (None, "/nowhere/python"):
        with changed(sys, executable=executable):
            (x,) = Child(Announcement("far", "far:PLUGIN"), 3.0).result()
        cause = "the process that probes it could not be started"
        checks.that(cause in x.cause and not x.available, f"without Python: {x.cause}")
        checks.that(x.fix == "let Python start processes", f"without Python: {x.fix}")


def _hang(group: Folder) -> Callable[[], list[DeviceInfo]]:
    code = plain("slow", "import time; time.sleep(600)")
    child = Child(Announcement("slow", group.add("slow", code), "p 1"), 0.05)
    return child.result


@forked
def processes(checks: Checks, folder: Path, session: Session) -> None:
    """Real processes: an answer beside noise, a crash, a hang; nothing is left behind."""
    group = Folder(folder)
    noise = "import os; print('[]'); os.write(1, b'[]'); "
    good = plain(
        "good",
        noise + "return [DeviceInfo('good:0', 'good', 0, details={'n': 4}, evidence='hardware')]",
    )
    crash = plain("crash", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    plugins = {"good": good} if session.level == "smoke" else {"good": good, "crash": crash}
    asked = {
        n: Child(Announcement(n, group.add(n, code), "p 1"), 60.0) for n, code in plugins.items()
    }
    quick = Child(Announcement("slow", group.add("slow", plain("slow")), ""), 60.0)
    process = quick._process
    quick.close()
    checks.that(
        process is not None and process.returncode is not None, "a closed probe is still running"
    )
    (x,) = asked["good"].result()
    checks.that(x.available and x.name == "good:0", f"beside noise a plugin is told as {x}")
    checks.that(dict(x.details) == {"n": "4"}, f"its details are {x.details}")
    if session.level != "smoke":
        (x,) = asked["crash"].result()
        checks.that("crashed with SIGSEGV" in x.cause, f"a crash is told as {x.cause}")
        checks.that("stderr" in x.details, "where it crashed is not kept")
        (x,) = _hang(group)()
        checks.that("within 0.05 s, nor within 0.1 s" in x.cause, f"a hang is told as {x.cause}")
    checks.that(json.loads(probing.to_json([])) == [], "no lines are some")


duty("probing", described, several, words, asked, endings, processes, plugins=("cpu",))
