"""Gradient references: reverse mode, forward mode and second order of every differentiable op.

All derivatives are hand-derived (`derivatives`, `gradient_rules`) or, for ops that only move
elements, read off by sending labelled elements through the op.  They are evaluated in float64,
for float64 results on Arb balls.  Each Reference carries the error bound of computing the rule
as written, every operation rounded to the dtype: |error| <= u (magnitude + 2 p per_ulp), class 8
of the error model; its judge is ``OpReference.gradient_judge``.

`second_order_reference` differentiates the reverse-mode rule along tangents (a `Dual` number
through the rule).  The tests check all of them against complex steps of the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import judges, nn, running as r
from .contraction import exact_sum
from .derivatives import PARTIALS, gelu_tanh_partial
from .gradient_rules import FORMULAS, RULES, unbroadcast
from .indexing import stable_order
from .kinks import kinks_of
from .op import OpReference
from .running import Dual, Running, as_input, real, references
from .ulp import format_of, round_to
from .verdict import Reference

__all__ = [
    "DIFFERENTIABLE",
    "jvp_reference",
    "second_order_reference",
    "vjp_reference",
    "with_gradients",
]

F64 = NDArray[np.float64]
Array = NDArray[Any]
Options = dict[str, Any]

MOVEMENT = frozenset(
    {
        *("astype", "asarray", "broadcast_arrays", "broadcast_to", "concat", "embedding"),
        *("expand_dims", "flip", "gather", "meshgrid", "matrix_transpose", "moveaxis"),
        *("permute_dims", "repeat", "reshape", "roll", "scatter", "sort", "squeeze", "stack"),
        *("take", "take_along_axis", "tile", "tril", "triu", "unstack", "where"),
    }
)
"""Ops whose every result is an element of an input or zero: linear, gradients by labels."""


def _partials(name: str, options: Options) -> Callable[..., list[Any]]:
    if name == "gelu" and options.get("approximate") == "tanh":
        return gelu_tanh_partial
    plain = PARTIALS[name]
    used = {k: v for k, v in options.items() if k != "approximate"}
    return (lambda *xs: plain(*xs, **used)) if used else plain


def _elementwise_rule(name: str, xs: list[Any], options: Options, g: Any) -> list[Any]:
    slopes = _partials(name, options)(*xs)
    return [
        unbroadcast(g * slope, tuple(real(x).shape)) for x, slope in zip(xs, slopes, strict=True)
    ]


def _clip_rule(xs: list[Any], options: Options, g: Any) -> list[Any]:
    """The gradient passes on the closed interval, and to a bound where it binds.

    The upper one binds last, so also where the lower one is above it.
    """
    inside, *binding = _active(xs, options)
    grads: list[Any] = [unbroadcast(g * inside, tuple(real(xs[0]).shape))]
    for bound, active in zip(xs[1:], binding, strict=False):
        grads.append(
            None
            if bound is None or (np.ndim(real(bound)) == 0 and not isinstance(bound, Running))
            else unbroadcast(g * active, tuple(real(bound).shape))
        )
    return grads


def _active(xs: list[Any], options: Options) -> list[F64]:
    """1 where x, the lower, the upper bound is the value of clip, else 0."""
    at = real(xs[0])
    low, high = _bounds(xs, options)
    masks = (
        (at >= low) & (at <= high),
        (at < low) & (low <= high),
        (at > high) | np.greater(low, high),
    )
    shape = np.broadcast_shapes(*(np.shape(m) for m in masks))
    return [np.broadcast_to(m, shape).astype(np.float64) for m in masks]


def _bounds(xs: list[Any], options: Options) -> tuple[Any, Any]:
    low = xs[1] if len(xs) > 1 else options.get("min")
    high = xs[2] if len(xs) > 2 else options.get("max")
    return (-np.inf if low is None else real(low)), (np.inf if high is None else real(high))


def _rule(name: str, xs: list[Any], options: Options, g: Any) -> list[Any]:
    if name in RULES:
        return RULES[name](xs, options, g)
    if name == "clip":
        return _clip_rule(xs, options, g)
    return _elementwise_rule(name, xs, options, g)


def _resolved(op: OpReference, arrays: Sequence[Any], options: Options) -> Options:
    """Options whose default depends on the dtype, filled in."""
    if op.name == "rms_norm" and options.get("eps") is None:
        return {**options, "eps": nn.default_eps(np.asarray(arrays[0]).dtype)}
    return options


def _dtypes(arrays: Sequence[Any]) -> list[np.dtype[Any]]:
    return [np.dtype(np.float64) if a is None else np.asarray(a).dtype for a in arrays]


def _float_dtypes(inputs: Sequence[Any]) -> list[np.dtype[Any]]:
    # A tuple of sizes or shifts is no operand, and an empty one would count as float64.
    dtypes = [np.asarray(x).dtype for x in inputs if x is not None and not isinstance(x, tuple)]
    return [d for d in dtypes if format_of(d) is not None]


def _arrays(inputs: Sequence[Any]) -> list[Any]:
    """Python floats take the dtype of the arrays beside them."""
    dtype = next((a.dtype for a in inputs if isinstance(a, np.ndarray)), np.dtype(np.float64))
    if format_of(dtype) is None:
        dtype = np.dtype(np.float64)
    return [np.asarray(a, dtype) if isinstance(a, float) else a for a in inputs]


def vjp_reference(
    op: OpReference, inputs: Sequence[Any], options: Options, cotangent: Any
) -> list[Reference | None]:
    """The cotangents of the inputs for the cotangent of the result (a list for several results).

    Each has the shape and dtype of its input; None for integers, bools and what has no gradient.
    The float64 arrays are ``[ref.value for ref in ...]``.
    """
    arrays = _arrays(inputs)
    options = _resolved(op, arrays, options)
    if op.name in MOVEMENT:
        return _movement_vjp(op, arrays, options, cotangent)
    if (other := _conversion(arrays, options)) is not None:
        refs = vjp_reference(op, other[0], other[1], cotangent)
        return [_as_dtype_of(a, ref) for a, ref in zip(arrays, refs, strict=True)]
    count = len(arrays)
    dtypes = _dtypes(arrays)

    def formula(*xs: Any) -> list[Any]:
        found = _rule(op.name, list(xs[:count]), options, xs[count])
        found = found + [None] * (count - len(found))
        return [None if format_of(d) is None else f for f, d in zip(found, dtypes, strict=True)]

    refs = references(formula, [*arrays, np.asarray(cotangent)], dtypes)
    return [_shaped(ref, a) for ref, a in zip(refs, arrays, strict=True)]


def _conversion(arrays: list[Any], options: Options) -> tuple[list[Any], Options] | None:
    """The call behind one with `dtype`: operands converted (and rounded), nothing else to do.

    What comes before and after are conversions, whose derivatives are conversions: a tangent is
    rounded to `dtype` as its operand is, a gradient to the operand's dtype.
    """
    wanted = options.get("dtype")
    if wanted is None or format_of(wanted) is None:
        return None
    rest = {k: v for k, v in options.items() if k != "dtype"}
    return [a.astype(wanted) if isinstance(a, np.ndarray) else a for a in arrays], rest


def _as_dtype_of(array: Any, ref: Reference | None) -> Reference | None:
    """What is found in another dtype, in the operand's; None for an integer operand."""
    if ref is None or format_of(np.asarray(array).dtype) is None:
        return None
    return replace(ref, dtype=np.asarray(array).dtype)


