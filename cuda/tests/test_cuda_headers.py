"""Numbers and prototypes of the plugin against NVIDIA's own headers, where they are installed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import tensorbus_cuda.simulator
from tensorbus_backends import dtypes as dt
from tensorbus_cuda import compiler, libcuda, natives
from tensorbus_cuda.errors import CODES, Kind

sys.path.insert(0, str(Path(__file__).parents[2] / "backends" / "tests"))
import vendor_headers as vendor

# CUDA C++ headers say it of each error after which the process has to be started anew, and of an
# assertion that its context "cannot be used anymore".
_FOR_GOOD = re.compile(r"process must\s+be terminated|context cannot be used anymore")

# For C++ cublas_api.h adds overloads for old programs, and a name stands for one function only.
_AS_C = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <driver_types.h>
#include <cuComplex.h>
#pragma push_macro("__cplusplus")
#undef __cplusplus
"""

_SIMULATOR = Path(tensorbus_cuda.simulator.__file__).parent


def _errors() -> dict[str, tuple[int, str]]:
    """Number and comment of each CUresult of the installed cuda.h."""
    text = vendor.header("cuda.h").read_text()
    body = re.search(r"typedef enum cudaError_enum \{(.*?)\} CUresult", text, re.DOTALL)
    assert body is not None
    found = re.findall(r"/\*\*(.*?)\*/\s*(CUDA_\w+)\s*=\s*(\d+)", body[1], re.DOTALL)
    return {name: (int(code), " ".join(words.replace("*", " ").split()))
            for words, name, code in found}  # fmt: skip


def test_result_codes():
    known = _errors()
    assert len(known) > 60
    # An older toolkit does not have the newest.
    own = {name: code for code, (name, _) in CODES.items() if name in known}
    assert len(own) > 30
    assert {name: known[name][0] for name in own} == own


def test_what_ends_a_process_is_known_as_lost():
    ending = {code for code, words in _errors().values() if _FOR_GOOD.search(words)}
    assert {700, 702, 710, 716, 719} <= ending
    assert {code for code in ending if CODES.get(code, ("", None))[1] is not Kind.LOST} == set()


def test_the_driver():
    functions = vendor.declared(libcuda._DECLARATIONS)
    assert len(functions) == 9
    found = vendor.numbers(
        "cuda.h",
        ["CU_STREAM_NON_BLOCKING", "CUDA_ERROR_NO_DEVICE", "sizeof(CUdeviceptr)"],
        declarations=libcuda._DECLARATIONS,
        functions=functions,
    )
    assert found == {
        "CU_STREAM_NON_BLOCKING": 1,
        "CUDA_ERROR_NO_DEVICE": libcuda._NO_DEVICE,
        "sizeof(CUdeviceptr)": 8,
        **dict.fromkeys(functions, 1),
    }


@pytest.mark.parametrize(
    "name", [n for n in vendor.declared(libcuda._DECLARATIONS) if "_" not in n]
)
def test_no_newer_version_of_a_function_hides_behind_its_name(name):
    """cuda.h renames what has changed (cuMemAlloc_v2), and cffi takes names as they are."""
    text = vendor.header("cuda.h").read_text()
    renamed = re.search(rf"#define\s+{name}\s+(\S.*)", text)
    assert renamed is None or name in re.split(r"\W+", renamed[1])


def test_nvrtc():
    functions = vendor.declared(compiler._DECLARATIONS)
    assert len(functions) == 13
    found = vendor.numbers(
        "nvrtc.h",
        ["NVRTC_SUCCESS", "NVRTC_ERROR_COMPILATION"],
        declarations=compiler._DECLARATIONS,
        functions=functions,
    )
    assert found == {
        "NVRTC_SUCCESS": 0,
        "NVRTC_ERROR_COMPILATION": compiler._COMPILATION,
        **dict.fromkeys(functions, 1),
    }


def test_cublas():
    functions = vendor.declared(natives._DECLARATIONS)
    assert len(functions) == 9
    wanted = {
        "CUDA_R_16F": natives._TYPES[dt.float16],
        "CUDA_R_16BF": natives._TYPES[dt.bfloat16],
        "CUDA_R_32F": natives._TYPES[dt.float32],
        "CUDA_R_64F": natives._TYPES[dt.float64],
        "CUBLAS_COMPUTE_32F": natives._COMPUTE_32F,
        "CUBLAS_COMPUTE_32F_FAST_TF32": natives._COMPUTE_32F_FAST_TF32,
        "CUBLAS_COMPUTE_64F": natives._COMPUTE_64F,
        "CUBLAS_GEMM_DEFAULT": natives._ALGO_DEFAULT,
        "CUBLAS_OP_N": natives._NO_TRANSPOSE,
        "CUBLAS_OP_T": natives._TRANSPOSE,
        "CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION": natives._NO_REDUCED_PRECISION,
        "CUBLAS_DEFAULT_MATH": 0,
        **{name: code for code, name in natives._STATUS.items()},
    }
    found = vendor.numbers(
        "cublas_v2.h",
        wanted,
        declarations=natives._DECLARATIONS,
        functions=functions,
        before=_AS_C,
        after='#pragma pop_macro("__cplusplus")',
    )
    assert found == {**wanted, **dict.fromkeys(functions, 1)}


def test_every_status_of_cublas_has_its_name():
    text = vendor.header("cublas_api.h").read_text()
    known = re.findall(r"(CUBLAS_STATUS_\w+)\s*=\s*(\d+)", text)
    assert {int(code): name for name, code in known if int(code)} == natives._STATUS


def test_the_simulated_driver():
    """pycuda is compiled with the real header, so the simulator has to have its types."""
    known = vendor.spoken("cuda.h")
    # Older versions of a function, which cuda.h of today does not declare, are left out.
    own = {
        name: text
        for name, text in vendor.exported(_SIMULATOR, "CU_API").items()
        if re.match("cu[A-Z]", name) and re.search(rf"\b{name}\s*\(", known)
    }
    assert len(own) > 90
    found = vendor.numbers(
        "cuda.h",
        [],
        declarations="typedef CUDA_MEMCPY2D Copy2D; typedef CUlaunchConfig LaunchConfig;\n"
        + "\n".join(own.values()),
        functions=own,
    )
    assert [name for name, same in found.items() if not same] == []


def test_the_simulated_drivers_codes():
    known = {name: code for name, (code, _) in _errors().items()} | {"CUDA_SUCCESS": 0}
    words = re.findall(r'\{(\d+), "(CUDA_\w+)"', (_SIMULATOR / "cu_device.cpp").read_text())
    codes = re.findall(r"(CUDA_\w+) = (\d+)", (_SIMULATOR / "cu.h").read_text())
    assert len(words) > 50
    assert len(codes) > 25
    for name, code in [*((name, code) for code, name in words), *codes]:
        assert known.get(name, int(code)) == int(code), name
    # Whatever the plugin tells apart can be said by the simulator.
    assert set(CODES) - {int(code) for code, _ in words} <= {300}
