"""All 2**32 inputs of a float32 function of the math library, held against float64.

`sweep` renders the function's body as a kernel of a loop-style device, puts a C loop around it
that compares every result with the C library's float64 function, and reports the greatest error
in ulps, its input, and how often the result was not the correctly rounded one.  The float64
reference is good to a few of its own ulps, 2**-27 ulp of float32; results so close to the bound or
to a rounding boundary that this could matter are decided by Arb (`oracle.ball`).

The measure: |result - exact| / 2**(clamp(floor(log2|exact|), -126, 127) - 23), where infinity
and every exact value beyond count as 2**128.  A NaN or a zero's sign that is wrong, and a finite
result at a pole, are infinite errors.
"""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cffi import FFI
from flint import arb
from tensorbus_backends import dtypes as dt, ir, mathlib
from tensorbus_backends.clike import Argument, Emitter, assemble
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.mathlib.bounds import BOUNDS_F32

from .oracle import ball
from .oracle.elementwise import TRANSCENDENTAL

__all__ = ["FLAGS", "FUNCTIONS", "Body", "Sweep", "render", "sweep", "table_markdown"]

Body = Callable[[ir.Expr], ir.Expr]

FLAGS = (
    "-std=gnu11",
    "-O2",
    "-ftree-vectorize",
    "-fvect-cost-model=dynamic",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
)
"""The cpu device's flags: what is swept is what runs."""

_REFERENCES = {
    "sigmoid": "x64 < 0 ? exp(x64) / (1 + exp(x64)) : 1 / (1 + exp(-x64))",
    "softplus": "x64 > 0 ? x64 + log1p(exp(-x64)) : log1p(exp(x64))",
}
_ODD = frozenset({"sin", "tan", "asin", "atan", "sinh", "tanh", "asinh", "atanh", "erf"})
_EVEN = frozenset({"cos", "cosh"})
FUNCTIONS = tuple(BOUNDS_F32)
"""Names of the functions that can be swept."""

_BLOCK = 2048
_CAPACITY = 1 << 16
_TYPES = """
typedef struct {
    double worst; uint64_t checked, wrong, doubtful; uint32_t witness, result;
} tb_tally;
void tb_sweep(uint64_t first, uint64_t last, uint64_t step, int mirror, double bound,
              tb_tally *tally, uint32_t *doubtful, uint64_t capacity);
"""

