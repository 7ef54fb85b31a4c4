"""Which statements and branches ran: a store before each, put into the syntax tree.

A store into a bytearray costs about 30 ns, so code runs at nearly its own speed, in all threads
(tracing is 10 to 100 times as slow before Python 3.12).  The place of a statement's byte is the
statement's place in the walk that names a mutant's statement.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from .operators import Edit, _docstring, _walk
from .parsing import parse

__all__ = ["Arm", "HITS", "MARK", "arms", "instrument", "places", "with_probe"]

HITS = "__tensorbus_hits__"
"""The global of a module that holds its bytes."""

MARK = "__tensorbus_mark__"
"""The global that is called after each statement of a module's own level."""


@dataclass(frozen=True)
class Arm:
    """One way that a branch may go: its line and what it is, ``"else"``."""

    line: int
    kind: str


def places(tree: ast.Module) -> int:
    """Number of bytes that the statements of a file need."""
    return len(_walk(tree))


def _store(number: int, at: ast.AST) -> ast.stmt:
    target = ast.Subscript(ast.Name(HITS, ast.Load()), ast.Constant(number), ast.Store())
    made = ast.Assign([target], ast.Constant(1))
    ast.copy_location(made, at)
    for node in ast.walk(made):
        ast.copy_location(node, at)
    return made


def _first(node: ast.stmt) -> bool:
    """A statement before which nothing may stand."""
    return _docstring(node) or (isinstance(node, ast.ImportFrom) and node.module == "__future__")


def instrument(text: str, base: int, *, mark: bool = False, branch_base: int = -1) -> ast.Module:
    """The tree of a file with a store before each statement.

    Args:
        text: The file.
        base: Of its bytes.
        mark: Call `MARK` with the statement's place after each statement of the module's level.
        branch_base: Of the bytes of its branches (see `arms`); negative for none.
    """
    tree = parse(text)
    found = _walk(tree)
    number = {id(p.node): k for k, p in enumerate(found)}
    if branch_base >= 0:
        _put_arms(found, branch_base)
    for place in found:
        if isinstance(place.node, ast.Lambda):
            place.node.body = _noting(base + number[id(place.node)], place.node.body)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(place.node, name, None)
            if not isinstance(block, list):
                continue
            made: list[ast.stmt] = []
            for statement in block:
                if id(statement) in number and not _first(statement):
                    made.append(_store(base + number[id(statement)], statement))
                made.append(statement)
                if mark and place.node is tree and not _first(statement):
                    made.append(_call(number[id(statement)], statement))
            setattr(place.node, name, made)
    return ast.fix_missing_locations(tree)


def _call(number: int, at: ast.stmt) -> ast.stmt:
    made = ast.Expr(ast.Call(ast.Name(MARK, ast.Load()), [ast.Constant(number)], []))
    return ast.copy_location(made, at)


def arms(tree: ast.Module) -> list[Arm]:
    """The branches of a file, two for every if, loop and conditional expression."""
    found: list[Arm] = []
    for place in _walk(tree):
        node = place.node
        if place.skipped and not isinstance(place.node, ast.ExceptHandler):
            continue
        if isinstance(node, ast.If):
            found += [Arm(node.lineno, "then"), Arm(node.lineno, "else")]
        elif isinstance(node, (ast.For, ast.While)):
            found += [Arm(node.lineno, "body"), Arm(node.lineno, "end")]
        elif isinstance(node, ast.IfExp):
            found += [Arm(node.lineno, "if"), Arm(node.lineno, "if not")]
        elif isinstance(node, ast.ExceptHandler):
            found.append(Arm(node.lineno, "except"))
        elif isinstance(node, ast.match_case):
            found.append(Arm(node.pattern.lineno, "case"))
    return found


def _put_arms(found: list, base: int) -> None:  # type: ignore[type-arg]
    count = base
    for place in found:
        node = place.node
        if place.skipped and not isinstance(node, ast.ExceptHandler):
            continue
        if isinstance(node, (ast.If, ast.For, ast.While)):
            node.body.insert(0, _store(count, node))
            node.orelse.insert(0, _store(count + 1, node))
            count += 2
        elif isinstance(node, ast.IfExp):
            node.body = _noting(count, node.body)
            node.orelse = _noting(count + 1, node.orelse)
            count += 2
        elif isinstance(node, (ast.ExceptHandler, ast.match_case)):
            at = node if isinstance(node, ast.ExceptHandler) else node.pattern
            node.body.insert(0, _store(count, at))
            count += 1


def _noting(number: int, value: ast.expr) -> ast.expr:
    """An expression that notes that it was evaluated: ``(hits.__setitem__(n, 1), value)[1]``."""
    store = ast.Call(
        ast.Attribute(ast.Name(HITS, ast.Load()), "__setitem__", ast.Load()),
        [ast.Constant(number), ast.Constant(1)],
        [],
    )
    pair = ast.Tuple([store, value], ast.Load())
    made = ast.Subscript(pair, ast.Constant(1), ast.Load())
    for node in (store, pair, made):
        ast.copy_location(node, value)
    return made


def with_probe(tree: ast.Module, edit: Edit) -> ast.Module:
    """A changed tree that notes in byte 0 that what changed was evaluated."""
    found = _walk(tree)
    place = found[edit.node] if edit.node < len(found) else found[edit.statement]
    loaded = isinstance(getattr(place.node, "ctx", ast.Load()), ast.Load)
    texts = (ast.JoinedStr, ast.FormattedValue, ast.Starred, ast.keyword)
    if (
        isinstance(place.node, ast.expr)
        and not isinstance(place.node, ast.Starred)
        and loaded
        and not edit.text
        and place.parent is not None
        and not isinstance(place.parent, texts)
    ):
        noting = _noting(0, place.node)
        if place.index is None:
            setattr(place.parent, place.field, noting)
        else:
            getattr(place.parent, place.field)[place.index] = noting
        return ast.fix_missing_locations(tree)
    place = found[edit.statement]
    if place.parent is not None and place.index is not None and place.field != "handlers":
        getattr(place.parent, place.field).insert(place.index, _store(0, place.node))
    return ast.fix_missing_locations(tree)
