"""Views and copies: what changes shape, order or dtype but no value."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends.dtypes import DType

from .._autograd import Context, record
from .._devices import Device, get_device
from .._layout import permuted_strides
from .._op import Op, apply, function
from .._plan import Value
from .._planner import Planner
from .._shown import shown
from .._spec import Shape, Spec, broadcast_shapes, broadcast_strides
from .._state import Record, settings, watching
from .._tensor import Tensor
from ._common import as_shape, tensor_of
from ._moves import copied, reshape_strides

__all__ = [
    "astype",
    "broadcast_to",
    "contiguous",
    "matrix_transpose",
    "permute_dims",
    "reshape",
]

Layout = tuple[Shape, Shape, int]


class View(Op):
    """An op whose result shares the operand's memory.

    Args:
        layout: From spec and options to shape, strides and offset step, in elements.
    """

    def __init__(self, name: str, layout: Callable[..., Layout], **rules: Any) -> None:
        super().__init__(name, **rules)
        self.layout = layout

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(specs[0].dtype, self.layout(specs[0], **options)[0])]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        (x,) = values
        shape, strides, step = self.layout(x.spec, **options)
        return p.view(x, shape, strides, step)

    def view(self, x: Tensor, options: dict[str, Any]) -> Tensor:
        """The result, without a plan: slices come in too many kinds to keep one for each."""

        def make() -> Tensor:
            shape, strides, step = self.layout(x._spec, **options)
            return Tensor(x._buffer, Spec.of(x.device, x.dtype, shape, strides), x._offset + step)

        return unplanned(self, [x], options, make)


class Copy(Op):
    """Elements converted to a dtype and laid out contiguously (or in memory order)."""

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(options.get("dtype", specs[0].dtype), specs[0].shape)]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        (x,) = values
        shape = x.shape
        keep = options.get("keep_order", False)
        strides = permuted_strides(shape, [(shape, x.strides)]) if keep else None
        return copied(p, x, options.get("dtype"), strides, self.name)


def unplanned(
    op: Op, tensors: Sequence[Tensor], options: dict[str, Any], make: Callable[[], Tensor]
) -> Tensor:
    """Serve a call of `op` by `make`, with history and trace but without a kept plan."""
    now = settings()
    trace = now.trace
    start = time.perf_counter() if trace is not None else 0.0
    out = make()
    if watching.by is not None:
        watching.by.views += 1
    if trace is not None:
        trace.records.append(
            Record(
                op.name,
                str(out.device),
                tuple(t.dtype.name for t in tensors),
                tuple(t.shape for t in tensors),
                "portable",
                "",
                time.perf_counter() - start,
                now.depth,
            )
        )
    if any(t._track is not None for t in tensors):
        record(op, tensors, options, (out,))
    return out


# -- layouts ------------------------------------------------------------------------------------


def _reshape_layout(spec: Spec, shape: Shape) -> Layout:
    strides = reshape_strides(spec.shape, spec.strides, shape)
    assert strides is not None
    return shape, strides, 0


def _permute_layout(spec: Spec, axes: Shape) -> Layout:
    return tuple(spec.shape[a] for a in axes), tuple(spec.strides[a] for a in axes), 0


def _broadcast_layout(spec: Spec, shape: Shape) -> Layout:
    return shape, broadcast_strides(spec.shape, spec.strides, shape), 0


# -- gradients ------------------------------------------------------------------------------------


def _reshape_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    return [reshape(g, c.input_spec(0).shape)]


def _permute_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    axes = c.options["axes"]
    return [permute_dims(g, tuple(axes.index(k) for k in range(len(axes))))]


def _broadcast_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    from .elementwise import _unbroadcast

    return [_unbroadcast(g, c.input_spec(0))]


def _astype_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    source = c.input_spec(0).dtype
    return [g if g.dtype is source else astype(g, source)]


def _copy_vjp(c: Context, g: Tensor) -> list[Tensor | None]:
    return [g]


def _forward(call: Callable[..., Tensor]) -> Callable[..., Tensor | None]:
    """Forward rule of a linear op: the op itself, applied to the tangent."""

    def rule(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
        (t,) = tangents
        return call(t, **c.options)

    return rule


def _astype_jvp(c: Context, tangents: Sequence[Tensor]) -> Tensor | None:
    (t,) = tangents
    dtype: DType = c.options["dtype"]
    return astype(t, dtype) if dtype.is_float else None


def _reshaped(x: Tensor, shape: Shape) -> Tensor:
    return reshape(x, shape)


def _permuted(x: Tensor, axes: Shape) -> Tensor:
    return permute_dims(x, axes)


def _broadcasted(x: Tensor, shape: Shape) -> Tensor:
    return broadcast_to(x, shape)


def _laid_out(x: Tensor) -> Tensor:
    return contiguous(x)


_reshape = View("reshape", _reshape_layout, vjp=_reshape_vjp, jvp=_forward(_reshaped))
_permute = View("permute_dims", _permute_layout, vjp=_permute_vjp, jvp=_forward(_permuted))
_broadcast = View("broadcast_to", _broadcast_layout, vjp=_broadcast_vjp, jvp=_forward(_broadcasted))
_contiguous = Copy("contiguous", vjp=_copy_vjp, jvp=_forward(_laid_out))
_astype = Copy("astype", vjp=_astype_vjp, jvp=_astype_jvp)


# -- public ---------------------------------------------------------------------------------------


def contiguous(x: Tensor, /) -> Tensor:
    """`x` itself if its elements lie in C order without gaps, else such a copy."""
    return x if x._spec.contiguous else apply(_contiguous, [x])


@function("manipulation", differentiable=True)
def astype(
    x: Tensor, dtype: DType, /, *, copy: bool = True, device: str | Device | None = None
) -> Tensor:
    """Convert elements by value.

    Floats are rounded to nearest even; a float that an integer dtype cannot hold saturates and NaN
    becomes 0; integers wrap; anything becomes bool as ``x != 0``.

    Args:
        x: What to convert.
        dtype: Target.
        copy: False gives `x` itself if nothing has to change.
        device: Move there as well.
    """
    tensor_of("astype", x)
    if not isinstance(dtype, DType):
        raise TypeError(f"astype: dtype is a tensorbus dtype, not {shown(dtype)}")
    if device is not None and get_device(device) is not x.device:
        return astype(x.to_device(device), dtype, copy=False)
    if dtype is x.dtype and not copy:
        return x
    return apply(_astype, [x], {"dtype": dtype, "keep_order": True})  # type: ignore[no-any-return]


@function("manipulation", differentiable=True)
def reshape(x: Tensor, /, shape: int | Sequence[int], *, copy: bool | None = None) -> Tensor:
    """The elements in C order under another shape; one size may be -1.

    Args:
        x: Any tensor.
        shape: New sizes, with the same product.
        copy: True copies always; False raises ValueError where a copy is needed.
    """
    tensor_of("reshape", x)
    sizes = [shape] if isinstance(shape, int) else list(shape)
    if sizes.count(-1) == 1:
        known = 1
        for n in sizes:
            known *= n if n != -1 else 1
        if known == 0 or x.size % known:
            raise ValueError(f"reshape: {x.size} elements do not fill shape {tuple(sizes)}")
        sizes[sizes.index(-1)] = x.size // known
    target = as_shape("reshape", sizes)
    count = 1
    for n in target:
        count *= n
    if count != x.size:
        raise ValueError(f"reshape: shape {x.shape} has {x.size} elements, {target} has {count}")
    source = x
    if copy:
        source = apply(_contiguous, [x])
    elif reshape_strides(x.shape, x.strides, target) is None:
        if copy is False:
            raise ValueError("reshape: copy=False, but the elements are not laid out for it")
        source = contiguous(x)
    if target == source.shape and not copy:
        return source
    return _reshape.view(source, {"shape": target})


@function("manipulation", differentiable=True)
def permute_dims(x: Tensor, /, axes: Sequence[int]) -> Tensor:
    """Dimensions in another order: a view."""
    tensor_of("permute_dims", x)
    order = tuple(a % x.ndim if -x.ndim <= a < x.ndim else a for a in axes)
    if sorted(order) != list(range(x.ndim)):
        raise ValueError(f"permute_dims: {tuple(axes)} is not an order of {x.ndim} dimensions")
    return _permute.view(x, {"axes": order})


@function("manipulation", differentiable=True, op="permute_dims")
def matrix_transpose(x: Tensor, /) -> Tensor:
    """Swap the last two dimensions: a view."""
    tensor_of("matrix_transpose", x)
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose needs at least 2 dimensions, not {x.ndim}")
    return permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


@function("manipulation", differentiable=True)
def broadcast_to(x: Tensor, /, shape: Sequence[int]) -> Tensor:
    """A view of `x` repeated to `shape`."""
    tensor_of("broadcast_to", x)
    target = as_shape("broadcast_to", shape)
    if broadcast_shapes(x.shape, target) != target:
        raise ValueError(f"broadcast_to: shape {x.shape} cannot be broadcast to {target}")
    return x if target == x.shape else _broadcast.view(x, {"shape": target})
