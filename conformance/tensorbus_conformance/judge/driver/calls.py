"""What the opencl device asks of OpenCL, call by call, and what it makes of the answers.

Most of it runs over the OpenCL of `madeup`, in a forked child.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import (
    BackendError,
    CompileError,
    DeviceLostError,
    LaunchError,
    OutOfMemoryError,
)
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.staging import LARGEST

from ..items import Outcome
from ..session import Session
from .apart import changed, forked
from .base import Checks, affine, affine_result, duty, fetch, filled, integers, numbers
from .errors import broken_kernel
from .launches import row_meta
from .madeup import Memory, OpenCL, opened
from .platforms import cl_error, fake_device

_GPU, _CPU = 4, 2


@forked
def declared(checks: Checks, folder: Path, session: Session) -> None:
    """Capabilities, groups and memory are what the driver says of a device."""
    cases: list[dict[str, Any]] = [
        {}, {"extensions": "", "double_fp_config": 0}, {"extensions": "", "double_fp_config": 32},
        {"extensions": "", "double_fp_config": 0, "single_fp_config": 0},
        {"extensions": "cl_khr_fp64 cl_khr_fp16", "double_fp_config": 2, "single_fp_config": 32},
        {"extensions": "cl_khr_global_int32_base_atomics x", "double_fp_config": 0},
        {"double_fp_config": 0}, {"max_work_group_size": 64},
        {"local_mem_size": 99, "max_work_item_sizes": [200, 1, 1]},
    ]  # fmt: skip
    smoke = session.level == "smoke"
    for k, case in enumerate(cases[:2] if smoke else cases):
        with opened(session, folder / f"d{k}", **case) as (device, _):
            c, d = device.capabilities, fake_device("d", _GPU, **case)
            words = d.extensions.split()
            fp64 = "cl_khr_fp64" in words or d.double_fp_config != 0
            fused = d.double_fp_config if fp64 else d.single_fp_config
            most = min(d.max_work_group_size, d.max_work_item_sizes[0])
            due = (
                fp64, "cl_khr_fp16" in words, bool(fused & 32), d.local_mem_size, most,
                "cl_khr_global_int32_base_atomics" in words, True, "preserve",
                frozenset(x.name for x in dt.ALL if fp64 or x.name != "float64"),
            )  # fmt: skip
            got = (c.fp64, c.fp16, c.fma, c.local_memory, c.max_group, c.atomics,
                   c.ieee, c.subnormals, c.dtypes)  # fmt: skip
            checks.that(got == due, f"case {k} declares {got}, due is {due}")
            checks.that(device.features == {"parts"}, f"case {k} has {set(device.features)}")
            checks.that(device.group == min(128, most), f"case {k} has groups of {device.group}")
            checks.that(device.memory().total == 1 << 20, "its memory has another size")
            checks.that(device.dialect.fp64 == fp64, f"case {k}: its dialect says otherwise")
    chosen: list[tuple[str, int, str | None, tuple[bool, int, int, int]]] = [
        ("Chips", _GPU, None, (False, 1024, 32, 128)), ("Chips", _GPU, "5", (False, 1024, 32, 5)),
        ("Chips", _CPU, None, (True, 4096, 64, 1)), ("Chips", _CPU, "5", (False, 4096, 64, 5)),
        ("Chips", _CPU, "1", (False, 4096, 64, 1)), ("Intel", _CPU, None, (True, 4096, 64, 1)),
        ("Intel", _GPU, None, (False, 1024, 32, 128)), ("pocl", _CPU, None, (True, 4096, 64, 1)),
    ]  # fmt: skip
    for k, (platform, kind, group, due_case) in enumerate(chosen[1:6:4] if smoke else chosen):
        with opened(session, folder / f"g{k}", platform, kind, group) as (device, _):
            d = device.dialect
            got_case = (d.serial, d.block, d.columns, device.group)
            what = f"{platform} {kind} with groups of {group}"
            checks.that(got_case == due_case, f"{what}: {got_case}, due is {due_case}")
            hides = "get_global_offset" in d.prelude
            due_hides = platform == "Intel" and kind == _CPU and group is None
            checks.that(hides == due_hides, f"{what}: the lengths of loops are hidden: {hides}")


@forked
def spelling(checks: Checks, folder: Path, session: Session) -> None:
    """Dialects that differ have other names, and each defines what its kind of device has."""
    package = type(session.guard.real).__module__.partition(".")[0]
    spell: Callable[..., Any] = import_module(f"{package}.dialect").Spelling
    seen: dict[str, Dialect] = {}
    for fp64 in (True, False):
        for loops, hide in ((False, False), (True, False), (True, True)):
            for block, columns in ((1024, 32), (4096, 64), (4096, 32)):
                for in_memory in (True, False):
                    s = spell(fp64, loops, hide, block, columns)
                    d = s.dialect(in_memory=in_memory)
                    what = f"{fp64}, {loops}, {hide}, {block}, {columns}, {in_memory}"
                    same = d.name in seen and seen[d.name] != d
                    checks.that(d.name not in seen, f"{what} and another have the name {d.name}")
                    checks.that(not same, f"two dialects have the name {d.name}")
                    seen[d.name] = d
                    words = {
                        "opencl", f"{block}x{columns}",
                        ("hidden" if hide else "loops") if loops else "threads",
                        *(["memory"] if in_memory else []), *([] if fp64 else ["fp32"]),
                    }  # fmt: skip
                    told = set(d.name.split("-"))
                    checks.that(told == words, f"{what}: its name is {d.name}")
                    figures = (d.style, d.block, d.columns, d.serial, d.fp64, d.loops)
                    due = ("simt", block, columns, loops, fp64, loops)
                    checks.that(figures == due, f"{what}: its figures are {figures}")
                    p = d.prelude
                    for word, there in (
                        ("typedef double f64;", fp64), ("cl_khr_fp64", fp64),
                        ("rint_f64", fp64), ("barrier(", not loops), ("get_local_id", not loops),
                        ("assume_safety", loops), ("get_global_offset(0)", hide),
                        ("#define HIDDEN_ZERO 0\n", not hide), ("0x1p23f", not hide),
                        ("0x1p52", not hide and fp64), ("tb_meta[k]", in_memory),
                        ("tb_meta.v[k]", not in_memory), ("FP_CONTRACT OFF", True),
                        ("typedef float f32;", True),
                    ):  # fmt: skip
                        checks.that((word in p) == there, f"{what}: {word!r} is in it: {word in p}")
                    one = "reqd_work_group_size(1, 1, 1)" in d.kernel
                    checks.that(one == loops, f"{what}: one work-item is demanded: {one}")
                    struct = d.kernel.startswith("struct {name}_meta")
                    checks.that(struct != in_memory, f"{what}: its metadata is a struct: {struct}")
                    pointer = d.meta.startswith("__global const i64")
                    checks.that(pointer == in_memory, f"{what}: metadata is {d.meta!r}")
                    head = d.kernel.splitlines()[-1]
                    checks.that(head.startswith("__kernel "), f"{what}: a kernel begins {head!r}")
                    checks.that(head.endswith("void {name}({args})"), f"{what}: it ends {head!r}")
    plain = spell()
    got = (plain.fp64, plain.loops, plain.hide, plain.block, plain.columns)
    checks.that(got == (True, False, False, 1024, 32), f"by default a spelling is {got}")
    checks.that(plain.dialect() == plain.dialect(in_memory=False), "metadata is in memory")


@forked
def memory(checks: Checks, folder: Path, session: Session) -> None:
    """Blocks are obtained, kept, released and cut as the driver allows."""
    unit = 1 << 14
    with opened(session, folder) as (device, fake):
        fake.names()
        block = device.allocate(5000)
        (call,) = [s for s in fake.said if s[0] == "buffer"]
        checks.that(call[1] >= 5000 and call[2] == 1, f"a buffer is asked for by {call}")
        device.allocate(1 << 18)
        checks.raises(OutOfMemoryError, "a large buffer", device.allocate, (1 << 18) + 1)
        del block
        device.empty_cache()
        checks.that(len(fake.released) == 2, f"released are {fake.released}")
        first = device.allocate(12 * unit)
        del first
        rest = [device.allocate(16 * unit)]
        checks.that(device.memory().cached == 12 * unit, "too little is kept for reuse")
        rest.append(device.allocate(8 * unit))
        checks.that(device.memory().cached == 0, "too much is kept for reuse")
        del rest
        device.empty_cache()
        for code in (-4, -5, -6, -61):
            fake.fail["buffer"] = [code]
            checks.that(device.allocate(100).nbytes == 100, f"status {code} once is final")
            device.empty_cache()
            fake.fail["buffer"] = [code] * 9
            checks.raises(OutOfMemoryError, f"status {code}", device.allocate, 100)
            fake.fail.clear()
        for code, kind in ((-36, DeviceLostError), (-34, DeviceLostError), (-30, LaunchError)):
            fake.fail["buffer"] = [code]
            error = checks.raises(kind, f"status {code}", device.allocate, 100)
            words = "allocating" in str(error) and "opencl:0" in str(error)
            checks.that(words, f"status {code} says {error}")
            checks.that(type(error) is kind, f"status {code} is {type(error).__name__}")
        whole = device.allocate(3 * 4096)
        device.copy_in(whole, 0, memoryview(bytes(range(256)) * 48))
        piece = device.part(device.part(whole, 4096, 8000), 4096, 300)
        checks.that(fetch(device, piece, 4, 7) == bytes((7, 8, 9, 10)), "a part is elsewhere")
        device.copy_in(piece, 1, memoryview(b"ab"))
        checks.that(fetch(device, whole, 3, 8192) == b"\0ab", "a part is written elsewhere")
        device.copy(whole, 5, piece, 1, 2)
        checks.that(fetch(device, whole, 3, 5) == b"ab\x07", "a part is copied elsewhere")
        checks.that(not fake.fail.get("buffer"), "nothing was obtained")


_KINDS: tuple[tuple[int, type[BackendError]], ...] = (
    (-5, OutOfMemoryError), (-4, OutOfMemoryError), (-36, DeviceLostError), (-2, DeviceLostError),
    (-54, LaunchError),
)  # fmt: skip


@forked
def copies(checks: Checks, folder: Path, session: Session) -> None:
    """Copies wait for the host's memory, are sent off, and fail with the contract's errors.

    A small one to the device is read from memory of the device's own, and does not wait.
    """
    with opened(session, folder) as (device, fake):
        one, two = device.allocate(2 * LARGEST), device.allocate(300)
        host, large = bytearray(10), memoryview(bytes(range(1, 256)) * (LARGEST // 255 + 1))
        commands: list[tuple[str, Callable[[], Any], str, list[str], bool]] = [
            ("write", lambda: device.copy_in(one, 9, large), "copying to it", ["write"], True),
            ("write", lambda: device.copy_in(one, 3, memoryview(b"hello")), "copying to it",
             ["write", "flush"], False),
            ("read", lambda: device.copy_out(one, 3, memoryview(host)), "copying from it",
             ["read"], True),
            ("copy", lambda: device.copy(two, 9, one, 3, 5), "copying", ["copy", "flush"], True),
        ]  # fmt: skip
        for name, command, doing, calls, waits in commands:
            fake.said.clear()
            command()
            block = fake.said[0][1:] if name != "copy" else (True,)
            checks.that(block == (waits,), f"{name} waits for the host's memory: {block}")
            checks.that(fake.names() == calls, f"{name} makes other calls")
            for code, kind in _KINDS:
                fake.fail[name] = [code] * 5
                error = checks.raises(kind, f"{name} with status {code}", command)
                checks.that(type(error) is kind, f"{name}, {code}: {type(error).__name__}")
                checks.that(doing in str(error), f"{name} with status {code} says {error}")
                fake.fail.clear()
            fake.fail[name] = [-5]
            fake.said.clear()
            command()  # after kept memory went back it is done once more
            checks.that(fake.names().count(name) == 2, f"{name} is not tried again")
        checks.that(bytes(host[:5]) == b"hello", f"the host has {bytes(host)!r}")
        checks.that(fetch(device, one, large.nbytes, 9) == large, "a large copy is elsewhere")
        checks.that(fetch(device, two, 5, 9) == b"hello", "a copy is elsewhere")


@dataclass(frozen=True)
class _Wide:
    """A kernel with more metadata than a driver takes as arguments."""

    name: str = "tb_driver_wide"
    buffers: int = 1
    words: int = 200

    def source(self, dialect: Dialect) -> str:
        """Nothing that a compiler would take."""
        meta = dialect.meta.format(name=self.name, words=self.words)
        return dialect.kernel.format(name=self.name, args=meta, words=self.words) + "{}"

    def local_bytes(self, dialect: Dialect) -> int:
        """None."""
        return 0

    def interpret(self, arrays: Sequence[Any], meta: Any, groups: int) -> None:
        """Nothing is computed with it."""
        raise NotImplementedError


@forked
def launches(checks: Checks, folder: Path, session: Session) -> None:
    """A launch sets its own arguments and no more than it must, and fails as the contract says."""
    spec, n = affine(91), 640
    for name, platform, kind, most, local in (
        ("a", "Chips", _GPU, 1 << 20, 128), ("b", "Chips", _GPU, 48, 48), ("c", "pocl", _CPU, 9, 1),
    ):  # fmt: skip
        with opened(session, folder / name, platform, kind) as (device, fake):
            fake.most = most
            (kernel,) = device.compile([spec])
            x: list[Any] = [filled(device, integers(n, k)) for k in range(2)]
            y: Any = device.part(device.allocate(3 * 4096), 4096, 4 * n)
            z: Any = device.part(device.allocate(4096), 4096, 0)
            metas = [row_meta(spec, 64, 10, p) for p in (0, 1)]
            fake.metas = 0
            fake.names()
            for groups, a, b, m in (
                (10, 0, 0, 0), (10, 0, 0, 0), (3, 0, 0, 0), (10, 1, 0, 0), (10, 0, 0, 1),
                (10, 0, 1, 1), (10, 0, 0, 0),
            ):  # fmt: skip
                target = (y, z)[b]
                device.launch(kernel, groups, [x[a], target], metas[m])
                checks.that(fake.names() == ["run", "flush"], "a launch makes other calls")
                label, args, size, got_local = fake.launches[-1]
                checks.that(label == spec.name, f"{label} was launched")
                grid = (tuple(size), tuple(got_local))
                due = ((groups * local,), (local,))
                checks.that(grid == due, f"{groups} groups are launched as {grid}, due is {due}")
                checks.that(args[0].whole is x[a].at.whole, "the operand is another buffer")
                checks.that(args[0].offset == 0, "the operand is elsewhere")
                to = args[1].offset if b == 0 else 4096
                checks.that((args[1].whole is target.at.whole, to) == (True, 4096),
                            "the result is elsewhere")  # fmt: skip
                checks.that(args[2] == metas[m], "the metadata is another launch's")
                checks.that(sorted(args) == [0, 1, 2], f"arguments {sorted(args)} are set")
            checks.that(fake.metas <= 7, f"metadata was set {fake.metas} times for 7 launches")
            fake.kernels = 0
            ready = [kernel.prepare(10, m) for m in metas]
            for turn in range(1100):
                for m in (0, 1):
                    ready[m](x[0], y)
                    right = fake.launches[-1][1][2] == metas[m]
                    if not right or turn in (0, 998, 999, 1000, 1001):
                        checks.that(right, f"in turn {turn} the metadata is another launch's")
            checks.that(1 <= fake.kernels <= 2, f"{fake.kernels} kernel objects were made")
            before = fake.metas
            for _ in range(50):
                ready[0](x[0], y)
                ready[1](x[0], y)
            checks.that(fake.metas - before <= 4, "metadata is set again and again")
            for code, kind_ in _KINDS:
                fake.fail["run"] = [code] * 5
                error = checks.raises(
                    kind_, f"status {code}", device.launch, kernel, 10, [x[0], y], metas[0]
                )
                checks.that(type(error) is kind_, f"status {code} is {type(error).__name__}")
                said = f"launching kernel {spec.name!r}" in str(error)
                checks.that(said, f"status {code} says {error}")
                fake.fail.clear()
            (wide,) = device.compile([_Wide()])
            words = np.arange(200).astype(np.int64).tobytes()
            device.launch(wide, 2, [x[0]], words)
            args = fake.launches[-1][1]
            stored = isinstance(args.get(1), Memory) and bytes(args[1].data[:1600]) == words
            checks.that(stored, "metadata beyond the driver's limit is no buffer")


@forked
def waiting(checks: Checks, folder: Path, session: Session) -> None:
    """Events follow the driver's; what a kernel met is raised by whoever waits."""
    with opened(session, folder) as (device, fake):
        fake.names()
        event = device.record()
        checks.that(fake.names() == ["marker", "flush"], "an event is not sent off")
        for status, done in ((0, True), (1, False), (2, False), (3, False)):
            fake.status = status
            checks.that(event.done() is done, f"with status {status} an event is done: {not done}")
        checks.that(fake.names() == [], "asking an event waits")
        fake.status = 0
        event.wait()
        checks.that(fake.names() == ["wait"], "waiting for an event does not wait")
        # Lack of resources is a kernel's failure here, not lack of memory.
        for code, kind in ((-5, LaunchError), (-4, LaunchError), (-36, DeviceLostError),
                           (-14, LaunchError)):  # fmt: skip
            fake.status = code
            for what, call in (("wait", event.wait), ("done", event.done)):
                error = checks.raises(kind, f"{what} with status {code}", call)
                checks.that(type(error) is kind, f"{what}, {code}: {type(error).__name__}")
                checks.that("running kernels" in str(error), f"{what}, {code} says {error}")
            fake.status = 0
            for name, call_ in (("finish", device.synchronize), ("marker", device.record),
                                ("flush", device.record)):  # fmt: skip
                fake.fail[name] = [code]
                error = checks.raises(kind, f"{name} with status {code}", call_)
                checks.that(type(error) is kind, f"{name}, {code}: {type(error).__name__}")
                fake.fail.clear()
        fake.names()
        device.synchronize()
        checks.that(fake.names() == ["finish"], "synchronize does not wait")
    # What the device is asked before it exists.
    for name in ("context", "queue"):
        for code, word in ((-36, "was lost"), (-30, "failed"), (-6, "no room in its memory")):
            serve = OpenCL.say

            def say(self: OpenCL, call: str, *rest: Any, n: str = name, c: int = code,
                    real: Any = serve) -> None:  # fmt: skip
                if call == n:
                    raise cl_error(c, "LogicError")
                real(self, call, *rest)

            def attempt(where: str = f"{name}{code}") -> None:
                with opened(session, folder / where):
                    pass

            with changed(OpenCL, say=say):
                error = checks.raises(BackendError, f"{name} with status {code}", attempt)
            checks.that(word in str(error) and "'opencl:0'" in str(error), f"{name}: {error}")


