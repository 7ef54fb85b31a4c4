"""Which items a mutant is judged by: those that reach it, the most specific ops first."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterable
from functools import cached_property

from . import ctext
from .coverage import Coverage
from .mutant import Mutant
from .operators import _walk
from .tree import Source, Tree
from .zygote import Layout

__all__ = ["Chooser"]

_PARTS = ("driver.", "primitive.", "scale.", "surface.")

_OTHERS = ("/interp.py", "/ref.py")
"""Files in which ref computes, and with which the others are compared."""

_SHORTEST = 6
"""Pieces of C shorter than this stand in too many kernels to tell them apart."""


class Chooser:
    """Chooses items by what was recorded.

    Args:
        tree: The sources.
        where: Their bytes.
        coverage: What each item reaches.
    """

    def __init__(self, tree: Tree, where: Layout, coverage: Coverage) -> None:
        self.tree, self.where, self.coverage = tree, where, coverage
        self._cost: dict[str, int] = {}
        for name, item in coverage.items.items():
            op = name.split("/")[0]
            size = int(item.hits.sum())
            self._cost[op] = min(size, self._cost.get(op, size))

    def items(self, mutant: Mutant, first: int, more: int, rest: int) -> list[list[str]]:
        """Items that reach a mutant, in the groups that judge it one after the other.

        Ops of every kind come first; the parts that judge one layer alone (primitives, drivers,
        large sizes, surfaces) begin the last group, as they see what no single op shows.
        """
        found = self._on_devices(mutant.path, self._reaching(mutant))
        early = self._spread(found, first + more, mutant.ident)
        left = [n for n in found if n not in early]
        late = self._parts(mutant.path, [n for n in left if n.startswith(_PARTS)])[: rest // 2]
        late += self._spread([n for n in left if n not in late], rest - len(late), mutant.ident)
        return [early[:first], early[first:], late]

    def _parts(self, path: str, names: list[str]) -> list[str]:
        """Parts, the cheapest first and one dtype of each before a second.

        What a user touches without an op is the dispatcher's alone: for its files surfaces lead.
        """
        known: dict[str, int] = {}
        turn = {}
        for name in names:
            op = name.split("/")[0]
            turn[name] = known[op] = known.get(op, -1) + 1
        own = path.startswith("dispatcher/")

        def key(name: str) -> tuple[int, bool, int]:
            led = own and not name.startswith("surface.")
            return turn[name], led, self._cost[name.split("/")[0]]

        return sorted(names, key=key)

    def _on_devices(self, path: str, names: list[str]) -> list[str]:
        """Of items those on the device whose code changes; cpu's where it is every device's."""
        for device in ("opencl", "cpu"):
            here = [n for n in names if n.split("/")[1].startswith(device)]
            if path.startswith(f"{device}/"):
                return here
            if device == "cpu" and here and not path.endswith(_OTHERS):
                return here
        return names

    def _spread(self, names: Iterable[str], count: int, seed: str) -> list[str]:
        """Two ops that run little else, then others by lot; dtypes that differ."""
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(name.split("/")[0], []).append(name)
        rng = random.Random(seed)
        ops = sorted(groups)
        rng.shuffle(ops)
        ops.sort(key=lambda op: self._cost[op])
        # Where nearly every op goes, those that do next to nothing are no better than others.
        first = 2 if 2 * len(groups) < len(self._cost) else 0
        later = ops[first:]
        rng.shuffle(later)
        ops = [*ops[:first], *later]
        seen: dict[str, int] = {}
        found: list[str] = []
        while groups and len(found) < count:
            for op in list(ops):
                left = groups.get(op)
                if not left:
                    groups.pop(op, None)
                    continue
                best = min(left, key=lambda n: (seen.get(n.split("/")[2], 0), left.index(n)))
                left.remove(best)
                seen[best.split("/")[2]] = seen.get(best.split("/")[2], 0) + 1
                found.append(best)
                if len(found) == count:
                    break
        return found

    def _reaching(self, mutant: Mutant) -> list[str]:
        everything = list(self.coverage.items)
        if mutant.edit is None:
            natives = [n for n in everything if n.endswith("/native")]
            # The C runtime serves every launch, its products native kernels alone.
            return natives if natives and "gemm" in self._c_function(mutant) else everything
        source = self.tree.sources[mutant.path]
        if mutant.edit.text and source.path.endswith("dialect.py"):
            return everything
        if mutant.edit.text and (piece := self._piece(source, mutant)):
            holding = {d for d, text in self.coverage.texts.items() if piece in text}
            found = [
                n for n, item in self.coverage.items.items() if holding.intersection(item.texts)
            ]
            if found:
                return found
        place = self.where.base[source.module] + mutant.edit.unit
        found = self.coverage.covering([place])
        if found:
            return self._users(source, mutant.edit.unit, found)
        if place < self.coverage.at_import.size and self.coverage.at_import[place]:
            return self._at_import(source, mutant.edit.unit)
        if place < self.coverage.building.size and self.coverage.building[place]:
            return everything  # it runs where nothing is compiled yet
        return []

    def _users(self, source: Source, unit: int, found: list[str]) -> list[str]:
        """Of items that load a module late, those that use what one of its lines defines."""
        walked = _walk(ast.parse(source.text))
        if not isinstance(walked[unit].parent, ast.Module):
            return found
        used = set(self._using(_defined(walked[unit].node)))
        return [n for n in found if n in used] or found

    def _c_function(self, mutant: Mutant) -> str:
        """The line that begins the function of a C file which changes."""
        lines = self.tree.sources[mutant.path].text.splitlines()[: mutant.line]
        return next((t for t in reversed(lines) if t[:1].isalpha() and "(" in t), "")

    def _piece(self, source: Source, mutant: Mutant) -> str:
        """The line of a C text that changes, as it stands in kernels."""
        assert mutant.edit is not None
        node = _walk(ast.parse(source.text))[mutant.edit.node].node
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            return ""
        text: str = node.value
        found = ctext.file_edits(text)
        if not mutant.edit.operator.startswith("C ") or mutant.edit.variant >= len(found):
            return ""
        at = found[mutant.edit.variant].start
        first = text.rfind("\n", 0, at) + 1
        last = text.find("\n", at)
        piece = text[first : len(text) if last < 0 else last].strip()
        return piece if len(piece) >= _SHORTEST else ""

    def _at_import(self, source: Source, unit: int) -> list[str]:
        """Items of what a statement that runs at import defines."""
        place = self.where.base[source.module] + unit
        owners = self.coverage.owners.get(place, set())
        found = [n for n in self.coverage.items if n.split("/")[0] in owners]
        if found:
            return found
        node = _walk(ast.parse(source.text))[unit].node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            parsed = _walk(ast.parse(source.text))
            inside = [k for k, p in enumerate(parsed) if p.parent is parsed[unit].node]
            places = [self.where.base[source.module] + k for k in inside]
            found = self.coverage.covering(places)
            return found or self._using({node.name})
        return self._using(_defined(node)) or self._in_module(source)

    def _using(self, names: set[str]) -> list[str]:
        """Items that run a function in which one of these names, or what is made of it, is read."""
        places: set[int] = set()
        todo, known = set(names), set(names)
        found: dict[str, None] = {}
        while todo:
            name = todo.pop()
            for place, defined, outer in self._readers.get(name, ()):
                owners = self.coverage.owners.get(place, set())
                found |= {n: None for n in self.coverage.items if n.split("/")[0] in owners}
                if outer:
                    todo |= defined - known
                    known |= defined
                else:
                    places.add(place)
        found |= dict.fromkeys(self.coverage.covering(sorted(places)))
        return list(found)

    def _in_module(self, source: Source) -> list[str]:
        start = self.where.base[source.module]
        return self.coverage.covering(range(start, self.where.arm_base[source.module]))

    @cached_property
    def _readers(self) -> dict[str, list[tuple[int, set[str], bool]]]:
        """For each name what reads it: place, what that defines, whether on a module's level."""
        found: dict[str, list[tuple[int, set[str], bool]]] = {}
        for name, source in self.tree.modules.items():
            walked = _walk(ast.parse(source.text))
            for place in walked:
                node = place.node
                if not isinstance(node, (ast.Name, ast.Attribute)):
                    continue
                if not isinstance(node.ctx, ast.Load):
                    continue
                read = node.id if isinstance(node, ast.Name) else node.attr
                holder = walked[place.statement]
                outer = place.unit == place.statement and isinstance(holder.parent, ast.Module)
                made = _defined(holder.node) if outer else set()
                entry = (self.where.base[name] + place.unit, made, outer)
                found.setdefault(read, []).append(entry)
        return found


def _defined(node: ast.AST) -> set[str]:
    """Names that a statement gives a value to."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    return {
        n.id if isinstance(n, ast.Name) else n.attr
        for n in ast.walk(node)
        if isinstance(n, (ast.Name, ast.Attribute)) and isinstance(n.ctx, ast.Store)
    }
