"""What the host waits for, counted by the simulated driver."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tensorbus as tb
from tensorbus_backends.simulator import Control
from tensorbus_rocm.device import RocmDevice

sys.path.insert(0, str(Path(__file__).parents[2] / "dispatcher" / "tests"))
from training import Training


@pytest.mark.parametrize("eager", [False, True])
def test_a_training_step_waits_for_nothing_before_the_loss_is_read(
    device: RocmDevice, control: Control, monkeypatch: pytest.MonkeyPatch, eager: bool
) -> None:
    """Each with new keys, new numbers and new indices; a check at the call is what waits."""
    monkeypatch.setenv("TENSORBUS_CHECK_INDICES", "1" if eager else "")
    reference, training = Training("ref"), Training(tb.Device(device))
    before, launched = control.count("wait"), control.count("launch")
    losses = [training.step(k) for k in range(3)]
    waits = control.count("wait") - before
    assert control.count("launch") - launched > 60
    assert (waits > 3) if eager else (waits == 0)
    want = [reference.step(k).item() for k in range(3)]
    assert np.allclose([loss.item() for loss in losses], want, rtol=1e-5)
    assert control.count("wait") > before + waits


@pytest.mark.parametrize("pinned", [True, False])
def test_small_copies_from_the_host_wait_only_where_no_memory_can_be_pinned(
    device: RocmDevice, control: Control, pinned: bool
) -> None:
    if not pinned:
        control.arm("host", 1)
    where, before = tb.Device(device), control.count("wait")
    arrays = [np.full(1000, k, np.float32) for k in range(200)]
    tensors = [tb.asarray(array, device=where) for array in arrays[:1]]
    assert (control.count("wait") == before) is pinned
    before = control.count("wait")
    tensors += [tb.asarray(array, device=where) for array in arrays[1:60]]
    assert control.count("wait") == before
    tensors += [tb.asarray(array, device=where) for array in arrays[60:]]
    assert control.count("wait") > before
    for array, tensor in zip(arrays, tensors, strict=True):
        assert (tensor.numpy() == array).all()
