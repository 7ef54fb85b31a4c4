"""What is judged: items and cells, a denominator fixed by the op list and the declared dtypes.

An item is (op, device, dtype, variant); its cells are its properties.  Which cells exist follows
from the oracle's record and the device's declared capabilities alone, so an op that breaks or is
missing, a derivative that is no longer declared, or a property that nobody could run, is counted
and never skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import tensorbus as tb
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Native
from tensorbus_backends.dtypes import DType

from ..oracle import REFERENCES
from ..oracle.random import RECIPES, Recipe
from ..oracle.rounding import claims
from . import parts
from .asked import asked, names_of
from .cases import is_unary, shape_cases, special_cases, takes
from .signature import takes_scalars

__all__ = [
    "LEVELS", "STATES", "Item", "Outcome", "due_ops", "items", "oracle_name", "properties",
    "random_recipe", "subjects",
]  # fmt: skip

LEVELS = ("smoke", "standard", "exhaustive")

STATES = (
    "pass", "fail", "unsupported", "fallback", "error", "crash", "timeout", "vacuous", "not run",
)  # fmt: skip
"""States of a cell; only "pass" and a declared "unsupported" are not failures of the run."""

_SMOKE_DTYPES = (dt.float32, dt.int32, dt.bool_)


@dataclass(frozen=True)
class Item:
    """One unit of work: all properties of an op on a device for a dtype and a variant."""

    op: str
    device: str
    dtype: str
    variant: str

    @property
    def name(self) -> str:
        """How the item is named on the command line and in reports."""
        return f"{self.op}/{self.device}/{self.dtype}/{self.variant}"

    @staticmethod
    def parse(name: str) -> Item:
        """The item of a name, or of a cell's name; ValueError if it is neither."""
        parts = name.split("/")
        if len(parts) not in (4, 5):
            raise ValueError(f"{name!r} is not OP/DEVICE/DTYPE/VARIANT[/PROPERTY]")
        return Item(*parts[:4])


@dataclass
class Outcome:
    """The verdict on one cell.

    Attributes:
        property: Its name.
        state: One of `STATES`.
        message: Empty for a pass; else one line.
        worst_error: The largest error seen, in `unit`.
        bound: The bound that held there.
        witness: Where the largest error is, and the input there.
        decided: Number of elements or conditions that could have failed.
        library: Whose kernel served, where native.
        served: How the item's calls were served so far, in the words of a trace.
    """

    property: str
    state: str = "pass"
    message: str = ""
    worst_error: float = 0.0
    bound: float = 0.0
    unit: str = ""
    witness: str = ""
    decided: int = 0
    library: str = ""
    served: str = ""

    def record(self) -> dict[str, Any]:
        """As JSON; NaN and infinities become text, which JSON has no numbers for."""
        data = asdict(self)
        for key in ("worst_error", "bound"):
            value = data[key]
            if value != value or value in (float("inf"), float("-inf")):
                data[key] = str(value)
        return data


def subjects() -> list[str]:
    """Everything that is judged by name: parts in the order in which they run, then ops.

    Ops are those of the library and those that the oracle says it must have: one that is missing
    has the cells that it would have, and they fail.
    """
    return [*parts.load(), *sorted({*tb.FUNCTIONS, *due_ops()})]


@cache
def due_ops() -> frozenset[str]:
    """The ops that the library must have, by the oracle's word."""
    drawn = {"nn.dropout" if n == "dropout" else f"random.{n}" for n in RECIPES}
    return frozenset(drawn) | {r.qualified for r in REFERENCES.values() if r.offered}


def oracle_name(op: str) -> str | None:
    """Name of an op in the oracle, or None where the oracle does not know it."""
    if op in parts.load():
        return None
    short = op.rsplit(".", 1)[-1]
    return short if short in REFERENCES else None


def random_recipe(op: str) -> Recipe | None:
    """The oracle's record of a random op, None for others."""
    return RECIPES.get(op.rsplit(".", 1)[-1])


