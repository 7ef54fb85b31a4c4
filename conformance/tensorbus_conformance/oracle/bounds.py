"""The error model: one judge per class of the design's list, each with its derivation.

u = 2^-p is the unit roundoff of the format of the computation; every basic operation returns
(exact)(1 + d) + e with |d| <= u, |e| <= half the least subnormal, d e = 0 (Higham, Accuracy and
Stability of Numerical Algorithms, 2nd ed., section 2.2 and (2.8)).  gamma(n) = n u / (1 - n u)
bounds |(1 + d1)...(1 + dn) - 1| (Lemma 3.1 there).  Constants come from these derivations alone;
any order of summation is allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ulp import FLOAT32, Format, format_of, round_to, ulp
from .verdict import BoundJudge, Judge, Reference, Verdict, same_number, shape_problem, witness_text

__all__ = [
    "AccumulationJudge",
    "CoefficientJudge",
    "ExactJudge",
    "NATIVE_ULPS",
    "ProductJudge",
    "RoundedJudge",
    "UlpJudge",
    "VarianceJudge",
    "gamma",
    "native_ulps",
    "without_statistics",
]

F64 = NDArray[np.float64]
Array = NDArray[Any]
Mask = NDArray[np.bool_]

NATIVE_ULPS: dict[str, dict[str, float]] = {
    # OpenCL C 3.0 specification, section 7.4, full profile: (single precision, double precision).
    name: {"float32": single, "float64": double}
    for name, single, double in [
        ("acos", 4, 4),
        ("acosh", 4, 4),
        ("asin", 4, 4),
        ("asinh", 4, 4),
        ("atan", 5, 5),
        ("atan2", 6, 6),
        ("atanh", 5, 5),
        ("cos", 4, 4),
        ("cosh", 4, 4),
        ("erf", 16, 16),
        ("exp", 3, 3),
        ("exp2", 3, 3),
        ("expm1", 3, 3),
        ("hypot", 4, 4),
        ("log", 3, 3),
        ("log10", 3, 3),
        ("log1p", 2, 2),
        ("log2", 3, 3),
        ("pow", 16, 16),
        ("rsqrt", 2, 2),
        ("sin", 4, 4),
        ("sinh", 4, 4),
        ("tan", 5, 5),
        ("tanh", 5, 5),
        # Not in OpenCL.  sigmoid = 1/(1 + exp(-x)): exp 3 ulp (6u relative, scaled by
        # exp(-x)/(1 + exp(-x)) <= 1), the sum 1u, the quotient 1u: 8u <= 8 ulp.
        ("sigmoid", 8, 8),
        # softplus = max(x, 0) + log1p(exp(-|x|)): exp 6u, log1p 2 ulp = 4u and the relative
        # condition of log1p is at most 1, the sum 1u, all terms positive: 11u <= 11 ulp.
        ("softplus", 11, 11),
        # logaddexp = m + log1p(exp(-d)): as softplus, besides the absolute term of its judge.
        ("logaddexp", 11, 11),
    ]
}
NATIVE_ULPS["power"] = NATIVE_ULPS["pow"]


def native_ulps(name: str, fmt: Format) -> float:
    """The ceiling in ulps of `fmt.compute` for a native elementary function.

    Raises KeyError for a function that has none.
    """
    return NATIVE_ULPS[name][fmt.compute.name]


def gamma(n: Any, u: float) -> Any:
    """n u / (1 - n u); inf where n u >= 1."""
    count = np.asarray(n, np.float64) * u
    with np.errstate(all="ignore"):
        return np.where(count < 1, count / (1 - count), np.inf)


@dataclass(frozen=True)
class ExactJudge(Judge):
    """Class 1: movement, comparison, integers, rounding, min and max, remainder, floor_divide.

    The result is a function of the inputs with no rounding left open, so it must be equal; NaN
    equals NaN whatever sign and payload.  Signs of zero count unless `zero_signs` is False.

    A remainder or a floored quotient that the dtype cannot hold is correctly rounded, which is
    also a function of the inputs alone; 16-bit dtypes compute in float32, so the rounding by way
    of float32 is accepted beside the direct one, unless `twice` is False: a conversion computes
    nothing, and the element itself is rounded.

    On a device that flushes subnormals (`subnormals` False) a number below float32's least normal
    one and the zero of its sign are one value, and a result counts as below if the exact one is,
    even if it rounds up to that number (IEEE 754, 7.5 leaves "tiny" before or after rounding).
    """

    zero_signs: bool = True
    subnormals: bool = True
    twice: bool = field(default=True, kw_only=True)

    def check(self, got: Array, ref: Reference) -> Verdict:
        problem = shape_problem(got, ref, "mismatches")
        if problem is not None:
            return problem
        others = [replace(ref, value=other, low=None) for other in ref.alternatives]
        passed = np.zeros(ref.shape, bool)
        for candidate in (ref, *others):
            through = _through_float32(candidate) if self.twice else []
            for wanted in (candidate.rounded(), *through):
                passed |= self._equal(got, wanted)
            if not self.subnormals and ref.format is not None:
                passed |= _tiny(candidate) & self._equal(got, np.copysign(0.0, candidate.value))
        free = np.zeros(ref.shape, bool) if ref.undefined is None else ref.undefined
        wrong = ~(passed | free)
        count = int(wrong.sum())
        decided = int((~free).sum())
        if not count:
            return Verdict(True, 0.0, 0.0, "mismatches", None, "", decided, passed=~wrong)
        flat = int(np.argmax(wrong.reshape(-1)))
        index = tuple(int(i) for i in np.unravel_index(flat, ref.shape))
        text = f"{count} of {got.size} differ; " + witness_text(got, ref, flat)
        return Verdict(False, float(count), 0.0, "mismatches", index, text, decided, passed=~wrong)

    def _equal(self, got: Array, wanted: Array) -> Mask:
        if format_of(got.dtype) is None:
            return np.asarray(got == wanted, np.bool_)
        with np.errstate(invalid="ignore"):  # signalling NaN
            a, b = got.astype(np.float64), wanted.astype(np.float64)
        if not self.subnormals:
            a, b = flushed(a), flushed(b)
        equal = same_number(a, b)
        if self.zero_signs:
            equal &= np.isnan(a) | (np.signbit(a) == np.signbit(b))
        return equal


def flushed(x: F64) -> F64:
    """Numbers below float32's least normal one as zeros of their sign."""
    return np.asarray(np.where(np.abs(x) < FLOAT32.min_normal, np.copysign(0.0, x), x))


