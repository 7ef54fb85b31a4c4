"""Integer functions whose conventions C leaves open, for every integer dtype."""

from __future__ import annotations

from .. import ir
from ..ir import Expr

__all__ = ["int_floor_divide", "int_pow", "int_remainder"]


def int_floor_divide(a: Expr, b: Expr) -> Expr:
    """``floor(a / b)``; 0 where b is 0, and the least integer divided by -1 wraps to itself."""
    q = ir.idiv(a, b)
    if a.dtype.kind == "u":
        return q
    inexact = ir.irem(a, b).ne(0)
    return ir.select(inexact & ((a ^ b) < 0), q - 1, q)


def int_remainder(a: Expr, b: Expr) -> Expr:
    """``a - b floor(a / b)``, with the sign of b; 0 where b is 0."""
    r = ir.irem(a, b)
    if a.dtype.kind == "u":
        return r
    return ir.select(r.ne(0) & ((r ^ b) < 0), r + b, r)


def int_pow(a: Expr, b: Expr) -> Expr:
    """``a**b`` modulo 2**bits, by square and multiply over the bits of b; ``0**0`` is 1.

    For a negative exponent the exact power truncated towards zero: 1 for base 1, 1 or -1 for base
    -1, else 0 (base 0 included).
    """
    dtype = a.dtype
    one, zero = ir.const(1, dtype), ir.const(0, dtype)

    def step(_: Expr, result: Expr, base: Expr, left: Expr) -> tuple[Expr, Expr, Expr]:
        odd = (left & 1).ne(0)
        return ir.select(odd, result * base, result), base * base, left >> 1

    result, _, _ = ir.repeat(dtype.bits, (one, a, b), step)
    if dtype.kind == "u":
        return result
    parity = ir.select((b & 1).ne(0), a, one)
    unit = a.eq(one) | a.eq(-one)
    return ir.select(b < 0, ir.select(unit, parity, zero), result)
