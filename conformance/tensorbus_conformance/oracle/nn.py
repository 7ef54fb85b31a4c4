"""References of the neural-network functions (PyTorch's functional names, `axis` for `dim`).

Losses are formulas evaluated with `running`; softmax and the normalisations carry hand-derived
coefficients, since they are sharper than the running ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray

from . import ball, judges, ordered_composed, ordered_products, ordered_sums, running
from .activations import OPS as ACTIVATION_OPS
from .contraction import matmul_reference, reshaped
from .op import OpReference, Range, as_float64, common_dtype
from .reductions import sum_rows
from .running import constant
from .sampling import Samples, edges, indexing as at, matrix as products, reductions as along
from .sampling.creation import norm
from .sampling.sampler import AXIS_FORMS
from .ulp import FLOAT64, format_of, two_product, two_sum
from .verdict import Reference

__all__ = ["OPS", "default_eps", "layer_norm", "reduced", "rms_norm", "target_weights"]

Array = NDArray[Any]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
OPS: dict[str, OpReference] = dict(ACTIVATION_OPS)


def _register(
    name: str,
    family: str,
    forward: Callable[..., Any],
    judge: Any,
    samples: Samples | None,
    tensors: tuple[int, int] = (1, 1),
    domain: tuple[Range, ...] = ((-4.0, 4.0),),
    kinds: str = "f",
    special: Samples | None = None,
    degenerate: Samples | None = None,
    excused: dict[str, str] | None = None,
    **facts: Any,
) -> None:
    domains = domain if len(domain) >= tensors[1] else domain * tensors[1]
    OPS[name] = OpReference(
        name,
        family,
        forward,
        judge,
        tensors,
        kinds,
        domains,
        samples=samples,
        special=special,
        degenerate=degenerate,
        excused=excused or {},
        namespace="nn",
        **facts,
    )


# -- softmax --------------------------------------------------------------------------------------


def _softmax_parts(wide: F64, precise: bool) -> tuple[F64, F64, F64, F64, F64]:
    """(log-softmax hi, lo, |x - m|, n + sum p |x - m|, |log s|) of rows; NaN where undefined.

    `precise` asks for pairs by Arb, which only float64 results need.
    """
    with np.errstate(all="ignore"):
        top = wide.max(axis=1, keepdims=True)
        shifted = wide - top
        gap = np.abs(shifted)
        logs = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        hi, lo = shifted - logs, np.zeros(wide.shape)
        if precise:
            values = [_log_softmax_row(row) for row in wide]
            hi = np.array([v[0] for v in values]).reshape(wide.shape)
            lo = np.array([v[1] for v in values]).reshape(wide.shape)
        p = np.exp(hi)
        spread = np.where(p > 0, p * gap, 0.0).sum(axis=1, keepdims=True) + wide.shape[1]
    return hi, lo, gap, spread, np.abs(logs)


def _log_softmax_row(row: F64) -> tuple[F64, F64]:
    finite = np.isfinite(row)
    if not row.size or np.isnan(row).any() or np.isposinf(row).any() or not finite.any():
        return np.full(row.shape, np.nan), np.zeros(row.shape)
    with ball.precision(200):
        top = float(row.max())
        m = arb(top)
        balls = [arb(float(v)) - m if f else None for v, f in zip(row, finite, strict=True)]
        total = sum((b.exp() for b in balls if b is not None and b > -200), arb(0)).log()
        hi, lo = ball.pair([arb(0) if b is None else b - total for b in balls])
    return np.where(finite, hi, -np.inf), np.where(finite, lo, 0.0)


def _softmax(x: Any, *, axis: int = -1) -> Reference:
    """exp(x - m) / sum exp(x - m), m = max x.

    Relative error (n + 4 p + |x_i - m| + sum_j p_j |x_j - m| + 1) u: the subtractions move the
    exponentials by |x - m| u, exp adds p ulps (2 p u) above and below, the sum n, the division 1
    (Blanchard, Higham, Higham, 2021, section 4, with constants).
    """
    array = np.asarray(x)
    moved = np.moveaxis(array, axis, -1)
    wide = as_float64(moved).reshape(math.prod(moved.shape[:-1]), moved.shape[-1])
    if not wide.size:
        return Reference(as_float64(array), array.dtype, magnitude=as_float64(array))
    precise = array.dtype == np.float64
    hi, lo, gap, spread, _ = _softmax_parts(wide, precise)
    with np.errstate(all="ignore"):
        value, low = _exponential(hi, lo) if precise else _quotients(wide)
        magnitude = value * (np.where(value > 0, gap, 0.0) + spread + 1)
    finite = np.where(np.isfinite(value), value, 0.0)
    # float64 keeps the same bound with its own u, elementary functions being within 8 ulps.
    own = 2.0**-52 * (np.where(np.isfinite(magnitude), magnitude, 0.0) + 32 * finite)
    slack = (finite * 2.0**-94 if precise else own) + FLOAT64.tiny
    ref = Reference(value, array.dtype, low, slack, magnitude, 2 * value, terms=wide.shape[1] + 4)
    ref = replace(ref, signed=np.ones(value.shape, bool))  # no term is ever negative
    return _moved_back(reshaped(ref, moved.shape), axis)


def _quotients(wide: F64) -> tuple[F64, F64]:
    """exp(x - m) / sum exp(x - m) of rows in float64, and zeros."""
    weights = np.exp(wide - wide.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True), np.zeros(wide.shape)


def _exponential(hi: F64, lo: F64) -> tuple[F64, F64]:
    """exp(hi + lo) as a pair."""
    value, low = np.exp(hi), np.zeros(hi.shape)
    places = np.flatnonzero(np.isfinite(hi))
    if places.size:
        logs = zip(hi.flat[places].tolist(), lo.flat[places].tolist(), strict=True)
        with ball.precision(200):
            high, rest = ball.pair([(arb(h) + arb(r)).exp() for h, r in logs])
        value.flat[places], low.flat[places] = high, rest
    return value, low


def _moved_back(ref: Reference, axis: int) -> Reference:
    def change(array: Any) -> Any:
        big = isinstance(array, np.ndarray) and array.ndim
        return np.moveaxis(array, -1, axis) if big else array

    return replace(
        ref,
        value=change(ref.value),
        low=change(ref.low),
        slack=change(ref.slack),
        magnitude=change(ref.magnitude),
        per_ulp=change(ref.per_ulp),
        second=change(ref.second),
        underflow=change(ref.underflow),
        terms=change(ref.terms),
        signed=change(ref.signed),
        undefined=change(ref.undefined),
    )


def _log_softmax(x: Any, *, axis: int = -1) -> Reference:
    """(x - m) - log sum exp(x - m).

    Absolute error (|x_i - m| + n + sum_j p_j |x_j - m| + |result| + 2 p (1 + |log s|)) u, as for
    logsumexp with the subtraction of m beside it.
    """
    array = np.asarray(x)
    moved = np.moveaxis(array, axis, -1)
    wide = as_float64(moved).reshape(math.prod(moved.shape[:-1]), moved.shape[-1])
    if not wide.size:
        none = as_float64(array)
        return Reference(none, array.dtype, none, none, none, none)
    precise = array.dtype == np.float64
    hi, lo, gap, spread, logs = _softmax_parts(wide, precise)
    with np.errstate(all="ignore"):
        magnitude = np.where(np.isneginf(wide), 0.0, gap) + spread + np.abs(hi)
    per_ulp = np.broadcast_to(1 + logs, hi.shape).copy()
    if precise:
        slack = np.where(np.isfinite(hi), np.abs(hi), 0.0) * 2.0**-98 + 2.0**-160
    else:  # float64 keeps the same bound with its own u, elementary functions being within 8 ulps
        slack = np.where(np.isfinite(hi), 2.0**-52 * (magnitude + 16 * per_ulp), 0.0)
    ref = Reference(hi, array.dtype, lo, slack, magnitude, per_ulp, terms=wide.shape[1] + 4)
    return _moved_back(reshaped(ref, moved.shape), axis)


for _name, _forward, _order in (
    ("softmax", _softmax, ordered_composed.SOFTMAX),
    ("log_softmax", _log_softmax, ordered_composed.LOG_SOFTMAX),
):
    _register(
        _name,
        "coefficient",
        _forward,
        judges.coefficient(3.0),
        along.along_axis(forms=(*AXIS_FORMS, "default")),
        domain=((-12.0, 12.0),),
        special=along.special_rows,
        degenerate=along.degenerate(axis=-1, scalar=False),
        order=_order,
    )

# -- normalisation --------------------------------------------------------------------------------


def _axes(axis: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
    return tuple(a % rank for a in ((axis,) if isinstance(axis, int) else axis))


def _spread(weight: Any, axes: tuple[int, ...], rank: int) -> Any:
    """A weight of the sizes of the normalised axes, with ones for the other dimensions."""
    if weight is None or weight.ndim == rank:
        return weight
    sizes = dict(zip(sorted(axes), weight.shape, strict=True))
    return np.asarray(weight).reshape([sizes.get(k, 1) for k in range(rank)])


def layer_norm(x: Any, weight: Any, bias: Any, axes: tuple[int, ...], eps: float) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias."""
    count = math.prod(x.shape[a] for a in axes)
    centred = x - running.summed(x, axes, True) / count
    variance = running.summed(centred * centred, axes, True) / count
    y = centred / running.sqrt(variance + constant(x, eps))
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def rms_norm(x: Any, weight: Any, axes: tuple[int, ...], eps: float) -> Any:
    """x / sqrt(mean(x^2) + eps) * weight: Zhang and Sennrich, 2019."""
    count = math.prod(x.shape[a] for a in axes)
    y = x / running.sqrt(running.summed(x * x, axes, True) / count + constant(x, eps))
    return y if weight is None else y * weight


