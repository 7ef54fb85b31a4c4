"""Memory and streams of the simulated machine: what faults, what is late, what fails on demand."""

from __future__ import annotations

import ctypes as c
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorbus_backends.contract import DeviceUnavailableError
from tensorbus_backends.simulator import compiler

sys.path.insert(0, str(Path(__file__).parent))
from simfamily import ILLEGAL, INVALID, LAUNCH, LOST, NO_MEMORY, NOT_READY, OK, Machine, machine

try:
    compiler()
    HAVE = True
except DeviceUnavailableError:
    HAVE = False
pytestmark = pytest.mark.skipif(not HAVE, reason="no C++ compiler")

KERNELS = """
KERNEL put(void **a) { ((volatile char *)a[0])[(long)a[1]] = 1; }
KERNEL get(void **a) { (void)((volatile char *)a[0])[(long)a[1]]; }
KERNEL mark(void **a) { ((char *)a[0])[tbs_id->group[0]] = 1; }
"""


@pytest.fixture
def m() -> Iterator[Machine]:
    the = machine()
    yield the
    the.control.disarm()
    the.lib.tbs_device_reset(0)


# -- memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [1, 16, 255, 256, 4096, 5000, 1 << 20])
def test_block_is_aligned_and_dirty(m: Machine, nbytes: int) -> None:
    address = m.alloc(nbytes)
    assert address % 256 == 0
    assert (m.array(address, "u1", nbytes) == 0xA5).all()
    assert m.free(address) == OK


@pytest.mark.parametrize("name", ["put", "get"])
@pytest.mark.parametrize("offset", [1024, 1024 + 4000, -4096])
def test_out_of_bounds_is_an_illegal_address_that_sticks(
    m: Machine, name: str, offset: int
) -> None:
    address = m.alloc(1024)
    assert m.run(KERNELS, name, [address, 1023]) == OK
    assert m.run(KERNELS, name, [address, offset % 2**64]) == ILLEGAL
    side = "behind" if offset > 0 else "in front of"
    assert f"{side} a block of 1024 bytes" in m.message()
    assert m.control.status() == ILLEGAL
    assert m.run(KERNELS, name, [address, 0]) == ILLEGAL
    assert m.try_alloc(16) == ILLEGAL
    assert m.lib.tbs_submit(0, b"copy") == ILLEGAL
    assert m.control.status(1) == OK, "the failure spread to another device"


@pytest.mark.parametrize("offset", [1000, 1023, -1, -64])
def test_a_write_beside_a_block_is_found_at_the_drain(m: Machine, offset: int) -> None:
    stream = c.c_void_p(m.lib.tbs_stream_new(0))
    address = m.alloc(1000)
    assert m.run(KERNELS, "put", [address, offset % 2**64]) == OK
    assert m.lib.tbs_drain(stream) == ILLEGAL
    assert "a block of 1000 bytes" in m.message()
    m.control.disarm()
    assert m.free(address) == ILLEGAL
    m.control.disarm()
    assert m.lib.tbs_drain(stream) == OK
    m.lib.tbs_stream_free(stream)


def test_use_after_free(m: Machine) -> None:
    address = m.alloc(300)
    assert m.free(address) == OK
    assert m.alloc(300) != address
    assert m.run(KERNELS, "get", [address, 0]) == ILLEGAL
    assert "a block of 300 bytes that was freed" in m.message()


def test_many_blocks_come_and_go(m: Machine) -> None:
    seen = {address for address in (m.alloc(100) for _ in range(1000)) if m.free(address) == OK}
    assert len(seen) > 256


def test_free_of_what_is_no_block(m: Machine) -> None:
    address = m.alloc(64)
    assert m.free(address + 16) == INVALID
    assert m.free(address, device=1) == INVALID
    assert m.free(address) == OK
    assert m.free(address) == INVALID


def test_range(m: Machine) -> None:
    address = m.alloc(1000)
    base, size, device = c.c_uint64(), c.c_size_t(), c.c_int()

    def ask(at: int, nbytes: int) -> int:
        return int(
            m.lib.tbs_range(
                c.c_uint64(at), c.c_size_t(nbytes), c.byref(base), c.byref(size), c.byref(device)
            )
        )

    assert ask(address + 10, 990) == OK
    assert (base.value, size.value, device.value) == (address, 1000, 0)
    assert ask(address + 1000, 0) == OK
    assert ask(address + 10, 991) == INVALID
    assert ask(address - 1, 1) == INVALID
    assert ask(address, 2**64 - 1) == INVALID
    assert m.free(address) == OK
    assert ask(address, 1) == INVALID


