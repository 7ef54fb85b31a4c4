"""What shares memory and what does not: every way in, every way out, constants, gradients.

For each way there is one word, ``shares`` or not, and it is tried in both directions: a change of
the one is seen in the other, or it is not.  Ways in are gone twice with equal values, since what is
kept of the first may be given out again; numbers are also changed in place after they stood beside
tensors.
"""

from __future__ import annotations

import array as arrays
import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Feature

from ..layouts import host
from .checks import MOVED, Checks, distinct, surface

__all__ = ["apart"]

Array = NDArray[Any]


@surface("apart", MOVED, (dt.float32,))
def apart(c: Checks) -> None:
    """See the module."""
    _ways_in(c)
    _ways_out(c)
    _constants(c)
    if c.dtype.is_float:
        _gradients(c)


def _other(array: Array) -> Array:
    """As many elements, none of which is the old one at its place."""
    return ~array if array.dtype == bool else np.asarray(array + array.dtype.type(3), array.dtype)


def _write(x: tb.Tensor) -> None:
    """Other elements, by way of the public assignment."""
    x[...] = tb.asarray(_other(host(x)), device=x.device)


# -- in -------------------------------------------------------------------------------------------


def _given(c: Checks) -> dict[str, Callable[[], Any]]:
    """Objects of which a tensor can be made, new or the same each time."""
    base = distinct((2, 3), c.dtype, 4)
    plain = base.astype(np.float32) if c.dtype is dt.bfloat16 else base
    nested, number = plain.tolist(), plain[0, 1].item()
    found: dict[str, Callable[[], Any]] = {
        "a number": lambda: number,
        "a list": lambda: nested,
        "a tuple": lambda: tuple(map(tuple, nested)),
        "a NumPy number": lambda: base[0, 1],
        "an array": lambda: base,
        "an array of no dimensions": lambda: base[0, 1, ...],
        "a list of arrays": lambda: list(plain),
    }
    if c.dtype.name in ("float32", "float64", "int64", "uint8"):
        code = {"float32": "f", "float64": "d", "int64": "q", "uint8": "B"}[c.dtype.name]
        packed = arrays.array(code, nested[0])
        found["array.array"] = lambda: packed
        found["a memoryview"] = lambda: memoryview(packed)
    return found


def _ways_in(c: Checks) -> None:
    """Two tensors of one object are two tensors, and the object stays what it was."""
    for name, give in _given(c).items():
        for options in ({"dtype": c.dtype}, {"dtype": c.dtype, "copy": True}, {}):
            label = f"asarray of {name}, {options}"
            before = np.array(give())
            first, second = (tb.asarray(give(), device=c.device, **options) for _ in range(2))
            due = host(second)
            _write(first)
            c.same(f"{label}: another one after a change", second, due)
            again = tb.asarray(give(), device=c.device, **options)
            c.same(f"{label}: made after a change", again, due)
            c.same(f"{label}: what it was made of", np.array(give()), before)
    makers: dict[str, Callable[..., tb.Tensor]] = {
        "zeros": lambda **how: tb.zeros((3,), **how),
        "zeros of no dimensions": lambda **how: tb.zeros((), **how),
        "ones": lambda **how: tb.ones((3,), **how),
        "full": lambda **how: tb.full((2, 2), 1, **how),
        "full of no dimensions": lambda **how: tb.full((), 1, **how),
        "eye": lambda **how: tb.eye(3, **how),
    }
    if c.dtype is not dt.bool_:
        makers["arange"] = lambda **how: tb.arange(5, **how)
    for name, make in makers.items():
        first, second = (make(dtype=c.dtype, device=c.device) for _ in range(2))
        due = host(second)
        _write(first)
        c.same(f"{name}, another one after a change", second, due)
        c.same(f"{name}, made after a change", make(dtype=c.dtype, device=c.device), due)


# -- out ------------------------------------------------------------------------------------------


