"""Gradient rules of the ops that are not elementwise, derived by hand.

A rule maps (inputs, options, cotangent of the result) to the cotangents of the inputs (None
where there is none), written with the functions of `running`.  `FORMULAS` are the ops
themselves in the same numbers; a `Dual` through one of them is the forward-mode derivative.
Matrix calculus: Giles, An extended collection of matrix derivative results, 2008.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import ball, nn, running as r
from .running import Dual, Running, constant, contracted, real, stacked, structural, summed

__all__ = ["FORMULAS", "RULES", "unbroadcast"]

Array = NDArray[Any]
Rule = Callable[[list[Any], dict[str, Any], Any], list[Any]]
RULES: dict[str, Rule] = {}
FORMULAS: dict[str, Callable[[list[Any], dict[str, Any]], Any]] = {}


def shape_of(x: Any) -> tuple[int, ...]:
    return tuple(real(x).shape)


def reshape(x: Any, shape: tuple[int, ...]) -> Any:
    return structural(lambda a: np.reshape(a, shape), x)


def transposed(x: Any) -> Any:
    return structural(lambda a: np.swapaxes(a, -1, -2), x)


def unbroadcast(g: Any, shape: tuple[int, ...]) -> Any:
    """The cotangent summed over the axes along which an argument of `shape` was broadcast."""
    have = shape_of(g)
    lead = len(have) - len(shape)
    axes = tuple(range(lead)) + tuple(
        lead + i for i, n in enumerate(shape) if n == 1 and have[lead + i] != 1
    )
    return reshape(summed(g, axes, True), shape) if axes else reshape(g, shape)


def kept_shape(shape: tuple[int, ...], axis: Any) -> tuple[int, ...]:
    """The shape of a reduction with keepdims."""
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    chosen = {a % len(shape) for a in axes} if shape else set()
    return tuple(1 if i in chosen else n for i, n in enumerate(shape))


def spread(g: Any, x: Any, options: dict[str, Any]) -> Any:
    """The cotangent of a reduction, broadcast over the elements reduced."""
    shape = shape_of(x)
    g = reshape(g, kept_shape(shape, options.get("axis")))
    return structural(lambda a: np.broadcast_to(a, shape), g)


def count_of(x: Any, options: dict[str, Any]) -> int:
    shape = shape_of(x)
    return math.prod(shape) // max(math.prod(kept_shape(shape, options.get("axis"))), 1)


def _reduced(x: Any, options: dict[str, Any]) -> Any:
    axis = options.get("axis")
    total = summed(x, tuple(range(len(shape_of(x)))) if axis is None else axis, True)
    if options.get("keepdims"):
        return total
    kept = kept_shape(shape_of(x), axis)
    full = shape_of(x)
    axes = range(len(full)) if axis is None else (axis,) if isinstance(axis, int) else axis
    chosen = {a % len(full) for a in axes} if full else set()
    return reshape(total, tuple(n for i, n in enumerate(kept) if i not in chosen))


def _rows(x: Any, axis: Any) -> tuple[Any, Callable[[Any], Any]]:
    """(matrix with the chosen axes in its rows, the way back for a matrix of that shape)."""
    shape = shape_of(x)
    rank = len(shape)
    axes = range(rank) if axis is None else (axis,) if isinstance(axis, int) else axis
    chosen = sorted({a % rank for a in axes}) if rank else []
    order = [i for i in range(rank) if i not in chosen] + chosen
    width = math.prod(shape[i] for i in chosen)
    height = math.prod(shape) // width if width else math.prod(shape[i] for i in order[:-1])
    inner = tuple(shape[i] for i in order)
    back_order = np.argsort(order)

    def forward(a: Array) -> Array:
        return a.transpose(order).reshape(height, width)

    def back(matrix: Any) -> Any:
        return structural(lambda a: a.reshape(inner).transpose(back_order), matrix)

    return structural(forward, x), back


# -- reductions -----------------------------------------------------------------------------------


def _exclusive_products(matrix: Any) -> list[Any]:
    """For each column the product of the others, from prefixes and suffixes."""
    width = shape_of(matrix)[1]
    columns = [matrix[:, j] for j in range(width)]
    one = np.ones(shape_of(matrix)[:1])
    prefix, suffix = [one], [one]
    for j in range(width - 1):
        prefix.append(prefix[-1] * columns[j])
        suffix.append(suffix[-1] * columns[width - 1 - j])
    return [prefix[j] * suffix[width - 1 - j] for j in range(width)]


def _prod_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    matrix, back = _rows(xs[0], o.get("axis"))
    others = back(r.chained(lambda: stacked(_exclusive_products(matrix))))
    return [spread(g, xs[0], o) * others]


def _prod(xs: list[Any], o: dict[str, Any]) -> Any:
    matrix, _ = _rows(xs[0], o.get("axis"))

    def product() -> Any:
        total: Any = np.ones(shape_of(matrix)[:1])
        for j in range(shape_of(matrix)[1]):
            total = total * matrix[:, j]
        return total

    total = r.chained(product)
    return reshape(total, shape_of(_reduced(np.zeros(shape_of(xs[0])), o)))


def _centred(x: Any, o: dict[str, Any]) -> tuple[Any, float]:
    keep = {**o, "keepdims": True}
    count = count_of(x, o)
    return x - _reduced(x, keep) / count, max(count - o.get("correction", 0.0), 0.0)


def _scaled_distance(x: Any, factor: Any, o: dict[str, Any]) -> Any:
    """(x - mean x) f, f being one number for each row.

    Its derivative (t - mean t) f is also t f - mean(t f), which rounds before it cancels.
    """
    centred, _ = _centred(real_part(x), o)
    if not isinstance(x, Dual):
        return centred * factor
    plain = real_part(factor)
    late, _ = _centred(x.t * plain, o)
    moved = r.either(_centred(x.t, o)[0] * plain, late)
    if isinstance(factor, Dual):
        moved = moved + centred * factor.t
    return Dual(centred * plain, moved)


def _var(xs: list[Any], o: dict[str, Any]) -> Any:
    """The mean square distance from the mean c.

    Its derivative 2 sum(c (t - mean t)) is also 2 sum(c t), as the c sum to 0.  In numbers they
    differ: an error of the mean, which all c share, reaches the second as itself times sum t.
    """
    x = xs[0]
    if isinstance(x, Dual):
        (centred, divisor), (moved, _) = _centred(x.v, o), _centred(x.t, o)
        full = r.either(_reduced(centred * moved, o), _reduced(centred * x.t, o))
        return Dual(_var([x.v], o), full * 2 / divisor)
    centred, divisor = _centred(x, o)
    return _reduced(centred * centred, o) / divisor


def _var_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    _, divisor = _centred(xs[0], o)
    return [_scaled_distance(xs[0], spread(g, xs[0], o) * 2 / divisor, o)]


def _std_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    """g c / (s (n - correction)); 0, not 0/0, for a constant row."""
    _, divisor = _centred(xs[0], o)
    root, flat = _root(_var(xs, {**o, "keepdims": True}))
    slope = _scaled_distance(xs[0], spread(g, xs[0], o) / (root * divisor), o)
    return [r.where(flat, np.zeros(shape_of(xs[0])), slope)]


def _root(variance: Any) -> tuple[Any, Array]:
    """(the square root, 1 where the variance is 0; where that is)."""
    flat = np.asarray(real(variance) == 0)
    return r.sqrt(r.where(flat, np.ones(flat.shape), variance)), flat


def _std(xs: list[Any], o: dict[str, Any]) -> Any:
    root, flat = _root(_var(xs, o))
    return r.where(flat, np.zeros(flat.shape), root)


def _ties(x: Any, o: dict[str, Any], greatest: bool) -> tuple[Array, Array]:
    """(1 at each of the k extreme elements, else 0; k, with the reduced axes kept)."""
    at = real(x)
    axis = o.get("axis")
    best = (np.max if greatest else np.min)(at, axis=axis, keepdims=True)
    hit = at == best
    return hit.astype(np.float64), hit.sum(axis=axis, keepdims=True).astype(np.float64)


def _extreme(greatest: bool) -> tuple[Rule, Callable[[list[Any], dict[str, Any]], Any]]:
    """Equal extremes share the gradient evenly."""

    def rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
        hit, count = _ties(xs[0], o, greatest)
        return [spread(g, xs[0], o) * hit / count]

    def formula(xs: list[Any], o: dict[str, Any]) -> Any:
        hit, count = _ties(xs[0], o, greatest)
        total = _reduced(xs[0] * hit, o)
        return total / count.reshape(shape_of(total))

    return rule, formula


def _softmax_of(x: Any, axis: Any) -> Any:
    top = real(x).max(axis=axis, keepdims=True)
    weights = r.exp(x - top)
    return weights / summed(weights, axis, True)


def _logsumexp(xs: list[Any], o: dict[str, Any]) -> Any:
    x = xs[0]
    axis = o.get("axis")
    top = real(x).max(axis=axis, keepdims=True)
    total = _reduced(r.exp(x - top), {**o, "keepdims": True})
    result = r.log(total) + top
    return reshape(result, shape_of(_reduced(np.zeros(shape_of(x)), o)))


def _all_axes(x: Any, o: dict[str, Any]) -> Any:
    axis = o.get("axis")
    return tuple(range(len(shape_of(x)))) if axis is None else axis


RULES["sum"] = lambda xs, o, g: [spread(g, xs[0], o)]
FORMULAS["sum"] = lambda xs, o: _reduced(xs[0], o)
RULES["mean"] = lambda xs, o, g: [spread(g, xs[0], o) / count_of(xs[0], o)]
FORMULAS["mean"] = lambda xs, o: _reduced(xs[0], o) / count_of(xs[0], o)
RULES["prod"], FORMULAS["prod"] = _prod_rule, _prod
RULES["var"], FORMULAS["var"] = _var_rule, _var
RULES["std"], FORMULAS["std"] = _std_rule, _std
RULES["max"], FORMULAS["max"] = _extreme(True)
RULES["min"], FORMULAS["min"] = _extreme(False)
RULES["logsumexp"] = lambda xs, o, g: [
    spread(g, xs[0], o) * _softmax_of(xs[0], _all_axes(xs[0], o))
]
FORMULAS["logsumexp"] = _logsumexp

# -- scans ----------------------------------------------------------------------------------------


def _scan_axis(x: Any, o: dict[str, Any]) -> int:
    axis = o.get("axis")
    return 0 if axis is None else axis % len(shape_of(x))


def _without_initial(g: Any, axis: int, o: dict[str, Any]) -> Any:
    if not o.get("include_initial"):
        return g
    return structural(lambda a: np.delete(a, 0, axis), g)


def _cumulative_sum_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    axis = _scan_axis(xs[0], o)
    matrix, back = _rows(_without_initial(g, axis, o), axis)
    width = shape_of(matrix)[1]
    return [back(contracted(matrix, np.tril(np.ones((width, width)))))]


def _with_initial(x: Any, axis: int, o: dict[str, Any], first: float) -> Any:
    if not o.get("include_initial"):
        return x
    start = structural(lambda a: np.insert(a, 0, 0, axis), x)
    index = np.zeros(shape_of(start), bool)
    index[(slice(None),) * axis + (0,)] = True
    return r.where(index, np.full(index.shape, first), start)


def _cumulative_sum(xs: list[Any], o: dict[str, Any]) -> Any:
    axis = _scan_axis(xs[0], o)
    matrix, back = _rows(xs[0], axis)
    width = shape_of(matrix)[1]
    return _with_initial(back(contracted(matrix, np.triu(np.ones((width, width))))), axis, o, 0.0)


def _cumulative_prod(xs: list[Any], o: dict[str, Any]) -> Any:
    axis = _scan_axis(xs[0], o)
    matrix, back = _rows(xs[0], axis)
    parts = [matrix[:, 0]]
    for j in range(1, shape_of(matrix)[1]):
        parts.append(parts[-1] * matrix[:, j])
    full = stacked(parts)
    if isinstance(full, Dual) and isinstance(full.v, Running):
        # y'_k = x_k y'_(k-1) + y_(k-1) x'_k, one by one or by doubling.
        one = np.ones(shape_of(matrix)[:1])
        before = stacked([one, *(p.v for p in parts[:-1])])
        full = Dual(full.v, r.either(full.t, _doubled(matrix.v, before * matrix.t)))
    return _with_initial(back(full), axis, o, 1.0)


def _cumulative_prod_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    """dx_j = (product of the x_k before j) a_j with a_j = g_j + x_(j+1) a_(j+1): no division."""
    axis = _scan_axis(xs[0], o)
    matrix, back = _rows(xs[0], axis)
    cotangent, _ = _rows(_without_initial(g, axis, o), axis)
    width = shape_of(matrix)[1]
    before: list[Any] = [np.ones(shape_of(matrix)[:1])]
    for j in range(width - 1):
        before.append(before[-1] * matrix[:, j])
    columns: list[Any] = []
    after: Any = None
    for j in reversed(range(width)):
        here = cotangent[:, j]
        after = here if after is None else here + matrix[:, j + 1] * after
        columns.append(before[j] * after)
    d = stacked(columns[::-1])
    if not isinstance(real_part(d), Running):
        return [back(d)]
    turned = structural(lambda a: a[:, ::-1], matrix)
    after = _doubled(_moved(turned, 1), structural(lambda a: a[:, ::-1], cotangent))
    return [back(r.either(d, stacked(before) * structural(lambda a: a[:, ::-1], after)))]


def real_part(x: Any) -> Any:
    """The value of a Dual, anything else itself."""
    while isinstance(x, Dual):
        x = x.v
    return x


def _moved(x: Any, step: int) -> Any:
    """Columns moved to the right, zeros before them."""
    return structural(lambda a: np.pad(a[:, :-step], ((0, 0), (step, 0))), x)


def _doubled(factor: Any, term: Any) -> Any:
    """y_k = f_k y_(k-1) + t_k by recursive doubling: products before sums, so other roundings.

    Kogge and Stone, A parallel algorithm for the efficient solution of a general class of
    recurrence equations, 1973.
    """
    width, step = shape_of(term)[1], 1
    while step < width:
        term = term + factor * _moved(term, step)
        step *= 2
        if step < width:
            factor = factor * _moved(factor, step // 2)
    return term


RULES["cumulative_sum"], FORMULAS["cumulative_sum"] = _cumulative_sum_rule, _cumulative_sum
RULES["cumulative_prod"] = lambda xs, o, g: [r.chained(lambda: _cumulative_prod_rule(xs, o, g)[0])]
FORMULAS["cumulative_prod"] = lambda xs, o: r.chained(lambda: _cumulative_prod(xs, o))

# -- contractions ---------------------------------------------------------------------------------


def _as_matrices(a: Any, b: Any) -> tuple[Any, Any]:
    sa, sb = shape_of(a), shape_of(b)
    left = reshape(a, (1, *sa)) if len(sa) == 1 else a
    right = reshape(b, (*sb, 1)) if len(sb) == 1 else b
    return left, right


def _matmul(xs: list[Any], o: dict[str, Any]) -> Any:
    left, right = _as_matrices(*xs)
    full = contracted(left, right)
    drop = [len(shape_of(full)) - 2] if len(shape_of(xs[0])) == 1 else []
    drop += [len(shape_of(full)) - 1] if len(shape_of(xs[1])) == 1 else []
    return reshape(full, tuple(n for i, n in enumerate(shape_of(full)) if i not in drop))


def _matmul_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    left, right = _as_matrices(*xs)
    sl, sr = shape_of(left), shape_of(right)
    g = reshape(g, (*np.broadcast_shapes(sl[:-2], sr[:-2]), sl[-2], sr[-1]))
    dl = unbroadcast(contracted(g, transposed(right)), sl)
    dr = unbroadcast(contracted(transposed(left), g), sr)
    return [reshape(dl, shape_of(xs[0])), reshape(dr, shape_of(xs[1]))]


def _vecdot(xs: list[Any], o: dict[str, Any]) -> Any:
    return summed(xs[0] * xs[1], o.get("axis", -1))


def _vecdot_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    axis = o.get("axis", -1)
    g = structural(lambda a: np.expand_dims(a, axis), g)
    return [unbroadcast(g * xs[1], shape_of(xs[0])), unbroadcast(g * xs[0], shape_of(xs[1]))]


def _tensordot_plan(xs: list[Any], o: dict[str, Any]) -> tuple[list[int], list[int], int, Any]:
    axes = o.get("axes", 2)
    sa, sb = shape_of(xs[0]), shape_of(xs[1])
    if isinstance(axes, int):
        first, second = list(range(len(sa) - axes, len(sa))), list(range(axes))
    else:
        first, second = [i % len(sa) for i in axes[0]], [i % len(sb) for i in axes[1]]
    rest_a = [i for i in range(len(sa)) if i not in first]
    rest_b = [i for i in range(len(sb)) if i not in second]
    shape = tuple(sa[i] for i in rest_a) + tuple(sb[i] for i in rest_b)
    return rest_a + first, second + rest_b, len(first), shape


def _tensordot_matrices(xs: list[Any], o: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
    order_a, order_b, count, shape = _tensordot_plan(xs, o)
    sa, sb = shape_of(xs[0]), shape_of(xs[1])
    inner = math.prod(sb[i] for i in order_b[:count])
    left = structural(
        lambda a: a.transpose(order_a).reshape(
            math.prod(sa[i] for i in order_a[: len(sa) - count]), inner
        ),
        xs[0],
    )
    right = structural(
        lambda a: a.transpose(order_b).reshape(inner, math.prod(sb[i] for i in order_b[count:])),
        xs[1],
    )
    return left, right, order_a, order_b, shape


def _tensordot(xs: list[Any], o: dict[str, Any]) -> Any:
    left, right, _, _, shape = _tensordot_matrices(xs, o)
    return reshape(contracted(left, right), shape)


def _tensordot_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    left, right, order_a, order_b, _ = _tensordot_matrices(xs, o)
    g = reshape(g, (shape_of(left)[0], shape_of(right)[1]))

    def back(matrix: Any, order: list[int], shape: tuple[int, ...]) -> Any:
        inner = tuple(shape[i] for i in order)
        return structural(lambda a: a.reshape(inner).transpose(np.argsort(order)), matrix)

    return [
        back(contracted(g, transposed(right)), order_a, shape_of(xs[0])),
        back(contracted(transposed(left), g), order_b, shape_of(xs[1])),
    ]


def _linear(xs: list[Any], o: dict[str, Any]) -> Any:
    vector = len(shape_of(xs[1])) == 1  # one output, which has no dimension
    y = _matmul([xs[0], xs[1] if vector else transposed(xs[1])], o)
    return y if len(xs) < 3 or xs[2] is None else y + xs[2]


def _linear_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    x, weight = xs[0], xs[1]
    matrix = shape_of(weight) if len(shape_of(weight)) == 2 else (1, *shape_of(weight))
    rows_x = reshape(x, (-1, shape_of(x)[-1]))
    rows_g = reshape(g, (-1, matrix[0]))
    grads = [
        reshape(contracted(rows_g, reshape(weight, matrix)), shape_of(x)),
        reshape(contracted(transposed(rows_g), rows_x), shape_of(weight)),
    ]
    if len(xs) > 2:
        bias = None if xs[2] is None else reshape(summed(rows_g, 0), shape_of(xs[2]))
        grads.append(bias)
    return grads


RULES["matmul"], FORMULAS["matmul"] = _matmul_rule, _matmul
RULES["vecdot"], FORMULAS["vecdot"] = _vecdot_rule, _vecdot
RULES["tensordot"], FORMULAS["tensordot"] = _tensordot_rule, _tensordot
RULES["linear"], FORMULAS["linear"] = _linear_rule, _linear

# -- softmax, normalisation, losses ---------------------------------------------------------------


def _softmax_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    axis = o.get("axis", -1)
    y = _softmax_of(xs[0], axis)
    return [y * (g - summed(g * y, axis, True))]


def _log_softmax(xs: list[Any], o: dict[str, Any]) -> Any:
    axis = o.get("axis", -1)
    top = real(xs[0]).max(axis=axis, keepdims=True)
    shifted = xs[0] - top
    return shifted - r.log(summed(r.exp(shifted), axis, True))


def _weights_of(x: Any, axis: Any) -> Any:
    """softmax as a quotient, or as exp of log_softmax: both are common, so the larger bound holds.

    exp(y) of a computed y has relative error |y - exact|, which is not that of the quotient: y
    carries u |x - m|, the error of the logarithm (2 p u |log S|, and S's own relative one) and
    u |y| of its last subtraction.
    """
    quotient = _softmax_of(x, axis)
    return r.either(quotient, r.exp(_log_softmax([x], {"axis": axis})))


def _log_softmax_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    axis = o.get("axis", -1)
    return [g - _weights_of(xs[0], axis) * summed(g, axis, True)]


def _axes(x: Any, o: dict[str, Any]) -> tuple[int, ...]:
    axis = o.get("axis", -1)
    rank = len(shape_of(x))
    return tuple(a % rank for a in ((axis,) if isinstance(axis, int) else axis))


def _optional(xs: list[Any], position: int) -> Any:
    return xs[position] if len(xs) > position else None


def _standardized(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any]:
    """((x - mean x) / s, 1 / s), s^2 = var + eps."""
    rows = {"axis": axes, "keepdims": True}
    scale = 1 / r.sqrt(_var([x], rows) + constant(x, eps))
    return _scaled_distance(x, scale, rows), scale


def _layer_norm(xs: list[Any], o: dict[str, Any]) -> Any:
    x, weight, bias = xs[0], _optional(xs, 1), _optional(xs, 2)
    y, _ = _standardized(x, _axes(x, o), o.get("eps", 1e-5))
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _layer_norm_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    x, weight, bias = xs[0], _optional(xs, 1), _optional(xs, 2)
    axes = _axes(x, o)
    count = math.prod(shape_of(x)[a] for a in axes)
    hat, scale = _standardized(x, axes, o.get("eps", 1e-5))
    gw = g if weight is None else g * weight
    dx = scale * (
        gw - summed(gw, axes, True) / count - hat * (summed(gw * hat, axes, True) / count)
    )
    dw = None if weight is None else unbroadcast(g * hat, shape_of(weight))
    db = None if bias is None else unbroadcast(g, shape_of(bias))
    return [dx, dw, db][: len(xs)]


def _rms_norm_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    x, weight = xs[0], _optional(xs, 1)
    axes = _axes(x, o)
    count = math.prod(shape_of(x)[a] for a in axes)
    scale = 1 / r.sqrt(summed(x * x, axes, True) / count + constant(x, o.get("eps", 1e-6)))
    hat = x * scale
    gw = g if weight is None else g * weight
    dx = scale * (gw - hat * (summed(gw * hat, axes, True) / count))
    dw = None if weight is None else unbroadcast(g * hat, shape_of(weight))
    return [dx, dw][: len(xs)]


def _mse_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    difference = xs[0] - xs[1]
    size = math.prod(shape_of(difference))
    scale = size if o.get("reduction", "mean") == "mean" else 1
    dx = g * 2 * difference / scale
    return [unbroadcast(dx, shape_of(xs[0])), unbroadcast(-dx, shape_of(xs[1]))]


def _mse(xs: list[Any], o: dict[str, Any]) -> Any:
    difference = xs[0] - xs[1]
    return nn.reduced(difference * difference, o.get("reduction", "mean"))


def _like(x: Any, array: Array) -> Any:
    """An exact array as a number of the kind of `x`."""
    if isinstance(x, Dual):
        return _like(x.v, array)
    if isinstance(x, Running):
        return Running(array)
    return ball.balls(array) if np.asarray(x).dtype == object else array


def _cross_entropy_parts(xs: list[Any], o: dict[str, Any]) -> tuple[Any, int, float]:
    """(coefficients of -log_softmax, axis of the classes, what the mean divides by).

    The coefficients are t (1 - s) + s/C, t one-hot or given, times the weights: 1 - s and s/C are
    rounded to the dtype, product and sum round once each.
    """
    x, target = xs[0], xs[1]
    rank = len(shape_of(x))
    along = o.get("axis", -1) % rank if rank > 1 else 0
    classes = shape_of(x)[along]
    shape = [1] * rank
    shape[along] = classes
    smoothing = o.get("label_smoothing", 0.0)
    weight = None if len(xs) < 3 or xs[2] is None else reshape(xs[2], tuple(shape))
    indices = isinstance(target, np.ndarray) and target.dtype.kind in "iu"
    t = target
    if indices:
        items = np.expand_dims(target, along)
        keep = (items != o.get("ignore_index", -100)).astype(np.float64)
        hot = (np.arange(classes).reshape(shape) == items).astype(np.float64)
        t = _like(x, hot)
    smooth = t * constant(x, 1 - smoothing) + constant(x, smoothing / classes) if smoothing else t
    smooth = smooth if weight is None else smooth * weight
    count = float(math.prod(n for k, n in enumerate(shape_of(x)) if k != along))
    if indices:
        smooth = smooth * keep
        count = float(real(hot * keep if weight is None else weight * (hot * keep)).sum())
    return smooth, along, count if o.get("reduction", "mean") == "mean" else 1.0


def _cross_entropy(xs: list[Any], o: dict[str, Any]) -> Any:
    t, along, denominator = _cross_entropy_parts(xs, o)
    logs = _log_softmax([xs[0]], {"axis": along})
    items = -summed(logs * t, along)
    return items if o.get("reduction", "mean") == "none" else summed(items) / denominator


def _cross_entropy_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    """h = -g t / N are the cotangents of the log_softmax, so dx = h - softmax sum(h).

    sum(h) is -g / N where the t of an item sum to 1, but it is the sum of C rounded numbers: the
    error (C - 1) u sum |h| reaches every class by its softmax.  Probabilities get
    -g (1 - s) log_softmax / N.
    """
    t, along, denominator = _cross_entropy_parts(xs, o)
    if o.get("reduction", "mean") == "none":
        g = structural(lambda a: np.expand_dims(a, along), g)
    share = -(g / denominator) if denominator != 1 else -g
    h = share * t
    dx = h - _weights_of(xs[0], along) * summed(h, along, True)
    grads = [dx, *[None] * (len(xs) - 1)]
    if not (isinstance(xs[1], np.ndarray) and xs[1].dtype.kind in "iu"):
        slope = share * _log_softmax([xs[0]], {"axis": along})
        weight = _optional(xs, 2)
        if weight is not None:
            rank = len(shape_of(xs[0]))
            slope = slope * reshape(weight, tuple(-1 if k == along else 1 for k in range(rank)))
        grads[1] = slope * constant(xs[0], 1 - o.get("label_smoothing", 0.0))
    return grads


RULES["softmax"] = _softmax_rule
FORMULAS["softmax"] = lambda xs, o: _softmax_of(xs[0], o.get("axis", -1))
RULES["log_softmax"], FORMULAS["log_softmax"] = _log_softmax_rule, _log_softmax
RULES["layer_norm"], FORMULAS["layer_norm"] = _layer_norm_rule, _layer_norm
RULES["rms_norm"] = _rms_norm_rule
FORMULAS["rms_norm"] = lambda xs, o: nn.rms_norm(
    xs[0], _optional(xs, 1), _axes(xs[0], o), o.get("eps", 1e-6)
)
RULES["mse_loss"], FORMULAS["mse_loss"] = _mse_rule, _mse
RULES["cross_entropy"], FORMULAS["cross_entropy"] = _cross_entropy_rule, _cross_entropy


def _dropout(xs: list[Any], o: dict[str, Any]) -> Any:
    p = o.get("p", 0.5)
    mask = np.asarray(xs[1], bool)
    scale = constant(xs[0], 0.0 if p >= 1 else 1 / (1 - p))
    return r.where(mask, xs[0] * scale, xs[0] * 0)


RULES["dropout"] = lambda xs, o, g: [_dropout([g, xs[1]], o), None]
FORMULAS["dropout"] = _dropout


def _index_add(xs: list[Any], o: dict[str, Any]) -> Any:
    axis = o.get("axis", 0) % len(shape_of(xs[0]))
    index = np.asarray(xs[1])
    size = shape_of(xs[0])[axis]
    hot = (np.arange(size)[:, None] == np.where(index < 0, index + size, index)).astype(float)
    source = structural(lambda a: np.moveaxis(a, axis, -1)[..., None], xs[2])
    added = structural(lambda a: np.moveaxis(a[..., 0], -1, axis), contracted(hot, source))
    return xs[0] + added * o.get("alpha", 1)


def _index_add_rule(xs: list[Any], o: dict[str, Any], g: Any) -> list[Any]:
    index, axis = np.asarray(xs[1]), o.get("axis", 0)
    picked = structural(lambda a: np.take(a, index, axis=axis), g)
    return [g, None, picked * o.get("alpha", 1)]


RULES["index_add"], FORMULAS["index_add"] = _index_add_rule, _index_add
