"""The plugin on NVIDIA's driver, through the forwarder, over the simulated libcuda and NVRTC."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tensorbus_backends.contract import CompileError, DeviceUnavailableError
from tensorbus_backends.units import program_text
from tensorbus_rocm import library
from tensorbus_rocm.compiler import Hiprtc
from tensorbus_rocm.dialect import hip_dialect
from tensorbus_rocm.library import Hip

sys.path.insert(0, str(Path(__file__).parent / "forwarder"))
from build import NoCompilerError, build, forwarded, nvrtc

OPS = """
import json, sys
import numpy as np
import tensorbus as tb

rng = np.random.default_rng(1)
x = rng.standard_normal((33, 70)).astype(np.float32)
OPS = {
    "add": lambda x: x + x,
    "divide": lambda x: x / (x * x),
    "sqrt": lambda x: tb.sqrt(tb.abs(x)),
    "exp": tb.exp,
    "sum": lambda x: tb.sum(x, axis=0),
    "softmax": lambda x: tb.nn.softmax(x, axis=1),
    "sort": tb.sort,
    "matmul": lambda x: x @ x.mT,
    "astype": lambda x: tb.astype(tb.astype(x, tb.bfloat16), tb.int16),
    "argmax": lambda x: tb.argmax(x, axis=1),
}
same = {}
for name, op in OPS.items():
    pair = [op(tb.asarray(x, device=d)).numpy() for d in ("rocm:0", "ref")]
    same[name] = pair[0].tobytes() == pair[1].tobytes()
info = tb.get_device("rocm:0").info
print(json.dumps([same, info.evidence, info.description, info.details]))
"""


@pytest.fixture(scope="module")
def simulated():
    from tensorbus_backends.simulator import library as build_library
    from tensorbus_cuda.simulator import SONAME, sources

    try:
        return build_library("cuda", sources(), SONAME)
    except DeviceUnavailableError as error:
        pytest.skip(f"no simulated libcuda: {error.cause}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("forwarder")


def made(folder, simulator=None):
    try:
        return forwarded(folder, simulator)
    except NoCompilerError as error:
        if "needs a C++ compiler" in str(error):
            pytest.skip(str(error))
        raise


def run(program, settings, cache):
    """What a process prints with the forwarder in place."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TENSORBUS_")}
    environment = {**kept, "TENSORBUS_CACHE": str(cache), **settings}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ops_are_bit_for_bit(folder, simulated):
    out = run(OPS, made(folder / "simulated", simulated), folder / "cache")
    same, evidence, description, details = json.loads(out)
    assert same == dict.fromkeys(same, True)
    assert len(same) == 10
    # Neither an AMD GPU nor any hardware is claimed.
    assert evidence == "simulated"
    assert "simulated" in description
    assert "gfxc90" in description
    assert details["arch"] == "gfxc90"


PROBE = """
import json
from tensorbus_rocm import PLUGIN
print(json.dumps([[line.available, line.cause] for line in PLUGIN.probe()]))
"""


@pytest.mark.parametrize("over_simulator", [False, True])
def test_simulated_and_real_drivers_are_not_mixed_up(folder, simulated, over_simulator):
    settings = made(folder / "simulated", simulated) if over_simulator else made(folder / "real")
    # The one for simulators gets what is none, and the other way round.
    other = {"TENSORBUS_FORWARD_CUDA": "libc.so.6" if over_simulator else str(simulated)}
    ((available, cause),) = json.loads(run(PROBE, settings | other, folder / "cache"))
    assert not available
    assert "has no device" in cause


def test_two_devices(folder, simulated):
    program = """
import json
import numpy as np, tensorbus as tb
x = tb.asarray(np.arange(5.0), device="rocm:1")
y = (x + 1).to_device("rocm:0") * 2
z = tb.asarray(np.arange(5.0), device="rocm:0") + y
print(json.dumps([z.numpy().tolist(), [str(v.device) for v in (x, y, z)]]))
"""
    settings = made(folder / "simulated", simulated)
    two = {"TENSORBUS_SIMULATE_CUDA": "devices=2,capability=9.0/8.0"}
    values, devices = json.loads(run(program, settings | two, folder / "cache"))
    assert values == [2.0, 5.0, 8.0, 11.0, 14.0]
    assert devices == ["rocm:1", "rocm:0", "rocm:0"]


