"""A worker process as the run sees it: started, asked, listened to, bounded and ended.

What a plugin does in its worker stays there.  Answers carry a secret of the run and the worker's
process number, so that neither what a plugin prints nor what a forked copy of the worker says is
taken for one.  All that is kept of output is bounded.  A worker leads a process group: whatever it
has started ends with it, also where the run itself is killed (see `_Guardian`).
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tensorbus_backends.contract import BackendError

__all__ = ["STARTING", "Stock", "Worker", "isolation", "memory_limit"]

STARTING = 120.0
"""Seconds that a worker may take until it has imported what it needs."""

LONGEST = 16 << 20
"""Bytes of the longest answer; what is longer is no answer."""

LAST_WORDS = 4096
"""Bytes kept of what a worker writes otherwise."""


class Worker:
    """One process and the threads that read what it writes.

    Args:
        group: Whose devices it may open, see `isolation`.
        environment: Its environment variables.
    """

    def __init__(self, group: str, environment: dict[str, str]) -> None:
        self.group = group
        self.ready = False
        self.answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._token = secrets.token_hex(16).encode()
        self._noise = b""
        # -P: nothing is imported from the current directory; PYTHONPATH goes on working.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tensorbus_conformance.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        _guardian.watch(self.process.pid)
        self._heard = time.monotonic()
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._listen, daemon=True).start()
        self.send({"token": self._token.decode(), "parent": os.getpid()})

    def send(self, request: dict[str, Any]) -> None:
        """Ask for something; a worker that has died says so in `take`."""
        assert self.process.stdin is not None
        self._heard = time.monotonic()
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def take(self, seconds: float) -> dict[str, Any] | None:
        """The next answer; None if there will be none; queue.Empty after some seconds without."""
        try:
            return self.answers.get(timeout=seconds)
        except queue.Empty:
            if self.process.poll() is None:
                raise
        # It has ended, and something that it started keeps the pipe open.
        with contextlib.suppress(queue.Empty):
            return self.answers.get(timeout=0.5)
        return None

    def late(self, limit: float) -> bool:
        """Whether it has been silent for `limit` seconds, or for `STARTING` while it starts."""
        return time.monotonic() - self._heard > (limit if self.ready else max(limit, STARTING))

    def death(self) -> str:
        """How it ended, in words; it is ended if it has only stopped answering."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._with_noise("the process closed the pipe that answers go through")
        if code >= 0:
            return self._with_noise(f"the process ended with exit code {code}")
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return self._with_noise(f"the process died of {name}")

    def held(self) -> int:
        """Bytes of memory that it holds; 0 where the system does not tell."""
        try:
            text = Path(f"/proc/{self.process.pid}/statm").read_text()
            return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return 0

    def kill(self) -> None:
        """End it and all that it has started, now."""
        self._end_group()
        self.process.kill()
        self.process.wait()
        self._end_group()
        _guardian.forget(self.process.pid)

    def stop(self, seconds: float = 5.0) -> None:
        """Let it end by itself, for some seconds."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=seconds)
        self.kill()

    def _end_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _with_noise(self, text: str) -> str:
        lines = self._noise.decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        last = "".join(c if c.isprintable() else " " for c in last)
        return f"{text}; last words: {last}"[:400] if last else text

    def _keep(self, noise: bytes) -> None:
        self._noise = (self._noise + noise)[-LAST_WORDS:]

    def _read(self) -> None:
        assert self.process.stdout is not None
        rest = bytearray()
        while chunk := _chunk(self.process.stdout.fileno()):
            rest += chunk
            if b"\n" in chunk:
                *lines, last = rest.split(b"\n")
                for line in lines:
                    self._hear(bytes(line))
                rest = last
            if len(rest) > LONGEST:
                self._keep(bytes(rest[-LAST_WORDS:]))
                rest.clear()
        self.answers.put(None)

    def _hear(self, line: bytes) -> None:
        before, found, text = line.partition(self._token)
        self._keep(before + b"\n" if before else b"")
        if not found:
            return
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            self._keep(text)
            return
        if isinstance(answer, dict) and answer.pop("pid", None) == self.process.pid:
            self._heard = time.monotonic()
            if "ready" in answer:
                self.ready = True
            else:
                self.answers.put(answer)

    def _listen(self) -> None:
        assert self.process.stderr is not None
        while chunk := _chunk(self.process.stderr.fileno()):
            self._keep(chunk)


def _chunk(file: int) -> bytes:
    try:
        return os.read(file, 1 << 16)
    except OSError:
        return b""


class Stock:
    """Workers that wait for work, kept from one stage of a run to the next.

    Args:
        count: How many will work at the same time.
    """

    def __init__(self, count: int) -> None:
        self._environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        if count > 1:
            # Workers share the cores; kernels of one worker need not use them all.
            self._environment.setdefault("TENSORBUS_NUM_THREADS", "2")
        self._lock = threading.Lock()
        self._idle: list[Worker] = []

    def fill(self, count: int) -> None:
        """Start workers for our own devices, to have imported all when they are needed."""
        for _ in range(count):
            self.give(Worker("", self._environment))

    def take(self, group: str) -> Worker:
        """A worker for a group of devices: one that waits, or a new one."""
        with self._lock:
            for worker in self._idle:
                if worker.group == group:
                    self._idle.remove(worker)
                    return worker
        return Worker(group, self._environment)

    def give(self, worker: Worker) -> None:
        """Keep a worker that has answered all that it was asked."""
        with self._lock:
            self._idle.append(worker)

    def close(self) -> None:
        """End the workers that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            assert worker.process.stdin is not None
            with contextlib.suppress(OSError):
                worker.process.stdin.close()
        for worker in idle:
            worker.stop()


