"""pycuda is built where it can be, and one line says why not where it cannot."""

from __future__ import annotations

import ctypes
import shutil
import sys

import pytest
from tensorbus_backends.cache import DiskCache
from tensorbus_cuda.simulator import build_pycuda as build

needs_compiler = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not shutil.which("g++") or not shutil.which("cc"),
    reason="needs Linux and g++",
)


@pytest.fixture
def absent(monkeypatch, tmp_path):
    """A machine without pycuda and with an empty cache."""
    found = build.importlib.util.find_spec
    monkeypatch.setattr(
        build.importlib.util, "find_spec", lambda name: None if name == "pycuda" else found(name)
    )
    monkeypatch.setenv("TENSORBUS_CACHE", str(tmp_path))
    return tmp_path


def said(capsys) -> str:
    (*_, line) = capsys.readouterr().out.splitlines()
    return line


def test_nothing_is_done_where_it_is_installed(monkeypatch, capsys):
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(build, "_run", None)
    assert build.main() == 0
    assert capsys.readouterr().out == ""


def test_without_a_compiler_one_line_says_so(absent, monkeypatch, capsys):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.setattr(build.sys, "platform", "linux")
    assert build.main() == 0
    line = said(capsys)
    assert "g++ is missing" in line
    assert "the simulation of cuda will not run" in line


def test_other_systems_are_told(absent, monkeypatch, capsys):
    monkeypatch.setattr(build.sys, "platform", "darwin")
    assert build.main() == 0
    assert "Linux only, not on darwin" in said(capsys)


@needs_compiler
def test_the_reason_of_pip_is_passed_on(absent, monkeypatch, capsys):
    failing = "import sys; sys.exit('ERROR: no index\\nerror: subprocess-exited-with-error')"
    monkeypatch.setattr(build, "_PIP", (sys.executable, "-c", failing))
    assert build.main() == 0
    line = said(capsys)
    assert f"cannot fetch {build.PYCUDA}: ERROR: no index" in line


@needs_compiler
def test_the_wheel_is_built_once(absent, monkeypatch):
    builds, installed = [], []

    def made(path):
        builds.append(path)
        path.write_bytes(b"wheel")

    monkeypatch.setattr(build, "_build", made)
    monkeypatch.setattr(build, "_run", lambda command, purpose: installed.append(command[-1]))
    assert build.main() == build.main() == 0
    assert len(builds) == 1
    assert DiskCache().directory == absent
    # pip reads what a wheel is for off its name.
    name = installed[1].rpartition("/")[2].removesuffix(".whl").split("-")
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert name[:4] == ["pycuda", build.PYCUDA.partition("==")[2], tag, tag]


@needs_compiler
def test_the_stub_says_that_it_is_one(tmp_path):
    folder = build._stub(tmp_path)
    assert ctypes.CDLL(str(folder / "libcuda.so")).cuInit(0) == 34
    assert b"libcuda.so.1" in (folder / "libcuda.so").read_bytes()