def test_a_rejected_kernel_has_nvrtcs_log(folder, simulated):
    program = """
from tensorbus_rocm.library import open_hip
from tensorbus_rocm.compiler import Hiprtc
from tensorbus_backends.contract import CompileError
import os
hiprtc = Hiprtc.open(open_hip(os.environ["TENSORBUS_ROCM_LIBRARY"]))
try:
    hiprtc.compile('extern "C" __global__ void k() { nonsense; }', "gfxc90")
except CompileError as error:
    print(error.log)
"""
    log = run(program, made(folder / "simulated", simulated), folder / "cache")
    assert "nonsense" in log


# -- without a driver -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hip(folder):
    try:
        path = str(build(folder / "real"))
    except NoCompilerError as error:
        pytest.skip(str(error))
    return Hip(path, library.ffi().dlopen(path), chosen=True)


def test_every_function_that_the_plugin_declares_is_there(hip):
    declared = re.findall(r"\b(hip\w+|hiprtc\w+)\(", library._DECLARATIONS)
    missing = [name for name in declared if not library.has(hip.lib, name)]
    # That of HIP 5, which version 6 no longer fills in.
    assert missing == ["hipGetDeviceProperties"]


def test_it_says_what_it_is(hip):
    assert library.exports(hip.path, "tensorbus_forwarder")
    assert (hip.kind, hip.stand_in, hip.simulated) == ("HIP over CUDA forwarder", True, False)


def test_errors_have_hips_names(hip):
    assert hip.words(2) == "hipErrorOutOfMemory: out of memory"
    assert hip.words(700).startswith("hipErrorIllegalAddress")
    assert hip.words(12345).startswith("hipErrorUnknown")


needs_nvrtc = pytest.mark.skipif(nvrtc() is None, reason="NVRTC's wheel is not installed")


@pytest.fixture
def hiprtc(hip, monkeypatch):
    monkeypatch.setenv("TENSORBUS_FORWARD_NVRTC", nvrtc() or "")
    return Hiprtc.open(hip)


MULTIPLY_ADD = """
extern "C" __global__ void k(float *x) {
    x[0] = x[0] * x[1] + x[2]; x[3] = x[3] / x[4]; x[5] = sqrtf(x[5]);
}
"""


@needs_nvrtc
def test_options_keep_their_meaning(hiprtc):
    # No NVRTC knows sm_999, so that is PTX of its newest: text to look at.
    ptx = hiprtc.compile(MULTIPLY_ADD, "gfxc999").decode()
    assert "fma.rn.f32" not in ptx
    assert "div.rn.f32" in ptx
    assert "sqrt.rn.f32" in ptx
    assert ".ftz" not in ptx


@needs_nvrtc
def test_a_known_target_gives_machine_code(hiprtc):
    assert hiprtc.version.startswith("hiprtc 1")
    code = hiprtc.compile(MULTIPLY_ADD, "gfxc90")
    assert code[:4] == b"\x7fELF"


@needs_nvrtc
def test_the_plugins_dialect_is_compiled(hiprtc):
    from tensorbus_backends.check import Check

    dialect = hip_dialect()
    text = program_text(dialect, [Check(True).source(dialect)])
    assert b"tb_check_64" in hiprtc.compile(text, "gfxc90")


@needs_nvrtc
def test_unknown_options_are_refused(hiprtc, monkeypatch):
    from tensorbus_rocm import compiler

    monkeypatch.setattr(compiler, "OPTIONS", ("-fsomething-new",))
    with pytest.raises(CompileError, match="INVALID_OPTION"):
        hiprtc.compile(MULTIPLY_ADD, "gfxc90")
