"""Families: the plans of one op for operands of given dtypes and ranks, by size class.

A new shape is served by the class whose conditions it meets (see `_sizes`): its plan is that of the
class with other numbers in it.  Only where no class fits is a plan written by the op; from time to
time it is written for open sizes too.  That costs about seven times as much, and each shape that
the class then serves saves three quarters of a plan: so it is done the fifth time, and later the
less often the more classes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tensorbus_backends.contract import NativeCase

from ._plan import NativeStep, Plan, Step, Table, Value
from ._sizes import Sizes
from ._spec import Spec, contiguous_strides

__all__ = ["Family", "kind_of", "sized"]

Make = Callable[[Sequence[Spec], dict[str, Any], Sizes | None], Plan | None]
Sized = Mapping[str, int | tuple[int, ...]]

_NONE: Sized = {}

_CLASSES = 8
"""Size classes that a family keeps."""


def sized(names: Sequence[str], options: dict[str, Any]) -> Sized:
    """Those of the options with these names that hold sizes; None, for example, is none."""
    found = {}
    for name in names:
        value = options.get(name)
        if type(value) is int or (type(value) is tuple and all(type(v) is int for v in value)):
            found[name] = value
    return found


def kind_of(spec: Spec) -> tuple[object, ...]:
    """What operands of a family have in common."""
    return spec.device, spec.dtype, len(spec.shape), spec.contiguous


class Family:
    """Plans for operands that `kind_of` does not tell apart.

    Attributes:
        closed: How often a plan could not be written for open sizes.
    """

    __slots__ = ("_classes", "_due", "_written", "closed")

    def __init__(self) -> None:
        self._classes: tuple[_Class, ...] = ()
        self._written = self.closed = 0
        self._due = 5

    def plan(self, specs: Sequence[Spec], make: Make, options: Sized = _NONE) -> Plan | None:
        """The plan for operands of these specs.

        Args:
            specs: Of the operands.
            make: Writes one, None if calls of this kind are not served by a plan.  It is given
                specs, `options`, and to whom the sizes among both belong if they are open.
            options: Those arguments that are sizes, and tuples of sizes.
        """
        given = _numbers(specs, options)
        classes = self._classes
        for k, known in enumerate(classes):
            found = known.plan(given)
            if found is not None:
                if k:
                    self._classes = (known, *classes[:k], *classes[k + 1 :])
                return found
        made = make(specs, dict(options), None)
        if made is None or made.host is not None:
            return made
        self._written += 1
        if self._written >= self._due:
            self._open(specs, options, given, make)
            full = self.closed or len(self._classes) == _CLASSES
            self._due = self._written + (self._written if full else 2 + len(self._classes))
        return made

    def _open(
        self, specs: Sequence[Spec], options: Sized, given: Sequence[int], make: Make
    ) -> None:
        sizes = Sizes(given)
        try:
            plan = make(*_opened(specs, options, sizes), sizes)
            assert plan is not None
            made = _Class(plan, sizes)
        except Exception:
            # It was written for this very shape: what fails is an open size where none may be.
            self.closed += 1
            return
        self._classes = (made, *self._classes[: _CLASSES - 1])


def _numbers(specs: Sequence[Spec], options: Sized) -> list[int]:
    given: list[int] = []
    for s in specs:
        given += s.shape
        if not s.contiguous:
            given += s.strides
    for value in options.values():
        given += value if isinstance(value, tuple) else (value,)
    return given


def _opened(
    specs: Sequence[Spec], options: Sized, sizes: Sizes
) -> tuple[list[Spec], dict[str, Any]]:
    """The same with sizes, and strides where they are not those of C order, that are open."""
    rest = iter(sizes.given)
    opened = []
    for s in specs:
        shape: Any = tuple([next(rest) for _ in s.shape])
        strides: Any = (
            contiguous_strides(shape) if s.contiguous else tuple([next(rest) for _ in s.shape])
        )
        opened.append(Spec.build(s.device, s.dtype, shape, strides, s.contiguous))
    values = {
        name: tuple([next(rest) for _ in value]) if isinstance(value, tuple) else next(rest)
        for name, value in options.items()
    }
    return opened, values


class _Class:
    """A plan for open sizes, as a function of them."""

    __slots__ = ("_device", "_fill", "_library", "_operands", "_scalar", "_single", "_variant")

    def __init__(self, plan: Plan, sizes: Sizes) -> None:
        self._device, self._operands, self._single = plan.device, plan.operands, plan.single
        self._variant, self._library, self._scalar = plan.variant, plan.library, plan.scalar
        text = sizes.text
        steps = "".join([f"{_step_text(s, sizes)}, " for s in plan.steps])
        results = "".join([f"{_value_text(v, sizes)}, " for v in plan.results])
        tables = "".join(
            [f"{text(Table)}({text((t.device, t.shape, t.strides))[1:-1]}), " for t in plan.tables]
        )
        self._fill = sizes.function(f"(({steps}), {text(plan.buffers)}, ({results}), ({tables}))")

    def plan(self, given: Sequence[int]) -> Plan | None:
        """The plan for these sizes; None if they are of another class."""
        filled = self._fill(given)
        if filled is None:
            return None
        plan = Plan(None, self._variant, self._library)
        plan.device, plan.operands, plan.single = self._device, self._operands, self._single
        plan.scalar = self._scalar
        plan.steps, plan.buffers, plan.results, plan.tables = filled
        return plan


def _step_text(step: Step | NativeStep, sizes: Sizes) -> str:
    text = sizes.text
    if isinstance(step, Step):
        return f"{text(Step)}({text(tuple(step))[1:-1]})"
    case = step.case
    parts = case.op, case.dtypes, case.shapes, case.strides, case.options, case.results
    made = f"{text(NativeCase)}({text(parts)[1:-1]})"
    return (
        f"{text(NativeStep)}({text(step.native)}, {made}, {text((step.slots, step.offsets))[1:-1]})"
    )


def _value_text(value: Value, sizes: Sizes) -> str:
    text, spec = sizes.text, value.spec
    strides = None if spec.contiguous else spec.strides
    made = f"{text(Spec.of)}({text((spec.device, spec.dtype, spec.shape, strides))[1:-1]})"
    return f"{text(Value)}({text(value.slot)}, {made}, {text(value.offset)})"
