"""Devices of another kind than the cpu: without float64, flushing subnormals, lost on the way."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dialect import Dialect
from tensorbus_conformance.faults import plant
from tensorbus_conformance.judge.items import Item, items, properties
from tensorbus_conformance.judge.session import Session, fenced
from tensorbus_conformance.judge.warm import needed
from tensorbus_conformance.oracle import REFERENCES
from tensorbus_conformance.runner import run_items

pytestmark = pytest.mark.skipif(
    not any(d.available for d in tb._devices.registry.devices(plugin="cpu")),
    reason="the test devices run C kernels on the cpu device",
)

SIMT = Dialect(
    name="test",
    prelude="",
    kernel="void {name}({args})",
    pointer="{const}{type} *{name}",
    meta="const i64 *tb_meta",
    group="0",
    fp64=False,
)


def flushing_device() -> tb.Device:
    """The cpu device without float64 and with flushed subnormals, fenced."""
    return fenced(tb.get_device("cpu").backend, plant("test-flush").wrap)


@pytest.fixture(scope="module")
def device() -> tb.Device:
    return flushing_device()


def array(device: tb.Device, *values: float) -> tb.Tensor:
    return tb.asarray(np.asarray(values, np.float32), device=device)


def test_it_flushes_and_moves(device: tb.Device) -> None:
    x = array(device, 1e-40, -1e-40, 1e-30)
    bits = x.numpy().view(np.uint32)
    assert (x * 1.0).numpy().tolist()[:2] == [0.0, -0.0]
    assert (x * 1e-10).numpy().tolist() == [0.0, 0.0, 0.0]
    assert (tb.flip(tb.flip(x)).numpy().view(np.uint32) == bits).all()
    assert tb.equal(x, tb.zeros_like(x)).numpy().tolist() == [True, True, False]


OPS = (
    "add", "multiply", "divide", "sum", "prod", "max", "matmul", "exp", "log", "pow", "logaddexp",
    "atan2", "floor_divide", "remainder", "equal", "sort", "argmax", "sign", "astype", "where",
    "nn.softmax", "cumulative_sum", "random.normal", "linspace", "mean",
)  # fmt: skip


def test_a_flushing_device_without_float64_passes() -> None:
    capabilities = flushing_device().capabilities
    names = [op for op in OPS if op in tb.FUNCTIONS]
    assert len(names) >= 20
    run = run_items(items("cpu", capabilities, {}, "smoke", names), "smoke", 0, fault="test-flush")
    assert [(c.name, c.outcome.message) for c in run.cells if c.outcome.state != "pass"] == []
    assert run.planted > 0
    assert {c.outcome.property for c in run.cells} >= {"bits", "special", "gradient", "layouts"}


def test_a_device_that_flushes_but_declares_otherwise_is_caught() -> None:
    """The same device, compared with ref in the mode that it does not have."""
    from tensorbus_conformance.judge.properties import judge

    for op in ("multiply", "equal"):
        session = Session(Item(op, "cpu", "float32", "portable"), flushing_device(), "smoke", 0)
        backend: Any = session.device.backend
        assert judge(session, "special").state == "pass"
        assert judge(session, "bits").state == "pass"
        backend.capabilities = replace(backend.capabilities, subnormals="preserve")
        assert judge(session, "special").state == "fail"
        assert judge(session, "bits").state == "fail"


def test_a_device_that_preserves_but_declares_flushing_is_caught() -> None:
    from tensorbus_conformance.judge.properties import judge

    item = Item("equal", "cpu", "float32", "portable")
    session = Session(item, fenced(tb.get_device("cpu").backend), "smoke", 0)
    backend: Any = session.device.backend
    backend.capabilities = replace(backend.capabilities, subnormals="flush")
    assert judge(session, "bits").state == "fail"


def test_float64_cells_are_counted_as_unsupported() -> None:
    todo = [Item("add", "cpu", "float64", "portable"), Item("add", "cpu", "float32", "portable")]
    run = run_items(todo, "smoke", 0, workers=1, fault="test-flush")
    states = Counter((c.item.dtype, c.outcome.state) for c in run.cells)
    assert {s for d, s in states if d == "float64"} == {"unsupported"}
    assert {s for d, s in states if d == "float32"} == {"pass"}
    assert run.ok


@pytest.mark.parametrize("dtype", [d.name for d in dt.ALL if d is not dt.float64])
def test_no_kernel_of_another_dtype_uses_float64(dtype: str) -> None:
    """Every kernel that the judge's calls need, gradients included, in both styles."""
    wrap = plant("test-flush").wrap
    assert wrap is not None
    real = wrap(tb.get_device("cpu").backend)
    assert real.dialect is not None
    seen = 0
    for item in items("cpu", real.capabilities, {}, "standard"):
        session = Session(item, tb.Device(real), "smoke", 0)
        if item.dtype != dtype or session.op not in REFERENCES:
            continue
        session.device = fenced(real)
        names = properties(item.op, session.dtype, item.variant, item.device, "standard")
        for kernel in needed(session, names):
            for dialect in (real.dialect, SIMT):
                text = kernel.source(dialect).replace(kernel.name, "")
                assert not re.search("f64|double", text), (item.name, kernel.name)
            seen += 1
    assert seen > 50


@pytest.mark.parametrize(
    "call",
    [
        lambda d: tb.zeros(3, dtype=tb.float64, device=d),
        lambda d: tb.asarray(np.ones(3), device=d),
        lambda d: tb.linspace(0, 1, 5, dtype=tb.float64, device=d),
        lambda d: tb.arange(5, dtype=tb.float64, device=d),
        lambda d: tb.astype(tb.ones(3, device=d), tb.float64),
        lambda d: tb.sum(tb.ones(3, device=d), dtype=tb.float64),
        lambda d: tb.random.uniform(3, seed=1, dtype=tb.float64, device=d),
    ],
)
def test_asking_for_float64_says_what_there_is(call: Any, device: tb.Device) -> None:
    with pytest.raises(tb.UnsupportedError, match=r"float64.*float32"):
        call(device)


def test_defaults_need_no_float64(device: tb.Device) -> None:
    integers = tb.arange(5, device=device)
    found = {
        "asarray": tb.asarray([1.0, 2.5], device=device),
        "linspace": tb.linspace(0, 1, 5, device=device),
        "mean": tb.mean(tb.astype(integers, tb.float32)),
        "scalar": tb.ones(3, device=device) + 0.5,
        "uniform": tb.random.uniform(3, seed=1, device=device),
        "full": tb.full(3, 0.1, device=device),
        "int32 and float32": tb.ones(3, dtype=tb.int32, device=device) + tb.ones(3, device=device),
    }
    assert {k: v.dtype.name for k, v in found.items()} == dict.fromkeys(found, "float32")
