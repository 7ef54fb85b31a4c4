"""References of reductions and scans.  Source: Python array API standard 2025.12.

An axis is None (all), an integer or a tuple.  Sums and products of integers accumulate in, and
return, int64 or uint64; `dtype` casts before accumulating.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray

from . import ball, judges, ordered_composed, ordered_sums
from .bounds import VarianceJudge
from .contraction import exact_sum, fraction_pair, reshaped
from .op import JudgeOf, OpReference, Range, as_float64
from .product_rows import prefixes, products
from .sampling import Samples, reductions as along
from .ulp import FLOAT64, format_of, two_product, two_sum
from .verdict import Reference

__all__ = ["OPS", "rows", "logsumexp_rows", "sum_rows"]

Array = NDArray[Any]
F64 = NDArray[np.float64]
Axis = int | tuple[int, ...] | None
OPS: dict[str, OpReference] = {}


def rows(x: Array, axis: Axis, keepdims: bool = False) -> tuple[Array, tuple[int, ...]]:
    """(matrix with the reduced elements in each row, in C order; shape of the result)."""
    every = range(x.ndim)
    chosen = (
        list(every)
        if axis is None
        else sorted(i % x.ndim for i in ((axis,) if isinstance(axis, int) else axis))
    )
    kept = [i for i in every if i not in chosen]
    count = math.prod(x.shape[i] for i in chosen)
    matrix = x.transpose(kept + chosen).reshape(math.prod(x.shape[i] for i in kept), count)
    if keepdims:
        return matrix, tuple(1 if i in chosen else x.shape[i] for i in every)
    return matrix, tuple(x.shape[i] for i in kept)


def accumulator_dtype(dtype: np.dtype[Any], wanted: Any = None) -> np.dtype[Any]:
    """Dtype of a sum or product: the wanted one, the input's if floating, else 64 bits."""
    if wanted is not None:
        target: np.dtype[Any] = np.dtype(wanted)
        return target
    if format_of(dtype) is not None:
        return dtype
    return np.dtype("uint64" if dtype.kind == "u" else "int64")


def sum_rows(matrix: F64) -> tuple[F64, F64]:
    """Exact sums of rows as pairs."""
    sums = [exact_sum(row) for row in matrix.tolist()]
    return np.array([s[0] for s in sums]), np.array([s[1] for s in sums])


def _cast(x: Any, dtype: Any) -> Array:
    """The input in the dtype of the accumulation (a cast to it comes first)."""
    array = np.asarray(x)
    target = accumulator_dtype(array.dtype, dtype)
    return array if array.dtype == target else array.astype(target)


