"""What a kernel body may name."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import numpy as np
import pytest
from tensorbus_backends import dtypes as dt, interp, ir


def test_leaves_have_to_be_what_the_kernel_is_given() -> None:
    x, p, k = ir.input_(0, dt.float32), ir.param(0, dt.int64), ir.load(1, dt.float32, ir.index())
    body = [x + k, p]
    given = [dt.float32, dt.float32]
    assert ir.validate_leaves(body, given, [dt.int64])
    assert not ir.validate_leaves([x], given)
    with pytest.raises(ir.IRError):
        ir.validate_leaves(body, given, [dt.int32])
    with pytest.raises(ir.IRError):
        ir.validate_leaves(body, [dt.float32, dt.int32], [dt.int64])
    with pytest.raises(ir.IRError):
        ir.validate_leaves(body, [dt.int32, dt.float32], [dt.int64])
    with pytest.raises(ir.IRError):
        ir.validate_leaves(body, given, [dt.int64], allow_index=False)


def power(x: ir.Expr, n: ir.Expr) -> ir.Expr:
    return ir.repeat(n, [ir.const(1, dt.int64)], lambda k, a: (a * x,))[0]


def value(body: ir.Expr, *given: int) -> int:
    dtypes = (np.int64, np.int32)
    leaves = [np.asarray([v], t) for v, t in zip(given, dtypes, strict=False)]
    return int(interp.evaluate([body], lambda leaf: leaves[leaf.attr])[0][0])


def test_a_loop_is_what_its_structure_says() -> None:
    x, n = ir.input_(0, dt.int64), ir.input_(1, dt.int32)
    assert power(x, n) is power(x, n)
    assert power(x, n) is not power(x + 1, n)
    nested = ir.repeat(n, [x], lambda k, a: (power(a, k) + a,))[0]
    assert nested is ir.repeat(n, [x], lambda i, b: (power(b, i) + b,))[0]
    assert nested is not ir.repeat(n, [x], lambda k, a: (power(x, k) + a,))[0]
    assert ir.fingerprint(nested) != ir.fingerprint(power(x, n))


def test_loops_in_loops_and_beside_loops_keep_their_values_apart() -> None:
    x, n = ir.input_(0, dt.int64), ir.input_(1, dt.int32)
    assert value(power(power(x, n), n), 2, 3) == 2**9
    assert value(power(x, n) * power(x + 1, n), 2, 3) == 6**3

    def both(k: ir.Expr, a: ir.Expr) -> Sequence[ir.Expr]:
        return (power(a, n) + power(a + 1, n) + ir.cast(k, dt.int64),)

    due = 2
    for k in range(2):
        due = due**2 + (due + 1) ** 2 + k
    assert value(ir.repeat(n, [x], both)[0], 2, 2) == due


def test_a_body_may_be_substituted_into_itself() -> None:
    x, n = ir.input_(0, dt.int64), ir.input_(1, dt.int32)
    body = ir.repeat(n, [x], lambda k, a: (a + x * ir.cast(k, dt.int64),))[0]
    inner = ir.substitute(body, lambda leaf: body if leaf is x else None)
    again = ir.substitute(inner, lambda leaf: body if leaf is x else None)

    def plain(v: int, count: int) -> int:
        return v + sum(v * k for k in range(count))

    for v in range(4):
        for count in range(4):
            assert value(inner, v, count) == plain(plain(v, count), count)
            assert value(again, v, count) == plain(plain(plain(v, count), count), count)
    assert ir.substitute(body, lambda leaf: None) is body


def test_interning_keeps_nothing_alive() -> None:
    gc.collect()
    before = len(ir._interned)
    made = [power(ir.input_(k, dt.int64) * 77, ir.input_(1, dt.int32)) for k in range(50, 90)]
    assert len(ir._interned) > before + 80
    del made
    gc.collect()
    assert len(ir._interned) == before