def _tiny(ref: Reference) -> Mask:
    """Where the exact result lies below float32's least normal number."""
    low = np.zeros(ref.shape) if ref.low is None else ref.low
    size, inward = np.abs(ref.value), low * np.sign(ref.value) < 0
    least = FLOAT32.min_normal
    return np.asarray((size < least) | ((size == least) & inward), np.bool_)


def _through_float32(ref: Reference) -> list[Array]:
    fmt = ref.format
    if fmt is None or fmt.compute is fmt:
        return []
    return [round_to(round_to(ref.value, FLOAT32, ref.low), fmt)]


@dataclass(frozen=True)
class RoundedJudge(ExactJudge):
    """Class 2: + - * / sqrt, square, reciprocal and conversions: correctly rounded.

    IEEE 754 requires it, so equality is asked.  A 16-bit result is computed in float32 and
    rounded once more: for p = 24 >= 2 * 11 + 2 the second rounding is innocuous (Figueroa, When is
    double rounding innocuous?, 1995) except among bfloat16's subnormals, whose range is that of
    float32; there the double rounding is accepted beside the direct one.
    A device that declares a division or square root of more `ulps` is held to `UlpJudge` instead.
    """

    ulps: float = 0.5

    def check(self, got: Array, ref: Reference) -> Verdict:
        fmt = ref.format
        if fmt is None or self.ulps <= 0.5:
            return super().check(got, ref)
        return UlpJudge(fmt, fmt.compute, self.ulps, subnormals=self.subnormals).check(got, ref)


