"""From the errors of Metal's command buffers to the contract's exceptions."""

from __future__ import annotations

from tensorbus_backends.contract import (
    BackendError,
    DeviceLostError,
    LaunchError,
    OutOfMemoryError,
)

__all__ = ["failure"]

_NAMES = {
    1: "Internal",
    2: "Timeout",
    3: "PageFault",
    4: "AccessRevoked",
    7: "NotPermitted",
    8: "OutOfMemory",
    9: "InvalidResource",
    10: "Memoryless",
    11: "DeviceRemoved",
    12: "StackOverflow",
}
_LOST = {4, 11}
_MEMORY = {8}


def failure(code: int, words: str, device: str) -> BackendError:
    """The exception for a command buffer that failed.

    Args:
        code: An MTLCommandBufferError.
        words: The error's description.
        device: Name of the device.
    """
    status = f"MTLCommandBufferError{_NAMES.get(code, f' {code}')}"
    what = f"{status}: {words}" if words else status
    if code in _LOST:
        return DeviceLostError(
            f"{device} was lost while it ran kernels ({what}); start a new process to use it again"
        )
    if code in _MEMORY:
        return OutOfMemoryError(
            f"{device}: out of memory while kernels ran ({what}); drop tensors that are no longer "
            "needed or work on smaller pieces"
        )
    hint = {
        2: "; the system ends kernels that run for seconds: work on smaller pieces",
        3: "; a kernel touched memory outside of its buffers: report this",
    }.get(code, "")
    return LaunchError(f"{device} failed while it ran kernels ({what}){hint}")
