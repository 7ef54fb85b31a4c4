"""How a run ends early, and what it must not see: signals, a killed run, other people's files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorbus_conformance.report import load

from .bad_plugins import install

COMMAND = [sys.executable, "-m", "tensorbus_conformance"]
HANGING = {"sleeps": "subprocess.Popen(['sleep', '543210']) and ctypes.PyDLL(None).sleep(543210)"}


def heard(number: int) -> None:
    """Undo that a test run in the background has been told not to hear of a signal."""
    signal.signal(number, signal.SIG_DFL)


def waited(found: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether something becomes true within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found():
            return True
        time.sleep(0.1)
    return found()


def processes(mark: str) -> list[int]:
    """The processes that have a text in their command line or environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if mark.encode() in text and state != "Z" and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_a_whole_report(tmp_path: Path, number: signal.Signals) -> None:
    site, target, mark = tmp_path / "site", tmp_path / "r.json", f"mark-{tmp_path.name}-{number}"
    at_work = tmp_path / "at work"
    waits = f"open({str(at_work)!r}, 'w').close() or time.sleep(543210)"
    install(site, "slow", {"sleeps": f"launching(info, lambda: {waits})"})
    run = subprocess.Popen(
        [*COMMAND, "conform", "--device", "ref,slow", "--ops", "bitwise_invert", "--workers", "1",
         "--json", str(target)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(site, mark), preexec_fn=lambda: heard(number),
    )  # fmt: skip
    assert waited(at_work.exists)
    run.send_signal(number)
    out, error = run.communicate(timeout=30)
    assert run.returncode == 1
    assert "Traceback" not in out + error
    data = load(target)
    assert not data["complete"]
    assert not data["passed"]
    assert any(c["state"] == "not run" for c in data["cells"] if c["device"] == "slow:0")
    assert target.with_suffix(".md").exists()
    assert waited(lambda: not processes(mark), 10)


@needs_proc
def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    site, mark = tmp_path / "site", f"mark-{tmp_path.name}"
    install(site, "slow", HANGING)
    run = subprocess.Popen(
        [*COMMAND, "conform", "--device", "slow", "--ops", "bitwise_invert", "--workers", "1",
         "--report", str(tmp_path)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(site, mark),
    )  # fmt: skip
    assert waited(lambda: len(processes("543210")) >= 1)
    run.kill()
    run.wait()
    assert waited(lambda: not processes(mark), 10), "workers and what they started end too"


@pytest.mark.parametrize("command", [COMMAND, [str(Path(sys.executable).parent / "tensorbus")]])
def test_nothing_is_imported_from_the_current_directory(tmp_path: Path, command: list[str]) -> None:
    where = tmp_path / "here"
    where.mkdir()
    for name in ("json", "numpy", "queue", "tensorbus", "secrets"):
        (where / f"{name}.py").write_text(f"raise SystemExit('{name} of the current directory')")
    other = tmp_path / "other"
    install(other, "mine", {"plain": "opened(info)"})
    done = subprocess.run(
        [*command, "conform", "--device", "ref,mine", "--ops", "bitwise_invert",
         "--json", str(tmp_path / "r.json")],
        capture_output=True, text=True, cwd=where, env=environment(other, "-"), timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    counts = load(tmp_path / "r.json")["summary"]
    assert all(c["pass"] == c["cells"] > 0 for c in counts.values())
    assert set(counts) == {"ref", "mine:0"}, "PYTHONPATH goes on working"


def test_lists_do_not_end_with_a_plugin(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(site, "bad", {"exits": "os._exit(0)", "plain": "opened(info)"})
    for what in (["devices", "--json"], ["ops", "--json"]):
        done = subprocess.run(
            [*COMMAND, *what],
            capture_output=True, text=True, env=environment(site, "-"), timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        data = json.loads(done.stdout)
        if what[0] == "devices":
            (bad,) = [d for d in data if d["name"] == "bad:0"]
            assert not bad["available"]
            assert "the process ended with exit code 0" in bad["cause"]
            (good,) = [d for d in data if d["name"] == "bad:1"]
            assert "float32" in good["capabilities"]["dtypes"]
        else:
            assert "bad:0" in done.stderr
            assert {"ref", "bad:1"} <= set(data[0]["devices"])
            assert "bad:0" not in data[0]["devices"]


def environment(site: Path, mark: str) -> dict[str, str]:
    """With a folder of packages, and a text to find processes by."""
    paths = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, "TENSORBUS_TEST_MARK": mark}
