"""What every primitive of the scalar IR gives, in exact integer arithmetic.

Elements are Python integers: a float is its bit pattern, an integer its value, a bool 0 or 1.  A
finite float is ``(-1)^sign * m * 2^e``; an operation computes its exact result in that form and
rounds it once, to nearest, ties to even (IEEE 754-2019, 4.3.1).  Nothing here uses floating point.

The rules for integers, conversions and loops are those of the IR's own document.  For a device that
flushes float32 subnormals they are those of docs/order.md; `tiny` is its reading of "tiny".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt
from typing import NamedTuple

__all__ = [
    "FORMATS", "INTEGERS", "Format", "decode", "element", "encode", "is_nan", "nan", "results",
    "wrap",
]  # fmt: skip

Scalar = Callable[..., int]


class Format(NamedTuple):
    """A binary interchange format: width, precision with the hidden bit, range of exponents."""

    bits: int
    precision: int
    emin: int
    emax: int


FORMATS = {
    "float16": Format(16, 11, -14, 15),
    "bfloat16": Format(16, 8, -126, 127),
    "float32": Format(32, 24, -126, 127),
    "float64": Format(64, 53, -1022, 1023),
}
INTEGERS = {f"{k}int{b}".removeprefix("s"): (b, k == "s") for b in (8, 16, 32, 64) for k in "su"}
"""Width and whether signed, by name."""

INF, NAN = -1, -2
"""Stand for the significand of an infinity and of a NaN."""

_LEAST = {"after": (1 << 25) - 1, "before": 1 << 25, "stored": (1 << 25) - 2}
"""Least magnitude that is not tiny, in units of 2^-151, by reading (IEEE 754-2019, 7.5)."""


def decode(x: int, f: Format) -> tuple[int, int, int]:
    """Sign, significand (or `INF`, `NAN`) and exponent of a bit pattern."""
    fraction = x & ((1 << (f.precision - 1)) - 1)
    sign, biased = x >> (f.bits - 1), (x >> (f.precision - 1)) & (2 * f.emax + 1)
    if biased == 2 * f.emax + 1:
        return sign, NAN if fraction else INF, 0
    if biased == 0:
        return sign, fraction, f.emin - f.precision + 1
    return sign, fraction | 1 << (f.precision - 1), biased - f.emax - f.precision + 1


def infinity(sign: int, f: Format) -> int:
    """The bit pattern of an infinity."""
    return sign << (f.bits - 1) | (2 * f.emax + 1) << (f.precision - 1)


def nan(f: Format) -> int:
    """A NaN, which stands for all of them."""
    return infinity(0, f) | 1 << (f.precision - 2)


def is_nan(x: int, f: Format) -> bool:
    """Whether a bit pattern is a NaN."""
    return decode(x, f)[1] == NAN


def encode(sign: int, m: int, e: int, f: Format, tiny: str | None = None) -> int:
    """``(-1)^sign * m * 2^e`` rounded to a bit pattern.

    An inexact quotient or root may be given cut off with its last bit set, if it has at least two
    bits more than the result: then it lies on the right side of every midpoint and bound.

    Args:
        tiny: How tiny results are told, which become zeros; None keeps subnormals.
    """
    top = sign << (f.bits - 1)
    if m == 0:
        return top
    if tiny is not None:
        up = e + 151
        if (m << up if up >= 0 else m) < (_LEAST[tiny] if up >= 0 else _LEAST[tiny] << -up):
            return top
    unit = max(e + m.bit_length() - f.precision, f.emin - f.precision + 1)
    drop = unit - e
    if drop > 0:
        q, rest, half = m >> drop, m & ((1 << drop) - 1), 1 << (drop - 1)
        q += rest > half or (rest == half and q & 1)
    else:
        q = m << -drop
    if q >> f.precision:
        q, unit = q >> 1, unit + 1
    if q < 1 << (f.precision - 1):
        return top | q
    biased = unit + f.precision - 1 + f.emax
    if biased > 2 * f.emax:
        return infinity(sign, f)
    return top | biased << (f.precision - 1) | (q - (1 << (f.precision - 1)))


def _sum(a: tuple[int, int, int], b: tuple[int, int, int], f: Format, tiny: str | None) -> int:
    """The sum of two finite numbers; an exact zero is +0 unless both are negative (6.3)."""
    e = min(a[2], b[2])
    total = sum((-m if s else m) << (x - e) for s, m, x in (a, b))
    if total == 0:
        return (a[0] & b[0]) << (f.bits - 1)
    return encode(int(total < 0), abs(total), e, f, tiny)


def _fma(x: int, y: int, z: int, f: Format, tiny: str | None) -> int:
    (sx, mx, ex), (sy, my, ey), c = decode(x, f), decode(y, f), decode(z, f)
    sign = sx ^ sy
    if NAN in (mx, my, c[1]) or (INF in (mx, my) and 0 in (mx, my)):
        return nan(f)
    if INF in (mx, my):
        return nan(f) if c[1] == INF and c[0] != sign else infinity(sign, f)
    return infinity(c[0], f) if c[1] == INF else _sum((sign, mx * my, ex + ey), c, f, tiny)


def _add(x: int, y: int, f: Format, tiny: str | None) -> int:
    a, b = decode(x, f), decode(y, f)
    if NAN in (a[1], b[1]) or (a[1] == b[1] == INF and a[0] != b[0]):
        return nan(f)
    for s, m, _ in (a, b):
        if m == INF:
            return infinity(s, f)
    return _sum(a, b, f, tiny)


def _mul(x: int, y: int, f: Format, tiny: str | None) -> int:
    (sx, mx, ex), (sy, my, ey) = decode(x, f), decode(y, f)
    if NAN in (mx, my) or (INF in (mx, my) and 0 in (mx, my)):
        return nan(f)
    return infinity(sx ^ sy, f) if INF in (mx, my) else encode(sx ^ sy, mx * my, ex + ey, f, tiny)


def _div(x: int, y: int, f: Format, tiny: str | None) -> int:
    (sx, mx, ex), (sy, my, ey) = decode(x, f), decode(y, f)
    if NAN in (mx, my) or mx == my == INF or mx == my == 0:
        return nan(f)
    if mx == INF or my == 0:
        return infinity(sx ^ sy, f)
    if my == INF or mx == 0:
        return (sx ^ sy) << (f.bits - 1)
    k = f.precision + 3 + max(0, my.bit_length() - mx.bit_length())
    q, rest = divmod(mx << k, my)
    return encode(sx ^ sy, q << 1 | (rest != 0), ex - ey - k - 1, f, tiny)


def _sqrt(x: int, f: Format) -> int:
    sign, m, e = decode(x, f)
    if m == 0:
        return x
    if m == NAN or sign:
        return nan(f)
    if m == INF:
        return x
    k = 2 * f.precision + 4 + (e & 1)
    root = isqrt(m << k)
    return encode(0, root << 1 | (root * root != m << k), ((e - k) >> 1) - 1, f)


def _integral(op: str, x: int, f: Format) -> int:
    """``floor ceil trunc rint``: to an integer of the same sign, zeros included (5.9)."""
    sign, m, e = decode(x, f)
    if m == NAN:
        return nan(f)
    if m == INF or e >= 0:
        return x
    q, rest = m >> -e, m & ((1 << -e) - 1)
    half = 1 << (-e - 1)
    up = {
        "trunc": False, "floor": bool(sign and rest), "ceil": bool(not sign and rest),
        "rint": rest > half or (rest == half and bool(q & 1)),
    }[op]  # fmt: skip
    return encode(sign, q + up, 0, f)


def _flush(x: int, f: Format) -> int:
    """A subnormal as the zero of its sign."""
    sign, m, _ = decode(x, f)
    return sign << (f.bits - 1) if 0 < m < 1 << (f.precision - 1) else x


def _order(op: str, x: int, y: int, f: Format) -> int:
    a, b = decode(x, f), decode(y, f)
    if NAN in (a[1], b[1]):
        return 0
    key = [
        0 if m == 0 else (-1 if s else 1) * (x & ((1 << (f.bits - 1)) - 1))
        for (s, m, _), x in ((a, x), (b, y))
    ]
    return int({"lt": key[0] < key[1], "le": key[0] <= key[1], "eq": key[0] == key[1]}[op])


def _float(op: str, name: str, tiny: str | None) -> Scalar:
    f = FORMATS[name]
    sign, rest = 1 << (f.bits - 1), (1 << (f.bits - 1)) - 1
    if name != "float32":
        tiny = None

    def read(g: Scalar) -> Scalar:
        return g if tiny is None else lambda *xs: g(*(_flush(x, f) for x in xs))

    if op in ("floor", "ceil", "trunc", "rint"):
        return read(lambda x: _integral(op, x, f))
    if op in ("lt", "le", "eq"):
        return read(lambda x, y: _order(op, x, y, f))
    table: dict[str, Scalar] = {
        "add": read(lambda x, y: _add(x, y, f, tiny)),
        "sub": read(lambda x, y: _add(x, y if is_nan(y, f) else y ^ sign, f, tiny)),
        "mul": read(lambda x, y: _mul(x, y, f, tiny)),
        "div": read(lambda x, y: _div(x, y, f, tiny)),
        "fma": read(lambda x, y, z: _fma(x, y, z, f, tiny)),
        "sqrt": read(lambda x: _sqrt(x, f)),
        "neg": lambda x: x ^ sign,
        "abs": lambda x: x & rest,
        "select": lambda c, x, y: x if c else y,
    }
    return table[op]


# -- integers and bools -------------------------------------------------------------------------


def wrap(value: int, bits: int, signed: bool) -> int:
    """`value` modulo 2^bits."""
    low = value & ((1 << bits) - 1)
    return low - (1 << bits) if signed and low >> (bits - 1) else low


def _quotient(a: int, b: int) -> int:
    """Towards zero; 0 where `b` is 0."""
    if b == 0:
        return 0
    q = abs(a) // abs(b)
    return -q if (a < 0) != (b < 0) else q


def _shifted(op: str, a: int, n: int, bits: int) -> int:
    if not 0 <= n < bits:
        return -1 if op == "shr" and a < 0 else 0
    return a << n if op == "shl" else a >> n


def _integer(op: str, bits: int, signed: bool) -> Scalar:
    exact: dict[str, Scalar] = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "mulhi": lambda a, b: (a * b) >> bits,
        "idiv": _quotient,
        "irem": lambda a, b: 0 if b == 0 else a - _quotient(a, b) * b,
        "shl": lambda a, n: _shifted("shl", a, n, bits),
        "shr": lambda a, n: _shifted("shr", a, n, bits),
        "and": lambda a, b: a & b,
        "or": lambda a, b: a | b,
        "xor": lambda a, b: a ^ b,
        "not": lambda a: ~a,
        "neg": lambda a: -a,
        "abs": lambda a: abs(a),
        "select": lambda c, a, b: a if c else b,
    }
    order: dict[str, Scalar] = {
        "lt": lambda a, b: int(a < b),
        "le": lambda a, b: int(a <= b),
        "eq": lambda a, b: int(a == b),
    }
    if op in order:
        return order[op]
    return lambda *xs: wrap(exact[op](*xs), bits, signed)


def _bool(op: str) -> Scalar:
    if op == "not":
        return lambda a: 1 - a
    return _integer(op, 8, False)


# -- conversions --------------------------------------------------------------------------------


def _whole(x: int, f: Format, bits: int, signed: bool) -> int:
    """A float as an integer: cut off, saturated, NaN as 0."""
    sign, m, e = decode(x, f)
    low = -(1 << (bits - 1)) if signed else 0
    high = (1 << (bits - signed)) - 1
    if m == NAN:
        return 0
    if m == INF:
        return low if sign else high
    size = m << e if e >= 0 else m >> -e
    return max(low, min(high, -size if sign else size))


def conversion(source: str, target: str, tiny: str | None = None) -> Scalar:
    """By value, with one rounding: what ``cast`` gives, and what is read and stored."""
    if source == target:
        return lambda x: x
    if source in FORMATS:
        f = FORMATS[source]
        read: Scalar = lambda x: x  # noqa: E731
        if tiny is not None and source == "float32":
            read = lambda x: _flush(x, f)  # noqa: E731
        if target == "bool":
            return lambda x: int(decode(read(x), f)[1] != 0)
        if target in INTEGERS:
            return lambda x: _whole(read(x), f, *INTEGERS[target])
        g, small = FORMATS[target], tiny if (source, target) == ("float64", "float32") else None

        def convert(x: int) -> int:
            sign, m, e = decode(read(x), f)
            if m == NAN:
                return nan(g)
            return infinity(sign, g) if m == INF else encode(sign, m, e, g, small)

        return convert
    if target == "bool":
        return lambda x: int(x != 0)
    if target in INTEGERS:
        return lambda x: wrap(x, *INTEGERS[target])
    g = FORMATS[target]
    return lambda x: encode(int(x < 0), abs(x), 0, g)


def _bits(source: str, target: str) -> Scalar:
    """The same bits under another dtype of the width."""
    width = FORMATS[source].bits if source in FORMATS else INTEGERS[source][0]
    if target in INTEGERS:
        return lambda x: wrap(x, *INTEGERS[target])
    return lambda x: x & ((1 << width) - 1)


def element(op: str, dtype: str, target: str = "", tiny: str | None = None) -> Scalar:
    """The function of one element that a primitive is.

    Args:
        op: Name of the primitive.
        dtype: Of the operands; a 16-bit float is computed as float32 and rounded to 16 bits.
        target: Dtype of the result of ``cast`` and ``bitcast``.
        tiny: None, or how a device that flushes float32 subnormals tells tiny results.

    Raises:
        KeyError: There is no reference for this primitive and dtype.
    """
    if op == "cast":
        return conversion(dtype, target, tiny)
    if op == "bitcast":
        return _bits(dtype, target)
    if dtype == "bool":
        return _bool(op)
    if dtype in INTEGERS:
        return _integer(op, *INTEGERS[dtype])
    if dtype in ("float32", "float64"):
        return _float(op, dtype, tiny)
    inner = _float(op, "float32", tiny)
    widen, narrow = conversion(dtype, "float32"), conversion("float32", dtype)
    if op in ("lt", "le", "eq"):
        return lambda *xs: inner(*map(widen, xs))
    if op == "select":
        return lambda c, *xs: narrow(inner(c, *map(widen, xs)))
    return lambda *xs: narrow(inner(*map(widen, xs)))


def results(function: Scalar, columns: Sequence[Sequence[int]]) -> list[int]:
    """`function` of every row of `columns`; a row that comes again is not computed again."""
    rows = list(zip(*columns, strict=True))
    known = {row: function(*row) for row in dict.fromkeys(rows)}
    return [known[row] for row in rows]
