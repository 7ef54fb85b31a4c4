"""The scalar IR in NumPy: the executable specification of every primitive.

`evaluate` computes expressions for many elements at once.  It is spelled independently of the
C-like renderer, and slowly: what it does must be plain.  Results are IEEE 754's, provided that the
processor does not flush subnormals; device `ref` checks that before it speaks.  Inside
`flushing.flushing` they are those of a device that flushes float32 subnormals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import dtypes as dt, flushing
from .dtypes import DType
from .ir import Expr, walk

__all__ = ["add", "convert", "evaluate", "fma32", "fma64", "narrow", "widen"]

Array = NDArray[Any]


def widen(stored: Array, storage: DType) -> Array:
    """Storage values as compute values."""
    if storage is dt.bool_:
        return np.asarray(stored.view(np.uint8) != 0)
    return stored.astype(storage.compute.numpy, copy=False)


def narrow(value: Array, storage: DType) -> Array:
    """Compute values rounded once to what is stored."""
    if value.dtype == storage.numpy:
        return value
    if storage in (dt.float16, dt.bfloat16):
        with np.errstate(all="ignore"):
            single = value if value.dtype == np.float32 else _to_odd32(value)
            return single.astype(storage.numpy)
    return _cast(value, storage)


def convert(stored: Array, source: DType, target: DType) -> Array:
    """Storage values of one dtype as those of another, rounded once: what ``astype`` gives."""
    value = widen(stored, source)
    if target in (dt.float16, dt.bfloat16):
        return narrow(value, target)
    with np.errstate(all="ignore"):
        return _cast(value, target)


def _to_odd32(x: Array) -> Array:
    """float64 or integer to float32, rounded to odd (Boldo and Melquiond, 2008)."""
    if x.dtype == np.bool_:
        return x.astype(np.float32)
    if x.dtype.kind in "iu":
        negative = x < 0
        size = np.where(negative, 0 - x.astype(np.uint64), x.astype(np.uint64))
        shift = np.zeros(size.shape, np.uint64)
        for step in (32, 16, 8, 4, 2, 1):
            far = (size >> (shift + np.uint64(step))) >= 0x800000
            shift = np.where(far, shift + np.uint64(step), shift)
        kept = size >> shift
        kept = kept | ((kept << shift) != size).astype(np.uint64)
        result = kept.astype(np.float32) * np.exp2(shift.astype(np.float32))
        return np.asarray(np.where(negative, -result, result).astype(np.float32))
    y = x.astype(np.float32)
    bits = y.view(np.uint32).copy()
    back = y.astype(np.float64)
    inexact = (back != x) & ~np.isnan(x)
    away = inexact & (np.abs(back) > np.abs(x))
    bits -= away.astype(np.uint32)
    bits |= inexact.astype(np.uint32)
    return bits.view(np.float32)


def _nudge_odd(s: Array, error: Array) -> Array:
    """Turn a sum rounded to nearest, with its exact error, into the sum rounded to odd."""
    bits = s.view(np.int64)
    move = (error != 0) & np.isfinite(error) & np.isfinite(s) & (bits & 1 == 0)
    outward = (error > 0) == (s > 0)
    step = np.where(s == 0, 0, np.where(outward, 1, -1))
    return (bits + np.where(move, step, 0)).view(np.float64)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    s = a + b
    bb = s - a
    return s, (a - (s - bb)) + (b - bb)


def fma32(a: Array, b: Array, c: Array) -> Array:
    """float32 fma: the product is exact in float64, the sum is rounded to odd there first."""
    wide, tiny = np.float64, flushing.tininess()
    if tiny is not None:
        a, b, c = map(flushing.flush, (a, b, c))
    s, error = _two_sum(np.asarray(a.astype(wide) * b.astype(wide)), c.astype(wide))
    odd = _nudge_odd(np.atleast_1d(s), np.atleast_1d(error)).reshape(s.shape)
    return odd.astype(np.float32) if tiny is None else flushing.result(odd, tiny)


def add(a: Array, b: Array) -> Array:
    """The primitive ``add`` on arrays of one dtype."""
    return np.asarray(_plain("add", a.dtype)(a, b))


@cache
def _libm_fma() -> Callable[[float, float, float], float]:
    import ctypes
    import ctypes.util

    library = ctypes.CDLL(ctypes.util.find_library("m") or None)
    function = library.fma
    function.restype = ctypes.c_double
    function.argtypes = [ctypes.c_double] * 3
    return function


def _split(a: Array) -> tuple[Array, Array]:
    """Veltkamp's splitting into two 26-bit halves."""
    t = a * 134217729.0
    high = t - (t - a)
    return high, a - high