def _exports(c: Checks, x: tb.Tensor) -> dict[str, tuple[bool, Callable[[], Any]]]:
    """Ways out of a tensor by name: whether they share its memory."""
    own = c.dtype.numpy
    found: dict[str, tuple[bool, Callable[[], Any]]] = {
        "numpy()": (False, x.numpy),
        "deepcopy": (False, lambda: copy.deepcopy(x)),
        "copy": (True, lambda: copy.copy(x)),
        "asarray": (True, lambda: tb.asarray(x)),
        "asarray of its dtype": (True, lambda: tb.asarray(x, dtype=c.dtype, device=c.device)),
        "asarray(copy=True)": (False, lambda: tb.asarray(x, copy=True)),
        "asarray of its dtype, copy=True": (
            False, lambda: tb.asarray(x, dtype=c.dtype, device=c.device, copy=True),
        ),
        "astype": (False, lambda: x.astype(c.dtype)),
        "astype(copy=False)": (True, lambda: x.astype(c.dtype, copy=False)),
        "to_device": (True, lambda: x.to_device(c.device)),
        "detach": (True, x.detach),
        "reshape": (True, lambda: x.reshape(x.shape)),
        "reshape(copy=True)": (False, lambda: tb.reshape(x, x.shape, copy=True)),
        "x[...]": (True, lambda: x[...]),
        "positive": (False, lambda: +x if c.dtype is not dt.bool_ else tb.logical_or(x, x)),
    }  # fmt: skip
    if tb.get_device(c.device.name) is c.device:
        found["pickle"] = (False, lambda: pickle.loads(pickle.dumps(x)))
    if not c.device.has(Feature.ADDRESS):
        return found
    found |= {
        "numpy.array": (False, lambda: np.array(x)),
        "numpy.asarray": (True, lambda: np.asarray(x)),
        "__array__()": (True, x.__array__),
        "__array__(copy=True)": (False, lambda: x.__array__(copy=True)),
        "__array__(copy=False)": (True, lambda: x.__array__(copy=False)),
    }
    if c.dtype is not dt.bfloat16:
        # Here the dtype asked for is the one that is there.
        found |= {
            "numpy.array of its dtype": (False, lambda: np.array(x, own)),
            "numpy.array of its dtype, copy=True": (False, lambda: np.array(x, own, copy=True)),
            "numpy.asarray of its dtype": (True, lambda: np.asarray(x, own)),
            "numpy.asarray of its dtype, copy=False": (
                True, lambda: np.asarray(x, own, copy=False),
            ),
            "numpy.asarray of its dtype, copy=True": (
                False, lambda: np.asarray(x, own, copy=True),
            ),
            "__array__(its dtype)": (True, lambda: x.__array__(own)),
            "__array__(its dtype, copy=True)": (False, lambda: x.__array__(own, True)),
            "numpy.copy": (False, lambda: np.copy(x)),
            "numpy.from_dlpack": (True, lambda: np.from_dlpack(x)),
            "numpy.from_dlpack, copy=True": (False, lambda: np.from_dlpack(x, copy=True)),
        }  # fmt: skip
    return found


def _ways_out(c: Checks) -> None:
    """A change of a tensor is seen in what shares with it, and in nothing else; and backwards."""
    shapes = ((3, 5), ()) if not c.thorough else ((3, 5), (), (1,), (1, 4))
    for shape in shapes:
        array = distinct(shape, c.dtype, 7)
        for name in _exports(c, c.put(array)):
            for layout in ("contiguous", "offset") if len(shape) != 2 else ("contiguous",):
                x = c.put(array, layout)
                shares, way = _exports(c, x)[name]
                label = f"{name} of {layout} {list(shape)}"
                made = way()
                c.same(label, made, array)
                _write(x)
                changed = host(x)
                c.same(f"{label} after a change of x", made, changed if shares else array)
                x = c.put(array, layout)
                made = _exports(c, x)[name][1]()
                if isinstance(made, tb.Tensor):
                    _write(made)
                elif made.flags.writeable:
                    made[...] = _other(np.array(made))
                else:
                    c.true(f"{label} is writable", shares, "it is a copy that cannot be changed")
                    continue
                c.same(f"x after a change of {label}", x, _other(array) if shares else array)


# -- numbers and gradients ------------------------------------------------------------------------


def _constants(c: Checks) -> None:
    """A number beside a tensor is that number, whatever became of tensors made of it."""
    if c.dtype is dt.bool_:
        return
    x = c.put(distinct((4,), c.dtype, 1))
    values: tuple[Any, ...] = (0, 1, 2) + ((0.5, 1.5, 0.0) if c.dtype.is_float else ())
    for value in values:
        due = [host(x + value), host(value * x)]
        for made in (
            tb.asarray(value, device=c.device),
            tb.asarray(value, dtype=c.dtype, device=c.device),
            tb.full((), value, dtype=c.dtype, device=c.device),
            tb.full((1,), value, dtype=c.dtype, device=c.device),
            tb.multiply(c.put(distinct((), c.dtype, 1)), value),
        ):
            made += 3
        c.same(f"x + {value!r}, after tensors of it were changed", x + value, due[0])
        c.same(f"{value!r} * x, after tensors of it were changed", value * x, due[1])


def _gradients(c: Checks) -> None:
    """A gradient that was changed in place is no other call's gradient."""
    array = distinct((3, 4), c.dtype, 1)
    rules: dict[str, Callable[[tb.Tensor], tb.Tensor]] = {
        "sum": lambda x: tb.sum(x),
        "mean": lambda x: tb.mean(x),
        "max": lambda x: tb.max(x),
        "a number": lambda x: tb.sum(x * 2),
        "two calls": lambda x: tb.sum(x) + tb.sum(x),
        "a view": lambda x: tb.sum(x[1:]),
        "another shape": lambda x: tb.sum(tb.reshape(x, (12,))),
        "itself": lambda x: x,
    }
    for name, rule in rules.items():
        found = []
        for _ in range(3):
            x = c.put(array)
            x.requires_grad = True
            out = rule(x)
            if out.size == 1:
                out.backward()
            else:
                out.backward(c.put(np.ones_like(array)))
            assert x.grad is not None
            found.append(host(x.grad))
            with tb.no_grad():
                x.grad += 3
        for k, g in enumerate(found):
            c.same(f"gradient {k} of {name}, earlier ones changed in place", g, found[0])