def test_out_of_memory_by_the_total(m: Machine) -> None:
    device = 7
    m.control.set_memory(1 << 20, device)
    free, total = c.c_size_t(), c.c_size_t()
    first = m.alloc(1 << 19, device)
    assert m.lib.tbs_memory_info(device, c.byref(free), c.byref(total)) == OK
    assert (free.value, total.value) == (1 << 19, 1 << 20)
    assert m.try_alloc((1 << 19) + 1, device) == NO_MEMORY
    assert "524288 of 1048576 bytes are free" in m.message()
    assert m.try_alloc(2**64 - 1, device) == NO_MEMORY
    assert m.control.status(device) == OK
    assert m.free(first, device) == OK
    assert m.free(m.alloc(1 << 20, device), device) == OK


# -- streams ------------------------------------------------------------------------------


@pytest.fixture
def stream(m: Machine) -> Iterator[c.c_void_p]:
    the = c.c_void_p(m.lib.tbs_stream_new(0))
    yield the
    m.lib.tbs_stream_free(the)


def test_work_waits_until_somebody_asks(m: Machine, stream: c.c_void_p) -> None:
    number, dropped = c.c_int(0), c.c_int(0)

    def digit(k: int) -> None:
        assert m.lib.probe_digit(stream, c.byref(number), k, c.byref(dropped)) == OK

    digit(1)
    digit(2)
    assert (number.value, dropped.value) == (0, 0)
    mark = c.c_uint64(m.lib.tbs_mark(stream))
    digit(3)
    assert m.lib.tbs_time(stream, mark) == -1
    assert m.lib.tbs_reached(stream, mark) == NOT_READY
    assert number.value == 1
    assert m.lib.tbs_wait(stream, mark) == OK
    assert (number.value, dropped.value) == (12, 2)
    assert m.lib.tbs_reached(stream, mark) == OK
    assert m.lib.tbs_drain(stream) == OK
    assert (number.value, dropped.value) == (123, 3)


def test_marks_have_times_in_order(m: Machine, stream: c.c_void_p) -> None:
    number, dropped = c.c_int(0), c.c_int(0)
    marks = []
    for _ in range(3):
        marks.append(c.c_uint64(m.lib.tbs_mark(stream)))
        m.lib.probe_digit(stream, c.byref(number), 1, c.byref(dropped))
    assert m.lib.tbs_drain(stream) == OK
    times = [m.lib.tbs_time(stream, mark) for mark in marks]
    assert times == sorted(times)
    assert times[0] > 0
    assert len({mark.value for mark in marks}) == 3


def test_at_most_64_pieces_wait(m: Machine, stream: c.c_void_p) -> None:
    number, dropped = c.c_int(0), c.c_int(0)
    for k in range(66):
        m.lib.probe_digit(stream, c.byref(number), min(k, 1), c.byref(dropped))
    assert dropped.value == 2
    assert m.lib.tbs_drain(stream) == OK
    assert dropped.value == 66


def test_draining_a_device_drains_all_its_streams(m: Machine, stream: c.c_void_p) -> None:
    other, foreign = c.c_void_p(m.lib.tbs_stream_new(0)), c.c_void_p(m.lib.tbs_stream_new(1))
    number, dropped = c.c_int(0), c.c_int(0)
    for each in (stream, other, foreign):
        m.lib.probe_digit(each, c.byref(number), 1, c.byref(dropped))
    assert m.lib.tbs_drain_device(0) == OK
    assert dropped.value == 2
    m.lib.tbs_stream_free(other)
    m.lib.tbs_stream_free(foreign)
    assert dropped.value == 3


def test_kernel_on_a_stream_fails_when_it_runs(m: Machine, stream: c.c_void_p) -> None:
    address = m.alloc(64)
    m.array(address, "u1", 64)[:] = 0
    words = (c.c_uint64 * 2)(address, 4096)
    body = m.body(KERNELS, "put")
    args = (stream, m.module(KERNELS), body, words, c.c_uint32(1))
    assert m.lib.probe_launch(*args) == OK
    assert m.control.status() == OK
    number, dropped = c.c_int(0), c.c_int(0)
    m.lib.probe_digit(stream, c.byref(number), 1, c.byref(dropped))
    assert m.lib.tbs_drain(stream) == ILLEGAL
    assert (number.value, dropped.value) == (0, 1), "work ran on a device that had failed"
    assert m.lib.tbs_drain(stream) == ILLEGAL
    assert m.lib.probe_launch(*args) == ILLEGAL


# -- failures on demand -------------------------------------------------------------------


def test_nth_allocation_fails_once(m: Machine) -> None:
    before = m.control.count("alloc")
    m.control.arm("alloc", 3)
    assert [m.try_alloc(16) for _ in range(5)] == [OK, OK, NO_MEMORY, OK, OK]
    assert m.control.count("alloc") == before + 5


def test_launch_is_refused_and_kernel_fails_later(m: Machine, stream: c.c_void_p) -> None:
    address = m.alloc(64)
    words = (c.c_uint64 * 2)(address, 0)
    args = (stream, m.module(KERNELS), m.body(KERNELS, "put"), words, c.c_uint32(1))
    m.control.arm("launch", 2)
    assert [m.lib.probe_launch(*args) for _ in range(3)] == [OK, LAUNCH, OK]
    assert m.lib.tbs_drain(stream) == OK
    m.control.arm("kernel", 1)
    assert m.lib.probe_launch(*args) == OK
    assert m.lib.tbs_drain(stream) == LAUNCH
    assert "on demand" in m.message()
    assert m.lib.tbs_drain(stream) == OK, "a failure that does not stick was told twice"


