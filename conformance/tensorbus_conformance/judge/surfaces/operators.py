"""Python's operators: both sides, scalars by value, outside `trace` and inside, cold and warm.

Results of `+ - * / < == & ~` and the like are exact or rounded once, so NumPy gives their bits (16
bits wide ones through float32, which holds twice their digits and two more, so that rounding twice
is rounding once); what has a margin goes to the oracle.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt

from ...oracle import REFERENCES
from ..comparing import claimed_bound
from ..layouts import host
from .checks import Checks, surface

__all__ = ["operators"]

Array = NDArray[Any]

_ARITHMETIC: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide,
}  # fmt: skip
_BITWISE: dict[str, Any] = {
    "and_": np.bitwise_and, "or_": np.bitwise_or, "xor": np.bitwise_xor,
    "lshift": np.left_shift, "rshift": np.right_shift,
}  # fmt: skip
_COMPARISONS: dict[str, Any] = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip
_MARGIN = {"floordiv": "floor_divide", "mod": "remainder", "pow": "pow"}


def _operators(c: Checks) -> dict[str, Any]:
    if c.dtype is dt.bool_:
        found = {k: _BITWISE[k] for k in ("and_", "or_", "xor")}
        return found | {k: _COMPARISONS[k] for k in ("eq", "ne")}
    found = dict(_ARITHMETIC) | _COMPARISONS
    if c.dtype.is_integer:
        del found["truediv"]
        found |= _BITWISE
    return found | dict.fromkeys(_MARGIN)


def _data(c: Checks) -> tuple[Array, Array]:
    if c.dtype is dt.bool_:
        return np.asarray([True, True, False, False]), np.asarray([True, False, True, False])
    if c.dtype.is_integer:
        whole = [0, 1, 5, 3, c.dtype.max, c.dtype.max - 1, c.dtype.min, 7]
        parts = [1, 2, 3, 7, 1, 2, 1, 4]
        return np.asarray(whole, c.dtype.numpy), np.asarray(parts, c.dtype.numpy)
    left = [0.0, -0.0, 1.5, -2.25, 1 / 3, np.inf, -np.inf, np.nan, 7.0, 1.0]
    right = [-0.0, 3.0, 0.1, 2.0, -3.0, 2.0, np.inf, 1.0, -2.0, 1.0]
    return np.asarray(left).astype(c.dtype.numpy), np.asarray(right).astype(c.dtype.numpy)


def _scalars(c: Checks) -> list[Any]:
    if c.dtype is dt.bool_:
        return [True, False]
    if c.dtype.is_integer:
        return [1, 2, 0, 3, min(c.dtype.max, 2**62)] + ([-1, -3] if c.dtype.kind == "i" else [])
    special = [0.0, -0.0, 1.0, 1, 2.0, 2, 0.1, -3, 0.5, float("inf"), float("-inf"), float("nan")]
    return [*special, 1e30, 2**24 + 1, -7.25] if c.dtype.bits >= 32 else special


@surface(
    "operators",
    (dt.float32, dt.float64, dt.float16, dt.bfloat16, dt.int32, dt.int64, dt.uint8, dt.bool_),
    (dt.float32, dt.int32),
)
def operators(c: Checks) -> None:
    """Every operator on tensors, scalars of every value on either side, then what is refused."""
    a, b = _data(c)
    some = ("add", "sub", "mul", "lt", "and_", "rshift")  # of int32 at level smoke
    for name, function in _operators(c).items():
        if not (c.thorough or c.dtype.is_float or name in some):
            continue
        call = getattr(operator, name)
        _tensors(c, name, call, function, a, b)
        _numbers(c, name, call, function, b if name in ("lshift", "rshift") else a)
    _unary(c, a)
    _orders(c, b)
    _kinds(c)
    _errors(c, a)


def _check(c: Checks, label: str, name: str, function: Any, got: tb.Tensor, *args: Any) -> None:
    """A result against NumPy's bits where it is exact, else against the oracle."""
    if function is not None:
        wide = [
            np.asarray(a).astype(c.dtype.numpy) if isinstance(a, bool | int | float) else a
            for a in args
        ]
        with np.errstate(all="ignore"):
            want = np.asarray(function(*wide))
        c.same(label, got, want if want.dtype == np.bool_ else want.astype(c.dtype.numpy))
        return
    reference = REFERENCES[_MARGIN[name]]
    with np.errstate(all="ignore"):
        due = reference.forward(*args)
    have = host(got)
    ulps = claimed_bound(_MARGIN[name], c.dtype, c.device)
    judge = reference.judge(
        c.dtype.numpy, {}, ulps, statistics=False,
        subnormals=c.device.capabilities.subnormals != "flush",
    )  # fmt: skip
    assert not isinstance(due, tuple)
    verdict = judge.check(have, due)
    c.outcome.decided += verdict.decided
    if not verdict.ok:
        c.fail(label, verdict.message)


