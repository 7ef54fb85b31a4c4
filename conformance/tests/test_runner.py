"""The runner: crashes, hangs and interruptions lose nothing; states and exits are strict."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jsonschema
import pytest
from tensorbus_conformance import runner, writing
from tensorbus_conformance.faults import FAULTS, Fault, Planted, base
from tensorbus_conformance.judge.items import STATES, Item, Outcome
from tensorbus_conformance.process import Stock
from tensorbus_conformance.report import columns, load, markdown, op_table
from tensorbus_conformance.runner import Cell, Run, run_items

ITEM = Item("add", "ref", "int32", "portable")
SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tensorbus_conformance", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )


def states(run: Run) -> dict[str, str]:
    return {c.outcome.property: c.outcome.state for c in run.cells}


def test_an_item_passes_and_every_cell_is_counted() -> None:
    run = run_items([ITEM], "smoke", 0, workers=1)
    assert run.ok
    assert set(states(run).values()) == {"pass"}
    assert len(run.cells) >= 8


def test_a_crash_is_one_cell_and_loses_no_other() -> None:
    only = ["values", "errors", "guards"]
    run = run_items([ITEM], "smoke", 0, workers=1, fault="test-crash", only=only)
    found = states(run)
    assert list(found) == only
    assert found["values"] == "crash"
    assert "SIGSEGV" in next(c.outcome.message for c in run.cells if c.outcome.state == "crash")
    assert found["errors"] in ("pass", "crash")
    assert "not run" not in found.values()
    assert not run.ok


def test_a_hang_is_a_timeout_and_loses_no_other() -> None:
    only = ["values", "errors", "guards"]
    run = run_items([ITEM], "smoke", 0, workers=1, fault="test-hang", timeout=4, only=only)
    found = states(run)
    assert found["values"] == "timeout"
    assert found["guards"] != "pass"  # it can make no call that ends
    assert "not run" not in found.values()
    assert not run.ok


def test_stopping_keeps_what_was_judged() -> None:
    stop = threading.Event()
    seen: list[Cell] = []

    def on_cell(cell: Cell) -> None:
        seen.append(cell)
        stop.set()

    items = [ITEM, Item("multiply", "ref", "int32", "portable")]
    run = run_items(items, "smoke", 0, workers=1, on_cell=on_cell, stop=stop)
    counts = run.counts()
    assert counts.get("pass", 0) >= 1
    assert counts.get("not run", 0) >= 1
    assert run.interrupted
    assert not run.ok


@pytest.mark.parametrize("state", [s for s in STATES if s not in ("pass", "unsupported")])
def test_only_pass_and_declared_gaps_are_ok(state: str) -> None:
    good = Cell(ITEM, Outcome("values"))
    assert Run([good]).ok
    assert Run([good, Cell(ITEM, Outcome("bits", "unsupported"))]).ok
    assert not Run([good, Cell(ITEM, Outcome("bits", state))]).ok


def test_nothing_executed_is_not_ok() -> None:
    assert not Run([]).ok
    assert not Run([Cell(ITEM, Outcome("bits", "unsupported"))]).ok


def test_report_follows_the_schema_and_can_be_shown(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    done = command("conform", "--device", "ref", "--ops", "add", "--json", str(target))
    assert done.returncode == 0, done.stdout + done.stderr
    data = load(target)
    jsonschema.validate(data, json.loads(SCHEMA.read_text()))
    assert data["passed"]
    assert data["summary"]["ref"]["cells"] == len(data["cells"])
    assert "| add |" in markdown(data)
    assert target.with_suffix(".md").exists()
    assert [c.head for c in columns(data)] == ["ref"]
    assert [op for op, _ in op_table(data)] == ["add"]
    shown = command("report", "show", str(target))
    assert shown.returncode == 0
    assert "PASSED" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "reff"], "did you mean ref"),
        (["--ops", "addd", "--device", "ref"], "did you mean add"),
        (["--level", "smok"], "did you mean smoke"),
        (["--rerun", "nonsense"], "OP/DEVICE/DTYPE/VARIANT"),
        (["--device", ","], "names no device"),
    ],
)
def test_usage_errors_are_one_line_and_status_2(arguments: list[str], said: str) -> None:
    done = command("conform", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_absent_device_fails_with_cause_and_fix(tmp_path: Path) -> None:
    done = command("conform", "--device", "metal,ref", "--ops", "add", "--report", str(tmp_path))
    if sys.platform == "darwin":
        pytest.skip("Metal may be there")
    assert done.returncode == 1
    assert "metal: unavailable" in done.stderr
    assert "To fix it" in done.stderr


def test_a_report_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = command("conform", "--device", "ref", "--ops", "add", "--report", str(blocked / "x"))
    assert done.returncode == 2
    assert "cannot be written: Not a directory" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *exception: object) -> None: ...

        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, "fdopen", lambda *a, **o: Full())
    with pytest.raises(OSError, match="No space left"):
        writing.write(tmp_path / "r.json", "{}")
    assert list(tmp_path.glob("*")) == []


def test_interrupting_the_command_keeps_the_report(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorbus_conformance", "conform", "--device", "ref",
         "--level", "standard", "--report", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    time.sleep(12)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    (found,) = tmp_path.glob("*.json")
    data = load(found)
    assert not data["complete"]
    assert not data["passed"]
    assert any(c["state"] == "not run" for c in data["cells"])
    assert "nterrupted" in out + err


@pytest.mark.parametrize(
    ("cell", "status", "said"),
    [
        ("add/metal/int32/portable/values", 1, "To fix it"),
        ("add/nodevice/int32/portable/values", 2, "nodevice"),
    ],
)
def test_rerun_on_a_device_that_is_not_there_is_one_line(cell: str, status: int, said: str) -> None:
    if sys.platform == "darwin":
        pytest.skip("Metal may be there")
    done = command("conform", "--rerun", cell, TENSORBUS_SIMULATE="")
    assert done.returncode == status
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_rerun_judges_one_cell() -> None:
    done = command("conform", "--rerun", "add/ref/int32/portable/values", "--level", "smoke")
    assert done.returncode == 0
    assert "add/ref/int32/portable/values: pass" in done.stdout


def test_devices_and_ops_as_json() -> None:
    devices = json.loads(command("devices", "--json").stdout)
    assert {d["name"] for d in devices} >= {"ref", "cuda", "rocm", "metal"}
    assert all(d["available"] or (d["cause"] and d["fix"]) for d in devices)
    ops = {o["name"]: o for o in json.loads(command("ops", "--json").stdout)}
    assert ops["add"]["differentiable"]
    assert ops["nn.softmax"]["signature"].startswith("(x")
    assert ops["add"]["devices"]["ref"] == "portable"


def test_every_fault_is_described() -> None:
    assert len([f for f in FAULTS if not f.startswith("test-")]) >= 30
    assert {f.point for f in FAULTS.values()} == {"device", "registry"}
    for fault in FAULTS.values():
        assert fault.what
        assert fault.ops
        assert isinstance(fault, Fault)
    # One that wraps devices: one of the registry would stay in this process.
    assert base.plant("odd-tail-scan").hits == 0
    assert Planted().hits == 0


def test_a_worker_that_holds_much_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [Item.parse(f"{op}/ref/int32/portable") for op in ("add", "abs", "negative")]
    taken: list[str] = []
    take = Stock.take
    monkeypatch.setattr(Stock, "take", lambda s, group: taken.append(group) or take(s, group))
    for share, count in ((1.0, 1), (0.0, 3)):
        monkeypatch.setattr(runner, "_RETIRED", share)
        taken.clear()
        run = run_items(items, "smoke", 0, workers=1, only=["guards"])
        assert run.ok
        assert len(taken) == count