def fma64(a: Array, b: Array, c: Array) -> Array:
    """float64 fma: error-free transformations inside a safe range, the C library elsewhere.

    Method: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms
    using rounding to odd", IEEE Trans. Computers 57(4), 2008.
    """
    a, b, c = (np.atleast_1d(np.asarray(x, np.float64)) for x in np.broadcast_arrays(a, b, c))
    product = a * b
    result = product + c
    low, high = 2.0**-400, 2.0**400
    fine = (np.abs(a) > low) & (np.abs(a) < high) & (np.abs(b) > low) & (np.abs(b) < high)
    fine &= (np.abs(c) < high**2) & ((np.abs(c) > low) | (c == 0))
    todo = ~((product == 0) & ((a == 0) | (b == 0))) & np.isfinite(a) & np.isfinite(b)
    # An infinite addend wins over a finite product, even one that overflows when it is rounded.
    result = np.where(todo & np.isinf(c), c, result)
    todo &= np.isfinite(c)
    at = np.nonzero(fine & todo)
    if at[0].size:
        x, y, z, p = a[at], b[at], c[at], product[at]
        (xh, xl), (yh, yl) = _split(x), _split(y)
        e = ((xh * yh - p) + xh * yl + xl * yh) + xl * yl
        uh, ul = _two_sum(z, e)
        th, tl = _two_sum(p, uh)
        v, error = _two_sum(tl, ul)
        result[at] = th + _nudge_odd(v, error)
    rare = np.nonzero(todo & ~fine)
    if rare[0].size:
        exact = _libm_fma()
        triples = zip(a[rare].tolist(), b[rare].tolist(), c[rare].tolist(), strict=True)
        result[rare] = [exact(*t) for t in triples]
    return result


def _cast(x: Array, to: DType) -> Array:
    tiny = flushing.tininess()
    if tiny is not None and x.dtype == np.float32:
        x = flushing.flush(x)
    if tiny is not None and x.dtype == np.float64 and to is dt.float32:
        return flushing.result(x, tiny)
    if to is dt.bool_:
        return np.asarray(x != 0)
    if x.dtype.kind == "f" and to.is_integer:
        lowest, above = float(to.min), float(to.max + 1)
        whole = np.trunc(x)
        inside = (whole >= lowest) & (whole < above)
        result = np.where(inside, whole, 0).astype(to.numpy)
        result = np.where(x >= above, to.numpy.type(to.max), result)
        return np.where(x < lowest, to.numpy.type(to.min), result)
    return x.astype(to.numpy)


def _divide(op: str, a: Array, b: Array) -> Array:
    """Truncating division with the defined results for divisors 0 and -1."""
    special = (b == 0) if b.dtype.kind == "u" else (b == 0) | (b == b.dtype.type(-1))
    safe = np.where(special, b.dtype.type(1), b)
    if b.dtype.kind == "u":
        quotient, rest = a // safe, a % safe
    else:
        rest = np.fmod(a, safe)
        quotient = ((a - rest) // safe).astype(a.dtype)
    if op == "irem":
        return np.where(special, a.dtype.type(0), rest)
    return np.where(special, np.where(b == 0, a.dtype.type(0), (0 - a).astype(a.dtype)), quotient)


def _mulhi(a: Array, b: Array) -> Array:
    bits = a.dtype.itemsize * 8
    if bits < 64:
        wide = np.int64 if a.dtype.kind == "i" else np.uint64
        return ((a.astype(wide) * b.astype(wide)) >> wide(bits)).astype(a.dtype)
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = a.astype(np.uint64), b.astype(np.uint64)
    xl, xh, yl, yh = x & mask, x >> half, y & mask, y >> half
    middle = xh * yl + ((xl * yl) >> half)
    other = xl * yh + (middle & mask)
    high = xh * yh + (middle >> half) + (other >> half)
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return np.asarray(high.astype(a.dtype))


def _shift(op: str, a: Array, n: Array) -> Array:
    bits = a.dtype.itemsize * 8
    inside = (n >= 0) & (n < bits)
    amount = np.where(inside, n, 0).astype(a.dtype)
    if op == "shl":
        return np.asarray(np.where(inside, np.left_shift(a, amount), a.dtype.type(0)))
    gone = np.where(a < 0, a.dtype.type(-1), a.dtype.type(0)) if a.dtype.kind == "i" else 0
    return np.where(inside, np.right_shift(a, amount), gone).astype(a.dtype)


_PLAIN: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "sqrt": np.sqrt,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "rint": np.rint,
    "neg": np.negative,
    "abs": np.abs,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "select": np.where,
    "mulhi": _mulhi,
}


