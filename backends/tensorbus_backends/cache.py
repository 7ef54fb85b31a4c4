"""The on-disk cache of compiled kernels, shared by every device and by many processes.

An entry is a directory that holds one payload and its SHA-256.  It is filled under a temporary name
and renamed into place, so a reader sees all of it or nothing, and of two processes that build the
same entry the first one wins.  An entry whose payload does not match its checksum is dropped and
built again.  Where the cache cannot be written, one warning says so and a temporary directory
that lives as long as the process takes its place; what can be read is still used.

What is kept is code that will be run, so nothing is taken from where anyone but this user may
write: the directory and what is used of it belong to the user, and neither group nor others may
change them.  Else the temporary directory serves, and a warning says what to do.

Its size is limited.  Keys are digests, so the 256 subdirectories grow alike, and each is kept to
its share: one store in 16 looks at the subdirectory that it has just filled, and removes entries in
the order in which they were last used, but none that was used within the last hour, since a process
may be about to load it.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

__all__ = [
    "DiskCache",
    "cache_key",
    "default_directory",
    "limit",
    "prune",
    "subfolder",
    "untrusted",
]

_CHECKSUM = "sha256"
_STALE_S = 24 * 3600.0
# Processes and directories: each plugin has its own DiskCache of the same directory.
_WARNED: set[tuple[int, Path]] = set()
_DEFAULT_LIMIT_MIB = 2048
_SHARDS = 256
_LOOK_EVERY = 16
# An entry is noted as used when that was not noted for so long; while that is fresh it stays.
_NOTED_S = 600.0
_FRESH_S = 3600.0
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


def default_directory() -> Path:
    """``$TENSORBUS_CACHE``, else the platform's directory for caches of this user."""
    if chosen := os.environ.get("TENSORBUS_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path("~/Library/Caches/tensorbus").expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "tensorbus"


def limit() -> int:
    """Greatest size of a cache in bytes: ``TENSORBUS_CACHE_LIMIT`` in MiB, 2048 by default.

    A value that is no positive number is ignored with a RuntimeWarning.
    """
    text = os.environ.get("TENSORBUS_CACHE_LIMIT", "").strip()
    if not text:
        return _DEFAULT_LIMIT_MIB << 20
    if text.isdecimal() and len(text) < 12 and int(text) > 0:
        return int(text) << 20
    warnings.warn(
        f"TENSORBUS_CACHE_LIMIT={text!r} is no number of MiB; {_DEFAULT_LIMIT_MIB} are used",
        RuntimeWarning,
        stacklevel=2,
    )
    return _DEFAULT_LIMIT_MIB << 20


def untrusted(status: os.stat_result) -> str:
    """Why a file or directory may hold what another user wrote; empty if it may not."""
    if not hasattr(os, "geteuid"):
        return ""  # Windows: the user's directories are the user's
    if status.st_uid != os.geteuid():
        return f"it belongs to another user (number {status.st_uid})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"other users may write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def subfolder(name: str) -> Path:
    """A folder of another kind of files in the default directory, made if there is none.

    Raises:
        OSError: It cannot be made, or others may write to it.
    """
    folder = default_directory() / name
    for path in (folder.parent, folder):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if problem := untrusted(path.stat()):
            raise PermissionError(errno.EACCES, problem, str(path))
    return folder


def prune(folder: Path, most: int) -> None:
    """Remove files of a folder, least recently changed first, until they fit `most` bytes.

    Files changed within the last hour stay.  What other processes remove meanwhile is passed over.
    """
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_mtime, status.st_size, entry.path))
    for path in _surplus(found, most):
        with contextlib.suppress(OSError):
            os.unlink(path)


