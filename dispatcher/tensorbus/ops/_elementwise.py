"""The elementwise op: a body over scalars, a dtype rule, and partial derivatives.

The Jacobian of an elementwise function is diagonal for each operand, so one rule serves reverse
and forward mode: how to multiply a tensor by the partial derivative.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends import ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr

from .._autograd import Context, record
from .._family import Family, kind_of
from .._layout import permuted_strides
from .._op import Op, apply, freeze
from .._plan import Plan, Value
from .._planner import Planner
from .._promotion import result_of_scalar
from .._recent import Recent
from .._sizes import Sizes
from .._spec import Shape, Spec, broadcast_shapes
from .._state import Record, current, settings, watching
from .._tensor import Tensor
from ._common import Scalar, operands, tensor_of
from ._dtype_rules import DtypeRule
from ._moves import bits_dtype, copied

__all__ = ["Elementwise", "Factor", "Partial", "binary", "unary", "unbroadcast"]

Factor = Tensor | Scalar | Callable[[Tensor], Tensor] | None
"""A partial derivative: a tensor, a number, how to multiply a tensor by it, or None for none."""

Partial = Callable[[Context], Factor]


class Elementwise(Op):
    """An op that works element by element with broadcasting.

    Args:
        name: Public name, or one with a leading underscore for a derivative.
        body: From compute values of the operands (and options as keywords) to the result.
        rule: From operand dtypes to (dtypes that operands are converted to, result dtype).
        partials: For each operand the derivative of the result; None if the op has no derivative.
            0 gives a gradient of zeros.
        params: Names of options that travel as launch scalars in the last operand's dtype.
        as_bits: The body gets and gives the unsigned integers that hold floating operands.
    """

    def __init__(
        self,
        name: str,
        body: Callable[..., Expr],
        rule: DtypeRule,
        partials: Sequence[Partial] | None = None,
        *,
        params: Sequence[str] = (),
        as_bits: bool = False,
        signature: str = "",
    ) -> None:
        super().__init__(
            name,
            signature=signature,
            vjp=None if partials is None else self._vjp,
            jvp=self._jvp,
        )
        self.body, self.rule, self.partials, self.params = body, rule, partials, tuple(params)
        self.as_bits = as_bits

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        _, out = self.rule(self.name, [s.dtype for s in specs])
        return [(out, self._shape(specs))]

    def _shape(self, specs: Sequence[Spec]) -> Shape:
        try:
            return broadcast_shapes(*(s.shape for s in specs))
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def build(self, p: Planner, values: Sequence[Value], options: dict[str, Any]) -> Value:
        dtypes = tuple([v.dtype for v in values])
        wanted, out = self.rule(self.name, dtypes)
        if dtypes != tuple(wanted):
            # Operands that a body cannot convert exactly are converted by kernels of their own.
            mixed = [w for d, w in zip(dtypes, wanted, strict=True) if d is not w]
            if any(self.as_bits or (w.is_float and w.bits == 16) for w in mixed):
                values = [
                    v if v.dtype is w else _converted(p, v, w)
                    for v, w in zip(values, wanted, strict=True)
                ]
                dtypes = tuple(wanted)
        rest = {n: v for n, v in options.items() if n not in self.params}
        expr, reads, result = self._expression(dtypes, tuple(wanted), out, tuple(rest.items()))
        shape = self._shape([v.spec for v in values])
        strides = None
        if not any(v.spec.contiguous and v.spec.shape == shape for v in values):
            strides = permuted_strides(shape, [(v.shape, v.strides) for v in values])
        made = p.new(out, shape, strides)
        scalar = wanted[-1]
        p.map(
            self.name,
            [expr],
            shape,
            [v.read(r) for v, r in zip(values, reads, strict=True)],
            [made.read(result)],
            [(scalar, options[n]) for n in self.params],
        )
        return made

    def plan_with_number(
        self, spec: Spec, value: Scalar, first: bool, sizes: Sizes | None = None
    ) -> Plan | None:
        """A plan for a tensor and a Python scalar of the class of `value`, as a launch scalar.

        Args:
            spec: Of the tensor.
            value: The scalar; only its class matters.
            first: Whether it is the first operand.
            sizes: To whom the open sizes of `spec` belong, if there are any.

        Returns:
            None where operands have to be tensors: a native kernel may want them, or they are
            converted by kernels of their own, or read by their bits, or cannot be promoted; or the
            tensor lies on a device only because its own cannot hold it.
        """
        device, known = spec.device, spec.device.capabilities.dtypes
        if device.home is not None or self.params or self.as_bits:
            return None
        if self.name in device.backend.natives:
            return None
        try:
            kind = result_of_scalar(spec.dtype, value.__class__(0))
            dtypes = (kind, spec.dtype) if first else (spec.dtype, kind)
            wanted, out = self.rule(self.name, dtypes)
        except TypeError:
            return None
        mixed = [w for d, w in zip(dtypes, wanted, strict=True) if d is not w]
        if any(w.is_float and w.bits == 16 for w in mixed):
            return None
        if not {spec.dtype.name, kind.name, out.name} <= known:
            return None
        key = (self, Plan, dtypes, first)
        found = _expressions.find(key)
        if found is None:
            leaves = [ir.input_(0, spec.dtype), ir.param(0, kind)]
            values = [
                ir.cast(leaf, w.compute)
                for leaf, w in zip(reversed(leaves) if first else leaves, wanted, strict=True)
            ]
            found = _expressions.keep(key, (self.body(*values), [spec.dtype], out))
        planner = Planner(device, [spec], sizes)
        (x,) = planner.operands
        strides = permuted_strides(spec.shape, [(spec.shape, spec.strides)])
        made = planner.new(out, spec.shape, strides)
        planner.map(self.name, [found[0]], spec.shape, [x], [made], [(kind, 0)])
        plan = planner.finish(made)
        plan.scalar = kind
        return plan

    def _expression(
        self,
        dtypes: tuple[DType, ...],
        wanted: tuple[DType, ...],
        out: DType,
        rest: tuple[tuple[str, Any], ...],
    ) -> tuple[Expr, list[DType], DType]:
        """The body for operands of `dtypes`, the dtypes they are read as, the one it writes."""
        key = (self, dtypes, rest and freeze(rest))
        found = _expressions.find(key)
        if found is None:
            stored = list(wanted)
            result = out
            if self.as_bits:
                stored = [bits_dtype(w) if w.is_float else w for w in wanted]
                result = bits_dtype(out) if out.is_float else out
            reads = [t if d is w else d for d, w, t in zip(dtypes, wanted, stored, strict=True)]
            values = [
                ir.cast(ir.input_(k, r), t.compute)
                for k, (r, t) in enumerate(zip(reads, stored, strict=True))
            ]
            named: dict[str, Any] = {n: ir.param(k, wanted[-1]) for k, n in enumerate(self.params)}
            named.update(rest)
            if self.as_bits:
                named["dtype"] = wanted[-1]
            found = _expressions.keep(key, (self.body(*values, **named), reads, result))
        return found

    def _vjp(self, context: Context, g: Tensor) -> list[Tensor | None]:
        assert self.partials is not None
        result: list[Tensor | None] = []
        for k, partial in enumerate(self.partials):
            d = _scale(g, partial(context)) if context.needs[k] else None
            result.append(None if d is None else unbroadcast(d, context.input_spec(k)))
        return result

    def _jvp(self, context: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
        from .elementwise_arithmetic import add
        from .manipulation import astype, broadcast_to

        out = context.output(0)
        if not out.dtype.is_float:
            return None
        if self.partials is None:
            raise RuntimeError(f"{self.name} has no derivative; detach its operands first")
        total: Tensor | None = None
        for partial, t in zip(self.partials, tangents, strict=True):
            if t is None:
                continue
            d = _scale(astype(t, out.dtype, copy=False), partial(context))
            if d is not None:
                total = d if total is None else add(total, d)
        if total is not None and total.shape != out.shape:
            total = broadcast_to(total, out.shape)
        return total


_expressions: Recent[Any, tuple[Expr, list[DType], DType]] = Recent(1 << 10)


def _converted(p: Planner, x: Value, dtype: DType) -> Value:
    return copied(p, x, dtype, permuted_strides(x.shape, [(x.shape, x.strides)]))


def _scale(g: Tensor, factor: Factor) -> Tensor | None:
    """``g * factor`` without launching what is known to change nothing."""
    from .creation import zeros_like
    from .elementwise_arithmetic import multiply, negative

    if factor is None:
        return None
    if isinstance(factor, Tensor):
        return multiply(g, factor)
    if isinstance(factor, int | float):
        if factor == 1:
            return g
        if factor == -1:
            return negative(g)
        return zeros_like(g) if factor == 0 else multiply(g, factor)
    return factor(g)


def unbroadcast(g: Tensor, spec: Spec) -> Tensor:
    """Sum a gradient over the dimensions that broadcasting added, in the operand's dtype."""
    from .manipulation import astype, reshape
    from .reduction import sum as sum_

    if g.shape != spec.shape:
        lead = g.ndim - len(spec.shape)
        axes = tuple(range(lead)) + tuple(
            lead + k for k, n in enumerate(spec.shape) if n == 1 and g.shape[lead + k] != 1
        )
        g = reshape(sum_(g, axis=axes, keepdims=True), spec.shape) if axes else g
    return g if g.dtype is spec.dtype else astype(g, spec.dtype)


