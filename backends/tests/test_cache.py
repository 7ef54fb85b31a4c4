"""The on-disk cache."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tensorbus_backends.cache import DiskCache, cache_key, default_directory


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
