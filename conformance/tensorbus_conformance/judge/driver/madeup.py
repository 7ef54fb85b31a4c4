"""An OpenCL that is made up: pyopencl's functions, with a record of what is asked of them.

Buffers are bytes of the host, kernels note their arguments, and any call can be made to fail.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorbus_backends import opening

from ..session import Session
from .apart import changed
from .platforms import System, cl_error, fake_device, fake_platform

__all__ = ["Memory", "OpenCL", "opened"]

_GPU = 4


class Memory:
    """A buffer or a part of one."""

    def __init__(self, cl: OpenCL, data: memoryview, offset: int, whole: Memory | None) -> None:
        self.cl, self.data, self.offset = cl, data, offset
        self.whole, self.size, self.released = whole or self, len(data), 0

    def get_sub_region(self, offset: int, size: int) -> Memory:
        """As OpenCL's: not of a part, not of nothing, not beyond the end."""
        if self.whole is not self or size <= 0 or offset + size > self.size:
            raise cl_error(-30, "LogicError")
        return Memory(self.cl, self.data[offset : offset + size], offset, self)

    def release(self) -> None:
        """Counted."""
        self.released += 1
        self.cl.released.append(self.size)


class _Program:
    def __init__(self, cl: OpenCL, source: str, binary: bytes | None) -> None:
        self.cl, self.source, self.binary = cl, source, binary

    def _build(self, options: bytes, devices: Sequence[Any]) -> None:
        self.cl.say("build", options, len(devices), self.binary is not None)
        self.cl.building += 1
        self.cl.together = max(self.cl.together, self.cl.building)
        time.sleep(0.002)
        self.cl.building -= 1
        if "this is no statement" in self.source:
            raise cl_error(-11)

    def get_info(self, what: Any) -> list[bytes]:
        """Its binary."""
        return [b"binary of " + self.source.encode()]

    def get_build_info(self, device: Any, what: Any) -> str:
        """A log as drivers write them."""
        return "<kernel>:3: error: no statement\0"


class _Kernel:
    def __init__(self, cl: OpenCL, name: str) -> None:
        self.cl, self.function_name = cl, name
        self.args: dict[int, Any] = {}

    def set_arg(self, k: int, value: Any) -> None:
        """Noted."""
        if not isinstance(value, Memory):
            raise TypeError(f"argument {k} is {value!r}")
        self.args[k] = value

    def _set_arg_buf(self, k: int, value: bytes) -> None:
        self.cl.metas += 1
        self.args[k] = bytes(value)

    def get_work_group_info(self, what: Any, device: Any) -> int:
        """The most work-items for this kernel."""
        return self.cl.most


class _Point:
    def __init__(self, cl: OpenCL) -> None:
        self.cl = cl

    @property
    def command_execution_status(self) -> int:
        """As set."""
        return self.cl.status

    def wait(self) -> None:
        """Noted; fails as the command failed."""
        self.cl.say("wait")
        if self.cl.status < 0:
            raise cl_error(self.cl.status)


class OpenCL:
    """Everything that was asked; `fail` maps a call to the statuses of its next failures."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.fail: dict[str, list[int]] = {}
        self.released: list[int] = []
        self.launches: list[tuple[str, dict[int, Any], Any, Any]] = []
        self.metas, self.most, self.status, self.kernels = 0, 1 << 20, 0, 0
        self.building = self.together = 0
        self.context = SimpleNamespace(devices=[])

    def say(self, name: str, *arguments: Any) -> None:
        """Note a call; it fails if it is its turn."""
        self.said.append((name, *arguments))
        if self.fail.get(name):
            code = self.fail[name].pop(0)
            raise cl_error(code, "MemoryError" if code in (-4, -5, -6) else "LogicError")

    def names(self) -> list[str]:
        """Names of the calls since the last time."""
        found = [s[0] for s in self.said]
        self.said.clear()
        return found

    @contextmanager
    def serving(self) -> Iterator[None]:
        """In the place of pyopencl's functions."""
        import pyopencl as cl

        here = self
        queue = SimpleNamespace(flush=lambda: here.say("flush"), finish=lambda: here.say("finish"))

        def context(devices: list[Any]) -> Any:
            here.say("context")
            here.context.devices = devices
            return here.context

        def command_queue(context_: Any, device: Any) -> Any:
            here.say("queue")
            return queue

        def buffer(context_: Any, flags: int, nbytes: int) -> Memory:
            here.say("buffer", nbytes, flags)
            return Memory(here, memoryview(bytearray(nbytes)), 0, None)

        def write(q: Any, mem: Memory, source: Any, offset: int, wait: Any, block: bool) -> None:
            here.say("write", block)
            data = memoryview(source).cast("B")
            mem.data[offset : offset + len(data)] = data

        def read(q: Any, mem: Memory, target: Any, offset: int, wait: Any, block: bool) -> None:
            here.say("read", block)
            data = memoryview(target).cast("B")
            data[:] = mem.data[offset : offset + len(data)]

        def copy(q: Any, a: Memory, b: Memory, n: int, at: int, to: int) -> None:
            here.say("copy")
            b.data[to : to + n] = bytes(a.data[at : at + n])

        def marker(q: Any) -> _Point:
            here.say("marker")
            return _Point(here)

        def run(q: Any, kernel: _Kernel, size: Any, local: Any) -> None:
            here.say("run")
            here.launches.append((kernel.function_name, dict(kernel.args), size, local))

        def kernel(program: _Program, name: str) -> _Kernel:
            here.say("kernel")
            here.kernels += 1
            return _Kernel(here, name)

        def program(context_: Any, given: Any, binaries: Any = None) -> _Program:
            here.say("program")
            binary = binaries[0] if binaries is not None else None
            text = binary.decode()[10:] if binary is not None else given
            return _Program(here, text, binary)

        with ExitStack() as all_:
            for change in (
                changed(cl, Context=context, CommandQueue=command_queue, Buffer=buffer),
                changed(cl, enqueue_nd_range_kernel=run, Kernel=kernel),
                changed(cl._cl, _enqueue_read_buffer=read, _enqueue_write_buffer=write),
                changed(cl._cl, _enqueue_copy_buffer=copy, _enqueue_marker=marker),
                changed(cl._cl, _Program=program),
            ):
                all_.enter_context(change)
            yield


_EXACT = {f"{o} {f}": True for f in ("f32", "f64") for o in ("add", "mul", "div", "sqrt")}


@contextmanager
def opened(
    session: Session, folder: Path, platform: str = "Chips", kind: int = _GPU,
    group: str | None = None, **more: Any,
) -> Iterator[tuple[Any, OpenCL]]:  # fmt: skip
    """A device over a made-up OpenCL."""
    package = type(session.guard.real).__module__.partition(".")[0]
    folder.mkdir(exist_ok=True)
    system, fake = System(folder, package), OpenCL()
    more = {"global_mem_size": 1 << 20, "max_mem_alloc_size": 1 << 18} | more
    system.platforms = [fake_platform(platform, "x", fake_device("d", kind, **more))]
    proven = _EXACT | {"subnormal f32": True}
    cache = str(folder / "cache")
    with (
        fake.serving(),
        system.alive(TENSORBUS_OPENCL_GROUP=group, TENSORBUS_CACHE=cache) as plugin,
        changed(opening, run_check=lambda device: proven),
    ):
        yield plugin.PLUGIN.open(0), fake
