"""The dialect: its square root on this machine, and its words through a real hiprtc."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from tensorbus_backends.check import Check
from tensorbus_backends.contract import CompileError, DeviceUnavailableError
from tensorbus_backends.units import program_text
from tensorbus_rocm import compiler, dialect as dialect_module
from tensorbus_rocm.codeobject import float_modes
from tensorbus_rocm.compiler import Hiprtc
from tensorbus_rocm.dialect import hip_dialect
from tensorbus_rocm.offline import HiprtcCheck

# -- the square root ----------------------------------------------------------------------

_FRAME = r"""
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
typedef float f32; typedef uint32_t u32; typedef bool b8;
static u32 as_u32_f32(f32 x) { u32 y; memcpy(&y, &x, 4); return y; }
static f32 as_f32_u32(u32 x) { f32 y; memcpy(&y, &x, 4); return y; }
static int off;
static f32 instruction(f32 x) {
    const f32 y = sqrtf(x);
    return y > 0.0f && y < INFINITY ? as_f32_u32(as_u32_f32(y) + off) : y;
}
#define INLINE static
%s
int main() {
    long wrong = 0;
    for (off = -1; off <= 1; ++off) {
        /* Two binades in full: all mantissas with both parities of the exponent.  Of the rest,
           every 4099th number, subnormals, infinities and NaNs among them. */
        for (u32 b = 0x3f000000u; b < 0x40000000u; ++b) {
            const f32 x = as_f32_u32(b);
            wrong += as_u32_f32(sqrt_f32(x)) != as_u32_f32(sqrtf(x));
        }
        for (uint64_t b = 0; b < 1ull << 32; b += b < 4096 ? 1 : 4099) {
            const f32 x = as_f32_u32((u32)b), y = sqrt_f32(x), z = sqrtf(x);
            wrong += as_u32_f32(y) != as_u32_f32(z) && !(isnan(y) && isnan(z));
        }
    }
    printf("%%ld\n", wrong);
}
"""


def test_the_square_root_is_exact_over_an_instruction_that_is_1_ulp_off(tmp_path: Path) -> None:
    gcc = shutil.which("g++") or shutil.which("clang++")
    if gcc is None:
        pytest.skip("no C++ compiler")
    own = dialect_module._EXACT.replace("SQRT_INSTRUCTION sqrtf", "SQRT_INSTRUCTION instruction")
    assert own != dialect_module._EXACT
    (tmp_path / "root.cpp").write_text(_FRAME % own)
    program = tmp_path / "root"
    command = [gcc, "-O2", "-ffp-contract=off", str(tmp_path / "root.cpp"), "-o", str(program)]
    subprocess.run([*command, "-mfma"], check=False, capture_output=True)
    if not program.exists():
        subprocess.run(command, check=True)
    assert subprocess.run([program], capture_output=True, text=True).stdout == "0\n"


def test_a_group_has_a_size_and_a_name() -> None:
    assert hip_dialect().name == "hip-128"
    assert "#define GROUP 64\n" in hip_dialect(64).prelude
    assert hip_dialect(64).name != hip_dialect().name


# -- a real hiprtc, which needs no GPU ----------------------------------------------------


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


def test_another_format_has_no_modes() -> None:
    assert float_modes(b"TBSHIP1") == {}
    assert float_modes(b"\x7fELF" + bytes(64)) == {}


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
    want = {k: hiprtc.compile(f"{SOURCE}\n// {k % 2}\n", "gfx90a") for k in range(2)}
    got: dict[int, bytes] = {}

    def work(k: int) -> None:
        got[k] = hiprtc.compile(f"{SOURCE}\n// {k % 2}\n", "gfx90a")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(got) == 4
    assert all(len(got[k]) == len(want[k % 2]) for k in got)
