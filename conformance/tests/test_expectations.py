"""Known failures: excused, never passed; a file that has become untrue fails the run."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tensorbus_conformance.conform as conform_module
from tensorbus_conformance import cli, test_conformance
from tensorbus_conformance.expectations import FULL, Expectations, Vocabulary, full_list, load
from tensorbus_conformance.judge.items import Item, Outcome
from tensorbus_conformance.runner import Cell, Run, cells_of
from tensorbus_conformance.survey import survey

pytest_plugins = ["pytester"]

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text())
TODAY = datetime.date(2027, 1, 15)
NAMES = Vocabulary(
    ops=["exp", "nn.gelu"],
    devices=["mychip", "opencl:0"],
    dtypes=["float32", "int32"],
    variants=["portable", "native"],
    properties=["values", "bits"],
    aliases={"opencl:0": ["opencl:intel:0"]},
)
MINE = "exp/mychip/float32/portable/values"
CELL = "exp/ref/float32/portable/values"


def toml(cell: str = CELL, **changes: str) -> str:
    entry = {
        "cell": f'"{cell}"',
        "state": '"fail"',
        "reason": '"a table is short"',
        "link": '"https://mychip.example/17"',
        "expires": "2027-01-31",
        **changes,
    }
    return "[[known]]\n" + "".join(f"{k} = {v}\n" for k, v in entry.items() if v)


def read(tmp_path: Path, text: str, today: datetime.date = TODAY) -> Expectations:
    file = tmp_path / "known.toml"
    file.write_text(text)
    return load(file, NAMES, today)


@pytest.mark.parametrize(
    ("pattern", "cell", "meant"),
    [
        ("exp/mychip/float32/*/values", "exp/mychip/float32/native/values", True),
        ("exp/mychip/float32/*/values", "exp/mychip/float32/native/bits", False),
        ("exp/mychip/float32/*/values", "exp/mychip:1/float32/native/values", True),
        ("exp/mychip/*/*/*", "exp/opencl:0/float32/native/values", False),
        ("*/opencl:intel:*/*/*/values", "exp/opencl:0/int32/native/values", True),
        ("nn.*/opencl/*/*/values", "exp/opencl:0/int32/native/values", False),
    ],
)
def test_a_glob_means_cells_part_by_part(
    tmp_path: Path, pattern: str, cell: str, meant: bool
) -> None:
    found = read(tmp_path, toml(pattern)).excuse(cell, "fail")
    assert (found is not None) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (toml("exq/mychip/float32/*/values"), "unknown op 'exq'; did you mean exp?"),
        (toml("exp/mychap/float32/*/values"), "unknown device 'mychap'; did you mean mychip?"),
        (toml("exp/mychip/float23/*/values"), "unknown dtype 'float23'; did you mean float32?"),
        (toml("exp/mychip/float32/fast/values"), "unknown variant 'fast'; known: portable, nat"),
        (toml("exp/mychip/float32/*/value"), "unknown property 'value'; did you mean values?"),
        (toml("exp/mychip/values"), "cell is not OP/DEVICE/DTYPE/VARIANT/PROPERTY"),
        (toml("exp/mychip/*/*/*", state='"pass"'), "state 'pass' is none of fail, error"),
        (toml("exp/mychip/*/*/*", state='"not run"'), "state 'not run' is none of"),
        (toml("exp/mychip/*/*/*", reason='" "'), "'reason' is no text, or empty"),
        (toml("exp/mychip/*/*/*", link=""), "'link' is missing"),
        (toml("exp/mychip/*/*/*", expires='"2027-01-31"'), "'expires' is no date"),
        (toml("exp/mychip/*/*/*", expire="1"), "unknown key 'expire'; did you mean expires?"),
        ("[[knwon]]\n", "unknown key 'knwon'"),
        ("known = 3\n", "begin each with [[known]]"),
        ("[[known", "not readable as TOML"),
    ],
)
def test_what_no_file_may_say(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "known.toml"))


def test_the_last_day_counts(tmp_path: Path) -> None:
    cell = "exp/mychip/float32/native/values"
    last = read(tmp_path, toml(cell), datetime.date(2027, 1, 31))
    assert last.expired() == []
    assert last.excuse(cell, "fail") is not None
    gone = read(tmp_path, toml(cell), datetime.date(2027, 2, 1))
    assert gone.excuse(cell, "fail") is None
    assert len(gone.expired()) == 1


def judged(monkeypatch: pytest.MonkeyPatch, states: dict[str, str]) -> None:
    """Have `conform` find these states by property, and passes elsewhere, without judging."""

    def run_items(items: Any, level: str, seed: int, **more: Any) -> Run:
        run = Run()
        for item in items:
            for name in cells_of(item, level):
                state = states.get(name, "pass")
                run.cells.append(Cell(item, Outcome(name, state, "" if state == "pass" else "x")))
        return run

    monkeypatch.setattr(conform_module, "run_items", run_items)


def run(tmp_path: Path, text: str) -> tuple[int, dict[str, Any]]:
    file, target = tmp_path / "known.toml", tmp_path / "r.json"
    file.write_text(text.replace("2027-01-31", "2999-01-31"))
    asked = ["--device", "ref", "--ops", "exp", "--expect", str(file), "--json", str(target)]
    status = cli.main(["conform", *asked])
    data: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {}
    if data:
        jsonschema.validate(data, SCHEMA)
    return status, data


def test_a_known_failure_does_not_fail_the_run_and_is_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(monkeypatch, {"values": "fail"})
    status, data = run(tmp_path, toml())
    (cell,) = [c for c in data["cells"] if c["state"] == "known"]
    assert (status, data["passed"], cell["cell"]) == (0, True, CELL)
    assert cell["expected"]["state"] == "fail"
    counts = data["summary"]["ref"]
    assert counts == {"cells": len(data["cells"]), "pass": len(data["cells"]) - 1, "known": 1}
    assert data["expectations"]["problems"] == []
    assert "1 known failures" in capsys.readouterr().out
    assert "a table is short" in (tmp_path / "r.md").read_text()


@pytest.mark.parametrize(
    ("states", "text", "problem"),
    [
        ({}, toml(), f"unexpected pass: {CELL} was expected to be fail by entry 1"),
        ({"values": "crash"}, toml(), f"unexpected crash: {CELL}"),
        ({"values": "unsupported"}, toml(), f"unexpected unsupported: {CELL}"),
        ({"values": "fail"}, toml(expires="2026-01-31"), "expired: entry 1"),
        ({"values": "fail"}, toml() + toml("exp/ref/int32/native/bits"), "no cell: entry 2"),
        ({"values": "fail"}, toml("exp/ref/*/*/*"), "unexpected pass"),
    ],
)
def test_a_file_that_is_not_true_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: dict[str, str], text: str, problem: str
) -> None:
    judged(monkeypatch, states)
    status, data = run(tmp_path, text)
    assert (status, data["passed"]) == (1, False)
    assert any(problem in p for p in data["expectations"]["problems"])


@pytest.mark.parametrize("state", ["not run", "vacuous", "error"])
def test_other_failures_still_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    judged(monkeypatch, {"values": "fail", "special": state})
    status, data = run(tmp_path, toml())
    assert (status, data["passed"]) == (1, False)


def test_an_entry_for_another_level_op_or_device_is_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, {"values": "fail"})
    others = [
        toml("sin/ref/float64/portable/values"),
        toml("exp/ref/float32/portable/exhaustive32"),
        toml("exp/cuda:0/*/*/*"),
    ]
    status, data = run(tmp_path, toml() + "".join(others))
    assert status == 0
    assert data["expectations"]["idle"] == ["entry 4 (exp/cuda:0/*/*/*)"]


def test_an_unknown_name_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, data = run(tmp_path, toml("exq/ref/float32/*/values"))
    assert (status, data) == (cli.EXIT_USAGE, {})
    assert "unknown op 'exq'" in capsys.readouterr().err


def test_the_full_list_has_every_level() -> None:
    cells = full_list(survey(cli.choose_devices("ref"), FULL))
    assert "exp/ref/float16/portable/exhaustive16" in cells
    assert len(cells) == len(set(cells))


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("add/ref/int32/portable/values", "unexpected pass: add/ref/int32/portable"),
        ("add/ref/int32/native/values", "matches no cell: entry 1"),
        ("addd/ref/int32/native/values", "unknown op 'addd'"),
    ],
)
def test_in_pytest(pytester: pytest.Pytester, cell: str, said: str) -> None:
    file = pytester.path / "known.toml"
    file.write_text(toml(cell, expires="2999-01-31"))
    done = pytester.runpytest_subprocess(
        *("--pyargs", "tensorbus_conformance", "--device", "ref", "--ops", "add"),
        *("--expect", str(file), "-k", "int32", "-p", "no:cacheprovider", "-p", "no:xdist"),
    )
    assert done.ret != 0
    assert said in "\n".join([*done.outlines, *done.errlines])


def test_in_pytest_a_known_failure_is_an_xfail_and_covers_no_other(tmp_path: Path) -> None:
    item, known = Item("exp", "mychip", "float32", "portable"), read(tmp_path, toml(MINE))
    cells = [{"property": "values", "state": "fail", "message": "2 ulp"}]
    with pytest.raises(pytest.xfail.Exception, match="a table is short"):
        test_conformance.test_item(item, cells, known)
    with pytest.raises(pytest.fail.Exception, match="2 ulp"):
        test_conformance.test_item(item, cells, None)
    cells.append({"property": "bits", "state": "fail", "message": "differ"})
    with pytest.raises(pytest.fail.Exception, match="bits: fail differ"):
        test_conformance.test_item(item, cells, known)
