"""Moving values inside a plan: views, copies, conversions, constants."""

from __future__ import annotations

from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr

from .._plan import Value
from .._planner import Planner
from .._recent import kept
from .._spec import Shape, broadcast_strides, contiguous_strides

__all__ = [
    "bits_dtype",
    "broadcast",
    "copied",
    "filled",
    "move_expr",
    "packed",
    "permuted",
    "reshape_strides",
]


def bits_dtype(dtype: DType) -> DType:
    """The unsigned dtype by which elements are moved without looking at their value."""
    return dt.uint8 if dtype is dt.bool_ else dt.by_name(f"uint{dtype.bits}")


@kept(256)
def move_expr(source: DType, target: DType) -> Expr:
    """Value to store when an element of `source` becomes one of `target`: its bits if equal."""
    if source is target:
        return ir.input_(0, bits_dtype(source))
    x = ir.input_(0, source)
    if target.compute.is_float and target.bits == 16:
        return x
    return ir.cast(x, target.compute)


def copied(
    p: Planner,
    x: Value,
    dtype: DType | None = None,
    strides: Shape | None = None,
    label: str = "astype",
) -> Value:
    """`x` converted to `dtype` in memory of its own, in C order unless `strides` are given."""
    out = p.new(x.dtype if dtype is None else dtype, x.shape, strides)
    write(p, x, out, label)
    return out


def write(p: Planner, x: Value, out: Value, label: str = "astype") -> None:
    """Add the step that writes `x`, broadcast and converted, to `out`."""
    source, target = x.dtype, out.dtype
    expr = move_expr(source, target)
    if source is target:
        source = target = bits_dtype(target)
        label = "copy"
    p.map(label, [expr], out.shape, [x.read(source)], [out.read(target)])


def packed(p: Planner, x: Value) -> Value:
    """`x` itself if its elements lie in C order without gaps, else such a copy."""
    return x if x.spec.contiguous else copied(p, x)


def permuted(p: Planner, x: Value, order: tuple[int, ...]) -> Value:
    """Dimensions in another order."""
    return p.view(x, tuple(x.shape[k] for k in order), tuple(x.strides[k] for k in order))


def broadcast(p: Planner, x: Value, shape: Shape) -> Value:
    """`x` repeated to `shape`."""
    return p.view(x, shape, broadcast_strides(x.shape, x.strides, shape))


def filled(p: Planner, dtype: DType, shape: Shape, value: float | int) -> Value:
    """Memory of its own with one value everywhere."""
    out = p.new(dtype, shape)
    fill(p, out, value)
    return out


def fill(p: Planner, out: Value, value: float | int) -> None:
    """Add the step that writes one value everywhere."""
    p.map("fill", [ir.param(0, out.dtype)], out.shape, [], [out], [(out.dtype, value)])


def reshape_strides(shape: Shape, strides: Shape, to: Shape) -> Shape | None:
    """Strides of a view with another shape, or None if there is none."""
    kept = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    if 0 in to or not kept:
        return contiguous_strides(to)
    result = [0] * len(to)
    i = len(kept) - 1
    j = len(to) - 1
    while j >= 0:
        if to[j] == 1:
            result[j] = 1
            j -= 1
            continue
        size, step = kept[i]
        run = size
        first = i
        want = to[j]
        last = j
        while run != want:
            if run < want:
                first -= 1
                n, s = kept[first]
                if s != kept[first + 1][1] * kept[first + 1][0]:
                    return None
                run *= n
            else:
                last -= 1
                want *= to[last]
        for k in range(j, last - 1, -1):
            result[k] = step
            step *= to[k]
        i, j = first - 1, last - 1
    return tuple(result)
