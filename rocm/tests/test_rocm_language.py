"""The dialect: its square root on this machine, and its words through a real hiprtc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tensorbus_rocm import dialect as dialect_module, library
from tensorbus_rocm.codeobject import float_modes
from tensorbus_rocm.dialect import hip_dialect

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


def test_another_format_has_no_modes() -> None:
    assert float_modes(b"TBSHIP1") == {}
    assert float_modes(b"\x7fELF" + bytes(64)) == {}


# -- a real hiprtc, which needs no GPU ----------------------------------------------------


def test_a_real_hiprtc() -> None:
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "TENSORBUS_S"))
    }
    cases = Path(__file__).with_name("real_hiprtc.py")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    command += ["-p", "no:xdist", "-o", "addopts=--import-mode=importlib", str(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, done.stdout + done.stderr
    if "passed" not in last:
        pytest.skip(f"hiprtc is not installed: {done.stdout[-300:]}")
    assert "failed" not in last


@pytest.mark.parametrize(
    ("maps", "crowded"),
    [
        ("7f00-7f01 r-xp 0 08:01 7 /opt/x/lib/libcommon_clang.so.2026.22.10.0\n", True),
        ("7f00-7f01 r-xp 0 08:01 7 /usr/lib/libLLVM-15.so.1\n", True),
        ("7f00-7f01 r-xp 0 08:01 7 /usr/lib/libLLVM-15.so.1\n7f 7 /x/libamd_comgr.so.2\n", False),
        ("7f00-7f01 r-xp 0 08:01 7 /usr/lib/libc.so.6\n", False),
    ],
)
def test_hip_is_not_loaded_beside_a_compiler_that_ends_the_process(
    maps: str, crowded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libamd_comgr.so.2").write_bytes(b"\x7fELF...libLLVM-15.so.1\0")
    (tmp_path / "libamdhip64.so.5").write_bytes(b"\x7fELF...libamd_comgr.so.2\0")
    (tmp_path / "libforwarder.so").write_bytes(b"\x7fELF...")
    monkeypatch.setattr(library, "_SYSTEM", tmp_path)
    words = library.crowded("libamdhip64.so.5", maps)
    assert ("the one of an OpenCL runtime" in words) is crowded
    assert library.crowded(str(tmp_path / "libforwarder.so"), maps) == ""
    (tmp_path / "libamd_comgr.so.2").write_bytes(b"\x7fELF, all of LLVM inside and hidden")
    assert library.crowded("libamdhip64.so.5", maps) == ""
