"""A family of simulated drivers for tests of the executor alone, built when first used."""

from __future__ import annotations

import ctypes as c
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorbus_backends.simulator import Control, library

HERE = Path(__file__).parent
SOURCES = (HERE / "simulated.cpp", HERE / "simulated_words.h")
SONAME = "libtensorbus-probe.so.1"

OK, NO_MEMORY, INVALID, COMPILE, LAUNCH, ILLEGAL, LOST, NOT_READY = range(8)

_TYPES: dict[str, Any] = {
    "tbs_symbol": c.c_void_p,
    "tbs_stream_new": c.c_void_p,
    "tbs_mark": c.c_uint64,
    "tbs_time": c.c_double,
    "tbs_option": c.c_char_p,
    "tbs_option_int": c.c_int64,
    "probe_words": c.c_char_p,
    "probe_mode": c.c_uint32,
}


class Machine:
    """The C functions with Python's types; statuses are the numbers above."""

    def __init__(self) -> None:
        self.path = library("probe", SOURCES, SONAME)
        self.lib = c.CDLL(str(self.path))
        self.control = Control(self.path)
        for name, result in _TYPES.items():
            getattr(self.lib, name).restype = result

    def compile(
        self, text: str, options: Sequence[str] = (), compiler: bytes | None = None
    ) -> tuple[int, bytes, str]:
        """Status, binary and log."""
        binary, size, log = c.c_void_p(), c.c_size_t(), c.c_void_p()
        flags = (c.c_char_p * (len(options) + 1))(*[x.encode() for x in options])
        include = self.lib.probe_words()
        status = self.lib.tbs_compile(
            b"test.cu",
            include,
            text.encode(),
            flags,
            len(options),
            compiler,
            c.byref(binary),
            c.byref(size),
            c.byref(log),
        )
        words = c.string_at(log.value).decode() if log.value else ""
        data = c.string_at(binary.value, size.value) if binary.value else b""
        libc = c.CDLL(None)
        libc.free(log)
        libc.free(binary)
        return status, data, words

    def load(self, binary: bytes) -> tuple[int, c.c_void_p]:
        """Status and module."""
        module = c.c_void_p()
        status = self.lib.tbs_load(binary, c.c_size_t(len(binary)), c.byref(module))
        return status, module

    @functools.cache  # noqa: B019
    def module(self, text: str) -> c.c_void_p:
        """The module of a text that compiles; loaded once."""
        status, binary, log = self.compile(text)
        assert status == OK, log
        status, module = self.load(binary)
        assert status == OK, self.message()
        return module

    def body(self, text: str, name: str) -> c.c_void_p:
        """A kernel's address."""
        return c.c_void_p(self.lib.tbs_symbol(self.module(text), name.encode()))

    def run(
        self,
        text: str,
        name: str,
        arguments: Sequence[int] = (),
        groups: tuple[int, int, int] = (1, 1, 1),
        threads: tuple[int, int, int] = (1, 1, 1),
        *,
        dynamic: int = 0,
        flush: bool = False,
        device: int = 0,
    ) -> int:
        """Run a kernel at once; it gets an array of 64-bit words."""
        words = (c.c_uint64 * max(1, len(arguments)))(*arguments)
        return int(
            self.lib.tbs_run(
                device,
                self.module(text),
                self.body(text, name),
                words,
                (c.c_uint32 * 3)(*groups),
                (c.c_uint32 * 3)(*threads),
                c.c_size_t(dynamic),
                int(flush),
            )
        )

    def alloc(self, nbytes: int, device: int = 0) -> int:
        """Address of a block that must be had."""
        address = c.c_uint64()
        status = self.lib.tbs_alloc(device, c.c_size_t(nbytes), c.byref(address))
        assert status == OK, self.message()
        return address.value

    def try_alloc(self, nbytes: int, device: int = 0) -> int:
        """Status of an allocation that is kept if it can be had."""
        address = c.c_uint64()
        return int(self.lib.tbs_alloc(device, c.c_size_t(nbytes), c.byref(address)))

    def free(self, address: int, device: int = 0) -> int:
        """Status."""
        return int(self.lib.tbs_free(device, c.c_uint64(address)))

    def array(self, address: int, dtype: str, count: int) -> Any:
        """A NumPy view of device memory."""
        raw = (c.c_char * (np.dtype(dtype).itemsize * count)).from_address(address)
        return np.frombuffer(raw, dtype)

    def message(self) -> str:
        """The last failure's."""
        return self.control.message()


@functools.cache
def machine() -> Machine:
    """The one of this process."""
    return Machine()
