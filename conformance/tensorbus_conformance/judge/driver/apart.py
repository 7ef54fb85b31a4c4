"""Checks in a forked child: they may change environment, modules and files as they like.

What finds and opens devices keeps its findings for the life of a process.  A child forked from the
judge has that code loaded, as the judge has it, and may ask it anew.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import io
import json
import os
import select
import signal
import sys
import tempfile
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..items import Outcome
from ..session import Session
from .base import Checks

__all__ = ["Folder", "GROUP", "Work", "afresh", "changed", "files", "forked", "script"]

GROUP = "tensorbus.judge.backends"
"""Entry-point group of the plugins that the judge makes up."""

_WAIT_S = 60.0

Work = Callable[[Checks, Path, Session], None]


def forked(work: Work) -> Callable[[Session], Outcome]:
    """A property that runs ``work(checks, folder, session)`` in a forked child.

    `folder` is empty, and removed afterwards.  A child that raises is an error, one that hangs or
    dies a failure.
    """

    @functools.wraps(work)
    def judged(session: Session) -> Outcome:
        name = work.__name__
        if not hasattr(os, "fork"):
            return Outcome(name, "unsupported", "this platform has no fork")
        with tempfile.TemporaryDirectory(prefix="tensorbus-judge-") as folder:
            reading, writing = os.pipe()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if child == 0:
                _become(work, Path(folder), session, writing)
            os.close(writing)
            try:
                said, status = _hear(child, reading)
            finally:
                os.close(reading)
        try:
            found = json.loads(said)
        except ValueError:
            found = {"state": "fail", "message": f"the process that looks at it {status}"}
        return Outcome(name, **found)

    return judged


def _become(work: Work, folder: Path, session: Session, writing: int) -> None:
    """The child; does not return."""
    checks = Checks(work.__name__)
    try:
        os.setsid()
        for name in [n for n in os.environ if n.startswith("TENSORBUS_")]:
            if name != "TENSORBUS_CACHE":
                del os.environ[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work(checks, folder, session)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1].name
        text = f"{type(error).__name__}: {error} (in {where})"
        checks.outcome.state, checks.outcome.message = "error", " ".join(text.split())[:300]
    finally:
        o = checks.outcome
        data = {"state": o.state, "message": o.message, "decided": o.decided}
        with os.fdopen(writing, "w") as out:
            out.write(json.dumps(data))
        os._exit(0)


def _hear(child: int, reading: int) -> tuple[str, str]:
    """What a child said until its end, and how it ended in words."""
    said, limit = bytearray(), time.monotonic() + _WAIT_S
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, limit - time.monotonic()))
        if not ready:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "", f"hangs for {_WAIT_S:.0f} s"
        data = os.read(reading, 1 << 16)
        if not data:
            break
        said += data
    _, raw = os.waitpid(child, 0)
    return said.decode(), f"ended with status {os.waitstatus_to_exitcode(raw)}"


# -- what children use --------------------------------------------------------------------------


@contextmanager
def changed(target: Any, **values: Any) -> Iterator[None]:
    """Attributes of an object or items of a dict with other values; None removes an item."""
    if isinstance(target, dict) or target is os.environ:
        before = dict(target)
        for name, value in values.items():
            if value is None:
                target.pop(name, None)
            else:
                target[name] = value
        try:
            yield
        finally:
            for name in set(target) - set(before):
                del target[name]
            target.update(before)
        return
    # As it stands there: a class gives a static method as a function.
    kept = {name: vars(target).get(name, getattr(target, name)) for name in values}
    for name, value in values.items():
        setattr(target, name, value)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(target, name, value)


def afresh(package: str) -> Any:
    """A package imported once more, as a new process would."""
    for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
        del sys.modules[name]
    return importlib.import_module(package)


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.write_text("#!/bin/sh\n" + textwrap.dedent(text))
    path.chmod(0o755)
    return path


@contextmanager
def files(texts: Mapping[str, str]) -> Iterator[None]:
    """A system in which files below /proc and /sys are these and no other."""
    real_open, real_read = builtins.open, Path.read_text

    def opened(path: Any, *rest: Any, **options: Any) -> Any:
        if str(path).startswith(("/proc/", "/sys/")):
            if str(path) not in texts:
                raise FileNotFoundError(2, "no such file", str(path))
            return io.StringIO(texts[str(path)])
        return real_open(path, *rest, **options)

    def read(self: Path, *rest: Any, **options: Any) -> str:
        if str(self).startswith(("/proc/", "/sys/")):
            if str(self) not in texts:
                raise FileNotFoundError(2, "no such file", str(self))
            return texts[str(self)]
        return real_read(self, *rest, **options)

    with changed(builtins, open=opened), changed(Path, read_text=read):
        yield


class Folder:
    """Packages that are found on ``sys.path``, each with an entry point."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        sys.path.insert(0, str(path))

    def add(
        self, name: str, code: str, package: str = "", *, group: str = GROUP, version: str = "1.0"
    ) -> str:
        """Install a plugin; the value of its entry point."""
        self.count += 1
        package = package or f"fake-{name}"
        module = f"tb_judge_{self.count}"
        (self.path / f"{module}.py").write_text(textwrap.dedent(code))
        info = self.path / f"{module}-{version}.dist-info"
        info.mkdir()
        words = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        (info / "METADATA").write_text(words)
        value = f"{module}:PLUGIN"
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
        importlib.invalidate_caches()
        return value