@dataclass(frozen=True)
class UlpJudge(BoundJudge):
    """Class 3: transcendental functions, `bound` ulps of the exact result.

    |got - exact| <= bound * ulp(exact) + absolute, with ulp of the computation's format, and the
    rounding to a 16-bit result on top (see BoundJudge).  `bound` is the portable library's own
    claim or, for a native kernel, the OpenCL ceiling.  `absolute` is for results near a root of a
    composition with cancellation (logaddexp), in units of u times `Reference.magnitude`.  Where
    subnormals are flushed the inner term of such a composition may vanish: less than the least
    normal number is lost.

    A zero has the sign of the exact value: C17 Annex F and the array API say so of exact zeros
    (expm1(-0), atan2(-0, 1), pow(-0, 3)), and what underflows keeps its sign.  Not where
    `absolute` lets the sum of two terms vanish, and on a device that flushes for exact zeros only.
    A bound below 1/2 ulp makes no sense and is refused with ValueError.
    """

    bound: float = 0.5
    absolute: float = 0.0

    def __post_init__(self) -> None:
        if not self.bound >= 0.5:
            raise ValueError(f"a bound of {self.bound} ulp is below correct rounding")

    def tolerance(self, ref: Reference) -> F64:
        tolerance = self.bound * ulp(ref.value, self.compute, ref.low)
        if self.absolute and ref.magnitude is not None:
            tolerance = tolerance + self.absolute * self.compute.u * ref.magnitude
            if not self.subnormals:
                tolerance = tolerance + self.underflows(1)
        return tolerance

    def signs(self, ref: Reference) -> Mask:
        if self.absolute:
            return np.zeros(ref.shape, bool)
        return np.asarray(self.subnormals | (ref.value == 0), np.bool_)


@dataclass(frozen=True)
class AccumulationJudge(BoundJudge):
    """Class 4: sum, mean, dot products, matmul: K terms, element by element and statistically.

    *Elements.*  In any order of K terms each term passes through at most K roundings (its product
    and K - 1 additions; fewer with fma or in a tree), so |error| <= gamma(K) (|A| |B|) with the
    sum of the absolute terms `magnitude` (Higham, section 3.1), and K underflows of products
    add K times half the least subnormal (sums underflow without error).  `extra` counts further
    roundings of the whole result (1 for the division of a mean).  Where subnormals are flushed,
    K products and K sums lose less than the least normal number each.
    Where the magnitude itself overflows, some order overflows on the way: not judged.

    *Statistics*, on random data (`statistics`), as TOSA's DOT_PRODUCT check does.  Roundings to
    nearest have errors d_i of mean 0 and |d_i| <= u, uniform within the last place, so their
    variance is at most u^2/3 relative to the partial sum they round, which is at most the
    magnitude M.  With K roundings V = (K/3)(u M)^2 bounds the variance of one element's error; the
    final rounding to a 16-bit dtype adds ulp^2/12.  Over T elements z = error/sqrt(V):
    |sum z| <= 6 sqrt(T), the same for z times the sign of the result (6 sigma of a normal sum,
    probability below 2e-9), and sum z^2 <= T + 6 sqrt(2 T) (V is an upper bound, so the first T
    alone is generous; the rest is 6 sigma of a sum of squares).  Rounding towards zero has mean
    error -u/2 to -u per operation and fails the first, inputs cut to TF32 or a bfloat16
    accumulator fail the second, although both may keep the worst-case bound.
    Equal reference values are counted once, since their errors are not independent.
    """

    statistics: bool = True
    extra: int = 0

    MINIMUM = 32
    """Elements below which statistics say nothing."""

    @property
    def unit(self) -> str:
        return "u|A||B|"

    def unit_size(self, ref: Reference) -> F64:
        return self.compute.u * _magnitude(ref)

    def tolerance(self, ref: Reference) -> F64:
        terms = np.maximum(np.asarray(ref.terms, np.float64), 1)
        bound = gamma(terms + self.extra, self.compute.u) * _magnitude(ref)
        count = (terms if self.subnormals else 2 * terms) + self.extra
        return np.asarray(bound + self.underflows(count), np.float64)

    def unpredictable(self, ref: Reference) -> Mask:
        return _may_overflow(ref, self.compute)

    def _check(self, got: Array, ref: Reference) -> Verdict:
        verdict = super()._check(got, ref)
        if not (verdict.ok and self.statistics):
            return verdict
        return self._statistics(got, ref) or verdict

    def normalised(self, got: Array, ref: Reference) -> tuple[F64, F64]:
        """(z, sign of the reference) of the elements that the statistics count."""
        low = np.zeros(ref.shape) if ref.low is None else ref.low
        terms = np.broadcast_to(np.asarray(ref.terms, np.float64) + self.extra, ref.shape)
        magnitude = _magnitude(ref)
        variance = terms / 3 * (self.compute.u * magnitude) ** 2
        if self.fmt is not self.compute:
            variance = variance + ulp(ref.value, self.fmt) ** 2 / 12
        ours = got.astype(np.float64)
        use = np.isfinite(ours) & np.isfinite(ref.value) & np.isfinite(magnitude) & (terms > 1)
        use &= magnitude * self.compute.u > terms * self.compute.tiny * 2**10
        use &= ~self.unpredictable(ref)
        if ref.independent is not None:
            use &= ref.independent
        first = np.zeros(ref.value.size, bool)
        first[np.unique(ref.value, return_index=True)[1]] = True
        use &= first.reshape(ref.shape)
        z = ((ours - ref.value) - low)[use] / np.sqrt(variance[use])
        return z, np.sign(ref.value[use])

    def _statistics(self, got: Array, ref: Reference) -> Verdict | None:
        z, sign = self.normalised(got, ref)
        count = z.size
        if count < self.MINIMUM:
            return None
        limit = 6 * math.sqrt(count)
        for what, total in (("bias", float(z.sum())), ("bias", float((z * sign).sum()))):
            if abs(total) > limit:
                text = f"errors of {count} elements are biased: sum of z {total:.4g} > {limit:.4g}"
                return Verdict(False, abs(total), limit, "sum z", None, text, count, what)
        squares, most = float((z * z).sum()), count + 6 * math.sqrt(2 * count)
        if squares > most:
            text = (
                f"errors of {count} elements are too large: sum of z^2 {squares:.4g} > {most:.4g}"
            )
            return Verdict(False, squares, most, "sum z^2", None, text, count, "variance")
        return None


