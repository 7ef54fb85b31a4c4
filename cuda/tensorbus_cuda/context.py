"""The primary context of one GPU: the one that PyTorch, CuPy and the CUDA runtime share.

It is made current only for the time of a call if another one is; a thread that has none keeps it,
as the CUDA runtime does too.  pycuda keeps a stack of its own of what was pushed, and ends the
process if a thread ends with something left on it: so nothing is left there.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tensorbus_backends.contract import DeviceLostError

from .libcuda import LibCuda

__all__ = ["PrimaryContext"]


class _Slots(threading.local):
    """Where a thread is told what is current; others must not write there meanwhile."""

    def __init__(self, cuda: LibCuda) -> None:
        self.current = cuda.ffi.new("uintptr_t *")


class PrimaryContext:
    """Retained from its making until `close`.

    Attributes:
        handle: CUcontext.
        context: pycuda's.
        enter: Makes it current; whether `leave` has to be called.
        dead: No cleaning up any more: the device is lost, or this is a forked child.
        closed: It was released.

    Args:
        cuda: The driver library.
        ordinal: Number of the GPU.
        name: Name of the device, for messages.
    """

    def __init__(self, cuda: LibCuda, ordinal: int, name: str) -> None:
        import pycuda.driver as cu

        self._lib, self._name = cuda.lib, name
        self._slots = _Slots(cuda)
        self._owner = os.getpid()
        self.dead = self.closed = False
        made: list[Any] = []

        def retain() -> None:
            try:
                made.append(cu.Device(ordinal).retain_primary_context())
            except cu.Error as error:
                made.append(error)

        # In a thread of its own, for `abandon`.
        thread = threading.Thread(target=retain, name="tensorbus-cuda-open")
        thread.start()
        thread.join()
        (found,) = made
        if isinstance(found, BaseException):
            raise found
        self.context: Any = found
        self.handle = int(found.handle)
        self.enter: Callable[[], bool] = self._entrance()

    def _entrance(self) -> Callable[[], bool]:
        """The function `enter`: a closure, since it stands in the way of every launch."""
        slots, handle, push = self._slots, self.handle, self.context.push
        get, change = self._lib.cuCtxGetCurrent, self._lib.cuCtxSetCurrent

        def enter() -> bool:
            slot = slots.current
            if get(slot) == 0:
                current = slot[0]
                if current == handle or (current == 0 and change(handle) == 0):
                    return False
            push()
            return True

        return enter

    def leave(self) -> None:
        """Make current what was so before `enter`."""
        self.context.pop()

    @contextlib.contextmanager
    def pushed(self) -> Iterator[None]:
        """On pycuda's own stack, where the constructors and destructors of its objects look."""
        if self.closed:
            self._refuse()
        self.context.push()
        try:
            yield
        finally:
            self.context.pop()

    def alive(self) -> bool:
        """Whether calls to the driver can still work."""
        return not self.dead and os.getpid() == self._owner

    def close(self) -> None:
        """Release it; pycuda's objects that still belong to it are harmless from then on."""
        if not self.alive():
            self.abandon()
            return
        self.context.push()
        self.dead = self.closed = True
        self.enter = self._refuse
        # The one that is active is released by the driver, and leaves pycuda's stack.
        self.context.detach()
        slot = self._slots.current
        while self._lib.cuCtxGetCurrent(slot) == 0 and slot[0] == self.handle:
            self._lib.cuCtxSetCurrent(0)

    def _refuse(self) -> bool:
        raise DeviceLostError(
            f"{self._name} was closed at the end of the process; use it before, or in an atexit "
            "function that is registered after it was opened"
        )

    def abandon(self) -> None:
        """Forget it without a call to the driver, which would fail and be printed."""
        self.dead = True
        with contextlib.suppress(Exception):
            # In a thread that did not retain it, pycuda only notes that it is gone.
            self.context.detach()
