"""Running error analysis: a formula's value and its first-order rounding error bound together.

A `Running` number is v with |computed - v| <= u (e + 2 p q) to first order: e collects the
roundings of the basic operations and q those of elementary functions of p ulps, each multiplied
by its effect on the result (Wilkinson's running error analysis; Higham, Accuracy and Stability,
section 3.3).  The functions here take Running numbers, float64 arrays, complex arrays (for the
complex-step derivative), object arrays of Arb balls, and `Dual` numbers over any of these, so
one formula serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray

from . import ball
from .elementwise import TRANSCENDENTAL
from .ulp import format_of
from .verdict import Reference

__all__ = ["Dual", "Running", "constant", "reference", "references", "summed", "where"]

Array = NDArray[Any]
F64 = NDArray[np.float64]
_STORED: ContextVar[bool] = ContextVar("stored", default=False)
_WIDE: ContextVar[bool] = ContextVar("wide", default=False)
Elementary = Callable[[Any], Any]


def size(v: Any) -> F64:
    """|v| as float64, whatever v is."""
    return np.abs(real(v))


def real(v: Any) -> F64:
    """The (real part of the) value as float64: for comparisons and magnitudes."""
    while isinstance(v, (Dual, Running)):
        v = v.v
    array = np.asarray(v)
    if array.dtype == object:
        flat = [float(x) if not isinstance(x, arb) else float(x.mid()) for x in array.reshape(-1)]
        return np.array(flat, np.float64).reshape(array.shape)
    return np.asarray(array.real, np.float64)


def _shaped(coefficient: Any, shape: tuple[int, ...]) -> F64:
    if isinstance(coefficient, np.ndarray) and coefficient.shape == shape:
        return coefficient
    return np.broadcast_to(np.asarray(coefficient, np.float64), shape)


class Running:
    """A value with its error coefficients.

    Attributes:
        v: Value: float64 array or object array of balls.
        e: Coefficient of u from basic operations.
        q: Coefficient of 2 p u from elementary functions of p ulps.
        h: Coefficient of the error of one underflow (half the least subnormal number): products,
            quotients and roots count 1, elementary functions of up to 4 ulps count 8.
        n: Operations on the longest path to here.
    """

    __array_ufunc__ = None
    __slots__ = ("e", "h", "n", "q", "v")

    def __init__(self, v: Any, e: Any = 0.0, q: Any = 0.0, h: Any = 0.0, n: int = 0) -> None:
        self.v = np.asarray(v)
        self.e, self.q, self.h = (_shaped(c, self.v.shape) for c in (e, q, h))
        self.n = n

    @property
    def shape(self) -> tuple[int, ...]:
        return self.v.shape

    def __add__(self, other: Any) -> Running:
        if isinstance(other, Dual):
            return NotImplemented
        b = lift(other)
        v = self.v + b.v
        e = self.e + b.e + _rounding(v)
        for zero in (self, b):
            if not zero.n and not real(zero.v).all():  # a sum with an exact 0 is exact
                e = np.where(real(zero.v) == 0, self.e + b.e, e)
        return Running(v, e, self.q + b.q, self.h + b.h, max(self.n, b.n) + _one())

    __radd__ = __add__

    def __neg__(self) -> Running:
        return Running(-self.v, self.e, self.q, self.h, self.n)

    def __sub__(self, other: Any) -> Running:
        if isinstance(other, Dual):
            return NotImplemented
        return self + -lift(other)

    def __rsub__(self, other: Any) -> Running:
        return lift(other) + -self

    def __mul__(self, other: Any) -> Running:
        if isinstance(other, Dual):
            return NotImplemented
        b = lift(other)
        x, y = size(self.v), size(b.v)
        v = self.v * b.v
        exact = _scales_exactly(self, x) | _scales_exactly(b, y)
        whole = exact & ((x == 0) | (y == 0) | (x == 1) | (y == 1))
        return Running(
            v,
            _times(x, b.e) + _times(y, self.e) + np.where(exact, 0.0, _rounding(v)),
            _times(x, b.q) + _times(y, self.q),
            _times(x, b.h) + _times(y, self.h) + np.where(whole, 0.0, 1.0),
            max(self.n, b.n) + _one(),
        )

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Running:
        if isinstance(other, Dual):
            return NotImplemented
        b = lift(other)
        inverse = 1 / size(b.v)
        ratio = size(self.v) * inverse * inverse
        v = self.v / b.v
        return Running(
            v,
            _times(inverse, self.e)
            + _times(ratio, b.e)
            + np.where(_scales_exactly(b, size(b.v)), 0.0, _rounding(v)),
            _times(inverse, self.q) + _times(ratio, b.q),
            _times(inverse, self.h) + _times(ratio, b.h) + np.where(size(b.v) == 1, 0.0, 1.0),
            max(self.n, b.n) + _one(),
        )

    def __rtruediv__(self, other: Any) -> Running:
        return lift(other) / self

    def __getitem__(self, index: Any) -> Running:
        return Running(self.v[index], self.e[index], self.q[index], self.h[index], self.n)


class Dual:
    """A value and its derivative in one direction, over any of the other kinds of number.

    With `Running` parts, the derivative comes with the error bound of computing it by the
    product and chain rules.
    """

    __array_ufunc__ = None
    __slots__ = ("t", "v")

    def __init__(self, v: Any, t: Any) -> None:
        self.v, self.t = v, t

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.v.shape)

    def __add__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.v + other.v, self.t + other.t)
        v = self.v + other
        return Dual(v, structural(lambda t: np.broadcast_to(t, v.shape), self.t))

    __radd__ = __add__

    def __neg__(self) -> Dual:
        return Dual(-self.v, -self.t)

    def __sub__(self, other: Any) -> Dual:
        return self.__add__(-other)

    def __rsub__(self, other: Any) -> Dual:
        return (-self).__add__(other)

    def __mul__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.v * other.v, self.t * other.v + self.v * other.t)
        return Dual(self.v * other, self.t * other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            y = self.v / other.v
            return Dual(y, (self.t - y * other.t) / other.v)
        return Dual(self.v / other, self.t / other)

    def __rtruediv__(self, other: Any) -> Dual:
        y = other / self.v
        return Dual(y, -(y * self.t) / self.v)

    def __getitem__(self, index: Any) -> Dual:
        return Dual(self.v[index], self.t[index])


@contextmanager
def storing() -> Iterator[None]:
    """Count roundings as a 16-bit composition has them: each op's result is stored, and rounded,
    but sums, and chains of products, accumulate in float32 and are rounded once."""
    token = _STORED.set(True)
    try:
        yield
    finally:
        _STORED.reset(token)


def chained(function: Callable[[], Any]) -> Any:
    """The value of a chain that accumulates in the compute dtype and is stored once."""
    if not _STORED.get() or _WIDE.get():
        return function()
    token = _WIDE.set(True)
    try:
        return _stored_once(function())
    finally:
        _WIDE.reset(token)


def _stored_once(x: Any) -> Any:
    if isinstance(x, Dual):
        return Dual(_stored_once(x.v), _stored_once(x.t))
    return Running(x.v, x.e + size(x.v), x.q, x.h, x.n + 1) if isinstance(x, Running) else x


def _rounding(v: Any) -> Any:
    """What the rounding of a basic operation's result adds."""
    return 0.0 if _WIDE.get() else size(v)