def _sensible(name: str, c: Checks, left: Any, right: Any) -> bool:
    """Whether the documents say what comes out: integers are not divided by 0, and so on."""
    if c.dtype.is_integer:
        if name in ("floordiv", "mod"):
            return bool(np.all(np.asarray(right) != 0))
        if name == "pow":
            return bool(np.all(np.asarray(right) >= 0))
        if name in ("lshift", "rshift"):
            r = np.asarray(right)
            return bool(np.all((r >= 0) & (r < c.dtype.bits)))
    return True


def _tensors(c: Checks, name: str, call: Any, function: Any, a: Array, b: Array) -> None:
    """Two tensors: the first call makes a plan, later ones run it with other offsets and data."""
    x, y = c.put(a), c.put(b)
    with tb.reproducible():
        for turn in ("first", "second", "third"):
            _check(c, f"x {name} y, {turn} call", name, function, call(x, y), a, b)
        with tb.trace() as trace:
            inside = call(x, y)
        c.true(f"x {name} y", len(trace) >= 1, "a warm call leaves no trace")
        _check(c, f"x {name} y inside trace", name, function, inside, a, b)
        rolled = np.roll(b, 1)
        if _sensible(name, c, a, rolled):
            _check(
                c, f"x {name} y, other values", name, function, call(x, c.put(rolled)), a, rolled
            )
        full = c.thorough or c.dtype is dt.float32
        for layout in ("offset", "negative", "general") if full else ("offset",):
            p, q = c.put(a, layout), c.put(b, layout)
            for left, right in ((p, y), (x, q), (p, q)) if c.thorough else ((p, q),):
                _check(c, f"x {name} y {layout}", name, function, call(left, right), a, b)
        for k in (1, 3, 2, 1):  # the same specs at other offsets
            got = call(x[k:-1], y[k - 1 : -2])
            if _sensible(name, c, a, b):
                parts = a[k:-1], b[k - 1 : -2]
                _check(c, f"x[{k}:-1] {name} y[{k - 1}:-2]", name, function, got, *parts)
                got = call(x[k - 1 : -2], y[k:-1])
                parts = a[k - 1 : -2], b[k:-1]
                _check(c, f"x[{k - 1}:-2] {name} y[{k}:-1]", name, function, got, *parts)
        if _sensible(name, c, a, a):
            own = call(x, x)
            c.true(f"x {name} x", own._buffer is not x._buffer, "is written over x")
            _check(c, f"x {name} x", name, function, own, a, a)
            halves = call(y[1:], y[:-1]), call(y[:-1], y[1:])
            _check(c, f"y[1:] {name} y[:-1]", name, function, halves[0], b[1:], b[:-1])
            _check(c, f"y[:-1] {name} y[1:]", name, function, halves[1], b[:-1], b[1:])
        if full:
            _check(
                c, f"column {name} row", name, function, call(x[:, None], y[2]), a[:, None], b[2]
            )
    c.same(f"left operand of {name}", x, a)
    c.same(f"right operand of {name}", y, b)


def _numbers(c: Checks, name: str, call: Any, function: Any, a: Array) -> None:
    """Python numbers on either side, told apart by value where they are equal: 0.0 and -0.0.

    A number travels with a launch; beside a tensor that is recorded it is a tensor.
    """
    x = c.put(a)
    with tb.reproducible():
        for turn in range(2):
            if turn and c.dtype.is_float:
                x.requires_grad = True
            for s in _scalars(c):
                if _sensible(name, c, a, s):
                    got = call(x, s)
                    _check(c, f"x {name} {s!r}, call {turn}", name, function, got, a, s)
                if _sensible(name, c, s, a):
                    got = call(s, x)
                    _check(c, f"{s!r} {name} x, call {turn}", name, function, got, s, a)
    c.same(f"x after {name} with numbers", x.detach(), a)


def _unary(c: Checks, a: Array) -> None:
    x = c.put(a, "general")
    calls: dict[str, tuple[Callable[[Any], Any], Any]] = {}
    if c.dtype is not dt.bool_:
        calls = {"-": (operator.neg, np.negative), "+": (operator.pos, np.positive)}
        calls["abs"] = (abs, np.abs)
    if not c.dtype.is_float:
        calls["~"] = (operator.invert, np.invert)
    for name, (change, function) in calls.items():
        for turn in range(2):
            got = change(x)
            with np.errstate(all="ignore"):
                c.same(f"{name}x, call {turn}", got, np.asarray(function(a)).astype(a.dtype))
            c.true(f"{name}x", got is not x and not (name != "+" and got._buffer is x._buffer))
    c.same("x after unary operators", x, a)
    if c.dtype.is_float:
        c.raises("~x of floats", TypeError, lambda: ~x)
    if c.dtype is dt.bool_:
        c.raises("-x of bools", TypeError, lambda: -x)


