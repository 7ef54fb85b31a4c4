"""The elementwise op: a body over scalars, a dtype rule, and partial derivatives.

The Jacobian of an elementwise function is diagonal for each operand, so one rule serves reverse
and forward mode: how to multiply a tensor by the partial derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends import ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr

from .._autograd import Context
from .._devices import Device
from .._op import Op, apply
from .._plan import Plan, map_launch, permuted_strides
from .._spec import Shape, Spec, broadcast_shapes
from .._state import current
from .._tensor import Tensor
from ._common import Scalar, make_room, operands, tensor_of
from ._dtype_rules import DtypeRule

__all__ = ["Elementwise", "Factor", "Partial", "binary", "runner", "unary", "unbroadcast"]

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

    def plan(self, device: Device, specs: Sequence[Spec], options: dict[str, Any]) -> Plan:
        from .manipulation import bits_dtype

        wanted, out = self.rule(self.name, [s.dtype for s in specs])
        shape = self._shape(specs)
        mixed = [w for s, w in zip(specs, wanted, strict=True) if s.dtype is not w]
        if any(self.as_bits or (w.is_float and w.bits == 16) for w in mixed):
            return Plan(self._converted(wanted, options))
        stored = list(wanted)
        result = out
        if self.as_bits:
            stored = [bits_dtype(w) if w.is_float else w for w in wanted]
            result = bits_dtype(out) if out.is_float else out
        reads = [
            t if s.dtype is w else s.dtype for s, w, t in zip(specs, wanted, stored, strict=True)
        ]
        values = [
            ir.cast(ir.input_(k, r), t.compute)
            for k, (r, t) in enumerate(zip(reads, stored, strict=True))
        ]
        scalar = wanted[-1]
        scalars = {n: ir.param(k, scalar) for k, n in enumerate(self.params)}
        rest = {n: v for n, v in options.items() if n not in self.params}
        if self.as_bits:
            rest["dtype"] = wanted[-1]
        expr = self.body(*values, **scalars, **rest)
        strides = permuted_strides(shape, [(s.shape, s.strides) for s in specs])
        spec = Spec.of(device, out, shape, strides)
        launch = map_launch(
            device,
            self.name,
            [expr],
            shape,
            [(r, s.shape, s.strides) for r, s in zip(reads, specs, strict=True)],
            [(result, spec.strides)],
            [(scalar, options[n]) for n in self.params],
        )
        return Plan(runner(device, launch, spec, len(specs)))

    def _converted(self, wanted: Sequence[DType], options: dict[str, Any]) -> Callable[..., Any]:
        """Operands that a body cannot convert exactly are converted by kernels of their own."""
        from .manipulation import astype

        def run(*tensors: Tensor) -> Any:
            converted = [
                astype(t.detach(), w, copy=False) for t, w in zip(tensors, wanted, strict=True)
            ]
            return apply(self, converted, options)

        return run

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


def runner(device: Device, launch: Any, out: Spec, count: int) -> Callable[..., Tensor]:
    """The shortest way from `count` operands to the result."""
    allocate, nbytes = device.backend.allocate, out.nbytes
    zero = launch.bind((0,) * (count + 1))
    bind = launch.bind

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
    if x.__class__ is Tensor and x._track is None and not options:
        run = current().fast.get((op.name, x._spec))
        if run is not None:
            out = run(x)
            return out
    out = apply(op, (tensor_of(op.name, x),), options)
    return out


_PYTHON = (float, int, bool)
_partners: dict[Any, Tensor] = {}


def _partner(op: Op, x: Tensor, value: Tensor | Scalar) -> Tensor:
    """A Python scalar as the tensor that meets `x`; remembered, since loops repeat them."""
    # 0.0 equals -0.0, so zeros are told apart by their text.
    key = (x._spec.device, x._spec.dtype, value.__class__, value or repr(value))
    found = _partners.get(key)
    if found is None:
        found = operands(op.name, x, value)[1]
        make_room(_partners)
        _partners[key] = found
    return found


def binary(op: Op, x1: Tensor | Scalar, x2: Tensor | Scalar) -> Tensor:
    """Call an op of two operands, one of which may be a Python scalar."""
    if not isinstance(x2, Tensor):
        if not isinstance(x1, Tensor) or x2.__class__ not in _PYTHON:
            x1, x2 = operands(op.name, x1, x2)
        else:
            x2 = _partner(op, x1, x2)
    elif not isinstance(x1, Tensor):
        x1 = operands(op.name, x1, x2)[0] if x1.__class__ not in _PYTHON else _partner(op, x2, x1)
    out: Tensor
    if x1._track is None and x2._track is None:
        run = current().fast.get((op.name, x1._spec, x2._spec))
        if run is not None:
            out = run(x1, x2)
            return out
    out = apply(op, (x1, x2))
    return out
