"""Against a baseline only what got worse fails, coverage lost included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tensorbus_conformance.conform as conform_module
from tensorbus_conformance import cli
from tensorbus_conformance.baseline import enter, scope
from tensorbus_conformance.judge.items import Outcome
from tensorbus_conformance.report import markdown, verdict, verdict_text
from tensorbus_conformance.runner import Cell, Run, cells_of

from .report_cases import SCHEMA, device, report

A, B = "exp/gpu:0/float32/portable/values", "sin/cpu/float32/portable/bits"


def held(then: dict[str, str], now: dict[str, str], **changes: Any) -> dict[str, Any]:
    """The report of `now` with its comparison with `then`; B passes in both."""
    data = report({B: "pass", **now}, **changes)
    enter(data, "old.json", report({B: "pass", **then}), scope([], None, None))
    jsonschema.validate(data, SCHEMA)
    return data


@pytest.mark.parametrize(
    ("then", "now", "kind"),
    [
        ("pass", "fail", "worse"),
        ("pass", "fallback", "worse"),
        ("pass", "unsupported", "worse"),
        ("pass", "not run", "lost"),
        ("pass", None, "lost"),
        ("fail", "not run", "lost"),
        ("crash", None, "lost"),
        (None, "fail", "new"),
        (None, "not run", "new"),
        ("unsupported", "error", "new"),
        ("not run", "timeout", "new"),
    ],
)
def test_what_got_worse_fails(then: str | None, now: str | None, kind: str) -> None:
    data = held({A: then} if then else {}, {A: now} if now else {})
    found = data["baseline"]
    expected = [{"cell": A, "was": then or "unknown", "now": now or "missing"}]
    assert found[kind] == expected
    assert [k for k in ("worse", "lost", "new", "improved", "changed") if found[k]] == [kind]
    assert not verdict(data)
    assert "WORSE THAN THE BASELINE" in verdict_text(data)
    assert f"{kind}: {A}" in markdown(data)


@pytest.mark.parametrize(
    ("then", "now", "kind"),
    [
        ("fail", "pass", "improved"),
        ("fail", "fail", "still"),
        ("fail", "crash", "changed"),
        ("not run", "not run", None),
        ("not run", None, None),
        ("unsupported", None, None),
        (None, "pass", None),
        (None, "unsupported", None),
        ("pass", "pass", None),
    ],
)
def test_what_did_not_get_worse_does_not(
    then: str | None, now: str | None, kind: str | None
) -> None:
    data = held({A: then} if then else {}, {A: now} if now else {})
    found = data["baseline"]
    listed = [k for k in ("worse", "lost", "new", "improved", "changed", "still") if found[k]]
    assert listed == ([kind] if kind else [])
    assert verdict(data)
    if now in ("fail", "crash", "not run"):
        assert not data["passed"]
        assert verdict_text(data) == "NOT PASSED, NO WORSE THAN THE BASELINE"


@pytest.mark.parametrize(
    "changes",
    [
        {"complete": False},
        {"asked": {"unavailable": ["gpu:1"]}},
        {
            "expectations": {
                "file": "k", "entries": 1, "known": 0, "idle": [], "problems": ["expired"],
            }
        },
    ],
)  # fmt: skip
def test_other_reasons_to_fail_stay(changes: dict[str, Any]) -> None:
    assert not verdict(held({}, {}, **changes))


def test_nothing_that_passes_is_never_fine() -> None:
    data = report({A: "fail"})
    enter(data, "old.json", report({A: "fail"}), scope([], None, None))
    assert not verdict(data)


def test_what_makes_reports_less_comparable_is_told() -> None:
    changes = {
        "seed": 7,
        "level": "standard",
        "machine": {"system": "Linux", "python": "3.13"},
        "devices": [device("cpu", "simulated", details={"driver": "2.0"})],
    }
    notes = held({}, {}, **changes)["baseline"]["notes"]
    assert notes == [
        "level differs: smoke then, standard now",
        "seed differs: 0 then, 7 now",
        "python differs: 3.12 then, 3.13 now",
        "evidence of cpu differs: hardware then, simulated now",
        "driver of cpu differs: 1.0 then, 2.0 now",
    ]


@pytest.mark.parametrize(
    ("wanted", "ops", "inside"),
    [
        (None, None, True),
        ("gpu", None, True),
        ("gpu:0", ["exp"], True),
        ("gpux", None, False),
        ("cpu", None, False),
        (None, ["sin"], False),
    ],
)
def test_a_run_answers_for_what_was_asked(
    wanted: str | None, ops: list[str] | None, inside: bool
) -> None:
    data = report({B: "pass"})
    enter(data, "old.json", report({A: "pass"}), scope(["cpu"], wanted, ops))
    assert len(data["baseline"]["lost"]) == inside
    assert data["baseline"]["outside"] == (not inside)


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken: dict[str, str] = {}

    def run_items(items: Any, level: str, seed: int, **more: Any) -> Run:
        cells = [
            Cell(i, Outcome(n, broken.get(n, "pass"))) for i in items for n in cells_of(i, level)
        ]
        return Run(cells)

    monkeypatch.setattr(conform_module, "run_items", run_items)
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    asked = ["conform", "--device", "ref", "--ops", "exp"]
    broken["values"] = "fail"
    assert cli.main([*asked, "--json", str(old)]) == 1
    assert cli.main([*asked, "--json", str(new), "--baseline", str(old)]) == 0
    jsonschema.validate(json.loads(new.read_text()), SCHEMA)
    assert "NO WORSE THAN THE BASELINE" in capsys.readouterr().out
    assert cli.main(["report", "show", str(new)]) == 0
    broken["special"] = "fail"
    assert cli.main([*asked, "--json", str(new), "--baseline", str(old)]) == 1
    assert cli.main(["report", "show", str(new)]) == 1
    broken.clear()
    assert cli.main([*asked, "--json", str(new), "--baseline", str(old)]) == 0
    (tmp_path / "none.json").write_text("{}")
    assert cli.main([*asked, "--baseline", str(tmp_path / "none.json")]) == cli.EXIT_USAGE