def _plain(op: str, dtype: np.dtype[Any]) -> Callable[..., Any]:
    """A primitive that NumPy has, for operands of `dtype`."""
    function = _PLAIN[op]
    return flushing.wrapped(op, function) if dtype == np.float32 else function


class _Evaluation:
    def __init__(
        self,
        leaf: Callable[[Expr], Array],
        load: Callable[[int, DType, Array], Array],
    ) -> None:
        self.leaf, self.load = leaf, load
        self.values: dict[int, Any] = {}
        self.active: Array | None = None

    def run(self, root: Expr) -> None:
        stack = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if id(node) in self.values:
                continue
            if node.op == "repeat":
                n = node.attr[1]
                if ready:
                    self._loop(node, n)
                else:
                    stack.append((node, True))
                    stack.extend((a, False) for a in node.args[: 1 + n])
            elif ready or not node.args:
                self.values[id(node)] = self._value(node)
            else:
                stack.append((node, True))
                stack.extend((a, False) for a in node.args)

    def _loop(self, node: Expr, n: int) -> None:
        loop = node.attr[0]
        count = np.asarray(self.values[id(node.args[0])])
        carried = [self.values[id(a)] for a in node.args[1 : 1 + n]]
        bodies = node.args[1 + n :]
        inside = [x for x in walk(*bodies) if loop in x.free]
        # A carried value that its body does not name has no node there, and needs no value.
        slots = {x.attr[1]: id(x) for x in inside if x.op == "carry" and x.attr[0] == loop}
        counters = [id(x) for x in inside if x.op == "iter" and x.attr == loop]
        outer = self.active
        for i in range(int(count.max(initial=0))):
            for x in inside:
                self.values.pop(id(x), None)
            for k, key in slots.items():
                self.values[key] = carried[k]
            for key in counters:
                self.values[key] = np.asarray(i, np.int32)
            going = np.asarray(i < count)
            self.active = going if outer is None else going & outer
            for b in bodies:
                self.run(b)
            new = [self.values[id(b)] for b in bodies]
            carried = [np.where(going, v, old) for v, old in zip(new, carried, strict=True)]
        self.active = outer
        for x in inside:
            self.values.pop(id(x), None)
        self.values[id(node)] = carried

    def _value(self, node: Expr) -> Any:
        op, dtype = node.op, node.dtype
        a = [self.values[id(x)] for x in node.args]
        if op == "const":
            if dtype.is_float:
                return np.asarray(node.attr, f"u{dtype.itemsize}").view(dtype.numpy)
            return np.asarray(node.attr, dtype.numpy)
        if op == "get":
            return a[0][node.attr]
        if op in ("input", "index", "param"):
            return self.leaf(node)
        if op == "fma":
            x, y, z = np.broadcast_arrays(*a)
            result = fma32(x, y, z) if dtype is dt.float32 else fma64(x, y, z)
            return result.reshape(x.shape)
        if op in ("idiv", "irem"):
            return _divide(op, *np.broadcast_arrays(*a))
        if op in ("shl", "shr"):
            return _shift(op, *np.broadcast_arrays(*a))
        if op == "cast":
            return _cast(np.asarray(a[0]), dtype)
        if op == "round_to":
            return widen(narrow(np.asarray(a[0]), node.attr), node.attr)
        if op == "bitcast":
            return np.ascontiguousarray(a[0]).reshape(np.shape(a[0])).view(dtype.numpy)
        if op == "table":
            unsigned = f"u{dtype.itemsize}"
            entries = np.asarray(node.attr, unsigned if dtype.is_float else dtype.numpy)
            at = a[0] if self.active is None else np.where(self.active, a[0], 0)
            return entries.view(dtype.numpy)[at]
        if op == "load":
            slot, storage = node.attr
            at = a[0] if self.active is None else np.where(self.active, a[0], 0)
            return widen(np.asarray(self.load(slot, storage, at)), storage)
        return _plain(op, np.asarray(a[0]).dtype)(*a)


def evaluate(
    outputs: Sequence[Expr],
    leaf: Callable[[Expr], Array],
    load: Callable[[int, DType, Array], Array] | None = None,
) -> list[Array]:
    """Values of expressions for many elements.

    Args:
        outputs: Expressions without free loop values.
        leaf: Array of compute values for an ``input``, ``index`` or ``param`` leaf; all leaves
            broadcast against each other.
        load: ``load(slot, storage, at)``: elements of a buffer in storage dtype.
    """

    def no_load(slot: int, storage: DType, at: Array) -> Array:
        raise LookupError("this expression loads from a buffer, but none was given")

    state = _Evaluation(leaf, load or no_load)
    with np.errstate(all="ignore"):
        for out in outputs:
            state.run(out)
    return [np.asarray(state.values[id(out)]) for out in outputs]