@forked
def programs(checks: Checks, folder: Path, session: Session) -> None:
    """Programs are built with the device's options, kept, and explained when they are rejected."""

    exact = "-cl-fp32-correctly-rounded-divide-sqrt"
    for name, platform, fp, binaries in (
        ("a", "Chips", 128, True), ("b", "Chips", 0, True), ("c", "pocl", 128, False),
    ):  # fmt: skip
        with opened(session, folder / name, platform, single_fp_config=fp) as (device, fake):
            fake.said.clear()
            device.compile([affine(92)])
            (build,) = [s for s in fake.said if s[0] == "build"]
            due = " ".join(["-cl-std=CL1.2", "-w", *([exact] if fp else [])]).encode()
            checks.that(build[1:] == (due, 1, False), f"a program is built by {build}")
            for batch in ([broken_kernel()], [affine(93), broken_kernel()]):
                error = checks.raises(CompileError, "a bad kernel", device.compile, batch)
                if isinstance(error, CompileError):
                    checks.that("no statement" in error.log, f"the log is {error.log!r}")
                    checks.that("\0" not in error.log, "the log has zero bytes")
                    checks.that("this is no statement" in error.source, "the source is lost")
            many = [affine(k) for k in range(200, 240)]
            checks.that(len(device.compile(many)) == 40, "forty kernels are not compiled")
            # Others than AMD's, Intel's and NVIDIA's serialise or crash.
            checks.that(fake.together == 1, f"{fake.together} programs are built at a time")
            fake.fail["kernel"] = [-46]
            error = checks.raises(CompileError, "no such kernel", device.compile, [affine(94)])
            checks.that("cannot load it" in str(error), f"no such kernel says {error}")
            fake.fail.clear()
        with opened(session, folder / name, platform, single_fp_config=fp) as (device, fake):
            fake.said.clear()
            device.compile([affine(92)])
            kept = [s[3] for s in fake.said if s[0] == "build"]
            checks.that(kept == [binaries], f"a kept program is built so: {kept}")
            fake.fail["build"] = [-11]  # the driver does not take what is kept
            device.compile([affine(93)])


