"""Every row of docs/bad-input.md is provoked, and its words are looked for.

Rows that do not get in each other's way share a process.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tensorbus_backends import simulator
from tensorbus_backends.contract import DeviceUnavailableError

PAGE = Path(__file__).with_name("bad-input.md")
FAMILIES = "cuda", "rocm", "metal"


def helper(name: str) -> Any:
    """A module beside the conformance suite's own tests."""
    file = Path(__file__).parents[1] / "conformance" / "tests" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bad_plugins, report_cases = helper("bad_plugins"), helper("report_cases")
HIDING = 'raise ModuleNotFoundError("No module named \'pycuda\'", name="pycuda")\n'
CONFORM = ("conform", "--ops", "add", "--workers", "1", "--report")
# One command after the other; without opencl, which has no row and takes half of the time.
CLI = """
import json, sys
from tensorbus_backends import discovery
from tensorbus_conformance import cli

announced = discovery._announced
discovery._announced = lambda group: (a for a in announced(group) if a.name != "opencl")
for arguments in json.loads(sys.argv[1]):
    status = cli.main(arguments)
    sys.stdout.flush()
    print("STATUS", status, file=sys.stderr, flush=True)
"""


@dataclass(frozen=True)
class Row:
    """One row: what is set, asked and said; `status` and `error` where the table has them."""

    what: str
    device: str
    settings: tuple[str, ...]
    asked: str
    status: int
    error: str
    said: tuple[str, ...]

    @property
    def own(self) -> bool:
        """Whether only its own family reads what it sets."""
        name = self.device.upper()
        return all(f"_{name}=" in s or f"_{name}_" in s for s in self.settings)

    def __str__(self) -> str:
        return f"{self.device or self.asked}-{self.what}".replace(" ", "-")


def tables() -> list[list[dict[str, str]]]:
    """The page's tables: rows by heading."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", PAGE.read_text(), re.MULTILINE):
        head, _, *cells = [
            [cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()
        ]
        found.append([dict(zip(head, row, strict=True)) for row in cells])
    return found


def words(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]*)`", cell))


def rows(table: int) -> list[Row]:
    return [
        Row(
            what=row["what is wrong"],
            device=row.get("device", ""),
            settings=words(row.get("set", "")),
            asked="".join(words(row.get("devices", "") or row.get("code", ""))),
            status=int(row.get("status", 0)),
            error="".join(words(row.get("raises", ""))),
            said=words(row["what is said"]),
        )
        for row in tables()[table]
    ]


def groups(table: int) -> list[list[Row]]:
    """Rows that one process can show: one of each family, all without simulation, the same set."""
    alike: dict[tuple[object, ...], list[Row]] = {}
    counts = dict.fromkeys(FAMILIES, 0)
    for row in rows(table):
        key: tuple[object, ...] = row.settings
        if "TENSORBUS_SIMULATE=" in row.settings:
            key = (0,)
        elif row.device in FAMILIES and row.own:
            counts[row.device] += 1
            key = (counts[row.device],)
        alike.setdefault(key, []).append(row)
    return list(alike.values())


@functools.cache
def lacking(family: str) -> str:
    """Why a family cannot be simulated here, or ""."""
    if family == "cuda" and importlib.util.find_spec("pycuda") is None:
        return "pycuda is not installed (python -m tensorbus_cuda.simulator.build_pycuda)"
    if sys.platform != "linux":
        return "the page tells what Linux says"
    try:
        simulator.compiler()
    except DeviceUnavailableError as error:
        return error.cause
    return ""


def run(
    code: str, arguments: list[str], settings: tuple[str, ...], tmp_path: Path
) -> tuple[int, str]:
    """Exit status and all that is written, with white space as single spaces."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TENSORBUS_")}
    if "TENSORBUS_CACHE" in os.environ:
        environment["TENSORBUS_CACHE"] = os.environ["TENSORBUS_CACHE"]
    environment["TENSORBUS_SIMULATE"] = ",".join(FAMILIES)
    hiding = tmp_path / "hiding"
    hiding.mkdir(exist_ok=True)
    (hiding / "pycuda.py").write_text(HIDING)
    for setting in settings:
        name, _, value = setting.partition("=")
        environment[name] = value.replace("HIDING", str(hiding))
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stdout, done.stdout
    return done.returncode, " ".join(done.stdout.split())


def check(row: Row, text: str) -> None:
    """Assert that a row's words stand in a text, in their order."""
    after = 0
    for part in row.said:
        found = text.find(" ".join(part.split()), after)
        assert found >= 0, f"{row}: no {part!r} in\n{text[after:]}"
        after = found + len(part)


def shown(some: list[Row]) -> list[Row]:
    """Rows that can be shown here; skips the test if there are none."""
    here = [row for row in some if not _hidden(row)]
    if not here:
        pytest.skip("; ".join(sorted({_hidden(row) for row in some})))
    return here


def _hidden(row: Row) -> str:
    if "TENSORBUS_SIMULATE=" in row.settings and row.device == "cuda":
        from ctypes.util import find_library

        if find_library("cuda"):
            return "NVIDIA's driver is installed"
    named = [f for f in FAMILIES if f in row.device or f in row.asked]
    return next(filter(None, map(lacking, named or ["rocm"])), "")


def commands(some: list[list[str]], group: list[Row], tmp_path: Path) -> Iterator[tuple[str, int]]:
    """What commands write, and their status, with everything set that rows of a group set."""
    settings = tuple(dict.fromkeys(s for row in group for s in row.settings))
    status, text = run(CLI, [json.dumps(some)], settings, tmp_path)
    assert status == 0, text
    parts = re.split(r"STATUS (\d+)", text)
    assert len(parts) == 2 * len(some) + 1, text
    return zip(parts[::2], map(int, parts[1::2]), strict=False)


