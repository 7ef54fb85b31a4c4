"""A pyopencl without the private calls that the driver prefers is served by its public ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyopencl", reason="pyopencl is not installed")

SCRIPT = """
    import numpy as np
    from tensorbus_opencl import public
    public.chosen = lambda name, instead: instead
    public.set_bytes = lambda kernel: kernel.set_arg
    import tensorbus as tb
    from tensorbus_opencl import driver
    assert driver._read is public.read and driver._marker is public.marker
    rng = np.random.default_rng(3)
    x = rng.normal(size=(70, 129)).astype(np.float32)

    def bits(device):
        t = tb.asarray(x, device=device)
        with tb.reproducible():
            found = [tb.exp(t), tb.sum(t[1:], axis=0), tb.sort(t[3:], axis=1),
                     tb.matmul(t, tb.matrix_transpose(t)), tb.asarray(t[2:], copy=True)]
        return [f.numpy().tobytes() for f in found]

    backend = tb.get_device("opencl").backend
    mark = backend.record()
    mark.wait()
    assert mark.done()
    a, b = backend.allocate(64), backend.allocate(64)
    backend.copy_in(a, 3, memoryview(b"tensorbus"))
    backend.copy(b, 5, a, 3, 9)
    large = rng.bytes(1 << 20)
    whole = backend.allocate(len(large))
    backend.copy_in(whole, 0, memoryview(large))
    out, back = bytearray(9), bytearray(len(large))
    backend.copy_out(b, 5, memoryview(out))
    backend.copy_out(whole, 0, memoryview(back))
    assert bytes(out) == b"tensorbus" and bytes(back) == large
    assert bits("opencl") == bits("ref")
    print("same bits")
"""


def test_public_calls_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBUS_CACHE", str(tmp_path))
    text = "\n".join(line[4:] for line in SCRIPT.splitlines())
    # Twice: programs are compiled, then found again as binaries.
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "same bits\n"), done.stderr
