"""References of matmul, vecdot, tensordot and matrix_transpose, and exact sums of products.

For float32 and narrower the float64 product of the matrices is off by at most K 2^-53 |A| |B|,
2^-29 of the bound; for float64 every element is an exact sum of exact products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import judges, ordered_products
from .op import OpReference, as_float64, common_dtype
from .sampling import edges, matrix as products
from .ulp import format_of, two_product
from .verdict import Reference

__all__ = ["OPS", "exact_dot", "exact_sum", "matmul_reference"]

Array = NDArray[Any]
F64 = NDArray[np.float64]
OPS: dict[str, OpReference] = {}


def exact_sum(terms: Sequence[float]) -> tuple[float, float]:
    """The exact sum of floats as a pair hi + lo; NaN and infinities as in any order of addition.

    math.fsum rounds the exact sum once, so fsum(terms) and fsum(terms + [-hi]) are the pair.
    An empty sum is +0; zeros keep -0 only where all terms are -0.
    """
    try:
        hi = math.fsum(terms)
        if not math.isfinite(hi):
            return hi, 0.0
        lo = math.fsum([*terms, -hi])
    except (OverflowError, ValueError):
        return _slow_sum(terms)
    if hi == 0 and len(terms) and all(math.copysign(1.0, t) < 0 and t == 0 for t in terms):
        hi = -0.0
    return hi, lo


def _slow_sum(terms: Sequence[float]) -> tuple[float, float]:
    special = [t for t in terms if not math.isfinite(t)]
    if special:
        with np.errstate(invalid="ignore"):
            return float(np.sum(special)), 0.0
    return fraction_pair(sum(map(Fraction, terms), Fraction()))


def fraction_pair(exact: Fraction) -> tuple[float, float]:
    """A rational as hi + lo; beyond float64's range an infinity."""
    try:
        hi = float(exact)
        return hi, float(exact - Fraction(hi))
    except OverflowError:
        return (math.inf if exact > 0 else -math.inf), 0.0


def exact_dot(a: F64, b: F64) -> tuple[float, float]:
    """The exact dot product of two float64 vectors as a pair."""
    finite = np.isfinite(a).all() and np.isfinite(b).all()
    if not finite:
        with np.errstate(all="ignore"):
            return float(np.sum(a * b)), 0.0
    with np.errstate(over="ignore"):
        size = np.abs(a) * np.abs(b)
    risky = (np.maximum(np.abs(a), np.abs(b)) > 2.0**990) | (size > 2.0**990)
    risky |= (size < 2.0**-960) & (a != 0) & (b != 0)
    if risky.any():
        pairs = zip(a.tolist(), b.tolist(), strict=True)
        return fraction_pair(sum((Fraction(x) * Fraction(y) for x, y in pairs), Fraction()))
    p, e = two_product(a, b)
    return exact_sum([*p.tolist(), *e.tolist()])


def matmul_reference(a: Array, b: Array, dtype: np.dtype[Any]) -> Reference:
    """a @ b for arrays of at least two dimensions, with |a| @ |b| and K for the bound."""
    if format_of(dtype) is None:
        with np.errstate(all="ignore"):
            return Reference(np.matmul(a.astype(dtype), b.astype(dtype)), dtype)
    x, y = as_float64(a), as_float64(b)
    terms = x.shape[-1]
    with np.errstate(all="ignore"):
        magnitude = _plain_matmul(np.abs(x), np.abs(y))
        if dtype != np.float64:
            value = _plain_matmul(x, y)
            slack = np.where(np.isfinite(value), terms * 2.0**-52 * magnitude, 0.0)
            return Reference(value, dtype, slack=slack, magnitude=magnitude, terms=terms)
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x = np.broadcast_to(x, batch + x.shape[-2:])
    y = np.broadcast_to(y, batch + y.shape[-2:])
    hi, lo = np.zeros(magnitude.shape), np.zeros(magnitude.shape)
    for index in np.ndindex(*magnitude.shape):
        row, column = x[(*index[:-1], slice(None))], y[(*index[:-2], slice(None), index[-1])]
        hi[index], lo[index] = exact_dot(row, column)
    return Reference(hi, dtype, lo, 0.0, magnitude, terms=terms)


