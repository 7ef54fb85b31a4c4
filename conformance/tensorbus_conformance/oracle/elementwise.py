"""References of the elementwise functions on real dtypes.

Sources: Python array API standard 2025.12 (special cases included), IEEE 754-2019 and C17 Annex F
through NumPy's float64 functions, and tensorbus' own rules where the standard leaves a choice:
integers wrap, integer division by zero gives 0, shifts out of range give 0 or -1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray

from . import ball, judges
from .op import OpReference, Range, as_float64, promoted
from .ulp import FLOAT64, format_of, two_product, two_sum, ulp
from .verdict import Reference

__all__ = ["OPS", "TRANSCENDENTAL", "reference_of"]

Array = NDArray[Any]
F64 = NDArray[np.float64]
OPS: dict[str, OpReference] = {}


def _add(
    name: str,
    forward: Callable[..., Reference],
    family: str = "exact",
    tensors: int = 1,
    kinds: str = "f",
    domain: tuple[Range, ...] = ((-4.0, 4.0),),
    judge: Any = None,
) -> None:
    chosen = judge or {"exact": judges.exact, "rounded": judges.rounded}[family]
    domains = domain if len(domain) == tensors else domain * tensors
    OPS[name] = OpReference(name, family, forward, chosen, (tensors, tensors), kinds, domains)


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


def _clip(x: Any, min: Any = None, max: Any = None) -> Reference:
    """minimum(maximum(x, min), max); a zero that x holds may be kept beside a bound of zero."""
    array = np.asarray(x)
    dtype = array.dtype
    result = as_float64(array) if format_of(dtype) is not None else array
    plain = result
    for bound, greatest in ((min, True), (max, False)):
        if bound is None:
            continue
        if format_of(dtype) is None:
            info = np.iinfo(dtype)
            limit = np.clip(np.asarray(bound), info.min, info.max).astype(dtype)
        else:
            limit = as_float64(np.asarray(bound).astype(dtype))
        result, limit = np.broadcast_arrays(result, limit)
        result = np.asarray(extremum(result, limit, greatest))
    plain = np.broadcast_to(plain, result.shape)
    other = np.where((plain == 0) & (result == 0), plain, result)
    return _exact(result, dtype, alternatives=(other,))


OPS["clip"] = OpReference(
    "clip", "exact", _clip, judges.exact, (1, 3), "if", ((-4.0, 4.0), (-2.0, 0.0), (0.0, 2.0))
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

# -- class 3: transcendental ----------------------------------------------------------------------

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid64(x: F64) -> F64:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, e) / (1 + e))


def _hypot_ball(x: Any, y: Any) -> Any:
    return (x * x + y * y).sqrt()


def _logaddexp_ball(x: Any, y: Any) -> Any:
    big, small = (x, y) if x >= y else (y, x)
    return big + (small - big).exp().log1p()


TRANSCENDENTAL: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Range, ...]]] = {
    # name: float64 function (a few ulp of float64), Arb function, where to sample
    "acos": (np.arccos, lambda x: x.acos(), ((-0.99, 0.99),)),
    "acosh": (np.arccosh, lambda x: x.acosh(), ((1.05, 50.0),)),
    "asin": (np.arcsin, lambda x: x.asin(), ((-0.99, 0.99),)),
    "asinh": (np.arcsinh, lambda x: x.asinh(), ((-20.0, 20.0),)),
    "atan": (np.arctan, lambda x: x.atan(), ((-20.0, 20.0),)),
    "atan2": (np.arctan2, arb.atan2, ((-4.0, 4.0), (-4.0, 4.0))),
    "atanh": (np.arctanh, lambda x: x.atanh(), ((-0.98, 0.98),)),
    "cos": (np.cos, lambda x: x.cos(), ((-20.0, 20.0),)),
    "cosh": (np.cosh, lambda x: x.cosh(), ((-8.0, 8.0),)),
    "erf": (_erf, lambda x: x.erf(), ((-3.0, 3.0),)),
    "exp": (np.exp, lambda x: x.exp(), ((-8.0, 8.0),)),
    "exp2": (np.exp2, lambda x: (x * arb(2).log()).exp(), ((-8.0, 8.0),)),
    "expm1": (np.expm1, lambda x: x.expm1(), ((-4.0, 4.0),)),
    "hypot": (np.hypot, _hypot_ball, ((-4.0, 4.0), (-4.0, 4.0))),
    "log": (np.log, lambda x: x.log(), ((0.05, 20.0),)),
    "log10": (np.log10, lambda x: x.log_base(10), ((0.05, 20.0),)),
    "log1p": (np.log1p, lambda x: x.log1p(), ((-0.95, 8.0),)),
    "log2": (np.log2, lambda x: x.log_base(2), ((0.05, 20.0),)),
    "logaddexp": (np.logaddexp, _logaddexp_ball, ((-8.0, 8.0), (-8.0, 8.0))),
    "pow": (np.power, lambda x, y: x**y, ((0.1, 4.0), (-4.0, 4.0))),
    "rsqrt": (lambda x: 1 / np.sqrt(x), lambda x: x.rsqrt(), ((0.0, 8.0),)),
    "sigmoid": (_sigmoid64, lambda x: 1 / (1 + (-x).exp()), ((-8.0, 8.0),)),
    "sin": (np.sin, lambda x: x.sin(), ((-20.0, 20.0),)),
    "sinh": (np.sinh, lambda x: x.sinh(), ((-8.0, 8.0),)),
    "softplus": (
        lambda x: np.logaddexp(0.0, x),
        lambda x: _logaddexp_ball(x, arb(0)),
        ((-8.0, 8.0),),
    ),
    "tan": (np.tan, lambda x: x.tan(), ((-20.0, 20.0),)),
    "tanh": (np.tanh, lambda x: x.tanh(), ((-4.0, 4.0),)),
}

SLACK = 2.0**-49
"""Relative error allowed to a float64 reference: 8 to 16 ulp of float64, 2^-26 ulp of float32."""


def _refined(value: F64, exact: Callable[[int], Any]) -> tuple[F64, F64]:
    """The float64 values replaced by Arb's, as pairs, wherever the exact value is a number."""
    hi, lo = value.copy(), np.zeros(value.shape)
    places, exacts = [], []
    for i, rough in enumerate(value.reshape(-1).tolist()):
        if math.isnan(rough) or (rough == 0 and _certainly(exact, i)):
            continue
        precise = exact(i)
        if precise.is_finite() and precise.rel_accuracy_bits() >= 100:
            places.append(i)
            exacts.append(precise)
    if places:
        high, low = ball.pair(exacts)
        rough_signs = value.reshape(-1)[places]
        hi.flat[places] = np.where(high == 0, np.copysign(0.0, rough_signs), high)
        lo.flat[places] = low
    return hi, lo


