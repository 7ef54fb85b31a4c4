"""Launches: every group runs once, in the order of the queue, with its own arguments."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
from collections.abc import Callable

import numpy as np
from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.contract import LaunchError
from tensorbus_backends.kernels import Map, Operand
from tensorbus_backends.kernels.base import Strided, pack

from ..items import Outcome
from ..session import Session
from .base import (
    Checks,
    affine,
    affine_result,
    duty,
    fetch,
    filled,
    integers,
    launch_affine,
    numbers,
)


def order(session: Session) -> Outcome:
    """A launch reads what earlier launches and copies wrote; the last writer wins."""
    checks, device = Checks("order"), session.guard.real
    (kernel,) = device.compile([affine(3)])
    n = 1501
    x = integers(n, 1)
    one, two = filled(device, x), device.allocate(4 * n)
    for k in range(20 if session.level == "smoke" else 60):
        launch_affine(device, kernel, one, two, n, k)
        x = affine_result(x, 3, k)
        one, two = two, one
        if k % 5 == 2:  # a copy on the device between launches
            device.copy(two, 4, one, 8, 400)
            device.copy(one, 4, two, 4, 400)
            x = x.copy()
            x[1:101] = x[2:102].copy()
        if k % 7 == 3:  # and one from the host
            fresh = integers(50, k)
            device.copy_in(one, 40, memoryview(fresh.tobytes()))
            x = x.copy()
            x[10:60] = fresh
        if k % 9 == 4:
            checks.that(
                bool((numbers(device, one, n) == x).all()), f"launch {k} is not seen by copy_out"
            )
    checks.that(bool((numbers(device, one, n) == x).all()), "a chain of launches is wrong")
    source, target = filled(device, x), device.allocate(4 * n)
    for p in (5, 6, 7):
        launch_affine(device, kernel, source, target, n, p)
    checks.that(
        bool((numbers(device, target, n) == affine_result(x, 3, 7)).all()),
        "of three launches to one buffer the last one did not win",
    )
    return checks.outcome


def grids(session: Session) -> Outcome:
    """Any number of groups, more than 65,535 too, each once; nothing beside the results."""
    checks, device = Checks("grids"), session.guard.real
    (kernel,) = device.compile([affine(7)])
    counts = [(1, 1), (2, 1), (7, 7), (255, 1), (256, 256), (1025, 1025), (4097, 4097)]
    counts += [(65_536, 1), (70_001, 1)] if session.level != "smoke" else [(65_537, 1)]
    for n, inner in counts:
        x = integers(n, n)
        source, target = filled(device, x), filled(device, b"\x77" * (4 * n + 64))
        launch_affine(device, kernel, source, target, n, 9, inner=inner)
        got = numbers(device, target, n)
        wrong = np.flatnonzero(got != affine_result(x, 7, 9))
        where = f"{n} elements in rows of {inner}: {wrong.size} are wrong, first {wrong[:1]}"
        checks.that(not wrong.size, where)
        checks.that(
            fetch(device, target, 64, 4 * n) == b"\x77" * 64, f"{n} elements: more was written"
        )
    return checks.outcome


def arguments(session: Session) -> Outcome:
    """One buffer to many, one buffer twice, offsets, and metadata that the caller forgets."""
    checks, device = Checks("arguments"), session.guard.real
    n = 333
    for count in (0, 1, 2, 5, 9, 20):
        xs = [ir.input_(k, dt.int32) for k in range(count)]
        expr = ir.cast(ir.index(), dt.int32)
        for k, x in enumerate(xs):
            expr = expr + x * ir.const(k + 2, dt.int32)
        outs = (Operand(dt.int32),) * (1 + count // 3)
        exprs = tuple(expr + ir.const(k, dt.int32) for k in range(len(outs)))
        spec = Map("driver_many", (Operand(dt.int32),) * count, outs, exprs)
        (kernel,) = device.compile([spec])
        checks.that(kernel.spec == spec, "a compiled kernel does not know its spec")
        data = [integers(n, k) for k in range(count)]
        if count > 1:
            data[1] = data[0]
        buffers = [filled(device, d) for d in data] + [device.allocate(4 * n) for _ in outs]
        if count > 1:
            buffers[1] = buffers[0]  # one buffer for two operands
        meta = pack(spec.meta(n, [], [Strided.words(0, 1, [])] * len(buffers)))
        device.launch(kernel, spec.groups(device.dialect, n, 1), buffers, meta)
        total = np.arange(n) + sum(
            (d.astype(np.int64) * (k + 2) for k, d in enumerate(data)), np.zeros(n, np.int64)
        )
        for k in range(len(outs)):
            checks.that(
                bool(
                    (numbers(device, buffers[count + k], n) == (total + k).astype(np.int32)).all()
                ),
                f"a kernel of {len(buffers)} buffers gives a wrong result {k}",
            )
    (kernel,) = device.compile([affine(2)])
    values = integers(900, 4)
    source, targets = filled(device, values), []
    for p in range(12):  # the metadata of each launch is garbage as soon as it was made
        targets.append(filled(device, bytes(4 * 900)))
        launch_affine(device, kernel, source, targets[-1], 700, p, offsets=(p, 3 * p))
    for p, target in enumerate(targets):
        want = affine_result(values[p : p + 700], 2, p)
        got = numbers(device, target, 900)
        checks.that(
            bool((got[3 * p : 3 * p + 700] == want).all()), f"offsets or metadata {p} went astray"
        )
        checks.that(
            not got[: 3 * p].any() and not got[3 * p + 700 :].any(), "something else was written"
        )
    return checks.outcome


def prepared(session: Session) -> Outcome:
    """``prepare`` launches as ``launch`` does, again and again.

    Arguments that fit no launch fit no prepared one either.
    """
    checks, device = Checks("prepared"), session.guard.real
    (kernel,) = device.compile([affine(11)])
    spec, n = affine(11), 1201
    sets = [integers(n, k) for k in range(4)]
    launchers = []
    for p in (0, 5):
        words = spec.meta(n, [], [Strided.words(0, 1, [])] * 2, [p])
        groups, meta = spec.groups(device.dialect, n, 1), pack(words)
        launchers.append(device.prepare(kernel, groups, meta))
        del meta
    for k, x in enumerate(sets):
        for p, launch in zip((0, 5), launchers, strict=True):
            source, target = filled(device, x), device.allocate(4 * n)
            launch(source, target)
            checks.that(
                bool((numbers(device, target, n) == affine_result(x, 11, p)).all()),
                f"prepared launch {k} is wrong",
            )
    for few, given in ((0, _meta(spec, n)), (-1, _meta(spec, n)), (1, b""), (1, bytes(8)),
                          (1, _meta(spec, n)[:-8]), (1, _meta(spec, n) + bytes(8))):  # fmt: skip
        checks.raises(LaunchError, f"{len(given)} bytes, {few} groups",
                      lambda few=few, given=given: device.prepare(kernel, few, given)(
                          device.allocate(4 * n), device.allocate(4 * n)))  # fmt: skip
    return checks.outcome


def _meta(spec: Map, n: int, p: int = 0) -> bytes:
    return pack(spec.meta(n, [], [Strided.words(0, 1, [])] * 2, [p]))


def row_meta(spec: Map, length: int, rows: int, p: int) -> bytes:
    """Metadata of `base.affine` over rows of contiguous int32."""
    return pack(spec.meta(length, [rows], [Strided.words(0, 1, [length])] * 2, [p]))


def mixed(session: Session) -> Outcome:
    """Each launch of a kernel has its own groups, metadata and buffers, whatever came before.

    Of five rows some groups are launched, then more, then fewer, with one metadata and with
    several, to one buffer and to others; what other groups would have written stays as it is.
    A device without a dialect has no groups that it could leave out.
    """
    checks, device = Checks("mixed"), session.guard.real
    spec = affine(13)
    (kernel,) = device.compile([spec])
    block, rows = 64, 5  # a row is a group
    n = rows * block
    x = integers(n, 1)
    sources = [filled(device, x), filled(device, x + 1)]
    targets = [device.allocate(4 * n) for _ in range(2)]
    clean = np.full(n, -7, np.int32)
    for groups, p, s, t in (
        (5, 0, 0, 0), (2, 0, 0, 0), (4, 0, 0, 0), (4, 9, 0, 0), (4, 9, 0, 1), (4, 9, 1, 1),
        (4, 0, 1, 1), (1, 0, 1, 0), (5, 0, 1, 0), (5, 9, 1, 0), (1, 9, 1, 0), (3, 9, 1, 0),
    ):  # fmt: skip
        groups = groups if device.dialect is not None else rows
        device.copy_in(targets[t], 0, memoryview(clean.tobytes()))
        device.launch(kernel, groups, [sources[s], targets[t]], row_meta(spec, block, rows, p))
        want = affine_result(x + np.int32(s), 13, p)
        want[groups * block :] = -7
        got = numbers(device, targets[t], n)
        wrong = int((got != want).sum())
        checks.that(not wrong, f"a launch of {groups} groups after others: {wrong} are wrong")
    return checks.outcome


def _fesetround() -> Callable[[int], int]:
    """C's fesetround for this thread."""
    name = ctypes.util.find_library("m")
    function: Callable[[int], int] = ctypes.CDLL(name).fesetround
    return function


