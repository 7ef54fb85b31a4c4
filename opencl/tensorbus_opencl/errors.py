"""From OpenCL status codes to the contract's exceptions."""

from __future__ import annotations

from typing import Any

from tensorbus_backends.contract import (
    BackendError,
    DeviceLostError,
    LaunchError,
    OutOfMemoryError,
)

__all__ = ["is_memory", "status_text", "translate"]

# CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_RESOURCES, CL_OUT_OF_HOST_MEMORY,
# CL_INVALID_BUFFER_SIZE
_MEMORY = {-4, -5, -6, -61}
# CL_DEVICE_NOT_AVAILABLE, CL_INVALID_DEVICE, CL_INVALID_CONTEXT, CL_INVALID_COMMAND_QUEUE
_LOST = {-2, -33, -34, -36}


def is_memory(error: Any) -> bool:
    """Whether a pyopencl error says that memory ran out."""
    return getattr(error, "code", 0) in _MEMORY


def translate(error: Any, device: str, doing: str, *, memory: bool = True) -> BackendError:
    """The exception to raise for a pyopencl error.

    Args:
        error: The pyopencl error.
        device: Name of the device.
        doing: What was being done, in words.
        memory: Whether a lack of resources means memory; while waiting for kernels it means that
            one of them failed.
    """
    status = status_text(error)
    if getattr(error, "code", 0) in _LOST:
        return DeviceLostError(
            f"{device} was lost while {doing} ({status}); start a new process to use it again"
        )
    if memory and is_memory(error):
        return OutOfMemoryError(
            f"{device}: out of memory while {doing} ({status}); drop tensors that are no longer "
            "needed or work on smaller pieces"
        )
    return LaunchError(f"{device} failed while {doing} ({status}): {error}")


def status_text(error: Any) -> str:
    """Name of the OpenCL status that a pyopencl error carries."""
    import pyopencl as cl

    names: Any = cl.status_code
    try:
        return str(names.to_string(error.code))
    except (AttributeError, ValueError):
        return str(error)
