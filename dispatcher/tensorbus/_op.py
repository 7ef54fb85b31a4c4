"""Ops: their registry, and the one way by which every call is dispatched.

Order of service on a device: native kernel whose condition holds (not in reproducible mode),
portable kernel, decomposition, fallback to another device if the policy allows it, else an error.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tensorbus_backends.contract import NativeCase, UnsupportedError
from tensorbus_backends.dtypes import DType
from tensorbus_backends.floating import in_default_arithmetic

from ._arguments import checked
from ._autograd import Context, record
from ._devices import Device
from ._fallback import fallback, meeting
from ._plan import Dense, Plan, Planner, Value, same_device
from ._spec import Shape, Spec
from ._state import Record, deeper, settings, watching
from ._tensor import Tensor

__all__ = [
    "FUNCTIONS",
    "OPS",
    "Function",
    "Op",
    "apply",
    "function",
    "linear_jvp",
    "perform",
    "serve",
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
        op: Name in `OPS` of the primitive that serves it, where there is one.
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
        call = checked(call)
        made = Function(call.__name__, namespace, call, differentiable, family, op or call.__name__)
        FUNCTIONS[made.qualified] = made
        return call

    return wrap


class Op:
    """One primitive operation.

    Attributes:
        name: Public name; nn functions have their functional name.
        signature: As shown by ``tensorbus ops``.
        vjp: ``rule(context, *cotangents)`` gives one gradient (or None) for each operand, written
            in terms of ops; None where the op has no derivative.
        jvp: ``rule(context, tangents)`` gives the tangent(s) of the output(s).
        dense: Whether operands in C order under one shape get plans that differ in the number of
            elements alone.
        moves: Whether the result is on a device that the call names; it never falls back.
    """

    dense = False
    moves = False

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

    def plan(self, device: Device, specs: Sequence[Spec], options: dict[str, Any]) -> Plan:
        """How to serve calls with these specs without a native kernel."""
        planner = Planner(device, specs)
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


def _planned(
    op: Op, tensors: Sequence[Tensor], options: dict[str, Any], device: Device | None
) -> Callable[..., Any]:
    specs = [t._spec for t in tensors]
    if not (op.dense and specs):
        return _make(op, specs, options, device).run
    first = specs[0]
    shape, where, n = first.shape, first.device, first.size
    for s in specs:
        if s.shape != shape or not s.contiguous or s.device is not where or n < 2:
            return _make(op, specs, options, device).run
    key = (op, Dense, where, *[s.dtype for s in specs], *_option_key(options))
    now = settings()
    found = now.plans.find(key)
    if found is not None:
        return found.sized(shape, n)  # type: ignore[no-any-return]
    plan = _make(op, specs, options, device)
    if Dense.fits(plan) and (now.reproducible or op.name not in where.backend.natives):
        now.plans.keep(key, Dense(plan))
    return plan.run


def _traced(
    name: str, run: Callable[..., Any], tensors: Sequence[Tensor], device: Device | None
) -> Any:
    now, plan = settings(), run.plan  # type: ignore[attr-defined]
    where = tensors[0]._spec.device if tensors else device
    stays = ""
    start = time.perf_counter()
    with deeper():
        out = run(*tensors)
    if plan.variant == "fallback":
        where = plan.device
        made = out if isinstance(out, tuple) else (out,)
        stays = next((o.device.name for o in made if o.device.home is not None), "")
    if now.trace is not None:
        now.trace.records.append(
            Record(
                name,
                str(where),
                tuple(t._spec.dtype.name for t in tensors),
                tuple(t._spec.shape for t in tensors),
                plan.variant,
                plan.library,
                time.perf_counter() - start,
                now.depth,
                stays,
            )
        )
    return out


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


def _native(
    op: Op,
    p: Planner,
    values: Sequence[Value],
    results: Sequence[tuple[DType, Shape]],
    options: dict[str, Any],
) -> Any:
    if settings().reproducible or op.name.startswith("_"):
        return None
    native = p.device.backend.natives.get(op.name)
    if native is None:
        return None
    outs = tuple(Spec.of(p.device, dtype, shape) for dtype, shape in results)
    whole = (*(v.spec for v in values), *outs)
    case = NativeCase(
        op.name,
        tuple(s.dtype for s in whole),
        tuple(s.shape for s in whole),
        tuple(s.strides for s in whole),
        options,
        len(outs),
    )
    if not native.when(case):
        return None
    made = tuple(p.place(spec) for spec in outs)
    p.native(native, case, (*values, *made))
    return made[0] if len(made) == 1 else made


@in_default_arithmetic
def _make(op: Op, specs: Sequence[Spec], options: dict[str, Any], device: Device | None) -> Plan:
    where = device if device is not None else meeting(op.name, specs)
    results = op.infer(specs, options)
    if any(s.device.home is not None for s in specs) or where.home is not None:
        return _with_guests(op, specs, results, options, where)
    if missing := _missing(where, specs, results):
        return _elsewhere(op, specs, options, where, missing)
    planner = Planner(where, specs)
    made = _native(op, planner, planner.operands, results, options)
    if made is not None:
        return planner.finish(made)
    try:
        return op.plan(where, specs, options)
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
    return op.plan(where, placed, options)


def _elsewhere(
    op: Op, specs: Sequence[Spec], options: dict[str, Any], device: Device, missing: Sequence[str]
) -> Plan:
    guests = [s.device for s in specs if s.device.home is not None]

    def call(tensors: list[Tensor], other: Device) -> Any:
        return apply(op, tensors, options, None if tensors else other)

    return fallback(op.name, device, missing, guests, call)


def linear_jvp(op: Callable[..., Any]) -> Rule:
    """Forward rule of an op that is linear in its only operand: apply it to the tangent."""

    def rule(context: Context, tangents: Sequence[Tensor]) -> Any:
        (tangent,) = tangents
        return op(tangent, **context.options)

    return rule
