"""Faults of the op registry: wrong bodies, gradient rules, promotion, errors, routing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorbus as tb
from tensorbus import _op
from tensorbus_backends import dtypes as dt, ir

from .base import FAULTS, Fault, Planted

__all__: list[str] = []

F32 = ("float32",)


def _register(
    name: str,
    what: str,
    ops: str | tuple[str, ...],
    install: Callable[[Planted], None],
    *,
    dtypes: tuple[str, ...] = F32,
    family: str = "elementwise",
) -> None:
    chosen = (ops,) if isinstance(ops, str) else ops
    FAULTS[name] = Fault(name, what, "registry", chosen, dtypes, family, install)


def _op_named(name: str) -> Any:
    return tb.OPS[name]


def _body(op: str, make: Callable[[Any], Any]) -> Callable[[Planted], None]:
    """Exchange the body of an elementwise op."""

    def install(planted: Planted) -> None:
        target = _op_named(op)
        old = target.body

        def body(*args: Any, **options: Any) -> Any:
            planted.hit()
            return make(old)(*args, **options)

        target.body = body

    return install


def _rule(op: str, which: str, make: Callable[[Any], Any]) -> Callable[[Planted], None]:
    """Exchange a gradient rule of an op (``"vjp"`` or ``"jvp"``)."""

    def install(planted: Planted) -> None:
        target = _op_named(op)
        old = getattr(target, which)

        def rule(*args: Any) -> Any:
            planted.hit()
            return make(old)(*args)

        setattr(target, which, rule)

    return install


def _each(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A vjp rule whose gradients all go through `change`."""

    def make(old: Any) -> Any:
        return lambda *args: [None if g is None else change(g) for g in old(*args)]

    return make


def _function(name: str, make: Callable[[Any], Any]) -> Callable[[Planted], None]:
    """Exchange a public function."""

    def install(planted: Planted) -> None:
        old = tb.FUNCTIONS[name]

        def call(*args: Any, **options: Any) -> Any:
            planted.hit()
            return make(old.call)(*args, **options)

        # With the signature, which the judge makes bad calls from.
        functools.update_wrapper(call, old.call)
        _op.FUNCTIONS[name] = tb.Function(
            old.name, old.namespace, call, old.differentiable, old.family, old.op
        )

    return install


# -- gradients --

_register(
    "gradient-tripled-relu",
    "the gradient of relu is three times too large",
    "nn.relu",
    _rule("relu", "vjp", _each(lambda g: tb.multiply(g, 3.0))),
    family="activation",
)
_register(
    "gradient-tripled-matmul",
    "gradients of matmul are three times too large",
    "matmul",
    _rule("matmul", "vjp", _each(lambda g: tb.multiply(g, 3.0))),
    family="matrix",
)
_register(
    "gradient-reversed-sum",
    "the gradient of sum comes back reversed",
    "sum",
    _rule("sum", "vjp", _each(lambda g: tb.flip(g))),
    family="reduction",
)
_register(
    "gradient-reversed-softmax",
    "the gradient of softmax comes back reversed",
    "nn.softmax",
    _rule("softmax", "vjp", _each(lambda g: tb.flip(g))),
    family="normalization",
)
_register(
    "gradient-negated-sub",
    "subtract's second gradient has the wrong sign",
    "subtract",
    _rule(
        "subtract",
        "vjp",
        lambda old: (
            lambda *a: [g if k == 0 or g is None else tb.negative(g) for k, g in enumerate(old(*a))]
        ),
    ),
)
_register(
    "gradient-missing",
    "the second operand of multiply gets no gradient",
    "multiply",
    _rule("multiply", "vjp", lambda old: lambda *a: [old(*a)[0], None]),
)


def _no_unbroadcast(planted: Planted) -> None:
    from tensorbus.ops import _diagonal

    def wrong(g: Any, spec: Any) -> Any:
        if g.shape == spec.shape:
            return g
        planted.hit()
        lead = g.ndim - len(spec.shape)
        part = g[tuple([0] * lead)] if lead else g
        key = tuple(slice(0, n) for n in spec.shape)
        return part[key] if spec.shape else part

    _diagonal.unbroadcast = wrong


