"""The conformance suite as tests; `plugin` makes one for each item."""

from __future__ import annotations

from typing import Any

import pytest

from .expectations import Expectations


def test_item(
    conformance_item: Any,
    conformance_cells: list[dict[str, Any]],
    conformance_expected: Expectations | None,
) -> None:
    """Every cell of the item passes, or is unsupported by declaration, or fails as expected."""
    bad, known = [], []
    for c in conformance_cells:
        cell, state = f"{conformance_item.name}/{c['property']}", c["state"]
        said = conformance_expected and conformance_expected.contradiction(cell, state)
        entry = conformance_expected and conformance_expected.excuse(cell, state)
        if said:
            bad.append(f"{said} {c['message']}".rstrip())
        elif entry:
            known.append(f"{cell}: {state}, known: {entry.reason} ({entry.link})")
        elif state not in ("pass", "unsupported"):
            bad.append(f"{cell}: {state} {c['message']}")
    if bad:
        pytest.fail("\n".join(bad), pytrace=False)
    if known:
        pytest.xfail("\n".join(known))
    if all(c["state"] == "unsupported" for c in conformance_cells):
        pytest.skip("unsupported by declaration")
