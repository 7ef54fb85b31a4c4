"""What is tried of every primitive of the scalar IR: expressions, operands, and what they give.

A trial is a small map kernel that computes one primitive from loaded operands, from the same
operand twice and from constants, which a compiler may fold.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from tensorbus_backends import dtypes as dt, ir
from tensorbus_backends.dtypes import DType
from tensorbus_backends.ir import Expr
from tensorbus_backends.kernels import Map, Operand

from ..oracle import primitives as exact, vectors

__all__ = ["BUILDERS", "MOVES", "Result", "Trial", "trial"]

MOVES = ("neg", "abs", "select", "bitcast", "table", "load", "input", "const", "param", "get")
"""Primitives that leave subnormals alone on every device (docs/order.md)."""

_SIZES = {"smoke": 60, "standard": 300, "exhaustive": 20000}

Want = Callable[[Sequence[Sequence[int]], str | None], list[int]]
"""Elements (see `oracle.primitives`) from columns of operands and the reading of "tiny"."""


@dataclass(frozen=True)
class Result:
    """One output of a trial.

    Attributes:
        label: What it computes, ``"div(x, 3.0)"``.
        dtype: Storage dtype.
        expr: The expression.
        want: What it must give.
    """

    label: str
    dtype: DType
    expr: Expr
    want: Want


@dataclass(frozen=True)
class Trial:
    """A primitive for one dtype of operands.

    Attributes:
        op: Its name.
        inputs: Storage dtypes of the operands.
        results: What is computed of them, in one kernel.
        columns: Operands by level and seed, one column for each input.
        read: Inputs that are read by `ir.load` only.
        params: Launch scalars: dtype and element.
    """

    op: str
    inputs: tuple[DType, ...]
    results: list[Result]
    columns: Callable[[str, int], list[list[int]]]
    read: tuple[int, ...] = ()
    params: tuple[tuple[DType, int], ...] = ()

    def kernel(self) -> Map:
        """The kernel that computes all results."""
        operands = [Operand(d, "-" if k in self.read else "c") for k, d in enumerate(self.inputs)]
        return Map(
            f"primitive_{self.op}",
            tuple(operands),
            tuple(Operand(r.dtype) for r in self.results),
            tuple(r.expr for r in self.results),
            tuple(d for d, _ in self.params),
        )


# -- functions of operands -----------------------------------------------------------------------


def _value(x: int, dtype: DType) -> float | int:
    """An element as a Python number."""
    if dtype is dt.float32:
        return float(struct.unpack("<f", struct.pack("<I", x))[0])
    return float(struct.unpack("<d", struct.pack("<Q", x))[0]) if dtype is dt.float64 else x


def _constants(op: str, dtype: DType) -> list[int]:
    """Elements that are tried as constants: those for which compilers have special rules."""
    if dtype is dt.bool_:
        return [0, 1]
    if dtype.is_float:
        f = exact.FORMATS[dtype.name]
        ratios = [(0, 3, 0), (1, 1, -1), (0, 1, f.emax // 2), (0, 1, f.emin)]
        if op in ("add", "sub", "mul", "lt", "le", "eq", "div"):
            zeros = [0, 1 << (f.bits - 1)] if op in ("add", "sub", "eq", "div") else [0]
            return zeros + [exact.encode(*r, f) for r in ratios[: 2 if len(zeros) > 1 else 3]]
        return [exact.encode(*r, f) for r in ratios]
    if op in ("shl", "shr"):
        return [0, 1, dtype.bits // 2, dtype.bits - 1, dtype.bits]
    low, high = dtype.min, dtype.max
    if op in ("idiv", "irem"):
        return [0, 1, -1 if low else high, 3, 7, 1 << (dtype.bits // 2), low or high - 1]
    return [0, 1, low or high - 1, high, 1 << (dtype.bits // 2)]


_CALLS: dict[str, Callable[..., Expr]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "fma": ir.fma,
    "sqrt": ir.sqrt,
    "neg": lambda a: -a,
    "abs": ir.fabs,
    "floor": ir.floor,
    "ceil": ir.ceil,
    "trunc": ir.trunc,
    "rint": ir.rint,
    "idiv": ir.idiv,
    "irem": ir.irem,
    "mulhi": ir.mulhi,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "not": lambda a: ~a,
    "shl": lambda a, b: a << b,
    "shr": lambda a, b: a >> b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a.eq(b),
}
_ARITY = {
    "fma": 3,
    **dict.fromkeys(("sqrt", "neg", "abs", "floor", "ceil", "trunc", "rint", "not"), 1),
}


def _defined(build: Callable[[], Expr]) -> bool:
    """Whether the IR allows an expression."""
    try:
        build()
    except ir.IRError:
        return False
    return True


def _picker(op: str, dtype: DType, arity: int) -> Callable[[str, int], list[list[int]]]:
    def columns(level: str, seed: int) -> list[list[int]]:
        size = _SIZES[level] * (1 if arity < 3 else 3)
        every = level == "exhaustive" or (op == "input" and level == "standard")
        return vectors.operands(op, dtype.name, arity, seed, size, level == "smoke", every)

    return columns


def _calls(op: str, storage: DType) -> Trial | None:
    """A primitive that is a function of operands of one dtype."""
    arity, call = _ARITY.get(op, 2), _CALLS[op]
    x = [ir.input_(k, storage) for k in range(arity)]
    if not _defined(lambda: call(*x)):
        return None
    compute = storage.compute
    made: list[Result] = []

    def add(label: str, arguments: Sequence[int], fixed: Sequence[int] = ()) -> None:
        """A result of operands (by number) and constants (-1, -2, ... for `fixed`)."""
        values = [
            x[a] if a >= 0 else ir.const(_value(fixed[-1 - a], compute), compute) for a in arguments
        ]
        expr = call(*values)
        out = storage if expr.dtype is compute else expr.dtype

        def want(columns: Sequence[Sequence[int]], tiny: str | None) -> list[int]:
            function = exact.element(op, storage.name, tiny=tiny)
            n = len(columns[0])
            chosen = [columns[a] if a >= 0 else [fixed[-1 - a]] * n for a in arguments]
            return exact.results(function, chosen)

        made.append(Result(label, out, expr, want))

    names = "xyz"[:arity]
    add(f"{op}({', '.join(names)})", range(arity))
    if arity > 1:
        add(f"{op}(x, {', '.join('x' * (arity - 1))})", [0] * arity)
    if arity == 3:
        add(f"{op}(x, y, x)", [0, 1, 0])
    fixed = _constants(op, storage) if storage is compute else []
    for k in fixed:
        v = _value(k, compute)
        if arity == 1:
            add(f"{op}({v})", [-1], [k])
        elif arity == 2:
            add(f"{op}(x, {v})", [0, -1], [k])
        else:
            add(f"{op}(x, {v}, y)", [0, -1, 1], [k])
            add(f"{op}(x, y, {v})", [0, 1, -1], [k])
    if arity == 2:
        for k in fixed[:2] if op in ("idiv", "irem") else fixed[1:4]:
            add(f"{op}({_value(k, compute)}, x)", [-1, 0], [k])
        if len(fixed) > 1:
            add(f"{op} of constants", [-1, -2], [fixed[-1], fixed[1]])
    if op in ("lt", "le", "eq"):
        made.append(_masked(op, storage, x))
    return Trial(op, (storage,) * arity, made, _picker(op, storage, arity))


def _masked(op: str, storage: DType, x: Sequence[Expr]) -> Result:
    """A comparison used as a mask, as min and max are made."""

    def want(columns: Sequence[Sequence[int]], tiny: str | None) -> list[int]:
        mask = exact.results(exact.element(op, storage.name, tiny=tiny), columns)
        return exact.results(exact.element("select", storage.name), [mask, *columns])

    expr = ir.select(_CALLS[op](*x), x[0], x[1])
    return Result(f"select({op}(x, y), x, y)", storage, expr, want)


def _select(op: str, storage: DType) -> Trial | None:
    c, x, y = ir.input_(0, dt.bool_), ir.input_(1, storage), ir.input_(2, storage)
    if storage.compute is not storage:
        return None

    def want(columns: Sequence[Sequence[int]], tiny: str | None) -> list[int]:
        return [b if a else d for a, b, d in zip(*columns, strict=True)]

    def swapped(columns: Sequence[Sequence[int]], tiny: str | None) -> list[int]:
        return [d if a else b for a, b, d in zip(*columns, strict=True)]

    def columns(level: str, seed: int) -> list[list[int]]:
        pairs = _picker("select", storage, 2)(level, seed)
        n = len(pairs[0])
        return [[(k * 5 + k // 3) % 2 for k in range(n)], *pairs]

    results = [
        Result("select(c, x, y)", storage, ir.select(c, x, y), want),
        Result("select(not c, x, y)", storage, ir.select(~c, x, y), swapped),
    ]
    return Trial(op, (dt.bool_, storage, storage), results, columns)


def _convert(op: str, storage: DType) -> Trial | None:
    """To every dtype: what is computed, and what is stored in 16 bits."""
    x = ir.input_(0, storage)
    if storage.compute is not storage:
        return None
    results = []
    for target in dt.ALL:
        narrow = target.compute is not target
        if op == "bitcast" and (narrow or not _defined(lambda t=target: ir.bitcast(x, t))):  # type: ignore[misc]
            continue
        if target is storage:
            continue
        change = ir.bitcast if op == "bitcast" else ir.cast
        expr = x if narrow else change(x, target)

        def want(
            columns: Sequence[Sequence[int]],
            tiny: str | None,
            target: DType = target,
            stored: bool = narrow,
        ) -> list[int]:
            reading = None if stored else tiny  # a store flushes nothing
            return exact.results(exact.element(op, storage.name, target.name, reading), columns)

        results.append(Result(f"{op}(x) as {target.name}", target, expr, want))
    return Trial(op, (storage,), results, _picker(op, storage, 1)) if results else None


def _round(op: str, storage: DType) -> Trial | None:
    """To 16 bits and back: what is computed with, and what is stored."""
    x = ir.input_(0, storage)
    if storage.compute is not storage:
        return None

    def rounded(target: DType, out: DType) -> Want:
        def want(columns: Sequence[Sequence[int]], tiny: str | None) -> list[int]:
            narrow = exact.results(exact.conversion(storage.name, target.name), columns)
            return exact.results(exact.conversion(target.name, out.name), [narrow])

        return want

    results = []
    for d in (d for d in dt.ALL if d.compute is not d):
        expr = ir.round_to(x, d)
        results.append(Result(f"x as {d.name}", d.compute, expr, rounded(d, d.compute)))
        results.append(Result(f"x as {d.name}, stored", d, expr, rounded(d, d)))
    return Trial(op, (storage,), results, _picker("cast", storage, 1))


def _store(op: str, storage: DType) -> Trial | None:
    """To every dtype by storing alone: one rounding, whatever the pair (16 bits: see cast)."""
    x = ir.input_(0, storage)
    if storage.compute is not storage:
        return None

    def stored(target: DType) -> Want:
        def want(columns: Sequence[Sequence[int]], tiny: str | None) -> list[int]:
            return exact.results(exact.conversion(storage.name, target.name, tiny), columns)

        return want

    targets = [d for d in dt.ALL if d.compute is d and d is not storage]
    results = [Result(f"x stored as {d.name}", d, x, stored(d)) for d in targets]
    return Trial(op, (storage,), results, _picker("cast", storage, 1))


def _same(columns: Sequence[Sequence[int]], tiny: str | None) -> list[int]:
    return list(columns[0])


def _input(op: str, storage: DType) -> Trial | None:
    """Reading and storing leaves bits; 16-bit floats are widened without rounding."""
    x = ir.input_(0, storage)

    def widened(columns: Sequence[Sequence[int]], tiny: str | None) -> list[int]:
        return exact.results(exact.conversion(storage.name, storage.compute.name), columns)

    results = [Result("x", storage, x, _same)]
    if storage.compute is not storage:
        results.append(Result("x as float32", storage.compute, x, widened))
    return Trial(op, (storage,), results, _picker(op, storage, 1))


def _turned(at: Expr) -> Expr:
    """The same int64 after a loop of 0 to 7 turns, another number for neighbours."""
    turns = ir.cast(at & 7, dt.int32)
    return ir.repeat(turns, [at], lambda i, c: (c,))[0]


def _load(op: str, storage: DType) -> Trial | None:
    """An element from anywhere, the first and the last one too."""

    def columns(level: str, seed: int) -> list[list[int]]:
        (data,) = _picker(op, storage, 1)(level, seed)
        data = data * -(-32 // len(data))
        n = len(data)
        at = [0, n - 1, n // 2, 1, n - 2]
        return [[(k * 7919 + 3) % n if k >= 5 else at[k] % n for k in range(n)], data]

    def want(columns: Sequence[Sequence[int]], tiny: str | None) -> list[int]:
        return [columns[1][k] for k in columns[0]]

    at = ir.input_(0, dt.int64)
    results = [
        Result("load(k)", storage, ir.load(1, storage, at), want),
        Result("load(index)", storage, ir.load(1, storage, ir.index()), lambda c, tiny: list(c[1])),
        Result("load(k) after a loop", storage, ir.load(1, storage, _turned(at)), want),
    ]
    return Trial(op, (dt.int64, storage), results, columns, read=(1,))


def _entries(dtype: DType) -> list[int]:
    """Special values, each once: entries of a table or constants; one NaN."""
    if dtype is dt.bool_:
        return [0, 1]
    if dtype.is_integer:
        return vectors.special_integers(dtype.bits, dtype.kind == "i", few=True)
    f = exact.FORMATS[dtype.name]
    found = [x for x in vectors.special_floats(f) if not exact.is_nan(x, f)]
    return [*found, exact.nan(f)]


def _table(op: str, storage: DType) -> Trial | None:
    if storage.compute is not storage:
        return None
    entries = _entries(storage)
    at = ir.input_(0, dt.int32)
    expr = ir.table([_value(e, storage) for e in entries], storage, at)

    def columns(level: str, seed: int) -> list[list[int]]:
        n = len(entries)
        return [[*range(n), *range(n - 1, -1, -1), *([0, n - 1] * 5)]]

    def want(columns: Sequence[Sequence[int]], tiny: str | None) -> list[int]:
        return [entries[k] for k in columns[0]]

    return Trial(op, (dt.int32,), [Result("table(k)", storage, expr, want)], columns)


def _always(entry: int) -> Want:
    return lambda columns, tiny: [entry] * len(columns[0])


def _const(op: str, storage: DType) -> Trial | None:
    if storage.compute is not storage:
        return None
    entries = _entries(storage)
    # Eleven results in a kernel: of the values that a compiler may spell wrong, the edges.
    chosen = dict.fromkeys([*entries[:5], *entries[len(entries) // 2 :][:2], *entries[-4:]])
    results = [
        Result(
            repr(_value(e, storage)),
            storage,
            ir.const(_value(e, storage), storage),
            _always(e),
        )
        for e in chosen
    ]
    return Trial(op, (storage,), results, _picker(op, storage, 1))


def _param(op: str, storage: DType) -> Trial | None:
    if storage.compute is not storage:
        return None
    entries = _entries(storage)
    chosen = list(
        dict.fromkeys([entries[0], entries[1], entries[len(entries) // 2], *entries[-5:]])
    )
    results = [
        Result(f"param {k}", storage, ir.param(k, storage), _always(e))
        for k, e in enumerate(chosen)
    ]
    params = tuple((storage, e) for e in chosen)
    return Trial(op, (storage,), results, _picker(op, storage, 1), params=params)


def _index(op: str, storage: DType) -> Trial | None:
    if storage is not dt.int64:
        return None
    want: Any = lambda c, tiny: list(range(len(c[0])))  # noqa: E731
    return Trial(
        op, (storage,), [Result("index", storage, ir.index(), want)], _picker(op, storage, 1)
    )


# -- loops --------------------------------------------------------------------------------------


def _loop_columns(storage: DType) -> Callable[[str, int], list[list[int]]]:
    """Counts, negative ones and zero among them, beside two operands."""

    def columns(level: str, seed: int) -> list[list[int]]:
        x, y = _picker("add", storage, 2)(level, seed)
        x, y = (c[:: max(1, len(c) // (200 if level == "smoke" else 2000))] for c in (x, y))
        counts = [-(1 << 31), -1, 0, 1, 2, 3, 9, 20]
        return [[counts[k * 5 % 8] for k in range(len(x))], x, y]

    return columns


def _loops(op: str, storage: DType) -> Trial | None:
    """``repeat`` and what lives in it: each name with the results that show it best."""
    if storage.compute is not storage:
        return None
    n, x, y = ir.input_(0, dt.int32), ir.input_(1, storage), ir.input_(2, storage)
    swap = ir.repeat(n, [x, y], lambda i, a, b: (b, a))
    counted = ir.repeat(n, [n, ir.const(0, dt.int32)], lambda i, a, b: (i, b + i))
    results: list[Result] = []

    def loop(step: Callable[..., tuple[int, ...]], get: int) -> Any:
        def want(columns: Sequence[Sequence[int]], tiny: str | None) -> list[int]:
            found = []
            for count, *state in zip(*columns, strict=True):
                carried = tuple(state)
                for i in range(count):
                    carried = step(tiny, i, *carried)
                found.append(carried[get])
            return found

        return want

    def swapped(get: int) -> Result:
        step = lambda tiny, i, a, b: (b, a)  # noqa: E731
        return Result(f"swap[{get}]", storage, swap[get], loop(step, get))

    if op in ("carry", "get"):
        results += [swapped(0), swapped(1)]
    if op in ("repeat", "iter"):
        last = lambda c, tiny: [k - 1 if k > 0 else k for k in c[0]]  # noqa: E731
        total = lambda c, tiny: [k * (k - 1) // 2 if k > 0 else 0 for k in c[0]]  # noqa: E731
        results += [
            Result("last i", dt.int32, counted[0], last),
            Result("sum of i", dt.int32, counted[1], total),
        ]
    if op in ("repeat", "carry") and storage is not dt.bool_:
        mixed = ir.repeat(n, [x, y], lambda i, a, b: (b, a + b))

        def step(tiny: str | None, i: int, a: int, b: int) -> tuple[int, int]:
            return b, exact.element("add", storage.name, tiny=tiny)(a, b)

        results.append(Result("sums of the last two", storage, mixed[1], loop(step, 1)))
        inner = ir.repeat(
            n,
            [x, y],
            lambda i, a, b: (ir.repeat(i, [a, b], lambda j, c, d: (d, c))[0], a),
        )

        def nested(tiny: str | None, i: int, a: int, b: int) -> tuple[int, int]:
            return (b if i % 2 else a), a

        results.append(Result("a loop in a loop", storage, inner[0], loop(nested, 0)))
    if op == "repeat":
        results += _looked_up(n, counted[1], storage)
    return Trial(op, (dt.int32, storage, storage), results, _loop_columns(storage))


def _looked_up(n: Expr, total: Expr, storage: DType) -> list[Result]:
    """Tables after loops that other elements leave sooner or later, one of them in a loop.

    Args:
        n: How often each element turns.
        total: The sum of 0 .. n - 1.
    """
    entries = (_entries(storage) * 4)[:8]
    turns = [5, 2, 7, 0, 3, 6, 1, 4]

    def step(i: Expr, a: Expr) -> tuple[Expr]:
        (moved,) = ir.repeat(i & 3, [a], lambda j, c: ((c + 3) & 7,))
        return (ir.table(turns, dt.int32, moved),)

    def after(columns: Sequence[Sequence[int]], tiny: str | None) -> list[int]:
        return [entries[k * (k - 1) // 2 & 7 if k > 0 else 0] for k in columns[0]]

    def inside(columns: Sequence[Sequence[int]], tiny: str | None) -> list[int]:
        found = []
        for k in columns[0]:
            a = 5
            for i in range(k):
                a = turns[(a + 3 * (i & 3)) & 7]
            found.append(a)
        return found

    start = ir.const(5, dt.int32)
    table = ir.table([_value(e, storage) for e in entries], storage, total & 7)
    return [
        Result("a table after a loop", storage, table, after),
        Result("tables after loops in a loop", dt.int32, ir.repeat(n, [start], step)[0], inside),
    ]


BUILDERS: dict[str, Callable[[str, DType], Trial | None]] = {
    **dict.fromkeys(_CALLS, _calls),
    **dict.fromkeys(("repeat", "carry", "iter", "get"), _loops),
    "store": _store, "round_to": _round, "select": _select, "cast": _convert, "bitcast": _convert,
    "input": _input, "load": _load, "table": _table, "const": _const, "param": _param,
    "index": _index,
}  # fmt: skip
"""From a primitive and a storage dtype to its trial, None where the IR does not define it."""


@cache
def trial(op: str, storage: DType, declared: frozenset[str]) -> Trial | None:
    """What is tried of a primitive on a device that declares these dtypes.

    Returns:
        None if the IR does not define it for `storage`.

    Raises:
        KeyError: Nobody has written down what this primitive gives.
    """
    made = BUILDERS[op](op, storage)
    if made is None:
        return None
    return replace(made, results=[r for r in made.results if r.dtype.name in declared])