def _sum(x: Any, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Reference:
    array = _cast(x, dtype)
    matrix, shape = rows(array, axis, keepdims)
    if format_of(array.dtype) is None:
        with np.errstate(all="ignore"):
            return Reference(matrix.sum(axis=1, dtype=array.dtype).reshape(shape), array.dtype)
    wide = as_float64(matrix)
    hi, lo = sum_rows(wide)
    with np.errstate(all="ignore"):
        magnitude = np.abs(wide).sum(axis=1)
    ref = Reference(hi, array.dtype, lo, 0.0, magnitude, terms=matrix.shape[1])
    return reshaped(ref, shape)


def _mean(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Reference:
    """Sum over n.  An empty mean is NaN (0/0)."""
    array = np.asarray(x)
    total = _sum(array, axis=axis, keepdims=keepdims)
    n = total.terms
    assert total.low is not None
    assert total.magnitude is not None
    with np.errstate(all="ignore"):
        hi = total.value / n
        from_ratio = [
            fraction_pair(_ratio(h, lo, n)) if math.isfinite(h) and n else (q, 0.0)
            for h, lo, q in zip(total.value.flat, total.low.flat, hi.flat, strict=True)
        ]
        magnitude = total.magnitude / n
    value = np.array([v[0] for v in from_ratio]).reshape(hi.shape)
    low = np.array([v[1] for v in from_ratio]).reshape(hi.shape)
    overflow = np.isfinite(value) & ~np.isfinite(total.value)
    return replace(total, value=value, low=low, magnitude=magnitude, undefined=overflow)


def _ratio(hi: float, lo: float, n: int) -> Any:
    return (Fraction(hi) + Fraction(lo)) / n


def _prod(x: Any, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Reference:
    array = _cast(x, dtype)
    matrix, shape = rows(array, axis, keepdims)
    if format_of(array.dtype) is None:
        with np.errstate(all="ignore"):
            return Reference(matrix.prod(axis=1, dtype=array.dtype).reshape(shape), array.dtype)
    return reshaped(products(as_float64(matrix), array.dtype), shape)


def _extreme(greatest: bool) -> Callable[..., Reference]:
    def forward(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Reference:
        array = np.asarray(x)
        matrix, shape = rows(array, axis, keepdims)
        if format_of(array.dtype) is None:
            result = matrix.max(axis=1) if greatest else matrix.min(axis=1)
            return Reference(result.reshape(shape), array.dtype)
        wide = as_float64(matrix)
        best = wide.max(axis=1) if greatest else wide.min(axis=1)
        negative = np.signbit(wide)
        # -0 < +0: a zero of the winning sign decides.
        plus = ((wide == 0) & ~negative).any(axis=1)
        minus = ((wide == 0) & negative).any(axis=1)
        sign = np.where(plus, 0.0, -0.0) if greatest else np.where(minus, -0.0, 0.0)
        best = np.where(best == 0, sign, best)
        return Reference(best.reshape(shape), array.dtype)

    return forward


def _truth(x: Any) -> Array:
    array = np.asarray(x)
    wide = array if format_of(array.dtype) is None else as_float64(array)
    return np.asarray(wide != 0)


def _logical(function: Callable[..., Any]) -> Callable[..., Reference]:
    def forward(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Reference:
        result = np.asarray(function(_truth(x), axis=axis, keepdims=keepdims))
        return Reference(result, result.dtype)

    return forward


def _variance(root: bool) -> Callable[..., Reference]:
    def forward(
        x: Any, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False
    ) -> Reference:
        array = np.asarray(x)
        matrix, shape = rows(array, axis, keepdims)
        return reshaped(_variance_rows(as_float64(matrix), array.dtype, correction, root), shape)

    return forward


def _variance_rows(wide: F64, dtype: np.dtype[Any], correction: float, root: bool) -> Reference:
    """Pairs for float64 results; for narrower ones two passes in float64.

    Those keep the bound of `VarianceJudge` with float64's own u (twice, as its terms are
    calculated too).
    """
    count = wide.shape[1]
    divisor = max(count - correction, 0.0)
    if dtype != np.float64 and divisor and count:
        return _two_passes(wide, dtype, divisor, root)
    value, low = np.zeros(wide.shape[0]), np.zeros(wide.shape[0])
    variance, second = np.zeros(wide.shape[0]), np.zeros(wide.shape[0])
    for i, row in enumerate(wide.tolist()):
        if divisor == 0 or not all(map(math.isfinite, row)):
            value[i] = variance[i] = math.nan
            continue
        hi, lo, var = _variance_pair(row, divisor, root)
        value[i], low[i], variance[i] = hi, lo, var
        mean = math.fsum(abs(v) / count for v in row)  # the sum itself may overflow
        second[i] = count * (mean * mean) / divisor
    # 0/0 or S/0 with S rounded: NaN and infinity are both right.
    free = np.full(wide.shape[0], divisor == 0 and count > 0)
    return Reference(
        value,
        dtype,
        low,
        2.0**-98 * np.where(np.isfinite(value), value, 0.0),
        variance,
        second=second,
        terms=count,
        undefined=free,
    )


def _two_passes(wide: F64, dtype: np.dtype[Any], divisor: float, root: bool) -> Reference:
    count = wide.shape[1]
    with np.errstate(all="ignore"):
        centred = wide - wide.mean(axis=1, keepdims=True)
        variance = np.square(centred).sum(axis=1) / divisor
        second = count * np.abs(wide).mean(axis=1) ** 2 / divisor
        value = np.sqrt(variance) if root else variance
    known = np.isfinite(wide).all(axis=1)
    value, variance = (np.where(known, v, np.nan) for v in (value, variance))
    second = np.where(known, second, 0.0)
    ref = Reference(
        value, dtype, np.zeros(value.shape), 0.0, variance, second=second, terms=count,
        undefined=np.zeros(value.shape, bool),
    )  # fmt: skip
    with np.errstate(all="ignore"):
        slack = 2 * VarianceJudge(FLOAT64, FLOAT64, root).tolerance(ref)
    return replace(ref, slack=np.where(np.isfinite(slack), slack, 0.0))


def _variance_pair(row: list[float], divisor: float, root: bool) -> tuple[float, float, float]:
    top = max(map(abs, row))
    if 2.0**-300 < top < 2.0**300:
        exact = _variance_by_pairs(np.array(row), divisor)
    else:
        with ball.precision(2400):
            values = [arb(v) for v in row]
            mean = sum(values, arb(0)) / len(row)
            exact = sum(((v - mean) ** 2 for v in values), arb(0)) / arb(divisor)
    with ball.precision(400):
        if not exact > 0:
            return 0.0, 0.0, 0.0
        hi, lo = ball.pair([exact.sqrt() if root else exact])
    return float(hi[0]), float(lo[0]), float(exact.mid())


def _variance_by_pairs(row: F64, divisor: float) -> ball.Ball:
    """The variance to about 2^-100 (A/s)^2 relative, A/s the mean against the deviation.

    With the mean as a pair, sum (x - m')^2 exceeds sum (x - m)^2 by n (m - m')^2 only.
    """
    hi, lo = exact_sum(row.tolist())
    mean_hi, mean_lo = fraction_pair((Fraction(hi) + Fraction(lo)) / row.size)
    d, rest = two_sum(row, np.full(row.shape, -mean_hi))
    rest = rest - mean_lo
    square, error = two_product(d, d)
    cross, cross_error = two_product(2 * d, rest)
    terms = np.concatenate([square, error, cross, cross_error, rest * rest])
    total, low = exact_sum(terms.tolist())
    with ball.precision(400):
        return (arb(total) + arb(low)) / arb(divisor)


def _scan_sum(
    x: Any, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Reference:
    array = _cast(x, dtype)
    along = _scan_axis(array, axis)
    moved = np.moveaxis(array, along, -1)
    length = moved.shape[-1]
    if format_of(array.dtype) is None:
        with np.errstate(all="ignore"):
            result = np.cumsum(moved, axis=-1, dtype=array.dtype)
        return _finish_scan(Reference(result, array.dtype), along, include_initial, 0)
    wide = as_float64(moved).reshape(math.prod(moved.shape[:-1]), length)
    hi, lo = np.zeros(wide.shape), np.zeros(wide.shape)
    for i, row in enumerate(wide.tolist()):
        hi[i], lo[i] = _prefix_sums(row)
    with np.errstate(all="ignore"):
        magnitude = np.abs(wide).cumsum(axis=-1)
    independent = np.zeros(wide.shape, bool)
    independent[:, -1:] = True
    terms = np.broadcast_to(np.arange(1, length + 1), wide.shape)
    ref = Reference(hi, array.dtype, lo, np.zeros(hi.shape), magnitude, terms=terms.copy())
    ref = replace(reshaped(ref, moved.shape), independent=independent.reshape(moved.shape))
    return _finish_scan(ref, along, include_initial, 0)


def _prefix_sums(row: list[float]) -> tuple[list[float], list[float]]:
    """Exact sums of the first 1, 2, ... numbers as pairs.

    What is behind is carried as a few floats of the same exact sum (math.fsum of them and the
    next number, peeled off part by part).
    """
    if not all(abs(v) < 2.0**900 for v in row):
        pairs = [exact_sum(row[: j + 1]) for j in range(len(row))]
        return [p[0] for p in pairs], [p[1] for p in pairs]
    hi: list[float] = []
    lo: list[float] = []
    carried: list[float] = []
    for v in row:
        rest = [*carried, v]
        carried = []
        while (part := math.fsum(rest)) != 0:
            carried.append(part)
            rest.append(-part)
        hi.append(carried[0] if carried else 0.0)
        lo.append(carried[1] if len(carried) > 1 else 0.0)
    zeros = 0
    while zeros < len(row) and row[zeros] == 0 and math.copysign(1.0, row[zeros]) < 0:
        hi[zeros] = -0.0
        zeros += 1
    return hi, lo


def _scan_axis(array: Array, axis: int | None) -> int:
    if axis is None:
        if array.ndim != 1:
            raise ValueError(f"a scan of {array.ndim} dimensions needs an axis")
        return 0
    return axis % array.ndim


def _finish_scan(ref: Reference, along: int, initial: bool, neutral: int) -> Reference:
    """The scanned axis back in its place, with the neutral element before it if asked for."""

    def change(array: Any, first: Any) -> Any:
        if not isinstance(array, np.ndarray) or array.ndim == 0:
            return array
        if initial:
            start = np.full((*array.shape[:-1], 1), first, array.dtype)
            array = np.concatenate([start, array], axis=-1)
        return np.moveaxis(array, -1, along)

    return replace(
        ref,
        value=change(ref.value, neutral),
        low=change(ref.low, 0),
        slack=change(ref.slack, 0),
        magnitude=change(ref.magnitude, neutral),
        terms=change(ref.terms, 1),
        independent=change(ref.independent, False),
    )


def _scan_product(
    x: Any, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Reference:
    array = _cast(x, dtype)
    along = _scan_axis(array, axis)
    moved = np.moveaxis(array, along, -1)
    length = moved.shape[-1]
    if format_of(array.dtype) is None:
        with np.errstate(all="ignore"):
            result = np.cumprod(moved, axis=-1, dtype=array.dtype)
        return _finish_scan(Reference(result, array.dtype), along, include_initial, 1)
    wide = as_float64(moved).reshape(math.prod(moved.shape[:-1]), length)
    ref = prefixes(wide, array.dtype)
    ref = reshaped(ref, moved.shape)
    return _finish_scan(ref, along, include_initial, 1)


def logsumexp_rows(wide: F64, dtype: np.dtype[Any]) -> Reference:
    """log(sum(exp(x))) of each row, with its error coefficients.

    As m + log(s), s = sum exp(x_j - m), m = max x, p_j = exp(x_j - m)/s.  In units of u: the
    subtraction moves s relatively by p_j |x_j - m|, exp by 2 p ulps, the sum by n; the relative
    error of s is the absolute error of log s, which adds 2 p |log s| of its own; the last
    addition rounds the result.  magnitude = n + sum p_j |x_j - m| + |result|,
    per_ulp = 1 + |log s|.  Source: Blanchard, Higham, Higham, Accurately computing the
    log-sum-exp and softmax functions, 2021, section 3, with its constants worked out.

    float64 itself evaluates the formula within the same bound for its own u, with elementary
    functions of 8 ulps; that is enough for narrower dtypes, and Arb is for float64.
    """
    count = wide.shape[1]
    if not count:
        zeros = np.zeros(wide.shape[0])
        return Reference(np.full(wide.shape[0], -np.inf), dtype, zeros, zeros, zeros, zeros)
    with np.errstate(all="ignore"):
        top = wide.max(axis=1)
        usable = np.isfinite(top)
        shifted = wide - np.where(usable, top, 0.0)[:, None]
        weights = np.exp(shifted)
        total = weights.sum(axis=1)
        value = np.where(usable, top + np.log(total), top)
        moved = np.where(weights > 0, weights * np.abs(shifted), 0.0).sum(axis=1) / total
        magnitude = np.where(usable, count + moved + np.abs(value), np.inf)
        per_ulp = np.where(usable, 1 + np.abs(np.log(total)), 0.0)
    low = np.zeros(value.shape)
    slack = np.where(usable, 2.0**-52 * (magnitude + 16 * per_ulp), 0.0)
    if dtype == np.float64:
        for i in np.flatnonzero(usable):
            value[i], low[i] = _logsumexp_pair(wide[i], float(top[i]))
        slack = 2.0**-98 * np.where(np.isfinite(value), np.abs(value), 0.0) + 2.0**-140
    magnitude = np.where(np.isnan(top), 0.0, magnitude)
    return Reference(value, dtype, low, slack, magnitude, per_ulp, terms=count + 4)


def _logsumexp_pair(row: F64, top: float) -> tuple[float, float]:
    with ball.precision(200):
        m = arb(top)
        total = sum(((arb(float(v)) - m).exp() for v in row if v - top > -200.0), arb(0))
        hi, lo = ball.pair([m + total.log()])
    return float(hi[0]), float(lo[0])


def _logsumexp(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Reference:
    array = np.asarray(x)
    matrix, shape = rows(array, axis, keepdims)
    return reshaped(logsumexp_rows(as_float64(matrix), array.dtype), shape)


def _count_nonzero(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Reference:
    truth = _truth(x)
    return Reference(
        np.asarray(truth.sum(axis=axis, keepdims=keepdims, dtype=np.int64)), np.dtype(np.int64)
    )


def _register(
    name: str,
    family: str,
    forward: Callable[..., Reference],
    judge: JudgeOf,
    kinds: str,
    samples: Samples,
    domain: Range = (-4.0, 4.0),
    degenerate: Samples | None = None,
    special: Samples | None = along.special_rows,
    **facts: Any,
) -> None:
    OPS[name] = OpReference(
        name,
        family,
        forward,
        judge,
        (1, 1),
        kinds,
        (domain,),
        samples=samples,
        special=special,
        degenerate=degenerate or along.degenerate(),
        **facts,
    )


_SUMS = ("ordinary", "ordinary", "positive", "cancelling", "small_onto_large", "zeros")
_KEEP = (None, True, False)
_WIDER = (None, None, np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.int64))
_register(
    "sum",
    "accumulation",
    _sum,
    judges.accumulation(),
    "bif",
    along.reduction(_SUMS, keepdims=_KEEP, dtype=_WIDER),
    order=ordered_sums.SUM,
)
_register(
    "mean",
    "accumulation",
    _mean,
    judges.accumulation(1),
    "f",
    along.reduction(_SUMS, keepdims=_KEEP),
    order=ordered_sums.MEAN,
)
_register(
    "cumulative_sum",
    "accumulation",
    _scan_sum,
    judges.accumulation(),
    "bif",
    along.along_axis(_SUMS, none=True, flat_only=True, include_initial=_KEEP, dtype=_WIDER),
    degenerate=along.degenerate(axis=0, empty=True, scalar=False),
    special=along.special_scan,
    order=ordered_sums.CUMULATIVE_SUM,
)
# Factors near 1, so that products of thousands stay in range and can be judged.
_register(
    "prod",
    "product",
    _prod,
    judges.product,
    "bif",
    along.reduction(keepdims=_KEEP, dtype=_WIDER),
    (0.97, 1.03),
    order=ordered_sums.PROD,
)
_register(
    "cumulative_prod",
    "product",
    _scan_product,
    judges.product,
    "bif",
    along.along_axis(none=True, flat_only=True, include_initial=_KEEP, dtype=_WIDER),
    (0.97, 1.03),
    degenerate=along.degenerate(axis=0, empty=True, scalar=False),
    special=along.special_scan,
    order=ordered_sums.CUMULATIVE_PROD,
)
for _name, _greatest in (("max", True), ("min", False)):
    _register(
        _name,
        "exact",
        _extreme(_greatest),
        judges.exact,
        "if",
        along.reduction(("ordinary", "wide", "ties"), keepdims=_KEEP),
        degenerate=along.degenerate(empty=False),
    )
for _name, _function in (("any", np.any), ("all", np.all)):
    _register(
        _name,
        "exact",
        _logical(_function),
        judges.exact,
        "bif",
        along.truths(_name == "any", keepdims=_KEEP),
    )
_SPREAD = ("ordinary", "ordinary", "ill conditioned")
for _name, _root, _order in (
    ("var", False, ordered_sums.VAR),
    ("std", True, ordered_sums.STD),
):
    _register(
        _name,
        "variance",
        _variance(_root),
        judges.variance(_root),
        "f",
        along.reduction(_SPREAD, keepdims=_KEEP, correction=(None, 0.0, 1.0, 0.3, 3, -1.0)),
        degenerate=along.degenerate(),
        order=_order,
    )
_register(
    "logsumexp",
    "coefficient",
    _logsumexp,
    judges.coefficient(3.0),
    "f",
    along.reduction(keepdims=_KEEP),
    (-30.0, 30.0),
    order=ordered_composed.LOGSUMEXP,
)
_register(
    "count_nonzero",
    "exact",
    _count_nonzero,
    judges.exact,
    "bif",
    along.truths(True, keepdims=_KEEP),
)
