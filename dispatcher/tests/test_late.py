"""An index out of range where nobody waits: nothing is touched, and it is raised later, once.

The device is ref, told to be one that does not finish launches on return.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus._devices import Device, registry
from tensorbus._late import Late
from tensorbus_backends.contract import Feature

X = np.arange(12, dtype=np.float32).reshape(4, 3)
BAD = np.array([0, 9, -1, -5])


class _Counting:
    """ref's backend, whose reads are counted."""

    def __init__(self) -> None:
        self.real, self.reads = registry.open("ref"), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def has(self, feature: Feature) -> bool:
        return feature is not Feature.SYNCHRONOUS and self.real.has(feature)

    def copy_out(self, *arguments: Any) -> None:
        self.reads += 1
        self.real.copy_out(*arguments)


@pytest.fixture
def device() -> Device:
    return Device(_Counting())  # type: ignore[arg-type]


def t(device: Device, array: Any) -> tb.Tensor:
    return tb.asarray(np.asarray(array), device=device)


CALLS: list[tuple[str, str, Callable[..., tb.Tensor], Any]] = [
    ("take", "indices", lambda x, i: tb.take(x, i, axis=0), X[[0, 0, 3, 0]] * [[1], [0], [1], [0]]),
    ("embedding", "indices", lambda x, i: tb.nn.embedding(i, x), None),
    ("indexing", "index", lambda x, i: x[i], X[[0, 0, 3, 0]] * [[1], [0], [1], [0]]),
    ("index_add", "index", lambda x, i: tb.index_add(x, i, x, axis=0), None),
    (
        "gather",
        "index",
        lambda x, i: tb.gather(x, tb.reshape(i, (4, 1)), axis=0),
        np.array([[0], [0], [9], [0]], np.float32),
    ),
    (
        "take_along_axis",
        "indices",
        lambda x, i: tb.take_along_axis(x, tb.reshape(i, (4, 1)), axis=0),
        X[[0, 0, 3, 0]] * [[1], [0], [1], [0]],
    ),
    (
        "scatter",
        "index",
        lambda x, i: (
            tb.scatter(x, tb.reshape(i, (4, 1)), tb.reshape(i, (4, 1)) * 0 + 7, axis=0)
            if x.dtype is tb.int64
            else tb.scatter(x, tb.reshape(i, (4, 1)), x[:, :1] * 0 + 7, axis=0)
        ),
        np.array([[7, 1, 2], [3, 4, 5], [6, 7, 8], [7, 10, 11]], np.float32),
    ),
]


@pytest.mark.parametrize(("name", "operand", "call", "due"), CALLS, ids=[c[0] for c in CALLS])
def test_a_bad_index_reads_0_writes_nothing_and_is_raised_once(
    device: Device, name: str, operand: str, call: Callable[..., tb.Tensor], due: Any
) -> None:
    x, i = t(device, X), t(device, BAD)
    y = call(x, i)
    assert device.backend.reads == 0  # type: ignore[attr-defined]
    said = f"^{name}: index 9 is out of range for axis 0 with size 4; indices run from -4 to 3 "
    with pytest.raises(IndexError, match=said + rf"\({operand} of an earlier call on ref\)"):
        device.synchronize()
    device.synchronize()
    assert (x.numpy() == X).all()
    if due is not None:
        assert (y.numpy() == due).all()


def test_what_is_written_in_place_is_what_has_a_place(device: Device) -> None:
    x, i = t(device, X), t(device, BAD)
    x[i] = -1.0
    with pytest.raises(IndexError, match="indexing: index 9"):
        x.numpy()
    assert (x.numpy() == np.where([[1], [0], [0], [1]], -1, X)).all()
    # A bad index of one dimension is no place of another.
    x[t(device, [1, 0]), t(device, [3, 0])] = 5.0
    with pytest.raises(IndexError, match="index 3 is out of range for axis 1 with size 3"):
        x.tolist()
    assert x.numpy()[[0, 2], 0].tolist() == [5, X[2, 0]]


def test_gradients_of_bad_indices_are_0(device: Device) -> None:
    x, source = t(device, X), t(device, X)
    x.requires_grad = source.requires_grad = True
    y = tb.index_add(x, t(device, BAD), source, axis=0)
    z = tb.scatter(x, t(device, [[0, 4, -5]]), source[:1], axis=0)
    taken = tb.take(x, t(device, BAD), axis=0)
    found = [
        tb.grad(y, [source], tb.ones_like(y))[0],
        tb.grad(z, [source], tb.ones_like(z))[0],
        tb.grad(taken, [x], tb.ones_like(taken))[0],
    ]
    with pytest.raises(IndexError, match="index_add: index 9"):
        device.synchronize()
    ones = np.ones((4, 3), np.float32)
    assert (found[0].numpy() == ones * [[1], [0], [1], [0]]).all()
    assert found[1].numpy().tolist() == [[1, 0, 0]] + [[0, 0, 0]] * 3
    assert (found[2].numpy() == ones * [[1], [0], [0], [1]]).all()