def _one() -> int:
    return 0 if _WIDE.get() else 1


def zeros_of(value: Any) -> Any:
    """Zeros that broadcast like `value` and add no rounding error of their own."""
    return np.zeros(np.shape(value.v if isinstance(value, Running) else value))


def structural(function: Callable[[Array], Any], x: Any) -> Any:
    """A reshape, transposition, broadcast or selection of elements, applied to every part."""
    if isinstance(x, Dual):
        return Dual(structural(function, x.v), structural(function, x.t))
    if isinstance(x, Running):
        return Running(function(x.v), function(x.e), function(x.q), function(x.h), x.n)
    return function(np.asarray(x))


def stacked(parts: list[Any]) -> Any:
    """Numbers of one kind and shape stacked along a new last axis."""
    if any(isinstance(p, Dual) for p in parts):
        duals = [p if isinstance(p, Dual) else Dual(p, zeros_of(p)) for p in parts]
        return Dual(stacked([p.v for p in duals]), stacked([p.t for p in duals]))
    if any(isinstance(p, Running) for p in parts):
        lifted = [lift(p) for p in parts]
        columns = zip(*((p.v, p.e, p.q, p.h) for p in lifted), strict=True)
        v, e, q, h = (np.stack(np.broadcast_arrays(*c), axis=-1) for c in columns)
        return Running(v, e, q, h, max(p.n for p in lifted))
    return np.stack(np.broadcast_arrays(*parts), axis=-1)


