"""Plans: how calls of one kind are served, as data.

A plan names buffers by number (operands first, then tables, then what it allocates) and lists
steps: a kernel with its metadata and the buffers that it takes, or a native call.  Ops write plans
with a `Planner`; an op may use other ops there, whose steps become steps of the same plan.  Nothing
is compiled or launched until `Plan.run` is asked for, so that whoever wants to know which kernels
an op needs reads its plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.contract import BackendError, Buffer, LaunchError, Native, NativeCase
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import Kernel, Map, Operand, Strided, pack as pack_words
from tensorbus_backends.kernels.base import bits_of, word_packer

from ._devices import Device
from ._recent import Recent
from ._spec import Shape, Spec, broadcast_strides, collapse, contiguous_strides
from ._tensor import Tensor

if TYPE_CHECKING:
    from ._op import Op

__all__ = [
    "FLAT_BELOW",
    "Arg",
    "Dense",
    "Launch",
    "NativeStep",
    "Plan",
    "Planner",
    "Step",
    "Value",
    "permuted_strides",
    "same_device",
    "step_of",
]

FLAT_BELOW = 16
"""Rows shorter than this are not worth a row's set-up: every element finds its own place."""

_KEPT_OFFSETS = 8


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
        dense: Whether it is a map over arguments in C order under one shape, so that the number of
            elements, its first word, is all that another shape changes.
    """

    kernel: Kernel
    slots: tuple[int, ...]
    offsets: tuple[int, ...]
    words: tuple[int, ...]
    places: tuple[int, ...]
    groups: int
    dense: bool = False


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
            made = self._run = _bound(self) if self.host is None else _hosted(self.host)
            made.plan = self  # type: ignore[attr-defined]
        return made


class Table(NamedTuple):
    """Constant memory that calls share; `plan`, which has no operand, makes it."""

    shape: Shape
    strides: Shape
    plan: Plan


_SMALL = 1 << 16
"""Elements of the largest table that is kept: a larger one would outweigh the data."""


def _table(device: Device, shape: Shape, strides: Shape) -> Table:
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
    return Table(shape, strides, planner.finish(out))


def _table_buffer(device: Device, table: Table) -> Buffer:
    key = table.shape, table.strides
    kept = device.constants.find(key)
    if kept is None:
        made: Tensor = table.plan.run()
        kept = made._buffer
        if table.plan.results[0].size <= _SMALL:
            device.constants.keep(key, kept)
    return kept


class Dense:
    """A plan of one dense step, for operands in C order under whatever shape they share.

    Args:
        plan: Such a plan for one shape.
    """

    def __init__(self, plan: Plan) -> None:
        (step,) = plan.steps
        assert isinstance(step, Step)
        assert step.dense
        self._plan, self._step = plan, step
        self._dtype, self._dialect = plan.results[0].dtype, plan.device.backend.dialect

    @staticmethod
    def fits(plan: Plan) -> bool:
        """Whether a plan is of that kind."""
        if len(plan.steps) != 1 or not plan.single:
            return False
        step = plan.steps[0]
        straight = step.slots == tuple(range(plan.operands + 1)) and not plan.tables
        return isinstance(step, Step) and step.dense and straight

    def sized(self, shape: Shape, n: int) -> Callable[..., Any]:
        """What runs the plan for operands of `shape`, of `n` > 1 elements."""
        step, old = self._step, self._plan
        assert isinstance(step.kernel, Map)
        groups = step.kernel.groups(self._dialect, n, 1)
        spec = Spec.of(old.device, self._dtype, shape)
        plan = Plan(None, old.variant, old.library)
        plan.device, plan.operands, plan.single = old.device, old.operands, True
        plan.scalar = old.scalar
        plan.buffers = (spec.nbytes,)
        plan.steps = (step._replace(words=(n, *step.words[1:]), groups=groups),)
        plan.results = (Value(old.operands, spec),)
        return plan.run


def _hosted(host: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *tensors: host(*tensors)


class Planner:
    """Writes a plan for operands of given specs.

    Args:
        device: Where the plan will run.
        specs: Of the operands.

    Attributes:
        operands: The values that stand for them.
        serve: How an op's steps are added to a plan; set by the floor that knows ops.
    """

    serve: ClassVar[Callable[..., Any]]

    def __init__(self, device: Device, specs: Sequence[Spec]) -> None:
        self.device = device
        self.operands = tuple(Value(k, s) for k, s in enumerate(specs))
        self.libraries: list[str] = []
        self._tables: dict[tuple[Shape, Shape], Table] = {}
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
        key = (shape, strides)
        if key not in self._tables:
            self._tables[key] = _table(self.device, shape, strides)
        slot = len(self.operands) + list(self._tables).index(key)
        return Value(slot, self._tables[key].plan.results[0].spec)

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
        dense: bool = False,
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
        step = Step(kernel, (), tuple(offsets), tuple(words), tuple(places), groups, dense)
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
        kernel, words, places, groups, dense = _map_step(
            self.device, label, tuple(exprs), shape, ins, outs, params
        )
        self.launch(kernel, words, places, groups, [*ins, *outs], dense)

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
        plan.tables, plan.buffers = tuple(self._tables.values()), tuple(self._buffers)
        plan.steps = tuple([s._replace(slots=tuple([slot(x) for x in v])) for s, v in self._steps])
        plan.single = isinstance(results, Value)
        given = (results,) if plan.single else results
        plan.results = tuple([Value(slot(r), r.spec, r.offset) for r in given])
        return plan


# -- running ------------------------------------------------------------------------------------


class Launch:
    """A step on a device; what its buffers are, and where they begin, is still open."""

    __slots__ = ("_backend", "_bound", "_compiled", "_step")

    def __init__(self, device: Device, step: Step) -> None:
        self._backend, self._step = device.backend, step
        self._compiled = device.kernel(step.kernel)
        self._bound: dict[tuple[int, ...], Callable[..., None]] = {}

    def bind(self, offsets: tuple[int, ...]) -> Callable[..., None]:
        """A function of the buffers that launches with these element offsets."""
        found = self._bound.get(offsets)
        if found is not None:
            return found
        words = list(self._step.words)
        for place, offset in zip(self._step.places, offsets, strict=True):
            words[place] = offset
        meta = pack_words(words)
        call = self._backend.prepare(self._compiled, self._step.groups, meta)
        if len(self._bound) >= _KEPT_OFFSETS:
            self._bound.clear()
        self._bound[offsets] = call
        return call


def _bound(plan: Plan) -> Callable[..., Any]:
    if plan.scalar is not None:
        return _with_number(plan, plan.scalar)
    if not plan.steps:
        return _moved(plan)
    count, (step, *others) = plan.operands, plan.steps
    straight = (
        not (others or plan.tables or any(step.offsets))
        and step.slots == tuple(range(count + 1))
        and plan.single
        and (plan.results[0].slot, plan.results[0].offset) == (count, 0)
    )
    if not straight:
        return _several(plan)
    if isinstance(step, Step):
        return _one(plan, Launch(plan.device, step))
    return _one_native(plan, step)


def _one_native(plan: Plan, step: NativeStep) -> Callable[..., Tensor]:
    """The shortest way through one native kernel."""
    (result,) = plan.results
    out, nbytes = result.spec, result.spec.nbytes
    allocate, launch, case = plan.device.backend.allocate, step.native.run, step.case

    def run(*tensors: Tensor) -> Tensor:
        buffer = allocate(nbytes)
        buffers = [t._buffer for t in tensors]
        buffers.append(buffer)
        try:
            made: object = launch(case, buffers, (*[t._offset for t in tensors], 0))
        except Exception as error:
            raise _failed(step, error) from error.__cause__
        if made is not None:
            raise _returned(step, made)
        return Tensor(buffer, out)

    return run


def _failed(step: NativeStep, error: Exception) -> BackendError:
    """The error of a call in which a native kernel raised; it says whose the kernel is."""
    whose = f"{step.case.op}: the native kernel of {step.native.library}"
    if isinstance(error, BackendError):
        error.args = (f"{whose}: {error}",)
        return error
    made = LaunchError(f"{whose} raised {type(error).__name__}: {error}")
    made.__cause__ = error
    return made


def _returned(step: NativeStep, made: object) -> LaunchError:
    return LaunchError(
        f"{step.case.op}: the native kernel of {step.native.library} returned a "
        f"{type(made).__name__}; it has to write its results into the buffers after those of the "
        "operands, and to return nothing"
    )


def _one(plan: Plan, launch: Launch) -> Callable[..., Tensor]:
    """The shortest way through one launch from all operands to the result."""
    (result,) = plan.results
    out, nbytes, count = result.spec, result.spec.nbytes, plan.operands
    allocate, bind = plan.device.backend.allocate, launch.bind
    zero = bind((0,) * (count + 1))
    if count == 1:

        def run1(a: Tensor) -> Tensor:
            buffer = allocate(nbytes)
            (zero if not a._offset else bind((a._offset, 0)))(a._buffer, buffer)
            return Tensor(buffer, out)

        return run1
    if count == 2:

        def run2(a: Tensor, b: Tensor) -> Tensor:
            buffer = allocate(nbytes)
            if a._offset or b._offset:
                bind((a._offset, b._offset, 0))(a._buffer, b._buffer, buffer)
            else:
                zero(a._buffer, b._buffer, buffer)
            return Tensor(buffer, out)

        return run2

    def run(*tensors: Tensor) -> Tensor:
        buffer = allocate(nbytes)
        bind((*(t._offset for t in tensors), 0))(*(t._buffer for t in tensors), buffer)
        return Tensor(buffer, out)

    return run


def _with_number(plan: Plan, dtype: DType) -> Callable[..., Tensor | None]:
    """One launch of a Python number, after a tensor or alone; None if `word_packer` refuses it."""
    (result,) = plan.results
    out = result.spec
    nbytes, allocate = out.nbytes, plan.device.backend.allocate
    if not plan.steps:
        return lambda *_: Tensor(allocate(nbytes), out)
    (step,) = plan.steps
    assert isinstance(step, Step)
    backend, groups = plan.device.backend, step.groups
    compiled = plan.device.kernel(step.kernel)
    prepare = backend.prepare
    pack = word_packer(dtype)
    head, place = pack_words(step.words[:-1]), 8 * step.places[0]

    if not plan.operands:

        def alone(value: float | int) -> Tensor | None:
            word = pack(value)
            if word is None:
                return None
            buffer = allocate(nbytes)
            prepare(compiled, groups, head + word)(buffer)
            return Tensor(buffer, out)

        return alone

    def run(a: Tensor, value: float | int) -> Tensor | None:
        word = pack(value)
        if word is None:
            return None
        meta = head + word
        if a._offset:
            meta = meta[:place] + pack_words((a._offset,)) + meta[place + 8 :]
        buffer = allocate(nbytes)
        prepare(compiled, groups, meta)(a._buffer, buffer)
        return Tensor(buffer, out)

    return run


def _moved(plan: Plan) -> Callable[..., Any]:
    """Results that no step makes: views of operands, empty or undefined memory."""
    buffers, results, single = _Buffers(plan), plan.results, plan.single

    def run(*tensors: Tensor) -> Any:
        known = buffers.of(tensors)
        out = [buffers.result(r, tensors, known) for r in results]
        return out[0] if single else tuple(out)

    return run


class _Buffers:
    """The buffers of a call by slot; what a plan allocates comes when it is first needed."""

    def __init__(self, plan: Plan) -> None:
        self.device, self.count, self.tables = plan.device, plan.operands, plan.tables
        self.first = plan.operands + len(plan.tables)
        self.sizes = plan.buffers
        self.allocate = plan.device.backend.allocate

    def of(self, tensors: Sequence[Tensor]) -> list[Any]:
        known: list[Any] = [t._buffer for t in tensors]
        for table in self.tables:
            known.append(_table_buffer(self.device, table))
        known += [None] * len(self.sizes)
        return known

    def result(self, value: Value, tensors: Sequence[Tensor], known: list[Any]) -> Tensor:
        slot = value.slot
        if slot < self.count:
            return Tensor(known[slot], value.spec, tensors[slot]._offset + value.offset)
        if known[slot] is None:
            known[slot] = self.allocate(self.sizes[slot - self.first])
        return Tensor(known[slot], value.spec, value.offset)


def _several(plan: Plan) -> Callable[..., Any]:
    """Step by step; scratch memory is had when a step needs it and goes after its last use."""
    buffers, results, single, count = _Buffers(plan), plan.results, plan.single, plan.operands
    kept = {r.slot for r in results}
    last = {s: k for k, step in enumerate(plan.steps) for s in step.slots if s not in kept}
    begun: set[int] = set()
    bound = []
    for k, step in enumerate(plan.steps):
        fresh = [s for s in dict.fromkeys(step.slots) if s >= buffers.first and s not in begun]
        begun.update(fresh)
        done = [s for s in dict.fromkeys(step.slots) if last.get(s) == k]
        needs = [(s, plan.buffers[s - buffers.first]) for s in fresh]
        runner = Launch(plan.device, step) if isinstance(step, Step) else _Native(step)
        moves = [(i, s) for i, s in enumerate(step.slots) if s < count]
        bound.append((needs, runner, step.slots, step.offsets, moves, done))
    allocate = plan.device.backend.allocate

    def run(*tensors: Tensor) -> Any:
        known = buffers.of(tensors)
        for needs, runner, slots, offsets, moves, done in bound:
            for slot, nbytes in needs:
                known[slot] = allocate(nbytes)
            at = offsets
            for i, slot in moves:
                start = tensors[slot]._offset
                if start:
                    at = (*at[:i], at[i] + start, *at[i + 1 :])
            runner.bind(at)(*[known[s] for s in slots])
            for slot in done:
                known[slot] = None
        out = [buffers.result(r, tensors, known) for r in results]
        return out[0] if single else tuple(out)

    return run


class _Native:
    """A native step, bound as a launch is."""

    def __init__(self, step: NativeStep) -> None:
        self._step = step

    def bind(self, offsets: tuple[int, ...]) -> Callable[..., None]:
        step = self._step

        def call(*buffers: Buffer) -> None:
            try:
                made: object = step.native.run(step.case, buffers, offsets)  # type: ignore[func-returns-value]
            except Exception as error:
                raise _failed(step, error) from error.__cause__
            if made is not None:
                raise _returned(step, made)

        return call


# -- elementwise launches -----------------------------------------------------------------------


def step_of(stride: int, size: int) -> str:
    """Inner stride class of an operand."""
    if size == 1 or stride == 1:
        return "c"
    return "s" if stride == 0 else "g"


def permuted_strides(shape: Shape, inputs: Sequence[tuple[Shape, Shape]]) -> Shape:
    """Strides for an output that keeps the memory order of its inputs (NumPy's order "K").

    Args:
        shape: Output shape.
        inputs: Shape and strides of each operand.
    """
    candidates = [st for sh, st in inputs if sh == shape]
    if not candidates or any(c == contiguous_strides(shape) for c in candidates):
        return contiguous_strides(shape)
    order = sorted(range(len(shape)), key=lambda k: -abs(candidates[0][k]))
    sizes = [shape[k] for k in order]
    dense = contiguous_strides(sizes)
    if any(abs(candidates[0][k]) != d for k, d in zip(order, dense, strict=True) if shape[k] > 1):
        return contiguous_strides(shape)
    strides = [0] * len(shape)
    for k, d in zip(order, dense, strict=True):
        strides[k] = d
    return tuple(strides)


def _memory_order(shape: Shape, outputs: Sequence[Shape]) -> list[int]:
    """Order of dimensions in which the first output is walked with falling strides."""
    if not outputs:
        return list(range(len(shape)))
    return sorted(range(len(shape)), key=lambda k: (-abs(outputs[0][k]), k))


class _Body:
    """A map's expressions, checked against their operands once; its kernels by layout."""

    __slots__ = ("dense", "indexed", "kernels")

    def __init__(self, indexed: bool) -> None:
        self.indexed = indexed
        self.kernels: dict[tuple[tuple[str, ...], str], Map] = {}
        self.dense: tuple[Map, tuple[int, ...], tuple[int, ...]] | None = None


_bodies: Recent[Any, _Body] = Recent(1 << 11)


def _map_step(
    device: Device,
    label: str,
    exprs: tuple[Expr, ...],
    shape: Shape,
    inputs: Sequence[Arg],
    outputs: Sequence[Arg],
    params: Sequence[tuple[DType, float | int]],
) -> tuple[Kernel, list[int], Sequence[int], int, bool]:
    """Kernel, words, places of offsets, groups, and whether it is dense (see `Step`)."""
    dtypes = [a.dtype for a in (*inputs, *outputs)]
    scalars = tuple([d for d, _ in params])
    key = (label, exprs, len(inputs), tuple(dtypes), scalars)
    body = _bodies.find(key)
    if body is None:
        given = dtypes[: len(inputs)]
        body = _bodies.keep(key, _Body(ir.validate_leaves(exprs, given, scalars)))
    dense = all([_is_dense(a, shape) for a in inputs] + [_is_dense(a, shape) for a in outputs])
    if dense and body.dense is not None:
        # All operands lie in C order under one shape: only the number of elements differs.
        kernel, rest, at = body.dense
        n = math.prod(shape)
        if n > 1:
            values = [bits_of(v, d) for d, v in params]
            groups = kernel.groups(device.backend.dialect, n, 1)
            return kernel, [n, *rest, *values], at, groups, True
    strided = [
        None if a.shape is None else broadcast_strides(a.shape, a.strides, shape) for a in inputs
    ]
    walked = [s for s in strided if s is not None] + [a.strides for a in outputs]
    if not body.indexed and len(shape) > 1:
        order = _memory_order(shape, [a.strides for a in outputs])
        shape = tuple([shape[k] for k in order])
        walked = [tuple([s[k] for k in order]) for s in walked]
    size = 1
    for n in shape:
        size *= n
    dims, walked = collapse(shape, walked)
    inner, outer = dims[-1], dims[:-1]
    layout = "flat" if outer and inner < FLAT_BELOW else "rows"
    kinds: list[str] = []
    words: list[list[int]] = []
    steps = iter(walked)
    for k in range(len(dtypes)):
        if k < len(inputs) and strided[k] is None:
            kinds.append("-")
            words.append(Strided.words(0, 0, []))
            continue
        step = next(steps)
        flat = layout == "flat" and step[-1] not in (0, 1)
        kinds.append("g" if flat else step_of(step[-1], inner))
        words.append(Strided.words(0, step[-1], step[:-1]))
    form = (tuple(kinds), layout)
    if form not in body.kernels:
        operands = tuple(Operand(d, kind) for d, kind in zip(dtypes, kinds, strict=True))
        ins, outs = operands[: len(inputs)], operands[len(inputs) :]
        body.kernels[form] = Map(label, ins, outs, exprs, scalars, layout)
    kernel = body.kernels[form]
    rows = size // inner if size else 0
    groups = kernel.groups(device.backend.dialect, inner, rows) if size else 0
    meta = kernel.meta(inner, outer, words, [bits_of(v, d) for d, v in params])
    first = len(meta) - len(params) - Strided.WORDS * len(kinds)
    places = tuple([first + Strided.WORDS * k for k in range(len(kinds))])
    dense = dense and size > 1 and not outer
    if dense:
        body.dense = kernel, tuple(meta[1 : len(meta) - len(params)]), places
    return kernel, meta, places, groups, dense


def _is_dense(a: Arg, shape: Shape) -> bool:
    spec = a.value.spec
    return a.shape == shape and spec.contiguous and a.strides is spec.strides and not a.offset


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