@dataclass(frozen=True)
class ProductJudge(BoundJudge):
    """Class 5, products: relative error (1 + u)^(n-1) - 1 for n factors in any order.

    n - 1 multiplications round, each by a factor within 1 +- u.  Under- or overflow on the way
    depends on the order: where the product of the magnitudes below (above) one leaves the normal
    range, the element is not judged.  `Reference.magnitude` holds the greater of the two, as
    max(prod max(|x|, 1), 1/prod min(|x|, 1)).  Each multiplication gives zeros the product of the
    signs, so a zero has that of the exact product in any order.
    """

    @property
    def unit(self) -> str:
        return "u"

    def unit_size(self, ref: Reference) -> F64:
        return np.asarray(self.compute.u * np.abs(ref.value), np.float64)

    def tolerance(self, ref: Reference) -> F64:
        count = np.maximum(np.asarray(ref.terms, np.float64) - 1, 0)
        growth = np.expm1(count * math.log1p(self.compute.u))
        return np.asarray(growth * np.abs(ref.value), np.float64)

    def signs(self, ref: Reference) -> Mask:
        return np.ones(ref.shape, bool)

    def unpredictable(self, ref: Reference) -> Mask:
        magnitude = _magnitude(ref)
        limit = 2.0 ** (self.compute.emax - 1)
        return np.asarray((magnitude > limit) & (np.asarray(ref.terms) > 2), np.bool_)


@dataclass(frozen=True)
class CoefficientJudge(BoundJudge):
    """Classes 5 (variance, normalisation), 6 (softmax) and 8 (gradients): running error bounds.

    The reference carries the first-order error bound of the op's formula, in units of u:
    |error| <= u (magnitude + 2 p per_ulp), where `magnitude` sums the roundings of + - * / and
    of reductions, each times its effect on the result, and `per_ulp` the effect of the elementary
    functions, p ulps each (an ulp is at most 2u).  How they are found: `running`; the formulas
    are in the references' docstrings.  With n = `terms` operations along the longest path the
    terms of second order are covered by the factor 1/(1 - n u), as in gamma(n), except those that
    a reference names itself in `second`.  Underflows add half the least subnormal, times the
    reference's `underflow` or n.  Where subnormals are flushed it is the least normal number N,
    and n sums on the path count too: one is tiny only if an operand is below 2^24 N, as it is a
    multiple of the operands' last places, so beside what the products lost before.

    With `stored` the result is of 16 bits and composed of ops: each of them rounds its result to
    16 bits (u of the format, the reference's `stored`), while all sums accumulate in float32, as
    every op of the library does, so the roundings on the way count with float32's u.
    """

    ulps: float = 4.0
    stored: bool = False

    @property
    def unit(self) -> str:
        return "u*coefficient"

    def unit_size(self, ref: Reference) -> F64:
        return np.asarray(self.compute.u * self._coefficient(ref), np.float64)

    def _coefficient(self, ref: Reference) -> F64:
        extra = 0.0 if ref.per_ulp is None else 2 * self.ulps * ref.per_ulp
        if self.stored and ref.stored is not None:
            wide = FLOAT32.u / self.compute.u * _magnitude(ref)
            return np.asarray(ref.stored + extra + wide, np.float64)
        return np.asarray(_magnitude(ref) + extra, np.float64)

    def tolerance(self, ref: Reference) -> F64:
        terms = np.asarray(ref.terms, np.float64)
        if self.stored and ref.stored is not None:
            terms = np.asarray(ref.stored_terms, np.float64)
        u = self.compute.u
        bound = u * self._coefficient(ref) * (1 + gamma(terms, u))
        if ref.second is not None:
            bound = bound + u * u * ref.second
        count = terms if ref.underflow is None else ref.underflow
        count = count if self.subnormals else count + terms
        return np.asarray(bound + self.underflows(count), np.float64)

    def unpredictable(self, ref: Reference) -> Mask:
        if self.stored and ref.stored is not None:
            ref = replace(ref, magnitude=ref.stored)
        return _may_overflow(ref, self.compute)


