"""What devices keep: files of the compile cache, and blocks of memory that wait for reuse.

Both are the toolkit's own classes, tried here without a device: on folders that are spoilt, and
against a count of what is held.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tensorbus_backends.cache import DiskCache, cache_key, default_directory
from tensorbus_backends.contract import OutOfMemoryError
from tensorbus_backends.pool import CachingPool, class_size

from ..items import Outcome
from ..session import Session
from .base import Checks, duty


def _writes(data: bytes, count: list[int]) -> Callable[[Path], None]:
    def build(path: Path) -> None:
        count.append(len(data))
        path.write_bytes(data)

    return build


@contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    kept = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if kept is not None:
            os.environ[name] = kept


def _keys(checks: Checks) -> None:
    parts = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ("c", "ab"), ("1:a",),
             ("a", "b", "c"), ("1:", "a"), ("",), ()]  # fmt: skip
    keys = [cache_key(*p) for p in parts]
    checks.that(len(set(keys)) == len(keys), "two sets of parts have one key")
    checks.that(all(len(k) == 64 and int(k, 16) >= 0 for k in keys), "a key is no 64 digits")
    checks.that(cache_key("x", "y") == cache_key("x", "y"), "a key is not the same again")
    with _variable("TENSORBUS_CACHE", "/some/where"):
        checks.that(default_directory() == Path("/some/where"), "TENSORBUS_CACHE is not heeded")
    with _variable("TENSORBUS_CACHE", "~/there"):
        checks.that(default_directory() == Path.home() / "there", "~ is not the home directory")
    if os.uname().sysname == "Linux":
        with _variable("TENSORBUS_CACHE", None), _variable("XDG_CACHE_HOME", "/of/user"):
            checks.that(default_directory() == Path("/of/user/tensorbus"), "XDG is not heeded")
        with _variable("TENSORBUS_CACHE", None), _variable("XDG_CACHE_HOME", None):
            due = Path.home() / ".cache" / "tensorbus"
            checks.that(default_directory() == due, f"the default is not {due}")


def files(session: Session) -> Outcome:
    """What is kept comes back as it was, under its own key alone; spoilt entries are made again."""
    checks = Checks("files")
    _keys(checks)
    with tempfile.TemporaryDirectory() as name:
        folder, made = Path(name) / "deep" / "er", list[int]()
        cache, other = DiskCache(folder), DiskCache(str(folder))
        checks.that(cache.directory == folder == other.directory, "a cache lies elsewhere")
        keys = [cache_key(str(k)) for k in range(4)]
        checks.that(cache.lookup(keys[0], ".so") is None, "an empty cache has an entry")
        checks.that(cache.get_bytes(keys[0]) is None, "an empty cache has bytes")
        for k, key in enumerate(keys):
            path = cache.get_or_build(key, ".so", _writes(b"so %d" % k, made))
            checks.that(path.read_bytes() == b"so %d" % k, "what was built is not there")
            checks.that(path.suffix == ".so", f"the file is called {path.name}")
        for c in (cache, other, DiskCache(folder)):
            for k, key in enumerate(keys):
                found = c.lookup(key, ".so")
                checks.that(found is not None and found.read_bytes() == b"so %d" % k, "is lost")
                checks.that(c.get_bytes(key, ".so") == b"so %d" % k, "bytes differ")
                checks.that(c.lookup(key, ".bin") is None, "an ending is no part of the key")
                c.get_or_build(key, ".so", _writes(b"again", made))
        checks.that(len(made) == 4, f"{len(made)} were built for four keys")
        cache.put_bytes(keys[0], b"one")
        checks.that(other.get_bytes(keys[0]) == b"one", "put_bytes is not seen")
        cache.put_bytes(keys[0], b"two")
        checks.that(other.get_bytes(keys[0]) == b"two", "put_bytes does not replace")
        checks.that(other.get_bytes(keys[0], ".so") == b"so 0", "put_bytes replaced another file")
        _spoilt(checks, folder, keys, made)
        _failing(checks, cache)
        left = list((folder / "tmp").iterdir())
        checks.that(not left, f"unfinished entries are left behind: {left[:2]}")
        _sweep(checks, cache, folder / "tmp")
        _together(checks, folder)
    _unwritable(checks)
    return checks.outcome


def _spoilt(checks: Checks, folder: Path, keys: list[str], made: list[int]) -> None:
    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-1])

    def flip(path: Path) -> None:
        path.write_bytes(b"S" + path.read_bytes()[1:])

    def unsure(path: Path) -> None:
        (path.parent / "sha256").unlink()

    def gone(path: Path) -> None:
        path.unlink()

    for harm in (cut, flip, unsure, gone):
        cache, before = DiskCache(folder), len(made)
        path = cache.lookup(keys[1], ".so")
        if not checks.that(path is not None, "a sound entry is not found") or path is None:
            return
        harm(path)
        checks.that(
            cache.lookup(keys[1], ".so") is None, f"an entry is found after {harm.__name__}"
        )
        checks.that(cache.get_bytes(keys[1], ".so") is None, f"bytes come after {harm.__name__}")
        again = cache.get_or_build(keys[1], ".so", _writes(b"new", made))
        checks.that(again.read_bytes() == b"new", "a spoilt entry is not made again")
        checks.that(len(made) == before + 1, f"an entry was made {len(made) - before} times")


def _failing(checks: Checks, cache: DiskCache) -> None:
    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyError("the compiler says no")

    key = cache_key("broken")
    checks.raises(KeyError, "a build that fails", cache.get_or_build, key, ".so", broken)
    checks.that(cache.lookup(key, ".so") is None, "what failed to build is kept")
    checks.raises(OSError, "a build of nothing", cache.get_or_build, key, ".so", lambda path: None)
    path = cache.get_or_build(key, ".so", _writes(b"fine", []))
    checks.that(path.read_bytes() == b"fine", "a build after one that failed is not kept")


def _sweep(checks: Checks, cache: DiskCache, scratch: Path) -> None:
    for name, age in (("old", 48.0), ("young", 1.0)):
        (scratch / name).mkdir()
        (scratch / name / "part").write_bytes(b"x")
        then = time.time() - 3600 * age
        os.utime(scratch / name, (then, then))
    cache.sweep()
    left = {p.name for p in scratch.iterdir()}
    checks.that(left == {"young"}, f"sweep leaves {sorted(left)}")
    cache.sweep(60.0)
    checks.that(not list(scratch.iterdir()), "sweep does not heed its age")


def _together(checks: Checks, folder: Path) -> None:
    """Many threads that want one key get one sound file each."""
    key, found = cache_key("together"), list[bytes]()
    start = threading.Barrier(4)

    def work(k: int) -> None:
        start.wait(10.0)
        path = DiskCache(folder).get_or_build(key, ".so", _writes(b"%d" % k * 5000, []))
        found.append(path.read_bytes())

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20.0)
    checks.that(len(found) == 4, f"{4 - len(found)} of four builders of one key failed")
    checks.that(
        all(len(d) == 5000 and len(set(d)) == 1 for d in found), "builders mixed their files"
    )


def _unwritable(checks: Checks) -> None:
    """A directory that cannot be: a warning, and files of this process alone."""
    with tempfile.TemporaryDirectory() as name:
        blocked = Path(name) / "a file"
        blocked.write_bytes(b"")
        cache, made = DiskCache(blocked / "cache"), list[int]()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            path = cache.get_or_build(cache_key("k"), ".so", _writes(b"data", made))
            cache.get_or_build(cache_key("k"), ".so", _writes(b"data", made))
            cache.put_bytes(cache_key("k"), b"more")
        checks.that(path.read_bytes() == b"data", "without a directory nothing is kept")
        checks.that(len(made) == 1, "what a process keeps for itself is not found")
        checks.that(cache.get_bytes(cache_key("k")) == b"more", "bytes are not kept for a process")
        warned = [w for w in said if issubclass(w.category, RuntimeWarning)]
        checks.that(len(warned) == 1, f"{len(warned)} warnings of a cache that cannot be written")


class _Ground:
    """Memory that a pool is given: what is out, and how much there may be."""

    def __init__(self, limit: int) -> None:
        self.limit, self.next = limit, 0
        self.out: dict[int, int] = {}

    def allocate(self, nbytes: int) -> int:
        if sum(self.out.values()) + nbytes > self.limit:
            raise MemoryError
        self.next += 1
        self.out[self.next] = nbytes
        return self.next

    def release(self, block: int, nbytes: int) -> None:
        if self.out.pop(block, None) != nbytes:
            raise AssertionError("a block is released twice, or with another size")


def classes(session: Session) -> Outcome:
    """Sizes are rounded up to one of eight for each power of two, at least 64 bytes apart."""
    checks = Checks("classes")
    near = [(1 << k) + d for k in range(40) for d in (-1, 0, 1)]
    between = [(1 << k) // 8 * e + d for k in range(9, 34, 3) for e in range(8, 17) for d in (0, 1)]
    for n in sorted({*near, *between, *range(1300)}):
        low = 1 << max(0, (n - 1).bit_length() - 1)  # low < n <= 2 low
        step = max(64, low // 8)
        due = 64 if n <= 64 else (n + step - 1) // step * step
        checks.that(class_size(n) == due, f"{n} bytes are served by {class_size(n)}, due is {due}")
    return checks.outcome


def blocks(session: Session) -> Outcome:
    """A pool's figures are what is held; blocks are used again; a full memory is refused."""
    checks, draw = Checks("blocks"), random.Random(session.seed)
    smoke = session.level == "smoke"
    settings = ((0, 0, 1 << 40), (100_000, 0, 1 << 40), (1 << 30, 40_000, 1 << 40),
                               (0, 0, 60_000), (90_000, 50_000, 70_000))  # fmt: skip
    for total, keep, limit in settings[4:] if smoke else settings:
        ground = _Ground(limit)
        pool: CachingPool[int] = CachingPool(
            "a device", ground.allocate, ground.release, total=total, keep=keep
        )
        live: list[tuple[int, int]] = []
        peak = 0
        for turn in range(100 if smoke else 400):
            nbytes = draw.choice((0, 1, 64, 65, 1000, 4096, 5000, draw.randrange(30_000)))
            held = sum(class_size(n) for n, _ in live)
            size = class_size(nbytes)
            had, fresh = sum(ground.out.values()), ground.next
            try:
                block = pool.take(pool.size_class(nbytes))
            except OutOfMemoryError as error:
                full = (total and held + size > total) or held + size > limit
                checks.that(bool(full), f"{nbytes} bytes refused while {held} are in use: {error}")
                checks.that("a device" in str(error), "a refusal does not name the device")
            else:
                checks.that(block in ground.out, "a block that was released is handed out")
                checks.that(ground.out.get(block) == size, "a block of another class")
                checks.that(block not in [b for _, b in live], "a block is handed out twice")
                checks.that(not total or held + size <= total, "more than there is is handed out")
                live.append((nbytes, block))
                crowded = keep and ground.next > fresh and had + size > keep
                checks.that(
                    not crowded or len(ground.out) == len(live),
                    f"blocks wait while {had + size} bytes are obtained, {keep} may be kept",
                )
                peak = max(peak, held + size)
            while live and (draw.random() < 0.45 or len(live) > 12):
                n, block = live.pop(draw.randrange(len(live)))
                pool.give(pool.size_class(n), block)
            if turn % 37 == 36:
                pool.empty()
                checks.that(len(ground.out) == len(live), "empty keeps blocks, or takes live ones")
            used, have = sum(class_size(n) for n, _ in live), sum(ground.out.values())
            f = pool.figures()
            told = (f.used, f.cached, f.peak, f.total)
            checks.that(told == (used, have - used, peak, total), f"figures are {told}")
            checks.that(pool.cached() == have - used, f"{pool.cached()} bytes are kept")
    _reuse(checks)
    return checks.outcome