def dtypes_of(op: str, level: str) -> list[DType]:
    """The dtypes that an op is judged with: all it takes, or one of each kind at level smoke."""
    if op in parts.load():
        return list(parts.PARTS[op].smoke if level == "smoke" else parts.PARTS[op].dtypes)
    if recipe := random_recipe(op):
        return [dt.by_name(n) for n in (recipe.smoke if level == "smoke" else recipe.dtypes)]
    name = oracle_name(op)
    if name is None:
        return [dt.float32]
    candidates = _SMOKE_DTYPES if level == "smoke" else dt.ALL
    return [d for d in candidates if takes(REFERENCES[name], d)]


def properties(op: str, dtype: DType, variant: str, device: str, level: str) -> list[str]:
    """The cells of an item, in the order in which they run."""
    if op in parts.load():
        return list(parts.PARTS[op].properties)
    function = tb.FUNCTIONS.get(op)
    name = oracle_name(op)
    if recipe := random_recipe(op):
        found = ["values", "streams", "errors"] + (["layouts"] if recipe.tensor else [])
        if recipe.tensor and dtype.is_float:
            found += ["gradient", "forward", "second"]
        found += ["determinism", "users", "guards", "provenance"]
        return found + (["bits"] if device != "ref" else [])
    if name is None:
        return ["values"]
    found = ["values"]
    if special_cases(name, dtype, level, 0):
        found.append("special")
    if shape_cases(name, dtype, 0):
        found.append("shapes")
    if dtype.is_float and dtype.bits == 16 and is_unary(name) and level != "smoke":
        found.append("exhaustive16")
    if variant == "portable" and device != "ref":
        found.append("bits")
    if variant == "portable" and dtype.is_float and REFERENCES[name].order is not None:
        found.append("order")
    if variant == "portable" and level != "smoke" and (name, dtype.name) in claims():
        found.append("rounding")
    if REFERENCES[name].tensors[1] > 0:
        found += ["layouts", "inputs"]
    found.append("errors")
    # What is due is the oracle's to say; what the library claims beyond it has to be shown too.
    claimed = function is not None and function.differentiable
    due = REFERENCES[name].differentiable or claimed
    if due and dtype.is_float and REFERENCES[name].tensors[1] > 0:
        found += ["gradient", "forward"]
        if dtype in (dt.float32, dt.float64):
            found.append("second")
        if REFERENCES[name].kinks:
            found.append("kinks")
        # By bits, which a library's kernels for other layouts need not share.
        if variant == "portable":
            found.append("autograd")
    found.append("promotion")
    if REFERENCES[name].takes_numbers or (function is not None and takes_scalars(op)):
        found.append("scalars")
    found.append("users")
    if REFERENCES[name].tensors[1] > 0:
        found.append("aliasing")
    found += ["guards", "determinism", "provenance"]
    return found


def _accepts(native: Native, op: str, dtype: DType) -> bool:
    """Whether a native kernel takes one of the calls that are judged, by its own word.

    A `when` that raises is judged: its calls end in an error that names it.
    """
    name = oracle_name(op)
    if name is None:
        return False
    try:
        return any(native.when(case) for case in asked(op, name, dtype))
    except Exception:
        return True


def items(
    device: str,
    capabilities: Any,
    natives: Mapping[str, Native],
    level: str,
    ops: Sequence[str] | None = None,
) -> list[Item]:
    """All items of a device."""
    found = []
    for op in subjects():
        if ops is not None and op not in ops:
            continue
        if op in parts.PARTS and not parts.PARTS[op].concerns(device):
            continue
        for dtype in dtypes_of(op, level):
            found.append(Item(op, device, dtype.name, "portable"))
            if op in parts.PARTS:
                continue
            if op not in tb.FUNCTIONS or dtype.name not in capabilities.dtypes:
                continue
            own = next((natives[n] for n in names_of(op) if n in natives), None)
            if own is not None and _accepts(own, op, dtype):
                found.append(Item(op, device, dtype.name, "native"))
    return found
