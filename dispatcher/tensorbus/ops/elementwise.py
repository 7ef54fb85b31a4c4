"""Elementwise ops: a body over scalars, a dtype rule, and partial derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends import dtypes as dt
from tensorbus_backends import ir, mathlib
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr

from .._autograd import Context
from .._devices import Device
from .._op import Op, apply, function
from .._plan import Plan, map_launch, permuted_strides
from .._promotion import promote
from .._spec import Shape, Spec, broadcast_shapes
from .._tensor import Tensor
from ._common import Scalar, operands

__all__ = ["add", "divide", "exp", "multiply", "negative", "subtract"]

DtypeRule = Callable[[str, Sequence[DType]], tuple[DType, DType]]
Partial = Callable[[Context], "Tensor | Scalar | None"]


class Elementwise(Op):
    """An op that works element by element with broadcasting.

    Args:
        name: Public name.
        body: From compute values of the operands (and options as keyword scalars) to the result.
        rule: From operand dtypes to (dtype that operands are converted to, result dtype).
        partials: For each operand the derivative of the result, a tensor, a Python number, or None
            for zero; None if the op is not differentiable.
        params: Names of options that travel as launch scalars in the operands' dtype.
    """

    def __init__(
        self,
        name: str,
        body: Callable[..., Expr],
        rule: DtypeRule,
        partials: Sequence[Partial] | None = None,
        *,
        params: Sequence[str] = (),
        signature: str = "",
    ) -> None:
        super().__init__(
            name,
            signature=signature,
            vjp=None if partials is None else self._vjp,
            jvp=None if partials is None else self._jvp,
        )
        self.body, self.rule, self.partials, self.params = body, rule, partials, tuple(params)

    def infer(self, specs: Sequence[Spec], options: dict[str, Any]) -> list[tuple[DType, Shape]]:
        _, out = self.rule(self.name, [s.dtype for s in specs])
        return [(out, broadcast_shapes(*(s.shape for s in specs)))]

    def plan(self, device: Device, specs: Sequence[Spec], options: dict[str, Any]) -> Plan:
        common, out = self.rule(self.name, [s.dtype for s in specs])
        shape = broadcast_shapes(*(s.shape for s in specs))
        if common.bits == 16 and common.is_float and any(s.dtype is not common for s in specs):
            # The operand has to be rounded to 16 bits first: a conversion of its own.
            def convert(*tensors: Tensor) -> Any:
                from .manipulation import astype

                return apply(self, [astype(t, common, copy=False) for t in tensors], options)

            return Plan(convert)
        values = [ir.cast(ir.input_(k, s.dtype), common.compute) for k, s in enumerate(specs)]
        scalars = {n: ir.param(k, common) for k, n in enumerate(self.params)}
        rest = {n: v for n, v in options.items() if n not in self.params}
        expr = self.body(*values, **scalars, **rest)
        strides = permuted_strides(shape, [(s.shape, s.strides) for s in specs])
        spec = Spec.of(device, out, shape, strides)
        launch = map_launch(
            device,
            self.name,
            [expr],
            shape,
            [(s.dtype, s.shape, s.strides) for s in specs],
            [(out, spec.strides)],
            [(common, options[n]) for n in self.params],
        )
        return Plan(_runner(device, launch, spec, len(specs)))

    def _vjp(self, context: Context, g: Tensor) -> list[Tensor | None]:
        assert self.partials is not None
        result: list[Tensor | None] = []
        for k, partial in enumerate(self.partials):
            if not context.needs[k]:
                result.append(None)
                continue
            d = _scale(g, partial(context))
            spec = context.input_spec(k)
            result.append(None if d is None else _unbroadcast(d, spec))
        return result

    def _jvp(self, context: Context, tangents: Sequence[Tensor | None]) -> Tensor | None:
        from .manipulation import broadcast_to

        assert self.partials is not None
        total: Tensor | None = None
        out = context.output(0)
        for k, (partial, t) in enumerate(zip(self.partials, tangents, strict=True)):
            if t is None:
                continue
            if t.dtype is not out.dtype:
                from .manipulation import astype

                t = astype(t, out.dtype)
            d = _scale(t, partial(context))
            if d is not None:
                total = d if total is None else add(total, d)
        if total is not None and total.shape != out.shape:
            total = broadcast_to(total, out.shape)
        return total


def _runner(device: Device, launch: Any, out: Spec, count: int) -> Callable[..., Tensor]:
    """The shortest way from operands to result."""
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


def _scale(g: Tensor, factor: Tensor | Scalar | None) -> Tensor | None:
    """``g * factor`` without launching what is known to change nothing."""
    if factor is None:
        return None
    if isinstance(factor, int | float):
        if factor == 1:
            return g
        if factor == -1:
            return negative(g)
    return multiply(g, factor)


def _unbroadcast(g: Tensor, spec: Spec) -> Tensor:
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


# -- dtype rules --------------------------------------------------------------------------------


def promoted(name: str, dtypes: Sequence[DType]) -> DType:
    """The common dtype of all operands."""
    common = dtypes[0]
    for d in dtypes[1:]:
        common = promote(common, d)
    return common


def numeric(name: str, dtypes: Sequence[DType]) -> tuple[DType, DType]:
    """Numeric operands, result of the common dtype."""
    common = promoted(name, dtypes)
    if common.kind == "b":
        raise TypeError(f"{name} needs numeric operands, not bool; convert with astype")
    return common, common


def floating(name: str, dtypes: Sequence[DType]) -> tuple[DType, DType]:
    """Floating operands, result of the common dtype."""
    common = promoted(name, dtypes)
    if not common.is_float:
        raise TypeError(f"{name} needs floating operands, not {common.name}; convert with astype")
    return common, common


def floating_default(name: str, dtypes: Sequence[DType]) -> tuple[DType, DType]:
    """Numeric operands computed in floating point: integers become the default float."""
    common, _ = numeric(name, dtypes)
    return (common, common) if common.is_float else (dt.float32, dt.float32)


# -- the ops ------------------------------------------------------------------------------------

_add = Elementwise("add", lambda a, b: a + b, numeric, [lambda c: 1, lambda c: 1])
_subtract = Elementwise("subtract", lambda a, b: a - b, numeric, [lambda c: 1, lambda c: -1])
_multiply = Elementwise(
    "multiply", lambda a, b: a * b, numeric, [lambda c: c.input(1), lambda c: c.input(0)]
)
_negative = Elementwise("negative", lambda a: -a, numeric, [lambda c: -1])
_divide = Elementwise(
    "divide",
    lambda a, b: a / b,
    floating_default,
    [
        lambda c: divide(1, c.input(1)),
        lambda c: negative(divide(c.output(), c.input(1))),
    ],
)
_exp = Elementwise("exp", mathlib.exp, floating, [lambda c: c.output()])


@function("elementwise", differentiable=True)
def add(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 + x2`` element by element; integers wrap."""
    return apply(_add, operands("add", x1, x2))  # type: ignore[no-any-return]


@function("elementwise", differentiable=True)
def subtract(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 - x2`` element by element; integers wrap."""
    return apply(_subtract, operands("subtract", x1, x2))  # type: ignore[no-any-return]


@function("elementwise", differentiable=True)
def multiply(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 * x2`` element by element; integers wrap."""
    return apply(_multiply, operands("multiply", x1, x2))  # type: ignore[no-any-return]


@function("elementwise", differentiable=True)
def divide(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Tensor:
    """``x1 / x2`` element by element, correctly rounded; integers are divided as float32."""
    return apply(_divide, operands("divide", x1, x2))  # type: ignore[no-any-return]


@function("elementwise", differentiable=True)
def negative(x: Tensor, /) -> Tensor:
    """``-x`` element by element; integers wrap."""
    return apply(_negative, operands("negative", x))  # type: ignore[no-any-return]


@function("elementwise", differentiable=True)
def exp(x: Tensor, /) -> Tensor:
    """e to the power of `x`."""
    return apply(_exp, operands("exp", x))  # type: ignore[no-any-return]
