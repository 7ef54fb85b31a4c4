"""Making tensors from a shape and a rule."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from tensorbus_backends import dtypes as dt, ir, scalar
from tensorbus_backends.contract import OutOfMemoryError
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr

from .._autograd import Context
from .._devices import Device, get_device
from .._fallback import holding, note_fallback, relabelled
from .._op import Op, apply, function, generate, perform
from .._plan import Value
from .._planner import Planner
from .._promotion import DEFAULT_FLOAT, DEFAULT_INT, scalar_dtype
from .._shown import shown
from .._spec import Shape, Spec
from .._tensor import Tensor
from ._common import Scalar, as_shape, from_host, tensor_of
from ._moves import bits_dtype, filled

__all__ = [
    "arange",
    "empty",
    "empty_like",
    "eye",
    "full",
    "full_like",
    "linspace",
    "meshgrid",
    "ones",
    "ones_like",
    "tril",
    "triu",
    "zeros",
    "zeros_like",
]


class _Fill(Op):
    """One value everywhere.  Options: ``dtype``, ``shape``, ``value``."""

    sizes = ("shape",)

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(options["dtype"], options["shape"])]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        return filled(p, options["dtype"], options["shape"], options["value"])


class _Indexed(Op):
    """``value``, an expression of ``index``.  Options: ``dtype shape label value params``."""

    sizes = ("shape",)

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(options["dtype"], options["shape"])]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        out = p.new(options["dtype"], options["shape"])
        flat = out.read(strides=(1,))
        p.map(options["label"], [options["value"]], (out.size,), [], [flat], options["params"])
        return out


class _Empty(Op):
    """Undefined elements.  Options: ``dtype``, ``shape``."""

    sizes = ("shape",)

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(options["dtype"], options["shape"])]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        return p.new(options["dtype"], options["shape"])


_fill, _indexed, _empty = _Fill("full"), _Indexed("_indexed"), _Empty("empty")


def _generate(
    name: str, dtype: DType, shape: Shape, device: str | Device | None, op: Op, **options: Any
) -> Tensor:
    """What an op without operands makes, told to the trace under the name of the function."""
    where = get_device(device)
    there = holding(name, where, dtype)
    out: Tensor
    if there.home is None:
        out = generate(name, op, {"dtype": dtype, "shape": shape, **options}, there)
        return out
    start = time.perf_counter()
    made: Tensor = perform(op, (), {"dtype": dtype, "shape": shape, **options}, there.real)
    out = relabelled(made, there)
    note_fallback(name, there, time.perf_counter() - start)
    return out


def _dtype(name: str, dtype: DType | None, default: DType) -> DType:
    if dtype is not None and not isinstance(dtype, DType):
        raise TypeError(f"{name}: dtype is a tensorbus dtype such as float32, not {shown(dtype)}")
    return dtype or default


def _check_fill(name: str, value: Scalar, dtype: DType) -> None:
    if not isinstance(value, bool | int | float):
        raise TypeError(f"{name}: fill_value is a Python number, not {type(value).__name__}")
    if dtype.is_float or dtype.kind == "b":
        return
    if isinstance(value, float) and not value.is_integer():
        raise TypeError(f"{name}: fill_value {value} is no {dtype.name}; round it first")
    if not dtype.min <= int(value) <= dtype.max:
        raise OverflowError(f"{name}: {value} does not fit {dtype.name}")


# -- constant ---------------------------------------------------------------------------------


@function("creation", op="empty")
def empty(
    shape: int | Sequence[int],
    *,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """A tensor whose elements are undefined."""
    kind = _dtype("empty", dtype, DEFAULT_FLOAT)
    return _generate("empty", kind, as_shape("empty", shape), device, _empty)


@function("creation", op="empty")
def empty_like(
    x: Tensor, /, *, dtype: DType | None = None, device: str | Device | None = None
) -> Tensor:
    """Undefined elements with shape, dtype and device of `x`."""
    tensor_of("empty_like", x)
    return empty(x.shape, dtype=dtype or x.dtype, device=device or x.device)


@function("creation", op="full")
def full(
    shape: int | Sequence[int],
    fill_value: Scalar,
    *,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """A tensor with all elements equal to `fill_value`.

    Args:
        shape: Sizes.
        fill_value: A Python number.
        dtype: By default bool, int64 or float32, by the kind of `fill_value`.
        device: Name or device; None is the default device.

    Raises:
        OverflowError: An integer that `dtype` cannot hold.
        TypeError: A fraction for an integer dtype, or no Python number.
    """
    sizes = as_shape("full", shape)
    kind = _dtype("full", dtype, scalar_dtype(fill_value))
    _check_fill("full", fill_value, kind)
    value = float(kind.numpy.type(fill_value)) if kind.is_float else int(fill_value)
    return _generate("full", kind, sizes, device, _fill, value=value)


@function("creation", op="full")
def zeros(
    shape: int | Sequence[int],
    *,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """A tensor of zeros."""
    return full(shape, 0, dtype=dtype or DEFAULT_FLOAT, device=device)


@function("creation", op="full")
def ones(
    shape: int | Sequence[int],
    *,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """A tensor of ones."""
    return full(shape, 1, dtype=dtype or DEFAULT_FLOAT, device=device)


@function("creation", op="full")
def full_like(
    x: Tensor,
    /,
    fill_value: Scalar,
    *,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """Like `full`, with shape, dtype and device of `x`."""
    tensor_of("full_like", x)
    return full(x.shape, fill_value, dtype=dtype or x.dtype, device=device or x.device)


@function("creation", op="full")
def zeros_like(
    x: Tensor, /, *, dtype: DType | None = None, device: str | Device | None = None
) -> Tensor:
    """Zeros with shape, dtype and device of `x`."""
    return full_like(x, 0, dtype=dtype, device=device)


@function("creation", op="full")
def ones_like(
    x: Tensor, /, *, dtype: DType | None = None, device: str | Device | None = None
) -> Tensor:
    """Ones with shape, dtype and device of `x`."""
    return full_like(x, 1, dtype=dtype, device=device)


# -- sequences --------------------------------------------------------------------------------

_SPLIT = 4096


def _at_index(dtype: DType, count: int, step: Expr, start: Expr) -> Expr:
    """``start + index * step`` in a floating compute dtype, one rounding where index is exact.

    Beyond 2^24 elements a float32 does not hold every index: it is split into two exact parts.
    """
    kind = dtype.compute
    index = ir.index()
    if kind is dt.float64 or count <= 1 << 24:
        return ir.fma(ir.cast(index, kind), step, start)
    high = ir.cast(index >> 12, kind)
    low = ir.cast(index & (_SPLIT - 1), kind)
    return ir.fma(high, step * scalar.f(_SPLIT, kind), ir.fma(low, step, start))


@function("creation", op="_indexed")
def arange(
    start: int | float,
    /,
    stop: int | float | None = None,
    step: int | float = 1,
    *,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """``start + i * step`` for i = 0, 1, ... below `stop`.

    Floats are computed as ``fma(i, step, start)`` in the compute dtype, `start` and `step` being
    rounded to it first; their number is ``ceil((stop - start) / step)`` in Python's arithmetic.

    Args:
        start: First value; with `stop` None it is the end, and the first value is 0.
        stop: End, exclusive.
        step: Distance, not 0.
        dtype: By default int64 if all three are ints, else float32.
        device: Name or device; None is the default device.

    Raises:
        ValueError: `step` is 0, or an argument is not finite.
        OverflowError: A value does not fit an integer dtype.
    """
    if stop is None:
        start, stop = 0, start
    for value in (start, stop, step):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"arange: arguments are Python numbers, not {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"arange: arguments must be finite, not {value}")
    if step == 0:
        raise ValueError("arange: step must not be 0")
    if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
        kind = _dtype("arange", dtype, DEFAULT_INT)
        count = max(0, -(-(stop - start) // step))
    else:
        kind = _dtype("arange", dtype, DEFAULT_FLOAT)
        length = (stop - start) / step
        if not math.isfinite(length):
            raise ValueError("arange: there are more elements than 64 bits count")
        count = max(0, math.ceil(length))
    as_shape("arange", count)
    if not kind.is_integer and not kind.is_float:
        raise TypeError(f"arange: dtype must be numeric, not {kind.name}")
    if kind.is_integer:
        return _integer_range(kind, start, step, count, device)
    compute = kind.compute
    point = _at_index(kind, count, ir.param(1, compute), ir.param(0, compute))
    params = [(compute, float(start)), (compute, float(step))]
    return _generate(
        "arange", kind, (count,), device, _indexed, label="arange", value=point, params=params
    )


def _integer_range(
    dtype: DType, start: int | float, step: int | float, count: int, device: str | Device | None
) -> Tensor:
    def value_at(k: int) -> int:
        return int(start + k * step)

    # Rounding is monotonic: all values lie between the first and the last one.
    for k in (0, count - 1) if count else ():
        v = value_at(k)
        if not dtype.min <= v <= dtype.max:
            raise OverflowError(f"arange: {shown(v)} does not fit {dtype.name}")
    if not isinstance(start, int) or not isinstance(step, int):

        def values_at(k: Any) -> Any:
            return start + k * step

        # Python multiplies ints exactly, float64 up to 2^53.
        exact = isinstance(step, float) or abs(step) <= 1 << 53
        many = values_at if exact else None
        return _from_python_arithmetic("arange", dtype, count, device, value_at, many)
    # Products may pass the end of the dtype, sums come back: wrapping arithmetic gives the value.
    value = ir.cast(ir.index() * ir.param(1, dt.int64) + ir.param(0, dt.int64), dtype)
    params = [(dt.int64, _wrapped(start)), (dt.int64, _wrapped(step))]
    return _generate(
        "arange", dtype, (count,), device, _indexed, label="arange", value=value, params=params
    )


_PIECE = 1 << 16


def _from_python_arithmetic(
    name: str,
    dtype: DType,
    count: int,
    device: str | Device | None,
    one: Callable[[int], int],
    many: Callable[[Any], Any] | None,
) -> Tensor:
    """Integers that float64 arithmetic gives: all fit `dtype`.

    Args:
        name: For messages.
        dtype: An integer dtype.
        count: How many; at most 2^53, so that float64 holds their indices.
        device: Where.
        one: The value of an index.
        many: The same, not yet truncated, of indices as a float64 array; None where it would round
            otherwise.
    """
    target = holding(name, get_device(device), dtype, noted=True)
    try:
        values = np.empty(count, dtype.numpy)
    except (MemoryError, ValueError):
        raise OutOfMemoryError(f"{name}: the system has no memory for {count:,} elements") from None
    for start in range(0, count, _PIECE):
        indices = range(start, min(start + _PIECE, count))
        if many is None:
            values[start : indices.stop] = [one(k) for k in indices]
        else:
            values[start : indices.stop] = many(np.arange(start, indices.stop, dtype=np.float64))
    return from_host(target, values, dtype)


def _wrapped(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


@function("creation", op="_indexed")
def linspace(
    start: int | float,
    stop: int | float,
    /,
    num: int,
    *,
    dtype: DType | None = None,
    device: str | Device | None = None,
    endpoint: bool = True,
) -> Tensor:
    """`num` evenly spaced values from `start` to `stop`.

    With ``step = (stop - start) / (num - 1)`` in float64 (``/ num`` without the endpoint) value i
    is ``fma(i, step, start)`` in the first half and ``fma(i - (num - 1), step, stop)`` in the
    second, so that both ends are exact (as rounded to the compute dtype).

    Args:
        start: First value.
        stop: Last value, or the first one left out.
        num: How many; not negative.
        dtype: By default float32; integers are computed in float64 and truncated.
        device: Name or device; None is the default device.
        endpoint: Whether `stop` is the last value.

    Raises:
        ValueError: `num` is negative.
    """
    count = operator.index(num)
    if count < 0:
        raise ValueError(f"linspace: num must not be negative, not {shown(count)}")
    as_shape("linspace", count)
    kind = _dtype("linspace", dtype, DEFAULT_FLOAT)
    if not kind.is_integer and not kind.is_float:
        raise TypeError(f"linspace: dtype must be numeric, not {kind.name}")
    first, last = float(start), float(stop)
    parts = max(count - 1 if endpoint else count, 1)
    if kind.is_integer:
        return _integer_linspace(kind, start, stop, count, parts, device)
    step = (last - first) / parts
    if not math.isfinite(step):
        step = last / parts - first / parts
    compute = kind.compute
    index = ir.index()
    lower = _at_index(kind, count, ir.param(1, compute), ir.param(0, compute))
    back = index - ir.param(3, dt.int64)
    upper = ir.fma(ir.cast(back, compute), ir.param(1, compute), ir.param(2, compute))
    value = ir.select(index + index <= ir.param(3, dt.int64), lower, upper)
    params: list[tuple[DType, int | float]] = [
        (compute, first),
        (compute, step),
        (compute, last),
        (dt.int64, parts),
    ]
    return _generate(
        "linspace", kind, (count,), device, _indexed, label="linspace", value=value, params=params
    )


def _integer_linspace(
    dtype: DType,
    start: int | float,
    stop: int | float,
    count: int,
    parts: int,
    device: str | Device | None,
) -> Tensor:
    if not math.isfinite(start) or not math.isfinite(stop):
        raise ValueError(f"linspace: {dtype.name} has no infinity and no NaN")
    distance = stop - start

    def value_at(k: int) -> int:
        return int(start + k * distance / parts)

    # Rounding is monotonic: all values lie between the first and the last one.
    for k in (0, count - 1) if count else ():
        value = start + k * distance / parts
        if not math.isfinite(value) or not dtype.min <= int(value) <= dtype.max:
            raise OverflowError(f"linspace: values do not fit {dtype.name}")
    # Python multiplies ints exactly, float64 up to 2^53.
    exact = isinstance(distance, float) or abs(distance) * max(count, 1) <= 1 << 53
    return _from_python_arithmetic(
        "linspace",
        dtype,
        count,
        device,
        value_at,
        (lambda k: start + k * distance / parts) if exact and abs(start) <= 1 << 53 else None,
    )


# -- matrices ---------------------------------------------------------------------------------


@function("creation", op="_indexed")
def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: DType | None = None,
    device: str | Device | None = None,
) -> Tensor:
    """Ones on diagonal `k` of a matrix (0 the main one, above it positive), zeros elsewhere."""
    shape = as_shape("eye", (n_rows, n_rows if n_cols is None else n_cols))
    kind = _dtype("eye", dtype, DEFAULT_FLOAT)
    diagonal = _within(operator.index(k), *shape)
    one, zero = ir.const(1, kind.compute), ir.const(0, kind.compute)
    index, width = ir.index(), ir.param(0, dt.int64)
    row = ir.idiv(index, width)
    value = ir.select((index - row * width - row).eq(ir.param(1, dt.int64)), one, zero)
    params = [(dt.int64, shape[1]), (dt.int64, diagonal)]
    return _generate("eye", kind, shape, device, _indexed, label="eye", value=value, params=params)


def _within(diagonal: int, rows: int, columns: int) -> int:
    """The nearest diagonal that exists, or the next one beyond: no other leaves all elements."""
    return max(-rows, min(diagonal, columns))


class _Triangle(Op):
    """The elements on one side of a diagonal, zeros elsewhere."""

    def __init__(self, name: str, **rules: Any) -> None:
        super().__init__(name, **rules)

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(specs[0].dtype, specs[0].shape)]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        (x,) = values
        rows, columns = x.shape[-2:]
        bits = bits_dtype(x.dtype)
        out = p.new(x.dtype, x.shape)
        distance, k = ir.input_(2, dt.int64) - ir.input_(1, dt.int64), ir.param(0, dt.int64)
        inside = distance <= k if self.name == "tril" else distance >= k
        p.map(
            self.name,
            [ir.select(inside, ir.input_(0, bits), ir.const(0, bits))],
            x.shape,
            [
                x.read(bits),
                p.table((rows,), (1,)).read(shape=(rows, 1), strides=(1, 1)),
                p.table((columns,), (1,)),
            ],
            [out.read(bits)],
            [(dt.int64, options["k"])],
        )
        return out


def _triangle_vjp(op: Callable[..., Tensor]) -> Callable[..., list[Tensor | None]]:
    return lambda c, g: [op(g, k=c.options["k"])]


def _triangle_jvp(op: Callable[..., Tensor]) -> Callable[..., Tensor | None]:
    def rule(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
        (t,) = tangents
        return op(t, k=c.options["k"])

    return rule


def _triangle(op: Op, x: Tensor, k: int) -> Tensor:
    tensor_of(op.name, x)
    if x.ndim < 2:
        raise ValueError(f"{op.name} needs at least 2 dimensions, not {x.ndim}")
    return apply(op, [x], {"k": _within(operator.index(k), *x.shape[-2:])})  # type: ignore[no-any-return]


@function("creation", differentiable=True)
def tril(x: Tensor, /, *, k: int = 0) -> Tensor:
    """Lower triangle of the last two dimensions: zeros above diagonal `k`."""
    return _triangle(_tril, x, k)


@function("creation", differentiable=True)
def triu(x: Tensor, /, *, k: int = 0) -> Tensor:
    """Upper triangle of the last two dimensions: zeros below diagonal `k`."""
    return _triangle(_triu, x, k)


_tril = _Triangle("tril", vjp=_triangle_vjp(tril), jvp=_triangle_jvp(tril))
_triu = _Triangle("triu", vjp=_triangle_vjp(triu), jvp=_triangle_jvp(triu))


@function("creation", differentiable=True, op="broadcast_to")
def meshgrid(*arrays: Tensor, indexing: Literal["xy", "ij"] = "xy") -> list[Tensor]:
    """Coordinate matrices of coordinate vectors: broadcast views.

    Args:
        arrays: Vectors of one dtype (0-dimensional ones count as size 1).
        indexing: ``"xy"`` swaps the first two dimensions of the results, ``"ij"`` does not.

    Raises:
        ValueError: An array has more than one dimension, the dtypes differ, or `indexing` is
            another word.
    """
    from .manipulation import broadcast_to, reshape

    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing is 'xy' or 'ij', not {shown(indexing)}")
    for x in arrays:
        tensor_of("meshgrid", x)
        if x.ndim > 1:
            raise ValueError(f"meshgrid: arrays have one dimension, this one has {x.ndim}")
        if x.dtype is not arrays[0].dtype:
            raise ValueError("meshgrid: all arrays must have the same dtype")
    order = list(range(len(arrays)))
    if indexing == "xy" and len(arrays) > 1:
        order[:2] = [1, 0]
    shape = [1] * len(arrays)
    for x, axis in zip(arrays, order, strict=True):
        shape[axis] = x.size
    return [
        broadcast_to(
            reshape(x, tuple(x.size if k == axis else 1 for k in range(len(arrays)))), shape
        )
        for x, axis in zip(arrays, order, strict=True)
    ]
