"""Memory, launches, errors and the compile cache of an open OpenCL device."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorbus_backends import clike, dtypes as dt
from tensorbus_backends.check import run_check
from tensorbus_backends.contract import (
    BackendError,
    Buffer,
    CompileError,
    DeviceInfo,
    DeviceLostError,
    DeviceUnavailableError,
    Feature,
    LaunchError,
    OutOfMemoryError,
)
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.discovery import REGISTRY
from tensorbus_backends.grid import GridBuffer, GridKernel
from tensorbus_opencl import PLUGIN

cl = pytest.importorskip("pyopencl", reason="pyopencl is not installed")

from tensorbus_opencl import driver as driver_module  # noqa: E402
from tensorbus_opencl.device import OpenCLDevice  # noqa: E402

Make = Callable[..., OpenCLDevice]


@dataclass(frozen=True)
class AddTo:
    """y[i] = x[i] + M(2) for 64 elements of each group; `words` may be more than needed."""

    name: str = "add_to"
    words: int = 4
    local: int = 0
    body: str = "LANES(l, 64) y[64 * g + l] = x[64 * g + l] + (i32)M(2) + (i32)M(3);"
    buffers: int = 2

    def source(self, dialect: Dialect) -> str:
        arguments = [clike.Argument("x", dt.int32), clike.Argument("y", dt.int32, True)]
        return clike.assemble(dialect, self.name, arguments, self.words, self.body, offsets=[0, 1])

    def local_bytes(self, dialect: Dialect) -> int:
        return self.local

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        raise NotImplementedError


def upload(device: OpenCLDevice, x: NDArray[Any]) -> Buffer:
    buffer = device.allocate(x.nbytes)
    device.copy_in(buffer, 0, x.view(np.uint8).data)
    return buffer


def download(device: OpenCLDevice, buffer: Buffer, n: int) -> NDArray[np.int32]:
    x = np.empty(n, np.int32)
    device.copy_out(buffer, 0, x.view(np.uint8).data)
    return x


def words(*values: int, total: int = 4) -> bytes:
    return np.asarray([*values, *[0] * (total - len(values))], np.int64).tobytes()


# -- what it says about itself ----------------------------------------------------------------


def test_the_line_tells_versions_and_how_it_was_reached(line: DeviceInfo) -> None:
    assert {"platform", "device", "driver", "opencl", "build_options", "loader", "kind"} <= set(
        line.details
    )
    assert "-cl-mad-enable" not in line.details["build_options"]
    assert "fast" not in line.details["build_options"]
    assert "unsafe" not in line.details["build_options"]
    assert line.details["driver"] in line.description
    assert "inexact" not in line.details


def test_all_names_open_the_same_device(line: DeviceInfo, device: OpenCLDevice) -> None:
    assert line.name.startswith("opencl:")
    assert REGISTRY.open(line.aliases[0]) is device
    assert REGISTRY.open("opencl").info.plugin == "opencl"


def test_arithmetic_is_exact(device: OpenCLDevice) -> None:
    assert all(run_check(device).values())
    capabilities = device.capabilities
    assert capabilities.ieee
    assert (capabilities.division, capabilities.square_root) == ("correct", "correct")
    assert capabilities.subnormals == "preserve"


def test_capabilities_are_the_drivers(device: OpenCLDevice) -> None:
    assert device.capabilities.max_group >= device.group >= 1
    assert device.capabilities.local_memory >= 32 * 1024
    assert ("float64" in device.capabilities.dtypes) == device.capabilities.fp64
    assert not device.has(Feature.ADDRESS)


def test_an_index_that_is_not_there(line: DeviceInfo) -> None:
    for index in (-1, 1000):
        with pytest.raises(DeviceUnavailableError, match="this process sees"):
            PLUGIN.open(index)


# -- memory -----------------------------------------------------------------------------------


def test_copies_at_offsets(device: OpenCLDevice) -> None:
    x = np.arange(100, dtype=np.int32)
    a, b = upload(device, x), upload(device, np.zeros(100, np.int32))
    device.copy(b, 40, a, 8, 80)
    want = np.zeros(100, np.int32)
    want[10:30] = x[2:22]
    assert (download(device, b, 100) == want).all()
    part = np.empty(3, np.int32)
    device.copy_out(b, 44, part.view(np.uint8).data)
    assert part.tolist() == [3, 4, 5]
    device.copy_in(b, 4, np.asarray([7], np.int32).view(np.uint8).data)
    assert download(device, b, 3).tolist() == [0, 7, 0]


def test_nothing_is_something(device: OpenCLDevice) -> None:
    a, b = device.allocate(0), device.allocate(0)
    device.copy_in(a, 0, memoryview(b""))
    device.copy_out(a, 0, memoryview(bytearray()))
    device.copy(b, 0, a, 0, 0)
    assert a.nbytes == 0


def test_copies_stay_inside_their_buffers(device: OpenCLDevice) -> None:
    a = device.allocate(8)
    for offset, size in ((4, 8), (-1, 4), (9, 0)):
        with pytest.raises(BackendError, match="does not fit a buffer of 8 bytes"):
            device.copy_in(a, offset, memoryview(bytes(size)))
        with pytest.raises(BackendError, match="does not fit a buffer of 8 bytes"):
            device.copy_out(a, offset, memoryview(bytearray(size)))
    with pytest.raises(BackendError, match="does not fit"):
        device.copy(a, 0, device.allocate(100), 0, 50)


def test_a_foreign_buffer_is_refused(device: OpenCLDevice) -> None:
    foreign = REGISTRY.open("ref").allocate(8)
    with pytest.raises(BackendError, match="a buffer of ref; copy it to opencl"):
        device.copy_in(foreign, 0, memoryview(bytes(8)))
    (kernel,) = device.compile([AddTo()])
    with pytest.raises(BackendError, match="a buffer of ref"):
        device.launch(kernel, 1, [foreign, foreign], words())


def test_parts_of_buffers(device: OpenCLDevice) -> None:
    (kernel,) = device.compile([AddTo()])
    whole = upload(device, np.zeros(4096, np.int32))
    part = device.part(whole, 4096, 8192)
    device.copy_in(part, 4, np.asarray([7], np.int32).view(np.uint8).data)
    device.launch(kernel, 32, [part, part], words(0, 0, 1))
    got = download(device, whole, 4096)
    want = np.zeros(4096, np.int32)
    want[1024:3072] = 1
    want[1025] = 8
    assert (got == want).all()
    end = device.part(whole, 4 * 4096, 0)  # OpenCL has no sub-buffer of nothing
    device.launch(kernel, 1, [part, end], words())
    device.copy_in(whole, 0, memoryview(bytes(256)))
    del whole, end
    gc.collect()
    assert download(device, part, 2).tolist() == [1, 8]
    assert device.part(part, 0, 0).nbytes == 0
    inner = device.part(part, 4096, 4096)
    assert download(device, inner, 2).tolist() == [1, 1]
    device.launch(kernel, 16, [inner, part], words(0, 0, 5))
    assert download(device, part, 2).tolist() == [6, 6]
    device.launch(kernel, 1, [part, part], words(0, 0, 9))
    with pytest.raises(BackendError, match="a part of 20 bytes at offset 8192 does not fit"):
        device.part(part, 8192, 20)


def test_memory_is_reused_and_counted(make: Make) -> None:
    device = make()
    a = device.allocate(1 << 20)
    assert isinstance(a, GridBuffer)
    block = a.at
    assert device.memory().used == 1 << 20
    assert device.memory().total > 1 << 20
    del a
    gc.collect()
    assert (device.memory().used, device.memory().cached) == (0, 1 << 20)
    b = device.allocate(1 << 20)
    assert isinstance(b, GridBuffer)
    assert b.at is block
    device.empty_cache()
    del b
    device.empty_cache()
    assert (device.memory().cached, device.memory().peak) == (0, 1 << 20)


def test_a_senseless_size_is_refused(device: OpenCLDevice) -> None:
    with pytest.raises(OutOfMemoryError, match=r"out of memory: .* in one piece"):
        device.allocate(1 << 60)
    with pytest.raises(OutOfMemoryError):
        device.allocate(-1)


def test_out_of_memory_is_told_and_survived(make: Make) -> None:
    device = make()
    device._pool.total = 64 << 20
    kept = [device.allocate(16 << 20) for _ in range(4)]
    with pytest.raises(OutOfMemoryError, match=r"16\.0 MiB asked for while 64\.0 MiB of 64\.0 MiB"):
        device.allocate(16 << 20)
    kept.clear()
    x = np.arange(64, dtype=np.int32)
    a = upload(device, x)
    assert (download(device, a, 64) == x).all()
    assert device.allocate(48 << 20).nbytes == 48 << 20


@pytest.mark.parametrize("code", [-4, -5, -6, -61])
def test_a_driver_without_memory_gets_what_was_kept(
    make: Make, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    device = make()
    device.allocate(1 << 20)
    assert device.memory().cached == 1 << 20
    create = cl.Buffer

    def scarce(*arguments: Any) -> Any:
        if device.memory().cached or full:
            raise cl.MemoryError(cl._cl._ErrorRecord("no memory", code, "clCreateBuffer"))
        return create(*arguments)

    monkeypatch.setattr(cl, "Buffer", scarce)
    full = False
    assert device.allocate(2 << 20).nbytes == 2 << 20
    full = True
    with pytest.raises(OutOfMemoryError):
        device.allocate(4 << 20)
    full = False
    assert device.allocate(4 << 20).nbytes == 4 << 20


@pytest.mark.parametrize(("code", "kind"), [(-4, OutOfMemoryError), (-2, DeviceLostError)])
def test_a_launch_that_the_driver_refuses(
    make: Make, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    device = make()
    (kernel,) = device.compile([AddTo()])
    assert isinstance(kernel, GridKernel)
    a = upload(device, np.zeros(64, np.int32))
    real, refusals = driver_module._run, [1]

    def run(*arguments: Any) -> Any:
        if refusals and refusals.pop():
            raise cl.RuntimeError(cl._cl._ErrorRecord("no", code, "clEnqueueNDRangeKernel"))
        return real(*arguments)

    monkeypatch.setattr(driver_module, "_run", run)
    if kind is OutOfMemoryError:
        # Lazy drivers find out at a launch: once more, with the cache emptied.
        device.launch(kernel, 1, [a, a], words(0, 0, 2))
        refusals[:] = [1]
        kernel.prepare(1, words(0, 0, 2))(a, a)
        assert download(device, a, 1).tolist() == [4]
    refusals[:] = [1, 1]
    with pytest.raises(kind):
        device.launch(kernel, 1, [a, a], words())


# -- launches ---------------------------------------------------------------------------------


def test_a_launch_and_its_prepared_form(device: OpenCLDevice) -> None:
    (kernel,) = device.compile([AddTo()])
    assert isinstance(kernel, GridKernel)
    x = np.arange(640, dtype=np.int32)
    a, b = upload(device, x), upload(device, np.zeros(640, np.int32))
    device.launch(kernel, 10, [a, b], words(0, 0, 5))
    assert (download(device, b, 640) == x + 5).all()
    launch = kernel.prepare(5, words(320, 0, 7))
    c = upload(device, np.zeros(640, np.int32))
    launch(a, c)
    launch(b, b)
    assert (download(device, c, 640) == np.pad(x[320:] + 7, (0, 320))).all()
    assert (download(device, b, 320) == x[320:] + 12).all()


def test_launches_are_in_order_and_events_tell(device: OpenCLDevice) -> None:
    (kernel,) = device.compile([AddTo()])
    x = upload(device, np.zeros(6400, np.int32))
    for _ in range(50):
        device.launch(kernel, 100, [x, x], words(0, 0, 1))
    event = device.record()
    event.wait()
    assert event.done()
    assert (download(device, x, 6400) == 50).all()
    device.synchronize()


def test_memory_may_be_dropped_right_after_a_launch(device: OpenCLDevice) -> None:
    (kernel,) = device.compile([AddTo()])
    n = 64 * 500
    total = upload(device, np.zeros(n, np.int32))
    for k in range(30):
        source = upload(device, np.full(n, k, np.int32))
        device.launch(kernel, 500, [source, total], words(0, 0, 1))
        del source
    assert (download(device, total, n) == 30).all()


def test_metadata_beyond_the_argument_limit(make: Make) -> None:
    device = make()
    limit = REGISTRY.open(device.info.name)._argument_bytes  # type: ignore[attr-defined]
    wide = AddTo("add_wide", words=limit // 8 + 1)
    narrow, kernel = device.compile([AddTo(), wide])
    assert isinstance(kernel, GridKernel)
    assert isinstance(narrow, GridKernel)
    assert (narrow.in_memory, kernel.in_memory) == (False, True)
    a, b = upload(device, np.arange(64, dtype=np.int32)), device.allocate(256)
    meta = words(0, 0, 3, 4, total=wide.words)
    device.launch(kernel, 1, [a, b], meta)
    assert (download(device, b, 64) == np.arange(64) + 7).all()
    kernel.prepare(1, meta)(b, b)
    assert (download(device, b, 64) == np.arange(64) + 14).all()


def test_many_threads_launch_at_once(device: OpenCLDevice) -> None:
    (kernel,) = device.compile([AddTo()])
    assert isinstance(kernel, GridKernel)
    shared = kernel.prepare(2, words(0, 0, 1))
    failures: list[object] = []

    def work(k: int) -> None:
        try:
            for _ in range(40):
                a = upload(device, np.full(128, k, np.int32))
                b = device.allocate(512)
                device.launch(kernel, 2, [a, b], words(0, 0, k))
                shared(b, b)
                got = download(device, b, 128)
                if not (got == 2 * k + 1).all():
                    failures.append((k, got))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


@pytest.mark.parametrize(
    ("groups", "buffers", "meta", "message"),
    [
        (0, 2, words(), "0 groups; it needs at least 1"),
        (1, 1, words(), "takes 2 buffers, 1 were given"),
        (1, 2, words()[:-8], "takes 32 bytes of metadata, 24 were given"),
    ],
)
def test_a_launch_that_does_not_fit_is_refused(
    device: OpenCLDevice, groups: int, buffers: int, meta: bytes, message: str
) -> None:
    (kernel,) = device.compile([AddTo()])
    given = [device.allocate(256) for _ in range(buffers)]
    with pytest.raises(LaunchError, match=message):
        device.launch(kernel, groups, given, meta)


def test_a_kernel_of_another_device_is_refused(device: OpenCLDevice) -> None:
    kernel = REGISTRY.open("ref").compile([AddTo()])[0]
    with pytest.raises(LaunchError, match="did not compile"):
        device.launch(kernel, 1, [], words())


def test_the_group_size_comes_from_the_environment(
    line: DeviceInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBUS_OPENCL_GROUP", "5")
    device = PLUGIN.open(line.index)
    assert isinstance(device, OpenCLDevice)
    assert device.group == 5
    for wrong in ("many", "0", str(1 << 20)):
        monkeypatch.setenv("TENSORBUS_OPENCL_GROUP", wrong)
        with pytest.raises(DeviceUnavailableError, match=f"TENSORBUS_OPENCL_GROUP='{wrong}'"):
            PLUGIN.open(line.index)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_and_does_not_hang(make: Make) -> None:
    device = make()
    (kernel,) = device.compile([AddTo()])
    assert isinstance(kernel, GridKernel)
    a = upload(device, np.zeros(2048, np.int32))
    launch = kernel.prepare(1, words(0, 0, 2))
    launch(a, device.part(a, 4096, 4096))
    kept: list[Buffer] = [device.part(device.allocate(8192), 4096, 4096)]
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # if it hangs after all
        refused = 0
        for call in (lambda: launch(a, a), lambda: upload(device, np.zeros(1 << 20, np.int32))):
            try:
                call()
            except BackendError as error:
                refused += "'spawn'" in str(error)
        kept.clear()
        device.empty_cache()
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    launch(a, a)
    assert download(device, a, 1025)[[0, 1024]].tolist() == [2, 2]


@pytest.mark.parametrize("shared", [1, 2, 1000])
def test_prepared_launches_keep_their_metadata_apart(
    device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch, shared: int
) -> None:
    monkeypatch.setattr(driver_module, "_SHARED", shared)
    (kernel,) = device.compile([AddTo()])
    assert isinstance(kernel, GridKernel)
    a = upload(device, np.zeros(64, np.int32))
    one, two = kernel.prepare(1, words(0, 0, 1)), kernel.prepare(1, words(0, 0, 10))
    for launch in (one, two, two, one, two):
        launch(a, a)
    device.launch(kernel, 1, [a, a], words(0, 0, 100))
    one(a, a)
    two(a, a)
    assert download(device, a, 1).tolist() == [143]


# -- compilation ------------------------------------------------------------------------------


def test_a_compile_error_names_the_kernel_and_shows_the_log(make: Make) -> None:
    device = make()
    kernels = [AddTo(), AddTo("broken", body="y[0] = nonsense;"), AddTo("fine")]
    with pytest.raises(CompileError, match="kernel 'broken'") as caught:
        device.compile(kernels)
    assert "nonsense" in caught.value.log
    assert "nonsense" in caught.value.source
    assert "nonsense" in str(caught.value)
    assert "broken" in caught.value.numbered_source()
    # The others are not hurt.
    kernel, _ = device.compile([kernels[0], kernels[2]])
    a = upload(device, np.zeros(64, np.int32))
    device.launch(kernel, 1, [a, a], words(0, 0, 2))
    assert download(device, a, 1).tolist() == [2]


def test_too_much_local_memory_is_told_before_compiling(device: OpenCLDevice) -> None:
    with pytest.raises(CompileError, match="bytes of memory shared by a group"):
        device.compile([AddTo("greedy", local=1 << 40)])


def test_kernels_are_compiled_once(device: OpenCLDevice) -> None:
    a, b, c = device.compile([AddTo(), AddTo("fine"), AddTo()])
    assert a is c
    assert a is not b
    assert device.compile([AddTo("fine")])[0] is b


def test_compiled_programs_are_found_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [AddTo(), AddTo("fine")]
    make().compile(kernels)

    def refuse(*args: object) -> None:
        raise AssertionError("compiled again")

    second = make()
    monkeypatch.setattr(second._builder, "_build_unit", refuse)
    for name in ("fine", "add_to"):
        (kernel,) = second.compile([AddTo(name)])
        a = upload(second, np.zeros(64, np.int32))
        second.launch(kernel, 1, [a, a], words(0, 0, 2))
        assert download(second, a, 64).tolist() == [2] * 64
    with pytest.raises(AssertionError, match="compiled again"):
        second.compile([AddTo("fine", body="LANES(l, 64) y[64 * g + l] = 1;")])


def test_a_cache_entry_that_the_driver_refuses_is_built_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make()
    first.compile([AddTo()])
    cache = first._builder._cache
    sound = cache.get_bytes

    def spoilt(key: str, suffix: str = ".bin") -> bytes | None:
        data = sound(key, suffix)
        return b"\xff spoilt" if data is not None and suffix != ".unit" else data

    second = make()
    monkeypatch.setattr(second._builder._cache, "get_bytes", spoilt)
    (kernel,) = second.compile([AddTo()])
    a = upload(second, np.zeros(64, np.int32))
    second.launch(kernel, 1, [a, a], words(0, 0, 2))
    assert download(second, a, 64).tolist() == [2] * 64


def test_nothing_but_the_cache_is_left_on_disk(make: Make, tmp_path: Path) -> None:
    make().compile([AddTo()])
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
