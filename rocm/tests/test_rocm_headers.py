"""Numbers and prototypes of the plugin against AMD's own headers, where they are installed.

The constants and offsets were also compared with the headers of HIP 5.0, 5.3, 5.7, 6.0, 6.2 and 6.3
and by eye with HIP 7's, and what is said of rocBLAS with the headers of ROCm 6.3.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import tensorbus_rocm.simulator
from tensorbus_backends import dtypes as dt
from tensorbus_rocm import compiler, driver, errors, inventory, library, natives

sys.path.insert(0, str(Path(__file__).parents[2] / "backends" / "tests"))
import vendor_headers as vendor

_AMD = "#define __HIP_PLATFORM_AMD__ 1\n#define __HIP_DISABLE_CPP_FUNCTIONS__ 1\n"


def _functions(name: str, prefix: str) -> list[str]:
    """Functions of the plugin that a header declares too."""
    text = vendor.header(name).read_text()
    known = [f for f in vendor.declared(library._DECLARATIONS) if f.startswith(prefix)]
    return [f for f in known if re.search(rf"\b{f}\s*\(", text)]


def _part(prefix: str) -> str:
    """The declarations of one library."""
    parts = library._DECLARATIONS.split(";")
    return "".join(f"{part};" for part in parts if re.search(rf"\b{prefix}\w+\(", part))


def test_hip():
    functions = _functions("hip/hip_runtime_api.h", "hip")
    # One name or the other, by version: hipGetDeviceProperties, hipGetDevicePropertiesR0600.
    assert len(functions) >= 29
    wanted = {
        "hipDeviceAttributeWarpSize": inventory._WARP,
        "hipDeviceAttributeMaxSharedMemoryPerBlock": inventory._SHARED,
        "hipDeviceAttributeMultiprocessorCount": inventory._UNITS,
        "hipDeviceAttributeMaxThreadsPerBlock": inventory._THREADS,
        "hipMemcpyHostToDevice": driver._TO_DEVICE,
        "hipMemcpyDeviceToHost": driver._TO_HOST,
        "hipMemcpyDeviceToDevice": driver._ON_DEVICE,
        "hipStreamNonBlocking": driver._NON_BLOCKING,
        "hipEventDisableTiming": driver._NO_TIMING,
        "HIP_LAUNCH_PARAM_BUFFER_POINTER": driver._BUFFER,
        "HIP_LAUNCH_PARAM_BUFFER_SIZE": driver._SIZE,
        "HIP_LAUNCH_PARAM_END": driver._END,
        "hipErrorNotReady": errors.NOT_READY,
        "sizeof(hipDevice_t)": 4,
        "sizeof(hipError_t)": 4,
    }
    found = vendor.numbers(
        "hip/hip_runtime_api.h",
        wanted,
        declarations=_part("hip[A-Z]"),
        functions=functions,
        before=_AMD,
    )
    assert found == {**wanted, **dict.fromkeys(functions, 1)}


def test_hip_errors():
    names = {
        "hipErrorNoDevice": errors.NO_DEVICE,
        "hipErrorInvalidDevice": errors.NO_DEVICE,
        "hipErrorOutOfMemory": errors._MEMORY,
        "hipErrorRuntimeMemory": errors._MEMORY,
        "hipErrorIllegalAddress": errors._POISONED,
        "hipErrorAssert": errors._POISONED,
        "hipErrorNotInitialized": errors._LOST,
        "hipErrorDeinitialized": errors._LOST,
        "hipErrorPriorLaunchFailure": errors._LOST,
        "hipErrorInvalidContext": errors._LOST,
        "hipErrorECCNotCorrectable": errors._LOST,
        "hipErrorIllegalState": errors._LOST,
        "hipErrorContextIsDestroyed": errors._LOST,
    }
    found = vendor.numbers("hip/hip_runtime_api.h", names, before=_AMD)
    for name, kind in names.items():
        assert found[name] in kind, name
    known = set(found.values())
    assert known >= errors.NO_DEVICE | errors._MEMORY | errors._POISONED | errors._LOST


def test_where_the_properties_name_the_architecture():
    version = vendor.numbers("hip/hip_version.h", ["HIP_VERSION_MAJOR"])["HIP_VERSION_MAJOR"]
    symbol = "hipGetDeviceProperties" + ("R0600" if version >= 6 else "")
    (offset,) = [known.arch for known in inventory.LAYOUTS if known.symbol == symbol]
    place, size = "offsetof(hipDeviceProp_t, gcnArchName)", "sizeof(hipDeviceProp_t)"
    found = vendor.numbers("hip/hip_runtime_api.h", [place, size], before=_AMD)
    assert found[place] == offset
    assert found[size] <= inventory._ROOM


def test_a_version_number():
    parts = ["HIP_VERSION_MAJOR", "HIP_VERSION_MINOR", "HIP_VERSION_PATCH", "HIP_VERSION"]
    *split, whole = vendor.numbers("hip/hip_version.h", parts).values()
    assert library.split_version(whole) == tuple(split)


def test_hiprtc():
    functions = _functions("hip/hiprtc.h", "hiprtc")
    assert len(functions) == 9
    found = vendor.numbers(
        "hip/hiprtc.h",
        ["HIPRTC_SUCCESS", "HIPRTC_ERROR_COMPILATION"],
        declarations=_part("hiprtc"),
        functions=functions,
        before=_AMD,
    )
    assert found == {
        "HIPRTC_SUCCESS": 0,
        "HIPRTC_ERROR_COMPILATION": compiler._COMPILATION,
        **dict.fromkeys(functions, 1),
    }


# rocblas-types.h, rocblas_operation, _datatype, _atomics_mode, _gemm_algo and _status.
ROCBLAS = {
    "rocblas_operation_none": 111,
    "rocblas_operation_transpose": 112,
    "rocblas_datatype_f16_r": 150,
    "rocblas_datatype_f32_r": 151,
    "rocblas_datatype_f64_r": 152,
    "rocblas_datatype_bf16_r": 168,
    "rocblas_atomics_not_allowed": 0,
    "rocblas_gemm_algo_standard": 0,
    "rocblas_gemm_flags_none": 0,
    "rocblas_status_success": 0,
    "rocblas_status_memory_error": 5,
    "rocblas_status_perf_degraded": 7,
}


def test_rocblas():
    functions = [f for f in vendor.declared(library._DECLARATIONS) if f.startswith("rocblas_")]
    found = vendor.numbers(
        "rocblas/rocblas.h",
        ROCBLAS,
        declarations=_part("rocblas_"),
        functions=functions,
        before=_AMD,
    )
    assert found == {**ROCBLAS, **dict.fromkeys(functions, 1)}


def test_rocblas_by_number():
    """Where its headers are not installed, the numbers that they had are pinned above."""
    assert {
        dt.float16: ROCBLAS["rocblas_datatype_f16_r"],
        dt.float32: ROCBLAS["rocblas_datatype_f32_r"],
        dt.float64: ROCBLAS["rocblas_datatype_f64_r"],
        dt.bfloat16: ROCBLAS["rocblas_datatype_bf16_r"],
    } == natives._TYPES
    assert ROCBLAS["rocblas_operation_none"] == natives._NONE
    assert ROCBLAS["rocblas_operation_transpose"] == natives._TRANSPOSE
    assert ROCBLAS["rocblas_atomics_not_allowed"] == natives._NO_ATOMICS
    assert ROCBLAS["rocblas_gemm_algo_standard"] == natives._STANDARD
    assert ROCBLAS["rocblas_status_memory_error"] == natives._MEMORY_ERROR
    assert ROCBLAS["rocblas_status_perf_degraded"] == natives._SLOWER


@pytest.mark.parametrize(("major", "minor"), [(5, 0), (5, 7), (6, 3), (7, 1)])
def test_versions_are_composed_alike(major, minor):
    assert library.split_version(major * 10_000_000 + minor * 100_000 + 5) == (major, minor, 5)


_SIMULATOR = Path(tensorbus_rocm.simulator.__file__).parent


@pytest.mark.parametrize(
    ("name", "prefix", "count"),
    [("hip/hip_runtime_api.h", "hip[A-Z]", 29), ("hip/hiprtc.h", "hiprtc", 9)],
)
def test_the_simulated_libraries(name, prefix, count):
    known = vendor.spoken(name, _AMD)
    own = {
        function: text.replace("hiprtcProgram *", "::hiprtcProgram *")
        for function, text in vendor.exported(_SIMULATOR, "EXPORT").items()
        if re.match(prefix, function) and re.search(rf"\b{function}\s*\(", known)
    }
    assert len(own) >= count
    found = vendor.numbers(
        name, [], declarations="\n".join(own.values()), functions=own, before=_AMD
    )
    assert [function for function, same in found.items() if not same] == []


def test_the_codes_of_what_stands_in_for_hip():
    """Of the simulator, and of the forwarder that puts HIP on a CUDA driver."""
    forwarder = Path(__file__).with_name("forwarder") / "forwarder.cpp"
    words = (_SIMULATOR / "queue.cpp").read_text() + forwarder.read_text()
    codes = {name: int(code) for code, name in re.findall(r'\{(\d+), "(hip\w+)"', words)}
    enumerators = re.findall(r"(hip[A-Z]\w+) = (\d+)", (_SIMULATOR / "hip.h").read_text())
    codes |= {name: int(code) for name, code in enumerators}
    assert len(codes) >= 25
    assert vendor.numbers("hip/hip_runtime_api.h", codes, before=_AMD) == codes
