"""Faults that one call at a time does not show: what a call keeps, shares, or takes for nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorbus as tb
from tensorbus import _autograd, _state, ops
from tensorbus._op import OPS
from tensorbus._tensor import Tensor
from tensorbus.ops import creation
from tensorbus_conformance.judge.items import Item, Outcome
from tensorbus_conformance.judge.parts import load
from tensorbus_conformance.judge.properties import judge
from tensorbus_conformance.judge.session import Session, fenced
from tensorbus_conformance.judge.turns import Turns, beside

load()
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def fresh_plans() -> Iterator[None]:
    yield
    _state.forget_plans()


def verdict(op: str, name: str, level: str = "standard") -> Outcome:
    item = Item(op, "cpu", "float32", "portable")
    return judge(Session(item, fenced(tb.get_device("cpu").backend), level, 0), name)


def _function(p: Patch, name: str, change: Callable[[Any], Callable[..., Any]]) -> None:
    made = tb.FUNCTIONS[name]
    p.setitem(tb.FUNCTIONS, name, replace(made, call=change(made.call)))


def _exact_everywhere(p: Patch) -> None:
    """An index counts as exact in float32, however large it is."""
    made = creation._at_index
    p.setattr(creation, "_at_index", lambda kind, count, *rest: made(kind, 1, *rest))


def _in_the_first_operand(p: Patch) -> None:
    """A positive axis is counted in the first operand."""

    def change(call: Any) -> Any:
        def vecdot(x: Tensor, y: Tensor, /, *, axis: int = -1) -> Tensor:
            moved = max(y.ndim - x.ndim, 0) if axis >= 0 else 0
            out: Tensor = call(x, y, axis=axis + moved if axis + moved < y.ndim else axis)
            return out

        return vecdot

    _function(p, "vecdot", change)


def _kept_results(p: Patch) -> None:
    """Equal calls give one tensor."""

    def change(call: Any) -> Any:
        kept: dict[Any, Tensor] = {}

        def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
            key = (repr(shape), repr(fill_value), dtype, str(device))
            if key not in kept:
                kept[key] = call(shape, fill_value, dtype=dtype, device=device)
            return kept[key]

        return full

    _function(p, "full", change)


def _kept_numbers(p: Patch) -> None:
    """Tensors of equal numbers are one."""
    made, kept = tb.asarray, {}

    def asarray(obj: Any, /, **options: Any) -> Tensor:
        if not isinstance(obj, float):
            return made(obj, **options)
        return kept.setdefault((obj, str(options)), made(obj, **options))

    p.setattr(tb, "asarray", asarray)


def _kept_draws(p: Patch) -> None:
    """A draw that was made before is handed out again."""

    def change(call: Any) -> Any:
        kept: dict[Any, Tensor] = {}

        def uniform(*args: Any, **options: Any) -> Tensor:
            return kept.setdefault(repr((args, options)), call(*args, **options))

        return uniform

    _function(p, "random.uniform", change)


def _remembered(p: Patch) -> None:
    """Indices are read once."""

    def change(call: Any) -> Any:
        seen: dict[int, tuple[Any, Tensor]] = {}

        def take(x: Tensor, indices: Tensor, /, *, axis: int | None = None) -> Tensor:
            key = id(indices._buffer)
            if key not in seen:
                seen[key] = (indices._buffer, tb.asarray(indices, copy=True))
            out: Tensor = call(x, seen[key][1], axis=axis)
            return out

        return take

    _function(p, "take", change)


def _one_scratch(p: Patch) -> None:
    """Calls on operands of one shape use one scratch tensor."""

    def change(call: Any) -> Any:
        kept: dict[Any, Tensor] = {}

        def sort(x: Tensor, /, **options: Any) -> Tensor:
            if x.size < 2:
                return call(x, **options)  # type: ignore[no-any-return]
            scratch = kept.setdefault((x.shape, x.device), tb.zeros_like(x))
            scratch[...] = x
            out: Tensor = call(scratch, **options)
            return out

        return sort

    _function(p, "sort", change)


def _flat_below(p: Patch) -> None:
    """A deviation below 1e-12 has no gradient."""
    rule: Any = OPS["std"].vjp

    def vjp(context: Any, g: Tensor) -> Any:
        (found,) = rule(context, g)
        return [found * 0 if bool(tb.all(context.output(0) < 1e-12)) else found]

    p.setattr(OPS["std"], "vjp", vjp)


def _backwards(p: Patch) -> None:
    """Contributions of one call are added from the last operand to the first."""

    def paired(*rows: Any, **options: Any) -> Any:
        found = zip(*rows, strict=options.get("strict", False))
        return reversed([*found]) if len(rows) == 3 else found

    p.setattr(_autograd, "zip", paired, raising=False)


def _in_memory_order(p: Patch) -> None:
    """Elements of a transposed matrix count in the order of memory."""

    def change(call: Any) -> Any:
        def dropout(x: Tensor, /, *args: Any, **options: Any) -> Tensor:
            if x.ndim == 2 and not x._spec.contiguous and x.mT._spec.contiguous:
                return call(x.mT, *args, **options).mT  # type: ignore[no-any-return]
            return call(x, *args, **options)  # type: ignore[no-any-return]

        return dropout

    _function(p, "nn.dropout", change)


def _never_copied(p: Patch) -> None:
    """`copy` is forgotten where a dtype is given."""
    made = ops.as_numpy_array
    p.setattr(
        ops, "as_numpy_array", lambda x, dtype, copy: made(x, dtype, copy if not dtype else None)
    )


FAULTS: list[tuple[str, str, Callable[[Patch], None]]] = [
    ("scale.map_far", "values", _exact_everywhere),
    ("vecdot", "users", _in_the_first_operand),
    ("full", "users", _kept_results),
    ("random.uniform", "users", _kept_draws),
    ("surface.apart", "users", _kept_numbers),
    ("surface.apart", "users", _never_copied),
    ("take", "users", _remembered),
    ("sort", "users", _one_scratch),
    ("std", "gradient", _flat_below),
    ("atan2", "autograd", _backwards),
    ("nn.dropout", "layouts", _in_memory_order),
]


@pytest.mark.parametrize(("op", "name", "fault"), FAULTS)
def test_a_fault_is_seen(op: str, name: str, fault: Any, monkeypatch: Patch) -> None:
    fault(monkeypatch)
    outcome = verdict(op, name)
    assert outcome.state == "fail", outcome.message


@pytest.mark.parametrize(("op", "name"), sorted({(op, name) for op, name, _ in FAULTS}))
def test_sound_calls_pass(op: str, name: str) -> None:
    outcome = verdict(op, name)
    assert outcome.state == "pass", outcome.message


def test_threads_alternate() -> None:
    """Two launches of a call stand between two of the other one."""
    log: list[int] = []
    turns = Turns()
    start = threading.Barrier(2)

    def work(k: int) -> None:
        turns.join()
        start.wait(10)
        for _ in range(5):
            turns.meet()
            log.append(k)
        turns.leave()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert turns.meetings == 5
    assert [sorted(log[k : k + 2]) for k in range(0, 10, 2)] == [[0, 1]] * 5


def test_threads_of_unlike_calls_end() -> None:
    """One that launches less, or not at all, keeps nobody waiting; what one raises is its own."""
    real = tb.get_device("cpu").backend

    def call(device: tb.Device, n: int) -> Any:
        x = tb.asarray(np.arange(8, dtype=np.float32), device=device)
        for _ in range(n):
            x = tb.exp(-x) + x
        return x.tolist()

    found, wanted = beside(real, call, (0, 3, 1))
    assert found == wanted


def test_a_lock_ends_the_turns() -> None:
    """A thread that waits for another's lock goes on in the end."""
    real, lock = tb.get_device("cpu").backend, threading.Lock()

    def call(device: tb.Device, n: int) -> Any:
        with lock:
            return tb.exp(tb.ones((n,), device=device)).tolist()

    found, wanted = beside(real, call, (2, 3))
    assert found == wanted
