"""Devices of another kind than the cpu: without float64, flushing subnormals, lost on the way."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import tensorbus as tb
from rich.console import Console
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Evidence
from tensorbus_backends.dialect import Dialect
from tensorbus_conformance import console
from tensorbus_conformance.faults import plant
from tensorbus_conformance.judge.cases import Case
from tensorbus_conformance.judge.items import Item, Outcome, items, properties
from tensorbus_conformance.judge.session import Session, fenced
from tensorbus_conformance.judge.warm import needed
from tensorbus_conformance.oracle import REFERENCES
from tensorbus_conformance.report import document, markdown
from tensorbus_conformance.runner import LOSSES, Cell, Run, run_items

pytestmark = pytest.mark.skipif(
    not any(d.available for d in tb._devices.registry.devices(plugin="cpu")),
    reason="the test devices run C kernels on the cpu device",
)

SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"
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
    "nn.softmax", "cumulative_sum", "random.normal", "linspace", "mean", "nonzero",
)  # fmt: skip


def test_a_flushing_device_without_float64_passes() -> None:
    capabilities = flushing_device().capabilities
    names = [op for op in OPS if op in tb.FUNCTIONS]
    assert len(names) >= 20
    some = [i for i in items("cpu", capabilities, {}, "smoke", names) if i.dtype != "float64"]
    run = run_items(some, "smoke", 0, fault="test-flush")
    assert [(c.name, c.outcome.message) for c in run.cells if c.outcome.state != "pass"] == []
    assert run.planted > 0
    assert {c.outcome.property for c in run.cells} >= {"bits", "special", "gradient", "layouts"}


FUNCTIONS = sorted(
    name
    for name, op in REFERENCES.items()
    if op.family == "transcendental" and op.tensors in ((1, 1), (2, 2)) and name in tb.FUNCTIONS
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_math_library_keeps_its_bounds_where_subnormals_are_flushed(name: str) -> None:
    """Every binade alike, subnormals and the least normal numbers more often; never garbage."""
    from tensorbus_conformance.judge.comparing import judged

    rng = np.random.default_rng(3)
    bits = rng.integers(0, 1 << 32, (2, 3000), np.uint64).astype(np.uint32)
    bits[:, :700] &= np.uint32(0x81FFFFFF)
    x, y = bits.view(np.float32)
    y = rng.permutation(y)
    count = REFERENCES[name].tensors[0]
    case = Case((x, y)[:count], {}, "random patterns", random=False)
    item = Item(name, "cpu", "float32", "portable")
    outcome = judged(Session(item, flushing_device(), "smoke", 0), [case], "values")
    assert outcome.state == "pass", outcome.message
    assert outcome.decided >= 3000


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
        lambda d: tb.from_dlpack(np.ones(3), device=d),
        lambda d: tb.ones(3, dtype=tb.float64, device="cpu").to_device(d),
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


@pytest.mark.parametrize(
    "dtype", [d for d in dt.ALL if d is not dt.float64], ids=lambda d: str(d.name)
)
def test_float64_from_outside_is_converted_on_the_way(device: tb.Device, dtype: dt.DType) -> None:
    """As the cpu converts it: saturated, truncated, rounded once, NaN as 0 in integers."""
    x = np.asarray([1.5, -2.5, 1e300, -np.inf, np.nan, 65519.99, 1 + 2.0**-24 + 2.0**-50, 300.0])
    want = tb.astype(tb.asarray(x, device="cpu"), dtype).numpy()
    from_numpy = tb.asarray(x, dtype=dtype, device=device)
    from_cpu = tb.asarray(tb.asarray(x, device="cpu"), dtype=dtype, device=device)
    for got in (from_numpy, from_cpu):
        assert got.dtype is dtype
        assert got.device is device
        assert np.array_equal(got.numpy(), want, equal_nan=dtype.is_float)


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


# -- a device that is lost on the way -------------------------------------------------------------

LOSING = [Item(op, d, "int32", "portable") for op in ("add", "multiply") for d in ("ref", "cpu")]


def states(run: Run, device: str) -> Counter[str]:
    return Counter(c.outcome.state for c in run.cells if c.item.device == device)


@pytest.mark.parametrize("fault", ["test-lost", "test-sticky"])
def test_a_device_that_is_lost_again_and_again_is_given_up(fault: str) -> None:
    run = run_items(LOSING, "smoke", 0, workers=1, fault=fault)
    assert set(states(run, "cpu")) == {"pass"}, "the other device goes on"
    found = states(run, "ref")
    assert found["error"] >= LOSSES
    assert found["not run"] >= 3
    assert set(run.lost) == {"ref"}
    assert "gone (injected)" in run.lost["ref"]
    why = {c.outcome.message for c in run.cells if c.outcome.state == "not run"}
    assert len(why) == 1
    assert "ref was given up" in why.pop()
    assert not run.ok


def test_a_device_that_is_lost_once_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBUS_TEST_LOST", str(tmp_path / "lost"))
    run = run_items(LOSING, "smoke", 0, workers=1, fault="test-lost")
    found = states(run, "ref")
    assert found["error"] == 1
    assert "not run" not in found
    assert found["pass"] > 10
    assert not run.lost
    assert not run.ok, "the cell in which it was lost has not passed"


def test_a_report_says_which_device_was_given_up() -> None:
    run = run_items(LOSING, "smoke", 0, workers=1, fault="test-lost")
    lines = tb.devices()
    devices = [d for d in lines if d.name in ("ref", "cpu")]
    data = document(run, devices, "smoke", 0, {})
    jsonschema.validate(data, json.loads(SCHEMA.read_text()))
    assert not data["passed"]
    assert "ref was given up" in markdown(data).replace("*", "")
    buffer = io.StringIO()
    console.summary(data, Console(file=buffer, width=200))
    assert "ref was given up" in buffer.getvalue()
    assert "NOT PASSED" in buffer.getvalue()


def test_a_device_that_cannot_be_opened_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that no plugin has any more: what was probed is gone when it is opened."""
    from tensorbus_conformance import conform

    lines = [d for d in tb.devices() if d.name in ("ref", "cpu")]
    lines = [replace(d, name="cpu:7") if d.name == "cpu" else d for d in lines]
    target = tmp_path / "r.json"
    options: dict[str, Any] = {"workers": 1, "timeout": None, "folder": tmp_path}
    assert conform.conform(lines, ["add"], "smoke", 0, json_file=target, **options) == 1
    assert "cpu:7: unavailable: it could not be opened: no device is called 'cpu:7'" in (
        capsys.readouterr().err
    )
    data = json.loads(target.read_text())
    assert data["summary"]["ref"]["pass"] == data["summary"]["ref"]["cells"] > 0
    assert not data["passed"]


