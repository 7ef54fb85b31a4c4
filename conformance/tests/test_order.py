"""The written order: its second reading is right, and sees what kernel and interpreter share."""

from __future__ import annotations

import importlib
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus.ops import cumulative, reduction, statistics
from tensorbus_backends import dtypes as dt, interp, ir
from tensorbus_backends.kernels import matmul, rows, scan
from tensorbus_conformance.judge.items import Item, Outcome, properties
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session, fenced
from tensorbus_conformance.oracle import REFERENCES, order, ordered

reduce_kernel = importlib.import_module("tensorbus_backends.kernels.reduce")
segments = importlib.import_module("tensorbus.ops._segment_kernel")
CPU = any(d.name == "cpu" and d.available for d in tb._devices.registry.devices(plugin="cpu"))
NAMES = {name.rsplit(".", 1)[-1]: name for name in tb.FUNCTIONS}


def _judged(op: str, device: str = "ref", dtype: str = "float32", what: str = "order") -> Outcome:
    item = Item(NAMES[op], device, dtype, "portable")
    return judge(Session(item, fenced(tb.get_device(device).backend), "smoke", 0), what)


# -- the oracle's arithmetic ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fma_rounds_once(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    n = 3000
    a, b = (rng.standard_normal(n).astype(dtype) for _ in range(2))
    # A third of the sums cancel to the last bits, a third are just above a half-way case.
    c = np.where(np.arange(n) % 3 == 0, -(a * b), rng.standard_normal(n) * 2.0**30).astype(dtype)
    got = order.fma(a, b, c)
    assert (got != a * b + c).any()
    for x, y, z, r in zip(a, b, c, got, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        near = [r, np.nextafter(r, dtype(np.inf)), np.nextafter(r, dtype(-np.inf))]
        errors = [abs(Fraction(float(v)) - exact) for v in near]
        assert errors[0] == min(errors)


def test_reduction_by_hand() -> None:
    """8,193 + 1 elements, summed by the document's sentences one number at a time."""
    x = ordered.Sample(np.float32, 3, False).cancelling(1, 8194)[0]
    results = []
    for chunk in (x[:8192], x[8192:]):
        lanes = [np.float32(-0.0)] * 128
        for k, v in enumerate(chunk):
            lanes[k % 128] = lanes[k % 128] + v
        half = 64
        while half:
            for k in range(half):
                lanes[k] = lanes[k] + lanes[k + half]
            half //= 2
        results.append(lanes[0])
    assert order.reduce(x, "add").tobytes() == (results[0] + results[1]).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_other_order_is_seen_by_every_sample(dtype: Any) -> None:
    for name, entry in ordered.ORDERS.items():
        assert entry.sees
        for seed in range(2):
            assert ordered.sample(entry, dtype, seed, False)[2] == [], (name, seed)
    seen = {s for e in ordered.ORDERS.values() for s in e.sees}
    assert seen == set(order.OTHERS)


def test_a_blind_sample_is_vacuous(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ordered.ORDERS["index_add"]
    monkeypatch.setattr(
        ordered.Sample, "cancelling", lambda s, *shape: np.ones(shape, s.dtype), raising=True
    )
    calls, _, blind = ordered.sample(entry, np.float32, 0, False)
    assert calls
    assert blind == ["last position first"]


def test_every_float_item_of_such_an_op_has_the_cell() -> None:
    for name in ordered.ORDERS:
        op = NAMES[name]
        for device in ("ref", "cpu"):
            assert "order" in properties(op, dt.float16, "portable", device, "smoke")
        assert "order" not in properties(op, dt.float32, "native", "cpu", "smoke")
        assert REFERENCES[name].order is ordered.ORDERS[name]


# -- faults that kernel and interpreter share -----------------------------------------------------


def _chunk(patch: pytest.MonkeyPatch) -> None:
    for module in (reduce_kernel, reduction, rows):
        patch.setattr(module, "CHUNK", 4096)


def _lanes(patch: pytest.MonkeyPatch) -> None:
    for module in (reduce_kernel, rows):
        patch.setattr(module, "LANES", 64)


def _k_block(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(matmul, "KBLOCK", 128)


def _scan_block(patch: pytest.MonkeyPatch) -> None:
    for module in (scan, cumulative):
        patch.setattr(module, "BLOCK", 64)


def _backwards(patch: pytest.MonkeyPatch) -> None:
    def body(dtype: Any, first: Any, count: Any, order: Any, source: Any) -> Any:
        def add(i: Any, total: Any) -> list[Any]:
            last = first + count - 1
            at = ir.load(3, dt.int64, last - ir.cast(i, dt.int64))
            return [total + ir.load(4, dtype, source + at * ir.param(0, dt.int64))]

        (total,) = ir.repeat(ir.cast(count, dt.int32), [ir.input_(0, dtype)], add)
        return total

    patch.setattr(segments._add, "body", body)


def _finished(op: Any, finish: Any, element: Any = None) -> Any:
    """The op's reductions with another way to finish them, and another element."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        for module in (reduction, statistics):
            old = module.reduce_into

            def made(*given: Any, old: Any = old, **named: Any) -> Any:
                args = list(given)
                if len(args) > 7 and args[7] is not None:
                    args[7] = finish(args[7], args[4].dtype)
                if element is not None and args[1] == op:
                    args[4] = element(args[4])
                return old(*args, **named)

            patch.setattr(module, "reduce_into", made)

    return plant


def _reciprocal(finish: Any, acc: Any) -> Any:
    return ir.input_(0, acc) * (ir.const(1.0, acc) / ir.param(0, acc))


def _rounded_products(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(interp, "fma32", lambda a, b, c: np.asarray(a * b + c))


def _one_pass(patch: pytest.MonkeyPatch) -> None:
    def host(self: Any, device: Any, options: Any) -> Any:
        def run(x: tb.Tensor) -> tb.Tensor:
            o = {"axis": options["axes"], "keepdims": options["keepdims"]}
            n = float(np.prod([x.shape[a] for a in options["axes"]]))
            square = tb.subtract(tb.mean(tb.square(x), **o), tb.square(tb.mean(x, **o)))
            return tb.multiply(square, n / statistics.divisor(n, options["correction"]))

        return run

    patch.setattr(statistics._Variance, "host", host)


FAULTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "chunk": (_chunk, ("sum", "prod", "mean", "var", "std", "softmax", "layer_norm")),
    "lanes": (_lanes, ("sum", "prod", "var", "mse_loss", "rms_norm", "logsumexp")),
    "k-block": (_k_block, ("matmul", "vecdot", "tensordot", "linear")),
    "products": (_rounded_products, ("matmul", "vecdot")),
    "scan": (_scan_block, ("cumulative_sum", "cumulative_prod")),
    "backwards": (_backwards, ("index_add", "take", "gather", "take_along_axis", "embedding")),
    "reciprocal": (_finished("mean", _reciprocal), ("mean", "var")),
    "one pass": (_one_pass, ("var",)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_shared_faults_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, ops = FAULTS[name]
    for op in ops:
        assert _judged(op).state == "pass"
    plant(monkeypatch)
    for op in ops:
        assert _judged(op).state == "fail", op


@pytest.mark.skipif(not CPU, reason="needs the C compiler")
@pytest.mark.parametrize(("name", "op"), [("chunk", "sum"), ("k-block", "matmul")])
def test_bits_cannot_see_them(name: str, op: str) -> None:
    """In a process of its own: a device keeps kernels that were compiled without the fault."""
    folder = str(Path(__file__).parent)
    code = f"""
import sys
sys.path.insert(0, {folder!r})
import pytest, test_order
test_order.FAULTS[{name!r}][0](pytest.MonkeyPatch())
assert test_order._judged({op!r}, "cpu", what="bits").state == "pass"
assert test_order._judged({op!r}, "cpu").state == "fail"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
