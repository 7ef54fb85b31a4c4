"""Running error analysis: a formula's value and its first-order rounding error bound together.

A `Running` number is v with |computed - v| <= u (e + 2 p q) to first order: e collects the
roundings of the basic operations and q those of elementary functions of p ulps, each multiplied
by its effect on the result (Wilkinson's running error analysis; Higham, Accuracy and Stability,
section 3.3).  The functions here take Running numbers, float64 arrays, complex arrays (for the
complex-step derivative) and object arrays of Arb balls, so one formula serves them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray

from . import ball
from .elementwise import TRANSCENDENTAL
from .ulp import format_of
from .verdict import Reference

__all__ = [
    "Running",
    "constant",
    "reference",
    "size",
    "summed",
    "where",
]

Array = NDArray[Any]
F64 = NDArray[np.float64]


def size(v: Any) -> F64:
    """|v| as float64, whatever v is."""
    return np.abs(real(v))


def real(v: Any) -> F64:
    """The (real part of the) value as float64: for comparisons and magnitudes."""
    if isinstance(v, Running):
        v = v.v
    array = np.asarray(v)
    if array.dtype == object:
        flat = [float(x) if not isinstance(x, arb) else float(x.mid()) for x in array.reshape(-1)]
        return np.array(flat, np.float64).reshape(array.shape)
    return np.asarray(array.real, np.float64)


class Running:
    """A value with its error coefficients.

    Attributes:
        v: Value: float64 array or object array of balls.
        e: Coefficient of u from basic operations.
        q: Coefficient of 2 p u from elementary functions of p ulps.
        n: Operations on the longest path to here.
    """

    __array_ufunc__ = None
    __slots__ = ("e", "n", "q", "v")

    def __init__(self, v: Any, e: Any = 0.0, q: Any = 0.0, n: int = 0) -> None:
        self.v = np.asarray(v)
        self.e = np.broadcast_to(np.asarray(e, np.float64), self.v.shape)
        self.q = np.broadcast_to(np.asarray(q, np.float64), self.v.shape)
        self.n = n

    @property
    def shape(self) -> tuple[int, ...]:
        return self.v.shape

    def _rounded(self, v: Any, e: Any, q: Any, n: int) -> Running:
        return Running(v, e + size(v), q, n + 1)

    def __add__(self, other: Any) -> Running:
        b = lift(other)
        return self._rounded(self.v + b.v, self.e + b.e, self.q + b.q, max(self.n, b.n))

    __radd__ = __add__

    def __neg__(self) -> Running:
        return Running(-self.v, self.e, self.q, self.n)

    def __sub__(self, other: Any) -> Running:
        return self + -lift(other)

    def __rsub__(self, other: Any) -> Running:
        return lift(other) + -self

    def __mul__(self, other: Any) -> Running:
        b = lift(other)
        x, y = size(self.v), size(b.v)
        e, q = _times(x, b.e) + _times(y, self.e), _times(x, b.q) + _times(y, self.q)
        return self._rounded(self.v * b.v, e, q, max(self.n, b.n))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Running:
        b = lift(other)
        inverse = 1 / size(b.v)
        ratio = size(self.v) * inverse
        e = _times(inverse, self.e) + _times(ratio * inverse, b.e)
        q = _times(inverse, self.q) + _times(ratio * inverse, b.q)
        return self._rounded(self.v / b.v, e, q, max(self.n, b.n))

    def __rtruediv__(self, other: Any) -> Running:
        return lift(other) / self

    def __getitem__(self, index: Any) -> Running:
        return Running(self.v[index], self.e[index], self.q[index], self.n)


def _times(a: Any, b: Any) -> Any:
    """a * b with 0 * inf = 0: no error is carried where the factor vanishes."""
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def lift(value: Any) -> Running:
    return value if isinstance(value, Running) else Running(value)


def constant(like: Any, value: float, exact: Callable[[], Any] | None = None) -> Any:
    """A constant that is rounded to the dtype before it is used: one error of u.

    `exact` gives its ball where float64 does not hold it; `like` is what it will meet.
    """
    if isinstance(like, Running):
        return Running(np.float64(value), abs(value), 0.0, 1)
    if exact is not None and np.asarray(like).dtype == object:
        return exact()
    return value


def _elementary(name: str, slope: Callable[[F64, F64], F64]) -> Callable[[Any], Any]:
    """The elementary function for every kind of argument; `slope` is |f'| from x and f(x)."""
    plain, of_ball = TRANSCENDENTAL[name][0], TRANSCENDENTAL[name][1]

    def function(x: Any) -> Any:
        if isinstance(x, Running):
            y = function(x.v)
            value = real(y)
            tangent = np.abs(slope(real(x.v), value))
            e, q = _times(tangent, x.e), _times(tangent, x.q)
            return Running(y, e, q + np.abs(value), x.n + 1)
        array = np.asarray(x)
        if array.dtype == object:
            flat = [of_ball(v) for v in array.reshape(-1)]
            out = np.empty(len(flat), object)
            out[:] = flat
            return out.reshape(array.shape)
        if array.dtype.kind == "c":
            # A step of 1e-200 makes first order exact; it also serves functions without a
            # complex version.
            at = array.real
            value = plain(at)
            return value + 1j * (slope(at, value) * array.imag)
        return plain(array)

    return function