def _layer_norm(
    x: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
) -> Reference:
    """Class 5: with n terms, A = mean |x|, d = x - mean, v the variance, r = 1/sqrt(v + eps).

    The computed mean is off by gamma(n + 1) A and d by that and its rounding: |w| r ((n + 1) A +
    |d|).  The variance is off relatively by (n + 3) u, and by ((n + 1) A u)^2 absolutely (see
    VarianceJudge); what that, eps and their sum do to the root is `_through_root`.  Root and
    division (or product with the reciprocal) are 3 more, 1 each for weight and bias.
    """
    array = np.asarray(x)
    axes = _axes(axis, array.ndim)
    weight, bias = (_spread(v, axes, array.ndim) for v in (weight, bias))
    count = math.prod(array.shape[a] for a in axes)
    if not array.size:
        return Reference(as_float64(array), array.dtype)
    ref = running.reference(
        lambda a, w, b: layer_norm(a, w, b, axes, eps), [array, weight, bias], array.dtype
    )
    wide = as_float64(array)
    with np.errstate(all="ignore"):
        mean_abs = np.abs(wide).mean(axis=axes, keepdims=True)
        centred = np.abs(wide - wide.mean(axis=axes, keepdims=True))
        variance = np.square(centred).mean(axis=axes, keepdims=True)
        shift = ((count + 1) * mean_abs) ** 2
        first, second, free = _through_root(variance, eps, count + 3, shift, array.dtype)
        w = 1.0 if weight is None else np.abs(as_float64(weight))
        scale = w / np.sqrt(np.abs(variance + eps))
        extra = 4 + (weight is not None)
        magnitude = scale * ((count + 1) * mean_abs + centred * (first + extra))
        second = scale * centred * second
        if bias is not None:
            magnitude = magnitude + np.abs(ref.value)
    return replace(
        ref,
        magnitude=np.broadcast_to(magnitude, ref.shape).copy(),
        per_ulp=None,
        second=np.broadcast_to(second, ref.shape).copy(),
        terms=count + 8,
        undefined=np.broadcast_to(free, ref.shape).copy(),
    )


