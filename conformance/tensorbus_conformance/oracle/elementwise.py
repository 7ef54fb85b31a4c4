"""References of the elementwise functions on real dtypes.

Sources: Python array API standard 2025.12 (special cases included), IEEE 754-2019 and C17 Annex F
through NumPy's float64 functions, and tensorbus' own rules where the standard leaves a choice:
integers wrap, integer division by zero gives 0, shifts out of range give 0 or -1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import ball, judges
from .op import OpReference, Range, as_float64, promoted
from .sampling import clipping, elementwise as each, moving
from .transcendental import OPS as TRANSCENDENTAL_OPS, SLACK, TRANSCENDENTAL, reference_of
from .ulp import FLOAT64, format_of, two_product, two_sum, ulp
from .verdict import Reference

__all__ = ["OPS", "SLACK", "TRANSCENDENTAL", "extremum", "reference_of"]

Array = NDArray[Any]
F64 = NDArray[np.float64]
OPS: dict[str, OpReference] = dict(TRANSCENDENTAL_OPS)


def _add(
    name: str,
    forward: Callable[..., Reference],
    family: str = "exact",
    tensors: int = 1,
    kinds: str = "f",
    domain: tuple[Range, ...] = ((-4.0, 4.0),),
    judge: Any = None,
    **facts: Any,
) -> None:
    chosen = judge or {"exact": judges.exact, "rounded": judges.rounded}[family]
    domains = domain if len(domain) == tensors else domain * tensors
    OPS[name] = OpReference(
        name,
        family,
        forward,
        chosen,
        (tensors, tensors),
        kinds,
        domains,
        elementwise=True,
        samples=each.elementwise(tensors),
        special=each.special(tensors),
        degenerate=each.degenerate(tensors),
        **facts,
    )


def _exact(result: Any, dtype: Any = None, alternatives: tuple[Array, ...] = ()) -> Reference:
    """A reference whose result is fully determined, given in the dtype of the result."""
    array = np.asarray(result)
    kind = array.dtype if dtype is None else np.dtype(dtype)
    value = as_float64(array) if format_of(kind) is not None else array.astype(kind)
    return Reference(value, kind, alternatives=alternatives)


# -- class 1: exact -------------------------------------------------------------------------------


def _unary_exact(function: Callable[[Array], Any]) -> Callable[..., Reference]:
    def forward(x: Any) -> Reference:
        array = np.asarray(x)
        with np.errstate(all="ignore"):
            if format_of(array.dtype) is None:
                return _exact(np.asarray(function(array)).astype(array.dtype))
            return _exact(function(as_float64(array)), array.dtype)

    return forward


def _same_on_integers(function: Callable[[Array], Any]) -> Callable[[Array], Any]:
    return lambda x: function(x) if x.dtype.kind == "f" else x


def _sign(x: Any) -> Reference:
    array = np.asarray(x)
    if format_of(array.dtype) is None:
        return _exact(np.sign(array))
    wide = as_float64(array)
    return _exact(np.sign(wide) + 0.0, array.dtype)


for _name, _function in (
    ("abs", np.abs),
    ("negative", np.negative),
    ("positive", np.positive),
    ("real", np.positive),
    ("ceil", _same_on_integers(np.ceil)),
    ("floor", _same_on_integers(np.floor)),
    ("trunc", _same_on_integers(np.trunc)),
    ("round", _same_on_integers(np.rint)),
):
    _add(_name, _unary_exact(_function), kinds="if")
_add("sign", _sign, kinds="if")


def _predicate(function: Callable[[Array], Any], integer: bool) -> Callable[..., Reference]:
    def forward(x: Any) -> Reference:
        array = np.asarray(x)
        if format_of(array.dtype) is None:
            return _exact(np.full(array.shape, integer))
        return _exact(function(as_float64(array)))

    return forward


_add("isfinite", _predicate(np.isfinite, True), kinds="if")
_add("isinf", _predicate(np.isinf, False), kinds="if")
_add("isnan", _predicate(np.isnan, False), kinds="if")


def _signbit(x: Any) -> Reference:
    """The sign bit; that of a NaN is not specified (a NaN counts as one value)."""
    wide = as_float64(x)
    bits = np.signbit(wide)
    return _exact(bits, alternatives=(np.where(np.isnan(wide), ~bits, bits),))


_add("signbit", _signbit)


def _compare(function: Callable[[Array, Array], Any]) -> Callable[..., Reference]:
    def forward(x1: Any, x2: Any) -> Reference:
        a, b = promoted(x1, x2)
        if format_of(a.dtype) is not None:
            a, b = as_float64(a), as_float64(b)
        return _exact(function(a, b))

    return forward


for _name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
    _kinds = "bif" if _name in ("equal", "not_equal") else "if"
    _add(_name, _compare(getattr(np, _name)), tensors=2, kinds=_kinds)


def _logical(function: Callable[..., Any]) -> Callable[..., Reference]:
    return lambda *xs: _exact(function(*promoted(*xs)))


for _name in ("logical_and", "logical_or", "logical_xor"):
    _add(_name, _logical(getattr(np, _name)), tensors=2, kinds="b")
_add("logical_not", _logical(np.logical_not), kinds="b")
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    _add(_name, _logical(getattr(np, _name)), tensors=2, kinds="bi")
_add("bitwise_invert", _logical(np.invert), kinds="bi")


def _shift(left: bool) -> Callable[..., Reference]:
    def forward(x1: Any, x2: Any) -> Reference:
        a, b = promoted(x1, x2)
        bits = 8 * a.dtype.itemsize
        inside = (b >= 0) & (b < bits)
        amount = np.where(inside, b, 0).astype(a.dtype)
        if left:
            return _exact(np.where(inside, a << amount, 0).astype(a.dtype))
        return _exact(np.where(inside, a >> amount, np.where(a < 0, -1, 0).astype(a.dtype)))

    return forward


_add("bitwise_left_shift", _shift(True), tensors=2, kinds="i")
_add("bitwise_right_shift", _shift(False), tensors=2, kinds="i")


def extremum(a: Array, b: Array, greatest: bool) -> Array:
    """max or min of two arrays of one dtype: NaN propagates, -0 < +0."""
    if format_of(a.dtype) is None:
        return np.asarray(np.maximum(a, b) if greatest else np.minimum(a, b))
    x, y = as_float64(a), as_float64(b)
    first = (x > y) | ((x == y) & (np.signbit(x) < np.signbit(y)))
    best = np.where(first == greatest, x, y)
    best = np.where((x == y) & (np.signbit(x) == np.signbit(y)), x, best)
    return np.where(np.isnan(x) | np.isnan(y), np.nan, best)


def _extremum(greatest: bool) -> Callable[..., Reference]:
    def forward(x1: Any, x2: Any) -> Reference:
        a, b = promoted(x1, x2)
        return _exact(extremum(a, b, greatest), a.dtype)

    return forward


_add("maximum", _extremum(True), tensors=2, kinds="if")
_add("minimum", _extremum(False), tensors=2, kinds="if")


def _saturated(bound: Array, dtype: np.dtype[Any]) -> Array:
    """Integers as the nearest ones of `dtype`."""
    info = np.iinfo(dtype)
    low, high = int(info.min), int(info.max)
    limited = [min(max(int(v), low), high) for v in bound.reshape(-1).tolist()]
    return np.array(limited, dtype).reshape(bound.shape)


def _clip(x: Any, min: Any = None, max: Any = None) -> Reference:
    """minimum(maximum(x, min), max), or the same with zeros of both signs taken as equal.

    The array API leaves open which of two equal numbers stays; NumPy and PyTorch compare, and keep
    what stands first.  So the sign of a zero has two right values, and no others.
    """
    array = np.asarray(x)
    dtype = array.dtype
    result = as_float64(array) if format_of(dtype) is not None else array
    plain = result
    for bound, greatest in ((min, True), (max, False)):
        if bound is None:
            continue
        if format_of(dtype) is None:
            limit = _saturated(np.asarray(bound), dtype)
        else:
            limit = as_float64(np.asarray(bound).astype(dtype))
        result, limit = np.broadcast_arrays(result, limit)
        result = np.asarray(extremum(result, limit, greatest))
        beyond = (plain < limit) if greatest else (plain > limit)
        plain = np.where(beyond | (limit != limit), limit, plain)
    other = np.where((plain == 0) & (result == 0), plain, result)
    return _exact(result, dtype, alternatives=(other,))


OPS["clip"] = OpReference(
    "clip",
    "exact",
    _clip,
    judges.exact,
    (1, 3),
    "if",
    ((-4.0, 4.0), (-2.0, 0.0), (0.0, 2.0)),
    samples=clipping.clip,
    special=each.special(3),
    degenerate=clipping.degenerate,
    saturates=True,
    mixes="first kind",
    numbers=True,
)


def _copysign(x1: Any, x2: Any) -> Reference:
    """|x1| with the sign of x2; the sign of a NaN x2 is not specified."""
    a, b = promoted(x1, x2)
    wide, sign = as_float64(a), as_float64(b)
    result = np.copysign(wide, sign)
    return _exact(result, a.dtype, (np.where(np.isnan(sign), -result, result),))


_add("copysign", _copysign, tensors=2)


def _nextafter(x1: Any, x2: Any) -> Reference:
    """The next number of the dtype from x1 towards x2, on the integers of the bit patterns."""
    a, b = promoted(x1, x2)
    fmt = format_of(a.dtype)
    assert fmt is not None
    integer = np.dtype(f"int{8 * a.dtype.itemsize}")
    x, y = as_float64(a), as_float64(b)
    bits = a.view(integer).astype(np.int64) if a.ndim else np.asarray(a[()].view(integer), np.int64)
    # Patterns grow with the magnitude on both sides of zero.
    away = (y > x) == (x > 0)
    stepped = np.where(away, bits + 1, bits - 1).astype(integer).view(a.dtype)
    result = as_float64(stepped)
    result = np.where(x == 0, np.copysign(fmt.tiny, y), result)
    result = np.where(x == y, y, result)
    return _exact(np.where(np.isnan(x) | np.isnan(y), np.nan, result), a.dtype)


_add("nextafter", _nextafter, tensors=2)


def _integer_division(a: Array, b: Array) -> tuple[Array, Array]:
    """Floored quotient and remainder; a zero divisor gives 0, the least over -1 wraps."""
    safe = np.where(b == 0, 1, b).astype(a.dtype)
    if a.dtype.kind == "i":
        wraps = (safe == -1) & (a == np.iinfo(a.dtype).min)
        safe = np.where(wraps, 1, safe).astype(a.dtype)
    quotient, remainder = np.floor_divide(a, safe), np.remainder(a, safe)
    zero = np.zeros((), a.dtype)
    return np.where(b == 0, zero, quotient), np.where(b == 0, zero, remainder)


def _remainder(x1: Any, x2: Any) -> Reference:
    """x1 - x2 floor(x1/x2), correctly rounded where the dtype cannot hold it; x2's sign.

    fmod is exact and so is its sum with x2 as a pair, whose rounding is the only one.
    """
    a, b = promoted(x1, x2)
    if format_of(a.dtype) is None:
        return _exact(_integer_division(a, b)[1])
    x, y = as_float64(a), as_float64(b)
    with np.errstate(all="ignore"):
        rest = np.fmod(x, y)
        moved = (rest != 0) & ((rest < 0) != (y < 0))
        hi, lo = two_sum(rest, np.where(moved & np.isfinite(y), y, 0.0))
        # An infinite divisor of the other sign: the result is the divisor itself (array API).
        hi = np.where(moved & np.isinf(y), y, hi)
        hi = np.where(rest == 0, np.copysign(0.0, y), hi)
        hi = np.where(np.isnan(rest), np.nan, hi)
    return Reference(hi, a.dtype, low=lo)


def _floor_divide(x1: Any, x2: Any) -> Reference:
    """floor of the exact quotient, correctly rounded.

    The standard leaves choices, all accepted: infinity over a finite number may be that infinity
    or NaN; a finite number over an infinity of the other sign -0 or -1.
    """
    a, b = promoted(x1, x2)
    if format_of(a.dtype) is None:
        return _exact(_integer_division(a, b)[0])
    x, y = as_float64(a), as_float64(b)
    with np.errstate(all="ignore"):
        quotient = x / y
        hi, lo = np.floor(quotient), np.zeros(x.shape)
        hard = np.isfinite(x) & np.isfinite(y) & (y != 0) & (x != 0)
        if a.dtype != np.float64:
            # float64 holds a quotient of float32's below 2^28 too well for floor to err.
            hard &= np.abs(quotient) >= 2.0**28
    for i in np.flatnonzero(hard):
        exact = math.floor(Fraction(float(x.flat[i])) / Fraction(float(y.flat[i])))
        try:
            hi.flat[i] = float(exact) if exact else math.copysign(0.0, quotient.flat[i])
            lo.flat[i] = float(exact - int(hi.flat[i]))
        except OverflowError:
            hi.flat[i] = math.inf if exact > 0 else -math.inf
    hi = np.where(hi == 0, np.copysign(0.0, np.copysign(1.0, x) * np.copysign(1.0, y)), hi)
    infinite = np.isinf(x) & np.isfinite(y)
    below = np.isinf(y) & np.isfinite(x) & (np.signbit(x) != np.signbit(y))
    hi = np.where(below & (x != 0), -1.0, hi)
    other = np.where(infinite, np.nan, np.where(below, -0.0, hi))
    return Reference(hi, a.dtype, low=lo, alternatives=(other,))


_DIVISORS = ((-8.0, 8.0), (0.5, 4.0))
_add("remainder", _remainder, tensors=2, kinds="if", domain=_DIVISORS)
_add("floor_divide", _floor_divide, tensors=2, kinds="if", domain=_DIVISORS)

# -- class 2: correctly rounded -------------------------------------------------------------------


def _binary_rounded(
    integer: Callable[[Array, Array], Any] | None,
    pair: Callable[[F64, F64], tuple[F64, F64]],
    exact: Callable[[Any, Any], Any],
) -> Callable[..., Reference]:
    def forward(x1: Any, x2: Any) -> Reference:
        a, b = promoted(x1, x2)
        if format_of(a.dtype) is None:
            if integer is None:
                raise TypeError(f"no reference for {a.dtype}; the array API asks for floats only")
            with np.errstate(all="ignore"):
                return _exact(np.asarray(integer(a, b)).astype(a.dtype))
        x, y = as_float64(a), as_float64(b)
        with np.errstate(all="ignore"):
            hi, lo = pair(x, y)
        if a.dtype == np.float64:  # NumPy's + - * / on float64 are those of IEEE 754
            lo = np.zeros_like(hi)
            slack = _half_spacing(hi)
        else:
            slack = np.zeros_like(hi)
        return Reference(
            hi,
            a.dtype,
            low=lo,
            slack=slack,
            exact=lambda i: ball.accurate(exact, float(x.flat[i]), float(y.flat[i])),
        )

    return forward


def _half_spacing(x: F64) -> F64:
    """The largest error of rounding to the float64 numbers `x`."""
    return np.asarray(np.where(np.isfinite(x), ulp(x, FLOAT64) / 2, 0.0), np.float64)


def _quotient(x: F64, y: F64) -> tuple[F64, F64]:
    """x / y as a pair, for float32 and narrower, where no product below leaves float64's range."""
    q = x / y
    p, e = two_product(q, y)
    lo = ((x - p) - e) / y
    return q, np.where(np.isfinite(lo) & np.isfinite(q) & np.isfinite(y), lo, 0.0)