# Values are compared in float64; both windows of doubt are far above the reference's own error.
# Three passes over a block; the second is written in selects of float64, which vectorize.
_DRIVER = """
#define BIG 0x1p128
#define MOST 0x1.fffffep127

static inline f64 tb_error(f64 y, f64 r) {
    const f64 v = y > MOST ? BIG : y < -MOST ? -BIG : y;
    const f64 w = r > BIG ? BIG : r < -BIG ? -BIG : r;
    const u64 rb = as_u64_f64(w), yb = as_u64_f64(y);
    u64 e = rb >> 52 & 0x7ff;
    e = e < 1023 - 126 ? 1023 - 126 : e > 1023 + 127 ? 1023 + 127 : e;
    const f64 error = fabs(v - w) * as_f64_u64((2 * 1023 + 23 - e) << 52);
    const f64 nan_r = r == r ? 0.0 : 1.0, nan_y = y == y ? 0.0 : 1.0;
    f64 lost = nan_r == nan_y ? 0.0 : INFINITY;
    const f64 sign = (i64)(yb ^ rb) < 0 ? INFINITY : 0.0;
    lost = y == 0.0 ? sign : lost;
    const f64 pole = fabs(y) == INFINITY ? 0.0 : INFINITY;
    lost = fabs(r) == INFINITY ? pole : lost;
    const f64 found = r == r ? error : 0.0;
    return lost > 0.0 ? INFINITY : found;
}

static void tb_run(const u32 *bits, f32 *x, f32 *y) {
    void *const buffers[2] = {x, y};
    const i64 meta[2] = {0, 0};
    for (i32 k = 0; k < @BLOCK@; ++k) x[k] = as_f32_u32(bits[k]);
    @KERNEL@(buffers, meta, 0, 1);
}

static void tb_doubt(u32 bits, u32 result, tb_tally *tally, u32 *doubtful, u64 capacity) {
    if (tally->doubtful < capacity) {
        doubtful[2 * tally->doubtful] = bits;
        doubtful[2 * tally->doubtful + 1] = result;
    }
    tally->doubtful += 1;
}

// Judge the first n results y of a block.
static void tb_block(const u32 *bits, i32 n, const f32 *x, const f32 *y, f64 bound,
                     tb_tally *tally, u32 *doubtful, u64 capacity) {
    f64 r[@BLOCK@] LOCAL;
    u64 error[@BLOCK@] LOCAL, unclear[@BLOCK@] LOCAL;
    const f64 near = 0x1p-20 * bound;
    for (i32 k = 0; k < n; ++k) {
        const f64 x64 = x[k];
        r[k] = @REFERENCE@;
    }
    // Errors are not negative: their bits order as they do, and integers vectorize.
    u64 worst = 0, wrong = 0, doubts = 0;
    for (i32 k = 0; k < n; ++k) {
        const f64 y64 = y[k], e = tb_error(y64, r[k]);
        const f64 low = (f32)(r[k] * (1 - 0x1p-48)), high = (f32)(r[k] * (1 + 0x1p-48));
        const f64 close = fabs(e - bound) < near ? 1.0 : 0.0;
        const f64 unsure = low == high ? close : 1.0;
        const f64 doubt = r[k] == r[k] ? unsure : close;
        const f64 differs = y64 == (f64)(f32)r[k] ? 0.0 : 1.0;
        const f64 counted = y64 == y64 ? differs : 0.0;
        const f64 certain = doubt > 0.0 ? 0.0 : counted;
        const u64 bits_of_error = as_u64_f64(e);
        wrong += as_u64_f64(certain) >> 52 & 1;
        doubts += as_u64_f64(doubt) >> 52 & 1;
        unclear[k] = as_u64_f64(doubt);
        error[k] = bits_of_error;
        worst = bits_of_error > worst ? bits_of_error : worst;
    }
    if (as_f64_u64(worst) > tally->worst)
        for (i32 k = 0; k < n; ++k)
            if (error[k] == worst) {
                tally->worst = as_f64_u64(worst); tally->witness = bits[k];
                tally->result = as_u32_f32(y[k]);
            }
    for (i32 k = 0; doubts && k < n; ++k)
        if (unclear[k]) tb_doubt(bits[k], as_u32_f32(y[k]), tally, doubtful, capacity);
    tally->checked += (u64)n;
    tally->wrong += wrong;
}

void tb_sweep(u64 first, u64 last, u64 step, int mirror, f64 bound, tb_tally *tally,
              u32 *doubtful, u64 capacity) {
    f32 x[@BLOCK@] LOCAL, y[@BLOCK@] LOCAL, z[@BLOCK@] LOCAL;
    u32 bits[@BLOCK@] LOCAL;
    const u32 sign = 0x80000000u, flip = mirror < 0 ? sign : 0;
    for (u64 at = first; at < last;) {
        i32 n = 0;
        for (; n < @BLOCK@ && at < last; ++n, at += step) bits[n] = (u32)at;
        for (i32 k = n; k < @BLOCK@; ++k) bits[k] = bits[0];
        const u64 wrong = tally->wrong, doubts = tally->doubtful;
        tb_run(bits, x, y);
        tb_block(bits, n, x, y, bound, tally, doubtful, capacity);
        if (!mirror) continue;
        for (i32 k = 0; k < @BLOCK@; ++k) bits[k] ^= sign;
        tb_run(bits, x, z);
        u32 unlike = 0;
        for (i32 k = 0; k < n; ++k)
            unlike |= ((as_u32_f32(y[k]) ^ flip) != as_u32_f32(z[k])) & (z[k] == z[k]);
        for (i32 k = 0; k < n; ++k) unlike |= (y[k] == y[k]) & (z[k] != z[k]);
        if (unlike) {
            tb_block(bits, n, x, z, bound, tally, doubtful, capacity);
            continue;
        }
        tally->checked += (u64)n;
        tally->wrong += tally->wrong - wrong;
        for (u64 k = doubts, end = tally->doubtful; k < end && k < capacity; ++k)
            tb_doubt(doubtful[2 * k] ^ sign, doubtful[2 * k + 1] ^ flip, tally, doubtful, capacity);
    }
}
"""


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        function: Name in the math library.
        checked: Number of inputs.
        max_ulp: Greatest error, in ulps of the exact result.
        witness: Bits of the input where it occurs.
        result: Bits of the result there.
        wrong: Number of results that are not the correctly rounded ones (NaN apart).
        decided: Number of results that Arb had to decide.
        bound: The claimed greatest error.
        seconds: Time taken.
    """

    function: str
    checked: int
    max_ulp: float
    witness: int
    result: int
    wrong: int
    decided: int
    bound: float
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the bound holds."""
        return self.max_ulp <= self.bound

    @property
    def complete(self) -> bool:
        """Whether every float32 was an input."""
        return self.checked == 1 << 32

    @property
    def wrong_percent(self) -> float:
        """Share of results that are not correctly rounded."""
        return 100.0 * self.wrong / max(self.checked, 1)