def _orders(c: Checks, b: Array) -> None:
    """Matrix products from both sides; chained comparisons; what `in` means."""
    if c.dtype.is_float:
        m = (np.arange(6) % 4).astype(c.dtype.numpy).reshape(2, 3)
        n = (np.arange(12) % 5 - 2).astype(c.dtype.numpy).reshape(3, 4)
        due = (m.astype(np.float64) @ n.astype(np.float64)).astype(c.dtype.numpy)
        for turn in range(2):
            c.same(f"m @ n, call {turn}", c.put(m) @ c.put(n), due)
            c.same(f"m @ n strided, call {turn}", c.put(m, "general") @ c.put(n, "transposed"), due)
        c.raises("m @ 2", (TypeError, ValueError), lambda: c.put(m) @ 2)
        c.raises("2 @ m", (TypeError, ValueError), lambda: 2 @ c.put(m))
        c.raises("n @ m", ValueError, lambda: c.put(n) @ c.put(m))
    one, two = c.put(b[:1]), c.put(b[1:2])
    if c.dtype is not dt.bool_:
        chain = bool(b[0] < b[1]) and bool(b[1] <= b[1])
        c.true("a < b <= b", bool(one < two <= two) == chain)
        c.true("a in x", (b[1].item() in c.put(b)) and (99 not in c.put(b)))


def _kinds(c: Checks) -> None:
    """The dtype of a result with a number of another kind."""
    x = c.put(np.ones(2, c.dtype.numpy))
    if c.dtype is dt.bool_:
        for s in (1, 0, 1.0):
            c.raises(f"bools & {s!r}", TypeError, lambda s=s: x & s)
            c.raises(f"{s!r} | bools", TypeError, lambda s=s: s | x)
        c.raises("bools + 1", TypeError, lambda: x + 1)
        return
    c.true("x + 2", (x + 2).dtype is c.dtype and (2 + x).dtype is c.dtype)
    for s in (True, False):
        c.raises(f"x + {s}", TypeError, lambda s=s: x + s)
        c.raises(f"{s} * x", TypeError, lambda s=s: s * x)
    if c.dtype.is_integer:
        c.same("ints + 0.5", x + 0.5, np.full(2, 1.5, np.float32))
        c.same("0.5 - ints", 0.5 - x, np.full(2, -0.5, np.float32))
        c.same("ints < 1.5", x < 1.5, np.asarray([True, True]))
        c.same("-0.0 * ints", -0.0 * x, np.full(2, -0.0, np.float32))
        if c.dtype.bits >= 32:
            big = c.put(np.full(2, 2**24 + 3, c.dtype.numpy))
            c.same("ints * 1.0", big * 1.0, np.full(2, 2**24 + 4, np.float32))
    else:
        c.true("x * 0.5", (x * 0.5).dtype is c.dtype and (0.5 * x).dtype is c.dtype)
        c.raises("floats & 1", TypeError, lambda: x & 1)
        c.raises("1 << floats", TypeError, lambda: 1 << x)


def _errors(c: Checks, a: Array) -> None:
    x = c.put(a)
    if c.dtype.is_integer:
        for s in (c.dtype.max + 1, c.dtype.min - 1, 10**40, -(10**40)):
            for n, call in enumerate(
                (lambda s=s: x + s, lambda s=s: s - x, lambda s=s: x * s, lambda s=s: s // x)
            ):
                c.raises(f"form {n} of x and {s}", OverflowError, call)
    for bad in ("a", None, object(), [1, 2], 1j, (1,)):
        c.raises(f"x & {bad!r:.10}", TypeError, lambda bad=bad: x & bad)
        c.raises(f"{bad!r:.10} ^ x", TypeError, lambda bad=bad: bad ^ x)
    other = c.put(np.resize(a, a.size + 1))
    both: Callable[[Any, Any], Any] = operator.and_ if c.dtype is dt.bool_ else operator.sub
    c.raises("sizes 4 and 5", ValueError, lambda: both(x, other))
    c.raises("sizes 0 and 5", ValueError, lambda: both(x[:0], other))
    if c.device.name != "ref":
        c.raises("two devices", ValueError, lambda: both(x, tb.asarray(a, device="ref")))
    c.same("after errors", x, a)
