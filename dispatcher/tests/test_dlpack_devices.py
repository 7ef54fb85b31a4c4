"""DLPack with memory that only a device reaches: streams, ownership, which device it is."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import _devices, _dlpack
from tensorbus_backends.contract import (
    Buffer,
    DeviceInfo,
    DeviceUnavailableError,
    Evidence,
    Feature,
)
from tensorbus_backends.ref import RefDevice

CUDA, METAL, ROCM = 2, 8, 10


class Gpu(RefDevice):
    """The interpreter's device with memory that the host allegedly does not reach."""

    def __init__(self, info: DeviceInfo) -> None:
        super().__init__(info)
        self.features = self.features - {Feature.ADDRESS}
        self.dlpack_type = CUDA
        self.waits: list[str] = []
        self.waiting = lambda: None

    def pointer(self, buffer: Buffer) -> int:
        return super().address(buffer)

    def address(self, buffer: Buffer) -> int:
        raise AssertionError("the host cannot reach it")

    def synchronize(self) -> None:
        self.waits.append(threading.current_thread().name)
        self.waiting()


class Drivers:
    """A registry of two such devices, beside cpu and ref."""

    def __init__(self) -> None:
        self.lines = [
            DeviceInfo(f"gpu:{k}", "gpu", k, evidence=Evidence.UNSTATED) for k in range(2)
        ]
        self.opened: list[str] = []

    def devices(self, refresh: bool = False) -> list[DeviceInfo]:
        return self.lines

    def open(self, name: str) -> Any:
        for line in self.lines:
            if line.name == name:
                self.opened.append(name)
                return Gpu(line)
        return registry.open(name)


registry = _devices.registry


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drivers]:
    made = Drivers()
    # What stays open after the test has to be known after it.
    for name in ("cpu", "ref"):
        tb.get_device(name)
    monkeypatch.setattr(_devices, "registry", made)
    monkeypatch.setattr(_devices, "_open", dict(_devices._open))
    return made


@pytest.fixture
def gpu(drivers: Drivers) -> Any:
    return tb.get_device("gpu:1")


class Foreign:
    """Another library's tensor on a device: hands out `x`'s capsule, notes what it is asked."""

    def __init__(self, x: tb.Tensor, place: tuple[int, int] | None = None, old: bool = False):
        self.x, self.place, self.old = x, place, old
        self.asked: list[dict[str, Any]] = []

    def __dlpack__(self, **options: Any) -> Any:
        self.asked.append(options)
        if self.old and options.keys() - {"stream"}:
            raise TypeError("unexpected keyword")
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.place or self.x.__dlpack_device__()


def structure(capsule: Any) -> Any:
    address = _dlpack._pointer_of(id(capsule), b"dltensor_versioned")
    return _dlpack._ManagedVersioned.from_address(address)


# -- out --------------------------------------------------------------------------------------


def test_the_device_is_named_by_type_and_index(gpu: Any) -> None:
    x = tb.arange(6, device=gpu)[2:]
    assert x.__dlpack_device__() == (CUDA, 1)
    capsule = x.__dlpack__(max_version=(1, 1))
    tensor = structure(capsule).dl_tensor
    assert (tensor.device.device_type, tensor.device.device_id) == (CUDA, 1)
    start = gpu.backend.pointer(x._buffer)
    assert (tensor.data, tensor.byte_offset) == (start + 2 * x.dtype.itemsize, 0)
    empty = x[:0].__dlpack__(max_version=(1, 1))
    assert structure(empty).dl_tensor.data is None


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (CUDA, [None, 1, 2, 0x7F00], [0, -2, "1", 1.0]),
        (ROCM, [None, 0, 0x7F00], [1, 2, -2]),
        (METAL, [None], [0, 1, -1]),
    ],
)
def test_streams(gpu: Any, kind: int, good: list[Any], bad: list[Any]) -> None:
    x = tb.ones((3,), device=gpu)
    gpu.backend.dlpack_type = kind
    for stream in good:
        gpu.backend.waits.clear()
        x.__dlpack__(stream=stream)
        assert len(gpu.backend.waits) == 1
    for stream in bad:
        with pytest.raises(ValueError, match="stream"):
            x.__dlpack__(stream=stream)


