"""The tests of the compile check, in a process of their own; see compile_check_cases.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_compile_check() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    cases = Path(__file__).with_name("compile_check_cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    command += ["-p", "no:xdist", "-o", "addopts=--import-mode=importlib", str(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    # What was skipped, and why, is worth reading in a log of all tests.
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