def _surplus(found: list[tuple[float, int, str]], most: int) -> list[str]:
    """What of (last use, bytes, path) has to go, oldest first, so that `most` bytes are left."""
    total, old, gone = sum(f[1] for f in found), time.time() - _FRESH_S, []
    for used, nbytes, path in sorted(found):
        if total <= most or used > old:
            break
        total -= nbytes
        gone.append(path)
    return gone


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
        self._limit = limit()
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
            A path to be read or loaded now: another process may prune the entry when it was not
            used for an hour.  Do not change the file.
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

    def _trust(self) -> str:
        """Why the directory may not be used; makes it if there is none."""
        with contextlib.suppress(OSError):  # which the store that follows meets again
            # Not the user's mask: with 002, common where each user has a group, others may write.
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return untrusted(self.directory.stat())
        return ""

    @staticmethod
    def _entry(root: Path, key: str, suffix: str) -> Path:
        return root / key[:2] / f"{key[2:40]}{suffix}"

    def _sound(self, key: str, suffix: str) -> tuple[Path, bytes] | None:
        for root in self._roots():
            entry = self._entry(root, key, suffix)
            path = entry / f"payload{suffix}"
            try:
                if any(untrusted(os.stat(d)) for d in (root, entry.parent, entry)):
                    continue
                with open(path, "rb") as file:
                    status = os.fstat(file.fileno())
                    if untrusted(status):
                        continue
                    data = file.read()
                expected = (entry / _CHECKSUM).read_bytes()
            except OSError:
                continue
            if hashlib.sha256(data).hexdigest().encode() == expected:
                if time.time() - status.st_mtime > _NOTED_S:
                    with contextlib.suppress(OSError):
                        os.utime(path)
                return path, data
        return None

    def _store(
        self, key: str, suffix: str, build: Callable[[Path], None], *, replace: bool = False
    ) -> Path:
        private = self._private is not None and self._owner == os.getpid()
        root = self.directory
        if private:
            root = self._fallback(None)
        elif problem := self._trust():
            root = self._fallback(
                f"is not used, since {problem}: what it holds could be code of theirs",
                "Set TENSORBUS_CACHE to a directory of your own, or make this one so (chown, "
                "chmod go-w) if you trust what is in it",
            )
        try:
            scratch = self._scratch(root)
        except OSError as error:
            root = self._fallback(*_cannot(error))
            scratch = self._scratch(root)
        try:
            payload = scratch / f"payload{suffix}"
            try:
                build(payload)
                payload.chmod(stat.S_IMODE(payload.stat().st_mode) & ~0o022)
                digest = hashlib.sha256(payload.read_bytes()).hexdigest()
                (scratch / _CHECKSUM).write_text(digest)
                return self._publish(scratch, root, key, suffix, replace)
            except OSError as error:
                if root != self.directory or error.errno not in _CANNOT_WRITE:
                    raise
                root = self._fallback(*_cannot(error))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return self._store(key, suffix, build, replace=replace)

    def _publish(self, scratch: Path, root: Path, key: str, suffix: str, replace: bool) -> Path:
        """Rename a finished entry into place, unless a sound one of another process is there."""
        entry = self._entry(root, key, suffix)
        for _ in range(100):
            try:
                self._shard(scratch, entry.parent)
                os.rename(scratch, entry)
            except OSError as error:
                # What is in the way is another process's, damaged, or no directory at all; what
                # is missing is a subdirectory that another has just replaced.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.ENOENT):
                    raise
            else:
                if secrets.randbelow(_LOOK_EVERY) == 0:
                    self._prune(root, entry)
                return entry / f"payload{suffix}"
            if not replace and (found := self._sound(key, suffix)) is not None:
                return found[0]
            self._discard(scratch, entry)
        raise OSError(f"cannot replace the cache entry {entry}")

    def _shard(self, scratch: Path, shard: Path) -> None:
        """Make a subdirectory, in place of what is none or what others may write to."""
        try:
            status = shard.lstat()
        except FileNotFoundError:
            pass  # nothing is taken away: another thread may be making it just now
        else:
            if stat.S_ISDIR(status.st_mode) and not untrusted(status):
                return
            self._discard(scratch, shard)
        shard.mkdir(mode=0o700, exist_ok=True)

    @staticmethod
    def _discard(scratch: Path, path: Path) -> None:
        """Take what lies at a path away in one step, then remove it."""
        aside = scratch.with_name(f"{secrets.token_hex(8)}.old")
        with contextlib.suppress(OSError):
            os.rename(path, aside)
        _delete(aside)

    def _prune(self, root: Path, newest: Path) -> None:
        """Keep the subdirectory of an entry that was just stored to its share of the limit."""
        found = []
        with contextlib.suppress(OSError), os.scandir(newest.parent) as entries:
            for entry in entries:
                if entry.path != str(newest):
                    with contextlib.suppress(OSError):
                        found.append(_figures(entry.path))
        for path in _surplus(found, self._limit // _SHARDS):
            self._discard(root / "tmp" / "x", Path(path))

    @staticmethod
    def _scratch(root: Path) -> Path:
        path = root / "tmp" / secrets.token_hex(8)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if untrusted(path.parent.stat()):
            path.parent.chmod(0o700)
        path.mkdir(mode=0o700)
        return path

    def _fallback(self, problem: str | None, fix: str = "") -> Path:
        """The temporary directory of this process; warn when it is first needed."""
        with self._lock:
            if self._private is None or self._owner != os.getpid():
                if problem is not None and (os.getpid(), self.directory) not in _WARNED:
                    _WARNED.add((os.getpid(), self.directory))
                    warnings.warn(
                        f"the compile cache {self.directory} {problem}; kernels compiled now are "
                        f"not kept after this process. {fix}",
                        RuntimeWarning,
                        stacklevel=4,
                    )
                self._owner = os.getpid()
                self._private = Path(tempfile.mkdtemp(prefix="tensorbus-"))
                atexit.register(_remove, self._private, self._owner)
            return self._private

    def sweep(self, older_than_s: float = _STALE_S) -> None:
        """Remove unfinished entries that processes which died left behind, if that old."""
        before = time.time() - older_than_s
        with contextlib.suppress(OSError):
            for path in (self.directory / "tmp").iterdir():
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < before:
                        _delete(path)


def _cannot(error: OSError) -> tuple[str, str]:
    """Problem and fix where a directory cannot be written."""
    reason = error.strerror or error
    return (
        f"cannot be written ({reason})",
        "Set TENSORBUS_CACHE to a writable directory to keep them",
    )


def _figures(entry: str) -> tuple[float, int, str]:
    """When an entry was last used, and the bytes that it takes on the disk."""
    used, nbytes = 0.0, 0
    with os.scandir(entry) as files:
        for file in files:
            status = file.stat(follow_symlinks=False)
            used = max(used, status.st_mtime)
            nbytes += getattr(status, "st_blocks", -(-status.st_size // 512)) * 512
    return used, nbytes, entry


def _delete(path: Path) -> None:
    """Remove a directory with all that it holds, or a file."""
    with contextlib.suppress(OSError):
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path, owner: int) -> None:
    # A forked child inherits the exit handler but not the directory.
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