def first(group: list[Row]) -> str:
    return str(group[0])


@pytest.mark.parametrize("group", groups(0), ids=first)
def test_devices(group: list[Row], tmp_path: Path) -> None:
    here = shown(group)
    ((text, status),) = commands([["devices"]], here, tmp_path)
    assert status == 0, text
    for row in here:
        check(row, text)


@pytest.mark.parametrize("group", groups(1), ids=first)
def test_conform(group: list[Row], tmp_path: Path) -> None:
    here = shown(group)
    asked = [[*CONFORM, str(tmp_path), "--device", row.asked] for row in here]
    for row, (text, status) in zip(here, commands(asked, here, tmp_path), strict=True):
        assert status == row.status, text
        check(row, text)


RAISING = """
import json, os, sys
from dataclasses import dataclass
import tensorbus as tb

@dataclass(frozen=True)
class Broken:
    name: str = "broken"
    buffers: int = 1
    words: int = 1

    def source(self, dialect):
        meta = dialect.meta.format(name=self.name, words=1, index=1)
        buffer = dialect.pointer.format(const="", type="i32", name="y", index=0)
        head = dialect.kernel.format(name=self.name, args=f"{buffer}, {meta}", words=1)
        return head + " {\\n    y[0] = undeclared;\\n}\\n"

    def local_bytes(self, dialect):
        return 0

def forked(call):
    here, there = os.pipe()
    if not os.fork():
        try:
            call()
        except Exception as error:
            os.write(there, f"{type(error).__name__}|{error}".encode())
        os._exit(0)
    os.close(there)
    os.wait()
    name, _, said = os.read(here, 65536).decode().partition("|")
    raise type(name or "nothing", (Exception,), {})(said)

broken = Broken()
answers = []
for device, code in json.loads(sys.argv[1]):
    try:
        x = tb.ones(3, device=device + ":0")
        (x + 1).numpy()
        eval(code)
        answers.append(["nothing", ""])
    except Exception as error:
        answers.append([type(error).__name__, str(error)])
print("ANSWERS" + json.dumps(answers))
"""


def test_python(tmp_path: Path) -> None:
    some = shown(rows(2))
    asked = json.dumps([[row.device, row.asked] for row in some])
    settings = ["TENSORBUS_SIMULATE_CUDA=devices=2,memory=64MiB"]
    settings += [f"TENSORBUS_SIMULATE_{name}=memory=64MiB" for name in ("ROCM", "METAL")]
    status, text = run(RAISING, [asked], tuple(settings), tmp_path)
    assert status == 0, text
    answers = json.loads(text.partition("ANSWERS")[2])
    for row, (error, said) in zip(some, answers, strict=True):
        assert error == row.error, f"{row}: {error}: {said}"
        check(row, " ".join(said.split()))


@pytest.mark.parametrize("row", tables()[3], ids=lambda row: row["what is wrong"])
def test_plugins(row: dict[str, str], tmp_path: Path) -> None:
    (opens,) = words(row["plugin"])
    bad_plugins.install(tmp_path / "site", "bad", {"does": opens})
    paths = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    settings = ("TENSORBUS_SIMULATE=", f"PYTHONPATH={paths}")
    asked = ["conform", "--device", "bad,ref", "--ops", "bitwise_invert", "--timeout", "3"]
    target = tmp_path / "r.json"
    status, text = run(START, [*asked, "--json", str(target)], settings, tmp_path)
    assert status == int(row["status"]), text
    check(Row(row["what is wrong"], "bad", (), "", 0, "", words(row["what is said"])), text)
    counts = json.loads(target.read_text())["summary"]
    assert counts["ref"]["pass"] == counts["ref"]["cells"] > 0


START = "import sys; from tensorbus_conformance.cli import main; sys.exit(main())"


def test_what_is_refused(tmp_path: Path) -> None:
    """All rows in one process: nothing of them opens a device."""
    (tmp_path / "cut.json").write_text('{"schema": ')
    good = report_cases.report({"add/ref/int32/portable/values": "pass"})
    (tmp_path / "good.json").write_text(json.dumps(good))
    places = {"FILE": "cut.json", "GOOD": "good.json", "HERE": "."}
    asked = []
    for row in tables()[4]:
        (line,) = words(row["command"])
        for word, file in places.items():
            line = re.sub(rf"\b{word}\b", str(tmp_path / file), line)
        asked.append(shlex.split(line))
    code = CLI.replace("announced = ", "del sys.path[0]\nannounced = ", 1)
    status, text = run(code, [json.dumps(asked)], ("TENSORBUS_SIMULATE=",), tmp_path)
    assert status == 0, text
    parts = re.split(r"STATUS (\d+)", text)
    answers = zip(tables()[4], parts[::2], parts[1::2], strict=False)
    assert [number for _, _, number in answers] == ["2"] * len(asked), text
    for row, said in zip(tables()[4], parts[::2], strict=False):
        check(Row(row["what is wrong"], "", (), "", 2, "", words(row["what is said"])), said)


def test_the_page_has_rows_of_every_kind() -> None:
    assert [len(tables()[k]) > 5 for k in range(5)] == [True] * 5
    for family in FAMILIES:
        assert sum(row.device == family for row in rows(0)) >= 8
    assert all(row.said for k in range(3) for row in rows(k))
