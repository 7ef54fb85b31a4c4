"""The options of ``tensorbus conform`` that mutate."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

__all__ = ["add_options", "run"]

_SAMPLE = 100


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--mutate`` and what goes with it."""
    group = parser.add_argument_group("mutation testing (needs a checkout)")
    group.add_argument(
        "--mutate",
        metavar="PATH",
        nargs="*",
        help="change the sources (at PATH) and count what "
        "is caught; --seed is then the sample's (default: made of the commit)",
    )
    group.add_argument("--sample", metavar="N", type=int, help=f"mutants (default {_SAMPLE})")
    group.add_argument(
        "--coverage", action="store_true", help="with --mutate: count the branches that are taken"
    )
    group.add_argument(
        "--stale-coverage",
        action="store_true",
        help="choose items by what an earlier judge reached in the same sources (to try things)",
    )
    group.add_argument(
        "--rescore",
        metavar="REPORT",
        type=Path,
        help="count a report of mutants again by the register of equivalents as it is now",
    )
    group.add_argument(
        "--rejudge",
        metavar="REPORT",
        type=Path,
        help="judge the survivors of a report by items that have not judged them",
    )
    group.add_argument("--mutant", metavar="ID", help="show one mutant and judge it")
    group.add_argument(
        "--least", metavar="SHARE", type=float, help="fail if less of the silent ones is caught"
    )
    group.add_argument("--markdown", metavar="FILE", type=Path, help="the report to read")


def run(options: argparse.Namespace, ops: list[str] | None, usage: type[Exception]) -> int:
    """Do what was asked.

    Args:
        options: As parsed.
        ops: That judge, None for all.
        usage: Raised for what cannot be asked.
    """
    # Only here: the command line adds these options whatever is asked of it (see `cli`).
    from .again import rejudge, rescore
    from .branches import judge_coverage
    from .register import RegisterError
    from .run import mutate, one
    from .tree import TreeError

    level = options.level or "standard"
    if level == "exhaustive":
        raise usage("mutants are judged at level smoke or standard")
    sample = _SAMPLE if options.sample is None else options.sample
    if sample < 1:
        raise usage(f"--sample {sample} is no number of mutants")
    if options.workers is not None and options.workers < 1:
        raise usage(f"--workers {options.workers} is no number of processes")
    if options.least is not None and not 0 <= options.least <= 1:
        raise usage(f"--least {options.least} is no share from 0 to 1")
    for name in ("device", "self_test", "rerun"):
        if getattr(options, name):
            raise usage(f"--{name.replace('_', '-')} does not go with --mutate")
    try:
        if options.coverage:
            return judge_coverage(
                level,
                workers=options.workers,
                ops=ops,
                markdown_file=options.markdown,
                folder=options.report,
                stale=options.stale_coverage,
            )
        if options.rescore is not None:
            return rescore(options.rescore, options.json, options.markdown)
        if options.rejudge is not None:
            return rejudge(
                options.rejudge,
                workers=options.workers or os.cpu_count() or 1,
                json_file=options.json,
                markdown_file=options.markdown,
                stale=options.stale_coverage,
            )
        if options.mutant is not None:
            return one(options.mutant, level, ops, stale=options.stale_coverage)
        return mutate(
            list(options.mutate),
            sample,
            options.seed,
            level,
            workers=options.workers,
            json_file=options.json,
            markdown_file=options.markdown,
            folder=options.report,
            ops=ops,
            least=options.least or 0.0,
            stale=options.stale_coverage,
        )
    except (TreeError, RegisterError, LookupError) as error:
        raise usage(str(error).strip("'\"")) from None
