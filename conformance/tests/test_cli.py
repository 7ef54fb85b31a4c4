"""What the command line answers to names and settings that are wrong: one line and a status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tensorbus as tb
from tensorbus._devices import registry
from tensorbus_backends.contract import DeviceInfo, Evidence
from tensorbus_conformance import cli

ABSENT = DeviceInfo(
    "cuda",
    "cuda",
    -1,
    False,
    cause="there is no driver",
    fix="install it",
    evidence=Evidence.UNSTATED,
)
PRESENT = [
    DeviceInfo("rocm:0", "rocm", 0, aliases=("rocm:gfx90a:0",), evidence=Evidence.UNSTATED),
    DeviceInfo("cpu", "cpu", 0, evidence=Evidence.UNSTATED),
]


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(refresh: bool = False, plugin: str | None = None) -> list[DeviceInfo]:
        return [d for d in (ABSENT, *PRESENT) if plugin in (None, d.plugin)]

    monkeypatch.setattr(registry, "devices", lines)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7", "CUDA:0"])
def test_a_device_of_an_absent_plugin_is_unavailable_and_not_unknown(name: str) -> None:
    assert cli.choose_devices(name) == [ABSENT]


@pytest.mark.parametrize("name", ["rocm", "rocm:0", "ROCM:0", "rocm:gfx90a", "rocm:gfx90a:0"])
def test_names_of_a_device(name: str) -> None:
    assert cli.choose_devices(name) == PRESENT[:1]


@pytest.mark.parametrize("name", ["rocm:1", "rocm:gfx1030", "rocmm", "cuad"])
def test_a_misspelt_device(name: str) -> None:
    with pytest.raises(cli.UsageError, match=f"unknown device '{name}'; did you mean"):
        cli.choose_devices(name)


def test_a_plugin_means_its_broken_devices_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sound, broken = (
        PRESENT[0],
        DeviceInfo(
            "rocm:1", "rocm", 1, False, cause="old", fix="update", evidence=Evidence.UNSTATED
        ),
    )
    runtime = DeviceInfo(
        "rocm",
        "rocm",
        -1,
        False,
        cause="a second runtime",
        fix="remove it",
        evidence=Evidence.UNSTATED,
    )
    lines = [sound, broken, runtime]
    monkeypatch.setattr(registry, "devices", lambda refresh=False, plugin=None: lines)
    assert cli.choose_devices("rocm") == [sound, broken]
    assert cli.choose_devices("rocm:0") == [sound]


def test_nothing_named() -> None:
    with pytest.raises(cli.UsageError, match="names no device"):
        cli.choose_devices(" ,")


@pytest.mark.parametrize("variable", ["TENSORBUS_FALLBACK", "TENSORBUS_REPRODUCIBLE"])
def test_a_setting_that_is_not_understood_is_one_line(variable: str) -> None:
    start = "import sys; from tensorbus_conformance.cli import main; sys.exit(main(['ops']))"
    done = subprocess.run(
        [sys.executable, "-c", start],
        env={**os.environ, variable: "abc"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == cli.EXIT_FAILED
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"tensorbus: {variable}='abc' is ")
    assert line.endswith("or unset it")


def test_a_warning_is_one_line() -> None:
    script = (
        "import sys, warnings; from tensorbus_conformance import cli\n"
        "cli._devices = lambda options: warnings.warn('the cache is full', RuntimeWarning) or 0\n"
        "sys.exit(cli.main(['devices']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "tensorbus: warning: the cache is full\n")


def test_a_device_that_cannot_be_opened_does_not_hide_the_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # No plugin here has such a device, so the process that is asked to open it cannot.
    gone = replace(PRESENT[1], name="cpu:7", index=7)
    monkeypatch.setattr(tb, "devices", lambda: [ABSENT, gone])
    assert cli.main(["devices", "--json"]) == cli.EXIT_OK
    first, second = json.loads(capsys.readouterr().out)
    assert (first["name"], first["available"]) == ("cuda", False)
    assert (second["name"], second["available"]) == ("cpu:7", False)
    assert "it could not be opened: no device is called 'cpu:7'" in second["cause"]
    assert [d["evidence"] for d in (first, second)] == [None, None]


def test_an_absent_device_has_no_evidence_in_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    asked = ["conform", "--ops", "add", "--device", "cuda", "--json", str(file)]
    assert cli.main(asked) == cli.EXIT_FAILED
    text = file.with_suffix(".md").read_text()
    assert "| cuda | unavailable: there is no driver. To fix it: install it | - | 0 | 0 |" in text
    assert "hardware" not in text
    assert "Nothing was executed." in capsys.readouterr().err
