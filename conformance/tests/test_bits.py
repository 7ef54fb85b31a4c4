"""Every device gives the bits that docs/bits.json holds, and the file keeps its own rules."""

from __future__ import annotations

import pytest
import tensorbus as tb
from tensorbus_conformance.bits import book

PATH = book.DOCS / "bits.json"
BOOK = book.load(PATH)
DEVICES = [d.name for d in tb.devices() if d.available]
GROUPS = 24
"""Parts of the ops: so many tests for each device, which pytest-xdist spreads."""


def group(k: int) -> list[str]:
    """Ops of a part."""
    return sorted(BOOK.calls)[k::GROUPS]


@pytest.mark.parametrize("k", range(GROUPS))
@pytest.mark.parametrize("name", DEVICES)
def test_a_device_gives_the_recorded_bits(name: str, k: int) -> None:
    device, problems = tb.get_device(name), []
    for op in group(k):
        count, found = book.check(op, BOOK.calls[op], device)
        assert count > 0, op
        problems += found
    assert problems == []
