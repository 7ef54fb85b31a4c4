"""What is kept: compiled kernels on disk, blocks of memory, words of the environment."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorbus_backends import cache as caching
from tensorbus_backends.cache import DiskCache, cache_key, default_directory
from tensorbus_backends.contract import BackendError, DeviceUnavailableError, OutOfMemoryError
from tensorbus_backends.environment import group_threads, switch
from tensorbus_backends.pool import CachingPool, class_size, format_bytes

from ..session import Session
from .apart import changed, forked
from .base import Checks, duty


class _Builder:
    """Writes `data`, counts its calls."""

    def __init__(self, data: bytes = b"library") -> None:
        self.data, self.calls = data, 0

    def __call__(self, path: Path) -> None:
        self.calls += 1
        path.write_bytes(self.data)


def _files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


@forked
def entries(checks: Checks, folder: Path, session: Session) -> None:
    """An entry is built once for all processes; one that is spoilt is none, and is built again."""
    parts: list[tuple[str, ...]] = [("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), (), ("",)]
    parts += [("1:a",), ("a" * 11,), ("a", "1:b")]
    keys = [cache_key(*p) for p in parts]
    checks.that(len(set(keys)) == len(keys), "different parts have one key")
    checks.that(all(len(k) == 64 and int(k, 16) >= 0 for k in keys), f"a key is {keys[0]!r}")
    checks.that(keys == [cache_key(*p) for p in parts], "a key changes")
    root = folder / "cache"
    build, key = _Builder(), cache_key("k")
    path = DiskCache(root).get_or_build(key, ".so", build)
    checks.that(path.read_bytes() == b"library" and path.suffix == ".so", f"built was {path}")
    checks.that(DiskCache(root).get_or_build(key, ".so", build) == path, "it is built elsewhere")
    checks.that(build.calls == 1, f"it was built {build.calls} times")
    checks.that(DiskCache(root).lookup(key, ".so") == path, "another process does not find it")
    for other, suffix in ((key, ".bin"), (cache_key("l"), ".so"), (key[:-30] + "0" * 30, ".x")):
        checks.that(DiskCache(root).lookup(other, suffix) is None, "another key finds it")
    near = [key[:39] + d + key[40:] for d in "0123456789abcdef" if d != key[39]]
    checks.that(not any(DiskCache(root).lookup(k, ".so") for k in near), "a near key finds it")
    checks.that(root in path.parents, "it lies outside of its directory")
    checks.that(not list((root / "tmp").iterdir()), "something unfinished is left")
    digest = hashlib.sha256(b"library").hexdigest()
    beside = [p.read_text() for p in path.parent.iterdir() if p != path]
    checks.that(beside == [digest], f"its checksum is {beside}")
    cache = DiskCache(root)
    spoils: tuple[Callable[[], object], ...] = (
        lambda: path.write_bytes(b"lib"), lambda: path.write_bytes(b"librarz"),
        lambda: path.write_bytes(b""), lambda: path.unlink(),
        lambda: (path.parent / "sha256").write_text("0" * 64),
        lambda: (path.parent / "sha256").write_text(""),
        lambda: (path.parent / "sha256").unlink(),
    )  # fmt: skip
    for n, spoil in enumerate(spoils, 2):
        spoil()
        checks.that(cache.lookup(key, ".so") is None, f"spoilt entry {n} is found")
        checks.that(cache.get_bytes(key, ".so") is None, f"spoilt entry {n} is read")
        again = cache.get_or_build(key, ".so", build)
        checks.that(again.read_bytes() == b"library", f"entry {n} is built as something else")
        checks.that(build.calls == n, f"spoilt entry {n} is not built again")
        checks.that(cache.get_bytes(key, ".so") == b"library", f"entry {n} is not kept")
        checks.that(not list((root / "tmp").iterdir()), "something unfinished is left")
    _noted(checks, cache, key, path)
    checks.that(cache.get_bytes(cache_key("b")) is None, "what was never kept is there")
    for data in (b"one", b"two", b""):
        cache.put_bytes(cache_key("b"), data)
        got = DiskCache(root).get_bytes(cache_key("b"))
        checks.that(got == data, f"kept was {data!r}, found is {got!r}")
    cache.put_bytes(cache_key("b"), b"x", ".y")
    checks.that(cache.get_bytes(cache_key("b"), ".y") == b"x", "another suffix is not kept")
    checks.that(cache.get_bytes(cache_key("b")) == b"", "another suffix takes its place")

    def fail(target: Path) -> None:
        target.write_bytes(b"half")
        raise FileNotFoundError("no compiler")

    checks.raises(FileNotFoundError, "a failing build", cache.get_or_build, "f" * 64, ".so", fail)
    checks.that(cache.lookup("f" * 64, ".so") is None, "half an entry is found")
    checks.that(not list((root / "tmp").iterdir()), "half an entry is left")

    def slow(target: Path) -> None:  # another process is first
        DiskCache(root).get_or_build("e" * 64, ".so", _Builder(b"first"))
        target.write_bytes(b"second")

    first = cache.get_or_build("e" * 64, ".so", slow)
    checks.that(first.read_bytes() == b"first", "the second of two builds takes the first's place")
    checks.that(not list((root / "tmp").iterdir()), "the second of two builds is left")


def _noted(checks: Checks, cache: DiskCache, key: str, path: Path) -> None:
    """An old entry is young again when it was used; one just made is read and not written."""
    now = time.time()
    for age in (1.0, 60.0, 1e5, 1e7):
        os.utime(path, (now - age, now - age))
        before = path.stat().st_mtime_ns
        checks.that(cache.get_bytes(key, ".so") == b"library", f"{age:g} s old, it is lost")
        after = path.stat().st_mtime_ns
        if age < 100:
            checks.that(after == before, f"{age:g} s old, it is written when it is read")
        else:
            checks.that(now - after / 1e9 < 60, f"{age:g} s old, it is as old after a use")


@forked
def places(checks: Checks, folder: Path, session: Session) -> None:
    """A cache that cannot be written is read, and warned of once; what is unfinished goes."""
    root, private = folder / "cache", folder / "private"
    private.mkdir()
    tempfile.tempdir = str(private)
    build, key = _Builder(), cache_key("k")
    kept = DiskCache(root).get_or_build(key, ".so", build)
    (folder / "file").write_text("in the way")
    real = DiskCache._scratch

    def refusing(code: int) -> Callable[[Path], Path]:
        def scratch(place: Path) -> Path:
            if private not in place.parents:
                raise OSError(code, os.strerror(code))
            return real(place)

        return scratch

    for n, code in enumerate((errno.EACCES, errno.EROFS, errno.ENOSPC)):
        where = folder / f"cache{n}"
        DiskCache(where).get_or_build(key, ".so", _Builder())
        cache = DiskCache(where)
        with (
            changed(DiskCache, _scratch=staticmethod(refusing(code))),
            warnings.catch_warnings(record=True) as told,
        ):
            warnings.simplefilter("always")
            found = cache.get_or_build(key, ".so", build)
            checks.that(where in found.parents and build.calls == 1, "what is kept is not read")
            for k in range(3):
                other, fresh = cache_key(f"{k}"), _Builder(b"%d" % k)
                path = cache.get_or_build(other, ".so", fresh)
                again = cache.get_or_build(other, ".so", fresh)
                checks.that(private in path.parents and again == path, "it is built twice")
                checks.that(path.read_bytes() == b"%d" % k, "something else was built")
                cache.put_bytes(other, b"x%d" % k)
                checks.that(cache.get_bytes(other) == b"x%d" % k, "bytes are not kept")
            DiskCache(where).put_bytes(cache_key("more"), b"x")
        checks.that(len(told) == 1, f"{len(told)} warnings of a cache that cannot be written")
        text = str(told[0].message) if told else ""
        words = (str(where), os.strerror(code), "TENSORBUS_CACHE")
        checks.that(all(w in text for w in words), f"the warning says {text!r}")
        checks.that(_files(where / "tmp") == [], "something unfinished is left")

    def full(target: Path) -> None:
        if private not in target.parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        target.write_bytes(b"ok")

    cache = DiskCache(folder / "full")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        path = cache.get_or_build(key, ".so", full)
    checks.that(path.read_bytes() == b"ok" and len(told) == 1, "a full disk is the end")
    checks.that(list((folder / "full/tmp").iterdir()) == [], "something unfinished is left")
    checks.that(len(list(private.iterdir())) == 7, "each cache has not one place of its own")
    child = os.fork()
    if child == 0:
        mine = DiskCache(folder / "file/x").get_or_build(key, ".so", _Builder())
        others = [p for p in private.iterdir() if p not in mine.parents]
        caching._remove(next(iter(others)), os.getppid())
        os._exit(0 if mine.read_bytes() == b"library" and path.exists() else 3)
    _, status = os.waitpid(child, 0)
    checks.that(status == 0, "a forked child has no place, or removes its parent's")
    caching._remove(path.parents[2], os.getpid())
    checks.that(not path.exists(), "what is private stays after the end")
    old, new = root / "tmp/old", root / "tmp/new"
    old.mkdir()
    new.mkdir()
    now = time.time()
    for age, due in ((23 * 3600.0, True), (25 * 3600.0, False)):
        os.utime(old, (now - age, now - age))
        DiskCache(root).sweep()
        checks.that(old.exists() == due, f"what is {age / 3600:.0f} h old is kept: {not due}")
    checks.that(new.exists() and kept.exists(), "what is new is removed")
    DiskCache(root).sweep(-10.0)
    checks.that(not new.exists(), "what is older than asked stays")
    DiskCache(folder / "nowhere").sweep()
    home = str(folder / "home")
    for environment, platform, due_path in (
        ({"TENSORBUS_CACHE": "/a/b"}, "linux", "/a/b"), ({"TENSORBUS_CACHE": "~/c"}, "linux",
        f"{home}/c"), ({"XDG_CACHE_HOME": "/x"}, "linux", "/x/tensorbus"),
        ({}, "linux", f"{home}/.cache/tensorbus"), ({"XDG_CACHE_HOME": ""}, "linux",
        f"{home}/.cache/tensorbus"), ({}, "darwin", f"{home}/Library/Caches/tensorbus"),
        ({"TENSORBUS_CACHE": ""}, "darwin", f"{home}/Library/Caches/tensorbus"),
    ):  # fmt: skip
        given: dict[str, Any] = {"TENSORBUS_CACHE": None, "XDG_CACHE_HOME": None, "HOME": home}
        with changed(os.environ, **given | environment), changed(sys, platform=platform):
            got = default_directory()
            checks.that(got == Path(due_path), f"{environment} on {platform} is {got}")
            checks.that(DiskCache().directory == got, "a cache is elsewhere by default")
            checks.that(DiskCache("/y").directory == Path("/y"), "a directory is not taken")


def _ceiling(nbytes: int) -> int:
    """The size class by its definition: eight for each power of two, 64 bytes apart at least."""
    sizes = range(64, 1025, 64)
    if nbytes <= 1024:
        return next(s for s in sizes if s >= nbytes)
    k = 10
    while 2 << k < nbytes:
        k += 1
    steps = ((1 << k) + j * (1 << k) // 8 for j in range(1, 9))
    return next(s for s in steps if s >= nbytes)


@forked
def blocks(checks: Checks, folder: Path, session: Session) -> None:
    """Kept blocks serve their size class alone; what is missing is taken from what is kept."""
    edges = {2**k * m // 8 + d for k in range(4, 40) for m in range(8, 17) for d in (-1, 0, 1)}
    for n in sorted(edges if session.level == "smoke" else edges | set(range(1, 1300))):
        got = class_size(n)
        checks.that(got == _ceiling(n), f"{n} bytes are served by {got}, due is {_ceiling(n)}")
    checks.that(class_size(0) == 64, "nothing is served by nothing")
    for size, text in (
        (0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"), (5 << 30, "5.0 GiB"), (1 << 40, "1.0 TiB"), (1 << 50, "1.0 PiB"),
        (1 << 60, "1.0 EiB"), (1 << 70, "1024.0 EiB"), ((1 << 20) - 1, "1024.0 KiB"),
    ):  # fmt: skip
        checks.that(format_bytes(size) == text, f"{size} bytes are told as {format_bytes(size)!r}")
    numbers, log = itertools.count(), []
    room = [1 << 20]

    def obtain(nbytes: int) -> int:
        if nbytes > room[0]:
            raise MemoryError
        room[0] -= nbytes
        log.append(("obtain", nbytes))
        return next(numbers)

    def release(block: int, nbytes: int) -> None:
        room[0] += nbytes
        log.append(("release", nbytes))

    pool = CachingPool("dev", obtain, release)
    home = pool.size_class(100)
    checks.that(home is pool.size_class(128) and home.size == 128, "a class is not shared")
    checks.that(pool.size_class(129) is not home, "two classes are one")
    one, two = pool.take(home), pool.take(home)
    checks.that(one != two and log == [("obtain", 128)] * 2, f"two blocks were got by {log}")
    pool.give(home, one)
    checks.that(pool.take(home) == one and len(log) == 2, "a kept block does not serve")
    pool.give(home, one)
    f = pool.figures()
    checks.that((f.used, f.cached, f.peak, f.total) == (128, 128, 256, 0), f"figures are {f}")
    pool.empty()
    checks.that(log[2:] == [("release", 128)] and pool.cached() == 0, "kept blocks stay")
    log.clear()
    big = pool.size_class(1 << 19)
    held = [pool.take(big)]
    pool.give(big, held.pop())
    whole = pool.take(pool.size_class((1 << 20) - (1 << 17)))  # takes what is kept
    checks.that(("release", 1 << 19) in log, "what is kept is not given back when it is needed")
    error = checks.raises(OutOfMemoryError, "more than there is", pool.take, big)
    checks.that("dev" in str(error) and "512.0 KiB" in str(error), f"it says {error}")
    pool.give(pool.size_class((1 << 20) - (1 << 17)), whole)
    again = pool.take(big)
    pool.give(big, again)

    class Cycle:  # garbage that holds a block until it is collected
        def __del__(self) -> None:
            pool.give(big, self.block)

        def __init__(self) -> None:
            self.me, self.block = self, pool.take(big)

    pool.empty()
    Cycle()
    checks.that(pool.take(big) is not None, "a block in a cycle is not found")
    room[0] = 1 << 30
    for total, keep in ((1 << 12, 0), (0, 1 << 12), (1 << 12, 1 << 11)):
        log.clear()
        small = CachingPool("dev", obtain, release, total=total, keep=keep)
        if total:
            text = str(checks.raises(OutOfMemoryError, "too large", small.size_class, 4097))
            checks.that("of 4.0 KiB are in use" in text, f"a block larger than all says {text}")
        kb = small.size_class(1024)
        taken = [small.take(kb) for _ in range(4)]
        if total:
            checks.raises(OutOfMemoryError, "one more", small.take, kb)
            checks.raises(OutOfMemoryError, "one byte more", small.take, small.size_class(1))
        for block in taken:
            small.give(kb, block)
        checks.that(small.cached() == 4096 and small.used == 0, "it keeps something else")
        log.clear()
        small.take(small.size_class(2048))
        released = [x for x in log if x[0] == "release"]
        checks.that(
            len(released) == (4 if keep else 0), f"with {total} in all and {keep} to keep: {log}"
        )
    checks.raises(BackendError, "less than nothing", pool.size_class, -1)
    for n in range(5000):  # requests that are remembered are not remembered for ever
        pool.size_class(n + 1)
    checks.that(len(pool.known) <= 4096, f"{len(pool.known)} requests are remembered")
    checks.that(pool.size_class(100) is home, "a class is forgotten")
    checks.that(_survives_fork(pool), "a copy of the process waits for a lock that nobody holds")


def _survives_fork(pool: CachingPool[Any]) -> bool:
    """Whether a copy of the process uses a pool that another thread held when it was made."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with pool._lock:
            held.set()
            done.wait(30)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)
        pool.after_fork()
        pool.empty()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    done.set()
    holder.join()
    return status == 0


