"""A thread that flushes subnormals, or does not round to nearest, gets the same devices and bits.

Each mode is set in a process of its own before tensorbus is imported; its answers are compared with
those of a process that sets none.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import subprocess
import sys
import textwrap
from functools import cache

import pytest

# The control word's place in C's fenv_t, its size, and words that programs set.
LAYOUTS = {
    "x86_64": (28, 4, {
        "": 0x1F80, "up": 0x5F80, "down": 0x3F80, "zero": 0x7F80, "flush": 0x9FC0,
        "operands": 0x1FC0, "results": 0x9F80, "flush and down": 0xBFC0,
    }),
    "aarch64": (0, 4, {
        "": 0, "up": 1 << 22, "down": 2 << 22, "zero": 3 << 22, "flush": 1 << 24,
        "flush and down": 1 << 24 | 2 << 22,
    }),
}  # fmt: skip
AT, SIZE, WORDS = LAYOUTS.get(platform.machine(), (0, 0, {}))

SCRIPT = """
    import ctypes, ctypes.util, hashlib, sys
    at, size, word, names = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    libm = ctypes.CDLL(ctypes.util.find_library("m"))

    def modes():
        raw = ctypes.create_string_buffer(64)
        libm.fegetenv(raw)
        return raw

    raw = modes()
    ctypes.memmove(ctypes.addressof(raw) + at, word.to_bytes(size, sys.byteorder), size)
    libm.fesetenv(raw)

    def held():
        # Status flags are the host's: any value of them will do.
        return int.from_bytes(modes().raw[at:at + size], sys.byteorder) & ~0x3F

    before = held()
    import numpy as np
    import tensorbus as tb

    F32, F64, BF, F16 = tb.float32, tb.float64, tb.bfloat16, tb.float16
    bits = np.frombuffer
    rng = np.random.default_rng(5)
    sixty = bits(rng.integers(0, 1 << 62, 64, np.int64).tobytes(), np.float64)
    some = bits((rng.integers(-1 << 22, 1 << 22, 60) + (127 << 23)).astype(np.uint32), np.float32)
    tenth, less = some[0].item(), bits(np.uint64([77]), np.float64)[0].item()
    tiny = bits(np.uint64([(1023 - 147) << 52 | 1 << 50]), np.float64)[0].item()  # 5 * 2^-149
    third, step = bits(np.uint64([0x3FD5555555555555, 0x3FBC71C71C71C71C]), np.float64).tolist()
    numbers = (third, tiny, less)
    # Here only numbers times powers of two: these are exact in every mode.

    def loss(x):
        y = tb.nn.layer_norm(x * third + tenth, eps=third / 4096)
        z = tb.nn.gelu(y) / 3.0 + tb.std(y, axis=0, correction=third)
        return tb.mean(tb.pow(tb.abs(z) + third, third)) + tb.logsumexp(z * z)

    def gradient(x, loss=loss):
        x.requires_grad = True
        loss(x).backward()
        return x.grad

    def spread(x):
        return sum((tb.var(x, correction=k) for k in range(9)), tb.std(x, correction=step))

    calls = {
        "asarray": lambda: [tb.asarray([third, tiny, less], dtype=d) for d in (F32, F64, BF)],
        "asarray of float64": lambda: [tb.asarray(sixty, dtype=d) for d in (F32, F64, BF)],
        "asarray default": lambda: tb.asarray([[third, tiny], [less, 3]]),
        "full": lambda: [tb.full((3,), v, dtype=d) for v in numbers for d in (F32, F64, BF)],
        "full_like": lambda: tb.full_like(tb.zeros((2,), dtype=F16), third),
        "linspace": lambda: [tb.linspace(third, 7, 91, dtype=d) for d in (F32, F64, tb.int32)],
        "linspace small": lambda: tb.linspace(0, tiny * 16, 5),
        "arange": lambda: [tb.arange(third, 7, step, dtype=d) for d in (F32, F64)],
        "arange to int": lambda: tb.arange(third, 70, third * 2, dtype=tb.int32),
        "scalars": lambda: [tb.asarray(some, dtype=d) * third + tiny - less for d in (F32, F64)],
        "exp": lambda: [f(tb.asarray(some)) for f in (tb.exp, tb.sin, tb.log, tb.erf, tb.tanh)],
        "sixteen": lambda: tb.exp(tb.asarray(some, dtype=BF)) * third,
        "clip": lambda: tb.clip(tb.asarray(some), third, third * 4),
        "setitem": lambda: put(tb.asarray(some)),
        "leaky": lambda: tb.nn.leaky_relu(tb.asarray(-some), negative_slope=third),
        "elu": lambda: tb.nn.elu(tb.asarray(-some), alpha=step),
        "dropout": lambda: tb.nn.dropout(tb.asarray(some), p=third, seed=4),
        "normal": lambda: tb.random.normal((9,), mean=third, std=step, seed=4),
        "uniform": lambda: tb.random.uniform((9,), low=third, high=4 * third, seed=4),
        "loss": lambda: loss(tb.asarray(some.reshape(12, 5))),
        "gradient": lambda: gradient(tb.asarray(some.reshape(12, 5))),
        "gradient of var": lambda: gradient(tb.asarray(some, dtype=F64), spread),
        "jvp of var": lambda: list(tb.jvp(spread, [tb.asarray(some, dtype=F64)],
                                          [tb.asarray(some[::-1].copy(), dtype=F64)])),
        "jvp": lambda: list(tb.jvp(loss, [tb.asarray(some.reshape(12, 5))],
                                   [tb.asarray(some[::-1].reshape(12, 5).copy())])),
    }

    def put(x):
        x[3:9] = third
        x[0] = tiny
        x *= third
        return x

    def digest(value):
        parts = value if isinstance(value, list | tuple) else [value]
        return hashlib.sha256(b"|".join(p.numpy().tobytes() for p in parts)).hexdigest()[:16]

    for name in names.split(","):
        try:
            with tb.device(name):
                for label, call in calls.items():
                    try:
                        print(name, label, digest(call()), sep="\\t")
                    except Exception as error:
                        print(name, label, f"{type(error).__name__}: {error}"[:300], sep="\\t")
                    if held() != before:
                        print(name, label, "the modes were changed", sep="\\t")
        except tb.BackendError as error:
            print(name, "open", error, sep="\\t")
