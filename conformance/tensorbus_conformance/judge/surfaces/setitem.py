"""``x[key] = value``: what changes, what does not, in all of the memory; and derivatives.

The reference works on the whole buffer: the places that a key names are found by applying it to an
array of places, and the value's elements are stored one after the other in C order, so that the
last one stays where a place is named twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

from ..layouts import host
from .checks import MOVED, Checks, distinct, memory_of, surface
from .keys import Key, keys

__all__ = ["places_of", "setitem"]

Array = NDArray[Any]


def places_of(x: tb.Tensor) -> Array:
    """For each element its place in the buffer, in elements."""
    first = np.arange(x._buffer.nbytes // x.dtype.itemsize)[x._offset :]
    steps = tuple(s * 8 for s in x.strides)
    return np.lib.stride_tricks.as_strided(first, x.shape, steps) if x.size else np.empty(x.shape)


_VALUES = ("number", "zero-d", "full", "row", "wide", "narrow", "numpy", "own", "strided")


def _value(c: Checks, kind: str, shape: tuple[int, ...], x: tb.Tensor) -> tuple[Any, Array]:
    """A value for elements of this shape, and what has to be stored of it, before broadcasting."""
    array = distinct(shape, c.dtype, 60)
    if kind == "number":
        number = True if c.dtype is dt.bool_ else 7
        return number, np.asarray(number).astype(c.dtype.numpy)
    if kind == "zero-d":
        one = distinct((), c.dtype, 90)
        return c.put(one), one
    if kind == "row" and shape:
        row = array[(0,) * (len(shape) - 1)] if array.size else array[:1].reshape(-1)[:1]
        row = row if row.size in (1, shape[-1]) else row[:0]
        return c.put(row), row
    if kind == "wide":
        return c.put(array.reshape(1, 1, *shape)), array
    if kind == "narrow" and (small := _narrower(c.dtype)) is not None and c.has(small):
        less = array.astype(small.numpy)
        return c.put(less), less.astype(c.dtype.numpy)
    if kind == "numpy" and c.dtype is not dt.bfloat16:
        return array, array
    if kind == "own" and x.shape == shape:
        return tb.flip(x), np.flip(host(x))
    return c.put(array, "general"), array


def _narrower(dtype: DType) -> DType | None:
    """Another dtype whose values fit."""
    if dtype is dt.bool_:
        return None
    if dtype.is_float:
        return dt.int32 if dtype.bits >= 32 else dt.int8
    same = {"i": dt.SIGNED, "u": (dt.uint8, dt.uint16, dt.uint32, dt.uint64)}[dtype.kind]
    smaller = [d for d in same if d.bits < dtype.bits]
    return smaller[-1] if smaller else None


@surface("setitem", MOVED, (dt.float32,))
def setitem(c: Checks) -> None:
    """The named elements hold the value, every other byte of the buffer what it held."""
    count = 300 if c.thorough and c.dtype is dt.float32 else 60
    for n, key in enumerate(keys(c, count)):
        array = distinct(key.shape, c.dtype, 1 + n)
        x = c.put(array, key.layout)
        kind = _VALUES[n % len(_VALUES)]
        _write(c, key, x, array, kind)
        if c.dtype.is_float and (c.thorough or n % 16 == 0):
            _derivatives(c, key, array, n % 12 == 0)
    _masks(c)
    _views(c)
    _overlaps(c)
    _repeats(c)
    _errors(c)


def _stored(memory: Array, places: Array, value: Array) -> Array:
    flat = memory.copy()
    spread = np.broadcast_to(value, places.shape).reshape(-1)
    for place, element in zip(places.reshape(-1).tolist(), spread, strict=True):
        flat[int(place)] = element
    return flat


def _write(c: Checks, key: Key, x: tb.Tensor, array: Array, kind: str) -> None:
    label = f"x[key] = {kind}, {key}"
    spec, offset, buffer = x._spec, x._offset, x._buffer
    before = memory_of(x)
    try:
        places = places_of(x)[key.numpy]
    except IndexError:
        c.raises(label, (IndexError, ValueError), lambda: x.__setitem__(key.ours, x))
        c.same(f"{label}, after the error", memory_of(x), before)
        return
    value, stored = _value(c, kind, places.shape, x)
    try:
        wanted = _stored(before, places, stored)
    except ValueError:
        return
    c.attempt(label, lambda: x.__setitem__(key.ours, value))
    c.same(label, memory_of(x), wanted)
    kept = x._spec is spec and x._offset == offset and x._buffer is buffer
    c.true(label, kept, "the tensor has moved")


def _derivatives(c: Checks, key: Key, array: Array, parts: bool) -> None:
    """What was overwritten loses its gradient, the value gets that of the places it holds."""
    label = f"gradient of x[key] = v, {key}"
    numbered = np.arange(array.size).reshape(array.shape)
    try:
        places = numbered[key.numpy]
    except IndexError:
        return
    values = distinct(places.shape, c.dtype, 60)
    cotangent = c.rng.integers(1, 9, array.shape).astype(c.dtype.numpy)
    a, v = c.put(array), c.put(values)
    a.requires_grad = v.requires_grad = True

    def change(p: tb.Tensor, q: tb.Tensor) -> tb.Tensor:
        y = p * 1
        y[key.ours] = q
        return y

    y = c.attempt(label, lambda: change(a, v))
    if y is None or not array.size:
        return
    got = c.attempt(label, lambda: tb.grad(y, [a, v], c.put(cotangent), allow_unused=True))
    if got is None or got[0] is None:
        c.true(label, got is not None, "no gradient")
        return
    flat = cotangent.reshape(-1)
    base, winner = flat.copy(), {int(p): k for k, p in enumerate(places.reshape(-1))}
    due = np.zeros(values.size, c.dtype.numpy)
    for place, k in winner.items():
        base[place] = 0
        due[k] = flat[place]
    c.same(f"{label}, of x", got[0], base.reshape(array.shape))
    if got[1] is not None:
        c.same(f"{label}, of v", got[1], due.reshape(values.shape))
    tangents = [c.rng.integers(1, 9, t.shape).astype(c.dtype.numpy) for t in (array, values)]
    pair = c.attempt(
        f"tangent of x[key] = v, {key}",
        lambda: tb.jvp(change, [c.put(array), c.put(values)], [c.put(t) for t in tangents]),
    )
    if pair is not None:
        moved = _stored(tangents[0].reshape(-1), places, tangents[1]).reshape(array.shape)
        c.same(f"tangent of x[key] = v, {key}", pair[1], moved)
    if parts:
        _parts(c, key, change, (array, values), places, (base, due), tangents, cotangent)


def _parts(
    c: Checks, key: Key, change: Callable[..., tb.Tensor], given: tuple[Array, Array],
    places: Array, gradients: tuple[Array, Array], tangents: list[Array], cotangent: Array,
) -> None:  # fmt: skip
    """With respect to what was there alone, and to the value alone; then of the derivative.

    A store is linear, so that its gradient does not change with what is stored.
    """
    x, v = given
    zero = np.zeros_like(tangents[1])
    for k, what in enumerate(("x", "v")):
        label = f"x[key] = v as a function of {what}, {key}"

        def alone(t: tb.Tensor, k: int = k) -> tb.Tensor:
            return change(*((t, c.put(v)) if k == 0 else (c.put(x), t)))

        pair = c.attempt(
            f"tangent of {label}",
            lambda k=k, f=alone: tb.jvp(f, [c.put(given[k])], [c.put(tangents[k])]),
        )
        due = (
            _stored(tangents[0].reshape(-1), places, zero)
            if k == 0
            else _stored(np.zeros(x.size, x.dtype), places, tangents[1])
        )
        if pair is not None:
            c.same(f"tangent of {label}", pair[1], due.reshape(x.shape))
        pulled = c.attempt(f"gradient of {label}", lambda k=k, f=alone: tb.vjp(f, c.put(given[k])))
        if pulled is None:
            continue
        c.same(f"gradient of {label}", pulled[1](c.put(cotangent))[0],
               gradients[k].reshape(given[k].shape))  # fmt: skip

        def again(g: tb.Tensor, k: int = k, f: Any = alone) -> Any:
            return tb.vjp(f, c.put(given[k]))[1](g)[0]

        # The gradient moves with its cotangent as the gradient of that.
        second = c.attempt(
            f"tangent of the gradient of {label}",
            lambda a=again: tb.jvp(a, [c.put(cotangent)], [c.put(cotangent)]),
        )
        if second is not None:
            c.same(f"tangent of the gradient of {label}", second[1],
                   gradients[k].reshape(given[k].shape))  # fmt: skip


def _masks(c: Checks) -> None:
    """Masks of one to three dimensions, a value of its own for each element that they name."""
    for shape, covered in (((40,), 1), ((5, 7), 2), ((6, 4, 3), 3), ((6, 4, 3), 2), ((9, 5), 1)):
        for layout in ("contiguous", "general", "transposed"):
            array = distinct(shape, c.dtype, 5)
            mask = c.rng.random(shape[:covered]) < 0.6
            mask.reshape(-1)[[0, -1]] = True
            value = distinct(array[mask].shape, c.dtype, 70)
            x, want = c.put(array, layout), array.copy()
            want[mask] = value
            label = f"x[mask] = v, {shape} by a mask of {covered} dimensions, {layout}"
            c.attempt(label, lambda x=x, m=mask, v=value: x.__setitem__(c.put(m), c.put(v)))
            c.same(label, x, want)


def _views(c: Checks) -> None:
    """A change through a view shows in the base and in other views, and the other way."""
    array = distinct((6, 5), c.dtype)
    new = distinct((), c.dtype, 103)
    for layout in ("contiguous", "general", "negative"):
        x = c.put(array, layout)
        want = array.copy()
        row, step, turned, same = x[2], x[1::2, ::-1], x.T, x.detach()
        row[1:3] = c.put(new)
        want[2, 1:3] = new
        step[0, 0] = c.put(new)
        want[1, 4] = new
        turned[0, 5] = c.put(new)
        want[5, 0] = new
        same[..., 3] = c.put(new)
        want[..., 3] = new
        c.same(f"base after its views were changed, {layout}", x, want)
        x[2] = c.put(distinct((5,), c.dtype, 70))
        want[2] = distinct((5,), c.dtype, 70)
        x[x == c.put(want[0, 0])] = c.put(new)
        want[want == want[0, 0]] = new
        for name, view, due in (
            ("x[2]", row, want[2]),
            ("x[1::2, ::-1]", step, want[1::2, ::-1]),
            ("x.T", turned, want.T),
            ("x.detach()", same, want),
        ):
            c.same(f"view {name} after its base was changed, {layout}", view, due)


def _overlaps(c: Checks) -> None:
    """A value that shares the memory that is changed is what it was before."""
    for n in (5, 64, 3000) if c.thorough else (5, 64):
        array = distinct(n, c.dtype, 3)
        for to, of in (
            (slice(1, None), slice(None, -1)),
            (slice(None, -1), slice(1, None)),
            (slice(None), slice(None, None, -1)),
            (slice(None, None, -1), slice(None)),
            (slice(None, n // 2), slice(n // 2 - 1, 2 * (n // 2) - 1)),
        ):
            x, want = c.put(array, "offset"), array.copy()
            x[to] = x[of]
            want[to] = array[of]
            c.same(f"x[{to}] = x[{of}], {n} elements", x, want)
    square = distinct((7, 7), c.dtype)
    x = c.put(square)
    x[...] = x.T
    c.same("x[...] = x.T", x, square.T)
    x = c.put(square)
    x[1:, 1:] = x[:-1, :-1]
    want = square.copy()
    want[1:, 1:] = square[:-1, :-1]
    c.same("x[1:, 1:] = x[:-1, :-1]", x, want)
    x[0] = x[0]
    c.same("x[0] = x[0]", x, want)
    x[c.put(np.asarray([2, 0]))] = x[:2]
    first = want.copy()
    want[[2, 0]] = first[:2]
    c.same("x[i] = x[:2]", x, want)


def _repeats(c: Checks) -> None:
    """Where integer tensors name an element more than once, the last in C order stays."""
    for n in (6, 700) if c.thorough else (6,):
        index = c.rng.integers(-4, 4, n)
        values = distinct(n, c.dtype, 11)
        x, want = c.put(distinct(4, c.dtype)), distinct(4, c.dtype)
        for k, v in zip(index.tolist(), values, strict=True):
            want[k] = v
        x[c.put(index)] = c.put(values)
        c.same(f"x[i] = v with {n} indices into 4 elements", x, want)
        both, due = c.put(distinct((4, 3), c.dtype)), distinct((4, 3), c.dtype)
        column = index % 3
        for k, j, v in zip(index.tolist(), column.tolist(), values, strict=True):
            due[k, j] = v
        both[c.put(index), c.put(column)] = c.put(values)
        c.same(f"x[i, j] = v with {n} pairs", both, due)


def _errors(c: Checks) -> None:
    array = distinct((4, 3), c.dtype)
    x = c.put(array)
    one = c.put(distinct((), c.dtype))

    def put(key: Any, value: Any) -> Any:
        return lambda: x.__setitem__(key, value)

    for n, key in enumerate((
        4, -5, (0, 3), (0, 0, 0), (..., ...), 1.0, "a", True, np.bool_(True), 1j, object(),
        c.put(np.asarray([4])), c.put(np.asarray([0.0], np.float32)), c.put(np.ones(3, bool)),
        (0, c.put(np.asarray([-4]))),
    )):  # fmt: skip
        c.raises(f"bad key {n} {key!r:.40} set", IndexError, put(key, one))
    for shape in ((2,), (4, 2), (2, 3), (0,), (2, 4, 3)):
        c.raises(
            f"a value of shape {shape}", ValueError, put(..., c.put(np.zeros(shape, c.dtype.numpy)))
        )
    c.raises("three values for two", ValueError, put([0, 1], c.put(distinct((3, 3), c.dtype))))
    bad: tuple[Any, ...] = ("a", [object()], None, 1j, {})
    for value in bad:
        c.raises(f"value {value!r:.20}", TypeError, put(0, value))
    c.raises("a mask's size", IndexError, put(c.put(np.ones((3,), bool)), one))
    wide = tb.broadcast_to(c.put(distinct((1, 3), c.dtype)), (4, 3))
    c.raises("a broadcast view", ValueError, lambda: wide.__setitem__(0, one))
    if c.dtype is dt.bool_:
        c.raises("a number for a bool", TypeError, put(0, 1))
    else:
        c.raises("a bool for a number", TypeError, put(0, True))
        c.raises("a bool tensor", TypeError, put(0, c.put(np.asarray(True))))
    if c.dtype.is_integer:
        c.raises("a float for an int", TypeError, put(0, 1.5))
        c.raises("a float tensor for ints", TypeError, put(0, c.put(np.float32(1))))
        for number in (c.dtype.max + 1, c.dtype.min - 1, 10**30):
            c.raises(f"{number} for {c.dtype.name}", OverflowError, put(0, number))
        x[0], array[0] = c.dtype.max, c.dtype.max
        x[1], array[1] = c.dtype.min, c.dtype.min
    if c.device.name != "ref":
        c.raises(
            "a value of another device", ValueError, put(0, tb.asarray(array[0], device="ref"))
        )
    c.same("after all errors", x, array)
    if c.dtype.is_float:
        x.requires_grad = True
        c.raises("a leaf", RuntimeError, put(0, one))
        c.raises("a view of a leaf", RuntimeError, lambda: x[1].__setitem__(0, one))
        with tb.no_grad():
            x[0] = one
        array[0] = 1
        c.same("a leaf under no_grad", x, array)