def _certainly(exact: Callable[[int], Any], i: int) -> bool:
    result = exact(i)
    return bool(result.is_zero() or not result.is_finite())


def reference_of(name: str, *arguments: Any, **options: Any) -> Reference:
    """The reference of an elementary function of `TRANSCENDENTAL`."""
    function, arb_function, _ = TRANSCENDENTAL[name]
    arrays = promoted(*arguments)
    dtype = arrays[0].dtype
    wide = [as_float64(a) for a in arrays]
    with np.errstate(all="ignore"):
        value = np.asarray(function(*wide), np.float64)

    def exact(i: int) -> Any:
        numbers = [float(w.flat[i]) for w in wide]
        if name == "atan2" and numbers[0] == 0:  # Arb knows no sign of zero
            turn = math.copysign(1.0, numbers[1]) < 0
            sign = int(math.copysign(1.0, numbers[0]))
            return ball.accurate(lambda _: arb.pi() * sign if turn else arb(0), 0.0)
        return ball.accurate(arb_function, *numbers)

    magnitude = None
    slack: Any = SLACK * np.where(np.isfinite(value), np.abs(value), 0.0) + FLOAT64.tiny
    if name == "logaddexp":
        with np.errstate(all="ignore"):
            gap = np.abs(wide[0] - wide[1])
            magnitude = np.log1p(np.exp(-np.where(np.isnan(gap), 0.0, gap)))
            slack = slack + SLACK * np.where(np.isfinite(value), magnitude, 0.0)
    low = None
    if dtype == np.float64:
        value, low = _refined(value, exact)
        slack = 2.0**-98 * np.where(np.isfinite(value), np.abs(value), 0.0)
    return Reference(value, dtype, low, slack, magnitude, exact=exact)


def _power(x1: Any, x2: Any) -> Reference:
    """x1 ** x2; integers wrap, a negative integer exponent gives 0 (1 and -1 invert themselves)."""
    a, b = promoted(x1, x2)
    if format_of(a.dtype) is not None:
        return reference_of("pow", a, b)
    bits = 8 * a.dtype.itemsize
    result = np.zeros(a.shape, a.dtype)
    for i in range(a.size):
        base, exponent = int(a.flat[i]), int(b.flat[i])
        if exponent < 0:
            wrapped = base if base == 1 or (base == -1 and exponent % 2) else int(base == -1)
        else:
            wrapped = pow(base, exponent, 1 << bits)
        if a.dtype.kind == "i" and wrapped >= 1 << (bits - 1):
            wrapped -= 1 << bits
        result.flat[i] = wrapped
    return _exact(result)


def _bind(name: str) -> Callable[..., Reference]:
    return lambda *arrays, **options: reference_of(name, *arrays, **options)


for _name, (_, _, _domain) in TRANSCENDENTAL.items():
    _add(
        _name,
        _power if _name == "pow" else _bind(_name),
        "transcendental",
        len(_domain),
        "if" if _name == "pow" else "f",
        _domain,
        judges.ulps(_name, absolute=_name == "logaddexp"),
    )

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


OPS["astype"] = OpReference("astype", "rounded", _astype, judges.rounded, (1, 1), "bif")
