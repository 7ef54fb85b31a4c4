"""The conformance suite as tests; `plugin` makes one for each item."""

from __future__ import annotations

from typing import Any

import pytest


def test_item(conformance_item: Any, conformance_cells: list[dict[str, Any]]) -> None:
    """Every cell of the item passes, or is unsupported by declaration."""
    bad = [c for c in conformance_cells if c["state"] not in ("pass", "unsupported")]
    if bad:
        lines = [
            f"{conformance_item.name}/{c['property']}: {c['state']} {c['message']}" for c in bad
        ]
        pytest.fail("\n".join(lines), pytrace=False)
    if all(c["state"] == "unsupported" for c in conformance_cells):
        pytest.skip("unsupported by declaration")
