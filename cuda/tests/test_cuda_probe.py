"""Every absent case is one line with its cause and its fix, and nothing is ever raised."""

from __future__ import annotations

import sys
import types

import pytest
import tensorbus_cuda
from tensorbus_backends.contract import DeviceUnavailableError, Evidence, Plugin
from tensorbus_backends.probing import Announcement, describe
from tensorbus_cuda import compiler, libcuda as driver, plugin


class Driver:
    """A driver library of which nothing is called but what a probe asks first."""

    def __init__(self, version=(13, 0), devices=1, problem=None):
        self.version, self.count, self.problem = version, devices, problem
        self.path, self.evidence = "libcuda.so.1", Evidence.HARDWARE

    def devices(self):
        if self.problem:
            raise DeviceUnavailableError("cuda", *self.problem)
        return self.count


@pytest.fixture
def probe(monkeypatch):
    def run(found=None):
        if found is not None:
            monkeypatch.setattr(plugin, "libcuda", lambda: found)
        return tensorbus_cuda.PLUGIN.probe()

    return run


def test_it_is_a_plugin_whose_absence_is_a_line() -> None:
    assert isinstance(tensorbus_cuda.PLUGIN, Plugin)
    lines = describe(Announcement("cuda", "tensorbus_cuda:PLUGIN"))
    assert lines
    for line in lines:
        assert line.plugin == "cuda"
        assert line.available or (line.cause and line.fix)


def test_without_the_driver_the_cause_names_its_library(probe, monkeypatch):
    def refuse(*arguments):
        raise OSError("cannot load library 'libcuda.so.1': no such file. Additionally, ...")

    monkeypatch.setattr(driver, "_loaded", [])
    monkeypatch.delenv("TENSORBUS_SIMULATE", raising=False)
    monkeypatch.setattr(driver.cffi.FFI, "dlopen", refuse)
    (line,) = probe()
    assert not line.available
    assert "libcuda.so.1 cannot be loaded" in line.cause
    assert "Additionally" not in line.cause
    assert "install NVIDIA's driver" in line.fix


def test_without_pycuda_the_fix_is_the_extra(probe, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    (line,) = probe(Driver())
    assert "pycuda is not installed" in line.cause
    assert line.fix == 'pip install "tensorbus[cuda]"'


def test_what_the_driver_says_is_passed_on(probe):
    (line,) = probe(Driver(problem=("the driver is too old", "install a newer one")))
    assert (line.cause, line.fix) == ("the driver is too old", "install a newer one")


def test_without_a_compiler_the_fix_is_its_wheel(probe, monkeypatch):
    package, module = types.ModuleType("pycuda"), types.ModuleType("pycuda.driver")
    package.driver = module
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", module)
    monkeypatch.setattr(compiler, "candidates", lambda stem: ["libnvrtc.so.99"])
    (line,) = probe(Driver())
    assert "NVRTC, which compiles kernels, is not installed" in line.cause
    assert "nvidia-cuda-nvrtc" in line.fix


def test_open_raises_with_cause_and_fix(monkeypatch):
    def missing():
        raise DeviceUnavailableError("cuda", "no driver", "install it")

    monkeypatch.setattr(plugin, "libcuda", missing)
    with pytest.raises(DeviceUnavailableError, match="To fix it: install it") as caught:
        tensorbus_cuda.PLUGIN.open(0)
    assert (caught.value.device, caught.value.cause) == ("cuda", "no driver")
