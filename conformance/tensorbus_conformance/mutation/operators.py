"""What is changed in Python: small edits of a syntax tree, found mechanically.

An edit names a node by its place in a fixed walk of the file's tree and says what takes its place.
Nothing is changed in annotations, messages, ``__all__``, ``__repr__`` and ``__str__``, imports,
docstrings and what only a type checker reads.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import ctext
from .parsing import parse

__all__ = ["Edit", "apply_edit", "edits", "statement_text"]

_SKIPPED_NAMES = {"__all__", "__slots__", "__doc__", "__version__"}
_SKIPPED_FUNCTIONS = {"__repr__", "__str__", "__format__", "__dir__"}
_SAYING = {"warn", "print", "debug", "info", "warning", "TypeVar", "cast", "overload",
           "_absent", "unavailable"}  # fmt: skip
_DTYPES = {
    "bool_": "uint8", "int8": "int16", "int16": "int32", "int32": "int64", "int64": "int32",
    "uint8": "uint16", "uint16": "uint32", "uint32": "uint64", "uint64": "uint32",
    "float16": "float32", "bfloat16": "float16", "float32": "float64", "float64": "float32",
}  # fmt: skip
_COMMUTATIVE = {
    "add", "multiply", "mul", "equal", "eq", "not_equal", "ne", "logical_and", "logical_or",
    "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "and_", "or_", "xor", "min", "max",
    "gcd", "union", "both", "either", "mulhi", "two_sum", "two_product", "promote",
}  # fmt: skip
_UNORDERED = {"isinstance", "issubclass", "getattr", "hasattr", "setattr", "zip", "replace", "cast"}
_SWAPPED_NAMES = {
    "shape": "strides", "strides": "shape", "min": "max", "max": "min", "any": "all", "all": "any",
    "floor": "ceil", "ceil": "floor", "lt": "le", "le": "lt", "gt": "ge", "ge": "gt",
}  # fmt: skip

_TEXT_TOOLS = {"compile", "fullmatch", "match", "search", "sub", "split", "replace", "findall",
               "startswith", "endswith", "strip"}  # fmt: skip

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip
_ORDERED = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.LShift, ast.RShift)


@dataclass(frozen=True)
class Edit:
    """A change of one node.

    Attributes:
        node: Place of the node in `_walk`.
        line: Of the source, from 1.
        operator: What kind of change, ``"comparison"``.
        variant: Which of its changes of this node.
        statement: Place of the statement that holds the node.
        unit: Place of the statement or lambda that holds it: what runs as one.
        text: Whether it is C text that changes.
    """

    node: int
    line: int
    operator: str
    variant: int
    statement: int
    unit: int
    text: bool = False


@dataclass
class _Place:
    node: ast.AST
    parent: ast.AST | None
    field: str
    index: int | None
    statement: int
    unit: int
    skipped: bool


def _children(node: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    for name, value in ast.iter_fields(node):
        if isinstance(value, ast.AST):
            yield name, None, value
        elif isinstance(value, list):
            for k, item in enumerate(value):
                if isinstance(item, ast.AST):
                    yield name, k, item


def _docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(
        node.value.value, str
    )  # fmt: skip


def _called(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _left_out(node: ast.AST, parent: ast.AST | None, name: str) -> bool:
    """Whether a node and all below it stay as they are."""
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.Raise, ast.Global, ast.Nonlocal)):
        return True
    if _docstring(node) or name in ("annotation", "returns"):
        return True
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return node.name in _SKIPPED_FUNCTIONS
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(isinstance(t, ast.Name) and t.id in _SKIPPED_NAMES for t in targets)
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.dump(node.test)
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.Call):
        called = _called(node)
        # A function or class that makes an error is called to be raised.
        return called in _SAYING or called.endswith(("Error", "Warning"))
    return False


def _walk(tree: ast.AST) -> list[_Place]:
    found: list[_Place] = []
    number: dict[int, int] = {}
    stack: list[tuple[ast.AST, ast.AST | None, str, int | None, int, int, bool]] = [
        (tree, None, "", None, 0, 0, False)
    ]
    while stack:
        node, parent, name, index, statement, unit, skipped = stack.pop()
        here = number[id(node)] = len(found)
        if isinstance(node, ast.stmt):
            statement = unit = here
        elif isinstance(parent, ast.Lambda) and name == "body":
            unit = number[id(parent)]
        skipped = skipped or _left_out(node, parent, name)
        found.append(_Place(node, parent, name, index, statement, unit, skipped))
        below = [(child, node, f, k, statement, unit, skipped) for f, k, child in _children(node)]
        stack.extend(reversed(below))
    return found


# -- the edits of one node: (operator, replacement), where None drops a statement or element ------

_Made = tuple[str, Callable[[], ast.AST | None]]


def _constant(value: bool | int | float | str) -> Callable[[], ast.AST]:
    return lambda: ast.Constant(value)


def _constants(node: ast.Constant, coefficients: bool) -> Iterator[_Made]:
    value = node.value
    if isinstance(value, bool):
        yield "constant", _constant(not value)
    elif isinstance(value, int):
        # Of one, an index above all, the negative is most often the same element.
        sign = (-value,) if abs(value) > 1 else ()
        others = dict.fromkeys((value + 1, value - 1, 0, *sign, 2 * value))
        for other in others:
            if other != value:
                yield "constant", _constant(other)
    elif isinstance(value, float):
        if coefficients:
            yield "coefficient", _constant(value * (1 + 2.0**-8) if value else 2.0**-8)
        for real in dict.fromkeys((-value, 2 * value, value + 1.0, 0.0)):
            if real != value or str(real) != str(value):
                yield "constant", _constant(real)
    elif isinstance(value, str) and coefficients and "0x" in value and "p" in value:
        try:
            number = float.fromhex(value)
        except ValueError:
            return
        yield "coefficient", _constant((number * (1 + 2.0**-8)).hex())
        yield "constant", _constant((-number).hex())


def _binary(node: ast.BinOp) -> Iterator[_Made]:
    text = any(isinstance(n, (ast.JoinedStr,)) or isinstance(getattr(n, "value", None), str)
               for n in (node.left, node.right))  # fmt: skip
    if text:
        return
    left, op, right = node.left, node.op, node.right
    if type(op) in _ARITHMETIC:
        yield "arithmetic", lambda: ast.BinOp(left, _ARITHMETIC[type(op)](), right)
    if isinstance(op, _ORDERED):
        yield "swapped operands", lambda: ast.BinOp(right, op, left)
    if isinstance(op, (ast.Add, ast.Sub, ast.Mult, ast.BitAnd, ast.BitOr)):
        yield "dropped term", lambda: left
        yield "dropped term", lambda: right


def _comparison(node: ast.Compare) -> Iterator[_Made]:
    def build(ops: list[ast.cmpop]) -> Callable[[], ast.AST]:
        return lambda: ast.Compare(node.left, ops, node.comparators)

    for k, op in enumerate(node.ops):
        for other in _COMPARISONS.get(type(op), ()):
            yield "comparison", build([*node.ops[:k], other(), *node.ops[k + 1 :]])


def _boolean(node: ast.BoolOp) -> Iterator[_Made]:
    def build(op: ast.boolop, values: list[ast.expr]) -> Callable[[], ast.AST]:
        return lambda: values[0] if len(values) == 1 else ast.BoolOp(op, values)

    yield "boolean", build(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    for k in range(len(node.values)):
        yield "dropped term", build(node.op, [*node.values[:k], *node.values[k + 1 :]])


def _call(node: ast.Call) -> Iterator[_Made]:
    name = _called(node)
    plain = [a for a in node.args if not isinstance(a, ast.Starred)]
    if name == "reversed" and len(node.args) == 1:
        yield "exchanged order", lambda: node.args[0]

    def build(args: list[ast.expr]) -> Callable[[], ast.AST]:
        return lambda: ast.Call(node.func, args, node.keywords)

    if len(plain) != len(node.args) or name in _UNORDERED or name[:1].isupper():
        return
    for k in range(len(plain) - 1):
        if k == 0 and ((name in _COMMUTATIVE and len(plain) == 2) or name == "fma"):
            continue  # a product's factors commute, too
        if ast.dump(plain[k]) == ast.dump(plain[k + 1]):
            continue
        args = [*plain[:k], plain[k + 1], plain[k], *plain[k + 2 :]]
        yield "exchanged arguments", build(args)


def _not(node: ast.expr) -> ast.expr:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return node.operand
    return ast.UnaryOp(ast.Not(), node)


def _negated(node: ast.If | ast.While | ast.IfExp | ast.comprehension) -> Iterator[_Made]:
    """The condition of an if, a while, a conditional expression or a filter."""

    def build() -> ast.AST:
        twin = copy.copy(node)
        if isinstance(twin, ast.comprehension):
            twin.ifs = [_not(twin.ifs[0]), *twin.ifs[1:]]
        else:
            twin.test = _not(twin.test)
        return twin

    # "not (a < b)" and "a >= b" are one mutant, and the comparison's own edits make the latter.
    tested = node.ifs[0] if isinstance(node, ast.comprehension) else node.test
    if not (isinstance(tested, ast.Compare) and len(tested.ops) == 1):
        yield "negated condition", build


def _nothing() -> None:
    """What takes the place of what is dropped."""


def _dropped(place: _Place, assigned: bool) -> Iterator[_Made]:
    node = place.node
    if (
        (
            isinstance(node, ast.Expr)
            and isinstance(node.value, (ast.Call, ast.Yield, ast.YieldFrom))
        )
        or isinstance(node, ast.AugAssign)
        or (
            isinstance(node, ast.Assign)
            and (
                assigned or all(isinstance(t, (ast.Attribute, ast.Subscript)) for t in node.targets)
            )
        )
        or (isinstance(node, ast.If) and not node.orelse and isinstance(place.parent, ast.AST))
        or isinstance(node, (ast.Break, ast.Continue))
    ):
        yield "dropped statement", _nothing


def _augmented(node: ast.AugAssign) -> Iterator[_Made]:
    other = _ARITHMETIC.get(type(node.op))
    texts = (ast.JoinedStr, ast.Constant)
    if other is not None and not (isinstance(node.value, texts) and _flat(node.value) != "x"):
        yield "arithmetic", lambda: ast.AugAssign(node.target, other(), node.value)


def _element(place: _Place, kernel_text: bool) -> Iterator[_Made]:
    """A line of C that a list of lines loses."""
    parent = place.parent
    if (
        kernel_text
        and isinstance(parent, (ast.List, ast.Tuple))
        and place.field == "elts"
        and len(parent.elts) > 1
        and isinstance(place.node, (ast.Constant, ast.JoinedStr))
        and ctext.looks_like_c(_flat(place.node))
    ):
        yield "dropped statement", lambda: None


def _flat(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_flat(v) for v in node.values)
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "x"
    return "x"


def _of(place: _Place, source_has_text: bool, coefficients: bool, assigned: bool) -> list[_Made]:
    node, parent = place.node, place.parent
    in_string = isinstance(parent, ast.JoinedStr)
    if isinstance(node, ast.Constant):
        if in_string or isinstance(parent, ast.Expr):
            return []
        found = [] if _named(place) else list(_constants(node, coefficients))
        return found + list(_element(place, source_has_text))
    if isinstance(node, ast.BinOp):
        return list(_binary(node))
    if isinstance(node, ast.Compare):
        return list(_comparison(node))
    if isinstance(node, ast.BoolOp):
        return list(_boolean(node))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
        return [("dropped sign", lambda: node.operand)]
    if isinstance(node, ast.Call):
        return list(_call(node))
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        return [*_negated(node), *_dropped(place, False)]
    if isinstance(node, ast.comprehension):
        return list(_negated(node)) if node.ifs else []
    if isinstance(node, ast.AugAssign):
        return [*_augmented(node), *_dropped(place, assigned)]
    if isinstance(node, ast.stmt):
        return list(_dropped(place, assigned))
    if isinstance(node, ast.JoinedStr):
        return list(_element(place, source_has_text))
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        return list(_attribute(node))
    return []


def _named(place: _Place) -> bool:
    """A constant that is no number of the program: an argument of a decorator's flag and so on."""
    return isinstance(place.parent, ast.keyword) and place.parent.arg in (
        "stacklevel", "strict", "frozen", "slots", "order", "eq", "kw_only", "repr", "init",
    )  # fmt: skip


