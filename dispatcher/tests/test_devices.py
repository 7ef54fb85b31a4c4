"""Choosing a device, moving between devices, and what is said when that fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorbus as tb


def run_with(device: str, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TENSORBUS_DEVICE": device},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_default_and_context() -> None:
    assert tb.ones(1).device == "cpu"
    with tb.device("ref") as inner:
        assert tb.ones(1).device is inner
        assert inner == "ref"
        with tb.device("cpu"):
            assert tb.ones(1).device == "cpu"
        assert tb.arange(2).device == "ref"
        assert tb.ones(1, device="cpu").device == "cpu"
    assert tb.ones(1).device == "cpu"
    with pytest.raises(RuntimeError, match="stop"), tb.device("ref"):
        raise RuntimeError("stop")
    assert tb.ones(1).device == "cpu"


def test_context_belongs_to_its_thread() -> None:
    seen = []
    with tb.device("ref"):
        thread = threading.Thread(target=lambda: seen.append(str(tb.ones(1).device)))
        thread.start()
        thread.join()
    assert seen == ["cpu"]


def test_environment() -> None:
    done = run_with("ref", "import tensorbus as tb; print(tb.ones(1).device)")
    assert done.stdout.strip() == "ref", done.stderr
    done = run_with("reff", "import tensorbus as tb; print('imported'); tb.ones(1)")
    assert done.returncode != 0
    assert "imported" in done.stdout
    assert "'ref'" in done.stderr.splitlines()[-1]


def test_listing() -> None:
    lines = {line.name: line for line in tb.devices()}
    assert lines["ref"].available
    assert lines["cpu"].available
    for line in lines.values():
        assert line.available or (line.cause and line.fix), line.name


def test_devices_compare_with_names() -> None:
    x = tb.ones(1)
    assert x.device == "cpu"
    assert x.device != "ref"
    assert x.device is tb.get_device("cpu")
    assert tb.get_device(x.device) is x.device
    assert len({x.device, tb.get_device("ref")}) == 2
    assert "cpu" in repr(x.device)


@pytest.mark.parametrize(("name", "hint"), [("cpuu", "cpu"), ("rfe", "ref"), ("opncl", "opencl")])
def test_misspelt(name: str, hint: str) -> None:
    with pytest.raises(tb.UnknownDeviceError, match=hint):
        tb.ones(1, device=name)
    with pytest.raises(ValueError, match=hint):
        tb.get_device(name)


def test_names_are_text() -> None:
    with pytest.raises(TypeError, match="text"):
        tb.ones(1, device=0)  # type: ignore[arg-type]


def test_absent_devices_say_why() -> None:
    for line in tb.devices():
        if not line.available:
            with pytest.raises(tb.DeviceUnavailableError) as caught:
                tb.get_device(line.name)
            assert line.cause in str(caught.value)
            assert line.fix in str(caught.value)


def test_mixed_devices() -> None:
    x, y = tb.ones((2,)), tb.ones((2,), device="ref")
    for call in (
        lambda: x + y,
        lambda: tb.concat([x, y]),
        lambda: tb.matmul(x, y),
        lambda: x[tb.asarray([0], device="ref")],
        lambda: tb.take(x, tb.asarray([0], device="ref")),
        lambda: x.__setitem__(0, y[0]),
    ):
        with pytest.raises(ValueError, match="to_device"):
            call()
    assert (x + 1).tolist() == [2, 2]


def test_moving() -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    x = tb.asarray(a)
    y = x.mT[::-1].to_device("ref")
    assert y.device == "ref"
    assert (y.numpy() == a.T[::-1]).all()
    assert x.to_device("cpu") is x
    assert tb.asarray(y, device="cpu").device == "cpu"
    with pytest.raises(ValueError, match="stream"):
        x.to_device("ref", stream=1)
    with pytest.raises(tb.UnknownDeviceError):
        x.to_device("reff")


def test_gradients_come_back() -> None:
    x = tb.asarray([1.0, 2.0])
    x.requires_grad = True
    y = (x * 2).to_device("ref")
    assert y.requires_grad
    tb.sum(y * y).backward()
    assert x.grad is not None
    assert x.grad.device == "cpu"
    assert x.grad.tolist() == [8, 16]
    value, tangent = tb.jvp(lambda v: v.to_device("ref") * 3, [x.detach()], [x.detach()])
    assert value.device == "ref"
    assert tangent.tolist() == [3, 6]
