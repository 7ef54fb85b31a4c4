"""Writing reports: whole or not at all, and only over what is a file."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from pathlib import Path

__all__ = ["is_special", "refused", "write", "write_or_say"]


def is_special(path: Path) -> bool:
    """Whether a path names something that keeps nothing: a device, a pipe, a socket, stdout."""
    kind = _kind(path)
    return (
        kind is not None
        and not stat.S_ISDIR(kind)
        and (not stat.S_ISREG(kind) or _is_open_file(path))
    )


def _kind(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:
        return None


def _is_open_file(path: Path) -> bool:
    """Whether a path names a file that is open already, as /dev/stdout does."""
    text = os.path.abspath(path)
    return text in ("/dev/stdout", "/dev/stderr") or text.startswith(("/dev/fd/", "/proc/"))


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all; what is no regular file is written to and not replaced.

    A symbolic link stays, and its target is written.  A new file has the permissions that the umask
    leaves, an old one keeps its own.

    Raises:
        OSError: The disk is full, the folder unwritable, or the path names a folder, a block device
            or a pipe that nobody reads.
    """
    kind = _kind(path)
    if kind is not None and (stat.S_ISDIR(kind) or stat.S_ISBLK(kind) or stat.S_ISSOCK(kind)):
        code = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
        raise OSError(code, os.strerror(code), str(path))
    if is_special(path):
        return _pour(path, text)
    real = Path(os.path.realpath(path))
    real.parent.mkdir(parents=True, exist_ok=True)
    name = real.parent / f".tensorbus-{secrets.token_hex(8)}"
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(name, flags, 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if kind is not None:
            os.chmod(name, stat.S_IMODE(kind))
        os.replace(name, real)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def _pour(path: Path, text: str) -> None:
    # Not waiting for a reader that may never come: without one this fails with ENXIO.
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    os.set_blocking(handle, True)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


def write_or_say(path: Path, text: str, quiet: bool = False) -> bool:
    """Write a report; False, and one line, if that cannot be done.

    Args:
        quiet: Do not say where it is.
    """
    try:
        write(path, text)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        print(
            f"tensorbus: {path} could not be written: {why}; free space or choose another place",
            file=sys.stderr,
        )
        return False
    if not quiet:
        print(f"Report: {path}")
    return True


def refused(path: Path, folder: bool = False) -> str:
    """Why a report cannot be written there, before anything is judged; "" if it can be.

    Args:
        folder: The path is that of a folder of reports.
    """
    try:
        if not folder and path.is_dir():
            return f"{path} is a folder"
        if not folder and is_special(path):
            kind = path.stat().st_mode
            fine = stat.S_ISCHR(kind) or stat.S_ISFIFO(kind) or stat.S_ISREG(kind)
            return "" if fine else f"{path} is no file that a report can be written to"
        place = Path(os.path.realpath(path)) if folder else Path(os.path.realpath(path)).parent
        place.mkdir(parents=True, exist_ok=True)
        if not place.is_dir():
            return f"{place} is no folder"
        if not os.access(place, os.W_OK | os.X_OK):
            return f"{place} is not writable"
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return f"{path} cannot be written: {why}"
    return ""
