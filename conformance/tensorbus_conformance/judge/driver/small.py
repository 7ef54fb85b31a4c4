"""The small functions over the scalar IR, by themselves: for every dtype that it computes in.

No op needs each of them for each dtype, so what they give for unsigned integers and bools, say,
shows nowhere else.  What is due follows from a value's sign and kind alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt, interp, ir, scalar
from tensorbus_backends.dtypes import DType
from tensorbus_backends.flushing import flushing

from ...oracle import primitives as exact, vectors
from .base import Checks

__all__ = ["functions"]

Array = NDArray[Any]


def _values(dtype: DType) -> list[Any]:
    """Special values, as Python numbers."""
    if dtype is dt.bool_:
        return [False, True]
    if dtype.is_integer:
        return vectors.special_integers(dtype.bits, dtype.kind == "i", few=True)
    patterns = vectors.special_floats(exact.FORMATS[dtype.name])
    return list(np.array(patterns, f"u{dtype.itemsize}").view(dtype.numpy).tolist())


def _negative(x: Any) -> bool:
    """Whether a number has a minus before it."""
    return math.copysign(1.0, x) < 0 if isinstance(x, float) else x < 0


def _nan(x: Any) -> bool:
    return isinstance(x, float) and math.isnan(x)


def _sign(x: Any) -> Any:
    if isinstance(x, bool) or _nan(x) or x == 0:
        return x
    return type(x)(1 if x > 0 else -1)


def _greater(a: Any, b: Any) -> Any:
    """IEEE 754-2019 maximum."""
    if _nan(a) or _nan(b):
        return math.nan
    if a == b == 0:
        return b if _negative(a) else a
    return max(a, b)


def _lesser(a: Any, b: Any) -> Any:
    if _nan(a) or _nan(b):
        return math.nan
    if a == b == 0:
        return a if _negative(a) else b
    return min(a, b)


def _same(a: Any, b: Any) -> bool:
    """One value: NaN and NaN, zeros of one sign."""
    return (_nan(a) and _nan(b)) or (a == b and _negative(a) == _negative(b))


_ONE: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], bool]] = {
    "is_nan": (scalar.is_nan, _nan, True),
    "is_inf": (scalar.is_inf, lambda x: isinstance(x, float) and math.isinf(x), True),
    "sign_bit": (scalar.sign_bit, _negative, True),
    "sign": (scalar.sign, _sign, False),
}
"""From one operand: the function, what it gives, and whether that is a bool."""

_TWO: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any], str]] = {
    "maximum": (scalar.maximum, _greater, "biuf"),
    "minimum": (scalar.minimum, _lesser, "biuf"),
    "copysign": (scalar.copysign, lambda a, b: a if _nan(a) else math.copysign(a, b), "f"),
}


def _given(expr: ir.Expr, *columns: Array) -> list[Any]:
    (found,) = interp.evaluate([expr], lambda node: columns[node.attr])
    values: list[Any] = np.broadcast_to(found, columns[0].shape).tolist()
    return values


def functions(checks: Checks) -> None:
    """Each for every dtype, on special values and all pairs of them."""
    for dtype in (d for d in dt.ALL if d.compute is d):
        values = _values(dtype)
        column = np.array(values, dtype.numpy)
        x, y = ir.input_(0, dtype), ir.input_(1, dtype)
        for name, (one, due, boolean) in _ONE.items():
            expr = one(x)
            kind = dt.bool_ if boolean else dtype
            checks.that(expr.dtype is kind, f"{name} of {dtype.name} is {expr.dtype.name}")
            for v, got in zip(values, _given(expr, column), strict=True):
                right = _same(got, due(v))
                checks.that(right, f"{name}({v}) of {dtype.name} is {got}")
        pairs = list(itertools.product(values, repeat=2))
        a, b = (np.array(c, dtype.numpy) for c in zip(*pairs, strict=True))
        for name, (two, of_both, kinds) in _TWO.items():
            if dtype.kind not in kinds:
                continue
            for (v, w), got in zip(pairs, _given(two(x, y), a, b), strict=True):
                right = _same(got, of_both(v, w))
                checks.that(right, f"{name}({v}, {w}) of {dtype.name} is {got}")
        unsigned, signed = (dt.by_name(f"{k}{dtype.bits}") for k in ("uint", "int"))
        if dtype is not dt.bool_:
            widths = (scalar.unsigned_type(dtype), scalar.integer_type(dtype))
            checks.that(widths == (unsigned, signed), f"of {dtype.name} the widths are {widths}")
        if dtype.is_float:
            known = [ir.value_of(e) for e in (scalar.inf(dtype), scalar.nan(dtype))]
            checks.that(known[0] == math.inf and _nan(known[1]), f"{dtype.name} has {known}")
    for tiny in ("", "never", "Before", None, True):
        checks.raises(ValueError, f"flushing with {tiny!r}", flushing(tiny).__enter__)  # type: ignore[arg-type]
    for text, kind in (("0.1", dt.float32), ("0.1", dt.float64), ("1e-46", dt.float32)):
        held = ir.value_of(scalar.f(float(text), kind))
        checks.that(held == float(kind.numpy.type(text)), f"{text} of {kind.name} is {held}")