def _through_root(
    v: F64, eps: float, count: int, shift: Any, dtype: np.dtype[Any]
) -> tuple[F64, F64, Mask]:
    """Relative error of 1/sqrt(v + eps) from those of v, eps and their sum.

    With v off by `count` u relatively and `shift` u^2 absolutely, eps and the sum t = v + eps
    rounded once, t is off relatively by d = u C + u^2 D, C = (count v + |eps| + |t|)/|t|, D =
    shift/|t|; C is at most count + 1 unless eps is negative.  |(1 - d)^(-1/2) - 1| is at most
    d/2 (1 - d)^(-3/2); with 2 d for d, and one power more, it also covers that t is calculated
    in float64 here, with errors of no more than d.  Where d reaches 1/8, t has hardly a sign.

    Returns:
        Coefficients of u and of u^2, and where the result is not specified.
    """
    fmt = format_of(dtype)
    assert fmt is not None
    u = fmt.compute.u
    t = np.abs(v + eps)
    first, second = (count * v + abs(eps) + t) / t, shift / t
    d = u * first + u * u * second
    free = np.isfinite(v) & ~(d < 0.125) & ((v != 0) | (shift != 0))  # else all terms are 0
    growth = np.where(free, 1.0, (1 - 2 * d) ** -2.5)
    return first / 2 * growth, second / 2 * growth, free


