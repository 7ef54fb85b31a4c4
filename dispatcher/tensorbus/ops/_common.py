"""What the op families share: taking operands, allocating results, checking axes."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.contract import UnsupportedError
from tensorbus_backends.dtypes import DType
from tensorbus_backends.floating import DefaultArithmetic
from tensorbus_backends.ir import Expr

from .._devices import Device
from .._op import Op, perform_number
from .._plan import Value
from .._planner import Planner
from .._promotion import promote, result_of_scalar
from .._recent import kept
from .._shown import shown
from .._spec import Shape, Spec
from .._state import watching
from .._tensor import Tensor
from ._moves import bits_dtype

__all__ = [
    "allocate",
    "as_shape",
    "check_dtype",
    "normalize_axes",
    "normalize_axis",
    "operands",
    "scalar_tensor",
    "tensor_of",
]

Scalar = bool | int | float


def tensor_of(name: str, x: object, argument: str = "x") -> Tensor:
    """`x` if it is a tensor, else a TypeError that says how to make one."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name}: {argument} is a {type(x).__name__}, not a tensor; "
            "make one with tensorbus.asarray"
        )
    return x


def check_dtype(device: Device, dtype: DType) -> None:
    """Raise UnsupportedError if the device cannot hold `dtype`."""
    if dtype.name not in device.capabilities.dtypes:
        have = ", ".join(d.name for d in dt.ALL if d.name in device.capabilities.dtypes)
        raise UnsupportedError(f"{device} has no {dtype.name}; it has {have}")


def allocate(device: Device, dtype: DType, shape: Shape, strides: Shape | None = None) -> Tensor:
    """A tensor with undefined elements."""
    check_dtype(device, dtype)
    spec = Spec.of(device, dtype, shape, strides)
    return Tensor(device.backend.allocate(spec.nbytes), spec)


def from_host(device: Device, array: np.ndarray[Any, Any], dtype: DType) -> Tensor:
    """Copy a NumPy array whose dtype is `dtype`'s to a device."""
    if watching.by is not None:
        watching.by.other = True
    shape = tuple(array.shape)
    array = np.ascontiguousarray(array)
    out = allocate(device, dtype, shape)
    if array.size:
        device.backend.copy_in(out._buffer, 0, memoryview(array.reshape(-1).view(np.uint8).data))
    return out


class _Constant(Op):
    """One element.  Number: its bits.  Option: ``dtype``."""

    number = dt.uint64

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        return [(options["dtype"], ())]

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        dtype = options["dtype"]
        bits, out = bits_dtype(dtype), p.new(dtype, ())
        p.map("fill", [_narrowed(bits)], (), [], [out.read(bits)], [(dt.uint64, 0)])
        return out


@kept(4)
def _narrowed(bits: DType) -> Expr:
    return ir.cast(ir.param(0, dt.uint64), bits.compute)


_constant = _Constant("_constant")


def scalar_tensor(device: Device, value: Scalar, dtype: DType) -> Tensor:
    """A 0-dimensional tensor for a Python scalar, kept so that loops reuse it."""
    key = (dtype, repr(value))
    found: Tensor | None = device.constants.find(key)
    if found is None:
        with np.errstate(over="ignore"), DefaultArithmetic():
            stored = np.asarray(value).astype(dtype.numpy)
        if device.home is None and dtype.name in device.capabilities.dtypes:
            # By a launch, which waits for nothing, as a copy from the host may.
            bits = int(stored.view(bits_dtype(dtype).numpy))
            found = perform_number(_constant, bits, {"dtype": dtype}, device)
        else:
            found = from_host(device, stored, dtype)
        device.constants.keep(key, found)
    return found


def operands(name: str, *values: Tensor | Scalar) -> list[Tensor]:
    """Tensors for a call's operands: Python scalars join in the dtype of the tensors.

    Raises:
        TypeError: No operand is a tensor, or one is neither tensor nor Python scalar.
        OverflowError: A Python integer does not fit.
    """
    tensors = [v for v in values if isinstance(v, Tensor)]
    for v in values:
        if not isinstance(v, Tensor | bool | int | float):
            raise TypeError(
                f"{name}: operands are tensors or Python scalars, not {type(v).__name__}; "
                "convert with tensorbus.asarray"
            )
    if not tensors:
        raise TypeError(f"{name}: at least one operand must be a tensor")
    device = tensors[0]._spec.device
    dtype = tensors[0].dtype
    try:
        for t in tensors[1:]:
            dtype = promote(dtype, t.dtype)
        return [
            v if isinstance(v, Tensor) else scalar_tensor(device, v, result_of_scalar(dtype, v))
            for v in values
        ]
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    except OverflowError as error:
        raise OverflowError(f"{name}: {error}") from None


def normalize_axis(name: str, axis: int, ndim: int) -> int:
    """A non-negative axis; IndexError if it is out of range."""
    try:
        k = operator.index(axis)
    except TypeError:
        raise TypeError(f"{name}: axis is an int, not {type(axis).__name__}") from None
    if not -ndim <= k < ndim:
        words = f"{ndim} dimension{'s' if ndim != 1 else ''}"
        raise IndexError(f"{name}: axis {shown(k)} is out of range for {words}")
    return k % ndim


def normalize_axes(name: str, axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Sorted non-negative axes; None means all of them.

    Raises:
        IndexError: Out of range.
        ValueError: The same axis twice.
    """
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, Sequence) else (axis,)
    axes = [normalize_axis(name, a, ndim) for a in given]
    if len(set(axes)) != len(axes):
        raise ValueError(f"{name}: axis {shown(axis)} names a dimension twice")
    return tuple(sorted(axes))


_MOST = 2**59
"""Elements of a shape, zeros left out: with 8 bytes each, byte offsets stay below 2^63."""


def as_shape(name: str, shape: int | Sequence[int]) -> Shape:
    """A shape as a tuple of non-negative ints; their product has to stay countable."""
    if isinstance(shape, str | bytes | dict):
        raise TypeError(f"{name}: a shape is a tuple of ints, not {shown(shape)}")
    try:
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        checked = tuple([operator.index(n) for n in sizes])
    except TypeError:
        raise TypeError(f"{name}: a shape is a tuple of ints, not {shown(shape)}") from None
    if any(n < 0 for n in checked):
        raise ValueError(f"{name}: shape {shown(checked)} has a negative size")
    if math.prod([n for n in checked if n]) > _MOST:
        raise ValueError(
            f"{name}: shape {shown(checked)} has more elements than 64 bits count bytes"
        )
    return checked
