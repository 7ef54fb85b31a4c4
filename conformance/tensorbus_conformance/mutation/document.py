"""The report of a run, as JSON and as docs/mutation.md."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from .tree import Tree
from .verdict import CAP, CLASSES, Result, Score

__all__ = ["SCHEMA", "document", "markdown"]

SCHEMA = "tensorbus-mutation/1"


def document(
    tree: Tree,
    results: Sequence[Result],
    table: Sequence[Score],
    settings: Mapping[str, Any],
    remarks: Sequence[str],
    texts: Mapping[str, tuple[str, str]],
    arguments: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    """The report as JSON."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    found = []
    for r in results:
        entry = r.record(texts[r.mutant.ident])
        if r.register:
            entry["why"] = arguments[r.mutant.ident][1]
        found.append(entry)
    return {
        "schema": SCHEMA,
        "created": now,
        "commit": tree.commit,
        **settings,
        "scores": [
            {
                "stratum": s.name, "drawn": s.drawn, **s.counts, "unreached": s.unreached,
                "equivalent": s.equivalent, "speed": s.speed, "silent": s.silent,
                "rate": round(s.rate, 4), "raw": round(s.raw, 4),
            }
            for s in table
        ],
        "remarks": list(remarks),
        "mutants": found,
    }  # fmt: skip


def _row(*entries: object) -> str:
    return "| " + " | ".join(str(e).replace("|", "\\|").replace("\n", " ") for e in entries) + " |"


def _code(text: str) -> str:
    flat = " ".join(text.split())
    fence = "``" if "`" in flat else "`"
    return f"{fence}{flat}{fence}"


def markdown(data: Mapping[str, Any]) -> str:
    """The report to read."""
    sample = "complete" if data["complete"] else "INTERRUPTED: a part of the sample"
    lines = [
        "# Mutation testing",
        "",
        f"Written by `{data['command']}` on {data['created']}.",
        "",
        f"Commit `{data['commit'] or 'unknown'}`, seed `{data['seed']}`, level {data['level']}, "
        f"{len(data['mutants'])} mutants of {sum(data['population'].values())} ({sample}), "
        f"{data['seconds']:.0f} s on {data['workers']} processes "
        f"({data['each']:.2f} s each).",
        "",
        "A mutant is one mechanical change of the sources. It is *silent* unless it does not "
        "import or fails all that it reaches by an exception, a crash or a hang; the score is the "
        "share of silent mutants that the judge catches. Mutants are drawn in equal parts from "
        "the strata. *Raw* counts every failure of whatever kind, of all mutants drawn. "
        "*Unreached* survivors lie where no item goes. Equivalents and speed-only mutants are "
        f"in the [register](mutation-equivalents.toml); beyond {CAP:.0%} of the sample they count "
        "as survivors.",
        "",
        _row("stratum", "mutants", "drawn", "score", "caught", "survived", "of these unreached",
             "equivalent", "speed only", *CLASSES[2:], "raw"),
        "|" + "---|" * 14,
    ]  # fmt: skip
    for s in data["scores"]:
        total = data["population"].get(s["stratum"], sum(data["population"].values()))
        lines.append(
            _row(
                s["stratum"], total, s["drawn"],
                f"{s['rate']:.1%}" if s["silent"] else "-", s["caught"],
                s["silent"] - s["caught"], s["unreached"], s["equivalent"], s["speed"],
                *(s[c] for c in CLASSES[2:]), f"{s['raw']:.1%}" if s["drawn"] else "-",
            )
        )  # fmt: skip
    if again := data.get("again"):
        lines += [
            "",
            f"{again['judged']} survivors were judged again, by further items of the same level: "
            f"{again['caught']} are counted as what these said.",
        ]
    if data["remarks"]:
        lines += ["", "## Remarks", "", *(f"- {r}" for r in data["remarks"])]
    alive = [m for m in data["mutants"] if m["verdict"] == "survived" and not m["excused"]]
    lines += [
        "",
        f"## Survivors ({len(alive)})",
        "",
        "`tensorbus conform --mutant ID` shows one and judges it again.",
        "",
    ]
    for m in alive:
        where = f"{m['path']}:{m['line']}"
        judged = ", ".join(m["items"]) or "no item reaches it"
        if m["items"] and not m["reached"]:
            judged += " (not evaluated by any of them)"
        lines += [
            f"- **{where}** {m['operator']} ({m['stratum']}), `{m['mutant']}`  ",
            f"  before: {_code(m['before'])}  ",
            f"  after: {_code(m['after'])}  ",
            f"  judged: {judged}",
        ]
    excused = [m for m in data["mutants"] if m["excused"]]
    if excused:
        lines += ["", f"## Equivalent or speed only ({len(excused)})", ""]
        for m in excused:
            lines += [
                f"- **{m['path']}:{m['line']}** ({m['register']}) {_code(m['before'])} becomes "
                f"{_code(m['after'])}: {m['why']}"
            ]
    caught: dict[str, int] = {}
    for m in data["mutants"]:
        if m["verdict"] == "caught":
            name = m["killer"].split(":")[0].rsplit("/", 1)[-1].split(" ")[0] or "crash"
            caught[name] = caught.get(name, 0) + 1
    lines += ["", "## Which property caught first", "", _row("property", "mutants"), "|---|---|"]
    lines += [_row(k, n) for k, n in sorted(caught.items(), key=lambda kv: -kv[1])]
    return "\n".join(lines) + "\n"
