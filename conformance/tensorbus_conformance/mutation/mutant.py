"""One mutant: where it is, what changes, its lasting name; and drawing a sample of them."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import ctext, operators
from .operators import Edit
from .parsing import parse
from .tree import STRATA, Source, Tree, stratum

__all__ = ["Mutant", "before_after", "draw", "mutants_of", "named"]


@dataclass(frozen=True)
class Mutant:
    """A change of one file.

    Attributes:
        ident: ``PATH#HASH.operator.N``: the N-th change by this operator of lines that read so.
        path: The file, below the root.
        line: Of the file as it is.
        operator: Kind of change.
        stratum: One of `STRATA`.
        edit: The change of a Python file.
        cut: The change of a C file: start, end, new text.
    """

    ident: str
    path: str
    line: int
    operator: str
    stratum: str
    edit: Edit | None = None
    cut: tuple[int, int, str] | None = None

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @staticmethod
    def of(record: Mapping[str, Any]) -> Mutant:
        """From what `record` gave."""
        edit, cut = record["edit"], record["cut"]
        return Mutant(
            **{k: record[k] for k in ("ident", "path", "line", "operator", "stratum")},
            edit=None if edit is None else Edit(**edit),
            cut=None if cut is None else (cut[0], cut[1], cut[2]),
        )


def is_coefficients(path: str) -> bool:
    """Whether floats of a file are coefficients, which change by 2^-8 relative."""
    return "/mathlib/" in path


def mutants_of(source: Source) -> list[Mutant]:
    """All mutants of a file, in the order of its text; of C what this machine compiles."""
    lines = source.text.splitlines()
    found: list[Mutant] = []
    count: dict[tuple[str, str], int] = {}

    def make(line: int, operator: str, **change: Any) -> None:
        text = lines[line - 1].strip() if line <= len(lines) else ""
        key = (hashlib.sha256(text.encode()).hexdigest()[:8], operator)
        number = count[key] = count.get(key, -1) + 1
        is_text = not source.python or change["edit"].text
        name = f"{source.path}#{key[0]}.{operator.replace(' ', '-')}.{number}"
        where = stratum(source.path, is_text)
        found.append(Mutant(name, source.path, line, operator, where, **change))

    if source.python:
        tree = parse(source.text)
        for edit in operators.edits(
            tree,
            kernel_text=source.has_kernel_text,
            coefficients=is_coefficients(source.path),
        ):
            make(edit.line, edit.operator, edit=edit)
    else:
        compiled = ctext.compiled_lines(source.text)
        for c in ctext.file_edits(source.text):
            line = source.text.count("\n", 0, c.start) + 1
            if line in compiled:
                make(line, f"C {c.operator}", cut=(c.start, c.end, c.text))
    return found


def draw(sources: Sequence[Source], size: int, seed: int) -> tuple[list[Mutant], dict[str, int]]:
    """A sample, and the number of mutants of each stratum.

    The strata get equal shares (what a small one lacks goes to the others), so that each has a
    score of its own.  In a stratum a line is drawn first and then one of its mutants: a line of
    many constants counts no more than another.
    """
    lines: dict[str, dict[tuple[str, int], list[Mutant]]] = {s: {} for s in STRATA}
    totals = dict.fromkeys(STRATA, 0)
    for source in sources:
        for m in mutants_of(source):
            lines[m.stratum].setdefault((m.path, m.line), []).append(m)
            totals[m.stratum] += 1
    rng = random.Random(f"{seed}")
    queues: dict[str, list[Mutant]] = {}
    for name in STRATA:
        keys = sorted(lines[name])
        rng.shuffle(keys)
        for key in keys:
            rng.shuffle(lines[name][key])
        # Every line once, then every line's second mutant, and so on.
        depth = max((len(v) for v in lines[name].values()), default=0)
        queues[name] = [
            lines[name][k][d] for d in range(depth) for k in keys if d < len(lines[name][k])
        ]
    chosen: list[Mutant] = []
    taken = dict.fromkeys(STRATA, 0)
    while len(chosen) < size and any(taken[s] < len(queues[s]) for s in STRATA):
        for name in STRATA:
            if taken[name] < len(queues[name]) and len(chosen) < size:
                chosen.append(queues[name][taken[name]])
                taken[name] += 1
    return chosen, totals


def named(tree: Tree, ident: str) -> Mutant:
    """The mutant of an `ident`; LookupError where the source no longer has it."""
    path = ident.split("#")[0]
    source = tree.sources.get(path)
    if source is not None:
        for m in mutants_of(source):
            if m.ident == ident:
                return m
    raise LookupError(f"there is no mutant {ident}: the line has changed, or the name is wrong")


def before_after(source: Source, mutant: Mutant) -> tuple[str, str]:
    """The statement or C lines that change, as they are and as they become."""
    if mutant.cut is not None:
        start, end, new = mutant.cut
        text = source.text
        first = text.rfind("\n", 0, start) + 1
        last = text.find("\n", end)
        last = len(text) if last < 0 else last
        return text[first:last].strip(), (text[first:start] + new + text[end:last]).strip()
    assert mutant.edit is not None
    before = operators.statement_text(parse(source.text), mutant.edit)
    changed = operators.apply_edit(
        source.text,
        mutant.edit,
        kernel_text=source.has_kernel_text,
        coefficients=is_coefficients(source.path),
    )
    return _around(before, operators.statement_text(changed, mutant.edit))


def _around(a: str, b: str, width: int = 120) -> tuple[str, str]:
    """Where two long texts differ, with what stands around it."""
    a, b = (re.sub(r"\s+", " ", t.replace("\n    ...", "")) for t in (a, b))
    if max(len(a), len(b)) <= 2 * width:
        return a, b
    first = 0
    while first < min(len(a), len(b)) and a[first] == b[first]:
        first += 1
    last = 0
    while last < min(len(a), len(b)) - first and a[-1 - last] == b[-1 - last]:
        last += 1
    start = max(0, first - width)
    head = "... " if start else ""

    def part(t: str) -> str:
        stop = min(len(t), max(first, len(t) - last) + width // 2)
        return head + t[start:stop] + (" ..." if stop < len(t) else "")

    return part(a), part(b)
