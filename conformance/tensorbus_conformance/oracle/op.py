"""`OpReference`: what the oracle knows of one op, and the promotion rules its references share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .kinks import Kink
from .misuse import BadCalls
from .order_sample import Order
from .ulp import format_of
from .verdict import Judge, Reference

if TYPE_CHECKING:
    from .sampling import Samples

__all__ = ["Forward", "JudgeOf", "OpReference", "Range", "as_float64", "common_dtype", "promoted"]

Array = NDArray[Any]
Range = tuple[float, float]


class Forward(Protocol):
    """Tensor arguments positional (None for an optional one left out), options by keyword."""

    def __call__(self, *arrays: Any, **options: Any) -> Reference | tuple[Reference, ...]: ...


class JudgeOf(Protocol):
    """Makes the judge of one op for a dtype, its options and the library's own bound in ulps."""

    def __call__(
        self,
        dtype: Any,
        options: dict[str, Any] | None = None,
        portable_bound: float | None = None,
        *,
        statistics: bool = True,
        subnormals: bool = True,
    ) -> Judge: ...


Vjp = Callable[[Sequence[Any], dict[str, Any], Any], list[Any]]
Jvp = Callable[[Sequence[Any], dict[str, Any], Sequence[Any]], Any]
SecondOrder = Callable[[Sequence[Any], dict[str, Any], Any, Sequence[Any]], list[Any]]


@dataclass(frozen=True)
class OpReference:
    """The oracle of one op.

    Attributes:
        name: Array-API name, or PyTorch's functional name for neural-network ops.
        family: The class of its bound: ``"exact"``, ``"rounded"``, ``"transcendental"``,
            ``"accumulation"``, ``"product"``, ``"coefficient"`` or ``"random"``.
        forward: ``forward(*arrays, **options)`` gives the `Reference` (a tuple of them for an op
            of several results).  Arrays are NumPy arrays in the op's dtype, or Python scalars,
            which take the dtype of the arrays beside them.
        judge: ``judge(dtype, options, portable_bound)`` gives the `Judge` of results computed
            from inputs of `dtype`.  `portable_bound` is the ulps claimed for the portable
            elementary function (of the op itself, or of those that it is composed of); None
            means a native kernel, held to OpenCL's ceiling.  Keyword ``statistics=False`` leaves
            out the checks of bias and variance, for data that is not random;
            ``subnormals=False`` is for a device that flushes them.
        tensors: Number of tensor arguments, (least, most).
        kinds: Kinds of dtype that the op takes: letters of ``"b"``, ``"i"`` (both signs), ``"f"``.
        domain: For each tensor argument the open interval to sample ordinary data from.
        differentiable: Whether `vjp` and `jvp` are there.
        vjp: ``vjp(inputs, options, cotangent)``: one `Reference` per tensor argument, None for
            those without gradient; see `gradients`.
        jvp: ``jvp(inputs, options, tangents)``: the `Reference` of the tangent of the result;
            None stands for a zero tangent.
        second_order: ``second_order(inputs, options, cotangent, tangents)``: the derivative of
            `vjp` along the tangents, one `Reference` (or None) per tensor argument.
        gradient_judge: As `judge`, for the gradients of all three kinds.
        elementwise: Whether each element of the result depends on one element of each operand,
            the operands being broadcast.
        samples: The calls with which the op is judged.
        special: Calls with special values: zeros of both signs, infinities, NaN, the ends.
        degenerate: Calls with operands of no elements, of one, of no dimensions.
        excused: Values of arguments that the sample need not take though the annotation makes them
            due, as ``"parameter: value"``, each with the reason.
        bad: From a dtype to calls that this op must refuse beyond what every op must, see `misuse`.
        new_axes: Whether `axis` names dimensions of the result that the operands lack.
        axes_twice: Whether `axis` may name a dimension more than once.
        mixes: What operands of several dtypes become: "promoted" to their common dtype; "within":
            likewise, but each has to be of a kind that the op takes; "first": the first one's, to
            which the others have to promote; "first kind": the first one's, the others being of its
            kind, or it floating; "each": nothing; "never": an error.
        numbers: Whether Python numbers may stand beside tensors; elementwise ops of several tensors
            say so by that.
        saturates: Whether a Python integer beyond the dtype counts as the dtype's limit.
        takes: Kinds of dtype that the op accepts, where they are more than `kinds`.
        positions: Numbers of the tensor arguments that are indices, counts or conditions.
        view: Whether a result may lie in an operand's memory.  All others are fresh.
        order: What docs/order.md says of its bits; None where it says nothing.
        namespace: ``"nn"`` or ``""``: where the library has the op.
        kinks: Calls at kinks and singular points, at which gradients are judged.
        offered: Whether the library must have it; False for a reference that waits for its op.
    """

    name: str
    family: str
    forward: Forward
    judge: JudgeOf
    tensors: tuple[int, int] = (1, 1)
    kinds: str = "f"
    domain: tuple[Range, ...] = ((-4.0, 4.0),)
    vjp: Vjp | None = None
    jvp: Jvp | None = None
    second_order: SecondOrder | None = None
    gradient_judge: JudgeOf | None = None
    elementwise: bool = False
    samples: Samples | None = None
    special: Samples | None = None
    degenerate: Samples | None = None
    excused: Mapping[str, str] = field(default_factory=dict, hash=False)
    bad: BadCalls | None = None
    new_axes: bool = False
    axes_twice: bool = False
    mixes: str = "promoted"
    numbers: bool = False
    saturates: bool = False
    takes: str = ""
    positions: tuple[int, ...] = ()
    view: bool = False
    order: Order | None = None
    namespace: str = ""
    offered: bool = True
    kinks: tuple[Kink, ...] = ()

    @property
    def qualified(self) -> str:
        """Name with namespace, as it is called: ``"nn.relu"``."""
        return f"{self.namespace}.{self.name}" if self.namespace else self.name

    @property
    def takes_numbers(self) -> bool:
        return self.numbers or (self.elementwise and self.tensors[1] > 1)

    @property
    def differentiable(self) -> bool:
        return self.vjp is not None


def common_dtype(*values: Any) -> np.dtype[Any]:
    """NumPy's promotion among the arrays; Python scalars follow unless they are alone."""
    arrays = [np.asarray(v).dtype for v in values if isinstance(v, (np.ndarray, np.generic))]
    if not arrays:
        return np.result_type(*values)
    dtype = np.result_type(*arrays)
    wants_float = any(isinstance(v, float) for v in values)
    if wants_float and format_of(dtype) is None:
        raise TypeError(f"a Python float beside {dtype} has no dtype in the array API")
    return dtype


def promoted(*values: Any) -> list[Array]:
    """The arguments as arrays of their common dtype, broadcast against each other."""
    dtype = common_dtype(*values)
    arrays = [np.asarray(v).astype(dtype) for v in values]
    return [np.asarray(a) for a in np.broadcast_arrays(*arrays)]


def as_float64(array: Any) -> NDArray[np.float64]:
    """An exact float64 copy of a floating (or small integer) array."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        return np.asarray(array).astype(np.float64)
