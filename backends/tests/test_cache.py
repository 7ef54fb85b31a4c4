"""The on-disk cache."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from tensorbus_backends import cache as module
from tensorbus_backends.cache import (
    DiskCache,
    cache_key,
    default_directory,
    limit,
    prune,
    subfolder,
    untrusted,
)


class Counter:
    """A builder that counts its calls."""

    def __init__(self, data: bytes = b"library") -> None:
        self.data, self.calls = data, 0

    def __call__(self, path: Path) -> None:
        self.calls += 1
        path.write_bytes(self.data)


def leftovers(directory: Path) -> list[Path]:
    return list((directory / "tmp").iterdir())


def test_keys_depend_on_every_part_and_its_bounds():
    keys = {cache_key(*parts) for parts in [("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), ()]}
    assert len(keys) == 5
    assert cache_key("a", "b") == cache_key("a", "b")


def test_an_entry_is_built_once_for_all_processes_and_suffixes_differ(tmp_path):
    build, key = Counter(), cache_key("k")
    path = DiskCache(tmp_path).get_or_build(key, ".so", build)
    again = DiskCache(tmp_path).get_or_build(key, ".so", build)
    assert path == again
    assert path.read_bytes() == b"library"
    assert path.suffix == ".so"
    assert build.calls == 1
    assert DiskCache(tmp_path).lookup(key, ".bin") is None
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("damage", ["truncate", "flip", "checksum", "missing"])
def test_a_corrupt_entry_is_built_again(tmp_path, damage):
    build, key = Counter(), cache_key("k")
    cache = DiskCache(tmp_path)
    path = cache.get_or_build(key, ".so", build)
    if damage == "truncate":
        path.write_bytes(b"lib")
    elif damage == "flip":
        path.write_bytes(b"librarz")
    elif damage == "checksum":
        (path.parent / "sha256").write_text("0" * 64)
    else:
        path.unlink()
    assert cache.lookup(key, ".so") is None
    assert cache.get_or_build(key, ".so", build).read_bytes() == b"library"
    assert build.calls == 2
    assert cache.lookup(key, ".so") is not None
    assert leftovers(tmp_path) == []


def test_bytes_are_kept_and_replaced(tmp_path):
    cache, key = DiskCache(tmp_path), cache_key("b")
    assert cache.get_bytes(key) is None
    cache.put_bytes(key, b"one")
    cache.put_bytes(key, b"two")
    assert DiskCache(tmp_path).get_bytes(key) == b"two"


def test_a_builder_that_fails_leaves_nothing(tmp_path):
    cache = DiskCache(tmp_path)

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise FileNotFoundError("no compiler")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FileNotFoundError, match="no compiler"):
            cache.get_or_build(cache_key("k"), ".so", fail)
    assert cache.lookup(cache_key("k"), ".so") is None
    assert leftovers(tmp_path) == []


def test_a_directory_that_cannot_be_made_is_replaced_with_one_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache, build = DiskCache(tmp_path / "file" / "cache"), Counter()
    with pytest.warns(RuntimeWarning, match="cannot be written.*Set TENSORBUS_CACHE"):
        path = cache.get_or_build(cache_key("k"), ".so", build)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get_or_build(cache_key("k"), ".so", build) == path
        cache.put_bytes(cache_key("b"), b"x")
        assert cache.get_bytes(cache_key("b")) == b"x"
    assert build.calls == 1
    assert path.read_bytes() == b"library"


def test_a_cache_that_cannot_be_written_is_still_read(tmp_path, monkeypatch):
    build, key = Counter(), cache_key("k")
    kept = DiskCache(tmp_path).get_or_build(key, ".so", build)

    def refuse(root: Path) -> Path:
        if root == tmp_path:
            raise PermissionError(13, "Permission denied")
        return scratch(root)

    # Permissions do not stop root, which tests often run as.
    scratch = DiskCache._scratch
    monkeypatch.setattr(DiskCache, "_scratch", staticmethod(refuse))
    cache = DiskCache(tmp_path)
    assert cache.get_or_build(key, ".so", build) == kept
    with pytest.warns(RuntimeWarning, match="Permission denied"):
        other = cache.get_or_build(cache_key("other"), ".so", build)
    assert tmp_path not in other.parents
    assert build.calls == 2


def test_a_full_disk_while_building_falls_back(tmp_path):
    cache = DiskCache(tmp_path)

    def build(path: Path) -> None:
        if tmp_path in path.parents:
            raise OSError(28, "No space left on device")
        path.write_bytes(b"ok")

    with pytest.warns(RuntimeWarning, match="No space left"):
        assert cache.get_or_build(cache_key("k"), ".so", build).read_bytes() == b"ok"
    assert leftovers(tmp_path) == []


def test_temporary_entries_end_with_the_process(tmp_path):
    (tmp_path / "file").write_text("in the way")
    text = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from tensorbus_backends.cache import DiskCache, cache_key\n"
        "c = DiskCache(sys.argv[1])\n"
        "print(c.get_or_build(cache_key('k'), '.so', lambda p: p.write_bytes(b'1') and None))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", text, str(tmp_path / "file" / "x")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert not Path(done.stdout.strip()).exists()


def test_many_processes_may_build_the_same_entries(tmp_path):
    text = (
        "import os, sys\n"
        "from tensorbus_backends.cache import DiskCache, cache_key\n"
        "c = DiskCache(sys.argv[1])\n"
        "for k in range(60):\n"
        "    data = (str(k) * 1000).encode()\n"
        "    build = lambda p: p.write_bytes(data) and None\n"
        "    got = c.get_or_build(cache_key(str(k)), '.so', build).read_bytes()\n"
        "    c.put_bytes(cache_key('shared'), data)\n"
        "    if got != data or c.get_bytes(cache_key('shared')) == b'': sys.exit(3)\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", text, str(tmp_path)])
        for _ in range(4)
    ]
    assert [p.wait(timeout=60) for p in running] == [0, 0, 0, 0]
    assert leftovers(tmp_path) == []


def test_the_default_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("TENSORBUS_CACHE", str(tmp_path / "mine"))
    assert default_directory() == tmp_path / "mine"
    assert DiskCache().directory == tmp_path / "mine"
    monkeypatch.delenv("TENSORBUS_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_directory() == tmp_path / "xdg" / "tensorbus"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_directory() == Path(os.path.expanduser("~/.cache/tensorbus"))


def test_sweep_removes_only_old_leftovers(tmp_path):
    cache = DiskCache(tmp_path)
    cache.put_bytes(cache_key("k"), b"x")
    old, new = tmp_path / "tmp" / "old", tmp_path / "tmp" / "new"
    old.mkdir()
    new.mkdir()
    os.utime(old, (0, 0))
    cache.sweep()
    assert leftovers(tmp_path) == [new]
    assert cache.get_bytes(cache_key("k")) == b"x"


# -- trust ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_cache_that_others_may_write_to_is_not_used(tmp_path, mode):
    """Neither what is in it, nor for what is built now."""
    folder, key = tmp_path / "cache", cache_key("k")
    DiskCache(folder).get_or_build(key, ".so", Counter(b"planted"))
    folder.chmod(mode)
    cache, build = DiskCache(folder), Counter(b"built")
    assert cache.lookup(key, ".so") is None
    with pytest.warns(RuntimeWarning, match=f"is not used.*mode {mode:04o}.*Set TENSORBUS_CACHE"):
        path = cache.get_or_build(key, ".so", build)
    assert path.read_bytes() == b"built"
    assert folder not in path.parents
    assert untrusted(path.parent.stat()) == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get_or_build(key, ".so", build) == path
    folder.chmod(0o755)
    assert DiskCache(folder).get_bytes(key, ".so") == b"planted"


@pytest.mark.parametrize("part", ["shard", "entry", "payload"])
def test_a_part_that_others_may_write_to_is_built_again(tmp_path, part):
    cache, key = DiskCache(tmp_path), cache_key("k")
    path = cache.get_or_build(key, ".so", Counter(b"planted"))
    {"shard": path.parents[1], "entry": path.parent, "payload": path}[part].chmod(0o777)
    assert cache.lookup(key, ".so") is None
    again = cache.get_or_build(key, ".so", Counter(b"built"))
    assert again == path
    assert cache.get_bytes(key, ".so") == b"built"
    assert not any(untrusted(p.stat()) for p in (path.parents[1], path.parent, path))
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no numbers of users")
def test_a_cache_of_another_user_is_not_used(tmp_path, monkeypatch):
    folder, key, me = tmp_path / "cache", cache_key("k"), os.geteuid()
    DiskCache(folder).put_bytes(key, b"theirs")
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert DiskCache(folder).get_bytes(key) is None
    with pytest.warns(RuntimeWarning, match=f"another user .number {me}.*chown"):
        path = DiskCache(folder).get_or_build(key, ".so", Counter())
    assert folder not in path.parents


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
def test_what_is_made_is_the_users_alone_whatever_the_mask(tmp_path, mask):
    folder, before = tmp_path / "new" / "cache", os.umask(mask)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            path = DiskCache(folder).get_or_build(cache_key("k"), ".so", Counter())
            assert DiskCache(folder).lookup(cache_key("k"), ".so") == path
            for made in (folder, path.parents[1], path.parent, path, folder / "tmp"):
                assert untrusted(made.stat()) == ""
    finally:
        os.umask(before)


def test_a_folder_for_other_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBUS_CACHE", str(tmp_path / "cache"))
    folder = subfolder("records")
    assert folder == tmp_path / "cache" / "records"
    assert untrusted(folder.stat()) == ""
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="other users may write"):
        subfolder("records")


# -- damage that is no wrong byte -------------------------------------------------------------


@pytest.mark.parametrize("damage", ["entry is a file", "shard is a file", "payload is a folder",
                                    "empty", "entry is a dead link"])  # fmt: skip
def test_whatever_lies_in_the_way_is_replaced(tmp_path, damage):
    cache, key = DiskCache(tmp_path), cache_key("k")
    path = cache.get_or_build(key, ".so", Counter())
    if damage == "payload is a folder":
        path.unlink()
        path.mkdir()
    elif damage == "empty":
        for file in path.parent.iterdir():
            file.unlink()
    else:
        for file in path.parent.iterdir():
            file.unlink()
        path.parent.rmdir()
        if damage == "entry is a file":
            path.parent.write_text("x")
        elif damage == "entry is a dead link":
            path.parent.symlink_to(tmp_path / "nowhere")
        else:
            path.parents[1].rmdir()
            path.parents[1].write_text("x")
    build = Counter(b"again")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get_or_build(key, ".so", build) == path
        assert DiskCache(tmp_path).get_bytes(key, ".so") == b"again"
    assert build.calls == 1
    assert leftovers(tmp_path) == []


# -- size -------------------------------------------------------------------------------------


def test_the_limit_is_read_with_care(monkeypatch):
    monkeypatch.delenv("TENSORBUS_CACHE_LIMIT", raising=False)
    assert limit() == 2048 << 20
    monkeypatch.setenv("TENSORBUS_CACHE_LIMIT", " 64 ")
    assert limit() == 64 << 20
    for text in ("0", "-1", "1.5", "a lot", "9" * 40):
        monkeypatch.setenv("TENSORBUS_CACHE_LIMIT", text)
        with pytest.warns(RuntimeWarning, match="is no number of MiB; 2048 are used"):
            assert limit() == 2048 << 20


def aged(cache: DiskCache, key: str, hours: float) -> Path:
    """Keep 16 KiB that were last used so long ago."""
    cache.put_bytes(key, os.urandom(16 << 10))
    path = cache._entry(cache.directory, key, ".bin") / "payload.bin"
    for file in path.parent.iterdir():
        os.utime(file, (time.time() - 3600 * hours,) * 2)
    return path


def test_what_was_used_longest_ago_goes_first(tmp_path, monkeypatch):
    """The share of one subdirectory is 64 KiB here: three entries with their checksums."""
    monkeypatch.setattr(module, "limit", lambda: 256 * (64 << 10))
    monkeypatch.setattr(module, "_LOOK_EVERY", 1 << 60)  # never
    cache = DiskCache(tmp_path)
    keys = [f"aa{k:038x}" for k in range(8)]
    paths = [
        aged(cache, key, hours) for key, hours in zip(keys, (9, 3, 7, 5, 0.5, 0.5), strict=False)
    ]
    other = aged(cache, "bb" + "0" * 38, 99)
    assert cache.get_bytes(keys[0]) is not None  # used now
    monkeypatch.setattr(module, "_LOOK_EVERY", 1)
    cache.put_bytes(keys[7], b"new")
    left = [cache.get_bytes(key) is not None for key in keys[:6]]
    assert left == [True, False, False, False, True, True]
    assert other.exists()
    assert cache.get_bytes(keys[7]) == b"new"
    assert paths[0].stat().st_mtime > time.time() - 60
    assert leftovers(tmp_path) == []
    # What is fresh stays, also beyond the limit.
    for k in range(100, 110):
        cache.put_bytes(f"aa{k:038x}", b"x" * 20000)
    assert all(cache.get_bytes(f"aa{k:038x}") for k in range(100, 110))


def test_processes_that_store_and_prune_at_the_same_time(tmp_path):
    """Everything is old, so everything may go at any time: what is asked for is built again."""
    text = (
        "import os, sys\n"
        "from tensorbus_backends import cache\n"
        "cache.limit = lambda: 256 * (64 << 10)\n"
        "cache._LOOK_EVERY, cache._FRESH_S = 1, -60.0\n"
        "c = cache.DiskCache(sys.argv[1])\n"
        "for k in range(120):\n"
        "    key, data = f'aa{k % 20:038x}', b'%d' % (k % 20) * 9000\n"
        "    c.get_or_build(key, '.bin', lambda p: p.write_bytes(data) and None)\n"
        "    if c.get_bytes(key) not in (None, data): sys.exit(3)\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", text, str(tmp_path)])
        for _ in range(3)
    ]
    assert [p.wait(timeout=60) for p in running] == [0, 0, 0]
    assert leftovers(tmp_path) == []
    kept = [p for p in (tmp_path / "aa").iterdir() if p.is_dir()]
    assert sum(f.stat().st_size for p in kept for f in p.iterdir()) < 128 << 10


def test_files_of_a_folder_are_pruned_by_age(tmp_path):
    for k, hours in enumerate((4, 2, 3, 0)):
        (tmp_path / str(k)).write_bytes(b"x" * 1000)
        os.utime(tmp_path / str(k), (time.time() - 3600 * hours,) * 2)
    (tmp_path / "folder").mkdir()
    prune(tmp_path, 2000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "3", "folder"]
    prune(tmp_path, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "folder"]
    prune(tmp_path / "absent", 0)


def test_threads_that_make_the_first_entries_of_a_folder_all_succeed(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def store(folder: Path, key: str) -> None:
        try:
            DiskCache(folder).get_or_build(key, ".so", lambda path: path.write_bytes(b"x" * 500))
        except BaseException as error:
            failed.append(error)

    for turn in range(40):
        threads = [
            threading.Thread(target=store, args=(tmp_path / f"{turn}", f"64ab{k % 2}"))
            for k in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
