"""Memory, launches and order of an open device, over the simulated driver."""

from __future__ import annotations

import gc
import mmap
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.check import run_check
from tensorbus_backends.contract import Buffer, CompileError, NativeCase, UnsupportedError
from tensorbus_backends.opening import Terms, checked
from tensorbus_metal.device import MetalDevice
from tensorbus_metal.driver import BATCH
from tensorbus_metal.natives import LIBRARY, supported

Make = Callable[..., MetalDevice]
Census = Callable[[], str]
N = 64


def upload(device: MetalDevice, x: NDArray[Any]) -> Buffer:
    buffer = device.allocate(x.nbytes)
    device.copy_in(buffer, 0, x.reshape(-1).view(np.uint8).data)
    return buffer


def download(device: MetalDevice, buffer: Buffer, like: NDArray[Any]) -> NDArray[Any]:
    out = np.empty_like(like)
    device.copy_out(buffer, 0, out.reshape(-1).view(np.uint8).data)
    return out


def meta(value: int, words: int = 3) -> bytes:
    return np.asarray([0, 0, value] + [0] * (words - 3), np.int64).tobytes()


def seen(device: MetalDevice, buffer: Buffer, like: NDArray[Any]) -> NDArray[Any]:
    """The buffer's memory as NumPy sees it in place."""
    import ctypes

    block = (ctypes.c_uint8 * like.nbytes).from_address(device.address(buffer))
    return np.frombuffer(block, like.dtype)


@pytest.mark.parametrize("group", [None, 1, 7, 64, 1024])
def test_the_check_kernel_is_exact_but_for_subnormals(make: Make, group: int | None) -> None:
    verdict = run_check(make(group))
    assert [name for name, ok in verdict.items() if not ok] == ["subnormal f32"]


def test_capabilities_are_declared_and_measured(device: MetalDevice) -> None:
    found = checked("metal:0", lambda: device, Terms("2.5", "3")).capabilities
    assert (found.subnormals, found.division, found.square_root) == ("flush", "correct", "correct")
    assert not found.fp64
    assert "float64" not in found.dtypes
    assert found.ieee


def test_bytes_go_in_and_out_at_any_offset(device: MetalDevice) -> None:
    x = np.arange(100, dtype=np.uint8)
    buffer = device.allocate(200)
    device.copy_in(buffer, 0, memoryview(bytes(200)))
    device.copy_in(buffer, 33, x.data)
    out = np.zeros(101, np.uint8)
    device.copy_out(buffer, 32, out.data)
    assert out[0] == 0
    assert (out[1:] == x).all()


@pytest.mark.parametrize(("to", "of", "size"), [(0, 0, 64), (4, 8, 32), (1, 2, 33), (0, 4, 3)])
def test_copies_on_device(device: MetalDevice, to: int, of: int, size: int) -> None:
    x = np.arange(64, dtype=np.uint8)
    source, target = upload(device, x), upload(device, np.zeros(128, np.uint8))
    device.copy(target, to, source, of, size)
    want = np.zeros(128, np.uint8)
    want[to : to + size] = x[of : of + size]
    assert (download(device, target, want) == want).all()


def test_launches_run_in_order_over_several_command_buffers(
    device: MetalDevice, add_to: Any
) -> None:
    (kernel,) = device.compile([add_to()])
    x = np.arange(2 * N, dtype=np.int32)
    a, b = upload(device, x), device.allocate(x.nbytes)
    for k in range(3 * BATCH):
        device.launch(kernel, 2, [a, b], meta(k))
        device.launch(kernel, 2, [b, a], meta(1))
        if k % 10 == 0:
            device.copy(b, 0, a, 0, x.nbytes)
    want = x + sum(range(3 * BATCH)) + 3 * BATCH
    assert (download(device, a, x) == want).all()