exp = _elementary("exp", lambda x, y: y)
exp2 = _elementary("exp2", lambda x, y: y * np.log(2.0))
expm1 = _elementary("expm1", lambda x, y: np.exp(x))
log = _elementary("log", lambda x, y: 1 / x)
log1p = _elementary("log1p", lambda x, y: 1 / (1 + x))
sin = _elementary("sin", lambda x, y: np.cos(x))
cos = _elementary("cos", lambda x, y: -np.sin(x))
tan = _elementary("tan", lambda x, y: 1 + y * y)
sinh = _elementary("sinh", lambda x, y: np.cosh(x))
cosh = _elementary("cosh", lambda x, y: np.sinh(x))
tanh = _elementary("tanh", lambda x, y: 1 / np.cosh(np.clip(x, -300, 300)) ** 2)
erf = _elementary("erf", lambda x, y: 2 / np.sqrt(np.pi) * np.exp(-x * x))
sigmoid = _elementary("sigmoid", lambda x, y: y * np.exp(-np.logaddexp(0.0, x)))
softplus = _elementary("softplus", lambda x, y: np.exp(-np.logaddexp(0.0, -x)))


def sqrt(x: Any) -> Any:
    """The square root, a basic operation: correctly rounded."""
    if isinstance(x, Running):
        y = sqrt(x.v)
        slope = 0.5 / size(y)
        return Running(y, _times(slope, x.e) + size(y), _times(slope, x.q), x.n + 1)
    array = np.asarray(x)
    if array.dtype == object:
        out = np.empty(array.shape, object)
        out.reshape(-1)[:] = [v.sqrt() for v in array.reshape(-1)]
        return out
    return np.sqrt(array)


def where(condition: Any, a: Any, b: Any) -> Any:
    """Selection: exact."""
    if isinstance(a, Running) or isinstance(b, Running):
        x, y = lift(a), lift(b)
        return Running(
            np.where(condition, x.v, y.v),
            np.where(condition, x.e, y.e),
            np.where(condition, x.q, y.q),
            max(x.n, y.n),
        )
    return np.where(condition, a, b)


def absolute(x: Any) -> Any:
    """|x|: exact, analytic off 0 for a complex step."""
    if isinstance(x, Running):
        return Running(absolute(x.v), x.e, x.q, x.n)
    array = np.asarray(x)
    if array.dtype.kind == "c":
        return np.where(array.real < 0, -array, array)
    return np.abs(array)


def summed(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Sum over axes in any order: each term passes at most (count - 1) roundings."""
    if not isinstance(x, Running):
        return np.sum(x, axis=axis, keepdims=keepdims)
    v = np.asarray(np.sum(x.v, axis=axis, keepdims=keepdims))
    count = max(x.v.size // max(v.size, 1), 1) - 1
    e = np.sum(x.e + count * size(x.v), axis=axis, keepdims=keepdims)
    return Running(v, e, np.sum(x.q, axis=axis, keepdims=keepdims), x.n + count)


def contracted(a: Any, b: Any) -> Any:
    """Matrix product over the last axis of a and the last but one of b, K roundings a term."""
    if not (isinstance(a, Running) or isinstance(b, Running)):
        return np.matmul(a, b)
    x, y = lift(a), lift(b)
    terms = x.shape[-1]
    sa, sb = size(x.v), size(y.v)
    e = np.matmul(sa, y.e) + np.matmul(x.e, sb) + terms * np.matmul(sa, sb)
    q = np.matmul(sa, y.q) + np.matmul(x.q, sb)
    v = np.matmul(x.v, y.v) if terms else np.zeros(np.matmul(sa, sb).shape)
    return Running(v, e, q, max(x.n, y.n) + terms)


def reference(
    formula: Callable[..., Any], arrays: list[Any], dtype: Any, extra_terms: int = 0
) -> Reference:
    """The `Reference` of a formula written with the functions of this module.

    Arrays are exact inputs (float64 or narrower; None passes through).  For float64 results the
    formula is evaluated on Arb balls, else in float64, whose own error is 2^-29 of float32's.
    """
    target = np.dtype(dtype)
    wide = [None if a is None else np.asarray(a).astype(np.float64) for a in arrays]
    with np.errstate(all="ignore"):
        plain = lift(formula(*(None if a is None else Running(a) for a in wide)))
        value, low = real(plain.v), None
        e = np.where(np.isnan(plain.e), np.inf, plain.e)
        q = np.where(np.isnan(plain.q), np.inf, plain.q)
        slack = np.where(np.isfinite(e + q), 2.0**-52 * (e + 16 * q + np.abs(value)), 0.0)
    if target == np.float64:
        value, low = _with_balls(formula, wide, value)
        slack = 2.0**-98 * (e + q + np.abs(np.where(np.isfinite(value), value, 0.0)))
        slack = np.where(np.isfinite(slack), slack, 0.0)
    if format_of(target) is None:
        raise TypeError(f"a formula's reference needs a floating dtype, not {target}")
    return Reference(value, target, low, slack, e.copy(), q.copy(), terms=plain.n + extra_terms)


def _with_balls(formula: Callable[..., Any], wide: list[Any], value: F64) -> tuple[F64, F64]:
    with ball.precision(240), np.errstate(all="ignore"):
        result = formula(*(None if a is None else ball.balls(a) for a in wide))
        exact = lift(result).v
    hi, lo = value.copy().reshape(-1), np.zeros(value.size)
    for i, v in enumerate(np.broadcast_to(exact, value.shape).reshape(-1)):
        if np.isfinite(hi[i]) and isinstance(v, arb) and v.is_finite():
            h, rest = ball.pair([v])
            hi[i], lo[i] = h[0] if h[0] else hi[i] * 0.0, rest[0]
        elif np.isfinite(hi[i]) and not isinstance(v, arb):
            hi[i] = float(v)
    return hi.reshape(value.shape), lo.reshape(value.shape)
