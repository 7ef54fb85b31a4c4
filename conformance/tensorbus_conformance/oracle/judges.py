"""Makers of judges: from dtype, options and the library's claim to the judge of one family."""

from __future__ import annotations

from typing import Any

from .bounds import (
    AccumulationJudge,
    CoefficientJudge,
    ExactJudge,
    ProductJudge,
    RoundedJudge,
    UlpJudge,
    VarianceJudge,
    native_ulps,
)
from .op import JudgeOf
from .ulp import FLOAT32, Format, format_of
from .verdict import Judge

__all__ = [
    "accumulation",
    "coefficient",
    "converted",
    "exact",
    "product",
    "rounded",
    "ulps",
    "variance",
]

Options = dict[str, Any] | None


def _format(dtype: Any, options: Options = None) -> Format | None:
    wanted = (options or {}).get("dtype")
    return format_of(dtype if wanted is None else wanted)


def exact(
    dtype: Any,
    options: Options = None,
    portable_bound: float | None = None,
    *,
    statistics: bool = True,
    subnormals: bool = True,
) -> Judge:
    """Class 1."""
    return ExactJudge(subnormals=subnormals)


def rounded(
    dtype: Any,
    options: Options = None,
    portable_bound: float | None = None,
    *,
    statistics: bool = True,
    subnormals: bool = True,
) -> Judge:
    """Class 2; `portable_bound` is a device's declared ulps, None or 0.5 for exact rounding."""
    return RoundedJudge(True, subnormals, max(portable_bound or 0.5, 0.5))


def converted(
    dtype: Any,
    options: Options = None,
    portable_bound: float | None = None,
    *,
    statistics: bool = True,
    subnormals: bool = True,
) -> Judge:
    """Class 2 of conversions, which round once."""
    return RoundedJudge(True, subnormals, twice=False)


def ulps(name: str, absolute: bool = False) -> JudgeOf:
    """Class 3 for the elementary function `name`; `absolute` adds the term beside a root."""

    def make(
        dtype: Any,
        options: Options = None,
        portable_bound: float | None = None,
        *,
        statistics: bool = True,
        subnormals: bool = True,
    ) -> Judge:
        fmt = _format(dtype, options)
        if fmt is None:
            return ExactJudge()
        bound = native_ulps(name, fmt) if portable_bound is None else portable_bound
        extra = 2 * bound if absolute else 0.0
        return UlpJudge(fmt, fmt.compute, bound, extra, subnormals=subnormals)

    return make


def accumulation(extra: int = 0) -> JudgeOf:
    """Class 4 with `extra` roundings of the whole result; integers are exact."""

    def make(
        dtype: Any,
        options: Options = None,
        portable_bound: float | None = None,
        *,
        statistics: bool = True,
        subnormals: bool = True,
    ) -> Judge:
        fmt = _format(dtype, options)
        if fmt is None:
            return ExactJudge()
        return AccumulationJudge(fmt, fmt.compute, statistics, extra, subnormals=subnormals)

    return make


def product(
    dtype: Any,
    options: Options = None,
    portable_bound: float | None = None,
    *,
    statistics: bool = True,
    subnormals: bool = True,
) -> Judge:
    """Class 5, products; integers are exact."""
    fmt = _format(dtype, options)
    if fmt is None:
        return ExactJudge()
    return ProductJudge(fmt, fmt.compute, subnormals=subnormals)


def variance(root: bool = False) -> JudgeOf:
    """Class 5, variance, or the standard deviation with `root`."""

    def make(
        dtype: Any,
        options: Options = None,
        portable_bound: float | None = None,
        *,
        statistics: bool = True,
        subnormals: bool = True,
    ) -> Judge:
        fmt = _format(dtype, options)
        if fmt is None:
            raise TypeError(f"a variance of {dtype} is not specified")
        return VarianceJudge(fmt, fmt.compute, root, subnormals=subnormals)

    return make


def coefficient(native: float = 4.0, stored: bool = False) -> JudgeOf:
    """Classes 5, 6 and 8.

    `native` is the ceiling in ulps for the elementary functions of a native kernel.  With
    `stored`, every operation's result is taken to be rounded to the dtype itself (a composition
    of ops, as gradients are), so a 16-bit dtype's own u counts instead of float32's; sums
    accumulate in float32 all the same.  If the call has an option `dtype`, everything is computed
    in that one and converted last, to a narrower dtype with one rounding, to a wider one as it is.
    """

    def make(
        dtype: Any,
        options: Options = None,
        portable_bound: float | None = None,
        *,
        statistics: bool = True,
        subnormals: bool = True,
    ) -> Judge:
        fmt = _format(dtype, options)
        if fmt is None:
            return ExactJudge()
        target = format_of(dtype)
        if stored and target is not None and target.p < fmt.p:
            bound = native if portable_bound is None else portable_bound
            return CoefficientJudge(target, fmt, bound, subnormals=subnormals)
        compute = fmt if stored else fmt.compute
        bound = native if portable_bound is None else portable_bound
        if stored and fmt.compute is FLOAT32 and fmt is not FLOAT32:
            bound = 1.0  # half an ulp for storing the value, the float32 error is far below
        short = stored and fmt.compute is not fmt
        return CoefficientJudge(fmt, compute, bound, short, subnormals=subnormals)

    return make
