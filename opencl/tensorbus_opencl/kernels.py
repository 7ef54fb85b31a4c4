"""OpenCL's compiler, as `tensorbus_backends.units` wants one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorbus_backends.contract import CompileError

from .errors import status_text

__all__ = ["OpenCLToolchain"]


class OpenCLToolchain:
    """Compiles and loads pyopencl programs for one device.

    Args:
        context: pyopencl context of exactly one device.
        identity: Platform, device and driver versions.
        options: Build options.
        binaries: Keep program binaries; else keep the sources, for a driver that compiles at the
            first launch and caches that itself (asking PoCL for a binary compiles everything once
            more, for group sizes that are never used).
        parallel: Programs to build at the same time.
    """

    def __init__(
        self,
        context: Any,
        identity: str,
        options: Sequence[str],
        *,
        binaries: bool = True,
        parallel: int = 1,
    ) -> None:
        self._context, self._device = context, context.devices[0]
        self._options = " ".join(options).encode()
        self._binaries = binaries
        self._fresh: dict[bytes, Any] = {}
        self.identity = f"opencl {identity} {' '.join(options)}"
        self.parallel = parallel
        self.suffix = ".clbin" if binaries else ".cl"

    def compile(self, source: str) -> bytes:
        if not self._binaries:
            return source.encode()
        import pyopencl as cl

        program = self._build(source)
        binary = bytes(program.get_info(cl.program_info.BINARIES)[0])
        self._fresh[binary] = program
        return binary

    def load(self, binary: bytes) -> Any:
        # What was compiled just now is ready: building from its binary would take as long again.
        fresh = self._fresh.pop(binary, None)
        if fresh is not None:
            return fresh
        import pyopencl as cl

        from . import public

        if not self._binaries:
            try:
                return self._build(binary.decode())
            except UnicodeDecodeError as error:
                raise CompileError(f"the kept source is spoilt ({error})") from error
        try:
            made = public.program()(self._context, [self._device], [binary])
            program = public.build(made, self._options, [self._device])
        except cl.Error as error:
            message = f"the driver of {self._name} does not take the kept program"
            raise CompileError(f"{message} ({status_text(error)})") from error
        return program

    @property
    def _name(self) -> str:
        return " ".join(str(self._device.name).split())

    def _build(self, source: str) -> Any:
        import pyopencl as cl

        from . import public

        program = public.program()(self._context, source)
        try:
            program = public.build(program, self._options, [self._device])
        except cl.Error as error:
            log = str(program.get_build_info(self._device, cl.program_build_info.LOG) or "")
            message = f"the OpenCL compiler of {self._name} rejected it ({status_text(error)})"
            raise CompileError(message, log.replace("\0", ""), source) from None
        return program
