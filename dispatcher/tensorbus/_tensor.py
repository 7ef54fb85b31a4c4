"""The tensor: a strided view of a device buffer.

Python operators look into the thread's plan table first and launch; everything else is in `ops`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import Buffer
from tensorbus_backends.dtypes import DType

from ._spec import Spec
from ._state import current, settings, watching

if TYPE_CHECKING:
    from ._autograd import Track
    from ._devices import Device

__all__ = ["Tensor"]

Scalar = bool | int | float

_BOUND = frozenset({int, type(None)})

ops: Any = None
"""The package `ops`, which puts itself here when it is imported: ops need tensors first."""


class Tensor:
    """An n-dimensional array on a device; made by `asarray`, `zeros` and the like.

    It follows the Python array API standard 2025.12: attributes ``dtype shape ndim size device T
    mT``, operators, indexing, ``__dlpack__``.  With ``requires_grad`` set, operations on it are
    recorded and `backward` puts the gradient into ``grad``.
    """

    __slots__ = ("__weakref__", "_buffer", "_offset", "_spec", "_track", "grad")
    _buffer: Buffer
    _spec: Spec
    _offset: int
    _track: Track | None
    grad: Tensor | None
    __array_priority__ = 1000

    def __init__(
        self, buffer: Buffer, spec: Spec, offset: int = 0, track: Track | None = None
    ) -> None:
        self._buffer = buffer
        self._spec = spec
        self._offset = offset
        self._track = track

    # -- what it is ---------------------------------------------------------------------------

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self._spec.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        return self._spec.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._spec.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._spec.size

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._spec.nbytes

    @property
    def strides(self) -> tuple[int, ...]:
        """Steps between neighbours of each dimension, in elements."""
        return self._spec.strides

    @property
    def device(self) -> Device:
        """Where the elements are."""
        return self._spec.device

    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded for reverse mode."""
        return self._track is not None and self._track.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        from ._autograd import set_requires_grad

        set_requires_grad(self, bool(value))

    def __getattr__(self, name: str) -> Any:
        if name == "grad":
            return None
        raise AttributeError(f"a tensor has no attribute {name!r}")

    @property
    def is_leaf(self) -> bool:
        """Whether the user made this tensor, rather than a recorded operation."""
        return self._track is None or self._track.node is None or self._track.node.leaf

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

    # -- moving and converting ------------------------------------------------------------------

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
        from ._dlpack import export

        return export(self, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        from ._dlpack import dlpack_device

        return dlpack_device(self.device)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        import tensorbus

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

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a 0-dimensional tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Any:
        return (self[k] for k in range(len(self)))

    def __contains__(self, value: Any) -> bool:
        return bool(ops.any(self == value))

    def __copy__(self) -> Tensor:
        """A tensor over the same memory."""
        return Tensor(self._buffer, self._spec, self._offset, self._track)

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
        from ._format import describe

        return describe(self)

    # -- differentiation --------------------------------------------------------------------------

    def backward(
        self,
        gradient: Tensor | None = None,
        *,
        retain_graph: bool = False,
        create_graph: bool = False,
    ) -> None:
        """Add the gradient of this tensor into ``grad`` of the leaves; see `tensorbus.grad`."""
        from ._autograd import backward

        backward([self], None if gradient is None else [gradient], retain_graph, create_graph)

    def detach(self) -> Tensor:
        """The same memory without the recorded history."""
        return Tensor(self._buffer, self._spec, self._offset)

    # -- indexing -------------------------------------------------------------------------------

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

    __hash__ = object.__hash__

    if TYPE_CHECKING:
        # `_install` makes these; type checkers need to be told.
        def __add__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __radd__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __iadd__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __sub__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __rsub__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __isub__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __mul__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __rmul__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __imul__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __truediv__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __rtruediv__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __itruediv__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __floordiv__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __rfloordiv__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __ifloordiv__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __mod__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __rmod__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __imod__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __pow__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __rpow__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __ipow__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __and__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __rand__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __iand__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __or__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __ror__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __ior__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __xor__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __rxor__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __ixor__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __lshift__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __rlshift__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __ilshift__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __rshift__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __rrshift__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __irshift__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __matmul__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __rmatmul__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __imatmul__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __lt__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __le__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __gt__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __ge__(self, other: Tensor | Scalar, /) -> Tensor: ...
        def __eq__(self, other: object, /) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: object, /) -> Tensor: ...  # type: ignore[override]
        def __neg__(self) -> Tensor: ...
        def __pos__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __invert__(self) -> Tensor: ...


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
