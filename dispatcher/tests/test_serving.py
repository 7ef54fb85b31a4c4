"""Which way a call is served: by a vendor's kernel, by portable ones, by calls of other ops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import _op, _state
from tensorbus._recent import Recent
from tensorbus_backends.contract import (
    BackendError,
    Buffer,
    LaunchError,
    NativeCase,
    NativeTable,
    OutOfMemoryError,
)
from tensorbus_backends.ref import RefDevice

LIBRARY = "VendorLib 1.0"

Run = Callable[[NativeCase, Sequence[Buffer], Sequence[int]], Any]


def vendor(*names: str, run: Run, when: Callable[[NativeCase], bool] | None = None) -> tb.Device:
    """A device of its own with native kernels of these names."""
    table = NativeTable()
    for name in names:
        table.implements(name, when=when or (lambda case: True), library=LIBRARY)(run)
    backend = RefDevice(replace(tb.get_device("ref").info, name="vendor"))
    backend.natives = table.table
    return tb.Device(backend)


def sevens(case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
    """Fill float32 results with 7 and others with 3."""
    for k in range(len(buffers) - case.results, len(buffers)):
        value: Any = np.full(case.shapes[k], 7 if case.dtypes[k].is_float else 3)
        raw = value.astype(case.dtypes[k].numpy)
        if raw.size:
            flat = np.ascontiguousarray(raw).reshape(-1).view(np.uint8)
            buffers[k].device.copy_in(buffers[k], 0, memoryview(flat.data))


def put(device: tb.Device, *shape: int) -> tb.Tensor:
    return tb.asarray(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), device=device)


def ways(trace: tb.Trace) -> list[tuple[str, str, str]]:
    """Name, variant and library of what the user called."""
    return [(r.op, r.variant, r.library) for r in trace if not r.depth]


COMPOSED: dict[str, Callable[[tb.Device], tb.Tensor]] = {
    "nn.linear": lambda d: tb.nn.linear(put(d, 2, 3), put(d, 4, 3), put(d, 4)),
    "nn.embedding": lambda d: tb.nn.embedding(tb.asarray([1, 0], device=d), put(d, 2, 3)),
    "nn.mse_loss": lambda d: tb.nn.mse_loss(put(d, 3), put(d, 2, 3), reduction="none"),
    "nn.cross_entropy": lambda d: tb.nn.cross_entropy(put(d, 2, 3), tb.asarray([1, 0], device=d)),
    "vecdot": lambda d: tb.vecdot(put(d, 3, 2), put(d, 3, 2), axis=0),
    "tensordot": lambda d: tb.tensordot(put(d, 2, 3), put(d, 3, 4), axes=1),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_a_function_without_an_op_is_decomposed_or_native(name: str) -> None:
    assert tb.FUNCTIONS[name].decomposed
    call, device = COMPOSED[name], vendor(name, run=sevens)
    portable = call(tb.get_device("ref"))
    for reproducible, due in ((True, "decomposed"), (False, "native"), (True, "decomposed")):
        for _ in range(2):
            with tb.reproducible(reproducible), tb.trace() as t:
                out = call(device)
            library = LIBRARY if due == "native" else ""
            assert [w for w in ways(t) if w[0] == name] == [(name, due, library)]
            assert (out.shape, out.dtype) == (portable.shape, portable.dtype)
            want = np.full(out.shape, 7) if due == "native" else portable.numpy()
            np.testing.assert_array_equal(out.numpy(), want)
            if due == "decomposed":
                assert {r.variant for r in t if r.depth} == {"portable"}
                assert t.records[-1].op == name
    for _ in range(2):
        assert (call(device).numpy() == 7).all()  # outside of traces too


def test_options_and_operands_of_a_whole_function() -> None:
    seen: list[NativeCase] = []

    def when(case: NativeCase) -> bool:
        seen.append(case)
        return case.op != "nn.cross_entropy" or case.options["reduction"] == "sum"

    device = vendor("nn.linear", "nn.cross_entropy", run=sevens, when=when)
    tb.nn.linear(put(device, 2, 3), put(device, 4, 3))
    logits, classes = put(device, 2, 3), tb.asarray([1, 0], device=device)
    assert float(tb.nn.cross_entropy(logits, classes)) != 7
    assert float(tb.nn.cross_entropy(logits, classes, reduction="sum", axis=1)) == 7
    linear, *losses = seen
    assert linear.shapes == ((2, 3), (4, 3), (2, 4))
    assert [c.options["axis"] for c in losses] == [1, 1]
    assert losses[0].options == {"axis": 1, "reduction": "mean", "label_smoothing": 0.0}
    # Checks of arguments come first, and calls with a gradient are served by ops that have one.
    with pytest.raises(ValueError, match="linear"):
        tb.nn.linear(put(device, 2, 3), put(device, 4, 2))
    x = put(device, 2, 3)
    x.requires_grad = True
    out = tb.nn.linear(x, put(device, 4, 3))
    assert (out.numpy() != 7).any()
    assert tb.grad(tb.sum(out), [x])[0].shape == (2, 3)


def test_an_op_answers_to_its_own_name_and_its_functions() -> None:
    for name in ("softmax", "nn.softmax"):
        device = vendor(name, run=sevens)
        with tb.trace() as t:
            assert (tb.nn.softmax(put(device, 2, 3)).numpy() == 7).all()
        assert ways(t) == [("softmax", "native", LIBRARY)]
    # One that declines a first call is asked about the next, though only the size differs.
    device = vendor("nn.relu", run=sevens, when=lambda case: case.shapes[0] == (4,))
    x = put(device, 3)
    assert tb.nn.relu(x).numpy().tolist() == [0, 1, 2]
    assert tb.nn.relu(put(device, 4)).numpy().tolist() == [7, 7, 7, 7]


def test_several_results() -> None:
    device = vendor("sort", run=sevens)
    x = put(device, 2, 3)
    assert (tb.sort(x).numpy() == 7).all()
    values, order = _op.OPS["sort"](x, axis=1, descending=False)
    assert (values.numpy() == 7).all()
    assert order.numpy().tolist() == [[3] * 3] * 2


def _raises(error: Exception) -> Run:
    def run(case: NativeCase, buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "kind", "said"),
    [
        (_raises(KeyError("axis")), LaunchError, "raised KeyError: 'axis'"),
        (_raises(OutOfMemoryError("no room")), OutOfMemoryError, "no room"),
        (_raises(MemoryError()), LaunchError, "raised MemoryError"),
        (lambda case, buffers, offsets: np.zeros(3), LaunchError, "returned a ndarray"),
        (lambda case, buffers, offsets: True, LaunchError, "returned a bool"),
    ],
)
def test_bad_kernels_are_named(run: Run, kind: type[BackendError], said: str) -> None:
    device = vendor("sum", "sort", "nn.linear", run=run)
    x = put(device, 2, 3)
    for name, call in (
        ("sum", lambda: tb.sum(x)),
        ("sort", lambda: tb.sort(x)),
        ("nn.linear", lambda: tb.nn.linear(x, x)),
    ):
        for _ in range(2):
            with pytest.raises(kind) as found:
                call()
            text = str(found.value)
            assert f"{name}: the native kernel of {LIBRARY}" in text
            assert said in text


def test_a_when_that_raises_is_named() -> None:
    device = vendor("sum", run=sevens, when=lambda case: case.options["no such option"])
    with pytest.raises(LaunchError, match=r"sum: the native kernel of VendorLib 1.0 .*KeyError"):
        tb.sum(put(device, 3))


def test_names_are_taken_once() -> None:
    with pytest.raises(ValueError, match="op 'exp' already"):
        tb.Op("exp")
    assert type(tb.OPS["exp"]).__name__ == "Elementwise"
    before = tb.FUNCTIONS["exp"]
    with pytest.raises(ValueError, match="function 'exp' already"):

        @_op.function("elementwise")
        def exp(x: tb.Tensor) -> tb.Tensor:
            return x

    assert tb.FUNCTIONS["exp"] is before


@pytest.fixture
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of plans that keep two to four, so that every plan is soon evicted."""
    made = {key: Recent[Any, Any](2) for key in _state.tables}
    monkeypatch.setattr(_state, "tables", made)
    monkeypatch.setattr(_state, "_KEPT_PLANS", 2)


def test_a_plan_is_evicted_while_threads_use_it(small_tables: None) -> None:
    started = threading.Barrier(4)

    def work(number: int) -> None:
        with tb.reproducible():
            x = tb.asarray(np.arange(1.0, 25.0, dtype=np.float32).reshape(4, 6))
            started.wait()
            for k in range(40):
                n = 1 + (k + number) % 6
                part = x[:, :n]
                want = x.numpy()[:, :n]
                assert (part + part).numpy().tolist() == (want + want).tolist()
                assert tb.max(part, axis=0).numpy().tolist() == want.max(axis=0).tolist()
                assert tb.sort(part, axis=1, descending=True).numpy()[:, 0].tolist() == [
                    *want.max(axis=1)
                ]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_16_threads_make_plans_for_one_op() -> None:
    started, device = threading.Barrier(16), vendor("none", run=sevens)

    def work(number: int) -> list[list[float]]:
        x = tb.asarray(np.arange(12, dtype=np.float32), device=device)
        started.wait()
        return [tb.sum(tb.reshape(x[:k], (1, k)), axis=1).numpy().tolist() for k in range(1, 13)]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(work, range(16)))
    assert found == [[[k * (k - 1) / 2] for k in range(1, 13)]] * 16
