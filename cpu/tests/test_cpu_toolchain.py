"""Compilers, flags, the disk cache of kernels, vectorization, probing."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import DeviceUnavailableError
from tensorbus_cpu import PLUGIN, plugin, toolchain
from tensorbus_cpu.processor import processor, usable_threads

ADD = """
const i64 first = g * 4096;
LANES(l, 4096) {
    y0[first + l] = x0[first + l] + x1[first + l];
}
"""


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """$CC as a script that notes each call; returns how often it compiled."""
    real = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if real is None:
        pytest.skip("needs a compiler on PATH to wrap")
    log, script = tmp_path / "calls", tmp_path / "counting-cc"
    script.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {real} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(script))
    return lambda: len(log.read_text().splitlines()) if log.exists() else 0


def run_add(device, spec, put, get):
    (kernel,) = device.compile([spec])
    x = np.arange(4096, dtype=np.float32)
    a, b, c = put(device, x), put(device, x), device.allocate(4 * 4096)
    device.launch(kernel, 1, [a, b, c], spec.meta())
    np.testing.assert_array_equal(get(device, c, np.float32, 4096), x + x)


def test_a_warm_cache_calls_no_compiler(fresh_device, hand_kernel, put, get, counted):
    spec = hand_kernel("t_add", ADD, dtypes=("float32",) * 3)
    run_add(fresh_device(), spec, put, get)
    cold = counted()
    assert cold > 0
    run_add(fresh_device(), spec, put, get)
    assert counted() == cold


def test_a_kernel_is_found_in_the_unit_it_was_built_in(fresh_device, hand_kernel, counted):
    specs = [hand_kernel(f"t_k{k}", f"y0[g] = x0[g] + {k}.0f;") for k in range(9)]
    fresh_device().compile(specs)
    cold = counted()
    fresh_device().compile(specs[4:5])
    fresh_device().compile(specs[::-1])
    assert counted() == cold


def test_damaged_libraries_are_built_again(fresh_device, hand_kernel, put, get, counted, tmp_path):
    spec = hand_kernel("t_add", ADD, dtypes=("float32",) * 3)
    run_add(fresh_device(), spec, put, get)
    before = counted()
    files = list((tmp_path / "cache").rglob("payload.so"))
    assert files
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.unlink()  # the loaded library stays whole
        path.write_bytes(data)
    run_add(fresh_device(), spec, put, get)
    assert counted() > before


def test_two_processes_may_warm_a_cache_at_once(tmp_path):
    text = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import tensorbus_cpu
from conftest import HandKernel
device = tensorbus_cpu.PLUGIN.open(0)
specs = [HandKernel(f"t_w{k}", f"y0[g] = x0[g] * {k}.0f;") for k in range(3)]
x, y = device.allocate(4), device.allocate(4)
device.copy_in(x, 0, memoryview(np.ones(1, np.float32).view(np.uint8)))
for k, kernel in enumerate(device.compile(specs)):
    device.launch(kernel, 1, [x, y], specs[0].meta())
    out = np.zeros(1, np.float32)
    device.copy_out(y, 0, memoryview(out.view(np.uint8)))
    assert out[0] == k
"""
    environment = {"TENSORBUS_CACHE": str(tmp_path / "shared"), "TENSORBUS_NUM_THREADS": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", text, str(Path(__file__).parent)],
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert list((tmp_path / "shared" / "tmp").iterdir()) == []


def test_an_unwritable_cache_still_compiles(fresh_device, hand_kernel, put, get, tmp_path):
    (tmp_path / "file").write_text("in the way")
    spec = hand_kernel("t_add", ADD, dtypes=("float32",) * 3)
    with pytest.warns(RuntimeWarning, match="compile cache") as caught:
        run_add(fresh_device(tmp_path / "file" / "cache"), spec, put, get)
    assert len(caught) == 1


def test_no_compiler_says_cause_and_fix(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    plugin._attempt.cache_clear()
    try:
        (info,) = PLUGIN.probe()
        assert not info.available
        assert "no C compiler was found" in info.cause
        assert "pip install ziglang" in info.fix
        with pytest.raises(DeviceUnavailableError, match="no C compiler"):
            PLUGIN.open(0)
    finally:
        monkeypatch.undo()
        plugin._attempt.cache_clear()
    assert PLUGIN.probe()[0].available


@pytest.mark.parametrize(
    ("compiler", "cause"),
    [("/no/such/cc", "is not an executable file"), ("false", "no C compiler works here")],
)
def test_a_bad_cc_is_not_passed_over_in_silence(monkeypatch, tmp_path, compiler, cause):
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(toolchain.NoCompilerError, match=cause):
        toolchain.find_toolchain(DiskCache(tmp_path))


def test_a_compiler_that_miscompiles_is_not_available(monkeypatch, tmp_path):
    real = shutil.which("gcc") or shutil.which("clang")
    if real is None:
        pytest.skip("needs a compiler on PATH to wrap")
    script = tmp_path / "wrong-cc"
    script.write_text(
        f'#!/bin/sh\nexec {real} "$@" -D__builtin_fmaf\\(a,b,c\\)=\\(\\(a\\)*\\(b\\)\\)\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setenv("TENSORBUS_CACHE", str(tmp_path / "cache"))
    plugin._attempt.cache_clear()
    try:
        (info,) = PLUGIN.probe()
        assert not info.available
        assert "a test kernel failed: element" in info.cause
        assert "CC" in info.fix
    finally:
        plugin._attempt.cache_clear()


def test_there_is_one_device():
    with pytest.raises(DeviceUnavailableError, match="there is one cpu device"):
        PLUGIN.open(1)


def test_flags_forbid_contraction(device):
    assert "-ffp-contract=off" in device.info.details["flags"]


def test_the_number_of_threads_can_be_chosen(monkeypatch):
    monkeypatch.setenv("TENSORBUS_NUM_THREADS", "5")
    assert usable_threads() == 5
    monkeypatch.setenv("TENSORBUS_NUM_THREADS", "")
    chosen = usable_threads()
    assert chosen >= 1
    for ignored in ("0", "-3", "many"):
        monkeypatch.setenv("TENSORBUS_NUM_THREADS", ignored)
        with pytest.warns(RuntimeWarning, match=f"'{ignored}' is no number of .*{chosen} are used"):
            assert usable_threads() == chosen


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_an_add_loop_is_vectorized(fresh_device, hand_kernel, tmp_path):
    spec = hand_kernel("t_add", ADD, dtypes=("float32",) * 3)
    fresh_device().compile([spec])
    listings = [
        subprocess.run(
            ["objdump", "-d", "--disassemble=t_add", str(path)], capture_output=True, text=True
        ).stdout
        for path in (tmp_path / "cache").rglob("payload.so")
    ]
    listing = "\n".join(text for text in listings if "<t_add>:" in text)
    assert listing
    features, machine = processor().features, processor().machine
    if "avx512f" in features:
        register = r"%zmm\d+"
    elif "avx2" in features:
        register = r"%ymm\d+"
    elif machine == "x86_64":
        register = r"%xmm\d+"
    else:
        register = r"v\d+\.4s|z\d+\.s"
    assert re.search(rf"add(ps)?\s.*({register})", listing), listing
