"""Sampling the math library against Arb: float64, and the two-argument functions of both dtypes.

`sample` renders a function as a kernel of a loop-style device, compiles it, evaluates it at the
points of `hard_points` and measures every result against a ball that holds the exact value:
|result - exact| / ulp(exact), with ulp(r) = 2**(clamp(floor(log2|r|), emin, emax) - (p-1)).
Infinity counts as 2**(emax+1); a NaN for a number, or the reverse, is an infinite error.

The quotient functions are compared with exact fractions: a result that is not the correctly rounded
one is an infinite error.  For logaddexp the ulp is that of max(|exact|, |max(x, y)| / 4): its two
terms cancel where exp(x) + exp(y) is near 1, and no bound relative to the result can hold there.
"""

from __future__ import annotations

import ctypes
import math
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.clike import Argument, Emitter, assemble
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.mathlib import f64, two
from tensorbus_backends.mathlib.bounds import BOUNDS_F64, BOUNDS_TWO

from . import hard_points
from .oracle import ball
from .oracle.elementwise import TRANSCENDENTAL
from .oracle.ulp import FORMATS, Format

__all__ = ["FLAGS", "Sample", "evaluate", "measure", "sample", "sample_all", "table_markdown"]

FLAGS = (
    "-std=gnu11",
    "-O2",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
)
"""Compiler flags under which the language's arithmetic is IEEE 754's."""

