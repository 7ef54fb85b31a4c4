"""The driver part: the contract of `tensorbus_backends.contract` itself, method by method.

Everything here runs on the plugin's own device: no fences, its own allocator, its own queue.  A
duty is a part; its properties are judged before any primitive and any op.
"""

from __future__ import annotations

from . import (  # noqa: F401  (each registers its parts)
    arithmetic,
    calls,
    capabilities,
    cold,
    compiler,
    copies,
    discovery,
    elements,
    environment,
    errors,
    grid,
    keeping,
    kernels,
    lanes,
    language,
    launches,
    memory,
    opening,
    platforms,
    probing,
    processes,
    processor,
    products,
    queue,
    scarcity,
    sharing,
    skeletons,
    team,
    toolkit,
)  # fmt: skip