@forked
def settings(checks: Checks, folder: Path, session: Session) -> None:
    """A word of the environment that is not understood is an error, and no default."""
    for text, due in (
        (None, False), ("", False), ("0", False), ("false", False), ("NO", False), ("Off ", False),
        ("1", True), (" true", True), ("YES", True), ("on", True),
    ):  # fmt: skip
        with changed(os.environ, TB_JUDGE=text):
            checks.that(switch("TB_JUDGE") is due, f"{text!r} is on: {not due}")
    for text in ("2", "maybe", "-1", "truee", "o n"):
        with changed(os.environ, TB_JUDGE=text):
            error = checks.raises(BackendError, f"{text!r} as a switch", switch, "TB_JUDGE")
            checks.that(f"TB_JUDGE={text!r}" in str(error), f"{text!r} says {error}")
    for text, due_threads in ((None, None), ("", None), ("  ", None), ("1", 1), (" 7 ", 7),
                              ("64", 64)):  # fmt: skip
        with changed(os.environ, TB_JUDGE=text):
            got = group_threads("TB_JUDGE", "dev:0", 64)
        checks.that(got == due_threads, f"groups of {text!r} are of {got}")
    for text in ("0", "65", "-1", "x", "1.5", "1 2", "²"):
        with changed(os.environ, TB_JUDGE=text):
            error = checks.raises(
                DeviceUnavailableError,
                f"groups of {text!r}",
                group_threads,
                "TB_JUDGE",
                "dev:0",
                64,
            )
        words = "'dev:0'", f"TB_JUDGE={text!r}", "from 1 to 64"
        checks.that(all(w in str(error) for w in words), f"groups of {text!r} say {error}")


duty("keeping", entries, places, blocks, settings, plugins=("cpu",), smoke=False)
