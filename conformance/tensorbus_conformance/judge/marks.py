"""Notes of items whose kernels are all in the cache of compiled kernels.

Collecting the kernels of an item (see `judge.warm`) takes as long as judging it, and is of no use
where all of them were compiled before.  A note lies in the cache, so it goes where the kernels go.
It holds a digest of all that decides which kernels an item needs and what compiles them: the
sources of library, judge and plugin, the device as it describes itself, level, seed, properties.

Nothing but time depends on a note: a kernel that is not in the cache is compiled by the call that
needs it.  So a note that lies, is torn or cannot be written does no harm, and nobody waits for
another's.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tensorbus_backends.cache import cache_key, default_directory

if TYPE_CHECKING:
    from tensorbus_backends.contract import Device

    from .session import Session

__all__ = ["Note", "note_of"]

_PACKAGES = ("tensorbus", "tensorbus_backends", "tensorbus_conformance")


class Note:
    """Whether one item's kernels are all compiled.

    Args:
        path: Where the note lies; one for each item, device and level.
        digest: What it must hold to be of use.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path, self.digest = path, digest

    def holds(self) -> bool:
        """Whether the kernels are known to be in the cache."""
        try:
            return self.path.read_bytes() == self.digest.encode()
        except OSError:
            return False

    def write(self) -> None:
        """Note that they are; nothing happens where the cache cannot be written."""
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(self.digest)


def note_of(session: Session, names: Sequence[str]) -> Note | None:
    """The note on an item's kernels for these properties; None where sources cannot be read."""
    real, item = session.guard.real, session.item
    own = {c.__module__.partition(".")[0] for c in type(real).__mro__} - {"builtins", "abc"}
    sources = [_sources(package) for package in sorted({*_PACKAGES, *own})]
    if "" in sources:
        return None
    digest = cache_key(
        *sources,
        f"{sys.version_info} {np.__version__}",
        f"{type(real)} {_told(real)} {real.dialect}",
        f"{session.level} {session.seed} {' '.join(names)}",
    )
    # The device's own name may be that of another one tomorrow: it is the digest that counts.
    place = cache_key(item.name, session.level)
    return Note(default_directory() / "warm" / place[:2] / place[2:40], digest)


def _told(real: Device) -> str:
    """What a device says of itself, in one order, without the size of its memory."""
    info, can = real.info, real.capabilities
    details = sorted((k, v) for k, v in info.details.items() if k != "memory")
    sets = {k: sorted(v) if isinstance(v, frozenset) else v for k, v in vars(can).items()}
    return f"{info.description} {details} {sorted(sets.items())}"


@cache
def _sources(package: str) -> str:
    """Digest of a package's Python files when this process first asks; "" if there are none."""
    found, count = hashlib.sha256(), 0
    with contextlib.suppress(OSError):
        for root in map(Path, getattr(sys.modules.get(package), "__path__", [])):
            for path in sorted(root.rglob("*.py")):
                data = path.read_bytes()
                found.update(f"{path.relative_to(root)} {len(data)}\n".encode())
                found.update(data)
                count += 1
        return found.hexdigest() if count else ""
    return ""
