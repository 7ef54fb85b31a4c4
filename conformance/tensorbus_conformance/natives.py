"""What a vendor's native kernels can take on: the page docs/natives.md, made from the code.

Names come from the registry of functions; operands, options and results from the calls that the
judge makes at level smoke, as the dispatcher offers them to native kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorbus as tb
from tensorbus_backends.contract import NATIVES_VERSION, NativeCase
from tensorbus_backends.dtypes import DType

from .judge.asked import asked, names_of
from .judge.items import dtypes_of, oracle_name, random_recipe

__all__ = ["Entry", "entries", "names", "page"]

_HEAD = """# Native kernels: what they can take on

Version {version} of this list. `tensorbus natives` prints it, from the code.

A device's table (`contract.NativeTable`) may have a kernel under each of these names. `when` is
asked with a `NativeCase`: its `options` have the keys below; its dtypes, shapes and strides are
those of the operands, then of the results, which the dispatcher has allocated in C order. A name
with a dot is a function's; where it stands beside another one, both name the same calls. A function
that is *decomposed* asks with its own arguments, after they have been checked and unless a gradient
is recorded; what no kernel takes is served by calls of other ops, which ask in turn.

Options of type `dtype` are `tensorbus` dtypes. Axes are counted from the front, but for `vecdot`,
whose operands broadcast: from the end. Numbers of operands are those of the judge's calls. Within
a version names, options and operands may be added, and nothing else changes; the constant
`contract.NATIVES_VERSION` is the version. The judge refuses a name that no call has.

| name | asked for | operands | options | results |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Entry:
    """One line of the list.

    Attributes:
        names: Under which a kernel is found; the first is ``NativeCase.op``.
        functions: Public functions whose calls it is asked about.
        operands: How many there were.
        options: Names with the types or words of their values.
        results: How many there were.
    """

    names: tuple[str, ...]
    functions: tuple[str, ...]
    operands: str
    options: tuple[tuple[str, str], ...]
    results: str


def names() -> frozenset[str]:
    """Every name that a native kernel may have."""
    return frozenset(n for group in _groups().values() for n in group[0])


def _groups() -> dict[str, tuple[tuple[str, ...], list[str]]]:
    """Names and functions by ``NativeCase.op``."""
    found: dict[str, tuple[tuple[str, ...], list[str]]] = {}
    for op, function in sorted(tb.FUNCTIONS.items()):
        own = names_of(op)
        if random_recipe(op) or oracle_name(op) is None or own[0].startswith("_"):
            continue
        listed, functions = found.get(own[0], ((), []))
        found[own[0]] = (tuple(dict.fromkeys((*listed, *own))), [*functions, function.qualified])
    return found


def entries() -> list[Entry]:
    """The list, without what is never asked since views alone serve it."""
    made = []
    for own, (listed, functions) in sorted(_groups().items()):
        cases: list[NativeCase] = []
        for op in functions:
            oracle = oracle_name(op)
            assert oracle is not None
            for dtype in dtypes_of(op, "smoke"):
                cases += [c for c in asked(op, oracle, dtype) if c.op == own]
        if cases:
            operands = _counts(len(c.dtypes) - c.results for c in cases)
            results = _counts(c.results for c in cases)
            made.append(Entry(listed, tuple(functions), operands, _options(cases), results))
    return made


def _counts(numbers: Iterable[int]) -> str:
    known = sorted(set(numbers))
    whole = known == list(range(known[0], known[-1] + 1))
    return (
        f"{known[0]} to {known[-1]}" if len(known) > 2 and whole else " or ".join(map(str, known))
    )


def _options(cases: Sequence[NativeCase]) -> tuple[tuple[str, str], ...]:
    keys = sorted({k for c in cases for k in c.options})
    found = []
    for key in keys:
        values = [c.options[key] for c in cases if key in c.options]
        kinds = sorted({_kind(v) for v in values})
        if any(k.startswith("tuple of") for k in kinds):
            kinds = [k for k in kinds if k != "tuple"]
        found.append((key, " or ".join(kinds)))
    return tuple(found)


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, DType):
        return "dtype"
    if isinstance(value, tuple | list):
        inner = sorted({_kind(v) for v in value})
        return f"tuple of {' or '.join(inner)}" if inner else "tuple"
    return "None" if value is None else type(value).__name__


def page() -> str:
    """docs/natives.md."""
    lines = []
    for e in entries():
        called = ", ".join(f"`{n}`" for n in e.names)
        asks = ", ".join(f"`{n}`" for n in e.functions)
        if tb.FUNCTIONS[e.functions[0]].decomposed:
            asks += " (decomposed)"
        options = "; ".join(f"`{k}`: {v}" for k, v in e.options).replace("|", "\\|") or "-"
        lines.append(f"| {called} | {asks} | {e.operands} | {options} | {e.results} |")
    return _HEAD.format(version=NATIVES_VERSION) + "\n".join(lines) + "\n"
