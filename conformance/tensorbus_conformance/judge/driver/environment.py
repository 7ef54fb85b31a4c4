"""The host's own state: floating-point modes, signals, and processor time that is not used.

Another library may change a thread's rounding or let it flush subnormals.  A device computes the
same bits there, or raises the contract's error, and leaves the thread's modes as they were.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import platform
import signal
import sys
import time
from collections.abc import Iterator

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.contract import BackendError, Buffer, Compiled, Device
from tensorbus_backends.kernels import Map, Operand
from tensorbus_backends.kernels.base import Strided, pack

from ..items import Outcome
from ..session import Session
from .base import Checks, affine, duty, fetch, filled, integers, launch_affine, numbers, pattern

_BLOCKED = (
    signal.pthread_sigmask(signal.SIG_BLOCK, []) if hasattr(signal, "pthread_sigmask") else ()
)
"""Signals that this thread did not take before any device was used."""

_IDLE_S, _WINDOWS = 0.06, 12

# Where the control word lies in C's fenv_t, its bits that a program sets, and settings of them.
_X86 = (28, 4, 0xFFC0, {
    "rounds up": 0x5F80, "rounds down": 0x3F80, "rounds to zero": 0x7F80,
    "flushes results": 0x9F80, "flushes operands": 0x1FC0,
})  # fmt: skip
_ARM = (0, 8, (1 << 24) | (3 << 22), {
    "rounds up": 1 << 22, "rounds down": 2 << 22, "rounds to zero": 3 << 22,
    "flushes": 1 << 24,
})  # fmt: skip
_LAYOUTS = {"x86_64": _X86, "AMD64": _X86, "aarch64": _ARM, "arm64": _ARM}


class _Modes:
    """This thread's floating-point control word, through C's ``fegetenv`` and ``fesetenv``."""

    def __init__(self) -> None:
        library = ctypes.CDLL(ctypes.util.find_library("m") or None)
        self._get, self._set = library.fegetenv, library.fesetenv
        self.at, self.size, self.mask, self.settings = _LAYOUTS[platform.machine()]

    def _raw(self) -> ctypes.Array[ctypes.c_char]:
        raw = ctypes.create_string_buffer(64)
        self._get(raw)
        return raw

    def word(self) -> int:
        """The bits that say how numbers are rounded and what is flushed or trapped."""
        raw = self._raw().raw[self.at : self.at + self.size]
        return int.from_bytes(raw, sys.byteorder) & self.mask

    @contextlib.contextmanager
    def hostile(self, word: int) -> Iterator[None]:
        """Compute so until the block ends."""
        kept, other = self._raw(), self._raw()
        new = word.to_bytes(self.size, sys.byteorder)
        ctypes.memmove(ctypes.addressof(other) + self.at, new, self.size)
        self._set(other)
        try:
            yield
        finally:
            self._set(kept)


def _rounding(device: Device) -> Map:
    """Three results that every mode but the ordinary one gets wrong."""
    x = ir.input_(0, dt.float32)
    exprs = (
        x * ir.const(1.0 / 1024.0, dt.float32),
        x / ir.const(3.0, dt.float32),
        x + ir.const(2.0**-30, dt.float32),
        x - ir.const(2.0**-30, dt.float32),
    )
    out = (Operand(dt.float32),) * len(exprs)
    return Map("driver_rounding", (Operand(dt.float32),), out, exprs)


def _operands(device: Device, n: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    few = [1.0, -1.0, 7.0, -5.0, 1e30, 3.0000002, 2.0**-100]
    if device.capabilities.subnormals == "preserve":
        few += [1e-45, -3e-45, 1.1e-38, -1.3e-38]
    return np.resize(np.array(few, np.float32), n)


def _results(device: Device, kernel: Compiled, source: Buffer, n: int) -> list[bytes]:
    """What the kernel gives for `n` operands."""
    spec = kernel.spec
    assert isinstance(spec, Map)
    targets = [device.allocate(4 * n) for _ in spec.outputs]
    meta = pack(spec.meta(n, [], [Strided.words(0, 1, [])] * (1 + len(targets))))
    device.launch(kernel, spec.groups(device.dialect, n, 1), [source, *targets], meta)
    return [fetch(device, t, 4 * n) for t in targets]


def _made_on_host(device: str) -> list[bytes]:
    """Numbers that the host rounds: of Python floats and of steps between them."""
    third, tiny = float.fromhex("0x1.5555555555555p-2"), float.fromhex("0x1.8p-148")
    x = tb.asarray([third, -third, tiny], device=device)
    made = [x, tb.full((2,), third, device=device), tb.full((2,), -third, device=device),
            tb.linspace(third, 7, 9, device=device), tb.arange(-third, 7, third, device=device),
            tb.linspace(-7.0, third, 5, dtype=tb.int32, device=device)]  # fmt: skip
    return [m.numpy().tobytes() for m in made]


def modes(session: Session) -> Outcome:
    """Kernels, libraries and copies give the same bits in every mode of the calling thread."""
    checks, device = Checks("modes"), session.guard.real
    if platform.machine() not in _LAYOUTS:
        return Outcome("modes", "unsupported", "this processor's control word is not known")
    state, spec = _Modes(), _rounding(device)
    (kernel,) = device.compile([spec])
    # One group; many, of which other threads take their part; and many again.
    sizes = (5, 40_000) if session.level == "smoke" else (5, 40_000, 300_001)
    sources = {n: filled(device, _operands(device, n)) for n in sizes}
    due = {n: _results(device, kernel, source, n) for n, source in sources.items()}
    few = np.array([1 / 3, 0.7, -1.1, 5e-5, 1e4], np.float32)
    a = tb.asarray(np.tile(few, 65 * 67 // 5).reshape(65, 67), device=session.item.device)
    with tb.reproducible(False):
        product = [(a @ a.T).numpy().tobytes() for _ in range(2)]
    before = state.word()
    made = _made_on_host(session.item.device)
    for number, (name, word) in enumerate(state.settings.items()):
        for n in sizes:
            refused = False
            with state.hostile(word):
                try:
                    got = _results(device, kernel, sources[n], n)
                except BackendError as error:
                    refused, got = bool(str(error)), []
                after = state.word()
            checks.that(refused or got == due[n], f"other bits in a thread that {name}")
            checks.that(
                after == word & state.mask, f"a launch changed the modes of a thread that {name}"
            )
        with state.hostile(word), contextlib.suppress(BackendError):
            checks.that(
                _made_on_host(session.item.device) == made,
                f"numbers made on the host have other bits in a thread that {name}",
            )
        with state.hostile(word):
            if number == 0 or session.level != "smoke":
                device.compile([affine(211 + number)])
            kept = filled(device, pattern(1 << 16, number))
            device.copy(kept, 1 << 15, kept, 0, 1 << 14)
            large = device.allocate(3 << 20)
            device.synchronize()
            device.record().wait()
            with tb.reproducible(False), contextlib.suppress(BackendError):
                if number % 2 == 0:
                    served = a @ a.T
                    device.synchronize()
                    if product[0] == product[1]:
                        checks.that(
                            served.numpy().tobytes() == product[0],
                            f"a product has other bits in a thread that {name}",
                        )
            after = state.word()
        checks.that(after == word & state.mask, f"the modes of a thread that {name} were changed")
        del kept, large
    checks.that(state.word() == before, "the modes of the thread were changed")
    return checks.outcome


def signals(session: Session) -> Outcome:
    """A device blocks no signal of the thread that uses it."""
    checks, device = Checks("signals"), session.guard.real
    if not hasattr(signal, "pthread_sigmask"):
        return Outcome("signals", "unsupported", "this platform has no masks of signals")
    (kernel,) = device.compile([affine(17)])
    n = 200_000
    x, target = filled(device, integers(n, 1)), device.allocate(4 * n)
    for p in range(3):
        launch_affine(device, kernel, x, target, n, p)
    numbers(device, target, 1)
    blocked = set(signal.pthread_sigmask(signal.SIG_BLOCK, [])) - set(_BLOCKED)
    checks.that(
        not blocked, f"signals {sorted(int(s) for s in blocked)} are blocked after a launch"
    )
    return checks.outcome


def idle(session: Session) -> Outcome:
    """With nothing to do, a device soon keeps no processor busy.

    A thread that polls for ever takes a processor whole, or its share of one; of a dozen windows
    one has to be nearly free of it.
    """
    checks, device = Checks("idle"), session.guard.real
    (kernel,) = device.compile([affine(19)])
    n = 200_000
    x, target = filled(device, integers(n, 1)), device.allocate(4 * n)
    for p in range(3):
        launch_affine(device, kernel, x, target, n, p)
    device.synchronize()
    numbers(device, target, 1)
    least = 1.0
    for _ in range(_WINDOWS):
        cpu, wall = time.process_time(), time.perf_counter()
        time.sleep(_IDLE_S)
        least = min(least, (time.process_time() - cpu) / (time.perf_counter() - wall))
        if least < 0.05:
            break
    checks.that(least < 0.05, f"an idle device takes {least:.0%} of a processor")
    return checks.outcome


duty("environment", modes, signals, idle)
