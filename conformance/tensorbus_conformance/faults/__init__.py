"""Planted faults: what a judge must be able to see, and the means to plant it.

A fault is planted at one of two points: the device (kernel source, launch, buffers; `device`) or
the op registry (bodies, gradient rules, promotion, routing; `registry`).  One process carries one
fault at most.  A fault that never touched anything reports so, and counts as not caught.
"""

from __future__ import annotations

from .base import FAULTS, Fault, Planted, plant

from . import device, harness, registry, threads  # isort: skip  (they fill FAULTS)

__all__ = ["FAULTS", "Fault", "Planted", "device", "harness", "plant", "registry", "threads"]
