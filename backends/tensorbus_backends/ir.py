"""The scalar IR: what one element of a kernel computes, as a typed expression.

An expression is built by calling ordinary Python functions on symbolic scalars::

    x = input_(0, dt.float32)
    y = fma(x, x, const(1.0, dt.float32))        # or  x * x + 1.0, which is two roundings

and read by four readers: the C-like renderer (`clike`), the NumPy interpreter (`interp`), kernel
fusion by substitution, and tests.  Every primitive has exactly one result on every device:

* ``add sub mul div sqrt fma neg abs floor ceil trunc rint`` on floats are IEEE 754 operations,
  rounded to nearest, ties to even; any NaN is as good as any other;
* ``add sub mul neg`` on integers wrap modulo 2^bits; ``mulhi`` is the upper half of the product;
* ``idiv irem`` truncate towards zero; a zero divisor gives 0 for both, and the least integer
  divided by -1 gives itself, with remainder 0;
* ``shl shr`` take an amount of the same dtype; an amount outside [0, bits) shifts everything out
  (``shr`` of a negative value leaves -1);
* ``cast`` float to integer truncates, saturates, and maps NaN to 0; integer to integer wraps;
  integer to float and float64 to float32 round to nearest even; anything to bool is ``x != 0``;
* ``round_to`` rounds any value once to a 16-bit float and widens it again, as storing it and then
  reading it does;
* ``lt le eq`` are false on NaN; ``select`` picks by a bool and evaluates both sides;
* ``load`` reads an element of a buffer slot; its index must be in range even where the value is
  not used; ``table`` reads a constant table;
* ``repeat`` runs its body a given number of times (negative counts as 0), carrying values.

min and max are not primitives: devices differ on NaN and on the sign of zero, so they are spelled
with compare and select in `scalar`.
"""

from __future__ import annotations

import itertools
import math
import struct
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from . import dtypes as dt
from .dtypes import DType

__all__ = [
    "Expr",
    "IRError",
    "Operand",
    "PRIMITIVES",
    "bitcast",
    "cast",
    "ceil",
    "const",
    "fabs",
    "fingerprint",
    "floor",
    "fma",
    "idiv",
    "index",
    "input_",
    "irem",
    "load",
    "mulhi",
    "param",
    "repeat",
    "rint",
    "round_to",
    "select",
    "sqrt",
    "substitute",
    "table",
    "trunc",
    "validate",
    "validate_leaves",
    "walk",
]


class IRError(TypeError):
    """An expression breaks the rules of the scalar IR (dtype, arity or attribute)."""


