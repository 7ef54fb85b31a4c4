"""The process in which a plugin lists its devices: ``python -m tensorbus_backends.probe_child``.

Arguments: name, entry-point value and package of the plugin, then the parent's timeout in seconds.
The lines go to standard output as JSON; whatever the plugin or its driver prints goes to standard
error.
"""

from __future__ import annotations

import faulthandler
import os
import sys

from .probing import Announcement, describe, to_json


def main() -> None:
    """Probe and print, then leave without running exit handlers, which drivers crash in."""
    name, value, package, timeout = sys.argv[1:5]
    result = os.dup(1)
    os.dup2(2, 1)
    # Says where a plugin hangs, well before the parent ends this process.
    faulthandler.dump_traceback_later(0.5 * float(timeout), exit=False)
    text = to_json(describe(Announcement(name, value, package)))
    with os.fdopen(result, "w") as out:
        out.write(text)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
