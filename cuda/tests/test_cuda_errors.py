"""What a result code becomes, from pycuda's words."""

from __future__ import annotations

import pytest
from tensorbus_backends.contract import (
    CompileError,
    DeviceLostError,
    LaunchError,
    OutOfMemoryError,
)
from tensorbus_cuda.errors import CODES, Kind, Results

WORDS = {code: f"words of {code}" for code in CODES}


@pytest.fixture
def results():
    return Results(lambda code: WORDS.get(code, ""))


@pytest.mark.parametrize(
    ("code", "kind", "advice"),
    [
        (2, OutOfMemoryError, "drop tensors"),
        (46, DeviceLostError, "another process holds the device"),
        (209, CompileError, "NO_BINARY_FOR_GPU"),
        (222, CompileError, "UNSUPPORTED_PTX_VERSION"),
        (214, DeviceLostError, "hardware fault"),
        (700, DeviceLostError, "compute-sanitizer"),
        (701, LaunchError, "TENSORBUS_CUDA_GROUP"),
        (702, DeviceLostError, "longer than the display allows"),
        (709, DeviceLostError, "start a new process"),
        (714, DeviceLostError, "start a new process"),
        (719, DeviceLostError, "start a new process"),
        (1, LaunchError, "INVALID_VALUE"),
    ],
)
def test_every_kind_says_what_to_do(results, code, kind, advice):
    error = results.of(Exception(f"cuLaunchKernel failed: words of {code}")).error("cuda:1", "x")
    assert type(error) is kind
    assert "cuda:1" in str(error)
    assert CODES[code][0] in str(error)
    assert advice in str(error)


def test_the_words_may_be_followed_by_a_log(results):
    found = results.of(Exception("cuModuleLoadDataEx failed: words of 218 - ptxas: line 3"))
    assert (found.code, found.kind) == (218, Kind.IMAGE)


def test_words_that_nobody_knows_are_kept(results):
    found = results.of(Exception("cuStreamQuery failed: something new"))
    assert (found.code, found.kind, found.name) == (0, Kind.LAUNCH, "something new")
    assert "something new" in str(found.error("cuda:0", "waiting"))


def test_a_code_by_number(results):
    assert results.code(2).kind is Kind.MEMORY
    assert results.code(12345).name == "CUresult 12345"


def test_faults_of_a_kernel_are_for_good():
    """CUDA answers every later call of the process with them."""
    names = [name for name, kind in CODES.values() if kind is Kind.LOST]
    for name in ("ILLEGAL_ADDRESS", "LAUNCH_FAILED", "ECC_UNCORRECTABLE", "ILLEGAL_INSTRUCTION"):
        assert f"CUDA_ERROR_{name}" in names
