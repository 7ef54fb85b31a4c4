"""Which items a mutant is judged by: those that reach it, the most specific ops first."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterable, Sequence
from functools import cached_property

from . import ctext
from .coverage import Coverage
from .mutant import Mutant
from .operators import _walk
from .parsing import parse
from .tree import Source, Tree
from .zygote import Layout

__all__ = ["Chooser"]

_PARTS = ("driver.", "primitive.", "scale.", "surface.")

_OTHERS = ("/interp.py", "/ref.py", "/flushing.py")
"""Files in which ref computes, and with which the others are compared."""

_SECOND = 8
"""Items of a second platform that judge the sources of opencl."""

_NATIVE = 2
"""Items of native kernels among those that judge a mutant last."""

_AFAR = 6
"""Surfaces that judge the dispatcher on a device whose memory the host does not reach."""

_LANGUAGE = ("/clike.py", "/ir.py", "/interp.py", "/flushing.py", "/dialect.py")
"""Files of which each line is a primitive's."""

_SKELETONS = tuple(
    f"backends/tensorbus_backends/{p}" for p in ("kernels/", "clike.py", "dialect.py")
)
"""What kernels for threads are made by."""

_LAYERS = (
    ("scale.", ("/kernels/base.py", "/contraction.py", "/contraction_layout.py",
                "/contraction_text.py", "/map.py", "/reduce.py", "/rows.py", "/scan.py")),
    ("primitive.", ("/clike.py", "/ir.py", "/interp.py", "/scalar.py", "/flushing.py")),
    ("driver.", ("cpu/", "opencl/", "/pool.py", "/cache.py", "/units.py", "/check.py",
                 "/staging.py", "/contract.py", "/opening.py", "/probing.py", "/discovery.py",
                 "/ref.py")),
    ("surface.", ("dispatcher/",)),
)  # fmt: skip
"""Which parts judge a layer alone, and the beginnings and ends of its files' paths."""

