"""The READMEs' tables of lines: a vendor reads them as the size of the job."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = {
    "cuda": (
        ["libcuda", "context", "driver", "errors"],
        ["compiler", "libraries", "dialect"],
        ["natives"],
        ["__init__", "device", "inventory", "plugin"],
    ),
    "rocm": (
        ["library", "driver", "errors"],
        ["compiler", "codeobject", "dialect"],
        ["natives"],
        ["__init__", "device", "inventory", "plugin"],
    ),
    "metal": (
        ["objc", "driver", "errors"],
        ["compiler", "dialect"],
        ["natives"],
        ["__init__", "device", "system", "plugin"],
    ),
}


def lines(plugin: str, names: list[str]) -> int:
    files = [ROOT / plugin / f"tensorbus_{plugin}" / f"{name}.py" for name in names]
    return sum(len(f.read_text().splitlines()) for f in files)


@pytest.mark.parametrize("plugin", PARTS)
def test_the_readme_says_how_many_lines_a_plugin_has(plugin: str) -> None:
    row = re.search(rf"^\| \[{plugin}\].*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert row is not None
    told = [int(cell) for cell in re.findall(r"\| (\d+) ", row[0] + " ")]
    real = [lines(plugin, names) for names in PARTS[plugin]]
    assert told == pytest.approx(real, rel=0.1), f"the README should say {real}"


@pytest.mark.parametrize("plugin", PARTS)
def test_a_plugins_own_readme_says_how_many_lines_its_files_have(plugin: str) -> None:
    text = (ROOT / plugin / "README.md").read_text()
    rows = re.findall(r"^\| (`[^|]*) \|[^|]*\| (\d+) \|$", text, re.MULTILINE)
    assert rows
    for files, told in rows:
        names = re.findall(r"`([\w.]+)`", files)
        found = [ROOT / plugin / f"tensorbus_{plugin}" / name for name in names]
        real = sum(len(file.read_text().splitlines()) for file in found)
        assert int(told) == pytest.approx(real, rel=0.1), f"{files}: {real} lines"
