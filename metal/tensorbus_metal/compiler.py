"""Run-time compilation of MSL, with strict arithmetic.

The disk cache keeps sources only: which kernels share a program.  What they compile to is cached by
Metal itself, by source and options.
"""

from __future__ import annotations

import re
from typing import Any

from tensorbus_backends.contract import CompileError, KernelSpec
from tensorbus_backends.units import workers

from .objc import ObjC

__all__ = ["Compiler", "Pipeline"]

# MTLMathModeSafe, MTLMathFloatingPointFunctionsPrecise; MTLLanguageVersion2_2 has 64-bit integers.
_SAFE, _PRECISE, _VERSION_2_2 = 0, 1, (2 << 16) + 2

_ERROR = re.compile(r"^.*\berror: (.*)$", re.MULTILINE)


class Pipeline:
    """A kernel ready for an encoder.

    Attributes:
        state: MTLComputePipelineState.
        width: Threads in a group.
    """

    __slots__ = ("state", "width")

    def __init__(self, state: Any, width: int) -> None:
        self.state, self.width = state, width


class Compiler:
    """Makes MTLLibraries for one device; a `Toolchain`.

    Args:
        objc: The runtime.
        device: MTLDevice.
        name: The device's name.
    """

    identity = "msl source, safe math, contraction off"
    suffix = ".metal"

    def __init__(self, objc: ObjC, device: Any, name: str) -> None:
        self._objc, self._device, self._name = objc, device, name
        self.parallel = workers()

    def compile(self, source: str) -> bytes:
        return source.encode()

    def load(self, binary: bytes) -> Any:
        objc, source = self._objc, binary.decode(errors="replace")
        error = objc.ffi.new("id *")
        with objc.pool():
            library = objc.own(
                objc.send(
                    self._device,
                    "newLibraryWithSource:options:error:",
                    objc.string(source),
                    self._options(),
                    error,
                )
            )
            if library is None:
                log = _words(objc, error)
                first = _ERROR.search(log)
                said = f": {first[1]}" if first else ""
                raise CompileError(f"{self._name}: Metal rejects the source{said}", log, source)
        return library

    def _options(self) -> Any:
        objc = self._objc
        options = objc.own(objc.send(objc.find_class("MTLCompileOptions"), "new"))
        if objc.responds(options, "setMathMode:"):
            objc.send(options, "setMathMode:", _SAFE)
            if objc.responds(options, "setMathFloatingPointFunctions:"):
                objc.send(options, "setMathFloatingPointFunctions:", _PRECISE)
        else:
            objc.send(options, "setFastMathEnabled:", 0)
        objc.send(options, "setLanguageVersion:", _VERSION_2_2)
        return options

    def pipeline(self, library: Any, spec: KernelSpec, group: int) -> Pipeline:
        """A kernel of a library, with groups of `group` threads or as many as it can have.

        Raises:
            CompileError: It is not in there, or the device cannot run it.
        """
        objc = self._objc
        error = objc.ffi.new("id *")
        with objc.pool():
            name = objc.string(spec.name)
            function = objc.own(objc.send(library, "newFunctionWithName:", name))
            if function is None:
                raise CompileError(f"{self._name}: kernel {spec.name!r} is not in its library")
            state = objc.own(
                objc.send(
                    self._device, "newComputePipelineStateWithFunction:error:", function, error
                )
            )
            if state is None:
                log = _words(objc, error)
                raise CompileError(f"{self._name} cannot run kernel {spec.name!r}: {log}", log)
        most = int(objc.send(state, "maxTotalThreadsPerThreadgroup"))
        return Pipeline(state, max(1, min(group, most)))


def _words(objc: ObjC, error: Any) -> str:
    return objc.text(objc.send(error[0], "localizedDescription")) or "Metal gives no reason"
