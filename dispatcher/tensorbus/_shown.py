"""How values are shown in messages."""

from __future__ import annotations

import reprlib
from typing import Any

__all__ = ["shown"]


class _Words(reprlib.Repr):
    def repr_slice(self, value: slice, level: int) -> str:
        parts = (value.start, value.stop, value.step)
        return f"slice({', '.join(self.repr1(p, level - 1) for p in parts)})"


_WORDS = _Words()
_WORDS.maxlevel, _WORDS.maxlist, _WORDS.maxtuple, _WORDS.maxlong = 3, 4, 4, 40


def shown(value: Any) -> str:
    """A value as messages show it: short, whatever it is made of and however deep it is."""
    try:
        text = _WORDS.repr(value)
    except Exception:  # ints of thousands of digits, what cannot show itself
        text = f"{type(value).__name__} of {value.bit_length()} bits" if type(value) is int else ""
    text = " ".join(text.split()) or f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."
