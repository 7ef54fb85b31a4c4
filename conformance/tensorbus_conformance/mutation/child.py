"""What a forked process does: take on one mutant, import tensorbus, judge items, answer.

Messages, one JSON object a line: ``imported``; ``opened``; for each item its ``outcome`` lines and
an ``end`` with what ran; ``missing`` for an item that the changed tree no longer counts as due.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import ctypes
import json
import mmap
import os
import resource
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .ctext import probe_position
from .hook import Code, Hook, overlay_file
from .mutant import Mutant, is_coefficients
from .operators import apply_edit
from .probes import with_probe
from .tree import Tree

__all__ = ["BAD", "SECOND", "limit", "work"]

BAD = ("fail", "error", "fallback", "vacuous")
"""States that fail a run, of those that a living process can report."""

_GIB = 1 << 30
_GROUP = "TENSORBUS_OPENCL_GROUP"

SECOND = "opencl:1"
"""A second platform: its own text, where the dialect makes one."""


def limit(cpu_s: float, memory: int) -> None:
    """Bound what this process may use: seconds of processor, bytes of address space, files."""
    used = 0
    with contextlib.suppress(OSError), open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    for what, amount in (
        (resource.RLIMIT_CPU, int(cpu_s) + 1),
        (resource.RLIMIT_AS, used + memory),
        (resource.RLIMIT_FSIZE, _GIB // 4),
        (resource.RLIMIT_CORE, 0),
    ):
        # A system that knows no such limit still has the wall clock's.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (amount, amount))


class _Work:
    def __init__(self, request: Mapping[str, Any], tree: Tree, out: int) -> None:
        self.request, self.tree, self.out = request, tree, out
        self.byte = ctypes.c_char(b"\0")
        # Shared with the processes that the judge forks.
        self.hits = mmap.mmap(-1, 1)

    def answer(self, **message: Any) -> None:
        data = (json.dumps(message) + "\n").encode()
        while data:
            data = data[os.write(self.out, data) :]

    def mutate(self, mutant: Mutant, codes: dict[str, Code]) -> None:
        """Put the changed text in the place of the file's."""
        source = self.tree.sources[mutant.path]
        full = self.tree.root / source.path
        if mutant.cut is not None:
            overlay_file(full, self._c_text(source.text, mutant.cut))
            return
        assert mutant.edit is not None
        changed = apply_edit(
            source.text,
            mutant.edit,
            kernel_text=source.has_kernel_text,
            coefficients=is_coefficients(source.path),
        )
        overlay_file(full, ast.unparse(changed))
        code = compile(with_probe(changed, mutant.edit), str(full), "exec")
        codes[source.module] = Code(code, full, source.package)

    def _c_text(self, text: str, cut: tuple[int, int, str]) -> str:
        """The changed C, with a store to this process's byte where the changed function begins."""
        start, end, new = cut
        changed = text[:start] + new + text[end:]
        at = probe_position(text, start)
        if at is None:
            self.byte.value = b"\1"  # no code of its own: a constant or a declaration
            return changed
        store = f" *(volatile char *){hex(ctypes.addressof(self.byte))}ull = 1; "
        return changed[:at] + store + changed[at:]

    def active(self) -> bool:
        return bool(self.hits[0]) or self.byte.value != b"\0"

    def run(self, codes: Mapping[str, Code], shared: Path | None, size: int) -> None:
        """Import and judge."""
        request = self.request
        own = dict(codes)
        record = request["kind"] == "record"
        if record:
            self.hits = mmap.mmap(-1, size)
        elif request.get("mutant"):
            self.mutate(Mutant.of(request["mutant"]), own)
        hook = Hook(own, self.hits, shared, keep=record)
        marks = _Marks(self.hits) if request.get("marks") else None
        hook.mark = marks
        hook.install()
        # Now that changed modules are what is imported.
        import tensorbus as tb

        from ..judge.items import Item, items
        from ..worker import judge_item

        self.answer(imported=True)
        if record:
            # What opening a device runs belongs to each of its items, importing to none.
            if marks is not None:
                marks.finish()
                self.answer(at_import=_packed(marks.total), marks=marks.found)
                hook.mark = None
            self.hits[:] = bytes(size)
        todo = [Item.parse(name) for name in request["items"]]
        due: set[str] = set()
        if request["kind"] == "list":
            for name in request["devices"]:
                device = _opened(tb, name)
                level = request["level"]
                found = items(name, device.capabilities, device.natives, level)
                self.answer(device=name, items=[i.name for i in found])
            return
        for name in dict.fromkeys(i.device for i in todo):
            device = _opened(tb, name)
            ops = list(dict.fromkeys(i.op for i in todo if i.device == name))
            level = request["level"]
            due |= {i.name for i in items(name, device.capabilities, device.natives, level, ops)}
        self.answer(opened=True)
        for item in todo:
            if item.name not in due:
                self.answer(missing=item.name)
                continue
            hook.texts.clear()
            start = time.perf_counter()
            bad = self._judge(judge_item, item.name)
            extra: dict[str, Any] = {}
            if record:
                extra = {"hits": _packed(self.hits), "full": hook.texts}
            self.answer(
                end=item.name,
                seconds=round(time.perf_counter() - start, 3),
                active=self.active(),
                texts=sorted(hook.texts),
                **extra,
            )
            if bad and request.get("stop"):
                return

    def _judge(self, judge_item: Any, name: str) -> bool:
        """Judge an item; whether one of its cells has failed by value."""
        wrong = False
        known = self.request.get("known", {}).get(name, [])

        def note(message: dict[str, Any]) -> None:
            nonlocal wrong
            if "outcome" in message:
                o = message["outcome"]
                state, what = o["state"], o["property"]
                wrong = wrong or (state == "fail" and what not in known)
                said = o["message"][:200] if state != "pass" else ""
                self.answer(item=name, property=what, state=state, message=said)

        request = {"item": name, "level": self.request["level"], "seed": self.request["seed"]}
        try:
            judge_item(request, note)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:200]
            self.answer(item=name, property="", state="error", message=text)
        return wrong


