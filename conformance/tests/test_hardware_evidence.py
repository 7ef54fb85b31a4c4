"""benchmarks/hardware.py, end to end on the simulated driver, and where there is no device."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "hardware.py"

_spec = importlib.util.spec_from_file_location("hardware", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
hardware = importlib.util.module_from_spec(_spec)
sys.modules["hardware"] = hardware
_spec.loader.exec_module(hardware)

SMALL = ["--level", "smoke", "--ops", "add", "--elements", "4096", "--sizes", "16"]


def run(out, *arguments, simulate=""):
    """(exit status, evidence, its Markdown, its folder)"""
    environment = {**os.environ, "TENSORBUS_SIMULATE": simulate}
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--rounds", "2", *SMALL, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    (folder,) = out.iterdir()
    data = json.loads((folder / "evidence.json").read_text())
    return done.returncode, data, (folder / "README.md").read_text(), folder


def test_on_the_simulated_driver(tmp_path):
    status, data, page, folder = run(tmp_path, simulate="cuda")
    if data["evidence"] == "none" and ("compiler" in data["device"] or "pycuda" in data["device"]):
        pytest.skip(data["device"])
    steps = data["steps"]
    assert steps.keys() == hardware.STEPS.keys()
    states = {name: step["state"] for name, step in steps.items()}
    assert [n for n in states if states[n] == "passed"] == [
        "bandwidth",
        "conform-cuda",
        "conform-rocm",
    ], steps
    assert set(states.values()) == {"passed", "not run"}
    assert all(bool(step["cause"]) == (step["state"] != "passed") for step in steps.values())
    assert status == 3
    # Nothing is claimed that was not shown.
    assert data["evidence"] == "simulated"
    for name in ("conform-cuda", "conform-rocm"):
        shown = steps[name]["data"]
        assert shown["evidence"] == "simulated"
        assert shown["ops"] == ["add"]
        assert shown["counts"]["pass"] == shown["counts"]["cells"] > 0
        assert json.loads((folder / shown["report"]).read_text())["passed"]
    assert "Evidence level: **simulated**" in page
    rows = steps["bandwidth"]["data"]["rows"]
    assert list(rows) == ["copy", "add", "exp", "sum", "softmax"]
    assert rows["copy"]["fraction"] == 1
    products = steps["matmul"]["data"]["rows"]
    assert list(products) == ["bfloat16 16", "float32 16"]
    assert all(row["served"].startswith("native cuBLAS") for row in products.values())
    written = "".join(f.read_text() for f in folder.iterdir())
    assert str(Path.home()) + "/" not in written
    assert str(ROOT) not in written


def test_without_a_device_every_step_says_why(tmp_path):
    status, data, page, folder = run(tmp_path, "--device", "cuda:99")
    assert status == 3
    assert folder.name.endswith("-no-device")
    assert data["evidence"] == "none"
    for name, step in data["steps"].items():
        assert (step["state"], bool(step["cause"])) == ("not run", True), name
        assert f"| {name}: " in page
    assert page.count("| not run |") == len(hardware.STEPS)


def test_some_steps_keep_what_is_known_of_the_others(tmp_path):
    _, first, _, folder = run(tmp_path, "--device", "cuda:99", "--only", "machine")
    assert first["steps"]["bandwidth"]["cause"] == "not asked for (--only)"
    first["steps"]["bandwidth"] = {"state": "passed", "data": {"findings": 0, "processes": 3}}
    (folder / "evidence.json").write_text(json.dumps(first))
    _, second, page, _ = run(tmp_path, "--device", "cuda:99", "--only", "memcheck")
    assert second["steps"]["bandwidth"]["state"] == "passed"
    assert second["steps"]["memcheck"]["cause"] != "not asked for (--only)"
    assert "| passed | 0 findings in 3 processes |" in page


def test_an_unknown_step_is_refused(tmp_path):
    with pytest.raises(SystemExit):
        hardware.main(["--out", str(tmp_path), "--only", "memchek"])
    assert list(tmp_path.iterdir()) == []


# -- steps by themselves ----------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A run on a GPU that is only said to be there."""
    gpu = {
        "name": "cuda:0",
        "aliases": [],
        "available": True,
        "evidence": "hardware",
        "cause": "",
        "description": "a GPU",
        "details": {"device": "NVIDIA H200"},
    }
    monkeypatch.setattr(hardware.Bench, "_devices", lambda self: ([gpu], ""))
    options = argparse.Namespace(out=tmp_path, device="cuda:0", limit=None, ops="add")
    made = hardware.Bench(options)
    made.folder.mkdir()
    return made


