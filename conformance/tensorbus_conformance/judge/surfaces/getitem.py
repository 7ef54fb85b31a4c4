"""``x[key]``: elements, dtype, shape, what shares memory, errors and derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Feature
from tensorbus_backends.environment import switch

from ..layouts import place
from .checks import MOVED, Checks, distinct, surface
from .keys import Key, keys

__all__ = ["getitem"]

Array = NDArray[Any]


@surface("getitem", MOVED, (dt.float32,))
def getitem(c: Checks) -> None:
    """NumPy decides what a key names; elements are moved, so bits are bits."""
    full = c.thorough and c.dtype is dt.float32
    for n, key in enumerate(keys(c, 400 if full else 90)):
        array = distinct(key.shape, c.dtype, 1 + n)
        if n % 7 == 6 and key.shape and array.size:
            x, array = place(c.device, array, "broadcast")
        else:
            x = c.put(array, key.layout)
        _read(c, key, x, array)
        if c.dtype.is_float and (c.thorough or n % 6 == 0):
            _derivatives(c, key, array)
    _forms(c)
    _errors(c)
    _late(c)


def _read(c: Checks, key: Key, x: tb.Tensor, array: Array) -> None:
    label = f"x[key], {key}"
    try:
        want = array[key.numpy]
    except IndexError:
        c.raises(label, (IndexError, ValueError), lambda: x[key.ours])
        return
    got = c.attempt(label, lambda: x[key.ours])
    if got is None or not c.same(label, got, want) or not got.size:
        return
    shares = got._buffer is x._buffer
    if key.advanced:
        c.true(label, not shares, "elements named by tensors share the operand's memory")
    else:
        c.true(label, shares, "a slice does not share the operand's memory")
    again = c.attempt(label, lambda: x[key.ours])
    c.true(f"{label}, again", again is not None and again.strides == got.strides)
    c.same(f"{label}, again", again, want)
    c.true(label, not got.requires_grad and got.device is x.device)


def _derivatives(c: Checks, key: Key, array: Array) -> None:
    """Reverse: every place receives the cotangents of the elements read from it; few, so exact."""
    label = f"gradient of x[key], {key}"
    try:
        want = array[key.numpy]
    except IndexError:
        return
    cotangent = c.rng.integers(-4, 5, want.shape).astype(c.dtype.numpy)
    tangent = c.rng.integers(-9, 10, array.shape).astype(c.dtype.numpy)
    places = np.arange(array.size).reshape(array.shape)[key.numpy]
    due = np.zeros(array.size)
    np.add.at(due, places.reshape(-1), cotangent.astype(np.float64).reshape(-1))
    x = c.put(array, key.layout)
    x.requires_grad = True
    y = c.attempt(label, lambda: x[key.ours])
    if y is None or not c.true(label, y.requires_grad, "nothing is recorded"):
        return
    got = c.attempt(label, lambda: tb.grad(y, x, c.put(cotangent, "general"))[0])
    if got is not None and want.size:
        # 0.0 and -0.0 are one number here: a sum of nothing beside a sum of one -0.0.
        value = got.numpy().astype(np.float64) + 0.0
        c.same(label, value, due.reshape(array.shape) + 0.0)
    pair = c.attempt(
        f"tangent of x[key], {key}",
        lambda: tb.jvp(lambda a: a[key.ours], [c.put(array)], [c.put(tangent, key.layout)]),
    )
    if pair is not None:
        c.same(f"value of jvp, {key}", pair[0], want)
        c.same(f"tangent of x[key], {key}", pair[1], tangent[key.numpy])


def _forms(c: Checks) -> None:
    """Views of views, the whole tensor, iteration order of a key's forms."""
    array = distinct((6, 5), c.dtype)
    x = c.put(array, "general")
    for chain in ([slice(1, None), slice(None, None, -2)], [slice(None, None, -1), 2, slice(1, 4)]):
        got: Any = x
        want: Any = array
        for step in chain:
            got, want = got[step], want[step]
            c.same(f"view of a view {chain}", got, want)
            c.true(f"view of a view {chain}", got._buffer is x._buffer)
    whole_keys: tuple[Any, ...] = ((), Ellipsis, slice(None), (slice(None), Ellipsis))
    for key in whole_keys:
        whole = x[key]
        c.same(f"x[{key}]", whole, array)
        c.true(f"x[{key}]", whole is not x and whole._buffer is x._buffer, "is the tensor itself")
    c.same("x[i][j]", x[-1][-5], array[-1][-5])
    i = c.put(np.asarray([4, 0]))
    c.same("x[i, i]", x[i, i], array[[4, 0], [4, 0]])
    c.same("x[i.T, i]", x[i[:, None], i], array[np.ix_([4, 0], [4, 0])])
    c.same("x[x == x]", x[x == x], array.reshape(-1))
    # A plan made for one offset must not serve another.
    for k in (0, 3, 1, 5, 2):
        c.same(f"x[{k}:][i]", x[k:][c.put(np.asarray([0]))], array[k:][[0]])
        c.same(f"x[{k}]", x[k], array[k])


