"""The register of mutants that change nothing that can be seen, each with its argument.

``docs/mutation-equivalents.toml``::

    [[mutant]]
    id = "dispatcher/tensorbus/_plan.py#a1b2c3d4.comparison.0"
    class = "equivalent"        # or "speed": results are the same, only time or memory differ
    why = "k is at most len(inputs) here, so < and <= are one"

    [[region]]                  # whatever changes inside of a function or an assignment
    path = "backends/tensorbus_backends/kernels/contraction_text.py"
    name = "WIDTH"
    class = "speed"
    why = "the width of a tile decides who computes an element, never what"

An equivalent mutant has the same outputs, errors and launches for every input.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .mutant import Mutant
from .parsing import parse
from .tree import Source, Tree
from .verdict import CAP, Result

__all__ = [
    "Region",
    "RegisterError",
    "apply",
    "check_regions",
    "inside",
    "load",
    "path_of",
    "regions",
]

_SHORTEST = 30
"""Letters of an argument; less says no more than "it is equivalent"."""


class RegisterError(Exception):
    """The register says what it may not."""


def path_of(tree: Tree) -> Path:
    """Where the register lies."""
    return tree.root / "docs" / "mutation-equivalents.toml"


def load(path: Path) -> dict[str, tuple[str, str]]:
    """Class and argument by mutant; RegisterError for an entry without an argument, say."""
    found: dict[str, tuple[str, str]] = {}
    for where, entry in _entries(path, "mutant", ("id", "class", "why")):
        ident = entry["id"]
        if ident in found:
            raise RegisterError(f"{where}: {ident} is there twice")
        found[ident] = (entry["class"], entry["why"])
    return found


def _entries(
    path: Path, table: str, fields: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, str]]]:
    """The entries of a table, each a few texts, with where it stands."""
    if not path.exists():
        return
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RegisterError(f"{path} cannot be read: {error}") from None
    entries = data.get(table, [])
    if not isinstance(entries, list) or set(data) - {"mutant", "region"}:
        raise RegisterError(f"{path} holds tables [[mutant]] and [[region]] and nothing else")
    for number, entry in enumerate(entries, 1):
        where = f"{path}, {table} {number}"
        if not isinstance(entry, dict) or set(entry) != set(fields):
            raise RegisterError(f"{where} must have {', '.join(fields)}")
        if not all(isinstance(v, str) for v in entry.values()):
            raise RegisterError(f"{where}: {', '.join(fields)} are texts")
        if entry["class"] not in ("equivalent", "speed"):
            raise RegisterError(f"{where}: class is equivalent or speed, not {entry['class']!r}")
        if len(entry["why"].strip()) < _SHORTEST:
            raise RegisterError(f"{where} ({entry[fields[0]]}) has no argument in why")
        yield where, entry


@dataclass(frozen=True)
class Region:
    """A function, class or assignment whose changes are all of one class."""

    path: str
    name: str
    kind: str
    why: str


def regions(path: Path) -> list[Region]:
    """The regions of a register; RegisterError as for `load`."""
    fields = ("path", "name", "class", "why")
    return [
        Region(e["path"], e["name"], e["class"], e["why"])
        for _, e in _entries(path, "region", fields)
    ]


def check_regions(tree: Tree, known: Sequence[Region]) -> None:
    """Every region must still exist; RegisterError for one that does not."""
    for region in known:
        source = tree.sources.get(region.path)
        if source is None or not _lines(source, region.name):
            raise RegisterError(f"{path_of(tree)}: there is no {region.name} in {region.path}")


def inside(
    tree: Tree, known: Sequence[Region], mutants: Iterable[Mutant]
) -> dict[str, tuple[str, str]]:
    """Class and argument of the mutants that lie in a region."""
    found = {}
    for mutant in mutants:
        for region in known:
            if region.path == mutant.path:
                spans = _lines(tree.sources[mutant.path], region.name)
                if any(mutant.line in span for span in spans):
                    found[mutant.ident] = (region.kind, f"{region.name}: {region.why}")
    return found


def _lines(source: Source, name: str) -> list[range]:
    """Where the definitions of a name stand in a file."""
    if not source.python:
        return _c_lines(source.text.splitlines(), name)
    found = []
    for node in ast.walk(parse(source.text)):
        names: list[ast.expr] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            made = {node.name}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            names = node.targets if isinstance(node, ast.Assign) else [node.target]
            made = {n.id for n in names if isinstance(n, ast.Name)}
        else:
            continue
        if name in made:
            found.append(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return found


def _c_lines(lines: Sequence[str], name: str) -> list[range]:
    """A C function, from the line of its name in the first column to its brace; or a macro."""
    found = []
    for k, text in enumerate(lines):
        head = text.split("{")[0]
        if text.startswith((f"#define {name} ", f"#define {name}(")):
            end = k
            while lines[end].endswith("\\"):
                end += 1
            found.append(range(k + 1, end + 2))
        elif text[:1].isalpha() and f" {name}(" in f" {head}".replace("*", " ") and ";" not in head:
            end = next((n for n in range(k, len(lines)) if lines[n].startswith("}")), k)
            found.append(range(k + 1, (k if text.endswith("}") else end) + 2))
    return found


def apply(register: dict[str, tuple[str, str]], results: Sequence[Result]) -> list[str]:
    """Mark the registered survivors, as many as the cap allows; remarks on what is wrong.

    A mutant that is registered and was caught all the same shows that its argument is wrong.
    """
    remarks = []
    for kind in ("equivalent", "speed"):
        marked = [r for r in results if register.get(r.mutant.ident, ("",))[0] == kind]
        for r in marked:
            r.register = kind
            if r.verdict != "survived":
                remarks.append(
                    f"{r.mutant.ident} is registered as {kind} and was {r.verdict} "
                    f"({r.killer}): its argument is wrong"
                )
        living = sorted(
            (r for r in marked if r.verdict == "survived"), key=lambda r: r.mutant.ident
        )
        allowed = int(CAP * len(results))
        for k, r in enumerate(living):
            r.excused = k < allowed
        if len(living) > allowed:
            remarks.append(
                f"{len(living)} survivors are registered as {kind}; beyond {allowed} "
                f"({CAP:.0%} of the sample) they count as survivors"
            )
    return remarks
