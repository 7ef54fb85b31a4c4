"""Threads of simulated groups: order, barriers, traps, floating-point modes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tensorbus_backends.contract import DeviceUnavailableError
from tensorbus_backends.simulator import compiler

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parent))
from simfamily import ILLEGAL, INVALID, LAUNCH, OK, Machine, machine

try:
    compiler()
    HAVE = True
except DeviceUnavailableError:
    HAVE = False
X86 = platform.machine() in ("x86_64", "AMD64")
pytestmark = pytest.mark.skipif(not HAVE, reason="no C++ compiler")

# Sums of x[0..n) into x[n + group]; SYNC(k) decides which barriers are there.
SUM = """
TBS_SHARED float part[1024];
KERNEL total(void **a) {
    float *x = (float *)a[0];
    unsigned n = THREADS, t = THREAD;
    part[t] = x[t];
    FIRST;
    for (unsigned k = n / 2; k; k /= 2) {
        if (t < k) part[t] += part[t + k];
        EACH;
    }
    if (t == 0) x[n + GROUP] = part[0];
}
"""
RIGHT = SUM.replace("FIRST", "tbs_barrier()").replace("EACH", "tbs_barrier()")
UNFENCED = SUM.replace("FIRST", "").replace("EACH", "tbs_barrier()")
WARP = SUM.replace("FIRST", "tbs_barrier()").replace("EACH", "if (k > 32) tbs_barrier()")

TRAPS = """
TBS_SHARED int word;
KERNEL diverge(void **a) { if (THREAD != 3) tbs_barrier(); }
KERNEL diverge_late(void **a) { tbs_barrier(); tbs_barrier(); if (THREAD % 2) tbs_barrier(); }
KERNEL divide(void **a) { volatile int zero = 0; word = int(THREAD + 7) / zero; }
KERNEL trap(void **a) { if (THREAD == 5) __builtin_trap(); }
KERNEL null(void **a) { *(volatile int *)a[0] = 1; }
static int deep(volatile char *last, int n) {
    volatile char here[512];
    here[0] = *last;
    return n ? deep(here, n - 1) + here[0] : here[0];
}
KERNEL stack(void **a) { volatile char c = 1; word = deep(&c, int(THREADS) * 100000); }
KERNEL frame(void **a) {
    volatile char big[128 * 1024];
    big[THREAD] = 1;
    word = big[THREADS * 10000];
}
"""


@pytest.fixture
def m() -> Iterator[Machine]:
    the = machine()
    yield the
    the.control.disarm()


def _sums(m: Machine, text: str, threads: int, groups: int = 2) -> tuple[float, list[float]]:
    address = m.alloc(4 * (threads + groups))
    x = m.array(address, "f4", threads + groups)
    x[:threads] = np.arange(threads) + 1
    assert m.run(text, "total", [address], (groups, 1, 1), (threads, 1, 1)) == OK
    found = [float(value) for value in x[threads:]]
    assert m.free(address) == OK
    return threads * (threads + 1) / 2, found


@pytest.mark.parametrize("seed", range(25))
def test_barriers_make_a_reduction_right(
    m: Machine, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBUS_SIMULATE_SEED", str(seed))
    for threads in (1, 2, 64, 256, 1024):
        expected, found = _sums(m, RIGHT, threads)
        assert found == [expected] * 2


def test_missing_barrier_shows(m: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = 0
    for seed in range(8):
        monkeypatch.setenv("TENSORBUS_SIMULATE_SEED", str(seed))
        expected, found = _sums(m, UNFENCED, 256)
        wrong += found != [expected] * 2
    # Threads of the last phase but one read what no thread of their phase may have written yet.
    assert wrong >= 4


def test_code_that_counts_on_lock_step_is_wrong(m: Machine) -> None:
    expected, found = _sums(m, WARP, 256)
    assert found != [expected] * 2


ORDER = """
KERNEL trace(void **a) {
    int *x = (int *)a[0];
    for (int k = 0; k < 2; ++k) {
        x[1 + x[0]++] = int(GROUP * THREADS + THREAD);
        tbs_barrier();
    }
}
"""
SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from simfamily import machine
m = machine()
for _ in range(2):
    a = m.alloc(4 * 129)
    x = m.array(a, "i4", 129)
    x[0] = 0
    assert m.run({ORDER!r}, "trace", [a], (4, 1, 1), (16, 1, 1)) == 0
    print(*x[1:])
"""