def _shaped(ref: Reference | None, like: Any) -> Reference | None:
    """Rules may give gradients that are constant along an axis: broadcast to the input."""
    if ref is None or ref.shape == np.shape(like):
        return ref
    shape = np.shape(like)

    def change(a: Any) -> Any:
        return np.broadcast_to(a, shape).copy() if isinstance(a, np.ndarray) else a

    return replace(
        ref,
        value=change(ref.value),
        low=change(ref.low),
        slack=change(ref.slack),
        magnitude=change(ref.magnitude),
        per_ulp=change(ref.per_ulp),
        underflow=change(ref.underflow),
        stored=change(ref.stored),
    )


def jvp_reference(
    op: OpReference, inputs: Sequence[Any], options: Options, tangents: Sequence[Any]
) -> Any:
    """The tangent of the result for tangents of the inputs (None where zero).

    One Reference, or a tuple of them for an op of several results.
    """
    arrays = _arrays(inputs)
    options = _resolved(op, arrays, options)
    count = len(arrays)
    given = [
        np.zeros(np.shape(a), np.float64) if t is None else np.asarray(t)
        for a, t in zip(arrays, tangents, strict=True)
    ]
    if op.name in MOVEMENT:
        return _movement_jvp(op, arrays, options, given)
    if (other := _conversion(arrays, options)) is not None:
        return jvp_reference(op, other[0], other[1], [t.astype(options["dtype"]) for t in given])

    def formula(*xs: Any) -> list[Any]:
        return [_tangent(op.name, list(xs[:count]), options, list(xs[count:]))]

    dtype = np.result_type(*_float_dtypes(arrays))
    (ref,) = references(formula, [*arrays, *given], [dtype])
    return ref


