"""Arguments that mean nothing are one line and status 2, before anything is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorbus_conformance import cli

from .report_cases import report

ASKED = ["conform", "--device", "ref", "--ops", "add"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rerun", ""], "is not OP/DEVICE/DTYPE/VARIANT"),
        (["--rerun", "add/ref/float32/foo/values"], "unknown variant 'foo'"),
        (["--rerun", "add/ref/float128/portable/values"], "unknown dtype 'float128'"),
        (["--rerun", "exp/ref/int32/portable/values"], "exp is not judged with int32"),
        (["--rerun", "add/ref/float32/portable/valuez"], "has no property 'valuez'"),
        (["--rerun", "add/ref/float32/portable/"], "has no property ''"),
        (["--rerun", "add/ref/float32/native/values"], "ref has no native add of float32"),
        (["--rerun", "add/ref/float32/portable/values", "--self-test"], "exclude each other"),
        (["--rerun", "add/ref/float32/portable/values", "--ops", "add"], "--ops goes with a run"),
        (["--workers", "0"], "--workers 0 is no number of processes"),
        (["--workers", "-1"], "--workers -1 is no number of processes"),
        (["--workers", "100000"], "is no number of processes"),
        (["--timeout", "nan"], "--timeout nan is no time"),
        (["--timeout", "-1"], "--timeout -1 is no time"),
        (["--timeout", "0"], "--timeout 0 is no time"),
        (["--timeout", "inf"], "--timeout inf is no time"),
        (["--seed", "-1"], "--seed -1 is no whole number"),
        (["--seed", "9" * 30], "is no whole number from 0 below 2^63"),
        (["--ops", ","], "--ops names no op"),
        (["--device", ","], "--device names no device"),
        (["--json", "{here}/r.json", "--html", "{here}/r.json"], "--json and --html both name"),
        (["--json", "{here}/r.json", "--html", "{here}/r.md"], "both name"),
        (["--json", "{here}/r.json", "--junit", "{here}/../{name}/r.json"], "both name"),
        (["--html", "{here}/r.x", "--junit", "{here}/link.x"], "both name"),
        (["--baseline", "{here}/b.json", "--json", "{here}/b.json"], "both name"),
        (["--json", "{here}"], "is a folder"),
        (["--json", "{here}/b.json/r.json"], "cannot be written: File exists"),
        (["--report", "{here}/b.json"], "cannot be written: File exists"),
        (["--html", "/proc/nothing/r.html"], "cannot be written"),
        (["--level", "standard", "--baseline", "{here}/b.json"], "is of level smoke, this run of"),
        (["--seed", "3", "--baseline", "{here}/b.json"], "is of seed 0, this run of 3"),
    ],
)
def test_one_line_and_status_2(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.json").write_text(json.dumps(report({"add/ref/int32/portable/values": "pass"})))
    (tmp_path / "link.x").symlink_to(tmp_path / "r.x")
    given = [a.format(here=tmp_path, name=tmp_path.name) for a in arguments]
    asked = ["conform"] if "--rerun" in given else ASKED
    assert cli.main([*asked, *given]) == 2
    out, error = capsys.readouterr()
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not out
    assert {p.name for p in tmp_path.iterdir()} == {"b.json", "link.x"}


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["--workers", "two"], ["--timeout", "soon"], ["--seed", "1.5"]]
)
def test_what_is_no_argument(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([*ASKED, *arguments])
    assert left.value.code == 2
    assert "error: " in capsys.readouterr().err.strip().splitlines()[-1]


def test_what_is_named_twice_is_judged_once(tmp_path: Path) -> None:
    assert cli.choose_ops("add, add,add") == ["add"]
    assert len(cli.choose_devices("ref,ref")) == 1
