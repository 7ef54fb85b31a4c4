"""DLPack and NumPy: shared memory in both directions, ownership, read-only memory."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import _dlpack

A = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
LAYOUTS = [A, A[::-1, :, ::2], A.T, A[:, 0:0], np.array(3.0), A[1, 2, 3:4], A[:1]]
HOSTS = ["cpu", "ref"]


class Exporter:
    """Gives a tensor's capsule in the form that `max_version` asks for."""

    def __init__(self, x: tb.Tensor, **options: Any) -> None:
        self.x, self.options = x, options

    def __dlpack__(self, **_: Any) -> Any:
        return self.x.__dlpack__(**self.options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.x.__dlpack_device__()


class Old:
    """An exporter from before DLPack 1.0."""

    def __init__(self, a: np.ndarray) -> None:
        self.a = a

    def __dlpack__(self, stream: Any = None) -> Any:
        return self.a.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


@pytest.mark.parametrize("device", HOSTS)
@pytest.mark.parametrize("k", range(len(LAYOUTS)))
def test_round_trip(k: int, device: str) -> None:
    a = LAYOUTS[k]
    for source in (a, Old(a)):
        x = tb.from_dlpack(source, device=device)
        assert str(x.device) == device
        assert x.shape == a.shape
        assert (x.numpy() == a).all()
        for version in (None, (1, 0), (1, 7)):
            back = np.from_dlpack(Exporter(x, max_version=version))
            assert back.shape == a.shape
            assert (back == a).all()
            if a.size:
                assert np.shares_memory(back, a)
        seen = np.asarray(x)
        assert seen.strides == a.strides or a.size <= 1
        assert not a.size or np.shares_memory(seen, a)


@pytest.mark.parametrize("device", HOSTS)
@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "int64", "uint16", "uint64", "float16", "float64"]
)
def test_dtypes(dtype: str, device: str) -> None:
    a = np.array([0, 1, 1], dtype)
    x = tb.from_dlpack(a, device=device)
    assert x.dtype.name == dtype
    assert np.from_dlpack(x).dtype == a.dtype
    b = tb.ones((2,), dtype=tb.bfloat16, device=device)
    assert tb.from_dlpack(Exporter(b, max_version=(1, 0))).dtype is tb.bfloat16


@pytest.mark.parametrize("device", HOSTS)
def test_changes_are_seen_on_both_sides(device: str) -> None:
    x = tb.ones((2, 3), device=device)
    a = np.from_dlpack(x)
    a[0, 1] = 5
    assert x[0, 1].item() == 5
    x[1] = 7
    assert (a[1] == 7).all()
    b = np.zeros(3)
    tb.from_dlpack(b, device=device)[1:] = 2
    assert b.tolist() == [0, 2, 2]


def test_the_exporter_lives_as_long_as_its_memory() -> None:
    a = np.arange(1000.0)
    before = sys.getrefcount(a)
    x = tb.from_dlpack(a)
    y = x[10:20]
    del x
    assert sys.getrefcount(a) > before
    assert y.numpy().tolist() == a[10:20].tolist()
    del y
    assert sys.getrefcount(a) == before


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_capsules_are_given_back(version: Any) -> None:
    x = tb.ones((100,))
    start = len(_dlpack._exported)
    capsule = x.__dlpack__(max_version=version)
    assert len(_dlpack._exported) == start + 1
    del capsule
    gc.collect()
    assert len(_dlpack._exported) == start
    a = np.from_dlpack(Exporter(x, max_version=version))
    del x
    gc.collect()
    assert (a == 1).all()
    del a
    assert len(_dlpack._exported) == start


def test_a_consumer_that_refuses_is_heard() -> None:
    x = tb.ones((2,))

    class Elsewhere:
        def __dlpack__(self, **_: Any) -> Any:
            capsule = x.__dlpack__(max_version=(1, 0))
            place = _dlpack._pointer_of(id(capsule), b"dltensor_versioned")
            made = _dlpack._ManagedVersioned.from_address(place)
            made.dl_tensor.device.device_type = 2
            return capsule

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    start = len(_dlpack._exported)
    # The capsule dies while this exception is on its way.
    with pytest.raises((BufferError, RuntimeError), match=r"(?i)device"):
        np.from_dlpack(Elsewhere())
    gc.collect()
    assert len(_dlpack._exported) == start


def test_a_capsule_serves_once() -> None:
    capsule = tb.ones((2,)).__dlpack__()

    class Twice:
        def __dlpack__(self, **_: Any) -> Any:
            return capsule

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    tb.from_dlpack(Twice())
    with pytest.raises(BufferError, match="used"):
        tb.from_dlpack(Twice())