def default_eps(dtype: Any) -> float:
    """2^(1-p), the distance from 1 to the next number."""
    fmt = format_of(dtype)
    if fmt is None:
        raise TypeError(f"{np.dtype(dtype)} is no floating dtype")
    return 2.0 ** (1 - fmt.p)


def _rms_norm(
    x: Any, weight: Any = None, *, axis: int | tuple[int, ...] = -1, eps: float | None = None
) -> Reference:
    """Class 5: all terms of the mean square are positive, so its relative error is n + 1; what
    that, eps and the sum do to the root is `_through_root`; the root 1, division (or reciprocal
    and product) and weight 3.  Without `eps` it is that of the dtype, 2^(1-p), as PyTorch
    has it.
    """
    array = np.asarray(x)
    axes = _axes(axis, array.ndim)
    weight = _spread(weight, axes, array.ndim)
    small = default_eps(array.dtype) if eps is None else eps
    count = math.prod(array.shape[a] for a in axes)
    if not array.size:
        return Reference(as_float64(array), array.dtype)
    ref = running.reference(lambda a, w: rms_norm(a, w, axes, small), [array, weight], array.dtype)
    with np.errstate(all="ignore"):
        square = np.square(as_float64(array)).mean(axis=axes, keepdims=True)
        first, _, free = _through_root(square, small, count + 1, 0.0, array.dtype)
        magnitude = np.abs(ref.value) * (first + 4)
    free = np.broadcast_to(free, ref.shape).copy()
    return replace(ref, magnitude=magnitude, per_ulp=None, terms=count + 8, undefined=free)


_NORM = ((-2.0, 2.0), (0.5, 1.5), (-1.0, 1.0))
_NO_AXES = {"axis: ()": "a normalisation over no dimension is a ValueError, see errors"}
_register(
    "layer_norm",
    "coefficient",
    _layer_norm,
    judges.coefficient(),
    norm(("weight", "bias"), (None, 1e-5, 0.0, 0.5, -1e-3)),
    (1, 3),
    _NORM,
    special=edges.norm_special,
    degenerate=edges.norm_degenerate,
    excused=_NO_AXES,
    mixes="within",
    order=ordered_composed.LAYER_NORM,
)
_register(
    "rms_norm",
    "coefficient",
    _rms_norm,
    judges.coefficient(),
    norm(("weight",), (None, 1e-5, 0.0, 0.5, -1e-3)),
    (1, 2),
    _NORM[:2],
    special=edges.norm_special,
    degenerate=edges.norm_degenerate,
    excused=_NO_AXES,
    mixes="within",
    order=ordered_composed.RMS_NORM,
)

# -- losses and linear ----------------------------------------------------------------------------


def reduced(x: Any, reduction: str) -> Any:
    """``"none"``, ``"sum"`` or ``"mean"`` over all elements."""
    if reduction == "none":
        return x
    total = running.summed(x)
    if reduction == "sum":
        return total
    count = math.prod(getattr(x, "shape", ()))
    return total / count if count else total * math.nan


