"""Many machines in one matrix: columns stay apart, evidence and versions stay with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console
from tensorbus_conformance import cli, console
from tensorbus_conformance.merge import merge
from tensorbus_conformance.report import columns, op_table

from .report_cases import SCHEMA, device, report

EXP, SIN = "exp/gpu:0/float32/portable/values", "sin/gpu:0/float32/portable/values"


def saved(folder: Path, name: str, data: dict[str, Any]) -> str:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data))
    return str(file)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    simulated = {
        "devices": [device("gpu:0", "simulated")],
        "machine": {"system": "Darwin", "numpy": "2.4"},
    }
    return [
        saved(tmp_path, "lab.json", report({EXP: "pass", SIN: "pass"})),
        saved(tmp_path, "desk.json", report({EXP: "fail"}, seed=3, **simulated)),
    ]


def test_columns_stay_apart(two: list[str]) -> None:
    data = merge(two)
    jsonschema.validate(data, SCHEMA)
    assert not data["passed"]
    assert [c.head for c in columns(data)] == ["lab gpu:0", "desk gpu:0 (simulated)"]
    assert op_table(data) == [
        ("exp", {("lab", "gpu:0"): (1, 1, "pass"), ("desk", "gpu:0"): (0, 1, "fail")}),
        ("sin", {("lab", "gpu:0"): (1, 1, "pass")}),
    ]
    assert [(r["seed"], r["machine"]["system"]) for r in data["reports"]] == [
        (0, "Linux"),
        (3, "Darwin"),
    ]
    assert [d["evidence"] for r in data["reports"] for d in r["devices"]] == [
        "hardware",
        "simulated",
    ]


def test_the_table_shows_the_worst_and_the_versions(two: list[str]) -> None:
    out = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.summary(merge(two), out)
    text = out.export_text()
    (exp,) = [line.split() for line in text.splitlines() if line.startswith("exp")]
    assert exp == ["exp", "1/1", "0/1", "fail", "fail"]
    assert "desk gpu:0 (simulated)" in text
    assert "numpy 2.4" in text
    assert "NOT ALL PASSED: desk" in text


def test_from_the_command_line(two: list[str], tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    assert cli.main(["report", "merge", *two, "--out", str(out)]) == 0
    jsonschema.validate(json.loads(out.read_text()), SCHEMA)
    assert cli.main(["report", "show", str(out)]) == 1
    assert cli.main(["report", "merge", two[0], f"x={out}", "--out", str(out)]) == cli.EXIT_USAGE


def test_names_are_unique_and_can_be_given(two: list[str], tmp_path: Path) -> None:
    other = saved(tmp_path / "b", "lab.json", report({EXP: "error"}))
    with pytest.raises(ValueError, match="would both be named 'lab'; name one: NAME="):
        merge([*two, other])
    assert [r["name"] for r in merge([*two, f"attic={other}"])["reports"]] == [
        "lab",
        "desk",
        "attic",
    ]


def test_the_same_run_twice_is_an_error(two: list[str]) -> None:
    with pytest.raises(ValueError, match="are the same run"):
        merge([*two, f"again={two[0]}"])


def test_half_a_report_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = report({EXP: "pass"})
    del data["devices"]
    assert cli.main(["report", "show", saved(tmp_path, "r.json", data)]) == cli.EXIT_USAGE
    assert "it has no 'devices'" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["reports", "cells", "passed"])
def test_the_schema_sees_what_is_missing(two: list[str], broken: str) -> None:
    data = merge(two)
    del data[broken]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, SCHEMA)
