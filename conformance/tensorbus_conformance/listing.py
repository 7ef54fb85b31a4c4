"""``tensorbus ops``: every op, and how each available device serves it."""

from __future__ import annotations

import sys
from typing import Any

import tensorbus as tb

from .survey import Survey, survey

__all__ = ["ops_table"]


def ops_table() -> list[dict[str, Any]]:
    """One record for each op: name, signature, differentiable, service by device.

    A device that cannot be opened is left out, with a line that says why.
    """
    found = survey([d for d in tb.devices() if d.available])
    opened = [one for one in found if one.line.available]
    for one in found:
        if not one.line.available:
            print(f"tensorbus: {one.info.name}: {one.line.cause}", file=sys.stderr)
    return [
        {
            "name": name,
            "signature": f.signature,
            "differentiable": f.differentiable,
            "family": f.family,
            "devices": {one.info.name: _service(f, one) for one in opened},
        }
        for name, f in sorted(tb.FUNCTIONS.items())
    ]


def _service(function: tb.Function, device: Survey) -> str:
    """``portable`` or ``decomposed``, with ``native+`` where a native kernel takes some calls."""
    kind = "decomposed" if function.decomposed else "portable"
    own = {function.qualified, function.op}
    return f"native+{kind}" if own & set(device.natives) else kind
