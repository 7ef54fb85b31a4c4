"""Plant the faults of docs/blind-faults.toml one at a time and let `tensorbus conform` judge each.

They were thought up without sight of the judge's samples.  Each is a replacement of text in a copy
of the product's sources; the tree is never written.  A fault counts only if it is shown to be
active: its snippet says so with the faulty sources and not with the healthy ones.  A cell counts as
a catch only if it passes with the healthy sources.

    python benchmarks/blind_faults.py --level smoke,standard
    python benchmarks/blind_faults.py --only sum-identity,ceil-negative
    python benchmarks/blind_faults.py --faults docs/blind-faults-second.toml
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FAULTS = DOCS / "blind-faults.toml"
ROOMS = ("dispatcher", "backends", "cpu", "opencl", "cuda", "rocm", "metal")
PLANTED = ("dispatcher", "backends", "cpu", "opencl")
LEVELS = ("smoke", "standard")
PARTS = ("driver", "primitive", "surface", "scale")
FINE = ("pass", "unsupported", "known")

_HEAD = "import numpy as np\nimport tensorbus as tb\n"
_TAIL = "\nprint('ACTIVE' if active else 'HEALTHY')\n"
_TRIED = 40


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        edits: (file, old text, new text); the old one occurs exactly once.
        active: Python text that sets ``active``.
        judge: Ops and parts for ``conform --ops``.
        own_cache: Whether its kernels may not be shared with other faults' runs.
    """

    id: str
    kind: str
    what: str
    edits: tuple[tuple[str, str, str], ...]
    active: str
    judge: tuple[str, ...]
    note: str = ""
    device: str = "cpu"
    own_cache: bool = False


@dataclass
class Place:
    """Sources to import from and a cache of kernels."""

    sources: Path
    cache: Path

    def environment(self) -> dict[str, str]:
        """Where Python finds the product; the judge is the tree's."""
        rooms = [self.sources / r for r in PLANTED]
        rooms += [ROOT / r for r in ROOMS if r not in PLANTED] + [ROOT / "conformance"]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, rooms)),
            "TENSORBUS_CACHE": str(self.cache),
            "TENSORBUS_DEVICE": "cpu",
            "PYTHONDONTWRITEBYTECODE": "1",
        }


@dataclass
class Judged:
    """What one run of `conform` found."""

    outcome: str
    cells: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def read_faults(path: Path = FAULTS) -> list[Fault]:
    """The faults of the file, in order."""
    rows = tomllib.loads(path.read_text())["fault"]
    return [
        Fault(
            r["id"],
            r["class"],
            r["what"],
            tuple((e["file"], e["old"], e["new"]) for e in r["edit"]),
            r["active"],
            tuple(r["judge"]),
            r.get("note", ""),
            r.get("device", "cpu"),
            r.get("cache") == "own",
        )
        for r in rows
    ]


def copy_sources(to: Path, edits: Sequence[tuple[str, str, str]] = ()) -> None:
    """The product's rooms, with texts replaced.

    Raises:
        ValueError: A text does not occur exactly once.
    """
    for room in PLANTED:
        package = next((ROOT / room).glob("tensorbus*"))
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, to / room / package.name, ignore=ignore)
    for file, old, new in edits:
        path = to / file
        text = path.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{file}: {text.count(old)} occurrences of {old[:60]!r}, not 1")
        path.write_text(text.replace(old, new))