# -- evidence -------------------------------------------------------------------------------------


def test_every_line_of_a_report_says_what_it_proves() -> None:
    bad = Outcome("bits", "fail", "differs")
    cells = [Cell(Item("add", d, "int32", "portable"), bad) for d in ("ref", "cpu")]
    evidence = {"ref": Evidence.SIMULATED, "cpu": Evidence.HARDWARE}
    lines = [replace(d, evidence=evidence[d.name]) for d in tb.devices() if d.name in evidence]
    data = document(Run(cells), lines, "smoke", 0, {})
    assert {c["device"]: c["evidence"] for c in data["cells"]} == evidence
    page = markdown(data).splitlines()
    assert "| op | cpu | ref (simulated) |" in page
    for device, word in evidence.items():
        assert f"| `add/{device}/int32/portable/bits` | {word} | fail | differs |" in page
        assert any(f"| {word} |" in line for line in page if line.startswith(f"| {device} |"))
    shown, progress = io.StringIO(), io.StringIO()
    console.summary(data, Console(file=shown, width=200))
    assert "ref (simulated)" in shown.getvalue().splitlines()[0]
    with console.Progress([c.item for c in cells], "smoke", lines) as bar:
        bar._bar.live.console.file = progress
        for cell in cells:
            bar.cell(cell)
    assert "fail (simulated) add/ref/int32/portable/bits" in progress.getvalue()
    assert "fail add/cpu/int32/portable/bits" in progress.getvalue()