_HOMES = (
    ("cpu/tensorbus_cpu/runtime.c", ("team", "environment", "fork", "threads", "processor")),
    ("cpu/tensorbus_cpu/runtime.py", ("team", "cold", "environment")),
    ("cpu/tensorbus_cpu/fastcall.c", ("team", "launch", "threads")),
    ("cpu/tensorbus_cpu/kernels.py", ("cold",)),
    ("cpu/tensorbus_cpu/blas.py", ("cold",)),
    ("cpu/tensorbus_cpu/toolchain.py", ("cold", "compiler")),
    ("cpu/tensorbus_cpu/plugin.py", ("compiler",)),
    ("backends/tensorbus_backends/cache.py", ("keeping", "cache", "cold")),
    ("backends/tensorbus_backends/kernels/", ("skeletons",)),
    ("backends/tensorbus_backends/flushing.py", ("language",)),
    ("backends/tensorbus_backends/units.py", ("calls", "grid")),
    ("backends/tensorbus_backends/grid.py", ("grid", "calls")),
    ("backends/tensorbus_backends/staging.py", ("copy", "calls")),
    ("opencl/tensorbus_opencl/", ("calls", "platforms")),
)
"""Duties that are about one file, whose children run it unseen: the beginning of its path."""

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
        if mutant.stratum == "drivers":
            groups = self._for_drivers(mutant.path, found, mutant.ident, first + more, rest)
        else:
            groups = self._for_others(mutant, found, first, more, rest)
        return [
            *groups,
            [*self._other_dtypes(groups, mutant.path, rest), *self._afar(groups, mutant)],
        ]

    def _afar(self, groups: Sequence[Sequence[str]], mutant: Mutant) -> list[str]:
        """Surfaces that passed on the host's own memory, on a device that has another.

        What the dispatcher does for such devices alone runs in no item of cpu.
        """
        if not mutant.path.startswith("dispatcher/"):
            return []
        parts = [n for g in groups for n in g if n.startswith("surface.")]
        there = [n.replace("/cpu/", "/opencl:0/") for n in parts if "/cpu/" in n]
        first = {n.split("/")[0]: n for n in reversed(there)}
        known = set(self.coverage.listing)
        return [n for n in dict.fromkeys(there) if n in known and n in first.values()][:_AFAR]

    def _for_others(
        self, mutant: Mutant, found: list[str], first: int, more: int, rest: int
    ) -> list[list[str]]:
        # What a file itself defines is the best judge of it, and may be lost among its users.
        mine = self._own(mutant.path)
        home = [n for n in found if n.split("/")[0] in mine]
        early = self._spread(home, first + more // 2, mutant.ident)
        others = [n for n in found if n not in early]
        early += self._spread(others, first + more - len(early), mutant.ident)
        left = [n for n in found if n not in early]
        homes = [n for n in self._homes(mutant.path) if n not in early]
        # Kernels of all primitives are compiled together: which one changes is not recorded.
        whole = [n for n in self._whole(left, mutant.path) if n not in homes]
        second = [n for n in left if n.split("/")[1] not in ("cpu", "opencl:0", "ref")]
        second = sorted(second, key=lambda n: not n.startswith("primitive."))[:_SECOND]
        left = [n for n in left if n not in whole and n not in second and n not in homes]
        rest = rest // 3 if len(whole) > rest else rest
        parts = [n for n in left if n.startswith(_PARTS)]
        # Each native kernel is served by one way only, which no other item goes.
        homes += [n for n in left if n.endswith("/native")][:_NATIVE]
        late = homes + self._parts(parts, mutant.path, max(0, 2 * rest // 3 - len(homes)))
        late += self._spread([n for n in left if n not in late], rest - len(late), mutant.ident)
        return [early[:first], early[first:], [*whole, *second, *late]]

    def _other_dtypes(self, groups: Sequence[Sequence[str]], path: str, count: int) -> list[str]:
        """Items that nobody recorded, of the ops that were chosen and of the file's own.

        `conform` judges every dtype; what only one of them takes is recorded by lot.
        """
        ops = [n.rsplit("/", 2)[0] for group in groups for n in group]
        ops = [f"{op}/cpu" for op in sorted(self._own(path))] + ops
        left: dict[str, list[str]] = {op: [] for op in ops}
        for name in self.coverage.listing:
            if (op := name.rsplit("/", 2)[0]) in left and name not in self.coverage.items:
                left[op].append(name)
        found: list[str] = []
        while len(found) < count and any(left.values()):
            found += [names.pop(0) for names in left.values() if names]
        return found[:count]

    def _whole(self, names: Sequence[str], path: str) -> list[str]:
        """What is judged before others by lot, as it looks at a file from all sides.

        Where kernels' texts change, those for threads; where the scalar language or its
        interpreter does, every primitive: each takes milliseconds.
        """
        found = []
        if path.startswith(_SKELETONS):
            found = [n for n in names if n.startswith("driver.lanes/")]
        if path.endswith(_LANGUAGE):
            device = "ref" if path.endswith(_OTHERS) else "cpu"
            found += [n for n in names if n.startswith("primitive.") and n.split("/")[1] == device]
        return found

    def _for_drivers(
        self, path: str, found: list[str], seed: str, first: int, rest: int
    ) -> list[list[str]]:
        """Every duty of a driver, those that reach the mutant first; surfaces; others by lot.

        Nearly every item opens a device, and hardly one looks at how that is done.
        """
        # What a class or a default says at import shows in duties that only read it.
        reached = set(found)
        due = {n.split("/")[1] for n in found} or {"cpu", "opencl:0"}
        own = [n for n in self.coverage.items if n.startswith("driver.")]
        own = self._on_devices(path, [n for n in own if n.split("/")[1] in due])
        homes = self._homes(path)
        own = [n for n in own if n not in homes]
        own.sort(key=lambda n: (n not in reached, self._cost[n.split("/")[0]], n))
        own = homes + own
        seen = [n for n in found if n.startswith("surface.")]
        seen.sort(key=lambda n: (self._cost[n.split("/")[0]], n))
        left = [n for n in found if n not in own and n not in seen[:first]]
        return [own, seen[:first], self._spread(left, max(0, rest - len(seen[:first])), seed)]

    def _homes(self, path: str) -> list[str]:
        """Items of the duties that are about a file."""
        due = [f"driver.{d}" for start, duties in _HOMES if path.startswith(start) for d in duties]
        return [n for d in due for n in self.coverage.items if n.split("/")[0] == d]

    def _own(self, path: str) -> set[str]:
        """Ops that a file makes public, by the names that it exports."""
        if "tensorbus/" not in path or not path.endswith(".py"):
            return set()
        tree = parse(self.tree.sources[path].text)
        names: set[str] = set()
        for node in tree.body:
            if isinstance(node, ast.Assign) and "__all__" in _defined(node):
                names |= {
                    c.value
                    for c in ast.walk(node.value)
                    if isinstance(c, ast.Constant) and isinstance(c.value, str)
                }
        short = {op: op.rsplit(".", 1)[-1] for op in self._cost if not op.startswith(_PARTS)}
        return {op for op, name in short.items() if name in names}

    def _parts(self, names: list[str], path: str, count: int) -> list[str]:
        """Parts: those that run this file more than others, then those of its layer.

        Every part comes once before a second dtype of it does.
        """
        own, module = _family(path), self.tree.sources[path].module
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(name.split("/")[0], []).append(name)
        share = {op: max(self._share(n, module) for n in groups[op]) for op in groups}
        near = sorted(groups, key=lambda op: (-share[op], self._cost[op]))
        layer = sorted(groups, key=lambda op: (not op.startswith(own), self._cost[op]))
        found: list[str] = []
        for chosen, most in ((near[: count // 4], count // 4), (layer, count)):
            while len(found) < most and any(groups[op] for op in chosen):
                for op in [o for o in chosen if groups[o]][: most - len(found)]:
                    found.append(groups[op].pop(0))
        return found

    def _share(self, name: str, module: str) -> float:
        """How much of what an item runs lies in a module."""
        if not module:
            return 0.0
        hits = self.coverage.items[name].hits
        inside = hits[self.where.base[module] : self.where.arm_base[module]]
        return float(inside.sum()) / max(int(hits.sum()), 1)

    def _on_devices(self, path: str, names: list[str]) -> list[str]:
        """Of items those on the device whose code changes; cpu's where it is every device's."""
        for device in ("opencl", "cpu"):
            here = [n for n in names if n.split("/")[1].startswith(device)]
            if path.startswith(f"{device}/"):
                return here
            # What few items of cpu run (one that opens every device, say) is another device's.
            mainly = 4 * len(here) >= len(names)
            if device == "cpu" and here and mainly and not path.endswith(_OTHERS):
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
            if natives and "gemm" in self._c_function(mutant):
                # Products as users call them, too, and in a hostile environment.
                return natives + [
                    n for n in everything
                    if n.startswith(("scale.matmul", "driver.environment", "nn.linear"))
                ]  # fmt: skip
            return everything
        source = self.tree.sources[mutant.path]
        if mutant.edit.text and source.path.endswith("dialect.py"):
            return everything
        if mutant.edit.text and (piece := self._piece(source, mutant)):
            holding = {d for d, text in self.coverage.texts.items() if piece in text}
            found = [
                n for n, item in self.coverage.items.items() if holding.intersection(item.texts)
            ]
            # A line that other skeletons have too is this one's where its function ran.
            place = self.where.base[source.module] + mutant.edit.unit
            ran = set(self.coverage.covering([place]))
            if own := [n for n in found if n in ran]:
                return own
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
        walked = _walk(parse(source.text))
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
        node = _walk(parse(source.text))[mutant.edit.node].node
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
        node = _walk(parse(source.text))[unit].node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            parsed = _walk(parse(source.text))
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
            walked = _walk(parse(source.text))
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


def _family(path: str) -> str:
    """The family of parts that judges the layer of a file."""
    for family, ends in _LAYERS:
        if any(path.startswith(e) if e.endswith("/") else path.endswith(e) for e in ends):
            return family
    return "driver." if path.endswith(".c") else "primitive."


def _defined(node: ast.AST) -> set[str]:
    """Names that a statement gives a value to."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    return {
        n.id if isinstance(n, ast.Name) else n.attr
        for n in ast.walk(node)
        if isinstance(n, (ast.Name, ast.Attribute)) and isinstance(n.ctx, ast.Store)
    }
