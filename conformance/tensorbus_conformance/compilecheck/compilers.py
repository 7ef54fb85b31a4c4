"""The compilers that plugins offer, found by the plugins' entry points."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from tensorbus_backends.discovery import REGISTRY
from tensorbus_backends.offline import AbsentCompiler, OffersCompilers, OfflineCompiler
from tensorbus_backends.probing import Announcement

__all__ = ["Offer", "offers", "opened"]


@dataclass(frozen=True)
class Offer:
    """A compiler and the plugin that offers it."""

    plugin: str
    compiler: OfflineCompiler | AbsentCompiler


def offers() -> list[Offer]:
    """Every compiler of every installed plugin; a plugin that fails to say is an absent one."""
    return [Offer(a.name, compiler) for a in REGISTRY.plugins() for compiler in _of_plugin(a)]


@functools.cache
def opened(plugin: str, name: str) -> OfflineCompiler:
    """A compiler by name; LookupError if it is not there (any more)."""
    for offer in offers():
        compiler = offer.compiler
        if (offer.plugin, compiler.name) == (plugin, name):
            if isinstance(compiler, AbsentCompiler):
                raise LookupError(compiler.cause)
            return compiler
    raise LookupError(f"plugin {plugin!r} offers no compiler {name!r}")


@functools.cache
def _of_plugin(one: Announcement) -> tuple[OfflineCompiler | AbsentCompiler, ...]:
    try:
        plugin = one.load()
        return tuple(plugin.offline()) if isinstance(plugin, OffersCompilers) else ()
    except Exception as error:
        cause = f"the plugin fails to offer it ({type(error).__name__}: {error})"
        return (AbsentCompiler(one.name, cause, f"repair or uninstall {one.who}"),)