class _Guardian:
    """A process of its own that ends the workers if this process is killed.

    A worker may hang in C code, where no thread or handler of its own would run, and what it has
    started knows nothing of us.  The guardian holds a pipe: when that ends, so do the groups.
    """

    _CODE = (
        "import os, sys\n"
        "groups = set()\n"
        "for line in sys.stdin:\n"
        "    (groups.add if line[0] == '+' else groups.discard)(int(line[1:]))\n"
        "for group in groups:\n"
        "    try: os.killpg(group, 9)\n"
        "    except OSError: pass\n"
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._watched: set[int] = set()

    def watch(self, group: int) -> None:
        """End this process group when this process has ended."""
        with self._lock:
            self._watched.add(group)
            self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """It has ended."""
        with self._lock:
            self._watched.discard(group)
            self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        for _ in range(2):
            if self._process is None or self._owner != os.getpid():
                self._start()
                line = "".join(f"+{group}\n" for group in self._watched)
            assert self._process is not None
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()
                return
            except OSError:
                self._process = None

    def _start(self) -> None:
        if self._owner != os.getpid():
            atexit.register(self._end)
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", self._CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _end(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._process.communicate(timeout=5)


_guardian = _Guardian()


def isolation(device: str) -> str:
    """Whose process a device is opened in: ours share one, every other plugin has its own.

    Devices in one process share what the oracle and the interpreter computed, but a plugin that
    breaks its process breaks it for all of them.  And no two OpenCL platforms share a process:
    every kernel of PoCL is a library of its own in memory, and Intel's runtime reads the list of
    all mappings whenever it loads a program, which takes 75 ms in place of 5 after 600 of PoCL's.
    """
    from tensorbus._devices import registry

    name = device.split(":")[0]
    for plugin in registry.plugins():
        if plugin.name == name:
            return _platform(device) if plugin.package.partition(" ")[0] == "tensorbus" else name
    return name


def _platform(device: str) -> str:
    """The platform of one of our devices, or "" if its plugin's first device has the same one."""
    from tensorbus._devices import registry

    plugin, _, index = device.partition(":")
    if index in ("", "0"):
        return ""
    lines = registry.devices(plugin=plugin)
    platforms = {line.name: line.details.get("platform", "") for line in lines}
    own = platforms.get(device, "")
    return "" if own == platforms.get(f"{plugin}:0", "") else f"{plugin} {own}"


def memory_limit() -> int:
    """Bytes that a worker may hold: 60% of the memory, or what TENSORBUS_WORKER_MEMORY says in MiB.

    Raises:
        BackendError: The variable is no number of MiB from 1.
    """
    text = os.environ.get("TENSORBUS_WORKER_MEMORY", "").strip()
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise BackendError(f"TENSORBUS_WORKER_MEMORY={text!r} is no number of MiB from 1")
        return int(text) << 20
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            most = min(most, int(Path(file).read_text()))
    return most * 6 // 10
