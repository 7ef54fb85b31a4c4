"""What every call must refuse: bad values of an argument by its form, with the exception due.

The rules follow Python, NumPy and the array API: a value of a wrong type is a TypeError; a value of
the right type that means nothing here (an unknown word, a negative size, shapes that do not fit, a
dimension named twice) is a ValueError; an axis or an index out of range is an IndexError; a Python
integer that a dtype cannot hold is an OverflowError.  An option that is one of several words takes
nothing else, so anything else is a ValueError.  A bool option takes a bool, so that "False" or 2
is never taken for true.  What only one op refuses stands in that op's record, as `Bad` calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Bad", "BadCalls", "axis_values", "broadcast_shapes", "scalar_values", "type_values"]

HUGE = 2**62


@dataclass(frozen=True)
class Bad:
    """One call that must be refused.

    Attributes:
        what: What is wrong with it, in words.
        error: The exception that is due.
        args: Positional arguments; NumPy arrays (also in lists) stand for tensors.
        options: Keyword arguments.
    """

    what: str
    error: type[Exception]
    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)


BadCalls = Callable[[Any], Sequence[Bad]]
"""From the NumPy dtype of the item to the calls that one op must refuse."""

Values = list[tuple[str, type[Exception], Any]]


class _Thing:
    """An object that is nothing that a call could use."""

    def __repr__(self) -> str:
        return "<a thing>"


def type_values(name: str, forms: frozenset[str], words: Sequence[Any]) -> Values:
    """Values of no form that a parameter takes.

    Args:
        name: Of the parameter; "shape" and "dtype" mean what they mean everywhere.
        forms: As in its annotation: "tensor", "tensors", "bool", "int", "float", "ints", "none",
            "str", "literal", "dtype", "device", "any", "pairs", "key".
        words: The values of a literal.
    """
    if "any" in forms:
        return []
    if "literal" in forms:
        first = str(words[0])
        bad = ["bogus", first.upper(), first + " ", "", 7]
        bad += [] if "none" in forms else [None]
        return [(f"{name}={v!r}", ValueError, v) for v in bad]
    tries: list[Any] = [_Thing(), {}]
    if "none" not in forms:
        tries.append(None)
    if not forms & {"str"}:
        tries += ["text", b"bytes"]
    if not forms & {"str", "device"}:
        tries.append(1j)
    if not forms & {"tensor", "int", "float", "ints", "tensors", "pairs", "key"}:
        tries += [7, 1.5]
    if "key" in forms:
        tries += [7, 1.5, (1, 2), np.zeros(2, np.uint32)]
    if "tensor" in forms:
        tries += [[1.0, 2.0], (1,), np.ones(2, np.float32)]
        tries += [] if "int" in forms else [3]
        tries += [] if "float" in forms else [1.5]
    elif "tensors" in forms:
        tries += [3, [None], [1.0, 2.0], ["a", "b"]]
    elif "ints" in forms:
        tries += [(0.0,), ("0",), ((0,),), (None,)]
        tries += [] if "float" in forms else [1.5]
    elif "int" in forms and "float" not in forms:
        tries += [1.5, [0]]
    elif "float" in forms:
        tries += [[0.5]]
    elif "dtype" in forms:
        tries += [np.float32, np.dtype("float32"), float]
    found: Values = [(f"{name}={v!r:.40}", TypeError, v) for v in tries]
    if name == "shape":
        found += [
            (f"shape={v}", ValueError, v) for v in ((-2,), (2, -3), (HUGE, 4), (2, HUGE, HUGE))
        ]
    if forms >= {"str", "device"}:
        found.append((f"{name}='no such device'", ValueError, "no such device"))
    return found


def axis_values(rank: int, sequence: bool) -> Values:
    """Axes that a tensor of `rank` dimensions does not have, and axes named twice."""
    tries: list[tuple[type[Exception], Any]] = [
        (IndexError, rank),
        (IndexError, -rank - 1),
        (IndexError, 99),
        (IndexError, -99),
    ]
    if sequence:
        tries += [(IndexError, (rank,)), (IndexError, (-rank - 1,))]
        if rank:
            tries += [(IndexError, (0, rank)), (ValueError, (0, 0)), (ValueError, (0, -rank))]
    return [(f"axis={v} of {rank} dimensions", error, v) for error, v in tries]


def scalar_values(dtype: Any, kind: str) -> Values:
    """Python scalars that do not join a tensor of `dtype`, whose kind is "b", "i", "u" or "f"."""
    found: Values = []
    if kind == "b":
        found += [(f"{v!r} beside bool", TypeError, v) for v in (1, 0.5)]
    else:
        found.append((f"True beside {dtype}", TypeError, True))
    if kind in "iu":
        limits = np.iinfo(dtype)
        for v in (int(limits.max) + 1, int(limits.min) - 1, 2**70, -(2**70)):
            found.append((f"{v} beside {dtype}", OverflowError, v))
    return found


def broadcast_shapes() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of shapes without a common one: sizes differ and none of them is 1; 0 is a size."""
    return [
        ((7,), (5,)),
        ((0,), (5,)),
        ((5,), (0,)),
        ((2, 3), (3, 2)),
        ((1, 0), (5,)),
        ((2,), (2, 5)),
    ]
