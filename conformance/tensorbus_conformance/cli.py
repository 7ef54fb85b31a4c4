"""The command ``tensorbus``: devices, ops, natives, conform, compile-check, report, bench."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["main"]


# A command imports what it needs when it runs: all together take 1.1 s, these 0.04 s.
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NOTHING = 0, 1, 2, 3


class UsageError(Exception):
    """What was asked does not exist; the message suggests what does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0 passed, 1 failed, 2 usage)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return EXIT_USAGE
    warnings.formatwarning = _warning
    try:
        return int(options.run(options))
    except UsageError as error:
        print(f"tensorbus: {error}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:
        return EXIT_FAILED
    except RuntimeError as error:
        return _backend_failed(error)
    except KeyboardInterrupt:
        print("tensorbus: interrupted", file=sys.stderr)
        return EXIT_FAILED


def _warning(message: Warning | str, *where: object, **more: object) -> str:
    """A warning for those who did not write the line of code that it comes from."""
    return f"tensorbus: warning: {message}\n"


def _backend_failed(error: RuntimeError) -> int:
    """One line for a device that is unknown, absent or broken; other errors are raised again."""
    from tensorbus_backends.contract import BackendError, UnknownDeviceError

    if not isinstance(error, BackendError):
        raise error
    print(f"tensorbus: {error}", file=sys.stderr)
    return EXIT_USAGE if isinstance(error, UnknownDeviceError) else EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tensorbus",
        description="One tensor API on every device, and a judge that proves it.",
        epilog="Exit status: 0 all that was asked was executed and passed, 1 failures, 2 usage.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    devices = commands.add_parser("devices", help="list devices; absent ones with cause and fix")
    devices.add_argument("--json", action="store_true", help="as JSON")
    devices.set_defaults(run=_devices)

    ops = commands.add_parser("ops", help="list ops and how each device serves them")
    ops.add_argument("--json", action="store_true", help="as JSON")
    ops.set_defaults(run=_ops)

    natives = commands.add_parser("natives", help="list what native kernels can take on")
    natives.set_defaults(run=_natives)

    conform = commands.add_parser("conform", help="judge devices, op by op")
    conform.add_argument("--device", metavar="D,...", help="devices (default: all available)")
    conform.add_argument("--ops", metavar="a,b", help="ops (default: all)")
    conform.add_argument("--level", default=None, help="smoke (default), standard or exhaustive")
    conform.add_argument("--json", metavar="FILE", type=Path, help="write the JSON report here")
    conform.add_argument(
        "--report", metavar="DIR", type=Path, default=Path("reports"), help="folder of reports"
    )
    conform.add_argument("--html", metavar="FILE", type=Path, help="write the report as HTML too")
    conform.add_argument("--junit", metavar="FILE", type=Path, help="and as JUnit XML")
    conform.add_argument("--expect", metavar="FILE", type=Path, help="known failures (TOML)")
    conform.add_argument(
        "--baseline", metavar="REPORT", type=Path, help="fail on what got worse than this report"
    )
    conform.add_argument("--seed", type=int, default=0, help="seed of all data (default 0)")
    conform.add_argument("--workers", type=int, help="processes (default: one for each core)")
    conform.add_argument("--timeout", type=float, help="seconds for one cell (0.1 to a week)")
    conform.add_argument("--rerun", metavar="CELL", help="judge one cell alone")
    conform.add_argument(
        "--self-test", action="store_true", help="plant faults and count those caught"
    )
    from .mutation.options import add_options

    add_options(conform)
    conform.set_defaults(run=_conform)

    compiling = commands.add_parser(
        "compile-check",
        help="put every kernel through compilers that need no device",
        epilog="Exit status: 0 all accepted, 1 kernels rejected, 2 usage, 3 nothing was executed, "
        "or a compiler that was asked for by name is absent.",
    )
    compiling.add_argument("--compiler", metavar="C,...", help="compilers (default: all there are)")
    compiling.add_argument("--target", metavar="T,...", help="targets (default: the usual ones)")
    compiling.add_argument(
        "--level",
        default=None,
        help="kernels that judging at this level launches (smoke, standard)",
    )
    compiling.add_argument("--ops", metavar="a,b", help="ops (default: all)")
    compiling.add_argument("--json", metavar="FILE", type=Path, help="write the JSON report here")
    compiling.add_argument("--workers", type=int, help="processes (default: one for each core)")
    compiling.set_defaults(run=_compile_check)

    report = commands.add_parser("report", help="show reports")
    actions = report.add_subparsers(title="actions", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="print a JSON report as a table")
    show.add_argument("file", type=Path)
    show.set_defaults(run=_show)
    page = actions.add_parser("html", help="make an HTML page of a report, or of merged ones")
    page.add_argument("file", type=Path)
    page.add_argument("--out", metavar="FILE", type=Path, help="default: FILE with ending .html")
    page.set_defaults(run=_html)
    merging = actions.add_parser("merge", help="make one matrix of reports of many machines")
    merging.add_argument("file", nargs="+", metavar="[NAME=]FILE", help="a report, and its name")
    merging.add_argument("--out", metavar="FILE", type=Path, required=True)
    merging.set_defaults(run=_merge)

    bench = commands.add_parser("bench", help="measure speed beside NumPy, PyTorch and JAX")
    bench.add_argument("--json", metavar="FILE", type=Path, help="write figures here")
    bench.add_argument("--quick", action="store_true", help="fewer sizes and repeats")
    bench.set_defaults(run=_bench)
    return parser


def _suggest(what: str, name: str, known: Sequence[str]) -> UsageError:
    close = difflib.get_close_matches(name, known, 3, 0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    return UsageError(f"unknown {what} {name!r}; {hint}")


def _devices(options: argparse.Namespace) -> int:
    import tensorbus as tb

    from . import console

    found = tb.devices()
    if options.json:
        from .report import device_record
        from .survey import survey

        records = [device_record(s.line, s.capabilities) for s in survey(found)]
        print(json.dumps(records, indent=2))
    else:
        console.devices(found)
    return EXIT_OK


def _ops(options: argparse.Namespace) -> int:
    from . import console
    from .listing import ops_table

    rows = ops_table()
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        console.ops(rows)
    return EXIT_OK


def _natives(options: argparse.Namespace) -> int:
    from .natives import page

    print(page(), end="")
    return EXIT_OK


def choose_devices(text: str | None) -> list[Any]:
    """Device records for ``--device``; UsageError for an unknown name."""
    import tensorbus as tb
    from tensorbus._devices import registry

    if text is None:
        return [d for d in tb.devices() if d.available]
    plugins = {a.name for a in registry.plugins()}
    chosen: list[Any] = []
    for wanted in filter(None, (part.strip().lower() for part in text.split(","))):
        plugin = wanted.split(":")[0]
        # Only the plugin that is named is probed: others may be slow to answer.
        lines = registry.devices(plugin=plugin) if plugin in plugins else []
        if wanted == plugin or ([d.name for d in lines] == [plugin] and not lines[0].available):
            # A GPU that is broken beside a sound one is asked for too: it must not go unseen.  And
            # where the whole plugin is absent, "cuda:0" is no misspelling.
            matches = [d for d in lines if d.available or d.name != plugin] or lines
        else:
            matches = [d for d in lines if wanted in (d.name, *d.aliases)]
            # "opencl:intel" is the beginning of "opencl:intel:0".
            matches = matches or [
                d for d in lines if any(n.startswith(f"{wanted}:") for n in d.aliases)
            ]
        if not matches:
            known = [n for d in tb.devices() for n in (d.name, *d.aliases)]
            raise _suggest("device", wanted, sorted({*known, *plugins}))
        chosen += [d for d in matches if d not in chosen]
    if not chosen:
        raise UsageError("--device names no device")
    return chosen


def choose_ops(text: str | None) -> list[str] | None:
    """Ops, parts or families of parts (``driver``) for ``--ops``; UsageError for another name."""
    from .judge import parts
    from .judge.items import subjects

    if text is None:
        return None
    known = subjects()
    chosen: list[str] = []
    # An op's short name means the op, even where a part ends in the same word.
    short = {name.rsplit(".", 1)[-1]: name for name in known}
    for wanted in filter(None, (part.strip() for part in text.split(","))):
        family = [name for name in parts.PARTS if parts.PARTS[name].family == wanted]
        name = wanted if wanted in known else short.get(wanted)
        if name is None and not family:
            raise _suggest("op", wanted, known)
        chosen += [n for n in ([name] if name is not None else family) if n not in chosen]
    if not chosen:
        raise UsageError("--ops names no op")
    return chosen


def _conform(options: argparse.Namespace) -> int:
    from .judge.items import LEVELS

    if options.level is not None and options.level not in LEVELS:
        raise _suggest("level", options.level, LEVELS)
    _check_numbers(options)
    alone = options.rerun is not None
    for name in ("expect", "baseline", "html", "junit"):
        if getattr(options, name) is not None and (alone or options.self_test):
            raise UsageError(f"--{name} goes with a run, not with --rerun or --self-test")
    for name in ("device", "ops", "json"):
        if getattr(options, name) is not None and alone:
            raise UsageError(f"--{name} goes with a run, not with --rerun")
    if alone and options.self_test:
        raise UsageError("--rerun and --self-test exclude each other")
    if alone:
        from .rerun import rerun

        try:
            return rerun(options.rerun, options.level, options.seed, options.timeout)
        except ValueError as error:
            raise UsageError(str(error)) from None
    chosen = (options.mutate, options.mutant, options.rescore, options.rejudge)
    if any(c is not None for c in chosen) or options.coverage:
        from .mutation.options import run

        return run(options, choose_ops(options.ops), UsageError)
    if options.self_test:
        from .selftest import self_test

        level = options.level or "standard"
        _check_places(options)
        return self_test(level, options.seed, options.workers, options.json, options.report)
    from .process import Stock
    from .runner import worker_count

    level = options.level or "smoke"
    # What costs nothing is looked at before devices are.
    baseline = None if options.baseline is None else _read(options.baseline)
    if baseline is not None:
        for what, asked in (("level", level), ("seed", options.seed)):
            if baseline[what] != asked:
                raise UsageError(
                    f"{options.baseline} is of {what} {baseline[what]}, this run of {asked}; "
                    f"give --{what} {baseline[what]}, or another baseline"
                )
    ops = choose_ops(options.ops)
    _check_places(options)
    count = options.workers or worker_count()
    stock = Stock(count)
    try:
        # They start while the devices are looked for.
        stock.fill(count if ops is None else min(count, len(ops)))
        return _run(options, level, ops, baseline, stock)
    finally:
        stock.close()


def _run(
    options: argparse.Namespace,
    level: str,
    ops: list[str] | None,
    baseline: dict[str, Any] | None,
    stock: Any,
) -> int:
    from .conform import conform

    return conform(
        choose_devices(options.device),
        ops,
        level,
        options.seed,
        workers=options.workers,
        timeout=options.timeout,
        json_file=options.json,
        folder=options.report,
        expected=expected_failures(options.expect),
        baseline=None if baseline is None else (options.baseline, baseline),
        wanted=options.device,
        html_file=options.html,
        junit_file=options.junit,
        stock=stock,
    )


def _check_numbers(options: argparse.Namespace) -> None:
    """UsageError for numbers that mean nothing; argparse has seen that they are numbers."""
    if options.workers is not None and not 1 <= options.workers <= 256:
        raise UsageError(f"--workers {options.workers} is no number of processes from 1 to 256")
    if options.timeout is not None and not 0.1 <= options.timeout <= 7 * 86400:
        raise UsageError(f"--timeout {options.timeout:g} is no time from 0.1 s to a week")
    if not 0 <= options.seed < 1 << 63:
        raise UsageError(f"--seed {str(options.seed)[:40]} is no whole number from 0 below 2^63")


def _check_places(options: argparse.Namespace) -> None:
    """UsageError if two files are one, or one cannot be written: before anything is judged."""
    from .writing import is_special, refused

    places: dict[Path, str] = {}
    for name in ("baseline", "expect", "json", "html", "junit"):
        path = getattr(options, name)
        if path is None:
            continue
        files = [(f"--{name}", path)]
        if name == "json" and not is_special(path):
            files.append(("the summary beside --json", path.with_suffix(".md")))
        for what, file in files:
            if what.startswith("--") and is_special(file):
                continue
            real = Path(os.path.realpath(file))
            if real in places:
                raise UsageError(f"{places[real]} and {what} both name {file}")
            places[real] = what
    for name in ("json", "html", "junit"):
        path = getattr(options, name)
        if path is not None and (problem := refused(path)):
            raise UsageError(f"--{name}: {problem}")
    keeps = options.json is not None and not is_special(options.json)
    if not keeps and (problem := refused(options.report, folder=True)):
        raise UsageError(f"--report: {problem}")


def expected_failures(path: Path | None) -> Any:
    """The expectations of ``--expect``, or None; UsageError if the file says what it may not."""
    if path is None:
        return None
    from .expectations import load, vocabulary

    try:
        return load(path, vocabulary())
    except ValueError as error:
        raise UsageError(str(error)) from None


def _compile_check(options: argparse.Namespace) -> int:
    from .compilecheck.check import check
    from .judge.items import LEVELS

    if options.level is not None and options.level not in LEVELS:
        raise _suggest("level", options.level, LEVELS)
    if options.workers is not None and options.workers < 1:
        raise UsageError(f"--workers {options.workers} is no number of processes")
    names, targets = _listed(options.compiler), _listed(options.target)
    ops = choose_ops(options.ops)
    try:
        rows = check(
            names, targets, options.level, ops=ops, workers=options.workers, json_file=options.json
        )
    except LookupError as error:
        raise UsageError(str(error)) from None
    if any(row.state == "rejected" for row in rows):
        return EXIT_FAILED
    missing = names is not None and any(row.state == "not run" for row in rows)
    return EXIT_NOTHING if missing or all(row.state == "not run" for row in rows) else EXIT_OK


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [p for p in (q.strip() for q in text.split(",")) if p]


def _show(options: argparse.Namespace) -> int:
    from . import console
    from .report import verdict

    data = _read(options.file, merged=True)
    console.summary(data)
    return EXIT_OK if verdict(data) else EXIT_FAILED


def _html(options: argparse.Namespace) -> int:
    from .html import html
    from .report import write_or_say

    page = html(_read(options.file, merged=True))
    target = options.out or options.file.with_suffix(".html")
    return EXIT_OK if write_or_say(target, page) else EXIT_FAILED


def _merge(options: argparse.Namespace) -> int:
    from . import console
    from .merge import merge
    from .report import write_or_say

    try:
        data = merge(options.file)
    except ValueError as error:
        raise UsageError(str(error)) from None
    console.summary(data)
    return EXIT_OK if write_or_say(options.out, json.dumps(data, indent=1) + "\n") else EXIT_FAILED


def _read(path: Path, merged: bool = False) -> dict[str, Any]:
    """A report, or a merged one where that will do; UsageError if the file is none."""
    from .report import MERGED, SCHEMA, load

    try:
        return load(path, (SCHEMA, MERGED) if merged else (SCHEMA,))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _bench(options: argparse.Namespace) -> int:
    from .bench import bench

    return bench(options.json, options.quick)
