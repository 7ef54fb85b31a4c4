"""``tensorbus conform --mutate --coverage``: branches on the way of a call that the judge takes.

The files are listed in ``docs/mutation-files.toml``, with what is left untaken and why.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..console import make_console
from ..report import write_or_say
from .coverage import Coverage, record
from .parsing import parse
from .pool import Pool, PoolError, stoppable
from .probes import arms
from .register import RegisterError
from .tree import Source, Tree
from .zygote import Layout, layout

_DEVICES = ("cpu", "opencl:0", "ref")

__all__ = ["Branch", "branches", "explained", "judge_coverage", "taken", "way"]

MOST_LEFT = 60
"""Branches that may stay untaken with a reason."""


@dataclass(frozen=True)
class Branch:
    """One way that a branch may go.

    Attributes:
        ident: ``PATH#HASH.kind.N``: the N-th of this kind at lines that read so.
        place: Of its byte.
        text: The line.
    """

    ident: str
    path: str
    line: int
    kind: str
    place: int
    text: str


def _list(tree: Tree) -> dict[str, object]:
    path = tree.root / "docs" / "mutation-files.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RegisterError(f"{path} cannot be read: {error}") from None


def way(tree: Tree) -> list[Source]:
    """The files on the way of a call; RegisterError for a path that names none."""
    listed = _list(tree).get("way")
    if not isinstance(listed, list) or not all(isinstance(p, str) for p in listed):
        raise RegisterError("docs/mutation-files.toml lacks the list `way`")
    found: dict[str, Source] = {}
    for path in listed:
        here = {
            s.path: s
            for s in tree.modules.values()
            if s.path == path or (path.endswith("/") and s.path.startswith(path))
        }
        if not here:
            raise RegisterError(f"docs/mutation-files.toml names {path}, which does not exist")
        found.update(here)
    return list(found.values())


def explained(tree: Tree, known: Sequence[Branch]) -> dict[str, str]:
    """Reasons by branch; RegisterError for too many, for a stale one and for one without."""
    left = _list(tree).get("left", [])
    if not isinstance(left, list) or len(left) > MOST_LEFT:
        raise RegisterError(f"docs/mutation-files.toml: `left` is a list of at most {MOST_LEFT}")
    names = {b.ident for b in known}
    found: dict[str, str] = {}
    for entry in left:
        if not isinstance(entry, dict) or set(entry) != {"branch", "why"}:
            raise RegisterError("docs/mutation-files.toml: an entry of `left` has branch and why")
        if entry["branch"] not in names:
            raise RegisterError(f"docs/mutation-files.toml: no branch is called {entry['branch']}")
        if len(str(entry["why"]).strip()) < 20:
            raise RegisterError(f"docs/mutation-files.toml: {entry['branch']} has no reason")
        found[entry["branch"]] = str(entry["why"])
    return found


def branches(sources: Sequence[Source], where: Layout) -> list[Branch]:
    """All branches of files, in the order of their text."""
    found = []
    for source in sources:
        lines = source.text.splitlines()
        count: dict[tuple[str, str], int] = {}
        for k, arm in enumerate(arms(parse(source.text))):
            text = lines[arm.line - 1].strip()
            key = (hashlib.sha256(text.encode()).hexdigest()[:8], arm.kind.replace(" ", "-"))
            number = count[key] = count.get(key, -1) + 1
            ident = f"{source.path}#{key[0]}.{key[1]}.{number}"
            place = where.arm_base[source.module] + k
            found.append(Branch(ident, source.path, arm.line, arm.kind, place, text))
    return found


def taken(coverage: Coverage, known: Sequence[Branch]) -> set[str]:
    """Branches that importing or an item took."""
    union = np.zeros(max((b.place for b in known), default=0) + 1, np.uint8)
    for hits in (coverage.at_import, *(item.hits for item in coverage.items.values())):
        size = min(union.size, hits.size)
        union[:size] |= hits[:size]
    return {b.ident for b in known if union[b.place]}


def judge_coverage(
    level: str,
    *,
    workers: int | None,
    ops: Sequence[str] | None,
    markdown_file: Path | None,
    folder: Path,
    stale: bool = False,
) -> int:
    """Judge every item of cpu, some of other devices, and count; 0 if a report is on disk.

    What is written for threads and the interpreter run on other devices alone.
    """
    tree = Tree.here()
    files = way(tree)
    known = branches(files, layout(tree))
    reasons = explained(tree, known)
    console = make_console()
    start = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, TimeElapsedColumn(), console=console, refresh_per_second=4)
    with stoppable(), bar, Pool(workers or os.cpu_count() or 1) as pool:
        task = bar.add_task("items", total=None)

        def progress(count: int, of: int) -> None:
            bar.update(task, completed=count, total=of)

        try:
            coverage = record(
                tree, pool, level, _DEVICES, progress, branches=True, ops=ops, stale=stale
            )
        except KeyboardInterrupt:
            console.print(Text("interrupted; what was recorded is kept", "yellow"))
            return 1
        except PoolError as error:
            print(f"tensorbus: {error}", file=sys.stderr)
            return 1
    ran = taken(coverage, known)
    share = len(ran) / len(known) if known else 1.0
    command = f"tensorbus conform --mutate --coverage --level {level}"
    if ops is not None:
        command += f" --ops {','.join(ops)}"
    page = _markdown(tree, command, level, len(coverage.items), known, ran, reasons)
    console.print(
        f"{len(ran)} of {len(known)} branches ({share:.1%}) of {len(files)} files taken by "
        f"{len(coverage.items)} items at level {level}; {len(known) - len(ran)} left, "
        f"{sum(b.ident in reasons for b in known if b.ident not in ran)} of them explained; "
        f"{time.monotonic() - start:.0f} s"
    )
    for ident in reasons:
        if ident in ran:
            console.print(Text(f"explained, and taken all the same: {ident}", "yellow"))
    target = markdown_file or folder / f"branches-{level}.md"
    return 0 if write_or_say(target, page) else 1


def _markdown(
    tree: Tree,
    command: str,
    level: str,
    items: int,
    known: Sequence[Branch],
    ran: set[str],
    reasons: Mapping[str, str],
) -> str:
    by_file: dict[str, list[Branch]] = {}
    for b in known:
        by_file.setdefault(b.path, []).append(b)
    share = len(ran) / len(known) if known else 1.0
    lines = [
        "# Branches that the judge takes",
        "",
        f"Written by `{command}`; commit `{tree.commit or 'unknown'}`, level {level}, {items} "
        "items of cpu and of some on other devices.",
        "",
        f"{len(ran)} of {len(known)} branches ({share:.1%}) on the way of a call, in the files of "
        "[mutation-files.toml](mutation-files.toml), which also says why some are left.",
        "",
        "| file | branches | taken | share |",
        "|---|---|---|---|",
    ]
    for path, found in by_file.items():
        count = sum(b.ident in ran for b in found)
        lines.append(f"| {path} | {len(found)} | {count} | {count / len(found):.1%} |")
    left = [b for b in known if b.ident not in ran]
    lines += ["", f"## Not taken ({len(left)})", ""]
    for b in left:
        why = reasons.get(b.ident, "not explained")
        text = b.text.replace("`", "'")
        lines.append(f"- {b.path}:{b.line} `{text}`: {b.kind} (`{b.ident}`): {why}")
    return "\n".join(lines) + "\n"
