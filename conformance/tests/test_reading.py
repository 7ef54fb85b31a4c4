"""Reports that are none are refused in one line; reports are written over files only."""

from __future__ import annotations

import copy
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tensorbus_conformance import cli
from tensorbus_conformance.report import load
from tensorbus_conformance.writing import write

from .report_cases import SCHEMA, report

GOOD = report(
    {"exp/cpu/float32/portable/values": "pass", "exp/cpu/float32/portable/bits": "fail"},
    lost={"cpu": "it was lost"},
    problems={"cpu": ["it declares nothing"]},
    expectations={"file": "k.toml", "entries": 1, "known": 0, "idle": ["entry 1"], "problems": []},
    baseline={
        "file": "b.json", "created": "then", "passed": False, "worse": [], "lost": [],
        "new": [{"cell": "exp/cpu/float32/portable/bits", "was": "unknown", "now": "fail"}],
        "improved": [], "changed": [], "still": 0, "outside": 0, "notes": ["a note"],
    },
)  # fmt: skip

VALUES: tuple[Any, ...] = (None, True, 7, -1.5, "text", "", [], [[]], {}, {"cells": []})


def merged() -> dict[str, Any]:
    head = {k: v for k, v in GOOD.items() if k not in ("schema", "cells")}
    return {
        "schema": "tensorbus-conformance-merged/1", "created": "now", "complete": True,
        "passed": False,
        "reports": [{"name": "a", "file": "a.json", "verdict": False, **head}],
        "cells": [{"report": "a", **c} for c in GOOD["cells"]],
    }  # fmt: skip


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside a document."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*path, key))
    elif isinstance(value, list):
        for key, inner in enumerate(value):
            yield from paths(inner, (*path, key))


def mutants(good: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The document with each place dropped, or of another value."""
    for path in paths(good):
        for value in ("drop", *VALUES):
            data = copy.deepcopy(good)
            inner = data
            for key in path[:-1]:
                inner = inner[key]
            if value == "drop":
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
            yield f"{path} {value!r}", data


def valid(data: Any) -> bool:
    return VALIDATOR.is_valid(data)


VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@pytest.mark.parametrize("good", [GOOD, merged()], ids=["run", "merged"])
def test_every_mutant_is_refused_or_shown(
    good: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and status 2 for what the schema refuses; never a traceback for the rest."""
    file = tmp_path / "r.json"
    seen = {True: 0, False: 0}
    for what, data in mutants(good):
        file.write_text(json.dumps(data))
        status = cli.main(["report", "show", str(file)])
        said = capsys.readouterr()
        if not valid(data):
            assert status == 2, what
        assert status in (0, 1, 2), what
        seen[status == 2] += 1
        if status == 2:
            assert len(said.err.strip().splitlines()) == 1, what
            assert said.err.startswith(f"tensorbus: {file}: "), what
            continue
        assert not said.err
        assert cli.main(["report", "html", str(file)]) == 0, what
        capsys.readouterr()
    assert min(seen.values()) > 30


TEXT = json.dumps(GOOD)
DEEP = "[" * 100_000
BROKEN = {
    "empty": b"",
    "cut": TEXT.encode()[:-20],
    "binary": bytes(range(256)),
    "nan": TEXT.replace("0.1", "NaN").encode(),
    "infinite": TEXT.replace("0.1", "1e999").encode(),
    "deep": DEEP.encode(),
    "deep inside": TEXT.replace('"driver": "1.0"', f'"driver": {DEEP}').encode(),
    "long number": TEXT.replace('"seed": 0', '"seed": ' + "9" * 10_000).encode(),
    "large number": TEXT.replace('"seconds": 0.1', '"seconds": 1' + "0" * 400).encode(),
    "half a pair": TEXT.replace("2.5 ulp", "\\ud800").encode(),
    "list": b"[]",
    "text": b'"report"',
    "null": b"null",
    "older": json.dumps({**GOOD, "schema": "tensorbus-conformance/0"}).encode(),
    "newer": json.dumps({**GOOD, "schema": "x" * 5000}).encode(),
    "number": json.dumps({**GOOD, "schema": 7}).encode(),
    "liar": json.dumps({**GOOD, "passed": True}).encode(),
    "miscounted": json.dumps({**GOOD, "summary": {"cpu": {"cells": 2, "pass": 2}}}).encode(),
    "doubled": json.dumps({**GOOD, "cells": GOOD["cells"] * 2}).encode(),
}


@pytest.mark.parametrize("kind", [*BROKEN, "folder", "missing", "pipe"])
@pytest.mark.parametrize("command", ["show", "html", "merge", "baseline"])
def test_what_is_no_report_is_one_line(
    kind: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "r.json", str(tmp_path / "out")
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind != "missing":
        file.write_bytes(BROKEN[kind])
    commands = {
        "show": ["report", "show", str(file)],
        "html": ["report", "html", str(file), "--out", out],
        "merge": ["report", "merge", str(file), "--out", out],
        "baseline": ["conform", "--device", "ref", "--ops", "add", "--baseline", str(file)],
    }
    assert cli.main(commands[command]) == 2
    said = capsys.readouterr()
    assert not said.out
    (line,) = said.err.strip().splitlines()
    assert line.startswith(f"tensorbus: {file}: ")
    assert len(line) < 600
    assert not Path(out).exists()


# -- writing --------------------------------------------------------------------------------------


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    hanging = tmp_path / "hanging.json"
    hanging.symlink_to(tmp_path / "later" / "r.json")
    write(hanging, "new")
    assert hanging.is_symlink()
    assert (tmp_path / "later" / "r.json").read_text() == "new"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_is_respected(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write(tmp_path / "r.json", "{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "r.json").stat().st_mode) == 0o666 & ~mask
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_devices_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    write(Path("/dev/null"), "text")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"):
        write(pipe, "text")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write(pipe, "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(IsADirectoryError):
        write(tmp_path, "text")


@pytest.mark.parametrize("target", ["/dev/null", "/dev/stdout"])
def test_a_report_to_a_device_is_kept_in_its_folder_too(tmp_path: Path, target: str) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "tensorbus_conformance", "conform", "--device", "ref", "--ops",
            "bitwise_invert", "--json", target, "--report", str(tmp_path),
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (kept,) = tmp_path.glob("*.json")
    assert load(kept)["passed"]
    assert ('"schema": "tensorbus-conformance/1"' in done.stdout) == (target == "/dev/stdout")
    assert not Path(target).with_suffix(".md").exists()
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
