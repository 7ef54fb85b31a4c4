"""A report as one HTML file that needs nothing beside it: no script, style or font from elsewhere.

All text of the report is escaped; the page forbids itself to load anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from .report import (
    Column,
    column_of,
    columns,
    entry,
    op_table,
    remarks,
    rerun_command,
    runs,
    unexplained,
    verdict,
    verdict_text,
    why,
)

__all__ = ["html"]

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --good: #1a7f37; --bad: #cf222e; --mid: #9a6700 }
@media (prefers-color-scheme: dark) { :root { --good: #3fb950; --bad: #f85149; --mid: #d29922 } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse }
th, td { text-align: left; padding: .2rem .7rem; border-bottom: 1px solid var(--line);
  vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
span.pass { color: var(--good) }
span.unsupported, span.known, span.not-run { color: var(--mid) }
span:is(.fail, .error, .crash, .timeout, .fallback, .vacuous) {
  color: var(--bad); font-weight: 600 }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere }
.filters label { margin-right: 1rem; white-space: nowrap } .cause { overflow-wrap: anywhere }
details { border-bottom: 1px solid var(--line); padding: .35rem 0 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .4rem 1.2rem }
dd { margin: 0; overflow-wrap: anywhere }
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html(data: dict[str, Any]) -> str:
    """The page of a report, or of merged ones."""
    heads = columns(data)
    good = all(verdict(r) for r in runs(data))
    states = sorted({c["state"] for c in data["cells"]} - {"pass"})
    hide = "".join(
        f"body:has(#f-{_class(s)}:not(:checked)) .row.{_class(s)} {{ display: none }}\n"
        for s in states
    )
    body = [
        f"<h1>Conformance report: {_state('pass' if good else 'fail', _title(data))}</h1>",
        *(_run(r) for r in runs(data)),
        _counts(heads),
        _filters(data, states),
        *_details(data, states),
        _matrix(data, heads),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Conformance report</title>\n<style>{_STYLE}{hide}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _title(data: dict[str, Any]) -> str:
    found = runs(data)
    if len(found) == 1:
        return verdict_text(found[0]).lower()
    bad = [r["name"] for r in found if not r["passed"]]
    return f"not all passed ({', '.join(bad)})" if bad else "all passed"


def _class(state: str) -> str:
    return escape(state.replace(" ", "-"))


def _state(state: str, text: str | None = None) -> str:
    return f'<span class="{_class(state)}">{escape(state if text is None else text)}</span>'


def _run(run: dict[str, Any]) -> str:
    name = f"<b>{escape(run['name'])}</b>: {escape(verdict_text(run))}; " if "name" in run else ""
    machine = ", ".join(f"{k} {v}" for k, v in run["machine"].items())
    command = run["asked"].get("command", "")
    lines = [
        f"<p>{name}Level {escape(run['level'])}, seed {run['seed']}, {escape(run['created'])}, "
        f"{run['seconds']} s; {escape(machine)}."
        + (f"<br><code>{escape(str(command))}</code>" if command else "")
        + "</p>"
    ]
    said = list(remarks(run))
    said += [f"{d} was given up: {cause}" for d, cause in run.get("lost", {}).items()]
    said += [f"{d}: {p}" for d, found in run.get("problems", {}).items() for p in found]
    if not run["complete"]:
        said.append("The run was interrupted; cells that did not run are listed as such.")
    if said:
        lines.append("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in said) + "</ul>")
    return "\n".join(lines)


def _counts(heads: Iterable[Column]) -> str:
    rows = []
    for column in heads:
        c, d = column.counts, column.device
        versions = ", ".join(f"{k} {v}" for k, v in d["details"].items())
        what = d["description"] if d["available"] else f"unavailable: {d['cause']}. {d['fix']}"
        numbers = [
            *(c.get(s, 0) for s in ("cells", "pass", "unsupported", "known")),
            unexplained(c),
        ]
        rows.append(
            f"<tr><td>{escape(' '.join(column.key).strip())}</td>"
            f"<td>{escape(d['evidence'] if d['available'] else '-')}</td>"
            + "".join(f'<td class="n">{n}</td>' for n in numbers)
            + f'<td>{escape(what)}<br><small class="cause">{escape(versions)}</small></td></tr>'
        )
    names = ("device", "evidence", "cells", "pass", "unsupported", "known", "other", "what it is")
    return f"<h2>Devices</h2>{_table(names, rows)}"


def _table(names: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{escape(n)}</th>" for n in names)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _filters(data: dict[str, Any], states: Iterable[str]) -> str:
    found = [c["state"] for c in data["cells"]]
    boxes = "".join(
        f'<label><input type="checkbox" id="f-{_class(s)}"'
        f"{'' if s == 'unsupported' else ' checked'}> {_state(s)} ({found.count(s)})</label>"
        for s in states
    )
    nothing = "<p>Every cell passed.</p>" if found else "<p>Nothing was executed.</p>"
    return "<h2>What did not pass</h2>" + (f'<p class="filters">{boxes}</p>' if boxes else nothing)


def _details(data: dict[str, Any], states: list[str]) -> Iterable[str]:
    by_name = {r.get("name", ""): r for r in runs(data)}
    bad = [c for c in data["cells"] if c["state"] in states]
    for cell in sorted(bad, key=lambda c: states.index(c["state"])):
        machine, _ = column_of(cell)
        facts = {
            "machine": machine,
            "why": why(cell),
            "witness": cell["witness"],
            "error": f"{cell['worst_error']} of {cell['bound']} {cell['unit']}"
            if cell["unit"]
            else "",
            "library": cell["library"],
        }
        listed = "".join(
            f"<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items() if v != ""
        )
        command = escape(rerun_command(cell, by_name[machine]))
        yield (
            f'<details class="row {_class(cell["state"])}"><summary>{_state(cell["state"])} '
            f"({escape(cell['evidence'])}) {escape(machine)} <code>{escape(cell['cell'])}</code>"
            f" {escape(why(cell)[:120])}</summary><dl>{listed}"
            f"<dt>reproduce</dt><dd><code>{command}</code></dd></dl></details>"
        )


def _matrix(data: dict[str, Any], heads: list[Column]) -> str:
    rows = []
    for op, row in op_table(data):
        line = f"<tr><td>{escape(op)}</td>"
        for column in heads:
            found = row.get(column.key)
            text = _state(found[2], entry(found)) if found else ""
            line += f'<td class="n">{text}</td>'
        rows.append(f"{line}</tr>")
    # Every column says its evidence here, hardware too.
    names = [f"{' '.join(c.key).strip()} ({c.device['evidence'] or '-'})" for c in heads]
    return f"<h2>Ops</h2><p>Cells passed of all; the worst state.</p>{_table(['op', *names], rows)}"