def unary(op: Op, x: Tensor, **options: Any) -> Tensor:
    """Call an op of one operand, which has to be a tensor."""
    out: Tensor
    if x.__class__ is Tensor and not options:
        run = current().fast.get((op, x._spec))
        if run is not None:
            out = run(x)
            if x._track is not None:
                record(op, (x,), {}, (out,))
            return out
    out = apply(op, (tensor_of(op.name, x),), options)
    return out


_PYTHON = (float, int, bool)


def _partner(op: Op, x: Tensor, value: Tensor | Scalar) -> Tensor:
    """A Python scalar as the tensor that meets `x`; remembered, since loops repeat them."""
    constants = x._spec.device.constants
    # 0.0 equals -0.0, so zeros are told apart by their text.
    key = (_partner, x._spec.dtype, value.__class__, value or repr(value))
    found: Tensor | None = constants.find(key)
    if found is None:
        found = constants.keep(key, operands(op.name, x, value)[1])
    return found


def _with_number(op: Op, x: Tensor, value: Scalar, first: bool) -> Tensor | None:
    """A call with a Python scalar, which travels as a word; None where that cannot serve it."""
    key = (op, x._spec, value.__class__, first)
    run = current().fast.get(key)
    if run is not None:
        return run(x, value)  # type: ignore[no-any-return]
    if watching.by is not None or not isinstance(op, Elementwise):
        return None
    now = settings()
    run = now.plans.find(key)
    if run is None:
        run = now.plans.keep(key, _run_with_number(op, x._spec, value, first, now.plans))
    if now.trace is None or run is _refused:
        return run(x, value)  # type: ignore[no-any-return]
    start = time.perf_counter()
    out: Tensor | None = run(x, value)
    if out is not None:
        seconds = time.perf_counter() - start
        names, shapes = (x.dtype.name, run.plan.scalar.name), (x.shape, ())
        now.trace.records.append(
            Record(
                op.name,
                x.device.name,
                names[::-1] if first else names,
                shapes[::-1] if first else shapes,
                "portable",
                "",
                seconds,
                now.depth,
            )
        )
    return out


