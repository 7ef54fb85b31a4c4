"""References of the activation functions, formulas evaluated with `running`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray

from . import judges, running
from .elementwise import OPS as ELEMENTWISE, reference_of
from .op import OpReference, Range, as_float64
from .running import constant
from .sampling import elementwise as each
from .ulp import FLOAT64, format_of
from .verdict import Judge, Reference

__all__ = ["ACTIVATIONS", "OPS"]

Array = NDArray[Any]
F64 = NDArray[np.float64]
OPS: dict[str, OpReference] = {}


def gelu_erf(x: Any) -> Any:
    """x/2 (1 + erf(x/sqrt 2)): Hendrycks and Gimpel, Gaussian Error Linear Units, 2016."""
    half = constant(x, math.sqrt(0.5), lambda: (arb(1) / 2).sqrt())
    return x * 0.5 * (1 + running.erf(x * half))


def gelu_tanh(x: Any) -> Any:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    scale = constant(x, math.sqrt(2 / math.pi), lambda: (2 / arb.pi()).sqrt())
    return x * 0.5 * (1 + running.tanh(scale * (x + constant(x, 0.044715) * (x * x * x))))


def silu(x: Any) -> Any:
    """x sigmoid(x)."""
    return x * running.sigmoid(x)


def mish(x: Any) -> Any:
    """x tanh(softplus(x)): Misra, Mish, 2019."""
    return x * running.tanh(running.softplus(x))


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x where positive, else alpha (exp(x) - 1)."""
    negative = running.expm1(running.where(running.real(x) > 0, x * 0, x))
    if alpha != 1.0:
        negative = constant(x, alpha) * negative
    return running.where(running.real(x) > 0, x, negative)


def hardswish(x: Any) -> Any:
    """x min(max(x + 3, 0), 6) / 6."""
    shifted = x + 3
    at = running.real(x)
    zero = running.absolute(shifted) * 0  # +0, so that the product has the sign of x
    clipped = running.where(at <= -3, zero, running.where(at >= 3, shifted * 0 + 6, shifted))
    return x * clipped / 6


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """x where positive, else negative_slope x."""
    return running.where(running.real(x) > 0, x, constant(x, negative_slope) * x)


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold, as PyTorch has it."""
    if beta == 1.0:
        inner = running.softplus(x)
    else:
        inner = running.softplus(constant(x, beta) * x) / constant(x, beta)
    return running.where(running.real(x) * beta > threshold, x, inner)


_FAR = 801.3
"""Beyond it every activation is 0, alpha or x in every format; coefficients scale with x.
No power of two: there products would be exact."""


def _activation(formula: Callable[..., Any], at_minus_infinity: float) -> Callable[..., Reference]:
    def forward(x: Any, **options: Any) -> Reference:
        array = np.asarray(x)
        wide = as_float64(array)
        near = np.clip(wide, -_FAR, _FAR)
        call = lambda v: formula(v, **options)  # noqa: E731
        ref = running.reference(call, [near], array.dtype)
        ref = replace(ref, signed=ref.value == 0)  # the formulas give zeros the sign of x, or alpha
        far = np.abs(wide) > _FAR
        if not far.any() and not np.isnan(wide).any():
            return ref
        with np.errstate(all="ignore"):
            ratio = np.where(far & np.isfinite(wide), np.abs(wide) / _FAR, 1.0)
            limit = np.where(wide > 0, wide, _limit(formula, wide, options))
            value = np.where(far, limit, ref.value)
            low = None if ref.low is None else np.where(far, 0.0, ref.low)
        value = np.where(np.isnan(wide), np.nan, value)
        assert ref.magnitude is not None
        assert ref.per_ulp is not None
        size = np.where(np.isfinite(value), np.abs(value), 0)
        slack = np.where(far, FLOAT64.tiny + 2.0**-60 * size, ref.slack)
        # 0 times infinity is NaN in formulas that multiply by x; the limit 0 is as good.
        minus = np.isneginf(wide)
        other = np.where(minus & (at_minus_infinity == 0), np.nan, value)
        value = np.where(minus, at_minus_infinity * 1.0, value)
        with np.errstate(over="ignore"):
            magnitude, per_ulp = ref.magnitude * ratio, ref.per_ulp * ratio
        return replace(
            ref,
            value=value,
            low=low,
            slack=slack,
            magnitude=magnitude,
            per_ulp=per_ulp,
            signed=value == 0,
            alternatives=(other,),
        )

    return forward


def _limit(formula: Callable[..., Any], x: F64, options: dict[str, Any]) -> F64:
    """The value far to the left."""
    if formula is leaky_relu:
        return np.asarray(x * options.get("negative_slope", 0.01))
    if formula is elu:
        return np.full(x.shape, -options.get("alpha", 1.0))
    if formula is softplus:
        # The smallest thresholds have x itself there, too.
        beyond = x * options.get("beta", 1.0) > options.get("threshold", 20.0)
        return np.asarray(np.where(beyond, x, 0.0))
    return np.copysign(np.zeros(x.shape), x)


def _gelu(x: Any, *, approximate: str = "none") -> Reference:
    formula = gelu_tanh if approximate == "tanh" else gelu_erf
    return _activation(formula, -0.0)(x)


def _relu(x: Any) -> Reference:
    """max(x, 0): NaN stays NaN, -0 may stay or become +0."""
    array = np.asarray(x)
    if format_of(array.dtype) is None:
        return Reference(np.maximum(array, 0).astype(array.dtype), array.dtype)
    wide = as_float64(array)
    value = np.where(wide > 0, wide, 0.0)
    value = np.where(np.isnan(wide), np.nan, value)
    return Reference(value, array.dtype, alternatives=(np.where(wide == 0, -0.0, value),))


def _hardtanh(x: Any, *, min_val: float = -1.0, max_val: float = 1.0) -> Reference:
    result = ELEMENTWISE["clip"].forward(x, min_val, max_val)
    assert isinstance(result, Reference)
    return result


def _softplus(x: Any, *, beta: float = 1.0, threshold: float = 20.0) -> Reference:
    """Class 3 with the library's own bound, wherever no option is used."""
    array = np.asarray(x)
    if beta == 1.0 and threshold == 20.0:
        ref = reference_of("softplus", array)
        # PyTorch returns x beyond the threshold, off by log1p(exp(-20)) = 2e-9 at most.
        return replace(ref, alternatives=(np.where(as_float64(x) > 20, as_float64(x), ref.value),))
    return _activation(softplus, 0.0)(array, beta=beta, threshold=threshold)


ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "elu": elu,
    "gelu": gelu_erf,
    "hardswish": hardswish,
    "leaky_relu": leaky_relu,
    "mish": mish,
    "silu": silu,
}
_LIMITS = {
    "elu": -1.0,
    "leaky_relu": -math.inf,
    "gelu": -0.0,
    "hardswish": -0.0,
    "mish": -0.0,
    "silu": -0.0,
}


