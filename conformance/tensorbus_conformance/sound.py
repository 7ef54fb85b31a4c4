"""When the run of a report has passed: by its cells, and by what no cell tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["settle", "sound"]


def sound(data: Mapping[str, Any]) -> bool:
    """Whether nothing but the cells of a report can fail it.

    A run that was interrupted, a device that is absent or contradicts itself and a file of
    expectations that is not true fail it, whatever the cells say.
    """
    return bool(
        data["complete"]
        and not data["asked"].get("unavailable")
        and not data.get("problems")
        and not data.get("expectations", {}).get("problems")
    )


def settle(data: dict[str, Any]) -> None:
    """Enter the verdict: sound, something passed, and the rest is declared or known."""
    states = {c["state"] for c in data["cells"]}
    data["passed"] = sound(data) and "pass" in states and states <= {"pass", "unsupported", "known"}
