"""The elementwise functions of the array API, and a few beside them, gathered by family."""

from __future__ import annotations

from . import elementwise_arithmetic as _arithmetic
from . import elementwise_comparison as _comparison
from . import elementwise_rounding as _rounding
from . import elementwise_transcendental as _transcendental
from ._elementwise import runner, unbroadcast
from .elementwise_arithmetic import *  # noqa: F403
from .elementwise_comparison import *  # noqa: F403
from .elementwise_rounding import *  # noqa: F403
from .elementwise_transcendental import *  # noqa: F403

__all__ = [
    *_arithmetic.__all__,
    *_comparison.__all__,
    *_rounding.__all__,
    *_transcendental.__all__,
]
_runner, _unbroadcast = runner, unbroadcast