def _is_number(x: Any) -> bool:
    return isinstance(x, (Running, Dual)) or (isinstance(x, np.ndarray) and x.dtype.kind in "fcO")


def _tangent(name: str, xs: list[Any], options: Options, ts: list[Any]) -> Any:
    if name in FORMULAS:
        duals = [Dual(x, t) if _is_number(x) else x for x, t in zip(xs, ts, strict=True)]
        return FORMULAS[name](duals, options).t
    if name == "clip":
        slopes: list[Any] = list(_active(xs, options))
    else:
        slopes = _partials(name, options)(*xs)
    full = np.broadcast_shapes(*(np.shape(real(x)) for x in xs if _is_number(x)))
    total: Any = None
    for slope, t in zip(slopes, ts, strict=False):
        if total is not None and isinstance(slope, np.ndarray) and not slope.any():
            continue
        part = t * slope if not isinstance(slope, Running) else slope * t
        total = part if total is None else total + part
    return r.structural(lambda a: np.broadcast_to(a, full), total)


def second_order_reference(
    op: OpReference,
    inputs: Sequence[Any],
    options: Options,
    cotangent: Any,
    tangents: Sequence[Any],
) -> list[Reference | None]:
    """d/de of ``vjp_reference(inputs + e tangents)`` at 0: a Hessian-vector product per input.

    Zeros where the op is linear.
    """
    arrays = _arrays(inputs)
    options = _resolved(op, arrays, options)
    count = len(arrays)
    dtypes = _dtypes(arrays)
    if op.name in MOVEMENT:
        return [
            None
            if a is None or format_of(d) is None
            else Reference(np.zeros(np.shape(a)), d, magnitude=np.zeros(np.shape(a)))
            for a, d in zip(arrays, dtypes, strict=True)
        ]
    given = [
        np.zeros(np.shape(a), np.float64) if t is None else np.asarray(t)
        for a, t in zip(arrays, tangents, strict=True)
    ]
    if (other := _conversion(arrays, options)) is not None:
        moved = [t.astype(options["dtype"]) for t in given]
        refs = second_order_reference(op, other[0], other[1], cotangent, moved)
        return [_as_dtype_of(a, ref) for a, ref in zip(arrays, refs, strict=True)]

    def formula(*xs: Any) -> list[Any]:
        values, g, ts = list(xs[:count]), xs[count], xs[count + 1 :]
        if op.name in PARTIALS:
            return _elementwise_second(op.name, values, options, g, list(ts))
        total: list[Any] = [None] * count
        # One direction at a time: an implementation may add them in any order.
        for i in range(count):
            if not _is_number(values[i]):
                continue
            duals = [*values[:i], Dual(values[i], ts[i]), *values[i + 1 :]]
            found = _rule(op.name, duals, options, g)
            for k, part in enumerate(found):
                if part is None or format_of(dtypes[k]) is None:
                    continue
                zero = np.zeros(np.shape(real(values[k])))
                slope = part.t if isinstance(part, Dual) else zero
                total[k] = slope if total[k] is None else total[k] + slope
        return total

    refs = references(formula, [*arrays, np.asarray(cotangent), *given], dtypes)
    return [_shaped(ref, a) for ref, a in zip(refs, arrays, strict=True)]


