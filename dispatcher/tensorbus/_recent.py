"""Caches: what was used lately is kept, in two generations; all of them can be emptied at once."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Recent", "forget", "kept"]

K = TypeVar("K")
V = TypeVar("V")


_forgetters: list[Callable[[], Callable[[], None] | None]] = []


def forget() -> None:
    """Empty every cache: after something has changed that none of their keys tells."""
    for reference in list(_forgetters):
        clear = reference()
        if clear is None:
            _forgetters.remove(reference)
        else:
            clear()


F = TypeVar("F", bound=Callable[..., Any])


def kept(limit: int) -> Callable[[F], F]:
    """Keep what a function of hashable arguments gave for the `limit` last ones."""

    def wrap(function: F) -> F:
        made = functools.lru_cache(limit)(function)
        _forgetters.append(lambda: made.cache_clear)
        return made  # type: ignore[return-value]

    return wrap


class Recent(dict[K, V]):
    """A table that keeps between `limit` and twice as many of the entries used last.

    It is the young generation itself, so that the way of a call looks into an ordinary dict.  What
    is found there costs nothing more; `find` looks among the old ones too and makes young again
    what it finds.  A full young generation becomes the old one, whose entries then go: all that was
    not asked for since.  Threads that race lose an entry at worst, which is made again.

    Args:
        limit: Entries of a generation.
    """

    __slots__ = ("__weakref__", "_limit", "_old")

    def __init__(self, limit: int) -> None:
        super().__init__()
        _forgetters.append(weakref.WeakMethod(self.clear))
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
