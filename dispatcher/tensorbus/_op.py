"""Ops: their registry, and the one way by which every call is dispatched.

Order of service on a device: native kernel whose condition holds (not in reproducible mode),
portable kernel, decomposition, fallback to another device if the policy allows it, else an error.
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tensorbus_backends import dtypes as dt
from tensorbus_backends.contract import NativeCase, UnsupportedError
from tensorbus_backends.dtypes import DType
from tensorbus_backends.floating import in_default_arithmetic

from ._arguments import checked
from ._autograd import Context, record
from ._devices import Device, get_device
from ._plan import Plan, same_device
from ._spec import Shape, Spec
from ._state import Record, deeper, settings
from ._tensor import Tensor

__all__ = ["FUNCTIONS", "OPS", "Function", "Op", "apply", "function", "linear_jvp"]

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
    """

    def __init__(
        self,
        name: str,
        *,
        signature: str = "",
        vjp: Rule | None = None,
        jvp: Rule | None = None,
    ) -> None:
        self.name, self.signature, self.vjp, self.jvp = name, signature, vjp, jvp
        OPS[name] = self

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        """Dtype and shape of the outputs; raises TypeError, ValueError or IndexError."""
        raise NotImplementedError

    def plan(self, device: Device, specs: Sequence[Spec], options: dict[str, Any]) -> Plan:
        """How to serve calls with these specs by portable kernels."""
        raise NotImplementedError

    def __call__(self, *tensors: Tensor, **options: Any) -> Any:
        return apply(self, tensors, options)

    def __repr__(self) -> str:
        return f"<op {self.name}>"


OPS: dict[str, Op] = {}
"""Every op by name: what is listed, dispatched and judged."""


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((k, _freeze(v)) for k, v in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(_freeze(v) for v in value)
    # 0.0 == -0.0 == False, but they are different options.
    return (type(value), repr(value)) if isinstance(value, bool | int | float) else value


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
    specs = [t._spec for t in tensors]
    key: Any = (op.name, *specs) if device is None else (op.name, *specs, device)
    if options:
        key = (*key, _freeze(options))
    now = settings()
    plans = now.plans
    run = plans.get(key)
    if run is None:
        plan = _make(op, specs, options or {}, device)
        if len(plans) >= _KEPT_PLANS:
            for old in list(plans.values()):
                _details.pop(old, None)
            plans.clear()
        # Known first, then found: all threads share the plans.
        run = plan.run
        _details[run] = plan
        plans[key] = run
    if now.trace is None:
        out = run(*tensors)
    else:
        # Another thread may have emptied the table since.
        plan = _details.get(run) or _make(op, specs, options or {}, device)
        out = _traced(op.name, plan, specs, device, lambda: run(*tensors))
    for t in tensors:
        if t._track is not None:
            record(op, tensors, options or {}, out if isinstance(out, tuple) else (out,))
            break
    return out


_KEPT_PLANS = 1 << 15
_details: dict[Callable[..., Any], Plan] = {}


def _traced(
    name: str, plan: Plan, specs: Sequence[Spec], device: Device | None, call: Callable[[], Any]
) -> Any:
    now = settings()
    where = specs[0].device if specs else device
    start = time.perf_counter()
    with deeper():
        out = call()
    if now.trace is not None:
        now.trace.records.append(
            Record(
                name,
                str(where),
                tuple(s.dtype.name for s in specs),
                tuple(s.shape for s in specs),
                plan.variant,
                plan.library,
                time.perf_counter() - start,
                now.depth,
            )
        )
    return out


@in_default_arithmetic
def _make(op: Op, specs: Sequence[Spec], options: dict[str, Any], device: Device | None) -> Plan:
    where = device if device is not None else same_device(op.name, specs)
    results = op.infer(specs, options)
    known = where.capabilities.dtypes
    missing = sorted(
        {d.name for d in (*(s.dtype for s in specs), *(d for d, _ in results))} - known
    )
    if missing:
        return _fallback(op, specs, options, where, missing)
    native = None if settings().reproducible else where.backend.natives.get(op.name)
    if native is not None and len(results) == 1:
        ((dtype, shape),) = results
        out = Spec.of(where, dtype, shape)
        case = NativeCase(
            op.name,
            (*(s.dtype for s in specs), dtype),
            (*(s.shape for s in specs), shape),
            (*(s.strides for s in specs), out.strides),
            options,
        )
        if native.when(case):
            launch, allocate = native.run, where.backend.allocate

            def run(*tensors: Tensor) -> Tensor:
                buffer = allocate(out.nbytes)
                launch(
                    case,
                    [*(t._buffer for t in tensors), buffer],
                    [*(t._offset for t in tensors), 0],
                )
                return Tensor(buffer, out)

            return Plan(run, "native", native.library)
    return op.plan(where, specs, options)


def _fallback(
    op: Op, specs: Sequence[Spec], options: dict[str, Any], device: Device, missing: list[str]
) -> Plan:
    what = f"{op.name}: {device} has no {', '.join(missing)}"
    if settings().policy == "error":
        have = ", ".join(d.name for d in dt.ALL if d.name in device.capabilities.dtypes)
        raise UnsupportedError(
            f"{what}; it has {have}. Use one of these, or another device, or allow a fallback "
            "with tensorbus.fallback_policy('warn')"
        )
    from .ops._common import from_host

    other = get_device("cpu" if device.name != "cpu" else "ref")
    warn = settings().policy == "warn"

    def run(*tensors: Tensor) -> Any:
        if warn:
            warnings.warn(f"{what}; this call runs on {other} instead", stacklevel=4)
        # Not by to_device, which as an op of such a dtype would fall back itself.
        moved = [from_host(other, t.numpy(), t.dtype) for t in tensors]
        out = apply(op, moved, options, None if moved else other)
        if isinstance(out, tuple):
            return tuple(o.to_device(device) for o in out)
        return out.to_device(device)

    return Plan(run, "fallback", other.name)


def linear_jvp(op: Callable[..., Any]) -> Rule:
    """Forward rule of an op that is linear in its only operand: apply it to the tangent."""

    def rule(context: Context, tangents: Sequence[Tensor]) -> Any:
        (tangent,) = tangents
        return op(tangent, **context.options)

    return rule