def test_minus_one_leaves_the_waiting_to_the_other_side(gpu: Any) -> None:
    x = tb.ones((3,), device=gpu)
    gpu.backend.waits.clear()
    x.__dlpack__(stream=-1)
    assert gpu.backend.waits == []


def test_copies_on_the_device_and_to_the_host(gpu: Any) -> None:
    x = tb.arange(3, device=gpu)
    capsule = x.__dlpack__(max_version=(1, 1), copy=True)
    assert structure(capsule).flags == 2
    assert structure(capsule).dl_tensor.data != gpu.backend.pointer(x._buffer)
    with pytest.raises((BufferError, RuntimeError), match=r"(?i)device"):
        np.from_dlpack(x)
    host = np.from_dlpack(Foreign(x, (1, 0)), device="cpu")
    assert host.tolist() == [0, 1, 2]
    for place, copy in (((CUDA, 0), None), ((ROCM, 1), None), ((1, 0), False)):
        with pytest.raises(BufferError, match="cannot be shared"):
            x.__dlpack__(dl_device=place, copy=copy)


def test_a_device_that_the_host_reaches_shares_as_the_host(gpu: Any) -> None:
    x = tb.arange(6, device=gpu)[2:]
    backend = gpu.backend
    backend.dlpack_type = METAL
    backend.features |= {Feature.ADDRESS}
    backend.address = lambda buffer: RefDevice.address(backend, buffer)
    assert x.__dlpack_device__() == (1, 0)
    assert np.from_dlpack(x).tolist() == [2, 3, 4, 5]
    # Metal's pointer is a handle: the offset stands beside it.
    capsule = x.__dlpack__(max_version=(1, 1), dl_device=(METAL, 1))
    tensor = structure(capsule).dl_tensor
    assert tensor.device.device_type == METAL
    assert tensor.data == backend.pointer(x._buffer)
    assert tensor.byte_offset == 2 * x.dtype.itemsize


def test_a_device_without_a_type_cannot_share(gpu: Any) -> None:
    x = tb.ones((3,), device=gpu)
    gpu.backend.dlpack_type = 0
    with pytest.raises(BufferError, match="cannot be shared"):
        x.__dlpack__()
    with pytest.raises(ValueError, match="no streams"):
        x.__dlpack__(stream=1)


# -- in ---------------------------------------------------------------------------------------

VIEWS: list[Callable[[tb.Tensor], tb.Tensor]] = [
    lambda x: x,
    lambda x: x[1:, ::2],
    lambda x: x[::-1, ::-1],
    lambda x: x.mT,
    lambda x: x[0, 0],
    lambda x: x[:, 0:0],
]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("view", range(len(VIEWS)))
def test_memory_of_a_device_is_shared(gpu: Any, view: int, old: bool) -> None:
    x = VIEWS[view](tb.reshape(tb.arange(12, dtype=tb.float32, device=gpu), (3, 4)))
    foreign = Foreign(x, old=old)
    y = tb.from_dlpack(foreign)
    assert y.device is gpu
    assert y.numpy().tolist() == x.numpy().tolist()
    y += 1
    assert x.numpy().tolist() == y.numpy().tolist()
    assert foreign.asked[-1]["stream"] == 1
    assert "dl_device" not in foreign.asked[-1]


def test_the_exporter_is_told_our_queue(gpu: Any) -> None:
    foreign = Foreign(tb.ones((2,), device=gpu))
    gpu.backend.dlpack_stream = 0x1230
    tb.from_dlpack(foreign)
    assert foreign.asked == [{"max_version": (1, 1), "stream": 0x1230}]
    gpu.backend.dlpack_type, gpu.backend.dlpack_stream = ROCM, 0
    tb.from_dlpack(foreign)
    assert foreign.asked[-1]["stream"] == 0


def test_the_device_is_found_by_type_and_number(drivers: Drivers) -> None:
    x = tb.ones((2,), device="gpu:0")
    y = tb.from_dlpack(Foreign(x, (CUDA, 0)))
    assert y.device is x.device
    assert drivers.opened == ["gpu:0"]
    drivers.lines[1:] = [replace(drivers.lines[1], available=False)]
    assert _devices.sharing(CUDA, 1) is None
    drivers.lines[1:] = [replace(drivers.lines[1], available=True, evidence=Evidence.SIMULATED)]
    assert _devices.sharing(CUDA, 1) is None
    assert drivers.opened == ["gpu:0"]
    target = tb.get_device("gpu:1")
    assert _devices.sharing(CUDA, 1, target) is target
    drivers.lines[1:] = [DeviceInfo("new:2", "new", 2, evidence=Evidence.UNSTATED)]
    found = _devices.sharing(CUDA, 2)
    assert found is not None
    assert found.name == "new:2"