_add("add", _binary_rounded(np.add, two_sum, lambda x, y: x + y), "rounded", 2, "if")
_add(
    "subtract",
    _binary_rounded(np.subtract, lambda x, y: two_sum(x, -y), lambda x, y: x - y),
    "rounded",
    2,
    "if",
)
_add("multiply", _binary_rounded(np.multiply, two_product, lambda x, y: x * y), "rounded", 2, "if")
_add(
    "divide",
    _binary_rounded(None, _quotient, lambda x, y: x / y),
    "rounded",
    2,
    "f",
    ((-4.0, 4.0), (0.5, 4.0)),
    takes="if",  # integers are divided as float32
)


def _square(x: Any) -> Reference:
    result = OPS["multiply"].forward(x, x)
    assert isinstance(result, Reference)
    return result


def _reciprocal(x: Any) -> Reference:
    array = np.asarray(x)
    result = OPS["divide"].forward(np.ones((), array.dtype), array)
    assert isinstance(result, Reference)
    return result


def _root(x: F64) -> tuple[F64, F64]:
    s = np.sqrt(x)
    p, e = two_product(s, s)
    lo = ((x - p) - e) / (2 * s)
    return s, np.where(np.isfinite(lo), lo, 0.0)


def _sqrt(x: Any) -> Reference:
    array = np.asarray(x)
    wide = as_float64(array)
    with np.errstate(all="ignore"):
        hi, lo = _root(wide)
    double = array.dtype == np.float64
    return Reference(
        hi,
        array.dtype,
        low=np.zeros_like(hi) if double else lo,
        slack=_half_spacing(hi) if double else 0.0,
        exact=lambda i: ball.accurate(lambda v: v.sqrt(), float(wide.flat[i])),
    )


