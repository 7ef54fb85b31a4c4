"""The scalar IR as a language: which expressions it has, of what dtype, and which it refuses.

The rules are those of the IR's own document, written down here once more as a table and tried on
every combination of dtypes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tensorbus_backends import dtypes as dt, interp, ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr, IRError

from ..items import Outcome
from ..session import Session
from .base import Checks, duty
from .small import functions

_COMPUTE = tuple(d for d in dt.ALL if d.name not in ("float16", "bfloat16"))
_NUMERIC, _INTEGER, _BITS, _FLOAT, _ANY = "iuf", "iu", "biu", "f", "biuf"

_UNARY: dict[str, tuple[Callable[[Any], Expr], str]] = {
    "sqrt": (ir.sqrt, _FLOAT), "floor": (ir.floor, _FLOAT), "ceil": (ir.ceil, _FLOAT),
    "trunc": (ir.trunc, _FLOAT), "rint": (ir.rint, _FLOAT), "neg": (lambda a: -a, _NUMERIC),
    "abs": (ir.fabs, _NUMERIC), "not": (lambda a: ~a, _BITS),
}  # fmt: skip
_BINARY: dict[str, tuple[Callable[[Any, Any], Expr], str]] = {
    "add": (lambda a, b: a + b, _NUMERIC), "sub": (lambda a, b: a - b, _NUMERIC),
    "mul": (lambda a, b: a * b, _NUMERIC), "div": (lambda a, b: a / b, _FLOAT),
    "idiv": (ir.idiv, _INTEGER), "irem": (ir.irem, _INTEGER), "mulhi": (ir.mulhi, _INTEGER),
    "shl": (lambda a, b: a << b, _INTEGER), "shr": (lambda a, b: a >> b, _INTEGER),
    "and": (lambda a, b: a & b, _BITS), "or": (lambda a, b: a | b, _BITS),
    "xor": (lambda a, b: a ^ b, _BITS), "lt": (lambda a, b: a < b, _ANY),
    "le": (lambda a, b: a <= b, _ANY), "eq": (lambda a, b: a.eq(b), _ANY),
    "gt": (lambda a, b: a > b, _ANY), "ge": (lambda a, b: a >= b, _ANY),
    "ne": (lambda a, b: a.ne(b), _ANY),
}  # fmt: skip
_COMPARE = ("lt", "le", "eq", "gt", "ge", "ne")


class _Rules:
    def __init__(self) -> None:
        self.checks = Checks("rules")

    def due(self, what: str, build: Callable[[], Expr], dtype: DType | None) -> None:
        """Count that an expression has a dtype, or is refused where that is None."""
        try:
            found = build()
        except IRError as error:
            self.checks.that(dtype is None and bool(str(error)), f"{what} is refused: {error}")
        except Exception as error:
            self.checks.that(False, f"{what}: {type(error).__name__} ({error}), no IRError")
        else:
            self.checks.that(
                dtype is not None and found.dtype is dtype,
                f"{what} is {found.dtype.name}, due is {dtype.name if dtype else 'a refusal'}",
            )


def _inputs(*dtypes: DType) -> list[Expr]:
    return [ir.input_(k, d) for k, d in enumerate(dtypes)]


def _operations(r: _Rules) -> None:
    for op, (call, kinds) in _UNARY.items():
        for d in _COMPUTE:
            (x,) = _inputs(d)
            due = d if d.kind in kinds else None
            r.due(f"{op}({d})", lambda call=call, x=x: call(x), due)  # type: ignore[misc]
    for a, b in itertools.product(_COMPUTE, repeat=2):
        x, y = _inputs(a, b)
        for op, (two, kinds) in _BINARY.items():
            fits = a is b and a.kind in kinds
            result = dt.bool_ if op in _COMPARE else a
            r.due(f"{op}({a}, {b})", lambda f=two, x=x, y=y: f(x, y), result if fits else None)  # type: ignore[misc]
        c = ir.input_(2, dt.bool_)
        r.due(f"select(bool, {a}, {b})", lambda c=c, x=x, y=y: ir.select(c, x, y),  # type: ignore[misc]
              a if a is b else None)  # fmt: skip
        r.due(f"select({a}, {b}, {b})", lambda x=x, y=y: ir.select(x, y, y),  # type: ignore[misc]
              b if a is dt.bool_ else None)  # fmt: skip
        for three in ((x, x, y), (x, y, x), (y, x, x)):
            r.due(f"fma of {a} and {b}", lambda t=three: ir.fma(*t),  # type: ignore[misc]
                  a if a is b and a.kind == "f" else None)  # fmt: skip
        r.due(f"cast {a} to {b}", lambda x=x, b=b: ir.cast(x, b), b)  # type: ignore[misc]
        same = a is b or (a.bits == b.bits and "b" not in (a.kind, b.kind))
        r.due(f"bitcast {a} to {b}", lambda x=x, b=b: ir.bitcast(x, b), b if same else None)  # type: ignore[misc]
    for d in _COMPUTE:
        (x,) = _inputs(d)
        for narrow in (dt.float16, dt.bfloat16):
            r.due(f"cast {d} to {narrow}", lambda x=x, n=narrow: ir.cast(x, n), None)  # type: ignore[misc]
        one = [1, 0] if d is dt.bool_ else [1, 2, 3]
        r.due(f"table at {d}", lambda x=x: ir.table([1, 2], dt.int16, x),  # type: ignore[misc]
              dt.int16 if d is dt.int32 else None)  # fmt: skip
        at = ir.input_(0, dt.int32)
        r.due(f"table of {d}", lambda at=at, d=d, one=one: ir.table(one, d, at), d)  # type: ignore[misc]
        r.due(f"load at {d}", lambda x=x: ir.load(0, dt.float16, x),  # type: ignore[misc]
              dt.float32 if d is dt.int64 else None)  # fmt: skip
        r.due(f"repeat {d} times", lambda x=x: ir.repeat(x, [x], lambda i, c: (c,))[0],  # type: ignore[misc]
              d if d is dt.int32 else None)  # fmt: skip
        for e in _COMPUTE:
            (y,) = _inputs(e)
            r.due(f"repeat that makes {d} into {e}",
                  lambda x=x, y=y: ir.repeat(2, [x], lambda i, c: (y,))[0],  # type: ignore[misc]
                  d if d is e else None)  # fmt: skip
    r.due("an empty table", lambda: ir.table([], dt.int32, ir.input_(0, dt.int32)), None)
    for d in dt.ALL:
        r.due(f"input {d}", lambda d=d: ir.input_(0, d), d.compute)  # type: ignore[misc]
        r.due(f"param {d}", lambda d=d: ir.param(0, d), d.compute)  # type: ignore[misc]
        r.due(f"load {d}", lambda d=d: ir.load(0, d, ir.index()), d.compute)  # type: ignore[misc]
    r.due("index", ir.index, dt.int64)


def _numbers(r: _Rules) -> None:
    """A Python number beside an expression takes its dtype, and operands keep their places."""
    for d, number in ((dt.int32, 3), (dt.uint8, 3), (dt.float32, 1.5), (dt.bool_, True)):
        x, y = _inputs(d, d)
        for op, (two, kinds) in _BINARY.items():
            due = dt.bool_ if op in _COMPARE else d
            due_or_none = due if d.kind in kinds else None
            r.due(f"{op}({d}, {number})", lambda f=two, x=x, n=number: f(x, n), due_or_none)  # type: ignore[misc]
            if d.kind not in kinds or op == "ne":
                continue
            places = (y, x) if op in ("gt", "ge") else (x, y)
            r.checks.that(two(x, y).args == places, f"{op}(x, y) has its operands elsewhere")
            held = two(x, number).args
            at = 0 if op in ("gt", "ge") else 1
            right = held[at] is ir.const(number, d) and held[1 - at] is x
            r.checks.that(right, f"{op}(x, {number}) has other operands")
    x = ir.input_(0, dt.float32)
    one = ir.const(1.5, dt.float32)
    for name, made in (("+", 1.5 + x), ("-", 1.5 - x), ("*", 1.5 * x), ("/", 1.5 / x)):
        r.checks.that(made.args == (one, x), f"1.5 {name} x has other operands")
    fused = ir.fma(x, 1.5, 1.5).args
    r.checks.that(fused == (x, one, one), "fma with numbers has other operands")


def _constants(r: _Rules) -> None:
    for d in (dt.bool_, *dt.INTEGER):
        low, high = (0, 1) if d is dt.bool_ else (d.min, d.max)
        for value in (low, high, 0, 1):
            r.due(f"const {value} of {d}", lambda v=value, d=d: ir.const(v, d), d)  # type: ignore[misc]
            held = ir.value_of(ir.const(value, d))
            r.checks.that(held == value, f"const {value} of {d} holds {held}")
        for other in (low - 1, high + 1, 0.5, 1 << 70):
            r.due(f"const {other} of {d}", lambda v=other, d=d: ir.const(v, d), None)  # type: ignore[misc]
    top = {"float32": 2.0**128 - 2.0**104, "float64": 1.7976931348623157e308}
    least = {"float32": 2.0**-149, "float64": 5e-324}
    for d in (dt.float32, dt.float64):
        for v in (0.0, -0.0, 1.0, -2.5, top[d.name], -least[d.name], float("inf"), -float("inf")):
            held = ir.value_of(ir.const(v, d))
            same = (held, str(held)[0]) == (v, str(v)[0])
            r.checks.that(same, f"const {v} of {d} holds {held}")
        held = ir.value_of(ir.const(float("nan"), d))
        r.checks.that(held != held, f"const NaN of {d} holds {held}")
    for v in (0.1, 2.0**-150, 1e39, 1.0 + 2.0**-24, -3.5e38):
        r.due(f"const {v} of float32", lambda v=v: ir.const(v, dt.float32), None)  # type: ignore[misc]
    r.due("const 2^53 + 1 of float64", lambda: ir.const((1 << 53) + 1, dt.float64), dt.float64)
    x = ir.input_(0, dt.int8)
    r.due("x + 127", lambda: x + 127, dt.int8)
    r.due("x + 128", lambda: x + 128, None)
    r.due("1 - x", lambda: 1 - x, dt.int8)
    r.due("select of numbers", lambda: ir.select(ir.input_(0, dt.bool_), 1, 2), None)
    r.due("select of a number and x", lambda: ir.select(ir.input_(0, dt.bool_), 1, x), dt.int8)
    r.due("select of x and a number", lambda: ir.select(ir.input_(0, dt.bool_), x, 1), dt.int8)
    r.due(
        "a repeat that loses a value", lambda: ir.repeat(2, [x, x], lambda i, a, b: (a,))[0], None
    )
    r.checks.raises(IRError, "the truth of an expression", bool, x < 1)


def rules(session: Session) -> Outcome:
    """Every primitive takes the dtypes that its rule says, gives that dtype, and no others."""
    r = _Rules()
    _operations(r)
    _numbers(r)
    _constants(r)
    return r.checks.outcome


def _loop(x: Expr, step: int) -> Expr:
    return ir.repeat(3, [x], lambda i, a: (a + step,))[0]


def bodies(session: Session) -> Outcome:
    """What is equal is one node with one fingerprint; leaves are replaced; strays are refused."""
    checks = Checks("bodies")
    x, y = _inputs(dt.float32, dt.float32)
    p, n, i = ir.param(0, dt.float32), ir.input_(2, dt.int32), ir.index()
    checks.that((x + y) * 2.0 is (x + y) * 2.0, "equal expressions are two")
    checks.that(x - y is not y - x, "x - y is y - x")
    checks.that((2.0 - x).args == (ir.const(2.0, dt.float32), x), "2 - x has other operands")
    checks.that((2.0 / x).args == (ir.const(2.0, dt.float32), x), "2 / x has other operands")
    checks.that((x > y) is (y < x), "x > y is not y < x")
    checks.that((x >= y) is (y <= x), "x >= y is not y <= x")
    checks.that(ir.cast(x, dt.float32) is x, "a cast to its own dtype is made")
    checks.that(ir.bitcast(n, dt.int32) is n, "a bitcast to its own dtype is made")
    order = list(ir.walk((x + y) * x, x + y))
    checks.that(order == [x, y, x + y, (x + y) * x], f"walk gives {order}")
    made = [
        (x,), (y,), (p,), (i,), (x, y), (y, x), (x + y,), (y + x,), (x - y,), (x * y,), (-x,),
        (x + y, x), (x, x + y), (x + 1.0,), (x + 2.0,), (ir.param(1, dt.float32),),
        (ir.cast(x, dt.float64),), (ir.cast(x, dt.int32),), (_loop(n, 1),), (_loop(n, 2),),
        (ir.load(0, dt.float32, i),), (ir.load(1, dt.float32, i),),
        (ir.load(0, dt.float16, i),), (ir.load(0, dt.bfloat16, i),),
        (ir.table([1, 2], dt.int32, n),), (ir.table([2, 1], dt.int32, n),),
        (ir.repeat(n, [n, n], lambda k, a, b: (b, a))[0],),
        (ir.repeat(n, [n, n], lambda k, a, b: (b, a))[1],),
        (ir.repeat(n, [n, n], lambda k, a, b: (a, b))[0],),
        (ir.repeat(n, [n], lambda k, a: (k,))[0],),
        (ir.repeat(n, [n], lambda k, a: (ir.repeat(n, [a], lambda m, c: (c + k,))[0],))[0],),
        (ir.repeat(n, [n], lambda k, a: (ir.repeat(n, [a], lambda m, c: (c + m,))[0],))[0],),
    ]  # fmt: skip
    texts = [ir.fingerprint(*m) for m in made]
    checks.that(len(set(texts)) == len(texts), "two bodies that differ have one fingerprint")
    for step in (1, 2):
        checks.that(_loop(n, step) is _loop(n, step), "a loop that is traced again is another")

    def exchange(node: Expr) -> Expr | None:
        return {x: y, p: ir.const(3.0, dt.float32)}.get(node)

    checks.that(ir.substitute(x * p + y, exchange) is y * 3.0 + y, "substitute gives another body")
    checks.that(ir.substitute(x, exchange) is y, "substitute leaves a leaf")
    checks.that(ir.substitute(n + 1, exchange) is n + 1, "substitute changes what it need not")
    checks.raises(IRError, "substitute by another dtype", ir.substitute, x, lambda node: n)
    looped = ir.repeat(n, [x], lambda k, a: (a + p,))[0]
    swapped = ir.substitute(looped, exchange)
    leaves = {m for m in ir.walk(swapped) if not m.args and m.op in ("input", "param")}
    checks.that(leaves == {y, n}, "substitute does not reach into a loop")
    _nested(checks, n)
    _free(checks, n)
    _validation(checks, x, p, n)
    return checks.outcome


def _nested(checks: Checks, n: Expr) -> None:
    """A body substituted into itself computes the same as if it had been traced there."""

    def twice(x: Expr) -> Expr:
        return ir.repeat(n, [x], lambda k, a: (a + k * x,))[0]

    whole = ir.substitute(twice(n), lambda node: twice(n) if node is n else None)
    due = ir.repeat(twice(n), [twice(n)], lambda k, a: (a + k * twice(n),))[0]
    checks.that(whole is due, "a loop substituted into itself is another one")
    values = []
    for root in (twice(n), whole):
        (got,) = interp.evaluate([root], lambda leaf: np.asarray([0, 1, 2, 3], np.int32))
        values.append(got.tolist())

    def plain(count: int, x: int) -> int:
        total = x
        for k in range(count):
            total += k * x
        return total

    once = [plain(x, x) for x in range(4)]
    again = [plain(x, x) for x in once]
    checks.that(values == [once, again], f"loops in loops give {values}, not {[once, again]}")
    stray: list[Expr] = []

    def kept(k: Expr, a: Expr) -> Sequence[Expr]:
        stray.append(a)
        return (a,)

    ir.repeat(n, [n], kept)
    checks.raises(IRError, "a loop's value put outside", ir.substitute, n, lambda x: stray[0])


def _free(checks: Checks, n: Expr) -> None:
    """Values of a loop belong to it, those of an inner one to both."""
    inside: list[Expr] = []

    def body(k: Expr, a: Expr) -> Sequence[Expr]:
        def inner(m: Expr, c: Expr) -> Sequence[Expr]:
            inside.extend((k + a, m + c, m + k))
            return (c + m + k,)

        return (ir.repeat(k, [a], inner)[0] + n,)

    whole = ir.repeat(n, [n], body)[0]
    sizes = [len(e.free) for e in (*inside, whole, n)]
    checks.that(sizes == [1, 1, 2, 0, 0], f"expressions depend on {sizes} loops")
    for stray in inside:
        checks.raises(IRError, "a value outside of its loop", ir.validate, [stray], [dt.int32] * 3)
    ir.validate([whole], [dt.int32] * 3)


def _validation(checks: Checks, x: Expr, p: Expr, n: Expr) -> None:
    """Leaves that a kernel has, and those that it lacks."""
    f32, f16, i32 = dt.float32, dt.float16, dt.int32
    loaded, i = ir.load(1, f16, ir.index()), ir.index()
    good: list[tuple[Expr, tuple[DType, ...], tuple[DType, ...]]] = [
        (x, (f32,), ()), (x, (f16,), ()), (x, (f32, i32), ()), (n, (f32, f32, i32), ()),
        (p, (), (f32,)), (p, (), (f16,)), (x + p, (f32,), (f32,)), (loaded, (i32, f16), ()),
        (i, (), ()),
    ]  # fmt: skip
    bad: list[tuple[Expr, tuple[DType, ...], tuple[DType, ...]]] = [
        (x, (), ()), (x, (i32,), ()), (x, (dt.float64,), ()), (n, (f32, f32), ()),
        (p, (f32,), ()), (p, (), (i32,)), (x + p, (f32,), ()), (loaded, (f16,), ()),
        (loaded, (f16, i32), ()), (ir.input_(-1, f32), (f32,), ()), (ir.param(1, f32), (), (f32,)),
    ]  # fmt: skip
    for e, inputs, params in good:
        try:
            ir.validate([e], inputs, params)
        except IRError as error:
            checks.that(False, f"{e!r} is refused: {error}")
        checks.that(True, "")
    for e, inputs, params in bad:
        checks.raises(IRError, f"{e!r} in a kernel without it", ir.validate, [e], inputs, params)
    checks.raises(IRError, "index where there is none", lambda: ir.validate([i], allow_index=False))
    ir.validate([x], [f32], allow_index=False)


def small(session: Session) -> Outcome:
    """The functions that every kernel's body uses, for every dtype."""
    checks = Checks("small")
    functions(checks)
    return checks.outcome


duty("language", rules, bodies, small, plugins=("cpu",))
