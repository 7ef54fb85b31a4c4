"""``tensorbus conform --mutate``: draw mutants, judge each in a forked process, report."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..console import make_console
from ..report import write_or_say
from . import register
from .choose import Chooser
from .coverage import Coverage, record
from .document import document, markdown
from .mutant import Mutant, before_after, draw, named
from .pool import Pool, PoolError, stoppable
from .tree import Tree, TreeError
from .verdict import Result, Score, cold, scores, try_mutant
from .zygote import layout

__all__ = [
    "COLD",
    "FIRST",
    "MORE",
    "REST",
    "devices_of",
    "lot",
    "mutate",
    "one",
    "progress_bar",
    "recorded",
    "show",
]

FIRST, MORE, REST = 4, 6, 30
"""Items that judge a mutant at first, how many more judge one that lives, and again."""

COLD = 8
"""The last number where every item has to compile its kernels again."""


class _Lines:
    """A line now and then where there is no terminal to draw a bar on."""

    EVERY_S = 60.0

    def __init__(self, console: Console) -> None:
        self._console, self._last = console, time.monotonic()

    def say(self, text: str) -> None:
        if not self._console.is_terminal and time.monotonic() - self._last > self.EVERY_S:
            self._last = time.monotonic()
            self._console.print(text)


def lot(chooser: Chooser, mutant: Mutant) -> list[list[str]]:
    """The items that judge a mutant, in groups."""
    return chooser.items(mutant, FIRST, MORE, COLD if cold(mutant.path) else REST)


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}"),
        console=console,
        refresh_per_second=4,
    )


def devices_of(mutants: Sequence[Mutant]) -> list[str]:
    """Where mutants are judged: opencl shares the backends' kernel texts, ref their interpreter.

    The dispatcher has ways of its own for memory that the host does not reach.
    Of opencl's own sources a second platform takes what the first one does not.
    """
    paths = {m.path for m in mutants}
    found = [] if all(p.startswith("opencl/") for p in paths) else ["cpu"]
    if any(p.startswith(("opencl/", "backends/", "dispatcher/")) for p in paths):
        found.append("opencl:0")
    if any(p.startswith("opencl/") for p in paths):
        found.append("opencl:1")
    if any(p.endswith(("/interp.py", "/ref.py", "/flushing.py")) for p in paths):
        found.append("ref")
    return found


def recorded(
    tree: Tree,
    pool: Pool,
    level: str,
    devices: Sequence[str],
    bar: Progress,
    ops: Sequence[str] | None = None,
    stale: bool = False,
) -> Coverage:
    task = bar.add_task("what reaches what", total=None, said="")
    heard = _Lines(bar.console)

    def progress(count: int, of: int) -> None:
        bar.update(task, completed=count, total=of)
        heard.say(f"what reaches what: {count} of {of} items")

    coverage = record(tree, pool, level, devices, progress, ops=ops, stale=stale)
    bar.update(task, total=len(coverage.items), completed=len(coverage.items))
    return coverage


def mutate(
    paths: list[str],
    sample: int,
    seed: int,
    level: str,
    *,
    workers: int | None,
    json_file: Path | None,
    markdown_file: Path | None,
    folder: Path,
    ops: Sequence[str] | None = None,
    least: float = 0.0,
    data_seed: int = 0,
    stale: bool = False,
) -> int:
    """Draw and judge.

    Args:
        paths: Files and folders that are mutated; all if there are none.
        sample: How many mutants.
        seed: Of the sample; 0 for one made of the commit.
        level: Of the judge.
        workers: Processes.
        json_file: Where the report goes, else into `folder`.
        markdown_file: Where the report to read goes, else beside it.
        folder: Of reports.
        ops: Judge by these alone (a slice: what they do not reach counts as unreached).
        least: Share of silent mutants that has to be caught.
        data_seed: Of the judge's data.
        stale: Choose items by what an earlier version of the judge reached.

    Returns:
        0 if a complete report is on disk and enough was caught, else 1.

    Raises:
        TreeError: There is no checkout, or no such file in it.
        RegisterError: The register of equivalents says what it may not.
    """
    tree = Tree.here()
    sources = tree.chosen(paths)
    known = register.load(register.path_of(tree))
    regions = register.regions(register.path_of(tree))
    _check_stale(tree, known)
    register.check_regions(tree, regions)
    # 28 bits of the commit: a number that --seed takes.
    seed = seed or int(tree.commit[:7] or "0", 16)
    mutants, population = draw(sources, sample, seed)
    if not mutants:
        raise TreeError("there is nothing to mutate in what was asked for")
    console = make_console()
    count = workers or min(os.cpu_count() or 1, len(mutants))
    results: list[Result] = []
    complete = False
    start = time.monotonic()
    with stoppable(), progress_bar(console) as bar, Pool(count) as pool:
        try:
            coverage = recorded(tree, pool, level, devices_of(mutants), bar, ops, stale)
            chooser = Chooser(tree, layout(tree), coverage)
            start = time.monotonic()
            task = bar.add_task("mutants", total=len(mutants), said="")
            heard = _Lines(console)

            def work(ask: Any, mutant: Mutant) -> Result:
                return try_mutant(ask, mutant, lot(chooser, mutant), coverage, data_seed)

            def done(result: Result) -> None:
                results.append(result)
                if result.verdict == "survived" and result.mutant.ident not in known:
                    name = Text(f"survived  {result.mutant.ident}", "yellow")
                    console.print(name, soft_wrap=True)
                table = scores(results)[-1]
                said = f"{table.counts['caught']} caught, {table.counts['survived']} survived"
                bar.update(task, advance=1, said=said)
                heard.say(f"{len(results)} of {len(mutants)} mutants: {said}")

            pool.map(mutants, work, done)
            complete = True
        except KeyboardInterrupt:
            console.print(Text("interrupted; the report holds what was judged", "yellow"))
        except PoolError as error:
            print(f"tensorbus: {error}", file=sys.stderr)
    order = {m.ident: k for k, m in enumerate(mutants)}
    results.sort(key=lambda r: order[r.mutant.ident])
    seconds = time.monotonic() - start
    alive = [r.mutant for r in results if r.verdict == "survived"]
    known = register.inside(tree, regions, alive) | known
    remarks = register.apply(known, results)
    table = scores(results)
    settings = {
        "command": _command(paths, sample, seed, level, ops),
        "seed": seed,
        "level": level,
        "sample": sample,
        "population": population,
        "complete": complete,
        "seconds": round(seconds, 1),
        "each": round(seconds / max(len(results), 1), 3),
        "workers": count,
    }
    texts = {r.mutant.ident: before_after(tree.sources[r.mutant.path], r.mutant) for r in results}
    data = document(tree, results, table, settings, remarks, texts, known)
    show(console, data, table)
    stamp = data["created"].replace(":", "").replace("+0000", "Z")
    target = json_file or folder / f"mutation-{level}-{stamp}.json"
    saved = write_or_say(target, json.dumps(data, indent=1) + "\n")
    page = markdown_file or target.with_suffix(".md")
    saved = write_or_say(page, markdown(data)) and saved
    enough = table[-1].rate >= least
    if not enough:
        console.print(Text(f"less than {least:.0%} of the silent mutants are caught", "bold red"))
    return 0 if complete and saved and enough else 1


def _check_stale(tree: Tree, known: dict[str, tuple[str, str]]) -> None:
    """Every registered mutant must still exist; the register has to follow the sources."""
    stale = []
    for ident in known:
        try:
            named(tree, ident)
        except LookupError:
            stale.append(ident)
    if stale:
        raise register.RegisterError(
            f"{register.path_of(tree)} names mutants that no longer exist: {', '.join(stale[:5])}"
        )


def _command(
    paths: Sequence[str], sample: int, seed: int, level: str, ops: Sequence[str] | None
) -> str:
    where = "".join(f" {p}" for p in paths)
    judged = f" --ops {','.join(ops)}" if ops is not None else ""
    most = f" --sample {sample} --seed {seed} --level {level}{judged}"
    return f"tensorbus conform --mutate{where}{most}"


def show(console: Console, data: dict[str, Any], table: Sequence[Score]) -> None:
    shown = Table(box=None, pad_edge=False)
    heads = ("stratum", "drawn", "score", "caught", "survived", "unreached", "equivalent",
             "speed", "loud", "import", "crash", "timeout", "raw")  # fmt: skip
    for name in heads:
        shown.add_column(name, justify="left" if name == "stratum" else "right")
    for s in table:
        c = s.counts
        shown.add_row(
            s.name, str(s.drawn), f"{s.rate:.1%}" if s.silent else "-", str(c["caught"]),
            str(s.survived), str(s.unreached), str(s.equivalent), str(s.speed), str(c["loud"]),
            str(c["import"]), str(c["crash"]), str(c["timeout"]),
            f"{s.raw:.1%}" if s.drawn else "-",
        )  # fmt: skip
    console.print(shown)
    for remark in data["remarks"]:
        console.print(Text(remark, "yellow"))
    console.print(
        f"{len(data['mutants'])} mutants, level {data['level']}, seed {data['seed']}, "
        f"{data['seconds']:.0f} s, {data['each']:.2f} s each on {data['workers']} processes"
        + ("" if data["complete"] else "  (interrupted)")
    )


def one(
    ident: str,
    level: str,
    ops: Sequence[str] | None = None,
    data_seed: int = 0,
    *,
    stale: bool = False,
) -> int:
    """Show one mutant and judge it: 0 if it is caught, 1 if not; LookupError for no such one."""
    tree = Tree.here()
    mutant = named(tree, ident)
    before, after = before_after(tree.sources[mutant.path], mutant)
    console = make_console()
    console.print(Text(f"{mutant.path}:{mutant.line}  {mutant.operator}  ({mutant.stratum})"))
    console.print(Text(f"- {before}", "red"))
    console.print(Text(f"+ {after}", "green"))
    with stoppable(), progress_bar(console) as bar, Pool(min(os.cpu_count() or 1, 2)) as pool:
        coverage = recorded(tree, pool, level, devices_of([mutant]), bar, ops, stale)
        groups = Chooser(tree, layout(tree), coverage).items(mutant, FIRST, MORE, REST)
        results: list[Result] = []

        def work(ask: Any, each: Mutant) -> Result:
            return try_mutant(ask, each, groups, coverage, data_seed)

        pool.map([mutant], work, results.append)
    (result,) = results
    for name, state in result.items.items():
        console.print(Text(f"{state:>8} {name}"))
    if result.killer:
        console.print(Text(f"{result.killer}  {result.message}"))
    if not result.items:
        console.print("no item reaches it" if not any(groups) else "it was not judged")
    elif not result.reached:
        console.print("what changed was not evaluated")
    caught = result.verdict == "caught"
    console.print(Text(result.verdict.upper(), "bold green" if caught else "bold red"))
    return 0 if caught else 1