def _times(a: Any, b: Any) -> Any:
    """a * b with 0 * inf = 0: no error is carried where the factor vanishes."""
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def _scales_exactly(x: Running, magnitude: F64) -> NDArray[np.bool_]:
    """Where x is 0 or a power of two without error, a product with it is exact."""
    fraction = np.frexp(magnitude)[0]
    return np.asarray(((fraction == 0) | (fraction == 0.5)) & (x.e == 0) & (x.q == 0))


def lift(value: Any) -> Running:
    return value if isinstance(value, Running) else Running(value)


def constant(like: Any, value: float, exact: Callable[[], Any] | None = None) -> Any:
    """A constant that is rounded to the dtype before it is used: one error of u.

    `exact` gives its ball where float64 does not hold it; `like` is what it will meet.
    """
    if isinstance(like, Dual):
        return constant(like.v, value, exact)
    if isinstance(like, Running):
        return Running(np.float64(value), abs(value), n=1)
    if exact is not None and np.asarray(like).dtype == object:
        return exact()
    return value


def _elementary(name: str, slope: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """The elementary function for every kind of argument; `slope` is f' from x and f(x)."""
    return _of_numbers(TRANSCENDENTAL[name][0], TRANSCENDENTAL[name][1], slope)


def _of_numbers(
    plain: Elementary, of_ball: Elementary, slope: Callable[[Any, Any], Any]
) -> Elementary:
    """The function that `plain` is for float64 arrays and `of_ball` for a ball."""

    def function(x: Any) -> Any:
        if isinstance(x, Dual):
            y = function(x.v)
            return Dual(y, slope(x.v, y) * x.t)
        if isinstance(x, Running):
            y = function(x.v)
            value = real(y)
            tangent = np.abs(slope(real(x.v), value))
            e, q, h = (_times(tangent, c) for c in (x.e, x.q, x.h))
            return Running(y, e, q + np.abs(value), h + 8, x.n + 1)
        array = np.asarray(x)
        if array.dtype == object:
            return _each(of_ball, array)
        if array.dtype.kind == "c":
            # A step of 1e-200 makes first order exact; it also serves functions without a
            # complex version.
            value = plain(array.real)
            return value + 1j * (slope(array.real, value) * array.imag)
        return plain(array)

    return function


def _each(function: Callable[..., Any], *arrays: Any) -> Array:
    """`function` of the balls of object arrays, element by element."""
    full = np.broadcast_arrays(*(np.asarray(a, object) for a in arrays))
    out = np.empty(full[0].shape, object)
    rows = zip(*(f.reshape(-1) for f in full), strict=True)
    flat = [function(*(v if isinstance(v, arb) else arb(float(v)) for v in row)) for row in rows]
    out.reshape(-1)[:] = flat
    return out


exp: Elementary = _elementary("exp", lambda x, y: y)
exp2: Elementary = _elementary(
    "exp2", lambda x, y: y * constant(x, math.log(2.0), lambda: arb(2).log())
)
expm1: Elementary = _elementary("expm1", lambda x, y: y + 1)
log: Elementary = _elementary("log", lambda x, y: 1 / x)
log1p: Elementary = _elementary("log1p", lambda x, y: 1 / (1 + x))
sin: Elementary = _elementary("sin", lambda x, y: cos(x))
cos: Elementary = _elementary("cos", lambda x, y: -sin(x))
tan: Elementary = _elementary("tan", lambda x, y: 1 + y * y)
sinh: Elementary = _elementary("sinh", lambda x, y: cosh(x))
cosh: Elementary = _elementary("cosh", lambda x, y: sinh(x))
tanh: Elementary = _elementary("tanh", lambda x, y: 1 - y * y)
erf: Elementary = _elementary(
    "erf",
    lambda x, y: constant(x, 2 / math.sqrt(math.pi), lambda: 2 / arb.pi().sqrt()) * exp(-(x * x)),
)


def _mills_ball(t: Any) -> Any:
    return (t / arb(2).sqrt()).erfc() * (t * t / 2).exp() / 2


def _mills64(t: Array) -> F64:
    """By balls, as float64 has no function without cancellation for it."""
    values, places = np.unique(t, return_inverse=True)
    found = [float(ball.accurate(_mills_ball, float(v), bits=60).mid()) for v in values]
    return np.array(found, np.float64)[places].reshape(t.shape)


mills: Elementary = _of_numbers(
    _mills64,
    _mills_ball,
    lambda t, y: t * y - constant(t, 1 / math.sqrt(2 * math.pi), lambda: 1 / (2 * arb.pi()).sqrt()),
)
"""Phi(-t) exp(t^2 / 2), the normal distribution's tail beside its density, for t >= 0."""

sigmoid: Elementary = _elementary("sigmoid", lambda x, y: y * (1 - y))
softplus: Elementary = _elementary("softplus", lambda x, y: sigmoid(x))


def power(x: Any, y: Any) -> Any:
    """x ** y, for x > 0 wherever y carries an error or a derivative."""
    if isinstance(x, Dual) or isinstance(y, Dual):
        p, r = (a if isinstance(a, Dual) else Dual(a, zeros_of(a)) for a in (x, y))
        z = power(p.v, r.v)
        by_base = r.v * power(p.v, r.v - 1) * p.t
        return Dual(z, by_base + z * log(p.v) * r.t)
    if isinstance(x, Running) or isinstance(y, Running):
        a, b = lift(x), lift(y)
        z = power(a.v, b.v)
        value, base, exponent = real(z), real(a.v), real(b.v)
        by_x = np.abs(exponent * np.power(base, exponent - 1))
        by_y = np.abs(value) * np.abs(np.log(np.abs(base)))
        e = _times(by_x, a.e) + _times(by_y, b.e)
        q = _times(by_x, a.q) + _times(by_y, b.q) + np.abs(value)
        h = _times(by_x, a.h) + _times(by_y, b.h) + 8
        return Running(z, e, q, h, max(a.n, b.n) + 1)
    if np.asarray(x).dtype == object or np.asarray(y).dtype == object:
        return _each(lambda a, b: a**b, x, y)
    return np.power(x, y)


def sqrt(x: Any) -> Any:
    """The square root, a basic operation: correctly rounded."""
    if isinstance(x, Dual):
        y = sqrt(x.v)
        return Dual(y, x.t / (y * 2))
    if isinstance(x, Running):
        y = sqrt(x.v)
        slope = 0.5 / size(y)
        e, q, h = (_times(slope, c) for c in (x.e, x.q, x.h))
        return Running(y, e + size(y), q, h, x.n + 1)
    array = np.asarray(x)
    if array.dtype == object:
        out = np.empty(array.shape, object)
        out.reshape(-1)[:] = [
            (v if isinstance(v, arb) else arb(float(v))).sqrt() for v in array.reshape(-1)
        ]
        return out
    return np.sqrt(array)


def where(condition: Any, a: Any, b: Any) -> Any:
    """Selection: exact."""
    if isinstance(a, Dual) or isinstance(b, Dual):
        one, two = (v if isinstance(v, Dual) else Dual(v, zeros_of(v)) for v in (a, b))
        return Dual(where(condition, one.v, two.v), where(condition, one.t, two.t))
    if isinstance(a, Running) or isinstance(b, Running):
        x, y = lift(a), lift(b)
        parts = ((x.v, y.v), (x.e, y.e), (x.q, y.q), (x.h, y.h))
        v, e, q, h = (np.where(condition, c, d) for c, d in parts)
        return Running(v, e, q, h, max(x.n, y.n))
    return np.where(condition, a, b)


def absolute(x: Any) -> Any:
    """|x|: exact, analytic off 0 for a complex step."""
    if isinstance(x, Dual):
        return Dual(absolute(x.v), x.t * np.sign(real(x.v)))
    if isinstance(x, Running):
        return Running(absolute(x.v), x.e, x.q, x.h, x.n)
    array = np.asarray(x)
    if array.dtype.kind == "c":
        return np.where(array.real < 0, -array, array)
    return np.abs(array)


def summed(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Sum over axes in any order: each term passes at most (count - 1) roundings."""
    if isinstance(x, Dual):
        return Dual(summed(x.v, axis, keepdims), summed(x.t, axis, keepdims))
    if not isinstance(x, Running):
        return np.sum(x, axis=axis, keepdims=keepdims)
    v = np.asarray(np.sum(x.v, axis=axis, keepdims=keepdims))
    count = max(x.v.size // max(v.size, 1), 1) - 1
    q, h = (np.sum(c, axis=axis, keepdims=keepdims) for c in (x.q, x.h))
    if _STORED.get():
        e = np.sum(x.e, axis=axis, keepdims=keepdims) + (_rounding(v) if count else 0.0)
        return Running(v, e, q, h, x.n + (_one() if count else 0))
    e = np.sum(x.e + count * size(x.v), axis=axis, keepdims=keepdims)
    return Running(v, e, q, h, x.n + count)


def accumulated(x: Any) -> Any:
    """Sums of each element and those before it in its row, in any order."""
    if isinstance(x, Dual):
        return Dual(accumulated(x.v), accumulated(x.t))
    if not isinstance(x, Running):
        return np.cumsum(x, axis=-1)
    v, e, q, h = (np.cumsum(c, axis=-1) for c in (x.v, x.e, x.q, x.h))
    if _STORED.get():
        return Running(v, e + _rounding(v), q, h, x.n + _one())
    terms = np.arange(v.shape[-1], dtype=np.float64)
    return Running(v, e + terms * np.cumsum(size(x.v), axis=-1), q, h, x.n + v.shape[-1])


def roundings(x: Running, count: int, magnitude: Any) -> Running:
    """x with `count` further roundings of numbers that together are at most `magnitude`."""
    if _WIDE.get():
        return x
    return Running(x.v, x.e + count * magnitude, x.q, x.h, x.n + count)


def either(a: Any, b: Any) -> Any:
    """One value from two formulas, with the larger of their bounds: both are common."""
    if isinstance(a, Dual) and isinstance(b, Dual):
        return Dual(either(a.v, b.v), either(a.t, b.t))
    if not isinstance(a, Running):
        return a
    other = lift(b)
    parts = ((a.e, other.e), (a.q, other.q), (a.h, other.h))
    e, q, h = (np.maximum(x, y) for x, y in parts)
    return Running(a.v, e, q, h, max(a.n, other.n))


def contracted(a: Any, b: Any) -> Any:
    """Matrix product over the last axis of a and the last but one of b, K roundings a term."""
    if isinstance(a, Dual) or isinstance(b, Dual):
        p, q = (v if isinstance(v, Dual) else Dual(v, zeros_of(v)) for v in (a, b))
        return Dual(contracted(p.v, q.v), contracted(p.t, q.v) + contracted(p.v, q.t))
    if not (isinstance(a, Running) or isinstance(b, Running)):
        return np.matmul(a, b)
    x, y = lift(a), lift(b)
    terms = x.shape[-1]
    sa, sb = size(x.v), size(y.v)
    v = np.matmul(x.v, y.v) if terms else np.zeros(np.matmul(sa, sb).shape)
    own = _rounding(v) if _STORED.get() else terms * np.matmul(sa, sb)
    e = np.matmul(sa, y.e) + np.matmul(x.e, sb) + own
    q = np.matmul(sa, y.q) + np.matmul(x.q, sb)
    h = np.matmul(sa, y.h) + np.matmul(x.h, sb) + terms
    return Running(v, e, q, h, max(x.n, y.n) + (_one() if _STORED.get() else terms))


def reference(formula: Callable[..., Any], arrays: list[Any], dtype: Any) -> Reference:
    """The `Reference` of a formula written with the functions of this module; see `references`."""
    (result,) = references(lambda *xs: [formula(*xs)], arrays, [dtype])
    assert result is not None
    return result


def references(
    formula: Callable[..., list[Any]], arrays: list[Any], dtypes: list[Any]
) -> list[Reference | None]:
    """The References of a formula of several results (None where it gives None).

    Floating arrays are exact inputs; integers, bools and None reach the formula as they are.
    Where a result is float64 the formula is evaluated on Arb balls, else in float64, whose own
    error is 2^-29 of float32's.
    """
    wide = [as_input(a) for a in arrays]
    with np.errstate(all="ignore"):
        plain = formula(*(Running(a) if _floats(a) else a for a in wide))
    stored: list[Any] = [None] * len(plain)
    if any(_is_short(d) for r, d in zip(plain, dtypes, strict=True) if r is not None):
        with np.errstate(all="ignore"), storing():
            stored = formula(*(Running(a) if _floats(a) else a for a in wide))
    exact: list[Any] = [None] * len(plain)
    if any(r is not None and np.dtype(d) == np.float64 for r, d in zip(plain, dtypes, strict=True)):
        with ball.precision(240), np.errstate(all="ignore"):
            exact = formula(*(ball.balls(a) if _floats(a) else a for a in wide))
    return [
        None if r is None else _reference(lift(r), x, np.dtype(d), s)
        for r, x, d, s in zip(plain, exact, dtypes, stored, strict=True)
    ]


def _is_short(dtype: Any) -> bool:
    fmt = format_of(dtype)
    return fmt is not None and fmt.compute is not fmt


def as_input(array: Any) -> Any:
    """Floating arrays as float64, anything else as it is."""
    if array is None or format_of(np.asarray(array).dtype) is None:
        return array
    return np.asarray(array).astype(np.float64)


def _floats(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == np.float64


def _reference(plain: Running, exact: Any, dtype: np.dtype[Any], stored: Any = None) -> Reference:
    if format_of(dtype) is None:
        raise TypeError(f"a formula's reference needs a floating dtype, not {dtype}")
    with np.errstate(all="ignore"):
        value, low = real(plain.v), None
        e = np.where(np.isnan(plain.e), np.inf, plain.e)
        q = np.where(np.isnan(plain.q), np.inf, plain.q)
        size_of = e + 16 * q + np.abs(value)
        if dtype == np.float64 and exact is not None:
            # Without any rounding float64 is exact, and keeps the sign of a zero on the way.
            # An underflow to zero leaves no error in e and q, only in h.
            rounded = np.broadcast_to((plain.e != 0) | (plain.q != 0) | (plain.h != 0), value.shape)
            value, low = _with_balls(lift(exact).v, value, rounded)
        slack = size_of * (2.0**-52 if low is None else 2.0**-98)
        slack = np.where(np.isfinite(slack), slack, 0.0)
    short = None if stored is None else lift(stored)
    return Reference(
        value,
        dtype,
        low,
        slack,
        np.array(e),
        np.array(q),
        terms=plain.n,
        underflow=plain.h.copy(),
        stored=None if short is None else np.where(np.isnan(short.e), np.inf, short.e),
        stored_terms=0 if short is None else short.n,
    )


def _with_balls(exact: Array, value: F64, rounded: Array) -> tuple[F64, F64]:
    hi, lo = value.copy().reshape(-1), np.zeros(value.size)
    flat = np.broadcast_to(exact, value.shape).reshape(-1)
    finite = np.isfinite(hi) & rounded.reshape(-1)
    known = [i for i in np.flatnonzero(finite) if isinstance(flat[i], arb) and flat[i].is_finite()]
    plain = [i for i in np.flatnonzero(finite) if not isinstance(flat[i], arb)]
    hi[plain] = [float(flat[i]) for i in plain]
    if known:
        high, rest = ball.pair([flat[i] for i in known])
        hi[known] = np.where(high == 0, hi[known] * 0.0, high)
        lo[known] = rest
    return hi.reshape(value.shape), lo.reshape(value.shape)
