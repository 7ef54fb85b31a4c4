"""``python -m tensorbus_conformance`` is the command ``tensorbus``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
