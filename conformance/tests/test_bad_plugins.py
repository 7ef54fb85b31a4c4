"""Plugins that break their process cost their own cells and nothing else; never status 0."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tensorbus_backends.dtypes import by_name
from tensorbus_backends.ref import PLUGIN as REF, RefDevice
from tensorbus_conformance.judge.items import items, properties
from tensorbus_conformance.report import load

from .bad_plugins import install, names

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text())
OP = "bitwise_invert"

OPENING = {
    "exits": "os._exit(0)",
    "exits_softly": "sys.exit(0)",
    "interrupts": "raises(KeyboardInterrupt())",
    "base_exception": "raises(BaseException('base'))",
    "no_words": "raises(Words())",
    "recursion": "do_recursion(info)",
    "segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
    "aborts": "os.abort()",
    "sleeps": "time.sleep(600)",
    "keeps_the_lock": "ctypes.PyDLL(None).sleep(600)",
    "stops": "os.kill(os.getpid(), signal.SIGSTOP) or time.sleep(600)",
    "endless_output": "[os.write(1, b'x' * 65536) for _ in iter(int, 1)]",
    "closes_all": "os.closerange(0, 256) or opened(info)",
    "is_nothing": "None",
    "no_capabilities": "setattr(d := Bad(info), 'capabilities', None) or d",
    "leaves_at_exit": "atexit.register(os._exit, 0) and sys.exit(1)",
}
"""What happens in `open`."""

DECLARING = {
    "float128": "opened(info, dtypes=frozenset(['float32', 'int32', 'bool', 'float128']))",
    "no_dtype": "opened(info, dtypes=frozenset())",
    "half_float64": "opened(info, fp64=False)",
    "subnormals": "opened(info, subnormals='sometimes')",
    "division": "opened(info, division='-1')",
    "group": "opened(info, max_group=0)",
}
"""What is declared and cannot be."""

RUNNING = {
    "exits": "launching(info, lambda: os._exit(0))",
    "exits_softly": "launching(info, lambda: sys.exit(0))",
    "sleeps": "launching(info, lambda: time.sleep(600))",
    "closes_all": "launching(info, lambda: os.closerange(0, 256))",
    "flushes": "launching(info, set_flush_to_zero)",
}
"""What happens at a launch, and must not pass."""

HARMLESS = {
    "garbage": "launching(info, garbage)",
    "floods": "[os.write(1, b'x' * 65536) for _ in range(300)] and opened(info)",
    "closes_output": "launching(info, once(lambda: os.closerange(1, 3)))",
    "moves": "os.chdir('/') or opened(info)",
    "handlers": "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)] and opened(info)",
    "thread": "threading.Thread(target=time.sleep, args=(600,)).start() or opened(info)",
    "forks": "launching(info, once(os.fork))",
    "leaves_at_exit": "atexit.register(os._exit, 0) and opened(info)",
    "grandchild": "subprocess.Popen(['sleep', '601600'], close_fds=False) and opened(info)",
}
"""What is bad manners, and no wrong result."""

EATING = {"opens": "eat()", "launches": "launching(info, eat)"}

PLUGINS = {"opening": OPENING, "declaring": DECLARING, "running": RUNNING, "harmless": HARMLESS}


@dataclass(frozen=True)
class Done:
    """A run of the command."""

    status: int
    out: str
    error: str
    report: dict[str, Any]
    seconds: float

    def states(self, device: str) -> Counter[str]:
        """Its cells by state."""
        return Counter(c["state"] for c in self.report["cells"] if c["device"] == device)


def judge(tmp_path: Path, plugin: str, devices: list[str], *more: str) -> Done:
    """Judge devices of a bad plugin, and ref."""
    site = tmp_path / "site"
    if not site.exists():
        install(site, plugin, {**PLUGINS, "eating": EATING}[plugin])
    target = tmp_path / "r.json"
    start = time.monotonic()
    done = subprocess.run(
        [
            sys.executable, "-m", "tensorbus_conformance", "conform", "--ops", OP,
            "--device", ",".join([*devices, "ref"]), "--json", str(target), *more,
        ],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])),
            "TENSORBUS_WORKER_MEMORY": "450",
        },
        timeout=300,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    report = load(target)
    jsonschema.validate(report, SCHEMA)
    return Done(done.returncode, done.stdout, done.stderr, report, time.monotonic() - start)


class Runs:
    """One run for each plugin, with all of its devices, when it is first asked for."""

    def __init__(self, where: Callable[[str], Path]) -> None:
        self.where = where
        self.known: dict[str, Done] = {}

    def __getitem__(self, plugin: str) -> Done:
        if plugin not in self.known:
            devices = list(names(plugin, PLUGINS[plugin]).values())
            where = self.where(plugin)
            limit = (
                "5" if plugin in ("opening", "running") else "60"
            )  # where something hangs, or not
            self.known[plugin] = judge(where, plugin, devices, "--timeout", limit, "--workers", "4")
        return self.known[plugin]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp)


def of(plugin: str) -> Any:
    """Tests of one plugin share its run, so they go to one process of xdist."""
    return pytest.mark.xdist_group(f"bad plugins, {plugin}")


EACH = [pytest.param(plugin, marks=of(plugin)) for plugin in PLUGINS]


@pytest.mark.parametrize("plugin", EACH)
def test_the_other_device_is_judged_to_the_end(done: Runs, plugin: str) -> None:
    run = done[plugin]
    assert set(run.states("ref")) == {"pass"}
    assert run.status == (0 if plugin == "harmless" else 1)
    assert run.report["complete"]
    assert run.report["passed"] == (plugin == "harmless")


def due() -> int:
    """Cells of a device."""
    some = items("harmless:0", RefDevice(REF.probe()[0]).capabilities, {}, "smoke", [OP])
    return sum(len(properties(i.op, by_name(i.dtype), i.variant, i.device, "smoke")) for i in some)


@of("opening")
@pytest.mark.parametrize("behaviour", OPENING)
def test_a_device_that_does_not_open(done: Runs, behaviour: str) -> None:
    run, device = done["opening"], names("opening", OPENING)[behaviour]
    lines = [x for x in run.error.splitlines() if x.startswith(f"{device}: ")]
    assert len(lines) == 1, run.error
    states = run.states(device)
    line = next(d for d in run.report["devices"] if d["name"] == device)
    if line["available"]:
        assert states.total() == due()
        assert set(states) <= {"crash", "timeout", "error", "not run"}
        assert device in run.report["lost"]
    else:
        assert not states
        assert line["cause"]
        assert line["fix"]


@of("opening")
@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("exits", "the process ended with exit code 0"),
        ("exits_softly", "SystemExit"),
        ("segfault", "SIGSEGV"),
        ("aborts", "SIGABRT"),
        ("sleeps", "not opened within 5 s"),
        ("keeps_the_lock", "not opened within 5 s"),
        ("stops", "not opened within 5 s"),
        ("endless_output", "not opened within 5 s"),
        ("closes_all", "exit code 1"),
        ("is_nothing", "NoneType, which is no Device"),
        ("no_capabilities", "dtypes"),
    ],
)
def test_what_is_said_of_it(done: Runs, behaviour: str, said: str) -> None:
    run, device = done["opening"], names("opening", OPENING)[behaviour]
    (line,) = [x for x in run.error.splitlines() if x.startswith(f"{device}: ")]
    assert said in line


@of("declaring")
@pytest.mark.parametrize("behaviour", DECLARING)
def test_what_cannot_be_so_is_a_failure(done: Runs, behaviour: str) -> None:
    run, device = done["declaring"], names("declaring", DECLARING)[behaviour]
    (problem, *_) = run.report["problems"][device]
    assert problem.startswith("it declares")
    assert f"{device}: {problem}" in run.error
    assert problem in " ".join(run.out.split())


@of("running")
@pytest.mark.parametrize("behaviour", RUNNING)
def test_a_device_that_breaks_at_a_launch(done: Runs, behaviour: str) -> None:
    run, device = done["running"], names("running", RUNNING)[behaviour]
    states = run.states(device)
    assert states.total() == due()
    if behaviour == "flushes" and platform.machine() != "x86_64":
        pytest.skip("the flag is x86-64's")
    assert states["pass"] < states.total()
    message = next(
        c["message"]
        for c in run.report["cells"]
        if c["device"] == device and c["state"] not in ("pass", "not run")
    )
    words = {
        "exits": "exit code 0", "exits_softly": "SystemExit", "segfault": "SIGSEGV",
        "sleeps": "no answer within 5 s",
        "closes_all": "exit code 1", "flushes": "flushes float32 subnormals",
    }  # fmt: skip
    assert words[behaviour] in message
    if behaviour == "exits":
        assert states["crash"] >= 6
    if behaviour == "sleeps":
        assert states["timeout"] == 3
        assert "did not answer 3 times" in run.report["lost"][device]


@of("harmless")
@pytest.mark.parametrize("behaviour", HARMLESS)
def test_bad_manners_change_no_verdict(done: Runs, behaviour: str) -> None:
    run, device = done["harmless"], names("harmless", HARMLESS)[behaviour]
    assert set(run.states(device)) == {"pass"}, [
        c["message"] for c in run.report["cells"] if c["device"] == device and c["message"]
    ]


def test_memory_is_bounded(tmp_path: Path) -> None:
    devices = list(names("eating", EATING).values())
    run = judge(tmp_path, "eating", devices, "--timeout", "100", "--workers", "2")
    assert run.status == 1
    assert set(run.states("ref")) == {"pass"}
    for device in devices:
        assert "of 0.4 that it may hold" in next(
            c["message"] for c in run.report["cells"] if c["device"] == device and c["message"]
        )


@of("harmless")
def test_nothing_is_left_running(done: Runs) -> None:
    """Neither workers nor what plugins have started."""
    assert done["harmless"]
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert not re.search(r"^sleep 601600$", found, re.MULTILINE)


@pytest.mark.parametrize("plugin", EACH)
def test_it_is_bounded(done: Runs, plugin: str) -> None:
    assert done[plugin].seconds < 280
