"""The process in which a plugin lists its devices: ``python -m tensorbus_backends.probe_child``.

Arguments: name, entry-point value and package of the plugin, and after how many seconds to end, for
nobody else does if the process that asks is killed.  The lines go to standard output as
JSON; whatever the plugin or its driver prints goes to standard error.
"""

from __future__ import annotations

import faulthandler
import os
import sys

from .probing import Announcement, describe, to_json


def main() -> None:
    """Probe and print, then leave without running exit handlers, which drivers crash in."""
    name, value, package, seconds = sys.argv[1:5]
    # A thread of C: it also ends a probe that hangs inside of a driver.
    faulthandler.dump_traceback_later(float(seconds), exit=True)
    result = os.dup(1)
    os.dup2(2, 1)
    text = to_json(describe(Announcement(name, value, package)))
    with os.fdopen(result, "w") as out:
        out.write(text)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
