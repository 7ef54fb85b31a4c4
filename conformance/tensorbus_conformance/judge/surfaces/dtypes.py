"""What the library says of dtypes, and a device that lacks some of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import tensorbus as tb
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

from ..guard import Guarded
from ..promotion import expected
from .checks import Checks, distinct, surface

__all__ = ["dtypes"]

_KINDS: dict[str, str] = {
    "bool": "b", "signed integer": "i", "unsigned integer": "u", "integral": "iu",
    "real floating": "f", "complex floating": "", "numeric": "iuf",
}  # fmt: skip
"""Kinds of the array API, by the letters of NumPy's kinds."""


@surface("dtypes", dt.ALL, (dt.float32,))
def dtypes(c: Checks) -> None:
    """Kinds, limits and promotion as NumPy and the array API's tables have them; refusals."""
    _kinds(c)
    _limits(c)
    _promoted(c)
    _refused(c)
    if c.dtype in (dt.float64, dt.bfloat16, dt.int64, dt.float32):
        _lacking(c)


def _letter(dtype: DType) -> str:
    """NumPy's letter of a kind; bfloat16 is a float here."""
    return dtype.numpy.kind if dtype.numpy.kind in "biu" else "f"


def _kinds(c: Checks) -> None:
    mine = _letter(c.dtype)
    for kind, letters in _KINDS.items():
        due = mine in tuple(letters)
        c.true(f"isdtype {kind}", tb.isdtype(c.dtype, kind) is due)
        c.true(
            f"isdtype ({kind}, bool)", tb.isdtype(c.dtype, (kind, "bool")) is (due or mine == "b")
        )
    for other in dt.ALL:
        same = other is c.dtype
        c.true(f"isdtype {other.name}", tb.isdtype(c.dtype, other) is same)
        c.true(f"isdtype ({other.name},)", tb.isdtype(c.dtype, (other,)) is same)
    c.true("isdtype ()", tb.isdtype(c.dtype, ()) is False)
    nested: Any = ((), ("complex floating", (c.dtype,)))
    c.true("isdtype of nested tuples", tb.isdtype(c.dtype, nested) is True)


def _limits(c: Checks) -> None:
    x = c.put(distinct((2,), c.dtype))
    for given in (c.dtype, x):
        if c.dtype.is_integer:
            info, due = tb.iinfo(given), np.iinfo(c.dtype.numpy)
            limits = (info.bits, info.max, info.min, info.dtype)
            c.true("iinfo", limits == (due.bits, int(due.max), int(due.min), c.dtype), f"{info}")
            c.raises("finfo", TypeError, lambda given=given: tb.finfo(given))
        elif c.dtype.is_float:
            known: Any = ml_dtypes.finfo(c.dtype.numpy)  # type: ignore[no-untyped-call]
            found = tb.finfo(given)
            names = ("eps", "max", "min", "smallest_normal")
            for name in names:
                value = getattr(found, name)
                held = type(value) is float and value == float(getattr(known, name))
                c.true(f"finfo.{name}", held, f"{value!r}")
            c.true("finfo.bits", found.bits == known.bits and found.dtype is c.dtype)
            c.raises("iinfo", TypeError, lambda given=given: tb.iinfo(given))
        else:
            for limits_of in (tb.iinfo, tb.finfo):
                c.raises("limits of bool", TypeError, lambda f=limits_of, g=given: f(g))


def _promoted(c: Checks) -> None:
    x = c.put(distinct((2,), c.dtype))
    for other in dt.ALL:
        name = expected(c.dtype, other)
        both: tuple[Any, ...] = ((c.dtype, other), (other, c.dtype), (x, other), (other, x))
        for pair in both:
            label = f"result_type of {c.dtype.name} and {other.name}"
            if name is None:
                c.raises(label, TypeError, lambda pair=pair: tb.result_type(*pair))
            else:
                c.true(label, tb.result_type(*pair).name == name)
        for source in (c.dtype, x):
            c.true(f"can_cast to {other.name}", tb.can_cast(source, other) is (name == other.name))
    c.true("result_type alone", tb.result_type(c.dtype) is c.dtype and tb.result_type(x) is c.dtype)
    c.true("result_type of three", tb.result_type(c.dtype, x, c.dtype) is c.dtype)
    mine = _letter(c.dtype)
    for number, letters in ((True, "b"), (1, "iuf"), (1.5, "f")):
        if mine in letters:
            c.true(f"result_type with {number}", tb.result_type(c.dtype, number) is c.dtype)
            c.true(f"result_type of {number}", tb.result_type(number, x) is c.dtype)


def _refused(c: Checks) -> None:
    bad: Any
    for bad in (1, None, [c.dtype], 2.5):
        c.raises(f"isdtype {bad!r}", TypeError, lambda bad=bad: tb.isdtype(c.dtype, bad))
    for bad in ("float32", None, np.float32, 1):
        c.raises(f"isdtype of {bad!r}", TypeError, lambda bad=bad: tb.isdtype(bad, "numeric"))
        c.raises(f"can_cast from {bad!r}", TypeError, lambda bad=bad: tb.can_cast(bad, c.dtype))
        c.raises(f"can_cast to {bad!r}", TypeError, lambda bad=bad: tb.can_cast(c.dtype, bad))
        for limits_of in (tb.finfo, tb.iinfo):
            c.raises(f"limits of {bad!r}", TypeError, lambda f=limits_of, bad=bad: f(bad))
    c.raises("a kind unheard of", ValueError, lambda: tb.isdtype(c.dtype, "real"))
    c.raises("a kind unheard of in a tuple", ValueError, lambda: tb.isdtype(c.dtype, ("real",)))
    c.raises("result_type of nothing", ValueError, lambda: tb.result_type())
    c.raises("result_type of numbers", TypeError, lambda: tb.result_type(1, 2.5))
    c.raises("result_type of text", TypeError, lambda: tb.result_type(c.dtype, "x"))  # type: ignore[arg-type]


def _lacking(c: Checks) -> None:
    """The same device without the dtype: it says so, whichever way one comes to it."""
    fenced = Guarded(c.session.guard.real)
    kept = [n for n in fenced.capabilities.dtypes if n != c.dtype.name]
    kind = type(fenced.capabilities.dtypes)
    fenced.capabilities = replace(fenced.capabilities, dtypes=kind(kept))
    poor = tb.Device(fenced)
    array = distinct((3, 4), c.dtype, 5)
    full, error = c.put(array), tb.UnsupportedError
    plain = tb.asarray(array.astype(np.int32), device=poor)
    calls: dict[str, Any] = {
        "zeros": lambda: tb.zeros((2,), dtype=c.dtype, device=poor),
        "full": lambda: tb.full((2,), 1, dtype=c.dtype, device=poor),
        "empty": lambda: tb.empty((2,), dtype=c.dtype, device=poor),
        "arange": lambda: tb.arange(4, dtype=c.dtype, device=poor),
        "eye": lambda: tb.eye(2, dtype=c.dtype, device=poor),
        "asarray of an array": lambda: tb.asarray(array, device=poor),
        "asarray with dtype": lambda: tb.asarray([1, 2], dtype=c.dtype, device=poor),
        "astype": lambda: tb.astype(plain, c.dtype),
        "to_device": lambda: full.to_device(poor),
    }
    for name, call in calls.items():
        c.raises(f"{name} without {c.dtype.name}", error, call)
    other = dt.float16
    due = array.astype(other.numpy)
    c.same("asarray of an array", tb.asarray(array, dtype=other, device=poor), due)
    c.same("asarray of a tensor", tb.asarray(full, dtype=other, device=poor), due)
