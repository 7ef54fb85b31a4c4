"""Which statements, branches and kernel texts each item reaches on the healthy tree.

Every item is judged in a process of its own, since plans and kernels' texts are made once a
process.  What was recorded lies beside the compiled kernels, under the digest of the sources and
the judge, so that it is used again until one of them changes.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorbus_backends.cache import default_directory, limit, prune, subfolder

from .child import SECOND
from .pool import Pool
from .tree import Tree

__all__ = ["Coverage", "Recorded", "chosen_items", "limits", "record"]

_PER_OP = 4
_OTHER_EVERY = 4
"""Of a second device one op in so many is enough: it adds its driver and its own skeletons."""
_FIRST = ("float32", "int32", "bool", "float16", "float64", "uint8", "int64")

_EMPTY_CACHE = 8
"""Of 256 items so many are recorded with an empty cache of kernels, where branches are counted."""

_SAVE_EVERY = 50


def limits(seconds: float, device: str) -> dict[str, Any]:
    """Bounds for a child: wall clock, processor, memory; `seconds` is what the healthy tree took.

    A machine that does other work may be several times as slow; OpenCL's compilers reserve
    address space that they never touch.
    """
    wall = 20.0 + 8.0 * seconds
    return {
        "wall": wall,
        "cpu": 2.0 * wall,
        "memory": (24 if device.startswith("opencl") else 6) << 30,
        "cache": str(default_directory()),
    }


@dataclass
class Recorded:
    """What one item did."""

    hits: NDArray[np.uint8]
    seconds: float
    states: dict[str, str]
    texts: list[str]


@dataclass
class Coverage:
    """All that was recorded at a level.

    Attributes:
        items: By name.
        texts: Kernel texts by digest.
        at_import: Bytes of what importing tensorbus ran.
        owners: For a byte that ran at import, the functions that it helped to define.
        building: What an item runs that finds no compiled kernel, compiler or runtime.
        listing: Names of all items, those that were not recorded included.
    """

    level: str
    items: dict[str, Recorded] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    at_import: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    owners: dict[int, set[str]] = field(default_factory=dict)

    building: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    listing: tuple[str, ...] = ()

    def seconds(self, name: str) -> float:
        """What an item takes; of one that was not recorded what the longest of its op takes."""
        if name in self.items:
            return self.items[name].seconds
        op = name.split("/")[:2]
        return max(
            (r.seconds for n, r in self.items.items() if n.split("/")[:2] == op), default=0.0
        )

    @property
    def known_bad(self) -> dict[str, list[str]]:
        """Cells that fail on the healthy tree: they show nothing about a mutant."""
        found = {}
        for name, item in self.items.items():
            bad = [p for p, s in item.states.items() if s not in ("pass", "unsupported")]
            if bad:
                found[name] = bad
        return found

    def covering(self, places: Sequence[int]) -> list[str]:
        """Items that ran one of these bytes."""
        if not len(places) or not self.items:
            return []
        inside = [p for p in places if p < self._table.shape[1]]
        ran = np.asarray(self._table[:, inside].any(axis=1))
        return [name for name, hit in zip(self.items, ran, strict=True) if hit]

    @cached_property
    def _table(self) -> NDArray[np.uint8]:
        return np.stack([item.hits for item in self.items.values()])


_CONVERSIONS = tuple(
    f"primitive.{op}/"
    for op in ("cast", "store", "input", "bitcast", "mulhi", "idiv", "irem", "shl", "shr")
)
"""Primitives whose text every dtype has to itself: all of them are recorded."""

_SECOND_PARTS = ("primitive.rint/", "driver.launch/", "driver.compile/", "scale.reduce_row/")
"""What is recorded on a second platform, as no device else has its text."""


def chosen_items(names: Sequence[str]) -> list[str]:
    """Of each op and variant at most four dtypes: float32, float64, and others by lot.

    Both, because each has mathematics and skeletons of its own.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        op, device, _, variant = name.split("/")
        groups.setdefault((f"{op}/{device}", variant), []).append(name)
    found = []
    for (key, _), group in groups.items():
        digest = hashlib.sha256(key.encode()).digest()
        other = not key.endswith("/cpu")
        if key.endswith(f"/{SECOND}") and not key.startswith(_SECOND_PARTS):
            continue
        # The interpreter's primitives take no time; nothing else tells them apart.
        whole = (
            ("driver.", "scale.", "primitive.") if key.endswith("/ref") else ("driver.", "scale.")
        )
        if other and digest[0] % _OTHER_EVERY and not key.startswith((*whole, *_SECOND_PARTS)):
            continue
        if key.startswith(_CONVERSIONS) and not key.split("/")[1].startswith("opencl"):
            found += group
            continue
        first = sorted(group, key=lambda n: _order(n.split("/")[2]))[:1]
        first += [n for n in group if n.split("/")[2] == "float64" and n not in first]
        rest = [n for n in group if n not in first]
        rest.sort(key=lambda n: hashlib.sha256(f"{key}{n}".encode()).digest())
        # Its skeletons are all tried once; what dtypes add to them is seen on cpu.
        most = 1 if other and key.startswith("scale.") else _PER_OP
        found += [*first, *rest[: _PER_OP - len(first)]][:most]
    return found


