"""Every command that README.md and docs/*.md show is run as it stands there.

A line that begins with ``$ `` in a fenced ``console`` block is a command; those of one page run in
order, in one folder that looks like a clone.  A command that ends in ``# slow`` is not run, only
checked: its program and make target exist, and tensorbus accepts its arguments.  Blocks marked
``python`` are run as they are.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tensorbus_conformance import cli

ROOT = Path(__file__).parents[1]
SLOW = re.compile(r"\s+# slow\s*$")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page that are in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The commands of a page, in order."""
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def quick(page: Path) -> list[str]:
    """Those that are run."""
    return [c for c in commands(page) if not SLOW.search(c)]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder that shows the project's files but keeps what commands write to itself."""
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name not in ("reports", "build", "dist"):
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def run(command: list[str], where: Path) -> None:
    """Run a command with this environment's programs first; assert that it succeeds."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def named(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", [p for p in PAGES if quick(p)], ids=named)
def test_commands_succeed(page: Path, clone: Path) -> None:
    if "examples/perverse" in page.read_text() and not any(map(shutil.which, ("gcc", "clang"))):
        pytest.skip("the perverse device needs gcc or clang")
    for command in quick(page):
        run(["bash", "-c", command], clone)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=named)
def test_python_blocks_run(page: Path, clone: Path) -> None:
    for block in blocks(page, "python"):
        run([sys.executable, "-c", block], clone)


@pytest.mark.parametrize("page", [p for p in PAGES if len(quick(p)) < len(commands(p))], ids=named)
def test_slow_commands_exist(page: Path) -> None:
    for command in set(commands(page)) - set(quick(page)):
        words = [w for w in shlex.split(SLOW.sub("", command)) if "=" not in w or w[0] == "-"]
        if words[0] == "make":
            run(["make", "--dry-run", *words[1:]], ROOT)
        elif words[0] == "tensorbus":
            cli._parser().parse_args(words[1:])
        else:
            assert shutil.which(
                words[0], path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            )


def test_pages_show_commands() -> None:
    assert len(quick(ROOT / "README.md")) >= 3
    assert quick(ROOT / "docs" / "adding-a-device.md")
