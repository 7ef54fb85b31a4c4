"""Operands on which a wrong primitive shows: made so that the exact result is hard to round.

A sum, product, quotient, root or fma is hard where its exact value lies on a midpoint between two
floats or one tiny bit beside it; such operands are solved for, modulo powers of two.  Beside them:
every special value with every other, every binade, neighbours of powers of two, results that are
subnormal or overflow, integers whose partial products carry.  Floats are bit patterns, as in
`primitives`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

from .primitives import FORMATS, INTEGERS, Format, decode, encode, infinity, wrap

__all__ = ["floats", "integers", "operands", "special_floats", "special_integers"]

Row = tuple[int, ...]


def special_floats(f: Format, few: bool = False) -> list[int]:
    """Bit patterns of zeros, subnormals, edges, infinities, NaNs and small numbers, both signs."""
    one, ulp = encode(0, 1, 0, f), 1
    least, inf = 1 << (f.precision - 1), infinity(0, f)
    found = [0, 1, least - 1, least, one - ulp, one, one + ulp, inf - 1, inf, inf | least >> 1]
    if not few:
        whole = encode(0, 1, f.precision - 1, f)  # from here on there are no fractions
        found += [
            2, 3, least >> 1, least + 1, 2 * least, inf - 2, inf + 1, inf | least - 1,
            encode(0, 1, -1, f), encode(0, 1, -1, f) - 1, encode(0, 3, -1, f), encode(0, 2, 0, f),
            encode(0, 3, 0, f), encode(0, 5, -1, f), encode(0, 10, 0, f), whole - 1, whole,
            whole + 1, whole + least, encode(0, 1, f.emax // 2, f), encode(0, 1, f.emin // 2, f),
        ]  # fmt: skip
    return [x | s << (f.bits - 1) for x in found for s in (0, 1)]


def special_integers(bits: int, signed: bool, few: bool = False) -> list[int]:
    """Limits, zero, powers of two and their neighbours, alternating and half-filled words."""
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    half = bits // 2
    powers = (1, 2, half - 1, half, bits - 2, bits - 1) if few else range(bits)
    near = [(1 << k) + d for k in powers for d in (-1, 0, 1)]
    words = [(1 << bits) // 3, (1 << bits) // 3 * 2, 7, 10, ((1 << half) - 1) << half]
    found = [low, low + 1, high, high - 1, 0, 1, -1, -2, *near, *(-x for x in near), *words]
    return sorted({x for x in found if low <= x <= high})


def integers(bits: int, signed: bool, draw: Random, count: int) -> list[int]:
    """Random integers of all magnitudes."""
    words = (draw.getrandbits(draw.randint(1, bits)) for _ in range(count))
    return [wrap(-x if draw.random() < 0.5 else x, bits, signed) for x in words]


def floats(f: Format, draw: Random, count: int) -> list[int]:
    """Random floats of all exponents and signs."""
    return [draw.getrandbits(f.bits) for _ in range(count)]


def _sign(draw: Random, f: Format) -> int:
    return draw.getrandbits(1) << (f.bits - 1)


def _odd(draw: Random, bits: int) -> int:
    """An odd number of exactly `bits` bits."""
    return 1 if bits == 1 else (1 << (bits - 1)) | draw.getrandbits(bits - 1) | 1


def _near(x: int, f: Format, draw: Random) -> int:
    """`x` or a neighbour of it in magnitude."""
    step = draw.choice((-1, 0, 0, 1))
    return x + step if 0 < (x & ((1 << (f.bits - 1)) - 1)) + step < infinity(0, f) else x


def _exponent(draw: Random, f: Format) -> int:
    """An exponent for a significand of `precision` bits: any, or near either end."""
    low, high = f.emin - f.precision + 1, f.emax - f.precision + 1
    kind = draw.randrange(4)
    if kind == 0:
        return low + draw.randrange(4)
    return high - draw.randrange(3) if kind == 1 else draw.randint(low, high)


def _sums(f: Format, draw: Random) -> Iterator[Row]:
    """Sums on a midpoint or one bit beside it; cancellation; overflow by half an ulp."""
    p = f.precision
    while True:
        m, e = (1 << (p - 1)) | draw.getrandbits(p - 1), _exponent(draw, f)
        if draw.random() < 0.25:
            m = (1 << p) - 1 if draw.random() < 0.5 else 1 << (p - 1)
        a = encode(0, m, e, f)
        b = encode(0, draw.choice((1, 1, 3, 5, (1 << (p - 1)) + 1)), e - 1, f)
        if draw.random() < 0.3:  # as large as `a`: what is left is exact
            b = a + draw.randint(-3, 3)
        s = _sign(draw, f)
        yield a ^ s, _near(max(b, 0), f, draw) ^ _sign(draw, f)
        yield _near(max(b, 0), f, draw) ^ _sign(draw, f), a ^ s


def _tie(p: int, draw: Random) -> tuple[int, int]:
    """Significands whose product, of 2 p bits, lies in the middle between two floats."""
    while True:
        i = draw.randrange(1, p - 1)
        u, v = _odd(draw, p - i), _odd(draw, i + 1)
        if (u * v).bit_length() == p + 1:
            return u << i, v << (p - 1 - i)


def _factors(f: Format, draw: Random) -> tuple[int, int, int]:
    """Significands whose product is hard to round to `drop` bits fewer, and `drop`.

    A tie needs factors with zeros at their ends; beside a tie, the second factor is the inverse
    of the first one modulo 2^drop, times half of that plus a small odd number.
    """
    p = f.precision
    extra = draw.choice((0, 0, 0, draw.randrange(p)))  # bits that a subnormal result loses
    if draw.random() < 0.4:
        return *_tie(p, draw), extra
    drop = p - draw.randrange(2)
    for _ in range(20):
        u = _odd(draw, p)
        d = (1 << (drop - 1)) + draw.choice((-3, -1, 1, 3))
        v = d * pow(u, -1, 1 << drop) % (1 << drop)
        v |= 0 if drop == p else draw.getrandbits(1) << drop
        if v >> (p - 1) == 1:
            return u, v, extra
    return u, (1 << (p - 1)) | draw.getrandbits(p - 1), extra


def _place(total: int, f: Format, draw: Random) -> tuple[int, int]:
    """Two exponents of normal significands with sum `total`, as near as there are."""
    low, high = f.emin - f.precision + 1, f.emax - f.precision + 1
    first = draw.randint(max(low, total - high), max(low, min(high, total - low)))
    first = min(high, max(low, first))
    return first, min(high, max(low, total - first))


def _products(f: Format, draw: Random) -> Iterator[Row]:
    """Products beside a midpoint: normal, subnormal, at the threshold of overflow."""
    p = f.precision
    low, high = f.emin - p + 1, f.emax - p + 1
    while True:
        u, v, extra = _factors(f, draw)
        total = draw.choice(
            (low - p - extra, low - p - extra, high - p, high - p + 1, draw.randint(low, high))
        )
        d, e = _place(total, f, draw)
        yield encode(0, u, d, f) ^ _sign(draw, f), encode(0, v, e, f) ^ _sign(draw, f)


def _quotients(f: Format, draw: Random) -> Iterator[Row]:
    """Quotients beside a midpoint; subnormal ones that are ties; exact ones."""
    p = f.precision
    low, high = f.emin - p + 1, f.emax - p + 1
    while True:
        if draw.random() < 0.4:  # a = b q, with one bit of q too many for a subnormal
            j = draw.randrange(2, p)
            q, b = _odd(draw, j), _odd(draw, p - j)
            e = draw.randint(0, 40)
            place = low - 1 if draw.random() < 0.7 else draw.randint(low, 0)
            yield (
                encode(0, q * b, place + e, f) ^ _sign(draw, f),
                encode(0, b, e, f) ^ _sign(draw, f),
            )
            continue
        b, r = _odd(draw, p), draw.choice((-5, -3, -1, 1, 3, 5))
        k = p + 1
        odd = -r * pow(b, -1, 1 << k) % (1 << k)
        a = (odd * b + r) >> k
        if not (odd >> p and a >> (p - 1) == 1):
            continue
        e = draw.randint(low, high)
        d = max(low, min(high, e + draw.choice((draw.randint(low, high), 0, f.emax, f.emin - e))))
        yield encode(0, a, d, f) ^ _sign(draw, f), encode(0, b, e, f) ^ _sign(draw, f)


def _roots(f: Format, draw: Random) -> Iterator[Row]:
    """Squares plus little, and numbers whose root is beside a midpoint.

    ``y^2 = r (mod 2^k)`` is solved bit by bit for an odd y of p + 1 bits; then ``(y^2 - r) / 2^k``
    has a root ``r / 2y`` away from a midpoint.
    """
    p = f.precision
    while True:
        k = p + draw.choice((1, 2))
        r = 8 * draw.randint(-6, 6) + 1
        y = draw.choice((1, 3, 5, 7))
        for bit in range(3, k):
            if (y * y - r) >> bit & 1:
                y ^= 1 << (bit - 1)
        y = (y if draw.random() < 0.5 else -y) % (1 << k)
        y ^= draw.getrandbits(1) << (k - 1)
        x = (y * y - r) >> k
        e = _exponent(draw, f)
        if y >> p == 1 and x.bit_length() == p and (y * y - r) % (1 << k) == 0:
            yield (encode(0, x, e + ((e + k) & 1), f),)
        root = (1 << (p // 2 - 1)) | draw.getrandbits(p // 2 - 1)
        yield (_near(encode(0, root * root, 2 * (e // 2), f), f, draw),)


def _fused(f: Format, draw: Random) -> Iterator[Row]:
    """Products and addends that two roundings get wrong, in this width or through a wider one."""
    p = f.precision
    low, high = f.emin - p + 1, f.emax - p + 1
    while True:
        s = _sign(draw, f)
        # The product is an odd number of half ulps of the addend, and one bit of 2^-2p beside it.
        u, d = _odd(draw, p), draw.choice((-3, -1, 1, 3))
        v = d * pow(u, -1, 1 << p) % (1 << p)
        if v >> (p - 1) == 1:
            h = (u * v - d) >> p
            tail = (h & -h).bit_length() - 1 if h else 0
            total = draw.randint(low - p, high - 2 * p - 2 - tail)
            d1, e1 = _place(total, f, draw)
            c = (1 << (p - 1)) | draw.getrandbits(p - 1)
            place = d1 + e1 + p + 1 + tail
            if low <= place <= high:
                yield (
                    encode(0, u, d1, f) ^ s, encode(0, v, e1, f),
                    encode(0, c, place, f) ^ _sign(draw, f),
                )  # fmt: skip
        # The product is a tie, and an addend far below it breaks it.
        for _ in range(2):
            u, v = _tie(p, draw)
            total = draw.randint(low - p, high - p - 2)
            d1, e1 = _place(total, f, draw)
            far = encode(0, 1, max(low, total - draw.randrange(1, 70)), f)
            a, b = encode(0, u, d1, f) ^ s, encode(0, v, e1, f)
            yield a, b, draw.choice((1, 1, far, far, 0)) ^ _sign(draw, f)
        # (2^(p-1) + t) (2^p - 2t) is 2 t^2 less than 2^(2p-1), which is half an ulp of the addend.
        t = 1 << draw.randrange(p // 2)
        d1, e1 = _place(draw.randint(low - p, high - 2 * p - 1), f, draw)
        place = d1 + e1 + 2 * p
        if low <= place <= high:
            yield (
                encode(0, (1 << (p - 1)) + t, d1, f) ^ s, encode(0, (1 << p) - 2 * t, e1, f),
                encode(0, (1 << (p - 1)) | draw.getrandbits(p - 1), place, f) ^ _sign(draw, f),
            )  # fmt: skip
        # Cancellation: what is left is the rounding of the product itself.
        (_, m, e), (_, n, g) = decode(a, f), decode(b, f)
        yield a, b, _near(encode(1, m * n, e + g, f), f, draw) ^ s
        # The product alone overflows.
        d1, e1 = _place(high - p + draw.randrange(3), f, draw)
        yield (
            encode(0, u, d1, f) ^ s, encode(0, v, e1, f),
            encode(1, (1 << p) - 1 - draw.randrange(4), high, f) ^ s,
        )  # fmt: skip
        # Subnormal results, products down to half of the least one.
        d1, e1 = _place(low - 2 * p + draw.randrange(2 * p), f, draw)
        c = draw.getrandbits(draw.randrange(1, p)) ^ _sign(draw, f)
        yield encode(0, u, d1, f) ^ s, encode(0, v, e1, f), c


def _integrals(f: Format, draw: Random) -> Iterator[Row]:
    """Halves, integers and their neighbours, of every magnitude that has fractions."""
    while True:
        k = draw.getrandbits(draw.randrange(f.precision + 1))
        yield (_near(encode(0, 2 * k + draw.getrandbits(1), -1, f), f, draw) ^ _sign(draw, f),)


def _neighbours(f: Format, draw: Random) -> Iterator[Row]:
    """Pairs that differ in the last place, in sign, or not at all."""
    while True:
        x = draw.getrandbits(f.bits)
        yield x, draw.choice((x, _near(x, f, draw), x ^ 1 << (f.bits - 1)))


def _conversions(f: Format, draw: Random) -> Iterator[Row]:
    """Beside powers of two, and midpoints of every narrower format."""
    narrower = [g for g in FORMATS.values() if g.precision < f.precision]
    while True:
        s = _sign(draw, f)
        k = draw.randint(-3, min(66, f.emax))
        yield (_near(encode(0, 1, k, f), f, draw) ^ s,)
        yield (_near(encode(0, 2 * (1 << max(k, 0)) + draw.choice((-1, 1)), -1, f), f, draw) ^ s,)
        for g in narrower:
            # A midpoint of g, also of its subnormals; then one bit beside it, near and far.
            m = 2 * draw.getrandbits(draw.randrange(1, g.precision + 1)) + 1
            e = max(g.emin - g.precision, draw.randint(g.emin - g.precision, g.emax - 2))
            if m.bit_length() + e > g.emax + 2:
                e = g.emax + 1 - m.bit_length()
            x = encode(0, m, e, f)
            yield (x ^ s,)
            yield (_near(x, f, draw) ^ s,)
            limit = encode(0, (1 << (g.precision + 1)) - 1, g.emax - g.precision, f)
            yield (_near(limit, f, draw) ^ s,)


def _limits(f: Format) -> Iterator[Row]:
    """Each half and whole number within three of the limits of an integer of any width."""
    for k in sorted({bits - signed for bits, signed in INTEGERS.values()}):
        for beside, sign in itertools.product(range(-6, 7), (0, 1)):
            yield (encode(sign, (2 << k) + beside, -1, f),)


def _roundings(bits: int, signed: bool, draw: Random) -> Iterator[Row]:
    """Integers on and beside midpoints of every float format, far above its precision too."""
    high = (1 << (bits - signed)) - 1
    while True:
        f = draw.choice(list(FORMATS.values()))
        m = 2 * ((1 << (f.precision - 1)) | draw.getrandbits(f.precision - 1)) + 1
        if m.bit_length() > bits - signed:
            m = draw.getrandbits(bits - signed)
        room = bits - signed - m.bit_length()
        x = (m << draw.choice((room, draw.randrange(room + 1)))) + draw.choice((-1, 0, 1))
        x = max(0, min(x, high))
        yield (-x if signed and draw.random() < 0.5 else x,)


def _carries(bits: int, signed: bool, draw: Random) -> Iterator[Row]:
    """Words of two halves each, whose partial products carry into one another."""
    half = bits // 2
    full = (1 << half) - 1
    halves = (0, 1, full, full - 1, 1 << (half - 1), (1 << (half - 1)) - 1)

    def word() -> int:
        parts = [draw.choice((*halves, draw.getrandbits(half))) for _ in range(2)]
        x = parts[0] << half | parts[1]
        return x - (1 << bits) if signed and x >> (bits - 1) else x

    while True:
        yield word(), word()


def _divisions(bits: int, signed: bool, draw: Random) -> Iterator[Row]:
    """Multiples of the divisor and their neighbours."""
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    while True:
        b = integers(bits, signed, draw, 1)[0]
        a = b * integers(bits, signed, draw, 1)[0] + draw.choice((-1, 0, 1))
        if b and low <= a <= high:
            yield a, b
        yield integers(bits, signed, draw, 1)[0], b


_FLOAT = {
    "add": _sums, "sub": _sums, "mul": _products, "div": _quotients, "sqrt": _roots, "fma": _fused,
    "floor": _integrals, "ceil": _integrals, "trunc": _integrals, "rint": _integrals,
    "lt": _neighbours, "le": _neighbours, "eq": _neighbours, "cast": _conversions,
}  # fmt: skip
_INTEGER = {
    "mul": _carries, "mulhi": _carries, "add": _carries, "sub": _carries, "idiv": _divisions,
    "irem": _divisions, "cast": _roundings,
}  # fmt: skip


def operands(
    op: str, dtype: str, arity: int, seed: int, size: int, few: bool, every: bool = False
) -> list[list[int]]:
    """Columns of operands for a primitive.

    Args:
        op: Its name; a primitive without vectors of its own gets special and random ones.
        dtype: Of the operands, a compute dtype or a 16-bit float.
        arity: Number of operands of that dtype.
        seed: Of all that is random.
        size: Number of directed rows, and of random ones.
        few: Special values to be combined are the most important ones only.
        every: All pairs of 8-bit integers, all values of 16-bit floats instead.

    Returns:
        `arity` columns of one length.
    """
    draw = Random(f"{op}/{dtype}/{arity}/{seed}")
    rows: list[Row]
    if dtype == "bool":
        return [list(c) for c in zip(*itertools.product((0, 1), repeat=arity), strict=True)]
    if dtype in INTEGERS:
        bits, signed = INTEGERS[dtype]
        low = -(1 << (bits - 1)) if signed else 0
        if bits == 8 and every and arity <= 2:
            whole = range(low, low + 256)
            return [list(c) for c in zip(*itertools.product(whole, repeat=arity), strict=True)]
        special = special_integers(bits, signed, few or arity > 1)
        rows = list(itertools.product(special, repeat=min(arity, 2)))
        if arity == 3:
            rows = [(*r, draw.choice(special)) for r in rows]
        if op in ("shl", "shr"):
            lowest = -2 if signed else 0
            rows += [
                (x, n)
                for n in range(lowest, bits + 3)
                for x in (low, 1, -1 if signed else 3, *integers(bits, signed, draw, 3))
            ]
        generator = _INTEGER[op](bits, signed, draw) if op in _INTEGER else iter(())
        rows += list(itertools.islice(generator, size))
        random = [integers(bits, signed, draw, size) for _ in range(arity)]
    else:
        f = FORMATS[dtype]
        if f.bits == 16 and every and arity == 1:
            return [list(range(1 << 16))]
        narrow = special_floats(f, few=True)
        rows = list(itertools.product(narrow, repeat=arity))
        if arity < 3 and not few:
            wide = special_floats(f)
            rows += [
                (x, *rest) for x in wide for rest in itertools.product(narrow, repeat=arity - 1)
            ]
            rows += [(x, x)[:arity] for x in wide]
            rows += [(y, x) for y, x in itertools.product(narrow, wide) if arity == 2]
        if arity > 2:
            rows = draw.sample(rows, 1000 if few else 3000)
        if arity == 1:
            rows += [
                (_near(x, f, draw),)
                for e in range(f.emin - f.precision + 1, f.emax + 1, 3 if few else 1)
                for x in (encode(0, 1, e, f), encode(1, 1, e, f))
            ]
        rows += _limits(f) if op == "cast" else ()
        directed = _FLOAT[op](f, draw) if op in _FLOAT else iter(())
        rows += list(itertools.islice(directed, size))
        random = [floats(f, draw, size) for _ in range(arity)]
    rows += list(zip(*random, strict=True))
    return [list(c) for c in zip(*rows, strict=True)]
