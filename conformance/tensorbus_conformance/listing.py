"""``tensorbus ops``: every op, and how each available device serves it."""

from __future__ import annotations

from typing import Any

import tensorbus as tb

__all__ = ["ops_table"]


def ops_table() -> list[dict[str, Any]]:
    """One record for each op: name, signature, differentiable, service by device."""
    opened = [tb.get_device(d.name) for d in tb.devices() if d.available]
    return [
        {
            "name": name,
            "signature": f.signature,
            "differentiable": f.differentiable,
            "family": f.family,
            "devices": {d.name: _service(f, d) for d in opened},
        }
        for name, f in sorted(tb.FUNCTIONS.items())
    ]


def _service(function: tb.Function, device: tb.Device) -> str:
    """``native+portable``, ``portable`` or ``decomposed``."""
    op = tb.OPS.get(function.op)
    kind = "portable" if isinstance(op, tb.Op) else "decomposed"
    return f"native+{kind}" if function.op in device.backend.natives else kind
