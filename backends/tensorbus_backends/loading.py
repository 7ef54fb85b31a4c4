"""What the system's loader says when a library cannot be loaded, for one line of a message."""

from __future__ import annotations

import re

__all__ = ["loader_words"]


def loader_words(error: Exception, most: int = 200) -> str:
    """The loader's own words in one line of at most `most` characters.

    cffi puts ``cannot load library 'x': `` in front and a sentence on ctypes.util.find_library
    behind; neither helps.
    """
    text = re.split(r"\.\s+Additionally, ", str(error))[0]
    text = re.sub(r"^cannot load library '[^']*': ", "", " ".join(text.split()))
    return text if len(text) <= most else text[: most - 3] + "..."