def _bind(name: str) -> Callable[..., Reference]:
    def forward(x: Any, **options: Any) -> Reference:
        limit = -options.get("alpha", 1.0) if name == "elu" else _LIMITS[name]
        return _activation(ACTIVATIONS[name], limit)(x, **options)

    return forward


def _softplus_judge(
    dtype: Any,
    options: dict[str, Any] | None = None,
    portable_bound: float | None = None,
    *,
    statistics: bool = True,
    subnormals: bool = True,
) -> Judge:
    given = options or {}
    plain = given.get("beta", 1.0) == 1.0 and given.get("threshold", 20.0) == 20.0
    make = judges.ulps("softplus") if plain else judges.coefficient(11.0)
    return make(dtype, options, portable_bound, subnormals=subnormals)


def _register(
    name: str,
    family: str,
    forward: Callable[..., Any],
    judge: Any,
    kinds: str = "f",
    domain: Range = (-4.0, 4.0),
    excused: dict[str, str] | None = None,
    allowed: Callable[[dict[str, Any]], bool] | None = None,
    **options: tuple[Any, ...],
) -> None:
    sets = each.unary_options(allowed, **options) if options else None
    OPS[name] = OpReference(
        name,
        family,
        forward,
        judge,
        (1, 1),
        kinds,
        (domain,),
        elementwise=True,
        samples=each.elementwise(1, sets),
        special=each.special(1, sets),
        degenerate=each.degenerate(1),
        excused=excused or {},
        namespace="nn",
    )


_register("relu", "exact", _relu, judges.exact, "if")
_register(
    "hardtanh",
    "exact",
    _hardtanh,
    judges.exact,
    allowed=lambda o: o.get("min_val", -1.0) <= o.get("max_val", 1.0),  # else a ValueError
    min_val=(-0.5, 0.0, -1.0, 0.1, -3.0),
    max_val=(2.0, 0.3, 1.0, 0.0, -0.25),
)
_register(
    "softplus",
    "transcendental",
    _softplus,
    _softplus_judge,
    domain=(-24.0, 24.0),
    excused={
        "beta: 0": "log(1 + exp(beta x)) / beta has no value at beta = 0",
        "beta: negative": "softplus is a smooth maximum of x and 0 for positive beta only",
    },
    beta=(2.0, 0.3, 1.0),
    threshold=(10.0, 20.0, math.inf, 0.1, 0.0, -3.0, -math.inf),
)
_register(
    "gelu",
    "coefficient",
    _gelu,
    judges.coefficient(16.0),
    domain=(-12.0, 12.0),
    approximate=("none", "tanh"),
)
_sets: list[tuple[str, float, Range, dict[str, Any]]] = [
    ("elu", 3.0, (-20.0, 4.0), {"alpha": (1.5, 1.0, 0.0, -0.5, 0.1)}),
    ("hardswish", 0.0, (-4.0, 4.0), {}),
    ("leaky_relu", 0.0, (-4.0, 4.0), {"negative_slope": (0.2, 0.01, 0.0, -0.5, 1.0)}),
    ("mish", 11.0, (-24.0, 24.0), {}),
    ("silu", 8.0, (-20.0, 20.0), {}),
]
for _name, _ulps, _domain, _options in _sets:
    _register(
        _name, "coefficient", _bind(_name), judges.coefficient(_ulps), "f", _domain, **_options
    )