def _mse_loss(input: Any, target: Any, *, reduction: str = "mean") -> Reference:
    """The mean of (input - target)^2."""
    a, b = np.asarray(input), np.asarray(target)
    dtype = common_dtype(a, b)

    def formula(x: Any, y: Any) -> Any:
        difference = x - y
        return reduced(difference * difference, reduction)

    return running.reference(formula, [a, b], dtype)


def _cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    axis: int = -1,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Reference:
    """-sum_c w_c t_c log_softmax(input)_c, t one-hot (smoothed) or given as probabilities.

    The error is that of log_softmax times the weights, plus 2 products and the sum of C classes;
    the mean adds its N terms and, for the weighted mean over class indices, that of the weights.
    """
    logits = np.asarray(input)
    along = axis % logits.ndim if logits.ndim > 1 else 0
    logs = _log_softmax(logits, axis=along)
    t, per_item = target_weights(
        logits, np.asarray(target), weight, along, ignore_index, label_smoothing
    )
    assert logs.magnitude is not None
    assert logs.per_ulp is not None
    assert logs.low is not None
    classes = logits.shape[along]
    with np.errstate(all="ignore"):
        size = np.where(t == 0, 0.0, t * np.abs(logs.value))
        e = (np.where(t == 0, 0.0, t * logs.magnitude) + (classes + 3) * size).sum(axis=along)
        q = np.where(t == 0, 0.0, t * logs.per_ulp).sum(axis=along)
        high, rest = two_product(np.where(t == 0, 0.0, -t), np.where(t == 0, 0.0, logs.value))
        rest = rest - np.where(t == 0, 0.0, t * logs.low)
        total = size.sum(axis=along)
        doubt = np.where(t == 0, 0.0, np.abs(t) * logs.slack).sum(axis=along)
    given = np.asarray(target)
    if given.dtype.kind in "iu":  # a class that does not exist gives NaN
        high = np.where(np.expand_dims((given < 0) | (given >= classes), along), np.nan, high)
    terms = np.concatenate([np.moveaxis(high, along, -1), np.moveaxis(rest, along, -1)], axis=-1)
    count = max(total.size, 1)
    denominator = 1.0
    if reduction != "none":
        terms = terms.reshape(1, -1)
        denominator = 1.0 if reduction == "sum" else float(per_item.sum())
        e = np.asarray((e.sum() + 2 * (count + 1) * total.sum()) / denominator)
        q, total = np.asarray(q.sum() / denominator), total.sum() / denominator
        doubt = doubt.sum() / denominator
    hi, lo = sum_rows(terms.reshape(math.prod(terms.shape[:-1]), terms.shape[-1]))
    value, low = _over(hi, lo, denominator)
    # Smoothed targets and their weights are rounded to float64 themselves.
    slack = np.where(np.isfinite(total), 4 * 2.0**-53 * total + doubt, 0.0)
    return Reference(
        value.reshape(e.shape),
        logits.dtype,
        low.reshape(e.shape),
        slack,
        e,
        np.asarray(q),
        terms=classes + count + 8,
    )


def _over(hi: F64, lo: F64, denominator: float) -> tuple[F64, F64]:
    """(hi + lo) / denominator as a pair."""
    with np.errstate(all="ignore"):
        quotient = np.asarray(hi / denominator)
        p, e = two_product(quotient, np.full(quotient.shape, denominator))
        rest = ((hi - p) - e + lo) / denominator
    return quotient, np.where(np.isfinite(rest), rest, 0.0)