def test_prepared_launches_serve_several_threads(device: MetalDevice, add_to: Any) -> None:
    (kernel,) = device.compile([add_to()])
    launch = kernel.prepare(1, meta(1))  # type: ignore[attr-defined]
    x = np.zeros(N, np.int32)
    results: list[NDArray[Any]] = []

    def work() -> None:
        a, b = upload(device, x), device.allocate(x.nbytes)
        for _ in range(40):
            launch(a, b)
            launch(b, a)
        device.record().wait()
        results.append(download(device, a, x))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all((r == 80).all() for r in results)


def test_work_is_late_until_somebody_waits(device: MetalDevice, add_to: Any) -> None:
    (kernel,) = device.compile([add_to()])
    x = np.zeros(N, np.int32)
    a, b = upload(device, x), upload(device, x)
    place = b.at  # type: ignore[attr-defined]
    device.launch(kernel, 1, [a, b], meta(5))
    event = device.record()
    # The host looks behind the driver's back: a real device is as late as this one.
    raw = device.driver._objc.ffi.cast("int *", place.block.address)
    assert raw[0] == 0
    event.wait()
    assert event.done()
    assert raw[0] == 5


def test_an_event_is_reached_by_asking(device: MetalDevice, add_to: Any) -> None:
    (kernel,) = device.compile([add_to()])
    x = np.zeros(N, np.int32)
    a, b = upload(device, x), device.allocate(x.nbytes)
    device.launch(kernel, 1, [a, b], meta(5))
    event = device.record()
    assert any(event.done() for _ in range(1000))


def test_more_command_buffers_than_a_queue_holds(device: MetalDevice, add_to: Any) -> None:
    (kernel,) = device.compile([add_to()])
    x = np.zeros(N, np.int32)
    a, b = upload(device, x), device.allocate(x.nbytes)
    events = []
    for _ in range(100):
        device.launch(kernel, 1, [a, b], meta(1))
        device.launch(kernel, 1, [b, a], meta(1))
        events.append(device.record())
    assert len(device.driver._sent) <= 48
    assert not events[-1].done()
    events[-1].wait()
    assert all(event.done() for event in events)
    assert (download(device, a, x) == 200).all()


def test_launches_share_command_buffers(device: MetalDevice, add_to: Any) -> None:
    (kernel,) = device.compile([add_to()])
    x = np.zeros(N, np.int32)
    a, b = upload(device, x), device.allocate(x.nbytes)
    launch = kernel.prepare(1, meta(1))  # type: ignore[attr-defined]
    for _ in range(BATCH - 1):
        launch(a, b)
    assert len(device.driver._sent) == 0
    launch(a, b)
    assert len(device.driver._sent) == 1


def test_writing_waits_for_what_still_reads(device: MetalDevice, add_to: Any) -> None:
    (kernel,) = device.compile([add_to()])
    x = np.full(N, 10, np.int32)
    a, b = upload(device, x), device.allocate(x.nbytes)
    device.launch(kernel, 1, [a, b], meta(1))
    device.copy_in(a, 0, np.zeros(N, np.int32).view(np.uint8).data)
    assert (download(device, b, x) == 11).all()


