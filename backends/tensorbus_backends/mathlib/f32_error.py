"""The error function in float32."""

from __future__ import annotations

from dataclasses import replace

from .. import ir, scalar
from ..ir import Expr
from .f32_common import c, polynomial
from .f32_exponential import at_most, expm1_reduced, reduce

__all__ = ["erf"]

# erf(x) = x + x p(x^2), abs(x) <= 15/16: relative error 2^-30.12.
_ERF = (
    0.12837917,
    -0.37612632,
    0.11283674,
    -0.026858337,
    0.005198558,
    -0.0008115768,
    8.2597544e-05,
)
# log(erfc(x)) = -(x + x t(x)), x in [15/16, 4]: fitted with weight erfc(x), so that the error
# of erf is below 2^-27.2 while that of the logarithm reaches 2^-18 at 4.
_LOG_ERFC = (
    0.12872267,
    0.63484377,
    0.10675469,
    -0.024213886,
    0.0038570478,
    -0.00037488103,
    1.604203e-05,
    7.4899084e-08,
)


def erf(x: Expr) -> Expr:
    """The error function; +-1 at infinity, erf(-0) is -0.

    A polynomial up to 15/16; 1 - exp(log(erfc(x))) above, where erfc is below 0.19, so that the
    errors of its logarithm and of the exponential count at most 0.45 ulp.
    """
    a = ir.fabs(x)
    small = ir.fma(a, polynomial(a * a, _ERF), a)
    b = at_most(a, 4.0)
    t = polynomial(b, _LOG_ERFC)
    minus_log = ir.fma(b, t, b)
    k = reduce(-minus_log)
    k = replace(k, r=k.r - ir.fma(b, t, b - minus_log))
    power = k.power()
    large = ir.fma(-power, expm1_reduced(k), c(1.0) - power)
    return scalar.copysign(ir.select(a >= c(0.9375), large, small), x)