_DIVISION: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "remainder": lambda x, y: x - y * (x // y),
    "fmod": lambda x, y: x - y * math.trunc(x / y),
    "floor_divide": lambda x, y: Fraction(x // y),
}
Body = Callable[..., ir.Expr]
Array = NDArray[Any]


@dataclass(frozen=True)
class Sample:
    """What a sample found.

    Attributes:
        function: Name in the math library.
        dtype: ``"float32"`` or ``"float64"``.
        points: Number of points.
        max_ulp: Greatest error, in ulps.
        witness: Arguments where it occurs.
        result: Result there.
        bound: The claimed greatest error.
        seconds: Time taken.
    """

    function: str
    dtype: str
    points: int
    max_ulp: float
    witness: tuple[float, ...]
    result: float
    bound: float
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the bound holds."""
        return self.max_ulp <= self.bound


def _source(name: str, dtype: dt.DType, arity: int, dialect: Dialect, body: Body) -> str:
    output = body(*(ir.input_(k, dtype) for k in range(arity)))
    ir.validate([output], [dtype] * arity, allow_index=False)
    emitter = Emitter(leaf=lambda node: f"x{node.attr}[l]")
    lines, (result,) = emitter.statements([output])
    inner = "\n".join(
        ["LANES(l, M(0)) {", *("    " + s for s in lines), f"    y[l] = {result};", "}"]
    )
    arguments = [Argument(f"x{k}", dtype) for k in range(arity)]
    arguments.append(Argument("y", dtype, written=True))
    offsets = [1] * (arity + 1)
    kernel = assemble(dialect, name, arguments, 2, inner, tables=emitter.tables, offsets=offsets)
    return dialect.prelude + kernel


def evaluate(body: Body, arguments: Sequence[Array], dialect: Dialect, cc: Sequence[str]) -> Array:
    """Compile `body` with a C compiler and run it on arrays of one float dtype and shape (n,).

    Args:
        body: A function from scalar expressions to a scalar expression of the same dtype.
        arguments: One array per parameter.
        dialect: A loop-style dialect, whose kernel head is a plain C function.
        cc: The compiler's command with its flags, as ``["gcc", *FLAGS]``.

    Raises:
        ValueError: The dialect is not of style "loop".
        RuntimeError: The compiler failed; the message is its own.
    """
    if dialect.style != "loop":
        raise ValueError(f"dialect {dialect.name!r} is not of style 'loop': use the cpu device's")
    columns = [np.ascontiguousarray(a) for a in arguments]
    out = np.empty_like(columns[0])
    source = _source("tb_sample", dt.from_numpy(out.dtype), len(columns), dialect, body)
    kernel = _compiled(source, tuple(cc))
    buffers = (ctypes.c_void_p * (len(columns) + 1))(
        *(a.ctypes.data for a in columns), out.ctypes.data
    )
    meta = (ctypes.c_int64 * 2)(len(out), 0)
    kernel(buffers, meta, ctypes.c_int64(0), ctypes.c_int64(1))
    return out


@cache
def _compiled(source: str, cc: tuple[str, ...]) -> Any:
    with tempfile.TemporaryDirectory(prefix="tensorbus-sample-") as folder:
        path = Path(folder) / "sample.c"
        path.write_text(source)
        library = path.with_suffix(".so")
        command = [*cc, "-shared", "-fPIC", str(path), "-o", str(library), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{cc[0]} rejected a sample kernel:\n{done.stderr[:2000]}")
        # The loaded library outlives its file.
        return ctypes.CDLL(str(library)).tb_sample


@cache
def _power(exponent: int) -> Any:
    return arb(2) ** exponent


def _unit_exponent(exact: Any, fmt: Format) -> int:
    """Exponent of ulp(exact) for a finite nonzero ball."""
    size = abs(exact)
    mantissa, exponent = size.mid().man_exp()
    top = int(exponent) + int(mantissa).bit_length() - 1
    # The midpoint may have been rounded up to the power of two that the exact value lies below.
    if size < _power(top):
        top -= 1
    return max(fmt.emin, min(fmt.emax, top)) - (fmt.p - 1)


def _error(got: float, exact: Any, fmt: Format, scale: Any = None) -> float:
    if not exact.is_finite() or got != got:
        return 0.0 if got != got and exact.is_nan() else math.inf
    if exact.is_zero():
        return 0.0 if got == 0 else math.inf
    limit = _power(fmt.emax + 1)
    if math.isinf(got):
        if (exact > 0) != (got > 0):
            return math.inf
        if abs(exact) > limit:
            return 0.0
        value = limit if got > 0 else -limit
    else:
        value = arb(got)
    unit = _unit_exponent(exact if scale is None else scale, fmt)
    difference = abs(value - exact) * _power(-unit)
    return float(difference.mid()) + float(difference.rad())


def _rounded(value: Fraction, zero: float, fmt: Format) -> float:
    """A fraction correctly rounded; a zero gets the sign of `zero`."""
    if value == 0:
        return math.copysign(0.0, zero)
    size = abs(value)
    top = size.numerator.bit_length() - size.denominator.bit_length()
    top -= size < Fraction(2) ** top
    unit = Fraction(2) ** (max(top, fmt.emin) - (fmt.p - 1))
    nearest = round(size / unit) * unit
    number = float(nearest) if nearest < Fraction(2) ** (fmt.emax + 1) else math.inf
    return number if value > 0 else -number


def _division_error(name: str, x: float, y: float, got: float, fmt: Format) -> float:
    exact = _DIVISION[name](Fraction(x), Fraction(y))
    signs = {"remainder": y, "fmod": x, "floor_divide": math.copysign(1.0, x) * y}
    wanted = _rounded(exact, signs[name], fmt)
    if got != wanted or math.copysign(1.0, got) != math.copysign(1.0, wanted):
        return math.inf
    if exact == 0 or math.isinf(got):
        return 0.0
    top = math.frexp(got)[1] - 1
    unit = Fraction(2) ** (max(top, fmt.emin) - (fmt.p - 1))
    return float(abs(Fraction(got) - exact) / unit)


def measure(name: str, arguments: Sequence[Array], results: Array) -> NDArray[np.float64]:
    """Error of every result in ulps, float64 of shape (n,), as the head of this module defines it.

    Args:
        name: A function of the math library.
        arguments: Finite arguments, one array per parameter, in the dtype of the results.
        results: What an implementation gave.
    """
    fmt = FORMATS[str(results.dtype)]
    rows = zip(*(a.astype(np.float64).tolist() for a in arguments), strict=True)
    with np.errstate(invalid="ignore"):
        values = results.astype(np.float64).tolist()
    errors = np.empty(len(values))
    if name in _DIVISION:
        for i, ((x, y), got) in enumerate(zip(rows, values, strict=True)):
            errors[i] = _division_error(name, x, y, got, fmt)
        return errors
    function = TRANSCENDENTAL[name][1]
    for i, (row, got) in enumerate(zip(rows, values, strict=True)):
        exact = ball.accurate(function, *row)
        with ball.precision(200):
            scale = None
            if name == "logaddexp":
                floor = arb(max(row)) / 4
                scale = floor if abs(floor) > abs(exact) else exact
            errors[i] = _error(got, exact, fmt, scale)
    return errors


def sample(
    function: str,
    dialect: Dialect,
    cc: Sequence[str],
    points: int = 100_000,
    seed: int = 0,
    *,
    dtype: str = "float64",
    body: Body | None = None,
) -> Sample:
    """Measure a function of the math library, or another `body`, at seeded points.

    Args:
        function: A one-argument function (float64) or a two-argument function (either dtype).
        dialect: A loop-style dialect.
        cc: The compiler's command with its flags, as ``["gcc", *FLAGS]``.
        points: Least number of points; they depend on the seed, the function and the dtype alone.
        seed: Any integer.
        dtype: ``"float64"``, or ``"float32"`` for the two-argument functions.
        body: The implementation; the math library's by default.

    Raises:
        ValueError: The function is unknown for this dtype, or the dialect is not of style "loop".
        RuntimeError: The compiler failed.
    """
    pair = (function, dtype)
    if pair not in BOUNDS_TWO and (dtype != "float64" or function not in BOUNDS_F64):
        names = [*BOUNDS_F64, *dict.fromkeys(n for n, _ in BOUNDS_TWO)]
        raise ValueError(f"nothing to sample for {function!r} in {dtype}; there are {names}")
    bound = BOUNDS_TWO[pair] if pair in BOUNDS_TWO else BOUNDS_F64[function]
    if body is None:
        body = getattr(two if pair in BOUNDS_TWO else f64, function)
    start = time.perf_counter()
    arguments = hard_points.points(function, points, seed, FORMATS[dtype])
    results = evaluate(body, arguments, dialect, cc)
    errors = measure(function, arguments, results)
    worst = int(np.argmax(errors))
    return Sample(
        function,
        dtype,
        len(errors),
        float(errors[worst]),
        tuple(float(a[worst]) for a in arguments),
        float(results[worst]),
        bound,
        time.perf_counter() - start,
    )


def sample_all(
    dialect: Dialect, cc: Sequence[str], points: int = 100_000, seed: int = 0
) -> Iterable[Sample]:
    """Every function in turn: one-argument float64, then two-argument float32 and float64."""
    for name in BOUNDS_F64:
        yield sample(name, dialect, cc, points, seed)
    for name, dtype in BOUNDS_TWO:
        yield sample(name, dialect, cc, points, seed, dtype=dtype)


def table_markdown(samples: Iterable[Sample], seed: int) -> str:
    """The committed table ``docs/ulps-float64.md``."""
    lines = [
        "# Sampled errors of the math library",
        "",
        "One-argument functions in float64, two-argument functions in float32 and float64, against",
        f"Arb balls (seed {seed}; regions in `conformance/tensorbus_conformance/hard_points.py`).",
        "An ulp is that of the exact result; for logaddexp, of the larger of the exact result and",
        "`|max(x, y)| / 4`. remainder, fmod and floor_divide are compared with exact fractions;",
        "every result must be the correctly rounded one. The witness is where the greatest error",
        "occurred. Written by `table_markdown(sample_all(dialect, cc, points, seed), seed)` of",
        "`tensorbus_conformance.sampled64`, with gcc and the flags in its `FLAGS`.",
        "",
        "| function | dtype | points | max ulp | bound | witness |",
        "|---|---|---:|---:|---:|---|",
    ]
    for s in samples:
        witness = ", ".join(f"`{w.hex()}`" for w in s.witness)
        lines.append(
            f"| {s.function} | {s.dtype} | {s.points:,} | {s.max_ulp:.4f} | {s.bound:g} "
            f"| {witness} |"
        )
    return "\n".join(lines) + "\n"