def _attribute(node: ast.Attribute) -> Iterator[_Made]:
    is_dtypes = isinstance(node.value, ast.Name) and node.value.id in ("dt", "dtypes")
    if is_dtypes and node.attr in _DTYPES:
        other = _DTYPES[node.attr]
        yield "changed dtype", lambda: ast.Attribute(node.value, other, ast.Load())
    elif node.attr in _SWAPPED_NAMES:
        other = _SWAPPED_NAMES[node.attr]
        yield "exchanged name", lambda: ast.Attribute(node.value, other, ast.Load())


def _texts(place: _Place) -> list[str]:
    """C text of a string constant with one change each."""
    node = place.node
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return []
    return [changed for _, changed in ctext.changes(node.value)]


def edits(tree: ast.Module, *, kernel_text: bool, coefficients: bool) -> list[Edit]:
    """All edits of a file, in the order of its text."""
    found: list[Edit] = []
    places = _walk(tree)
    lines: dict[int, int] = {}
    known = _assigned_before(places)
    said: set[int] = set()
    for k, place in enumerate(places):
        if isinstance(place.node, ast.JoinedStr) or id(place.parent) in said:
            said.add(id(place.node))
            if not kernel_text:
                continue  # a message
        statement = places[place.statement].node
        line = getattr(place.node, "lineno", getattr(statement, "lineno", 1))
        if isinstance(place.parent, ast.JoinedStr) or place.node.__class__ is ast.comprehension:
            line = getattr(statement, "lineno", line)
        lines[k] = line
        if place.skipped:
            continue
        count: dict[str, int] = {}
        for operator, _ in _of(place, kernel_text, coefficients, k in known):
            variant = count[operator] = count.get(operator, -1) + 1
            is_line = operator == "dropped statement" and isinstance(place.node, ast.expr)
            found.append(Edit(k, line, operator, variant, place.statement, place.unit, is_line))
        if kernel_text and _may_be_c(place, places):
            for variant, (operator, _) in enumerate(ctext.changes(place.node.value)):  # type: ignore[attr-defined]
                found.append(
                    Edit(k, line, f"C {operator}", variant, place.statement, place.unit, True)
                )
    return found


