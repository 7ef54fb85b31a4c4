"""HTML and JUnit: everything is told, escaped, and only a pass is a success."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tensorbus_conformance import cli
from tensorbus_conformance.baseline import enter, scope
from tensorbus_conformance.html import html
from tensorbus_conformance.judge.items import STATES
from tensorbus_conformance.junit import junit
from tensorbus_conformance.merge import merge

from .report_cases import cell, device, report

NASTY = "</code><script>alert('1')</script> & \"x\" \x00\x1b[31m \ufffe"
A, B = "exp/gpu:0/float32/portable/values", "sin/gpu:0/float32/portable/bits"
EVERY = (*STATES, "known")


def of_states(*states: str) -> dict[str, Any]:
    rows = [cell(f"exp/gpu:0/float32/portable/p{i}", s) for i, s in enumerate(states)]
    known = {
        "cell": A,
        "state": "fail",
        "reason": "short table",
        "link": "x",
        "expires": "2030-01-01",
    }
    for row in rows:
        if row["state"] == "known":
            row["expected"] = known
    return report(rows)


class Page(HTMLParser):
    """Elements and text of a page; every opened element must be closed in order."""

    VOID = ("meta", "input", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(k, v or "") for k, v in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_needs_nothing_and_escapes_everything() -> None:
    bad = cell(A, "fail", message=NASTY, witness=NASTY, library=NASTY)
    data = report(
        [bad],
        devices=[device("gpu:0", description=NASTY, details={NASTY: NASTY})],
        machine={NASTY: NASTY},
        asked={"command": NASTY},
        lost={"gpu:0": NASTY},
    )
    page = Page(html(data))
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert not [a for a in page.attributes if a[0].startswith("on") or a[0] in ("src", "href")]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert "url(" not in page.text
    assert "@import" not in page.text
    assert page.text.count("<script>alert('1')</script>") >= 8


def test_a_page_tells_every_failure_with_evidence_witness_and_command() -> None:
    states = [s for s in EVERY if s != "pass"]
    data = of_states("pass", *states)
    for row in data["cells"]:
        row["evidence"] = "simulated"
    data["devices"] = [device("gpu:0", "simulated")]
    text = Page(html(data)).text
    for i, state in enumerate(states, 1):
        name = f"exp/gpu:0/float32/portable/p{i}"
        assert f"{state} (simulated)  {name}" in text
        assert (
            f"TENSORBUS_SIMULATE=gpu tensorbus conform --rerun {name} --level smoke --seed 0"
            in text
        )
        assert f"body:has(#f-{state.replace(' ', '-')}:not(:checked))" in text
    assert text.count("x=1.5") == len(states)
    assert "1/10 fail" in text
    assert "gpu:0 (simulated)" in text
    assert "short table" in text
    assert "not passed" in text


def test_a_page_of_merged_reports_has_a_column_for_each(tmp_path: Path) -> None:
    for name, state in (("lab", "pass"), ("desk", "fail")):
        (tmp_path / f"{name}.json").write_text(json.dumps(report({A: state}, seed=len(name))))
    files = [str(tmp_path / f"{n}.json") for n in ("lab", "desk")]
    text = Page(html(merge(files))).text
    assert "lab gpu:0 (hardware)" in text
    assert "desk gpu:0 (hardware)" in text
    assert "not all passed (desk)" in text
    assert f"--rerun {A} --level smoke --seed 4" in text


def cases(data: dict[str, Any]) -> tuple[ElementTree.Element, dict[str, ElementTree.Element]]:
    """The parsed document, checked for the shape that readers of JUnit expect."""
    root = ElementTree.fromstring(junit(data))
    assert root.tag == "testsuites"
    found = {}
    for suite in root:
        assert suite.tag == "testsuite"
        assert {e.tag for e in suite} <= {"properties", "testcase"}
        inside = suite.findall("testcase")
        assert suite.get("tests") == str(len(inside))
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped",) * 2):
            assert suite.get(attribute) == str(len(suite.findall(f"testcase/{tag}")))
        for case in inside:
            assert case.get("name")
            assert case.get("classname")
            assert float(case.get("time", "x")) >= 0
            assert {e.tag for e in case} <= {"properties", "failure", "error", "skipped"}
            assert len([e for e in case if e.tag != "properties"]) <= 1
            found[str(case.get("name"))] = case
    assert root.get("tests") == str(len(found))
    return root, found


@pytest.mark.parametrize("state", EVERY)
def test_only_a_pass_is_a_success(state: str) -> None:
    _, found = cases(of_states("pass", state))
    told = [e for e in found["exp/gpu:0/float32/portable/p1"] if e.tag != "properties"]
    if state == "pass":
        assert told == []
        return
    silent = state in ("known", "unsupported", "not run")
    assert (told[0].tag == "skipped") == silent
    assert str(told[0].get("message")).startswith(f"{state} (hardware): ")
    if not silent:
        assert "--rerun exp/gpu:0/float32/portable/p1" in (told[0].text or "")


def test_properties_carry_the_evidence() -> None:
    root, found = cases(report({A: "fail"}))
    of_case = {e.get("name"): e.get("value") for e in found[A].iterfind("properties/property")}
    assert of_case["evidence"] == "hardware"
    assert of_case["witness"] == "x=1.5"
    assert (of_case["worst_error"], of_case["bound"]) == ("2.5 ulp", "1.0 ulp")
    of_suite = {e.get("name"): e.get("value") for e in root[0].iterfind("properties/property")}
    assert of_suite["driver"] == "1.0"
    assert (of_suite["evidence"], of_suite["level"], of_suite["seed"]) == ("hardware", "smoke", "0")


def test_xml_survives_any_text() -> None:
    _, found = cases(report([cell(A, "fail", message=NASTY, witness=NASTY)]))
    (told,) = found[A].findall("failure")
    assert "<script>alert('1')</script> & \"x\" \ufffd\ufffd[31m \ufffd" in str(told.get("message"))


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": [device("gpu:0"), device("gpu:1", available=False, cause="gone", fix="buy")]},
        {"complete": False},
        {
            "expectations": {
                "file": "k", "entries": 1, "known": 0, "idle": [], "problems": ["expired"],
            }
        },
    ],
)  # fmt: skip
def test_a_run_that_fails_never_reads_as_green(changes: dict[str, Any]) -> None:
    root, _ = cases(report({A: "pass"}, **changes))
    assert int(root.get("failures", 0)) + int(root.get("errors", 0)) == 1


def test_lost_coverage_and_nothing_executed_are_failures() -> None:
    data = report({A: "pass"})
    enter(data, "old.json", report({A: "pass", B: "pass"}), scope([], None, None))
    root, _ = cases(data)
    assert root.get("failures") == "1"
    root, _ = cases(report({}))
    assert root.get("failures") == "1"


def test_from_the_command_line(tmp_path: Path) -> None:
    page, xml, target = tmp_path / "r.html", tmp_path / "r.xml", tmp_path / "r.json"
    asked = ["conform", "--device", "ref", "--ops", "bitwise_invert", "--json", str(target)]
    assert cli.main([*asked, "--html", str(page), "--junit", str(xml), "--workers", "1"]) == 0
    cells = len(json.loads(target.read_text())["cells"])
    assert len(ElementTree.parse(xml).findall("testsuite/testcase")) == cells
    assert "Every cell passed" in Page(page.read_text()).text
    other = tmp_path / "other.html"
    assert cli.main(["report", "html", str(target), "--out", str(other)]) == 0
    assert other.read_text() == page.read_text()
    (tmp_path / "file").write_text("")
    unwritable = tmp_path / "file" / "r.xml"
    assert cli.main([*asked, "--junit", str(unwritable), "--workers", "1"]) == 2