def target_weights(
    logits: Array, target: Array, weight: Any, along: int, ignore_index: int, smoothing: float
) -> tuple[F64, F64]:
    """(coefficient of -log_softmax for each class, weight of each item in the mean)."""
    classes = logits.shape[along]
    shape = [1] * logits.ndim
    shape[along] = classes
    w = np.ones(classes) if weight is None else as_float64(weight)
    if target.dtype.kind in "iu":
        items = np.expand_dims(target, along)
        keep = items != ignore_index
        hot = (np.arange(classes).reshape(shape) == items).astype(np.float64)
        smooth = hot * (1 - smoothing) + smoothing / max(classes, 1)
        t = smooth * w.reshape(shape) * keep
        per_item = (hot * w.reshape(shape) * keep).sum(axis=along)
        return t, per_item
    probabilities = as_float64(target)
    t = (probabilities * (1 - smoothing) + smoothing / max(classes, 1)) * w.reshape(shape)
    return t, np.ones(t.sum(axis=along).shape)


def _linear(input: Any, weight: Any, bias: Any = None) -> Reference:
    """input @ weight^T + bias: class 4 with one term more for the bias."""
    a, b = np.asarray(input), np.asarray(weight)
    dtype = common_dtype(a, b)
    rows_of = a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) if a.ndim else a.reshape(1, 1)
    ref = matmul_reference(rows_of, b.T if b.ndim == 2 else b[:, None], dtype)
    shape = a.shape[:-1] + ((b.shape[0],) if b.ndim == 2 else ())
    if bias is None:
        return reshaped(ref, shape)
    extra = as_float64(bias)
    low = np.zeros(ref.shape) if ref.low is None else ref.low
    hi, lo = two_sum(ref.value, np.broadcast_to(extra, ref.shape))
    hi, lo = two_sum(hi, lo + low)
    assert ref.magnitude is not None
    ref = replace(
        ref,
        value=hi,
        low=lo,
        magnitude=ref.magnitude + np.abs(extra),
        terms=ref.terms + 1,
    )
    return reshaped(ref, shape)


def _embedding(input: Any, weight: Any) -> Reference:
    """Rows of `weight` at the indices `input`: movement."""
    table = np.asarray(weight)
    result = table[np.asarray(input)]
    value = as_float64(result) if format_of(table.dtype) is not None else result
    return Reference(value, table.dtype)


def _dropout(x: Any, mask: Any, *, p: float = 0.5) -> Reference:
    """x / (1 - p) where `mask`, else 0: rounding of the scale and of one product or quotient."""
    array = np.asarray(x)

    def formula(v: Any) -> Any:
        if p >= 1:
            return v * 0
        return running.where(np.asarray(mask, bool), v * constant(v, 1 / (1 - p)), v * 0)

    return running.reference(formula, [array], array.dtype)


_register(
    "mse_loss",
    "coefficient",
    _mse_loss,
    judges.coefficient(),
    products.mse_loss,
    (2, 2),
    special=edges.mse_special,
    degenerate=edges.mse_degenerate,
    mixes="within",
    order=ordered_sums.MSE_LOSS,
)
_register(
    "cross_entropy",
    "coefficient",
    _cross_entropy,
    judges.coefficient(3.0),
    at.cross_entropy,
    (2, 3),
    special=edges.cross_entropy_special,
    degenerate=edges.cross_entropy_degenerate,
    excused={"label_smoothing: negative": "smoothing outside [0, 1] is a ValueError, see errors"},
    mixes="within",
    order=ordered_composed.CROSS_ENTROPY,
)
_register(
    "linear",
    "accumulation",
    _linear,
    judges.accumulation(),
    products.linear,
    (2, 3),
    ((-1.0, 1.0),),
    degenerate=edges.linear_degenerate,
    mixes="within",
    order=ordered_products.LINEAR,
)
_register(
    "embedding",
    "exact",
    _embedding,
    judges.exact,
    at.embedding,
    (2, 2),
    kinds="bif",
    degenerate=edges.indexed(
        ((), (1, 3), None), ((0,), (0, 3), None), ((2,), (3, 0), None), ((0, 2), (4,), None),
        first=True,
    ),
    order=ordered_sums.EMBEDDING,
)  # fmt: skip
_register("dropout", "coefficient", _dropout, judges.coefficient(), None, (2, 2))
for _name, _at in (("embedding", 0), ("cross_entropy", 1)):
    OPS[_name] = replace(OPS[_name], positions=(_at,))
