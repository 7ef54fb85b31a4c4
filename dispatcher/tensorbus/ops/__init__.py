"""All ops, one module for each family; the public names are gathered in `tensorbus`."""

from .._op import OPS as OPS
from .arrangement import *  # noqa: F403
from .constants import *  # noqa: F403
from .conversion import *  # noqa: F403
from .creation import *  # noqa: F403
from .cumulative import *  # noqa: F403
from .data_types import *  # noqa: F403
from .elementwise_arithmetic import *  # noqa: F403
from .elementwise_comparison import *  # noqa: F403
from .elementwise_rounding import *  # noqa: F403
from .elementwise_transcendental import *  # noqa: F403
from .indexing import *  # noqa: F403
from .inplace import *  # noqa: F403
from .manipulation import *  # noqa: F403
from .matrix import *  # noqa: F403
from .reduction import *  # noqa: F403
from .selection import *  # noqa: F403
from .sorting import *  # noqa: F403
from .statistics import *  # noqa: F403
