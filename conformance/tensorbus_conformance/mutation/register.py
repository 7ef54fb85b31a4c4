"""The register of mutants that change nothing that can be seen, each with its argument.

``docs/mutation-equivalents.toml``::

    [[mutant]]
    id = "dispatcher/tensorbus/_plan.py#a1b2c3d4.comparison.0"
    class = "equivalent"        # or "speed": results are the same, only time or memory differ
    why = "k is at most len(inputs) here, so < and <= are one"

An equivalent mutant has the same outputs, errors and launches for every input.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from .tree import Tree
from .verdict import CAP, Result

__all__ = ["RegisterError", "apply", "load", "path_of"]

_SHORTEST = 30
"""Letters of an argument; less says no more than "it is equivalent"."""


class RegisterError(Exception):
    """The register says what it may not."""


def path_of(tree: Tree) -> Path:
    """Where the register lies."""
    return tree.root / "docs" / "mutation-equivalents.toml"


def load(path: Path) -> dict[str, tuple[str, str]]:
    """Class and argument by mutant; RegisterError for an entry without an argument, say."""
    if not path.exists():
        return {}
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RegisterError(f"{path} cannot be read: {error}") from None
    found: dict[str, tuple[str, str]] = {}
    entries = data.get("mutant", [])
    if not isinstance(entries, list) or set(data) - {"mutant"}:
        raise RegisterError(f"{path} holds tables [[mutant]] and nothing else")
    for number, entry in enumerate(entries, 1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or set(entry) != {"id", "class", "why"}:
            raise RegisterError(f"{where} must have id, class and why")
        ident, kind, why = entry["id"], entry["class"], entry["why"]
        if not all(isinstance(v, str) for v in (ident, kind, why)):
            raise RegisterError(f"{where}: id, class and why are texts")
        if kind not in ("equivalent", "speed"):
            raise RegisterError(f"{where}: class is equivalent or speed, not {kind!r}")
        if len(why.strip()) < _SHORTEST:
            raise RegisterError(f"{where} ({ident}) has no argument in why")
        if ident in found:
            raise RegisterError(f"{where}: {ident} is there twice")
        found[ident] = (kind, why)
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