def test_a_device_that_cannot_be_opened_is_passed_over(
    drivers: Drivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> Any:
        raise DeviceUnavailableError(name, "it is in use", "wait")

    monkeypatch.setattr(drivers, "open", refuse)
    assert _devices.sharing(CUDA, 1) is None


def test_memory_of_no_device_of_ours_is_asked_for_on_the_host(gpu: Any) -> None:
    foreign = Foreign(tb.arange(3, device=gpu), place=(CUDA, 7))
    with tb.device("cpu"):
        y = tb.from_dlpack(foreign)
    assert (y.device, y.numpy().tolist()) == ("cpu", [0, 1, 2])
    assert foreign.asked == [{"max_version": (1, 1), "dl_device": (1, 0)}]
    with pytest.raises(ValueError, match="no device here shares memory of CUDA device 7"):
        tb.from_dlpack(foreign, copy=False)
    with pytest.raises(BufferError, match="cannot copy to the host by itself"):
        tb.from_dlpack(Foreign(foreign.x, (99, 0), old=True))


def test_other_devices_get_a_copy(gpu: Any) -> None:
    foreign = Foreign(tb.arange(3, device=gpu))
    moved = tb.from_dlpack(foreign, device="cpu")
    assert (moved.device, moved.numpy().tolist()) == ("cpu", [0, 1, 2])
    with pytest.raises(ValueError, match="moving to cpu needs a copy"):
        tb.from_dlpack(foreign, device="cpu", copy=False)
    copied = tb.from_dlpack(foreign, copy=True)
    copied += 1
    assert (copied.device, foreign.x.numpy().tolist()) == (gpu, [0, 1, 2])


def test_an_exporter_that_gives_other_memory_is_refused(gpu: Any) -> None:
    foreign = Foreign(tb.ones((2,), device=tb.get_device("gpu:0")), place=(CUDA, 1))
    with pytest.raises(BufferError, match=r"CUDA device 0 was given where .* CUDA device 1"):
        tb.from_dlpack(foreign)
    wrong = SimpleNamespace(
        __dlpack__=lambda **_: tb.ones((2,), device=gpu).__dlpack__(),
        __dlpack_device__=lambda: (1, 0),
    )
    with pytest.raises(BufferError, match="CUDA device 1 was given"):
        tb.from_dlpack(wrong)


@pytest.mark.parametrize("fails", [False, True])
def test_memory_goes_back_when_our_queue_has_run_dry(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    finished, given = threading.Event(), threading.Event()
    order: list[str] = []
    give_back = _dlpack._give_back

    def note(managed: Any) -> None:
        if ctypes.addressof(managed) == address:
            order.append("given back")
            given.set()
        give_back(managed)

    def busy() -> None:
        finished.wait(60)
        order.append("synchronised")
        if fails:
            raise DeviceUnavailableError("gpu:1", "it is lost", "start again")

    monkeypatch.setattr(_dlpack, "_give_back", note)
    x = tb.ones((2,), device=gpu)
    before = set(_dlpack._exported)
    y = tb.from_dlpack(Foreign(x))
    (address,) = set(_dlpack._exported) - before
    part = y[1:]
    del y
    gc.collect()
    assert address in _dlpack._exported
    gpu.backend.waiting = busy
    del part  # returns at once, though the device is busy
    gc.collect()
    assert order == []
    finished.set()
    assert given.wait(60)
    assert order == ["synchronised", "given back"]
    assert gpu.backend.waits[-1] == "tensorbus-dlpack"


def test_the_structure_is_that_of_dlpack_h() -> None:
    # struct sizes and offsets on 64-bit systems, from the header's layout
    assert ctypes.sizeof(_dlpack._DLTensor) == 48
    assert _dlpack._DLTensor.byte_offset.offset == 40
    assert ctypes.sizeof(_dlpack._Managed) == 64
    assert _dlpack._ManagedVersioned.dl_tensor.offset == 32
