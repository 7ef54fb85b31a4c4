"""Where libraries are looked for, and in which order."""

from __future__ import annotations

import importlib.machinery

import pytest
from tensorbus_cuda import libraries
from tensorbus_cuda.libraries import candidates, major


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty machine: no wheels and no toolkits but those that a test makes."""
    spec = importlib.machinery.ModuleSpec("nvidia", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "site" / "nvidia")]
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(libraries.shutil, "which", lambda name: None)
    monkeypatch.setattr(libraries, "_SYSTEM", tmp_path / "local")
    for name in ("CUDA_PATH", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)

    def make(*parts):
        path = tmp_path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return str(path)

    return make


LOADER = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11"]


def test_without_any_the_loader_is_asked(place):
    assert candidates("nvrtc") == LOADER


def test_wheels_come_first_and_newer_before_older(place):
    old = place("site", "nvidia", "cuda_nvrtc", "lib", "libnvrtc.so.12")
    new = place("site", "nvidia", "cu13", "lib", "libnvrtc.so.13")
    place("site", "nvidia", "cu13", "lib", "libnvrtc-builtins.so.13.0")
    place("site", "nvidia", "cu13", "lib", "libcublas.so.13")
    toolkit = place("local", "cuda-12.4", "lib64", "libnvrtc.so.12")
    assert candidates("nvrtc") == [new, old, toolkit, *LOADER]


def test_toolkits_that_the_environment_names(place, tmp_path, monkeypatch):
    named = place("own", "lib64", "libcublas.so.12")
    usual = place("local", "cuda", "targets", "x86_64-linux", "lib", "libcublas.so.12")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "own"))
    assert candidates("cublas")[:2] == [named, usual]


def test_the_folder_of_nvcc(place, tmp_path, monkeypatch):
    library = place("opt", "lib64", "libnvrtc.so.12")
    nvcc = place("opt", "bin", "nvcc")
    monkeypatch.setattr(libraries.shutil, "which", lambda name: nvcc)
    assert candidates("nvrtc")[0] == library


def test_links_to_one_file_are_one_library(place, tmp_path):
    real = place("local", "cuda-13.0", "lib64", "libnvrtc.so.13.0.48")
    (tmp_path / "local" / "cuda-13.0" / "lib64" / "libnvrtc.so.13").symlink_to(real)
    assert len(candidates("nvrtc")) == 1 + len(LOADER)


def test_versions_of_names():
    assert major("/x/libnvrtc.so.13") == 13
    assert major("libcublas.so.12.4.5.8") == 12
    assert major("/tmp/libcuda.so") is None