class Expr:
    """A node: interned, so that equal expressions are the same object while one of them lives.

    Attributes:
        op: Primitive name.
        dtype: Dtype of the value, always a compute dtype.
        args: Operands.
        attr: What the primitive needs besides operands (bits of a constant, slot, table, ...).
        free: Loops around it whose carried values or counter it depends on.
        height: How many loops lie in one another below it, itself included.
    """

    __slots__ = ("__weakref__", "args", "attr", "dtype", "free", "height", "op")
    op: str
    dtype: DType
    args: tuple[Expr, ...]
    attr: Any
    free: frozenset[int]
    height: int

    def __add__(self, other: Operand) -> Expr:
        return _binary("add", self, other)

    def __radd__(self, other: Operand) -> Expr:
        return _binary("add", _lift(other, self.dtype), self)

    def __sub__(self, other: Operand) -> Expr:
        return _binary("sub", self, other)

    def __rsub__(self, other: Operand) -> Expr:
        return _binary("sub", _lift(other, self.dtype), self)

    def __mul__(self, other: Operand) -> Expr:
        return _binary("mul", self, other)

    def __rmul__(self, other: Operand) -> Expr:
        return _binary("mul", _lift(other, self.dtype), self)

    def __truediv__(self, other: Operand) -> Expr:
        return _binary("div", self, other)

    def __rtruediv__(self, other: Operand) -> Expr:
        return _binary("div", _lift(other, self.dtype), self)

    def __neg__(self) -> Expr:
        return _make("neg", self.dtype, (self,))

    def __and__(self, other: Operand) -> Expr:
        return _binary("and", self, other)

    def __or__(self, other: Operand) -> Expr:
        return _binary("or", self, other)

    def __xor__(self, other: Operand) -> Expr:
        return _binary("xor", self, other)

    def __invert__(self) -> Expr:
        return _make("not", self.dtype, (self,))

    def __lshift__(self, other: Operand) -> Expr:
        return _binary("shl", self, other)

    def __rshift__(self, other: Operand) -> Expr:
        return _binary("shr", self, other)

    def __lt__(self, other: Operand) -> Expr:
        return _compare("lt", self, other)

    def __le__(self, other: Operand) -> Expr:
        return _compare("le", self, other)

    def __gt__(self, other: Operand) -> Expr:
        return _compare("lt", _lift(other, self.dtype), self)

    def __ge__(self, other: Operand) -> Expr:
        return _compare("le", _lift(other, self.dtype), self)

    def eq(self, other: Operand) -> Expr:
        """``self == other`` as a bool expression (``==`` itself compares nodes)."""
        return _compare("eq", self, other)

    def ne(self, other: Operand) -> Expr:
        """``self != other`` as a bool expression: the negation of `eq`, so true on NaN."""
        return ~_compare("eq", self, other)

    def __bool__(self) -> bool:
        raise IRError(
            "a symbolic scalar has no truth value while a kernel body is traced; "
            "use select(condition, a, b)"
        )

    def __repr__(self) -> str:
        if self.op == "const":
            return f"{value_of(self)!r}:{self.dtype.name}"
        inner = ", ".join(map(repr, self.args))
        attr = "" if self.attr is None else f"[{self.attr}]"
        return f"{self.op}{attr}({inner})"


Operand = Expr | int | float | bool

PRIMITIVES = (
    "const", "input", "index", "param", "load", "table",
    "add", "sub", "mul", "div", "fma", "sqrt", "neg", "abs", "floor", "ceil", "trunc", "rint",
    "idiv", "irem", "mulhi", "and", "or", "xor", "not", "shl", "shr",
    "lt", "le", "eq", "select", "cast", "bitcast", "round_to", "repeat", "carry", "iter", "get",
)  # fmt: skip
"""Every primitive by name; there is no node of another one.  The conformance suite judges each."""

_FLOAT_UNARY = ("sqrt", "floor", "ceil", "trunc", "rint")
_LEAVES = ("const", "input", "index", "param", "carry", "iter")
_interned: weakref.WeakValueDictionary[tuple[Any, ...], Expr] = weakref.WeakValueDictionary()
_interning = threading.Lock()  # two threads that miss the same node must not make two
_tracing = itertools.count(1)
_NONE: frozenset[int] = frozenset()

_COMPUTE = frozenset(d for d in dt.ALL if d.compute is d)
_INTS = frozenset(dt.INTEGER)
_FLOATS = frozenset({dt.float32, dt.float64})


def _require(ok: bool, op: str, args: Iterable[Expr], why: str) -> None:
    if not ok:
        kinds = ", ".join(a.dtype.name for a in args)
        raise IRError(f"{op}({kinds}): {why}")