def test_failed_kernel_stops_half_way(m: Machine) -> None:
    address = m.alloc(8)
    x = m.array(address, "u1", 8)
    x[:] = 0
    m.control.arm("kernel")
    assert m.run(KERNELS, "mark", [address], groups=(8, 1, 1)) == LAUNCH
    assert x.sum() == 4
    m.control.arm("illegal")
    assert m.run(KERNELS, "mark", [address], groups=(8, 1, 1)) == ILLEGAL
    assert m.control.status() == ILLEGAL


def test_lost_device_stays_lost_until_it_is_revived(m: Machine, stream: c.c_void_p) -> None:
    number, dropped = c.c_int(0), c.c_int(0)

    def digit() -> int:
        return int(m.lib.probe_digit(stream, c.byref(number), 1, c.byref(dropped)))

    m.control.arm("lost", 2)
    assert [digit() for _ in range(3)] == [OK, LOST, LOST]
    assert "lost at a copy" in m.message()
    assert m.lib.tbs_drain(stream) == LOST
    assert m.try_alloc(16) == LOST
    assert (number.value, dropped.value) == (0, 1)
    m.control.disarm()
    assert digit() == OK
    assert m.lib.tbs_drain(stream) == OK
    assert number.value == 1


def test_slow_leaves_results_alone(m: Machine, stream: c.c_void_p) -> None:
    number, dropped = c.c_int(0), c.c_int(0)
    m.control.arm("slow", 1)
    assert m.lib.probe_digit(stream, c.byref(number), 4, c.byref(dropped)) == OK
    assert m.lib.tbs_drain(stream) == OK
    assert number.value == 4


def test_reset_drops_work_and_forgets_failures(m: Machine, stream: c.c_void_p) -> None:
    number, dropped = c.c_int(0), c.c_int(0)
    m.lib.probe_digit(stream, c.byref(number), 1, c.byref(dropped))
    m.lib.tbs_device_fail(0, LOST)
    m.lib.tbs_device_reset(0)
    assert m.control.status() == OK
    assert (number.value, dropped.value) == (0, 1)


SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from simfamily import machine
m = machine()
"""


def _script(body: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT + body],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_failures_from_the_environment() -> None:
    body = "print([m.try_alloc(16) for _ in range(3)], m.load(b'')[0])"
    assert _script(body, TENSORBUS_SIMULATE_FAULTS="alloc:2,load:1") == "[0, 1, 0] 1\n"


def test_settings_by_device(m: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "TENSORBUS_SIMULATE_PROBE", "devices=2,memory=1GiB/512MiB,capability=9.0/7.5"
    )
    number = m.lib.tbs_option_int
    number.argtypes = [c.c_char_p, c.c_char_p, c.c_int, c.c_int64]
    assert number(b"probe", b"devices", 0, 1) == 2
    assert [number(b"probe", b"memory", k, 1) >> 20 for k in range(3)] == [1024, 512, 512]
    assert number(b"probe", b"cores", 0, 5) == 5
    assert m.lib.tbs_option(b"probe", b"capability", 1, b"1.0") == b"7.5"
    assert m.lib.tbs_option(b"probe", b"driver", 1, b"1.0") == b"1.0"


def test_forked_child_is_told_and_does_not_hang() -> None:
    # Another thread holds the lock at the fork: a child that took it would wait for ever.
    body = """
import ctypes as c, os, signal, threading
stream, a = c.c_void_p(m.lib.tbs_stream_new(0)), m.alloc(64)
held, done = threading.Event(), threading.Event()
def hold():
    m.lib.tbs_lock(); held.set(); done.wait(); m.lib.tbs_unlock()
t = threading.Thread(target=hold); t.start(); held.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)
    got = {m.try_alloc(16), m.free(a), m.lib.tbs_drain(stream), m.lib.tbs_submit(0, b"copy"),
           m.compile("int x;")[0], m.load(b"")[0], m.control.status(), m.lib.tbs_reached(stream, 1)}
    m.lib.tbs_stream_free(stream); m.lib.tbs_unload(None); m.control.disarm()
    ok = got == {6} and "forked" in m.message() and m.lib.tbs_stream_new(0) is None
    os._exit(0 if ok else 1)
_, status = os.waitpid(child, 0)
done.set(); t.join()
print(status, m.try_alloc(16))
"""
    assert _script(body) == "0 0\n"


def test_numpy_reads_what_a_kernel_wrote(m: Machine) -> None:
    address = m.alloc(8)
    x = m.array(address, "u1", 8)
    assert m.run(KERNELS, "mark", [address], groups=(8, 1, 1)) == OK
    assert (x == np.ones(8, np.uint8)).all()
