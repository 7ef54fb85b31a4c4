"""Ops: their registry, and the one way by which every call is dispatched.

Order of service on a device: native kernel whose condition holds (not in reproducible mode),
portable kernels, fallback to another device if the policy allows it, else an error.  A function
without an op of its own is decomposed: calls of other ops serve it, each in this order; a native
kernel of the function's name is asked before (see `whole`).
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from tensorbus_backends.contract import LaunchError, Native, NativeCase, UnsupportedError
from tensorbus_backends.dtypes import DType
from tensorbus_backends.floating import in_default_arithmetic

from ._arguments import checked
from ._autograd import Context, record
from ._devices import Device
from ._fallback import fallback, meeting
from ._family import Family, kind_of, sized
from ._plan import Plan, Value
from ._planner import Planner, same_device
from ._run import runner
from ._sizes import Sizes
from ._spec import Shape, Spec
from ._state import Record, deeper, settings, watching
from ._tensor import Tensor

__all__ = [
    "FUNCTIONS",
    "OPS",
    "Function",
    "Op",
    "apply",
    "apply_number",
    "function",
    "generate",
    "linear_jvp",
    "perform",
    "perform_number",
    "serve",
    "whole",
]

Rule = Callable[..., Any]


@dataclass(frozen=True)
class Function:
    """A public op as users, the op list and the conformance suite know it.

    Attributes:
        name: Public name inside its namespace.
        namespace: ``""`` for `tensorbus` itself, else ``"nn"``, ``"random"`` or ``"linalg"``.
        call: The function.
        differentiable: Whether gradients flow through it.
        family: What kind of op it is: "elementwise", "reduction", "manipulation", ...
        op: Name in `OPS` of the primitive that serves it; of none where it is decomposed.
    """

    name: str
    namespace: str
    call: Callable[..., Any]
    differentiable: bool
    family: str
    op: str

    @property
    def signature(self) -> str:
        """Parameters as Python writes them, without annotations."""
        parameters = [
            p.replace(annotation=inspect.Parameter.empty)
            for p in inspect.signature(self.call).parameters.values()
        ]
        return str(inspect.Signature(parameters))

    @property
    def decomposed(self) -> bool:
        """Whether calls of other ops serve it, since it has no op of its own."""
        return self.op not in OPS

    @property
    def qualified(self) -> str:
        """Name with namespace, as it is called: ``"nn.relu"``."""
        return f"{self.namespace}.{self.name}" if self.namespace else self.name


FUNCTIONS: dict[str, Function] = {}
"""Every public op by qualified name: what is listed and judged."""

F = TypeVar("F", bound=Callable[..., Any])


def function(
    family: str, *, differentiable: bool = False, namespace: str = "", op: str = ""
) -> Callable[[F], F]:
    """Register a public function in `FUNCTIONS`."""

    def wrap(call: F) -> F:
        name = f"{namespace}.{call.__name__}" if namespace else call.__name__
        if name in FUNCTIONS:
            raise ValueError(f"there is a function {name!r} already; give this one another name")
        own = op or call.__name__
        ready = checked(call if own in OPS else _decomposed(name, own, call))
        made = Function(call.__name__, namespace, ready, differentiable, family, own)
        FUNCTIONS[name] = made
        return ready

    return wrap


def _decomposed(name: str, own: str, call: F) -> F:
    """`call` with a record of its own in traces, unless `own` becomes the name of an op."""

    @functools.wraps(call)
    def outer(*args: Any, **options: Any) -> Any:
        now = settings()
        if now.trace is None or own in OPS:
            return call(*args, **options)
        records, first = now.trace.records, len(now.trace.records)
        start = time.perf_counter()
        with deeper():
            out = call(*args, **options)
        mine = (name, now.depth, "native")
        if any((r.op, r.depth, r.variant) == mine for r in records[first:]):
            return out
        tensors = [a for a in args if isinstance(a, Tensor)]
        made = out[0] if isinstance(out, tuple | list) else out
        seconds = time.perf_counter() - start
        records.append(_record_of(name, tensors, made.device, "decomposed", "", seconds, now.depth))
        return out

    return cast(F, outer)


def _record_of(
    name: str,
    tensors: Sequence[Tensor],
    device: Device | None,
    variant: str,
    library: str,
    seconds: float,
    depth: int,
    stays: str = "",
) -> Record:
    dtypes = tuple([t._spec.dtype.name for t in tensors])
    shapes = tuple([t._spec.shape for t in tensors])
    return Record(name, str(device), dtypes, shapes, variant, library, seconds, depth, stays)


class Op:
    """One primitive operation.

    Attributes:
        name: Public name; nn functions have their functional name.
        signature: As shown by ``tensorbus ops``.
        vjp: ``rule(context, *cotangents)`` gives one gradient (or None) for each operand, written
            in terms of ops; None where the op has no derivative.
        jvp: ``rule(context, tangents)`` gives the tangent(s) of the output(s).
        number: Dtype of a Python number that calls take beside at most one tensor: see
            `apply_number`.  `build` makes it the last scalar of its only launch, with any value.
        moves: Whether the result is on a device that the call names; it never falls back.
        sizes: Names of options that are sizes or tuples of sizes, which change with the shapes.
    """

    moves = False
    number: DType | None = None
    sizes: Sequence[str] = ()

    def __init__(
        self,
        name: str,
        *,
        signature: str = "",
        vjp: Rule | None = None,
        jvp: Rule | None = None,
    ) -> None:
        self.name, self.signature, self.vjp, self.jvp = name, signature, vjp, jvp
        if name in OPS:
            raise ValueError(f"there is an op {name!r} already; give this one another name")
        OPS[name] = self

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        """Dtype and shape of the outputs; raises TypeError, ValueError or IndexError."""
        raise NotImplementedError

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Any:
        """Add the steps of portable kernels to a plan; the result's value, or a tuple of them."""
        raise NotImplementedError

    def host(self, device: Device, options: dict[str, Any]) -> Callable[..., Any] | None:
        """From operands on `device` to the result, where no steps on it make that; else None."""
        return None

    def plan(
        self,
        device: Device,
        specs: Sequence[Spec],
        options: dict[str, Any],
        sizes: Sizes | None = None,
    ) -> Plan:
        """How to serve calls with these specs without a native kernel.

        Args:
            device: Where.
            specs: Of the operands.
            options: The other arguments.
            sizes: To whom the open sizes of `specs` belong, if there are any.
        """
        host = self.host(device, options)
        if host is not None:
            return Plan(host)
        planner = Planner(device, specs, sizes)
        return planner.finish(self.build(planner, planner.operands, options))

    def __call__(self, *tensors: Tensor, **options: Any) -> Any:
        return apply(self, tensors, options)

    def __repr__(self) -> str:
        return f"<op {self.name}>"