def _check(op: str, dtype: DType, args: tuple[Expr, ...], attr: Any) -> None:
    """Raise IRError unless a node of these parts is well formed."""
    same = all(a.dtype is args[0].dtype for a in args) if args else True
    first = args[0].dtype if args else dtype
    if op not in PRIMITIVES:
        raise IRError(f"no such primitive: {op!r}")
    _require(dtype in _COMPUTE, op, args, f"{dtype.name} is a storage dtype, not a compute dtype")
    if op in _LEAVES:
        _require(not args, op, args, "a leaf takes no operands")
    elif op in ("add", "sub", "mul"):
        ok = len(args) == 2 and same and dtype is first and first.kind in "iuf"
        _require(ok, op, args, "needs two operands of one numeric dtype")
    elif op == "div":
        ok = len(args) == 2 and same and dtype is first and first in _FLOATS
        _require(ok, op, args, "needs two floats of one dtype (idiv divides integers)")
    elif op == "fma":
        ok = len(args) == 3 and same and dtype is first and first in _FLOATS
        _require(ok, op, args, "needs three floats of one dtype")
    elif op in _FLOAT_UNARY:
        ok = len(args) == 1 and dtype is first and first in _FLOATS
        _require(ok, op, args, "needs one float")
    elif op in ("neg", "abs"):
        ok = len(args) == 1 and dtype is first and first.kind in "iuf"
        _require(ok, op, args, "needs one numeric operand")
    elif op in ("idiv", "irem", "mulhi", "shl", "shr"):
        ok = len(args) == 2 and same and dtype is first and first in _INTS
        _require(ok, op, args, "needs two integers of one dtype")
    elif op in ("and", "or", "xor"):
        ok = len(args) == 2 and same and dtype is first and first.kind in "biu"
        _require(ok, op, args, "needs two bools or two integers of one dtype")
    elif op == "not":
        ok = len(args) == 1 and dtype is first and first.kind in "biu"
        _require(ok, op, args, "needs a bool or an integer")
    elif op in ("lt", "le", "eq"):
        ok = len(args) == 2 and same and dtype is dt.bool_
        _require(ok, op, args, "needs two operands of one dtype")
    elif op == "select":
        ok = len(args) == 3 and first is dt.bool_ and args[1].dtype is args[2].dtype is dtype
        _require(ok, op, args, "needs a bool and two operands of one dtype")
    elif op == "cast":
        _require(len(args) == 1, op, args, "needs one operand")
    elif op == "bitcast":
        ok = len(args) == 1 and first.bits == dtype.bits and "b" not in (first.kind, dtype.kind)
        _require(ok, op, args, f"cannot reinterpret as {dtype.name}: widths must agree, no bool")
    elif op == "round_to":
        ok = len(args) == 1 and attr.compute is not attr and attr.compute is dtype
        _require(ok, op, args, "needs one operand and a storage dtype that is not computed in")
    elif op == "table":
        ok = len(args) == 1 and first is dt.int32 and len(attr) > 0
        _require(ok, op, args, "needs an int32 index and a non-empty table")
    elif op == "load":
        ok = len(args) == 1 and first is dt.int64 and attr[1].compute is dtype
        _require(ok, op, args, "needs an int64 index")
    elif op == "repeat":
        n = attr[1]
        ok = len(args) == 1 + 2 * n and first is dt.int32 and n > 0 and dtype is args[1].dtype
        ok = ok and all(args[1 + i].dtype is args[1 + n + i].dtype for i in range(n))
        _require(ok, op, args, "needs an int32 count and a body that keeps the carried dtypes")
    elif op == "get":
        ok = len(args) == 1 and args[0].op == "repeat" and 0 <= attr < args[0].attr[1]
        ok = ok and dtype is args[0].args[1 + attr].dtype
        _require(ok, op, args, "needs a repeat and the number of a value that it carries")
    else:
        raise AssertionError(f"no rule for primitive {op!r}")


def _make(op: str, dtype: DType, args: tuple[Expr, ...] = (), attr: Any = None) -> Expr:
    key = (op, dtype, args, attr)
    node = _interned.get(key)
    if node is None:
        _check(op, dtype, args, attr)
        made = Expr()
        made.op, made.dtype, made.args, made.attr = op, dtype, args, attr
        made.free, made.height = _scope(op, args, attr)
        with _interning:
            node = _interned.setdefault(key, made)
    return node


def _scope(op: str, args: tuple[Expr, ...], attr: Any) -> tuple[frozenset[int], int]:
    """The loops that a node depends on, and the height of the loops below it."""
    if op == "carry":
        return frozenset({attr[0]}), 0
    if op == "iter":
        return frozenset({attr}), 0
    height = max((a.height for a in args), default=0)
    if op == "repeat":
        outside, bodies = args[: 1 + attr[1]], args[1 + attr[1] :]
        inner: frozenset[int] = _NONE.union(*(b.free for b in bodies)) - {attr[0]}
        free = inner.union(*(a.free for a in outside))
        return free, max(height, 1 + max(b.height for b in bodies))
    free = _NONE
    for a in args:
        if a.free:
            free = free | a.free
    return free, height