"""

pytestmark = pytest.mark.skipif(not WORDS, reason="this processor's control word is not known")


@cache
def answers(mode: str, devices: str) -> dict[tuple[str, str], str]:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(SCRIPT),
            *map(str, (AT, SIZE, WORDS[mode])),
            devices,
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "TENSORBUS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    found = {(device, label): text for device, label, text in lines}
    assert len(found) == len(lines), "a call changed the modes"
    return found


@pytest.mark.parametrize("mode", [m for m in WORDS if m])
def test_the_cpu_device_opens_and_computes_the_same_bits(mode: str) -> None:
    due = answers("", "cpu")
    assert len(due) > 20
    assert not [text for text in due.values() if "Error" in text]
    assert answers(mode, "cpu") == due


def test_opencl_opens_and_computes_the_same_bits() -> None:
    due = answers("", "opencl:0")
    if ("opencl:0", "open") in due:
        pytest.skip("no OpenCL device")
    assert answers("flush and down", "opencl:0") == due


def test_a_mode_is_set_where_it_is_said_to_be() -> None:
    """What the scripts compare with would not show a mode that was not set."""
    from tensorbus_backends.floating import DefaultArithmetic, usual

    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    for mode, word in WORDS.items():
        raw, kept = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
        libm.fegetenv(kept)
        libm.fegetenv(raw)
        ctypes.memmove(ctypes.addressof(raw) + AT, word.to_bytes(SIZE, sys.byteorder), SIZE)
        libm.fesetenv(raw)
        outside = usual()
        with DefaultArithmetic():
            inside = usual()
        after = usual()
        libm.fesetenv(kept)
        assert (outside, inside, after) == (not mode, True, not mode), mode
