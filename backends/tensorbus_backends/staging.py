"""Small copies to a device without a wait: from memory of its own, which the driver reads later.

The caller's memory is copied into a block that only this class changes; the driver copies from
there when its queue gets to it.  Blocks take turns: one is written again when the device has
reached the mark that was set when it was full.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .contract import Event

__all__ = ["LARGEST", "Staging"]

LARGEST = 1 << 14
"""Bytes of the largest copy that is worth a second one on the host."""

_BLOCK = 1 << 16
_BLOCKS = 4
_ALIGNED = 64


class Staging:
    """The blocks of one device.

    Args:
        obtain: Host memory of so many bytes that a driver can copy from late; None if it has none.
        send: Begins a copy of such memory to a place, in the queue; gives what has to live until
            that is done.
        mark: Marks the present end of the queue.
    """

    def __init__(
        self,
        obtain: Callable[[int], memoryview | None],
        send: Callable[[Any, memoryview], object],
        mark: Callable[[], Event],
    ) -> None:
        self._obtain, self._send, self._mark = obtain, send, mark
        self._lock = threading.Lock()
        self._blocks: list[memoryview] = []
        self._marks: list[Event | None] = []
        self._kept: list[list[object]] = []
        self._now, self._at = 0, _BLOCK

    def put(self, place: Any, source: memoryview) -> bool:
        """Copy host bytes in, at most `LARGEST`; False if there is no memory for it.

        Raises:
            BackendError: The driver refuses the copy, or an earlier kernel failed.
        """
        nbytes = source.nbytes
        with self._lock:
            if self._at + nbytes > _BLOCK and not self._turn():
                return False
            part = self._blocks[self._now][self._at : self._at + nbytes]
            part[:] = source.cast("B")
            self._kept[self._now].append(self._send(place, part))
            self._at += -(-nbytes // _ALIGNED) * _ALIGNED
        return True

    def _turn(self) -> bool:
        """Go on to a block that nobody reads any more."""
        made = self._obtain(_BLOCK) if len(self._blocks) < _BLOCKS else None
        if made is None and not self._blocks:
            return False
        if self._blocks:
            self._marks[self._now] = self._mark()
        if made is not None:
            self._now = len(self._blocks)
            self._blocks.append(made)
            self._marks.append(None)
            self._kept.append([])
        else:
            following = (self._now + 1) % len(self._blocks)
            mark = self._marks[following]
            assert mark is not None
            mark.wait()
            self._now = following
            self._kept[following].clear()
        self._at = 0
        return True