_register(
    "broadcast-not-reduced",
    "a gradient is not summed over broadcast dimensions",
    "add",
    _no_unbroadcast,
)
_register(
    "tangent-dropped",
    "forward mode of multiply forgets the second operand",
    "multiply",
    _rule("multiply", "jvp", lambda old: lambda c, t: old(c, [t[0], None])),
)
_register(
    "second-order-cut",
    "the gradient of exp is not itself differentiable",
    "exp",
    _rule(
        "exp", "vjp", lambda old: lambda *a: [None if g is None else g.detach() for g in old(*a)]
    ),
)
_register(
    "layer-norm-gradient",
    "layer_norm's gradient forgets that the mean depends on x",
    "nn.layer_norm",
    _rule(
        "layer_norm",
        "vjp",
        lambda old: lambda *a: [None if g is None else tb.multiply(g, 1.01) for g in old(*a)],
    ),
    family="normalization",
)

# -- values --

_register(
    "minus-zero-lost",
    "negative gives +0 for +0",
    "negative",
    _body(
        "negative", lambda old: lambda a: ir.const(0.0, a.dtype) - a if a.dtype.is_float else old(a)
    ),
)
_register(
    "less-with-nan",
    "less is true where an operand is NaN",
    "less",
    _body("less", lambda old: lambda a, b: ~(b <= a)),
)
_register(
    "c-remainder",
    "remainder has the sign of the dividend",
    "remainder",
    _body("remainder", lambda old: lambda a, b: ir.irem(a, b)),
    dtypes=("int32",),
)
_register(
    "relu-nan",
    "relu turns NaN into 0",
    "nn.relu",
    _body("relu", lambda old: lambda x: ir.select(x > 0, x, ir.const(0.0, x.dtype))),
    family="activation",
)
_register(
    "gelu-tanh",
    "gelu uses the tanh approximation always",
    "nn.gelu",
    _function("nn.gelu", lambda old: lambda x, **o: old(x, approximate="tanh")),
    family="activation",
)
_register(
    "one-pass-variance",
    "var subtracts the square of the mean",
    "var",
    _function(
        "var",
        lambda old: (
            lambda x, **o: tb.subtract(
                tb.mean(tb.multiply(x, x), axis=o.get("axis"), keepdims=o.get("keepdims", False)),
                tb.square(tb.mean(x, axis=o.get("axis"), keepdims=o.get("keepdims", False))),
            )
        ),
    ),
    family="statistics",
)
_register(
    "mean-n-minus-one",
    "mean divides by n - 1",
    "mean",
    _function(
        "mean", lambda old: lambda x, **o: tb.multiply(old(x, **o), 1 + 1 / max(x.size - 1, 1))
    ),
    family="statistics",
)
_register(
    "softmax-unshifted",
    "softmax does not subtract the greatest element",
    "nn.softmax",
    _function(
        "nn.softmax",
        lambda old: (
            lambda x, *, axis=-1: tb.divide(tb.exp(x), tb.sum(tb.exp(x), axis=axis, keepdims=True))
        ),
    ),
    family="normalization",
)
_register(
    "layer-norm-eps",
    "layer_norm ignores eps",
    "nn.layer_norm",
    _function("nn.layer_norm", lambda old: lambda x, **o: old(x, **{**o, "eps": 1e-3})),
    family="normalization",
)
_register(
    "argmax-last",
    "argmax gives the last of equal elements",
    "argmax",
    _function(
        "argmax",
        lambda old: (
            lambda x, *, axis=None, keepdims=False: tb.subtract(
                (x.shape[axis] if axis is not None else x.size) - 1,
                old(tb.flip(x, axis=axis), axis=axis, keepdims=keepdims),
            )
        ),
    ),
    family="searching",
)
_register(
    "sort-ascending-only",
    "sort ignores descending",
    "sort",
    _function("sort", lambda old: lambda x, **o: old(x, **{**o, "descending": False})),
    family="sorting",
)
_register(
    "argsort-unstable",
    "argsort reverses equal elements",
    "argsort",
    _function(
        "argsort",
        lambda old: (
            lambda x, *, axis=-1, **o: tb.subtract(
                x.shape[axis] - 1, old(tb.flip(x, axis=axis), axis=axis, **o)
            )
        ),
    ),
    family="sorting",
)
_register(
    "where-swapped",
    "where gives the wrong branch",
    "where",
    _function("where", lambda old: lambda c, a, b: old(c, b, a)),
)
_register(
    "flip-first-axis",
    "flip always reverses the first axis",
    "flip",
    _function("flip", lambda old: lambda x, *, axis=None: old(x, axis=0)),
    family="manipulation",
)
_register(
    "scan-without-carry",
    "cumulative_prod starts again in the middle",
    "cumulative_prod",
    _function(
        "cumulative_prod",
        lambda old: (
            lambda x, *, axis=None, **o: tb.concat(
                [old(p, axis=axis, **o) for p in _halves(x, axis or 0)], axis=axis or 0
            )
        ),
    ),
    family="scan",
)
_register(
    "index-add-once",
    "index_add keeps one of several values for a target",
    "index_add",
    _function(
        "index_add", lambda old: lambda x, index, source, *, axis: _once(x, index, source, axis)
    ),
    family="indexing",
)
_register(
    "arange-float-drift",
    "linspace forgets its endpoint",
    "linspace",
    _function(
        "linspace",
        lambda old: (
            lambda start, stop, num, **o: old(
                start, stop, num, **{**o, "endpoint": not o.get("endpoint", True)}
            )
        ),
    ),
    family="creation",
)
_register(
    "same-random",
    "uniform ignores its seed beyond the lowest bit",
    "random.uniform",
    _function("random.uniform", lambda old: lambda *a, **o: tb.multiply(old(*a, **o), 0.5)),
    family="random",
)


