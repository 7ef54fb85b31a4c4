"""Parsing Python by one thread at a time.

CPython 3.11 counts the depth of a tree in a place that all threads share, and raises SystemError if
two of them parse at once (gh-106905).
"""

from __future__ import annotations

import ast
import threading

__all__ = ["parse"]

_lock = threading.Lock()


def parse(text: str) -> ast.Module:
    """The tree of a module's text."""
    with _lock:
        return ast.parse(text)