_MODES = {"x86_64": (0x400, 0x800, 0xC00), "AMD64": (0x100, 0x200, 0x300)}
"""FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO by machine; all others have ARM's."""
_ARM = (0x800000, 0x400000, 0xC00000)


def modes(session: Session) -> Outcome:
    """The caller's rounding mode changes no bit, and is as before; or the launch is refused."""
    checks, device = Checks("modes"), session.guard.real
    x = ir.input_(0, dt.float32)
    third, tenth = ir.const(3.0, dt.float32), ir.const(float(np.float32(0.1)), dt.float32)
    exprs = (x * tenth + third, x / third, x * x, ir.sqrt(x), ir.cast(x, dt.int32))
    dtypes = (dt.float32,) * 4 + (dt.int32,)
    outs = tuple(Operand(d) for d in dtypes)
    spec, n = Map("driver_modes", (Operand(dt.float32),), outs, exprs), 4099
    (kernel,) = device.compile([spec])
    values = np.random.default_rng(session.seed).uniform(0.1, 100.0, n).astype(np.float32)
    source = filled(device, values)
    meta = pack(spec.meta(n, [], [Strided.words(0, 1, [])] * 6))

    def results() -> list[bytes]:
        targets = [device.allocate(4 * n) for _ in outs]
        groups = spec.groups(device.dialect, n, 1)
        device.launch(kernel, groups, [source, *targets], meta)
        return [fetch(device, t, 4 * n) for t in targets]

    want, set_mode = results(), _fesetround()
    for mode in _MODES.get(platform.machine(), _ARM):
        got: list[bytes] = []
        try:
            set_mode(mode)
            got = results()
        except LaunchError as error:
            refused = str(error)
        else:
            refused = ""
        finally:
            set_mode(0)
        if refused:
            checks.that("round" in refused, f"with rounding mode {mode:#x} it says {refused}")
            continue
        wrong = [k for k, (g, w) in enumerate(zip(got, want, strict=True)) if g != w]
        checks.that(not wrong, f"with the caller's rounding mode {mode:#x} results {wrong} differ")
    return checks.outcome


duty("launch", order, grids, arguments, prepared, mixed, modes)