def _order(dtype: str) -> int:
    return _FIRST.index(dtype) if dtype in _FIRST else len(_FIRST)


def _unpacked(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8)


def _path(tree: Tree, level: str, branches: bool) -> Path:
    kind = "branches" if branches else "coverage"
    name = f"{kind}-{level}-{tree.sources_digest}-{tree.digest}.json.gz"
    return default_directory() / "mutation" / name


def _older(path: Path) -> Path:
    """The newest record of the same sources with another version of the judge, if there is one."""
    others = path.parent.glob("-".join(path.name.split("-")[:-1]) + "-*.json.gz")
    return max(others, key=lambda p: p.stat().st_mtime, default=path)


def record(
    tree: Tree,
    pool: Pool,
    level: str,
    devices: Sequence[str],
    progress: Callable[[int, int], None],
    *,
    branches: bool = False,
    ops: Sequence[str] | None = None,
    stale: bool = False,
) -> Coverage:
    """Record what is not recorded yet; `progress` is told how many of how many items are.

    `stale` takes what an earlier version of the judge reached, if the sources are the same.
    """
    path = _path(tree, level, branches)
    kept: dict[str, Any] = {"items": {}, "texts": {}, "import": None}
    known = _older(path) if stale and not path.exists() else path
    if known.exists():
        with contextlib.suppress(OSError, ValueError, EOFError):  # spoilt: recorded again
            kept = json.loads(gzip.decompress(known.read_bytes()))
    base = {"level": level, "seed": 0, "healthy": True, "branches": branches}
    listing: list[str] = []

    def ask_list(ask: Any, device: str) -> dict[str, Any]:
        request = {**base, "kind": "list", "items": [], "devices": [device]}
        return ask({**request, **limits(60, device)})  # type: ignore[no-any-return]

    def listed(answer: dict[str, Any]) -> None:
        for m in answer["messages"]:
            listing.extend(m.get("items", []))

    pool.map(devices, ask_list, listed)
    wanted = every = [n for n in listing if ops is None or n.split("/")[0] in ops]
    chosen = chosen_items(wanted)
    if branches:
        chosen += [n for n in wanted if n.split("/")[1] == "cpu" and n not in set(chosen)]
    wanted = chosen
    todo: list[str] = [n for n in wanted if n not in kept["items"]]
    count = len(wanted) - len(todo)

    def work(ask: Any, name: str) -> tuple[str, dict[str, Any]]:
        item = name or wanted[0]
        request = {**base, "kind": "record", "items": [item], "marks": not name}
        request |= limits(30, item.split("/")[1])
        if not name or (branches and hashlib.sha256(name.encode()).digest()[0] < _EMPTY_CACHE):
            request["cache"] = ""  # an empty one: what builds kernels is on the way, too
        return name, ask(request)

    def done(result: tuple[str, dict[str, Any]]) -> None:
        nonlocal count
        name, answer = result
        if not name:
            ran = {k: v for m in answer["messages"] for k, v in m.items()}
            if "at_import" in ran and "hits" in ran:
                kept["import"] = {
                    "hits": ran["at_import"], "marks": ran["marks"], "building": ran["hits"],
                }  # fmt: skip
            return
        states = {m["property"]: m["state"] for m in answer["messages"] if m.get("item") == name}
        for m in answer["messages"]:
            if "end" in m:
                kept["texts"].update(m["full"])
                kept["items"][name] = {
                    "hits": m["hits"], "seconds": m["seconds"], "states": states,
                    "texts": list(m["full"]),
                }  # fmt: skip
        count += 1
        progress(count, len(wanted))
        if count % _SAVE_EVERY == 0:
            _save(path, kept)

    try:
        tasks = ([] if kept["import"] or not wanted else [""]) + todo
        if tasks:
            pool.map(tasks, work, done)
    finally:
        _save(path, kept)
    found = _loaded(kept, level, set(wanted))
    found.listing = tuple(every)
    return found


def _save(path: Path, kept: dict[str, Any]) -> None:
    subfolder(path.parent.name)
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_bytes(gzip.compress(json.dumps(kept).encode(), 1))
    scratch.replace(path)
    prune(path.parent, limit() // 8)


def _loaded(kept: dict[str, Any], level: str, wanted: set[str]) -> Coverage:
    found = Coverage(level, texts=kept["texts"])
    for name, r in kept["items"].items():
        if name in wanted:
            hits = _unpacked(r["hits"])
            found.items[name] = Recorded(hits, r["seconds"], r["states"], r["texts"])
    if kept["import"]:
        found.at_import = _unpacked(kept["import"]["hits"])
        found.building = _unpacked(kept["import"]["building"])
        for functions, ran in kept["import"]["marks"]:
            for k in ran:
                found.owners.setdefault(k, set()).update(functions)
    return found
