"""What an oracle says and how a result is held against it: `Reference`, `Verdict`, `Judge`.

The classes of bounds are in `bounds`; here is what they share: NaN, infinities, zeros, the
rounding of 16-bit results, and the rigorous decision where float64 is too close to a bound.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import ball
from .ulp import FLOAT32, FLOAT64, Format, format_of, round_to, ulp

__all__ = ["BoundJudge", "Judge", "Reference", "Verdict", "shape_problem", "witness_text"]

F64 = NDArray[np.float64]
Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Reference:
    """The result an op should give.

    Attributes:
        value: For a floating result the exact value as float64 (shape of the result); for an
            integer or bool result the result itself.
        dtype: The dtype the result must have.
        low: The exact value is ``value + low`` up to `slack`; None means zeros.
        slack: |exact - (value + low)| at most, absolute, scalar or shape of the result.
        magnitude: Sum of the absolute terms, |A| |B| of an accumulation; for the other classes
            the error coefficient in units of u that `bounds` names.  float64, shape of the result.
        per_ulp: Error coefficient that each ulp of the elementary functions used adds, in units
            of u times two (one ulp is at most 2u); None means zeros.
        second: Error coefficient in units of u squared, for the two-pass variance.
        underflow: How many times the error of one underflow reaches the result, at most; None
            means `terms` times.
        stored: For a composition whose 16-bit results are stored: what `magnitude` is if sums
            accumulate in float32 and are rounded once, in units of the 16-bit u.
        stored_terms: Stored results on the longest path.
        terms: Number of terms K of an accumulation or factors of a product, of operations on
            the longest path for the other classes.
        independent: Elements whose rounding errors are independent of each other's, where not
            all are (a scan's are not); only they count in statistics.
        exact: Decides near a bound: flat index to the Arb ball of the exact value; None where
            `value`, `low` and `slack` suffice.
        alternatives: Other results that the specification allows, element by element.
        signed: Elements at which a zero has the sign of `value`, for the classes that do not ask
            it of all; None where of none.
        undefined: Elements with no specified result; anything is accepted there, and they do
            not count as judged.
    """

    value: Array
    dtype: np.dtype[Any]
    low: F64 | None = None
    slack: Any = 0.0
    magnitude: F64 | None = None
    per_ulp: F64 | None = None
    second: F64 | None = None
    underflow: F64 | None = None
    stored: F64 | None = None
    stored_terms: int = 0
    terms: Any = 1
    independent: Mask | None = None
    exact: Callable[[int], ball.Ball] | None = None
    alternatives: tuple[Array, ...] = ()
    signed: Mask | None = None
    undefined: Mask | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def format(self) -> Format | None:
        return format_of(self.dtype)

    def rounded(self) -> Array:
        """The reference correctly rounded to its dtype."""
        fmt = self.format
        if fmt is None:
            return self.value.astype(self.dtype)
        return round_to(self.value, fmt, self.low)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check.

    Attributes:
        ok: Whether every element is within its bound.
        worst_error: The largest error found, in `unit` (inf for a wrong NaN, infinity, dtype...).
        bound: The bound that held for the element of the largest error, in `unit`.
        unit: ``"ulp"``, ``"u|A||B|"``, ``"u"`` (relative), ``"mismatches"``, ...
        witness_index: Index of the element that is furthest beyond (or nearest) its bound.
        message: One line: what is wrong, with the witness; empty where nothing is.
        decided: Number of elements that could have failed; 0 means the check was vacuous.
        check: Which check spoke, ``"elements"`` or, for accumulations, ``"bias"``/``"variance"``.
        passed: Which elements are within their bounds; None where that is not said.
    """

    ok: bool
    worst_error: float
    bound: float
    unit: str
    witness_index: tuple[int, ...] | None
    message: str
    decided: int
    check: str = "elements"
    passed: Mask | None = field(default=None, compare=False, repr=False)


class Judge(abc.ABC):
    """Holds results of one op, dtype and set of options against references."""

    @abc.abstractmethod
    def check(self, got: Array, ref: Reference) -> Verdict:
        """The verdict on `got`, a NumPy array of the reference's shape and dtype."""


def shape_problem(got: Array, ref: Reference, unit: str) -> Verdict | None:
    """A failing verdict where shape or dtype is wrong, else None."""
    if got.shape != ref.shape:
        text = f"shape {got.shape}, expected {ref.shape}"
    elif got.dtype != ref.dtype:
        text = f"dtype {got.dtype}, expected {ref.dtype}"
    else:
        return None
    return Verdict(False, float("inf"), 0.0, unit, None, text, max(1, got.size))


def witness_text(got: Array, ref: Reference, flat: int) -> str:
    """`` at (0, 3): got X, expected Y``, floats in full and in hexadecimal."""
    index = tuple(int(i) for i in np.unravel_index(flat, ref.shape))
    actual, wanted = got.reshape(-1)[flat], ref.value.reshape(-1)[flat]
    if ref.format is None:
        return f"at {index}: got {actual!s}, expected {wanted!s}"
    a, w = float(actual), float(wanted)
    return f"at {index}: got {a!r} ({a.hex()}), expected {w!r} ({w.hex()})"


@dataclass(frozen=True)
class BoundJudge(Judge):
    """An error bound per element; subclasses say how large and in which unit.

    An element passes where |got - exact| <= tolerance, the rounding to a 16-bit result coming
    on top exactly: got must lie between the roundings of exact -+ tolerance, as rounding is
    monotone.  For a 16-bit result that is computed in float32 (the tolerance b32 being that of
    the float32 computation) this is 0.5 ulp16 + b32 wherever b32 is small against ulp16, and
    without the slack that this sum has beside a power of two.

    An infinite result stands for all numbers from 2^(emax+1) on: it is accepted only where
    exact + tolerance reaches that far, and a finite result where the exact value rounds to
    infinity only if it is within the tolerance.  NaN must meet NaN.

    A result of zero has the sign of the exact value (or of an alternative that is zero) wherever
    `signs` says that this sign is specified.

    A device that flushes subnormals (`subnormals` False) rounds as others do and then takes what
    is below N, the least normal number of float32, as zero; a subnormal and zero are one value to
    it.  So what rounds to |got| < N is right if the exact result, less its tolerance, is below N;
    everything else is judged as always.  Results on the way are the business of `underflow`, and
    operands are that of the caller, who has a reference for flushed ones.

    Attributes:
        fmt: Format of the result.
        compute: Format of the computation.
        subnormals: False for a device that declares that it flushes subnormals to zero.
    """

    fmt: Format
    compute: Format
    subnormals: bool = field(default=True, kw_only=True)

    @property
    def unit(self) -> str:
        return "ulp"

    @abc.abstractmethod
    def tolerance(self, ref: Reference) -> F64:
        """Largest |computed - exact| before the rounding to `fmt`, absolute, shape of the result.

        Where `fmt` is `compute`, the last rounding is included.
        """

    def unit_size(self, ref: Reference) -> F64:
        """Absolute size of the unit in which errors are reported."""
        return ulp(ref.value, self.fmt, ref.low)

    def unpredictable(self, ref: Reference) -> Mask:
        """Elements whose computation may overflow on the way, in some order of evaluation."""
        return np.zeros(ref.shape, bool)

    def signs(self, ref: Reference) -> Mask:
        """Elements at which the sign of a zero is specified."""
        return np.zeros(ref.shape, bool) if ref.signed is None else ref.signed

    def _wrong_zero(self, ours: F64, ref: Reference) -> Mask:
        """Zeros of the wrong sign."""
        negative = np.signbit(ours)
        right = negative == np.signbit(ref.value)
        for other in ref.alternatives:
            right |= (other == 0) & (negative == np.signbit(other.astype(np.float64)))
        return np.asarray((ours == 0) & ~right & np.isfinite(ref.value) & self.signs(ref), np.bool_)

    def underflows(self, count: Any) -> F64:
        """Largest absolute error that `count` operations add where their results underflow.

        Half the least subnormal each; the product with `count` comes first, since float64 holds
        no half of its own least subnormal.
        """
        times = np.asarray(count, np.float64)
        rounding = times * self.compute.tiny / 2
        if self.subnormals:
            return np.asarray(rounding, np.float64)
        return np.asarray(np.maximum(rounding, times * FLOAT32.min_normal), np.float64)

    def check(self, got: Array, ref: Reference) -> Verdict:
        problem = shape_problem(got, ref, self.unit)
        if problem is not None:
            return problem
        if got.size == 0:
            return Verdict(True, 0.0, 0.0, self.unit, None, "", 0)
        with np.errstate(all="ignore"):
            return self._check(got, ref)

    def _check(self, got: Array, ref: Reference) -> Verdict:
        ours = got.astype(np.float64)
        low = np.zeros(ref.shape) if ref.low is None else ref.low
        tolerance = np.broadcast_to(self.tolerance(ref), ref.shape)
        slack = self._slack(ref)
        error = np.abs((ours - ref.value) - low)
        passed = self._within(ours, ref, low, tolerance, slack, error)
        free = np.zeros(ref.shape, bool) if ref.undefined is None else ref.undefined.copy()
        free |= self.unpredictable(ref)
        settled = same_number(ours, ref.value) | free
        for other in ref.alternatives:
            settled |= same_number(ours, other.astype(np.float64))
        passed |= settled
        error = np.where(settled, 0.0, error)
        error = np.where(np.isnan(error), np.inf, error)
        total = self._total(ref, tolerance)
        self._settle_doubt(ours, ref, tolerance, slack, error, passed)
        if not self.subnormals:
            least = FLOAT32.min_normal
            passed |= (np.abs(ours) < least) & (np.abs(ref.value) - tolerance - slack < least)
        wrong = self._wrong_zero(ours, ref)
        error = np.where(wrong & ~free, np.inf, error)
        passed &= ~wrong
        passed |= free
        return self._verdict(got, ref, error, total, passed, int((~free).sum()))

    def _slack(self, ref: Reference) -> F64:
        slack = np.broadcast_to(np.asarray(ref.slack, np.float64), ref.shape)
        if self.fmt is FLOAT64:  # low cannot hold what lies under the least subnormal
            slack = slack + np.where(np.abs(ref.value) < 2.0**-900, FLOAT64.tiny, 0.0)
        return slack

    def _within(
        self, ours: F64, ref: Reference, low: F64, tolerance: F64, slack: F64, error: F64
    ) -> Mask:
        value = ref.value
        if self.fmt is not self.compute:
            below = round_to(value + (low - tolerance - slack), self.fmt).astype(np.float64)
            above = round_to(value + (low + tolerance + slack), self.fmt).astype(np.float64)
            inside = (below <= ours) & (ours <= above)
        else:
            inside = error <= tolerance + slack
            half = 2.0**self.fmt.emax
            reaches = np.abs(value) / 2 + tolerance / 2 >= half
            inside |= np.isinf(ours) & reaches & (np.sign(ours) == np.sign(value))
        finite = np.isfinite(value)
        return np.asarray(np.where(finite, inside, same_number(ours, value)), np.bool_)

    def _total(self, ref: Reference, tolerance: F64) -> F64:
        if self.fmt is self.compute:
            return tolerance
        return tolerance + ulp(np.abs(ref.value) + tolerance, self.fmt) / 2

    def _settle_doubt(
        self, ours: F64, ref: Reference, tolerance: F64, slack: F64, error: F64, passed: Mask
    ) -> None:
        """Arb decides the elements that the slack of the float64 reference leaves open."""
        if ref.exact is None or self.fmt is not self.compute:
            return
        doubt = np.isfinite(ours) & np.isfinite(tolerance)
        doubt &= (np.abs(error - tolerance) <= slack) & (slack > 0) | np.isinf(ref.value)
        for flat in np.flatnonzero(doubt):
            exact = ref.exact(int(flat))
            if not exact.is_finite():
                continue
            passed.reshape(-1)[flat] = ball.within(
                float(ours.reshape(-1)[flat]), exact, float(tolerance.reshape(-1)[flat])
            )

    def _verdict(
        self, got: Array, ref: Reference, error: F64, total: F64, passed: Mask, decided: int
    ) -> Verdict:
        ratio = np.where(passed, np.minimum(error / np.where(total > 0, total, 1.0), 1.0), np.inf)
        ratio = np.where(np.isnan(ratio), 0.0, ratio)
        ok = bool(passed.all())
        flat = int(np.argmax(ratio if ok else np.where(passed, -1.0, _order(error, total))))
        size = np.broadcast_to(self.unit_size(ref), ref.shape).reshape(-1)[flat]
        size = float(size) if np.isfinite(size) and size > 0 else 1.0
        worst = float(error.reshape(-1)[flat]) / size
        bound = float(total.reshape(-1)[flat]) / size
        text = ""
        if not ok:
            text = f"{int((~passed).sum())} of {got.size} beyond the bound; {worst:.6g} > "
            text += f"{bound:.6g} {self.unit} " + witness_text(got, ref, flat)
        index = tuple(int(i) for i in np.unravel_index(flat, ref.shape))
        return Verdict(ok, worst, bound, self.unit, index, text, decided, passed=passed)


def _order(error: F64, total: F64) -> F64:
    ratio = error / np.where(total > 0, total, np.finfo(np.float64).tiny)
    return np.asarray(np.where(np.isnan(ratio), np.inf, ratio))


def same_number(a: F64, b: F64) -> Mask:
    """Equal as numbers (zeros of both signs are), or both NaN."""
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)), np.bool_)
