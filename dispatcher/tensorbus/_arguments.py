"""Arguments that are no tensors are checked against the signature before a function sees them.

So every option is refused by one rule, with the function's name: a value of a wrong type is a
TypeError, an unknown word a ValueError.  A bool option takes a bool and nothing that merely counts
as true, since "False" does.  Elementwise functions are not wrapped: calls of them have to be
fast, and they check their operands themselves.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
from tensorbus_backends.contract import BackendError
from tensorbus_backends.dtypes import DType
from tensorbus_backends.floating import DefaultArithmetic, usual

from ._devices import Device
from ._inline import call_key, remembered, watched
from ._late import EARLIER
from ._shown import shown
from ._tensor import Tensor

__all__ = ["checked"]

F = TypeVar("F", bound=Callable[..., Any])
Check = Callable[[str, Any], None]

LONGEST = 4096
"""Elements of a sequence of ints beyond which it is no shape, no axes, no repetitions."""


_OPERANDS = frozenset({"Tensor", "Tensor | Scalar", "Tensor | Scalar | None", "Any"})


def checked(call: F) -> F:
    """`call` with its options checked and its errors naming it."""
    parameters = list(inspect.signature(call).parameters.values())
    plain = all(p.annotation in _OPERANDS and p.kind is not p.VAR_POSITIONAL for p in parameters)
    if plain and (len(parameters) == 1 or any("Scalar" in p.annotation for p in parameters)):
        return call  # an elementwise op, which checks its operands itself
    name = call.__name__
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    numbers = any(w in str(p.annotation) for p in parameters for w in ("float", "Scalar", "Any"))
    places: list[tuple[int, str, Check]] = []
    options: dict[str, Check] = {}
    ready = False

    def prepare() -> None:
        # Annotations name classes of modules that are imported later than this one.
        nonlocal ready
        hints = get_type_hints(call)
        for k, p in enumerate(parameters):
            check = _check(name, hints[p.name])
            if check is None or p.kind is p.VAR_POSITIONAL:
                continue
            options[p.name] = check
            if p.kind is not p.KEYWORD_ONLY and not several:
                places.append((k, p.name, check))
        ready = True

    @wraps(call)
    def outer(*args: Any, **given: Any) -> Any:
        if numbers and not usual():
            # What is computed from Python numbers has the same bits in every mode of the thread.
            with DefaultArithmetic():
                return outer(*args, **given)
        known = call_key(call, args, given)
        if known is not None:
            found = remembered(*known)
            if found is not None:
                return found
        if not ready:
            prepare()
        for k, at, check in places:
            if k < len(args):
                check(at, args[k])
        for at, value in given.items():
            test = options.get(at)
            if test is not None:
                test(at, value)
        try:
            if known is not None:
                return watched(*known, call, *args, **given)
            return call(*args, **given)
        except BackendError:
            raise
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            text = str(error)
            if name in text or EARLIER in text:
                raise
            raise type(error)(f"{name}: {text}") from None

    return cast(F, outer)


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _check(name: str, hint: Any) -> Check | None:
    """What refuses the values that an annotation does not allow; None if anything may come."""
    parts = _parts(hint)
    none = type(None) in parts
    forms = [p for p in parts if p is not type(None)]
    if Any in forms or Tensor in forms:
        return None
    if get_origin(forms[0]) is Literal:
        return _words(name, get_args(forms[0]), none)
    tests: list[Callable[[Any], bool]] = []
    wanted: list[str] = []
    for form in forms:
        origin = get_origin(form)
        if origin is tuple:
            tests.append(_is_pair)
            wanted.append("a pair of sequences of ints")
        elif origin is not None:
            if get_args(form)[0] is Tensor:
                return None
            tests.append(_are_ints)
            wanted.append("a sequence of ints")
        else:
            test, what = _SINGLE.get(form, (None, form.__name__))
            tests.append(test or _instance(form))
            wanted.append({DType: "a tensorbus dtype", Device: "a device"}.get(form, what))
    if none:
        wanted.append("None")
    said = " or ".join(wanted)

    def check(option: str, value: Any) -> None:
        if (value is None and none) or any(test(value) for test in tests):
            return
        raise TypeError(f"{name}: {option} is {said}, not {shown(value)} ({type(value).__name__})")

    return check


def _instance(form: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, form)


def _words(name: str, words: Sequence[Any], none: bool) -> Check:
    def check(option: str, value: Any) -> None:
        if (value is None and none) or (isinstance(value, str) and value in words):
            return
        known = " or ".join(map(repr, words))
        raise ValueError(f"{name}: {option} is {known}, not {shown(value)}")

    return check


def _is_int(value: Any) -> bool:
    return hasattr(value, "__index__")


def _are_ints(value: Any) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) > LONGEST:
        return False
    return all(hasattr(v, "__index__") for v in value)


def _is_pair(value: Any) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != 2:
        return False
    return all(_are_ints(v) for v in value)


_SINGLE: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda v: isinstance(v, bool | np.bool_), "a bool"),
    int: (_is_int, "an int"),
    float: (lambda v: isinstance(v, int | float | np.integer | np.floating), "a number"),
    str: (lambda v: isinstance(v, str), "text"),
}