def _late(c: Checks) -> None:
    """Where a bad index is found after the call, it read 0 or wrote nothing, and is told once.

    Beside each bad index is a good one, whose element is read or written as ever.
    """
    if c.device.backend.has(Feature.SYNCHRONOUS) or switch("TENSORBUS_CHECK_INDICES"):
        return
    array, values = distinct((4, 3), c.dtype), distinct((6, 3), c.dtype, 20)
    index = np.asarray([1, 4, -4, -5, 1 << 40, -(1 << 63)])
    read = np.where(np.isin(index, (1, -4))[:, None], array[index % 4], np.zeros_like(array[:1]))
    written, one = array.copy(), array.copy()
    written[[1, 0]], one[0, 2] = values[[0, 2]], values[1, 0]
    x, i, v = c.put(array), c.put(index), c.put(values)
    wide = c.put(np.broadcast_to(index[:, None], (6, 3)))

    def stored(*key: Any, value: tb.Tensor) -> tb.Tensor:
        y = c.put(array)
        y[key] = value
        return y

    rows, columns = c.put(np.asarray([1, -4, 4])), c.put(np.asarray([3, 2, 0]))
    calls: list[tuple[str, Callable[[], tb.Tensor], Array]] = [
        ("take", lambda: tb.take(x, i, axis=0), read),
        ("indexing", lambda: x[i], read),
        ("take_along_axis", lambda: tb.take_along_axis(x, wide, axis=0), read),
        ("gather", lambda: tb.gather(x, wide, axis=0), read),
        ("embedding", lambda: tb.nn.embedding(i, x), read),
        ("indexing", lambda: x[rows, columns], np.asarray([0, array[0, 2], 0], array.dtype)),
        ("scatter", lambda: tb.scatter(tb.concat([x, x])[:4], wide[:4], v[:4], axis=0), written),
        ("indexing", lambda: stored(i, value=v), written),
        ("indexing", lambda: stored(rows, columns, value=v[:3, 0]), one),
    ]
    if c.dtype is not dt.bool_:
        total = array.copy()
        total[[1, 0]] += values[[0, 2]]
        calls.append(("index_add", lambda: tb.index_add(x, i, v, axis=0), total))
    for n, (name, call, due) in enumerate(calls):
        label = f"{name} with bad indices, {n}"
        out = c.attempt(label, call)
        c.refuses(f"{label}, later", IndexError, c.device.synchronize, f"{name}: index ")
        c.attempt(f"{label}, once more", c.device.synchronize)
        if out is not None:
            c.same(label, out, due)


def _errors(c: Checks) -> None:
    x = c.put(distinct((4, 3), c.dtype))
    empty = c.put(distinct((0, 3), c.dtype))
    zero = c.put(distinct((), c.dtype))
    real = c.put(np.ones(3, np.float32))
    for n, key in enumerate((
        4, -5, (0, 3), (0, -4), (slice(None), 3), 10**30, -(10**30), (0, 0, 0), (None, 0, 0, 0),
        (..., ...), 1.0, 0.5, "a", True, np.bool_(True), np.float32(1), object(), 1j,
        real, [0.5], {0: 1}, (0, "b"), slice(0.5, None), slice("a"),
        c.put(np.asarray([4])), c.put(np.asarray([-5])), c.put(np.asarray([0, 1, 99], np.uint8)),
        (slice(None), c.put(np.asarray([3]))), (0, c.put(np.asarray([-4]))),
        c.put(np.ones(3, bool)), c.put(np.ones((4, 4), bool)), c.put(np.ones((4, 3, 1), bool)),
        [0, 4], [[0], [-5]],
    )):  # fmt: skip
        c.raises(f"bad key {n} {key!r:.40}", IndexError, lambda key=key: x[key])
    c.raises("slice step 0", ValueError, lambda: x[::0])
    c.raises("index into nothing", IndexError, lambda: empty[0])
    c.raises("index into nothing", IndexError, lambda: empty[-1])
    c.raises("array into nothing", IndexError, lambda: empty[c.put(np.asarray([0]))])
    for bad in (0, slice(None), -1, c.put(np.asarray([0]))):
        c.raises("index of a number", IndexError, lambda bad=bad: zero[bad])
    three, two = c.put(np.asarray([0, 1, 2])), c.put(np.asarray([0, 1]))
    c.raises("index tensors of sizes 3 and 2", (IndexError, ValueError), lambda: x[three, two])
    if c.device.name != "ref":
        elsewhere = tb.asarray([0], device="ref")
        c.raises("index of another device", ValueError, lambda: x[elsewhere])
        c.raises(
            "mask of another device", ValueError, lambda: x[tb.asarray([True] * 4, device="ref")]
        )
