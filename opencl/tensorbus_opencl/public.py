"""pyopencl's public calls for what the driver asks of its private ones, which are faster.

A copy through `enqueue_copy` first looks for what kind of memory it was given, which takes longer
than a small copy.  A release of pyopencl without the private calls is served by these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyopencl as cl

__all__ = ["build", "chosen", "copy", "marker", "program", "read", "set_bytes", "write"]


def chosen(name: str, public: Callable[..., Any]) -> Callable[..., Any]:
    """A private function of pyopencl, or what serves where there is none of that name."""
    found: Callable[..., Any] = getattr(getattr(cl, "_cl", None), name, public)
    return found


def read(
    queue: Any, memory: Any, host: memoryview, offset: int, wait_for: None, blocking: bool
) -> Any:
    """Copy a buffer's bytes from `offset` on to the host."""
    return cl.enqueue_copy(queue, host, memory, src_offset=offset, is_blocking=blocking)


def write(
    queue: Any, memory: Any, host: memoryview, offset: int, wait_for: None, blocking: bool
) -> Any:
    """Copy the host's bytes to a buffer from `offset` on."""
    return cl.enqueue_copy(queue, memory, host, dst_offset=offset, is_blocking=blocking)


def copy(queue: Any, source: Any, target: Any, nbytes: int, start: int, offset: int) -> Any:
    """Copy between buffers of the device."""
    return cl.enqueue_copy(
        queue, target, source, byte_count=nbytes, src_offset=start, dst_offset=offset
    )


def marker(queue: Any) -> Any:
    """An event that is reached when all before it is."""
    return cl.enqueue_marker(queue)


def set_bytes(kernel: Any) -> Callable[[int, bytes], Any]:
    """What sets an argument of a kernel to bytes.

    The public call takes 40 times as long to find out what bytes are.
    """
    found: Callable[[int, bytes], Any] = getattr(kernel, "_set_arg_buf", kernel.set_arg)
    return found


def program() -> Callable[..., Any]:
    """What makes a program: the public one adds a cache of its own and keeps failed sources."""
    return chosen("_Program", cl.Program)


def build(made: Any, options: bytes, devices: list[Any]) -> Any:
    """Build what `program` made; the result is the program to use."""
    if isinstance(made, cl.Program):
        whole: Any = made
        return whole.build(options.decode().split(), devices, cache_dir=False)
    made._build(options, devices)
    return made
