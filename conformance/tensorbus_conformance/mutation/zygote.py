"""The process that mutants are forked from: ``python -m tensorbus_conformance.mutation.zygote``.

It has imported what mutants share (NumPy, Arb, the oracle) and compiled their modules, but has not
imported tensorbus, started a thread or opened a device; so a fork is a fresh process that is ready
in a few milliseconds.  One request at a time is read from standard input; when that ends, a child
that still runs is killed and the zygote ends too.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .child import limit, work
from .hook import Code
from .parsing import parse
from .probes import arms, instrument, places
from .tree import Tree

__all__ = ["Layout", "layout", "main"]

_SHARED = ("numpy", "ml_dtypes", "cffi", "flint", "mpmath", "rich.console", "tempfile", "ctypes",
           "concurrent.futures", "subprocess", "importlib.metadata", "inspect", "dataclasses",
           "tensorbus_conformance.oracle")  # fmt: skip


class Layout:
    """Where the bytes of each file's statements and branches lie.

    Attributes:
        base: Of the statements of a module.
        arm_base: Of its branches.
        size: Of all.
    """

    def __init__(self, tree: Tree) -> None:
        self.base: dict[str, int] = {}
        self.arm_base: dict[str, int] = {}
        self.size = 0
        for name, source in tree.modules.items():
            parsed = parse(source.text)
            self.base[name] = self.size
            self.size += places(parsed)
            self.arm_base[name] = self.size
            self.size += len(arms(parsed))


@functools.lru_cache(maxsize=1)
def layout(tree: Tree) -> Layout:
    """The layout of a tree: the same in every process that reads the same tree."""
    return Layout(tree)


def _plain(tree: Tree) -> dict[str, Code]:
    """Every module of the product and of the judge, compiled."""
    found = {}
    for name, source in tree.modules.items():
        path = tree.root / source.path
        found[name] = Code(compile(source.text, str(path), "exec"), path, source.package)
    base = tree.root / "conformance"
    for path in sorted((base / "tensorbus_conformance" / "judge").rglob("*.py")):
        parts = list(path.relative_to(base).with_suffix("").parts)
        init = parts[-1] == "__init__"
        code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
        found[".".join(parts[:-1] if init else parts)] = Code(code, path, init)
    return found


def _probed(tree: Tree, plain: Mapping[str, Code], branches: bool) -> tuple[dict[str, Code], int]:
    where = layout(tree)
    found = dict(plain)
    for name, source in tree.modules.items():
        path = tree.root / source.path
        changed = instrument(
            source.text,
            where.base[name],
            mark=True,
            branch_base=where.arm_base[name] if branches else -1,
        )
        found[name] = Code(compile(changed, str(path), "exec"), path, source.package)
    return found, where.size


class _Zygote:
    def __init__(self, tree: Tree, out: int) -> None:
        self.tree, self.out = tree, out
        self.plain = _plain(tree)
        self.probed: dict[bool, tuple[dict[str, Code], int]] = {}

    def serve(self, request: dict[str, Any]) -> dict[str, Any]:
        """Fork a child for a request; what it said and how it ended."""
        codes, size = self.plain, 1
        if request["kind"] == "record":
            branches = bool(request.get("branches"))
            if branches not in self.probed:
                self.probed[branches] = _probed(self.tree, self.plain, branches)
            codes, size = self.probed[branches]
        folder = Path(tempfile.mkdtemp(prefix="tensorbus-mutant-"))
        reading, writing = os.pipe()
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._become(request, codes, size, folder, writing)
        os.close(writing)
        try:
            status, said = self._wait(child, reading, start + request["wall"])
        finally:
            os.close(reading)
            shutil.rmtree(folder, ignore_errors=True)
        messages = []
        for line in said.splitlines():
            with contextlib.suppress(ValueError):
                messages.append(json.loads(line))
        seconds = round(time.monotonic() - start, 3)
        return {"status": status, "messages": messages, "seconds": seconds}

    def _become(
        self,
        request: dict[str, Any],
        codes: Mapping[str, Code],
        size: int,
        folder: Path,
        writing: int,
    ) -> None:
        """The child; does not return."""
        status = 4
        try:
            os.setsid()
            nothing = os.open(os.devnull, os.O_RDWR)
            for k in (0, 1, 2):
                os.dup2(nothing, k)
            os.chdir(folder)
            shared: Path | None = None
            if not request.get("healthy"):
                # Nothing that a mutant does with files ends outside of its folder.
                for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR", "TENSORBUS_CACHE"):
                    os.environ[name] = str(folder)
                tempfile.tempdir = str(folder)
                shared = None if request.get("cold") else Path(request["cache"])
            else:
                os.environ["TENSORBUS_CACHE"] = request["cache"] or str(folder)
            limit(request["cpu"], request["memory"])
            status = work(request, self.tree, writing, codes, shared, size)
        except BaseException:
            status = 5
        finally:
            os._exit(status)

    def _wait(self, child: int, reading: int, deadline: float) -> tuple[str, str]:
        said = bytearray()
        status = ""
        while not status:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([reading, 0], [], [], max(left, 0.0))
            if 0 in ready and not os.read(0, 1):
                _kill(child)
                raise SystemExit(1)  # nobody is left to answer to
            if reading in ready:
                data = os.read(reading, 1 << 16)
                said += data
                if not data:
                    status = "ended"
            elif left <= 0:
                status = "timeout"
        if status == "ended":
            # Its end of the pipe is closed; a child that hangs after that is killed, too.
            for _ in range(200):
                done, code = os.waitpid(child, os.WNOHANG)
                if done:
                    _kill_group(child)
                    if os.WIFSIGNALED(code):
                        return signal.Signals(os.WTERMSIG(code)).name, said.decode()
                    return f"exit {os.WEXITSTATUS(code)}", said.decode()
                time.sleep(0.01)
        _kill(child)
        return "timeout", said.decode(errors="replace")


def _kill_group(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def _kill(child: int) -> None:
    _kill_group(child)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)  # one that has not become the leader of its group yet
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def main() -> int:
    """Serve requests until standard input ends."""
    out = os.dup(1)
    os.dup2(2, 1)
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # In groups of threads, as GPUs run it: runtimes for processors would take one thread and the
    # texts of the style "loop", which cpu judges already.
    os.environ.setdefault("TENSORBUS_OPENCL_GROUP", "32")
    for name in _SHARED:
        importlib.import_module(name)
    zygote = _Zygote(Tree.here(), out)
    gc.collect()
    gc.freeze()
    os.write(out, b"{}\n")
    stream = bytearray()
    while True:
        while b"\n" not in stream:
            data = os.read(0, 1 << 16)
            if not data:
                return 0
            stream += data
        line, _, rest = bytes(stream).partition(b"\n")
        stream = bytearray(rest)
        answer = (json.dumps(zygote.serve(json.loads(line))) + "\n").encode()
        while answer:
            answer = answer[os.write(out, answer) :]


if __name__ == "__main__":
    sys.exit(main())
