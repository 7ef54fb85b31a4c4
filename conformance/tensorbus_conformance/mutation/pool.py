"""Zygotes seen from the command: started, asked, replaced when they die, and always ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["Pool", "PoolError", "stoppable"]


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does: end the children, keep what is there."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {s: signal.signal(s, _stop) for s in signals}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


class PoolError(Exception):
    """A zygote does not start."""


class _Zygote:
    def __init__(self, environment: dict[str, str]) -> None:
        # A session of its own: Ctrl-C reaches the command alone, which then ends it.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tensorbus_conformance.mutation.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=environment,
        )
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            _, log = self.process.communicate()
            last = (log.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise PoolError(f"the process that mutants are forked from does not start: {last}")

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write((json.dumps(request) + "\n").encode())
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = b""
        if not line:
            return {"status": "zygote died", "messages": [], "seconds": 0.0}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


class Pool:
    """`count` zygotes; a context manager that leaves no process behind."""

    def __init__(self, count: int) -> None:
        threads = {"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self._environment = {**os.environ, **threads}
        self._environment.pop("TENSORBUS_SIMULATE", None)
        self._zygotes: list[_Zygote] = []
        self._idle: list[_Zygote] = []
        self._count = count
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped = True
        with self._lock:
            zygotes, self._zygotes = self._zygotes, []
        for zygote in zygotes:
            zygote.end()

    def _start(self) -> _Zygote:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        zygote = _Zygote(self._environment)
        with self._lock:
            if not self._stopped:
                self._zygotes.append(zygote)
                return zygote
        zygote.end()
        raise PoolError("stopped")

    def map(
        self,
        tasks: Iterable[Any],
        work: Callable[[Callable[[dict[str, Any]], dict[str, Any]], Any], Any],
        done: Callable[[Any], None],
    ) -> None:
        """Call ``work(ask, task)`` for each task, on as many threads as there are zygotes.

        Args:
            tasks: Anything.
            work: Is given a function that asks a zygote, and the task.
            done: Receives each result, in this thread.
        """
        todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for task in tasks:
            todo.put(task)
        results: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

        def serve() -> None:
            try:
                zygote = self._start()

                def ask(request: dict[str, Any]) -> dict[str, Any]:
                    nonlocal zygote
                    answer = zygote.ask(request)
                    if answer["status"] == "zygote died" and not self._stopped:
                        zygote.end()
                        zygote = self._start()
                    return answer

                while not self._stopped:
                    try:
                        task = todo.get_nowait()
                    except queue.Empty:
                        break
                    results.put(("result", work(ask, task)))
                with self._lock:
                    self._idle.append(zygote)
                results.put(("over", None))
            except BaseException as error:
                results.put(("error", error))

        count = min(self._count, max(todo.qsize(), 1))
        threads = [threading.Thread(target=serve, daemon=True) for _ in range(count)]
        for t in threads:
            t.start()
        over = 0
        while over < count:
            try:
                kind, value = results.get(timeout=0.5)
            except queue.Empty:
                continue
            if kind == "result":
                done(value)
            elif kind == "error":
                raise value
            else:
                over += 1