def _run_with_number(
    op: Elementwise, spec: Spec, value: Scalar, first: bool, plans: Recent[Any, Any]
) -> Callable[..., Tensor | None]:
    def make(specs: Sequence[Spec], _: Any, sizes: Sizes | None) -> Plan | None:
        return op.plan_with_number(specs[0], value, first, sizes)

    key = (op, Family, *kind_of(spec), value.__class__, first)
    family = plans.find(key)
    if family is None:
        family = plans.keep(key, Family())
    plan = family.plan([spec], make)
    return _refused if plan is None else plan.run


def _refused(x: Tensor, value: Scalar) -> None:
    return None


def binary(op: Op, x1: Tensor | Scalar, x2: Tensor | Scalar) -> Tensor:
    """Call an op of two operands, one of which may be a Python scalar."""
    made: Tensor | None = None
    if x2.__class__ in _PYTHON:
        if x1.__class__ is Tensor and x1._track is None:
            made = _with_number(op, x1, x2, False)
    elif x1.__class__ in _PYTHON and x2.__class__ is Tensor and x2._track is None:
        made = _with_number(op, x2, x1, True)
    if made is not None:
        return made
    if not isinstance(x2, Tensor):
        if not isinstance(x1, Tensor) or x2.__class__ not in _PYTHON:
            x1, x2 = operands(op.name, x1, x2)
        else:
            x2 = _partner(op, x1, x2)
    elif not isinstance(x1, Tensor):
        x1 = operands(op.name, x1, x2)[0] if x1.__class__ not in _PYTHON else _partner(op, x2, x1)
    out: Tensor
    run = current().fast.get((op, x1._spec, x2._spec))
    if run is not None:
        out = run(x1, x2)
        if x1._track is not None or x2._track is not None:
            record(op, (x1, x2), {}, (out,))
        return out
    out = apply(op, (x1, x2))
    return out
