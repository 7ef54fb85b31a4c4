"""Writing plans: what an op asks for, as values, and the steps that make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.contract import Native, NativeCase
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import Kernel

from ._devices import Device
from ._layout import map_step
from ._plan import Arg, NativeStep, Plan, Step, Table, Value
from ._sizes import Sizes
from ._spec import Shape, Spec, collapse

if TYPE_CHECKING:
    from ._op import Op

__all__ = ["Planner", "same_device"]


class Planner:
    """Writes a plan for operands of given specs.

    Args:
        device: Where the plan will run.
        specs: Of the operands.
        sizes: To whom the open sizes among them belong, if there are any.

    Attributes:
        operands: The values that stand for them.
        serve: How an op's steps are added to a plan; set by the floor that knows ops.
    """

    serve: ClassVar[Callable[..., Any]]

    def __init__(self, device: Device, specs: Sequence[Spec], sizes: Sizes | None = None) -> None:
        self.device, self.sizes = device, sizes
        self.operands = tuple(Value(k, s) for k, s in enumerate(specs))
        self.libraries: list[str] = []
        self._tables: list[Table] = []
        self._buffers: list[int] = []
        self._steps: list[tuple[Step | NativeStep, Sequence[Value]]] = []

    # -- values ---------------------------------------------------------------------------------

    def new(self, dtype: DType, shape: Shape, strides: Shape | None = None) -> Value:
        """A buffer of its own, with undefined elements."""
        return self.place(Spec.of(self.device, dtype, shape, strides))

    def place(self, spec: Spec) -> Value:
        """A buffer of its own for `spec`."""
        self._buffers.append(spec.nbytes)
        # Tables have numbers before it, but nobody knows yet how many there will be.
        return Value(-len(self._buffers), spec)

    def table(self, shape: Shape, strides: Shape) -> Value:
        """int64 memory offsets ``sum_d i_d * strides[d]`` of each place of `shape`.

        It is made once and shared by calls, as long as it is small and in use.
        """
        for k, known in enumerate(self._tables):  # noqa: B007
            if (known.shape, known.strides) == (shape, strides):
                break
        else:
            k = len(self._tables)
            self._tables.append(Table(self.device, shape, strides))
        return Value(len(self.operands) + k, Spec.of(self.device, dt.int64, shape))

    def view(
        self, value: Value, shape: Shape, strides: Shape | None = None, offset: int = 0
    ) -> Value:
        """The same memory under another shape and strides (without these: C order)."""
        spec = Spec.of(self.device, value.dtype, shape, strides)
        return Value(value.slot, spec, value.offset + offset)

    # -- steps ----------------------------------------------------------------------------------

    def launch(
        self,
        kernel: Kernel,
        words: Sequence[int],
        places: Sequence[int],
        groups: int,
        arguments: Sequence[Value | Arg],
    ) -> None:
        """Add a launch; one of no groups does nothing and is left out."""
        if not groups:
            return
        values: list[Value] = []
        offsets: list[int] = []
        for a in arguments:
            if isinstance(a, Value):
                values.append(a)
                offsets.append(a.offset)
            else:
                values.append(a.value)
                offsets.append(a.value.offset + a.offset)
        step = Step(kernel, (), tuple(offsets), tuple(words), tuple(places), groups)
        self._steps.append((step, values))

    def native(self, native: Native, case: NativeCase, arguments: Sequence[Value]) -> None:
        """Add a vendor's kernel."""
        self.libraries.append(native.library)
        step = NativeStep(native, case, (), tuple(a.offset for a in arguments))
        self._steps.append((step, arguments))

    def map(
        self,
        label: str,
        exprs: Sequence[Expr],
        shape: Shape,
        inputs: Sequence[Value | Arg],
        outputs: Sequence[Value | Arg],
        params: Sequence[tuple[DType, float | int]] = (),
    ) -> None:
        """Add an elementwise launch.

        Args:
            label: Op name.
            exprs: One for each output; ``index`` is the C-order index in `shape`.
            shape: What is walked; inputs broadcast to it.
            inputs: Operands by slot of the expressions.
            outputs: Where the values go.
            params: Launch scalars: (dtype, value).
        """
        ins = [i.read() if isinstance(i, Value) else i for i in inputs]
        outs = [o.read() if isinstance(o, Value) else o for o in outputs]
        kernel, words, places, groups = map_step(
            self.device, label, tuple(exprs), shape, ins, outs, params
        )
        self.launch(kernel, words, places, groups, [*ins, *outs])

    def call(self, op: Op, *values: Value, **options: Any) -> Any:
        """What another op makes of values, by its native kernel or by its own steps."""
        return self.serve(op, self, values, options)

    def finish(self, results: Any) -> Plan:
        """The plan whose results these are: a value, or a tuple of them."""
        first = len(self.operands) + len(self._tables)

        def slot(value: Value) -> int:
            return value.slot if value.slot >= 0 else first - 1 - value.slot

        plan = Plan(None, "native" if self.libraries else "portable", ", ".join(self.libraries))
        plan.device, plan.operands = self.device, len(self.operands)
        plan.tables, plan.buffers = tuple(self._tables), tuple(self._buffers)
        plan.steps = tuple([s._replace(slots=tuple([slot(x) for x in v])) for s, v in self._steps])
        plan.single = isinstance(results, Value)
        given = (results,) if plan.single else results
        plan.results = tuple([Value(slot(r), r.spec, r.offset) for r in given])
        return plan


def _table_plan(table: Table) -> Plan:
    device, shape, strides = table.device, table.shape, table.strides
    dims, (steps,) = collapse(shape, [strides])
    params: list[tuple[DType, int]] = []
    total: Expr | None = None
    rest = ir.index()
    for k in range(len(dims) - 1, -1, -1):
        step = ir.param(len(params), dt.int64)
        params.append((dt.int64, steps[k]))
        at = rest
        if k:
            n = ir.param(len(params), dt.int64)
            params.append((dt.int64, dims[k]))
            above = ir.idiv(rest, n)
            at, rest = rest - above * n, above
        total = at * step if total is None else total + at * step
    assert total is not None
    planner = Planner(device, ())
    out = planner.new(dt.int64, shape)
    planner.map("offsets", [total], (out.size,), [], [out.read(strides=(1,))], params)
    return planner.finish(out)


Table.make = _table_plan


def same_device(op: str, specs: Sequence[Spec]) -> Device:
    """The device of all operands.

    Raises:
        ValueError: They are on different devices; the message says how to move one.
    """
    device = specs[0].device
    for spec in specs[1:]:
        if spec.device is not device:
            first, second = (
                str(d) if d.home is None else f"{d} (in place of {d.home})"
                for d in (device, spec.device)
            )
            raise ValueError(
                f"{op}: operands are on {first} and {second}; move one, for example with "
                f"x.to_device({device.name!r})"
            )
    return device
