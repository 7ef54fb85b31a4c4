"""From CUDA's result codes to the contract's exceptions.

pycuda's exceptions carry the driver's words and not its code, so the words are looked up among
those that the driver itself gives for each code.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

from tensorbus_backends.contract import (
    BackendError,
    CompileError,
    DeviceLostError,
    LaunchError,
    OutOfMemoryError,
)

__all__ = ["CODES", "Kind", "Result", "Results"]


class Kind(enum.Enum):
    """What a failure means to the caller."""

    MEMORY = "memory ran out; freeing some may help"
    IMAGE = "the driver does not take compiled code"
    LOST = "every later call in this process fails too"
    LAUNCH = "this call failed, the next may work"


# cuda.h, CUresult.  Whatever is not here is Kind.LAUNCH.
CODES: Mapping[int, tuple[str, Kind]] = {
    1: ("CUDA_ERROR_INVALID_VALUE", Kind.LAUNCH),
    2: ("CUDA_ERROR_OUT_OF_MEMORY", Kind.MEMORY),
    3: ("CUDA_ERROR_NOT_INITIALIZED", Kind.LOST),
    4: ("CUDA_ERROR_DEINITIALIZED", Kind.LOST),
    34: ("CUDA_ERROR_STUB_LIBRARY", Kind.LOST),
    46: ("CUDA_ERROR_DEVICE_UNAVAILABLE", Kind.LOST),
    100: ("CUDA_ERROR_NO_DEVICE", Kind.LOST),
    101: ("CUDA_ERROR_INVALID_DEVICE", Kind.LOST),
    200: ("CUDA_ERROR_INVALID_IMAGE", Kind.IMAGE),
    201: ("CUDA_ERROR_INVALID_CONTEXT", Kind.LOST),
    209: ("CUDA_ERROR_NO_BINARY_FOR_GPU", Kind.IMAGE),
    214: ("CUDA_ERROR_ECC_UNCORRECTABLE", Kind.LOST),
    218: ("CUDA_ERROR_INVALID_PTX", Kind.IMAGE),
    220: ("CUDA_ERROR_NVLINK_UNCORRECTABLE", Kind.LOST),
    221: ("CUDA_ERROR_JIT_COMPILER_NOT_FOUND", Kind.IMAGE),
    222: ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", Kind.IMAGE),
    223: ("CUDA_ERROR_JIT_COMPILATION_DISABLED", Kind.IMAGE),
    226: ("CUDA_ERROR_CONTAINED", Kind.LOST),
    300: ("CUDA_ERROR_INVALID_SOURCE", Kind.IMAGE),
    304: ("CUDA_ERROR_OPERATING_SYSTEM", Kind.LAUNCH),
    400: ("CUDA_ERROR_INVALID_HANDLE", Kind.LAUNCH),
    500: ("CUDA_ERROR_NOT_FOUND", Kind.IMAGE),
    700: ("CUDA_ERROR_ILLEGAL_ADDRESS", Kind.LOST),
    701: ("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", Kind.LAUNCH),
    702: ("CUDA_ERROR_LAUNCH_TIMEOUT", Kind.LOST),
    709: ("CUDA_ERROR_CONTEXT_IS_DESTROYED", Kind.LOST),
    710: ("CUDA_ERROR_ASSERT", Kind.LOST),
    714: ("CUDA_ERROR_HARDWARE_STACK_ERROR", Kind.LOST),
    715: ("CUDA_ERROR_ILLEGAL_INSTRUCTION", Kind.LOST),
    716: ("CUDA_ERROR_MISALIGNED_ADDRESS", Kind.LOST),
    717: ("CUDA_ERROR_INVALID_ADDRESS_SPACE", Kind.LOST),
    718: ("CUDA_ERROR_INVALID_PC", Kind.LOST),
    719: ("CUDA_ERROR_LAUNCH_FAILED", Kind.LOST),
    721: ("CUDA_ERROR_TENSOR_MEMORY_LEAK", Kind.LOST),
    801: ("CUDA_ERROR_NOT_SUPPORTED", Kind.LAUNCH),
    802: ("CUDA_ERROR_SYSTEM_NOT_READY", Kind.LOST),
    803: ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", Kind.LOST),
    804: ("CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", Kind.LOST),
    805: ("CUDA_ERROR_MPS_CONNECTION_FAILED", Kind.LOST),
    810: ("CUDA_ERROR_MPS_CLIENT_TERMINATED", Kind.LOST),
    911: ("CUDA_ERROR_EXTERNAL_DEVICE", Kind.LOST),
    999: ("CUDA_ERROR_UNKNOWN", Kind.LOST),
}

# What each says of itself to whoever reads the message.
_ADVICE = {
    46: "another process holds the device for itself; wait for it, or set its compute mode to "
    "default (nvidia-smi -c 0)",
    214: "its memory has a hardware fault; reset it (nvidia-smi --gpu-reset) or replace it",
    700: "a kernel touched memory that is not its own; find it with compute-sanitizer",
    701: "the kernel needs more registers or threads than a group can have; "
    "set TENSORBUS_CUDA_GROUP to less",
    702: "a kernel ran longer than the display allows; use smaller pieces or another GPU",
    802: "its fabric or persistence service is not running (nvidia-fabricmanager)",
    803: "the driver's library and its kernel module differ in version; reboot",
}


class Result:
    """A failure of the driver.

    Attributes:
        code: CUresult, or 0 if the words are not known.
        name: ``"CUDA_ERROR_LAUNCH_FAILED"``, or the driver's words.
        kind: What it means.
    """

    def __init__(self, code: int, words: str) -> None:
        self.code = code
        self.name, self.kind = CODES.get(code, (words or f"CUresult {code}", Kind.LAUNCH))

    def error(self, device: str, doing: str) -> BackendError:
        """The exception to raise.

        Args:
            device: Name of the device.
            doing: What was being done, in words.
        """
        advice = _ADVICE.get(self.code, "")
        if self.kind is Kind.LOST:
            what = f"{device} was lost while {doing} ({self.name})"
            then = "start a new process to use it again"
            return DeviceLostError(
                f"{what}; {advice}, then {then}" if advice else f"{what}; {then}"
            )
        if self.kind is Kind.MEMORY:
            return OutOfMemoryError(
                f"{device}: out of memory while {doing} ({self.name}); drop tensors that are no "
                "longer needed or work on smaller pieces"
            )
        message = f"{device} failed while {doing} ({self.name})"
        if self.kind is Kind.IMAGE:
            return CompileError(message)
        return LaunchError(f"{message}; {advice}" if advice else message)


class Results:
    """Finds the code behind an exception of pycuda.

    Args:
        words: What the driver says for a code (cuGetErrorString), or "".
    """

    def __init__(self, words: Callable[[int], str]) -> None:
        self._words = words
        self._codes = {text: code for code in CODES if (text := words(code))}

    def code(self, code: int) -> Result:
        """What a CUresult says."""
        return Result(code, self._words(code))

    def of(self, error: BaseException) -> Result:
        """What a pycuda exception says: ``"cuLaunchKernel failed: <words>[ - <more>]"``."""
        text = str(error).split(" failed: ", 1)[-1]
        code = self._codes.get(text)
        if code is None:
            text = text.split(" - ", 1)[0]
            code = self._codes.get(text, 0)
        return Result(code, text)