def _elementwise_second(
    name: str, xs: list[Any], options: Options, g: Any, ts: list[Any]
) -> list[Any]:
    """g sum_i (d^2 f / dx_k dx_i) t_i for every operand k.

    The mixed derivative is that of the k-th slope by x_i, or of the i-th slope by x_k, which is
    what comes out where <J'u, t> is differentiated.  The numbers are equal, what cancels on the
    way is not (1 - sigmoid(x) is not sigmoid(-x)); so the larger of both bounds holds.
    """
    slopes = _partials(name, options)
    shapes = [tuple(real(x).shape) for x in xs]
    full = np.broadcast_shapes(*shapes)
    xs, ts = ([r.structural(lambda a: np.broadcast_to(a, full), v) for v in vs] for vs in (xs, ts))
    total: list[Any] = [np.zeros(shape) for shape in shapes]
    for k, shape in enumerate(shapes):
        for i, t in enumerate(ts):
            first = _along(slopes, xs, i, t, k)
            if i != k:
                second = _along(slopes, xs, k, t, i)
                first = second if first is None else first
                first = r.either(first, second) if second is not None else first
            if first is not None:
                total[k] = total[k] + unbroadcast(g * first, shape)
    return total


def _along(slopes: Callable[..., Any], xs: list[Any], i: int, t: Any, k: int) -> Any:
    """The derivative of slope `k` where x_i moves by t; None where it does not depend on x_i."""
    found = slopes(*xs[:i], Dual(xs[i], t), *xs[i + 1 :])[k]
    return found.t if isinstance(found, Dual) else None


# -- ops that move elements -----------------------------------------------------------------------


def _labels(op: OpReference, arrays: list[Any], options: Options) -> tuple[list[Any], list[Any]]:
    """(label arrays of the results, first label of each input); 0 stands for a zero."""
    if op.name == "sort":
        x = np.asarray(arrays[0])
        order = stable_order(x, options.get("axis", -1), options.get("descending", False))
        ids = np.arange(1, x.size + 1).reshape(x.shape)
        return [np.take_along_axis(ids, order, options.get("axis", -1))], [1]
    start = 1
    firsts: list[int | None] = []
    labelled: list[Any] = []
    for a in arrays:
        # A tuple of axes is no operand, and an empty one would count as float64.
        if not isinstance(a, np.ndarray) or format_of(a.dtype) is None:
            firsts.append(None)
            labelled.append(a)
            continue
        size = np.asarray(a).size
        firsts.append(start)
        labelled.append(np.arange(start, start + size, dtype=np.float64).reshape(np.shape(a)))
        start += size
    used = {} if op.name in ("astype", "asarray") else options
    if op.name in ("astype", "asarray"):
        return [labelled[0].astype(np.int64)], firsts
    outcome = op.forward(*labelled, **used)
    results = outcome if isinstance(outcome, tuple) else (outcome,)
    return [np.asarray(ref.value).astype(np.int64) for ref in results], firsts


def _flat(parts: Any, several: bool) -> F64:
    if not several:
        return np.asarray(parts).astype(np.float64).reshape(-1)
    flat = [np.asarray(p).astype(np.float64).reshape(-1) for p in parts]
    return np.concatenate(flat) if flat else np.zeros(0)


def _movement_vjp(
    op: OpReference, arrays: list[Any], options: Options, cotangent: Any
) -> list[Reference | None]:
    """Each element's cotangent is the exact sum of those of the results that it reached.

    k terms in any order: |error| <= (k - 1) u sum |g|, and one rounding where the cotangent is of
    a wider dtype (astype).
    """
    labels, firsts = _labels(op, arrays, options)
    ids = np.concatenate([x.reshape(-1) for x in labels]) if labels else np.zeros(0, np.int64)
    g = _flat(cotangent, isinstance(cotangent, (list, tuple)))
    formats = [
        format_of(np.asarray(p).dtype)
        for p in (cotangent if isinstance(cotangent, (list, tuple)) else [cotangent])
    ]
    wide = max((f.p for f in formats if f is not None), default=0)
    reached: dict[int, list[float]] = {}
    for label, value in zip(ids.tolist(), g.tolist(), strict=True):
        reached.setdefault(label, []).append(value)
    results: list[Reference | None] = []
    for a, first in zip(arrays, firsts, strict=True):
        if first is None:
            results.append(None)
            continue
        array = np.asarray(a)
        groups = [reached.get(i, []) for i in range(first, first + array.size)]
        pairs = [exact_sum(t) if t else (0.0, 0.0) for t in groups]
        fmt = format_of(array.dtype)
        narrows = fmt is not None and fmt.p < wide
        extra = [(max(len(t) - 1, 0) + narrows) * sum(map(abs, t)) for t in groups]
        results.append(
            Reference(
                np.array([p[0] for p in pairs]).reshape(array.shape),
                array.dtype,
                np.array([p[1] for p in pairs]).reshape(array.shape),
                magnitude=np.array(extra, np.float64).reshape(array.shape),
                stored=_stored_sums(groups, pairs, narrows).reshape(array.shape)
                + _stored_parts(op, arrays, options, cotangent),
                stored_terms=1,
                terms=max((len(t) for t in groups), default=1),
            )
        )
    return results


