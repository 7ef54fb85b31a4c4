"""A report of mutants that was written: scored again, its survivors judged again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..console import make_console
from ..report import write_or_say
from . import register
from .choose import Chooser
from .document import document, markdown
from .mutant import Mutant, before_after, named
from .pool import Pool, stoppable
from .run import devices_of, lot, progress_bar, recorded, show
from .tree import Tree, TreeError
from .verdict import Result, further, scores
from .zygote import layout

__all__ = ["rejudge", "rescore"]

_SETTINGS = ("commit", "created", "command", "seed", "level", "sample", "population", "complete",
             "seconds", "each", "workers")  # fmt: skip


def rescore(report: Path, json_file: Path | None, markdown_file: Path | None) -> int:
    """Score the mutants of a report again by the register as it is now; nothing is judged.

    Args:
        report: What a run wrote.
        json_file: Where the new report goes; into its place if it is None.
        markdown_file: Where the report to read goes, else beside it.

    Returns:
        0 if both are on disk, else 1.

    Raises:
        TreeError: It is no such report, or of sources that have changed since.
        RegisterError: The register says what it may not.
    """
    tree = Tree.here()
    results, settings = _read(tree, report)
    return _write(tree, results, settings, json_file or report, markdown_file)


def rejudge(
    report: Path,
    *,
    workers: int,
    json_file: Path | None,
    markdown_file: Path | None,
    data_seed: int = 0,
    stale: bool = False,
) -> int:
    """Judge the survivors of a report by the items that are due now and have not judged them yet.

    What the register explains is left alone.  Arguments, value and errors as `rescore`; `workers`
    are processes, `data_seed` is of the judge's data, `stale` as for `run.mutate`.
    """
    tree = Tree.here()
    results, settings = _read(tree, report)
    where = register.path_of(tree)
    alive = [r for r in results if r.verdict == "survived"]
    known = register.load(where)
    known = register.inside(tree, register.regions(where), [r.mutant for r in alive]) | known
    place = {r.mutant.ident: k for k, r in enumerate(results)}
    mutants = [r.mutant for r in alive if r.mutant.ident not in known]
    console, judged = make_console(), 0
    with stoppable(), progress_bar(console) as bar, Pool(workers) as pool:
        coverage = recorded(tree, pool, settings["level"], devices_of(mutants), bar, stale=stale)
        chooser = Chooser(tree, layout(tree), coverage)
        task = bar.add_task("survivors", total=len(mutants), said="")

        def work(ask: Any, mutant: Mutant) -> Result:
            result = results[place[mutant.ident]]
            return further(ask, result, lot(chooser, mutant), coverage, data_seed)

        def done(result: Result) -> None:
            nonlocal judged
            judged += 1
            results[place[result.mutant.ident]] = result
            bar.update(task, advance=1)
            if result.verdict != "survived":
                console.print(f"{result.verdict}  {result.mutant.ident}", soft_wrap=True)

        try:
            pool.map(mutants, work, done)
        except KeyboardInterrupt:
            console.print("interrupted; the report holds what was judged", style="yellow")
    settings["again"] = {
        "judged": judged,
        "caught": sum(results[place[m.ident]].verdict != "survived" for m in mutants),
    }
    return _write(tree, results, settings, json_file or report, markdown_file)


def _read(tree: Tree, report: Path) -> tuple[list[Result], dict[str, Any]]:
    try:
        old = json.loads(report.read_text(encoding="utf-8"))
        mutants = {m["mutant"]: named(tree, m["mutant"]) for m in old["mutants"]}
        fields = ("verdict", "reached", "items", "killer", "message", "seconds")
        results = [
            Result(mutants[m["mutant"]], **{f: m[f] for f in fields}) for m in old["mutants"]
        ]
        settings = {name: old[name] for name in _SETTINGS}
        if "again" in old:
            settings["again"] = old["again"]
    except LookupError as error:
        raise TreeError(f"{report} is of other sources: {error}") from None
    except (OSError, ValueError, TypeError) as error:
        raise TreeError(f"{report} is no report of mutants: {error}") from None
    return results, settings


def _write(
    tree: Tree,
    results: Sequence[Result],
    settings: dict[str, Any],
    target: Path,
    markdown_file: Path | None,
) -> int:
    where = register.path_of(tree)
    known, regions = register.load(where), register.regions(where)
    alive = [r.mutant for r in results if r.verdict == "survived"]
    known = register.inside(tree, regions, alive) | known
    remarks = register.apply(known, results)
    texts = {r.mutant.ident: before_after(tree.sources[r.mutant.path], r.mutant) for r in results}
    table = scores(results)
    data = document(tree, results, table, settings, remarks, texts, known)
    show(make_console(), data, table)
    saved = write_or_say(target, json.dumps(data, indent=1) + "\n")
    saved = write_or_say(markdown_file or target.with_suffix(".md"), markdown(data)) and saved
    return 0 if saved else 1
