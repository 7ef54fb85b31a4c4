"""Inline caches: a call that one plan or one view served goes straight to it the next time.

What a public function does with its arguments depends on the specs of its tensors, on the values
of its other arguments and on the settings.  So while such a call runs for the first time it is
watched: if it came down to one plan that took the call's tensors as they are and whose result was
given back, or to views alone, the way there is remembered under all of these.  A call that launches
anything else on the way (a check of bounds), reads elements, or makes tensors is never remembered;
nor is one that has a history or that is traced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends.dtypes import DType

from ._state import current, settings, watching
from ._tensor import Tensor

__all__ = ["Watch", "call_key", "remembered", "watched"]

_PLAIN = frozenset({int, bool, str, DType, type(None)})
"""Classes whose equal values are one argument; floats are not, since 0.0 equals -0.0."""


class Watch:
    """What happened during one call.

    Attributes:
        plans: How many plans ran, and the last: what runs it, its operands, what came out.
        views: How many views were made.
        other: Whether anything happened that a plan does not tell.
    """

    __slots__ = ("last", "other", "plans", "views")

    def __init__(self) -> None:
        self.plans = self.views = 0
        self.other = False
        self.last: tuple[Callable[..., Any], Sequence[Tensor], Any] | None = None


def call_key(
    call: object, args: Sequence[Any], given: dict[str, Any]
) -> tuple[tuple[Any, ...], list[Tensor]] | None:
    """What a call depends on, and its tensors; None if that cannot be told from the outside."""
    key: list[Any] = [call]
    tensors: list[Tensor] = []
    if given:
        key.extend(given)
        args = (*args, *given.values())
    for value in args:
        kind = value.__class__
        if kind is Tensor:
            if value._track is not None:
                return None
            key.append(value._spec)
            tensors.append(value)
        elif kind in _PLAIN:
            key.append(kind)
            key.append(value)
        elif kind is tuple:
            for part in value:
                if part.__class__ is not int:
                    return None
            key.append(value)
        else:
            return None
    return (tuple(key), tensors) if tensors else None


def remembered(key: tuple[Any, ...], tensors: Sequence[Tensor]) -> Any:
    """The result by a remembered way, or None."""
    x = tensors[0]
    view = x._spec.views.get(key)
    if view is not None:
        if settings().trace is None and watching.by is None:
            return Tensor(x._buffer, view[0], x._offset + view[1])
    elif watching.by is None:
        run = current().fast.get(key)
        if run is not None:
            return run(*tensors)
    return None


def watched(
    key: tuple[Any, ...],
    tensors: Sequence[Tensor],
    call: Callable[..., Any],
    *args: Any,
    **given: Any,
) -> Any:
    """Make a call and remember its way if it has one."""
    now = settings()
    if now.trace is not None or watching.by is not None:
        return call(*args, **given)
    watch = watching.by = Watch()
    try:
        out = call(*args, **given)
    finally:
        watching.by = None
    if watch.other:
        return out
    if watch.plans == 1 and not watch.views and watch.last is not None:
        run, operands, made = watch.last
        if len(operands) == len(tensors) and all(map(_is, operands, tensors)):
            if made is out:
                now.plans.keep(key, run)
            elif isinstance(made, tuple) and any(part is out for part in made):
                now.plans.keep(key, _part(run, [part is out for part in made].index(True)))
    elif watch.views and not watch.plans and isinstance(out, Tensor):
        x = tensors[0]
        if out is not x and len(tensors) == 1 and out._buffer is x._buffer:
            x._spec.keep_view(key, out._spec, out._offset - x._offset)
    return out


def _is(a: object, b: object) -> bool:
    return a is b


def _part(run: Callable[..., Any], k: int) -> Callable[..., Any]:
    return lambda *tensors: run(*tensors)[k]
