"""A real hiprtc, which needs no GPU.

Run by `test_rocm_language.py` in a process of its own: the LLVM in Debian's hiprtc and the one in
Intel's OpenCL runtime end a process that loads both.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from tensorbus_backends.check import Check
from tensorbus_backends.contract import CompileError, DeviceUnavailableError
from tensorbus_backends.units import program_text
from tensorbus_rocm import compiler
from tensorbus_rocm.codeobject import float_modes
from tensorbus_rocm.compiler import Hiprtc
from tensorbus_rocm.dialect import hip_dialect
from tensorbus_rocm.offline import HiprtcCheck


@pytest.fixture(scope="module")
def hiprtc() -> Hiprtc:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TENSORBUS_SIMULATE", raising=False)
        try:
            return Hiprtc.open()
        except DeviceUnavailableError as error:
            pytest.skip(f"hiprtc is not installed: {error.cause}")


def targets(hiprtc: Hiprtc, *names: str) -> list[str]:
    known = [name for name in names if hiprtc.knows(name)]
    assert known, f"{hiprtc.version} knows none of {names}"
    return known


SOURCE = program_text(hip_dialect(), [Check(True).source(hip_dialect())])


def test_the_vocabulary_compiles_and_keeps_subnormals(hiprtc: Hiprtc) -> None:
    for arch in targets(hiprtc, "gfx90a", "gfx1030", "gfx942", "gfx1100"):
        modes = float_modes(hiprtc.compile(SOURCE, arch))
        assert modes["tb_check_64"].ieee, arch


def test_flushed_subnormals_are_seen_in_the_code(
    hiprtc: Hiprtc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "OPTIONS", ("-fgpu-flush-denormals-to-zero",))
    (modes,) = float_modes(hiprtc.compile(SOURCE, "gfx90a")).values()
    assert (modes.rounding, modes.subnormals) == (0, 0b1100)
    assert not modes.ieee


def test_the_compile_check_objects_to_flushed_subnormals(
    hiprtc: Hiprtc, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = HiprtcCheck(hiprtc)
    kernels = {"tb_check_64": SOURCE}
    assert check.objections(check.compile(SOURCE, "gfx90a"), kernels) == {}
    monkeypatch.setattr(compiler, "OPTIONS", ("-fgpu-flush-denormals-to-zero",))
    (words,) = check.objections(check.compile(SOURCE, "gfx90a"), kernels).values()
    assert "keeps subnormals 12" in words


def test_features_are_part_of_a_target(hiprtc: Hiprtc) -> None:
    assert hiprtc.compile(SOURCE, "gfx90a:sramecc+:xnack-")[:4] == b"\x7fELF"


def test_a_multiplication_and_an_addition_stay_two(hiprtc: Hiprtc) -> None:
    two = 'extern "C" __global__ void k(float *x) { x[0] = x[1] * x[2] + x[3]; }'
    one = two.replace("x[1] * x[2] + x[3]", "fmaf(x[1], x[2], x[3])")
    assert hiprtc.compile(two, "gfx90a") != hiprtc.compile(one, "gfx90a")


def test_rejected_source_comes_with_its_log(hiprtc: Hiprtc) -> None:
    with pytest.raises(CompileError, match="hiprtc rejected it for gfx90a") as caught:
        hiprtc.compile("int f() { return undeclared_name; }\n", "gfx90a")
    assert "undeclared_name" in caught.value.log
    assert caught.value.numbered_source().startswith("   1 int f()")


def test_an_unknown_target_is_an_error_not_a_crash(hiprtc: Hiprtc) -> None:
    with pytest.raises(CompileError, match="gfx9999"):
        hiprtc.compile(SOURCE, "gfx9999")


def test_several_threads_compile_at_once(hiprtc: Hiprtc) -> None:
    want = hiprtc.compile(SOURCE, "gfx90a")
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: hiprtc.compile(SOURCE, "gfx90a"), range(16)))
    assert {float_modes(code)["tb_check_64"] for code in got} == {float_modes(want)["tb_check_64"]}
    assert {len(code) for code in got} == {len(want)}