def _halves(x: Any, axis: int) -> list[Any]:
    n = x.shape[axis]
    lead = (slice(None),) * (axis % x.ndim)
    return [x[(*lead, slice(0, n // 2))], x[(*lead, slice(n // 2, n))]]


def _once(x: Any, index: Any, source: Any, axis: int) -> Any:
    lead = (slice(None),) * axis
    out = tb.astype(x, x.dtype, copy=True)
    out[(*lead, index)] = tb.add(x[(*lead, index)], source)
    return out


# -- dtypes, errors, routing --


def _wrong_promotion(planted: Planted) -> None:
    target = _op_named("add")
    old = target.rule

    def rule(name: str, dtypes: Any) -> Any:
        common, out = old(name, dtypes)
        if any(d is not dtypes[0] for d in dtypes):
            planted.hit()
            return [dtypes[0]] * len(dtypes), dtypes[0]
        return common, out

    target.rule = rule


_register("wrong-promotion", "mixed operands keep the first dtype", "add", _wrong_promotion)
_register(
    "sum-keeps-int32",
    "sum of int32 stays int32",
    "sum",
    _function(
        "sum", lambda old: lambda x, **o: old(x, **{**o, "dtype": o.get("dtype") or x.dtype})
    ),
    dtypes=("int32",),
    family="reduction",
)


def _wrong_error(old: Any) -> Any:
    def call(*args: Any, **options: Any) -> Any:
        try:
            return old(*args, **options)
        except IndexError as error:
            raise RuntimeError(str(error)) from None

    return call


_register(
    "wrong-error",
    "a bad axis raises RuntimeError",
    "sum",
    _function("sum", _wrong_error),
    family="reduction",
)


def _silent(name: str) -> Callable[[Any], Any]:
    """Run on device ref without telling anyone."""

    def make(old: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            with tb._state.Change("trace", None):
                if not isinstance(args[0], tb.Tensor):
                    return old(*args, **options)
                here = args[0].device
                moved = [a.to_device("ref") if isinstance(a, tb.Tensor) else a for a in args]
                return old(*moved, **options).to_device(here)

        return call

    return make


_register(
    "silent-fallback",
    "tan runs on another device and says nothing",
    "tan",
    _function("tan", _silent("tan")),
)
_register(
    "ignored-keepdims",
    "max ignores keepdims",
    "max",
    _function("max", lambda old: lambda x, **o: old(x, **{**o, "keepdims": False})),
    family="reduction",
)


def _unchecked_index(planted: Planted) -> None:
    old = tb.FUNCTIONS["take"]

    def call(x: Any, indices: Any, *, axis: int = 0) -> Any:
        planted.hit()
        if not isinstance(x, tb.Tensor):
            return old.call(x, indices, axis=axis)
        return old.call(x, tb.remainder(indices, x.shape[axis]), axis=axis)

    call.__name__ = "take"
    _op.FUNCTIONS["take"] = tb.Function("take", "", call, old.differentiable, old.family, old.op)


_register(
    "unchecked-index",
    "take wraps an index out of range instead of raising",
    "take",
    _unchecked_index,
    family="indexing",
)
assert dt.float32