def test_no_leak() -> None:
    tensor = tb.ones((10,))
    array = np.ones(10)
    start = len(_dlpack._exported)
    for _ in range(300):
        np.from_dlpack(tensor)
        tb.from_dlpack(array)
        tensor.__dlpack__()
        assert len(_dlpack._exported) <= start + 1
    gc.collect()
    assert len(_dlpack._exported) == start
    assert sys.getrefcount(array) == 2


@pytest.mark.parametrize("device", HOSTS)
def test_read_only(device: str) -> None:
    a = A.copy()
    a.flags.writeable = False
    x = tb.from_dlpack(a, device=device)
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        x += x
    assert not np.asarray(x).flags.writeable
    assert not np.from_dlpack(x).flags.writeable
    with pytest.raises(BufferError, match="read-only"):
        x.__dlpack__()
    y = tb.asarray(x, copy=True)
    y[0] = 1
    assert np.asarray(x).tolist() == a.tolist()


def test_copies() -> None:
    a = A.copy()
    assert not np.shares_memory(np.asarray(tb.from_dlpack(a, copy=True)), a)
    x = tb.ones((3,))
    b = np.from_dlpack(x, copy=True)
    b[0] = 9
    assert x[0].item() == 1
    assert tb.from_dlpack(x).device == x.device
    moved = tb.from_dlpack(x, device="ref")
    assert moved.device == "ref"
    with pytest.raises(ValueError, match="copy"):
        tb.from_dlpack(x, device="ref", copy=False)
    assert (tb.asarray(Old(a)).numpy() == a).all()
    assert np.shares_memory(np.asarray(tb.asarray(Old(a), copy=False)), a)
    with tb.device("ref"):
        assert tb.asarray(Old(a)).device == "ref"


def test_errors() -> None:
    x = tb.ones((2,))
    with pytest.raises(ValueError, match="stream"):
        x.__dlpack__(stream=1)
    with pytest.raises(BufferError, match="DLPack device"):
        x.__dlpack__(dl_device=(2, 0))
    x.requires_grad = True
    with pytest.raises(BufferError, match="detach"):
        x.__dlpack__()
    with pytest.raises(RuntimeError, match="detach"):
        np.asarray(x)
    with pytest.raises(TypeError, match="asarray"):
        tb.from_dlpack([1, 2])
    with pytest.raises(BufferError, match="dtype"):
        tb.from_dlpack(np.ones(2, np.complex64))
    raw = np.zeros(9, np.uint8)[1:].view(np.float64)
    if raw.ctypes.data % 8:
        with pytest.raises(BufferError, match="aligned"):
            tb.from_dlpack(raw)


def test_newer_versions_are_refused() -> None:
    capsule = tb.ones((2,)).__dlpack__(max_version=(1, 0))
    place = _dlpack._pointer_of(id(capsule), b"dltensor_versioned")
    ctypes.c_uint32.from_address(place).value = 2

    class Future:
        def __dlpack__(self, **_: Any) -> Any:
            return capsule

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    with pytest.raises(BufferError, match="newer"):
        tb.from_dlpack(Future())


@pytest.mark.parametrize("device", HOSTS)
def test_numpy_sees_any_layout(device: str) -> None:
    x = tb.asarray(A, device=device)
    for view, want in [
        (x, A),
        (x[::-1, :, ::-2], A[::-1, :, ::-2]),
        (x.mT, A.swapaxes(1, 2)),
        (x[1, 2, 3], A[1, 2, 3]),
        (x[:0], A[:0]),
        (tb.broadcast_to(x[0, 0], (3, 4)), np.broadcast_to(A[0, 0], (3, 4))),
    ]:
        got = np.asarray(view)
        assert got.shape == want.shape
        assert (got == want).all()
        assert (view.numpy() == want).all()
        assert not want.size or np.shares_memory(got, np.asarray(x))
    assert np.asarray(x, np.float64).dtype == np.float64
    copied = np.array(x, copy=True)
    copied[:] = 0
    assert (x.numpy() == A).all()
    with pytest.raises(ValueError, match="copy"):
        np.asarray(x, dtype=np.int8, copy=False)


def test_memory_that_numpy_cannot_see(monkeypatch: pytest.MonkeyPatch) -> None:
    x = tb.ones((2,), device="ref")
    backend = x.device.backend
    monkeypatch.setattr(backend, "features", backend.features - {"address"})
    with pytest.raises(TypeError, match=r"x\.numpy\(\)"):
        np.asarray(x)
    assert x.numpy().tolist() == [1, 1]
    assert x.__dlpack_device__()[0] != 1
    with pytest.raises(BufferError, match="to_device"):
        x.__dlpack__()
    with tb.device("cpu"):
        assert np.from_dlpack(Exporter(x, dl_device=(1, 0))).tolist() == [1, 1]
    with pytest.raises(BufferError, match="without a copy"):
        x.__dlpack__(dl_device=(1, 0), copy=False)
