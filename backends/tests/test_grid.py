"""The device that cuda, rocm, metal and opencl share, over a driver that is made up."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import (
    BackendError,
    Capabilities,
    CompileError,
    DeviceInfo,
    Evidence,
    LaunchError,
    OutOfMemoryError,
    UnsupportedError,
)
from tensorbus_backends.grid import GridDevice

sys.path.insert(0, str(Path(__file__).parent))
from fakegrid import DIALECT, AddTo, FakeDriver, FakeToolchain


@pytest.fixture
def make(tmp_path):
    def build(size=1 << 20, **options):
        return GridDevice(
            DeviceInfo("fake:0", "fake", 0, evidence=Evidence.UNSTATED),
            Capabilities(frozenset({"int32"}), local_memory=1024),
            DIALECT,
            FakeDriver(size),
            FakeToolchain(),
            DiskCache(tmp_path / "cache"),
            **options,
        )

    return build


@pytest.fixture
def device(make):
    return make()


def put(device, x):
    buffer = device.allocate(x.nbytes)
    device.copy_in(buffer, 0, x.data.cast("B"))
    return buffer


def get(device, buffer, count, offset=0):
    out = np.zeros(count, np.int32)
    device.copy_out(buffer, offset, out.data.cast("B"))
    return out


def meta(*words):
    return np.asarray([*words, 0][:2], np.int64).tobytes()


X = np.arange(24, dtype=np.int32)


# -- memory -----------------------------------------------------------------------------------


def test_bytes_come_back(device):
    buffer = put(device, X)
    assert (buffer.device, buffer.nbytes) == (device, 96)
    assert get(device, buffer, 24).tolist() == X.tolist()
    assert get(device, buffer, 3, offset=8).tolist() == [2, 3, 4]
    target = put(device, np.zeros(24, np.int32))
    device.copy(target, 4, buffer, 12, 8)
    assert get(device, target, 4).tolist() == [0, 3, 4, 0]


def test_dropped_memory_is_used_again_and_given_back_on_request(device):
    place = put(device, X).at
    assert device.memory().cached >= 96
    again = device.allocate(90)
    assert again.at == place
    assert device.memory().used >= 90
    device.empty_cache()
    assert list(device.driver.held) == [place]
    del again
    device.empty_cache()
    assert device.driver.held == {}
    assert device.memory().used == 0


def test_kept_memory_makes_room_for_other_sizes(make):
    device = make(1024)
    del_me = device.allocate(1000)
    with pytest.raises(OutOfMemoryError, match="fake:0: out of memory"):
        device.allocate(500)
    del del_me
    assert device.allocate(500).nbytes == 500


def test_one_buffer_is_no_larger_than_the_device_allows(make):
    device = make(largest=1000)
    with pytest.raises(OutOfMemoryError, match=r"1\.0 KiB asked for in one piece.*1000 bytes"):
        device.allocate(1024)
    device.allocate(1000)  # the size class is larger than the limit, the driver is asked for less
    assert device.driver.sizes == [1000]


def test_kept_memory_is_bounded(make):
    device = make(keep=1024)
    put(device, np.zeros(128, np.int32))
    assert device.memory().cached == 512
    first = device.allocate(256)
    assert device.memory().cached == 512
    second = device.allocate(512 + 64)  # held: 512 kept, 256 and 576 used
    assert device.memory().cached == 0
    assert (first.nbytes, second.nbytes) == (256, 576)


def test_a_copy_without_memory_gets_what_was_kept(device):
    x, y = put(device, X), put(device, X)
    four = memoryview(bytearray(4))
    for name, what, call in (
        ("write", "copying to it", lambda: device.copy_in(x, 0, four)),
        ("read", "copying from it", lambda: device.copy_out(x, 0, four)),
        ("copy", "copying", lambda: device.copy(y, 0, x, 0, 4)),
    ):
        put(device, np.zeros(1000, np.int32))
        held = len(device.driver.held)
        sound, refusals = getattr(device.driver, name), [1]

        def scarce(*arguments, sound=sound, refusals=refusals):
            if refusals:
                refusals.pop()
                raise MemoryError
            sound(*arguments)

        setattr(device.driver, name, scarce)
        call()
        assert len(device.driver.held) == held - 1
        refusals[:] = [1, 1]
        with pytest.raises(OutOfMemoryError, match=f"out of memory while {what}; drop tensors"):
            call()
        setattr(device.driver, name, sound)


def test_a_part_is_a_view_that_keeps_the_whole_alive(device):
    whole = device.allocate(3 * 4096)
    device.copy_in(whole, 4096, X.data.cast("B"))
    part = device.part(whole, 4096, 96)
    inner = device.part(part, 0, 8)
    watch = weakref.ref(whole)
    del whole, part
    gc.collect()
    assert watch() is not None
    assert get(device, inner, 2).tolist() == [0, 1]
    del inner
    gc.collect()
    assert watch() is None


def test_ranges_outside_of_a_buffer_are_refused(device):
    buffer, other = put(device, X), put(device, X)
    four = memoryview(bytearray(4))
    for call in (
        lambda: device.copy_in(buffer, 93, four),
        lambda: device.copy_in(buffer, -4, four),
        lambda: device.copy_out(buffer, 96, four),
        lambda: device.copy(buffer, 93, other, 0, 4),
        lambda: device.copy(buffer, 0, other, 93, 4),
        lambda: device.part(buffer, 0, 97),
    ):
        with pytest.raises(BackendError, match="does not fit a buffer of 96 bytes"):
            call()


def test_nothing_is_no_transfer(device):
    empty, buffer = device.allocate(0), put(device, X)
    nothing = memoryview(bytearray())
    device.driver.write = device.driver.read = device.driver.copy = None  # would fail if called
    device.copy_in(empty, 0, nothing)
    device.copy_out(empty, 0, nothing)
    device.copy(empty, 0, buffer, 96, 0)


def test_buffers_of_another_device_are_refused(make):
    one, two = make(), make()
    with pytest.raises(BackendError, match="given a buffer of fake:0; copy it to fake:0 first"):
        one.copy_out(two.allocate(4), 0, memoryview(bytearray(4)))
    (kernel,) = one.compile([AddTo()])
    with pytest.raises(BackendError, match="given a buffer of fake:0"):
        one.launch(kernel, 1, [one.allocate(32), two.allocate(32)], meta(1))


def test_memory_of_other_libraries(device):
    device.dlpack_type = 2
    buffer = put(device, X)
    address = device.pointer(device.part(buffer, 4, 8))
    assert address == device.pointer(buffer) + 4
    owner = FakeToolchain()
    watch = weakref.ref(owner)
    borrowed = device.import_pointer(address, 8, owner)
    del owner
    assert get(device, borrowed, 2).tolist() == [1, 2]
    assert watch() is not None
    del borrowed
    assert watch() is None
    assert get(device, buffer, 2).tolist() == [0, 1]  # was not given to the pool
    device.dlpack_type = 0
    with pytest.raises(UnsupportedError):
        device.pointer(buffer)
    with pytest.raises(UnsupportedError):
        device.import_pointer(address, 8, buffer)


# -- kernels ----------------------------------------------------------------------------------


def run_once(device, kernel, groups=3, word=5):
    source, target = put(device, X), device.allocate(X.nbytes)
    device.launch(kernel, groups, [source, target], meta(word))
    return get(device, target, 8 * groups)


def test_launches(device):
    (kernel,) = device.compile([AddTo()])
    assert run_once(device, kernel).tolist() == (X + 5).tolist()
    assert run_once(device, kernel, groups=1, word=7).tolist() == (X[:8] + 7).tolist()


def test_kernels_are_compiled_once(device):
    a, b, c = device.compile([AddTo(), AddTo("other"), AddTo()])
    assert a is c
    assert a is not b
    assert device.compile([AddTo("other")]) == [b]
    assert len(device._builder._toolchain.compiled) == 1


def test_too_much_local_memory_is_told_before_compiling(device):
    with pytest.raises(CompileError, match=r"'add_to' needs 2000 bytes .*fake:0 has 1024"):
        device.compile([AddTo(local=2000)])
    assert device._builder._toolchain.compiled == []


def test_launches_that_do_not_fit_are_refused(device):
    (kernel,) = device.compile([AddTo()])
    x = put(device, X)
    for groups, buffers, words, match in (
        (1, [x], meta(1), "takes 2 buffers, 1 were given"),
        (1, [x, x], meta(1)[:8], "takes 16 bytes of metadata, 8 were given"),
        (0, [x, x], meta(1), "launched with 0 groups"),
    ):
        with pytest.raises(LaunchError, match=match):
            device.launch(kernel, groups, buffers, words)
    with pytest.raises(LaunchError, match="did not compile"):
        device.launch(object(), 1, [x, x], meta(1))
    with pytest.raises(LaunchError, match="kernel failed"):
        device.launch(kernel, 1, [x, x], np.asarray([0, 13], np.int64).tobytes())
    assert device.driver.launches == []


def test_a_prepared_launch_takes_buffers_only(device):
    (kernel,) = device.compile([AddTo()])
    words = bytearray(meta(5))
    launch = kernel.prepare(3, bytes(words))
    words[:] = meta(6)
    for _ in range(2):
        source, target = put(device, X), device.allocate(X.nbytes)
        launch(source, target)
        assert get(device, target, 24).tolist() == (X + 5).tolist()
    for groups, text in ((0, meta(1)), (1, b"")):
        with pytest.raises(LaunchError):
            kernel.prepare(groups, text)


def test_kernels_do_not_keep_their_device_alive(make):
    device = make()
    (kernel,) = device.compile([AddTo()])
    watch = weakref.ref(device)
    del device
    gc.collect()
    assert watch() is None
    assert kernel.spec == AddTo()


@pytest.mark.parametrize("prepared", [False, True])
def test_a_launch_without_memory_gets_what_was_kept(device, prepared):
    (kernel,) = device.compile([AddTo()])
    x, y = put(device, X), put(device, X)
    put(device, np.zeros(1000, np.int32))
    held = len(device.driver.held)

    def launch():
        if prepared:
            kernel.prepare(3, meta(5))(x, y)
        else:
            device.launch(kernel, 3, [x, y], meta(5))

    device.driver.starved = 1
    launch()
    assert get(device, y, 24).tolist() == (X + 5).tolist()
    assert len(device.driver.held) == held - 1
    device.driver.starved = 2
    with pytest.raises(OutOfMemoryError, match="while launching kernel 'add_to'; drop tensors"):
        launch()
    launch()


def test_events_are_the_drivers(device):
    device.synchronize()
    event = device.record()
    event.wait()
    assert event.done()


# -- fork -------------------------------------------------------------------------------------


def in_child(work):
    """What `work` returns in a forked child, by pipe."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # if it hangs after all
        answer = None
        try:
            answer = work()
        finally:
            os.write(writer, pickle.dumps(answer))
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pickle.loads(pipe.read())
    os.waitpid(child, 0)
    return answer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_and_does_not_hang(device):
    (kernel,) = device.compile([AddTo()])
    device.dlpack_type = 2
    x, y = put(device, X), put(device, X)
    prepared = kernel.prepare(3, meta(5))
    temporary = [device.allocate(64)]
    calls = {
        "allocate": lambda: device.allocate(1 << 16),
        "copy_in": lambda: device.copy_in(x, 0, X.data.cast("B")),
        "copy_out": lambda: get(device, x, 1),
        "copy": lambda: device.copy(x, 0, y, 0, 4),
        "launch": lambda: device.launch(kernel, 1, [x, y], meta(1)),
        "prepared": lambda: prepared(x, y),
        "compile": lambda: device.compile([AddTo("new")]),
        "synchronize": device.synchronize,
        "record": device.record,
        "part": lambda: device.part(x, 0, 4),
        "pointer": lambda: device.pointer(x),
    }

    def work():
        temporary.clear()  # a finalizer must not reach the driver either
        device.empty_cache()
        answers = {}
        for name, call in calls.items():
            try:
                call()
                answers[name] = "no error"
            except BackendError as error:
                answers[name] = str(error)
        return answers

    held, forked = threading.Event(), threading.Event()

    def busy():
        with device._compiling, device._pool._lock:
            held.set()
            forked.wait(60)

    # Another thread of the parent compiles and allocates at the time of the fork.
    thread = threading.Thread(target=busy)
    thread.start()
    held.wait(60)
    try:
        answers = in_child(work)
    finally:
        forked.set()
        thread.join()
    for name, answer in answers.items():
        assert f"fake:0 was opened by process {os.getpid()}" in answer, (name, answer)
        assert "'spawn'" in answer
    prepared(x, y)
    assert get(device, y, 24).tolist() == (X + 5).tolist()
    assert len(device.driver.held) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_drops_no_event_of_a_copy(device):
    """Its destructor would wait in the driver, before anything in the child could end it."""

    class Late:
        """An event of a copy that is under way."""

    seen = weakref.ref(event := Late())
    device._staging._kept.append([event])
    del event
    assert in_child(lambda: seen() is not None)
