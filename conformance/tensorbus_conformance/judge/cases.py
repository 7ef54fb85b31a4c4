"""The calls with which an op is judged: the samples of its record, with tensorbus' own dtypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

from ..oracle import REFERENCES, OpReference
from ..oracle.sampling import Case, Sampler, Samples
from ..oracle.sampling.arrays import laid_out

__all__ = [
    "Case", "array_slots", "cases", "gradient_cases", "is_elementwise", "is_plain",
    "is_unary", "movable", "shape_cases",
    "special_cases", "split", "takes",
]  # fmt: skip


Array = NDArray[Any]


@dataclass(frozen=True)
class _Slot:
    index: int


def split(case: Case) -> tuple[list[Array], Callable[[Sequence[Any]], tuple[list[Any], Any]]]:
    """The arrays of a case, and a function that puts other values in their places."""
    arrays: list[Array] = []

    def take(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays.append(value)
            return _Slot(len(arrays) - 1)
        if isinstance(value, list):
            return [take(v) for v in value]
        return value

    args = [take(a) for a in case.args]
    options = {k: take(v) for k, v in case.options.items()}

    def rebuild(values: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        def give(value: Any) -> Any:
            if isinstance(value, _Slot):
                return values[value.index]
            return [give(v) for v in value] if isinstance(value, list) else value

        return [give(a) for a in args], {k: give(v) for k, v in options.items()}

    return arrays, rebuild


def movable(op: str, sets: Sequence[Case]) -> list[Case]:
    """The calls whose operands may be laid out in another way.

    One that demands a view (`copy=False`) may refuse memory in which there is none.
    """
    view = REFERENCES[op].view
    return [c for c in sets if c.options.get("copy") is not False or not view]


def array_slots(case: Case) -> list[Array]:
    """The arrays of a case in order."""
    return split(case)[0]


def is_plain(array: Array) -> bool:
    """Whether an array is contiguous memory of its own."""
    return array.size < 2 or bool(array.flags.c_contiguous and array.flags.owndata)


def _native(value: Any) -> Any:
    return dt.from_numpy(value) if isinstance(value, np.dtype) else value


def _made(
    op: str, dtype: DType, level: str, seed: int, samples: Samples | None, purpose: str
) -> list[Case]:
    reference = REFERENCES[op]
    if samples is None or not takes(reference, dtype):
        return []
    sampler = Sampler(op, dtype.numpy, level, seed, reference.domain, purpose)
    return [
        replace(
            case,
            args=tuple(_native(a) for a in case.args),
            options={k: _native(v) for k, v in case.options.items()},
        )
        for case in samples(sampler)
    ]


@lru_cache(maxsize=64)
def cases(op: str, dtype: DType, level: str, seed: int) -> Sequence[Case]:
    """The calls of an op with ordinary data; empty if the op does not take `dtype`.

    At least one of them has an operand that is not contiguous, whatever the seed.
    """
    found = _made(op, dtype, level, seed, REFERENCES[op].samples, "values")
    arrays = [a for case in found for a in array_slots(case)]
    if arrays and all(is_plain(a) for a in arrays):
        k = max(range(len(found)), key=lambda k: sum(a.size for a in array_slots(found[k])))
        laid = [laid_out(np.random.default_rng(seed), a, "gaps") for a in array_slots(found[k])]
        args, options = split(found[k])[1](laid)
        found[k] = replace(found[k], args=tuple(args), options=options)
    return found


_LARGEST = {"smoke": 1200, "standard": 6000, "exhaustive": 6000}
"""Elements of the operands of a call whose gradients are judged."""

_DRAWS = {"smoke": 3, "standard": 12, "exhaustive": 24}
"""Small samples from which those calls are chosen."""


@lru_cache(maxsize=64)
def gradient_cases(op: str, dtype: DType, level: str, seed: int) -> Sequence[Case]:
    """Calls at whose data the op is differentiable, those with most that is new first.

    Derivatives have rules and kernels of their own, which see the options, axes, ranks and shapes
    of operands again; so among the samples drawn each call is chosen that takes one of these as no
    earlier call does, up to all that occur.
    """
    found: list[Case] = []
    samples = REFERENCES[op].samples
    for again in range(20):
        drawn = _made(op, dtype, "smoke", seed + 1000 * again, samples, "gradient")
        for case in drawn:
            sizes = [a.size for a in array_slots(case)]
            if case.smooth and sizes and min(sizes) > 0 and sum(sizes) <= _LARGEST[level]:
                found.append(case)
        if again + 1 >= _DRAWS[level] and len(found) >= (2 if level == "smoke" else 6):
            break
    return _most_new(found)


def _most_new(sets: Sequence[Case]) -> list[Case]:
    """The cases in an order in which each next one brings most that no earlier one had."""
    left = [(traits(c), c) for c in sets]
    chosen: list[Case] = []
    while left:
        known: set[Any] = set()
        while left:
            gains = [len(t - known) for t, _ in left]
            best = max(range(len(left)), key=gains.__getitem__)
            if not gains[best]:
                break
            known |= left[best][0]
            chosen.append(left.pop(best)[1])
    return chosen


def traits(case: Case) -> set[Any]:
    """What a rule can depend on, argument by argument: values of options, forms, ranks."""
    found: set[Any] = set()
    arrays = array_slots(case)
    rank = max((a.ndim for a in arrays), default=0)
    given = [*enumerate(case.args), *case.options.items()]
    for name, value in given:
        found.add((name, _form(value, rank)))
        if isinstance(value, np.ndarray):
            found.add((name, "rank", min(value.ndim, 3)))
            found.add((name, "dtype", value.dtype.name))
    found.add(("given", tuple(name for name, _ in given)))
    shapes = [a.shape for a in arrays]
    found |= {("ones", k) for k, s in enumerate(shapes) if 1 in s}
    found |= {("like the first", k, s == shapes[0]) for k, s in enumerate(shapes) if k}
    return found


def _form(value: Any, rank: int) -> Any:
    """An argument's value, as far as code asks: an axis by its end, a shape by its length."""
    if isinstance(value, np.ndarray):
        return "array"
    if isinstance(value, list | tuple):
        return (type(value).__name__, len(value), any(isinstance(v, int) and v < 0 for v in value))
    if isinstance(value, int) and not isinstance(value, bool):
        ends = {0: "first", -1: "-1", rank - 1: "last", -rank: "-rank", 1: "one"}
        return ends.get(value, "negative" if value < 0 else "positive")
    return repr(value)


@lru_cache(maxsize=64)
def special_cases(op: str, dtype: DType, level: str, seed: int) -> Sequence[Case]:
    """The calls with special values: ±0, ±inf, NaN, subnormals, extremes."""
    return _made(op, dtype, level, seed, REFERENCES[op].special, "special")


@lru_cache(maxsize=64)
def shape_cases(op: str, dtype: DType, seed: int) -> Sequence[Case]:
    """The calls with operands of no elements, of one, of no dimensions."""
    return _made(op, dtype, "smoke", seed, REFERENCES[op].degenerate, "degenerate")


def takes(reference: OpReference, dtype: DType) -> bool:
    """Whether the op accepts operands of `dtype`."""
    kind = {"b": "b", "i": "i", "u": "i", "f": "f"}[dtype.kind]
    return kind in reference.kinds


def is_elementwise(op: str) -> bool:
    """Whether the op works on each element of its broadcast operands alone."""
    return REFERENCES[op].elementwise


def is_unary(op: str) -> bool:
    """Whether the op is elementwise with one tensor."""
    return is_elementwise(op) and REFERENCES[op].tensors == (1, 1)
