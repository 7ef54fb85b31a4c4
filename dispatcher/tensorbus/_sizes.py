"""Sizes that are still open: a plan is made for one shape and tells what others would change.

While a plan is made, the sizes and strides of its operands may be `Size` objects.  They compute as
integers do, and the `Sizes` that they belong to writes down each result as a formula of the
operands, and each comparison as a condition.  What was decided on the way (a kernel for rows of
stride 1, a second level for more than one chunk) therefore holds for all shapes that meet the
conditions: a size class.  Nothing can look at an open size without a trace: what is not written as
a formula (a size as a number of steps, in a text) is written as the condition that it has this
value; what would hide it (a key of a table) is an error, and the plan is then made for one shape.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

__all__ = ["Size", "Sizes"]

Number = int | float

_RUN = 4
_NAME = re.compile(r"\bv\d+\b")


class Size:
    """An integer, or a number computed from integers, that another shape may change.

    Attributes:
        text: The formula's name in the function that `Sizes` writes.
        value: Its value for the shape at hand.
    """

    __slots__ = ("_home", "text", "value")
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init__(self, home: Sizes, text: str, value: Number) -> None:
        self._home, self.text, self.value = home, text, value

    def _make(self, symbol: str, a: Any, b: Any) -> Any:
        return self._home.formula(symbol, a, b)

    def __add__(self, other: Any) -> Any:
        return self if _is_int(other, 0) else self._make("+", self, other)

    def __radd__(self, other: Any) -> Any:
        return self if _is_int(other, 0) else self._make("+", other, self)

    def __sub__(self, other: Any) -> Any:
        return self if _is_int(other, 0) else self._make("-", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._make("-", other, self)

    def __mul__(self, other: Any) -> Any:
        if _is_int(other, 0):
            return 0
        return self if _is_int(other, 1) else self._make("*", self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        return self if _is_int(other, 1) else self._divided("//", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._divided("//", other, self)

    def __mod__(self, other: Any) -> Any:
        return self._divided("%", self, other)

    def __rmod__(self, other: Any) -> Any:
        return self._divided("%", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._divided("/", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._divided("/", other, self)

    def _divided(self, symbol: str, a: Any, b: Any) -> Any:
        if b == 0:  # as a condition, where b is open
            raise ZeroDivisionError
        return 1 if a is b and symbol == "//" else self._make(symbol, a, b)

    def __neg__(self) -> Any:
        return self._make("-", 0, self)

    def __abs__(self) -> Any:
        return self if self >= 0 else -self

    def bit_length(self) -> Any:
        """As of an int."""
        return self._home.bit_length(self)

    def bits(self, function: Callable[[Any, Any], int], dtype: Any) -> Any:
        """``function(self, dtype)``, a word, as a formula."""
        return self._home.call(function, self, dtype)

    def __lt__(self, other: Any) -> bool:
        return self._home.condition("<", self, other)

    def __le__(self, other: Any) -> bool:
        return self._home.condition("<=", self, other)

    def __gt__(self, other: Any) -> bool:
        return self._home.condition(">", self, other)

    def __ge__(self, other: Any) -> bool:
        return self._home.condition(">=", self, other)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, int | float | Size):
            return NotImplemented
        return self._home.condition("==", self, other)

    def __bool__(self) -> bool:
        return self != 0

    def _fixed(self) -> Number:
        """The value, on the condition that it is this one."""
        self._home.condition("==", self, self.value)
        return self.value

    def __index__(self) -> int:
        return self._fixed().__index__()  # type: ignore[union-attr]

    def __int__(self) -> int:
        return int(self._fixed())

    def __float__(self) -> float:
        return float(self._fixed())

    def __repr__(self) -> str:
        return repr(self._fixed())

    def __format__(self, how: str) -> str:
        return format(self._fixed(), how)


def _is_int(value: object, wanted: int) -> bool:
    return value.__class__ is int and value == wanted


class Sizes:
    """What was computed and decided from open sizes, as the text of a function.

    Args:
        values: The open sizes of the shape at hand.

    Attributes:
        given: These, open.
    """

    def __init__(self, values: Sequence[int]) -> None:
        self.given = [Size(self, f"n{k}", v) for k, v in enumerate(values)]
        self._formulas: dict[tuple[str, str, str], Size] = {}
        self._decided: set[str] = set()
        self._lines: list[tuple[str, str]] = []
        self._constants: dict[str, Any] = {}
        self._names: dict[int, str] = {}

    def formula(self, symbol: str, a: Any, b: Any) -> Any:
        """``a symbol b``, one object for equal ones."""
        if not (isinstance(a, int | float | Size) and isinstance(b, int | float | Size)):
            return NotImplemented
        key = (symbol, self.text(a), self.text(b))
        if symbol in "+*" and key[2] < key[1]:
            key, a, b = (symbol, key[2], key[1]), b, a
        found = self._formulas.get(key)
        if found is None:
            x, y = self.value(a), self.value(b)
            found = self._named(f"{key[1]} {symbol} {key[2]}", _COMPUTE[symbol](x, y))
            self._formulas[key] = found
        return found

    def bit_length(self, a: Size) -> Size:
        """``a.bit_length()``."""
        key = ("bit_length", a.text, "")
        if key not in self._formulas:
            value = self.value(a).bit_length()
            self._formulas[key] = self._named(f"{a.text}.bit_length()", value)
        return self._formulas[key]

    def call(self, function: Callable[..., int], a: Size, constant: Any) -> Size:
        """``function(a, constant)``."""
        text = f"{self.text(function)}({a.text}, {self.text(constant)})"
        key = ("call", text, "")
        if key not in self._formulas:
            self._formulas[key] = self._named(text, function(a.value, constant))
        return self._formulas[key]

    def condition(self, symbol: str, a: Any, b: Any) -> bool:
        """Whether ``a symbol b`` holds, which becomes a condition of the class."""
        if not isinstance(b, int | float | Size):
            raise TypeError(f"a size is compared with {type(b).__name__}")
        if a is b:
            return symbol in ("==", "<=", ">=")
        text = f"{self.text(a)} {symbol} {self.text(b)}"
        holds = bool(_COMPARE[symbol](self.value(a), self.value(b)))
        if text not in self._decided:
            self._decided.add(text)
            self._lines.append(("", f"if {'not ' if holds else ''}({text}): return None"))
        return holds

    def asked(self, function: Callable[..., bool], *parts: Any) -> bool:
        """``function(*parts)``, which becomes a condition of the class."""
        answer = function(*map(self.value, parts))
        texts = ", ".join(map(self.text, parts))
        self._lines.append(("", f"if {self.text(function)}({texts}) is not {answer}: return None"))
        return answer

    def value(self, part: Any) -> Any:
        """The value for the shape at hand, whatever it is; of tuples, of their parts."""
        if isinstance(part, Size):
            return part.value
        if type(part) is tuple:
            return tuple([self.value(p) for p in part])
        return part

    def text(self, part: Any) -> str:
        """How the function spells a number, a size, a tuple of such, or any other object."""
        kind = part.__class__
        if kind is Size:
            return str(part.text)
        if kind is int or kind is bool or part is None:
            return str(part)
        if kind is tuple:
            return self._tuple(part)
        return self._constant(part)

    def _constant(self, part: Any) -> str:
        name = self._names.get(id(part))
        if name is None:
            name = self._names[id(part)] = f"k{len(self._constants)}"
            self._constants[name] = part  # which keeps it, and its id, alive
        return name

    def _tuple(self, parts: tuple[Any, ...]) -> str:
        """Integers that follow each other are one constant: they cost the compiler nothing then."""
        texts: list[str] = []
        for plain, run in itertools.groupby(parts, lambda p: p.__class__ is int):
            these = tuple(run)
            if plain and len(these) > _RUN:
                texts.append(f"*{self._constant(these)}, ")
            else:
                texts += [f"{self.text(p)}, " for p in these]
        return "(" + "".join(texts) + ")"

    def function(self, result: str) -> Callable[[Sequence[int]], Any]:
        """From open sizes to what the text `result` says; None where a condition does not hold."""
        names = "".join([f"{g.text}, " for g in self.given])
        lines, needed = [f"return {result}"], set(_NAME.findall(result))
        for name, text in reversed(self._lines):
            if not name or name in needed:
                needed.update(_NAME.findall(text))
                lines.append(f"{name} = {text}" if name else text)
        if names:
            lines.append(f"{names}= given")
        body = "\n    ".join(reversed(lines))
        space = dict(self._constants)
        exec(f"def plan(given):\n    {body}\n", space)
        made: Callable[[Sequence[int]], Any] = space["plan"]
        return made

    def _named(self, text: str, value: Number) -> Size:
        made = Size(self, f"v{len(self._formulas)}", value)
        self._lines.append((made.text, text))
        return made


_COMPUTE: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "/": lambda a, b: a / b,
}

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
}
