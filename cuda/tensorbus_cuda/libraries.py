"""Where NVIDIA's libraries may lie: wheels, toolkits, what the system's loader knows."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["candidates", "major"]

# What a loader is asked for where no file is found.
_MAJORS = (13, 12, 11)
_SYSTEM = Path("/usr/local")


def candidates(stem: str) -> list[str]:
    """Libraries to try, best first: wheels, then toolkits, then names for the system's loader.

    Within each kind newer ones come first, and of one version the first that is named.

    Args:
        stem: ``"nvrtc"`` or ``"cublas"``.
    """
    found: dict[str, None] = {}
    for folders in (_wheels(), _toolkits()):
        files = {f.resolve(): f for folder in folders for f in _files(folder, stem)}
        newest = sorted(files.values(), key=lambda f: -(major(f.name) or 0))
        found.update(dict.fromkeys(map(str, newest)))
    found.update(dict.fromkeys(f"lib{stem}.so.{n}" for n in _MAJORS))
    return list(found)


def major(name: str) -> int | None:
    """The major version that a library's name carries: 13 for ``".../libnvrtc.so.13"``."""
    match = re.search(r"\.so\.(\d+)", name)
    return int(match[1]) if match else None


def _files(folder: Path, stem: str) -> Iterator[Path]:
    pattern = re.compile(rf"lib{re.escape(stem)}\.so\.\d+")
    try:
        yield from sorted(f for f in folder.iterdir() if pattern.match(f.name))
    except OSError:
        return


def _wheels() -> list[Path]:
    """``nvidia/<anything>/lib`` of every folder that packages are installed in."""
    try:
        spec = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        return []
    roots: Sequence[str] = (spec.submodule_search_locations or ()) if spec is not None else ()
    return [lib for root in roots for lib in sorted(Path(root).glob("*/lib"))]


def _toolkits() -> list[Path]:
    """Library folders of CUDA toolkits, those that were named first."""
    roots = [Path(os.environ[k]) for k in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(k)]
    if nvcc := shutil.which("nvcc"):
        roots.append(Path(nvcc).resolve().parent.parent)
    roots += sorted(_SYSTEM.glob("cuda*"), reverse=True)
    return [
        folder
        for root in dict.fromkeys(roots)
        for folder in (root / "lib64", root / "lib", *sorted(root.glob("targets/*/lib")))
        if folder.is_dir()
    ]
