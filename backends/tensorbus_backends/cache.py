"""The on-disk cache of compiled kernels, shared by every device and by many processes.

An entry is a directory that holds one payload and its SHA-256.  It is filled under a temporary name
and renamed into place, so a reader sees all of it or nothing, and of two processes that build the
same entry the first one wins.  An entry whose payload does not match its checksum is dropped and
built again.  Where the cache cannot be written, one warning says so and a temporary directory
that lives as long as the process takes its place; what can be read is still used.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

__all__ = ["DiskCache", "cache_key", "default_directory"]

_CHECKSUM = "sha256"
_STALE_S = 24 * 3600.0
# Processes and directories: each plugin has its own DiskCache of the same directory.
_WARNED: set[tuple[int, Path]] = set()
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


def default_directory() -> Path:
    """``$TENSORBUS_CACHE``, else the platform's directory for caches of this user."""
    if chosen := os.environ.get("TENSORBUS_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path("~/Library/Caches/tensorbus").expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "tensorbus"


def cache_key(*parts: str) -> str:
    """A key (64 hexadecimal digits) for source, toolchain, flags and whatever else matters."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


class DiskCache:
    """Files by key; safe with many threads and processes.

    Args:
        directory: Where entries live; None means `default_directory`.  It is created when needed.
    """

    def __init__(self, directory: Path | str | None = None) -> None:
        self.directory = Path(directory) if directory is not None else default_directory()
        self._lock = threading.Lock()
        self._private: Path | None = None
        self._owner = 0

    def get_or_build(self, key: str, suffix: str, build: Callable[[Path], None]) -> Path:
        """The file of `key`, built by ``build(path)`` if there is no sound one.

        Args:
            key: From `cache_key`.
            suffix: Ending of the file's name, ``".so"``; part of the key.
            build: Writes the file at the path given to it; what it raises is passed on.

        Returns:
            A path that stays valid for the life of the process; do not change the file.
        """
        found = self.lookup(key, suffix)
        return found if found is not None else self._store(key, suffix, build)

    def lookup(self, key: str, suffix: str) -> Path | None:
        """The file of `key` if there is a sound one, else None."""
        found = self._sound(key, suffix)
        return found[0] if found is not None else None

    def get_bytes(self, key: str, suffix: str = ".bin") -> bytes | None:
        """The bytes kept under `key`, or None."""
        found = self._sound(key, suffix)
        return found[1] if found is not None else None

    def put_bytes(self, key: str, data: bytes, suffix: str = ".bin") -> None:
        """Keep `data` under `key`, in place of what was there."""

        def write(path: Path) -> None:
            path.write_bytes(data)

        self._store(key, suffix, write, replace=True)

    # -- inside ---------------------------------------------------------------------------

    def _roots(self) -> list[Path]:
        private = self._private if self._owner == os.getpid() else None
        return [self.directory] if private is None else [private, self.directory]

    @staticmethod
    def _entry(root: Path, key: str, suffix: str) -> Path:
        return root / key[:2] / f"{key[2:40]}{suffix}"

    def _sound(self, key: str, suffix: str) -> tuple[Path, bytes] | None:
        for root in self._roots():
            entry = self._entry(root, key, suffix)
            path = entry / f"payload{suffix}"
            try:
                data = path.read_bytes()
                expected = (entry / _CHECKSUM).read_bytes()
            except OSError:
                continue
            if hashlib.sha256(data).hexdigest().encode() == expected:
                return path, data
        return None

    def _store(
        self, key: str, suffix: str, build: Callable[[Path], None], *, replace: bool = False
    ) -> Path:
        private = self._private is not None and self._owner == os.getpid()
        root = self._fallback(None) if private else self.directory
        try:
            scratch = self._scratch(root)
        except OSError as error:
            root = self._fallback(error)
            scratch = self._scratch(root)
        try:
            payload = scratch / f"payload{suffix}"
            try:
                build(payload)
                digest = hashlib.sha256(payload.read_bytes()).hexdigest()
                (scratch / _CHECKSUM).write_text(digest)
                return self._publish(scratch, root, key, suffix, replace)
            except OSError as error:
                if root != self.directory or error.errno not in _CANNOT_WRITE:
                    raise
                root = self._fallback(error)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return self._store(key, suffix, build, replace=replace)

    def _publish(self, scratch: Path, root: Path, key: str, suffix: str, replace: bool) -> Path:
        """Rename a finished entry into place, unless a sound one of another process is there."""
        entry = self._entry(root, key, suffix)
        entry.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(100):
            try:
                os.rename(scratch, entry)
                return entry / f"payload{suffix}"
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if not replace and (found := self._sound(key, suffix)) is not None:
                return found[0]
            with contextlib.suppress(OSError):
                os.rename(entry, scratch.with_name(scratch.name + ".old"))
            shutil.rmtree(scratch.with_name(scratch.name + ".old"), ignore_errors=True)
        raise OSError(f"cannot replace the cache entry {entry}")

    @staticmethod
    def _scratch(root: Path) -> Path:
        # Not mkdtemp: its mode would hide a shared cache from other users.
        path = root / "tmp" / secrets.token_hex(8)
        path.mkdir(parents=True)
        return path

    def _fallback(self, error: OSError | None) -> Path:
        """The temporary directory of this process; warn when it is first needed."""
        with self._lock:
            if self._private is None or self._owner != os.getpid():
                if error is not None and (os.getpid(), self.directory) not in _WARNED:
                    _WARNED.add((os.getpid(), self.directory))
                    warnings.warn(
                        f"the compile cache {self.directory} cannot be written "
                        f"({error.strerror or error}); kernels compiled now are not kept after "
                        "this process. Set TENSORBUS_CACHE to a writable directory to keep them",
                        RuntimeWarning,
                        stacklevel=4,
                    )
                self._owner = os.getpid()
                self._private = Path(tempfile.mkdtemp(prefix="tensorbus-"))
                atexit.register(_remove, self._private, self._owner)
            return self._private

    def sweep(self, older_than_s: float = _STALE_S) -> None:
        """Remove unfinished entries that processes which died left behind, if that old."""
        limit = time.time() - older_than_s
        with contextlib.suppress(OSError):
            for path in (self.directory / "tmp").iterdir():
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < limit:
                        shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path, owner: int) -> None:
    # A forked child inherits the exit handler but not the directory.
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