def _stored_sums(groups: list[list[float]], pairs: list[Any], narrows: bool) -> F64:
    """One rounding of each sum of several terms, or of a number that becomes narrower."""
    sizes = [
        abs(p[0]) if len(t) > 1 or narrows else 0.0 for t, p in zip(groups, pairs, strict=True)
    ]
    return np.array(sizes, np.float64)


def _stored_parts(
    op: OpReference, arrays: list[Any], options: Options, cotangent: Any
) -> F64 | float:
    """What is rounded before the last sum, where an operand is broadcast and then indexed.

    take_along_axis sums for every element of the operand as it was broadcast, and then over the
    broadcast axes: with 16 bits each of the first sums is one rounded number.
    """
    if op.name != "take_along_axis" or not arrays[0].ndim:
        return 0.0
    x, axis = arrays[0], options.get("axis", -1) % arrays[0].ndim
    full = list(np.shape(cotangent))
    full[axis] = x.shape[axis]
    if tuple(full) == x.shape:
        return 0.0
    wide = [np.broadcast_to(x, full), *arrays[1:]]
    found = _movement_vjp(op, wide, options, cotangent)[0]
    return 0.0 if found is None else np.asarray(unbroadcast(np.abs(found.value), x.shape))


def _movement_jvp(op: OpReference, arrays: list[Any], options: Options, tangents: list[Any]) -> Any:
    labels, firsts = _labels(op, arrays, options)
    pieces = [
        as_input(t).reshape(-1)
        for t, first in zip(tangents, firsts, strict=True)
        if first is not None
    ]
    source = np.concatenate([np.zeros(1), *pieces])
    dtype = np.result_type(*_float_dtypes(arrays))
    if op.name in ("astype", "asarray") and options.get("dtype") is not None:
        dtype = np.dtype(options["dtype"])
    fmt = format_of(dtype)
    if op.name in ("astype", "asarray") and fmt is not None:
        source = round_to(source, fmt).astype(np.float64)  # converting is part of the tangent
    refs = tuple(Reference(source[x], dtype, magnitude=np.zeros(x.shape)) for x in labels)
    several = op.name in ("unstack", "meshgrid", "broadcast_arrays")
    return refs if several else refs[0]


DIFFERENTIABLE = frozenset(PARTIALS) | frozenset(RULES) | MOVEMENT | {"clip"}
"""Names of the ops with gradients."""

_NATIVE = {"erf": 16.0, "gelu": 16.0, "pow": 16.0}


def with_gradients(op: OpReference) -> OpReference:
    """The op with `vjp`, `jvp` and `gradient_judge` where it is differentiable."""
    if op.name not in DIFFERENTIABLE:
        return op
    return replace(
        op,
        vjp=lambda inputs, options, cotangent: vjp_reference(op, inputs, options, cotangent),
        jvp=lambda inputs, options, tangents: jvp_reference(op, inputs, options, tangents),
        second_order=lambda inputs, options, cotangent, tangents: second_order_reference(
            op, inputs, options, cotangent, tangents
        ),
        gradient_judge=judges.coefficient(_NATIVE.get(op.name, 5.0), stored=True),
        kinks=kinks_of(op.name, op.name in PARTIALS, op.tensors[1]),
    )
