"""Calls that a device lacks a dtype for, served by another device."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus_backends.ref import RefDevice


@pytest.fixture(scope="module")
def poor() -> tb.Device:
    """A device without float64 and int16."""
    backend = RefDevice(replace(tb.get_device("ref").info, name="poor"))
    left = frozenset(backend.capabilities.dtypes) - {"float64", "int16"}
    backend.capabilities = replace(backend.capabilities, dtypes=left)
    return tb.Device(backend)


def put(device: tb.Device, *values: float) -> tb.Tensor:
    return tb.asarray(np.asarray(values, np.float32), device=device)


def stays(x: tb.Tensor, home: tb.Device) -> bool:
    """Whether `x` lies on the cpu because `home` cannot hold it."""
    return x.device == "cpu" and x.device.home is home


CALLS: dict[str, tuple[Callable[[tb.Tensor], tb.Tensor], Callable[[Any], Any]]] = {
    "astype": (lambda x: tb.astype(x, tb.float64), lambda a: a.astype(np.float64)),
    "sum": (lambda x: tb.sum(x, dtype=tb.float64), lambda a: a.astype(np.float64).sum()),
    "zeros": (
        lambda x: tb.zeros((2,), dtype=tb.float64, device=x.device),
        lambda a: np.zeros(2),
    ),
    "arange": (
        lambda x: tb.arange(3, dtype=tb.int16, device=x.device),
        lambda a: np.arange(3, dtype=np.int16),
    ),
    "linspace": (
        lambda x: tb.linspace(0, 4, 3, dtype=tb.int16, device=x.device),
        lambda a: np.asarray([0, 2, 4], np.int16),
    ),
    "asarray": (
        lambda x: tb.asarray(np.asarray([1.5]), device=x.device),
        lambda a: np.asarray([1.5]),
    ),
    "add": (
        lambda x: tb.add(x, tb.asarray(np.asarray([1.5]), device=x.device)),
        lambda a: a.astype(np.float64) + 1.5,
    ),
    "normal": (
        lambda x: tb.random.uniform((2,), dtype=tb.float64, device=x.device, seed=1) * 0,
        lambda a: np.zeros(2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_result_that_the_device_cannot_hold_stays(poor: tb.Device, name: str) -> None:
    call, want = CALLS[name]
    x = put(poor, 1, 2, 3)
    with pytest.raises(tb.UnsupportedError, match=r"poor has no (float64|int16)"):
        call(x)
    with tb.fallback_policy("allow"), tb.trace() as t:
        for _ in range(2):
            y = call(x)
            assert stays(y, poor), y.device
            np.testing.assert_array_equal(y.numpy(), want(x.numpy()), strict=True)
    made = [r for r in t if not r.depth]
    assert {(r.variant, r.device, r.library, r.stays) for r in made} == {
        ("fallback", "poor", "cpu", "cpu")
    }
    assert "result stays on cpu" in str(t)
    with tb.fallback_policy("warn"), pytest.warns(UserWarning, match="poor has no"):
        assert stays(call(x), poor)


def test_results_that_it_can_hold_come_back(poor: tb.Device) -> None:
    x = put(poor, 1, 2, 3)
    with tb.fallback_policy("allow"):
        y = tb.astype(x, tb.float64)
        with tb.trace() as t:
            less, back, where = y < 2.5, tb.astype(y * 2, tb.float32), tb.argmax(y)
    for got, want in ((less, [True, True, False]), (back, [2, 4, 6]), (where, 2)):
        assert got.device is poor
        assert got.numpy().tolist() == want
    assert [(r.op, r.variant, r.stays) for r in t if not r.depth] == [
        ("less", "fallback", ""),
        ("multiply", "fallback", "cpu"),
        ("astype", "fallback", ""),
        ("argmax", "fallback", ""),
    ]


def test_it_meets_tensors_of_the_device(poor: tb.Device) -> None:
    x = put(poor, 1, 2, 3)
    with tb.fallback_policy("allow"):
        y = tb.astype(x, tb.float64)
        assert (x + y).numpy().tolist() == [2, 4, 6]
        assert (y * x).device is y.device
        assert tb.where(x > 1.5, y, x).numpy().tolist() == [1, 2, 3]
        assert tb.concat([x, y]).numpy().tolist() == [1, 2, 3, 1, 2, 3]
        assert (tb.reshape(y, (1, 3)) @ tb.reshape(x, (3, 1))).numpy().tolist() == [[14]]
        at = tb.asarray(np.asarray([2, 0]), device=poor)
        assert y[at].numpy().tolist() == [3, 1]
        assert y[x > 1.5].numpy().tolist() == [2, 3]
        assert tb.zeros_like(y).device is y.device
        assert tb.zeros_like(y, dtype=tb.float32).device is poor
        y[at] = x[:2]
        assert y.numpy().tolist() == [2, 2, 1]
        y[1:] = x[1:]
        y += x
        assert y.numpy().tolist() == [3, 4, 6]
        with pytest.raises(TypeError, match="float64"):
            x += y
    assert x.numpy().tolist() == [1, 2, 3]


def test_homes_share_no_numbers(poor: tb.Device) -> None:
    other = tb.Device(poor.backend)
    for home in (poor, other, poor):
        x = put(home, 1, 2)
        with tb.fallback_policy("allow"):
            y = tb.astype(x, tb.float64) * 2.0 * x + 1
        assert stays(y, home)
        assert y.numpy().tolist() == [3, 9]


def test_nothing_else_mixes(poor: tb.Device) -> None:
    x, mine = put(poor, 1, 2), tb.asarray(np.asarray([1.0, 2.0]), device="cpu")
    with tb.fallback_policy("allow"):
        y = tb.astype(x, tb.float64)
        for call in (lambda: x + mine, lambda: mine + x, lambda: tb.concat([x, mine])):
            with pytest.raises(ValueError, match="operands are on"):
                call()
        # Both are on the cpu, but only one is the user's word.
        for call in (lambda: y + mine, lambda: tb.where(x > 1.5, y, mine)):
            with pytest.raises(ValueError, match="operands are on"):
                call()
        assert (y.to_device("cpu") + mine).device is tb.get_device("cpu")
        with pytest.raises(tb.UnsupportedError):
            mine.to_device(poor)
    with pytest.raises(ValueError, match=r"operands are on cpu \(in place of poor\) and poor"):
        y + x
    with pytest.raises(ValueError, match="an index is on poor"):
        y[tb.asarray(np.asarray([0]), device=poor)]
    # Without permission it is a tensor of the cpu like others, but keeps its mark.
    with tb.trace() as t:
        assert (y + y).device is y.device
        assert (y < 1.5).numpy().tolist() == [True, False]
        assert float(tb.sum(y)) == 3
        assert "2." in repr(y)
    assert {(r.device, r.variant) for r in t} == {("cpu", "portable")}


@pytest.mark.parametrize("create", [False, True])
def test_gradients_run_through(poor: tb.Device, create: bool) -> None:
    x, w = put(poor, 1, 2, 3), put(poor, 4, 5, 6)
    x.requires_grad = w.requires_grad = True
    with tb.fallback_policy("allow"):
        y = tb.astype(x, tb.float64)
        loss = tb.astype(tb.sum(tb.square(y) * w), tb.float32)
    assert loss.device is poor
    found = tb.grad(loss, [x, w], create_graph=create)
    for got, want in zip(found, ([8, 20, 36], [1, 4, 9]), strict=True):
        assert got.device is poor
        assert got.numpy().tolist() == want
    if create:
        (twice,) = tb.grad(tb.sum(found[0]), [x])
        assert twice.device is poor
        assert twice.numpy().tolist() == [8, 10, 12]


def test_forward_mode_and_a_leaf_that_stays(poor: tb.Device) -> None:
    with tb.fallback_policy("allow"):
        x, t = put(poor, 1, 2), put(poor, 1, 1)
        out, moved = tb.jvp(lambda v: tb.square(tb.astype(v, tb.float64)), (x,), (t,))
        assert stays(out, poor)
        assert stays(moved, poor)
        assert moved.numpy().tolist() == [2, 4]
        y = tb.astype(x, tb.float64)
        y.requires_grad = True
        tb.sum(y * x).backward()
    assert y.grad is not None
    assert stays(y.grad, poor)
    assert y.grad.numpy().tolist() == [1, 2]


def test_what_it_has_it_serves_itself(poor: tb.Device) -> None:
    x = put(poor, 1, 2)
    for policy in ("error", "warn", "allow"):
        with tb.fallback_policy(policy), tb.trace() as t, warnings.catch_warnings():  # type: ignore[arg-type]
            warnings.simplefilter("error")
            assert (x + x).device is poor
        assert t.variants() == {"portable"}


def test_errors_keep_their_text(poor: tb.Device) -> None:
    x = put(poor, 1, 2)
    with pytest.raises(tb.UnsupportedError) as said:
        tb.astype(x, tb.float64)
    text = str(said.value)
    assert text.startswith("astype: poor has no float64; it has bool, ")
    assert text.endswith("or allow a fallback with tensorbus.fallback_policy('warn')")
    with pytest.raises(tb.UnsupportedError, match=r"^poor has no float64; it has bool, "):
        tb.zeros((2,), dtype=tb.float64, device=poor)
    with pytest.raises(tb.UnsupportedError, match="pass dtype= to convert"):
        tb.asarray(np.asarray([1.5]), device=poor)