def _trace(seed: int) -> list[list[int]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "TENSORBUS_SIMULATE_SEED": str(seed)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]


def test_order_follows_the_seed() -> None:
    first, again, other = _trace(1), _trace(1), _trace(2)
    assert first == again
    assert first != other
    assert first[0] != first[1], "two launches had the same order"
    for launch in first:
        phases = [tuple(launch[k : k + 16]) for k in range(0, 128, 16)]
        assert all(sorted(phase) == list(range(min(phase), min(phase) + 16)) for phase in phases)
        assert len({tuple(t % 16 for t in phase) for phase in phases}) > 4
    # A shuffle may be the identity once in a while, but not in every launch.
    orders = [[t // 16 for t in launch[::32]] for launch in first + other]
    assert any(order != [0, 1, 2, 3] for order in orders)


def test_ids_of_three_dimensions(m: Machine) -> None:
    text = """
    KERNEL mark(void **a) {
        unsigned *x = (unsigned *)a[0];
        unsigned at = 0;
        for (int k = 2; k >= 0; --k) at = at * tbs_id->groups[k] + tbs_id->group[k];
        tbs_barrier();
        for (int k = 2; k >= 0; --k) at = at * tbs_id->threads[k] + tbs_id->thread[k];
        tbs_barrier();
        x[at] += 1 + tbs_id->thread[1];
    }
    """
    groups, threads = (3, 2, 4), (5, 3, 2)
    n = int(np.prod(groups + threads))
    address = m.alloc(4 * n)
    x = m.array(address, "u4", n)
    x[:] = 0
    assert m.run(text, "mark", [address], groups, threads) == OK
    assert (x.reshape(-1, 2, 3, 5) == np.array([1, 2, 3])[:, None]).all()


@pytest.mark.parametrize("name", ["diverge", "diverge_late"])
def test_divergent_barrier_is_reported(m: Machine, name: str) -> None:
    assert m.run(TRAPS, name, threads=(32, 1, 1)) == LAUNCH
    assert "divergent barrier" in m.message()
    # The stacks that were left in the middle serve again.
    expected, found = _sums(m, RIGHT, 64)
    assert found == [expected] * 2


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("trap", LAUNCH, "thread (5, 0, 0) of group (0, 0, 0) came to a trap"),
        ("null", ILLEGAL, "a null pointer"),
        ("stack", ILLEGAL, "more than 64 KiB of stack"),
        ("frame", ILLEGAL, "more than 64 KiB of stack"),
    ],
)
def test_traps(m: Machine, name: str, status: int, words: str) -> None:
    assert m.run(TRAPS, name, [0], threads=(8, 1, 1)) == status
    assert words in m.message()
    assert m.control.status() == (ILLEGAL if status == ILLEGAL else OK)
    m.control.disarm()
    expected, found = _sums(m, RIGHT, 64)
    assert found == [expected] * 2


@pytest.mark.skipif(not X86, reason="other processors divide by zero without a trap")
def test_division_by_zero_does_not_stick(m: Machine) -> None:
    assert m.run(TRAPS, "divide", threads=(8, 1, 1)) == LAUNCH
    assert "divided by zero" in m.message()
    assert m.control.status() == OK


@pytest.mark.parametrize("threads", [(0, 1, 1), (1025, 1, 1), (32, 33, 1), (1 << 31, 1 << 31, 4)])
def test_launches_that_no_device_takes(m: Machine, threads: tuple[int, int, int]) -> None:
    assert m.run(TRAPS, "trap", threads=threads) == INVALID


def test_dynamic_shared_memory_is_dirty_and_ends(m: Machine) -> None:
    text = """
    KERNEL touch(void **a) {
        unsigned char *s = (unsigned char *)tbs_id->dynamic;
        int *bad = (int *)a[0];
        for (long k = 0; k < (long)a[1]; ++k) *bad += s[k] != 0xA5;
        for (long k = 0; k < (long)a[2]; ++k) s[k] = 1;
    }
    """
    address = m.alloc(4)
    bad = m.array(address, "i4", 1)
    bad[0] = 0
    assert m.run(text, "touch", [address, 100, 112], (3, 1, 1), dynamic=100) == OK
    assert bad[0] == 0
    assert m.run(text, "touch", [address, 0, 113], dynamic=100) == ILLEGAL
    m.control.disarm()
    assert m.run(text, "touch", [address, 0, 0], dynamic=1 << 30) == INVALID


