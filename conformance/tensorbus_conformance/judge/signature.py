"""What a public function says of its parameters: which forms of argument each of them takes."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tensorbus as tb
from tensorbus_backends.dtypes import DType

__all__ = ["Parameter", "parameters", "takes_scalars"]

_FORMS: dict[Any, str] = {
    tb.Tensor: "tensor",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    type(None): "none",
    DType: "dtype",
    tb.Device: "device",
    Any: "any",
}


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: As in the signature.
        forms: What it takes: "tensor", "bool", "int", "float", "str", "none", "dtype", "device",
            "any", "ints" (a sequence of them), "tensors", "pairs" (of sequences of ints),
            "literal", or the name of another class.
        words: The values of a literal.
        required: There is no default.
        keyword: It is passed by keyword only.
        only_positional: It cannot be passed by keyword.
        several: It stands for any number of arguments (``*arrays``).
    """

    name: str
    forms: frozenset[str]
    words: tuple[Any, ...]
    required: bool
    keyword: bool
    only_positional: bool
    several: bool

    @property
    def scalar(self) -> bool:
        """Whether it takes a tensor or a Python number of any kind."""
        return {"tensor", "bool", "int", "float"} <= self.forms


def _forms(hint: Any) -> tuple[set[str], tuple[Any, ...]]:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        found: set[str] = set()
        words: tuple[Any, ...] = ()
        for part in get_args(hint):
            more, said = _forms(part)
            found |= more
            words += said
        return found, words
    if origin is Literal:
        return {"literal"}, get_args(hint)
    if origin is tuple:
        return {"pairs"}, ()
    if origin is not None and issubclass(origin, Sequence):
        (of,) = get_args(hint)
        return {"tensors" if of is tb.Tensor else "ints"}, ()
    return {_FORMS.get(hint) or getattr(hint, "__name__", str(hint)).lower()}, ()


@cache
def parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters of a public function in order."""
    hints = get_type_hints(function)
    found = []
    for p in inspect.signature(function).parameters.values():
        forms, words = _forms(hints[p.name])
        found.append(
            Parameter(
                p.name,
                frozenset(forms),
                words,
                p.default is p.empty and p.kind is not p.VAR_POSITIONAL,
                p.kind is p.KEYWORD_ONLY,
                p.kind is p.POSITIONAL_ONLY,
                p.kind is p.VAR_POSITIONAL,
            )
        )
    return tuple(found)


def takes_scalars(op: str) -> bool:
    """Whether some parameter of a public op takes a Python number of any kind."""
    numbers = {"bool", "int", "float"}
    return any(numbers <= p.forms for p in parameters(tb.FUNCTIONS[op].call))