def _reuse(checks: Checks) -> None:
    ground = _Ground(1 << 40)
    pool: CachingPool[int] = CachingPool("x", ground.allocate, ground.release)
    first = pool.take(pool.size_class(1000))
    pool.give(pool.size_class(1000), first)
    again = pool.take(pool.size_class(1001))
    checks.that(again == first and ground.next == 1, "a block of the class is not used again")
    checks.raises(OutOfMemoryError, "a negative size", pool.size_class, -1)
    for n in range(1, 10_000):  # more requests than are remembered
        pool.size_class(n)
    checks.that(len(pool.known) <= 4096, f"{len(pool.known)} requests are remembered")
    checks.that(pool.size_class(1000).size == class_size(1000), "a class is lost")
    checks.that(pool.size_class(1000) is pool.size_class(1001), "a class is there twice")
    pool.after_fork()
    pool.give(pool.size_class(1000), again)
    pool.empty()
    checks.that(not ground.out, "empty leaves blocks")
    bounded: CachingPool[int] = CachingPool("x", ground.allocate, ground.release, total=1000)
    checks.raises(OutOfMemoryError, "more than there is", bounded.size_class, 2000)
    checks.that(bounded.size_class(900).size <= 1000, "what fits is refused")


duty("cache", files, plugins=("cpu",))
duty("pool", classes, blocks, plugins=("cpu",))
