"""Plans: how calls of one kind are served, as data.

A plan names buffers by number (operands first, then tables, then what it allocates) and lists
steps: a kernel with its metadata and the buffers that it takes, or a native call.  Ops write plans
with a `Planner`; an op may use other ops there, whose steps become steps of the same plan.  Nothing
is compiled or launched until `Plan.run` is asked for, so that whoever wants to know which kernels
an op needs reads its plan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from tensorbus_backends.contract import Native, NativeCase
from tensorbus_backends.dtypes import DType
from tensorbus_backends.kernels import Kernel

from ._devices import Device
from ._spec import Shape, Spec

__all__ = ["Arg", "NativeStep", "Plan", "Step", "Table", "Value"]


class Value:
    """A tensor inside a plan.

    Attributes:
        slot: Number of its buffer.
        spec: What it is.
        offset: Of its first element: from that of the operand whose buffer it shares, else from
            the beginning of the buffer.
    """

    __slots__ = ("offset", "slot", "spec")

    def __init__(self, slot: int, spec: Spec, offset: int = 0) -> None:
        self.slot, self.spec, self.offset = slot, spec, offset

    @property
    def dtype(self) -> DType:
        return self.spec.dtype

    @property
    def shape(self) -> Shape:
        return self.spec.shape

    @property
    def strides(self) -> Shape:
        return self.spec.strides

    @property
    def size(self) -> int:
        return self.spec.size

    def read(
        self,
        dtype: DType | None = None,
        shape: Shape | None = None,
        strides: Shape | None = None,
        offset: int = 0,
    ) -> Arg:
        """The same memory as another dtype of its width, or under another shape and strides."""
        spec = self.spec
        return Arg(
            self,
            spec.dtype if dtype is None else dtype,
            spec.shape if shape is None else shape,
            spec.strides if strides is None else strides,
            offset,
        )

    def whole(self, dtype: DType | None = None) -> Arg:
        """For a kernel that reads it through `ir.load` only."""
        return Arg(self, self.spec.dtype if dtype is None else dtype, None, (), 0)


class Arg(NamedTuple):
    """How a step walks a value; `shape` is None where it only loads from it."""

    value: Value
    dtype: DType
    shape: Shape | None
    strides: Shape
    offset: int


class Step(NamedTuple):
    """One launch.

    Attributes:
        kernel: What runs.
        slots: The buffer of each of its arguments.
        offsets: Element offset of each: from the operand's own where the buffer is one.
        words: Its metadata, with 0 for the offsets.
        places: For each argument the word of its offset.
        groups: How many run.
    """

    kernel: Kernel
    slots: tuple[int, ...]
    offsets: tuple[int, ...]
    words: tuple[int, ...]
    places: tuple[int, ...]
    groups: int


class NativeStep(NamedTuple):
    """One call of a vendor's kernel; arguments as for `Step`."""

    native: Native
    case: NativeCase
    slots: tuple[int, ...]
    offsets: tuple[int, ...]


class Plan:
    """How calls of one kind are served.

    Args:
        host: From operands to the result, where no kernel serves the call (a transfer, a fallback).
        variant: ``"native"``, ``"portable"`` or ``"fallback"``.
        library: Whose code runs, where native; which device, where fallback.

    Attributes:
        operands: How many tensors it takes.
        tables: What fills the slots after those of the operands.
        buffers: Bytes of the buffers of the slots after these.
        steps: What happens, in this order.
        results: What comes out.
        single: Whether the result is one tensor, not a tuple.
        scalar: Dtype of a Python number that `run` takes after the tensors, of which there is at
            most one; it travels in the last word of the only step.
        runner: From a plan to what runs it; set by the floor that launches.
    """

    __slots__ = (
        "_run",
        "buffers",
        "device",
        "host",
        "library",
        "operands",
        "results",
        "scalar",
        "single",
        "steps",
        "tables",
        "variant",
    )
    device: Device
    operands: int
    tables: tuple[Table, ...]
    buffers: tuple[int, ...]
    steps: tuple[Step | NativeStep, ...]
    results: tuple[Value, ...]
    single: bool
    scalar: DType | None
    runner: ClassVar[Callable[[Plan], Callable[..., Any]]]

    def __init__(
        self, host: Callable[..., Any] | None = None, variant: str = "portable", library: str = ""
    ) -> None:
        self.host, self.variant, self.library = host, variant, library
        self.steps = self.tables = ()
        self.scalar = None
        self._run: Callable[..., Any] | None = None

    @property
    def kernels(self) -> list[Kernel]:
        """The kernels of its steps and its tables, each once."""
        own = [s.kernel for s in self.steps if isinstance(s, Step)]
        return list(dict.fromkeys(own + [k for t in self.tables for k in t.plan.kernels]))

    @property
    def run(self) -> Callable[..., Any]:
        """From operands to the result: its kernels compiled, its metadata packed."""
        made = self._run
        if made is None:
            made = self._run = self.runner()
            made.plan = self  # type: ignore[attr-defined]
        return made


class Table:
    """Constant memory that calls share: of each place of a shape ``sum_d i_d * strides[d]``, int64.

    Attributes:
        plan: Makes it; takes no operand.
        make: From a table to that plan; set by the floor that writes plans.
    """

    __slots__ = ("_plan", "device", "shape", "strides")
    make: ClassVar[Callable[[Table], Plan]]

    def __init__(self, device: Device, shape: Shape, strides: Shape) -> None:
        self.device, self.shape, self.strides = device, shape, strides
        self._plan: Plan | None = None

    @property
    def plan(self) -> Plan:
        if self._plan is None:
            self._plan = self.make()
        return self._plan
