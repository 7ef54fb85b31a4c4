"""``x += y`` and its like: the result lands in the memory of `x` and nowhere else."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt

from ..layouts import host
from .checks import Checks, distinct, memory_of, surface
from .setitem import places_of

__all__ = ["inplace"]

Array = NDArray[Any]
Operator = Callable[[Any, Any], Any]

_iadd: Operator = operator.iadd
_itruediv: Operator = operator.itruediv
_imatmul: Operator = operator.imatmul

_EXACT: dict[str, Any] = {"iadd": np.add, "isub": np.subtract, "imul": np.multiply}
"""Operators whose results on small whole numbers every dtype holds."""
_BITS: dict[str, Any] = {
    "iand": np.bitwise_and, "ior": np.bitwise_or, "ixor": np.bitwise_xor,
    "ilshift": np.left_shift, "irshift": np.right_shift,
}  # fmt: skip


def _cases(c: Checks) -> dict[str, tuple[Array, Array, Any]]:
    """By operator: left, right, and NumPy's function, chosen so that results are exact."""
    t = c.dtype.numpy
    left = (np.arange(30) % 6 + 2).astype(t).reshape(6, 5)
    right = (np.arange(30) % 5 % 3 + 1).astype(t).reshape(6, 5)
    if c.dtype is dt.bool_:
        one, two = distinct((6, 5), c.dtype), distinct((6, 5), c.dtype, 8)
        return {k: (one, two, _BITS[k]) for k in ("iand", "ior", "ixor")}
    found: dict[str, tuple[Array, Array, Any]] = {k: (left, right, f) for k, f in _EXACT.items()}
    found["ifloordiv"] = (left, right, np.floor_divide)
    found["imod"] = (left, right, np.remainder)
    found["ipow"] = (left, right, lambda a, b: a**b)
    if c.dtype.is_float:
        powers = np.exp2(np.arange(30) % 3).astype(t).reshape(6, 5)
        found["itruediv"] = (left, powers, np.divide)
    else:
        found |= {k: (left, right, f) for k, f in _BITS.items()}
    return found


@surface(
    "inplace",
    (dt.float32, dt.float64, dt.bfloat16, dt.int32, dt.uint8, dt.bool_),
    (dt.float32,),
)
def inplace(c: Checks) -> None:
    """All operators on all layouts, operands that share memory, errors, gradients."""
    for name, (left, right, function) in _cases(c).items():
        call: Operator = getattr(operator, name)
        with np.errstate(all="ignore"):
            due = np.asarray(function(left, right)).astype(c.dtype.numpy)
        full = c.thorough or name in ("iadd", "isub")
        layouts = ("contiguous", "general", "negative", "transposed", "offset")
        for layout in layouts if full else ("contiguous", "offset"):
            x, y = c.put(left, layout), c.put(right)
            _into(c, f"{name} {layout}", call, x, y, due)
            if layout == "contiguous" and full:
                _into(c, f"{name} again", call, c.put(left), c.put(right, "general"), due)
        number = right[0, 1].item() if c.dtype is not dt.bfloat16 else float(right[0, 1])
        wanted = np.asarray(function(left, right[0, 1])).astype(c.dtype.numpy)
        _into(c, f"{name} with a number", call, c.put(left, "offset"), number, wanted)
        zero = c.put(left[1, 1])
        _into(c, f"{name} on one element", call, zero, c.put(right[1, 1]), due[1, 1])
        if not full:
            continue
        row = np.asarray(function(left, right[0])).astype(c.dtype.numpy)
        _into(c, f"{name} with a row", call, c.put(left), c.put(right[0]), row)
        _into(c, f"{name} of nothing", call, c.put(left[:0]), c.put(right[:0]), due[:0])
        _shared(c, name, call, function, left)
        _errors(c, name, call, left)
    if c.dtype.is_float:
        _matmul(c)
        _gradients(c)
        _leaves(c)
    _dtypes(c)


def _into(c: Checks, label: str, call: Operator, x: tb.Tensor, y: Any, due: Array) -> None:
    """`x` is the same object over the same memory, of which only its elements change."""
    spec, offset, buffer, memory = x._spec, x._offset, x._buffer, memory_of(x)
    other = host(y) if isinstance(y, tb.Tensor) else None
    view = x.detach()
    got = c.attempt(label, lambda: call(x, y))
    memory[places_of(x).astype(int).reshape(-1)] = due.reshape(-1)
    c.true(label, got is x, "gives another object")
    held = x._buffer is buffer and x._offset == offset and x._spec is spec
    c.true(label, held, "has left its memory")
    c.same(label, memory_of(view), memory)
    if other is not None:
        c.same(f"right operand of {label}", y, other)