OPS: dict[str, Op] = {}
"""Every op by name: what is listed, dispatched and judged."""


def freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((k, freeze(v)) for k, v in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(freeze(v) for v in value)
    # 0.0 == -0.0 == False, but they are different options.
    return (type(value), repr(value)) if isinstance(value, bool | int | float) else value


def _option_key(options: dict[str, Any]) -> tuple[Any, ...]:
    """What tells options apart; equal numbers of other types, and -0.0, are other options."""
    values = options.values()
    for value in values:
        kind = value.__class__
        if kind is tuple:
            for part in value:
                if part.__class__ is not int:
                    return (freeze(options),)
        elif kind is float or kind is list or kind is dict:
            return (freeze(options),)
    return (*options, *values, *[v.__class__ for v in values])


def apply(
    op: Op,
    tensors: Sequence[Tensor],
    options: dict[str, Any] | None = None,
    device: Device | None = None,
) -> Any:
    """Call an op: find or make its plan, run it, record history and provenance.

    Args:
        op: The op.
        tensors: Its operands, all on one device.
        options: Its other arguments, hashable.
        device: Where, for an op without operands.
    """
    run = _runner(op, tensors, options, device)
    now = settings()
    out = run(*tensors) if now.trace is None else _traced(op.name, run, tensors, device)
    if watching.by is not None:
        watching.by.plans += 1
        watching.by.last = run, tensors, out
    for t in tensors:
        if t._track is not None:
            record(op, tensors, options or {}, out if isinstance(out, tuple) else (out,))
            break
    return out


def perform(
    op: Op,
    tensors: Sequence[Tensor],
    options: dict[str, Any] | None = None,
    device: Device | None = None,
) -> Any:
    """Run an op as a part of something else: without history and provenance of its own."""
    if watching.by is not None:
        watching.by.other = True
    return _runner(op, tensors, options, device)(*tensors)


def apply_number(
    op: Op,
    tensors: Sequence[Tensor],
    value: int,
    options: dict[str, Any] | None = None,
    device: Device | None = None,
) -> Tensor:
    """Call an op of a number, which is no part of its plan: a new one costs no plan and no copy.

    Rules find it among the options of the call, as ``number``.

    Raises:
        OverflowError: The number does not fit.
    """
    if watching.by is not None:
        watching.by.other = True
    run = _runner(op, tensors, options, device)
    given: tuple[Any, ...] = (*tensors, value)
    traced = settings().trace is not None
    out = _traced(op.name, run, tensors, device, given) if traced else run(*given)
    if out is None:
        assert op.number is not None
        raise OverflowError(f"{op.name}: {value} does not fit {op.number.name}")
    for t in tensors:
        if t._track is not None:
            record(op, tensors, {**(options or {}), "number": value}, (out,))
            break
    return out  # type: ignore[no-any-return]


def perform_number(op: Op, value: int, options: dict[str, Any], device: Device) -> Tensor:
    """Run an op of a number alone as a part of something else: see `perform`."""
    if watching.by is not None:
        watching.by.other = True
    return _runner(op, (), options, device)(value)  # type: ignore[no-any-return]


def generate(name: str, op: Op, options: dict[str, Any], device: Device) -> Any:
    """Run an op without operands, told to traces under the name of the function."""
    if watching.by is not None:
        watching.by.other = True
    run = _runner(op, (), options, device)
    return run() if settings().trace is None else _traced(name, run, (), device)


def _runner(
    op: Op, tensors: Sequence[Tensor], options: dict[str, Any] | None, device: Device | None
) -> Callable[..., Any]:
    key: tuple[Any, ...] = (op, *[t._spec for t in tensors])
    if device is not None:
        key = (*key, device)
    if options:
        key = (*key, *_option_key(options))
    plans = settings().plans
    run = plans.get(key)
    if run is None:
        run = plans.find(key)
        if run is None:
            run = plans.keep(key, _planned(op, tensors, options or {}, device))
    return run  # type: ignore[no-any-return]


@in_default_arithmetic
def _planned(
    op: Op, tensors: Sequence[Tensor], options: dict[str, Any], device: Device | None
) -> Callable[..., Any]:
    specs = [t._spec for t in tensors]
    free = sized(op.sizes, options) if op.sizes else {}
    rest = {n: v for n, v in options.items() if n not in free} if free else options

    def make(specs: Sequence[Spec], opened: dict[str, Any], sizes: Sizes | None) -> Plan:
        return _make(op, specs, {**options, **opened} if opened else options, device, sizes)

    plans = settings().plans
    ranks = [(n, len(v) if isinstance(v, tuple) else -1) for n, v in free.items()]
    key = (op, Family, device, *map(kind_of, specs), *ranks, *_option_key(rest))
    family = plans.find(key)
    if family is None:
        family = plans.keep(key, Family())
    return family.plan(specs, make, free).run  # type: ignore[no-any-return]


def _traced(
    name: str,
    run: Callable[..., Any],
    tensors: Sequence[Tensor],
    device: Device | None,
    given: Sequence[Any] = (),
    above: int = 0,
) -> Any:
    """Run a plan and note it, `above` levels over what it calls."""
    now, plan = settings(), run.plan  # type: ignore[attr-defined]
    where = tensors[0]._spec.device if tensors else device
    stays = ""
    start = time.perf_counter()
    with deeper():
        out = run(*(given or tensors))
    seconds = time.perf_counter() - start
    if plan.variant == "fallback":
        where = plan.device
        made = out if isinstance(out, tuple) else (out,)
        stays = next((o.device.name for o in made if o.device.home is not None), "")
    if now.trace is not None:
        now.trace.records.append(
            _record_of(
                name, tensors, where, plan.variant, plan.library, seconds, now.depth - above, stays
            )
        )
    return out


def whole(
    name: str,
    tensors: Sequence[Tensor],
    options: dict[str, Any],
    results: Callable[[], Sequence[tuple[DType, Shape]]],
) -> Any:
    """What a native kernel of a decomposed function makes of a call, None if none takes it.

    Calls of which a gradient is recorded are not offered: the function's calls of ops have one.

    Args:
        name: Qualified name of the function.
        tensors: Its operands in the order of its parameters, those that are None left out.
        options: Its other arguments.
        results: Dtypes and shapes of what it gives.
    """
    device = tensors[0]._spec.device
    if name not in device.backend.natives or settings().reproducible:
        return None
    if any(t._track is not None or t._spec.device is not device for t in tensors):
        return None
    now = settings()
    key = (name, *[t._spec for t in tensors], *_option_key(options))
    run = now.plans.find(key)
    if run is None:
        specs = [t._spec for t in tensors]
        planner, due = Planner(device, specs), results()
        made = None
        if device.home is None and not _missing(device, specs, due):
            made = _offered(name, name, planner, planner.operands, due, options)
        run = now.plans.keep(key, _declined if made is None else planner.finish(made).run)
    if run is _declined:
        return None
    # One level up: the record of the function's call.
    out = run(*tensors) if now.trace is None else _traced(name, run, tensors, None, above=1)
    if watching.by is not None:
        watching.by.plans += 1
        watching.by.last = run, tensors, out
    return out


def _declined(*tensors: Tensor) -> None:
    return None


class _Lacking(UnsupportedError):
    """An op inside a plan meets a dtype that the device lacks."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__(", ".join(missing))
        self.missing = missing


def _missing(
    device: Device, specs: Sequence[Spec], results: Sequence[tuple[DType, Shape]]
) -> list[str]:
    known = device.capabilities.dtypes
    names = {s.dtype.name for s in specs}
    names.update([d.name for d, _ in results])
    return [] if names <= known else sorted(names - known)


def serve(op: Op, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Any:
    """Add the steps of a call to a plan: a native kernel whose condition holds, else portable."""
    specs = [v.spec for v in values]
    results = op.infer(specs, options)
    if missing := _missing(p.device, specs, results):
        raise _Lacking(missing)
    made = _native(op, p, values, results, options)
    return op.build(p, values, options) if made is None else made


Planner.serve = staticmethod(serve)
Plan.runner = runner


def _native(
    op: Op,
    p: Planner,
    values: Sequence[Value],
    results: Sequence[tuple[DType, Shape]],
    options: dict[str, Any],
) -> Any:
    name = op.name
    if name.startswith("_") or settings().reproducible or op.number is not None:
        return None
    key = _named(name, p.device)
    return _offered(name, key, p, values, results, options) if key else None


def _named(op: str, device: Device) -> str:
    """Under which name a device has a native kernel for an op, its own or its function's."""
    natives = device.backend.natives
    if not natives:
        return ""
    if op in natives:
        return op
    # "nn.softmax" is "softmax": the function whose name is the op's.
    return next(
        (n for n, f in FUNCTIONS.items() if f.namespace and f.op == op == f.name and n in natives),
        "",
    )


def _takes(native: Native, case: NativeCase) -> bool:
    try:
        return bool(native.when(case))
    except Exception as error:
        raise LaunchError(
            f"{case.op}: the native kernel of {native.library} cannot say whether it takes a case: "
            f"its `when` raised {type(error).__name__}: {error}"
        ) from error


def _answer(native: Native, *parts: Any) -> bool:
    return _takes(native, NativeCase(*parts))


def _offered(
    name: str,
    key: str,
    p: Planner,
    values: Sequence[Value],
    results: Sequence[tuple[DType, Shape]],
    options: dict[str, Any],
) -> Any:
    """The results of the native kernel that a device has under `key`, if it takes the call."""
    native = p.device.backend.natives.get(key)
    if native is None:
        return None
    outs = tuple([Spec.of(p.device, dtype, shape) for dtype, shape in results])
    whole = (*[v.spec for v in values], *outs)
    case = NativeCase(
        name,
        tuple([s.dtype for s in whole]),
        tuple([s.shape for s in whole]),
        tuple([s.strides for s in whole]),
        options,
        len(outs),
    )
    if p.sizes is None:
        taken = _takes(native, case)
    else:
        parts = case.op, case.dtypes, case.shapes, case.strides, case.options, case.results
        taken = p.sizes.asked(_answer, native, *parts)
    if not taken:
        return None
    made = tuple(p.place(spec) for spec in outs)
    p.native(native, case, (*values, *made))
    return made[0] if len(made) == 1 else made


def _make(
    op: Op,
    specs: Sequence[Spec],
    options: dict[str, Any],
    device: Device | None,
    sizes: Sizes | None = None,
) -> Plan:
    where = device if device is not None else meeting(op.name, specs)
    results = op.infer(specs, options)
    if any(s.device.home is not None for s in specs) or where.home is not None:
        return _with_guests(op, specs, results, options, where)
    if missing := _missing(where, specs, results):
        return _elsewhere(op, specs, options, where, missing)
    planner = Planner(where, specs, sizes)
    made = _native(op, planner, planner.operands, results, options)
    if made is not None:
        return planner.finish(made)
    try:
        return _portable(op, where, specs, options, sizes)
    except _Lacking as lacking:
        return _elsewhere(op, specs, options, where, lacking.missing)


def _with_guests(
    op: Op,
    specs: Sequence[Spec],
    results: Sequence[tuple[DType, Shape]],
    options: dict[str, Any],
    where: Device,
) -> Plan:
    """A call with operands that another device could not hold (see `_fallback`)."""
    apart = any(s.device.real is not where.real for s in specs)
    # Without a result it is an operand's own memory that changes, which has to be there.
    served = bool(results) and not op.moves and settings().policy != "error"
    if served and (apart or where.home is not None):
        home = where.home or where
        return _elsewhere(op, specs, options, home, _missing(home, specs, results))
    if apart:
        same_device(op.name, specs)
    placed = [Spec.of(where, s.dtype, s.shape, s.strides) for s in specs]
    # On a guest: what was left there by a policy that is no longer set, or by a write in place.
    return _portable(op, where, placed, options)


def _portable(
    op: Op,
    where: Device,
    specs: Sequence[Spec],
    options: dict[str, Any],
    sizes: Sizes | None = None,
) -> Plan:
    plan = op.plan(where, specs, options, sizes)
    if plan.host is None:
        plan.scalar = op.number
    return plan


def _elsewhere(
    op: Op, specs: Sequence[Spec], options: dict[str, Any], device: Device, missing: Sequence[str]
) -> Plan:
    guests = [s.device for s in specs if s.device.home is not None]

    def call(tensors: list[Tensor], other: Device, *numbers: int) -> Any:
        where = None if tensors else other
        if numbers:
            return apply_number(op, tensors, numbers[0], options, where)
        return apply(op, tensors, options, where)

    return fallback(op.name, device, missing, guests, call)


def linear_jvp(op: Callable[..., Any]) -> Rule:
    """Forward rule of an op that is linear in its only operand: apply it to the tangent."""

    def rule(context: Context, tangents: Sequence[Tensor]) -> Any:
        (tangent,) = tangents
        return op(tangent, **context.options)

    return rule
