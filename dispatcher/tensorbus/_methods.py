"""What users do with a tensor: operators, indexing, conversions, printing, `backward`.

The top floor of the dispatcher: it needs all others, none needs it.  Importing it puts the methods
on `Tensor`.  Python operators look into the thread's plan table first and launch.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from tensorbus_backends import dtypes as dt
from tensorbus_backends.dtypes import DType

from . import _autograd, ops
from ._devices import Device
from ._dlpack import dlpack_device, export
from ._format import describe
from ._history import set_requires_grad
from ._state import current, settings, watching
from ._tensor import Scalar, Tensor

__all__: list[str] = []

_BOUND = frozenset({int, type(None)})


class _Methods(Tensor):
    """Has no instances: its attributes become those of `Tensor`, whose signatures it keeps to."""

    __slots__ = ()

    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded for reverse mode."""
        return self._track is not None and self._track.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        set_requires_grad(self, bool(value))

    @property
    def T(self) -> Tensor:  # noqa: N802
        """Transpose of a matrix (ValueError otherwise, as the array API says)."""
        spec = self._spec
        if len(spec.shape) != 2:
            raise ValueError(f"x.T needs 2 dimensions, this has {self.ndim}; use x.mT")
        if self._track is None and settings().trace is None and watching.by is None:
            view = spec.views.get("T")
            if view is not None:
                return Tensor(self._buffer, view[0], self._offset)
            out = self.mT
            spec.keep_view("T", out._spec, 0)
            return out
        return self.mT

    @property
    def mT(self) -> Tensor:  # noqa: N802
        """Transpose of the last two dimensions."""
        result: Tensor = ops.matrix_transpose(self)
        return result

    def to_device(self, device: str | Device, /, *, stream: Any = None) -> Tensor:
        """This tensor on another device (itself if it is there already)."""
        result: Tensor = ops.to_device(self, device, stream=stream)
        return result

    def astype(self, dtype: DType, *, copy: bool = True) -> Tensor:
        """Convert the elements; see `tensorbus.astype`."""
        result: Tensor = ops.astype(self, dtype, copy=copy)
        return result

    def reshape(self, *shape: Any) -> Tensor:
        """See `tensorbus.reshape`; sizes may be given one by one."""
        given = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        result: Tensor = ops.reshape(self, given)
        return result

    def numpy(self) -> np.ndarray[Any, Any]:
        """A NumPy copy of the elements, from any device."""
        result: np.ndarray[Any, Any] = ops.to_numpy(self)
        return result

    def item(self) -> Scalar:
        """The only element as a Python scalar; ValueError if there are more or none."""
        if self.size != 1:
            raise ValueError(f"item() needs exactly one element, this tensor has {self.size}")
        value = self.numpy().reshape(())
        return value.item() if self.dtype is not dt.bfloat16 else float(value)

    def tolist(self) -> Any:
        """The elements as nested lists of Python scalars."""
        array = self.numpy()
        return (array.astype(np.float32) if self.dtype is dt.bfloat16 else array).tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        result: np.ndarray[Any, Any] = ops.as_numpy_array(self, dtype, copy)
        return result

    def __dlpack__(self, **options: Any) -> Any:
        return export(self, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack_device(self.device)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        tensorbus = sys.modules[__package__]
        if api_version not in (None, *tensorbus.__array_api_versions__):
            raise ValueError(
                f"tensorbus follows array API {tensorbus.__array_api_version__}; "
                f"version {api_version!r} was asked for"
            )
        return tensorbus

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"the truth value of a tensor with {self.size} elements is ambiguous; "
                "use tensorbus.any or tensorbus.all"
            )
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __index__(self) -> int:
        if not self.dtype.is_integer or self.ndim:
            raise TypeError(f"only a 0-dimensional integer tensor is an index, not {self._spec}")
        return int(self.item())

    def __iter__(self) -> Any:
        return (self[k] for k in range(len(self)))

    def __contains__(self, value: Any) -> bool:
        return bool(ops.any(self == value))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A copy with its own memory; a leaf stays a leaf, with a copy of its ``grad``."""
        self._leaf_only("copied deeply")
        made: Tensor = ops.astype(self.detach(), self.dtype, copy=True)
        memo[id(self)] = made
        made.requires_grad = self.requires_grad
        if self.grad is not None:
            made.grad = self.grad.__deepcopy__(memo)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        self._leaf_only("pickled")
        return _unpickle, (self.numpy(), self.dtype, self.device.name, self.requires_grad)

    def _leaf_only(self, what: str) -> None:
        if self.requires_grad and not self.is_leaf:
            raise RuntimeError(
                f"the result of a recorded operation cannot be {what}; use x.detach()"
            )

    def __repr__(self) -> str:
        return describe(self)

    def backward(
        self,
        gradient: Tensor | None = None,
        *,
        retain_graph: bool = False,
        create_graph: bool = False,
    ) -> None:
        """Add the gradient of this tensor into ``grad`` of the leaves; see `tensorbus.grad`."""
        _autograd.backward(
            [self], None if gradient is None else [gradient], retain_graph, create_graph
        )

    def __getitem__(self, key: Any) -> Tensor:
        result: Tensor
        if self._track is not None or settings().trace is not None or watching.by is not None:
            result = ops.getitem(self, key)
            return result
        kind = key.__class__
        place: Any
        if kind is slice:
            place = key.start, key.stop, key.step
            plain = {place[0].__class__, place[1].__class__, place[2].__class__} <= _BOUND
        else:
            place, plain = key, kind is int
        view = self._spec.views.get(place) if plain else None
        if view is not None:
            return Tensor(self._buffer, view[0], self._offset + view[1])
        result = ops.getitem(self, key)
        if plain and result._buffer is self._buffer:
            self._spec.keep_view(place, result._spec, result._offset - self._offset)
        return result

    def __setitem__(self, key: Any, value: Any) -> None:
        ops.setitem(self, key, value)


def _unpickle(
    array: np.ndarray[Any, Any], dtype: DType, device: str, requires_grad: bool
) -> Tensor:
    made: Tensor = ops.asarray(array, dtype=dtype, device=device)
    made.requires_grad = requires_grad
    return made


def _binary(name: str) -> tuple[Any, Any, Any]:
    """Operator methods x op y, y op x and x op= y of an elementwise op."""
    function: Any = None
    op: Any = None

    def forward(self: Tensor, other: Any) -> Any:
        if other.__class__ is Tensor and self._track is None and other._track is None:
            run = current().fast.get((op, self._spec, other._spec))
            if run is not None:
                return run(self, other)
        return call(self, other)

    def call(a: Any, b: Any) -> Any:
        nonlocal function, op
        if not isinstance(a, Tensor | bool | int | float) or not isinstance(
            b, Tensor | bool | int | float
        ):
            return NotImplemented
        if function is None:
            function, op = getattr(ops, name), ops.OPS[name]
        return function(a, b)

    def reflected(self: Tensor, other: Any) -> Any:
        return call(other, self)

    def in_place(self: Tensor, other: Any) -> Any:
        result = call(self, other)
        if result is NotImplemented:
            return result
        return ops.assign(self, result)

    return forward, reflected, in_place


def _install() -> None:
    own = {"__doc__", "__module__", "__qualname__", "__slots__"}
    for name, value in vars(_Methods).items():
        code = value.fget if isinstance(value, property) else value
        if name not in own and callable(code):
            code.__qualname__ = f"Tensor.{name}"
            setattr(Tensor, name, value)
    for symbol, name in {
        "add": "add",
        "sub": "subtract",
        "mul": "multiply",
        "truediv": "divide",
        "floordiv": "floor_divide",
        "mod": "remainder",
        "pow": "pow",
        "and": "bitwise_and",
        "or": "bitwise_or",
        "xor": "bitwise_xor",
        "lshift": "bitwise_left_shift",
        "rshift": "bitwise_right_shift",
        "matmul": "matmul",
    }.items():
        forward, reflected, in_place = _binary(name)
        setattr(Tensor, f"__{symbol}__", forward)
        setattr(Tensor, f"__r{symbol}__", reflected)
        setattr(Tensor, f"__i{symbol}__", in_place)
    for symbol, name in {
        "lt": "less",
        "le": "less_equal",
        "gt": "greater",
        "ge": "greater_equal",
        "eq": "equal",
        "ne": "not_equal",
    }.items():
        setattr(Tensor, f"__{symbol}__", _binary(name)[0])
    for symbol, name in {
        "neg": "negative",
        "pos": "positive",
        "abs": "abs",
        "invert": "bitwise_invert",
    }.items():

        def unary(self: Tensor, name: str = name) -> Tensor:
            return getattr(ops, name)(self)  # type: ignore[no-any-return]

        setattr(Tensor, f"__{symbol}__", unary)


_install()
