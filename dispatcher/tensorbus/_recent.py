"""Caches: what was used lately is kept, in two generations."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["Recent"]

K = TypeVar("K")
V = TypeVar("V")


class Recent(dict[K, V]):
    """A table that keeps between `limit` and twice as many of the entries used last.

    It is the young generation itself, so that the way of a call looks into an ordinary dict.  What
    is found there costs nothing more; `find` looks among the old ones too and makes young again
    what it finds.  A full young generation becomes the old one, whose entries then go: all that was
    not asked for since.  Threads that race lose an entry at worst, which is made again.

    Args:
        limit: Entries of a generation.
    """

    __slots__ = ("_limit", "_old")

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._old: dict[K, V] = {}

    def find(self, key: K) -> V | None:
        """The entry, or None."""
        found = self.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.keep(key, found)
        return found

    def keep(self, key: K, value: V) -> V:
        """Add an entry and give it back."""
        if len(self) >= self._limit:
            self._old = dict(self)
            super().clear()
        self[key] = value
        return value

    def clear(self) -> None:
        """Drop everything."""
        super().clear()
        self._old = {}