def test_static_shared_memory_is_dirty_in_every_group(m: Machine) -> None:
    text = """
    TBS_SHARED unsigned words[7];
    KERNEL touch(void **a) {
        for (int k = 0; k < 7; ++k) *(int *)a[0] += words[k] != 0xA5A5A5A5u;
        for (int k = 0; k < 7; ++k) words[k] = 0;
    }
    """
    address = m.alloc(4)
    bad = m.array(address, "i4", 1)
    bad[0] = 0
    assert m.run(text, "touch", [address], (5, 1, 1)) == OK
    assert bad[0] == 0


HALVE = """
KERNEL halve(void **a) { volatile float *x = (volatile float *)a[0]; x[1] = x[0] * 0.5f + x[2]; }
"""


def test_flush_mode_is_set_and_put_back(m: Machine) -> None:
    tiny = np.float32(2.0**-126)
    address = m.alloc(12)
    x = m.array(address, "f4", 3)
    before = m.lib.probe_mode()
    for flush, result, operand in ((False, 2.0**-127, 2.0**-130), (True, 0.0, 0.0)):
        x[:] = tiny, 7, 0
        assert m.run(HALVE, "halve", [address], flush=flush) == OK
        assert x[1] == np.float32(result)
        x[:] = 0, 7, np.float32(2.0**-130)
        assert m.run(HALVE, "halve", [address], flush=flush) == OK
        assert x[1] == np.float32(operand)
        assert m.lib.probe_mode() == before


def test_caller_in_another_mode_does_not_matter(m: Machine) -> None:
    address = m.alloc(12)
    x = m.array(address, "f4", 3)
    before = m.lib.probe_mode()
    other = before | (0x8040 if X86 else 1 << 24)
    x[:] = np.float32(2.0**-126), 7, 0
    try:
        m.lib.probe_set_mode(other)
        status = m.run(HALVE, "halve", [address])
        during = m.lib.probe_mode()
    finally:
        m.lib.probe_set_mode(before)
    assert status == OK
    assert during == other
    assert x[1] == np.float32(2.0**-127)


def test_a_trap_puts_the_mode_back(m: Machine) -> None:
    before = m.lib.probe_mode()
    assert m.run(TRAPS, "trap", threads=(8, 1, 1), flush=True) == LAUNCH
    assert m.lib.probe_mode() == before


def test_launches_from_several_threads(m: Machine) -> None:
    found: list[bool] = []

    def work() -> None:
        for _ in range(20):
            expected, sums = _sums(m, RIGHT, 64)
            found.append(sums == [expected] * 2)
            found.append(m.run(TRAPS, "trap", threads=(8, 1, 1)) == LAUNCH)

    m.module(RIGHT), m.module(TRAPS)
    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [True] * 160


SIGNALS = f"""
import faulthandler, sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
from simfamily import machine
if sys.argv[1] == "before":
    faulthandler.enable()
m = machine()
text = '''
KERNEL null(void **a) {{ *(volatile int *)8 = 1; }}
KERNEL spin(void **a) {{ *(volatile int *)a[0] = 1; for (;;) __asm__ volatile("" ::: "memory"); }}
'''
assert m.run(text, "null") == 5
if sys.argv[1] == "after":
    faulthandler.enable()
m.control.disarm()
assert m.run(text, "null") == 5
print("kernel survived", flush=True)
if sys.argv[2] == "elsewhere":
    m.control.disarm()
    a = m.alloc(4)
    x = m.array(a, "i4", 1)
    x[0] = 0
    threading.Thread(target=lambda: m.run(text, "spin", [a]), daemon=True).start()
    while x[0] == 0:
        pass
faulthandler._sigsegv()
"""


@pytest.mark.parametrize("where", ["alone", "elsewhere"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_faulthandler_still_serves_outside_of_kernels(when: str, where: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS, when, where], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "kernel survived\n", done.stderr
    assert done.returncode == -11
    assert "Fatal Python error: Segmentation fault" in done.stderr