READS: list[tuple[str, Callable[[tb.Tensor], Any]]] = [
    ("numpy", lambda x: x.numpy()),
    ("item", lambda x: x[0, 0].item()),
    ("bool", lambda x: bool(x[0, 0])),
    ("array", lambda x: np.asarray(x)),
    ("dlpack", lambda x: x.__dlpack__()),
    ("transfer", lambda x: x.to_device("ref")),
    ("synchronize", lambda x: x.device.synchronize()),
    ("nonzero", lambda x: tb.nonzero(x)),
]


@pytest.mark.parametrize("read", [r for _, r in READS], ids=[n for n, _ in READS])
def test_every_read_raises_the_first_call_and_names_it_alone(
    device: Device, read: Callable[[tb.Tensor], Any]
) -> None:
    x = t(device, X)
    tb.take(x, t(device, [0, 1, 2]), axis=1)
    tb.take(x, t(device, [0, -4]), axis=1)
    tb.gather(x, t(device, [[7]]), axis=0)
    with pytest.raises(IndexError, match=r"^take: index -4 .* axis 1 with size 3"):
        read(x)
    read(x)


def test_another_thread_may_be_the_one_that_is_told(device: Device) -> None:
    x = t(device, X)
    tb.take(x, t(device, [4]), axis=0)
    told: list[str] = []

    def wait() -> None:
        try:
            device.synchronize()
        except IndexError as error:
            told.append(str(error))

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [text[:13] for text in told] == ["take: index 4"]


def test_good_calls_cost_one_read_however_many_they_were(device: Device) -> None:
    x, i = t(device, X), t(device, [0, 1])
    for _ in range(100):
        x = tb.index_add(x, i, x[:2], axis=0)
        tb.take(x, tb.permute_dims(t(device, [[0, 1], [2, -4]]), (1, 0)), axis=0)
    backend: Any = device.backend
    assert backend.reads == 0
    device.synchronize()
    assert backend.reads == 1
    device.synchronize()
    assert backend.reads == 1


def test_checks_are_numbered_anew_when_there_are_many(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tensorbus._late._MOST", 3)
    for n in range(1, 9):
        tb.take(t(device, np.zeros(n)), t(device, [n - 1]), axis=0)
    tb.take(t(device, np.zeros(9)), t(device, [9]), axis=0)
    with pytest.raises(IndexError, match="with size 9"):
        device.synchronize()


def test_an_index_into_nothing_needs_no_look(device: Device) -> None:
    with pytest.raises(IndexError, match=r"take: index 2 .* axis 0, which is empty"):
        tb.take(t(device, X)[:0], t(device, [2]), axis=0)
    assert tb.take(t(device, X)[:0], t(device, np.zeros(0, int)), axis=0).shape == (0, 3)


def test_the_variable_makes_every_device_raise_at_the_call(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBUS_CHECK_INDICES", "1")
    with pytest.raises(IndexError, match=r"^take: index 9 .* indices run from -4 to 3$"):
        tb.take(t(device, X), t(device, BAD), axis=0)
    device.synchronize()


def test_synchronous_devices_raise_at_the_call() -> None:
    with pytest.raises(IndexError, match=r"^take: index 9 .* indices run from -4 to 3$"):
        tb.take(tb.asarray(X, device="ref"), tb.asarray(BAD, device="ref"), axis=0)


def test_what_nobody_read_is_said_at_exit() -> None:
    script = """
        import tensorbus as tb
        from tensorbus._devices import Device, registry
        backend = registry.open("ref")
        backend.features -= {"synchronous"}
        device = Device(backend)
        tb.take(tb.ones(3, device=device), tb.asarray([3], device=device))
        print("end")
    """
    lines = "\n".join(line.strip() for line in script.splitlines())
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "end\n")
    assert done.stderr == (
        "tensorbus: never raised: IndexError: take: index 3 is out of range for axis 0 with size "
        "3; indices run from -3 to 2 (indices of an earlier call on ref)\n"
    )


def test_a_forked_child_does_not_raise_what_its_parent_found(device: Device) -> None:
    tb.take(t(device, X), t(device, [4]), axis=0)
    late: Late = device.late
    late.after_fork()
    device.synchronize()
