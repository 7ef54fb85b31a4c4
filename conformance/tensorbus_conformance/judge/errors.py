"""Bad arguments: every parameter is given what its annotation does not allow.

The calls are made from the function's signature, a good call of the op and the oracle's rules
(`oracle.misuse`), so that no op can be left out; what only one op refuses is in its record.  The
good call comes first, so that its plan exists; each bad call is made outside and inside a
trace (at level smoke one of the two).
Then the operands must hold what they held, and the good call must give its bits again.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorbus as tb
from numpy.typing import NDArray
from tensorbus_backends import dtypes as dt

from ..oracle import REFERENCES, misuse
from ..oracle.refusals import BAD
from .cases import Case, cases
from .items import Outcome
from .layouts import host, place
from .session import Session, reference_device
from .signature import Parameter, parameters
from .surfaces.checks import bits_of

__all__ = ["bad_calls", "check"]

Array = NDArray[Any]

_PLAIN: dict[str, Any] = {"shape": (5,), "low": 0, "high": 10, "p": 0.5, "x": 6, "seed": 1}
"""Good values of the parameters of random ops, by the parameters' names."""


@dataclass(frozen=True)
class _Call:
    """A call that must raise `error`; `make` runs it."""

    what: str
    error: type[Exception]
    make: Callable[[], Any]
    names: str = ""
    """What the message has to name, if not the op."""
    says: tuple[str, ...] = ()
    """What else it has to say."""


def _on_device(session: Session, value: Any) -> Any:
    """NumPy arrays as tensors on the session's device, also in lists."""
    if isinstance(value, np.ndarray):
        return place(session.device, value)[0]
    if isinstance(value, list):
        return [_on_device(session, v) for v in value]
    return dt.from_numpy(value) if isinstance(value, np.dtype) else value


def _good(session: Session) -> inspect.BoundArguments:
    """The arguments of a small call that is right."""
    function = tb.FUNCTIONS[session.item.op].call
    signature = inspect.signature(function)
    known = parameters(function)
    if session.item.op.startswith("random.") or any(p.name == "seed" for p in known):
        args: list[Any] = []
        options: dict[str, Any] = {"seed": 1}
        for p in known:
            if p.required:
                value = _PLAIN[p.name]
                if p.forms == {"tensor"}:
                    value = place(session.device, np.ones(6, session.dtype.numpy))[0]
                args.append(value)
            elif p.name == "device":
                options["device"] = session.device
        return signature.bind(*args, **options)
    sets = session.usable(cases(session.op, session.dtype, "smoke", session.seed))

    def poor(case: Case) -> tuple[bool, int]:
        """An axis that is out of range in one operand may be within the broadcast shape."""
        ranks = {a.ndim for a in case.args if isinstance(a, np.ndarray)}
        return len(ranks) > 1, sum(np.size(a) for a in case.args if not isinstance(a, list))

    case = min(sets, key=poor)
    tensors = [_on_device(session, a) for a in case.args]
    options = {k: _on_device(session, v) for k, v in case.options.items()}
    if "device" in {p.name for p in known} and not any(isinstance(t, tb.Tensor) for t in tensors):
        options["device"] = session.device
    return signature.bind(*tensors, **options)


def _zeros(session: Session, shape: tuple[int, ...], dtype: dt.DType) -> tb.Tensor:
    return place(session.device, np.zeros(shape, dtype.numpy))[0]


def _tensors(bound: inspect.BoundArguments) -> list[tb.Tensor]:
    found: list[tb.Tensor] = []
    for value in bound.arguments.values():
        for v in value if isinstance(value, list | tuple) else (value,):
            if isinstance(v, tb.Tensor):
                found.append(v)
    return found


def _changed(bound: inspect.BoundArguments, p: Parameter, value: Any) -> inspect.BoundArguments:
    """The good call with another value of one parameter."""
    new = inspect.BoundArguments(bound.signature, bound.arguments.copy())
    if p.name == "key":
        new.arguments.pop(
            "seed", None
        )  # one of the two is due, so that the key itself is looked at
    if p.several:
        new.arguments[p.name] = (value, *bound.arguments[p.name][1:])
        return new
    before = [q for q in bound.signature.parameters.values() if q.name not in new.arguments]
    new.arguments[p.name] = value
    # Positional arguments before it that the good call leaves out take their defaults.
    for q in before:
        if q.name != p.name and q.kind in (q.POSITIONAL_ONLY, q.POSITIONAL_OR_KEYWORD):
            new.arguments[q.name] = q.default
    order = list(bound.signature.parameters)
    new.arguments = dict(sorted(new.arguments.items(), key=lambda kv: order.index(kv[0])))
    return new


