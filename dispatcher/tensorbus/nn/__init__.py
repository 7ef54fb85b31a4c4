"""Neural-network functions, with PyTorch's functional names and ``axis`` for its ``dim``."""

from __future__ import annotations

from .activation import *  # noqa: F403
from .layers import *  # noqa: F403
from .loss import *  # noqa: F403
from .normalization import *  # noqa: F403
