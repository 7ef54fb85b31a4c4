"""Judging a family of parts as the command does: in processes where no test has planted a fault."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["cells"]


@cache
def cells(family: str, device: str) -> list[dict[str, Any]]:
    """All cells of a family at level smoke."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        call = [sys.executable, "-P", "-m", "tensorbus_conformance", "conform", "--device", device]
        call += ["--ops", family, "--level", "smoke", "--workers", "1", "--json", str(file)]
        done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=folder)
        assert file.is_file(), done.stdout + done.stderr
        found: list[dict[str, Any]] = json.loads(file.read_text())["cells"]
        return found
