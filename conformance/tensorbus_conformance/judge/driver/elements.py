"""The table of element types: each has the width, range and neighbours that its name says."""

from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
from tensorbus_backends import dtypes as dt

from ...oracle import primitives as exact
from ..items import Outcome
from ..session import Session
from .base import Checks, duty

_GROUPS = {
    "SIGNED": ("int8", "int16", "int32", "int64"),
    "UNSIGNED": ("uint8", "uint16", "uint32", "uint64"),
    "FLOATING": ("float16", "bfloat16", "float32", "float64"),
}


def table(session: Session) -> Outcome:
    """Names, kinds, widths, limits and formats against the oracle's, NumPy's and ml_dtypes'."""
    checks = Checks("table")
    integers = [*_GROUPS["SIGNED"], *_GROUPS["UNSIGNED"]]
    every = ["bool", *integers, *_GROUPS["FLOATING"]]
    groups = {
        **_GROUPS, "INTEGER": (*integers,), "NUMERIC": (*integers, *_GROUPS["FLOATING"]),
        "ALL": (*every,),
    }  # fmt: skip
    for name, members in groups.items():
        found = tuple(d.name for d in getattr(dt, name))
        checks.that(found == members, f"{name} is {found}")
    for name in every:
        d = dt.by_name(name)
        plain = ml_dtypes.bfloat16 if name == "bfloat16" else name
        kind = "f" if name in _GROUPS["FLOATING"] else name[0]
        checks.that(d is getattr(dt, "bool_" if name == "bool" else name), f"{name} is two")
        checks.that(d.numpy == np.dtype(plain), f"{name} lies in memory as {d.numpy}")
        checks.that(dt.from_numpy(np.dtype(plain)) is d, f"NumPy's {name} is another")
        checks.that(dt.from_numpy(plain) is d, f"{name} is not what NumPy calls so")
        checks.that(d.itemsize == np.dtype(plain).itemsize, f"{name} has {d.itemsize} bytes")
        checks.that(d.bits == 8 * d.itemsize, f"{name} has {d.bits} bits")
        checks.that(d.kind == kind, f"{name} is of kind {d.kind!r}")
        checks.that(d.is_float is (kind == "f"), f"is_float of {name} is {d.is_float}")
        checks.that(d.is_integer is (kind in "iu"), f"is_integer of {name} is {d.is_integer}")
        narrow = name in ("float16", "bfloat16")
        checks.that(d.compute is (dt.float32 if narrow else d), f"{name} computes as {d.compute}")
        checks.that((d.name, str(d)) == (name, name), f"{name} is called {d}")
        checks.that(copy.deepcopy(d) is d, f"a copy of {name} is another")
        checks.that(pickle.loads(pickle.dumps(d)) is d, f"{name} is another after pickling")
        if kind == "f":
            f, limits = exact.FORMATS[name], ml_dtypes.finfo(plain)  # type: ignore[no-untyped-call]
            given = (d.bits, d.precision, d.emin, d.emax)
            checks.that(given == tuple(f), f"{name} has the format {given}")
            checks.that(d.precision == limits.nmant + 1, f"{name} has {d.precision} bits")
        else:
            checks.that((d.precision, d.emin, d.emax) == (0, 0, 0), f"{name} has a float's format")
            limit = (0, 1) if kind == "b" else (np.iinfo(plain).min, np.iinfo(plain).max)
            checks.that((d.min, d.max) == limit, f"{name} goes from {d.min} to {d.max}")
    checks.that(len({dt.by_name(n) for n in every}) == len(every), "two dtypes are one")
    checks.raises(KeyError, "by_name of an unknown dtype", dt.by_name, "float8")
    for other in ("complex64", "U3", object, ">f4", "datetime64[s]", "no dtype", 3.5):
        checks.raises(TypeError, f"from_numpy({other!r})", dt.from_numpy, other)
    return checks.outcome


duty("dtypes", table, plugins=("cpu",))