def _may_be_c(place: _Place, places: list[_Place]) -> bool:
    node, parent = place.node, place.parent
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return False
    if isinstance(parent, ast.Compare) or (isinstance(parent, ast.Dict) and place.field == "keys"):
        return False
    if isinstance(parent, (ast.FormattedValue, ast.Expr, ast.Attribute)):
        return False  # a format's own words, or the text of "-".join
    if isinstance(parent, ast.Call) and _called(parent) in _TEXT_TOOLS:
        return False
    return ctext.looks_like_c(node.value)


def _assigned_before(places: list[_Place]) -> set[int]:
    """Assignments to a name that already has a value there: dropping one leaves a program."""
    known: set[int] = set()
    names: dict[int, set[str]] = {}
    owner: dict[int, int] = {}
    for k, place in enumerate(places):
        node = place.node
        above = owner.get(id(place.parent), 0)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            a = node.args
            names[k] = {x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)}
            owner[id(node)] = k
            continue
        owner[id(node)] = k if isinstance(node, ast.ClassDef) else above
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            if isinstance(target, ast.Name):
                scope = names.setdefault(above, set())
                if target.id in scope:
                    known.add(k)
                scope.add(target.id)
    return known


def apply_edit(text: str, edit: Edit, *, kernel_text: bool, coefficients: bool) -> ast.Module:
    """The tree of a changed file, with line numbers of the file as it is."""
    tree = parse(text)
    places = _walk(tree)
    place = places[edit.node]
    made: ast.AST | None
    if edit.text and edit.operator.startswith("C "):
        assert isinstance(place.node, ast.Constant)
        made = ast.Constant(_texts(place)[edit.variant])
    else:
        assigned = edit.node in _assigned_before(places)
        found = [
            build
            for operator, build in _of(place, kernel_text, coefficients, assigned)
            if operator == edit.operator
        ]
        made = found[edit.variant]()
    _put(place, made)
    return ast.fix_missing_locations(tree)


def _put(place: _Place, made: ast.AST | None) -> None:
    parent = place.parent
    assert parent is not None
    held = getattr(parent, place.field)
    if made is None and isinstance(place.node, ast.stmt):
        made = ast.Pass()
    if made is None:
        del held[place.index]
        return
    ast.copy_location(made, place.node)
    if place.index is None:
        setattr(parent, place.field, made)
    else:
        held[place.index] = made


def statement_text(tree: ast.Module, edit: Edit) -> str:
    """The statement that an edit changes; of a compound one its head alone."""
    node = _walk(tree)[edit.statement].node
    twin = copy.copy(node)
    for name in ("body", "orelse", "finalbody", "handlers"):
        if getattr(twin, name, None) and not isinstance(node, (ast.Module, ast.expr)):
            setattr(twin, name, [ast.Expr(ast.Constant(...))] if name == "body" else [])
    return ast.unparse(ast.fix_missing_locations(twin))