def bad_calls(session: Session, bound: inspect.BoundArguments) -> Iterator[_Call]:
    """All calls of an op that must be refused, from its signature and its record.

    At level smoke the seed draws three wrong types for each parameter.
    """
    function = tb.FUNCTIONS[session.item.op].call
    known = parameters(function)
    record = REFERENCES.get(session.op)

    def call(args: Any, options: Any) -> Callable[[], Any]:
        return lambda: function(*args, **options)

    rng = np.random.default_rng([session.seed, len(session.item.op)])
    for p in known:
        values = misuse.type_values(p.name, p.forms, p.words)
        if session.level == "smoke":
            values = [values[int(k)] for k in rng.permutation(len(values))[:3]]
        for what, error, value in values:
            new = _changed(bound, p, value)
            # A device is looked up without knowing for whom: the message names the device.
            names = value if error is ValueError and "device" in p.forms else ""
            says = _wanted(p) if error in (TypeError, ValueError) and not names else ()
            if error is ValueError and "literal" not in p.forms:
                says = ()
            yield _Call(what, error, call(new.args, new.kwargs), names, says)
        if p.name == "axis" and "int" in p.forms and _tensors(bound):
            room = int(record is not None and record.new_axes)
            rank = _tensors(bound)[0].ndim + room
            for what, error, value in misuse.axis_values(rank, "ints" in p.forms):
                if room and isinstance(value, tuple):
                    continue  # every axis of a sequence makes room for itself
                if error is ValueError and record is not None and record.axes_twice:
                    continue
                new = _changed(bound, p, value)
                yield _Call(what, error, call(new.args, new.kwargs))
    yield from _of_kinds(session, bound, known, call)
    yield from _elsewhere(session, bound, known, call)
    yield from _scalars(session, bound, known, call)
    yield from _misspelt(bound, known, call)
    made = BAD.get(session.item.op) if record is None else record.bad
    for bad in made(session.dtype.numpy) if made is not None else ():
        args = [_on_device(session, a) for a in bad.args]
        options = {k: _on_device(session, v) for k, v in bad.options.items()}
        if any(q.name == "device" for q in known) and not any(
            isinstance(a, tb.Tensor) for a in args
        ):
            options["device"] = session.device
        yield _Call(bad.what, bad.error, call(args, options))


_WORDS = {
    "int": "an int", "ints": "a sequence of ints", "float": "a number", "bool": "a bool",
    "dtype": "a tensorbus dtype", "device": "a device", "none": "None", "pairs": "a pair",
}  # fmt: skip


def _wanted(p: Parameter) -> tuple[str, ...]:
    """What the refusal of an argument has to say: its name, and every form that would do."""
    if p.forms & {"tensor", "tensors", "any"}:
        return ()
    if "literal" in p.forms:
        return (p.name, *(repr(w) for w in p.words if w is not None))
    return (p.name, *(_WORDS[f] for f in sorted(p.forms) if f in _WORDS))


_LEAKED = re.compile(
    r"\bzip\(\)|'\w+' object (is|has)|\bunpack\b|(list|tuple|string|assignment) index out of"
    r"|unsupported operand type|not supported between|recursion depth|invalid literal|math domain"
)
"""What Python says where a check was forgotten; the reader does not know the line that it means."""

Make = Callable[[Any, Any], Callable[[], Any]]


def _of_kinds(
    session: Session, bound: inspect.BoundArguments, known: tuple[Parameter, ...], call: Make
) -> Iterator[_Call]:
    """Operands of a kind that the op does not take, instead of those of the item's dtype."""
    record = REFERENCES.get(session.op)
    if record is None or not any("tensor" in p.forms for p in known):
        return
    kinds = record.takes or record.kinds
    for kind, dtype in (("b", dt.bool_), ("i", dt.int32), ("f", dt.float32)):
        if kind in kinds:
            continue
        args, options = [], {}
        for value in bound.args:
            args.append(_as_dtype(session, value, dtype))
        for name, value in bound.kwargs.items():
            options[name] = _as_dtype(session, value, dtype)
        yield _Call(f"{dtype.name} operands", TypeError, call(args, options))


def _as_dtype(session: Session, value: Any, dtype: dt.DType) -> Any:
    if isinstance(value, tb.Tensor) and value.dtype is session.dtype:
        return _zeros(session, value.shape, dtype)
    return value


def _elsewhere(
    session: Session, bound: inspect.BoundArguments, known: tuple[Parameter, ...], call: Make
) -> Iterator[_Call]:
    """One operand on another device."""
    if len(_tensors(bound)) < 2:
        return
    for p in known:
        value = bound.arguments.get(p.name)
        if isinstance(value, tb.Tensor):
            other = place(reference_device(), host(value))[0]
            new = _changed(bound, p, other)
            yield _Call(f"{p.name} on another device", ValueError, call(new.args, new.kwargs))
        elif "tensors" in p.forms and isinstance(value, list) and len(value) > 1:
            other = place(reference_device(), host(value[-1]))[0]
            new = _changed(bound, p, [*value[:-1], other])
            yield _Call(f"{p.name} on two devices", ValueError, call(new.args, new.kwargs))