_add("square", _square, "rounded", 1, "if")
_add("reciprocal", _reciprocal, "rounded", 1, "f", ((0.25, 4.0),))
_add("sqrt", _sqrt, "rounded", 1, "f", ((0.05, 8.0),))

# -- conversions ----------------------------------------------------------------------------------


def _to_integer(x: Array, dtype: np.dtype[Any]) -> Array:
    """Truncated, saturated, NaN to 0."""
    info = np.iinfo(dtype)
    wide = np.trunc(as_float64(x))
    result = np.zeros(x.shape, dtype)
    low, high = wide <= float(info.min), wide >= float(info.max)
    inside = ~(low | high | np.isnan(wide))
    result[inside] = wide[inside].astype(dtype)
    result[low], result[high] = info.min, info.max
    return result


def _astype(x: Any, *, dtype: Any, copy: bool = True) -> Reference:
    """Float to integer truncates and saturates, NaN gives 0; integers wrap; to bool is x != 0."""
    array, target = np.asarray(x), np.dtype(dtype)
    fmt = format_of(target)
    if target == np.bool_:
        wide = array if format_of(array.dtype) is None else as_float64(array)
        return _exact(np.asarray(wide != 0))
    if fmt is None:
        if format_of(array.dtype) is None:
            return _exact(array.astype(target))
        return _exact(_to_integer(np.atleast_1d(array), target).reshape(array.shape))
    if format_of(array.dtype) is not None:
        return Reference(as_float64(array), target)
    hi = array.astype(np.float64)  # an exact integer as a pair
    lo = np.array(
        [float(int(v) - int(h)) for v, h in zip(array.flat, hi.flat, strict=True)], np.float64
    ).reshape(array.shape)
    return Reference(hi, target, low=lo)


OPS["astype"] = OpReference(
    "astype", "rounded", _astype, judges.converted, (1, 1), "bif", samples=moving.astype
)
OPS["real"] = replace(OPS["real"], view=True)
