"""Slices as views, and their adjoints: a tensor in a slice of zeros, or of another tensor."""

from __future__ import annotations

from collections.abc import Sequence

from .._history import Context
from .._op import Op
from .._spec import Shape, Spec
from .._tensor import Tensor
from .creation import zeros, zeros_of
from .inplace import write_into
from .manipulation import Layout, View, unplanned

__all__ = ["Item", "place", "replace", "slice_of", "slices"]


Item = tuple[int, int, int] | int | None
"""For one dimension (start, step, count), an int that drops it, or None for a new one."""


def _slice_layout(spec: Spec, items: tuple[Item, ...]) -> Layout:
    shape: list[int] = []
    strides: list[int] = []
    offset = axis = 0
    for item in items:
        if item is None:
            shape.append(1)
            strides.append(0)
            continue
        stride = spec.strides[axis]
        axis += 1
        if isinstance(item, int):
            offset += item * stride
            continue
        start, step, count = item
        offset += start * stride if count else 0
        shape.append(count)
        strides.append(step * stride)
    return tuple(shape), tuple(strides), offset if 0 not in spec.shape else 0


def _slice_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    return [place(g, c.input_spec(0).shape, c.options["items"])]


def _slice_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    (t,) = tangents
    return slices(t, c.options["items"])


_slice = View("slice", _slice_layout, vjp=_slice_vjp, jvp=_slice_jvp)


def slices(x: Tensor, items: tuple[Item, ...]) -> Tensor:
    """A view of `x`; `items` cover all dimensions and are in range."""
    whole = len(items) == x.ndim and all(
        i.__class__ is tuple and i[0] == 0 and i[1] == 1 and i[2] == n
        for i, n in zip(items, x.shape, strict=False)
    )
    return x if whole else _slice.view(x, {"items": items})


def _placed(g: Tensor, shape: Shape, items: tuple[Item, ...]) -> Tensor:
    out = zeros(shape, dtype=g.dtype, device=g.device)
    write_into(slice_of(out, items), g.detach())
    return out


def slice_of(x: Tensor, items: tuple[Item, ...]) -> Tensor:
    shape, strides, step = _slice_layout(x._spec, items)
    return Tensor(x._buffer, Spec.of(x.device, x.dtype, shape, strides), x._offset + step)


def _place_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    return [slices(g, c.options["items"])]


def _place_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    (t,) = tangents
    return place(t, c.options["shape"], c.options["items"])


# The adjoint of a slice: the operand in the slice of zeros; `unplanned`, as slices are.
_place = Op("place", vjp=_place_vjp, jvp=_place_jvp)


def place(g: Tensor, shape: Shape, items: tuple[Item, ...]) -> Tensor:
    """Zeros of `shape` with `g` in the slice `items`."""
    options = {"shape": shape, "items": items}
    return unplanned(_place, [g], options, lambda: _placed(g, shape, items))


def _replaced(x: Tensor, value: Tensor, items: tuple[Item, ...]) -> Tensor:
    out = Tensor(x.device.backend.allocate(x.nbytes), Spec.of(x.device, x.dtype, x.shape))
    write_into(out, x.detach())
    write_into(slice_of(out, items), value.detach())
    return out


def _replace_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    items = c.options["items"]
    spec = c.input_spec(1)
    base = replace(g, zeros_of(spec, spec.shape), items) if c.needs[0] else None
    return [base, slices(g, items) if c.needs[1] else None]


def _replace_jvp(c: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
    base, value = tangents
    given = base if base is not None else value
    if given is None:
        return None
    shapes = [c.input_spec(k).shape for k in (0, 1)]
    base = base if base is not None else zeros_of(given._spec, shapes[0])
    value = value if value is not None else zeros_of(given._spec, shapes[1])
    return replace(base, value, c.options["items"])


# A copy of the first operand with the second one in a slice of it.
_replace = Op("replace_slice", vjp=_replace_vjp, jvp=_replace_jvp)


def replace(x: Tensor, value: Tensor, items: tuple[Item, ...]) -> Tensor:
    """A copy of `x` with `value`, of the slice's shape and of x's dtype, in the slice `items`."""
    return unplanned(_replace, [x, value], {"items": items}, lambda: _replaced(x, value, items))
