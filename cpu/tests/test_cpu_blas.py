"""Native matrix products."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import NativeCase
from tensorbus_cpu import blas
from tensorbus_cpu.processor import Processor

needs_blas = pytest.mark.skipif(
    importlib.util.find_spec("scipy_openblas64") is None, reason="needs scipy-openblas64"
)


def case_of(*arrays):
    """The case that these arrays make."""
    dtype = dt.from_numpy(arrays[0].dtype)
    strides = [tuple(s // x.itemsize for s in x.strides) for x in arrays]
    shapes = tuple(x.shape for x in arrays)
    return NativeCase("matmul", (dtype,) * 3, shapes, tuple(strides))


LAYOUTS = {
    "plain": lambda rows: (rows(5, 7), rows(7, 3)),
    "left transposed": lambda rows: (rows(7, 5).T, rows(7, 3)),
    "right transposed": lambda rows: (rows(5, 7), rows(3, 7).T),
    "both transposed": lambda rows: (rows(7, 5).T, rows(3, 7).T),
    "padded rows": lambda rows: (rows(5, 9)[:, 1:8], rows(9, 6)[1:8, 2:5]),
    "one row": lambda rows: (rows(1, 7), rows(7, 3)),
    "one column": lambda rows: (rows(5, 7), rows(7, 1)),
    "one element": lambda rows: (rows(1, 1), rows(1, 1)),
    "outer": lambda rows: (rows(5, 1), rows(1, 3)),
    "strided column": lambda rows: (rows(5, 4)[:, 1:2], rows(1, 3)),
    "batch": lambda rows: (rows(4, 5, 7), rows(4, 7, 3)),
    "batch broadcast": lambda rows: (rows(4, 1, 5, 7), rows(3, 7, 2)),
    "batch of views": lambda rows: (rows(6, 5, 7)[::-2], np.broadcast_to(rows(7, 3), (3, 7, 3))),
    "large batch": lambda rows: (rows(50, 20, 20), rows(50, 20, 20)),
    "large": lambda rows: (rows(130, 260), rows(70, 260).T),
}


@needs_blas
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_of_every_supported_layout(device, get, layout, dtype):
    rng = np.random.default_rng(3)
    a, b = LAYOUTS[layout](lambda *shape: rng.standard_normal(shape).astype(dtype))
    shape = np.matmul(np.zeros(a.shape), np.zeros(b.shape)).shape
    out = np.full(shape, np.nan, dtype)
    case, native = case_of(a, b, out), device.natives["matmul"]
    assert native.when(case)
    buffers = [device.import_pointer(x.ctypes.data, x.nbytes, x) for x in (a, b)]
    target = device.allocate(out.nbytes + 32 * out.itemsize)
    guard = np.full(out.size + 32, 7, dtype)
    device.copy_in(target, 0, memoryview(guard.view(np.uint8)))
    native.run(case, [*buffers, target], [0, 0, 16])
    got = get(device, target, dtype, guard.size)
    assert (got[:16] == 7).all()
    assert (got[-16:] == 7).all()
    exact = a.astype(np.float64) @ b.astype(np.float64)
    # |error| <= K u / (1 - K u) |A||B| for any order of summation (Higham, Accuracy and Stability
    # of Numerical Algorithms, section 3.5), once for BLAS and once for the float64 reference.
    inner, magnitude = a.shape[-1], abs(a).astype(np.float64) @ abs(b).astype(np.float64)
    bound = sum(inner * u / (1 - inner * u) for u in (np.finfo(dtype).eps / 2, 2.0**-53))
    bound = bound * magnitude
    assert (abs(got[16:-16].reshape(shape) - exact) <= bound).all()


def zeros(*shape):
    return np.zeros(shape)


REFUSED = {
    "integers": lambda: case_of(*[np.zeros((2, 2), np.int32)] * 3),
    "float16": lambda: case_of(*[np.zeros((2, 2), np.float16)] * 3),
    "mixed": lambda: NativeCase(
        "matmul", (dt.float32, dt.float32, dt.float64), ((2, 2),) * 3, ((2, 1),) * 3
    ),
    "vector": lambda: case_of(zeros(3), zeros(3, 2), zeros(2)),
    "empty": lambda: case_of(zeros(2, 0), zeros(0, 2), zeros(2, 2)),
    "empty batch": lambda: case_of(zeros(0, 2, 2), zeros(2, 2), zeros(0, 2, 2)),
    "wrong inner size": lambda: case_of(zeros(2, 3), zeros(2, 2), zeros(2, 2)),
    "wrong output": lambda: case_of(zeros(2, 3), zeros(3, 2), zeros(3, 2)),
    "two strides": lambda: case_of(zeros(4, 4)[::2, ::2], zeros(2, 2), zeros(2, 2)),
    "reversed": lambda: case_of(zeros(2, 2)[::-1], zeros(2, 2), zeros(2, 2)),
    "overlapping rows": lambda: case_of(
        np.lib.stride_tricks.as_strided(zeros(9), (4, 4), (8, 8)),
        zeros(4, 4),
        zeros(4, 4),
    ),
    "broadcast matrix": lambda: case_of(
        np.broadcast_to(zeros(3), (3, 3)), zeros(3, 3), zeros(3, 3)
    ),
    "strided output": lambda: case_of(zeros(2, 2), zeros(2, 2), zeros(2, 4)[:, ::2]),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_blas_cannot_address_is_refused(reason):
    assert not blas.supported(REFUSED[reason]())


@pytest.mark.parametrize(
    ("features", "name", "expected"),
    [
        ("avx512f avx512bw avx512dq avx512vl avx512cd avx2 fma", "Intel", "SkylakeX"),
        ("avx512f avx512bw avx512dq avx512vl avx512cd avx512_bf16", "Intel", "Cooperlake"),
        (
            "avx512f avx512bw avx512dq avx512vl avx512cd avx512_bf16 amx_bf16",
            "Intel",
            "SapphireRapids",
        ),
        ("avx512f avx2 fma", "Xeon Phi", "Haswell"),
        ("avx2 fma", "AMD EPYC", "Zen"),
        ("sse2", "old", ""),
    ],
)
def test_kernels_are_chosen_by_features(features, name, expected):
    assert blas.core_type(Processor("x86_64", name, frozenset(features.split()))) == expected
    assert blas.core_type(Processor("aarch64", name, frozenset(features.split()))) == ""


@needs_blas
def test_the_environment_is_left_alone(device):
    assert "matmul" in device.natives
    assert "OpenBLAS" in device.natives["matmul"].library
    assert "OPENBLAS_THREAD_TIMEOUT" not in os.environ


def test_without_the_wheel_the_device_works(fresh_device, monkeypatch):
    monkeypatch.setattr(blas, "_library", lambda: None)
    device = fresh_device()
    assert "matmul" not in device.natives
    assert "pip install scipy-openblas64" in device.info.details["blas"]