def _lift(x: Operand, dtype: DType) -> Expr:
    return x if isinstance(x, Expr) else const(x, dtype)


def _binary(op: str, a: Expr, b: Operand) -> Expr:
    return _make(op, a.dtype, (a, _lift(b, a.dtype)))


def _compare(op: str, a: Expr, b: Operand) -> Expr:
    return _make(op, dt.bool_, (a, _lift(b, a.dtype)))


def _bits_of(value: float, dtype: DType) -> int:
    with np.errstate(over="ignore"):
        rounded = dtype.numpy.type(value)
    if math.isnan(value):
        return {32: 0x7FC00000, 64: 0x7FF8 << 48}[dtype.bits]
    if float(rounded) != float(value):
        raise IRError(f"{value!r} is not a {dtype.name}; round it first, so that readers agree")
    return int.from_bytes(rounded.tobytes(), "little")


def const(value: int | float | bool, dtype: DType) -> Expr:
    """A constant; it must be exactly representable (floats: round before, see `scalar.f`)."""
    if dtype.is_float:
        return _make("const", dtype, (), _bits_of(float(value), dtype))
    integer = int(value)
    if integer != value or not dtype.min <= integer <= dtype.max:
        raise IRError(f"{value!r} is not a {dtype.name}")
    return _make("const", dtype, (), integer)


def value_of(node: Expr) -> int | float:
    """The Python value of a const node."""
    if node.dtype is dt.float32:
        return float(struct.unpack("<f", struct.pack("<I", node.attr))[0])
    if node.dtype is dt.float64:
        return float(struct.unpack("<d", struct.pack("<Q", node.attr))[0])
    return int(node.attr)


def input_(slot: int, dtype: DType) -> Expr:
    """The current element of operand `slot`, already in compute dtype."""
    return _make("input", dtype.compute, (), slot)


def param(slot: int, dtype: DType) -> Expr:
    """A scalar given at launch, one value for the whole kernel."""
    return _make("param", dtype.compute, (), slot)


def index() -> Expr:
    """int64: the logical C-order index of the output element (map), or along the reduction."""
    return _make("index", dt.int64)


def load(slot: int, storage: DType, at: Expr) -> Expr:
    """Element `at` (int64, counted from the operand's offset) of buffer operand `slot`."""
    return _make("load", storage.compute, (at,), (slot, storage))


def table(values: Sequence[int | float], dtype: DType, at: Expr) -> Expr:
    """Entry `at` (int32, must be in range) of a constant table."""
    entries = tuple(const(v, dtype).attr for v in values)
    return _make("table", dtype, (at,), entries)


def fma(a: Expr, b: Operand, c: Operand) -> Expr:
    """``a * b + c`` with one rounding (IEEE 754 fusedMultiplyAdd)."""
    return _make("fma", a.dtype, (a, _lift(b, a.dtype), _lift(c, a.dtype)))


def sqrt(x: Expr) -> Expr:
    """IEEE 754 squareRoot."""
    return _make("sqrt", x.dtype, (x,))


def fabs(x: Expr) -> Expr:
    """Absolute value; on signed integers the least one stays itself."""
    return _make("abs", x.dtype, (x,))


def floor(x: Expr) -> Expr:
    """roundToIntegralTowardNegative."""
    return _make("floor", x.dtype, (x,))


def ceil(x: Expr) -> Expr:
    """roundToIntegralTowardPositive."""
    return _make("ceil", x.dtype, (x,))


def trunc(x: Expr) -> Expr:
    """roundToIntegralTowardZero."""
    return _make("trunc", x.dtype, (x,))


def rint(x: Expr) -> Expr:
    """roundToIntegralTiesToEven."""
    return _make("rint", x.dtype, (x,))


def idiv(a: Expr, b: Operand) -> Expr:
    """Integer quotient towards zero; 0 where `b` is 0."""
    return _binary("idiv", a, b)


def irem(a: Expr, b: Operand) -> Expr:
    """``a - idiv(a, b) * b``, and 0 where `b` is 0."""
    return _binary("irem", a, b)


