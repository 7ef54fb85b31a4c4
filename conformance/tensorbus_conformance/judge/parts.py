"""Parts: what is judged beside ops, with the cells and reports of an op.

A part is a primitive of the IR (``primitive.fma``), a duty of a driver (``driver.memory``) or a
surface that users touch (``surface.getitem``).  Its items run before those of ops that build on it:
a device whose fma is wrong hears of it in one line and not in a thousand.

A part registers itself when its module is imported; `load` imports all of them.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tensorbus_backends.dtypes import DType

if TYPE_CHECKING:
    from .items import Outcome
    from .session import Session

__all__ = ["PARTS", "Part", "load", "part"]

_MODULES: tuple[str, ...] = (
    "driver", "primitives", "scale.maps", "scale.generated", "scale.copies", "scale.reductions",
    "scale.fused", "scale.products", "scale.searches", "scale.position", "surfaces",
)  # fmt: skip
"""Modules of this package that register parts, in the order in which their items run."""


def _always(capabilities: Any) -> str:
    return ""


@dataclass(frozen=True)
class Part:
    """Something judged that is no op.

    Attributes:
        name: Family and name, ``"driver.memory"``; unique among ops and parts.
        properties: What is judged of it, by property name, in the order in which it runs.  They are
            called as an op's are: ``check(session) -> Outcome``.
        dtypes: Those that it is judged with, each an item of its own.
        smoke: Those at level smoke; none for a part that takes too long for it.
        lacking: From a device's capabilities to what it declares not to have; "" if nothing is
            missing.  A part whose need is declared missing is "unsupported", and counted.
        plugins: The plugins on whose devices it is judged; none for every device.
        always: Whether it is judged even where the device declares none of its dtypes: it is about
            what is declared.
    """

    name: str
    properties: Mapping[str, Callable[[Session], Outcome]]
    dtypes: tuple[DType, ...]
    smoke: tuple[DType, ...]
    lacking: Callable[[Any], str] = field(default=_always)
    plugins: tuple[str, ...] = ()
    always: bool = False

    @property
    def family(self) -> str:
        """What stands before the dot."""
        return self.name.split(".")[0]

    def concerns(self, device: str) -> bool:
        """Whether it is judged on a device, by its name."""
        return not self.plugins or device.partition(":")[0] in self.plugins


PARTS: dict[str, Part] = {}
"""Every part by name, in the order in which they run; call `load` first."""


def part(made: Part) -> Part:
    """Register a part; ValueError if the name is taken."""
    if made.name in PARTS:
        raise ValueError(f"there are two parts called {made.name}")
    PARTS[made.name] = made
    return made


@functools.cache
def load() -> Mapping[str, Part]:
    """Import every module that registers parts; they are all in `PARTS` then."""
    for name in _MODULES:
        importlib.import_module(f".{name}", __package__)
    return PARTS
