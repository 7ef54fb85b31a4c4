"""The floating-point environment, the thread pool and forks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

HALVE = "LANES(l, 64) {\n    y0[64 * g + l] = x0[64 * g + l] * 0.5f;\n}"

MODE = r"""
#include <stdint.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
uint64_t t_get(void) { return _mm_getcsr(); }
void t_set(uint64_t mode) { _mm_setcsr((unsigned)mode); }
/* flush to zero, denormals are zero, round up */
uint64_t t_hostile(void) { return 0x1f80u | 0x8000u | 0x0040u | 0x4000u; }
#elif defined(__aarch64__)
uint64_t t_get(void) { uint64_t m; __asm__ volatile("mrs %0, fpcr" : "=r"(m)); return m; }
void t_set(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
uint64_t t_hostile(void) { return (1u << 24) | (1u << 22); }
#endif
"""


@pytest.fixture
def mode(device, tmp_path):
    """(get, set, hostile) for the calling thread's floating-point control register."""
    ffi = device._runtime.ffi
    device._builder._toolchain.compile(MODE, tmp_path / "mode.so")
    handle = device._runtime.open(tmp_path / "mode.so")
    symbol = device._runtime.symbol
    if not symbol(handle, "t_get"):
        pytest.skip("this processor's control register is not known to the test")
    read = ffi.cast("uint64_t (*)(void)", symbol(handle, "t_get"))
    write = ffi.cast("void (*)(uint64_t)", symbol(handle, "t_set"))
    hostile = ffi.cast("uint64_t (*)(void)", symbol(handle, "t_hostile"))()
    saved = read()
    yield read, write, hostile
    write(saved)


@pytest.mark.parametrize("groups", [1, 500])
@pytest.mark.parametrize("prepared", [False, True])
def test_kernels_keep_their_own_floating_point_mode(
    device, hand_kernel, put, get, mode, groups, prepared
):
    read, write, hostile = mode
    spec = hand_kernel("t_halve", HALVE)
    (kernel,) = device.compile([spec])
    tiny = np.array([1e-45, 3e-45, 1.2e-38, 1.0], np.float32).repeat(16)
    source = put(device, np.tile(tiny, groups))
    target = device.allocate(256 * groups)
    launch = kernel.prepare(groups, spec.meta())
    expected = np.tile(tiny * np.float32(0.5), groups)
    write(hostile)
    try:
        if prepared:
            launch(source, target)
        else:
            device.launch(kernel, groups, [source, target], spec.meta())
        after = read()
    finally:
        write(0x1F80 if sys.platform != "darwin" and hostile & 0x1F80 else 0)
    assert after == hostile
    got = get(device, target, np.float32, 64 * groups)
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


def run_script(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SUPPORT) + textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


# A kernel in which each group waits, up to 20 s, until all groups have begun.
SUPPORT = """
import os, sys
import numpy as np
import tensorbus_cpu
from tensorbus_backends import clike, dtypes as dt

class Meet:
    name, buffers, words = "t_meet", 2, 3
    def source(self, dialect):
        body = '''
        volatile i32 *arrived = (volatile i32 *)y0;
        __atomic_fetch_add(arrived, 1, __ATOMIC_SEQ_CST);
        struct timespec start, now;
        clock_gettime(CLOCK_MONOTONIC, &start);
        do clock_gettime(CLOCK_MONOTONIC, &now);
        while (__atomic_load_n(arrived, __ATOMIC_SEQ_CST) < M(2)
               && now.tv_sec - start.tv_sec < 20);
        y0[1 + g] = __atomic_load_n(arrived, __ATOMIC_SEQ_CST) == M(2);
        '''
        arguments = [clike.Argument("x0", dt.int32), clike.Argument("y0", dt.int32, True)]
        text = clike.assemble(dialect, self.name, arguments, 3, body, offsets=[0, 1])
        return "#include <time.h>\\n" + text
    def local_bytes(self, dialect):
        return 0

def meet(device, groups):
    (kernel,) = device.compile([MEET])
    x, y = device.allocate(64), device.allocate(64)
    device.copy_in(y, 0, memoryview(bytes(64)))
    # Prepared anew: a launch known to be short would stay on one thread.
    kernel.prepare(groups, np.array([0, 0, groups], np.int64).tobytes())(x, y)
    out = np.zeros(16, np.int32)
    device.copy_out(y, 0, memoryview(out.view(np.uint8)))
    return out[: groups + 1].tolist() == [groups] + [1] * groups

MEET = Meet()
"""


def test_groups_run_on_all_threads_at_once():
    done = run_script(
        """
        device = tensorbus_cpu.PLUGIN.open(0)
        assert device.info.details["threads"] == "3"
        sys.exit(0 if all(meet(device, 3) for _ in range(20)) else 3)
        """,
        TENSORBUS_NUM_THREADS="3",
    )
    assert done.returncode == 0, done.stderr


def test_one_thread_is_enough():
    done = run_script(
        """
        device = tensorbus_cpu.PLUGIN.open(0)
        assert device.info.details["threads"] == "1"
        sys.exit(0 if meet(device, 1) else 3)
        """,
        TENSORBUS_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stderr


def test_a_forked_child_has_threads_of_its_own():
    done = run_script(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        device = tensorbus_cpu.PLUGIN.open(0)
        assert meet(device, 3)
        child = os.fork()
        if child == 0:
            ok = meet(device, 3)
            device.empty_cache()
            os._exit(0 if ok and meet(device, 3) else 4)
        _, status = os.waitpid(child, 0)
        assert meet(device, 3)
        sys.exit(os.waitstatus_to_exitcode(status))
        """,
        TENSORBUS_NUM_THREADS="3",
    )
    assert done.returncode == 0, done.stderr


def test_import_loads_no_heavy_modules():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, tensorbus_cpu; bad = {'cffi', 'tensorbus_cpu.device', "
            "'tensorbus_cpu.runtime', 'subprocess'} & set(sys.modules); "
            "sys.exit(', '.join(bad) or 0)",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