def mulhi(a: Expr, b: Operand) -> Expr:
    """Upper half of the double-width integer product."""
    return _binary("mulhi", a, b)


def select(condition: Expr, a: Operand, b: Operand) -> Expr:
    """`a` where `condition` is true, else `b`; at least one of them an Expr."""
    if isinstance(a, Expr):
        dtype = a.dtype
    elif isinstance(b, Expr):
        dtype = b.dtype
    else:
        raise IRError("select of two Python numbers has no dtype; lift one with const")
    return _make("select", dtype, (condition, _lift(a, dtype), _lift(b, dtype)))


def cast(x: Expr, dtype: DType) -> Expr:
    """Convert by value, with the one result defined at the top of this module."""
    return x if x.dtype is dtype else _make("cast", dtype, (x,))


def bitcast(x: Expr, dtype: DType) -> Expr:
    """Reinterpret the bits as another dtype of the same width."""
    return x if x.dtype is dtype else _make("bitcast", dtype, (x,))


def round_to(x: Expr, storage: DType) -> Expr:
    """The value as a buffer of `storage` gives it back: rounded once, in compute dtype."""
    if storage.compute is storage:
        return cast(x, storage)
    return _make("round_to", storage.compute, (x,), storage)


def repeat(
    count: Expr | int,
    init: Sequence[Expr],
    body: Callable[..., Sequence[Expr]],
) -> tuple[Expr, ...]:
    """Run ``carry = body(i, *carry)`` for i = 0 .. count-1 (int32), starting from `init`.

    The body must keep the dtypes of the carried values; it is traced once.

    A loop is named by its height, one more than that of the loops inside its body, and its carried
    values by the loop's name and their number.  So loops of one structure are one object, and a
    name can only mean the innermost loop of that height (the canonical names of Sato and Pollack,
    "External and internal syntax of the lambda-calculus", J. Symb. Comput. 45, 2010).
    """
    loop = -next(_tracing)  # until the body is known
    carries = tuple(_make("carry", e.dtype, (), (loop, k)) for k, e in enumerate(init))
    outs = tuple(body(_make("iter", dt.int32, (), loop), *carries))
    if len(outs) != len(init):
        raise IRError(f"repeat carries {len(init)} values but its body returns {len(outs)}")
    lifted = tuple(_lift(o, c.dtype) for o, c in zip(outs, carries, strict=True))
    node = _close(loop, _lift(count, dt.int32), tuple(init), lifted)
    return tuple(_make("get", e.dtype, (node,), k) for k, e in enumerate(init))


def _close(loop: int, count: Expr, init: tuple[Expr, ...], bodies: tuple[Expr, ...]) -> Expr:
    """The repeat whose bodies name it `loop` so far."""
    height = 1 + max(b.height for b in bodies)
    named = _rename(bodies, loop, height)
    return _make("repeat", init[0].dtype, (count, *init, *named), (height, len(init)))


def _rename(roots: Sequence[Expr], old: int, new: int) -> list[Expr]:
    """`roots` with the values of loop `old` as those of loop `new`."""
    done: dict[Expr, Expr] = {}
    for node in walk(*roots):
        if old not in node.free:
            done[node] = node
        elif node.op == "carry":
            done[node] = _make("carry", node.dtype, (), (new, node.attr[1]))
        elif node.op == "iter":
            done[node] = _make("iter", node.dtype, (), new)
        else:
            done[node] = _make(node.op, node.dtype, tuple(done[a] for a in node.args), node.attr)
    return [done[r] for r in roots]


def walk(*roots: Expr) -> Iterator[Expr]:
    """Every node below `roots` once, operands before the nodes that use them."""
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(r, False) for r in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((a, False) for a in reversed(node.args))


def substitute(root: Expr, replace: Callable[[Expr], Expr | None]) -> Expr:
    """Rebuild `root` with every leaf for which `replace` gives an expression exchanged.

    Raises:
        IRError: The other expression has another dtype, or depends on a loop that it is not in.
    """
    return _substituted(root, replace, {})