@dataclass(frozen=True)
class VarianceJudge(BoundJudge):
    """Class 5, variance and standard deviation: the two-pass bound.

    With m' the computed mean, |m' - m| <= gamma(n + 1) A, A = sum |x| / n (class 4), and exactly
    sum (x - m')^2 = S + n (m' - m)^2, S = sum (x - m)^2.  The subtraction rounds once, which the
    square doubles, the square once, the sum at most n - 1 times, the division once, so
    |var' - var| <= [gamma(n + 3) (S + D) + D] / (n - c), D = n (gamma(n + 1) A)^2
    (Chan, Golub and LeVeque, Algorithms for computing the sample variance, 1983, section 3).
    The one-pass formula's error is of order n u sum x^2 / (n - c) and exceeds this once the mean
    is large against the deviation.  The reference holds S / (n - c) as `magnitude` and
    n A^2 / (n - c) as `second`, n as `terms`.

    For a standard deviation (`root`) an error e of the variance v moves the root by at most
    max(sqrt(v + e) - sqrt(v), sqrt(v) - sqrt(max(v - e, 0))), and the root rounds once.
    """

    root: bool = False

    @property
    def unit(self) -> str:
        return "u"

    def unit_size(self, ref: Reference) -> F64:
        return np.asarray(self.compute.u * np.abs(ref.value), np.float64)

    def tolerance(self, ref: Reference) -> F64:
        n = np.asarray(ref.terms, np.float64)
        u = self.compute.u
        variance = _magnitude(ref)
        second = np.zeros(ref.shape) if ref.second is None else ref.second
        shift = gamma(n + 1, u) ** 2 * second
        error = gamma(n + 3, u) * (variance + shift) + shift + self.underflows(2 * n)
        if not self.root:
            return np.asarray(error, np.float64)
        root = np.sqrt(variance)
        # Both differences without cancellation; the second is the greater.
        moved = error / (root + np.sqrt(np.maximum(variance - error, 0)))
        moved = np.where(
            error > variance, np.maximum(root, np.sqrt(variance + error) - root), moved
        )
        return np.asarray(np.where(error > 0, moved, 0.0) + u * (root + moved), np.float64)

    def unpredictable(self, ref: Reference) -> Mask:
        second = np.zeros(ref.shape) if ref.second is None else ref.second
        size = np.asarray(ref.terms) * (_magnitude(ref) + second)
        return np.asarray(
            np.isfinite(ref.value) & ~(size < np.ldexp(1.0, self.compute.emax)), np.bool_
        )


def _magnitude(ref: Reference) -> F64:
    if ref.magnitude is None:
        raise ValueError("this class of bound needs Reference.magnitude")
    return ref.magnitude


def _may_overflow(ref: Reference, compute: Format) -> Mask:
    """The sum of absolute terms exceeds what the format holds, though the inputs are finite."""
    magnitude = _magnitude(ref)
    return np.asarray(np.isfinite(ref.value) & ~(magnitude < np.ldexp(1.0, compute.emax)), np.bool_)


def without_statistics(judge: Judge) -> Judge:
    """The same judge for data on which rounding errors are not independent and unbiased."""
    if isinstance(judge, AccumulationJudge):
        return replace(judge, statistics=False)
    return judge
