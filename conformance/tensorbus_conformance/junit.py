"""JUnit XML of a report: a suite for each device, a test case for each cell.

What was not executed or is a known failure is skipped, with the reason; nothing but a pass is a
success.  A device that is absent, a mistake in the file of expectations and coverage lost against a
baseline are failing cases of their own, so that a run that fails never reads as a green one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from .report import rerun_command, why

__all__ = ["junit"]

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_KINDS = {
    "pass": None,
    "fail": "failure",
    "fallback": "failure",
    "vacuous": "failure",
    "error": "error",
    "crash": "error",
    "timeout": "error",
    "known": "skipped",
    "unsupported": "skipped",
    "not run": "skipped",
}
"""The element that tells a state."""


def junit(data: Mapping[str, Any]) -> str:
    """The report of a run as JUnit XML."""
    root = ElementTree.Element("testsuites", name="tensorbus conform", time=str(data["seconds"]))
    by_device: dict[str, list[dict[str, Any]]] = {d["name"]: [] for d in data["devices"]}
    for cell in data["cells"]:
        by_device.setdefault(cell["device"], []).append(cell)
    for device in data["devices"]:
        suite = _suite(root, device["name"], data)
        facts = {"evidence": device["evidence"] or "-", "description": device["description"]}
        _properties(
            suite,
            {**facts, "level": data["level"], "seed": data["seed"]}
            | data["machine"]
            | device["details"],
        )
        for cell in by_device[device["name"]]:
            _cell(suite, cell, data)
        if not device["available"]:
            text = f"unavailable: {device['cause']}. To fix it: {device['fix']}"
            _told(suite, "device", device["name"], "error", "unavailable", text)
    _mistakes(root, data)
    for suite in (*root, root):
        _count(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: ElementTree.Element, name: str, data: Mapping[str, Any]) -> ElementTree.Element:
    stamp = clean(str(data["created"])[:19])
    return ElementTree.SubElement(root, "testsuite", name=clean(name), timestamp=stamp)


def _cell(suite: ElementTree.Element, cell: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    where = f"{cell['device']}.{cell['op']}"
    case = ElementTree.SubElement(
        suite,
        "testcase",
        name=clean(cell["cell"]),
        classname=clean(where),
        time=f"{cell['seconds']:.3f}",
    )
    facts = {key: cell[key] for key in ("evidence", "state", "decided", "library", "witness")}
    if cell["unit"]:
        facts["worst_error"] = f"{cell['worst_error']} {cell['unit']}"
        facts["bound"] = f"{cell['bound']} {cell['unit']}"
    _properties(case, {k: v for k, v in facts.items() if v != ""})
    kind = _KINDS.get(cell["state"], "error")
    if kind is None:
        return
    text = f"{cell['state']} ({cell['evidence']}): {why(cell)}"
    told = ElementTree.SubElement(case, kind, message=clean(text))
    if kind != "skipped":
        told.set("type", cell["state"])
        lines = [text, f"witness: {cell['witness']}", rerun_command(cell, data)]
        told.text = clean("\n".join(lines))


def _mistakes(root: ElementTree.Element, data: Mapping[str, Any]) -> None:
    told = data.get("problems", {})
    wrong = [("device", f"{name}: {problem}") for name in told for problem in told[name]]
    wrong += [("expectations", p) for p in data.get("expectations", {}).get("problems", [])]
    baseline = data.get("baseline", {})
    for kind in ("worse", "lost", "new"):
        for c in baseline.get(kind, []):
            wrong.append(("baseline", f"{kind}: {c['cell']}: {c['was']} then, {c['now']} now"))
    if not data["complete"]:
        wrong.append(("run", "interrupted: some cells were not run"))
    if not data["cells"]:
        wrong.append(("run", "nothing was executed"))
    for name in sorted({w[0] for w in wrong}):
        suite = _suite(root, name, data)
        for _, text in (w for w in wrong if w[0] == name):
            _told(suite, name, text, "failure", name, text)


def _told(
    suite: ElementTree.Element, where: str, name: str, kind: str, of_type: str, text: str
) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", name=clean(name), classname=clean(where), time="0.000"
    )
    told = ElementTree.SubElement(case, kind, message=clean(text), type=of_type)
    told.text = clean(text)


def _properties(parent: ElementTree.Element, facts: Mapping[str, Any]) -> None:
    found = ElementTree.SubElement(parent, "properties")
    for name, value in facts.items():
        ElementTree.SubElement(found, "property", name=clean(name), value=clean(str(value)))


def _count(suite: ElementTree.Element) -> None:
    suite.set("tests", str(sum(1 for _ in suite.iter("testcase"))))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(sum(1 for _ in suite.iter(tag))))


def clean(text: str) -> str:
    """Text without the characters that XML cannot carry, not even escaped."""
    return _ILLEGAL.sub("\ufffd", text)