def _substituted(
    root: Expr, replace: Callable[[Expr], Expr | None], loops: Mapping[int, int]
) -> Expr:
    """`substitute` in the body of `loops`: how each of them is named so far."""
    done: dict[Expr, Expr] = {}
    stack = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if node in done:
            continue
        if not node.args:
            done[node] = _replaced(node, replace, loops)
            continue
        # A loop's bodies are in a scope of their own.
        seen = node.args[: 1 + node.attr[1]] if node.op == "repeat" else node.args
        if not ready:
            stack.append((node, True))
            stack.extend((a, False) for a in seen)
            continue
        args = tuple(done[a] for a in seen)
        if node.op == "repeat":
            own, n = node.attr
            loop = -next(_tracing)
            scope = {**loops, own: loop}
            bodies = tuple(_substituted(b, replace, scope) for b in node.args[1 + n :])
            done[node] = _close(loop, args[0], args[1:], bodies)
        else:
            done[node] = _make(node.op, node.dtype, args, node.attr)
    return done[root]


def _replaced(node: Expr, replace: Callable[[Expr], Expr | None], loops: Mapping[int, int]) -> Expr:
    new = replace(node)
    if new is not None:
        _require(new.dtype is node.dtype, "substitute", (node, new), "dtypes differ")
        _require(not new.free, "substitute", (node, new), "depends on a loop around it")
        return new
    if node.op == "carry":
        loop, k = node.attr
        return _make("carry", node.dtype, (), (loops.get(loop, loop), k))
    if node.op == "iter":
        return _make("iter", node.dtype, (), loops.get(node.attr, node.attr))
    return node


def fingerprint(*roots: Expr) -> str:
    """A text that is the same for the same computation in every process."""
    number: dict[int, int] = {}
    lines: list[str] = []
    for k, node in enumerate(walk(*roots)):
        number[id(node)] = k
        attr = node.attr
        if node.op in ("load", "round_to"):
            attr = (attr[0], attr[1].name) if node.op == "load" else attr.name
        args = ",".join(str(number[id(a)]) for a in node.args)
        lines.append(f"{node.op}:{node.dtype.name}({args})[{attr}]")
    lines.append(",".join(str(number[id(r)]) for r in roots))
    return "\n".join(lines)


def validate(
    outputs: Sequence[Expr],
    inputs: Sequence[DType] = (),
    params: Sequence[DType] = (),
    *,
    allow_index: bool = True,
) -> None:
    """Check a kernel body against what its skeleton provides.

    Args:
        outputs: The expressions to be stored.
        inputs: Storage dtypes of the operand slots that `input_` and `load` may name.
        params: Dtypes of the launch scalars.
        allow_index: Whether the skeleton defines `index`.

    Raises:
        IRError: A leaf names what is not there, or a loop value escapes its loop.
    """
    for node in walk(*outputs):
        _check(node.op, node.dtype, node.args, node.attr)
    validate_leaves(outputs, inputs, params, allow_index=allow_index)
    for out in outputs:
        if out.free:
            raise IRError(f"a value carried by repeat is used outside its loop: {out!r}")


def validate_leaves(
    outputs: Sequence[Expr],
    inputs: Sequence[DType] = (),
    params: Sequence[DType] = (),
    *,
    allow_index: bool = True,
) -> bool:
    """The part of `validate` that depends on operands and scalars; says whether `index` is used.

    A buffer's elements and the words of scalars carry no dtype, so a kernel would take the bits of
    one for those of another without a word.
    """
    indexed = False
    for node in walk(*outputs):
        if node.op == "input":
            _leaf(node, inputs, node.attr, "input")
        elif node.op == "load":
            _leaf(node, inputs, node.attr[0], "load")
        elif node.op == "param":
            _leaf(node, params, node.attr, "param")
        elif node.op == "index":
            indexed = True
    if indexed and not allow_index:
        raise IRError("index: this skeleton has no element index")
    return indexed


def _leaf(node: Expr, available: Sequence[DType], slot: int, what: str) -> None:
    if not 0 <= slot < len(available):
        raise IRError(f"{what} {slot}: the kernel has {len(available)}")
    if available[slot].compute is not node.dtype:
        raise IRError(f"{what} {slot} is {available[slot].name}, used as {node.dtype.name}")
