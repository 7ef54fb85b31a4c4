"""The installed NVRTC, or the reason to skip."""

from __future__ import annotations

import pytest
from tensorbus_backends.contract import DeviceUnavailableError
from tensorbus_cuda.compiler import Nvrtc


def installed() -> Nvrtc:
    """NVRTC; skips the test where there is none."""
    try:
        return Nvrtc.open()
    except DeviceUnavailableError as error:
        pytest.skip(f"{error.cause}; {error.fix}")
