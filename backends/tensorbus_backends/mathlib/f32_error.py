"""The error function in float32."""

from __future__ import annotations

from .. import ir, scalar
from ..ir import Expr
from .f32_common import c, polynomial
from .f32_exponential import exp_reduced, reduce

__all__ = ["erf"]

# erf(x) = x + x p(x^2), abs(x) <= 1: relative error 2^-29.33.
_ERF = (
    0.12837917,
    -0.37612626,
    0.11283583,
    -0.026853692,
    0.005188074,
    -0.0008007878,
    7.846108e-05,
)
# log(erfc(x)), x in [1, 4]: degree 8, absolute error 2^-26.31.
_LOG_ERFC = (
    0.0002910549,
    -1.1301199,
    -0.63201296,
    -0.10991029,
    0.026327891,
    -0.004727832,
    0.0005902361,
    -4.5302164e-05,
    1.6000295e-06,
)


def erf(x: Expr) -> Expr:
    """The error function; +-1 at infinity, erf(-0) is -0.

    A polynomial up to 1; 1 - exp(log(erfc(x))) above, where erfc is below 0.16, so that its error
    of three half-units counts a quarter of a unit.
    """
    a = ir.fabs(x)
    small = ir.fma(a, polynomial(a * a, _ERF), a)
    k = reduce(polynomial(ir.select(a > c(4.0), c(4.0), a), _LOG_ERFC))
    large = ir.fma(-exp_reduced(k), k.power(), c(1.0))
    return scalar.copysign(ir.select(a >= c(1.0), large, small), x)
