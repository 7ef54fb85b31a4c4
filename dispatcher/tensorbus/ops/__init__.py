"""All ops, one module for each family; the public names are gathered in `tensorbus`."""

from .creation import *  # noqa: F403
from .elementwise import *  # noqa: F403
from .indexing import *  # noqa: F403
from .inplace import *  # noqa: F403
from .manipulation import *  # noqa: F403
from .matrix import *  # noqa: F403
from .reduction import *  # noqa: F403
from .selection import *  # noqa: F403

from .. import _tensor  # isort: skip
import sys  # isort: skip

_tensor.ops = sys.modules[__name__]