def _scalars(
    session: Session, bound: inspect.BoundArguments, known: tuple[Parameter, ...], call: Make
) -> Iterator[_Call]:
    """Operands that take Python numbers: numbers that do not fit, only numbers, and shapes."""
    takers = [p for p in known if p.scalar]
    if not takers:
        return
    kind = session.dtype.kind
    x = _zeros(session, (5,), session.dtype)
    rest = {p.name: x for p in takers}
    others = [p for p in known if not p.scalar and p.forms == {"tensor"}]
    for p in others:
        # A condition stays one; an operand beside the scalars is of their dtype.
        given = bound.arguments[p.name]
        rest[p.name] = _zeros(session, (5,), given.dtype)

    def made(**changes: Any) -> tuple[list[Any], dict[str, Any]]:
        values = {**rest, **changes}
        return [values[p.name] for p in known if p.name in values], {}

    record = REFERENCES[session.op]
    for p in takers:
        for what, error, value in misuse.scalar_values(session.dtype.numpy, kind):
            if error is OverflowError and record.saturates:
                continue
            yield _Call(f"{p.name}: {what}", error, call(*made(**{p.name: value})))
    if not others or all(rest[p.name].dtype is not session.dtype for p in others):
        ones = {p.name: True if kind == "b" else 1 for p in takers}
        if not others:
            yield _Call("numbers only", TypeError, call(*made(**ones)))
    for one, two in misuse.broadcast_shapes():
        names = [p.name for p in (*others, *takers)]
        changes = {n: _shaped(session, rest[n], two) for n in names}
        changes[names[0]] = _shaped(session, rest[names[0]], one)
        yield _Call(f"shapes {one} and {two}", ValueError, call(*made(**changes)))


def _shaped(session: Session, like: tb.Tensor, shape: tuple[int, ...]) -> tb.Tensor:
    return _zeros(session, shape, like.dtype)


def _misspelt(
    bound: inspect.BoundArguments, known: tuple[Parameter, ...], call: Make
) -> Iterator[_Call]:
    """Arguments missing, too many, unknown, or by keyword where only their place counts."""
    args, options = bound.args, bound.kwargs
    if any(p.required and not p.keyword for p in known):
        yield _Call("no arguments", TypeError, call((), {}))
    if not any(p.several for p in known):
        yield _Call("too many arguments", TypeError, call((*args, *(None,) * 9), options))
    yield _Call("an unknown option", TypeError, call(args, {**options, "bogus": 1}))
    for p in known:
        if p.only_positional and p.required:
            left = list(args)
            named = left.pop([q.name for q in known].index(p.name))
            given = {**options, p.name: named}
            yield _Call(f"{p.name} by keyword", TypeError, call(left, given))
        if p.keyword and p.required:
            fewer = {k: v for k, v in options.items() if k != p.name}
            yield _Call(f"without {p.name}", TypeError, call(args, fewer))


def check(session: Session) -> Outcome:
    """Every bad call raises its exception, names the op in one line, and changes nothing."""
    outcome = Outcome("errors", unit="calls")
    function = tb.FUNCTIONS[session.item.op]
    often = session.level != "smoke"
    with tb.reproducible(session.portable):
        bound = _good(session)
        operands = [(t, host(t).tobytes()) for t in _tensors(bound)]

        def again() -> list[tuple[Any, ...]]:
            out = function.call(*bound.args, **bound.kwargs)
            results = [out] if isinstance(out, tb.Tensor) else list(out)
            undefined = function.name in ("empty", "empty_like")
            return [(t.dtype, t.shape, b"" if undefined else bits_of(host(t))) for t in results]

        def state() -> str:
            if any(host(t).tobytes() != was for t, was in operands):
                return "an operand was changed"
            return "" if again() == first else "the good call gives something else afterwards"

        first = again()
        problems: list[str] = []
        for k, bad in enumerate(bad_calls(session, bound)):
            outcome.decided += 1
            # At level smoke each call is made one way only, which of the two by its number.
            plain = often or (k + session.seed) % 2 == 0
            problem = _raised(bad, function.name) if plain else ""
            if not problem and (often or not plain):
                with tb.trace():
                    problem = _raised(bad, function.name)
                    problem = problem and f"in a trace: {problem}"
            if often and not problem:
                problem = state()
            if problem:
                problems.append(f"{bad.what}: {problem}")
        if left := state():
            problems.append(left)
    session.runs += 1
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        outcome.state, outcome.message = "fail", problems[0] + more
        outcome.witness = "; ".join(problems[1:4])
    return outcome


def _raised(bad: _Call, name: str) -> str:
    """What is wrong with how a bad call ended; "" for nothing."""
    try:
        bad.make()
    except bad.error as raised:
        text = str(raised)
        if not text.strip():
            return f"{bad.error.__name__} without a message"
        if len(text.splitlines()) != 1:
            return f"a message of {len(text.splitlines())} lines: {text!r:.120}"
        name = bad.names or name
        if name not in text:
            return f"the message does not name {name}: {text!r:.120}"
        if text.count(f"{name}: ") > 1:
            return f"the message names {name} twice: {text!r:.120}"
        if _LEAKED.search(text):
            return f"the message is Python's own, of a line inside: {text!r:.160}"
        missing = next((w for w in bad.says if w not in text), "")
        return missing and f"the message does not say {missing!r}: {text!r:.160}"
    except Exception as raised:
        text = f"raised {type(raised).__name__} ({raised!s:.120}), expected {bad.error.__name__}"
        return " ".join(text.split())
    return f"nothing raised, expected {bad.error.__name__}"