def groups(session: Session) -> Outcome:
    """Groups of other sizes give the same bits."""
    checks, device = Checks("groups"), session.guard.real
    plugin = import_module(type(device).__module__.partition(".")[0]).PLUGIN
    rng = np.random.default_rng(session.seed)
    x = rng.normal(0, 1, (9, 700)).astype(np.float32)
    spec, values = affine(95), integers(640, 1)
    results = []
    smoke = session.level == "smoke"
    sizes = ("",) if smoke else ("", "96")
    for size in sizes:
        with changed(os.environ, TENSORBUS_OPENCL_GROUP=size):
            other = plugin.open(device.info.index)
        checks.that(other is not device, "opening a device again gives the same one")
        same = replace(other.info, details={}) == replace(device.info, details={})
        checks.that(same, f"a device opened again is {other.info}")
        (kernel,) = other.compile([spec])
        target = other.allocate(4 * 640)
        other.launch(kernel, 10 if other.dialect.block >= 64 else 0,
                     [filled(other, values), target], row_meta(spec, 64, 10, 3))  # fmt: skip
        right = (numbers(other, target, 640) == affine_result(values, 95, 3)).all()
        checks.that(bool(right), f"with groups of {size or 'its own'} a map is wrong")
        if smoke:
            continue
        a = tb.asarray(x, device=tb.Device(other))
        with tb.reproducible():
            made = (tb.sum(a), tb.cumulative_sum(a, axis=1), tb.argmax(a), tb.matmul(a, a.mT))
            results.append([r.numpy().tobytes() for r in made])
    for size, bits in zip(sizes, results, strict=False):
        checks.that(bits == results[0], f"groups of {size} give other bits")
    return checks.outcome


duty("calls", declared, spelling, memory, copies, launches, waiting, programs, groups,
     plugins=("opencl",), smoke=False)  # fmt: skip