def program(folder, name, text, monkeypatch):
    """A program of that name in front of all others."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")


def test_the_folder_is_named_by_date_and_gpu(bench):
    assert bench.folder.name == f"{bench.date}-nvidia-h200"


def test_a_child_that_takes_too_long_is_ended_with_its_own(bench):
    # Whoever holds the pipe's other end keeps the test waiting.
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    code = (
        "import subprocess, sys, time; print('started', flush=True);"
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'], close_fds=False)"
    )
    popen = subprocess.Popen
    try:
        hardware.subprocess.Popen = lambda *a, **k: popen(*a, **k, close_fds=False)
        done = bench.child([sys.executable, "-c", code], 5)
    finally:
        hardware.subprocess.Popen = popen
        os.close(writer)
    assert done.status is None
    assert "took longer than" in done.problem()
    assert "started" in done.problem()
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_step_that_breaks_is_a_failure(bench):
    def broken(bench):
        raise KeyError("details")

    result = hardware.attempt(bench, broken)
    assert (result.state, result.cause) == ("failed", "KeyError: 'details'")


def test_a_conformance_run_without_a_report_is_a_failure(bench, monkeypatch):
    monkeypatch.setattr(
        hardware, "tensorbus", lambda: [sys.executable, "-c", "raise SystemExit(7)"]
    )
    result = hardware.conform(bench, "conform-cuda", "cuda:0", "smoke")
    assert result.state == "failed"
    assert "it left no report: exit status 7" in result.cause


def test_what_the_driver_says(bench, tmp_path, monkeypatch):
    row = "0, NVIDIA H200, 570.1, 96.0, 9.0, 143771 MiB, 700 W, 1980 MHz, 3201 MHz, Enabled, off, x"
    program(tmp_path, "nvidia-smi", f"print({row!r})", monkeypatch)
    result = hardware.machine(bench)
    assert result.state == "passed"
    (gpu,) = result.data["gpus"]
    assert (gpu["name"], gpu["driver_version"]) == ("NVIDIA H200", "570.1")
    assert hardware.finding(result.data) == "NVIDIA H200, driver 570.1"


FAKE_SANITIZER = """
import pathlib, sys
log = sys.argv[sys.argv.index("--log-file") + 1]
for number, text in enumerate({texts!r}):
    pathlib.Path(log.replace("%p", str(number))).write_text(text)
sys.exit({status})
"""
CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
BAD = "========= Invalid __global__ read of size 4 bytes\n========= ERROR SUMMARY: 3 errors\n"
RACES = "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n"
UNUSED = "========= Error: Target application terminated before first instrumented API call\n"


@pytest.mark.parametrize(
    ("texts", "status", "state", "cause"),
    [
        ([CLEAN, CLEAN, UNUSED], 0, "passed", ""),
        ([CLEAN, BAD], 0, "failed", "3 findings, see memcheck.txt"),
        ([RACES, CLEAN], 0, "failed", "2 findings"),
        ([CLEAN], 1, "failed", "exit status 1"),
        ([UNUSED], 0, "failed", "no process was watched"),
        ([], 0, "failed", "no process was watched"),
    ],
)
def test_sanitizers_logs_decide(bench, tmp_path, monkeypatch, texts, status, state, cause):
    text = FAKE_SANITIZER.format(texts=texts, status=status)
    program(tmp_path, "compute-sanitizer", text, monkeypatch)
    result = hardware.sanitize(bench, "memcheck")
    assert result.state == state, result
    assert cause in result.cause
    assert "--tool memcheck --target-processes all" in result.command
    assert (bench.folder / "memcheck.txt").read_text() == "\n".join(texts)


def test_fractions_are_medians_over_rounds(bench):
    sys.path.insert(0, str(SCRIPT.parent))
    from hardware_speed import row

    # 12 bytes against 8 of the copy, which takes 1 s: at the same rate, 1.5 s.
    found = row([1.5, 3.0, 1.6], [1.0, 1.0, 1.0], 12, 8, 0.9)
    assert found["fraction"] == pytest.approx(1.5 / 1.6, abs=1e-4)
    assert found["fractions"] == [0.5, 1.0]
    assert found["met"]
    assert not row([2.0], [1.0], 12, 8, 0.9)["met"]
    data = {"unit": "bytes/s", "against": "a copy", "rounds": 3, "rows": {"add": found}}
    lines = hardware.table("bandwidth", data, data["rows"])
    assert "0.938 (0.500 to 1.000) | 0.90 | met |" in lines[-1]


def test_the_sanitizers_ops_exist():
    from tensorbus_conformance.cli import choose_ops

    assert len(choose_ops(hardware.SANITIZED)) == len(hardware.SANITIZED.split(","))
