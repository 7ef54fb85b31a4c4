"""The skeletons: loops written once for every device, whose slots the scalar IR fills.

Every skeleton writes each output element exactly once, from one place, in an order that does not
depend on the number of threads, the group size or the device: see docs/order.md.
"""

from .base import DIMS, Kernel, Operand, Strided, pack
from .contraction import Contraction
from .contraction_layout import Limit, Walk
from .map import Map
from .reduce import CHUNK, LANES, MONOIDS, Monoid, Reduce
from .rows import Rows, Stage
from .scan import Scan

__all__ = [
    "CHUNK",
    "Contraction",
    "DIMS",
    "LANES",
    "Limit",
    "MONOIDS",
    "Kernel",
    "Map",
    "Monoid",
    "Operand",
    "Reduce",
    "Rows",
    "Scan",
    "Stage",
    "Strided",
    "Walk",
    "pack",
]