def _opened(tb: Any, name: str) -> Any:
    """A device's backend; a second OpenCL platform as it is without settings.

    The first one runs groups of threads (see `zygote`), the second one the text of its own.
    """
    own = {_GROUP: os.environ.pop(_GROUP, None)} if name == SECOND else {}
    try:
        return tb.get_device(name).backend
    finally:
        os.environ.update({k: v for k, v in own.items() if v is not None})


def _packed(hits: bytearray | mmap.mmap) -> str:
    return base64.b85encode(zlib.compress(bytes(hits), 1)).decode()


class _Marks:
    """Whose the statements are that run at import: the functions registered by what ran them."""

    def __init__(self, hits: mmap.mmap) -> None:
        self.hits, self.total = hits, bytearray(len(hits))
        self.found: list[tuple[list[str], list[int]]] = []
        self._known: set[str] = set()

    def __call__(self, module: str, number: int) -> None:
        functions = getattr(sys.modules.get("tensorbus._op"), "FUNCTIONS", {})
        ran = self.finish()
        if len(functions) > len(self._known):
            fresh = [f for f in functions if f not in self._known]
            self._known.update(fresh)
            self.found.append((fresh, ran))

    def finish(self) -> list[int]:
        """Count what ran since the last mark."""
        ran = np.flatnonzero(np.frombuffer(self.hits, np.uint8)).tolist()
        for k in ran:
            self.total[k] = 1
        self.hits[:] = bytes(len(self.hits))
        return [int(k) for k in ran]


def work(
    request: Mapping[str, Any],
    tree: Tree,
    out: int,
    codes: Mapping[str, Code],
    shared: Path | None,
    size: int,
) -> int:
    """Do what is asked in this process; its exit status."""
    task = _Work(request, tree, out)
    try:
        task.run(codes, shared, size)
    except BaseException as error:
        # A mutant may raise anything, SystemExit too, wherever it is imported.
        task.answer(broken=f"{type(error).__name__}: {error}"[:300], active=task.active())
        return 3
    return 0
