"""From HIP status codes to the contract's exceptions."""

from __future__ import annotations

from tensorbus_backends.contract import (
    BackendError,
    DeviceLostError,
    LaunchError,
    OutOfMemoryError,
)

__all__ = ["NOT_READY", "NO_DEVICE", "is_memory", "translate"]

# These values are the same in HIP 5, 6 and 7 (hip_runtime_api.h).
NO_DEVICE = frozenset({100, 101})
"""hipErrorNoDevice; hipErrorInvalidDevice, which hipInit of HIP 5 gives instead."""

NOT_READY = 600

# hipErrorOutOfMemory, hipErrorRuntimeMemory
_MEMORY = frozenset({2, 1052})

# hipErrorIllegalAddress, hipErrorAssert: a kernel did it, and the device refuses all that follows.
_POISONED = frozenset({700, 710})

# hipError: NotInitialized, Deinitialized, PriorLaunchFailure, NoDevice, InvalidDevice,
# InvalidContext, ECCNotCorrectable, IllegalState, ContextIsDestroyed
_LOST = frozenset({3, 4, 53, 100, 101, 201, 214, 401, 709})


def is_memory(status: int) -> bool:
    """Whether a status says that memory ran out."""
    return status in _MEMORY


def translate(status: int, words: str, device: str, doing: str) -> BackendError:
    """The exception to raise for a status that is not success.

    Args:
        status: hipError_t.
        words: Its name and HIP's own explanation.
        device: Name of the device.
        doing: What was being done, in words.
    """
    if status in _MEMORY:
        return OutOfMemoryError(
            f"{device}: out of memory while {doing} ({words}); drop tensors that are no longer "
            "needed or work on smaller pieces"
        )
    if status in _POISONED:
        return DeviceLostError(
            f"{device} was lost while {doing}: a kernel touched memory that is not its own "
            f"({words}); start a new process to use it again, with AMD_SERIALIZE_KERNEL=3 to find "
            "the kernel"
        )
    if status in _LOST:
        return DeviceLostError(
            f"{device} was lost while {doing} ({words}); start a new process to use it again"
        )
    return LaunchError(f"{device} failed while {doing} ({words})")