def _shared(c: Checks, name: str, call: Operator, function: Any, left: Array) -> None:
    """Operands that are one tensor, overlap, or are views of each other in another order."""
    if name in ("ipow", "ilshift"):
        return
    t = c.dtype.numpy

    def due(a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(function(a, b)).astype(t)

    if name != "itruediv":
        x = c.put(left)
        _into_shared(c, f"{name}, x and x", call, x, x, due(left, left))
        square = left[:5]
        x = c.put(square)
        _into_shared(c, f"{name}, x and x.T", call, x, x.T, due(square, square.T))
        flat = left.reshape(-1)
        for to, of in (
            (slice(1, None), slice(None, -1)),
            (slice(None, -1), slice(1, None)),
            (slice(None), slice(None, None, -1)),
        ):
            x, want = c.put(flat, "offset"), flat.copy()
            part = x[to]
            got = c.attempt(f"{name}, x[{to}]", lambda part=part, x=x, of=of: call(part, x[of]))
            want[to] = due(flat[to], flat[of])
            c.same(f"{name}, x[{to}] and x[{of}]", x, want)
            c.true(f"{name}, x[{to}]", got is part)
        x = c.put(left)
        want = left.copy()
        want[:] = due(left, left[2])
        call(x, x[2])
        c.same(f"{name}, x and x[2]", x, want)


def _into_shared(
    c: Checks, label: str, call: Operator, x: tb.Tensor, y: tb.Tensor, due: Array
) -> None:
    got = c.attempt(label, lambda: call(x, y))
    c.true(label, got is x)
    c.same(label, x, due)


def _errors(c: Checks, name: str, call: Operator, left: Array) -> None:
    x = c.put(left)
    grown = c.put(np.stack([left] * 2))
    for label, value in (("a larger operand", grown), ("other sizes", c.put(left[:4]))):
        c.raises(f"{name} {label}", ValueError, lambda value=value: call(x, value))
    c.raises(f"{name} a larger result", ValueError, lambda: call(x[:1], x))
    for bad in ("a", None, object(), [1]):
        c.raises(f"{name} {bad!r:.8}", TypeError, lambda bad=bad: call(x, bad))
    wide = tb.broadcast_to(c.put(left[:1]), left.shape)
    c.raises(f"{name} on a broadcast view", ValueError, lambda: call(wide, x))
    if c.device.name != "ref":
        other = tb.asarray(left, device="ref")
        c.raises(f"{name} with another device", ValueError, lambda: call(x, other))
    c.same(f"{name} after errors", x, left)


def _dtypes(c: Checks) -> None:
    """The dtype of `x` stays: what would need another one raises TypeError and changes nothing."""
    array = (np.arange(6) % 2 + 1).astype(c.dtype.numpy)
    x = c.put(array)
    for other in dt.ALL:
        if not c.thorough and other not in (dt.int32, dt.bool_):
            continue
        if not c.has(other) or other is c.dtype:
            continue
        y = c.put(np.ones(6, other.numpy))
        try:
            fits = tb.result_type(c.dtype, other) is c.dtype
        except TypeError:
            fits = False
        if fits:
            before = host(x)
            c.attempt(f"{c.dtype.name} += {other.name}", lambda y=y: _iadd(x, y))
            c.same(f"{c.dtype.name} += {other.name}", x, (before + 1).astype(c.dtype.numpy))
        else:
            before = host(x)
            c.raises(
                f"{c.dtype.name} += {other.name}",
                TypeError,
                lambda y=y: _iadd(x, y),
            )
            c.same(f"{c.dtype.name} += {other.name} refused", x, before)
    if c.dtype.is_integer:
        c.raises("ints += 0.5", TypeError, lambda: _iadd(x, 0.5))
        c.raises("ints /= 2", TypeError, lambda: _itruediv(x, 2))
        c.raises("ints += too large", OverflowError, lambda: _iadd(x, c.dtype.max + 1))


def _matmul(c: Checks) -> None:
    a = (np.arange(9) % 4).astype(c.dtype.numpy).reshape(3, 3)
    b = (np.arange(9) % 5 - 2).astype(c.dtype.numpy).reshape(3, 3)
    due = (a.astype(np.float64) @ b.astype(np.float64)).astype(c.dtype.numpy)
    _into(c, "imatmul", operator.imatmul, c.put(a, "general"), c.put(b, "transposed"), due)
    x = c.put(a)
    own = (a.astype(np.float64) @ a.T.astype(np.float64)).astype(c.dtype.numpy)
    _into_shared(c, "x @= x.T", operator.imatmul, x, x.T, own)
    c.raises("x @= a column", ValueError, lambda: _imatmul(x, c.put(a[:, :1])))


def _gradients(c: Checks) -> None:
    """In-place operators are recorded as the plain ones are."""
    a, b = c.put(np.asarray([1, 2, 3], c.dtype.numpy)), c.put(np.asarray([2, 2, 4], c.dtype.numpy))
    a.requires_grad = b.requires_grad = True
    k = c.put(np.asarray([2, 2, 4], c.dtype.numpy))
    y = a * 1
    y += b
    y *= k
    y[1:] = y[1:] - b[:-1]
    cotangent = c.put(np.asarray([1, 2, 4], c.dtype.numpy))
    got = tb.grad(y, [a, b], cotangent, retain_graph=True)
    # y = (a + b) k, less b of the place before from the second on.
    c.same("gradient of in-place operators, a", got[0], np.asarray([2, 4, 16], c.dtype.numpy))
    c.same("gradient of in-place operators, b", got[1], np.asarray([0, 0, 16], c.dtype.numpy))
    z = a * 1
    z *= b
    c.raises("a factor changed in place", RuntimeError, lambda: tb.grad(z, [a, b], cotangent))
    # Python stores the changed view once more, which replaces what has a history of its own.
    c.raises("y[1:] -= b of a recorded y", RuntimeError, lambda: _store(y, b))


def _store(y: tb.Tensor, b: tb.Tensor) -> None:
    y[1:] -= b[1:]


def _leaves(c: Checks) -> None:
    array = np.asarray([1, 2, 3], c.dtype.numpy)
    x = c.put(array)
    x.requires_grad = True
    c.raises("a leaf += 1", RuntimeError, lambda: _iadd(x, 1))
    c.raises("a view of a leaf += 1", RuntimeError, lambda: _iadd(x[1:], 1))
    c.same("a leaf after the error", x, array)
    with tb.no_grad():
        x += 1
    c.same("a leaf += 1 under no_grad", x, array + np.ones(1, array.dtype))
    c.true("a leaf += 1 under no_grad", x.is_leaf and x.requires_grad, "is no leaf any more")