def _float(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def render(function: str, dialect: Dialect, body: Body | None = None) -> str:
    """The C file that sweeps a function.

    Args:
        function: A name of `FUNCTIONS`; it chooses the float64 reference.
        dialect: A loop-style dialect, whose kernel head is a plain C function.
        body: The implementation; the math library's by default.

    Raises:
        ValueError: The function has no reference, or the dialect is not of style "loop".
    """
    if function not in FUNCTIONS:
        raise ValueError(f"no float32 function {function!r} to sweep; there are {FUNCTIONS}")
    if dialect.style != "loop":
        raise ValueError(f"dialect {dialect.name!r} is not of style 'loop': use the cpu device's")
    implementation = getattr(mathlib, function) if body is None else body
    output = implementation(ir.input_(0, dt.float32))
    ir.validate([output], [dt.float32], allow_index=False)
    emitter = Emitter(leaf=lambda node: "x[at]")
    lines, (result,) = emitter.statements([output])
    text = "\n".join(
        [
            f"LANES(l, {_BLOCK}) {{",
            f"    const i64 at = g * {_BLOCK} + l;",
            *("    " + line for line in lines),
            f"    y[at] = {result};",
            "}",
        ]
    )
    kernel = assemble(
        dialect,
        f"tb_{function}",
        [Argument("x", dt.float32), Argument("y", dt.float32, written=True)],
        2,
        text,
        tables=emitter.tables,
        offsets=(0, 1),
    )
    driver = (
        _DRIVER.replace("@REFERENCE@", _REFERENCES.get(function, f"{function}(x64)"))
        .replace("@KERNEL@", f"tb_{function}")
        .replace("@BLOCK@", str(_BLOCK))
    )
    return f"{dialect.prelude}\n{kernel}\n#include <math.h>\n#include <stdint.h>\n{_TYPES}{driver}"


def _build(source: str, cc: Sequence[str], folder: Path) -> tuple[FFI, Any]:
    path = folder / "sweep.c"
    path.write_text(source)
    target = folder / "sweep.so"
    command = [*cc, *FLAGS, "-fPIC", "-shared", str(path), "-o", str(target), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        head = "\n".join(done.stderr.splitlines()[:20])
        raise RuntimeError(f"{command[0]} could not compile the sweep; it says:\n{head}")
    ffi = FFI()
    ffi.cdef(_TYPES)
    return ffi, ffi.dlopen(str(target))


def error_in_ulps(function: str, x: float, result: float) -> float:
    """Error of a float32 `result` at a float32 `x` against Arb, in ulps of the exact value.

    Only for finite results of a finite exact value; the result may be an infinity.
    """
    exact = ball.accurate(TRANSCENDENTAL[function][1], x)
    with ball.precision(200):
        # The upper end of the ball: a power of two inside it belongs to the higher binade.
        size = exact.abs_upper()
        exponent = -126
        if not size.is_zero():
            mantissa, power = size.man_exp()
            exponent = min(max(int(power) + int(mantissa).bit_length() - 1, -126), 127)
        return float(abs(arb(_finite(result)) - exact).mid()) * 2.0 ** (23 - exponent)


def _is_rounded(function: str, x: float, result: float) -> bool:
    """Whether `result` is the exact value at `x` rounded to nearest float32, ties to even."""
    exact = ball.accurate(TRANSCENDENTAL[function][1], x)
    even = not int(np.float32(result).view(np.uint32)) & 1
    with ball.precision(200):
        for towards in (-np.inf, np.inf):
            edge = (_finite(result) + _finite(float(np.nextafter(np.float32(result), towards)))) / 2
            distance = (exact - arb(edge)) * (1 if towards > 0 else -1)
            if distance > 0 or (not even and not distance < 0):
                return False
    return True


def _finite(x: float) -> float:
    """`x`, or 2**128 in place of infinity, where float32 would go on if it could."""
    return x if abs(x) != float("inf") else (1.0 if x > 0 else -1.0) * 2.0**128


def sweep(
    function: str,
    dialect: Dialect,
    cc: str | Sequence[str],
    *,
    step: int = 1,
    first: int = 0,
    last: int = 1 << 32,
    body: Body | None = None,
    bound: float | None = None,
    mirror: bool | None = None,
    threads: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Sweep:
    """Compare a float32 function with float64 on every `step`-th bit pattern.

    In a sweep of all inputs the negative half of an odd or even function is compared with the
    positive half, bit by bit, and with float64 where the two differ: the same verdict in half the
    time, since the exact function has the symmetry.

    Args:
        function: A name of `FUNCTIONS`.
        dialect: The dialect of an opened loop-style device.
        cc: The C compiler's command.
        step: 1 for all 2**32 inputs.
        first: First bit pattern.
        last: End of the bit patterns.
        body: The implementation; the math library's by default.
        bound: The claim to hold it to, in ulps; the library's by default.
        mirror: Whether to take the negatives of the inputs along in this way, which must be
            positive; by default in a sweep of all inputs.
        threads: Number of threads; all cores by default.
        progress: Called with the part done, from 0 to 1.

    Raises:
        ValueError: As `render`.
        RuntimeError: The compiler fails, or Arb would have to decide too many cases.
    """
    began = time.perf_counter()
    source = render(function, dialect, body)
    claim = BOUNDS_F32[function] if bound is None else bound
    command = [cc] if isinstance(cc, str) else list(cc)
    chunk = step * max(1, (1 << 24) // step)
    symmetry = -1 if function in _ODD else 1 if function in _EVEN else 0
    if mirror is None:
        mirror = (first, last, step) == (0, 1 << 32, 1)
    symmetry = symmetry if mirror else 0
    end = min(last, 1 << 31) if symmetry else last
    starts = range(first, end, chunk)
    with tempfile.TemporaryDirectory(prefix="tensorbus-sweep-") as folder:
        ffi, library = _build(source, command, Path(folder))

        def run(start: int) -> tuple[Any, list[tuple[int, int]]]:
            tally = ffi.new("tb_tally *")
            pairs = ffi.new("uint32_t[]", 2 * _CAPACITY)
            stop = min(start + chunk, end)
            library.tb_sweep(start, stop, step, symmetry, claim, tally, pairs, _CAPACITY)
            if tally.doubtful > _CAPACITY:
                raise RuntimeError(
                    f"{function}: {tally.doubtful} results from input {start:#010x} on are too "
                    "close to the bound or to a rounding boundary for float64 to decide"
                )
            found = [(pairs[2 * k], pairs[2 * k + 1]) for k in range(tally.doubtful)]
            return tally, found

        tallies: list[Any] = []
        doubtful: list[tuple[int, int]] = []
        with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
            for k, (tally, found) in enumerate(pool.map(run, starts), 1):
                tallies.append(tally)
                doubtful += found
                if progress is not None:
                    progress(k / len(starts))
    return _conclude(function, tallies, doubtful, claim, began)


def _conclude(
    function: str,
    tallies: Iterable[Any],
    doubtful: Sequence[tuple[int, int]],
    claim: float,
    began: float,
) -> Sweep:
    """Join the tallies of the chunks, with Arb's word on the doubtful inputs."""
    every = list(tallies)
    worst = max(every, key=lambda t: float(t.worst))
    max_ulp, witness, result = float(worst.worst), int(worst.witness), int(worst.result)
    if 0.0 < max_ulp < float("inf"):
        max_ulp = error_in_ulps(function, _float(witness), _float(result))
    wrong = sum(int(t.wrong) for t in every)
    for at, got in doubtful:
        error = error_in_ulps(function, _float(at), _float(got))
        wrong += not _is_rounded(function, _float(at), _float(got))
        if error > max_ulp:
            max_ulp, witness, result = error, at, got
    return Sweep(
        function=function,
        checked=sum(int(t.checked) for t in every),
        max_ulp=max_ulp,
        witness=witness,
        result=result,
        wrong=wrong,
        decided=len(doubtful),
        bound=claim,
        seconds=time.perf_counter() - began,
    )


def table_markdown(sweeps: Sequence[Sweep]) -> str:
    """The sweeps as a Markdown table, one line for each."""
    lines = [
        "| function | max ulp | witness input | result there | not correctly rounded | bound |",
        "|---|---|---|---|---|---|",
    ]
    for s in sweeps:
        note = "" if s.complete else f" ({s.checked} inputs only)"
        lines.append(
            f"| {s.function} | {s.max_ulp:.6f}{note} | `{s.witness:#010x}` = "
            f"{_float(s.witness):.9g} | `{s.result:#010x}` = {_float(s.result):.9g} "
            f"| {s.wrong_percent:.3g} % | {s.bound:g} |"
        )
    return "\n".join(lines) + "\n"
