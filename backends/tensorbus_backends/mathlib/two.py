"""The two-argument functions of the math library, for float32 and float64."""

from .division import floor_divide, fmod, remainder
from .plane import atan2, hypot, logaddexp
from .power import pow

__all__ = ["atan2", "floor_divide", "fmod", "hypot", "logaddexp", "pow", "remainder"]