def run(command: Sequence[str], place: Place, limit_s: float, folder: Path) -> tuple[int, str]:
    """Exit status (124 if it ran past the limit) and the end of what it wrote."""
    with tempfile.TemporaryFile(dir=folder) as out:
        child = subprocess.Popen(
            command,
            env=place.environment(),
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = child.wait(limit_s)
        except BaseException as stopped:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if not isinstance(stopped, subprocess.TimeoutExpired):
                raise
            status = 124
        out.seek(0)
        return status, out.read()[-3000:].decode(errors="replace")


def shows(fault: Fault, place: Place, folder: Path) -> str:
    """``"active"``, ``"healthy"``, or how the snippet ended."""
    code = _HEAD + fault.active + _TAIL
    status, text = run([sys.executable, "-c", code], place, 120, folder)
    if status == 0:
        return "active" if text.rstrip().endswith("ACTIVE") else "healthy"
    return f"status {status}: {text.strip().splitlines()[-1][:120] if text.strip() else ''}"


def conform(arguments: Sequence[str], place: Place, limit_s: float, folder: Path) -> Judged:
    """Run the judge."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        report = Path(made) / "report.json"
        command = [sys.executable, "-m", "tensorbus_conformance", "conform"]
        command += [*arguments, "--workers", "1", "--json", str(report)]
        start = time.monotonic()
        status, text = run(command, place, limit_s, Path(made))
        seconds = time.monotonic() - start
        if status in (0, 1) and report.exists():
            cells = json.loads(report.read_text())["cells"]
            return Judged("passed" if status == 0 else "failed", cells, seconds)
        if status == 124:
            return Judged("timeout", [], seconds)
        last = text.strip().splitlines()[-1][:200] if text.strip() else ""
        return Judged(f"status {status}: {last}", [], seconds)


class Court:
    """Judges faults, and remembers which cells pass with the healthy sources."""

    def __init__(self, folder: Path, healthy: Place, limit_s: float) -> None:
        self._folder, self._healthy, self._limit_s = folder, healthy, limit_s
        self._known: dict[tuple[str, str], bool] = {}
        self._lock = threading.Lock()

    def passes(self, cell: str, level: str) -> bool:
        """Whether a cell passes with the healthy sources."""
        key = (cell, level)
        with self._lock:
            if key in self._known:
                return self._known[key]
        command = [sys.executable, "-m", "tensorbus_conformance", "conform"]
        command += ["--rerun", cell, "--level", level]
        with tempfile.TemporaryDirectory(dir=self._folder) as made:
            fine = run(command, self._healthy, self._limit_s, Path(made))[0] == 0
        with self._lock:
            self._known[key] = fine
        return fine

    def judge(self, fault: Fault, place: Place, level: str) -> dict[str, Any]:
        """One fault at one level: the cheap parts first, then its ops until one catches it."""
        parts = [name for name in fault.judge if name.partition(".")[0] in PARTS]
        ops = [name for name in fault.judge if name not in parts]
        result: dict[str, Any] = {"caught": False, "cells": 0, "failing": 0, "seconds": 0.0}
        for names in [*([parts] if parts else []), *([op] for op in ops)]:
            self._one(fault, place, level, names, result)
            if result["caught"]:
                break
        return result

    def _one(
        self, fault: Fault, place: Place, level: str, names: Sequence[str], result: dict[str, Any]
    ) -> None:
        arguments = ["--device", fault.device, "--ops", ",".join(names), "--level", level]
        found = conform(arguments, place, self._limit_s, self._folder)
        bad = [c for c in found.cells if c["state"] not in FINE]
        result["outcome"] = found.outcome
        result["cells"] += len(found.cells)
        result["failing"] += len(bad)
        result["seconds"] = round(result["seconds"] + found.seconds, 1)
        if found.outcome.startswith("status"):
            # The judge itself did not come to a report; with the healthy sources it has to.
            fine = conform(arguments, self._healthy, self._limit_s, self._folder)
            result["caught"] = fine.outcome in ("passed", "failed")
            result["property"] = "no report"
        # One cell of each property first: a property that fails anyway must not use up the tries.
        first = {c["property"]: c for c in reversed(bad)}
        rest = [c for c in bad if c not in first.values()]
        for cell in [*reversed(list(first.values())), *rest][:_TRIED]:
            if self.passes(cell["cell"], level):
                result["caught"] = True
                result["property"], result["cell"] = cell["property"], cell["cell"]
                result["state"], result["message"] = cell["state"], cell["message"][:200]
                break


def fill_cache(to: Path) -> None:
    """The kernels that the shared cache has, by hard links where the file system allows."""
    from tensorbus_backends.cache import default_directory

    source = default_directory()
    to.mkdir(parents=True)
    if source.is_dir():
        for options in ("-al", "-a"):
            done = subprocess.run(["cp", options, f"{source}/.", str(to)], capture_output=True)
            if done.returncode == 0:
                return


def try_one(
    fault: Fault,
    court: Court,
    healthy: Place,
    folder: Path,
    levels: Sequence[str],
    proof: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """Plant a fault, show that it is active (unless there is a proof), judge it."""
    with tempfile.TemporaryDirectory(prefix=f"{fault.id}-", dir=folder) as made:
        home = Path(made)
        place = Place(home / "sources", healthy.cache)
        copy_sources(place.sources, fault.edits)
        if fault.own_cache:
            place.cache = home / "cache"
            subprocess.run(["cp", "-al", str(healthy.cache), str(place.cache)], check=True)
        result: dict[str, Any] = {"id": fault.id, "class": fault.kind, "what": fault.what}
        result["note"], result["judge"] = fault.note, list(fault.judge)
        result["healthy"] = proof[0] if proof else shows(fault, healthy, home)
        result["faulty"] = proof[1] if proof else shows(fault, place, home)
        # A process that the fault ends by a signal shows it as well.
        result["active"] = result["healthy"] == "healthy" and (
            result["faulty"] == "active" or result["faulty"].startswith("status -")
        )
        if result["active"]:
            for level in levels:
                result[level] = court.judge(fault, place, level)
        return result


def _caught(result: dict[str, Any], level: str) -> bool:
    """At the level; what smoke caught and standard was not asked for counts for both."""
    found = result.get(level) or (result.get("smoke") if level == "standard" else None)
    return bool(found and found["caught"])


def _mark(result: dict[str, Any], level: str) -> str:
    if not result.get("active"):
        return "not active"
    found = result.get(level)
    if found is None:
        return "(at smoke)" if _caught(result, level) else "-"
    if found["caught"]:
        late = result.get("first", {}).get(level) is False
        return f"{found['property']}{' (later)' if late else ''}"
    return "timeout" if found["outcome"] == "timeout" else "**survived**"


def table(results: Sequence[dict[str, Any]]) -> str:
    """The Markdown page."""
    kinds = list(dict.fromkeys(r["class"] for r in results))
    lines = [
        "# Faults that the judge had not seen",
        "",
        "Thought up from the documentation and the signatures alone, without sight of a sample,",
        "judged by `python benchmarks/blind_faults.py`; the .toml and .json have details.",
        "A word is the property that caught the fault; a cell counts only if it passes without it.",
        "What smoke caught may not have been asked again at standard; it counts there too.",
        "*At first* is the figure of the blind trial: what survived it and is caught *later* is",
        "caught by a judge whose makers have read the fault.",
        "",
        "| class | active | smoke | standard, at first | standard, later |",
        "|---|---|---|---|---|",
    ]
    for kind in [*kinds, ""]:
        mine = [r for r in results if r["active"] and kind in (r["class"], "")]
        now = [sum(_caught(r, lv) for r in mine) for lv in LEVELS]
        late = sum(
            _caught(r, "standard") and r.get("first", {}).get("standard") is False for r in mine
        )
        asked = [any(lv in r for r in mine) for lv in LEVELS]
        counts = ((asked[0], now[0]), (asked[1], now[1] - late), (asked[1], now[1]))
        row = " | ".join(f"{n}/{len(mine)}" if was else "not run" for was, n in counts)
        lines.append(f"| {kind or 'all'} | {len(mine)} | {row} |")
    lines += ["", "| class | fault | smoke | standard |", "|---|---|---|---|"]
    for r in results:
        what = (r["what"] + (f" ({r['note']})" if r["note"] else "")).replace("|", chr(92) + "|")
        marks = " | ".join(_mark(r, level) for level in LEVELS)
        lines.append(f"| {r['class']} | `{r['id']}`: {what} | {marks} |")
    return "\n".join(lines) + "\n"


def write(results: dict[str, dict[str, Any]], order: Sequence[str], file: Path) -> None:
    """Results beside the file of faults (.json and .md), in the order of the faults."""
    rows = [results[i] for i in order if i in results]
    file.with_suffix(".json").write_text(json.dumps({"results": rows}, indent=1) + "\n")
    file.with_suffix(".md").write_text(table(rows))


def main() -> int:
    """Command line; status 0 if every active fault that was judged at the last level is caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--level", default="smoke,standard", help="smoke, standard or both")
    parser.add_argument("--faults", type=Path, default=FAULTS, help="another file of faults")
    parser.add_argument("--only", default="", help="ids or classes (default: all)")
    parser.add_argument("--survivors", action="store_true", help="only what no level caught so far")
    parser.add_argument("--active", action="store_true", help="only show that they are active")
    parser.add_argument("--keep", action="store_true", help="keep earlier results of others")
    parser.add_argument("--proven", action="store_true", help="trust recorded proofs of activity")
    parser.add_argument("--parallel", type=int, default=1, help="faults at a time")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one run")
    given = parser.parse_args()
    levels = [] if given.active else given.level.split(",")
    faults = read_faults(given.faults)
    known_results = given.faults.with_suffix(".json")
    order = [f.id for f in faults]
    results: dict[str, dict[str, Any]] = {}
    if known_results.exists() and (given.keep or given.survivors or given.only):
        results = {r["id"]: r for r in json.loads(known_results.read_text())["results"]}
    if given.only:
        chosen = set(given.only.split(","))
        faults = [f for f in faults if f.id in chosen or f.kind in chosen]
    if given.survivors:

        def caught(fault: Fault) -> bool:
            known = results.get(fault.id, {})
            return any(known.get(level, {}).get("caught") for level in LEVELS)

        faults = [f for f in faults if not caught(f)]
    lock = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="tensorbus-blind-") as made:
        folder = Path(made)
        healthy = Place(folder / "healthy", folder / "cache")
        copy_sources(healthy.sources)
        fill_cache(healthy.cache)
        court = Court(folder, healthy, given.timeout)

        def go(fault: Fault) -> None:
            with lock:
                old = results.get(fault.id, {})
            proof = (old["healthy"], old["faulty"]) if given.proven and old.get("active") else None
            result = try_one(fault, court, healthy, folder, levels, proof)
            with lock:
                same = old.get("judge") == result["judge"]
                known = {k: old[k] for k in LEVELS if same and k in old}
                first = old.get("first") or {k: v["caught"] for k, v in known.items()}
                results[fault.id] = {**known, **result, **({"first": first} if first else {})}
                write(results, order, given.faults)
                marks = ", ".join(f"{lv}: {_mark(result, lv)}" for lv in levels)
                print(f"{fault.id}: {result['healthy']} / {result['faulty']}; {marks}", flush=True)

        with ThreadPoolExecutor(given.parallel) as pool:
            for done in [pool.submit(go, f) for f in faults]:
                done.result()
    judged = [r for f in faults if (r := results[f.id])["active"] and levels and levels[-1] in r]
    won = [r for r in judged if r[levels[-1]]["caught"]]
    print(f"{len(won)} of {len(judged)} caught")
    return 0 if len(won) == len(judged) else 1


if __name__ == "__main__":
    sys.exit(main())