@pytest.mark.parametrize("words", [4096 // 8 - 1, 4096 // 8, 4096 // 8 + 1])
def test_metadata_from_4_kib_on_goes_through_a_buffer(
    device: MetalDevice, add_to: Any, words: int
) -> None:
    (kernel,) = device.compile([add_to(words=words)])
    x = np.arange(N, dtype=np.int32)
    a, b = upload(device, x), device.allocate(x.nbytes)
    device.launch(kernel, 1, [a, b], meta(7, words))
    launch = kernel.prepare(1, meta(9, words))  # type: ignore[attr-defined]
    assert (download(device, b, x) == x + 7).all()
    launch(a, b)
    assert (download(device, b, x) == x + 9).all()


def test_a_small_pipeline_gets_small_groups(simulated: Callable[..., str]) -> None:
    script = """
    import numpy as np, tensorbus as tb
    x = tb.asarray(np.ones((300, 300), np.float32), device="metal")
    print(tb.sum(x).numpy())
    """
    # Metal aborts the process if a group is larger than its pipeline allows.
    assert simulated(script, threads=24).strip() == "90000.0"


def test_what_numpy_sees_is_the_memory(device: MetalDevice, add_to: Any) -> None:
    (kernel,) = device.compile([add_to()])
    x = np.arange(N, dtype=np.int32)
    a, b = upload(device, x), upload(device, x)
    view = seen(device, b, x)
    device.launch(kernel, 1, [a, b], meta(100))
    # No wait: nobody tells a NumPy array when to.
    assert (view == x + 100).all()


def test_memory_that_numpy_saw_is_ordinary_again_afterwards(
    device: MetalDevice, add_to: Any
) -> None:
    (kernel,) = device.compile([add_to()])
    x = np.zeros(N, np.int32)
    a, b = upload(device, x), device.allocate(x.nbytes)
    device.address(b)
    del b
    b = upload(device, x)
    device.launch(kernel, 1, [a, b], meta(1))
    place = b.at  # type: ignore[attr-defined]
    assert not place.block.shown
    assert (download(device, b, x) == 1).all()


def test_host_memory_is_used_in_place(device: MetalDevice, add_to: Any) -> None:
    (kernel,) = device.compile([add_to()])
    x, y = np.arange(N, dtype=np.int32), np.zeros(3 * N, np.int32)
    a = device.import_pointer(x.ctypes.data, x.nbytes, x)
    b = device.import_pointer(y.ctypes.data + 4 * N, x.nbytes, y)
    device.launch(kernel, 1, [a, b], meta(3))
    assert (y[N : 2 * N] == x + 3).all()
    assert not y[:N].any()
    assert not y[2 * N :].any()
    x[:] = 5
    device.launch(kernel, 1, [a, b], meta(3))
    x[:] = 0
    assert (y[N : 2 * N] == 8).all()
    assert device.address(b) == y.ctypes.data + 4 * N


def test_host_memory_keeps_its_owner(device: MetalDevice) -> None:
    class Owner:
        alive = True

        def __del__(self) -> None:
            Owner.alive = False

    pages = mmap.mmap(-1, mmap.PAGESIZE)
    address = np.frombuffer(pages, np.uint8).ctypes.data
    buffer = device.import_pointer(address, 64, Owner())
    assert Owner.alive
    del buffer
    gc.collect()
    assert not Owner.alive


def test_memory_that_metal_refuses(simulated: Callable[..., str]) -> None:
    script = """
    import numpy as np, tensorbus as tb
    x = np.arange(5, dtype=np.float32)
    y = tb.from_dlpack(x, device="metal")
    x[:] = 0
    print(y.device, y.numpy().tolist())
    try:
        tb.from_dlpack(x, device="metal", copy=False)
    except ValueError as error:
        print(error)
    """
    said = simulated(script, nocopy=0)
    assert said.startswith("metal:0 [0.0, 1.0, 2.0, 3.0, 4.0]")
    assert "cannot use 20 bytes of host memory" in said


def test_parts_share_their_buffer(device: MetalDevice, add_to: Any) -> None:
    (kernel,) = device.compile([add_to()])
    x = np.arange(N, dtype=np.int32)
    a, whole = upload(device, x), device.allocate(3 * 4096)
    device.copy_in(whole, 0, memoryview(bytes(3 * 4096)))
    part = device.part(whole, 4096, x.nbytes)
    device.launch(kernel, 1, [a, part], meta(1))
    out = download(device, whole, np.empty(3 * 1024, np.int32))
    assert (out[1024 : 1024 + N] == x + 1).all()
    assert not out[:1024].any()
    assert not out[1024 + N :].any()


def test_a_kernel_with_too_many_buffers_is_refused(device: MetalDevice, add_to: Any) -> None:
    with pytest.raises(CompileError, match="31 buffers, and Metal binds at most 30"):
        device.compile([add_to(buffers=31)])


def test_a_kernel_with_too_much_local_memory_is_refused(device: MetalDevice, add_to: Any) -> None:
    with pytest.raises(CompileError, match="32769 bytes of memory shared by a group"):
        device.compile([add_to(local=32769)])


def test_dlpack_shares_the_host_s_address_only(device: MetalDevice) -> None:
    assert device.dlpack_type == 0
    with pytest.raises(UnsupportedError):
        device.import_pointer(0, 1 << 40, object())


def test_every_object_goes_away(make: Make, add_to: Any, census: Census) -> None:
    gc.collect()
    before = census()
    device = make()
    (kernel,) = device.compile([add_to()])
    x = np.zeros(N, np.int32)
    a, b = upload(device, x), device.allocate(x.nbytes)
    launch = kernel.prepare(1, meta(1))  # type: ignore[attr-defined]
    for _ in range(2 * BATCH + 3):
        launch(a, b)
        device.copy(a, 0, b, 0, x.nbytes)
    native = device.natives["matmul"]
    f = upload(device, np.ones((4, 4), np.float32))
    out = device.allocate(64)
    shapes = ((4, 4),) * 3
    case = NativeCase("matmul", (dt.float32,) * 3, shapes, ((4, 1),) * 3)
    native.run(case, [f, f, out], [0, 0, 0])
    assert (download(device, out, np.empty((4, 4), np.float32)) == 4).all()
    device.record().wait()
    device.import_pointer(x.ctypes.data, x.nbytes, x)
    del a, b, f, out
    device.launch(kernel, 1, [device.allocate(4 * N), device.allocate(4 * N)], meta(1))
    del kernel, launch, native, device
    gc.collect()
    assert census() == before


# -- native products ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [dt.float32, dt.float16])
@pytest.mark.parametrize("transposed", [False, True])
def test_native_products_are_right(device: MetalDevice, dtype: Any, transposed: bool) -> None:
    rng = np.random.default_rng(3)
    a = rng.integers(-8, 8, (3, 5, 7)).astype(dtype.numpy)
    b = rng.integers(-8, 8, (3, 9, 7) if transposed else (3, 7, 9)).astype(dtype.numpy)
    right = b.transpose(0, 2, 1) if transposed else b
    strides = tuple(
        tuple(s // dtype.itemsize for s in x.strides)
        for x in (a, right, np.empty((3, 5, 9), dtype.numpy))
    )
    case = NativeCase("matmul", (dtype,) * 3, ((3, 5, 7), (3, 7, 9), (3, 5, 9)), strides)
    native = device.natives["matmul"]
    assert native.library == LIBRARY
    assert native.when(case)
    out = device.allocate(3 * 45 * dtype.itemsize + 64)
    native.run(case, [upload(device, a), upload(device, b), out], [0, 0, 8])
    got = np.empty(3 * 45 + 8, dtype.numpy)
    device.copy_out(out, 0, got.view(np.uint8).data)
    # Small integers: every order of additions is exact.
    want = np.matmul(a.astype(np.float64), right.astype(np.float64))
    assert (got[8:].reshape(3, 5, 9).astype(np.float64) == want).all()


def test_products_that_mps_does_not_take() -> None:
    def case(dtype: Any, batch: int) -> NativeCase:
        shape, strides = (batch, 2, 2), (4, 2, 1)
        return NativeCase("matmul", (dtype,) * 3, (shape,) * 3, (strides,) * 3)

    assert supported(case(dt.float32, 256))
    assert not supported(case(dt.float32, 257))
    assert not supported(case(dt.bfloat16, 2))
    assert not supported(case(dt.int32, 2))


def test_without_mps_there_are_no_natives(simulated: Callable[..., str]) -> None:
    script = """
    import numpy as np, tensorbus as tb
    x = tb.asarray(np.ones((3, 3), np.float32), device="metal")
    print(dict(x.device.backend.natives), tb.matmul(x, x).numpy().sum())
    """
    assert simulated(script, mps=0).split() == ["{}", "27.0"]
