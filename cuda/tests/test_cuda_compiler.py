"""NVRTC itself: machine code, PTX, logs.  No driver and no GPU is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tensorbus_backends.contract import CompileError, DeviceUnavailableError
from tensorbus_cuda import compiler
from tensorbus_cuda.compiler import Nvrtc, Toolchain, target

sys.path.insert(0, str(Path(__file__).parent))
from nvrtcs import installed

EMPTY = 'extern "C" __global__ void nothing() {}\n'
ARCHS = (75, 80, 86, 90, 100)


@pytest.fixture(scope="module")
def nvrtc():
    return installed()


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((9, 0), "sm_90"),
        ((8, 6), "sm_86"),
        ((8, 9), "compute_86"),  # the newest that it can run
        ((12, 0), "compute_100"),  # newer than the compiler: the driver compiles PTX
        ((7, 0), None),  # older than all that it compiles for
    ],
)
def test_what_to_compile_for(capability, expected):
    assert target(capability, ARCHS) == expected


def test_it_says_what_it_is(nvrtc):
    assert nvrtc.version >= (11, 8)
    assert nvrtc.name == "NVRTC {}.{}".format(*nvrtc.version)
    assert list(nvrtc.supported_archs) == sorted(nvrtc.supported_archs)
    assert 90 in nvrtc.supported_archs


def test_machine_code_and_ptx(nvrtc):
    assert nvrtc.compile(EMPTY, "sm_90")[:4] == b"\x7fELF"
    ptx = nvrtc.compile(EMPTY, "compute_80")
    assert b".target sm_80" in ptx
    assert ptx.endswith(b"\0")  # which cuModuleLoadData wants


def test_a_rejected_program_comes_with_log_and_numbered_source(nvrtc):
    source = EMPTY + "__device__ int f() {\n    return undeclared;\n}\n"
    with pytest.raises(CompileError, match="rejected it for sm_90") as caught:
        nvrtc.compile(source, "sm_90")
    assert "tensorbus.cu(3): error" in caught.value.log
    assert "undeclared" in caught.value.log
    assert "   3     return undeclared;" in caught.value.numbered_source()
    assert "undeclared" in str(caught.value)


def test_a_target_that_it_does_not_know_is_named(nvrtc):
    with pytest.raises(CompileError, match="rejected it for sm_11"):
        nvrtc.compile(EMPTY, "sm_11")


def test_headers_are_not_needed_and_not_looked_for(nvrtc):
    with pytest.raises(CompileError, match="rejected"):
        nvrtc.compile("#include <cuda_fp16.h>\n" + EMPTY, "sm_90")


def test_every_option_is_part_of_the_identity(nvrtc):
    one = Toolchain(nvrtc, "sm_90", "13.0", bytes, 2)
    other = Toolchain(nvrtc, "compute_90", "13.0", bytes, 2)
    assert (one.suffix, other.suffix) == (".cubin", ".ptx")
    assert one.identity != other.identity
    assert all(option in one.identity for option in compiler.OPTIONS)
    assert one.compile(EMPTY)[:4] == b"\x7fELF"


def test_a_library_is_loaded_once(nvrtc):
    assert Nvrtc.open(nvrtc.path) is nvrtc


def test_what_is_no_nvrtc_is_named(tmp_path):
    fake = tmp_path / "libnvrtc.so.13"
    fake.write_bytes(b"no library")
    with pytest.raises(DeviceUnavailableError, match=r"libnvrtc\.so\.13 cannot be loaded") as e:
        Nvrtc.open(str(fake))
    assert e.value.fix == "pip install nvidia-cuda-nvrtc"


def test_a_compiler_that_the_driver_knows_is_preferred(monkeypatch):
    tried = []

    def load(name):
        tried.append(name)
        raise OSError("no such file")

    names = ["/a/libnvrtc.so.13", "/b/libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so.11"]
    monkeypatch.setattr(compiler, "candidates", lambda stem: list(names))
    monkeypatch.setattr(compiler, "_load", load)
    with pytest.raises(DeviceUnavailableError):
        Nvrtc.open(newest=12)
    assert tried == [names[1], names[3], names[0], names[2]]