def _plain_matmul(x: F64, y: F64) -> F64:
    """matmul whose infinities and NaN follow IEEE 754 (a BLAS may take shortcuts)."""
    if np.isfinite(x).all() and np.isfinite(y).all():
        return np.asarray(np.matmul(x, y))
    return np.asarray((x[..., :, :, None] * y[..., None, :, :]).sum(axis=-2))


def _matmul(x1: Any, x2: Any) -> Reference:
    a, b = np.asarray(x1), np.asarray(x2)
    dtype = common_dtype(a, b)
    left = a[None, :] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    full = matmul_reference(left, right, dtype)
    axes = ((-2,) if a.ndim == 1 else ()) + ((-1,) if b.ndim == 1 else ())
    return squeezed(full, axes)


def squeezed(ref: Reference, axes: tuple[int, ...]) -> Reference:
    """The same reference without the axes of length one."""
    if not axes:
        return ref
    value = np.squeeze(ref.value, axes)
    return reshaped(ref, value.shape)


def reshaped(ref: Reference, shape: tuple[int, ...]) -> Reference:
    """The same reference in another shape of the same size."""

    def change(array: Any) -> Any:
        return array.reshape(shape) if isinstance(array, np.ndarray) and array.ndim else array

    return replace(
        ref,
        value=ref.value.reshape(shape),
        low=change(ref.low),
        slack=change(ref.slack),
        magnitude=change(ref.magnitude),
        per_ulp=change(ref.per_ulp),
        second=change(ref.second),
        underflow=change(ref.underflow),
        terms=change(ref.terms),
        independent=change(ref.independent),
        alternatives=tuple(change(a) for a in ref.alternatives),
        signed=change(ref.signed),
        undefined=change(ref.undefined),
    )


def _vecdot(x1: Any, x2: Any, *, axis: int = -1) -> Reference:
    a, b = np.asarray(x1), np.asarray(x2)
    dtype = common_dtype(a, b)
    # The axis is one of the broadcast shape, so it is counted from the end in each operand.
    rank = max(a.ndim, b.ndim)
    along = axis % rank - rank
    a, b = np.broadcast_arrays(np.moveaxis(a, along, -1), np.moveaxis(b, along, -1))
    full = matmul_reference(a[..., None, :], b[..., :, None], dtype)
    return reshaped(full, a.shape[:-1])


def _tensordot(x1: Any, x2: Any, *, axes: Any = 2) -> Reference:
    a, b = np.asarray(x1), np.asarray(x2)
    dtype = common_dtype(a, b)
    if isinstance(axes, int):
        first, second = list(range(a.ndim - axes, a.ndim)), list(range(axes))
    else:
        first, second = [i % a.ndim for i in axes[0]], [i % b.ndim for i in axes[1]]
    rest_a = [i for i in range(a.ndim) if i not in first]
    rest_b = [i for i in range(b.ndim) if i not in second]
    shape = tuple(a.shape[i] for i in rest_a) + tuple(b.shape[i] for i in rest_b)
    terms = math.prod(a.shape[i] for i in first)
    left = a.transpose(rest_a + first).reshape(math.prod(a.shape[i] for i in rest_a), terms)
    right = b.transpose(second + rest_b).reshape(terms, math.prod(b.shape[i] for i in rest_b))
    return reshaped(matmul_reference(left, right, dtype), shape)


_excused: dict[str, str]
for _name, _forward, _order, _samples, _degenerate, _excused in (
    ("matmul", _matmul, ordered_products.MATMUL, products.matmul, products.matmul_degenerate, {}),
    ("vecdot", _vecdot, ordered_products.VECDOT, products.vecdot, edges.vecdot_degenerate, {}),
    (
        "tensordot",
        _tensordot,
        ordered_products.TENSORDOT,
        products.tensordot,
        None,
        {"axes: negative": "a negative number of axes is a ValueError, see errors"},
    ),
):
    OPS[_name] = OpReference(
        _name,
        "accumulation",
        _forward,
        judges.accumulation(),
        (2, 2),
        "if",
        ((-1.0, 1.0),) * 2,
        samples=_samples,
        degenerate=_degenerate,
        excused=_excused,
        order=_order,
    )
