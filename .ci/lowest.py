"""Print the lower bounds of pyproject.toml as versions: ``numpy==2.3``.

Argument: the extras whose bounds are wanted as well, with commas.  What has no bound is left out.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def main() -> None:
    """One requirement a line."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in sys.argv[1].split(","):
        wanted += project["optional-dependencies"][extra]
    for one in dict.fromkeys(wanted):
        if ">=" in one:
            print(re.sub(r">=([\w.]+)", r"==\1", one))


main()
