"""Derivatives: values in both modes, at special points, second order, and every way to ask."""

from __future__ import annotations

from .kinks import kinks
from .modes import forward, reverse
from .second import second
from .ways import autograd

__all__ = ["autograd", "forward", "kinks", "reverse", "second"]
