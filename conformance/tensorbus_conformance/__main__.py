"""``python -m tensorbus_conformance`` is the command ``tensorbus``."""

import os
import sys

# "python -m" puts the current directory first: a json.py or numpy.py there is none of ours.
_ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if not sys.flags.safe_path and sys.path and sys.path[0] == os.getcwd() != _ours:
    del sys.path[0]

from .cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
